"""One step of the selective scan on a card, the state changed in place: what generates a token."""

from functools import lru_cache

from .._cuda import cuda
from .._device import exp2, memory, shuffle_xor
from .cuda_math import LOG2E, ZERO, gate_and_slope, step_and_slope


@lru_cache(maxsize=None)
def update(dtype, states, lanes, softplus, gated):
    """The kernel.

    Launch: `lanes` threads (a power of two, neighbours in a warp) for each entry of the batch and channel; a thread owns
    every `lanes`-th of its states, so that neighbours read neighbouring numbers, and y is summed over the lanes by
    shuffles. state and y may have any strides. Nothing is shared. The bytes of the state decide: N / 4 as many reads and writes as of anything else.
    """
    some, doublings = -(-states // lanes), lanes.bit_length() - 1
    read, write, load, store = memory(dtype, 1).load, memory(dtype, 1).store, memory("float32", 1).load, memory("float32", 1).store

    @cuda.jit
    def selective_update(state, u, delta, z, A, B, C, D, bias, y, batch, width, groups, state_strides, y_strides):
        thread = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        i = thread // lanes
        part, channels = thread - i * lanes, width * groups
        b = i // channels
        d = i - b * channels
        dt, u_d, y_d = ZERO, ZERO, ZERO
        if b < batch:
            dt, u_d = read(delta, i), read(u, i)
            if bias != 0:
                dt += load(bias, d)
            if softplus:
                dt, _ = step_and_slope(dt)
            row = (b * groups + d // width) * states
            of_batch, of_channel, of_state = state_strides
            place = b * of_batch + d * of_channel
            for j in range(some):
                n = j * lanes + part
                if n < states:
                    h = exp2(dt * load(A, d * states + n) * LOG2E) * load(state, place + n * of_state) + dt * u_d * read(B, row + n)
                    store(state, place + n * of_state, h)
                    y_d += read(C, row + n) * h
        for k in range(doublings):
            y_d += shuffle_xor(y_d, 1 << k)
        if b < batch and part == 0:
            if D != 0:
                y_d += load(D, d) * u_d
            if gated:
                gate, _ = gate_and_slope(read(z, i))
                y_d *= gate
            write(y, b * y_strides[0] + d * y_strides[1], y_d)

    return selective_update
