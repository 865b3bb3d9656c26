"""What goes before the kernels that work on chunks of time at once: how each chunk changes the state, and then the states between chunks.

A chunk takes a state h to decay * h + end, with end the state it reaches from zero, and decay = exp(A * the sum of its dt):
one exponential a state, whatever the chunk's length. Backward, it takes the gradient g of the state after it to
decay * g + carry, where carry = sum_t (a_first ... a_t) C_t dy_t. `sweep` computes end, carry and the sum of dt of all
chunks at once; `between` goes from chunk to chunk.

For the backward pass the sweep also leaves marks: the state, and the sum of dt, before every `span` steps. With a span of
16 that is N / 16 numbers a channel and step; from a mark the states of the span are computed again where they are needed.

A chunk, or what lies of it before a mark, that holds the start of a new sequence keeps nothing of the state before it; its
sum of dt is set to NaN to say so.
"""

from functools import lru_cache

import numpy as np

from .._cuda import cuda
from .._device import exp2, memory, room
from .cuda_math import LOG2E, NAN, ONE, ZERO, gate_and_slope, step_and_slope
from .cuda_stage import column, matrix, standing, starts

BATCH = 8                                               # chunks whose numbers `between` asks for at once


@lru_cache(maxsize=None)
def sweep(dtype, states, split, channels, tile, softplus, gated, resets, carried, span):
    """The kernel for end, and the sum of dt; carried: also carry; span: also the marks, if not 0.

    Launch, ownership and barriers are those of `forward`, save that there are no sums of y. Shared memory: dt, dt * u and
    dy of the tile's steps, the rows of B and C. Its results lie as (batch, chunks, N, D), so that neighbouring threads
    write neighbouring numbers; the marks likewise, with a span of the whole length for each chunk; sums of dt have no
    N. rates: A as the decays use it, (N, D). An address of 0: not wanted.

    Counts, a state and step: dt * A, ex2, dt u * B, h; carried: 3 more.
    """
    threads, some, each = channels * split, -(-states // split), -(-tile // split)
    padded = some * split
    vector = 4 if some % 4 == 0 else 2 if some % 2 == 0 else 1
    shift, mask = channels.bit_length() - 1, channels - 1
    stand, ask, cuts = standing(channels), column(dtype, each, split), starts(tile)
    count, ask_rows, put_rows = matrix(dtype, states, padded, tile, threads, (2 * padded, 1))
    touch, plain = memory(dtype, 1), memory("float32", 1)
    raw, widen, load, store = touch.raw, touch.widen, plain.load, plain.store
    words = 4 if carried else 2                         # of a step and channel: dt, dt * u, dy, nothing
    put_step, get_step = memory("float32", words, shared=True).store_vector, memory("float32", words, shared=True).load_vector
    get_some = memory("float32", vector, shared=True).load_vector
    steps_room, rows_room = room("float32", words * tile * channels), room("float32", 2 * tile * padded)

    @cuda.jit
    def selective_sweep(grad_y, u, delta, z, A, B, C, bias, entry, reset, rates, marks, mark_sums, ends, end_sums, carries, sizes):
        A_n = cuda.local.array(some, np.float32)
        h = cuda.local.array(some, np.float32)
        product = cuda.local.array(some, np.float32)           # of the decays so far
        carry = cuda.local.array(some, np.float32)
        B_n = cuda.local.array(some, np.float32)
        C_n = cuda.local.array(some, np.float32)
        step = cuda.local.array(words, np.float32)
        next_u = cuda.local.array(each, raw)
        next_delta = cuda.local.array(each, raw)
        next_z = cuda.local.array(each, raw)
        next_grad = cuda.local.array(each, raw)
        next_B = cuda.local.array(count, raw)
        next_C = cuda.local.array(count, raw)
        steps, rows = steps_room(), rows_room()
        me = cuda.threadIdx.x
        part, c = me >> shift, me & mask
        length, width, groups, _, chunk, chunks = sizes
        b, k, start, stop, g, _, d, live = stand(sizes, c)
        D_all, row_step = width * groups, groups * states

        offset, passed = ZERO, ZERO                     # passed: the sum of dt so far
        if live and bias != 0:
            offset = load(bias, d)
        for i in range(some):
            n = part * some + i
            A_n[i], h[i], product[i], carry[i] = ZERO, ZERO, ONE, ZERO
            if live and n < states:
                A_n[i] = load(A, d * states + n) * LOG2E
                if entry != 0:
                    h[i] = load(entry, (b * D_all + d) * states + n)
                if rates != 0 and b == 0 and k == 0:
                    store(rates, n * D_all + d, A_n[i])

        at, at_row, left = (b * length + start + part) * D_all + d, ((b * length + start) * groups + g) * states, stop - start
        mine = left - part if live and part < tile else 0
        mark = 0
        if span:
            mark = b * ((length + span - 1) // span) + start // span
        ask(u, at, D_all, mine, next_u)
        ask(delta, at, D_all, mine, next_delta)
        ask_rows(B, at_row, row_step, left, 0, next_B)
        if carried:
            ask(grad_y, at, D_all, mine, next_grad)
            if gated:
                ask(z, at, D_all, mine, next_z)
            ask_rows(C, at_row, row_step, left, 0, next_C)
        while left > 0:
            for j in range(each):
                dt = widen(next_delta[j]) + offset
                if softplus:
                    dt, _ = step_and_slope(dt)
                if j * split >= mine:
                    dt = ZERO                           # a step that is not there: the state stays
                step[0], step[1] = dt, dt * widen(next_u[j])
                if carried:
                    step[2], step[3] = widen(next_grad[j]), ZERO
                    if gated:
                        gate, _ = gate_and_slope(widen(next_z[j]))
                        step[2] *= gate
                if split <= tile or part < tile:
                    put_step(steps, words * ((j * split + part) * channels + c), step, 0)
            put_rows(next_B, rows, 0)
            if carried:
                put_rows(next_C, rows, padded)
            cuda.syncthreads()                          # the tile is there

            begin = stop - left
            if span and begin % span == 0:
                if live:
                    for i in range(some):
                        n = part * some + i
                        if n < states:
                            store(marks, (mark * states + n) * D_all + d, h[i])
                    if part == 0:
                        store(mark_sums, mark * D_all + d, passed)
                mark += 1
            at += tile * D_all
            at_row += tile * row_step
            ask(u, at, D_all, mine - tile, next_u)
            ask(delta, at, D_all, mine - tile, next_delta)
            ask_rows(B, at_row, row_step, left - tile, 0, next_B)
            if carried:
                ask(grad_y, at, D_all, mine - tile, next_grad)
                if gated:
                    ask(z, at, D_all, mine - tile, next_z)
                ask_rows(C, at_row, row_step, left - tile, 0, next_C)

            new = cuts(reset, b * length + begin, left) if resets else 0
            for t in range(tile):
                get_step(steps, words * (t * channels + c), step, 0)
                for i in range(0, some, vector):
                    get_some(rows, 2 * t * padded + part * some + i, B_n, i)
                    if carried:
                        get_some(rows, (2 * t + 1) * padded + part * some + i, C_n, i)
                passed += step[0]
                if resets and (new >> t) & 1:
                    step[0], passed = ZERO, NAN
                    for i in range(some):
                        h[i], product[i] = ZERO, ZERO
                for i in range(some):
                    a = exp2(step[0] * A_n[i])
                    h[i] = a * h[i] + step[1] * B_n[i]
                    if carried:
                        product[i] *= a
                        carry[i] += product[i] * step[2] * C_n[i]
            cuda.syncthreads()                          # the tile has been used
            left -= tile
            mine -= tile

        if ends != 0 and live:
            for i in range(some):
                n = part * some + i
                if n < states:
                    store(ends, ((b * chunks + k) * states + n) * D_all + d, h[i])
                    if carried:
                        store(carries, ((b * chunks + k) * states + n) * D_all + d, carry[i])
            if part == 0:
                store(end_sums, (b * chunks + k) * D_all + d, passed)

    return selective_sweep


@lru_cache(maxsize=None)
def between():
    """The kernel that turns the ends of chunks into the states at their starts, in place; and carries into the gradients at their ends.

    Launch: a thread for each entry of the batch, state and channel; channels are neighbours. It asks for the numbers of
    BATCH chunks before it needs the first, since each answer takes as long as a thousand additions.
    """
    load, store = memory("float32", 1).load, memory("float32", 1).store

    @cuda.jit
    def selective_between(A, ends, end_sums, carries, initial, grad_last, batch, chunks, states, channels):
        change = cuda.local.array(BATCH, np.float32)
        decay = cuda.local.array(BATCH, np.float32)
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        d, rest = i % channels, i // channels
        n, b = rest % states, rest // states
        if b < batch:
            rate = load(A, d * states + n) * LOG2E
            for backward in range(2):
                place, x = ends, ZERO
                if backward == 0 and initial != 0:
                    x = load(initial, (b * channels + d) * states + n)
                if backward == 1:
                    place = carries
                    if grad_last != 0:
                        x = load(grad_last, (b * channels + d) * states + n)
                if backward == 0 or carries != 0:
                    for first in range(0, chunks, BATCH):
                        for j in range(BATCH):
                            k = chunks - 1 - first - j if backward == 1 else first + j
                            change[j], decay[j] = ZERO, ZERO
                            if first + j < chunks:
                                change[j] = load(place, ((b * chunks + k) * states + n) * channels + d)
                                decay[j] = load(end_sums, (b * chunks + k) * channels + d)
                        for j in range(BATCH):
                            k = chunks - 1 - first - j if backward == 1 else first + j
                            if first + j < chunks:
                                store(place, ((b * chunks + k) * states + n) * channels + d, x)
                                x = change[j] + (exp2(rate * decay[j]) * x if decay[j] == decay[j] else ZERO)

    return selective_between
