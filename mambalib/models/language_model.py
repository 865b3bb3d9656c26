"""What the language models share: an embedding, a stack of residual blocks, a norm, and a head.

    tokens (batch, L) -> x (batch, L, d_model) -> blocks -> norm -> logits (batch, L, vocab)

A block, and the mixer inside it, has three methods:

    forward(x, state=None)       (batch, L, d_model) tensors; a state is gone on from, and changed in place
    step(x, state)               (batch, d_model) arrays: one step, without the engine's records
    empty_state(batch, length)   a named tuple of arrays, the first of them of shape (batch, ...)
"""

import numpy as np

from .. import _check, _place
from ..autograd import Tensor, array_module, no_grad
from ..nn import functional as F
from ..nn.layers import Dropout, Embedding, Linear, Module, RMSNorm


class Mixer(Module):
    """What stands in a residual block. One step is a sequence of length 1, unless a mixer knows a shorter way."""

    def step(self, x, state):
        with no_grad():
            return self.forward(Tensor(x[:, None]), state).data[:, 0]


class ResidualBlock(Module):
    """x + mixer(norm(x)): what a mixer does not change passes by it, and gradients do, too."""

    def __init__(self, mixer, d_model, *, norm_eps, dropout, rng, dtype):
        self.norm = RMSNorm(d_model, eps=norm_eps, dtype=dtype)
        self.mixer = mixer
        self.dropout = Dropout(dropout, rng=rng.spawn(1)[0])

    def forward(self, x, state=None):
        return x + self.dropout(self.mixer(self.norm(x), state))

    def step(self, x, state):
        return x + self.mixer.step(_rms_norm(x, self.norm), state)

    def empty_state(self, batch, length=None):
        return self.mixer.empty_state(batch, length)


class Backbone(Module):
    """All but the head. The names of its parts are those of the published checkpoints."""

    def __init__(self, embedding, layers, norm_f):
        self.embedding, self.layers, self.norm_f = embedding, layers, norm_f


