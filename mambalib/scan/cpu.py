"""The scan on the processor's cores, compiled by numba.

An array is seen as sequences, and where its numbers lie in memory decides how they are scanned:

    columns    neighbours belong to different sequences (time is not the last axis): up to 128 sequences side by side,
               their states in registers.
    rows       neighbours are steps of one sequence: 16 sequences at a time, in tiles of 16 steps. What fills no tile,
               and strides that fit neither kernel, go one number after the other.
    chunks     few long rows: each cut in chunks which are scanned like rows, twice, in windows that stay in the cache.
               First for the pair (a, b) that a chunk amounts to, then from the state that the chunks before it lead to.

In the first two every sequence is scanned in the order of its steps, a product, rounded, and a sum, rounded, as in
NumPy. Chunks are cut at the same places on every machine, and where a pair is not finite its chunk is walked through
instead.

The gradient is the same recurrence run back, g_{t-1} = a_t g_t + grad_{t-1}, and grad_a_t = h_{t-1} g_t is the state
that comes into that step times a known factor: the kernels write these products, or their sum over time, on the way.
"""

import threading

import numba
import numpy as np

from . import _kernels
from ._kernels import PRODUCT, SCAN, SUM
from .reference import unbroadcast

CHUNK, WINDOW = 1024, 2**20                          # steps in a chunk, numbers in a window
SMALL = 2**15                                        # fewer numbers than this are not worth waking the other cores
FEW, LONG = 64, 2**14                                # fewer sequences than this, each at least so long, are cut in chunks

_launch = threading.Lock()                           # numba's simplest threading layer ends the process on two at once


def linear_scan(a, b, axis, h0, reverse):
    """What the front door calls."""
    a, b = _views(a, b.shape, axis, reverse), _views(b, b.shape, axis, reverse)
    h = _empty_like(b)
    _scan(a, b, h, 0 if h0 is None else h0)
    return _back(h, axis, reverse)


def linear_scan_backward(grad, a, h, axis, h0, reverse):
    """What the front door calls; gradients are summed over the axes along which a and h0 were broadcast."""
    shape, shape_a = h.shape, a.shape
    grad, a, h = (_views(x, shape, axis, reverse) for x in (grad, a, h))
    constant, L = a.shape[-1] != h.shape[-1] or h.shape[-1] == 1, h.shape[-1]
    if np.iscomplexobj(h):                           # the conjugate of g obeys the recurrence without conjugates
        grad = grad.conj()
    g = _empty_like(h)
    grad_a = _empty_like(h[..., :1] if constant else h)
    if constant:
        grad_a[...] = 0                              # to be added to
    before = np.broadcast_to(np.asarray(0 if h0 is None else h0, h.dtype), h.shape[:-1])
    grad_h0 = np.zeros(h.shape[:-1], h.dtype)
    if L:
        g[..., -1] = grad[..., -1]
        later = slice(None) if constant else slice(1, None)
        _scan(
            a[..., later][..., ::-1], grad[..., :-1][..., ::-1], g[..., :-1][..., ::-1], g[..., -1],
            SUM if constant else PRODUCT, h[..., :-1][..., ::-1], grad_a[..., later][..., ::-1],
        )
        grad_a[..., 0] = before * g[..., 0] + (grad_a[..., 0] if constant else 0)
        grad_h0 = a[..., 0] * g[..., 0]
    if np.iscomplexobj(h):
        grad_a, g, grad_h0 = grad_a.conj(), g.conj(), grad_h0.conj()
    grad_a, grad_b = _back(grad_a, axis, reverse), _back(g, axis, reverse)
    return unbroadcast(grad_a, shape_a), grad_b, None if h0 is None else unbroadcast(grad_h0, h0.shape)


# --- From arrays of any strides to sequences --------------------------------------------------------------------------


def _views(x, shape, axis, reverse):
    """`x`, which broadcasts to `shape`, with every axis but time stretched, and time last and running forward."""
    x = x.reshape((1,) * (len(shape) - x.ndim) + x.shape)
    x = np.moveaxis(x, axis, -1)
    x = np.broadcast_to(x, (*shape[:axis], *shape[axis + 1:], x.shape[-1]))
    return x[..., ::-1] if reverse else x


def _back(x, axis, reverse):
    return np.moveaxis(x[..., ::-1] if reverse else x, -1, axis)


def _empty_like(x):
    """A new array whose axes follow each other in memory as those of x do, and run backwards where those do."""
    back = tuple(slice(None, None, -1 if s < 0 else 1) for s in x.strides)
    return np.empty_like(x[back])[back]


class _Memory:
    """What NumPy needs to see `owner`'s memory as a flat array. Never marked read-only: numba would compile again."""

    def __init__(self, owner, address, n):
        self.owner = owner
        self.__array_interface__ = {"version": 3, "typestr": owner.dtype.str, "data": (address, False), "shape": (n,)}


