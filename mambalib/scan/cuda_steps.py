"""The scan by a card in the steps of chapter 12, from a loop in each thread to one launch of blocks that look back.

    row_per_thread()              a thread runs a row
    block_scan(threads)           a block runs Blelloch's tree over a row: up-sweep, down-sweep, from exclusive to inclusive
    block_scan_padded(threads)    the same without bank conflicts
    warp_block_scan(warps, wide)  threads fold four steps, warps scan by shuffles, a block goes through a row of any length
    fold_chunks(warps)            with two launches of the one before: many blocks a row
    look_back_scan(warps)         many blocks a row in one launch

They are here to be read, in float32, C-contiguous (rows, length). The first three take arrays, the others addresses, as
the kernels do that `linear_scan` runs: those of `cuda_rows` and `cuda_columns`, which know every dtype, stride and
length, and what to do with infinity and NaN. A stretch of steps takes a state h to A h + B; two stretches, the left one
first, are one: (A, B) = (A_r A_l, A_r B_l + B_r). The pair (1, 0) changes nothing.
"""

from functools import lru_cache

import numpy as np

from .._cuda import cuda
from .._device import LANES, board, memory, shuffle_up, ticket

WIDTH = 4                                               # steps of a thread: 16 bytes of float32


@lru_cache(maxsize=None)
def row_per_thread():
    """The kernel for rows of any length, a thread each. Launch: kernel[blocks, threads](a, b, h0, h), h0 (rows,)."""

    @cuda.jit
    def scan_row_alone(a, b, h0, h):
        row = cuda.grid(1)
        if row < b.shape[0]:
            state = h0[row]
            for t in range(b.shape[1]):
                state = a[row, t] * state + b[row, t]
                h[row, t] = state

    return scan_row_alone


@lru_cache(maxsize=None)
def block_scan(threads):
    """The kernel for rows of at most 2 * threads steps (threads: a power of two).

    Launch: kernel[rows, threads](a, b, h0, h), arrays (rows, length), h0 (rows,), float32. A block owns a row; a thread
    owns two of its steps, and one node of the tree on each level, as long as there are enough nodes. Shared memory: the
    tree, a pair (A, B) a node; a parent lies in its right child's place. The row is padded with (1, 0).
    """
    n = 2 * threads

    @cuda.jit
    def scan_row(a, b, h0, h):
        A = cuda.shared.array(n, np.float32)
        B = cuda.shared.array(n, np.float32)
        row, me, length = cuda.blockIdx.x, cuda.threadIdx.x, b.shape[1]
        for t in range(me, n, threads):
            A[t], B[t] = np.float32(1), np.float32(0)
            if t < length:
                A[t], B[t] = a[row, t], b[row, t]
        cuda.syncthreads()                              # the leaves are there

        reach = 1                                       # steps under a node
        while reach < n:                                # up: from the leaves to the root
            left = 2 * reach * me + reach - 1
            if left < n:
                right = left + reach
                A_r = A[right]
                A[right], B[right] = A_r * A[left], A_r * B[left] + B[right]
            cuda.syncthreads()                          # this level is there before the next reads it
            reach *= 2

        if me == 0:
            A[n - 1], B[n - 1] = np.float32(1), np.float32(0)       # nothing comes before the root
        cuda.syncthreads()                              # the root is there

        reach = threads
        while reach > 0:                                # down: what comes before each node
            left = 2 * reach * me + reach - 1
            if left < n:
                right = left + reach
                A_l, B_l, A_p, B_p = A[left], B[left], A[right], B[right]
                A[left], B[left] = A_p, B_p             # before the left child comes what comes before its parent,
                A[right], B[right] = A_l * A_p, A_l * B_p + B_l     # and before the right child the left one besides
            cuda.syncthreads()                          # this level is there before the next reads it
            reach //= 2

        for t in range(me, length, threads):            # one step more: from the steps before t to h_t
            h[row, t] = a[row, t] * (A[t] * h0[row] + B[t]) + b[row, t]

    return scan_row


