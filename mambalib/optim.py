"""AdamW, gradient clipping, and learning rates as functions of the step.

References
----------
- Kingma, Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1.
- Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2.
- Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, equation 5 (the cosine).
"""

import math

import numpy as np

from . import _check
from .autograd import array_module
from .nn.functional import _engine


class AdamW:
    """Adam with weight decay apart from the gradient. At step t, with the gradient g of a parameter p::

        m = beta1 m + (1 - beta1) g             the mean gradient of late
        v = beta2 v + (1 - beta2) g^2           its mean square
        p = p - lr decay p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    Parameters
    ----------
    parameters : iterable of (name, Parameter), or of Parameter
        As `module.named_parameters()` gives them; without names they are numbered. `parameter.decay` says whether
        weight decay applies.
    lr : float
        The learning rate of a step that does not name its own.
    betas : (float, float)
        How much of m and v is kept.
    eps : float
        Keeps the division sane where v is 0.
    weight_decay : float

    Notes
    -----
    A step has two halves. `prepare` writes what differs from step to step into a small array that lives where the
    parameters do; `apply` reads it there, and decides nothing by it. So `apply` can be captured in a CUDA graph,
    together with the gradients, and replayed, each time after a `prepare`.
    """

    def __init__(self, parameters, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        items = [p if isinstance(p, tuple) else (str(i), p) for i, p in enumerate(parameters)]
        if not items:
            raise ValueError("parameters: expected at least one, got none")
        for name, value, least in (("lr", lr, 0), ("eps", eps, 0), ("weight_decay", weight_decay, 0)):
            if not value >= least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas: expected numbers in [0, 1), got {betas}")
        self.parameters = dict(items)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = {name: array_module(p.data).zeros_like(p.data) for name, p in items}
        self.v = {name: array_module(p.data).zeros_like(p.data) for name, p in items}
        first = items[0][1].data
        self.scalars = array_module(first).ones(4, first.dtype)                  # lr, 1 - beta1^t, 1 - beta2^t, scale
        self.t = 0

    def step(self, lr=None, clip=None):
        """One step: `prepare(lr)`, then `apply(clip)`, whose result it returns."""
        self.prepare(lr)
        return self.apply(clip)

    def prepare(self, lr=None):
        """Count the step, and write its learning rate and bias corrections where `apply` finds them."""
        self.t += 1
        beta1, beta2 = self.betas
        now = [self.lr if lr is None else lr, 1 - beta1**self.t, 1 - beta2**self.t, 1.0]
        self.scalars[...] = array_module(self.scalars).asarray(now, self.scalars.dtype)

    def apply(self, clip=None):
        """Change the parameters that have a gradient.

        Parameters
        ----------
        clip : float, optional
            If the norm of all gradients together is larger, they count as scaled down to it. (The gradients themselves
            stay: the scale goes into the update.)

        Returns
        -------
        norm : array of shape (), or None without clip
            The norm before clipping.
        """
        norm = None
        if clip is not None:
            norm, xp = grad_norm(self.parameters.values()), array_module(self.scalars)
            self.scalars[3:] = xp.minimum(1, clip / (norm + 1e-6))
        for name, p in self.parameters.items():
            if p.grad is not None:
                decay, m, v = self.weight_decay if p.decay else 0.0, self.m[name], self.v[name]
                _engine(p.data).adamw(p.data, p.grad, m, v, self.scalars, *self.betas, self.eps, decay)
        return norm

    def zero_grad(self):
        """Forget all gradients."""
        for p in self.parameters.values():
            p.grad = None

    def state_dict(self):
        """{name: NumPy array}: the step "t", and m and v of each parameter under "m." and "v." and its name; copies."""
        return {name: np.array(x) if isinstance(x, np.ndarray) else x.get() for name, x in self._state().items()}

    def load_state_dict(self, state):
        """Take over what `state_dict` gave, of an optimiser of the same parameters; all of it, or nothing.

        Raises
        ------
        ValueError
            A name is missing or unexpected, or a shape differs.
        """
        own = self._state()
        if set(state) != set(own):
            missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
            raise ValueError(f"state: expected {len(own)} arrays, missing {missing}, unexpected {unexpected}")
        for name, x in own.items():
            if np.shape(state[name]) != x.shape:
                raise ValueError(f"{name}: expected shape {x.shape}, got {np.shape(state[name])}")
        for name, x in own.items():
            x[...] = array_module(x).asarray(state[name])
        self.t = int(own["t"])

    def _state(self):
        arrays = {"t": np.array(self.t)}
        return arrays | {f"{key}.{name}": x for key, xs in (("m", self.m), ("v", self.v)) for name, x in xs.items()}


def grad_norm(parameters):
    """The Euclidean norm of all gradients together, an array of shape () where they live; 0 if there are none."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return np.zeros(())
    xp = array_module(grads[0])
    return xp.sqrt(xp.stack([xp.vdot(g, g) for g in grads]).sum())


# --- Learning rates ---------------------------------------------------------------------------------------------------


def constant_with_warmup(step, *, peak, warmup=0):
    """The learning rate of a step, counted from 0: a line up to `peak`, reached in `warmup` steps, and no change after.

    Examples
    --------
    >>> [constant_with_warmup(step, peak=1.0, warmup=4) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    warmup = _check.count("warmup", warmup, least=0)
    return peak * min(1.0, (step + 1) / warmup) if warmup else peak


def cosine_with_warmup(step, *, steps, peak, warmup=0, floor=0.0):
    """The same line up, then half a cosine from `peak` down to `floor`, which the last of `steps` steps reaches.

    Examples
    --------
    >>> [round(cosine_with_warmup(step, steps=7, peak=1.0, warmup=2, floor=0.1), 3) for step in range(8)]
    [0.5, 1.0, 0.914, 0.689, 0.411, 0.186, 0.1, 0.1]
    """
    steps, warmup = _check.count("steps", steps, least=1), _check.count("warmup", warmup, least=0)
    if step < warmup:
        return constant_with_warmup(step, peak=peak, warmup=warmup)
    first = max(warmup - 1, 0)                       # the step whose rate is the peak
    done = min(1.0, (step - first) / max(1, steps - 1 - first))
    return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2
