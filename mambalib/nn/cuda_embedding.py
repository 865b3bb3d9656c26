"""The gradient of an embedding on a card: row v is the sum of the gradients of the positions whose token is v.

Atomic additions would do it in one line, but in any order, so the last digits would differ from run to run. Here
each row of the vocabulary looks through the tokens itself and adds what is its own, in the order of the positions. The
price is vocab * positions / 32 votes of a warp for each slab of columns: little for characters, much for a vocabulary
of tens of thousands. Where the vocabulary is small, so that few warps would add many gradients each, positions are cut
in parts, and a second launch adds the parts.
"""

from functools import lru_cache

import numpy as np

from .._cuda import SIMULATED, cuda
from .._device import LANES, memory
from ..selective.cuda_math import ZERO
from .cuda_block import THREADS, integer, lanes_where

SOME = 2 if SIMULATED else 4                            # columns of a lane
AT_ONCE = 2 if SIMULATED else 8                         # positions whose gradients a warp reads before it adds them
VOTES = 2                                               # of a warp, in the 64 bits of an integer


@lru_cache(maxsize=None)
def backward(dtype):
    """The kernel. dtype: of the tokens.

    Launch: a block for each slab of LANES * SOME columns, each group of THREADS // LANES rows of the vocabulary and
    each part of the positions, in that order. A warp owns one row's slab and goes through the part's positions, LANES *
    VOTES at a time: each lane compares its tokens with the row, and votes tell all lanes which positions are theirs to
    add. A lane owns every LANES-th column of the slab; its sums stay in registers. Nothing is shared; there is no
    barrier.

    A token that is no row is added nowhere. to: (parts, vocab, columns).
    """
    rows, slab, touch, token_at = THREADS // LANES, LANES * SOME, memory("float32", 1), integer(dtype)
    load, store, each = touch.load, touch.store, AT_ONCE * SOME

    @cuda.jit
    def embedding_backward(grad, tokens, to, n, vocab, columns, part, slabs, groups, step):
        sums = cuda.local.array(SOME, np.float32)
        x = cuda.local.array(each, np.float32)
        lane = cuda.threadIdx.x % LANES
        rest = cuda.blockIdx.x // slabs
        p = rest // groups
        row = (rest - p * groups) * rows + cuda.threadIdx.x // LANES
        column = (cuda.blockIdx.x - rest * slabs) * slab + lane
        for s in range(SOME):
            sums[s] = ZERO
        begin = p * part
        stop = begin + part if begin + part < n else n
        for start in range(begin, stop, LANES * VOTES):
            found = np.int64(0)                         # bit i: position start + i has the row's token
            for k in range(VOTES):
                i, mine = start + k * LANES + lane, False
                if i < stop:
                    mine = token_at(tokens, i) == row
                found |= lanes_where(mine) << (k * LANES)
            while found != 0:
                for j in range(AT_ONCE):
                    at = np.int64(-1)
                    if found != 0:
                        at = (start + cuda.popc((found & -found) - 1)) * step       # the lowest bit's position
                        found &= found - 1
                    for s in range(SOME):
                        x[j * SOME + s] = ZERO
                        if at >= 0 and column + s * LANES < columns:
                            x[j * SOME + s] = load(grad, at + column + s * LANES)
                for j in range(AT_ONCE):
                    for s in range(SOME):
                        sums[s] += x[j * SOME + s]
        if row < vocab:
            for s in range(SOME):
                if column + s * LANES < columns:
                    store(to, (p * vocab + row) * columns + column + s * LANES, sums[s])

    return embedding_backward
