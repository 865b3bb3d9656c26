"""The selective scan on the processor's cores, compiled by numba: how arrays reach `_kernels`, and how the work is cut.

Forward, a task is a sequence of the batch and a block of channels: it reads u, delta, z, B and C once, in the order of
time, and writes y. delta and z go through softplus and the gate on the way; the states never leave the cache.

Backward, it runs forward twice. First for the states at the start of every chunk of steps, which are kept: one in every
few dozen. Then chunk after chunk, the last one first: once more forward from the kept state, this time with what the
way back needs, which fits the second cache; and back. Beyond its results it makes arrays of batch * D * N * (chunks + 1)
numbers, at most, and the gradients of B and C of every block, which are added up in the order of the blocks.

Nothing depends on the number of threads: neither how the work is cut nor the order in which numbers are added.
"""

import numba
import numpy as np

from ..scan.cpu import _flat, _launch
from . import _kernels
from ._kernels import BIAS, GATE, RESET, SKIP, SOFTPLUS

DTYPES = ("float32", "float64")

BLOCK, TASKS = 64, 16                                # channels of a block, at most; tasks, at least, for many cores
CHUNK = 2**16                                        # states whose steps the way back keeps at a time
SMALL = 2**16                                        # fewer states than this are updated without waking the other cores

_ZERO = {char: np.zeros(1, char) for char in "fd"}   # for an array that is not there
_AXES = [(0, 1), (0, 1), (0, 1), (None, 0), (0, 1), (0, 1), (0, 1), (None, 0), (None, 0), (0, 1)]    # batch and channel


def selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, reset, return_last_state):
    """What the front door calls."""
    batch, L, channels = u.shape
    groups, N = B.shape[2:]
    state = np.zeros((batch, channels, N), u.dtype) if initial_state is None else initial_state
    if u.size == 0:
        return np.empty(u.shape, u.dtype), state.copy() if return_last_state else None
    layout = _Layout(u, groups, N)
    u_rows, delta_rows = layout.rows(u), layout.rows(delta)
    z_rows = u_rows if z is None else layout.rows(z)
    memories, at = _places(u_rows, delta_rows, z_rows, _straight(B), _straight(C))
    y, state = np.empty((batch, L, layout.P), u.dtype), layout.states(state)
    parameters = layout.states(A), layout.channels(D), layout.channels(delta_bias), _memory(reset)
    with _launch:
        _kernels.forward(
            *memories, at, *parameters, state, y.reshape(-1), layout.size, _flags(D, z, delta_softplus, reset),
        )
    return layout.cut(y), layout.states_back(state, batch) if return_last_state else None


