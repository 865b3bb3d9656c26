"""The scan along an axis whose elements are neighbours in memory, and its gradient.

A row is cut into tiles, one block each. Within a tile the order of time is: warp, then vector, then lane, then the
place in the vector,

    warp 0: | vector 0: lane 0 | lane 1 | ... | lane 31 | vector 1: lane 0 | ... |     warp 1: | ...

so that a warp reads 512 neighbouring bytes at a time, each lane 16 of them. What a stretch of time does to the state, h
-> A h + B, is a pair (A, B). Every vector is folded into its pair; pairs are scanned over the lanes by shuffles, then
over the vectors, then over the warps through shared memory, then over the tiles through device memory. That gives the
state before each vector, and the vector's own steps are run from there, as a loop over time would.

Several tiles a row: decoupled look-back (Merrill and Garland 2016). A block publishes the pair of its tile as soon as
it has it, reads the pairs of the tiles before its own, back to one whose last state is known, and then publishes its
own last state. Blocks take their tiles by an atomic ticket in the order of time, so a block waits for none that has not
started. A pair, or a state, travels in one word of 64 bits that is valid when its first half is not zero (A = +0 is
published as -0), so value and flag arrive together and no fence is needed. (float64: a word each, by the same rule.)

Infinity and NaN: products of decays may overflow where the states themselves do not, and then 0 times infinity or
infinity minus infinity would make a NaN that no loop over time makes. A tile that meets one, in its pairs or in the
state that comes in, walks its vectors in the order of time instead.
"""

from functools import lru_cache

import numpy as np

from .._cuda import SIMULATED, cuda
from .._device import (LANES, accumulator, any_lane, any_thread, board, memory, shuffle, shuffle_down, shuffle_up, ticket)


@lru_cache(maxsize=None)
def tile_scanner(dtype, width, vectors, lanes, warps, look_back):
    """The device function `states(xa, xb, entry, ...)` that both kernels share: from a thread's steps, the states before its vectors."""
    acc = accumulator(dtype)
    publish_pair, publish_state, peek = board(dtype).publish_pair, board(dtype).publish_state, board(dtype).peek
    everyone = SIMULATED                                # there all threads have to take part in what one warp does
    steps, doublings = lanes.bit_length() - 1, LANES.bit_length() - 1

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
    def look(state, here, tile, lane):
        """The state before a tile: one warp reads the pairs of those before it, back to one whose state is known."""
        A, B = acc(1), acc(0)                           # what the tiles read so far do
        found, t = False, tile - 1 - lane               # lane 0 reads the nearest
        while not found:
            kind, A_t, B_t = np.int32(0), acc(1), acc(0)
            while t >= 0 and kind == 0:
                kind, A_t, B_t = peek(state, here - tile + t)
            found = any_lane(kind == 2)
            for step in range(doublings):               # lane: its tile and those of the lanes after it, which are before it in time
                A_before, B_before = shuffle_down(A_t, 1 << step), shuffle_down(B_t, 1 << step)
                if lane + (1 << step) < LANES:
                    B_t = A_t * B_before + B_t
                    A_t = A_t * A_before
            A_t, B_t = shuffle(A_t, 0), shuffle(B_t, 0)
            B = A * B_t + B
            A = A * A_t
            t -= LANES
        if A * acc(0) + B * acc(0) != acc(0):           # not finite: trust no composition, wait for the state itself
            kind = np.int32(0)
            while kind != 2:
                kind, A, B = peek(state, here - 1)
        return B

    @cuda.jit(device=True)
    def states(xa, xb, entry, carry, here, tile, state, early, given):
        """entry: the state before each of this thread's vectors. carry: the state before the tile, if it is the first of its row.

        early, given: was the state before the tile known before the tile was read, and that state (the first warp
        knows).
        """
        warp_A = cuda.shared.array(warps, acc)
        warp_B = cuda.shared.array(warps, acc)
        handed = cuda.shared.array(1, acc)
        lane = cuda.threadIdx.x % lanes
        warp = cuda.threadIdx.x // LANES if warps > 1 else 0
        leader = cuda.threadIdx.x % LANES // lanes * lanes
        first = cuda.threadIdx.x == 0
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
                warp_A[warp], warp_B[warp] = tile_A, tile_B
            strange = any_thread(odd != acc(0))         # every warp's pair is there
            tile_A, tile_B = acc(1), acc(0)
            odd = acc(0)
            for w in range(warps):
                if w == warp:
                    A, B = tile_A, tile_B
                tile_B = warp_A[w] * tile_B + warp_B[w]
                tile_A = warp_A[w] * tile_A
                odd += tile_A * acc(0) + tile_B * acc(0)
            strange = strange or odd != acc(0)
        else:
            strange = any_lane(odd != acc(0) or carry * acc(0) != acc(0))

        if look_back:
            if everyone or warp == 0:
                if early == 2:
                    carry = given
                elif tile > 0:
                    if first and not strange:
                        publish_pair(state, here, tile_A, tile_B)
                    carry = look(state, here, tile, cuda.threadIdx.x % LANES)
                if first:
                    handed[0] = carry
                    if not strange and (carry * acc(0) == acc(0) or carry != carry):
                        publish_state(state, here, tile_A * carry + tile_B)
            cuda.syncthreads()                          # the state before the tile is there
            carry = handed[0]
        if strange or (carry * acc(0) != acc(0) and carry == carry):    # infinity; a NaN makes NaN either way
            last = walk(xa, xb, entry, carry, lane, leader, warp)
            if look_back and first:
                publish_state(state, here, last)
        else:
            at_warp = A * carry + B
            for j in range(vectors):
                entry[j] = before_A[j] * at_warp + before_B[j]

    return states


