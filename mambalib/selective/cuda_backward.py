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
values to be summed over 32 lanes, which `folder` does by turning them through shared memory: 8 vectors written, 8 read, 28
additions, and 3 shuffles. (By shuffles alone it takes 31 of them, with two selections and an addition each.)

At 241 registers a thread a multiprocessor has 8 warps, two for each scheduler, and they hide little: what is asked for of memory has to be
under way long before. So in the time of a state a thread asks for one step of the span before (u, delta, grad_y, z), whose
numbers go to its own part of shared memory when the next state begins, and for the next state's rate and mark. grad_B
and grad_C of a state are summed when the next begins, too, whose addresses are computed meanwhile.

Counts, of issue slots, in sm_90's code: 380 for a state and span at N = 16 (208 of them the arithmetic of forward again and back,
13 a step; 63 the sums over lanes; the rest addresses, loads, shared memory), and 2100 for a span, which is 130 for
each of 16 states. Measured on an H100 half of the slots are used: loads take longer than the state's time.
"""

from functools import lru_cache

import numpy as np

from .._cuda import cuda
from .._device import LANES, SIZE, exp2, memory, room, shuffle_xor, warp_barrier
from .cuda_math import LN2, ONE, ZERO, gate_and_slope, step_and_slope
from .cuda_stage import column, matrix, standing, starts

SHARED = 48 * 1024                                      # bytes that a block may have of a multiprocessor


@lru_cache(maxsize=None)
def folder(values):
    """The device functions `fold`, which sums `values` numbers (a power of two, up to 4 LANES) over the lanes of a warp, and `spot`.

    Through shared memory: a lane writes its values as a row, and reads 4 columns of `values / 4` rows, which it sums. So parts =
    LANES / (values / 4) lanes have a part each of the same 4 sums, and halve what they have while they halve how
    many they are: with 4 parts, lanes 16 apart exchange 2 of 4, then lanes 8 apart 1 of 2. In the end x[0] (with 2 parts x[0] and x[1]) is
    sum spot(lane). With 8 parts two lanes end with the same sum.

    A row has 4 more places than values: then rows begin in other banks, and neither the writes nor the reads collide.
    """
    row, readers = values + 4, values // 4
    parts = LANES // readers
    put_some, get_some = memory("float32", 4, shared=True).store_vector, memory("float32", 4, shared=True).load_vector

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

    finish, half, distance = None, 2, LANES // 2
    while distance >= readers:
        last = exchange(half, distance)
        finish = both(finish, last) if finish else last
        half, distance = half // 2, distance // 2

    @cuda.jit(device=True)
    def put(x, room, at, lane):
        """room, at: where the warp's rows begin."""
        warp_barrier()                                  # the values before have been read
        for i in range(0, values, 4):
            put_some(room, at + lane * row + i, x, i)

    @cuda.jit(device=True)
    def fold(x, room, at, lane):
        warp_barrier()                                  # the values are there
        begin = at + lane // readers * readers * row + lane % readers * 4
        for r in range(readers):
            get_some(room, begin + r * row, x, 4 * r)
        half = readers // 2
        while half:
            for i in range(4 * half):
                x[i] += x[4 * half + i]
            half //= 2
        finish(x, lane)

    @cuda.jit(device=True)
    def spot(lane):
        first = lane % readers * 4
        if lane & (LANES // 2):
            first += 2
        if parts > 2 and lane & (LANES // 4):
            first += 1
        return first

    return put, fold, spot, LANES * row


@lru_cache(maxsize=None)
def backward(dtype, states, threads, span, at_once, softplus, gated, resets, chunked):
    """The kernel for the gradients with respect to u, delta and z, and for what each block adds to the others.

    Launch: a block for each entry of the batch, chunk of time and slab of channels, as in `forward`; threads: channels of
    a slab, a multiple of LANES. A block goes through its chunk backward, a span at a time; a thread owns a channel, and
    keeps for each of its states a pair, which no other thread touches: the gradient that comes from later steps, and what is summed of
    grad_A. The pairs are in shared memory where it has room for them (N up to 16), else in `pairs`.

    marks, mark_sums: from `sweep`. chunked: marks are states reached from zero, to which comes entries, the state before
    the chunk, as far as it has decayed; carries is what comes from later chunks. Else marks are the states, and
    grad_last comes from after the last step.

    Shared memory: the rows of B and C, `at_once` states of them, time running fastest; each thread's own: what it has asked for of
    the span before, and what of a step is needed only after the states (the slopes of softplus and gate), and the pairs; the
    rows that `fold` turns; the warps' sums of grad_B and grad_C. Barriers of the block, two for every `at_once` states:
    one when the rows are there, and the sums before have been read; one when the rows have been used, and the sums are there.

    Results that are sums over more than the block: parts (batch, slabs, length, 2, N), of grad_B and grad_C; grad_rates
    (batch, chunks, N, D), of grad_A; grad_steps (batch, chunks, 2, D), of grad_D and the gradient of the bias.
    """
    warps, turns = threads // LANES, -(-states // at_once)
    values = 2 * span                                   # of grad_B and grad_C, for a state
    pitch, sum_pitch = values + 4, values + 2           # of a state in shared memory: 16-byte rows; neighbours in other banks
    kept, alike = max(values // LANES, 1), max(LANES // values, 1)
    owners = values // 4 * alike                        # of `alike` lanes with the same sum the first has to keep it
    some = -(-span // states)                           # steps of the span before that a thread asks for at each state
    last_ask = -(-span // some) - 1                     # the state at which the last steps are asked for
    at_a_time = min(some, 4)                            # registers; with more than 4 it waits for them at once
    per = threads // at_once                            # values that the threads of a block add up at a time, for at_once states
    bits, span_bits = at_once.bit_length() - 1, span.bit_length() - 1
    ask_u = column(dtype, span, 1)
    stand, ask, cuts = standing(threads), column(dtype, at_a_time, 1), starts(span)
    put_values, fold, spot, fold_room = folder(values)
    count, ask_rows, put_rows = matrix(dtype, states, at_once, span, threads, (1, pitch))
    touch, plain, shared = memory(dtype, 1), memory("float32", 1), memory("float32", 1, shared=True)
    raw, widen, write, ahead = touch.raw, touch.widen, touch.store, touch.prefetch
    load, store, put, get = plain.load, plain.store, shared.store, shared.load
    get_some = memory("float32", 4, shared=True).load_vector
    rows_room, own_room = room("float32", at_once * pitch), room("float32", (4 + 2) * span * threads)
    folds_room, sums_room = room("float32", warps * fold_room), room("float32", warps * at_once * sum_pitch)
    words = at_once * pitch + 6 * span * threads + warps * (fold_room + at_once * sum_pitch)
    held = words + 2 * states * threads <= SHARED // 4  # whether what a thread keeps of its states has room there, too
    get_pair, put_pair = memory("float32", 2, shared=held).load_vector, memory("float32", 2, shared=held).store_vector
    pairs_room = room("float32", 2 * states * threads if held else 2)
    early, rows_a_turn = SIZE[dtype] == 2, LANES // 4   # early: fill the second cache beforehand; 4-byte numbers lose by it (selective_tried.json)

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

    @cuda.jit(device=True)
    def ask_steps(grad_y, u, delta, z, at, D_all, rows, raws):
        """What a thread has to know of `at_a_time` steps, or of as many as there are rows."""
        raw_u, raw_delta, raw_grad, raw_z = raws
        ask(u, at, D_all, rows, raw_u)
        ask(delta, at, D_all, rows, raw_delta)
        ask(grad_y, at, D_all, rows, raw_grad)
        if gated:
            ask(z, at, D_all, rows, raw_z)

    @cuda.jit(device=True)
    def put_steps(own, first, raws):
        """That, in the thread's own part of shared memory."""
        place = first * threads + cuda.threadIdx.x
        raw_u, raw_delta, raw_grad, raw_z = raws
        for j in range(at_a_time):
            if some * states == span or first + j < span:
                put(own, place + j * threads, widen(raw_u[j]))
                put(own, place + (span + j) * threads, widen(raw_delta[j]))
                put(own, place + (2 * span + j) * threads, widen(raw_grad[j]))
                if gated:
                    put(own, place + (3 * span + j) * threads, widen(raw_z[j]))

    @cuda.jit(device=True)
    def sum_up(x, folds, my_row, lane, sums, at):
        """The warp's sums of what the lanes have put, to where those of the state belong."""
        fold(x, folds, my_row, lane)
        if lane % owners < values // 4:
            for i in range(kept):
                put(sums, at + i, x[i])

    @cuda.jit
    def selective_backward(grad_y, u, delta, z, B, C, D, bias, grad_last, reset, rates, marks, mark_sums, entries, carries,
                           pairs, grad_u, grad_delta, grad_z, grad_rates, grad_steps, grad_initial, parts, sizes):
        dt = cuda.local.array(span, np.float32)
        dtu = cuda.local.array(span, np.float32)
        dy = cuda.local.array(span, np.float32)
        y = cuda.local.array(span, np.float32)
        s = cuda.local.array(span, np.float32)
        Aq = cuda.local.array(span, np.float32)
        x = cuda.local.array(values, np.float32)               # first a and h of a state, then what they add to grad_B and grad_C
        B_t = cuda.local.array(span, np.float32)
        C_t = cuda.local.array(span, np.float32)
        raw_u = cuda.local.array(at_a_time, raw)
        raw_delta = cuda.local.array(at_a_time, raw)
        raw_grad = cuda.local.array(at_a_time, raw)
        raw_z = cuda.local.array(at_a_time, raw)
        raw_again = cuda.local.array(span, raw)
        next_B = cuda.local.array(count, raw)
        next_C = cuda.local.array(count, raw)
        pair = cuda.local.array(2, np.float32)
        rows, own, sums, folds, raws = rows_room(), own_room(), sums_room(), folds_room(), (raw_u, raw_delta, raw_grad, raw_z)
        me = cuda.threadIdx.x
        lane, warp = me % LANES, me // LANES
        my_sum, my_row = spot(lane), warp * fold_room
        length, width, groups, slabs, chunk, chunks = sizes
        b, k, start, stop, g, slab, d, live = stand(sizes, me)
        D_all, row_step, spans = width * groups, groups * states, (length + span - 1) // span
        of_chunk = (b * chunks + k) * states * D_all + d

        offset, skip, grad_D, grad_bias, rate, mark, entry = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
        pair_step, my_pairs = 2 * threads, 2 * me
        if held:
            pairs = pairs_room()
        else:
            pair_step, my_pairs = 2 * D_all, 2 * of_chunk
        if live:
            if bias != 0:
                offset = load(bias, d)
            if D != 0:
                skip = load(D, d)
        for n in range(states):
            pair[0], pair[1] = ZERO, ZERO
            if live and chunked:
                pair[0] = load(carries, of_chunk + n * D_all)
            elif live and grad_last != 0:
                pair[0] = load(grad_last, (b * D_all + d) * states + n)
            if live or held:
                put_pair(pairs, my_pairs + n * pair_step, pair, 0)

        begin = start + (stop - start - 1) // span * span
        at_row = ((b * length + begin) * groups + g) * states
        ask_rows(B, at_row, row_step, stop - begin, 0, next_B)
        ask_rows(C, at_row, row_step, stop - begin, 0, next_C)
        run, at_mark = 0, (b * spans + begin // span) * states * D_all + d
        if live:
            rate, mark = load(rates, d), load(marks, at_mark)
            if chunked:
                entry = load(entries, of_chunk)
        for first in range(0, span, at_a_time):
            mine = stop - begin - first if live else 0
            ask_steps(grad_y, u, delta, z, (b * length + begin + first) * D_all + d, D_all, mine, raws)
            put_steps(own, first, raws)
        if early and live and begin > start:
            ask_ahead(grad_y, u, delta, z, (b * length + begin - span) * D_all + d, D_all, lane)
        while begin >= start:
            left = stop - begin
            mine = np.int32(left if live else 0)        # steps of the span that the thread has
            more = live and begin > start               # spans to come
            at, passed = (b * length + begin) * D_all + d, ZERO
            if chunked and live:
                passed = load(mark_sums, (b * spans + begin // span) * D_all + d)
            for t in range(span):
                place = t * threads + me
                slope, u_t = ONE, get(own, place)
                dt[t], dy[t] = get(own, place + span * threads) + offset, get(own, place + 2 * span * threads)
                if softplus:
                    dt[t], slope = step_and_slope(dt[t])
                if t >= mine:
                    dt[t] = ZERO                        # a step that is not there: the state stays
                if gated:
                    gate, gate_slope = gate_and_slope(get(own, place + 3 * span * threads))
                    put(own, place + 5 * span * threads, dy[t] * gate_slope)
                    dy[t] *= gate
                put(own, place + 4 * span * threads, slope)
                dtu[t] = dt[t] * u_t
                y[t], s[t], Aq[t] = ZERO, ZERO, ZERO
            if early and more and begin - span > start:
                ask_ahead(grad_y, u, delta, z, at - 2 * span * D_all, D_all, lane)
            new = cuts(reset, b * length + begin, left) if resets else 0
            at_before = at - span * D_all

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

                here = at_once                          # states of the turn
                if states - turn * at_once < at_once:
                    here = states - turn * at_once
                for m in range(here):
                    n = turn * at_once + m
                    if m > 0:                           # not at the end of the state before: there is nothing there to do meanwhile
                        sum_up(x, folds, my_row, lane, sums, (warp * at_once + m - 1) * sum_pitch + my_sum)
                    rate_n, h_0, of_pair = rate, mark, my_pairs + n * pair_step
                    if live or held:
                        get_pair(pairs, of_pair, pair, 0)
                    if chunked and passed == passed:
                        h_0 += exp2(rate * passed) * entry
                    run += D_all                        # and ask for the next state, or the first of the span before
                    at_mark += D_all
                    if n == states - 1:
                        run = 0
                        at_mark -= (2 * states if begin > start else states) * D_all
                    if live:
                        rate, mark = load(rates, d + run), load(marks, at_mark)
                        if chunked:
                            entry = load(entries, of_chunk + run)
                    ahead_of = n * some
                    if some == at_a_time and more and 0 < n <= last_ask + 1:
                        put_steps(own, ahead_of - some, raws)
                    if more and ahead_of < span:        # and for steps of the span before, which have this state's time to come
                        if some == at_a_time:
                            ask_steps(grad_y, u, delta, z, at_before, D_all, span - ahead_of, raws)
                        else:
                            for first in range(0, some, at_a_time):
                                ask_steps(grad_y, u, delta, z, at_before + first * D_all, D_all, span - ahead_of - first, raws)
                                put_steps(own, ahead_of + first, raws)
                        at_before += some * D_all
                    for t in range(0, span, 4):
                        get_some(rows, m * pitch + t, B_t, t)
                        get_some(rows, m * pitch + span + t, C_t, t)

                    h, after, grad_rate = h_0, pair[0], pair[1]
                    for t in range(span):               # forward again: a and h
                        x[t] = exp2(dt[t] * rate_n)
                        if resets and (new >> t) & 1:
                            x[t], h = ZERO, ZERO
                        h = x[t] * h + dtu[t] * B_t[t]
                        x[span + t] = h
                    for i in range(span):               # and back
                        t = span - 1 - i
                        grad_h = C_t[t] * dy[t] + after
                        after = x[t] * grad_h
                        earlier = x[span + t - 1] if t > 0 else h_0
                        if resets and (new >> t) & 1:
                            after, earlier = ZERO, ZERO
                        q = after * earlier
                        s[t] += B_t[t] * grad_h
                        Aq[t] += rate_n * q
                        grad_rate += dt[t] * q
                        x[t] = dtu[t] * grad_h
                        if gated:
                            y[t] += C_t[t] * x[span + t]
                        x[span + t] *= dy[t]

                    pair[0], pair[1] = after, grad_rate
                    if live or held:
                        put_pair(pairs, of_pair, pair, 0)
                    put_values(x, folds, my_row, lane)
                sum_up(x, folds, my_row, lane, sums, (warp * at_once + here - 1) * sum_pitch + my_sum)
                if turn == turns - 1:
                    ask_u(u, at, D_all, mine, raw_again)        # a second time: its place in shared memory is worth more than a load
                cuda.syncthreads()                      # the rows have been used, the sums are there

                m, v = me & (at_once - 1), me >> bits   # a thread's state, and the first of its values
                at_part = ((b * slabs * groups + slab) * length + begin) * 2 * states + turn * at_once + m
                for first in range(0, values, per):
                    t, of_C = (first + v) & (span - 1), (first + v) >> span_bits
                    if (values % per == 0 or first + v < values) and t < left and m < here:
                        total = ZERO
                        for w in range(warps):
                            total += get(sums, (w * at_once + m) * sum_pitch + first + v)
                        store(parts, at_part + (2 * t + of_C) * states, total)

            if some == at_a_time and more and last_ask == states - 1:
                put_steps(own, last_ask * some, raws)
            for t in range(span):
                if t < mine:
                    place, u_t = t * threads + me, widen(raw_again[t])
                    grad_step = (u_t * s[t] + Aq[t] * LN2) * get(own, place + 4 * span * threads)
                    write(grad_u, at, dt[t] * s[t] + skip * dy[t])
                    write(grad_delta, at, grad_step)
                    if gated:
                        write(grad_z, at, get(own, place + 5 * span * threads) * (y[t] + skip * u_t))
                    grad_D += dy[t] * u_t
                    grad_bias += grad_step
                at += D_all
            begin -= span

        if live:
            store(grad_steps, (b * chunks + k) * 2 * D_all + d, grad_D)
            store(grad_steps, ((b * chunks + k) * 2 + 1) * D_all + d, grad_bias)
            for n in range(states):
                get_pair(pairs, my_pairs + n * pair_step, pair, 0)
                store(grad_rates, of_chunk + n * D_all, pair[1])
                if grad_initial != 0 and k == 0:
                    store(grad_initial, (b * D_all + d) * states + n, pair[0])

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