def selective_scan_backward(grad_y, u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, grad_last_state,
                            reset):
    """What the front door calls."""
    batch, L, channels = u.shape
    groups, N = B.shape[2:]
    zero = np.zeros((batch, channels, N), u.dtype)
    state = zero if initial_state is None else initial_state
    g = zero if grad_last_state is None else grad_last_state
    if u.size == 0:
        grads = [None if x is None else np.zeros(x.shape, u.dtype) for x in (u, delta, A, B, C, D, z, delta_bias)]
        return *grads, None if initial_state is None else g.copy()
    layout = _Layout(u, groups, N)
    u_rows, delta_rows = layout.rows(u), layout.rows(delta)
    z_rows = u_rows if z is None else layout.rows(z)
    memories, at = _places(u_rows, delta_rows, z_rows, _straight(B), _straight(C), layout.rows(grad_y))
    parameters = layout.states(A), layout.channels(D), layout.channels(delta_bias), _memory(reset)
    state, g = layout.states(state), layout.states(g)
    grad_u, grad_delta, grad_z = (np.empty((batch, L, layout.P) if x is not None else 0, u.dtype) for x in (u, delta, z))
    grad_A, grad_D, grad_bias = np.zeros((batch, layout.P * N)), np.zeros((batch, layout.P)), np.zeros((batch, layout.P))
    grad_B, grad_C = (np.empty((layout.blocks, batch, L, groups, N), u.dtype) for _ in range(2))
    results = [x.reshape(-1) for x in (grad_u, grad_delta, grad_z, grad_A, grad_B, grad_C, grad_D, grad_bias)]
    with _launch:
        _kernels.backward(
            *memories, at, *parameters, state, g, *results, layout.size, _flags(D, z, delta_softplus, reset),
            min(L, max(8, CHUNK // (layout.w * N))),
        )
    with np.errstate(all="ignore"):                  # what is too large for float32 is infinite
        grad_A, grad_D, grad_bias = (x.sum(axis=0).astype(u.dtype) for x in (grad_A, grad_D, grad_bias))
        grad_B, grad_C = grad_B.sum(axis=0), grad_C.sum(axis=0)
    return (
        layout.cut(grad_u), layout.cut(grad_delta), layout.states_back(grad_A), grad_B, grad_C,
        None if D is None else layout.cut(grad_D), None if z is None else layout.cut(grad_z),
        None if delta_bias is None else layout.cut(grad_bias),
        None if initial_state is None else layout.states_back(g, batch),
    )


def selective_state_update(state, u, delta, A, B, C, D, z, delta_bias, delta_softplus, out):
    """What the front door calls."""
    y = np.empty(u.shape, u.dtype) if out is None else out
    if state.size == 0:
        return y
    h, *arrays = [x if x is None else _straight(x) for x in (state, u, delta, A, B, C, z, D, delta_bias)]
    apart = not any(np.may_share_memory(y, x) for x in arrays if x is not None)  # y holds other numbers on the way
    to = _straight(y) if apart else np.empty(u.shape, u.dtype)
    memories, at = [], []
    for x, axes in zip((h, *arrays, to), _AXES):
        if x is None:
            memory, start, strides = _ZERO[u.dtype.char], 0, (0, 0)
        elif x.flags.c_contiguous and x.flags.writeable:                         # the same as below, sooner
            size = x.itemsize
            memory, start, strides = x.reshape(-1), 0, [n // size for n in x.strides]
        else:
            memory, start, strides = _flat(x)
        memories.append(memory)
        at += start, 0 if axes[0] is None else strides[axes[0]], strides[axes[1]]
    rest = tuple(at), (*state.shape, B.shape[1]), _flags(D, z, delta_softplus, None, delta_bias)
    if state.size < SMALL:
        _kernels.some_updates(*memories, *rest)
    else:
        with _launch:
            _kernels.update(*memories, *rest, TASKS)
    if h is not state:
        state[...] = h
    if to is not y:
        y[...] = to
    return y


# --- Layout -----------------------------------------------------------------------------------------------------------


class _Layout:
    """How the channels lie in the kernels' arrays (see there), and into which blocks they are cut."""

    def __init__(self, u, groups, N):
        batch, L, channels = u.shape
        self.dtype, self.groups, self.N, self.real = u.dtype, groups, N, channels // groups
        self.W = _kernels.WIDTHS[numba.from_dtype(u.dtype)]
        self.padded = -(-self.real // self.W) * self.W                           # channels of a group
        self.P = groups * self.padded
        blocks = max(-(-self.padded // BLOCK), -(-TASKS // (batch * groups)))    # of a group
        self.w = -(-self.padded // (blocks * self.W)) * self.W
        self.blocks = -(-self.padded // self.w)
        self.size = batch, L, channels, groups, N, self.P, self.w

    def pad(self, x):
        """(..., D) as (..., P)."""
        out = np.zeros((*x.shape[:-1], self.groups, self.padded), self.dtype)
        out[..., :self.real] = x.reshape(*x.shape[:-1], self.groups, self.real)
        return out.reshape(*x.shape[:-1], self.P)

    def cut(self, x):
        """(..., P) as (..., D)."""
        if self.real == self.padded:
            return x
        x = x.reshape(*x.shape[:-1], self.groups, self.padded)[..., :self.real]
        return x.reshape(*x.shape[:-2], self.groups * self.real)

    def rows(self, x):
        return _straight(x) if self.real == self.padded else self.pad(x)

    def channels(self, x):
        return np.zeros(self.P, self.dtype) if x is None else self.pad(x)

    def states(self, x):
        """(..., D, N) as the memory of (..., P / W, N, W), a copy."""
        x = self.pad(x.swapaxes(-1, -2))
        return x.reshape(*x.shape[:-1], self.P // self.W, self.W).swapaxes(-3, -2).flatten()

    def states_back(self, x, *before):
        x = x.reshape(*before, self.P // self.W, self.N, self.W).swapaxes(-3, -2)
        return np.ascontiguousarray(self.cut(x.reshape(*before, self.N, self.P)).swapaxes(-1, -2))


def _straight(x):
    """x, or a copy where it is not aligned or its last axis not contiguous."""
    if x.flags.c_contiguous and x.flags.aligned:
        return x
    whole = x.flags.aligned and not any(s % x.itemsize for s in x.strides)
    return x if whole and (x.shape[-1] == 1 or x.strides[-1] == x.itemsize) else x.copy()


def _places(*arrays):
    """Their memories, and a row of `at` for each: where it starts and its strides, in numbers."""
    memories, at = [], np.zeros((len(arrays), 4), np.int64)
    for i, x in enumerate(arrays):
        memory, start, strides = _flat(x)
        memories.append(memory)
        at[i, 0], at[i, 1:len(strides)] = start, strides[:-1]
    return memories, at


def _memory(reset):
    return np.zeros(0, bool) if reset is None else np.array(reset, order="C").reshape(-1)


def _flags(D, z, delta_softplus, reset, delta_bias=None):
    flags = SOFTPLUS if delta_softplus else 0
    for flag, x in ((SKIP, D), (GATE, z), (RESET, reset), (BIAS, delta_bias)):
        flags |= flag if x is not None else 0
    return flags
