"""One time-invariant state space, three views of it::

    recurrence     h_t = A_bar h_{t-1} + B_bar u_t,  y_t = C h_t + D u_t        one step after the other
    convolution    y_t = sum_k K_k u_{t-k} + D u_t,  K_k = C A_bar^k B_bar      all steps at once
    transfer       Y(z) = (K(z) + D) U(z),           K(z) = C (I - z A_bar)^-1 B_bar

One input and one output, as in every channel of S4 and Mamba: A_bar is dense (N, N) or diagonal (N,), B_bar and C are
(N,), D is a number, u and y are (..., L) with one signal in each row, states are (..., N). Arrays are float32, float64,
complex64 or complex128, and a result has the widest dtype among its arguments. A complex A_bar gives a complex y; where
only one of each conjugate pair of states is kept, the real output is 2 y.real.
"""

import functools
import inspect

import numpy as np

from . import _check
from ._linalg import expm


def _checked(core):
    """The front door of a function below: every argument checked by name; the body behind it is the book's own cell."""
    signature = inspect.signature(core)

    @functools.wraps(core)
    def door(*args, **kwargs):
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        given = call.arguments
        numbers = [name for name, value in given.items() if type(value) in (int, float, complex)]
        for name in ("A", "A_bar", "B", "B_bar", "C", "D", "u", "u_t", "h", "h0", "K", "t", "s", "z"):
            if name in given and (given[name] is not None or signature.parameters[name].default is not None):
                given[name] = _check.array(name, given[name])
        N = None
        for name in ("A", "A_bar"):
            if name in given:
                N = _check.state_matrix(name, given[name])
        for name in ("B", "B_bar", "C"):
            if name in given:
                _check.shape(name, given[name], (N,), "(N,)")
        if given.get("D") is not None:
            _check.shape("D", given["D"], (), "a number")
        if "u" in given and given["u"].ndim == 0:
            raise ValueError("u: expected shape (..., L), got ()")
        rows = given["u_t"].shape if "u_t" in given else given["u"].shape[:-1] if "u" in given else ()
        for name in ("h", "h0"):
            if given.get(name) is not None:
                _check.shape(name, given[name], rows + (N,), "the leading axes of the input, then N")
        if "K" in given:
            _check.shape("K", given["K"], (None,), "(L,)")
        for name in ("L", "length"):
            if name in given and (given[name] is not None or signature.parameters[name].default is not None):
                given[name] = _check.count(name, given[name], 0)
        arrays = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
        widest = np.result_type(*(value for name, value in arrays.items() if name not in numbers))
        real = np.finfo(widest).dtype                # one precision for all arrays; Python's numbers follow it
        for name, value in arrays.items():
            given[name] = value.astype(np.result_type(real, np.complex64) if np.iscomplexobj(value) else real, copy=False)
        return core(**given)

    return door


@_checked
def step(h, u_t, A_bar, B_bar, C, D=None):
    """One step of the recurrence: the state after u_t, and the output.

    Parameters
    ----------
    h : (..., N) array
        The state before the step.
    u_t : (...) array or a number
        One sample of each signal.
    A_bar, B_bar, C, D
        The system, as in the module's summary.

    Returns
    -------
    y_t : (...) array
    h : (..., N) array
        A new array; the argument is left as it was.

    Raises
    ------
    TypeError, ValueError
        A dtype or shape that does not fit; the message names the argument.

    Examples
    --------
    >>> import numpy as np
    >>> y, h = step(np.zeros(1), 1.0, np.array([0.5]), np.array([1.0]), np.array([3.0]))
    >>> y.item(), h.item()
    (3.0, 1.0)
    """
    Ah = A_bar * h if A_bar.ndim == 1 else h @ A_bar.T
    h = Ah + u_t[..., None] * B_bar                  # (..., N)
    y_t = h @ C                                      # (...)
    return (y_t if D is None else y_t + D * u_t), h


@_checked
def recurrence(A_bar, B_bar, C, u, D=None, h0=None, return_last_state=False):
    """y from u, one step after the other. O(L) steps that wait for each other, a state of constant size.

    Parameters
    ----------
    A_bar, B_bar, C, D
        The system, as in the module's summary.
    u : (..., L) array
        Any L, 0 included.
    h0 : (..., N) array, optional
        The state before the first sample; zero by default.
    return_last_state : bool
        Also return the state after the last sample.

    Returns
    -------
    y : (..., L) array
    h : (..., N) array, if `return_last_state`

    Raises
    ------
    TypeError, ValueError
        A dtype or shape that does not fit; the message names the argument.

    Examples
    --------
    >>> import numpy as np
    >>> recurrence(np.array([0.5]), np.array([1.0]), np.array([1.0]), np.array([1.0, 0.0, 0.0]))
    array([1.  , 0.5 , 0.25])
    """
    dtype = np.result_type(A_bar, B_bar, C, u, *([] if h0 is None else [h0]))
    h = np.zeros(u.shape[:-1] + B_bar.shape, dtype) if h0 is None else h0.astype(dtype)
    y = np.empty(u.shape, dtype)
    for t in range(u.shape[-1]):
        Ah = A_bar * h if A_bar.ndim == 1 else h @ A_bar.T
        h = Ah + u[..., t, None] * B_bar             # (..., N)
        y[..., t] = h @ C
    y = y if D is None else y + D * u
    return (y, h) if return_last_state else y