class LanguageModel(Module):
    """Tokens in, logits of the next token out. A subclass says what a block is.

    Parameters
    ----------
    config : dict
        {"model": kind} and the arguments that made the model; see `models.build`.
    make_block : function
        make_block(residual, rng=, dtype=) gives a block; residual(mixer) puts a mixer into a `ResidualBlock`.
    """

    def __init__(self, config, make_block):
        for name in ("vocab_size", "d_model", "n_layers"):
            _check.count(name, config[name], least=1)
        _check.choice("dtype", config["dtype"], _check.FLOATS)
        vocab_size, d_model = config["vocab_size"], config["d_model"]
        make = dict(rng=np.random.default_rng(config["seed"]), dtype=config["dtype"])

        def residual(mixer):
            return ResidualBlock(mixer, d_model, norm_eps=config["norm_eps"], dropout=config["dropout"], **make)

        layers = [make_block(residual, **make) for _ in range(config["n_layers"])]
        norm = RMSNorm(d_model, eps=config["norm_eps"], dtype=config["dtype"])
        self.config = config
        self.backbone = Backbone(Embedding(vocab_size, d_model, **make), layers, norm)
        self.lm_head = None if config["tie"] else Linear(d_model, vocab_size, bias=False, **make)

    @property
    def head(self):
        """The parameter (vocab, d_model) that turns the last vectors into logits."""
        return self.backbone.embedding.weight if self.lm_head is None else self.lm_head.weight

    def forward(self, tokens, state=None, last=False):
        """Logits (batch, L, vocab) of the tokens that follow each of `tokens` (batch, L).

        Parameters
        ----------
        tokens : (batch, L) array of integers in [0, vocab)
        state : from `empty_state`, optional
            What the model remembers of earlier tokens; it is changed in place, and no gradient is recorded.
        last : bool
            Whether only the logits after the last token are wanted, (batch, 1, vocab), as of a prompt.

        Raises
        ------
        TypeError, ValueError
            `tokens` are not integers, not (batch, L), out of range, or not as many sequences as the state has; a
            Transformer's state has no room for them.
        """
        tokens = self._tokens(tokens, 2, state)
        if state is not None:
            with no_grad():
                return self._logits(tokens, state, last)
        return self._logits(tokens, [None] * len(self.backbone.layers), last)

    def _logits(self, tokens, states, last):
        x = self.backbone.embedding(tokens)                                      # (batch, L, d_model)
        for layer, state in zip(self.backbone.layers, states):
            x = layer(x, state)
        if last:
            x = x[:, -1:]
        return F.linear(self.backbone.norm_f(x), self.head)

    def step(self, tokens, state):
        """Logits (batch, vocab), an array, after one more token for each sequence; the state is changed in place.

        Parameters
        ----------
        tokens : (batch,) array of integers in [0, vocab)
        state : from `empty_state`

        Raises
        ------
        TypeError, ValueError
            As a call.
        """
        tokens = self._tokens(tokens, 1, state)
        x = self.backbone.embedding.weight.data[tokens]                          # (batch, d_model)
        for layer, memory in zip(self.backbone.layers, state):
            x = layer.step(x, memory)
        return _rms_norm(x, self.backbone.norm_f) @ self.head.data.T

    def empty_state(self, batch, length=None):
        """The state before the first token: for each layer its arrays, where the weights live.

        `length` is how many tokens it must have room for; only a Transformer, which keeps them all, needs it.
        """
        batch = _check.count("batch", batch, least=0)
        return [layer.empty_state(batch, length) for layer in self.backbone.layers]

    def load_state_dict(self, state, strict=True):
        """As `Module.load_state_dict`. With a tied head, `lm_head.weight` may be there, too, equal to the embedding."""
        state, own = dict(state), "backbone.embedding.weight"
        if "backbone.embeddings.weight" in state:    # the name in Hugging Face's conversions
            state[own] = state.pop("backbone.embeddings.weight")
        if self.lm_head is None and "lm_head.weight" in state:
            head = state.pop("lm_head.weight")
            if not np.array_equal(head, state.get(own, head)):
                raise ValueError("lm_head.weight: expected the embedding's numbers, as tie=True, got others")
        super().load_state_dict(state, strict)

    def _tokens(self, tokens, ndim, state):
        """`tokens` as an array, checked as far as that can be done without waiting for a card."""
        card = _place.on_card(tokens)
        tokens = tokens if card else np.asarray(tokens)
        if tokens.dtype.kind not in "iu":
            raise TypeError(f"tokens: expected integers, got {tokens.dtype.name}")
        if tokens.ndim != ndim:
            raise ValueError(f"tokens: expected shape {'(batch,)' if ndim == 1 else '(batch, L)'}, got {tokens.shape}")
        if not card and tokens.size and not 0 <= tokens.min() <= tokens.max() < self.config["vocab_size"]:
            wrong = tokens[(tokens < 0) | (tokens >= self.config["vocab_size"])][0]
            raise ValueError(f"tokens: expected numbers from 0 to {self.config['vocab_size'] - 1}, got {wrong}")
        if state is not None:
            n = len(self.backbone.layers)
            if len(state) != n:
                raise ValueError(f"state: expected one for each of {n} layers, got {len(state)}")
            if len(state[0][0]) != len(tokens):
                batch = len(state[0][0])
                raise ValueError(f"tokens: expected {batch} sequences, as the state has, got {len(tokens)}")
        weight = self.backbone.embedding.weight.data
        return tokens if card else array_module(weight).asarray(tokens)


def _rms_norm(x, norm):
    """`norm` of (batch, d_model) arrays."""
    xp = array_module(x)
    mean = (x * x).sum(axis=-1, keepdims=True) / x.shape[-1]
    return x * (norm.weight.data / xp.sqrt(mean + norm.eps))
