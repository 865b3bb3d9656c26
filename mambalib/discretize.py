"""From a differential equation to a recurrence: (A, B, delta) -> (A_bar, B_bar).

The continuous system h'(t) = A h(t) + B u(t), watched every delta units of time, becomes::

    h_t = A_bar h_{t-1} + B_bar u_t.

Every rule here is a pair of approximations, with z = delta A: one of e^z for A_bar, one of
phi1(z) = (e^z - 1) / z for B_bar = delta phi1(z) B::

    rule             e^z                    phi1(z)
    euler            1 + z                  1
    backward_euler   1 / (1 - z)            1 / (1 - z)
    bilinear         (1 + z/2)/(1 - z/2)    1 / (1 - z/2)
    zoh              e^z                    phi1(z)
    mamba            e^z                    1

The chapter "Discretization" derives each one and measures its error.
"""

import numpy as np

from . import _check
from ._linalg import expm

METHODS = ("euler", "backward_euler", "bilinear", "zoh", "mamba")


def discretize(A, B, delta, method="zoh"):
    """Discretize h' = A h + B u into h_t = A_bar h_{t-1} + B_bar u_t.

    Parameters
    ----------
    A : (N, N) or (N,) array
        The state matrix, dense, or its diagonal. float32, float64, complex64 or complex128; it may be singular.
    B : (N,) or (N, M) array
        The input matrix: one input, or M of them.
    delta : float or array of any shape (...)
        The step, in the units of time of A; real and positive. An array gives one discretization per entry.
    method : {"zoh", "bilinear", "euler", "backward_euler", "mamba"}
        "zoh" is exact for an input that is constant over each step; "mamba" is exact for A and Euler for B.

    Returns
    -------
    A_bar : (..., N, N) or (..., N) array
        Of the shape of `delta` followed by that of `A`.
    B_bar : (..., N) or (..., N, M) array
        Of the shape of `delta` followed by that of `B`.

    Raises
    ------
    TypeError
        An array of another dtype (integers included), or a complex `delta`.
    ValueError
        A shape that does not fit, a `delta` of zero or less, an unknown `method`.
    numpy.linalg.LinAlgError
        "bilinear" or "backward_euler" where I - delta A / 2 or I - delta A, dense, has no inverse.

    Notes
    -----
    Whether B_bar multiplies u_t (S4, Mamba) or u_{t-1} (control engineering, scipy.signal) is the choice of whoever
    runs the recurrence, not of the rule. The result has the widest dtype among the arguments; dense float32 systems are
    solved in float64 and rounded once.

    References
    ----------
    - Gu, Goel, Re, "Efficiently Modeling Long Sequences with Structured State Spaces", ICLR 2022, section 2.3 (bilinear).
    - Gu, Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", COLM 2024, section 2 (zoh).
    - Van Loan, "Computing Integrals Involving the Matrix Exponential", IEEE Trans. Autom. Control 23(3), 1978.

    Examples
    --------
    >>> import numpy as np
    >>> A, B = np.array([-1.0]), np.array([1.0])
    >>> A_bar, B_bar = discretize(A, B, 0.5, "zoh")
    >>> A_bar.round(4), B_bar.round(4)
    (array([0.6065]), array([0.3935]))
    >>> discretize(A, B, 0.5, "mamba")[1]
    array([0.5])
    """
    _check.choice("method", method, METHODS)
    A, B, delta, dtype, vector = _arguments(A, B, delta)
    rule = discretize_diagonal if A.ndim == 1 else discretize_dense
    A_bar, B_bar = rule(A, B, delta, method)
    return A_bar.astype(dtype), (B_bar[..., 0] if vector else B_bar).astype(dtype)


def first_order_hold(A, B, delta):
    """Discretize h' = A h + B u for an input that moves in a straight line between its samples.

    Exact for such inputs, it needs two samples a step: h_t = A_bar h_{t-1} + B_prev u_{t-1} + B_next u_t.

    Parameters
    ----------
    A, B, delta
        As in `discretize`.

    Returns
    -------
    A_bar, B_prev, B_next : arrays
        Shaped as the results of `discretize`. B_prev + B_next is the B_bar of "zoh".

    Raises
    ------
    TypeError, ValueError
        As `discretize`.

    References
    ----------
    - Franklin, Powell, Workman, "Digital Control of Dynamic Systems", 3rd ed., section 6.3 (the triangle hold).

    Examples
    --------
    >>> import numpy as np
    >>> A_bar, B_prev, B_next = first_order_hold(np.array([0.0]), np.array([1.0]), 0.5)
    >>> B_prev, B_next          # an integrator: the trapezoid rule
    (array([0.25]), array([0.25]))
    """
    A, B, delta, dtype, vector = _arguments(A, B, delta)
    if A.ndim == 1:
        z, step = delta[..., None] * A, delta[..., None, None]
        A_bar = np.exp(z)
        B_next = step * phi2(z)[..., None] * B
        prev = np.where(np.abs(z) < 1, phi1(z) - phi2(z), (A_bar - phi1(z)) / np.where(z == 0, 1, z))   # no cancellation
        B_prev = step * prev[..., None] * B
    else:
        N, M = B.shape
        block = np.zeros(delta.shape + (N + 2 * M, N + 2 * M), np.result_type(A, B, delta))
        block[..., :N, :N] = delta[..., None, None] * A
        block[..., :N, N:N + M] = delta[..., None, None] * B
        block[..., N:N + M, N + M:] = np.eye(M)
        block = expm(block)
        A_bar, B_next = block[..., :N, :N], block[..., :N, N + M:]
        B_prev = block[..., :N, N:N + M] - B_next
    if vector:
        B_prev, B_next = B_prev[..., 0], B_next[..., 0]
    return A_bar.astype(dtype), B_prev.astype(dtype), B_next.astype(dtype)


