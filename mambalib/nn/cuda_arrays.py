"""Where the elements of an array lie, as the kernels of this folder want to know it; copies where they lie otherwise.

Each function checks the dtype, by the argument's name, as a kernel would read any bits. A copy is made on the card, on
the stream `on`, and put in `hold`, which keeps it until the kernel is launched.
"""

from collections import namedtuple
from functools import lru_cache
from math import prod

from .._cuda import SIMULATED, view
from ..scan.cuda_layout import copied, is_dense

Rows = namedtuple("Rows", "address count columns step")         # step: numbers from one row to the next
INTEGERS = ("int32", "int64", "int8", "int16", "uint8", "uint16", "uint32")

_is_dense = lru_cache(maxsize=4096)(lambda shape, strides: 0 in shape or is_dense(shape, strides))


def dense(name, x, on, hold):
    """The address of an array without gaps; 0 for None."""
    if x is None:
        return 0
    at = _seen(name, x)
    return at.address if _is_dense(at.shape, at.strides) else _copy(x, at, on, hold).address


def rows(name, x, on, hold):
    """An array of one axis or more as rows whose numbers are neighbours, all equally far apart."""
    at = _seen(name, x)
    step = _row_step(tuple(at.shape), tuple(at.strides))
    if step is None:
        at, step = _copy(x, at, on, hold), at.shape[-1]
    return Rows(at.address, prod(at.shape[:-1]), at.shape[-1], step)


@lru_cache(maxsize=4096)
def _row_step(shape, strides):
    if shape[-1] > 1 and strides[-1] != 1:
        return None
    step = after = None                                 # after: the stride with which the axes so far go on
    for n, s in zip(shape[-2::-1], strides[-2::-1]):
        if n > 1:
            if after not in (None, s):
                return None
            step, after = s if step is None else step, s * n
    return shape[-1] if step is None else step


def together(on, hold, **arrays):
    """The rows of arrays of one shape, not empty; where none of them has gaps, all as one row."""
    shape = next(iter(arrays.values())).shape
    if not shape:
        return [Rows(dense(name, x, on, hold), 1, 1, 1) for name, x in arrays.items()]
    found = [rows(name, x, on, hold) for name, x in arrays.items()]
    if all(r.step == r.columns for r in found):
        return [Rows(r.address, 1, r.count * r.columns, r.count * r.columns) for r in found]
    return found


def sequences(name, x, on, hold):
    """(address, numbers from one entry of the batch to the next, from one time to the next), x (batch, L, channels)."""
    at = _seen(name, x)
    if at.shape[2] > 1 and at.strides[2] != 1:
        at = _copy(x, at, on, hold)
    return at.address, at.strides[0], at.strides[1]


def integers(name, x):
    """(address, dtype) of an array of integers."""
    at = view(x)
    dtype = "uint16" if at.dtype == "bfloat16" else at.dtype     # which 16 bits are to other kernels
    if dtype not in INTEGERS:
        raise TypeError(f"{name}: expected integers of at most 64 bits on a card, got {dtype}")
    return _without_gaps(name, at).address, dtype


def in_place(name, x):
    """The address of an array that is written into."""
    return _without_gaps(name, _seen(name, x)).address


def width(*rows):
    """Numbers that a thread reads at once: 4, if 16 bytes never cross a row's end and start where they may, else 1."""
    whole = all(r.columns % 4 == 0 and r.step % 4 == 0 and (SIMULATED or r.address % 16 == 0) for r in rows)
    return 4 if whole else 1


def _seen(name, x):
    at = view(x)
    if at.dtype != "float32":
        raise TypeError(f"{name}: expected dtype float32 on a card, got {at.dtype}")
    return at


def _copy(x, at, on, hold):
    hold.append(copied(x, at.address, at.shape, at.strides, on))
    return view(hold[-1])


def _without_gaps(name, at):
    if not _is_dense(at.shape, at.strides):
        raise ValueError(f"{name}: expected a contiguous array, got strides {at.strides} for shape {tuple(at.shape)}")
    return at
