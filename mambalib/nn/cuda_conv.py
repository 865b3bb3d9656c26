"""The causal depthwise convolution on a card, with its SiLU, and its gradient: every channel its own few taps.

    p[t] = bias + sum_k weight[k] x[t - (taps - 1) + k],    y = p or silu(p)

A thread owns one channel over a chunk of time, and takes it `steps` steps at a time. What it needs of the steps before
stays in its registers, so x is read once, but for taps - 1 steps at the start of each chunk. Neighbouring threads have
neighbouring channels: a warp reads and writes neighbours. Nothing is shared; there is no barrier.
"""

from functools import lru_cache

import numpy as np

from .._cuda import cuda
from .._device import memory
from ..selective.cuda_math import ZERO, gate_and_slope


@lru_cache(maxsize=None)
def _input(taps):
    """The device function `take`: the input at time t, before 0 that of the window; zero where there is nothing.

    at: the place of x's time 0; step: how far the next is. at_window, channels: the same of the window, whose last row
    is time -1.
    """
    load = memory("float32", 1).load

    @cuda.jit(device=True)
    def take(x, at, step, window, at_window, channels, t, length):
        value = ZERO
        if t >= 0:
            if t < length:
                value = load(x, at + t * step)
        elif window != 0:
            value = load(window, at_window + (t + taps - 1) * channels)
        return value

    return take


@lru_cache(maxsize=None)
def forward(taps, steps, activated):
    """The kernel for y.

    Launch: a thread for each entry of the batch, chunk of time and channel, n in all. chunk: its steps, a multiple of
    `steps`. x may have gaps between times and entries of the batch, x_step and x_batch numbers from one to the next.
    """
    take, touch, before, held = _input(taps), memory("float32", 1), taps - 1, taps - 1 + steps
    load, store = touch.load, touch.store

    @cuda.jit
    def conv_depthwise(x, weight, bias, window, y, n, length, channels, chunk, chunks, x_batch, x_step):
        w = cuda.local.array(taps, np.float32)
        x_t = cuda.local.array(held, np.float32)        # of time t - before and on
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            rest = i // channels
            c = i - rest * channels
            b = rest // chunks
            start = (rest - b * chunks) * chunk
            stop = start + chunk if start + chunk < length else length
            at, at_window = b * x_batch + c, b * before * channels + c
            offset = ZERO
            if bias != 0:
                offset = load(bias, c)
            for k in range(taps):
                w[k] = load(weight, c * taps + k)
            for j in range(before):
                x_t[j] = take(x, at, x_step, window, at_window, channels, start - before + j, length)
            for t in range(start, stop, steps):
                for s in range(steps):
                    x_t[before + s] = ZERO
                    if t + s < length:
                        x_t[before + s] = load(x, at + (t + s) * x_step)
                for s in range(steps):
                    p = offset
                    for k in range(taps):
                        p += w[k] * x_t[s + k]
                    if activated:
                        p, _ = gate_and_slope(p)
                    if t + s < length:
                        store(y, (b * length + t + s) * channels + c, p)
                for j in range(before):
                    x_t[j] = x_t[j + steps]

    return conv_depthwise


@lru_cache(maxsize=None)
def backward(taps, steps, activated):
    """The kernel for the gradient of x, and each chunk's part of those of the weight and the bias.

    With dp = grad, times silu'(p) where y = silu(p), and dp = 0 after the last step:

        dx[t] = sum_k weight[k] dp[t + taps - 1 - k]
        dweight[k] = sum_t dp[t] x[t - (taps - 1) + k],    dbias = sum_t dp[t]

    Launch: as `forward`. p is computed again. dx needs dp of taps - 1 steps more than the thread owns, so the thread
    runs ahead of its own steps by as many; a step counts only for the sums of the thread that owns it. `parts` has a
    row of (taps + 1) * channels for each chunk of each entry of the batch: the weight's taps, then the bias.
    """
    take, touch, before = _input(taps), memory("float32", 1), taps - 1
    load, store, held, held_x = touch.load, touch.store, before + steps, 2 * before + steps

    @cuda.jit
    def conv_depthwise_backward(grad, x, weight, bias, window, to_x, parts, n, length, channels, chunk, chunks,
                                grad_batch, grad_step, x_batch, x_step):
        w = cuda.local.array(taps, np.float32)
        dw = cuda.local.array(taps, np.float32)
        x_t = cuda.local.array(held_x, np.float32)      # of time t - before and on
        dp = cuda.local.array(held, np.float32)         # of time t and on
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            rest = i // channels
            c = i - rest * channels
            b = rest // chunks
            start = (rest - b * chunks) * chunk
            stop = start + chunk if start + chunk < length else length
            at, at_grad, at_window = b * x_batch + c, b * grad_batch + c, b * before * channels + c
            offset, dbias = ZERO, ZERO
            if bias != 0:
                offset = load(bias, c)
            for k in range(taps):
                w[k], dw[k] = load(weight, c * taps + k), ZERO
            for j in range(2 * before):
                x_t[j] = take(x, at, x_step, window, at_window, channels, start - before + j, length)
            for j in range(before):                     # dp of the first steps, which later rounds have already
                dp[j] = ZERO
                if start + j < length:
                    dp[j] = load(grad, at_grad + (start + j) * grad_step)
                if activated:
                    p = offset
                    for k in range(taps):
                        p += w[k] * x_t[j + k]
                    _, slope = gate_and_slope(p)
                    dp[j] *= slope
            for t in range(start, stop, steps):
                for s in range(steps):
                    x_t[2 * before + s], dp[before + s] = ZERO, ZERO
                    if t + before + s < length:
                        x_t[2 * before + s] = load(x, at + (t + before + s) * x_step)
                        dp[before + s] = load(grad, at_grad + (t + before + s) * grad_step)
                if activated:
                    for s in range(steps):
                        p = offset
                        for k in range(taps):
                            p += w[k] * x_t[before + s + k]
                        _, slope = gate_and_slope(p)
                        dp[before + s] *= slope
                for s in range(steps):
                    dx = ZERO
                    for k in range(taps):
                        dx += w[k] * dp[s + before - k]
                        dw[k] += dp[s] * x_t[s + k]
                    dbias += dp[s]
                    if t + s < length:
                        store(to_x, (b * length + t + s) * channels + c, dx)
                for j in range(2 * before):
                    x_t[j] = x_t[j + steps]
                for j in range(before):
                    dp[j] = dp[j + steps]
            for k in range(taps):
                store(parts, (rest * (taps + 1) + k) * channels + c, dw[k])
            store(parts, (rest * (taps + 1) + taps) * channels + c, dbias)

    return conv_depthwise_backward
