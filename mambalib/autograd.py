"""Tensors that remember how they were made, and gradients from that memory.

    Tensor                  an array, and the gradient of some number with respect to it
    concatenate, stack, split
    no_grad                 compute without remembering
    primitive               how an operation is written: a result and a rule for its gradient

Every operation stands as a pair: what it computes, and right under it the gradient. If y = f(x) and `grad` is the
gradient of a loss with respect to y, the rule returns the one with respect to x: the chain rule, one operation at a
time.

The arrays are NumPy's, or CuPy's on a card; `array_module` says which. No operation waits for a card.

References
----------
- Griewank, Walther, "Evaluating Derivatives", SIAM 2008, section 3.2 (reverse mode).
- Baydin, Pearlmutter, Radul, Siskind, "Automatic Differentiation in Machine Learning: a Survey", JMLR 18, 2018.
"""

import math
import threading
from contextlib import contextmanager
from itertools import count

import numpy as np

__all__ = ["Tensor", "array_module", "as_tensor", "concatenate", "grad_enabled", "no_grad", "primitive", "split",
           "stack", "unbroadcast"]


class Tensor:
    """An array of numbers that can be differentiated through.

    Parameters
    ----------
    data : NumPy or CuPy array, number or list
        Kept, not copied. What is not an array yet becomes one of NumPy's, and its floats become float32.
    requires_grad : bool
        Whether `backward` should leave the gradient with respect to it in `grad`. Needs floats.

    Attributes
    ----------
    data : array
    grad : array of the shape and dtype of `data`, or None
        Added to by each `backward`, so set it to None before a new one.
    requires_grad : bool

    Raises
    ------
    TypeError
        `data` are not numbers, or are to have a gradient and are not floats.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    array([2., 4., 6.], dtype=float32)
    """

    __array_ufunc__ = None                           # so that `array + tensor` calls Tensor.__radd__

    def __init__(self, data, requires_grad=False):
        if isinstance(data, Tensor):
            raise TypeError("data: expected an array, got a Tensor; its detach() shares the array without the graph")
        if not isinstance(data, (np.ndarray, np.generic)) and array_module(data) is np:
            data = np.asarray(data)
            data = data.astype(np.float32) if data.dtype.kind == "f" else data
        self.data = np.asarray(data) if isinstance(data, np.generic) else data
        if self.dtype.kind not in "fiub":
            raise TypeError(f"data: expected numbers, got dtype {self.dtype}")
        if requires_grad and self.dtype.kind != "f":
            raise TypeError(f"requires_grad: expected False for {self.dtype}, as only floats have a gradient, got True")
        self.grad, self.requires_grad = None, requires_grad
        self._step, self._output = None, 0           # the step that made it, and as which of its outputs

    shape = property(lambda self: self.data.shape)
    ndim = property(lambda self: self.data.ndim)
    dtype = property(lambda self: self.data.dtype)
    size = property(lambda self: self.data.size)
    T = property(lambda self: self.transpose())

    def __len__(self):
        return len(self.data)

    def __repr__(self):
        return f"Tensor({self.data}, dtype={self.dtype}{', requires_grad=True' if self.requires_grad else ''})"

    def item(self):
        """The one number, as Python's."""
        return self.data.item()

    def numpy(self):
        """The numbers as a NumPy array: `data` itself, or a copy from the card."""
        return self.data if isinstance(self.data, np.ndarray) else self.data.get()

    def detach(self):
        """The same numbers without their history."""
        return Tensor(self.data)

    def backward(self, grad=None):
        """Add to the `grad` of every leaf that requires one the gradient of this tensor, or of its product with `grad`.

        A leaf is a tensor that no recorded operation made. The graph is freed on the way: backward works once.

        Parameters
        ----------
        grad : array of this shape, optional
            The gradient with respect to this tensor; 1 for a tensor of one number.

        Raises
        ------
        ValueError
            There is no gradient to compute, `grad` has the wrong shape or is missing, a rule returned a wrong shape, or
            the graph was freed.
        """
        xp = array_module(self.data)
        if not self.requires_grad:
            raise ValueError("backward: expected a tensor that requires a gradient, or is made from one that does")
        if grad is None and self.size != 1:
            raise ValueError(f"grad: expected shape {self.shape}, as the tensor is not one number, got None")
        grad = xp.ones_like(self.data) if grad is None else xp.asarray(grad, self.dtype)
        if grad.shape != self.shape:
            raise ValueError(f"grad: expected shape {self.shape}, that of the tensor, got {grad.shape}")
        steps = _latest_first(self._step)
        self._receive(grad)
        for step in steps:
            grads, parents, backward = step.grads, step.parents, step.backward
            step.grads = step.parents = step.backward = None                     # nothing more will need them
            if any(g is not None for g in grads):
                results = backward(tuple(grads) if step.several else grads[0])
                for parent, g in zip(parents, results, strict=True):
                    if g is not None and parent.requires_grad:
                        parent._receive(g)

    def _receive(self, grad):
        """Add `grad` to what has arrived so far: in a new array, as either may be another tensor's gradient, too."""
        if grad.shape != self.shape:
            raise ValueError(f"backward: expected a gradient of shape {self.shape}, as the tensor, got {grad.shape}")
        grad = grad.astype(self.dtype, copy=False)
        if self._step is None:
            self.grad = array_module(self.data).array(grad) if self.grad is None else self.grad + grad
        else:
            before = self._step.grads[self._output]
            self._step.grads[self._output] = grad if before is None else before + grad

    # --- Arithmetic ---------------------------------------------------------------------------------------------------

    def __add__(self, other):
        x, y = self, self._operand(other)
        return _binary(x.data + y.data, x, y, lambda grad: grad, lambda grad: grad)

    def __sub__(self, other):
        x, y = self, self._operand(other)
        return _binary(x.data - y.data, x, y, lambda grad: grad, lambda grad: -grad)

    def __mul__(self, other):
        x, y = self, self._operand(other)
        return _binary(x.data * y.data, x, y, lambda grad: grad * y.data, lambda grad: grad * x.data)

    def __truediv__(self, other):
        x, y = self, self._operand(other)
        out = x.data / y.data
        return _binary(out, x, y, lambda grad: grad / y.data, lambda grad: -grad * out / y.data)

    def __pow__(self, exponent):
        if not isinstance(exponent, (int, float)):
            raise TypeError(f"exponent: expected a number, got {type(exponent).__name__}")
        exponent = float(exponent) if isinstance(exponent, float) else exponent  # NumPy's would decide the dtype
        less = exponent - 1 if exponent else 1       # the derivative of x^0 is 0, and not 0 / x
        return primitive(self.data**exponent, (self,), lambda grad: (grad * exponent * self.data**less,))

    def __neg__(self):
        return primitive(-self.data, (self,), lambda grad: (-grad,))

    def __matmul__(self, other):
        x, y = self, self._operand(other)
        rows = x.data[None, :] if x.ndim == 1 else x.data                        # (..., n, k)
        columns = y.data[:, None] if y.ndim == 1 else y.data                     # (..., k, m)
        whole = rows @ columns                                                   # (..., n, m)
        lost = (-2,) * (x.ndim == 1) + (-1,) * (y.ndim == 1)

        def to_x(grad):
            return unbroadcast(grad.reshape(whole.shape) @ columns.swapaxes(-1, -2), rows.shape).reshape(x.shape)

        def to_y(grad):
            return unbroadcast(rows.swapaxes(-1, -2) @ grad.reshape(whole.shape), columns.shape).reshape(y.shape)

        return _binary(whole.squeeze(lost) if lost else whole, x, y, to_x, to_y)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other):
        return self._operand(other) - self

    def __rtruediv__(self, other):
        return self._operand(other) / self

    def __rmatmul__(self, other):
        return self._operand(other) @ self

    def _operand(self, other):
        """`other` as a tensor. A number takes this dtype, and stays a scalar, which need not be sent to a card."""
        if not isinstance(other, (int, float)) or self.dtype.kind != "f":
            return as_tensor(other)
        constant = Tensor(0)
        constant.data = self.dtype.type(other)
        return constant

    # --- Functions of each number -------------------------------------------------------------------------------------

    def exp(self):
        y = array_module(self.data).exp(self.data)
        return primitive(y, (self,), lambda grad: (grad * y,))

    def log(self):
        return primitive(array_module(self.data).log(self.data), (self,), lambda grad: (grad / self.data,))

    def sqrt(self):
        y = array_module(self.data).sqrt(self.data)
        return primitive(y, (self,), lambda grad: (grad / (2 * y),))

    def tanh(self):
        y = array_module(self.data).tanh(self.data)
        return primitive(y, (self,), lambda grad: (grad * (1 - y * y),))

    def sigmoid(self):
        xp = array_module(self.data)
        small = xp.exp(-xp.abs(self.data))           # never overflows
        y = xp.where(self.data >= 0, 1, small) / (1 + small)
        return primitive(y, (self,), lambda grad: (grad * y * (1 - y),))

    # --- Sums ---------------------------------------------------------------------------------------------------------

    def sum(self, axis=None, keepdims=False):
        y, xp = self.data.sum(axis=axis, keepdims=True), array_module(self.data)
        total = y if keepdims else y.squeeze(axis)
        return primitive(total, (self,), lambda grad: (xp.broadcast_to(grad.reshape(y.shape), self.shape),))

    def mean(self, axis=None, keepdims=False):
        total = self.sum(axis, keepdims)
        return total * (math.prod(total.shape) / self.size)

    def max(self, axis=None, keepdims=False):
        y = self.data.max(axis=axis, keepdims=True)

        def backward(grad):
            largest = self.data == y                 # several that are equal share the gradient
            return (grad.reshape(y.shape) * largest / largest.sum(axis=axis, keepdims=True),)

        return primitive(y if keepdims else y.squeeze(axis), (self,), backward)

    # --- Other views of the numbers -----------------------------------------------------------------------------------

    def __getitem__(self, index):
        """As NumPy: integers, slices, None, ..., and integer arrays, which may name an element several times."""
        def backward(grad):
            xp = array_module(self.data)
            whole = xp.zeros_like(self.data)
            if all(part is None or part is ... or isinstance(part, (int, slice)) for part in _parts(index)):
                whole[index] = grad
            else:
                xp.add.at(whole, index, grad)        # whole[index] += grad would count an element once
            return (whole,)

        return primitive(self.data[index], (self,), backward)

    def reshape(self, *shape):
        y = self.data.reshape(*shape)
        return primitive(y, (self,), lambda grad: (grad.reshape(self.shape),))

    def transpose(self, *axes):
        if len(axes) == 1 and not isinstance(axes[0], int):
            axes, = axes                             # given as one tuple
        axes = axes or tuple(range(self.ndim))[::-1]
        back = tuple(int(i) for i in np.argsort([axis % self.ndim for axis in axes]))
        return primitive(self.data.transpose(axes), (self,), lambda grad: (grad.transpose(back),))

    def swapaxes(self, i, j):
        return primitive(self.data.swapaxes(i, j), (self,), lambda grad: (grad.swapaxes(i, j),))


