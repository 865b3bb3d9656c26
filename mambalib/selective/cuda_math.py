"""What the selective scan's kernels compute from one number: softplus and the gate, and their slopes. All in float32.

An exponential on a card is one instruction of the special-function unit, ex2: 2 ** x. A multiplication by log2(e) comes
before it. Where the exponent is dt * A, A is multiplied once, when it is read.
"""

import math

import numpy as np

from .._cuda import cuda
from .._device import exp2, reciprocal

ZERO, ONE, LOG2E, LN2, NAN = (np.float32(x) for x in (0, 1, 1 / math.log(2), math.log(2), math.nan))
# log(1 + e) / e for 0 <= e <= 1, minimax: relative error 2e-8, 2e-7 with the rounding. Highest power first.
C8, C7, C6, C5, C4, C3, C2, C1, C0 = (np.float32(c) for c in (
    0.00535477512, -0.0299662296, 0.078924939, -0.137180433, 0.191300556, -0.24849084, 0.333200097, -0.499995649, 1.0))


@cuda.jit(device=True)
def step_and_slope(x):
    """softplus(x) = log(1 + e ** x), and its derivative, sigmoid(x). What is not used of the two is not computed.

    It is taken as max(x, 0) + log(1 + e), e = e ** -|x|: there is no overflow, and the logarithm is not one of a rounded
    1 + e, so far below zero dt is e ** x to the last digits.
    """
    e = exp2(-abs(x) * LOG2E)
    log = ((((((((C8 * e + C7) * e + C6) * e + C5) * e + C4) * e + C3) * e + C2) * e + C1) * e + C0) * e
    below = x < ZERO
    return (ZERO if below else x) + log, (e if below else ONE) * reciprocal(ONE + e)


@cuda.jit(device=True)
def gate_and_slope(z):
    """silu(z) = z sigmoid(z), and its derivative."""
    e = exp2(-abs(z) * LOG2E)
    s = (e if z < ZERO else ONE) * reciprocal(ONE + e)
    return z * s, s * (ONE + z * (ONE - s))
