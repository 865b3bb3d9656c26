"""The selective scan: a state space whose step, input and output matrices follow the data, its gradient, and one step of it.

    selective_scan              y from u, delta, A, B, C
    selective_scan_backward     the gradient with respect to each of them, from the one with respect to y
    selective_state_update      one step, the state changed in place

The engines are `reference` (NumPy, the definition), `cpu` (numba, every core) and `cuda` (numba.cuda). NumPy arrays run
on the CPU engine, arrays that live on a card run there and come back in kind; nothing is copied between the two.

What an engine gets. Everything is checked here, and an engine names the DTYPES of u that it takes. It has the functions
of `reference`, called with positional arguments in the order written there (`zoh`, which only the reference has, apart).
B and C always have their axis of groups: (batch, L, G, N), for the step update (batch, G, N), as views of what the user
gave; G is the same for both and divides D. Optional arguments that are not given are None. Gradients of B and C are
returned with the axis of groups, too.
"""

from collections import namedtuple

import numpy as np

from .. import _check, _place

__all__ = ["selective_scan", "selective_scan_backward", "selective_state_update"]

_NUMPY = {name: np.dtype(name) for name in _check.FLOATS_AND_COMPLEX + ("float16",)}
STATES = 256                                         # of a channel, at most: what a kernel on the card is made for

SelectiveGradients = namedtuple("SelectiveGradients", "u delta A B C D z delta_bias initial_state")


def selective_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, initial_state=None,
                   return_last_state=False, *, reset=None, zoh=False, engine=None):
    """y_t = C_t . h_t with h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, for every channel its own N states.

    In full, for channel d and state n, from h_{-1} = initial_state::

        step  = delta[t, d] + delta_bias[d],     step = log(1 + exp(step)) with delta_softplus
        h[n]  = exp(step A[d, n]) h[n] + step B[t, n] u[t, d]
        y     = sum_n C[t, n] h[n] + D[d] u[t, d],     y = y z / (1 + exp(-z)) with z = z[t, d]

    Parameters
    ----------
    u : (batch, L, D) array
        The input. float32 or float64; on a card float16, bfloat16 or float32. Any strides; any L and batch and D, 0
        included.
    delta : (batch, L, D) array of the dtype of `u`
        The step.
    A : (D, N) array, N from 1 to 256
        The decay rates, negative if states are to fade. float32, or float64 where u is; with engine="reference" also
        complex64 or complex128.
    B, C : (batch, L, N) or (batch, L, G, N) arrays of the dtype of `u`
        How the input enters and how the state is read. With groups, G divides D and channel d reads group d // (D // G);
        both have the same G. Complex where A is, and then y_t = 2 Re(C_t . h_t): each state stands for a conjugate pair.
    D : (D,) array of the real dtype of `A`, optional
        The skip connection.
    z : (batch, L, D) array of the dtype of `u`, optional
        The gate.
    delta_bias : (D,) array of the real dtype of `A`, optional
        Added to delta.
    delta_softplus : bool
        Whether delta, its bias added, goes through softplus, which makes it positive.
    initial_state : (batch, D, N) array of the dtype of `A`, optional
        The state before the first step; zero by default.
    return_last_state : bool
        Whether to return the state after the last step, too.
    reset : (batch, L) array of bool, optional
        True where a new sequence starts: the state before that step, initial_state included, counts as zero. (A decay
        exp(delta A) is never zero, so packed sequences cannot be told apart by their data.)
    zoh : bool
        Discretize B exactly, by (exp(delta A) - 1) / A, where Mamba takes delta. Only with engine="reference".
    engine : {None, "reference", "cpu", "cuda"}
        None picks by where `u` lives.

    Returns
    -------
    y : array of the shape and dtype of `u`
    last_state : (batch, D, N) array of the dtype of `A`, only with return_last_state
        initial_state, or zeros, where L is 0.

    Raises
    ------
    TypeError
        A dtype that is not named above; arrays that live in different places, or not where `engine` runs.
    ValueError
        A shape that does not fit, an unknown engine, zoh with another engine than the reference.
    ImportError
        An array on a card, and no numba.cuda to run there.

    Notes
    -----
    NaN and infinity are data, and pass through as in the loop over time. The CPU engine gives the same bits on every run
    and with any number of threads. No array of (batch, L, D, N) numbers is made, by any engine.

    References
    ----------
    - Gu, Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", COLM 2024, section 3 and algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> u = np.array([1.0, 0.0, 0.0, 1.0]).reshape(1, 4, 1)
    >>> delta = np.full((1, 4, 1), np.log(2))
    >>> A, B = np.array([[-1.0]]), np.ones((1, 4, 1))
    >>> (selective_scan(u, delta, A, B, B) / np.log(2)).ravel()      # each step halves the state
    array([1.   , 0.5  , 0.25 , 1.125])
    >>> reset = np.array([[False, False, True, False]])
    >>> (selective_scan(u, delta, A, B, B, reset=reset) / np.log(2)).ravel()
    array([1. , 0.5, 0. , 1. ])
    """
    run, arrays, reset = _sequence(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, reset, engine)
    _flag("return_last_state", return_last_state)
    _flag("zoh", zoh)
    if zoh and engine != "reference":
        raise ValueError(f'zoh: expected False unless engine="reference", the one that has it, got {zoh!r} with {engine!r}')
    exact = {"zoh": True} if zoh else {}
    y, last_state = run.selective_scan(*arrays, reset, bool(return_last_state), **exact)
    return (y, last_state) if return_last_state else y


