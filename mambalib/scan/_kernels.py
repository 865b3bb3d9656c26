"""What numba compiles for the scan on the cores: three kernels, and tiles of sequences in vector registers.

Everything compiled stands in this one file, since numba's cache looks at the date of a function's own file alone.

Each array comes to a kernel as its memory, flat, and a row of `at`: where it starts, its strides along three axes of
sequences, its stride in time, all counted in numbers. `size` is (n0, n1, n2, L), `state` what each sequence starts
from, and where its last state is left. Besides the states a kernel makes, by `mode`, to_t = factor_t x_{t-1} with the
state x_{t-1} that came into the step, or the sum of these over time, in the dtype of `sums`.
"""

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

SCAN, PRODUCT, SUM = 0, 1, 2
TIME = 4                                             # the column of `at` with the strides in time
VECTORS = 8                                          # registers of columns side by side
BLOCKS = 256                                         # pieces that the work is cut in for the threads, at most


# --- Columns: neighbours in memory belong to different sequences ------------------------------------------------------


@njit(parallel=True, cache=True)
def columns(a, b, out, factor, to, at, state, size, mode, sums, wide, total):
    """`total` strips of sequences. Along the last axis of sequences all strides are 1, and that of a is 1 or 0."""
    blocks = min(total, BLOCKS)
    for block in prange(blocks):
        first, last = block * total // blocks, (block + 1) * total // blocks
        some_columns(a, b, out, factor, to, at, state, size, mode, sums, wide, first, last)


