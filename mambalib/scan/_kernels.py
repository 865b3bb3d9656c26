"""What numba compiles for the scan on the processor's cores: three kernels, and a tile of sequences in vector registers.

Everything compiled stands in this one file, since numba's cache looks at the date of a function's own file alone.

Each array comes to a kernel as its memory, flat, and a row of `at`: where it starts, its strides along three axes of
sequences, its stride in time, all counted in numbers. `size` is (n0, n1, n2, L), `state` what each sequence starts from, and
where its last state is left. Besides the states a kernel makes, by `mode`, to_t = factor_t x_{t-1} with the state x_{t-1}
that came into the step, or the sum of these over time, in the dtype of `sums`.
"""

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

SCAN, PRODUCT, SUM = 0, 1, 2
TIME = 4                                             # the column of `at` with the strides in time
STRIP = 16                                           # columns side by side
BLOCKS = 256                                         # pieces that the work is cut in for the threads, at most


# --- Columns: neighbours in memory belong to different sequences ----------------------------------------------------------


@njit(parallel=True, cache=True)
def columns(a, b, out, factor, to, at, state, size, mode, sums):
    """A strip of 16 sequences at a time. b, out, factor and to have stride 1 along the last axis of sequences, a has 1 or 0."""
    total = size[0] * size[1] * ((size[2] + STRIP - 1) // STRIP)
    blocks = min(total, BLOCKS)
    for block in prange(blocks):
        first, last = block * total // blocks, (block + 1) * total // blocks
        _strips(a, b, out, factor, to, at, state, size, mode, sums, first, last)


@njit(cache=True)
def _start(at, array, k, size):
    """Where sequence k starts."""
    rest, i2 = divmod(k, size[2])
    i0, i1 = divmod(rest, size[1])
    return at[array, 0] + i0 * at[array, 1] + i1 * at[array, 2] + i2 * at[array, 3]


@njit(cache=True)
def _strips(a, b, out, factor, to, at, state, size, mode, sums, first, last):
    n, L = size[2], size[3]
    sa, sb, so, sf, st = at[0, TIME], at[1, TIME], at[2, TIME], at[3, TIME], at[4, TIME]
    each = at[0, 3]                                  # a decay for each of the neighbours, or one for all
    strips = (n + STRIP - 1) // STRIP
    x, decay, acc = np.empty(STRIP, out.dtype), np.empty(STRIP, out.dtype), np.empty(STRIP, sums.dtype)
    for strip in range(first, last):
        k = strip // strips * n + strip % strips * STRIP                 # the first of its sequences
        w = min(STRIP, n - strip % strips * STRIP)
        A, B, O = _start(at, 0, k, size), _start(at, 1, k, size), _start(at, 2, k, size)
        F, T = _start(at, 3, k, size), _start(at, 4, k, size)
        for i in range(w):
            x[i], decay[i], acc[i] = state[k + i], a[A + i * each], 0
        for t in range(L):
            if sa != 0 and each == 1:
                for i in range(w):
                    decay[i] = a[A + i]
            elif sa != 0:
                for i in range(w):
                    decay[i] = a[A]
            if mode == PRODUCT:
                for i in range(w):
                    to[T + i] = factor[F + i] * x[i]
            elif mode == SUM:
                for i in range(w):
                    acc[i] += factor[F + i] * x[i]
            for i in range(w):
                x[i] = decay[i] * x[i] + b[B + i]
                out[O + i] = x[i]
            A, B, O, F, T = A + sa, B + sb, O + so, F + sf, T + st
        for i in range(w):
            state[k + i] = x[i]
            if mode == SUM:
                to[T + i] += acc[i]


# --- Rows: neighbours in memory are steps of one sequence -----------------------------------------------------------------


@njit(parallel=True, cache=True)
def rows(a, b, out, factor, to, at, state, size, mode, sums, tiled, line):
    """W sequences at a time, in tiles of W steps where `tiled`: b, out and what `mode` uses have stride 1, or all -1, in time.

    `line` is the position of `out` in its cache line, in numbers. Any other strides go one number after the other.
    """
    W = width(out)
    total = (state.size + W - 1) // W
    blocks = min(total, BLOCKS)
    for block in prange(blocks):
        first, last = block * total // blocks, (block + 1) * total // blocks
        _groups(a, b, out, factor, to, at, state, size, mode, sums, tiled, line, first, last)


@njit(cache=True)
def _groups(a, b, out, factor, to, at, state, size, mode, sums, tiled, line, first, last):
    W, L, N = width(out), size[3], state.size
    sa, step, up = at[0, TIME], at[2, TIME], at[2, TIME] > 0
    A, B, O = np.empty(W, np.int64), np.empty(W, np.int64), np.empty(W, np.int64)
    F, T = np.empty(W, np.int64), np.empty(W, np.int64)
    x, came, acc = np.empty(W, out.dtype), np.empty(W, out.dtype), np.empty((W, W), sums.dtype)
    square, square_rows = _square(a)
    for group in range(first, last):
        k, n = group * W, min(W, N - group * W)
        for r in range(n):
            A[r], B[r], O[r] = _start(at, 0, k + r, size), _start(at, 1, k + r, size), _start(at, 2, k + r, size)
            F[r], T[r] = _start(at, 3, k + r, size), _start(at, 4, k + r, size)
            x[r] = state[k + r]
            for i in range(W):
                acc[r, i] = 0
        head = tail = 0                              # tiles from head to tail
        if tiled and n == W:
            if L >= 16 * W:                          # from where a cache line begins
                head = -(line + O[0]) % W if up else (line + O[0] + 1) % W
            tail = head + (L - head) // W * W
            _walk(a, A, b, B, out, O, factor, F, to, T, at, x, acc, n, 0, head, mode)
        for t in range(head, tail, W):
            place = t if up else 1 - t - W           # where in memory the tile begins, from the start of its row
            for r in range(W):
                came[r] = x[r]
            decays, corners, p = a, A, place
            if sa != step:
                decays, corners, p = square, square_rows, 0
                if sa != 0 or t == head:
                    _fill(square, a, A, place * step * sa, step * sa)
            scan_tile(decays, corners, p, b, B, place, out, O, place, x, up)
            if mode != SCAN:
                _products(out, O, factor, F, to, T, place, came, acc, mode, up)
        _walk(a, A, b, B, out, O, factor, F, to, T, at, x, acc, n, tail, L, mode)
        for r in range(n):
            state[k + r] = x[r]
            if mode == SUM:
                total = acc[r, 0]
                for i in range(1, W):
                    total += acc[r, i]
                to[T[r]] += total


@njit(cache=True)
def _walk(a, A, b, B, out, O, factor, F, to, T, at, x, acc, n, first, last, mode):
    """The steps from `first` to `last` of n sequences, one number after the other."""
    sa, sb, so, sf, st = at[0, TIME], at[1, TIME], at[2, TIME], at[3, TIME], at[4, TIME]
    for r in range(n):
        state, total = x[r], acc[r, 0]
        for t in range(first, last):
            if mode == PRODUCT:
                to[T[r] + t * st] = factor[F[r] + t * sf] * state
            elif mode == SUM:
                total += factor[F[r] + t * sf] * state
            state = a[A[r] + t * sa] * state + b[B[r] + t * sb]
            out[O[r] + t * so] = state
        x[r], acc[r, 0] = state, total


@njit(cache=True)
def _square(a):
    """Room for a tile of decays that have another stride, and where its rows start."""
    W = width(a)
    starts = np.empty(W, np.int64)
    for r in range(W):
        starts[r] = r * W
    return np.empty(W * W, a.dtype), starts


@njit(cache=True)
def _fill(square, a, A, place, stride):
    W = len(A)
    for r in range(W):
        for i in range(W):
            square[r * W + i] = a[A[r] + place + i * stride]


@njit(cache=True)
def _products(out, O, factor, F, to, T, place, came, acc, mode, up):
    """A tile's products: what came into a step is the state next to it in memory, or what came into the tile."""
    W = width(out)
    edge, first, before = (0, 1, -1) if up else (W - 1, 0, 1)
    for r in range(W):
        f, o, p = F[r] + place, O[r] + place + before, T[r] + place
        if mode == PRODUCT:
            to[p + edge] = factor[f + edge] * came[r]
            for i in range(first, first + W - 1):
                to[p + i] = factor[f + i] * out[o + i]
        else:
            acc[r, edge] += factor[f + edge] * came[r]
            for i in range(first, first + W - 1):
                acc[r, i] += factor[f + i] * out[o + i]


# --- Chunks of rows -------------------------------------------------------------------------------------------------------


@njit(parallel=True, cache=True)
def pairs(a, b, at, decay, state, size):
    """What each chunk of L steps amounts to: h -> decay h + state. L is a multiple of W; b has stride 1 or -1 in time."""
    W = width(b)
    for group in prange((state.size + W - 1) // W):
        _chunk_pairs(a, b, at, decay, state, size, group * W, min(state.size, (group + 1) * W))


@njit(cache=True)
def _chunk_pairs(a, b, at, decay, state, size, first, last):
    W, L, sa, step = width(b), size[3], at[0, TIME], at[1, TIME]
    A, B = np.empty(W, np.int64), np.empty(W, np.int64)
    d, x = np.empty(W, b.dtype), np.empty(W, b.dtype)
    square, square_rows = _square(a)
    for r in range(W):                               # a group that is not full repeats its last chunk
        k = min(first + r, last - 1)
        A[r], B[r], d[r], x[r] = _start(at, 0, k, size), _start(at, 1, k, size), 1, 0
    for t in range(0, L, W):
        place = t if step > 0 else 1 - t - W
        decays, corners, p = a, A, place
        if sa != step:
            decays, corners, p = square, square_rows, 0
            if sa != 0 or t == 0:
                _fill(square, a, A, place * step * sa, step * sa)
        pairs_tile(decays, corners, p, b, B, place, d, x, step > 0)
    for r in range(last - first):
        decay[first + r], state[first + r] = d[r], x[r]


@njit(cache=True)
def carry(a, b, at, decay, state, final, size):
    """`state` becomes what comes into each chunk; `final`, what comes into each row's first, becomes what leaves its last."""
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


# --- Tiles ----------------------------------------------------------------------------------------------------------------
# Rows that lie behind each other in memory cannot be scanned side by side as they are: a vector register holds neighbours in
# memory, and those are steps of one row, which wait for each other. So W rows are read W steps at a time, the square is
# turned on its diagonal, which puts one step of all rows into a register, W steps are done, and the result is turned back.
# The compiler does not find the log2 W rounds of shuffles by itself; they are spelled out here in LLVM's instructions.
# One core, (4096, 4096) float32: 1.75 ns an element one row after the other, 1.0 with four rows at once, 0.56 with tiles.

WIDTHS = {types.float32: 16, types.float64: 8}       # W: 64 bytes, a cache line and the widest register
AHEAD = 128                                          # steps; the processor does not foresee W rows of three arrays at once


def _transpose(builder, rows):
    """W registers of W lanes, turned on the diagonal: blocks of W/2 x W/2 swap places, then blocks of half that size, ..."""
    W, rows = len(rows), list(rows)
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


class _Tile:
    """The arguments of an intrinsic as registers: a tile's W rows, or a local array of W numbers."""

    def __init__(self, context, builder, signature, args, dtype, order):
        self.ahead = AHEAD if order is iter else -AHEAD
        self.builder, self.args = builder, args
        self.data = [
            context.make_array(t)(context, builder, x).data if isinstance(t, types.Array) else None
            for t, x in zip(signature.args, args)
        ]
        self.W, self.align = WIDTHS[dtype], dtype.bitwidth // 8
        self.vector = ir.VectorType(context.get_data_type(dtype), self.W)

    def _at(self, array, index):
        return self.builder.bitcast(self.builder.gep(self.data[array], [index]), self.vector.as_pointer())

    def _rows(self, array):                          # each row's start, from the next argument, plus the one after: the tile's
        for r in range(self.W):
            start = self.builder.load(self.builder.gep(self.data[array + 1], [ir.Constant(ir.IntType(64), r)]))
            yield self._at(array, self.builder.add(start, self.args[array + 2]))

    def _prefetch(self, array, write):
        """Ask for the lines of the tile AHEAD steps on; past the end of an array this is harmless."""
        address, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        fetch = self.builder.module.declare_intrinsic(
            "llvm.prefetch", [address], ir.FunctionType(ir.VoidType(), [address, i32, i32, i32])
        )
        for p in self._rows(array):
            p = self.builder.gep(p, [ir.Constant(ir.IntType(64), self.ahead // self.W)])
            self.builder.call(fetch, [self.builder.bitcast(p, address), i32(write), i32(2), i32(1)])

    def steps(self, array):
        self._prefetch(array, write=0)
        return _transpose(self.builder, [self.builder.load(p, align=self.align) for p in self._rows(array)])

    def store_steps(self, array, steps):
        self._prefetch(array, write=1)
        for row, p in zip(_transpose(self.builder, steps), self._rows(array)):
            self.builder.store(row, p, align=self.align)

    def load(self, array):
        return self.builder.load(self._at(array, ir.Constant(ir.IntType(64), 0)), align=self.align)

    def store(self, array, value):
        self.builder.store(value, self._at(array, ir.Constant(ir.IntType(64), 0)), align=self.align)


@intrinsic
def width(typingctx, array):
    """W for the numbers of `array`, a constant of the compiled code; 1 for complex numbers, which have no tiles."""
    def generate(context, builder, signature, args):
        return context.get_constant(types.intp, WIDTHS.get(array.dtype, 1))

    return types.intp(array), generate


def _scan(order):
    def typed(typingctx, a, a_rows, a_at, b, b_rows, b_at, out, out_rows, out_at, state):
        """state <- a state + b down the W steps of a tile of W rows, every state written to `out`."""
        def generate(context, builder, signature, args):
            if a.dtype not in WIDTHS:
                return context.get_dummy_value()
            tile = _Tile(context, builder, signature, args, a.dtype, order)
            a_steps, b_steps, states, x = tile.steps(0), tile.steps(3), {}, tile.load(9)
            for t in order(range(tile.W)):
                x = states[t] = builder.fadd(builder.fmul(a_steps[t], x), b_steps[t])
            tile.store(9, x)
            tile.store_steps(6, [states[t] for t in range(tile.W)])
            return context.get_dummy_value()

        return types.void(a, a_rows, a_at, b, b_rows, b_at, out, out_rows, out_at, state), generate

    return intrinsic(typed)


def _pairs(order):
    def typed(typingctx, a, a_rows, a_at, b, b_rows, b_at, decay, state):
        """(decay, state) <- (a decay, a state + b) down the W steps of a tile of W rows."""
        def generate(context, builder, signature, args):
            if a.dtype not in WIDTHS:
                return context.get_dummy_value()
            tile = _Tile(context, builder, signature, args, a.dtype, order)
            a_steps, b_steps, d, x = tile.steps(0), tile.steps(3), tile.load(6), tile.load(7)
            for t in order(range(tile.W)):
                d, x = builder.fmul(a_steps[t], d), builder.fadd(builder.fmul(a_steps[t], x), b_steps[t])
            tile.store(6, d)
            tile.store(7, x)
            return context.get_dummy_value()

        return types.void(a, a_rows, a_at, b, b_rows, b_at, decay, state), generate

    return intrinsic(typed)


_scan_up, _scan_down = _scan(iter), _scan(reversed)  # in the order of memory, and against it
_pairs_up, _pairs_down = _pairs(iter), _pairs(reversed)


@njit(cache=True)
def scan_tile(a, a_rows, a_at, b, b_rows, b_at, out, out_rows, out_at, state, up):
    if up:
        _scan_up(a, a_rows, a_at, b, b_rows, b_at, out, out_rows, out_at, state)
    else:
        _scan_down(a, a_rows, a_at, b, b_rows, b_at, out, out_rows, out_at, state)


@njit(cache=True)
def pairs_tile(a, a_rows, a_at, b, b_rows, b_at, decay, state, up):
    if up:
        _pairs_up(a, a_rows, a_at, b, b_rows, b_at, decay, state)
    else:
        _pairs_down(a, a_rows, a_at, b, b_rows, b_at, decay, state)
