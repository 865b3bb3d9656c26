"""mambalib: state spaces, scans and Mamba, written to be read. The package behind the Mamba book.

    discretize            (A, B, delta) -> (A_bar, B_bar)
    lti                   a time-invariant state space as recurrence, convolution and transfer function
    hippo                 HiPPO and S4D: state matrices that remember
    scan                  linear_scan, linear_scan_backward: h_t = a_t h_{t-1} + b_t on the cores and on the card
    selective             selective_scan, selective_scan_backward, selective_state_update: Mamba's scan and its one step
    autograd              Tensor: arrays that can be differentiated through
    nn, optim             operations, layers, AdamW
    models                Mamba, and what it is compared with: LSTM, Transformer
    tasks, text           what they learn: synthetic tasks, and text as tokens
    train, generate       and how; `python -m mambalib train` and `generate` on the command line
    checkpoint            files of weights
    viz                   the book's figures and animations
    measured              the measurements stored with the book

Importing mambalib imports NumPy alone; each name below loads its module when it is first used. The functions named here
are names of mambalib itself, too.
"""

import os
from importlib import import_module

# NumPy's matrix products and numba's kernels have threads of their own. Those of OpenMP, which numba takes where it is found,
# go on spinning after their work, on the cores that the others then wait for. OpenMP reads this at the first kernel.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"

_MODULES = ("autograd", "checkpoint", "discretize", "generate", "hippo", "lti", "measured", "models", "nn", "optim", "scan", "selective", "tasks",
            "text", "train", "viz")
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