@lru_cache(maxsize=None)
def block_scan_padded(threads):
    """`block_scan` with a word of shared memory left unused after every 32, so that a warp's nodes lie in different banks."""
    n = 2 * threads
    words = n + n // 32

    @cuda.jit(device=True)
    def at(i):
        return i + (i >> 5)                             # i // 32 in one instruction, also to the compiler

    @cuda.jit
    def scan_row_padded(a, b, h0, h):
        A = cuda.shared.array(words, np.float32)
        B = cuda.shared.array(words, np.float32)
        row, me, length = cuda.blockIdx.x, cuda.threadIdx.x, b.shape[1]
        for t in range(me, n, threads):
            A[at(t)], B[at(t)] = np.float32(1), np.float32(0)
            if t < length:
                A[at(t)], B[at(t)] = a[row, t], b[row, t]
        cuda.syncthreads()

        reach = 1
        while reach < n:
            left = 2 * reach * me + reach - 1
            if left < n:
                l, r = at(left), at(left + reach)
                A_r = A[r]
                A[r], B[r] = A_r * A[l], A_r * B[l] + B[r]
            cuda.syncthreads()
            reach *= 2

        if me == 0:
            A[at(n - 1)], B[at(n - 1)] = np.float32(1), np.float32(0)
        cuda.syncthreads()

        reach = threads
        while reach > 0:
            left = 2 * reach * me + reach - 1
            if left < n:
                l, r = at(left), at(left + reach)
                A_l, B_l, A_p, B_p = A[l], B[l], A[r], B[r]
                A[l], B[l] = A_p, B_p
                A[r], B[r] = A_l * A_p, A_l * B_p + B_l
            cuda.syncthreads()
            reach //= 2

        for t in range(me, length, threads):
            h[row, t] = a[row, t] * (A[at(t)] * h0[row] + B[at(t)]) + b[row, t]

    return scan_row_padded


@cuda.jit(device=True)
def fold_steps(x, y):
    """The pair of a thread's steps."""
    A, B = x[0], y[0]
    for k in range(1, WIDTH):
        A, B = x[k] * A, x[k] * B + y[k]
    return A, B


@cuda.jit(device=True)
def run_steps(x, y, state):
    """A thread's steps, from the state before them; y becomes the states."""
    for k in range(WIDTH):
        state = x[k] * state + y[k]
        y[k] = state


@cuda.jit(device=True)
def scan_warp(A, B):
    """From each lane's pair that of all lanes up to it: five shuffles of each half, after Kogge and Stone."""
    lane = cuda.threadIdx.x % LANES
    distance = 1
    while distance < LANES:
        A_before, B_before = shuffle_up(A, distance), shuffle_up(B, distance)
        if lane >= distance:
            A, B = A * A_before, A * B_before + B
        distance *= 2
    return A, B


@lru_cache(maxsize=None)
def scan_threads(warps):
    """The device function `before_and_all(A, B)`: from each thread's pair that of all threads before it, and that of the block.

    Shared memory: a pair for each warp. Two barriers.
    """

    @cuda.jit(device=True)
    def before_and_all(A, B):
        warp_A = cuda.shared.array(warps, np.float32)
        warp_B = cuda.shared.array(warps, np.float32)
        lane, warp = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES
        A, B = scan_warp(A, B)
        if lane == LANES - 1:
            warp_A[warp], warp_B[warp] = A, B
        A, B = shuffle_up(A, 1), shuffle_up(B, 1)       # of the lanes before
        if lane == 0:
            A, B = np.float32(1), np.float32(0)
        cuda.syncthreads()                              # every warp's pair is there
        A_all, B_all = np.float32(1), np.float32(0)
        for w in range(warps):
            if w == warp:                               # so far: the warps before this one
                A, B = A * A_all, A * B_all + B
            A_all, B_all = warp_A[w] * A_all, warp_A[w] * B_all + warp_B[w]
        cuda.syncthreads()                              # all have read before the next tile's pairs are written
        return A, B, A_all, B_all

    return before_and_all


@lru_cache(maxsize=None)
def step_memory(wide):
    """The device functions `read` and `write` for a thread's steps, t and those after it, of a row that begins at `start`.

    wide: 16 bytes at once; rows must then be whole vectors. Steps outside the row change nothing: (1, 0).
    """
    touch = memory("float32", WIDTH)
    load, store, load_vector, store_vector = touch.load, touch.store, touch.load_vector, touch.store_vector

    @cuda.jit(device=True)
    def read(a, b, start, t, length, x, y):
        for k in range(WIDTH):
            x[k], y[k] = np.float32(1), np.float32(0)
        if wide:
            if t < length:
                load_vector(a, start + t, x, 0)
                load_vector(b, start + t, y, 0)
        else:
            for k in range(WIDTH):
                if t + k < length:
                    x[k], y[k] = load(a, start + t + k), load(b, start + t + k)

    @cuda.jit(device=True)
    def write(h, start, t, length, y):
        if wide:
            if t < length:
                store_vector(h, start + t, y, 0)
        else:
            for k in range(WIDTH):
                if t + k < length:
                    store(h, start + t + k, y[k])

    return read, write


