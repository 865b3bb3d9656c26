"""Layers: the weights of `functional`'s operations, how they begin, and how to find them all again.

A layer is a `Module`: an object whose attributes are parameters, other modules, or lists, tuples and dictionaries of
them. A parameter's name is the way to it: `backbone.layers.0.norm.weight`.

Every layer takes `rng`, where its initial values are drawn from, and `dtype`. Weights begin uniform in
+-1 / sqrt(fan_in), fan_in being the number of inputs that an output sums over: so its variance does not depend on it.
"""

import numpy as np

from .. import _check
from ..autograd import Tensor, array_module
from . import functional as F


class Parameter(Tensor):
    """A tensor that is learned.

    Parameters
    ----------
    data : array of float32 or float64
    decay : bool
        Whether weight decay applies to it. It should to matrices; a bias, a scale or a rate is not made better by
        being pulled towards zero.
    """

    def __init__(self, data, decay=True):
        super().__init__(data, requires_grad=True)
        self.decay = decay


class Module:
    """What has parameters. A subclass makes them in `__init__` and writes `forward`, which calling a module calls."""

    training = True                                  # dropout acts only then

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def named_modules(self, prefix=""):
        """Yield (name, module), this one first, under the name "". A module that stands in two places comes once."""
        seen = set()
        for name, part in _walk(prefix, self, seen):
            if isinstance(part, Module):
                yield name, part

    def named_parameters(self, prefix=""):
        """Yield (name, parameter). A parameter that stands in two places comes once, under its first name."""
        for name, part in _walk(prefix, self, set()):
            if isinstance(part, Parameter):
                yield name, part

    def parameters(self):
        """The list of all parameters."""
        return [parameter for _, parameter in self.named_parameters()]

    @property
    def num_parameters(self):
        """How many numbers are learned."""
        return sum(parameter.size for parameter in self.parameters())

    def zero_grad(self):
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, training=True):
        """Set `training` here and below; return the module."""
        for _, module in self.named_modules():
            module.training = training
        return self

    def eval(self):
        """`train(False)`."""
        return self.train(False)

    def reseed(self, seed):
        """Let each dropout below draw from a new stream. Seeded by the step, a resumed run drops what it would have."""
        for i, (_, module) in enumerate(self.named_modules()):
            if isinstance(module, Dropout):
                module.rng = np.random.default_rng((seed, i))

    def to(self, place):
        """Move all parameters to "cpu" (NumPy) or "cuda" (CuPy), without their gradients; return the module.

        An optimiser and a model's states hold arrays of their own: make them afterwards.
        """
        _check.choice("place", place, ("cpu", "cuda"))
        if place == "cuda":
            import cupy
        for parameter in self.parameters():
            parameter.data = parameter.numpy() if place == "cpu" else cupy.asarray(parameter.data)
            parameter.grad = None
        return self

    def state_dict(self):
        """{name: NumPy array}, copies."""
        return {name: np.array(parameter.numpy()) for name, parameter in self.named_parameters()}

    def load_state_dict(self, state, strict=True):
        """Write arrays into the parameters; nothing is written if something does not fit.

        Parameters
        ----------
        state : dict
            {name: NumPy array}, each of its parameter's shape; numbers are converted to the parameter's dtype.
        strict : bool
            Whether the names must be exactly those of the parameters. Without it others are passed over, and parameters
            without an array stay as they are.

        Raises
        ------
        ValueError
            A name is missing or unexpected, or a shape differs.
        TypeError
            An array is not of floating-point numbers.
        """
        own = dict(self.named_parameters())
        missing, unexpected = [name for name in own if name not in state], [name for name in state if name not in own]
        if strict and (missing or unexpected):
            words = [f"missing {', '.join(missing)}"] * bool(missing)
            words += [f"unexpected {', '.join(unexpected)}"] * bool(unexpected)
            raise ValueError(f"state: expected one array for each of {len(own)} parameters, got " + "; ".join(words))
        found = {name: np.asarray(state[name]) for name in own if name in state}
        for name, value in found.items():
            if value.dtype.kind != "f":
                raise TypeError(f"{name}: expected floating-point numbers, got {value.dtype.name}")
            if value.shape != own[name].shape:
                raise ValueError(f"{name}: expected shape {own[name].shape}, got {value.shape}")
        for name, value in found.items():            # in place: an optimiser or a captured step holds these arrays
            own[name].data[...] = array_module(own[name].data).asarray(value)


