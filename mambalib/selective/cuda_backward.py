"""The gradient of the selective scan on a card, with every state computed again and none kept but one in 16.

With dy the gradient of y before the gate, a = exp(dt A) and g_t what reaches the state h_t in all,

    g_t  = C_t dy_t + a_{t+1} g_{t+1}
    grad_C_t = sum_d dy_t h_t                       grad_B_t = sum_d dt_t u_t g_t
    grad_A = sum_t dt_t q_t                         with q_t = a_t g_t h_{t-1}
    grad_dt_t = u_t s_t + sum_n A q_t               with s_t = sum_n B_t g_t
    grad_u_t = dt_t s_t + D dy_t

A thread owns a channel and takes the states one after the other, n outermost, over a span of 16 steps: then what belongs
to a step (dt, dt * u, dy, s, ...) and what belongs to a state and step (a, h) are both in registers, and the sums over n
need no exchange. grad_B and grad_C do: they are sums over channels, so over lanes. For a state and span a lane has 32
values to be summed over 32 lanes, and `folder` does it in 31 shuffles: each halves how many values a lane has, while the
lanes that hold a value's parts halve, too; in the end each lane has one sum.

Counts, a state and step, of issue slots: forward again 4 (dt * A, ex2, dt u * B, h); back 9; shuffles and what goes with them
10 (for each of two sums, near enough one shuffle, two selections and an addition); B and C from shared memory 1/2; addresses and
the loop 4. In sm_90's code that is 28 N = 450 at N = 16, beside 140 for the step itself (addresses, softplus, gate), and
before it 9 N + 88 in `sweep`. The special-function unit would be done in 8 * (N + 5) = 170 cycles here: issue slots decide.
"""

from functools import lru_cache

import numpy as np

from .._cuda import cuda
from .._device import LANES, exp2, memory, room, shuffle_xor
from .cuda_math import LN2, ONE, ZERO, gate_and_slope, step_and_slope
from .cuda_stage import column, matrix, standing, starts


@lru_cache(maxsize=None)
def folder(values):
    """The device function `fold`, values (a power of two) summed over the lanes of a warp, each in a lane of its own.

    With 8 lanes and values, what lane l has after each exchange:

        v0 .. v7 of its own  ->  v0 .. v3 (l < 4) or v4 .. v7, of l and l ^ 4  ->  two of them, of 4 lanes  ->  v_l, of all

    With more values than lanes a lane keeps values / LANES of them, x[i] being sum l * (values / LANES) + i; with fewer,
    LANES / values neighbours have the same sum.
    """

    def exchange(half, distance):
        @cuda.jit(device=True)
        def one(x, lane):
            if half:
                upper = (lane & distance) != 0
                for i in range(half):
                    low, high = x[i], x[half + i]
                    x[i] = (high if upper else low) + shuffle_xor(low if upper else high, distance)
            else:
                x[0] += shuffle_xor(x[0], distance)
        return one

    def both(first, then):
        @cuda.jit(device=True)
        def two(x, lane):
            first(x, lane)
            then(x, lane)
        return two

    fold, half, distance = None, values // 2, LANES // 2
    while distance:
        last = exchange(half, distance)
        fold = both(fold, last) if fold else last
        half, distance = half // 2, distance // 2
    return fold