@njit(cache=True)
def some_columns(a, b, out, factor, to, at, state, size, mode, sums, wide, first, last):
    n = size[2]
    strips = (n + wide - 1) // wide
    x, acc = np.empty(wide, out.dtype), np.empty(wide, sums.dtype)
    for strip in range(first, last):
        begin = strip % strips * wide
        _strip(a, b, out, factor, to, at, state, size, mode, x, acc, strip // strips * n + begin, min(wide, n - begin))


@njit(cache=True)
def _start(at, array, k, size):
    """Where sequence k starts."""
    if k < size[2]:                                  # one axis of sequences, mostly: no division
        return at[array, 0] + k * at[array, 3]
    rest, i2 = divmod(k, size[2])
    i0, i1 = divmod(rest, size[1])
    return at[array, 0] + i0 * at[array, 1] + i1 * at[array, 2] + i2 * at[array, 3]


@njit(cache=True)
def _strip(a, b, out, factor, to, at, state, size, mode, x, acc, k, w):
    """w neighbouring sequences from number k on: in registers if they fill them, else in a local array."""
    L, W, each = size[3], width(out), at[0, 3]
    sa, sb, so, sf, st = at[0, TIME], at[1, TIME], at[2, TIME], at[3, TIME], at[4, TIME]
    A, B, O = _start(at, 0, k, size), _start(at, 1, k, size), _start(at, 2, k, size)
    F, T = _start(at, 3, k, size), _start(at, 4, k, size)
    for i in range(w):
        x[i], acc[i] = state[k + i], 0
    first = 0
    if W > 1 and w == VECTORS * W:
        strip_wide(a, A, sa, b, B, sb, out, O, so, factor, F, sf, to, T, st, each, L, mode, x, acc)
        first = w
    elif W > 1 and w == W:
        strip_narrow(a, A, sa, b, B, sb, out, O, so, factor, F, sf, to, T, st, each, L, mode, x, acc)
        first = w
    for t in range(L):
        for i in range(first, w):
            if mode == PRODUCT:
                to[T + t * st + i] = factor[F + t * sf + i] * x[i]
            elif mode == SUM:
                acc[i] += factor[F + t * sf + i] * x[i]
            x[i] = a[A + t * sa + i * each] * x[i] + b[B + t * sb + i]
            out[O + t * so + i] = x[i]
    for i in range(w):
        state[k + i] = x[i]
        if mode == SUM:
            to[T + i] += acc[i]


# --- Rows: neighbours in memory are steps of one sequence -------------------------------------------------------------


@njit(parallel=True, cache=True)
def rows(a, b, out, factor, to, at, state, size, mode, sums, tiled, line, total):
    """`total` groups of W sequences, in tiles of W steps where `tiled`.

    Then all arrays have stride 1 in time, or all have -1; a may have 0.
    `line` is the position of `out` in its cache line, in numbers. Any other strides go one number after the other.
    """
    blocks = min(total, BLOCKS)
    for block in prange(blocks):
        first, last = block * total // blocks, (block + 1) * total // blocks
        some_rows(a, b, out, factor, to, at, state, size, mode, sums, tiled, line, first, last)


@njit(cache=True)
def some_rows(a, b, out, factor, to, at, state, size, mode, sums, tiled, line, first, last):
    W, L, N = width(out), size[3], state.size
    sa, up = at[0, TIME], at[2, TIME] > 0
    ahead = AHEAD * W * at[2, TIME] if L > 2 * AHEAD * W else W * at[2, 3]               # or the next W rows
    starts, x, acc = np.empty((5, W), np.int64), np.empty(W, out.dtype), np.empty(W, sums.dtype)
    square, corners = np.empty(W * W, a.dtype), np.empty(W, np.int64)    # a tile of decays, one for all steps
    for r in range(W):
        corners[r] = r * W
    for group in range(first, last):
        k, n = group * W, min(W, N - group * W)
        for i in range(3 if mode == SCAN else 5):
            if k + n <= size[2]:
                for r in range(n):
                    starts[i, r] = at[i, 0] + (k + r) * at[i, 3]
            else:
                for r in range(n):
                    starts[i, r] = _start(at, i, k + r, size)
        for r in range(n):
            x[r], acc[r] = state[k + r], 0
        head = tail = 0                              # tiles from head to tail
        if tiled and n == W:
            if L >= 16 * W:                          # from where a cache line begins
                head = -(line + starts[2, 0]) % W if up else (line + starts[2, 0] + 1) % W
                _walk(a, b, out, factor, to, starts, at, x, acc, n, 0, head, mode)
            tail = head + (L - head) // W * W
            if sa == 0:
                for i in range(W * W):
                    square[i] = a[starts[0, i // W]]
                scan_tiles(square, corners, 0, b, out, factor, to, starts, x, acc, head, tail, mode, up, ahead)
            else:
                scan_tiles(a, starts[0], 1, b, out, factor, to, starts, x, acc, head, tail, mode, up, ahead)
        if tail < L:
            _walk(a, b, out, factor, to, starts, at, x, acc, n, tail, L, mode)
        for r in range(n):
            state[k + r] = x[r]
            if mode == SUM:
                to[starts[4, r]] += acc[r]


@njit(cache=True)
def _walk(a, b, out, factor, to, starts, at, x, acc, n, first, last, mode):
    """The steps from `first` to `last` of n sequences, one number after the other."""
    sa, sb, so, sf, st = at[0, TIME], at[1, TIME], at[2, TIME], at[3, TIME], at[4, TIME]
    for r in range(n):
        state, total, A, B, O = x[r], acc[r], starts[0, r], starts[1, r], starts[2, r]
        for t in range(first, last):
            if mode == PRODUCT:
                to[starts[4, r] + t * st] = factor[starts[3, r] + t * sf] * state
            elif mode == SUM:
                total += factor[starts[3, r] + t * sf] * state
            state = a[A + t * sa] * state + b[B + t * sb]
            out[O + t * so] = state
        x[r], acc[r] = state, total


# --- Chunks of rows ---------------------------------------------------------------------------------------------------


@njit(parallel=True, cache=True)
def pairs(a, b, at, decay, state, size):
    """What each chunk of L steps amounts to: h -> decay h + state. L is a multiple of W, strides are as in tiles."""
    W = width(b)
    for group in prange((state.size + W - 1) // W):
        _chunk_pairs(a, b, at, decay, state, size, group * W, min(state.size, (group + 1) * W))


@njit(cache=True)
def _chunk_pairs(a, b, at, decay, state, size, first, last):
    W, L, sa, up = width(b), size[3], at[0, TIME], at[1, TIME] > 0
    ahead = AHEAD * W * at[1, TIME]
    A, B = np.empty(W, np.int64), np.empty(W, np.int64)
    d, x = np.empty(W, b.dtype), np.empty(W, b.dtype)
    square, corners = np.empty(W * W, a.dtype), np.empty(W, np.int64)
    for r in range(W):                               # a group that is not full repeats its last chunk
        k = min(first + r, last - 1)
        A[r], B[r], d[r], x[r], corners[r] = _start(at, 0, k, size), _start(at, 1, k, size), 1, 0, r * W
        for i in range(W):
            square[r * W + i] = a[A[r]]
    if sa == 0:
        pair_tiles(square, corners, 0, b, B, d, x, L, up, ahead)
    else:
        pair_tiles(a, A, 1, b, B, d, x, L, up, ahead)
    for r in range(last - first):
        decay[first + r], state[first + r] = d[r], x[r]


@njit(cache=True)
def carry(a, b, at, decay, state, final, size):
    """`state` becomes what comes into each chunk; `final`, what comes into a row, becomes what leaves it."""
    for row in range(final.size):
        x = final[row]
        for k in range(row * size[2], (row + 1) * size[2]):
            came, x = x, decay[k] * x + state[k]
            if not (np.isfinite(decay[k]) and np.isfinite(x)):           # a product may be infinite where no state is
                x, A, B = came, _start(at, 0, k, size), _start(at, 1, k, size)
                for t in range(size[3]):
                    x = a[A + t * at[0, TIME]] * x + b[B + t * at[1, TIME]]
            state[k] = came
        final[row] = x


# --- Registers --------------------------------------------------------------------------------------------------------
# What follows is written in LLVM's instructions, as the compiler does not find it by itself.

WIDTHS = {types.float32: 16, types.float64: 8}       # W: 64 bytes, a cache line and the widest register
AHEAD = 8                                            # cache lines along a row, steps down a column


@intrinsic
def width(typingctx, array):
    """W for the numbers of `array`, a constant of the compiled code; 1 for complex numbers, which have no tiles."""
    def generate(context, builder, signature, args):
        return context.get_constant(types.intp, WIDTHS.get(array.dtype, 1))

    return types.intp(array), generate


class _Registers:
    """Loads and stores of W numbers at once. An array is named by its position among the intrinsic's arguments."""

    def __init__(self, context, builder, signature, args, dtype):
        self.builder, self.args = builder, args
        self.data = [
            context.make_array(t)(context, builder, x).data if isinstance(t, types.Array) else None
            for t, x in zip(signature.args, args)
        ]
        self.W, self.align = WIDTHS[dtype], dtype.bitwidth // 8
        self.vector = ir.VectorType(context.get_data_type(dtype), self.W)
        self.wide = ir.VectorType(ir.DoubleType(), self.W)

    def _at(self, array, index, vector=None):
        return self.builder.bitcast(self.builder.gep(self.data[array], [index]), (vector or self.vector).as_pointer())

    def load(self, array, index=ir.Constant(ir.IntType(64), 0), vector=None):
        return self.builder.load(self._at(array, index, vector), align=self.align)

    def store(self, array, value, index=ir.Constant(ir.IntType(64), 0), vector=None):
        self.builder.store(value, self._at(array, index, vector), align=self.align)

    def splat(self, array, index):
        """One number in every lane."""
        number = self.builder.load(self.builder.gep(self.data[array], [index]))
        one = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), number, ir.IntType(32)(0))
        return self.builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), self.W), [0] * self.W))

    def widen(self, x):
        return x if self.vector == self.wide else self.builder.fpext(x, self.wide)

    def prefetch(self, array, index, ahead, write=False):
        """Ask for the cache line that is `ahead` numbers further on; past the end of an array this is harmless."""
        address, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address, i32, i32, i32])
        fetch = self.builder.module.declare_intrinsic("llvm.prefetch", [address], kind)
        p = self._at(array, self.builder.add(index, ahead))
        self.builder.call(fetch, [self.builder.bitcast(p, address), i32(int(write)), i32(2), i32(1)])


