"""The scan along an axis with others behind it in memory, (..., length, inner), and its gradient.

Neighbouring lanes take neighbouring columns, `across` lanes of `width` columns each, so a warp reads whole stretches of
memory; its remaining lanes, and the warps, take successive chunks of `steps` steps of time:

    warp 0:   lanes 0 .. across - 1: steps 0 .. 3  |  the next `across` lanes: steps 4 .. 7  |  ...      warp 1:  ...

A thread folds its steps into one pair (A, B) a column. The pairs are scanned over the lanes, over the warps and over
the tiles as in `cuda_rows`, which tells of the look-back and of infinity and NaN; then the thread runs its steps from
the state it found.
"""

from functools import lru_cache

import numpy as np

from .._cuda import cuda
from .._device import LANES, accumulator, any_thread, board, memory, shuffle, shuffle_up, ticket


@lru_cache(maxsize=None)
def tile_scanner(dtype, width, steps, across, warps, look_back):
    """The device function `states` that both kernels share: from a thread's steps, the states before them; carry becomes the last."""
    acc = accumulator(dtype)
    publish_pair, publish_state, peek = board(dtype).publish_pair, board(dtype).publish_state, board(dtype).peek
    ranks = LANES // across                             # of time, in a warp
    doublings = ranks.bit_length() - 1
    columns, last_lane = across * width, LANES - across

    @cuda.jit(device=True)
    def scan_lanes(A, B, rank):
        """The pairs of ranks 0 .. rank, composed."""
        for doubling in range(doublings):
            A_before, B_before = shuffle_up(A, across << doubling), shuffle_up(B, across << doubling)
            if rank >= 1 << doubling:
                B = A * B_before + B
                A = A * A_before
        return A, B

    @cuda.jit(device=True)
    def walk(xa, xb, entry, x, rank, warp):
        """The states before each chunk in the order of time: one rank after the other. x: in, the state before the tile; out, after."""
        handed = cuda.shared.array(columns, acc)
        lane = cuda.threadIdx.x % across
        for w in range(warps):
            for turn in range(ranks):
                for v in range(width):
                    if turn == rank and w == warp:
                        entry[v] = x[v]
                    after = x[v]
                    for k in range(steps):
                        after = xa[k * width + v] * after + xb[k * width + v]
                    x[v] = shuffle(after, turn * across + lane)
            if w == warp and rank == 0:
                for v in range(width):
                    handed[lane * width + v] = x[v]
            cuda.syncthreads()                          # the next warp may read the states
            for v in range(width):
                x[v] = handed[lane * width + v]
            cuda.syncthreads()                          # all have read before they are written again

    @cuda.jit(device=True)
    def look(carry, group, tile, tiles, state, rank, warp):
        """carry: the last states of tile - 1. Each rank of time reads one earlier tile, the last rank of the last warp the nearest."""
        warp_A = cuda.shared.array((warps, columns), acc)
        warp_B = cuda.shared.array((warps, columns), acc)
        lane = cuda.threadIdx.x % across
        t = tile - warps * ranks + warp * ranks + rank
        here = (group * tiles + t) * columns + lane * width
        for v in range(width):
            kind, A, B = 0, acc(1), acc(0)
            while t >= 0 and (kind == 0 or (kind == 1 and rank == 0 and warp == 0)):     # the farthest has to be a state
                kind, A, B = peek(state, here + v)
            if t < 0:
                A, B = acc(1), acc(0)
            A, B = scan_lanes(A, B, rank)
            if rank == ranks - 1:
                warp_A[warp, lane * width + v], warp_B[warp, lane * width + v] = A, B
        cuda.syncthreads()                              # every warp's pairs are there
        for v in range(width):
            A, B = acc(1), acc(0)
            for w in range(warps):
                B = warp_A[w, lane * width + v] * B + warp_B[w, lane * width + v]
                A = warp_A[w, lane * width + v] * A
            if A * acc(0) + B * acc(0) != acc(0):       # not finite: trust no composition, wait for the state itself
                kind = 0
                while kind != 2:
                    kind, A, B = peek(state, (group * tiles + tile - 1) * columns + lane * width + v)
            carry[v] = B

    @cuda.jit(device=True)
    def states(xa, xb, entry, carry, group, tile, tiles, state):
        warp_A = cuda.shared.array((2, warps, columns), acc)    # by turns: a block's next tile writes one while this one is read
        warp_B = cuda.shared.array((2, warps, columns), acc)
        before_A = cuda.local.array(width, acc)         # what this warp does before this thread's steps
        before_B = cuda.local.array(width, acc)
        lane = cuda.threadIdx.x % across
        rank = cuda.threadIdx.x % LANES // across
        warp = cuda.threadIdx.x // LANES
        turn = tile % 2
        odd = acc(0)                                    # becomes NaN when a pair is not finite
        for v in range(width):
            A, B = xa[v], xb[v]
            for k in range(1, steps):
                B = xa[k * width + v] * B + xb[k * width + v]
                A = xa[k * width + v] * A
            if ranks > 1:
                A, B = scan_lanes(A, B, rank)
            odd += A * acc(0) + B * acc(0)
            if rank == ranks - 1:
                warp_A[turn, warp, lane * width + v], warp_B[turn, warp, lane * width + v] = A, B
            if ranks > 1:
                A, B = shuffle_up(A, across), shuffle_up(B, across)
            if rank == 0:
                A, B = acc(1), acc(0)
            before_A[v], before_B[v] = A, B
            if carry[v] == carry[v]:                    # infinity has to be walked; a NaN makes NaN either way
                odd += carry[v] * acc(0)
        strange = any_thread(odd != acc(0))             # every warp's pairs are there

        first = rank == 0 and warp == 0
        here = (group * tiles + tile) * columns + lane * width
        if look_back:
            if tile > 0:
                for v in range(width):
                    A, B = acc(1), acc(0)
                    for w in range(warps):
                        B = warp_A[turn, w, lane * width + v] * B + warp_B[turn, w, lane * width + v]
                        A = warp_A[turn, w, lane * width + v] * A
                    if first and not strange and A * acc(0) + B * acc(0) == acc(0):
                        publish_pair(state, here + v, A, B)
                look(carry, group, tile, tiles, state, rank, warp)
                odd = acc(0)
                for v in range(width):
                    if carry[v] == carry[v]:
                        odd += carry[v] * acc(0)
                strange = any_thread(strange or odd != acc(0))      # one decision: the block's threads walk together

        if strange:
            walk(xa, xb, entry, carry, rank, warp)
        else:
            for v in range(width):
                B = carry[v]
                for w in range(warps):
                    if w == warp:
                        entry[v] = before_A[v] * B + before_B[v]
                    B = warp_A[turn, w, lane * width + v] * B + warp_B[turn, w, lane * width + v]
                carry[v] = B
        if look_back and first:
            for v in range(width):
                publish_state(state, here + v, carry[v])

    return states


