"""The linear recurrence h_t = a_t h_{t-1} + b_t, and its gradient, along any axis of an array.

    linear_scan             h from a and b
    linear_scan_backward    the gradient with respect to a, b and h0 from the one with respect to h

The engines are `reference` (NumPy, the definition), `cpu` (numba, every core) and `cuda` (numba.cuda). NumPy arrays run
on the CPU engine, arrays that live on a card run there and come back in kind; nothing is copied between the two.

Packed sequences: where a new sequence starts, set a_t = 0. Then h_t = b_t, and no gradient passes from h_t to h_{t-1}:
grad_b, and with it all that came before, is that of separate sequences. There is no reset flag besides, since it would
be one more array to read for what a zero in `a` says already. Two consequences. The gradient of the zero itself is
h_{t-1} g_t like that of any other decay: it is the true derivative, so whoever computed the zero with a mask gets it
masked on the way back. And 0 times infinity is NaN: a sequence that overflowed, or holds NaN, spoils those packed after
it, as IEEE arithmetic has it. Data that may do so are scanned one sequence at a time.
"""

import numpy as np

from .. import _check, _place

__all__ = ["linear_scan", "linear_scan_backward"]


def linear_scan(a, b, *, axis=-1, h0=None, reverse=False, engine=None):
    """h_t = a_t h_{t-1} + b_t along one axis, from h_{-1} = h0.

    Parameters
    ----------
    a : array that broadcasts to the shape of `b`, or a number
        The decays: one for all, one a channel, one a step, or all different.
    b : array with at least one axis
        The inputs. float32, float64, complex64 or complex128 (on a card: float16, bfloat16, float32, float64). Any
        length, 0 included; any strides.
    axis : int
        The axis of time.
    h0 : array that broadcasts to the shape of `b` without `axis`, or a number, optional
        The state before the first step; zero by default.
    reverse : bool
        Run from the last step to the first: h_t = a_t h_{t+1} + b_t, from h0 past the end.
    engine : {None, "reference", "cpu", "cuda"}
        None picks by where `b` lives.

    Returns
    -------
    h : array of the shape and dtype of `b`
        A new array; no argument is changed.

    Raises
    ------
    TypeError
        A dtype that is not named above; arrays of different dtypes (a number takes that of `b`); arrays that live in
        different places, or not where `engine` runs.
    ValueError
        A shape that does not fit, an axis out of range, an unknown engine.
    ImportError
        An array on a card, and no numba.cuda to run there.

    Notes
    -----
    Arrays of different dtypes are refused and not promoted: what costs time here is reading and writing memory, and one
    float64 array among float32 ones, mostly there by accident, would silently double it.

    NaN and infinity are data, and land where the loop over time puts them. The CPU engine keeps the order of operations
    of the loop (real results are equal bit by bit), except where b has too few sequences to go round: then long
    sequences are cut in chunks, always in the same places, and rounding differs in the last digits.

    References
    ----------
    - Blelloch, "Prefix Sums and Their Applications", CMU-CS-90-190, 1990, section 1.4.
    - Martin, Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length", ICLR 2018, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> linear_scan(0.5, np.array([1.0, 0.0, 0.0, 8.0]))
    array([1.   , 0.5  , 0.25 , 8.125])
    >>> linear_scan(np.array([0.5, 0.0, 0.5]), np.array([1.0, 1.0, 1.0]), h0=2.0)      # a new sequence at step 1
    array([2. , 1. , 1.5])
    """
    b, run = _arrays("b", b, engine)
    a, h0 = _operands(a, b, "b", axis, h0, reverse)
    return run.linear_scan(a, b, _axis(b, "b", axis), h0, bool(reverse))