@_checked
def kernel(A_bar, B_bar, C, L, method="powers"):
    """The first L samples of the system's answer to the input 1, 0, 0, ...: K_k = C A_bar^k B_bar.

    Parameters
    ----------
    A_bar, B_bar, C
        The system, as in the module's summary (D is not part of the kernel).
    L : int
        How many samples, 0 or more.
    method : {"powers", "generating"}
        "powers" doubles the known part of A_bar^k B_bar until L samples are there. "generating" evaluates the
        generating function at L points of a circle and comes back by an inverse FFT: L small solves, no powers but one.

    Returns
    -------
    K : (L,) array

    Raises
    ------
    TypeError, ValueError
        A dtype or shape that does not fit, a negative L, an unknown method.

    References
    ----------
    - Gu, Goel, Re, "Efficiently Modeling Long Sequences with Structured State Spaces", ICLR 2022, section 3 and appendix C.

    Examples
    --------
    >>> import numpy as np
    >>> kernel(np.array([0.5]), np.array([1.0]), np.array([2.0]), 4)
    array([2.  , 1.  , 0.5 , 0.25])
    """
    _check.choice("method", method, ("powers", "generating"))
    if method == "generating":
        return kernel_by_fft(A_bar, B_bar, C, L)
    return kernel_by_powers(A_bar, B_bar, C, L)


def kernel_by_powers(A_bar, B_bar, C, L):
    """K_k = C A_bar^k B_bar by doubling: what is known, times A_bar^(its length), is the next stretch."""
    dtype = np.result_type(A_bar, B_bar, C)
    if A_bar.ndim == 1:
        return (C * B_bar) @ A_bar[:, None] ** np.arange(L, dtype=np.finfo(dtype).dtype)
    known, power = B_bar[:, None].astype(dtype), A_bar   # columns A_bar^k B_bar, and A_bar^(number of columns)
    while known.shape[1] < L:
        known = np.concatenate([known, power @ known], axis=1)
        power = power @ power
    return C @ known[:, :L]


def kernel_by_fft(A_bar, B_bar, C, L):
    """K from the generating function on a circle inside the unit circle and inside every pole, 1 / an eigenvalue of A_bar."""
    if L == 0:
        return np.zeros(0, np.result_type(A_bar, B_bar, C))
    power = A_bar.astype(complex) ** L if A_bar.ndim == 1 else np.linalg.matrix_power(A_bar.astype(complex), L)
    radius = (0.5 / max(1, np.linalg.norm(power, np.inf))) ** (1 / L)   # |z^L A_bar^L| <= 1/2, for an unstable A_bar too
    z = radius * np.exp(-2j * np.pi * np.arange(L) / L)
    values = generating_function(A_bar, B_bar, C, z, length=L)
    K = np.fft.ifft(values) / radius ** np.arange(L)
    dtype = np.result_type(A_bar, B_bar, C)
    return (K if np.iscomplexobj(A_bar) or np.iscomplexobj(B_bar) or np.iscomplexobj(C) else K.real).astype(dtype)


@_checked
def generating_function(A_bar, B_bar, C, z, length=None):
    """K(z) = sum_k K_k z^k over all k, or over k < length: C (I - z^length A_bar^length) (I - z A_bar)^-1 B_bar.

    At z = exp(-i omega) this is the frequency response of the recurrence, without D.

    Parameters
    ----------
    A_bar, B_bar, C
        The system, as in the module's summary.
    z : array of any shape, or a number
        Where to evaluate; without `length`, every z times the largest eigenvalue of A_bar must lie inside the unit circle.
    length : int, optional
        How many terms of the sum; all of them by default.

    Returns
    -------
    K : complex array of the shape of z

    Raises
    ------
    TypeError, ValueError
        A dtype or shape that does not fit, a negative `length`.
    numpy.linalg.LinAlgError
        I - z A_bar has no inverse (dense A_bar; a diagonal one gives infinity).

    Examples
    --------
    >>> import numpy as np
    >>> generating_function(np.array([0.5]), np.array([1.0]), np.array([1.0]), 1.0).real.item()    # 1 + 1/2 + 1/4 + ...
    2.0
    """
    A_bar, z = A_bar.astype(complex), z.astype(complex)
    if length is not None:                           # the tail from `length` on is the system again, started later
        power = A_bar ** length if A_bar.ndim == 1 else np.linalg.matrix_power(A_bar, length)
        tail = C * power if A_bar.ndim == 1 else C @ power
        C = C - z[..., None] ** length * tail        # (..., N)
    if A_bar.ndim == 1:
        return (C * B_bar / (1 - z[..., None] * A_bar)).sum(-1)
    states = np.linalg.solve(np.eye(len(A_bar)) - z[..., None, None] * A_bar, B_bar.astype(complex)[:, None])[..., 0]
    return (C * states).sum(-1)