def selective_scan_backward(grad_y, u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
                            initial_state=None, grad_last_state=None, *, reset=None, engine=None):
    """The gradient of `selective_scan`: with g_t what reaches h_t in all, the steps taken back::

        g_t           = C_t grad_y_t + exp(delta_{t+1} A) g_{t+1}
        grad_C_t      = sum_d h_t grad_y_t,     grad_B_t = sum_d delta_t u_t g_t
        grad_exponent = exp(delta_t A) h_{t-1} g_t,     grad_A = sum_t delta_t grad_exponent
        grad_delta_t  = u_t (B_t . g_t) + A . grad_exponent,     grad_u_t = delta_t (B_t . g_t)

    and through the bias, softplus, the skip connection and the gate by the chain rule.

    Parameters
    ----------
    grad_y : (batch, L, D) array of the dtype of `u`
        The gradient of a number with respect to y.
    grad_last_state : (batch, D, N) array of the dtype of `A`, optional
        And with respect to the last state; zero by default.
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, reset, engine
        As they were given to `selective_scan`. (`zoh` has no gradient.)

    Returns
    -------
    SelectiveGradients(u, delta, A, B, C, D, z, delta_bias, initial_state)
        A named tuple; each has the shape and dtype of the argument, and is None where that was None.

    Raises
    ------
    TypeError, ValueError, ImportError
        As `selective_scan`.

    Notes
    -----
    States are computed again, not kept: the CPU engine keeps one state in every few dozen steps. With complex arrays the
    gradient with respect to a + ib is dloss/da + i dloss/db, as in `linear_scan_backward`.

    References
    ----------
    - Gu, Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", COLM 2024, section 3.3.2 (recomputation).

    Examples
    --------
    >>> import numpy as np
    >>> u, delta, B = np.ones((1, 2, 1)), np.full((1, 2, 1), np.log(2)), np.ones((1, 2, 1))
    >>> grad_y = np.array([0.0, 1.0]).reshape(1, 2, 1)               # of y_1
    >>> grads = selective_scan_backward(grad_y, u, delta, np.array([[-1.0]]), B, B)
    >>> (grads.u / np.log(2)).ravel(), grads.D
    (array([0.5, 1. ]), None)
    """
    run, arrays, reset = _sequence(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, reset, engine)
    u, _, A = arrays[:3]
    grad_y = _fit("grad_y", grad_y, u, _place.dtype(u), u.shape, "that of u")
    if grad_last_state is not None:
        state = (u.shape[0], *A.shape)
        grad_last_state = _fit("grad_last_state", grad_last_state, u, _place.dtype(A), state, "(batch, channels, state)")
    grads = SelectiveGradients(*run.selective_scan_backward(grad_y, *arrays, grad_last_state, reset))
    for name, x, given in (("B", grads.B, B), ("C", grads.C, C)):
        if len(_shape(given)) == 3:
            grads = grads._replace(**{name: x.reshape(_shape(given))})
    return grads