def _walk(name, part, seen):
    """Yield (name, part) for each module and parameter at or below `part`, each once."""
    if isinstance(part, (Module, Parameter)):
        if id(part) in seen:
            return
        seen.add(id(part))
        yield name, part
    if isinstance(part, Module):
        inside = vars(part).items()
    elif isinstance(part, dict):
        inside = part.items()
    elif isinstance(part, (list, tuple)):
        inside = enumerate(part)
    else:
        hidden = part if isinstance(part, (set, frozenset)) else getattr(part, "__dict__", {}).values()
        if not isinstance(part, Parameter) and any(isinstance(x, (Module, Parameter)) for x in hidden):
            kinds = "modules, lists, tuples and dicts"
            raise TypeError(f"{name}: expected modules and parameters in {kinds}, got a {type(part).__name__}")
        if type(part) is Tensor and part.requires_grad and part._step is None:   # a leaf, not a result that is kept
            raise TypeError(f"{name}: expected a Parameter, got a Tensor that requires a gradient")
        return
    for key, x in inside:
        yield from _walk(f"{name}.{key}" if name else str(key), x, seen)


# --- Layers -----------------------------------------------------------------------------------------------------------


def uniform(rng, shape, bound, dtype):
    """An array of uniform numbers in +-bound."""
    return rng.uniform(-bound, bound, shape).astype(dtype)


class Linear(Module):
    """y = W x + b on the last axis: (..., inputs) to (..., outputs).

    `weight` is (outputs, inputs), `bias` (outputs,) or None.
    """

    def __init__(self, inputs, outputs, *, bias=True, rng, dtype="float32"):
        self.weight = Parameter(uniform(rng, (outputs, inputs), inputs**-0.5, dtype))
        self.bias = Parameter(uniform(rng, outputs, inputs**-0.5, dtype), decay=False) if bias else None

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class Embedding(Module):
    """A row of `weight` (tokens, width) for each token: (...) integers to (..., width). It begins normal."""

    def __init__(self, tokens, width, *, scale=0.02, rng, dtype="float32"):
        self.weight = Parameter((scale * rng.standard_normal((tokens, width))).astype(dtype))

    def forward(self, tokens):
        return F.embedding(tokens, self.weight)


class RMSNorm(Module):
    """y = weight x / sqrt(mean(x^2) + eps) on the last axis, of `width` numbers. It begins with weight 1."""

    def __init__(self, width, *, eps=1e-5, dtype="float32"):
        self.weight = Parameter(np.ones(width, dtype), decay=False)
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, self.weight, self.eps)


class Conv1d(Module):
    """A causal convolution along time: (batch, L, inputs) to (batch, L, outputs), y_t from x_{t-K+1} to x_t.

    `weight` is (outputs, inputs // groups, K); its last column multiplies x_t. `window` (batch, K - 1, inputs) is what
    came before x, zeros by default. `activation` is None or "silu".
    """

    def __init__(self, inputs, outputs, K, *, groups=1, bias=True, activation=None, rng, dtype="float32"):
        if inputs % groups or outputs % groups:
            raise ValueError(f"groups: expected a divisor of {inputs} inputs and {outputs} outputs, got {groups}")
        bound = (inputs // groups * K) ** -0.5
        self.weight = Parameter(uniform(rng, (outputs, inputs // groups, K), bound, dtype))
        self.bias = Parameter(uniform(rng, outputs, bound, dtype), decay=False) if bias else None
        self.groups, self.activation = groups, activation

    def forward(self, x, window=None):
        return F.conv1d(x, self.weight, self.bias, groups=self.groups, window=window, activation=self.activation)


class Dropout(Module):
    """While training, each number is zero with probability p, and what stays is divided by 1 - p."""

    def __init__(self, p, *, rng):
        if not 0 <= p < 1:
            raise ValueError(f"dropout: expected a probability in [0, 1), got {p}")
        self.p, self.rng = p, rng

    def forward(self, x):
        return F.dropout(x, self.p, self.rng) if self.training and self.p else x