@lru_cache(maxsize=None)
def warp_block_scan(warps, wide):
    """The kernel for rows of any length; with `wide`, a multiple of 4.

    Launch: kernel[rows, warps * LANES](a, b, h0, h, length), addresses. A block owns a row and goes through it tile by
    tile, a thread owns four steps of a tile. The state before the tile is in a register of every thread.
    """
    read, write = step_memory(wide)
    before_and_all = scan_threads(warps)
    load = memory("float32", 1).load

    @cuda.jit
    def scan_row_in_tiles(a, b, h0, h, length):
        x = cuda.local.array(WIDTH, np.float32)
        y = cuda.local.array(WIDTH, np.float32)
        row = np.int64(cuda.blockIdx.x)
        state = load(h0, row)
        for tile in range(0, length, WIDTH * LANES * warps):
            t = tile + WIDTH * cuda.threadIdx.x
            read(a, b, row * length, t, length, x, y)
            A, B = fold_steps(x, y)
            A, B, A_tile, B_tile = before_and_all(A, B)
            run_steps(x, y, A * state + B)
            write(h, row * length, t, length, y)
            state = A_tile * state + B_tile

    return scan_row_in_tiles


@lru_cache(maxsize=None)
def fold_chunks(warps):
    """The kernel that folds chunks of a row into their pairs, the first of three launches.

    Launch: kernel[rows * chunks, warps * LANES](a, b, A, B, chunk, chunks), addresses; chunk: its steps, a multiple of
    4. A block owns a chunk and writes its pair one place late; in the first place of each row is (1, 0). So the scan of
    these pairs from h0 gives the state before each chunk, and the scan of each chunk from there is the third launch.
    """
    read, _ = step_memory(True)
    before_and_all = scan_threads(warps)
    store = memory("float32", 1).store

    @cuda.jit
    def fold_chunk(a, b, A_chunks, B_chunks, chunk, chunks):
        x = cuda.local.array(WIDTH, np.float32)
        y = cuda.local.array(WIDTH, np.float32)
        here = np.int64(cuda.blockIdx.x)
        A_all, B_all = np.float32(1), np.float32(0)
        for tile in range(0, chunk, WIDTH * LANES * warps):
            read(a, b, here * chunk, tile + WIDTH * cuda.threadIdx.x, chunk, x, y)
            A, B = fold_steps(x, y)
            _, _, A, B = before_and_all(A, B)
            A_all, B_all = A * A_all, A * B_all + B
        if cuda.threadIdx.x == 0:
            if here % chunks == 0:
                store(A_chunks, here, np.float32(1))
                store(B_chunks, here, np.float32(0))
            if here % chunks < chunks - 1:
                store(A_chunks, here + 1, A_all)
                store(B_chunks, here + 1, B_all)

    return fold_chunk


@lru_cache(maxsize=None)
def look_back_scan(warps):
    """The kernel for rows of several tiles in one launch, by decoupled look-back (Merrill and Garland 2016).

    Launch: kernel[rows * tiles, warps * LANES](a, b, h0, h, rows, length, tiles, noted), addresses; length: a multiple
    of 4; noted: board("float32").slots * rows * tiles + 1 zeroed words of 8 bytes, what blocks tell each other and the
    ticket. A block owns a tile, the first that nobody has drawn; tiles are handed out in the order of time. Its first
    thread publishes the tile's pair, reads back to a tile whose last state is known, and publishes its own last state.
    """
    read, write = step_memory(True)
    before_and_all = scan_threads(warps)
    load = memory("float32", 1).load
    slots, publish_pair = board("float32").slots, board("float32").publish_pair
    publish_state, peek = board("float32").publish_state, board("float32").peek

    @cuda.jit
    def scan_tile(a, b, h0, h, rows, length, tiles, noted):
        x = cuda.local.array(WIDTH, np.float32)
        y = cuda.local.array(WIDTH, np.float32)
        drawn = cuda.shared.array(1, np.int64)
        entry = cuda.shared.array(1, np.float32)
        first = cuda.threadIdx.x == 0
        if first:
            drawn[0] = ticket(noted, slots * rows * tiles)
        cuda.syncthreads()                              # the ticket is there
        tile = drawn[0] // rows
        row = drawn[0] - tile * rows
        here = row * tiles + tile                       # its place on the board

        t = WIDTH * (tile * LANES * warps + cuda.threadIdx.x)
        read(a, b, row * length, t, length, x, y)
        A, B = fold_steps(x, y)
        A, B, A_tile, B_tile = before_and_all(A, B)

        if first:
            state = np.float32(0)
            if tile == 0:
                state = load(h0, row)
            else:
                publish_pair(noted, here, A_tile, B_tile)
                A_read, B_read = np.float32(1), np.float32(0)       # of the tiles read so far
                before, kind = here - 1, np.int32(0)
                while kind != 2:                        # 0: nothing is there yet; 1: a pair; 2: the last state
                    kind, A_t, B_t = peek(noted, before)
                    if kind > 0:
                        A_read, B_read = A_read * A_t, A_read * B_t + B_read
                        before -= 1
                state = B_read                          # a state comes as the pair (0, state)
            publish_state(noted, here, A_tile * state + B_tile)
            entry[0] = state
        cuda.syncthreads()                              # the state before the tile is there
        run_steps(x, y, A * entry[0] + B)
        write(h, row * length, t, length, y)

    return scan_tile