def selective_state_update(state, u_t, delta_t, A, B_t, C_t, D=None, z=None, delta_bias=None, delta_softplus=False, *,
                           out=None, engine=None):
    """One step of `selective_scan`: y_t, and `state` becomes the state after it.

    Parameters
    ----------
    state : (batch, D, N) array of the dtype of `A`
        The state before the step; changed in place.
    u_t, delta_t, z : (batch, D) arrays
        One step of u, delta and z, of the dtypes that `selective_scan` takes.
    B_t, C_t : (batch, N) or (batch, G, N) arrays
        One step of B and C.
    A, D, delta_bias, delta_softplus, engine
        As in `selective_scan`.
    out : (batch, D) array of the dtype of `u_t`, optional
        Where to write y_t. Then the CPU engine makes no array.

    Returns
    -------
    y_t : (batch, D) array
        `out`, if given.

    Raises
    ------
    TypeError, ValueError, ImportError
        As `selective_scan`; also a `state` or an `out` that cannot be written to.

    References
    ----------
    - Gu, Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", COLM 2024, section 3.3 (inference in
      constant time a step).

    Examples
    --------
    >>> import numpy as np
    >>> state, one = np.full((1, 1, 1), 8.0), np.ones((1, 1))
    >>> selective_state_update(state, 0 * one, np.log(2) * one, -one, one, one)
    array([[4.]])
    >>> state.item()
    4.0
    """
    run, u_t, own = _door("u_t", u_t, engine, "(batch, channels)")
    A, wide, real = _rates(A, u_t, own, engine, "u_t")
    batch, channels = shape = u_t.shape
    delta_t = _fit("delta_t", delta_t, u_t, own, shape, "that of u_t", "u_t")
    B_t, C_t = _matrices("B_t", B_t, "C_t", C_t, u_t, A, own, "u_t")
    D, z, delta_bias = _parts(D, z, delta_bias, delta_softplus, u_t, own, real, "u_t")
    _writable("state", state)
    state = _fit("state", state, u_t, wide, (batch, channels, A.shape[1]), "(batch, channels, state)", "u_t")
    if out is not None:
        _writable("out", out)
        out = _fit("out", out, u_t, own, shape, "that of u_t", "u_t")
    return run.selective_state_update(state, u_t, delta_t, A, B_t, C_t, D, z, delta_bias, bool(delta_softplus), out)


# --- Checks -----------------------------------------------------------------------------------------------------------
# Three dtypes by name: `own`, that of u; `wide`, that of A and the states, complex where A is; `real`, its real part's.


def _sequence(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, reset, engine):
    """The engine's module, its arguments from u to initial_state, and reset."""
    run, u, own = _door("u", u, engine, "(batch, length, channels)")
    A, wide, real = _rates(A, u, own, engine)
    delta = _fit("delta", delta, u, own, u.shape, "that of u")
    B, C = _matrices("B", B, "C", C, u, A, own)
    D, z, delta_bias = _parts(D, z, delta_bias, delta_softplus, u, own, real)
    batch, L, _ = u.shape
    if initial_state is not None:
        state = (batch, *A.shape)
        initial_state = _fit("initial_state", initial_state, u, wide, state, "(batch, channels, state)")
    if reset is not None:
        _place.together("reset", reset, u, "u")
        if _place.on_card(reset):
            _place.known("reset", reset, ("bool",))
        else:
            reset = _check.array("reset", reset, ("bool",))
        _check.shape("reset", reset, (batch, L), "(batch, length)")
    return run, (u, delta, A, B, C, D, z, delta_bias, bool(delta_softplus), initial_state), reset


def _door(name, u, engine, axes):
    """The engine's module, and u, which decides the place, the dtype and all sizes but N; its dtype."""
    run = _place.engine(__name__, name, u, engine)
    if _place.on_card(u):
        _place.known(name, u, run.DTYPES)
    elif type(u) is not np.ndarray or u.dtype not in (_NUMPY["float32"], _NUMPY["float64"]):
        u = _place.native(_check.array(name, u, run.DTYPES))
    _check.shape(name, u, (None,) * (axes.count(",") + 1), axes)
    return run, u, _place.dtype(u)


