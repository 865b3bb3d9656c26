"""Where a block stands, and how it brings in a tile of time: what the kernels of the selective scan have in common.

A block owns a slab of channels, all of one group, and a chunk of time, and takes the chunk in tiles of `tile` steps.
"""

from functools import lru_cache

from .._cuda import cuda
from .._device import memory


@lru_cache(maxsize=None)
def standing(channels):
    """The device function `stand`: sizes and the thread's place in the slab -> what the block and the thread own.

    sizes: (length, channels of a group, groups, slabs of a group, length of a chunk, chunks).
    Returns the entry of the batch, the chunk, its first step and the one after its last; the group; the slab; the channel, and
    whether there is such a channel.
    """

    @cuda.jit(device=True)
    def stand(sizes, c):
        length, width, groups, slabs, chunk, chunks = sizes
        rest = cuda.blockIdx.x // (groups * slabs)
        slab = cuda.blockIdx.x - rest * (groups * slabs)
        b = rest // chunks
        k = rest - b * chunks
        g = slab // slabs
        c += (slab - g * slabs) * channels
        start, stop = k * chunk, k * chunk + chunk
        if stop > length:
            stop = length
        return b, k, start, stop, g, slab, g * width + c, c < width

    return stand


@lru_cache(maxsize=None)
def column(dtype, count, every):
    """The device function `ask`: every `every`-th step of a channel, `count` of them, as they lie in memory.

    What is asked for is under way when the function returns; nothing waits for it before it is widened. rows: how many
    steps there are, from the first that is asked for; the others are zero.
    """
    touch = memory(dtype, 1)
    fetch, none = touch.fetch, touch.raw(0)

    @cuda.jit(device=True)
    def ask(address, at, step, rows, raw):
        for j in range(count):
            raw[j] = none
            if j * every < rows:
                raw[j] = fetch(address, at + j * every * step)

    return ask


@lru_cache(maxsize=None)
def matrix(dtype, states, padded, tile, threads, across):
    """ask and put for the tile's rows of B or C, `padded` of their values, of which those after `states` are zero.

    A thread takes `count` values. across: their places in shared memory are t * across[0] + n * across[1].
    """
    count = -(-tile * padded // threads)
    touch, store = memory(dtype, 1), memory("float32", 1, shared=True).store
    fetch, widen, none = touch.fetch, touch.widen, touch.raw(0)
    by_t, by_n = across

    @cuda.jit(device=True)
    def ask(address, at, step, rows, first, raw):
        """at: where row 0 begins; step: from row to row; rows: how many there are; first: the state to begin with."""
        for j in range(count):
            i = j * threads + cuda.threadIdx.x
            t = i // padded
            n = i - t * padded + first
            raw[j] = none
            if t < rows and t < tile and n < states:
                raw[j] = fetch(address, at + t * step + n)

    @cuda.jit(device=True)
    def put(raw, place, shift):
        for j in range(count):
            i = j * threads + cuda.threadIdx.x
            t = i // padded
            if t < tile:
                store(place, shift + t * by_t + (i - t * padded) * by_n, widen(raw[j]))

    return count, ask, put


@lru_cache(maxsize=None)
def starts(tile):
    """The device function `cuts`: bit t is set where a new sequence starts at step t of the tile."""
    load = memory("bool", 1).load

    @cuda.jit(device=True)
    def cuts(reset, at, rows):
        bits = 0
        for t in range(tile):
            if t < rows:
                if load(reset, at + t) != 0:
                    bits |= 1 << t
        return bits

    return cuts