@_checked
def causal_conv(u, K, D=None, method="fft"):
    """y_t = sum over k of K_k u_{t-k}, with u = 0 before its first sample: the whole output at once.

    Parameters
    ----------
    u : (..., L) array
    K : (any,) array
        The kernel; samples past L are not used, and a shorter one is continued by zeros.
    D : number, optional
        Adds D u_t.
    method : {"fft", "direct"}
        "fft" in O(L log L), on arrays padded so that nothing wraps around; "direct" in O(L^2), for checking.

    Returns
    -------
    y : (..., L) array

    Raises
    ------
    TypeError, ValueError
        A dtype or shape that does not fit, an unknown method.

    Examples
    --------
    >>> import numpy as np
    >>> causal_conv(np.array([1.0, 2.0, 3.0]), np.array([1.0, 10.0]), method="direct")
    array([ 1., 12., 23.])
    """
    _check.choice("method", method, ("fft", "direct"))
    L, dtype = u.shape[-1], np.result_type(u, K)
    y = conv_by_fft(u, K[:L]) if method == "fft" and L and len(K) else conv_direct(u, K[:L])
    return y.astype(dtype) if D is None else y.astype(dtype) + D * u


def conv_direct(u, K):
    """The sum as it is written: each kernel sample times u, moved k steps to the right."""
    L = u.shape[-1]
    y = np.zeros(u.shape, np.result_type(u, K))
    for k in range(len(K)):
        y[..., k:] += K[k] * u[..., :L - k]
    return y


def conv_by_fft(u, K):
    """A product of spectra is a circular convolution; with n >= L + len(K) - 1 the circle is too long to close."""
    L = u.shape[-1]
    n = 2 ** (L + len(K) - 1).bit_length()
    if np.iscomplexobj(u) or np.iscomplexobj(K):
        return np.fft.ifft(np.fft.fft(u, n) * np.fft.fft(K, n))[..., :L]
    return np.fft.irfft(np.fft.rfft(u, n) * np.fft.rfft(K, n), n)[..., :L]


@_checked
def transfer_function(A, B, C, s, D=None):
    """H(s) = C (s I - A)^-1 B + D of the continuous system h' = A h + B u, y = C h + D u.

    Parameters
    ----------
    A, B, C, D
        The system, as in the module's summary, in continuous time.
    s : array of any shape, or a number
        Where to evaluate: i omega for the frequency response at omega radians per unit of time.

    Returns
    -------
    H : complex array of the shape of s

    Raises
    ------
    TypeError, ValueError
        A dtype or shape that does not fit.
    numpy.linalg.LinAlgError
        s is an eigenvalue of a dense A (a diagonal one gives infinity).

    Examples
    --------
    >>> import numpy as np
    >>> abs(transfer_function(np.array([-1.0]), np.array([1.0]), np.array([1.0]), 1j)).round(4)    # 3 dB down
    np.float64(0.7071)
    """
    s = s.astype(complex)
    if A.ndim == 1:
        H = (C * B / (s[..., None] - A)).sum(-1)
    else:
        states = np.linalg.solve(s[..., None, None] * np.eye(len(A)) - A, B.astype(complex)[:, None])
        H = states[..., 0] @ C
    return H if D is None else H + D


@_checked
def impulse_response(A, B, C, t):
    """C e^{A t} B for t >= 0 and 0 before: the continuous system's answer to a unit impulse at t = 0.

    Parameters
    ----------
    A, B, C
        The system, as in the module's summary, in continuous time.
    t : real array of any shape, or a number
        Times, in the unit of time of A.

    Returns
    -------
    y : array of the shape of t

    Raises
    ------
    TypeError, ValueError
        A dtype or shape that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> impulse_response(np.array([-1.0]), np.array([1.0]), np.array([2.0]), np.array([-1.0, 0.0, 1.0])).round(4)
    array([0.    , 2.    , 0.7358])
    """
    _check.array("t", t, _check.FLOATS)
    late = np.maximum(t, 0)                          # e^{At} of a stable A overflows for t far below 0
    if A.ndim == 1:
        y = np.exp(late[..., None] * A) @ (C * B)
    else:
        y = expm(late[..., None, None] * A) @ B @ C
    return np.where(t < 0, 0, y)
