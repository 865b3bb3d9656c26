"""Sums over many blocks, in two stages: each block leaves its own, and a second launch adds these, always in one order.

The second launch costs a few microseconds. The other way, that the block which finishes last adds them all, needs a
counter that starts at zero, so it needs a launch too: the one that writes the zero.
"""

from functools import lru_cache

import numpy as np

from .._cuda import SIMULATED, cuda
from .._device import LANES, memory
from ..selective.cuda_math import ZERO
from .cuda_block import THREADS, over_threads, spread

GROUPS = 2 if SIMULATED else 16                         # of rows, in a sum of columns
AT_ONCE = 2 if SIMULATED else 8                         # numbers that a thread has under way
SOME = 1 if SIMULATED else 4                            # vectors that a thread has under way


@lru_cache(maxsize=None)
def columns():
    """The kernel for the sums of the columns of `parts` (count, n).

    Launch: a block for each LANES columns, LANES * GROUPS threads. A thread owns a column and every GROUPS-th row of
    it, so that a warp reads neighbours. Shared memory: what each thread has. One barrier: when it is there; then the
    first warp adds it up, in the order of the groups.

    Where the sums go: that of column k * across + c, k < depth, to place c * depth + k of `to`, which turns (depth,
    across) into (across, depth); those of the columns after these to `rest`.
    """
    touch = memory("float32", 1)
    load, store = touch.load, touch.store

    @cuda.jit
    def sum_columns(parts, to, rest, count, n, across, depth):
        sums = cuda.shared.array((GROUPS, LANES), np.float32)
        x = cuda.local.array(AT_ONCE, np.float32)
        lane, group = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES
        column = cuda.blockIdx.x * LANES + lane
        total = ZERO
        for first in range(group, count, GROUPS * AT_ONCE):
            for k in range(AT_ONCE):
                x[k] = ZERO
                if first + k * GROUPS < count and column < n:
                    x[k] = load(parts, (first + k * GROUPS) * n + column)
            for k in range(AT_ONCE):
                total += x[k]
        sums[group, lane] = total
        cuda.syncthreads()                              # the sums of the groups are there
        if group == 0 and column < n:
            for g in range(1, GROUPS):
                total += sums[g, lane]
            if column < across * depth:
                k = column // across
                store(to, (column - k * across) * depth + k, total)
            elif rest != 0:
                store(rest, column - across * depth, total)

    return sum_columns


@lru_cache(maxsize=None)
def everything():
    """The kernel for the sum of n numbers, divided by the number at `count`, if there is one; on top of `to` if `add`.

    Launch: one block. A thread owns every THREADS-th number.
    """
    touch, over_block = memory("float32", 1), over_threads(THREADS).total
    load, store = touch.load, touch.store

    @cuda.jit
    def sum_everything(parts, to, count, n, add):
        x = cuda.local.array(AT_ONCE, np.float32)
        total = ZERO
        for first in range(cuda.threadIdx.x, n, THREADS * AT_ONCE):
            for k in range(AT_ONCE):
                x[k] = ZERO
                if first + k * THREADS < n:
                    x[k] = load(parts, first + k * THREADS)
            for k in range(AT_ONCE):
                total += x[k]
        total = over_block(total)
        if cuda.threadIdx.x == 0:
            if count != 0:
                total /= load(count, 0)
            if add:
                total += load(to, 0)
            store(to, 0, total)

    return sum_everything


@lru_cache(maxsize=None)
def squares(width):
    """The kernel for the sum of the squares of n numbers, block by block.

    Launch: any number of blocks of THREADS threads. A block owns every gridDim-th tile of THREADS * SOME * width
    numbers, and writes its sum to its place of `to`, on top of what is there if `add`.
    """
    tiles, over_block, touch = spread(width, SOME, THREADS), over_threads(THREADS).total, memory("float32", 1)
    read, tile, each, load, store = tiles.read, tiles.hop, SOME * width, touch.load, touch.store

    @cuda.jit
    def sum_squares(values, to, n, add):
        x = cuda.local.array(each, np.float32)
        total = ZERO
        for first in range(cuda.blockIdx.x * tile, n, cuda.gridDim.x * tile):
            read(values, 0, first + cuda.threadIdx.x * width, n, x, ZERO)
            for i in range(each):
                total += x[i] * x[i]
        total = over_block(total)
        if cuda.threadIdx.x == 0:
            if add:
                total += load(to, cuda.blockIdx.x)
            store(to, cuda.blockIdx.x, total)

    return sum_squares
