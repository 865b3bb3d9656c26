"""What numba compiles for the layers' operations on the cores. `_cpu` calls these; `_reference` says what they compute.

A matrix whose rows may have gaps between them is three arguments: its memory as a flat array, where it starts in it,
and the step from row to row. Other arrays are contiguous.

Loops over neighbours become vector instructions if nothing stands in their way, which makes them 3 to 8 times as fast.
So rows are cut out as arrays of their own, whose indices LLVM sees are not negative; the exponential is written out
below; division is IEEE's (error_model); and constants have the arrays' dtype, as one float64 would make its neighbours
float64. Two loops that sum a row may do so in any order ("reassoc"), else each addition would wait for the one before.

What is summed over rows is summed in parts that depend on shapes alone, so the number of threads changes no bit.
"""

import math

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

kernel = njit(parallel=True, cache=True, error_model="numpy")
inner = njit(cache=True, error_model="numpy")
in_any_order = njit(cache=True, error_model="numpy", fastmath={"reassoc"})


# --- Exponentials -----------------------------------------------------------------------------------------------------


def exp_below_1(x):
    """exp(x) for x <= 0: 0 where that is no normal number, NaN for NaN.

    exp(x) = 2^n exp(r) with n = x / log(2) rounded, so |r| <= log(2) / 2, where a Taylor polynomial is right to the
    last bit. Adding and subtracting MAGIC, 1.5 * 2^(bits of the mantissa), rounds, and leaves n in the lowest bits of
    the sum, from where it is shifted to an exponent's place. n log(2) is taken away in two parts: HIGH has so few
    digits that its product with n is exact.
    """


LOG2E, MAGIC = np.float32(1 / math.log(2)), np.float32(1.5 * 2**23)
HIGH, LOW = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)
LOG2E_64, MAGIC_64, HIGH_64, LOW_64 = 1 / math.log(2), 1.5 * 2**52, 0.6931471803691238, 1.9082149292705877e-10
TAYLOR = tuple(np.float32(1 / math.factorial(i)) for i in range(8))
TAYLOR_64 = tuple(1 / math.factorial(i) for i in range(14))


def _exp_float32(x):
    shifted = x * LOG2E + MAGIC
    n = shifted - MAGIC
    r = x - n * HIGH - n * LOW
    c = TAYLOR
    p = c[0] + r * (c[1] + r * (c[2] + r * (c[3] + r * (c[4] + r * (c[5] + r * (c[6] + r * c[7]))))))
    power = np.int32((np.float32(shifted).view(np.int32) + 127) << 23).view(np.float32)
    return np.float32(0) if x < np.float32(-87) else p * power


def _exp_float64(x):
    shifted = x * LOG2E_64 + MAGIC_64
    n = shifted - MAGIC_64
    r = x - n * HIGH_64 - n * LOW_64
    c = TAYLOR_64
    p = c[7] + r * (c[8] + r * (c[9] + r * (c[10] + r * (c[11] + r * (c[12] + r * c[13])))))
    p = c[0] + r * (c[1] + r * (c[2] + r * (c[3] + r * (c[4] + r * (c[5] + r * (c[6] + r * p))))))
    power = np.int64((np.float64(shifted).view(np.int64) + 1023) << 52).view(np.float64)
    return 0.0 if x < -708 else p * power


@overload(exp_below_1)
def _exp_of(x):
    return {types.float32: _exp_float32, types.float64: _exp_float64}[x]


@njit(inline="always")
def sigmoid(x, one):
    small = exp_below_1(-abs(x))
    return (one if x >= 0 else small) / (one + small)


@njit(inline="always")
def tanh(x, one):
    """Exact to a digit of 1, not of itself where it is small."""
    small = exp_below_1(-abs(x + x))
    y = (one - small) / (one + small)
    return y if x >= 0 else -y


# --- Number by number -------------------------------------------------------------------------------------------------


@kernel
def silu(x, at, step, y, rows, columns):
    one = x.dtype.type(1)
    for i in prange(rows):
        x_, y_ = _row(x, at + i * step, columns), _row(y, i * columns, columns)
        for c in range(columns):
            y_[c] = x_[c] * sigmoid(x_[c], one)


@kernel
def silu_backward(grad, grad_at, grad_step, x, at, step, gx, rows, columns):
    one = x.dtype.type(1)
    for i in prange(rows):
        grad_, x_ = _row(grad, grad_at + i * grad_step, columns), _row(x, at + i * step, columns)
        gx_ = _row(gx, i * columns, columns)
        for c in range(columns):
            gx_[c] = grad_[c] * _slope(x_[c], one)


@njit(inline="always")
def _row(x, start, n):
    return x[start:start + n]


@njit(inline="always")
def _slope(x, one):
    """The derivative of silu."""
    s = sigmoid(x, one)
    return s * (one + x * (one - s))


BLOCK = 4096                                         # numbers of a task


