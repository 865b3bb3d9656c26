"""The selective scan on a card: y from u, delta, A, B, C, with the states in registers.

What bounds it, for a channel and step with N = 16, on a Hopper multiprocessor (a warp instruction of 32 such at a time):

    special-function unit   16 ex2 for the decays, 1 for softplus, 2 for the gate; a quarter of a warp a cycle and
                            scheduler: 152 cycles of 32 channels and a step
    issue slots             5 a state (dt * A, ex2, dt u * B, h, y) = 80, and 20 for B, C and the loop; about 75 for the
                            step itself: addresses, softplus, gate. (Counted in sm_90's code, one thread a channel.)
    shared memory           B and C, 2 N numbers, 4 to an instruction, the same address in all lanes
    memory                  u, delta, z read once, y written once

So issue slots and exponentials decide, close to each other, at more than the time of the bytes even in float32; where
time is cut, the exponentials. A second pass over time repeats them all; therefore time is cut in chunks only where
channels and states together do not make enough threads.
"""

from functools import lru_cache

import numpy as np

from .._cuda import cuda
from .._device import exp2, memory, room
from .cuda_math import LOG2E, ZERO, gate_and_slope, step_and_slope
from .cuda_stage import column, matrix, standing, starts


@lru_cache(maxsize=None)
def forward(dtype, states, split, channels, tile, unrolled, softplus, gated, resets):
    """The kernel for y, and the last state.

    Launch: a block for each entry of the batch, chunk of time and slab of channels; channels * split threads. A block
    owns `channels` channels over its chunk. A thread owns one channel and 1 / split of its states, which stay in
    registers while it goes through time: thread part * channels + c, so that the lanes of a warp have neighbouring
    channels and, unless channels < 32, the same states, whose B and C they read at the same address. For each tile of
    time, the threads also prepare tile / split steps of their channel, and finish them.

    Shared memory: dt and dt * u of the tile's steps; its rows of B and C; what each thread adds to y. Barriers, two a
    tile: one when the steps and rows are there; one when they have been used, and the sums are there. What comes next
    from memory is asked for before the tile's arithmetic and widened after it.

    entry: the states at the start of each chunk, (batch * chunks, *) with strides for the state and the channel, or 0.
    split and unrolled divide tile, or split is a multiple of it; channels is a power of two.
    """
    threads, some, each = channels * split, -(-states // split), -(-tile // split)
    padded = some * split                               # states, so that all parts have as many
    vector = 4 if some % 4 == 0 else 2 if some % 2 == 0 else 1
    shift, mask = channels.bit_length() - 1, channels - 1
    stand, ask, cuts = standing(channels), column(dtype, each, split), starts(tile)
    count, ask_rows, put_rows = matrix(dtype, states, padded, tile, threads, (2 * padded, 1))
    touch, plain, shared = memory(dtype, 1), memory("float32", 1), memory("float32", 1, shared=True)
    raw, widen, write = touch.raw, touch.widen, touch.store
    load, store, put, get = plain.load, plain.store, shared.store, shared.load
    put_pair, get_pair = memory("float32", 2, shared=True).store_vector, memory("float32", 2, shared=True).load_vector
    get_some = memory("float32", vector, shared=True).load_vector
    steps_room, rows_room, sums_room = room("float32", 2 * tile * channels), room("float32", 2 * tile * padded), room("float32", tile * threads)

    @cuda.jit
    def selective_scan(u, delta, z, A, B, C, D, bias, entry, by_state, by_channel, reset, y, last, sizes):
        A_n = cuda.local.array(some, np.float32)
        h = cuda.local.array(some, np.float32)
        B_n = cuda.local.array(some, np.float32)
        C_n = cuda.local.array(some, np.float32)
        pair = cuda.local.array(2, np.float32)
        total = cuda.local.array(unrolled, np.float32)
        u_t = cuda.local.array(each, np.float32)
        z_t = cuda.local.array(each, np.float32)
        next_u = cuda.local.array(each, raw)
        next_delta = cuda.local.array(each, raw)
        next_z = cuda.local.array(each, raw)
        next_B = cuda.local.array(count, raw)
        next_C = cuda.local.array(count, raw)
        steps, rows, sums = steps_room(), rows_room(), sums_room()
        me = cuda.threadIdx.x
        part, c = me >> shift, me & mask
        length, width, groups, _, _, chunks = sizes
        b, k, start, stop, g, _, d, live = stand(sizes, c)
        D_all, row_step = width * groups, groups * states

        offset, skip = ZERO, ZERO
        if live and bias != 0:
            offset = load(bias, d)
        if live and D != 0:
            skip = load(D, d)
        for i in range(some):
            n = part * some + i
            A_n[i], h[i] = ZERO, ZERO
            if live and n < states:
                A_n[i] = load(A, d * states + n) * LOG2E
                if entry != 0:
                    h[i] = load(entry, (b * chunks + k) * D_all * states + n * by_state + d * by_channel)

        at, at_row, left = (b * length + start + part) * D_all + d, ((b * length + start) * groups + g) * states, stop - start
        mine = left - part if live and part < tile else 0       # how far the steps go that the thread prepares
        ask(u, at, D_all, mine, next_u)
        ask(delta, at, D_all, mine, next_delta)
        if gated:
            ask(z, at, D_all, mine, next_z)
        ask_rows(B, at_row, row_step, left, 0, next_B)
        ask_rows(C, at_row, row_step, left, 0, next_C)
        while left > 0:
            for j in range(each):
                dt = widen(next_delta[j]) + offset
                if softplus:
                    dt, _ = step_and_slope(dt)
                if j * split >= mine:
                    dt = ZERO                           # a step that is not there: the state stays
                u_t[j] = widen(next_u[j])
                if gated:
                    z_t[j] = widen(next_z[j])
                pair[0], pair[1] = dt, dt * u_t[j]
                if split <= tile or part < tile:
                    put_pair(steps, 2 * ((j * split + part) * channels + c), pair, 0)
            put_rows(next_B, rows, 0)
            put_rows(next_C, rows, padded)
            cuda.syncthreads()                          # the tile is there

            here, begin = at, stop - left
            at += tile * D_all
            at_row += tile * row_step
            ask(u, at, D_all, mine - tile, next_u)
            ask(delta, at, D_all, mine - tile, next_delta)
            if gated:
                ask(z, at, D_all, mine - tile, next_z)
            ask_rows(B, at_row, row_step, left - tile, 0, next_B)
            ask_rows(C, at_row, row_step, left - tile, 0, next_C)

            new = cuts(reset, b * length + begin, left) if resets else 0
            for first in range(0, tile, unrolled):
                for s in range(unrolled):
                    t = first + s
                    get_pair(steps, 2 * (t * channels + c), pair, 0)
                    for i in range(0, some, vector):
                        get_some(rows, 2 * t * padded + part * some + i, B_n, i)
                        get_some(rows, (2 * t + 1) * padded + part * some + i, C_n, i)
                    if resets and (new >> t) & 1:
                        pair[0] = ZERO
                        for i in range(some):
                            h[i] = ZERO
                    total[s] = ZERO
                    for i in range(some):
                        h[i] = exp2(pair[0] * A_n[i]) * h[i] + pair[1] * B_n[i]
                        total[s] += C_n[i] * h[i]
                for s in range(unrolled):
                    put(sums, (first + s) * threads + me, total[s])
            cuda.syncthreads()                          # the tile has been used, the sums are there

            for j in range(each):
                if j * split < mine:
                    y_t = skip * u_t[j]
                    for p in range(split):
                        y_t += get(sums, (j * split + part) * threads + p * channels + c)
                    if gated:
                        gate, _ = gate_and_slope(z_t[j])
                        y_t *= gate
                    write(y, here + j * split * D_all, y_t)
            left -= tile
            mine -= tile

        if last != 0 and stop == length and live:
            for i in range(some):
                if part * some + i < states:
                    store(last, (b * D_all + d) * states + part * some + i, h[i])

    return selective_scan