# Rows that lie behind each other in memory cannot be scanned side by side as they are: a vector register holds
# neighbours in memory, and those are steps of one row, which wait for each other. So W rows are read W steps at a time,
# the square is turned on its diagonal, which puts one step of all rows into a register, W steps are done, and the
# result is turned back. The processor does not foresee the W rows of three arrays at once, and is asked for them ahead
# of time. One core, (4096, 4096) float32: 1.75 ns an element one row after the other, 1.0 with four rows at once, 0.56
# with tiles.


def _transpose(builder, rows):
    """W registers of W lanes, turned on the diagonal: blocks of W/2 x W/2 swap places, then blocks of half that, ..."""
    rows = list(rows)
    W = len(rows)
    half = W // 2
    while half:
        upper = [W + j - half if j & half else j for j in range(W)]
        lower = [W + j if j & half else j + half for j in range(W)]
        masks = [ir.Constant(ir.VectorType(ir.IntType(32), W), mask) for mask in (upper, lower)]
        for i in range(W):
            if not i & half:
                pair = rows[i], rows[i + half]
                rows[i], rows[i + half] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        half //= 2
    return rows


class _Tile(_Registers):
    """W rows of an array, W steps from `place` on. The rows start where `starts` says, from its entry `first` on."""

    def rows(self, starts, first, place):
        for r in range(self.W):
            start = self.builder.load(self.builder.gep(self.data[starts], [ir.IntType(64)(first + r)]))
            yield self.builder.add(start, place)

    def load_rows(self, array, starts, first, place, ahead):
        for index in self.rows(starts, first, place):
            self.prefetch(array, index, ahead)
            yield self.load(array, index)

    def load_steps(self, *where):
        return _transpose(self.builder, self.load_rows(*where))

    def store_steps(self, steps, array, starts, first, place, ahead):
        for row, index in zip(_transpose(self.builder, steps), self.rows(starts, first, place)):
            self.prefetch(array, index, ahead, write=True)
            self.store(array, row, index)

    def each(self, head, tail, up):
        """A loop over the tiles between two steps, once upwards in memory and once downwards: (place, order)."""
        upwards = self.builder.icmp_signed("!=", up, up.type(0))
        for branch, order in ((upwards, iter), (self.builder.not_(upwards), reversed)):
            with self.builder.if_then(branch):
                with cgutils.for_range_slice(self.builder, head, tail, head.type(self.W), head.type) as (t, _):
                    yield (t if order is iter else self.builder.sub(head.type(1 - self.W), t)), order


