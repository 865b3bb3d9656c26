"""A language model of LSTM layers: gates that decide what a state keeps, and a time that cannot be parallelised.

References
----------
- Hochreiter, Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997.
- Gers, Schmidhuber, Cummins, "Learning to Forget: Continual Prediction with LSTM", Neural Computation 12(10), 2000.
"""

from typing import NamedTuple

import numpy as np

from ..autograd import array_module
from ..nn import functional as F
from ..nn.layers import Parameter, uniform
from .language_model import LanguageModel, Mixer


class LSTMState(NamedTuple):
    h: np.ndarray                                    # (batch, d_model), the last output
    c: np.ndarray                                    # (batch, d_model), the cell


class LSTM(Mixer):
    """One layer: (batch, L, d_model) to (batch, L, d_model), as many cells as inputs::

        i, f, g, o  = weight_ih x_t + weight_hh h_{t-1} + bias
        c_t         = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)
        h_t         = sigmoid(o) tanh(c_t)

    The weights begin uniform in +-d_model^-0.5, the bias of the forget gate f one higher: a cell begins by remembering.
    """

    def __init__(self, d_model, *, rng, dtype="float32"):
        self.weight_ih = Parameter(uniform(rng, (4 * d_model, d_model), d_model**-0.5, dtype))
        self.weight_hh = Parameter(uniform(rng, (4 * d_model, d_model), d_model**-0.5, dtype))
        bias = uniform(rng, 4 * d_model, d_model**-0.5, dtype)
        bias[d_model:2 * d_model] += 1
        self.bias = Parameter(bias, decay=False)

    def forward(self, x, state=None):
        weights = self.weight_ih, self.weight_hh, self.bias
        if state is None:
            return F.lstm(x, *weights)[0]
        hs, h, c = F.lstm(x, *weights, state.h, state.c)
        state.h[...], state.c[...] = h.data, c.data
        return hs

    def empty_state(self, batch, length=None):
        weight = self.weight_hh.data
        zeros, shape = array_module(weight).zeros, (batch, weight.shape[1])
        return LSTMState(zeros(shape, weight.dtype), zeros(shape, weight.dtype))


class LSTMLM(LanguageModel):
    """A language model of LSTM layers, each in a residual block as a Mamba's.

    Parameters
    ----------
    vocab_size, d_model, n_layers, tie, norm_eps, dropout, seed, dtype
        As in `MambaLM`.
    """

    def __init__(self, vocab_size, d_model=128, n_layers=2, *, tie=True, norm_eps=1e-5, dropout=0.0, seed=0,
                 dtype="float32"):
        config = dict(model="lstm", vocab_size=vocab_size, d_model=d_model, n_layers=n_layers, tie=tie,
                      norm_eps=norm_eps, dropout=dropout, seed=seed, dtype=dtype)
        super().__init__(config, lambda residual, **make: residual(LSTM(d_model, **make)))
