"""The scan along an axis whose elements are neighbours in memory, and its gradient.

A row is cut into tiles, one block each. Within a tile the order of time is: warp, then vector, then lane, then the place in the vector,

    warp 0: | vector 0: lane 0 | lane 1 | ... | lane 31 | vector 1: lane 0 | ... |     warp 1: | ...

so that a warp reads 512 neighbouring bytes at a time, each lane 16 of them. What a stretch of time does to the state, h -> A h + B, is a
pair (A, B). Every vector is folded into its pair; pairs are scanned over the lanes by shuffles, then over the vectors, then over
the warps through shared memory, then over the tiles through device memory. That gives the state before each vector, and the
vector's own steps are run from there, as a loop over time would.

Several tiles a row: decoupled look-back (Merrill and Garland 2016). A block publishes the pair of its tile as soon as it has it, reads
the pairs of the tiles before its own, back to one whose last state is known, and then publishes its own last state. Blocks take
their tiles by an atomic ticket in the order of time, so a block waits for none that has not started. A published word is
valid when its bits are not all zero (+0 is published as -0), so value and flag arrive together and no fence is needed.

Infinity and NaN: products of decays may overflow where the states themselves do not, and then 0 times infinity or infinity minus
infinity would make a NaN that no loop over time makes. A tile that meets one, in its pairs or in the state that comes in, walks
its vectors in the order of time instead.
"""

from functools import lru_cache

import numpy as np

from .._cuda import cuda, kernel_jit
from .._device import LANES, accumulator, any_lane, any_thread, memory, shuffle, shuffle_down, shuffle_up, words

REGISTERS = {(True, False): None, (False, False): None, (True, True): None, (False, True): None}