def _flat(x):
    """The memory under `x` as one flat array; where x starts in it, and x's strides, counted in numbers."""
    strides = [s // x.itemsize for s in x.strides]
    reach = [s * (n - 1) for s, n in zip(strides, x.shape)]
    low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
    address = x.__array_interface__["data"][0] + low * x.itemsize
    return np.asarray(_Memory(x, address, high - low + 1)), -low, strides


def _sequences(arrays):
    """The axes before time as few axes as possible, [(length, stride of each array)], after joining neighbours."""
    axes = []
    for i, n in enumerate(arrays[0].shape[:-1]):
        strides = [x.strides[i] for x in arrays]
        if n == 1:
            continue
        if axes and all(outer == n * s for outer, s in zip(axes[-1][1], strides)):
            axes[-1] = (axes[-1][0] * n, strides)
        else:
            axes.append((n, strides))
    return axes


def _scan(a, b, out, state, mode=SCAN, factor=None, to=None):
    """out_t = a_t out_{t-1} + b_t from `state`, time last; by `mode`, to_t = factor_t out_{t-1}, or these added up."""
    L = out.shape[-1]
    if out.size == 0:
        return
    arrays = [a, b, out] if mode == SCAN else [a, b, out, factor, to]
    order = sorted(range(out.ndim - 1), key=lambda i: -abs(out.strides[i]))
    flips = tuple(slice(None, None, -1 if out.strides[i] < 0 else 1) for i in order)
    state = np.broadcast_to(np.asarray(state, out.dtype), out.shape[:-1])
    state = state.transpose(order)[flips].flatten()  # a copy; the kernels leave the last states there
    arrays = [x.transpose(*order, x.ndim - 1)[flips] for x in arrays]
    out = arrays[2]
    arrays = [_laid_out(x, out) if not x.flags.aligned or any(s % x.itemsize for s in x.strides) else x for x in arrays]
    if len(_sequences(arrays)) > 3:                  # a broadcast between other axes, or a cut-out: then a copy
        arrays = [x if i in (2, 4) else _laid_out(x, out) for i, x in enumerate(arrays)]
    axes = _sequences(arrays)
    axes = [(1, [0] * len(arrays))] * (3 - len(axes)) + axes
    memories, at = [], []
    for x in arrays:
        memory, start, strides = _flat(x)
        memories.append(memory)
        at.append([start, *(s[len(at)] // x.itemsize for _, s in axes), strides[-1] if x.shape[-1] > 1 else 0])
    if mode == SCAN:                                 # not used, but a kernel has one list of arguments
        memories, at = memories + memories[2:] * 2, at + at[2:] * 2
    with _launch:
        _choose(memories, np.array(at), state, np.array([*(n for n, _ in axes), L]), mode)


def _laid_out(x, out):
    """A copy of `x` in the order of `out`; where x is one for all steps, so is the copy."""
    copy = _empty_like(out[..., :x.shape[-1]])
    copy[...] = x
    return copy


def _choose(memories, at, state, size, mode):
    """The kernel that fits the strides."""
    out = memories[2]
    sums = np.empty(0, np.result_type(out, np.float64))
    inner, time = at[1:, 3], at[1:, 4] if mode == PRODUCT else at[1:-1, 4]
    W = _kernels.WIDTHS.get(numba.from_dtype(out.dtype), 1)
    small = state.size * size[3] < SMALL
    if size[2] > 1 and at[0, 3] in (0, 1) and (inner == 1).all():
        wide = _kernels.VECTORS * W
        if W == 1 or state.size < 16 * wide:         # narrow strips, so that every thread gets some
            wide = max(W, 8)
        total = int(size[0] * size[1] * -(-size[2] // wide))
        arguments = *memories, at, state, size, mode, sums, wide
        _kernels.some_columns(*arguments, 0, total) if small else _kernels.columns(*arguments, total)
        return
    tiled = W > 1 and abs(time[0]) == 1 and at[0, 4] in (0, time[0]) and bool((time == time[0]).all())
    line = out.__array_interface__["data"][0] // out.itemsize % W
    arguments = *memories, at, state, size, mode, sums, tiled, line
    if small:
        _kernels.some_rows(*arguments, 0, -(-state.size // W))
    elif tiled and size[0] == 1 and state.size < FEW and size[3] >= LONG:
        _chunks(memories, at, state, size, mode, sums, line, W)
    else:
        _kernels.rows(*arguments, -(-state.size // W))


def _chunks(memories, at, state, size, mode, sums, line, W):
    """Few long rows, window after window: chunks are a third axis of sequences."""
    _, n0, n1, L = size
    n, dtype = n0 * n1, state.dtype
    each = max(1, WINDOW // (CHUNK * n))             # chunks of each row in a window
    for first in range(0, L // CHUNK, each):
        c = min(each, L // CHUNK - first)
        shape = np.array([n0, n1, c, CHUNK])
        start, _, s0, s1, time = at.T
        here = np.stack([start + first * CHUNK * time, s0, s1, CHUNK * time, time], axis=1)
        decay, comes = np.empty(n * c, dtype), np.empty(n * c, dtype)
        _kernels.pairs(*memories[:2], here, decay, comes, shape)
        _kernels.carry(*memories[:2], here, decay, comes, state, shape)
        sum_to = memories[4]
        if mode == SUM:                              # two chunks of a row must not add to one number at once
            sum_to, here[4] = np.zeros(n * c, dtype), (0, n1 * c, c, 1, 0)
        _kernels.rows(*memories[:4], sum_to, here, comes, shape, mode, sums, True, line, -(-(n * c) // W))
        if mode == SUM:
            i0, i1 = np.indices((n0, n1))
            memories[4][at[4, 0] + i0 * at[4, 2] + i1 * at[4, 3]] += sum_to.reshape(n0, n1, c).sum(-1, dtype=sums.dtype)
    rest = at.copy()
    rest[:, 0] += L // CHUNK * CHUNK * at[:, 4]
    _kernels.rows(*memories, rest, state, np.array([1, n0, n1, L % CHUNK]), mode, sums, True, line, -(-n // W))
