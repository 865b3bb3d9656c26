"""What numba compiles for the selective scan on the cores.

A task is one sequence of the batch and a block of channels that read the same group of B and C. It goes through time step
by step, and the block's states stay in the first cache. In memory neighbours are channels, and so they are in a vector
register: W of them, 16 float32 or 8 float64. What a step does is written in LLVM's instructions, as the compiler does not
find it by itself; which steps there are is Python.

Arrays arrive in these forms, flat (`cpu` makes them):

    rows        u, delta, z, grad_y: (batch, L, P) with P = G * (D / G, rounded up to W) channels, those added being 0.
                A row of `at` says where such an array starts, and its strides in the batch and in time, in numbers.
    matrices    B, C: (batch, L, G, N), with a row of `at`, whose last number is the stride from group to group.
    states      A, the state, their gradients: (..., P / W, N, W), so that the states of W channels follow each other.
    channels    D, delta_bias, their gradients: (..., P).
    results     rows, matrices and channels, contiguous.

`size` is (batch, L, D, G, N, P, w): w is the number of channels of a block, a multiple of W; a group's last block may be
narrower. `flags` says what there is besides. Everything compiled stands in this one file, since numba's cache looks at the
date of a function's own file alone.
"""

import math
from contextlib import contextmanager

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.polynomial.chebyshev import cheb2poly, poly2cheb

SOFTPLUS, SKIP, GATE, RESET, BIAS = 1, 2, 4, 8, 16   # flags
WIDTHS = {types.float32: 16, types.float64: 8}       # W: 64 bytes, the widest register
U, DELTA, Z, B_, C_, GRAD = range(6)                 # rows of `at`
TILE = 16                                            # steps that go through softplus and the gate at a time


# --- Forward ----------------------------------------------------------------------------------------------------------


@njit(parallel=True, cache=True)
def forward(u, delta, z, B, C, at, A, D, bias, reset, state, y, size, flags):
    """y, and `state` from the first to the last."""
    for task in prange(_tasks(size)):
        _forward(task, u, delta, z, B, C, at, A, D, bias, reset, state, y, size, flags)


@njit(cache=True)
def _forward(task, u, delta, z, B, C, at, A, D, bias, reset, state, y, size, flags):
    _, L, _, _, N, P, _ = size
    b, group, _, first, w, _ = _block(task, size)
    h = (b * P + first) * N
    steps, read = np.empty(TILE * w, u.dtype), np.empty(TILE * w, u.dtype)
    for start in range(0, L, TILE):
        stop = min(L, start + TILE)
        _steps(u, delta, z, at, bias, b, start, stop, first, w, steps, flags)
        for t in range(start, stop):
            if flags & RESET and reset[b * L + t]:
                _clear(state, h, w * N)
            advance_and_read(
                u, _row(at, U, b, t) + first, B, _matrix(at, B_, b, t, group), C, _matrix(at, C_, b, t, group),
                A, first * N, state, h, steps, (t - start) * w, read, N, w,
            )
        for t in range(start, stop):
            skip_and_gate(
                read, (t - start) * w, u, _row(at, U, b, t) + first, z, _row(at, Z, b, t) + first, D, first,
                y, (b * L + t) * P + first, w, flags,
            )


@njit(cache=True)
def _steps(u, delta, z, at, bias, b, start, stop, first, w, steps, flags):
    """The step sizes from `start` to `stop`. What will be read next is asked for: rows are far apart in memory."""
    for t in range(start, stop):
        step_sizes(
            delta, _row(at, DELTA, b, t) + first, TILE * at[DELTA, 2], bias, first, u, _row(at, U, b, t) + first,
            z, _row(at, Z, b, t) + first, steps, (t - start) * w, w, flags,
        )


