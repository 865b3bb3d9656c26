"""A language model of Transformer layers: every position looks at all before it, and nothing is forgotten or summed up.

References
----------
- Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
- Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", Neurocomputing 568, 2024.
- Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202, 2020.
"""

import math
from typing import NamedTuple

import numpy as np

from .. import _check
from ..autograd import array_module, split
from ..nn import functional as F
from ..nn.layers import Linear, Module
from .language_model import LanguageModel, Mixer


class AttentionState(NamedTuple):
    """The keys and values of all tokens so far: it grows with them, up to the room that was asked for."""

    keys: np.ndarray                                 # (batch, heads, room, d), rotated
    values: np.ndarray                               # (batch, heads, room, d)
    length: np.ndarray                               # (1,), how many are filled; always on the host


class Attention(Mixer):
    """Causal attention of `n_heads` heads, with rotary positions: (batch, L, d_model) to (batch, L, d_model)."""

    def __init__(self, d_model, n_heads, *, rng, dtype="float32"):
        self.n_heads = n_heads
        self.qkv_proj = Linear(d_model, 3 * d_model, bias=False, rng=rng, dtype=dtype)
        self.out_proj = Linear(d_model, d_model, bias=False, rng=rng, dtype=dtype)

    def forward(self, x, state=None):
        batch, L, d_model = x.shape
        xp, start = array_module(x.data), 0 if state is None else int(state.length[0])
        heads = batch, L, 3, self.n_heads, d_model // self.n_heads
        q, k, v = (part.reshape(batch, self.n_heads, L, d_model // self.n_heads) for part in split(
            self.qkv_proj(x).reshape(*heads).transpose(2, 0, 3, 1, 4), (1, 1, 1), axis=0))
        positions = xp.arange(start, start + L)
        q, k = F.rotary(q, positions), F.rotary(k, positions)                    # (batch, heads, L, d)
        if state is not None:
            room = state.keys.shape[2]
            if start + L > room:
                raise ValueError(f"tokens: expected at most {room - start}, for which the state has room, got {L}")
            state.keys[:, :, start:start + L], state.values[:, :, start:start + L] = k.data, v.data
            state.length[0] = start + L
            k, v = state.keys[:, :, :start + L], state.values[:, :, :start + L]
        y = F.causal_attention(q, k, v, offset=start)
        return self.out_proj(y.transpose(0, 2, 1, 3).reshape(batch, L, d_model))

    def empty_state(self, batch, length=None):
        if length is None:
            raise ValueError("length: expected the number of tokens to make room for, all of which are kept, got None")
        weight = self.out_proj.weight.data
        zeros, d = array_module(weight).zeros, len(weight) // self.n_heads
        shape = batch, self.n_heads, _check.count("length", length, least=0), d
        return AttentionState(zeros(shape, weight.dtype), zeros(shape, weight.dtype), np.zeros(1, np.int64))


class SwiGLU(Mixer):
    """silu(gate(x)) up(x), `hidden` wide, and back: what happens at each position by itself."""

    def __init__(self, d_model, hidden, *, rng, dtype="float32"):
        self.hidden = hidden
        self.in_proj = Linear(d_model, 2 * hidden, bias=False, rng=rng, dtype=dtype)     # gate above up
        self.out_proj = Linear(hidden, d_model, bias=False, rng=rng, dtype=dtype)

    def forward(self, x, state=None):
        gate, up = split(self.in_proj(x), (self.hidden, self.hidden), axis=-1)
        return self.out_proj(F.silu(gate) * up)


class TransformerBlock(Module):
    """Attention along time, then SwiGLU at each position, each in a residual block."""

    def __init__(self, attention, mlp):
        self.attention, self.mlp = attention, mlp

    def forward(self, x, state=None):
        return self.mlp(self.attention(x, state))

    def step(self, x, state):
        return self.mlp.step(self.attention.step(x, state), None)

    def empty_state(self, batch, length=None):
        return self.attention.empty_state(batch, length)


class TransformerLM(LanguageModel):
    """A language model of Transformer layers: norms first, rotary positions, SwiGLU, no biases.

    Parameters
    ----------
    vocab_size, d_model, n_layers, tie, norm_eps, dropout, seed, dtype
        As in `MambaLM`.
    n_heads : int
        Heads of attention; d_model is a multiple of 2 n_heads.
    hidden : int or "auto"
        Width inside SwiGLU. "auto" is 8/3 d_model, rounded up to a multiple of 8: three matrices of this width have as
        many weights as two that are 4 d_model wide.
    """

    def __init__(self, vocab_size, d_model=128, n_layers=2, *, n_heads=4, hidden="auto", tie=True, norm_eps=1e-5,
                 dropout=0.0, seed=0, dtype="float32"):
        config = dict(model="transformer", vocab_size=vocab_size, d_model=d_model, n_layers=n_layers, n_heads=n_heads,
                      hidden=hidden, tie=tie, norm_eps=norm_eps, dropout=dropout, seed=seed, dtype=dtype)
        if d_model % (2 * _check.count("n_heads", n_heads, least=1)):
            raise ValueError(f"d_model: expected a multiple of {2 * n_heads}, twice the number of heads, got {d_model}")
        hidden = 8 * math.ceil(d_model / 3) if hidden == "auto" else _check.count("hidden", hidden, least=1)

        def block(residual, **make):
            mixers = Attention(d_model, n_heads, **make), SwiGLU(d_model, hidden, **make)
            for mixer in mixers:
                mixer.out_proj.weight.data /= math.sqrt(2 * n_layers)            # as many add up
            return TransformerBlock(*map(residual, mixers))

        super().__init__(config, block)