@lru_cache(maxsize=None)
def access(dtype, width, vectorised):
    """The device function `read_a`: one step of a's columns."""
    load, load_vector = memory(dtype, width).load, memory(dtype, width).load_vector

    @cuda.jit(device=True)
    def read_a(a, step, columns, x, at):
        if vectorised:
            load_vector(a, step + columns[0], x, at)
        else:
            for v in range(width):
                x[at + v] = load(a, step + columns[v])

    return read_a


@lru_cache(maxsize=None)
def forward(dtype, reverse, same, vector_a, width, steps, across, warps, look_back):
    """The kernel for h_t = a_t h_{t-1} + b_t on C-contiguous b and h of shape (outer, length, inner).

    Launch: with look_back one block a tile, else one block a group of columns, which it goes through tile by tile.
    Threads: warps * LANES. A block owns across * width columns of one outer index for warps * (LANES / across) * steps
    steps; a thread owns `width` columns for `steps` steps. width > 1 divides inner: a vector lies in one row of
    columns. Shared memory: a pair for every warp and column, and the ticket. Barriers: in `states`; and one so that all
    threads see the ticket. vector_a: read a by vectors. same: a lies as b does, and `layout` is empty; else it is
    (split, outer, inner, time, column split, column outer, column inner): column c of outer index o starts at o //
    split * outer + o % split * inner, and likewise for c.
    """
    acc = accumulator(dtype)
    touch = memory(dtype, width)
    load, load_vector, store_vector = touch.load, touch.load_vector, touch.store_vector
    read_a = access(dtype, width, vector_a)
    slots = board(dtype).slots
    states = tile_scanner(dtype, width, steps, across, warps, look_back)
    size, ranks, columns = width * steps, LANES // across, across * width

    @cuda.jit
    def scan_columns(a, b, h, h0, groups, length, inner, tiles, layout, state):
        xa = cuda.local.array(size, acc)
        xb = cuda.local.array(size, acc)
        entry = cuda.local.array(width, acc)
        carry = cuda.local.array(width, acc)
        a_columns = cuda.local.array(width, np.int64)
        drawn = cuda.shared.array(1, np.int64)
        group, tile, last_tile = cuda.blockIdx.x, 0, tiles
        if look_back:
            if cuda.threadIdx.x == 0:
                drawn[0] = ticket(state, slots * groups * tiles * columns)
            cuda.syncthreads()                          # the ticket is there
            tile = drawn[0] // groups
            group = drawn[0] - tile * groups
            last_tile = tile + 1

        per_outer = (inner + columns - 1) // columns
        outer = group // per_outer
        column = (group - outer * per_outer) * columns + cuda.threadIdx.x % across * width
        here = column < inner
        origin = outer * length * inner + column
        a_origin, a_time = origin, inner
        for v in range(width):
            a_columns[v] = v
        if not same:
            split, a_outer, a_inner, a_time, a_split, a_column_outer, a_column_inner = layout
            a_origin = outer // split * a_outer + outer % split * a_inner
            for v in range(width):
                a_columns[v] = (column + v) // a_split * a_column_outer + (column + v) % a_split * a_column_inner
        for v in range(width):
            carry[v] = acc(0)
            if h0 != 0 and here and tile == 0:
                carry[v] = load(h0, outer * inner + column + v)

        while tile < last_tile:
            start = ((tile * warps + cuda.threadIdx.x // LANES) * ranks + cuda.threadIdx.x % LANES // across) * steps
            for k in range(steps):
                t = length - 1 - start - k if reverse else start + k
                if here and start + k < length:
                    load_vector(b, origin + t * inner, xb, k * width)
                    read_a(a, a_origin + t * a_time, a_columns, xa, k * width)
                else:
                    for v in range(width):
                        xa[k * width + v], xb[k * width + v] = acc(1), acc(0)

            states(xa, xb, entry, carry, group, tile, tiles, state)

            for v in range(width):
                x = entry[v]
                for k in range(steps):
                    x = xa[k * width + v] * x + xb[k * width + v]
                    xb[k * width + v] = x
            for k in range(steps):
                t = length - 1 - start - k if reverse else start + k
                if here and start + k < length:
                    store_vector(h, origin + t * inner, xb, k * width)
            tile += 1

    return scan_columns


@lru_cache(maxsize=None)
def backward(dtype, reverse, same, vector_a, width, steps, across, warps, look_back, grad_a_dtype):
    """The kernel for the gradient on columns: g_t = grad_t + a_{t+1} g_{t+1} from the last step to the first (`reverse`), or mirrored.

    Launch, ownership, shared memory and barriers are those of `forward`. In the order in which the scan runs, the decay
    of a step is `a` of the step before, and grad_a is g times h of the step after; after the last step of all comes h0.
    """
    acc = accumulator(dtype)
    touch, touch_a = memory(dtype, width), memory(grad_a_dtype, width)
    load_vector, store, store_vector = touch.load_vector, touch.store, touch.store_vector
    store_a, store_vector_a = touch_a.store, touch_a.store_vector
    vector_grad_a = dtype == grad_a_dtype               # else a vector would be wider than 16 bytes
    read_a = access(dtype, width, vector_a)
    slots = board(dtype).slots
    states = tile_scanner(dtype, width, steps, across, warps, look_back)
    size, ranks, columns = width * steps, LANES // across, across * width
    ahead = -1 if reverse else 1                        # from one step of the scan to the next, in memory

    @cuda.jit
    def scan_columns_backward(grad, a, h, h0, grad_a, grad_b, grad_h0, groups, length, inner, tiles, layout, state):
        xa = cuda.local.array(size, acc)
        xb = cuda.local.array(size, acc)
        xh = cuda.local.array(size, acc)
        entry = cuda.local.array(width, acc)
        carry = cuda.local.array(width, acc)
        a_columns = cuda.local.array(width, np.int64)
        drawn = cuda.shared.array(1, np.int64)
        group, tile, last_tile = cuda.blockIdx.x, 0, tiles
        if look_back:
            if cuda.threadIdx.x == 0:
                drawn[0] = ticket(state, slots * groups * tiles * columns)
            cuda.syncthreads()                          # the ticket is there
            tile = drawn[0] // groups
            group = drawn[0] - tile * groups
            last_tile = tile + 1

        per_outer = (inner + columns - 1) // columns
        outer = group // per_outer
        column = (group - outer * per_outer) * columns + cuda.threadIdx.x % across * width
        here = column < inner
        origin = outer * length * inner + column
        a_origin, a_time = origin, inner
        for v in range(width):
            a_columns[v] = v
        if not same:
            split, a_outer, a_inner, a_time, a_split, a_column_outer, a_column_inner = layout
            a_origin = outer // split * a_outer + outer % split * a_inner
            for v in range(width):
                a_columns[v] = (column + v) // a_split * a_column_outer + (column + v) % a_split * a_column_inner
        for v in range(width):
            carry[v] = acc(0)

        while tile < last_tile:
            start = ((tile * warps + cuda.threadIdx.x // LANES) * ranks + cuda.threadIdx.x % LANES // across) * steps
            for k in range(steps):
                s = start + k
                t = length - 1 - s if reverse else s
                for v in range(width):
                    xa[k * width + v], xb[k * width + v], xh[k * width + v] = acc(1), acc(0), acc(0)
                if here and s < length:
                    load_vector(grad, origin + t * inner, xb, k * width)
                    if s > 0:
                        read_a(a, a_origin + (t - ahead) * a_time, a_columns, xa, k * width)
                    if s + 1 < length:
                        load_vector(h, origin + (t + ahead) * inner, xh, k * width)
                    elif h0 != 0:
                        load_vector(h0, outer * inner + column, xh, k * width)

            states(xa, xb, entry, carry, group, tile, tiles, state)

            for v in range(width):
                x = entry[v]
                for k in range(steps):
                    x = xa[k * width + v] * x + xb[k * width + v]
                    xb[k * width + v] = x
                    xh[k * width + v] *= x
            for k in range(steps):
                s = start + k
                t = length - 1 - s if reverse else s
                if here and s < length:
                    store_vector(grad_b, origin + t * inner, xb, k * width)
                    if vector_grad_a:
                        store_vector_a(grad_a, origin + t * inner, xh, k * width)
                    else:
                        for v in range(width):
                            store_a(grad_a, origin + t * inner + v, xh[k * width + v])
                    if h0 != 0 and s == length - 1:
                        read_a(a, a_origin + t * a_time, a_columns, xa, k * width)
                        for v in range(width):
                            store(grad_h0, outer * inner + column + v, xa[k * width + v] * xb[k * width + v])
            tile += 1

    return scan_columns_backward