def concatenate(tensors, axis=0):
    """The tensors one after the other along an axis."""
    tensors = [as_tensor(x) for x in tensors]
    xp = array_module(tensors[0].data)
    ends = np.cumsum([x.shape[axis] for x in tensors]).tolist()
    data = xp.concatenate([x.data for x in tensors], axis=axis)
    return primitive(data, tensors, lambda grad: xp.split(grad, ends[:-1], axis=axis))


def stack(tensors, axis=0):
    """The tensors, all of one shape, along a new axis."""
    tensors = [as_tensor(x) for x in tensors]
    xp = array_module(tensors[0].data)
    data = xp.stack([x.data for x in tensors], axis=axis)
    return primitive(data, tensors, lambda grad: tuple(xp.moveaxis(grad, axis, 0)))


def split(x, sizes, axis=-1):
    """Views of x, of these sizes along an axis. Their gradients are joined once, rather than each padded with zeros."""
    x = as_tensor(x)
    if sum(sizes) != x.shape[axis]:
        raise ValueError(f"sizes: expected a sum of {x.shape[axis]}, the length of axis {axis}, got {tuple(sizes)}")
    xp = array_module(x.data)
    parts = tuple(xp.split(x.data, np.cumsum(sizes)[:-1].tolist(), axis=axis))

    def backward(grads):
        return (xp.concatenate([xp.zeros_like(y) if g is None else g for y, g in zip(parts, grads)], axis=axis),)

    return primitive(parts, (x,), backward)


