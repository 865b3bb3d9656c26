"""How arrays of any shape and strides meet kernels that know rows and columns: views, copies and sums on the card."""

from functools import lru_cache
from math import prod

import numpy as np

from .._cuda import SIMULATED, contiguous, cuda, full, launch, new, permuted, view
from .._device import accumulator, memory

FAN_IN = 64                                             # numbers that one thread of a sum adds
THREADS = 8 if SIMULATED else 256                       # of a block


def is_dense(shape, strides):
    """Is it C-contiguous?"""
    return all(n == 1 or s == t for n, s, t in zip(shape, strides, contiguous(shape)))


def inverse(order):
    return tuple(sorted(range(len(order)), key=lambda i: order[i]))


def copied(like, address, shape, strides, stream):
    """A new C-contiguous array of the elements at `strides` from an address."""
    out = new(like, shape)
    n, v = prod(shape), view(out)
    if n:
        groups = collapsed(shape, strides) or [(1, 0)]
        launch(_gather(v.dtype), -(-n // THREADS), THREADS, stream, address, v.address, n, tuple(m for m, _ in groups), tuple(s for _, s in groups))
    return out


def filled(like, shape, value, stream):
    """A new array of one value."""
    return copied(like, view(full(like, value)).address, shape, [0] * len(shape), stream)


@lru_cache(maxsize=None)
def _gather(dtype):
    load, store = memory(dtype, 1).load, memory(dtype, 1).store

    @cuda.jit
    def gather(source, out, n, shape, strides):
        """Launch: a thread an element of the result."""
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            rest, place = i, 0
            for d in range(len(shape) - 1, -1, -1):
                place += rest % shape[d] * strides[d]
                rest //= shape[d]
            store(out, i, load(source, place))

    return gather


def broadcast(shape, strides, to):
    """The strides of an array as if it had the shape `to`."""
    return [0] * (len(to) - len(shape)) + [0 if n == 1 else s for n, s in zip(shape, strides)]


def collapsed(shape, strides):
    """The axes as (size, stride), those of size 1 left out, neighbours that one stride walks through merged."""
    groups = []
    for n, s in zip(shape, strides):
        if n > 1:
            if groups and groups[-1][1] == n * s:
                groups[-1] = (groups[-1][0] * n, s)
            else:
                groups.append((n, s))
    return groups


def summed(x, like, order, shape, stream):
    """The sum of `x` over the axes along which an array of `shape` was broadcast to its own; x has no gaps in `order`."""
    v, missing = view(x), len(order) - len(shape)
    sizes = [1 if i < missing else shape[i - missing] for i in order]       # of the result, in the order of memory
    lengths = v.shape if is_dense(v.shape, v.strides) else [v.shape[i] for i in order]
    groups = []                                         # [size, is it summed] in the order of memory
    for n, m in zip(lengths, sizes):
        if groups and groups[-1][1] == (m != n):
            groups[-1][0] *= n
        else:
            groups.append([n, m != n])
    out = new(like, [m for i, m in zip(order, sizes) if i >= missing])
    source, dtype, hold = v.address, v.dtype, [x]
    if not any(over for _, over in groups):             # nothing to add, but another dtype
        groups.append([1, True])
    while any(over for _, over in groups):
        at = next(i for i, (_, over) in enumerate(groups) if over)
        n, outer, inner = groups[at][0], prod(m for m, _ in groups[:at]), prod(m for m, _ in groups[at + 1:])
        parts = 1 if n <= FAN_IN or outer * inner >= 1 << 16 else -(-n // FAN_IN)
        groups[at] = [parts, parts > 1]
        last = not any(over for _, over in groups)
        target = out if last else new(like, (outer * parts * inner,), "float64")
        t = view(target)
        threads = outer * parts * inner
        launch(_sum(dtype, t.dtype), -(-threads // THREADS), THREADS, stream, source, t.address, outer, n, parts, inner)
        source, dtype = t.address, t.dtype
        hold.append(target)
    return permuted(out, inverse([i - missing for i in order if i >= missing]))


@lru_cache(maxsize=None)
def _sum(dtype, result_dtype):
    load, store, result = memory(dtype, 1).load, memory(result_dtype, 1).store, accumulator(result_dtype)

    @cuda.jit
    def sum_middle(source, out, outer, n, parts, inner):
        """out[o, p, i] = the sum of source[o, p::parts, i], in float64.

        Launch: a thread an element of the result; neighbouring threads read neighbouring elements.
        """
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < outer * parts * inner:
            total = np.float64(0)
            o, rest = i // (parts * inner), i % (parts * inner)
            for c in range(rest // inner, n, parts):
                total += np.float64(load(source, (o * n + c) * inner + rest % inner))
            store(out, i, result(total))

    return sum_middle