def phi1(z):
    """(e^z - 1) / z, elementwise, with its limit 1 at z = 0 and no cancellation near it."""
    zero = np.abs(z) < 1e-30                         # there it is 1, and a complex division by z may overflow
    safe = np.where(zero, 1, z)
    return np.where(zero, 1, np.expm1(safe) / safe)


def phi2(z):
    """(e^z - 1 - z) / z^2, elementwise, with its limit 1/2 at z = 0: a series where the formula would cancel."""
    near = np.abs(z) < 0.5
    small, large = np.where(near, z, 0), np.where(near, 1, z)
    series = np.zeros_like(small)
    for k in range(16, 1, -1):                       # 1/2! + z/3! + z^2/4! + ..., by Horner
        series = 1 + series * small / (k + 1)
    return np.where(near, series / 2, (phi1(large) - 1) / large)


def discretize_diagonal(A, B, delta, method):
    """The rules for a diagonal A (N,): every state is a scalar equation. B is (N, M), delta an array."""
    z = delta[..., None] * A                         # (..., N)
    if method == "euler":
        A_bar, phi = 1 + z, np.ones_like(z)
    elif method == "backward_euler":
        A_bar, phi = 1 / (1 - z), 1 / (1 - z)
    elif method == "bilinear":
        A_bar, phi = (1 + z / 2) / (1 - z / 2), 1 / (1 - z / 2)
    elif method == "zoh":
        A_bar, phi = np.exp(z), phi1(z)
    elif method == "mamba":
        A_bar, phi = np.exp(z), np.ones_like(z)
    return A_bar, (delta[..., None] * phi)[..., None] * B


def discretize_dense(A, B, delta, method):
    """The rules for a dense A (N, N): the same formulas, read as matrices. B is (N, M), delta an array."""
    Z, Y = delta[..., None, None] * A, delta[..., None, None] * B
    I = np.eye(len(A))
    if method == "euler":
        return I + Z, Y
    if method == "backward_euler":
        return np.linalg.solve(I - Z, I), np.linalg.solve(I - Z, Y)
    if method == "bilinear":
        return np.linalg.solve(I - Z / 2, I + Z / 2), np.linalg.solve(I - Z / 2, Y)
    if method == "zoh":
        return zoh_dense(Z, Y)
    if method == "mamba":
        return expm(Z), Y


def zoh_dense(Z, Y):
    """e^Z and phi1(Z) Y from one exponential of a larger matrix, so that Z may be singular (Van Loan)."""
    N, M = Y.shape[-2:]
    block = np.zeros(Y.shape[:-2] + (N + M, N + M), np.result_type(Z, Y))
    block[..., :N, :N] = Z
    block[..., :N, N:] = Y
    block = expm(block)
    return block[..., :N, :N], block[..., :N, N:]


def _arguments(A, B, delta):
    """Checked arrays with B as a matrix and float32 dense systems widened; the result's dtype; whether B was a vector."""
    A, B = _check.array("A", A), _check.array("B", B)
    N = _check.state_matrix("A", A)
    if B.ndim not in (1, 2):
        raise ValueError(f"B: expected shape (N,) or (N, inputs) with N = {N}, got {B.shape}")
    _check.shape("B", B, (N,) + (None,) * (B.ndim - 1), "(N,)" if B.ndim == 1 else "(N, inputs)")
    scalar = isinstance(delta, (int, float)) and not isinstance(delta, np.generic)
    delta = _check.positive("delta", delta)
    dtype = np.result_type(A, B) if scalar else np.result_type(A, B, delta)
    work = np.result_type(dtype, np.float64) if A.ndim == 2 else dtype
    delta = delta.astype(np.finfo(work).dtype)
    vector = B.ndim == 1
    return A.astype(work), (B[:, None] if vector else B).astype(work), delta, dtype, vector
