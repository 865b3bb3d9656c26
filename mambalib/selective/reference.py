"""The selective scan in NumPy, the definition and its gradient, written to be read.

    selective_recurrence              y and the last state, one step after the other
    selective_recurrence_backward     its gradient, the steps taken back
    selective_scan, ..._backward      around these: what becomes of delta before, of y after
    selective_state_update            one step

In all of them, with (batch, L, D) and N for sizes,

    u, delta, z, y         (batch, L, D)
    A                      (D, N)
    B, C                   (batch, L, G, N): channel d reads group d // (D // G)
    D, delta_bias          (D,)
    h, initial_state       (batch, D, N)
    reset                  (batch, L), True where a new sequence starts: the state before it counts as zero

With complex A, B and C are complex, too, and each state stands for itself and its conjugate: y_t = 2 Re(C_t . h_t). The
gradient of a loss with respect to a + ib is dloss/da + i dloss/db, as in `linear_scan_backward`. For real arrays
`.real` and `conj` do nothing.

References
----------
- Gu, Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", COLM 2024, section 3.2, algorithm 2.
"""

import numpy as np

from ..discretize import phi1

DTYPES = ("float32", "float64")                      # of u


# --- The recurrence and its gradient ----------------------------------------------------------------------------------


def selective_recurrence(u, delta, A, B, C, h, reset=None, zoh=False):
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t and y_t = C_t . h_t, from the state h: y and the last state."""
    group = group_of_channel(u, B)
    pair = 2 if np.iscomplexobj(A) else 1            # a complex state stands for its conjugate, too
    y = np.empty_like(u)
    for t in range(u.shape[1]):
        if reset is not None:
            h = np.where(reset[:, t, None, None], 0, h)
        u_t, delta_t = u[:, t, :, None], delta[:, t, :, None]                    # (batch, D, 1)
        B_t, C_t = B[:, t, group], C[:, t, group]                                # (batch, D, N)
        A_bar = np.exp(delta_t * A)
        B_bar = delta_t * B_t if not zoh else delta_t * phi1(delta_t * A) * B_t
        h = A_bar * h + B_bar * u_t
        y[:, t] = pair * (C_t * h).real.sum(axis=-1)
    return y, h


def selective_recurrence_backward(grad_y, grad_h, u, delta, A, B, C, h, reset=None):
    """The gradient with respect to u, delta, A, B, C and h, from those with respect to y and the last state.

    g is what reaches h_t in all: through its own output, and through h_{t+1}.
    """
    L, pair = u.shape[1], 2 if np.iscomplexobj(A) else 1
    group = group_of_channel(u, B)
    grad_u, grad_delta, grad_A, grad_B, grad_C = (np.zeros_like(x) for x in (u, delta, A, B, C))

    before = []                                      # h_{t-1}, as step t finds it
    for t in range(L):
        before.append(h if reset is None else np.where(reset[:, t, None, None], 0, h))
        u_t, delta_t, B_t = u[:, t, :, None], delta[:, t, :, None], B[:, t, group]
        h = np.exp(delta_t * A) * before[t] + delta_t * B_t * u_t

    g = grad_h
    for t in reversed(range(L)):
        u_t, delta_t, grad_y_t = u[:, t, :, None], delta[:, t, :, None], pair * grad_y[:, t, :, None]
        B_t, C_t = B[:, t, group], C[:, t, group]
        A_bar = np.exp(delta_t * A)
        h = A_bar * before[t] + delta_t * B_t * u_t

        g = g + np.conj(C_t) * grad_y_t                                          # y_t = C_t . h_t
        grad_C[:, t] = sum_of_group(np.conj(h) * grad_y_t, C)

        grad_B[:, t] = sum_of_group(delta_t * u_t * g, B)                        # h_t = ... + delta_t B_t u_t
        grad_x = (np.conj(B_t) * g).real.sum(axis=-1)                            # x = delta_t u_t
        grad_u[:, t] = delta[:, t] * grad_x

        grad_z = np.conj(A_bar * before[t]) * g                                  # h_t = exp(z) h_{t-1}, z = delta_t A
        grad_A += (delta_t * grad_z).sum(axis=0)
        grad_delta[:, t] = u[:, t] * grad_x + (np.conj(A) * grad_z).real.sum(axis=-1)

        g = np.conj(A_bar) * g
        if reset is not None:
            g = np.where(reset[:, t, None, None], 0, g)
    return grad_u, grad_delta, grad_A, grad_B, grad_C, g


def group_of_channel(u, B):
    """For each channel, the group of B and C that it reads."""
    channels, groups = u.shape[-1], B.shape[-2]
    return np.arange(channels) // max(1, channels // groups)


def sum_of_group(x, B):
    """(batch, D, N) summed over the channels of each group: (batch, G, N)."""
    batch, channels, N = x.shape
    groups = B.shape[-2]
    return x.reshape(batch, groups, channels // groups, N).sum(axis=2)


# --- What becomes of delta before, and of y after ---------------------------------------------------------------------


def softplus(x):
    """log(1 + e^x), without overflow: near e^x where x is far below zero, near x where it is far above."""
    return np.logaddexp(x, 0)


def sigmoid(x):
    """1 / (1 + e^-x), the slope of softplus."""
    return np.exp(-softplus(-x))


def silu(x):
    """x sigmoid(x)."""
    return x * sigmoid(x)


def step_size(delta, delta_bias=None, delta_softplus=False):
    """delta as the recurrence uses it: with its bias, and positive."""
    if delta_bias is not None:
        delta = delta + delta_bias
    return softplus(delta) if delta_softplus else delta


def selective_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, initial_state=None,
                   reset=None, return_last_state=False, zoh=False):
    """y, and the last state if asked for (None if not)."""
    delta = step_size(delta, delta_bias, delta_softplus)
    h = zero_state(u, A) if initial_state is None else initial_state
    y, h = selective_recurrence(u, delta, A, B, C, h, reset, zoh)
    if D is not None:
        y = y + D * u
    if z is not None:
        y = y * silu(z)
    return y, h.copy() if return_last_state else None


def selective_scan_backward(grad_y, u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
                            initial_state=None, grad_last_state=None, reset=None):
    """The gradient with respect to u, delta, A, B, C, D, z, delta_bias and initial_state; None for what is None."""
    grad_D = grad_z = grad_bias = None
    if z is not None:                                # y = y_before silu(z)
        y, _ = selective_scan(u, delta, A, B, C, D, None, delta_bias, delta_softplus, initial_state, reset)
        grad_z = grad_y * y * sigmoid(z) * (1 + z * (1 - sigmoid(z)))
        grad_y = grad_y * silu(z)

    step = step_size(delta, delta_bias, delta_softplus)
    h = zero_state(u, A) if initial_state is None else initial_state
    grad_h = np.zeros_like(h) if grad_last_state is None else grad_last_state
    grads = selective_recurrence_backward(grad_y, grad_h, u, step, A, B, C, h, reset)
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_h = grads

    if D is not None:                                # y = ... + D u
        grad_u = grad_u + D * grad_y
        grad_D = (grad_y * u).sum(axis=(0, 1))
    if delta_softplus:
        grad_delta = grad_delta * sigmoid(delta if delta_bias is None else delta + delta_bias)
    if delta_bias is not None:
        grad_bias = grad_delta.sum(axis=(0, 1))
    grad_h = None if initial_state is None else grad_h.copy()
    return grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_h


def selective_state_update(state, u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, out=None):
    """One step: `state` is changed in place. u, delta, z are (batch, D), B and C (batch, G, N)."""
    z = None if z is None else z[:, None]
    steps = u[:, None], delta[:, None], A, B[:, None], C[:, None]                # sequences of length 1
    y, state[...] = selective_scan(*steps, D, z, delta_bias, delta_softplus, state, return_last_state=True)
    if out is None:
        return y[:, 0]
    out[...] = y[:, 0]
    return out


def zero_state(u, A):
    batch, _, channels = u.shape
    return np.zeros((batch, channels, A.shape[1]), A.dtype)
