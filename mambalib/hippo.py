"""State matrices that remember: HiPPO, and the diagonal S4D family.

HiPPO asks for the state h(t) that holds, at every moment, the coefficients of the best polynomial approximation of the
whole past of the input under a weight that says how much each moment counts. The answer is a linear differential equation::

    legs    every moment since the start counts the same; h' = (A h + B u) / t     (dropping the 1/t gives S4's start)
    legt    the last `window` units of time count, nothing before; h' = A h + B u

The chapter "Memory" derives both and watches the state reconstruct a signal.
"""

import numpy as np

from . import _check


def legs(N):
    """The HiPPO-LegS system: the past, scaled to [0, 1], in N normalised Legendre polynomials.

    Parameters
    ----------
    N : int
        The size of the state, at least 1.

    Returns
    -------
    A : (N, N) float64 array
        Lower triangular: -sqrt(2n+1) sqrt(2k+1) below the diagonal, -(n+1) on it.
    B : (N,) float64 array
        sqrt(2n+1).

    Raises
    ------
    TypeError, ValueError
        N is not an integer of at least 1.

    Notes
    -----
    The memory itself is h'(t) = (A h + B u) / t. Used without the 1/t, as S4 does, the system weighs the past by an
    exponential: it remembers the recent past well and the distant past coarsely.

    References
    ----------
    - Gu, Dao, Ermon, Rudra, Re, "HiPPO: Recurrent Memory with Optimal Polynomial Projections", NeurIPS 2020, theorem 2.

    Examples
    --------
    >>> A, B = legs(2)
    >>> A.round(3).tolist(), B.round(3).tolist()
    ([[-1.0, 0.0], [-1.732, -2.0]], [1.0, 1.732])
    """
    N = _check.count("N", N, 1)
    n = np.arange(N)
    B = np.sqrt(2.0 * n + 1)
    A = np.where(n[:, None] > n, -np.outer(B, B), 0.0) - np.diag(n + 1.0)
    return A, B


def legt(N, window=1.0):
    """The HiPPO-LegT system: the last `window` units of time, in N normalised Legendre polynomials.

    Parameters
    ----------
    N : int
        The size of the state, at least 1.
    window : float
        The length of the window, in the units of time of the input; positive.

    Returns
    -------
    A : (N, N) float64 array
        -sqrt(2n+1) sqrt(2k+1) / window, times (-1)^(n-k) above the diagonal.
    B : (N,) float64 array
        sqrt(2n+1) / window.

    Raises
    ------
    TypeError, ValueError
        N is not an integer of at least 1, or `window` is not a positive number.

    References
    ----------
    - Gu, Dao, Ermon, Rudra, Re, "HiPPO", NeurIPS 2020, theorem 1 (LegT, with lambda_n = sqrt(2n+1)).
    - Voelker, Kajic, Eliasmith, "Legendre Memory Units", NeurIPS 2019 (the same memory, otherwise scaled).

    Examples
    --------
    >>> A, B = legt(2, window=2.0)
    >>> A.round(3).tolist(), B.round(3).tolist()
    ([[-0.5, 0.866], [-0.866, -1.5]], [0.5, 0.866])
    """
    N = _check.count("N", N, 1)
    _check.shape("window", _check.positive("window", window), (), "a number")
    n = np.arange(N)
    root = np.sqrt(2.0 * n + 1)
    sign = np.where(n[:, None] < n, (-1.0) ** (n[:, None] - n), 1.0)
    return -np.outer(root, root) * sign / window, root / window


