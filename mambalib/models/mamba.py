"""Mamba: a block that mixes along time by a convolution over a few steps and a selective state space.

    d_model                width of what goes from block to block
    D = expand d_model     channels inside a block, each with its own state space
    N = d_state            states of a channel
    R = dt_rank            rank of the map from a step's channels to their step sizes delta
    K = d_conv             length of the convolution

The names of the weights are those of the published checkpoints.

References
----------
- Gu, Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", COLM 2024, section 3.4 and figure 3;
  section 3.6 and appendix E on how the parameters begin.
"""

import math
from typing import NamedTuple

import numpy as np

from .. import _check
from ..autograd import array_module, split
from ..nn import functional as F
from ..nn.layers import Conv1d, Linear, Parameter
from ..selective import selective_state_update
from .language_model import LanguageModel, Mixer


def inverse_softplus(y):
    """The x with log(1 + e^x) = y, for y > 0: log(e^y - 1), written so that neither a large nor a small y overflows."""
    return y + np.log(-np.expm1(-y))


class MambaState(NamedTuple):
    """What a block remembers: of any number of steps the same."""

    h: np.ndarray                                    # (batch, D, N), the states
    window: np.ndarray                               # (batch, K - 1, D), the convolution's last inputs


class Mamba(Mixer):
    """The block: (batch, L, d_model) to (batch, L, d_model)::

        x, z        = in_proj(input)                      two halves of D channels
        x           = silu(conv1d(x))                     each channel by itself
        dt, B, C    = x_proj(x)                           R, N and N numbers: what selection is
        delta       = softplus(dt_proj(dt))               (batch, L, D)
        y           = selective_scan(x, delta, -exp(A_log), B, C, D) silu(z)
        output      = out_proj(y)

    Parameters
    ----------
    d_model, d_state, d_conv, expand : int
    dt_rank : int or "auto"
        "auto" is d_model / 16, rounded up.
    dt_min, dt_max, dt_init_floor : float
        The step sizes begin log-uniform between the first two, none below the third: so a channel begins with a memory
        of about 1 / dt steps.
    conv_bias, bias : bool
        Whether the convolution has a bias, and in_proj and out_proj.
    selective : bool
        Without selection, delta (D,), B (N,) and C (N,) are learned constants, the same at every step: x_proj and
        dt_proj are gone and all else stays, so the block is a time-invariant state space between the same convolution
        and gate. It runs through the same scan, which gets the constants repeated along time.
    rng : numpy.random.Generator
    dtype : {"float32", "float64"}
    """

    def __init__(self, d_model, *, d_state=16, expand=2, d_conv=4, dt_rank="auto", dt_min=1e-3, dt_max=0.1,
                 dt_init_floor=1e-4, conv_bias=True, bias=False, selective=True, rng, dtype="float32"):
        for name, value in (("d_model", d_model), ("d_state", d_state), ("expand", expand), ("d_conv", d_conv)):
            _check.count(name, value, least=1)
        R = math.ceil(d_model / 16) if dt_rank == "auto" else _check.count("dt_rank", dt_rank, least=1)
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min: expected a number above 0 and up to dt_max, {dt_max}, got {dt_min}")
        channels = expand * d_model
        self.sizes = channels, d_state, R
        self.selective = selective
        make = {"rng": rng, "dtype": dtype}
        self.in_proj = Linear(d_model, 2 * channels, bias=bias, **make)
        self.conv1d = Conv1d(channels, channels, d_conv, groups=channels, bias=conv_bias, activation="silu", **make)

        log_dt = rng.uniform(math.log(dt_min), math.log(dt_max), channels)
        dt_bias = Parameter(inverse_softplus(np.exp(log_dt).clip(dt_init_floor)).astype(dtype), decay=False)
        if selective:
            self.x_proj = Linear(channels, R + 2 * d_state, bias=False, **make)
            self.dt_proj = Linear(R, channels, bias=False, **make)               # uniform in +-R^-0.5
            self.dt_proj.bias = dt_bias
        else:
            self.dt_bias = dt_bias
            self.B = Parameter(np.ones(d_state, dtype), decay=False)             # only B C matters: one may begin as 1
            self.C = Parameter(rng.standard_normal(d_state).astype(dtype), decay=False)
        rates = np.arange(1, d_state + 1, dtype=dtype)                           # S4D-Real: A = -1, -2, ... -N
        self.A_log = Parameter(np.tile(np.log(rates), (channels, 1)), decay=False)
        self.D = Parameter(np.ones(channels, dtype), decay=False)
        self.out_proj = Linear(channels, d_model, bias=bias, **make)

    @property
    def delta_bias(self):
        return self.dt_proj.bias if self.selective else self.dt_bias

    def forward(self, x, state=None):
        channels, N, R = self.sizes
        x, z = split(self.in_proj(x), (channels, channels), axis=-1)             # (batch, L, D) each
        before, x = x, self.conv1d(x, None if state is None else state.window)
        if self.selective:
            dt, B, C = split(self.x_proj(x), (R, N, N), axis=-1)
            delta = F.linear(dt, self.dt_proj.weight)                            # its bias is added in the scan
        else:
            xp = array_module(x.data)
            delta = xp.broadcast_to(xp.zeros(channels, x.dtype), x.shape)        # delta is softplus(0 + dt_bias)
            steps = xp.zeros((*x.shape[:2], 1), x.dtype)
            B, C = self.B + steps, self.C + steps                                # (batch, L, N)
        arguments = x, delta, -self.A_log.exp(), B, C, self.D, z, self.delta_bias, True
        if state is None:
            return self.out_proj(F.selective_scan(*arguments))
        y, last = F.selective_scan(*arguments, initial_state=state.h, return_last_state=True)
        xp = array_module(state.h)
        state.h[...] = last.data
        state.window[...] = xp.concatenate([state.window, before.data], axis=1)[:, x.shape[1]:]
        return self.out_proj(y)

    def step(self, x, state):
        """One step in arrays: products of matrices and vectors, and between them each channel moves its N states on."""
        xp, (channels, N, R) = array_module(x), self.sizes
        xz = _linear(x, self.in_proj)                                            # (batch, 2 D)
        window = xp.concatenate([state.window, xz[:, None, :channels]], axis=1)  # (batch, K, D)
        state.window[...] = window[:, 1:]
        x = (window * self.conv1d.weight.data[:, 0].T).sum(axis=1)
        if self.conv1d.bias is not None:
            x += self.conv1d.bias.data
        x /= 1 + xp.exp(xp.minimum(-x, 80))                                      # SiLU; e^89 is too much for float32
        if self.selective:
            dt_B_C = _linear(x, self.x_proj)
            delta, B, C = dt_B_C[:, :R] @ self.dt_proj.weight.data.T, dt_B_C[:, R:R + N], dt_B_C[:, R + N:]
        else:
            delta = xp.zeros_like(x)
            B, C = (xp.broadcast_to(p.data, (len(x), N)) for p in (self.B, self.C))
        A, z = -xp.exp(self.A_log.data), xz[:, channels:]
        y = selective_state_update(state.h, x, delta, A, B, C, self.D.data, z, self.delta_bias.data, True)
        return _linear(y, self.out_proj)

    def empty_state(self, batch, length=None):
        channels, N, _ = self.sizes
        weight = self.conv1d.weight.data
        zeros, K = array_module(weight).zeros, weight.shape[-1]
        return MambaState(zeros((batch, channels, N), weight.dtype), zeros((batch, K - 1, channels), weight.dtype))


