"""The layers' operations on the processor's cores: how arrays reach `_kernels`; `_reference` says what is computed.

Results are new arrays without gaps. Rows of an argument may have gaps between them, as in a half of the columns of a
wider matrix; of an array that is strided otherwise a copy is made.
"""

import math

import numpy as np

from ..scan.cpu import _flat, _launch
from . import _kernels

TASKS = 64                                           # into which rows are cut for a sum over them


def silu(x):
    """x sigmoid(x)."""
    y, x = np.empty(x.shape, x.dtype), _rows(x)
    with _launch:
        _kernels.silu(*x[:3], y.reshape(-1), *x[3:])
    return y


def silu_backward(grad, x):
    """The gradient of x."""
    gx, grad, x = np.empty(x.shape, x.dtype), _rows(grad), _rows(x)
    with _launch:
        _kernels.silu_backward(*grad[:3], *x[:3], gx.reshape(-1), *x[3:])
    return gx


def rms_norm(x, weight, eps):
    """(y, scale), scale (rows,) = 1 / sqrt(mean(x^2) + eps)."""
    y, scale, x = np.empty(x.shape, x.dtype), np.empty(len(x), x.dtype), _rows(x)
    with _launch:
        _kernels.rms_norm(*x[:3], _dense(weight), y.dtype.type(eps), y.reshape(-1), scale, *x[3:])
    return y, scale


def rms_norm_backward(grad, x, weight, scale):
    """The gradients of x and weight."""
    gx, parts = np.empty(x.shape, x.dtype), np.empty((min(TASKS, len(x)), x.shape[1]), x.dtype)
    grad, x = _rows(grad), _rows(x)
    with _launch:
        _kernels.rms_norm_backward(*grad[:3], *x[:3], _dense(weight), scale, gx.reshape(-1), parts, *x[3:])
    return gx, parts.sum(axis=0)


def cross_entropy(logits, targets, ignore):
    """(loss, gradient of the logits)."""
    grad, losses = np.empty(logits.shape, logits.dtype), np.empty(len(targets), logits.dtype)
    targets = _dense(targets.astype(np.int64))
    n = np.count_nonzero(targets != ignore)
    logits, share = _rows(logits), grad.dtype.type(1 / max(n, 1))
    with _launch:
        _kernels.cross_entropy(*logits[:3], targets, ignore, share, grad.reshape(-1), losses, *logits[3:])
    loss = losses.sum(dtype=np.float64) / n if n else math.nan
    return np.asarray(loss, grad.dtype), grad


def causal_softmax(scores, offset):
    """softmax over the columns up to offset + i of row i of (..., L, S); the others become 0. In place."""
    L, S = scores.shape[-2:]
    with _launch:
        _kernels.causal_softmax(scores.reshape(-1), offset, math.prod(scores.shape[:-1]), L, S)
    return scores


def causal_softmax_backward(grad, p, offset):
    """The gradient of the scores, in place of that of p."""
    L, S = p.shape[-2:]
    with _launch:
        _kernels.causal_softmax_backward(grad.reshape(-1), p.reshape(-1), offset, math.prod(p.shape[:-1]), L, S)
    return grad


def embedding_backward(grad, tokens, vocab):
    """The gradient of the weight (vocab, columns)."""
    gweight = np.zeros((vocab, grad.shape[1]), grad.dtype)
    tokens, grad = _dense(tokens.astype(np.int64)), _rows(grad)
    with _launch:
        _kernels.embedding_backward(*grad[:3], tokens, gweight.reshape(-1), grad[4])
    return gweight


def conv_depthwise(x, weight, bias, window, silu):
    """y (batch, L, C), with SiLU if `silu`."""
    y = np.empty(x.shape, x.dtype)
    with _launch:
        _kernels.conv_depthwise(*_steps(x), *_parameters(x, weight, bias, window), y.reshape(-1), *x.shape, bool(silu))
    return y


