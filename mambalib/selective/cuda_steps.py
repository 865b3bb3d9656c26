"""The selective scan on a card as chapter 13 first fuses it: a thread a channel, the states in registers.

It is here to be read, in float32, on arrays. `cuda_forward` has the kernel that `selective_scan` runs: it knows every dtype,
bias, softplus, D, gate, groups and resets, shares rows of B and C in a block, asks for numbers before it needs them, and
divides states or time where channels are few.
"""

from functools import lru_cache

import numpy as np

from .._cuda import cuda
from .._device import exp2
from .cuda_math import LOG2E


@lru_cache(maxsize=None)
def channel_per_thread(states):
    """The kernel for y_t = C_t . h_t with h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, from h = 0.

    Launch: kernel[blocks, threads](u, delta, A, B, C, y), at least batch * D threads; u, delta, y (batch, L, D), A (D, N),
    B, C (batch, L, N). A thread owns a channel of an entry of the batch and goes through time; neighbouring threads own
    neighbouring channels. Its states and rates are in its registers. No shared memory, no barrier.
    """

    @cuda.jit
    def selective_scan_alone(u, delta, A, B, C, y):
        rate = cuda.local.array(states, np.float32)
        h = cuda.local.array(states, np.float32)
        batch, length, channels = u.shape
        i = cuda.grid(1)
        if i < batch * channels:
            b = i // channels
            d = i - b * channels
            for n in range(states):
                rate[n], h[n] = A[d, n] * LOG2E, np.float32(0)
            for t in range(length):
                dt = delta[b, t, d]
                dtu, total = dt * u[b, t, d], np.float32(0)
                for n in range(states):
                    h[n] = exp2(dt * rate[n]) * h[n] + dtu * B[b, t, n]
                    total += C[b, t, n] * h[n]
                y[b, t, d] = total

    return selective_scan_alone