class MambaLM(LanguageModel):
    """A language model of Mamba blocks.

    Parameters
    ----------
    vocab_size, d_model, n_layers : int
    tie : bool
        Whether the head's matrix is the embedding's.
    norm_eps : float
    dropout : float
        On what each block adds, while training.
    seed : int
        Of the initial values.
    d_state, expand, d_conv, dt_rank, dt_min, dt_max, dt_init_floor, conv_bias, bias, selective, dtype
        As in `Mamba`.

    Notes
    -----
    Each out_proj begins divided by the square root of n_layers, so that the sum of all blocks' outputs does not grow
    with their number.

    Examples
    --------
    >>> import numpy as np
    >>> model = MambaLM(vocab_size=7, d_model=8, n_layers=2)
    >>> model(np.array([[3, 1, 4, 1, 5]])).shape
    (1, 5, 7)
    >>> state = model.empty_state(batch=1)
    >>> model.step(np.array([3]), state).shape
    (1, 7)
    """

    def __init__(self, vocab_size, d_model=128, n_layers=4, *, d_state=16, expand=2, d_conv=4, dt_rank="auto",
                 dt_min=1e-3, dt_max=0.1, dt_init_floor=1e-4, conv_bias=True, bias=False, tie=True, norm_eps=1e-5,
                 selective=True, dropout=0.0, seed=0, dtype="float32"):
        options = dict(d_state=d_state, expand=expand, d_conv=d_conv, dt_rank=dt_rank, dt_min=dt_min, dt_max=dt_max,
                       dt_init_floor=dt_init_floor, conv_bias=conv_bias, bias=bias, selective=selective)
        config = dict(model="mamba", vocab_size=vocab_size, d_model=d_model, n_layers=n_layers, **options, tie=tie,
                      norm_eps=norm_eps, dropout=dropout, seed=seed, dtype=dtype)

        def block(residual, **make):
            mixer = Mamba(d_model, **options, **make)
            mixer.out_proj.weight.data /= math.sqrt(n_layers)
            return residual(mixer)

        super().__init__(config, block)


def _linear(x, layer):
    """`layer` of (batch, inputs) arrays."""
    y = x @ layer.weight.data.T
    if layer.bias is not None:
        y += layer.bias.data
    return y