@lru_cache(maxsize=None)
def access(dtype, width, vectors, hop, vectorised, reverse):
    """The device functions `read`, `write` and `ask` for a thread's vectors, `hop` elements of the row apart.

    low: the place in the row of the first; n: the row's length; x: the elements, in the order of the scan; element m is
    at base + m * step. A thread all of whose vectors lie in the row, as most do, asks once and knows all its addresses
    from one.
    """
    touch = memory(dtype, width)
    load, load_vector, store, store_vector = touch.load, touch.load_vector, touch.store, touch.store_vector
    touch_ahead = touch.prefetch
    least, most = min(0, hop * (vectors - 1)), max(0, hop * (vectors - 1)) + width

    @cuda.jit(device=True)
    def flip(x, at):
        for v in range(width // 2):
            x[at + v], x[at + width - 1 - v] = x[at + width - 1 - v], x[at + v]

    @cuda.jit(device=True)
    def read(address, base, step, low, n, x, outside):
        if vectorised and low + least >= 0 and low + most <= n:
            for j in range(vectors):
                load_vector(address, base + low + j * hop, x, j * width)
        else:
            for j in range(vectors):
                m = low + j * hop
                if vectorised and m >= 0 and m + width <= n:
                    load_vector(address, base + m, x, j * width)
                else:
                    for v in range(width):
                        x[j * width + v] = outside
                        if m + v >= 0 and m + v < n:
                            x[j * width + v] = load(address, base + (m + v) * step)
        if reverse:
            for j in range(vectors):
                flip(x, j * width)

    @cuda.jit(device=True)
    def write(address, base, low, n, x):
        """x is changed: it is left in the order of memory."""
        if reverse:
            for j in range(vectors):
                flip(x, j * width)
        if vectorised and low + least >= 0 and low + most <= n:
            for j in range(vectors):
                store_vector(address, base + low + j * hop, x, j * width)
        else:
            for j in range(vectors):
                m = low + j * hop
                if vectorised and m >= 0 and m + width <= n:
                    store_vector(address, base + m, x, j * width)
                else:
                    for v in range(width):
                        if m + v >= 0 and m + v < n:
                            store(address, base + m + v, x[j * width + v])

    @cuda.jit(device=True)
    def ask(address, base, low, n):
        """Have the vectors of all threads on their way to the second cache."""
        if vectorised and cuda.threadIdx.x % 8 == 0:    # eight threads read one line of 128 bytes
            for j in range(vectors):
                if low + j * hop >= 0 and low + j * hop < n:
                    touch_ahead(address, base + low + j * hop)

    return read, write, ask


@lru_cache(maxsize=None)
def placer(same, vector_b, reverse, width):
    """The device function `place`: where a row starts, its length, where a's row starts, a's step in time, where in the row vector 0 is."""

    @cuda.jit(device=True)
    def place(row, rows, length, layout):
        start, n = row * length, length
        if row >= rows:
            n = 0                                       # a row that is not there has no elements
        a_row, a_time = start, 1
        if not same:
            split, a_outer, a_inner, a_time = layout
            a_row = row // split * a_outer + row % split * a_inner
        origin = 0
        if vector_b:                                    # vectors are aligned: the first may begin before the row
            origin = -(start % width)
        if reverse:
            origin += (n - origin - 1) // width * width
        return start, n, a_row, a_time, origin

    return place


@lru_cache(maxsize=None)
def forward(dtype, reverse, same, vector_a, vector_b, width, vectors, lanes, warps, look_back):
    """The kernel for h_t = a_t h_{t-1} + b_t on the rows of a C-contiguous b and h.

    Launch: with look_back one block a tile; else one block for `threads / (lanes * warps)` rows that fit a tile.
    Threads: lanes * warps, or any multiple of lanes where warps is 1. A block owns a tile of vectors * lanes * warps *
    width elements of a row; a thread owns `vectors` vectors of `width` of them. Shared memory: a pair for every warp,
    the state before the tile, the ticket. Barriers: in `states`; and one so that all threads see the ticket. reach: a
    block that looks back asks for the memory of the tile so many tickets later. Where rows are few, blocks wait for
    each other, all at once, and memory would be idle meanwhile (one row of 2**24: 0.104 ms without, 0.088 with one tile
    a multiprocessor, 0.115 with four, which the second cache no longer holds); 0 where rows are many. vector_a,
    vector_b: read (and write) 16 bytes at once; else element by element, a at any stride. same: a lies as b does, and
    `layout` is empty; else it is (split, outer, inner, time): row r of a starts at r // split * outer + r % split *
    inner.
    """
    acc = accumulator(dtype)
    size, per_row, stride = width * vectors, lanes * warps, -width if reverse else width
    read, write, ask = access(dtype, width, vectors, stride * lanes, vector_b, reverse)
    read_a, _, ask_a = access(dtype, width, vectors, stride * lanes, vector_a, reverse)
    place = placer(same, vector_b, reverse, width)
    load = memory(dtype, width).load
    slots, peek, everyone = board(dtype).slots, board(dtype).peek, SIMULATED
    states = tile_scanner(dtype, width, vectors, lanes, warps, look_back)

    @cuda.jit
    def scan_rows(a, b, h, h0, rows, length, tiles, reach, layout, state):
        xa = cuda.local.array(size, acc)
        xb = cuda.local.array(size, acc)
        entry = cuda.local.array(vectors, acc)
        drawn = cuda.shared.array(1, np.int64)
        me = cuda.threadIdx.x
        lane, warp = me % per_row % LANES, me % per_row // LANES
        row, tile = cuda.blockIdx.x * (cuda.blockDim.x // per_row) + me // per_row, 0
        early, given = np.int32(0), acc(0)
        if look_back:
            if me == 0:
                drawn[0] = ticket(state, slots * rows * tiles)
            cuda.syncthreads()                          # the ticket is there
            tile = drawn[0] // rows
            row = drawn[0] - tile * rows
            if tile > 0 and (everyone or me < LANES):   # with many rows, the tile before is done by now
                early, _, given = peek(state, row * tiles + tile - 1)
        start, n, a_row, a_time, origin = place(row, rows, length, layout)
        low = origin + stride * ((tile * warps + warp) * vectors * lanes + lane)
        read_a(a, a_row, a_time, low, n, xa, acc(1))
        read(b, start, 1, low, n, xb, acc(0))
        if look_back:
            upcoming = drawn[0] + reach
            if reach > 0 and upcoming < rows * tiles:
                next_tile = upcoming // rows
                next_start, next_n, next_a_row, _, origin = place(upcoming - next_tile * rows, rows, length, layout)
                next_low = origin + stride * ((next_tile * warps + warp) * vectors * lanes + lane)
                ask_a(a, next_a_row, next_low, next_n)
                ask(b, next_start, next_low, next_n)
        carry = acc(0)
        if h0 != 0 and row < rows and tile == 0:
            carry = load(h0, row)

        states(xa, xb, entry, carry, row * tiles + tile, tile, state, early, given)

        for j in range(vectors):
            x = entry[j]
            for v in range(width):
                x = xa[j * width + v] * x + xb[j * width + v]
                xb[j * width + v] = x
        write(h, start, low, n, xb)

    return scan_rows


@lru_cache(maxsize=None)
def backward(dtype, reverse, same, vector_a, vector_b, width, vectors, lanes, warps, look_back, grad_a_dtype):
    """The kernel for the gradient on rows: g_t = grad_t + a_{t+1} g_{t+1} from the last step to the first (`reverse`), or mirrored.

    Launch, ownership, shared memory and barriers are those of `forward`. In the order in which the scan runs, the decay
    of a step is `a` of the step before, and grad_a is g times h of the step after: both are read in place and moved on
    by one step, over the lanes by a shuffle; what the first and the last lane miss is read alone. After the last step
    of all comes h0.
    """
    acc = accumulator(dtype)
    size, per_row, stride = width * vectors, lanes * warps, -width if reverse else width
    read, write, ask = access(dtype, width, vectors, stride * lanes, vector_b, reverse)
    read_a, _, ask_a = access(dtype, width, vectors, stride * lanes, vector_a, reverse)
    _, write_a, _ = access(grad_a_dtype, width, vectors, stride * lanes, vector_b and dtype == grad_a_dtype, reverse)   # 16 bytes at most
    place = placer(same, vector_b, reverse, width)
    load, store = memory(dtype, width).load, memory(dtype, width).store
    slots, peek, everyone = board(dtype).slots, board(dtype).peek, SIMULATED
    states = tile_scanner(dtype, width, vectors, lanes, warps, look_back)

    @cuda.jit
    def scan_rows_backward(grad, a, h, h0, grad_a, grad_b, grad_h0, rows, length, tiles, reach, layout, state):
        xa = cuda.local.array(size, acc)
        xb = cuda.local.array(size, acc)
        xh = cuda.local.array(size, acc)
        entry = cuda.local.array(vectors, acc)
        drawn = cuda.shared.array(1, np.int64)
        me = cuda.threadIdx.x
        lane, warp = me % per_row % LANES, me % per_row // LANES
        row, tile = cuda.blockIdx.x * (cuda.blockDim.x // per_row) + me // per_row, 0
        early, given = np.int32(0), acc(0)
        if look_back:
            if me == 0:
                drawn[0] = ticket(state, slots * rows * tiles)
            cuda.syncthreads()                          # the ticket is there
            tile = drawn[0] // rows
            row = drawn[0] - tile * rows
            if tile > 0 and (everyone or me < LANES):   # with many rows, the tile before is done by now
                early, _, given = peek(state, row * tiles + tile - 1)
        start, n, a_row, a_time, origin = place(row, rows, length, layout)
        h_first = acc(0)
        if h0 != 0 and row < rows:
            h_first = load(h0, row)
        low = origin + stride * ((tile * warps + warp) * vectors * lanes + lane)
        read_a(a, a_row, a_time, low, n, xa, acc(1))
        read(grad, start, 1, low, n, xb, acc(0))
        read(h, start, 1, low, n, xh, h_first)
        if look_back:
            upcoming = drawn[0] + reach
            if reach > 0 and upcoming < rows * tiles:
                next_tile = upcoming // rows
                next_start, next_n, next_a_row, _, origin = place(upcoming - next_tile * rows, rows, length, layout)
                next_low = origin + stride * ((next_tile * warps + warp) * vectors * lanes + lane)
                ask_a(a, next_a_row, next_low, next_n)
                ask(grad, next_start, next_low, next_n)
                ask(h, next_start, next_low, next_n)
        for j in range(vectors):
            m_j = low + j * stride * lanes
            a_before, h_after = shuffle_up(xa[j * width + width - 1], 1), shuffle_down(xh[j * width], 1)
            if lane == 0:
                a_before = acc(1)
                m = m_j + width if reverse else m_j - 1
                if m >= 0 and m < n:
                    a_before = load(a, a_row + m * a_time)
            if lane == lanes - 1:
                h_after = h_first
                m = m_j - 1 if reverse else m_j + width
                if m >= 0 and m < n:
                    h_after = load(h, start + m)
            for v in range(width - 1, 0, -1):
                xa[j * width + v] = xa[j * width + v - 1]
            xa[j * width] = a_before
            for v in range(width - 1):
                xh[j * width + v] = xh[j * width + v + 1]
            xh[j * width + width - 1] = h_after

        states(xa, xb, entry, acc(0), row * tiles + tile, tile, state, early, given)

        final = 0 if reverse else n - 1             # the step after which comes h0
        for j in range(vectors):
            x = entry[j]
            m_j = low + j * stride * lanes
            for v in range(width):
                x = xa[j * width + v] * x + xb[j * width + v]
                xb[j * width + v] = x
                xh[j * width + v] *= x
                if h0 != 0 and n > 0 and (m_j + width - 1 - v if reverse else m_j + v) == final:
                    store(grad_h0, row, load(a, a_row + final * a_time) * x)
        write(grad_b, start, low, n, xb)
        write_a(grad_a, start, low, n, xh)

    return scan_rows_backward