@intrinsic
def scan_tiles(typingctx, a, a_rows, moves, b, out, factor, to, starts, x, acc, head, tail, mode, up, ahead):
    """x <- a x + b from step `head` to `tail` of W rows, every state written to `out`; acc or `to` as `mode` says.

    The rows of a start at `a_rows`, and do not move on where `moves` is 0; the others at the rows of `starts`. What
    will be needed soon lies `ahead` numbers further on.
    """
    def generate(context, builder, signature, args):
        if b.dtype not in WIDTHS:
            return context.get_dummy_value()
        tile = _Tile(context, builder, signature, args, b.dtype)
        A, A_ROWS, B, OUT, FACTOR, TO, STARTS, X, ACC = 0, 1, 3, 4, 5, 6, 7, 8, 9
        moves, head, tail, mode, up, ahead = args[2], *args[10:]
        row = {array: i * tile.W for i, array in enumerate((A, B, OUT, FACTOR, TO))}
        for case in (SCAN, PRODUCT, SUM):
            with builder.if_then(builder.icmp_signed("==", mode, mode.type(case))):
                for place, order in tile.each(head, tail, up):
                    a_steps = tile.load_steps(A, A_ROWS, 0, builder.mul(place, moves), ahead)
                    b_steps = tile.load_steps(B, STARTS, row[B], place, ahead)
                    state, came, states = tile.load(X), {}, {}
                    for t in order(range(tile.W)):
                        came[t] = state
                        state = states[t] = builder.fadd(builder.fmul(a_steps[t], state), b_steps[t])
                    tile.store(X, state)
                    tile.store_steps([states[t] for t in range(tile.W)], OUT, STARTS, row[OUT], place, ahead)
                    if case != SCAN:
                        factors = tile.load_steps(FACTOR, STARTS, row[FACTOR], place, ahead)
                        products = [builder.fmul(factors[t], came[t]) for t in range(tile.W)]
                    if case == PRODUCT:
                        tile.store_steps(products, TO, STARTS, row[TO], place, ahead)
                    if case == SUM:
                        total = tile.load(ACC, vector=tile.wide)
                        for t in order(range(tile.W)):
                            total = builder.fadd(total, tile.widen(products[t]))
                        tile.store(ACC, total, vector=tile.wide)
        return context.get_dummy_value()

    return types.void(a, a_rows, moves, b, out, factor, to, starts, x, acc, head, tail, mode, up, ahead), generate


