"""The checks behind the front doors: each names the argument, what it got and what it takes."""

import numpy as np

FLOATS = ("float32", "float64")
FLOATS_AND_COMPLEX = FLOATS + ("complex64", "complex128")


def array(name, value, dtypes=FLOATS_AND_COMPLEX):
    """`value` as an array of one of `dtypes`; Python numbers (not integer arrays) become float64."""
    if isinstance(value, (bool, str, bytes)) or value is None:
        raise TypeError(f"{name}: expected an array of {' or '.join(dtypes)}, got {value!r}")
    if isinstance(value, int):
        value = float(value)
    try:
        out = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: expected a rectangular array, got rows of different lengths") from None
    if out.dtype.name not in dtypes:
        raise TypeError(f"{name}: expected dtype {' or '.join(dtypes)}, got {out.dtype.name}")
    return out


def shape(name, value, expected, meaning):
    """Raise unless `value.shape` is `expected`, a tuple in which None stands for any size."""
    if len(value.shape) != len(expected) or any(e not in (None, s) for s, e in zip(value.shape, expected)):
        wanted = "(" + ", ".join("any" if e is None else str(e) for e in expected)
        wanted += ",)" if len(expected) == 1 else ")"
        raise ValueError(f"{name}: expected shape {wanted} = {meaning}, got {value.shape}")


def rows(name, value, meaning):
    """Raise unless `value` has a last axis, and something on it."""
    if value.ndim == 0 or value.shape[-1] == 0:
        raise ValueError(f"{name}: expected shape {meaning}, got {value.shape}")


def state_matrix(name, A):
    """Raise unless A is dense (N, N) or diagonal (N,) with N >= 1; return N."""
    if A.ndim not in (1, 2) or A.shape[0] == 0 or (A.ndim == 2 and A.shape[0] != A.shape[1]):
        raise ValueError(f"{name}: expected shape (N, N) for a dense matrix or (N,) for a diagonal, N >= 1, got {A.shape}")
    return A.shape[0]


def choice(name, value, options):
    """Raise unless `value` is one of `options`."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}")


def count(name, value, least, even=False):
    """`value` as an int of at least `least`, even if asked for."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
    if even and value % 2:
        raise ValueError(f"{name}: expected an even number, got {value}")
    return int(value)


def positive(name, value):
    """A real number or array, every entry above zero (NaN passes, as data)."""
    out = array(name, value, FLOATS)
    if np.any(out <= 0):
        raise ValueError(f"{name}: expected positive values, got {float(np.nanmin(out)):g}")
    return out
