"""The operations that have kernels, as NumPy and CuPy write them: the definition, and what runs where no kernel does.

`_cpu` and `_cuda` have the same functions. Arguments and results are arrays; rows are (rows, columns), sequences
(batch, L, channels). A gradient comes back with the shape and dtype of what it belongs to.
"""

import math

from ..autograd import array_module


def silu(x):
    """x sigmoid(x)."""
    return x * sigmoid(x)


def silu_backward(grad, x):
    """The gradient of x."""
    s = sigmoid(x)
    return grad * (s * (1 + x * (1 - s)))


def sigmoid(x):
    """1 / (1 + exp(-x)), by way of an exponential that cannot overflow."""
    xp = array_module(x)
    small = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1, small) / (1 + small)


def rms_norm(x, weight, eps):
    """(y, scale): y = x scale weight, scale (rows,) = 1 / sqrt(mean(x^2) + eps)."""
    scale = 1 / array_module(x).sqrt((x * x).sum(axis=1) / x.shape[1] + eps)
    return x * scale[:, None] * weight, scale


def rms_norm_backward(grad, x, weight, scale):
    """The gradients of x and weight: with n = x scale, gx = scale (grad weight - n mean(grad weight n))."""
    normal = x * scale[:, None]
    inner = grad * weight
    gx = scale[:, None] * (inner - normal * ((inner * normal).sum(axis=1, keepdims=True) / x.shape[1]))
    return gx, (grad * normal).sum(axis=0)


def conv_depthwise(x, weight, bias, window, silu):
    """y_t = bias + sum_k weight[:, k] x_{t-K+1+k}, for every channel by itself; with SiLU if `silu`."""
    y = _taps(_after(window, x, weight), weight, bias, x.shape[1])
    return y * sigmoid(y) if silu else y


def conv_depthwise_backward(grad, x, weight, bias, window, silu):
    """The gradients of x, weight and bias (None where that is None)."""
    xp, (K, L) = array_module(x), (weight.shape[1], x.shape[1])
    long = _after(window, x, weight)
    if silu:
        grad = silu_backward(grad, _taps(long, weight, bias, L))
    g_long = xp.zeros_like(long)
    for k in range(K):
        g_long[:, k:k + L] += grad * weight[:, k]
    gweight = xp.stack([(grad * long[:, k:k + L]).sum(axis=(0, 1)) for k in range(K)], axis=1)
    return g_long[:, K - 1:], gweight, None if bias is None else grad.sum(axis=(0, 1))


def _after(window, x, weight):
    """The K - 1 inputs before x, and x."""
    xp, (batch, _, channels) = array_module(x), x.shape
    before = xp.zeros((batch, weight.shape[1] - 1, channels), x.dtype) if window is None else window
    return xp.concatenate([before, x], axis=1)


def _taps(long, weight, bias, L):
    y = sum(long[:, k:k + L] * weight[:, k] for k in range(weight.shape[1]))
    return y if bias is None else y + bias


def cross_entropy(logits, targets, ignore):
    """(loss, gradient of the logits): the mean of -log softmax(row)[target] over the rows whose target is not `ignore`.

    Without such a row the loss is NaN, the mean of nothing, and the gradient zero.
    """
    xp = array_module(logits)
    counted = targets != ignore                                                  # (rows,)
    n = counted.sum().astype(logits.dtype)
    rows, target = xp.arange(len(targets)), xp.where(counted, targets, 0)
    shifted = logits - logits.max(axis=1, keepdims=True)
    exps = xp.exp(shifted)
    sums = exps.sum(axis=1, keepdims=True)
    losses = xp.log(sums[:, 0]) - shifted[rows, target]
    grad = exps / sums
    grad[rows, target] -= 1
    share = xp.where(counted, 1 / xp.maximum(n, 1), 0).astype(logits.dtype)
    return xp.where(n > 0, (losses * share).sum(), xp.nan).astype(logits.dtype), grad * share[:, None]


def causal_softmax(scores, offset):
    """softmax over the columns up to offset + i of row i of (..., L, S); the others become 0. In place in `_cpu`."""
    xp, (L, S) = array_module(scores), scores.shape[-2:]
    unseen = xp.arange(S) > offset + xp.arange(L)[:, None]
    p = xp.where(unseen, scores.dtype.type(-math.inf), scores)
    p = xp.exp(p - p.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def causal_softmax_backward(grad, p, offset):
    """The gradient of the scores, from that of p, which `causal_softmax` returned. `_cpu` writes it over that of p."""
    return p * (grad - (grad * p).sum(axis=-1, keepdims=True))           # 0 where p is


def embedding_backward(grad, tokens, vocab):
    """The gradient of the weight (vocab, columns), from grad (positions, columns) and tokens (positions,)."""
    xp = array_module(grad)
    gweight = xp.zeros((vocab, grad.shape[1]), grad.dtype)
    xp.add.at(gweight, tokens, grad)
    return gweight


def lstm_cell(gates, c):
    """(h, c after the step) from c (batch, H) and the gates i, f, g, o before their activations, (batch, 4 H)."""
    xp, (i, f, g, o) = array_module(c), _four(gates)
    c = sigmoid(f) * c + sigmoid(i) * xp.tanh(g)
    return sigmoid(o) * xp.tanh(c), c


def lstm_cell_backward(grad_h, grad_c, gates, c, c_new):
    """The gradients of gates and c, from those of h and of c_new (None: zero), which `lstm_cell` returned."""
    xp, (i, f, g, o) = array_module(c), _four(gates)
    i, f, g, o, wide = sigmoid(i), sigmoid(f), xp.tanh(g), sigmoid(o), xp.tanh(c_new)
    grad = grad_h * o * (1 - wide * wide) + (0 if grad_c is None else grad_c)   # all that reaches c_new
    parts = grad * g * i * (1 - i), grad * c * f * (1 - f), grad * i * (1 - g * g), grad_h * wide * o * (1 - o)
    return xp.concatenate(parts, axis=1), grad * f


def _four(gates):
    H = gates.shape[1] // 4
    return gates[:, :H], gates[:, H:2 * H], gates[:, 2 * H:3 * H], gates[:, 3 * H:]


def adamw(param, grad, m, v, scalars, beta1, beta2, eps, decay):
    """One step of AdamW; param, m and v are changed in place.

    scalars (4,): the learning rate, 1 - beta1^t, 1 - beta2^t, and what the gradient is multiplied by.
    """
    lr, first, second, scale = scalars[0], scalars[1], scalars[2], scalars[3]
    grad = grad * scale
    m += (1 - beta1) * (grad - m)
    v += (1 - beta2) * (grad * grad - v)
    param -= lr * (decay * param + m / first / (array_module(param).sqrt(v / second) + eps))


def sum_of_squares(grad, accumulator, fresh):
    """Add the sum of grad's squares to `accumulator`, an array of one number, or put it there if `fresh`; return it."""
    total = (grad * grad).sum()
    accumulator[...] = total if fresh else accumulator + total
    return accumulator