@lru_cache(maxsize=None)
def backward(dtype, states, threads, span, at_once, softplus, gated, resets, chunked):
    """The kernel for the gradients with respect to u, delta and z, and for what each block adds to the others.

    Launch: a block for each entry of the batch, chunk of time and slab of channels, as in `forward`; threads: channels of
    a slab, a multiple of LANES. A block goes through its chunk backward, a span at a time; a thread owns a channel, and
    keeps for each of its states the gradient that comes from later steps in `carries`, which no other thread touches.

    marks, mark_sums: from `sweep`. chunked: marks are states reached from zero, to which comes entries, the state before
    the chunk, as far as it has decayed; carries is what comes from later chunks. Else marks are the states, and
    grad_last comes from after the last step.

    Shared memory: the rows of B and C, `at_once` states of them, time running fastest; what of a step is needed only after
    the states (u, the slopes of softplus and gate), each thread its own; the warps' sums of grad_B and grad_C. Barriers,
    two for every `at_once` states: one when the rows are there, and the sums before have been read; one when the rows
    have been used, and the sums are there.

    Results that are sums over more than the block: parts (batch, slabs, length, 2, N), of grad_B and grad_C; grad_rates
    (batch, chunks, N, D), of grad_A; grad_steps (batch, chunks, 2, D), of grad_D and the gradient of the bias.
    """
    warps, turns = threads // LANES, -(-states // at_once)
    values = 2 * span                                   # of grad_B and grad_C, for a state
    pitch, sum_pitch = values + 4, values + 1           # of a state in shared memory: 16-byte rows; neighbours in other banks
    kept, alike = max(values // LANES, 1), max(LANES // values, 1)
    some = span // 2                                    # steps that a thread asks for at once
    stand, ask, cuts, fold = standing(threads), column(dtype, some, 1), starts(span), folder(values)
    count, ask_rows, put_rows = matrix(dtype, states, at_once, span, threads, (1, pitch))
    touch, plain, shared = memory(dtype, 1), memory("float32", 1), memory("float32", 1, shared=True)
    raw, widen, write = touch.raw, touch.widen, touch.store
    load, store, put, get = plain.load, plain.store, shared.store, shared.load
    get_some = memory("float32", 4, shared=True).load_vector
    rows_room, own_room = room("float32", at_once * pitch), room("float32", 3 * span * threads)
    sums_room = room("float32", warps * at_once * sum_pitch)
    each = -(-at_once * values // threads)
    ahead, rows_a_turn = touch.prefetch, LANES // 4

    @cuda.jit(device=True)
    def ask_state(there, run, rates, marks, entries, carries, grad_rates, grad_last, at_rate, at_mark, at_chunk, at_last, latest):
        """Of a state, run = n * D: its rate, what its mark says and the entry, and what comes from later steps. Nothing waits for them here."""
        rate, mark, entry, after, grad_rate = ZERO, ZERO, ZERO, ZERO, ZERO
        if there:
            rate = load(rates, at_rate + run)
            mark = load(marks, at_mark + run)
            if chunked:
                entry = load(entries, at_chunk + run)
            if chunked or not latest:
                after = load(carries, at_chunk + run)
            elif grad_last != 0:
                after = load(grad_last, at_last)
            if not latest:
                grad_rate = load(grad_rates, at_chunk + run)
        return rate, mark, entry, after, grad_rate

    @cuda.jit(device=True)
    def ask_ahead(grad_y, u, delta, z, at, D_all, lane):
        """Have a span's rows of this warp on their way to the second cache; a lane asks for some of the lines."""
        which, address = lane // rows_a_turn, u
        if which == 1:
            address = delta
        elif which == 2:
            address = grad_y
        elif which == 3:
            address = z
        if gated or which < 3:
            for first in range(0, span, rows_a_turn):
                if first + lane % rows_a_turn < span:
                    ahead(address, at - lane + (first + lane % rows_a_turn) * D_all)

    @cuda.jit
    def selective_backward(grad_y, u, delta, z, B, C, D, bias, grad_last, reset, rates, marks, mark_sums, entries, carries,
                           grad_u, grad_delta, grad_z, grad_rates, grad_steps, grad_initial, parts, sizes):
        dt = cuda.local.array(span, np.float32)
        dtu = cuda.local.array(span, np.float32)
        dy = cuda.local.array(span, np.float32)
        y = cuda.local.array(span, np.float32)
        s = cuda.local.array(span, np.float32)
        Aq = cuda.local.array(span, np.float32)
        x = cuda.local.array(values, np.float32)               # first a and h of a state, then what they add to grad_B and grad_C
        B_t = cuda.local.array(span, np.float32)
        C_t = cuda.local.array(span, np.float32)
        raw_u = cuda.local.array(some, raw)
        raw_delta = cuda.local.array(some, raw)
        raw_z = cuda.local.array(some, raw)
        raw_grad = cuda.local.array(some, raw)
        next_B = cuda.local.array(count, raw)
        next_C = cuda.local.array(count, raw)
        rows, own, sums = rows_room(), own_room(), sums_room()
        me = cuda.threadIdx.x
        lane, warp = me % LANES, me // LANES
        length, width, groups, slabs, chunk, chunks = sizes
        b, k, start, stop, g, slab, d, live = stand(sizes, me)
        D_all, row_step, spans = width * groups, groups * states, (length + span - 1) // span
        of_chunk = (b * chunks + k) * states * D_all + d

        offset, skip, grad_D, grad_bias = ZERO, ZERO, ZERO, ZERO
        if live and bias != 0:
            offset = load(bias, d)
        if live and D != 0:
            skip = load(D, d)

        begin = start + (stop - start - 1) // span * span
        at_row = ((b * length + begin) * groups + g) * states
        ask_rows(B, at_row, row_step, stop - begin, 0, next_B)
        ask_rows(C, at_row, row_step, stop - begin, 0, next_C)
        latest = True                                   # span of the chunk
        run, at_last = 0, b * D_all * states + d * states
        next_rate, next_mark, next_entry, next_after, next_grad_rate = ask_state(
            live, run, rates, marks, entries, carries, grad_rates, grad_last, d, (b * spans + begin // span) * states * D_all + d,
            of_chunk, at_last, latest)
        while begin >= start:
            left = stop - begin
            mine = left if live else 0                  # steps of the span that the thread has
            at, mark = (b * length + begin) * D_all + d, b * spans + begin // span
            for first in range(0, span, some):          # not all at once: registers
                ask(u, at + first * D_all, D_all, mine - first, raw_u)
                ask(delta, at + first * D_all, D_all, mine - first, raw_delta)
                ask(grad_y, at + first * D_all, D_all, mine - first, raw_grad)
                if gated:
                    ask(z, at + first * D_all, D_all, mine - first, raw_z)
                for j in range(some):
                    t = first + j
                    slope, u_t = ONE, widen(raw_u[j])
                    dt[t], dy[t] = widen(raw_delta[j]) + offset, widen(raw_grad[j])
                    if softplus:
                        dt[t], slope = step_and_slope(dt[t])
                    if t >= mine:
                        dt[t] = ZERO                    # a step that is not there: the state stays
                    if gated:
                        gate, gate_slope = gate_and_slope(widen(raw_z[j]))
                        put(own, (2 * span + t) * threads + me, dy[t] * gate_slope)
                        dy[t] *= gate
                    put(own, t * threads + me, u_t)
                    put(own, (span + t) * threads + me, slope)
                    dtu[t] = dt[t] * u_t
                    y[t], s[t], Aq[t] = ZERO, ZERO, ZERO
            if begin - span >= start and live:
                ask_ahead(grad_y, u, delta, z, at - span * D_all, D_all, lane)
            new = cuts(reset, b * length + begin, left) if resets else 0
            passed = ZERO
            if chunked and live:
                passed = load(mark_sums, mark * D_all + d)

            for turn in range(turns):
                put_rows(next_B, rows, 0)
                put_rows(next_C, rows, span)
                cuda.syncthreads()                      # the rows are there, the sums before have been read
                following, first = begin, (turn + 1) * at_once
                if turn == turns - 1:
                    following, first = begin - span, 0
                if following >= start:
                    at_row = ((b * length + following) * groups + g) * states
                    ask_rows(B, at_row, row_step, stop - following, first, next_B)
                    ask_rows(C, at_row, row_step, stop - following, first, next_C)

                for m in range(at_once):
                    n = turn * at_once + m
                    rate, h_0, after, grad_rate, of_state = next_rate, next_mark, next_after, next_grad_rate, of_chunk + run
                    if chunked and passed == passed:
                        h_0 += exp2(rate * passed) * next_entry
                    run += D_all                        # and ask for the next state, or the first of the span before
                    of_next, at_mark, there = n + 1, mark, live
                    if m == at_once - 1 and turn == turns - 1:
                        run, of_next, at_mark, there = 0, 0, mark - 1, live and begin - span >= start
                    next_rate, next_mark, next_entry, next_after, next_grad_rate = ask_state(
                        there and of_next < states, run, rates, marks, entries, carries, grad_rates, grad_last, d,
                        at_mark * states * D_all + d, of_chunk, at_last + of_next, latest and at_mark == mark)
                    for t in range(0, span, 4):
                        get_some(rows, m * pitch + t, B_t, t)
                        get_some(rows, m * pitch + span + t, C_t, t)

                    h = h_0
                    for t in range(span):               # forward again: a and h
                        x[t] = exp2(dt[t] * rate)
                        if resets and (new >> t) & 1:
                            x[t], h = ZERO, ZERO
                        h = x[t] * h + dtu[t] * B_t[t]
                        x[span + t] = h
                    for i in range(span):               # and back
                        t = span - 1 - i
                        grad_h = C_t[t] * dy[t] + after
                        after = x[t] * grad_h
                        before = x[span + t - 1] if t > 0 else h_0
                        if resets and (new >> t) & 1:
                            after, before = ZERO, ZERO
                        q = after * before
                        s[t] += B_t[t] * grad_h
                        Aq[t] += rate * q
                        grad_rate += dt[t] * q
                        x[t] = dtu[t] * grad_h
                        if gated:
                            y[t] += C_t[t] * x[span + t]
                        x[span + t] *= dy[t]

                    if live and n < states:
                        store(carries, of_state, after)
                        store(grad_rates, of_state, grad_rate)
                        if grad_initial != 0 and begin == 0:
                            store(grad_initial, (b * D_all + d) * states + n, after)
                    fold(x, lane)
                    if lane % alike == 0:
                        for i in range(kept):
                            put(sums, (warp * at_once + m) * sum_pitch + lane // alike * kept + i, x[i])
                cuda.syncthreads()                      # the rows have been used, the sums are there

                for j in range(each):
                    i = j * threads + me
                    v = i // at_once                    # which value, that is which step of which gradient
                    m = i - v * at_once
                    n, t, of_C = turn * at_once + m, v % span, v // span
                    if v < values and t < left and n < states:
                        total = ZERO
                        for w in range(warps):
                            total += get(sums, (w * at_once + m) * sum_pitch + v)
                        store(parts, (((b * slabs * groups + slab) * length + begin + t) * 2 + of_C) * states + n, total)

            for t in range(span):
                if t < mine:
                    u_t = get(own, t * threads + me)
                    grad_step = (u_t * s[t] + Aq[t] * LN2) * get(own, (span + t) * threads + me)
                    write(grad_u, at + t * D_all, dt[t] * s[t] + skip * dy[t])
                    write(grad_delta, at + t * D_all, grad_step)
                    if gated:
                        write(grad_z, at + t * D_all, get(own, (2 * span + t) * threads + me) * (y[t] + skip * u_t))
                    grad_D += dy[t] * u_t
                    grad_bias += grad_step
            begin -= span
            latest = False

        if live:
            store(grad_steps, (b * chunks + k) * 2 * D_all + d, grad_D)
            store(grad_steps, ((b * chunks + k) * 2 + 1) * D_all + d, grad_bias)

    return selective_backward


@lru_cache(maxsize=None)
def sums(dtype):
    """The kernel that adds what blocks and chunks found, always in the same order: the same bits on every run.

    Launch: a thread for each number of grad_B and grad_C, then of grad_A, then of grad_D and the gradient of the bias.
    """
    load, store, write = memory("float32", 1).load, memory("float32", 1).store, memory(dtype, 1).store

    @cuda.jit
    def selective_sums(parts, grad_rates, grad_steps, grad_B, grad_C, grad_A, grad_D, grad_bias, batch, states, sizes):
        length, width, groups, slabs, _, chunks = sizes
        channels = width * groups
        of_rows, of_rates = batch * length * groups * 2 * states, states * channels
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        total = np.float32(0)
        if i < of_rows:                                 # (batch, length, groups, 2, N)
            n, rest = i % states, i // states
            of_C, rest = rest % 2, rest // 2
            g, row = rest % groups, rest // groups
            b = row // length
            t = row - b * length
            for j in range(slabs):
                total += load(parts, (((b * groups + g) * slabs + j) * length + t) * 2 * states + of_C * states + n)
            write(grad_C if of_C == 1 else grad_B, (row * groups + g) * states + n, total)
        elif i < of_rows + of_rates:                    # (N, D)
            i -= of_rows
            for c in range(batch * chunks):
                total += load(grad_rates, c * of_rates + i)
            n = i // channels
            store(grad_A, (i - n * channels) * states + n, total)
        elif i < of_rows + of_rates + 2 * channels:     # (2, D)
            i -= of_rows + of_rates
            for c in range(batch * chunks):
                total += load(grad_steps, c * 2 * channels + i)
            if i >= channels:
                if grad_bias != 0:
                    store(grad_bias, i - channels, total)
            elif grad_D != 0:
                store(grad_D, i, total)

    return selective_sums
