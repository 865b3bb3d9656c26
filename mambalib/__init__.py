"""mambalib: state spaces, scans and Mamba, written to be read. The package behind the Mamba book.

    discretize            (A, B, delta) -> (A_bar, B_bar)
    lti                   a time-invariant state space as recurrence, convolution and transfer function
    hippo                 HiPPO and S4D: state matrices that remember
    viz                   the book's figures and animations
    measured              the measurements stored with the book

Importing mambalib imports NumPy alone; each name below loads its module when it is first used.
"""

from importlib import import_module

__version__ = "0.1.0"

__all__ = ["discretize", "hippo", "lti", "measured", "viz"]


def __getattr__(name):
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted((*globals(), *__all__))