def s4d_lin(N):
    """S4D-Lin: N/2 damped oscillators at evenly spaced frequencies, A_n = -1/2 + i pi n.

    Parameters
    ----------
    N : int
        The size of the real state, even and at least 2. One of each conjugate pair is returned.

    Returns
    -------
    A : (N/2,) complex128 array
        Use it with y = 2 real(C h).

    Raises
    ------
    TypeError, ValueError
        N is not an even integer of at least 2.

    References
    ----------
    - Gu, Gupta, Goel, Re, "On the Parameterization and Initialization of Diagonal State Space Models", NeurIPS 2022,
      section 4.

    Examples
    --------
    >>> s4d_lin(4).round(3).tolist()
    [(-0.5+0j), (-0.5+3.142j)]
    """
    N = _check.count("N", N, 2, even=True)
    return -0.5 + 1j * np.pi * np.arange(N // 2)


def s4d_inv(N):
    """S4D-Inv: N/2 damped oscillators, A_n = -1/2 + i (N/pi) (N/(2n+1) - 1), the spectrum that HiPPO-LegS comes near.

    Parameters, returns, errors and source as for `s4d_lin`.

    Examples
    --------
    >>> s4d_inv(4).round(3).tolist()
    [(-0.5+3.82j), (-0.5+0.424j)]
    """
    N = _check.count("N", N, 2, even=True)
    n = np.arange(N // 2)
    return -0.5 + 1j * (N / np.pi) * (N / (2 * n + 1) - 1)


def s4d_real(N):
    """S4D-Real, the start of Mamba: N decays and no oscillation, A_n = -(n + 1), the diagonal of HiPPO-LegS.

    Parameters
    ----------
    N : int
        The size of the state, at least 1.

    Returns
    -------
    A : (N,) float64 array

    Raises
    ------
    TypeError, ValueError
        N is not an integer of at least 1.

    References
    ----------
    - As `s4d_lin`, section 4; Gu, Dao, "Mamba", section 3.6.

    Examples
    --------
    >>> s4d_real(3)
    array([-1., -2., -3.])
    """
    N = _check.count("N", N, 1)
    return -(np.arange(N) + 1.0)


def legs_memory(u, N):
    """The states of h' = (A h + B u) / t with A, B = legs(N), at every sample of u: the past in N numbers.

    The bilinear rule with the step 1/t: (I - A/2t) h_t = (I + A/2t) h_{t-1} + (B/t) u_t for t = 1, 2, ...

    Parameters
    ----------
    u : (L,) float array
        The signal; any L, 0 included. The sample rate does not matter, which is the point of LegS.
    N : int
        The size of the state, at least 1.

    Returns
    -------
    h : (L, N) array of the dtype of u
        h[t - 1] holds the past after t samples; `reconstruct` reads it.

    Raises
    ------
    TypeError, ValueError
        u is not a float array of one axis, or N is not an integer of at least 1.

    References
    ----------
    - Gu, Dao, Ermon, Rudra, Re, "HiPPO", NeurIPS 2020, section 2.3 and appendix B.3.

    Examples
    --------
    >>> import numpy as np
    >>> h = legs_memory(np.ones(1000), 3)          # of a constant: its value, then no slope and no curve
    >>> abs(h[-1]).round(2)
    array([1., 0., 0.])
    """
    u = _check.array("u", u, _check.FLOATS)
    _check.shape("u", u, (None,), "(L,)")
    A, B = legs(N)
    I, h, states = np.eye(N), np.zeros(N), np.empty((len(u), N))
    for t in range(1, len(u) + 1):
        h = np.linalg.solve(I - A / (2 * t), (I + A / (2 * t)) @ h + B / t * u[t - 1])
        states[t - 1] = h
    return states.astype(u.dtype)


def reconstruct(h, x):
    """The past that a Legendre state holds: sum_n h_n sqrt(2n+1) P_n(2x - 1), from the oldest (x = 0) to now (x = 1).

    Parameters
    ----------
    h : (..., N) float array
        A state of `legs` (x = 0 is the start of time) or of `legt` (x = 0 is one window ago).
    x : (K,) float array
        Where to read it, as a fraction of the remembered stretch.

    Returns
    -------
    y : (..., K) array

    Raises
    ------
    TypeError, ValueError
        A dtype other than float32 and float64, a shape that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> reconstruct(np.array([2.0, 0.0]), np.array([0.0, 1.0]))
    array([2., 2.])
    """
    h = _check.array("h", h, _check.FLOATS)
    x = _check.array("x", x, _check.FLOATS)
    _check.rows("h", h, "(..., N), N >= 1")
    _check.shape("x", x, (None,), "(K,)")
    N = h.shape[-1]
    basis = np.polynomial.legendre.legvander(2 * x - 1, N - 1) * np.sqrt(2 * np.arange(N) + 1)   # (K, N)
    return h @ basis.T.astype(np.result_type(h, x))