@kernel
def adamw(param, grad, m, v, lr, first, second, scale, new, new_square, eps, decay):
    """new and new_square are 1 - beta1 and 1 - beta2."""
    for block in prange((len(param) + BLOCK - 1) // BLOCK):
        p_, g_ = _row(param, block * BLOCK, BLOCK), _row(grad, block * BLOCK, BLOCK)
        m_, v_ = _row(m, block * BLOCK, BLOCK), _row(v, block * BLOCK, BLOCK)
        for i in range(len(p_)):
            g = g_[i] * scale
            m_[i] += new * (g - m_[i])
            v_[i] += new_square * (g * g - v_[i])
            p_[i] -= lr * (decay * p_[i] + m_[i] / first / (np.sqrt(v_[i] / second) + eps))


@kernel
def sums_of_squares(x, to):
    for block in prange(len(to)):
        x_ = _row(x, block * BLOCK, BLOCK)
        to[block] = _dot(x_, x_)


# --- Row by row -------------------------------------------------------------------------------------------------------


@in_any_order
def _dot(x, y):
    total = x.dtype.type(0)
    for k in range(len(x)):
        total += x[k] * y[k]
    return total


@in_any_order
def _sum(x):
    total = x.dtype.type(0)
    for k in range(len(x)):
        total += x[k]
    return total


@inner
def _largest(x):
    """NaN or not if there is NaN in x."""
    a = b = c = d = x[0]
    n = len(x)
    for k in range(0, n - 3, 4):
        a, b = max(a, x[k]), max(b, x[k + 1])
        c, d = max(c, x[k + 2]), max(d, x[k + 3])
    for k in range(n - n % 4, n):
        a = max(a, x[k])
    return max(max(a, b), max(c, d))


@kernel
def rms_norm(x, at, step, weight, eps, y, scale, rows, columns):
    one, n = x.dtype.type(1), x.dtype.type(columns)
    for i in prange(rows):
        x_, y_ = _row(x, at + i * step, columns), _row(y, i * columns, columns)
        s = one / np.sqrt(_dot(x_, x_) / n + eps)
        scale[i] = s
        for c in range(columns):
            y_[c] = x_[c] * s * weight[c]


@kernel
def rms_norm_backward(grad, grad_at, grad_step, x, at, step, weight, scale, gx, parts, rows, columns):
    """parts (tasks, columns): the gradient of weight, summed over the rows of each task."""
    n, tasks = x.dtype.type(columns), len(parts)
    some = (rows + tasks - 1) // tasks
    for task in prange(tasks):
        part, inside = parts[task], np.empty(columns, x.dtype)
        part[:] = 0
        for i in range(task * some, min(rows, task * some + some)):
            grad_, x_ = _row(grad, grad_at + i * grad_step, columns), _row(x, at + i * step, columns)
            gx_, s = _row(gx, i * columns, columns), scale[i]
            for c in range(columns):
                inside[c] = grad_[c] * weight[c]
                part[c] += grad_[c] * (x_[c] * s)
            mean = _dot(inside, x_) * s / n
            for c in range(columns):
                gx_[c] = s * (inside[c] - x_[c] * s * mean)


@kernel
def cross_entropy(logits, at, step, targets, ignore, share, grad, losses, rows, columns):
    for i in prange(rows):
        logits_, grad_, target = _row(logits, at + i * step, columns), _row(grad, i * columns, columns), targets[i]
        if target == ignore:
            losses[i] = 0
            grad_[:] = 0
        else:
            largest = _largest(logits_)
            for c in range(columns):
                grad_[c] = exp_below_1(logits_[c] - largest)
            total = _sum(grad_)
            losses[i] = np.log(total) - (logits_[target] - largest)
            factor = share / total
            for c in range(columns):
                grad_[c] *= factor
            grad_[target] -= share


@kernel
def causal_softmax(x, offset, rows, L, S):
    """In place, of row i of each (L, S) the first offset + i + 1 numbers; the others become 0."""
    one = x.dtype.type(1)
    for i in prange(rows):
        seen = min(S, offset + np.int64(i) % L + 1)
        x_ = _row(x, i * S, seen)
        largest = _largest(x_)
        for c in range(seen):
            x_[c] = exp_below_1(x_[c] - largest)
        factor = one / _sum(x_)
        for c in range(seen):
            x_[c] *= factor
        _row(x, i * S + seen, S - seen)[:] = 0


@kernel
def causal_softmax_backward(grad, p, offset, rows, L, S):
    """grad becomes p (grad - sum(grad p))."""
    for i in prange(rows):
        seen = min(S, offset + np.int64(i) % L + 1)
        grad_, p_ = _row(grad, i * S, seen), _row(p, i * S, seen)
        total = _dot(grad_, p_)
        for c in range(seen):
            grad_[c] = p_[c] * (grad_[c] - total)
        _row(grad, i * S + seen, S - seen)[:] = 0


COLUMNS = 64                                         # of a task


@kernel
def embedding_backward(grad, at, step, tokens, to, columns):
    """A task has some of the columns, and goes through all positions in their order."""
    for task in prange((columns + COLUMNS - 1) // COLUMNS):
        first = task * COLUMNS
        n = min(COLUMNS, columns - first)
        for i in range(len(tokens)):
            grad_, to_ = _row(grad, at + i * step + first, n), _row(to, tokens[i] * columns + first, n)
            for c in range(n):
                to_[c] += grad_[c]


# --- Along time -------------------------------------------------------------------------------------------------------


STEPS = 64                                           # of time in a task


@kernel
def conv_depthwise(x, at, x_batch, x_step, weight, bias, window, y, batch, L, C, activate):
    """weight (K, C); window (batch, K - 1, C)."""
    one, chunks = x.dtype.type(1), (L + STEPS - 1) // STEPS
    for task in prange(batch * chunks):
        b, start = np.int64(task) // chunks, np.int64(task) % chunks * STEPS
        for t in range(start, min(L, start + STEPS)):
            y_ = _row(y, (b * L + t) * C, C)
            _convolve(x, at + b * x_batch, x_step, weight, bias, window[b], t, y_)
            if activate:
                for c in range(C):
                    y_[c] *= sigmoid(y_[c], one)


@inner
def _convolve(x, at, step, weight, bias, window, t, y):
    """One step of the convolution."""
    K, C = weight.shape
    y[:] = bias
    for k in range(K):
        _add_products(weight[k], _seen(x, at, step, window, t - K + 1 + k, C), y)


@njit(inline="always")
def _seen(x, at, step, window, t, C):
    """What came in at time t."""
    return _row(x, at + t * step, C) if t >= 0 else window[len(window) + t]


@kernel
def conv_depthwise_backward(grad, grad_at, grad_batch, grad_step, x, at, x_batch, x_step, weight, bias, window, gx,
                            parts, batch, L, C, activate):
    """parts (tasks, K + 1, C): the gradients of weight and bias, summed over the steps of each task.

    g_t, the gradient before the activation, is needed for K - 1 steps past those of the task, too: there gx_t finds it.
    """
    K, one, chunks = weight.shape[0], x.dtype.type(1), (L + STEPS - 1) // STEPS
    for task in prange(batch * chunks):
        b, start = np.int64(task) // chunks, np.int64(task) % chunks * STEPS
        stop = min(L, start + STEPS)
        past = min(L, stop + K - 1)
        g, part = np.empty((past - start, C), x.dtype), parts[task]
        part[:] = 0
        for t in range(start, past):
            g_, grad_ = g[t - start], _row(grad, grad_at + b * grad_batch + t * grad_step, C)
            if activate:
                _convolve(x, at + b * x_batch, x_step, weight, bias, window[b], t, g_)
                for c in range(C):
                    g_[c] = grad_[c] * _slope(g_[c], one)
            else:
                g_[:] = grad_
        for t in range(start, stop):
            gx_, g_, of_bias = _row(gx, (b * L + t) * C, C), g[t - start], part[K]
            for c in range(C):
                gx_[c] = 0
                of_bias[c] += g_[c]
            for k in range(K):
                _add_products(g_, _seen(x, at + b * x_batch, x_step, window[b], t - K + 1 + k, C), part[k])
                later = t + K - 1 - k
                if later < past:
                    _add_products(g[later - start], weight[k], gx_)


@inner
def _add_products(x, y, to):
    for c in range(len(to)):
        to[c] += x[c] * y[c]


@inner
def lstm_cell(gates, c, h, c_new, H):
    """On one core: a step of time is too short to wake the others for."""
    one = c.dtype.type(1)
    for b in range(len(c) // H):
        gates_, c_ = _row(gates, 4 * b * H, 4 * H), _row(c, b * H, H)
        h_, c_new_ = _row(h, b * H, H), _row(c_new, b * H, H)
        for k in range(H):
            i, f, g, o = gates_[k], gates_[H + k], gates_[2 * H + k], gates_[3 * H + k]
            new = sigmoid(f, one) * c_[k] + sigmoid(i, one) * tanh(g, one)
            c_new_[k] = new
            h_[k] = sigmoid(o, one) * tanh(new, one)


@inner
def lstm_cell_backward(grad_h, grad_c, gates, c, c_new, ggates, gc, H):
    one = c.dtype.type(1)
    for b in range(len(c) // H):
        gates_, to = _row(gates, 4 * b * H, 4 * H), _row(ggates, 4 * b * H, 4 * H)
        grad_h_, grad_c_ = _row(grad_h, b * H, H), _row(grad_c, b * H, H)
        c_, c_new_, gc_ = _row(c, b * H, H), _row(c_new, b * H, H), _row(gc, b * H, H)
        for k in range(H):
            i, f = sigmoid(gates_[k], one), sigmoid(gates_[H + k], one)
            g, o, wide = tanh(gates_[2 * H + k], one), sigmoid(gates_[3 * H + k], one), tanh(c_new_[k], one)
            total = grad_h_[k] * o * (one - wide * wide) + grad_c_[k]            # all that reaches c_new
            to[k] = total * g * i * (one - i)
            to[H + k] = total * c_[k] * f * (one - f)
            to[2 * H + k] = total * i * (one - g * g)
            to[3 * H + k] = grad_h_[k] * wide * o * (one - o)
            gc_[k] = total * f