def _rates(A, u, own, engine, name="u"):
    """A, which decides N and whether states are complex; `wide` and `real`."""
    real = "float64" if own == "float64" else "float32"              # half precision is for what there is much of
    wide = real
    if type(A) is not np.ndarray and not _place.on_card(A):
        A = _check.array("A", A)
    if "complex" in _place.dtype(A):
        if engine != "reference":
            raise TypeError(f'A: expected real rates unless engine="reference", got {_place.dtype(A)}')
        wide = "complex128" if own == "float64" else "complex64"
    channels = _shape(u)[-1]
    known = type(A) is np.ndarray and A.ndim == 2 and len(A) == channels
    A = _fit("A", A, u, wide, A.shape if known else (channels, None), "(channels, state)", name)
    if not 1 <= A.shape[1] <= STATES:
        raise ValueError(f"A: expected 1 to {STATES} states a channel, got shape {tuple(A.shape)}")
    return A, wide, real


def _parts(D, z, delta_bias, delta_softplus, u, own, real, name="u"):
    """The optional arguments that a sequence and a step share."""
    channels = _shape(u)[-1:]
    if D is not None:
        D = _fit("D", D, u, real, channels, "(channels,)", name)
    if z is not None:
        z = _fit("z", z, u, own, u.shape, f"that of {name}", name)
    if delta_bias is not None:
        delta_bias = _fit("delta_bias", delta_bias, u, real, channels, "(channels,)", name)
    _flag("delta_softplus", delta_softplus)
    return D, z, delta_bias


def _matrices(name_B, B, name_C, C, u, A, own, name="u"):
    """B and C as views with an axis of groups."""
    before, N, channels = _shape(u)[:-1], A.shape[1], _shape(u)[-1]
    words = "batch" if len(before) == 1 else "batch, length"
    dtype = own if "complex" not in _place.dtype(A) else _place.dtype(A)
    both = []
    for which, x in ((name_B, B), (name_C, C)):
        x = x if hasattr(x, "shape") else _check.array(which, x)
        if len(x.shape) == len(before) + 2:
            x = _fit(which, x, u, dtype, (*before, None, N), f"({words}, groups, state)", name)
            if _shape(x)[-2] == 0 or channels % _shape(x)[-2]:
                raise ValueError(f"{which}: expected a number of groups that divides the {channels} channels, got {_shape(x)[-2]}")
        else:
            x = _with_one_group(_fit(which, x, u, dtype, (*before, N), f"({words}, state)", name))
        both.append(x)
    if _shape(both[0])[-2] != _shape(both[1])[-2]:
        raise ValueError(f"{name_C}: expected as many groups as {name_B}, {_shape(both[0])[-2]}, got {_shape(both[1])[-2]}")
    return both


def _fit(name, x, u, dtype, shape, meaning, other="u"):
    """`x` as an array of that dtype and shape which lives where u does; None in the shape stands for any size."""
    if type(x) is type(u) is np.ndarray and x.dtype == _NUMPY[dtype] and x.shape == shape:
        return x                                     # a step is short, and its checks must not take longer than it
    _place.together(name, x, u, other)
    if not _place.on_card(x):
        x = _place.native(_check.array(name, x))
    if _place.dtype(x) != dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, as {other} is {_place.dtype(u)}, got {_place.dtype(x)}")
    _check.shape(name, x, tuple(shape), meaning)
    return x


def _shape(x):
    return tuple(x.shape) if hasattr(x, "shape") else np.shape(x)


def _with_one_group(x):
    """(..., N) as (..., 1, N)."""
    if type(x) is np.ndarray or type(x).__module__.partition(".")[0] in ("torch", "cupy"):
        return x[..., None, :]
    from .._cuda import SIMULATED, cuda
    if SIMULATED:
        return type(x)(x._ary[..., None, :])
    shape, strides = (*x.shape[:-1], 1, x.shape[-1]), (*x.strides[:-1], x.shape[-1] * x.strides[-1], x.strides[-1])
    return cuda.devicearray.DeviceNDArray(shape, strides, x.dtype, gpu_data=x.gpu_data)


def _writable(name, x):
    """Raise unless numbers can be written into x itself; on a card, without gaps between them."""
    if _place.on_card(x):
        from .._cuda import contiguous, view
        there = view(x)
        if any(n > 1 and s != c for n, s, c in zip(there.shape, there.strides, contiguous(there.shape))):
            raise ValueError(f"{name}: expected a contiguous array, got strides {there.strides} for shape {tuple(there.shape)}")
    elif type(x) is not np.ndarray:
        raise TypeError(f"{name}: expected an array to write into, got {type(x).__name__}")
    elif not (x.flags.writeable and x.dtype.isnative):
        raise TypeError(f"{name}: expected an array to write into, got one that is read-only or in another byte order")


def _flag(name, value):
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
