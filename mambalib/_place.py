"""Where an array lives, and which engine of a package (`scan`, `selective`) runs there."""

from functools import lru_cache
from importlib import import_module

import numpy as np

from . import _check

ENGINES = ("reference", "cpu", "cuda")


def on_card(x):
    """Whether x lives on a card; arrays of numba's simulator have only the last of these attributes."""
    if isinstance(x, np.ndarray):
        return False
    if hasattr(x, "is_cuda"):                           # PyTorch; its __cuda_array_interface__ makes a dictionary
        return x.is_cuda
    return type(x) is not np.ndarray and (hasattr(x, "__cuda_array_interface__") or hasattr(x, "__cuda_ndarray__"))


def dtype(x):
    """The dtype's name of an array in either place."""
    if hasattr(x, "is_cuda"):
        return str(x.dtype).rpartition(".")[2]
    interface = None if type(x) is np.ndarray else getattr(x, "__cuda_array_interface__", None)
    return _name(np.dtype(interface["typestr"]) if interface else x.dtype)


@lru_cache(maxsize=None)
def _name(dtype):
    return dtype.name                                # which NumPy puts together each time


def native(x):
    """In this machine's byte order."""
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def engine(package, name, x, choice):
    """The module that runs where `x` lives: the one of that name, or with None the fast one."""
    if choice is not None:
        _check.choice("engine", choice, ENGINES)
    card = on_card(x)
    if choice is not None and card != (choice == "cuda"):
        wanted = "an array on a card" if choice == "cuda" else "a NumPy array"
        raise TypeError(f"{name}: expected {wanted}, where the engine {choice!r} runs, got {type(x).__name__}")
    if card:
        try:
            from numba import cuda  # noqa: F401
        except ImportError as error:
            raise ImportError(f"arrays on a card need numba.cuda: pip install numba-cuda ({error})") from None
    return import_module("." + (choice or ("cuda" if card else "cpu")), package)


def together(name, x, other, other_name):
    """Raise unless x lives where `other` does."""
    if on_card(x) != on_card(other):
        places = ("a NumPy array", "an array on a card")
        raise TypeError(f"{name}: expected {places[on_card(other)]}, as {other_name}, got {places[on_card(x)]}")


def known(name, x, dtypes):
    """Raise unless the dtype of x, an array on a card, is one of `dtypes`."""
    if dtype(x) not in dtypes:
        raise TypeError(f"{name}: expected dtype {' or '.join(dtypes)}, got {dtype(x)}")
