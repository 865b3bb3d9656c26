"""Neural network parts: the operations, and layers that hold their weights.

    functional      operations on tensors, each with its gradient: linear, conv1d, rms_norm, selective_scan, ...
    layers          Parameter, Module, and the layers: what has weights, and how they begin
"""

from . import functional
from .layers import Conv1d, Dropout, Embedding, Linear, Module, Parameter, RMSNorm

__all__ = ["Conv1d", "Dropout", "Embedding", "Linear", "Module", "Parameter", "RMSNorm", "functional"]