@lru_cache(maxsize=None)
def tile_scanner(dtype, width, vectors, lanes, warps, look_back):
    """The device function `states(xa, xb, entry, ...)` that both kernels share: from a thread's steps, the states before its vectors."""
    acc = accumulator(dtype)
    word = words(dtype if dtype == "float64" else "float32")
    publish, peek = word.publish, word.peek
    threads = lanes if warps == 1 else LANES * warps
    steps = lanes.bit_length() - 1

    @cuda.jit(device=True)
    def scan_lanes(A, B, lane):
        """The pairs of lanes 0 .. lane, composed (Kogge and Stone: log2(lanes) shuffles)."""
        for step in range(steps):
            A_before, B_before = shuffle_up(A, 1 << step), shuffle_up(B, 1 << step)
            if lane >= 1 << step:
                B = A * B_before + B
                A = A * A_before
        return A, B

    @cuda.jit(device=True)
    def run(xa, xb, j, state):
        """The state after vector j."""
        for v in range(width):
            state = xa[j * width + v] * state + xb[j * width + v]
        return state

    @cuda.jit(device=True)
    def walk(xa, xb, entry, state, lane, leader, warp):
        """The states before each vector in the order of time: one lane after the other."""
        handed = cuda.shared.array(1, acc)
        for w in range(warps):
            for step in range(vectors * lanes):
                after = state
                for j in range(vectors):                # unrolled: an index known at run time only would move xa out of registers
                    if j == step // lanes:
                        if step % lanes == lane and w == warp:
                            entry[j] = state
                        after = run(xa, xb, j, state)
                state = shuffle(after, leader + step % lanes)
            if warps > 1:
                if w == warp and lane == 0:
                    handed[0] = state
                cuda.syncthreads()                      # the next warp may read the state
                state = handed[0]
                cuda.syncthreads()                      # all have read before it is written again
        return state

    @cuda.jit(device=True)
    def look(state, row, tiles, tile, tile_words, lane, warp):
        """The last state of tile - 1: each thread reads one earlier tile, the last thread the nearest."""
        warp_A = cuda.shared.array(warps, acc)
        warp_B = cuda.shared.array(warps, acc)
        t = tile - threads + cuda.threadIdx.x
        A, B = acc(1), acc(0)
        waiting = t >= 0
        while waiting:
            known, last = peek(state, 2 * tile_words + row * tiles + t)
            known_A, tile_A = peek(state, row * tiles + t)
            known_B, tile_B = peek(state, tile_words + row * tiles + t)
            if known:
                A, B, waiting = acc(0), last, False
            elif known_A and known_B and cuda.threadIdx.x > 0:      # the farthest has to be known: so the window reaches a state
                A, B, waiting = tile_A, tile_B, False
        A, B = scan_lanes(A, B, lane)
        if lane == lanes - 1:
            warp_A[warp], warp_B[warp] = A, B
        cuda.syncthreads()                              # every warp's pair is there
        A, B = acc(1), acc(0)
        for w in range(warps):
            B = warp_A[w] * B + warp_B[w]
            A = warp_A[w] * A
        if A * acc(0) + B * acc(0) != acc(0):           # not finite: trust no composition, wait for the state itself
            known = False
            while not known:
                known, B = peek(state, 2 * tile_words + row * tiles + tile - 1)
        return B

    @cuda.jit(device=True)
    def states(xa, xb, entry, carry, row, tile, tiles, rows, state, early, given):
        warp_A = cuda.shared.array((2, warps), acc)     # by turns: a block's next tile writes one while this one is read
        warp_B = cuda.shared.array((2, warps), acc)
        handed_early = cuda.shared.array(1, np.int32)
        handed_given = cuda.shared.array(1, acc)
        lane = cuda.threadIdx.x % lanes
        warp = cuda.threadIdx.x // LANES if warps > 1 else 0
        first = cuda.threadIdx.x == 0
        leader = cuda.threadIdx.x % LANES // lanes * lanes
        turn = tile % 2
        before_A = cuda.local.array(vectors, acc)       # what this warp does before each of this thread's vectors
        before_B = cuda.local.array(vectors, acc)
        A, B = acc(1), acc(0)
        odd = acc(0)                                    # becomes NaN when a pair is not finite
        for j in range(vectors):
            A_j, B_j = xa[j * width], xb[j * width]
            for v in range(1, width):
                B_j = xa[j * width + v] * B_j + xb[j * width + v]
                A_j = xa[j * width + v] * A_j
            A_j, B_j = scan_lanes(A_j, B_j, lane)
            A_lane, B_lane = shuffle_up(A_j, 1), shuffle_up(B_j, 1)
            if lane == 0:
                A_lane, B_lane = acc(1), acc(0)
            before_A[j], before_B[j] = A_lane * A, A_lane * B + B_lane
            A_j, B_j = shuffle(A_j, leader + lanes - 1), shuffle(B_j, leader + lanes - 1)
            B = A_j * B + B_j
            A = A_j * A
            odd += before_A[j] * acc(0) + before_B[j] * acc(0)
        odd += A * acc(0) + B * acc(0)

        tile_A, tile_B = A, B
        A, B = acc(1), acc(0)                           # from here: what the warps before this one do
        if warps > 1:
            if lane == lanes - 1:
                warp_A[turn, warp], warp_B[turn, warp] = tile_A, tile_B
            if look_back and first:
                handed_early[0], handed_given[0] = 1 if early else 0, given
            strange = any_thread(odd != acc(0))         # every warp's pair is there
            tile_A, tile_B = acc(1), acc(0)
            odd = acc(0)
            for w in range(warps):
                if w == warp:
                    A, B = tile_A, tile_B
                tile_B = warp_A[turn, w] * tile_B + warp_B[turn, w]
                tile_A = warp_A[turn, w] * tile_A
                odd += tile_A * acc(0) + tile_B * acc(0)
            strange = strange or odd != acc(0)
        else:
            strange = any_lane(odd != acc(0) or carry * acc(0) != acc(0))

        tile_words = rows * tiles
        if look_back and tile > 0:
            if handed_early[0] > 0:
                carry = handed_given[0]
            else:
                if first and not strange:
                    publish(state, row * tiles + tile, tile_A)
                    publish(state, tile_words + row * tiles + tile, tile_B)
                carry = look(state, row, tiles, tile, tile_words, lane, warp)
        if strange or (carry * acc(0) != acc(0) and carry == carry):    # infinity; a NaN makes NaN either way
            last = walk(xa, xb, entry, carry, lane, leader, warp)
            if look_back and first:
                publish(state, 2 * tile_words + row * tiles + tile, last)
        else:
            last = tile_A * carry + tile_B
            if look_back and first:
                publish(state, 2 * tile_words + row * tiles + tile, last)
            at_warp = A * carry + B
            for j in range(vectors):
                entry[j] = before_A[j] * at_warp + before_B[j]
        return last

    return states


