"""Number by number: SiLU and the LSTM's cell, with their gradients, and AdamW.

Memory decides how long these take: each number is read once and written once.
"""

import math
from functools import lru_cache

import numpy as np

from .._cuda import cuda
from .._device import exp2, memory, reciprocal
from ..selective.cuda_math import LOG2E, ONE, ZERO, gate_and_slope


@lru_cache(maxsize=None)
def silu(width):
    """The kernel for y = x sigmoid(x).

    Launch: a thread a vector of `width` numbers of the result, n in all, `across` of them in a row. Rows of x are
    x_step numbers apart. Nothing is shared.
    """
    touch = memory("float32", width)
    load, store = touch.load_vector, touch.store_vector

    @cuda.jit
    def silu(x, y, n, across, x_step):
        x_i = cuda.local.array(width, np.float32)
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            row = i // across
            load(x, row * x_step + (i - row * across) * width, x_i, 0)
            for v in range(width):
                x_i[v], _ = gate_and_slope(x_i[v])
            store(y, i * width, x_i, 0)

    return silu


@lru_cache(maxsize=None)
def silu_backward(width):
    """The kernel for grad * sigmoid(x) (1 + x (1 - sigmoid(x))). Launch: as `silu`."""
    touch = memory("float32", width)
    load, store = touch.load_vector, touch.store_vector

    @cuda.jit
    def silu_backward(grad, x, to_x, n, across, grad_step, x_step):
        x_i = cuda.local.array(width, np.float32)
        g_i = cuda.local.array(width, np.float32)
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            row = i // across
            column = (i - row * across) * width
            load(x, row * x_step + column, x_i, 0)
            load(grad, row * grad_step + column, g_i, 0)
            for v in range(width):
                _, slope = gate_and_slope(x_i[v])
                g_i[v] *= slope
            store(to_x, i * width, g_i, 0)

    return silu_backward


# --- LSTM -------------------------------------------------------------------------------------------------------------
#     c' = sigmoid(f) c + sigmoid(i) tanh(g),    h = sigmoid(o) tanh(c')


@cuda.jit(device=True)
def _sigmoid(x):
    e = exp2(-abs(x) * LOG2E)                           # no overflow on either side
    return (e if x < ZERO else ONE) * reciprocal(ONE + e)


@cuda.jit(device=True)
def _tanh(x):
    return np.float32(math.tanh(x))


@lru_cache(maxsize=None)
def lstm_cell():
    """The kernel for h and c' from the gates before their activations, a row (i, f, g, o) of 4 * width numbers, and c.

    Launch: a thread a unit, n = batch * width in all: neighbours read neighbours in each of the four. Rows of gates are
    `step` numbers apart; c, c_new and h have no gaps.
    """
    touch = memory("float32", 1)
    load, store = touch.load, touch.store

    @cuda.jit
    def lstm_cell(gates, c, h, c_new, n, width, step):
        k = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if k < n:
            row = k // width
            at = row * step + k - row * width
            i, f = _sigmoid(load(gates, at)), _sigmoid(load(gates, at + width))
            g, o = _tanh(load(gates, at + 2 * width)), _sigmoid(load(gates, at + 3 * width))
            state = f * load(c, k) + i * g
            store(c_new, k, state)
            store(h, k, o * _tanh(state))

    return lstm_cell


@lru_cache(maxsize=None)
def lstm_cell_backward():
    """The kernel for the gradients of the gates and of c, from those of h and of c' (0: none).

    With i, f, g, o after their activations, which are computed again::

        dc' += dh o (1 - tanh(c')^2),    dc = dc' f
        di = dc' g i (1 - i),   df = dc' c f (1 - f),   dg = dc' i (1 - g^2),   do = dh tanh(c') o (1 - o)

    Launch: as `lstm_cell`. The gradient of the gates has no gaps.
    """
    touch = memory("float32", 1)
    load, store = touch.load, touch.store

    @cuda.jit
    def lstm_cell_backward(grad_h, grad_c, gates, c, c_new, to_gates, to_c, n, width, step):
        k = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if k < n:
            row = k // width
            j = k - row * width
            at, to = row * step + j, row * 4 * width + j
            i, f = _sigmoid(load(gates, at)), _sigmoid(load(gates, at + width))
            g, o = _tanh(load(gates, at + 2 * width)), _sigmoid(load(gates, at + 3 * width))
            bent, dh, dc = _tanh(load(c_new, k)), load(grad_h, k), ZERO
            if grad_c != 0:
                dc = load(grad_c, k)
            dc += dh * o * (ONE - bent * bent)
            store(to_gates, to, dc * g * i * (ONE - i))
            store(to_gates, to + width, dc * load(c, k) * f * (ONE - f))
            store(to_gates, to + 2 * width, dc * i * (ONE - g * g))
            store(to_gates, to + 3 * width, dh * bent * o * (ONE - o))
            store(to_c, k, dc * f)

    return lstm_cell_backward


# --- AdamW ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=None)
def adamw(width, beta1, beta2, eps, decay):
    """The kernel for one step of AdamW, in place.

        g = scale grad,    m = beta1 m + (1 - beta1) g,    v = beta2 v + (1 - beta2) g^2
        param -= lr (m / correction1 / (sqrt(v / correction2) + eps) + decay param)

    scalars: lr, correction1 = 1 - beta1^t, correction2 = 1 - beta2^t, scale; read from memory, so that a captured step
    can be replayed with new ones. beta1, beta2, eps and decay, which stay, are constants of the code.

    Launch: a thread a vector of `width` numbers, n in all.
    """
    touch, scalar = memory("float32", width), memory("float32", 1).load
    load, store, eps, decay = touch.load_vector, touch.store_vector, np.float32(eps), np.float32(decay)
    keep1, keep2, add1, add2 = (np.float32(x) for x in (beta1, beta2, 1 - beta1, 1 - beta2))

    @cuda.jit
    def adamw(param, grad, m, v, scalars, n):
        p_i = cuda.local.array(width, np.float32)
        g_i = cuda.local.array(width, np.float32)
        m_i = cuda.local.array(width, np.float32)
        v_i = cuda.local.array(width, np.float32)
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            load(param, i * width, p_i, 0)
            load(grad, i * width, g_i, 0)
            load(m, i * width, m_i, 0)
            load(v, i * width, v_i, 0)
            lr, correction1 = scalar(scalars, 0), scalar(scalars, 1)
            correction2, scale = scalar(scalars, 2), scalar(scalars, 3)
            for k in range(width):
                g = scale * g_i[k]
                m_i[k] = keep1 * m_i[k] + add1 * g
                v_i[k] = keep2 * v_i[k] + add2 * g * g
                p_i[k] -= lr * (m_i[k] / correction1 / (math.sqrt(v_i[k] / correction2) + eps) + decay * p_i[k])
            store(param, i * width, p_i, 0)
            store(m, i * width, m_i, 0)
            store(v, i * width, v_i, 0)

    return adamw
