"""mambalib: state spaces, scans and Mamba, written to be read. The package behind the Mamba book.

    discretize            (A, B, delta) -> (A_bar, B_bar)
    lti                   a time-invariant state space as recurrence, convolution and transfer function
    hippo                 HiPPO and S4D: state matrices that remember
    scan                  linear_scan, linear_scan_backward: h_t = a_t h_{t-1} + b_t on the cores and on the card
    selective             selective_scan, selective_scan_backward, selective_state_update: Mamba's scan and its one step
    viz                   the book's figures and animations
    measured              the measurements stored with the book

Importing mambalib imports NumPy alone; each name below loads its module when it is first used. The functions named here
are names of mambalib itself, too.
"""

from importlib import import_module

__version__ = "0.1.0"

_MODULES = ("discretize", "hippo", "lti", "measured", "scan", "selective", "viz")
_FUNCTIONS = {
    "linear_scan": "scan", "linear_scan_backward": "scan",
    "selective_scan": "selective", "selective_scan_backward": "selective", "selective_state_update": "selective",
}

__all__ = [*_MODULES, *_FUNCTIONS]


def __getattr__(name):
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in _FUNCTIONS:
        return getattr(import_module(f".{_FUNCTIONS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted((*globals(), *__all__))
