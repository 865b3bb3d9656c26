"""RMSNorm on a card, and its gradient: y = x scale weight, scale = 1 / sqrt(mean(x^2) + eps), a row at a time."""

import math
from functools import lru_cache

import numpy as np

from .._cuda import SIMULATED, cuda
from .._device import LANES, memory
from ..selective.cuda_math import ONE, ZERO
from .cuda_block import THREADS, over_threads, spread

SOME = 1 if SIMULATED else 4                            # vectors that a lane has under way, forward


@lru_cache(maxsize=None)
def forward(width, eps):
    """The kernel for y and the rows' scales.

    Launch: a warp a row, THREADS // LANES rows a block. The warp reads its row twice, for the sum of squares and for y;
    the second time it lies in a cache. Lanes add by shuffles: no barrier, and nothing is shared.
    """
    rows_of_block, touch = THREADS // LANES, memory("float32", 1)
    read, write, hop = (getattr(spread(width, SOME, LANES), name) for name in ("read", "write", "hop"))
    each, total, store, eps = SOME * width, over_threads(LANES).total, touch.store, np.float32(eps)

    @cuda.jit
    def rms_norm(x, weight, y, scale, rows, columns, x_step):
        x_i = cuda.local.array(each, np.float32)
        w_i = cuda.local.array(each, np.float32)
        lane = cuda.threadIdx.x % LANES
        row = cuda.blockIdx.x * rows_of_block + cuda.threadIdx.x // LANES
        count = columns if row < rows else 0            # a warp without a row goes along with a row of no columns
        squares = ZERO
        for first in range(0, count, hop):
            read(x, row * x_step, first + lane * width, columns, x_i, ZERO)
            for i in range(each):
                squares += x_i[i] * x_i[i]
        factor = ONE / math.sqrt(total(squares) / np.float32(columns) + eps)
        for first in range(0, count, hop):
            read(x, row * x_step, first + lane * width, columns, x_i, ZERO)
            read(weight, 0, first + lane * width, columns, w_i, ZERO)
            for i in range(each):
                x_i[i] *= factor * w_i[i]
            write(y, row * columns, first + lane * width, columns, x_i)
        if row < rows and lane == 0:
            store(scale, row, factor)

    return rms_norm


@lru_cache(maxsize=None)
def backward(width, some, threads):
    """The kernel for the gradient of x, and each block's part of the gradient of the weight.

    With n = x scale:    dn = grad weight,    dx = scale (dn - n mean(dn n)),    dweight = sum of grad n over the rows

    Launch: any number of blocks of `threads` threads. A block owns every gridDim-th row. A thread owns the same `some`
    vectors of each of them, so their weights and their sums over the rows stay in its registers. mean(dn n) is one sum
    over the block a row, with its two barriers; meanwhile other blocks of the multiprocessor read. At the end the block
    writes its sums to its row of `parts`.
    """
    read, write = (getattr(spread(width, some, threads), name) for name in ("read", "write"))
    load, total, each = memory("float32", 1).load, over_threads(threads).total, some * width

    @cuda.jit
    def rms_norm_backward(grad, x, weight, scale, to_x, parts, rows, columns, grad_step, x_step):
        x_i = cuda.local.array(each, np.float32)
        g_i = cuda.local.array(each, np.float32)
        w_i = cuda.local.array(each, np.float32)
        sums = cuda.local.array(each, np.float32)
        first = cuda.threadIdx.x * width
        read(weight, 0, first, columns, w_i, ZERO)
        for i in range(each):
            sums[i] = ZERO
        for row in range(cuda.blockIdx.x, rows, cuda.gridDim.x):
            read(x, row * x_step, first, columns, x_i, ZERO)
            read(grad, row * grad_step, first, columns, g_i, ZERO)
            factor, mean = load(scale, row), ZERO
            for i in range(each):
                x_i[i] *= factor
                sums[i] += g_i[i] * x_i[i]
                g_i[i] *= w_i[i]
                mean += g_i[i] * x_i[i]
            mean = total(mean) / np.float32(columns)
            for i in range(each):
                g_i[i] = factor * (g_i[i] - x_i[i] * mean)
            write(to_x, row * columns, first, columns, g_i)
        write(parts, cuda.blockIdx.x * columns, first, columns, sums)

    return rms_norm_backward
