"""Cross-entropy on a card, with its gradient: what the log-softmax of a row says about the row's target."""

import math
from functools import lru_cache

import numpy as np

from .._cuda import SIMULATED, cuda
from .._device import LANES, exp2, memory
from ..selective.cuda_math import LOG2E, NAN, ONE, ZERO
from .cuda_block import THREADS, integer, over_threads, spread

SOME = 1 if SIMULATED else 4                            # vectors that a thread has under way
AT_ONCE = 2 if SIMULATED else 8                         # targets
LOW, NOTHING = np.float32(-3e38), np.float32(-math.inf)


@lru_cache(maxsize=None)
def cross_entropy(dtype, width, warps):
    """The kernel for the sums of the losses, and the gradient of their mean. dtype: of the targets.

    With M the row's largest logit and S = sum_v exp(x_v - M):

        loss = log S + M - x_target,    dx_v = (exp(x_v - M) / S - [v is the target]) / count

    and nothing of a row whose target is `ignore`. A target that is no column makes the loss NaN.

    Launch: any number of blocks of THREADS threads. `warps` warps own a row together, 1 or all of a block; a block
    owns every gridDim-th group of as many rows as it has such teams. The gradient needs the count of the targets before
    any block could tell it to the others, so each block counts them all first: they are few, and in the card's second
    cache.

    A row is read twice: a first time for M and S at once, S scaled down whenever a larger M turns up; a second for the
    gradient, from a cache. Shared memory and barriers: those of sums over a block.

    losses: a sum for each team; count: one number.
    """
    team, each = LANES * warps, SOME * width
    teams = THREADS // team
    read, write, hop = (getattr(spread(width, SOME, team), name) for name in ("read", "write", "hop"))
    target_at, touch, over_team = integer(dtype), memory("float32", 1), over_threads(team)
    load, store, total, largest = touch.load, touch.store, over_team.total, over_team.largest
    over_block = over_threads(THREADS).total

    @cuda.jit
    def cross_entropy(logits, targets, grad, losses, count, ignore, rows, columns, step):
        x = cuda.local.array(each, np.float32)
        wanted = cuda.local.array(AT_ONCE, np.int64)
        me = cuda.threadIdx.x
        mine = me % team * width                        # the thread's first column

        counted = ZERO
        for first in range(me, rows, THREADS * AT_ONCE):
            for k in range(AT_ONCE):
                wanted[k] = ignore
                if first + k * THREADS < rows:
                    wanted[k] = target_at(targets, first + k * THREADS)
            for k in range(AT_ONCE):
                if wanted[k] != ignore:
                    counted += ONE
        counted = over_block(counted)
        share = ONE / counted

        loss = ZERO
        for base in range(cuda.blockIdx.x * teams, rows, cuda.gridDim.x * teams):
            row, target = base + me // team, ignore
            if row < rows:
                target = target_at(targets, row)
            used = columns if target != ignore else 0   # columns to read
            M, S = LOW, ZERO
            for first in range(0, used, hop):
                read(logits, row * step, first + mine, columns, x, NOTHING)
                before = M
                for i in range(each):
                    M = x[i] if x[i] > M else M
                S *= exp2((before - M) * LOG2E)
                for i in range(each):
                    S += exp2((x[i] - M) * LOG2E)
            own, M = M, largest(M)
            S = total(S * exp2((own - M) * LOG2E))
            if used > 0 and mine == 0:
                picked = NAN
                if 0 <= target < columns:
                    picked = load(logits, row * step + target)
                loss += math.log(S) + (M - picked)

            scale, hit = share / S, share
            if used == 0:                               # a row of zeros, which are written with the same instructions
                M, scale, hit = ZERO, ZERO, ZERO
            written = columns if row < rows else 0
            for first in range(0, written, hop):
                read(logits, row * step, first + mine, used, x, ZERO)
                for i in range(each):
                    x[i] = exp2((x[i] - M) * LOG2E) * scale
                    if first + mine + i // width * team * width + i % width == target:
                        x[i] -= hit
                write(grad, row * columns, first + mine, columns, x)

        if mine == 0:
            store(losses, cuda.blockIdx.x * teams + me // team, loss)
        if me == 0 and cuda.blockIdx.x == 0:
            store(count, 0, counted)

    return cross_entropy