@intrinsic
def pair_tiles(typingctx, a, a_rows, moves, b, starts, decay, x, steps, up, ahead):
    """(decay, x) <- (a decay, a x + b) over the steps of W rows."""
    def generate(context, builder, signature, args):
        if b.dtype not in WIDTHS:
            return context.get_dummy_value()
        tile = _Tile(context, builder, signature, args, b.dtype)
        A, A_ROWS, B, STARTS, DECAY, X, ahead = 0, 1, 3, 4, 5, 6, args[9]
        for place, order in tile.each(args[7].type(0), args[7], args[8]):
            a_steps = tile.load_steps(A, A_ROWS, 0, builder.mul(place, args[2]), ahead)
            b_steps = tile.load_steps(B, STARTS, 0, place, ahead)
            d, state = tile.load(DECAY), tile.load(X)
            for t in order(range(tile.W)):
                d, state = builder.fmul(a_steps[t], d), builder.fadd(builder.fmul(a_steps[t], state), b_steps[t])
            tile.store(DECAY, d)
            tile.store(X, state)
        return context.get_dummy_value()

    return types.void(a, a_rows, moves, b, starts, decay, x, steps, up, ahead), generate


# Columns lie as registers do. In the compiler's own code for `_strip` the states still go through memory at every step,
# since it cannot know that `out` does not overlap them: 1.0 ns an element where this takes 0.43, the speed of memory.


def _strip_steps(vectors):
    """An intrinsic: all steps of `vectors` registers of neighbouring sequences."""
    def typed(typingctx, a, A, sa, b, B, sb, out, O, so, factor, F, sf, to, T, st, each, L, mode, x, acc):
        def generate(context, builder, signature, args):
            if a.dtype not in WIDTHS:
                return context.get_dummy_value()
            strip = _Registers(context, builder, signature, args, a.dtype)
            each, L, mode = args[15:18]
            lanes = [ir.IntType(64)(v * strip.W) for v in range(vectors)]

            def steps(case, one):
                states = [cgutils.alloca_once_value(builder, strip.load(18, v)) for v in lanes]
                sums = [cgutils.alloca_once_value(builder, strip.load(19, v, strip.wide)) for v in lanes]
                with cgutils.for_range(builder, L, intp=L.type) as loop:
                    t, arrays = loop.index, (0, 3, 6, 9, 12)
                    start = {i: builder.add(args[i + 1], builder.mul(t, args[i + 2])) for i in arrays}
                    for v, lane in enumerate(lanes):
                        at = {i: builder.add(s, lane) for i, s in start.items()}
                        came = builder.load(states[v])
                        for i in (0, 3, 6):
                            strip.prefetch(i, at[i], builder.mul(args[i + 2], L.type(AHEAD)), write=i == 6)
                        decay = strip.splat(0, start[0]) if one else strip.load(0, at[0])
                        state = builder.fadd(builder.fmul(decay, came), strip.load(3, at[3]))
                        builder.store(state, states[v])
                        strip.store(6, state, at[6])
                        if case != SCAN:
                            product = builder.fmul(strip.load(9, at[9]), came)
                        if case == PRODUCT:
                            strip.store(12, product, at[12])
                        if case == SUM:
                            builder.store(builder.fadd(builder.load(sums[v]), strip.widen(product)), sums[v])
                for v, lane in enumerate(lanes):
                    strip.store(18, builder.load(states[v]), lane)
                    strip.store(19, builder.load(sums[v]), lane, strip.wide)

            for case in (SCAN, PRODUCT, SUM):
                with builder.if_then(builder.icmp_signed("==", mode, mode.type(case))):
                    with builder.if_else(builder.icmp_signed("==", each, each.type(0))) as (one, many):
                        with one:
                            steps(case, one=True)
                        with many:
                            steps(case, one=False)
            return context.get_dummy_value()

        arguments = a, A, sa, b, B, sb, out, O, so, factor, F, sf, to, T, st, each, L, mode, x, acc
        return types.void(*arguments), generate

    return intrinsic(typed)


strip_narrow, strip_wide = _strip_steps(1), _strip_steps(VECTORS)