@njit(cache=True)
def _tasks(size):
    batch, _, _, G, _, P, w = size
    return batch * G * ((P // G + w - 1) // w)


@njit(cache=True)
def _block(task, size):
    """A task's sequence, group, block in the group, first channel, and number of channels, with and without added ones."""
    _, _, D, G, _, P, w = size
    blocks = (P // G + w - 1) // w
    rest, k = divmod(np.int64(task), blocks)         # numba counts a prange without a sign
    b, g = divmod(rest, G)
    return b, g, k, g * (P // G) + k * w, min(w, P // G - k * w), min(w, D // G - k * w)


@njit(cache=True)
def _row(at, array, b, t):
    return at[array, 0] + b * at[array, 1] + t * at[array, 2]


@njit(cache=True)
def _matrix(at, array, b, t, group):
    return _row(at, array, b, t) + group * at[array, 3]


@njit(cache=True)
def _clear(x, start, n):
    for i in range(start, start + n):
        x[i] = 0


@njit(cache=True)
def _copy(x, start, n, to, place):
    for i in range(n):
        to[place + i] = x[start + i]


@njit(cache=True)
def _add(x, n, to, place):
    for i in range(n):
        to[place + i] += x[i]


# --- Backward ---------------------------------------------------------------------------------------------------------


@njit(parallel=True, cache=True)
def backward(u, delta, z, B, C, grad, at, A, D, bias, reset, state, g, grad_u, grad_delta, grad_z, grad_A, grad_B, grad_C,
             grad_D, grad_bias, size, flags, chunk):
    """All gradients. `g` is that of the last state and becomes that of the first; `state` is the first, and is lost.

    grad_A, grad_D and grad_bias, in float64, are those of each sequence, grad_B and grad_C those of each block of a
    group: (blocks, batch, L, G, N).
    """
    for task in prange(_tasks(size)):
        _backward(task, u, delta, z, B, C, grad, at, A, D, bias, reset, state, g, grad_u, grad_delta, grad_z, grad_A,
                  grad_B, grad_C, grad_D, grad_bias, size, flags, chunk)


@njit(cache=True)
def _backward(task, u, delta, z, B, C, grad, at, A, D, bias, reset, state, g, grad_u, grad_delta, grad_z, grad_A, grad_B,
              grad_C, grad_D, grad_bias, size, flags, chunk):
    batch, L, _, G, N, P, _ = size
    b, group, k, first, w, real = _block(task, size)
    h, W, chunks = (b * P + first) * N, width(u), (L + chunk - 1) // chunk
    steps, read, grads = np.empty(chunk * w, u.dtype), np.empty(chunk * w, u.dtype), np.empty(chunk * w, u.dtype)

    # The states at the start of every chunk.
    entry = np.empty(chunks * w * N, u.dtype)
    for start in range(0, L, chunk):
        stop = min(L, start + chunk)
        _copy(state, h, w * N, entry, start // chunk * w * N)
        _steps(u, delta, u, at, bias, b, start, stop, first, w, steps, flags)
        for t in range(start, stop):
            if flags & RESET and reset[b * L + t]:
                _clear(state, h, w * N)
            advance(
                u, _row(at, U, b, t) + first, B, _matrix(at, B_, b, t, group), A, first * N, state, h,
                steps, (t - start) * w, N, w,
            )

    # Chunk after chunk, the last one first: its steps once more, and then back.
    decay, kept = np.empty(chunk * w * N, u.dtype), np.empty(chunk * w * N, u.dtype)
    sum_A, sum_D, sum_bias = np.empty(w * N, u.dtype), np.empty(w, u.dtype), np.empty(w, u.dtype)
    lanes_B, lanes_C = np.empty(N * W, u.dtype), np.empty(N * W, u.dtype)
    for start in range((chunks - 1) * chunk, -1, -chunk):
        stop = min(L, start + chunk)
        _copy(entry, start // chunk * w * N, w * N, state, h)
        _steps(u, delta, z, at, bias, b, start, stop, first, w, steps, flags)
        for t in range(start, stop):
            if flags & RESET and reset[b * L + t]:
                _clear(state, h, w * N)
            advance_and_keep(
                u, _row(at, U, b, t) + first, B, _matrix(at, B_, b, t, group), C, _matrix(at, C_, b, t, group),
                A, first * N, state, h, steps, (t - start) * w, read, decay, kept, (t - start) * w * N, N, w,
            )
        for t in range(start, stop):
            gate_back(
                read, grads, (t - start) * w, u, _row(at, U, b, t) + first, z, _row(at, Z, b, t) + first, D, first,
                grad, _row(at, GRAD, b, t) + first, grad_z, (b * L + t) * P + first, w, flags,
            )
        _clear(sum_A, 0, w * N)
        for t in range(stop - 1, start - 1, -1):
            _clear(lanes_B, 0, N * W)
            _clear(lanes_C, 0, N * W)
            back(
                u, _row(at, U, b, t) + first, B, _matrix(at, B_, b, t, group), C, _matrix(at, C_, b, t, group),
                A, first * N, decay, kept, (t - start) * w * N, steps, grads, (t - start) * w, g, h,
                grad_u, grad_delta, (b * L + t) * P + first, sum_A, lanes_B, lanes_C, N, w, real,
            )
            to = (((k * batch + b) * L + t) * G + group) * N
            totals(lanes_B, grad_B, to, N)
            totals(lanes_C, grad_C, to, N)
            if flags & RESET and reset[b * L + t]:
                _clear(g, h, w * N)
        _clear(sum_D, 0, w)
        _clear(sum_bias, 0, w)
        for t in range(start, stop):
            steps_back(
                delta, _row(at, DELTA, b, t) + first, bias, first, u, _row(at, U, b, t) + first, D,
                steps, grads, (t - start) * w, grad_u, grad_delta, (b * L + t) * P + first, sum_D, sum_bias, w, flags,
            )
        _add(sum_A, w * N, grad_A, h)                # long sums in float64
        _add(sum_D, w, grad_D, b * P + first)
        _add(sum_bias, w, grad_bias, b * P + first)


# --- One step, for decoding -------------------------------------------------------------------------------------------


@njit(parallel=True, cache=True)
def update(state, u, delta, A, B, C, z, D, bias, y, at, size, flags, tasks):
    n = size[0] * size[1]
    for task in prange(tasks):
        k = np.int64(task)
        _update(state, u, delta, A, B, C, z, D, bias, y, at, size, flags, k * n // tasks, (k + 1) * n // tasks)


@njit(cache=True)
def some_updates(state, u, delta, A, B, C, z, D, bias, y, at, size, flags):
    _update(state, u, delta, A, B, C, z, D, bias, y, at, size, flags, 0, size[0] * size[1])


@njit(cache=True)
def _update(state, u, delta, A, B, C, z, D, bias, y, at, size, flags, start, stop):
    """The channels from `start` to `stop`, counted through the batch. Here neighbours in memory are states of a channel.

    `at` has three numbers for each array: where it starts, its strides in the batch and from channel to channel (B, C: from
    group to group), 0 where it has no such axis. All but state and A are contiguous along channels. `size` is
    (batch, D, N, G). y holds the step sizes until it holds y, so no memory is needed.
    """
    _, channels, N, groups = size
    for b in range(start // channels, (stop + channels - 1) // channels):
        first, last = max(0, start - b * channels), min(channels, stop - b * channels)
        update_sizes(
            delta, _entry(at, 2, b, first), bias, _entry(at, 8, b, first), y, _entry(at, 9, b, first), last - first, flags,
        )
        for d in range(first, last):
            g = d // (channels // groups)
            update_states(
                state, _entry(at, 0, b, d), u, _entry(at, 1, b, d), A, _entry(at, 3, b, d), B, _entry(at, 4, b, g),
                C, _entry(at, 5, b, g), y, _entry(at, 9, b, d), N,
            )
        update_gate(
            y, _entry(at, 9, b, first), u, _entry(at, 1, b, first), z, _entry(at, 6, b, first), D, _entry(at, 7, b, first),
            last - first, flags,
        )


@njit(cache=True)
def _entry(at, array, i, j):
    return at[3 * array] + i * at[3 * array + 1] + j * at[3 * array + 2]


# --- Numbers in registers ---------------------------------------------------------------------------------------------


class Lanes:
    """W numbers at once, or one, on which arithmetic is written as on numbers. A product and a sum may be fused."""

    def __init__(self, builder, value):
        self.builder, self.value, self.type = builder, value, value.type
        self.count = getattr(value.type, "count", 1)
        self.bits = 64 if getattr(value.type, "element", value.type) == ir.DoubleType() else 32

    def constant(self, x, element=None):
        element = element or getattr(self.type, "element", self.type)
        return ir.Constant(ir.VectorType(element, self.count), [x] * self.count) if self.count > 1 else element(x)

    def _do(self, operation, other, swap=False):
        pair = self.value, other.value if isinstance(other, Lanes) else self.constant(float(other))
        return Lanes(self.builder, getattr(self.builder, operation)(*(pair[::-1] if swap else pair), flags=("contract",)))

    def __add__(self, other):
        return self._do("fadd", other)

    def __sub__(self, other):
        return self._do("fsub", other)

    def __rsub__(self, other):
        return self._do("fsub", other, swap=True)

    def __mul__(self, other):
        return self._do("fmul", other)

    def __truediv__(self, other):
        return self._do("fdiv", other)

    def __rtruediv__(self, other):
        return self._do("fdiv", other, swap=True)

    def __neg__(self):
        return self * -1.0

    def where(self, condition, other=0.0):
        """These numbers in the lanes where the condition holds, `other` elsewhere."""
        other = other.value if isinstance(other, Lanes) else self.constant(other)
        return Lanes(self.builder, self.builder.select(condition, self.value, other))

    def at_least(self, least):                       # NaN stays NaN, here and in at_most
        least = Lanes(self.builder, self.constant(least))
        return least.where(self.builder.fcmp_ordered("<", self.value, least.value), self)

    def at_most(self, most):
        most = Lanes(self.builder, self.constant(most))
        return most.where(self.builder.fcmp_ordered(">", self.value, most.value), self)

    def shifted_left(self, places):
        """The bits as integers, moved."""
        integer = ir.IntType(self.bits)
        bits = self.builder.bitcast(self.value, ir.VectorType(integer, self.count) if self.count > 1 else integer)
        return Lanes(self.builder, self.builder.bitcast(self.builder.shl(bits, self.constant(places, integer)), self.type))

    def spread(self, width):
        """One number in all of `width` lanes."""
        if width == 1:
            return self
        i32 = ir.IntType(32)
        one = self.builder.insert_element(ir.Constant(ir.VectorType(self.type, width), ir.Undefined), self.value, i32(0))
        same = ir.Constant(ir.VectorType(i32, width), [0] * width)
        return Lanes(self.builder, self.builder.shuffle_vector(one, one, same))

    def total(self):
        """The sum of all lanes, halves on halves, as one number."""
        value, count = self.value, self.count
        while count > 1:
            count //= 2
            low, high = (ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(i, i + count))) for i in (0, count))
            halves = [self.builder.shuffle_vector(value, value, mask) for mask in (low, high)]
            value = self.builder.fadd(*halves)
        return Lanes(self.builder, self.builder.extract_element(value, ir.IntType(32)(0)) if self.count > 1 else value)


# LLVM has no exponential of a vector, short of a library of them. 2^x is 2^k 2^f with k whole and f from -1/2 to 1/2: adding
# 1.5 * 2^23 to a float32 rounds it to a whole number k, which then stands in the lowest bits of the sum, and moved up by
# 23 places is the exponent of 2^k. 2^f and log1p are polynomials, made from their power series. In float32 2^x is off by at
# most 0.9 units in the last place; 0, infinities and NaN are exact. One core, a state and step of float32: 0.30 ns forward
# and 1.1 backward, softplus and gate included; the loop with math.exp, which stays scalar, 3.3 ns for the recurrence alone.


def nearest(series, degree, reach):
    """The polynomial of that degree which is nearest to a power series on [-reach, reach], nearly: its Chebyshev series, cut."""
    scale = reach ** np.arange(len(series))
    return cheb2poly(poly2cheb(series * scale)[:degree + 1]) / scale[:degree + 1]


LOG2_E, LN_2 = 1 / math.log(2), math.log(2)
_power = [LN_2 ** (k + 1) / math.factorial(k + 1) for k in range(22)]            # (2^f - 1) / f, in f
_log = [1 / (2 * k + 3) for k in range(26)]                                      # (atanh(s) / s - 1) / s^2, in s^2
POWER = {32: nearest(_power, 5, 1 / 2), 64: nearest(_power, 10, 1 / 2)}
LOG = {32: nearest(_log, 4, 1 / 9), 64: nearest(_log, 11, 1 / 9)}


def polynomial(coefficients, x):
    total = x * coefficients[-1] + coefficients[-2]
    for c in coefficients[-3::-1]:
        total = total * x + c
    return total


def exp2(x):
    """2^x; what is below 2^-125.5 (float64: 2^-1021.5) becomes 0."""
    limit, places = (128.0, 23) if x.bits == 32 else (1024.0, 52)
    x = x.at_least(2 - limit).at_most(limit)
    magic = 1.5 * 2.0**places + limit - 2            # the bits of 2^(k-1), of which the smallest is 0
    k = x + magic
    f = x - (k - magic)
    return _times_power(k, f)


def _times_power(k, f):
    return (polynomial(2 * POWER[f.bits], f) * f + 2.0) * k.shifted_left(23 if f.bits == 32 else 52)


def exp(x):
    """e^x, to the last place for large x, too: x - k log 2 in two steps."""
    limit, places, kept = (128.0, 23, 15) if x.bits == 32 else (1024.0, 52, 32)
    x = x.at_least((2 - limit) * LN_2).at_most(limit * LN_2 * (1 + 2.0**-places))
    magic = 1.5 * 2.0**places + limit - 2
    k = x * LOG2_E + magic
    whole = k - magic
    high = math.floor(LN_2 * 2.0**kept) / 2.0**kept  # few bits, so that its product is exact
    return _times_power(k, (x - whole * high - whole * (LN_2 - high)) * LOG2_E)


def sigmoid(x):
    return 1.0 / (exp(-x) + 1.0)


def softplus(x):
    """max(x, 0) + log1p(w), w = e^-|x|; log1p(w) = 2 atanh(s), s = w / (2 + w) <= 1/3: small results are exact, too."""
    positive = x.at_least(0.0)
    w = exp(x.at_most(0.0) - positive)
    s = w / (w + 2.0)
    return positive + s * 2.0 * (polynomial(LOG[x.bits], s * s) * (s * s) + 1.0)


class Arguments:
    """The arguments of an intrinsic by name: arrays, read and written W numbers at a time, and integers; loops over them."""

    def __init__(self, context, builder, kinds, values, names):
        self.builder, self.values = builder, {}
        for name, kind, value in zip(names, kinds, values, strict=True):
            if isinstance(kind, types.Array):
                value = context.make_array(kind)(context, builder, value).data
                if kind.dtype in WIDTHS:
                    self.number, self.W, self.bytes = value.type.pointee, WIDTHS[kind.dtype], kind.dtype.bitwidth // 8
            self.values[name] = value

    def at(self, name, offset):
        return self.builder.add(self.values[name], offset)

    def _address(self, name, index, width):
        address = self.builder.gep(self.values[name], [index])
        return self.builder.bitcast(address, ir.VectorType(self.number, width).as_pointer()) if width > 1 else address

    def load(self, name, index, width=None):
        return Lanes(self.builder, self.builder.load(self._address(name, index, width or self.W), align=self.bytes))

    def store(self, name, index, x):
        self.builder.store(x.value, self._address(name, index, x.count), align=self.bytes)

    def prefetch(self, name, index):
        """Ask for the cache line; past the end of an array this is harmless."""
        i32, address = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [address, i32, i32, i32])
        fetch = self.builder.module.declare_intrinsic("llvm.prefetch", [address], kind)
        place = self.builder.bitcast(self.builder.gep(self.values[name], [index]), address)
        self.builder.call(fetch, [place, i32(0), i32(3), i32(1)])

    def prefetch(self, name, index):
        """Ask for the cache line; past the end of an array this is harmless."""
        i32, address = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [address, i32, i32, i32])
        fetch = self.builder.module.declare_intrinsic("llvm.prefetch", [address], kind)
        place = self.builder.bitcast(self.builder.gep(self.values[name], [index]), address)
        self.builder.call(fetch, [place, i32(0), i32(3), i32(1)])

    def prefetch(self, name, index):
        """Ask for the cache line; past the end of an array this is harmless."""
        i32, address = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [address, i32, i32, i32])
        fetch = self.builder.module.declare_intrinsic("llvm.prefetch", [address], kind)
        place = self.builder.bitcast(self.builder.gep(self.values[name], [index]), address)
        self.builder.call(fetch, [place, i32(0), i32(3), i32(1)])

    def prefetch(self, name, index):
        """Ask for the cache line; past the end of an array this is harmless."""
        i32, address = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [address, i32, i32, i32])
        fetch = self.builder.module.declare_intrinsic("llvm.prefetch", [address], kind)
        place = self.builder.bitcast(self.builder.gep(self.values[name], [index]), address)
        self.builder.call(fetch, [place, i32(0), i32(3), i32(1)])

    def every(self, name, index):
        """One number in all lanes."""
        return self.load(name, index, 1).spread(self.W)

    def variable(self, width=None):
        """What a loop adds to, zero at first."""
        return Variable(Lanes(self.builder, self.number(0.0)).spread(width or self.W))

    def where(self, flag, then, otherwise):
        """then() if the flag is set."""
        flags = self.values["flags"]
        result = Variable(otherwise)
        with self.builder.if_then(self.builder.icmp_signed("!=", self.builder.and_(flags, flags.type(flag)), flags.type(0))):
            result.set(then())
        return result.get()

    @contextmanager
    def loop(self, start, stop, step):
        i64 = ir.IntType(64)
        start, stop = (self.values[x] if isinstance(x, str) else i64(x) if isinstance(x, int) else x for x in (start, stop))
        with cgutils.for_range_slice(self.builder, start, stop, i64(step), i64) as (i, _):
            yield i

    def all(self, name, *widths):
        """Loops over as many numbers as `name` says, with the widest registers first: (index, width)."""
        first, n = 0, self.values[name]
        for width in widths:
            last = self.builder.and_(n, n.type(-width))
            with self.loop(first, last, width) as i:
                yield i, width
            first = last

    @contextmanager
    def states(self, v):
        """Each n, and where the state n of the channels from v on is, counted from the first channel's."""
        N = self.values["N"]
        with cgutils.for_range(self.builder, N, intp=N.type) as loop:
            yield loop.index, self.builder.add(self.builder.mul(v, N), self.builder.mul(loop.index, N.type(self.W)))

    def before(self, name, v):
        """Which lanes are before the channel `name`, counted from the first one, which is v."""
        i32 = ir.IntType(32)
        left = Lanes(self.builder, self.builder.trunc(self.builder.sub(self.values[name], v), i32)).spread(self.W)
        return self.builder.icmp_signed("<", ir.Constant(left.type, list(range(self.W))), left.value)


class Variable:
    """A register that changes."""

    def __init__(self, start):
        self.builder = start.builder
        self.place = cgutils.alloca_once(self.builder, start.type)
        self.set(start)

    def set(self, x):
        self.builder.store(x.value, self.place)

    def add(self, x):
        self.set(self.get() + x)

    def get(self):
        return Lanes(self.builder, self.builder.load(self.place))


def instructions(names):
    """An intrinsic that returns nothing, from a function of its `Arguments`."""
    def decorate(write):
        @intrinsic
        def typed(typingctx, *kinds):
            kinds = tuple(kinds[0]) if isinstance(kinds[0], types.BaseTuple) else kinds

            def generate(context, builder, signature, args):
                write(Arguments(context, builder, kinds, cgutils.unpack_tuple(builder, args[0]), names.split()))
                return context.get_dummy_value()

            return types.void(types.StarArgTuple(kinds)), generate
        return typed
    return decorate


# --- What a step does -------------------------------------------------------------------------------------------------
# Several short loops over the channels rather than one: softplus and the gate are long chains of operations, and the
# processor does those of several channels at the same time only if they are near each other.


@instructions("delta at_delta ahead bias first u at_u z at_z steps at_row w flags")
def step_sizes(x):
    with x.loop(0, "w", x.W) as v:
        raw = x.load("delta", x.at("at_delta", v)) + x.load("bias", x.at("first", v))
        x.store("steps", x.at("at_row", v), x.where(SOFTPLUS, lambda: softplus(raw), raw))
        for name, place in (("u", x.at("at_u", v)), ("z", x.at("at_z", v)), ("delta", x.at("ahead", x.at("at_delta", v)))):
            x.prefetch(name, place)


def all_states(x, v, then):
    """All states of W channels one step on; `then` sees each."""
    step = x.load("steps", x.at("at_row", v))
    exponent, entering = step * LOG2_E, step * x.load("u", x.at("at_u", v))
    with x.states(v) as (n, at):
        decay = exp2(exponent * x.load("A", x.at("at_A", at)))
        kept = decay * x.load("state", x.at("at_h", at))
        h = kept + x.every("B", x.at("at_B", n)) * entering
        x.store("state", x.at("at_h", at), h)
        then(n, at, decay, kept, h)


@instructions("u at_u B at_B A at_A state at_h steps at_row N w")
def advance(x):
    with x.loop(0, "w", x.W) as v:
        all_states(x, v, lambda *_: None)


@instructions("u at_u B at_B C at_C A at_A state at_h steps at_row read N w")
def advance_and_read(x):
    with x.loop(0, "w", x.W) as v:
        y = x.variable()
        all_states(x, v, lambda n, at, decay, kept, h: y.add(x.every("C", x.at("at_C", n)) * h))
        x.store("read", x.at("at_row", v), y.get())


@instructions("u at_u B at_B C at_C A at_A state at_h steps at_row read decay kept at_states N w")
def advance_and_keep(x):
    """With what the way back needs: decays, and what was kept of the states, exp(delta_t A) h_{t-1}."""
    with x.loop(0, "w", x.W) as v:
        y = x.variable()

        def then(n, at, decay, kept, h):
            x.store("decay", x.at("at_states", at), decay)
            x.store("kept", x.at("at_states", at), kept)
            y.add(x.every("C", x.at("at_C", n)) * h)

        all_states(x, v, then)
        x.store("read", x.at("at_row", v), y.get())


def before_gate(x, v):
    y = x.load("read", x.at("at_row", v))
    return x.where(SKIP, lambda: y + x.load("D", x.at("first", v)) * x.load("u", x.at("at_u", v)), y)


@instructions("read at_row u at_u z at_z D first y at_y w flags")
def skip_and_gate(x):
    with x.loop(0, "w", x.W) as v:
        y = before_gate(x, v)

        def gated():
            z = x.load("z", x.at("at_z", v))
            return y * (z * sigmoid(z))

        x.store("y", x.at("at_y", v), x.where(GATE, gated, y))


@instructions("read grads at_row u at_u z at_z D first grad at_grad grad_z at_to w flags")
def gate_back(x):
    """The gradient of z, and `grads`, that of what comes before the gate."""
    with x.loop(0, "w", x.W) as v:
        y, grad = before_gate(x, v), x.load("grad", x.at("at_grad", v))

        def through():
            z = x.load("z", x.at("at_z", v))
            s = sigmoid(z)
            x.store("grad_z", x.at("at_to", v), grad * y * s * (z * (1.0 - s) + 1.0))
            return grad * (z * s)

        x.store("grads", x.at("at_row", v), x.where(GATE, through, grad))


@instructions("u at_u B at_B C at_C A at_A decay kept at_states steps grads at_row g at_h grad_u grad_delta at_to "
              "sum_A lanes_B lanes_C N w real")
def back(x):
    """All states one step back. What reaches delta_t u_t is left in grad_u, what reaches delta_t by the decay in grad_delta."""
    with x.loop(0, "w", x.W) as v:
        step, grad_y = (x.load(name, x.at("at_row", v)) for name in ("steps", "grads"))
        entering, real = step * x.load("u", x.at("at_u", v)), x.before("real", v)
        grad_entering, grad_step = x.variable(), x.variable()
        with x.states(v) as (n, at):
            B, C, A = x.every("B", x.at("at_B", n)), x.every("C", x.at("at_C", n)), x.load("A", x.at("at_A", at))
            decay, kept = (x.load(name, x.at("at_states", at)) for name in ("decay", "kept"))
            g = x.load("g", x.at("at_h", at)) + C * grad_y
            grad_exponent = kept * g
            grad_entering.add(B * g)
            grad_step.add(A * grad_exponent)
            x.store("g", x.at("at_h", at), decay * g)
            x.store("sum_A", at, x.load("sum_A", at) + step * grad_exponent)
            lanes = x.builder.mul(n, n.type(x.W))
            x.store("lanes_B", lanes, x.load("lanes_B", lanes) + (entering * g).where(real))
            x.store("lanes_C", lanes, x.load("lanes_C", lanes) + ((kept + B * entering) * grad_y).where(real))
        x.store("grad_u", x.at("at_to", v), grad_entering.get())
        x.store("grad_delta", x.at("at_to", v), grad_step.get())


@instructions("delta at_delta bias first u at_u D steps grads at_row grad_u grad_delta at_to sum_D sum_bias w flags")
def steps_back(x):
    with x.loop(0, "w", x.W) as v:
        u, step, grad_y = x.load("u", x.at("at_u", v)), x.load("steps", x.at("at_row", v)), x.load("grads", x.at("at_row", v))
        grad_entering, grad_step = (x.load(name, x.at("at_to", v)) for name in ("grad_u", "grad_delta"))
        raw = x.load("delta", x.at("at_delta", v)) + x.load("bias", x.at("first", v))
        grad_u, grad_delta = step * grad_entering, grad_step + u * grad_entering
        grad_u = x.where(SKIP, lambda: grad_u + x.load("D", x.at("first", v)) * grad_y, grad_u)
        grad_delta = x.where(SOFTPLUS, lambda: grad_delta * sigmoid(raw), grad_delta)
        x.store("grad_u", x.at("at_to", v), grad_u)
        x.store("grad_delta", x.at("at_to", v), grad_delta)
        x.store("sum_D", v, x.load("sum_D", v) + grad_y * u)
        x.store("sum_bias", v, x.load("sum_bias", v) + grad_delta)


@instructions("lanes out to N")
def totals(x):
    """out_n = the sum of the n-th vector of `lanes`."""
    with x.loop(0, "N", 1) as n:
        x.store("out", x.at("to", n), x.load("lanes", x.builder.mul(n, n.type(x.W))).total())


@instructions("delta at_delta bias at_bias y at_y n flags")
def update_sizes(x):
    for i, width in x.all("n", x.W, 1):
        delta = x.load("delta", x.at("at_delta", i), width)
        delta = x.where(BIAS, lambda: delta + x.load("bias", x.at("at_bias", i), width), delta)
        x.store("y", x.at("at_y", i), x.where(SOFTPLUS, lambda: softplus(delta), delta))


@instructions("state at_state u at_u A at_A B at_B C at_C y at_y N")
def update_states(x):
    """The states of one channel. y is its step size, and then what is read of the states."""
    step = x.load("y", x.values["at_y"], 1)
    exponent, entering = step * LOG2_E, step * x.load("u", x.values["at_u"], 1)
    reads = {width: x.variable(width) for width in (x.W, x.W // 4, 1)}
    for n, width in x.all("N", *reads):
        state, A, B, C = (x.load(name, x.at("at_" + name, n), width) for name in ("state", "A", "B", "C"))
        h = exp2(exponent.spread(width) * A) * state + B * entering.spread(width)
        x.store("state", x.at("at_state", n), h)
        reads[width].add(C * h)
    wide, half, one = (read.get().total() for read in reads.values())
    x.store("y", x.values["at_y"], wide + half + one)


@instructions("y at_y u at_u z at_z D at_D n flags")
def update_gate(x):
    for i, width in x.all("n", x.W, 1):
        y, u = (x.load(name, x.at("at_" + name, i), width) for name in "yu")
        y = x.where(SKIP, lambda: y + x.load("D", x.at("at_D", i), width) * u, y)

        def gated():
            z = x.load("z", x.at("at_z", i), width)
            return y * (z * sigmoid(z))

        x.store("y", x.at("at_y", i), x.where(GATE, gated, y))


@intrinsic
def width(typingctx, array):
    """W for the numbers of `array`, a constant of the compiled code."""
    return types.intp(array), lambda context, builder, signature, args: context.get_constant(types.intp, WIDTHS[array.dtype])