@lru_cache(maxsize=None)
def access(dtype, width, vectorised, reverse):
    """The device functions `read` and `write`: a vector in the order of the scan, element m of a row at base + (m - start) * step."""
    touch = memory(dtype, width)
    load, load_vector, store, store_vector = touch.load, touch.load_vector, touch.store, touch.store_vector

    @cuda.jit(device=True)
    def flip(x, at):
        for v in range(width // 2):
            x[at + v], x[at + width - 1 - v] = x[at + width - 1 - v], x[at + v]

    @cuda.jit(device=True)
    def read(address, base, step, low, start, end, x, at, outside):
        if vectorised and low >= start and low + width <= end:
            load_vector(address, base + (low - start), x, at)
        else:
            for v in range(width):
                x[at + v] = outside
                if low + v >= start and low + v < end:
                    x[at + v] = load(address, base + (low + v - start) * step)
        if reverse:
            flip(x, at)

    @cuda.jit(device=True)
    def write(address, low, start, end, x, at):
        """x is changed: it is left in the order of memory."""
        if reverse:
            flip(x, at)
        if vectorised and low >= start and low + width <= end:
            store_vector(address, low, x, at)
        else:
            for v in range(width):
                if low + v >= start and low + v < end:
                    store(address, low + v, x[at + v])

    return read, write


@lru_cache(maxsize=None)
def forward(dtype, reverse, same, vector_a, vector_b, width, vectors, lanes, warps, look_back):
    """The kernel for h_t = a_t h_{t-1} + b_t on the rows of a C-contiguous b and h.

    Launch: with look_back one block a tile, else one block for `threads / (lanes * warps)` rows, which it goes through tile by tile.
    Threads: lanes * warps, or any multiple of lanes where warps is 1.
    A block owns a tile of vectors * lanes * warps * width elements of a row; a thread owns `vectors` vectors of `width` of them.
    Shared memory: a pair for every warp, the ticket, and what thread 0 read. Barriers: in `states`; and one so that all threads see the
    ticket. vector_a, vector_b: read (and write) 16 bytes at once; else element by element, a at any stride. same: a lies as b does,
    and `layout` is empty; else it is (split, outer, inner, time): row r of a starts at r // split * outer + r % split * inner.
    """
    acc = accumulator(dtype)
    read, write = access(dtype, width, vector_b, reverse)
    read_a, _ = access(dtype, width, vector_a, reverse)
    load = memory(dtype, width).load
    word = words(dtype if dtype == "float64" else "float32")
    ticket, peek = word.ticket, word.peek
    states = tile_scanner(dtype, width, vectors, lanes, warps, look_back)
    size, per_row = width * vectors, lanes * warps

    @kernel_jit(max_registers=REGISTERS[warps > 1, dtype == "float64"])
    def scan_rows(a, b, h, h0, rows, length, tiles, layout, state):
        xa = cuda.local.array(size, acc)
        xb = cuda.local.array(size, acc)
        entry = cuda.local.array(vectors, acc)
        drawn = cuda.shared.array(1, np.int64)
        rank = cuda.threadIdx.x % per_row
        lane, warp = rank % LANES, rank // LANES
        row, tile, last_tile = cuda.blockIdx.x * (cuda.blockDim.x // per_row) + cuda.threadIdx.x // per_row, 0, tiles
        early, given = False, acc(0)
        if look_back:
            if cuda.threadIdx.x == 0:
                drawn[0] = ticket(state, 3 * rows * tiles)
            cuda.syncthreads()                          # the ticket is there
            tile = drawn[0] // rows
            row = drawn[0] - tile * rows
            last_tile = tile + 1
            if tile > 0 and cuda.threadIdx.x == 0:      # with many rows, the tile before is done by now
                early, given = peek(state, 2 * rows * tiles + row * tiles + tile - 1)

        start, end = row * length, row * length + length
        if row >= rows:
            end = start
        a_row, a_time = start, 1
        if not same:
            split, a_outer, a_inner, a_time = layout
            a_row = row // split * a_outer + row % split * a_inner
        origin = start                                  # of vector 0; where vectors are aligned, before the row
        if vector_b:
            origin = start - start % width
        if reverse:
            origin += (end - origin - 1) // width * width
        carry = acc(0)
        if h0 != 0 and row < rows and tile == 0:
            carry = load(h0, row)

        while tile < last_tile:
            first = (tile * warps + warp) * vectors * lanes + lane
            for j in range(vectors):
                low = origin + (-width if reverse else width) * (first + j * lanes)
                read_a(a, a_row, a_time, low, start, end, xa, j * width, acc(1))
                read(b, start, 1, low, start, end, xb, j * width, acc(0))

            carry = states(xa, xb, entry, carry, row, tile, tiles, rows, state, early, given)

            for j in range(vectors):
                low = origin + (-width if reverse else width) * (first + j * lanes)
                x = entry[j]
                for v in range(width):
                    x = xa[j * width + v] * x + xb[j * width + v]
                    xb[j * width + v] = x
                write(h, low, start, end, xb, j * width)
            tile += 1

    return scan_rows


@lru_cache(maxsize=None)
def backward(dtype, reverse, same, vector_a, vector_b, width, vectors, lanes, warps, look_back, grad_a_dtype):
    """The kernel for the gradient on rows: g_t = grad_t + a_{t+1} g_{t+1} from the last step to the first (`reverse`), or mirrored.

    Launch, ownership, shared memory and barriers are those of `forward`. In the order in which the scan runs, the decay of a step
    is `a` of the step before, and grad_a is g times h of the step after: both are read in place and moved on by one step, over
    the lanes by a shuffle; what the first and the last lane miss is read alone. After the last step of all comes h0.
    """
    acc = accumulator(dtype)
    read, write = access(dtype, width, vector_b, reverse)
    read_a, _ = access(dtype, width, vector_a, reverse)
    _, write_a = access(grad_a_dtype, width, vector_b and dtype == grad_a_dtype, reverse)   # never wider than 16 bytes
    load, store = memory(dtype, width).load, memory(dtype, width).store
    word = words(dtype if dtype == "float64" else "float32")
    ticket, peek = word.ticket, word.peek
    states = tile_scanner(dtype, width, vectors, lanes, warps, look_back)
    size, per_row = width * vectors, lanes * warps
    ahead = -1 if reverse else 1                        # from one step of the scan to the next, in memory

    @kernel_jit(max_registers=REGISTERS[warps > 1, dtype == "float64"])
    def scan_rows_backward(grad, a, h, h0, grad_a, grad_b, grad_h0, rows, length, tiles, layout, state):
        xa = cuda.local.array(size, acc)
        xb = cuda.local.array(size, acc)
        xh = cuda.local.array(size, acc)
        entry = cuda.local.array(vectors, acc)
        drawn = cuda.shared.array(1, np.int64)
        rank = cuda.threadIdx.x % per_row
        lane, warp = rank % LANES, rank // LANES
        row, tile, last_tile = cuda.blockIdx.x * (cuda.blockDim.x // per_row) + cuda.threadIdx.x // per_row, 0, tiles
        early, given = False, acc(0)
        if look_back:
            if cuda.threadIdx.x == 0:
                drawn[0] = ticket(state, 3 * rows * tiles)
            cuda.syncthreads()                          # the ticket is there
            tile = drawn[0] // rows
            row = drawn[0] - tile * rows
            last_tile = tile + 1
            if tile > 0 and cuda.threadIdx.x == 0:      # with many rows, the tile before is done by now
                early, given = peek(state, 2 * rows * tiles + row * tiles + tile - 1)

        start, end = row * length, row * length + length
        if row >= rows:
            end = start
        a_row, a_time = start, 1
        if not same:
            split, a_outer, a_inner, a_time = layout
            a_row = row // split * a_outer + row % split * a_inner
        origin = start
        if vector_b:
            origin = start - start % width
        if reverse:
            origin += (end - origin - 1) // width * width
        h_first = acc(0)
        if h0 != 0 and row < rows:
            h_first = load(h0, row)
        final = start if reverse else end - 1           # the step after which comes h0
        carry = acc(0)

        while tile < last_tile:
            first = (tile * warps + warp) * vectors * lanes + lane
            for j in range(vectors):
                low = origin + (-width if reverse else width) * (first + j * lanes)
                read(grad, start, 1, low, start, end, xb, j * width, acc(0))
                read_a(a, a_row, a_time, low, start, end, xa, j * width, acc(1))
                read(h, start, 1, low, start, end, xh, j * width, h_first)
            for j in range(vectors):
                low = origin + (-width if reverse else width) * (first + j * lanes)
                a_before, h_after = shuffle_up(xa[j * width + width - 1], 1), shuffle_down(xh[j * width], 1)
                if lane == 0:
                    a_before = acc(1)
                    m = low + width if reverse else low - 1
                    if m >= start and m < end:
                        a_before = load(a, a_row + (m - start) * a_time)
                if lane == lanes - 1:
                    h_after = h_first
                    m = low - 1 if reverse else low + width
                    if m >= start and m < end:
                        h_after = load(h, m)
                for v in range(width - 1, 0, -1):
                    xa[j * width + v] = xa[j * width + v - 1]
                xa[j * width] = a_before
                for v in range(width - 1):
                    xh[j * width + v] = xh[j * width + v + 1]
                xh[j * width + width - 1] = h_after

            carry = states(xa, xb, entry, carry, row, tile, tiles, rows, state, early, given)

            for j in range(vectors):
                low = origin + (-width if reverse else width) * (first + j * lanes)
                x = entry[j]
                for v in range(width):
                    x = xa[j * width + v] * x + xb[j * width + v]
                    xb[j * width + v] = x
                    xh[j * width + v] *= x
                    if h0 != 0 and start < end and (low + width - 1 - v if reverse else low + v) == final:
                        store(grad_h0, row, load(a, a_row + (final - start) * a_time) * x)
                write(grad_b, low, start, end, xb, j * width)
                write_a(grad_a, low, start, end, xh, j * width)
            tile += 1

    return scan_rows_backward