def linear_scan_backward(grad, a, h, *, axis=-1, h0=None, reverse=False, engine=None):
    """The gradient of `linear_scan`: with g_t what reaches h_t in all, a scan in the other direction::

        g_t = grad_t + conj(a_{t+1}) g_{t+1},  grad_b_t = g_t,  grad_a_t = conj(h_{t-1}) g_t,  grad_h0 = conj(a_0) g_0

    Parameters
    ----------
    grad : array of the shape of `h`
        The gradient of a number with respect to h.
    a, axis, h0, reverse, engine
        As they were given to `linear_scan`.
    h : array
        What `linear_scan` returned.

    Returns
    -------
    grad_a : array of the shape of `a`
        Summed over the axes along which a was broadcast (in float64, rounded once).
    grad_b : array of the shape of `h`
    grad_h0 : array of the shape of `h0`, or None where there was none

    Raises
    ------
    TypeError, ValueError, ImportError
        As `linear_scan`.

    Notes
    -----
    The gradient of a real loss with respect to z = x + iy is dloss/dx + i dloss/dy, as in PyTorch: the direction in
    which the loss grows fastest. (JAX returns its conjugate.) For real arrays conj does nothing.

    References
    ----------
    - Martin, Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length", ICLR 2018, section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> h = linear_scan(0.5, np.array([1.0, 0.0, 0.0]))
    >>> grad_a, grad_b, grad_h0 = linear_scan_backward(np.array([0.0, 0.0, 1.0]), 0.5, h)    # of h_2 = 0.5 * 0.5
    >>> grad_a.item(), grad_b, grad_h0
    (1.0, array([0.25, 0.5 , 1.  ]), None)
    """
    h, run = _arrays("h", h, engine)
    a, h0 = _operands(a, h, "h", axis, h0, reverse)
    grad = _like("grad", grad, h, "h")
    _check.shape("grad", grad, h.shape, "that of h")
    return run.linear_scan_backward(grad, a, h, _axis(h, "h", axis), h0, bool(reverse))


# --- Checks -----------------------------------------------------------------------------------------------------------


def _arrays(name, x, engine):
    """`x`, the array that decides the shape, the dtype and the place, and the engine's module.

    An engine on the card names its DTYPES; a and h0 reach it as Python numbers where they are numbers.
    """
    run = _place.engine(__name__, name, x, engine)
    if _place.on_card(x):
        _place.known(name, x, run.DTYPES)
    else:
        x = _place.native(_check.array(name, x))
    if len(x.shape) == 0:
        raise ValueError(f"{name}: expected at least one axis, got shape ()")
    return x, run


def _operands(a, b, name, axis, h0, reverse):
    """a and h0 as arrays like b (numbers stay numbers on a card), their shapes checked."""
    axis = _axis(b, name, axis)
    if not isinstance(reverse, (bool, np.bool_)):
        raise TypeError(f"reverse: expected True or False, got {reverse!r}")
    a = _broadcastable("a", _like("a", a, b, name), b.shape, f"that of {name}")
    if h0 is not None:
        rest = (*b.shape[:axis], *b.shape[axis + 1:])
        h0 = _broadcastable("h0", _like("h0", h0, b, name), rest, f"that of {name} without axis {axis}")
    return a, h0


def _axis(b, name, axis):
    """`axis` counted from the front."""
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"axis: expected an integer, got {axis!r}")
    n = len(b.shape)
    if not -n <= axis < n:
        raise ValueError(f"axis: expected {-n} to {n - 1} for {name} of shape {tuple(b.shape)}, got {axis}")
    return int(axis) % n


def _like(name, x, b, other):
    """`x` as an array that lives where b does and has its dtype; a number takes that dtype."""
    if isinstance(x, (int, float, complex)) and not isinstance(x, bool):
        if isinstance(x, complex) and "complex" not in _place.dtype(b):
            raise TypeError(f"{name}: expected a real number, as {other} is {_place.dtype(b)}, got {x!r}")
        return x if _place.on_card(b) else np.asarray(x, b.dtype)
    _place.together(name, x, b, other)
    if not _place.on_card(x):
        x = _place.native(_check.array(name, x))
    if _place.dtype(x) != _place.dtype(b):
        raise TypeError(f"{name}: expected dtype {_place.dtype(b)}, that of {other}, got {_place.dtype(x)}")
    return x


def _broadcastable(name, x, shape, meaning):
    got = tuple(getattr(x, "shape", ()))
    if len(got) > len(shape) or any(n not in (1, m) for n, m in zip(got[::-1], tuple(shape)[::-1])):
        raise ValueError(f"{name}: expected a shape that broadcasts to {tuple(shape)} = {meaning}, got {got}")
    return x