# --- The record of what was computed ----------------------------------------------------------------------------------


class _Step:
    """One recorded operation: whose outputs' gradients `backward` turns into those of `parents`."""

    __slots__ = "number", "parents", "backward", "grads", "several"
    numbers = count()

    def __init__(self, parents, backward, outputs, several):
        self.number = next(_Step.numbers)            # later than those of the steps that made the parents
        self.parents, self.backward, self.several = tuple(parents), backward, several
        self.grads = [None] * outputs


def primitive(data, parents, backward):
    """The result of an operation as a Tensor that knows its gradient.

    Parameters
    ----------
    data : array, or tuple of arrays
        What the operation computed.
    parents : sequence of Tensor
        What it computed it from.
    backward : callable
        Called with the gradient with respect to the result, an array of its shape; returns one array, of the parent's
        shape, or None for each parent. It must not write into what it gets, which other tensors may share. Of an
        operation with a tuple of results it gets a tuple, with None where a result was not used.

    Returns
    -------
    Tensor, or tuple of Tensors
        Nothing is recorded under `no_grad`, or when no parent requires a gradient.

    Examples
    --------
    >>> def square(x):
    ...     return primitive(x.data**2, (x,), lambda grad: (2 * x.data * grad,))
    >>> x = Tensor(3.0, requires_grad=True)
    >>> square(x).backward()
    >>> x.grad
    array(6., dtype=float32)
    """
    several = isinstance(data, tuple)
    outputs = tuple(Tensor(x) for x in data) if several else (Tensor(data),)
    if grad_enabled() and any(x.requires_grad for x in parents):
        step = _Step(parents, backward, len(outputs), several)
        for i, y in enumerate(outputs):
            if y.dtype.kind == "f":
                y.requires_grad, y._step, y._output = True, step, i
    return outputs if several else outputs[0]