def conv_depthwise_backward(grad, x, weight, bias, window, silu):
    """The gradients of x, weight and bias (None where that is None)."""
    (batch, L, C), K = x.shape, weight.shape[1]
    gx, parts = np.empty(x.shape, x.dtype), np.empty((batch * -(-L // _kernels.STEPS), K + 1, C), x.dtype)
    with _launch:
        _kernels.conv_depthwise_backward(
            *_steps(grad), *_steps(x), *_parameters(x, weight, bias, window), gx.reshape(-1), parts, *x.shape,
            bool(silu),
        )
    sums = parts.sum(axis=0)
    return gx, np.ascontiguousarray(sums[:K].T), None if bias is None else sums[K]


def lstm_cell(gates, c):
    """(h, c after the step) from the gates before their activations."""
    h, c_new = np.empty_like(c), np.empty_like(c)
    _kernels.lstm_cell(_dense(gates), _dense(c), h.reshape(-1), c_new.reshape(-1), c.shape[1])
    return h, c_new


def lstm_cell_backward(grad_h, grad_c, gates, c, c_new):
    """The gradients of gates and c."""
    ggates, gc = np.empty(gates.shape, gates.dtype), np.empty(c.shape, c.dtype)
    arrays = grad_h, np.zeros_like(c) if grad_c is None else grad_c, gates, c, c_new
    _kernels.lstm_cell_backward(*map(_dense, arrays), ggates.reshape(-1), gc.reshape(-1), c.shape[1])
    return ggates, gc


def adamw(param, grad, m, v, scalars, beta1, beta2, eps, decay):
    """One step of AdamW; param, m and v, without gaps, are changed in place."""
    for name, x in (("param", param), ("m", m), ("v", v)):
        if not x.flags.c_contiguous:
            raise ValueError(f"{name}: expected a contiguous array, got strides {x.strides} for shape {x.shape}")
    numbers = [param.dtype.type(x) for x in (*scalars, 1 - beta1, 1 - beta2, eps, decay)]
    with _launch:
        _kernels.adamw(param.reshape(-1), _dense(grad), m.reshape(-1), v.reshape(-1), *numbers)


def sum_of_squares(grad, accumulator, fresh):
    """Add the sum of grad's squares to `accumulator`, an array of one number, or put it there if `fresh`; return it."""
    parts = np.empty(-(-grad.size // _kernels.BLOCK), grad.dtype)
    with _launch:
        _kernels.sums_of_squares(_dense(grad), parts)
    total = parts.sum(dtype=np.float64)
    accumulator[...] = total if fresh else accumulator + total
    return accumulator


# --- Where arrays lie -------------------------------------------------------------------------------------------------


def _rows(x):
    """(memory, start, step, rows, columns) of an array whose last axis is that of columns."""
    columns = x.shape[-1] if x.ndim else 1
    memory, start, (step, _), shape = _neighbours(x.reshape(x.size // columns if columns else 0, columns))
    return memory, start, step, *shape


def _steps(x):
    """(memory, start, step in the batch, step in time) of x (batch, L, C)."""
    memory, start, strides, _ = _neighbours(x)
    return memory, start, *strides[:2]


def _neighbours(x):
    """The memory under x, or a copy in which the numbers of the last axis are neighbours; start, strides, shape."""
    if not x.size:
        return np.empty(0, x.dtype), 0, [0] * x.ndim, x.shape
    whole = x.flags.aligned and not any(s % x.itemsize for s in x.strides)
    if not whole or (x.shape[-1] > 1 and x.strides[-1] != x.itemsize):
        x = x.copy()
    return *_flat(x), x.shape


def _dense(x):
    """Flat, without gaps."""
    x = np.ascontiguousarray(x).reshape(-1)
    return x if x.flags.writeable else x.copy()      # numba compiles again for what is read-only


def _parameters(x, weight, bias, window):
    """weight as (K, C), bias and window; zeros where they are not given."""
    (batch, _, C), K = x.shape, weight.shape[1]
    weight = np.array(weight.T, order="C")
    bias = np.zeros(C, x.dtype) if bias is None else _dense(bias)
    window = np.zeros((batch, K - 1, C), x.dtype) if window is None else np.array(window, x.dtype, order="C")
    return weight, bias, window