def _latest_first(step):
    """`step` and all that it came from, each before those whose results it used.

    A step is made after the steps of its parents, so the order in which they were made, backwards, will do.
    """
    found = set() if step is None else {step}
    ahead = list(found)
    while ahead:                                     # not recursive: a graph may be deeper than Python's stack
        parents = ahead.pop().parents
        if parents is None:
            raise ValueError("backward: expected a whole graph, but an earlier backward freed it, or a part of it")
        for parent in parents:
            if parent._step is not None and parent._step not in found:
                found.add(parent._step)
                ahead.append(parent._step)
    return sorted(found, key=lambda step: step.number, reverse=True)


class _Recording(threading.local):
    on = True


_recording = _Recording()


def grad_enabled():
    """Whether operations are recorded, in this thread."""
    return _recording.on


@contextmanager
def no_grad():
    """Inside `with no_grad():`, operations are not recorded, and results require no gradient."""
    before, _recording.on = _recording.on, False
    try:
        yield
    finally:
        _recording.on = before


# --- Arrays -----------------------------------------------------------------------------------------------------------


def array_module(x):
    """numpy, or cupy for an array of CuPy's."""
    if type(x).__module__.partition(".")[0] != "cupy":
        return np
    import cupy

    return cupy


def as_tensor(x):
    """x if it is a Tensor, else a constant one."""
    return x if isinstance(x, Tensor) else Tensor(x)


def unbroadcast(grad, shape):
    """The gradient with respect to an array of that shape, which was broadcast to the shape of `grad`.

    Broadcasting copies a number to many places; what each of them gets is the number's.
    """
    new = grad.ndim - len(shape)
    axes = (*range(new), *(new + i for i, n in enumerate(shape) if n == 1 != grad.shape[new + i]))
    return grad.sum(axis=axes).reshape(shape) if axes else grad


def _binary(data, x, y, to_x, to_y):
    """A primitive of two operands that were broadcast. A gradient that nobody asked for is not computed."""
    def backward(grad):
        return (
            unbroadcast(to_x(grad), x.shape) if x.requires_grad else None,
            unbroadcast(to_y(grad), y.shape) if y.requires_grad else None,
        )

    return primitive(data, (x, y), backward)


def _parts(index):
    return index if isinstance(index, tuple) else (index,)
