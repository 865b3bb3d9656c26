"""The engine: every operation against central differences in float64, and the traps of sharing arrays and graphs."""

import gc
import math
import tracemalloc
import weakref
from threading import Thread

import numpy as np
import pytest
from differences import check
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mambalib.autograd import (
    Tensor, array_module, as_tensor, concatenate, grad_enabled, no_grad, primitive, split, stack, unbroadcast,
)

few = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


# --- Every operation --------------------------------------------------------------------------------------------------

BINARY = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / (y * y + 1.0),
}


@pytest.mark.parametrize("name", BINARY)
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3, min_side=0), seed=seeds)
@few
def test_arithmetic_broadcasts_and_its_gradient_sums_back(name, shapes, seed):
    a, b = shapes.input_shapes
    check(BINARY[name], normal(seed, *a), normal(seed + 1, *b))


UNARY = {
    "negative": lambda x: -x, "exp": lambda x: x.exp(), "log": lambda x: (x * x + 0.5).log(),
    "sqrt": lambda x: (x * x + 0.5).sqrt(),
    "tanh": lambda x: x.tanh(), "sigmoid": lambda x: x.sigmoid(), "square": lambda x: x**2, "cube": lambda x: x**3,
    "power 0": lambda x: x**0, "power -0.5": lambda x: (x * x + 1.0) ** -0.5, "T": lambda x: x.T,
    "number first": lambda x: 1.0 - 2.0 / (3.0 + x * x), "number last": lambda x: (x * 2 - 1) / 4 + 3,
    "array first": lambda x: np.float64(2) * x + np.ones(x.shape),
}


@pytest.mark.parametrize("name", UNARY)
@given(shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), seed=seeds)
@few
def test_functions_of_each_number(name, shape, seed):
    check(UNARY[name], normal(seed, *shape))


@given(shape=hnp.array_shapes(min_dims=1, max_dims=4, max_side=3), keepdims=st.booleans(), data=st.data(), seed=seeds)
@few
def test_reductions_over_any_axes(shape, keepdims, data, seed):
    one, some = st.integers(-len(shape), len(shape) - 1), st.sets(st.integers(0, len(shape) - 1), min_size=1).map(tuple)
    axes = data.draw(st.none() | one | some)
    x = normal(seed, *shape)
    for name in ("sum", "mean", "max"):
        check(lambda x: getattr(x, name)(axes, keepdims), x)
        y = getattr(Tensor(x), name)(axis=axes, keepdims=keepdims).data
        np.testing.assert_allclose(y, getattr(x, name)(axis=axes, keepdims=keepdims), rtol=1e-12, atol=1e-12)


def test_max_shares_its_gradient_among_equals():
    x = Tensor([[1.0, 3.0, 3.0], [2.0, 0.0, 1.0]], requires_grad=True)
    x.max(axis=1).sum().backward()
    np.testing.assert_array_equal(x.grad, [[0, 0.5, 0.5], [1, 0, 0]])


@given(st.data(), seeds)
@few
def test_matrix_product_of_any_shapes_that_numpy_takes(data, seed):
    n, k, m = (data.draw(st.integers(1, 3)) for _ in range(3))
    before = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3)).input_shapes
    x = data.draw(st.sampled_from([(k,), (n, k), (*before[0], n, k)]))
    y = data.draw(st.sampled_from([(k,), (k, m), (*before[1], k, m)]))
    x, y = normal(seed, *x), normal(seed + 1, *y)
    np.testing.assert_array_equal((Tensor(x) @ Tensor(y)).data, x @ y)
    check(lambda x, y: x @ y, x, y)
    check(lambda x: x @ y, x)
    check(lambda y: x @ y, y)


@given(st.data(), seeds)
@few
def test_basic_indexing(data, seed):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    check(lambda x: x[index], normal(seed, *shape))


@pytest.mark.parametrize("index", [
    np.array([0, 2, 0, 0]), (np.array([1, 1, 2]), np.array([0, 0, 3])), (slice(None), np.array([[3, 3], [1, 0]])),
    [2, 2], np.array([True, False, True]), (..., np.array([-1, 3])), (0, np.array([2, 2, 2])),
])
def test_an_index_that_repeats_adds_up(index):
    check(lambda x: x[index], normal(0, 3, 4))
    x = Tensor(np.zeros((3, 4)), requires_grad=True)
    x[np.array([0, 0, 2])].sum().backward()
    np.testing.assert_array_equal(x.grad, np.array([2, 0, 1])[:, None] * np.ones(4))


def test_views():
    x = normal(0, 2, 3, 4)
    check(lambda x: x.reshape(6, 4), x)
    check(lambda x: x.reshape((4, -1)), x)
    check(lambda x: x.transpose(2, 0, 1), x)
    check(lambda x: x.transpose((1, 0, 2)), x)
    check(lambda x: x.transpose([1, 0, 2]), x)
    check(lambda x: x.transpose(-1, 0, -2), x)
    check(lambda x: x.swapaxes(-1, 0), x)
    assert Tensor(x).T.shape == (4, 3, 2)
    assert np.shares_memory(Tensor(x).reshape(24).data, x)


def test_joining_and_splitting():
    x, y, z = normal(0, 2, 3), normal(1, 2, 1), normal(2, 2, 3)
    check(lambda x, y: concatenate([x, y, x], axis=1), x, y)
    check(lambda x, z: concatenate([x, z]), x, z)
    check(lambda x, z: concatenate([x, z], axis=-2), x, z)
    for axis in (0, 1, 2, -1):
        check(lambda x, z: stack([x, z, x], axis=axis), x, z)
    check(lambda x: split(x, (1, 2))[1] * 3 + split(x, (2, 1))[0], x)
    check(lambda x: split(x, (1, 0, 1), axis=0)[2], x)               # the others get no gradient
    parts = split(Tensor(x), (1, 2))
    assert all(np.shares_memory(part.data, x) for part in parts)
    with pytest.raises(ValueError, match=r"sizes: expected a sum of 3"):
        split(Tensor(x), (1, 1))


def test_sigmoid_of_large_numbers_neither_overflows_nor_loses_digits():
    with np.errstate(all="raise", under="ignore"):
        y = Tensor(np.array([-1000.0, -50.0, 0.0, 50.0, 1000.0])).sigmoid().data
    np.testing.assert_allclose(y, [0, math.exp(-50), 0.5, 1, 1], rtol=1e-14)


# --- Sharing ----------------------------------------------------------------------------------------------------------


def test_a_tensor_used_twice_gets_both_gradients():
    check(lambda x: x + x, normal(0, 3))
    check(lambda x: x * x, normal(0, 3))
    check(lambda x: x - x, normal(0, 3))
    check(lambda x: (x * x) * (x + x.exp()) + x, normal(0, 3))
    check(lambda x: x @ x, normal(0, 3, 3))


def test_gradients_that_share_an_array_are_not_added_into():
    """x + y hands one array to both; what is added to one of them later must not reach the other."""
    check(lambda x, y: (x + y) + x * 3 + y, normal(0, 3), normal(1, 3))
    check(lambda x, y: (x + y) * (x + y) + x + (y + x), normal(0, 3), normal(1, 3))
    check(lambda x: x.reshape(3, 2) @ x.reshape(2, 3) @ x.reshape(3, 2), normal(0, 6))
    check(lambda x: (x[:2] + x[1:]) * x[0] + x[1:], normal(0, 3, 2))

    def halves(x):
        a, b = split(x, (2, 2))
        return a * b + a + concatenate([a, b], axis=1)[:, 1:3] + b
    check(halves, normal(0, 3, 4))
    check(lambda x: (lambda y: y + y.reshape(3).exp() + y)(x * 1), normal(0, 3))

    x, y = (Tensor(np.ones(3), requires_grad=True) for _ in range(2))
    (x + y).backward(np.ones(3))
    x.grad *= 10
    np.testing.assert_array_equal(y.grad, np.ones(3))


def test_neither_the_given_gradient_nor_a_broadcast_one_becomes_the_grad_of_a_leaf():
    x, grad = Tensor(np.zeros(3), requires_grad=True), np.ones(3)
    (x + 0).backward(grad)
    x.grad += 1
    np.testing.assert_array_equal(grad, np.ones(3))
    y = Tensor(np.zeros((2, 3)), requires_grad=True)
    y.sum().backward()
    y.grad += 1                                                      # a view of one number would be read-only
    np.testing.assert_array_equal(y.grad, 2 * np.ones((2, 3)))


def test_backward_adds_to_the_gradients_of_leaves_and_leaves_no_other():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    for n in (1, 2, 3):
        y = x * x
        y.sum().backward()
        np.testing.assert_array_equal(x.grad, n * 2 * x.data)
        assert y.grad is None
    x.backward(np.ones(2))                                           # a leaf is its own graph
    np.testing.assert_array_equal(x.grad, 6 * x.data + 1)


# --- The graph --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape_of_graph", [lambda y, x: y + 1e-5, lambda y, x: y * 1.0 + x * 0.0])
def test_a_graph_of_100_000_nodes(shape_of_graph):
    x = Tensor(np.zeros(1), requires_grad=True)
    y = x
    for _ in range(50_000):
        y = shape_of_graph(y * 1.0, x)
    y.backward()
    np.testing.assert_array_equal(x.grad, [1.0])


def test_a_deep_graph_that_is_never_used_is_freed_without_recursion():
    x = Tensor(np.zeros(1), requires_grad=True)
    y = x
    for _ in range(100_000):
        y = y * 1.0
    first = weakref.ref(y._step.parents[0])
    del y
    gc.collect()
    assert first() is None


def test_a_diamond_is_walked_once():
    """2^60 paths, 60 nodes."""
    x = Tensor(np.array(1.0), requires_grad=True)
    y, calls = x, []
    for _ in range(60):
        y = primitive(y.data + y.data, (y, y), lambda grad: (calls.append(1), (grad, grad))[1])
    y.backward()
    assert len(calls) == 60 and x.grad == 2.0**60


def test_backward_frees_the_graph_as_it_goes():
    x = Tensor(np.zeros(250_000), requires_grad=True)                # 2 MB each
    y = x
    tracemalloc.start()
    for _ in range(20):
        y = y.tanh()
    y = y.sum()
    kept = tracemalloc.get_traced_memory()[0]
    y.backward()
    left, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept > 35e6 and left < 6e6                                # the gradient
    assert peak < kept + 10e6


def test_a_freed_graph_says_so():
    x = Tensor(np.ones(2), requires_grad=True)
    y = x * x
    y.sum().backward()
    for again in (y, y.exp(), x + y):
        with pytest.raises(ValueError, match="an earlier backward freed it"):
            again.sum().backward()


def test_no_cycle_keeps_a_graph_alive():
    gc.disable()
    try:
        x = Tensor(np.ones(2), requires_grad=True)
        y = (x.exp() * 2).tanh()
        ref = weakref.ref(y)
        del y
        assert ref() is None
    finally:
        gc.enable()


def test_constants_are_not_recorded():
    x = Tensor(np.ones(2))
    assert (x * 2)._step is None and not (x + x).requires_grad
    y = Tensor(np.ones(2), requires_grad=True)
    (x * y).sum().backward()
    assert x.grad is None


def test_no_grad():
    x = Tensor(np.ones(2), requires_grad=True)
    with no_grad():
        assert not grad_enabled()
        y = x * 2
        with no_grad():
            pass
        assert not grad_enabled()
        seen = []
        thread = Thread(target=lambda: seen.append(grad_enabled()))
        thread.start()
        thread.join()
    assert grad_enabled() and seen == [True]                         # each thread for itself
    assert not y.requires_grad and y._step is None
    with pytest.raises(RuntimeError, match="inside"), no_grad():
        raise RuntimeError("inside")
    assert grad_enabled()
    z = (y * x).sum()
    z.backward()
    np.testing.assert_array_equal(x.grad, y.data)
    d = (x * 3).detach()
    assert not d.requires_grad and (d.data == 3).all()


def test_a_primitive_with_several_results_gets_none_for_those_not_used():
    got = []

    def both(x):
        def backward(grads):
            got.append(grads)
            return (sum(s * g for s, g in zip((2, 3), grads) if g is not None),)
        return primitive((2 * x.data, 3 * x.data, x.data.astype(int)), (x,), backward)

    x = Tensor(np.ones(2), requires_grad=True)
    a, b, c = both(x)
    assert not c.requires_grad                                       # integers
    (b * 5).sum().backward()
    assert got[0][0] is None and got[0][2] is None
    np.testing.assert_array_equal(x.grad, [15, 15])
    check(lambda x: (lambda t: t[0] * t[1])(both(x)[:2]), np.array([1.0, 2.0]))


def test_a_wrong_rule_is_reported():
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    with pytest.raises(ValueError, match=r"expected a gradient of shape \(2, 3\), as the tensor, got \(3,\)"):
        primitive(x.data.sum(0), (x,), lambda grad: (grad,)).backward(np.ones(3))
    with pytest.raises(ValueError):
        primitive(x.data * 1, (x,), lambda grad: (grad, grad)).backward(np.ones((2, 3)))


# --- dtypes, shapes, errors -------------------------------------------------------------------------------------------


def test_dtypes():
    for data, dtype in ((1.5, "float32"), ([1, 2], "int64"), ([1.0, 2.0], "float32"), (True, "bool"),
                        (np.float64(2), "float64"), (np.zeros(2), "float64"), (np.zeros(2, np.float32), "float32")):
        assert Tensor(data).dtype == dtype and isinstance(Tensor(data).data, np.ndarray)
    x = Tensor(np.ones(2, np.float32))
    for y in (x + 1, 1.5 * x, x / 3, 2 - x, 1 / x, x**2, x**0.5, x ** np.float64(2), x.sum(), x.mean(), x.sigmoid(),
              x.exp(), x * np.float64(2), x @ x):
        assert y.dtype == np.float32 and isinstance(y.data, np.ndarray)
    assert (Tensor([1, 2]) * 2).dtype.kind == "i" and (Tensor([1, 2]) * 0.5).data.tolist() == [0.5, 1.0]


def test_mixed_floats_follow_numpy_and_gradients_come_back_as_they_left():
    x, y = Tensor(np.ones(2, np.float32), requires_grad=True), Tensor(np.ones(2), requires_grad=True)
    z = x * y
    assert z.dtype == np.float64
    z.sum().backward()
    assert x.grad.dtype == np.float32 and y.grad.dtype == np.float64


def test_errors_name_the_argument():
    for data in ("text", None, [None], np.zeros(2, complex)):
        with pytest.raises(TypeError, match="data: expected numbers"):
            Tensor(data)
    with pytest.raises(TypeError, match="data: expected an array, got a Tensor"):
        Tensor(Tensor([1.0]))
    with pytest.raises(TypeError, match="requires_grad: expected False for int64"):
        Tensor([1, 2], requires_grad=True)
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    with pytest.raises(ValueError, match=r"grad: expected shape \(2, 3\), as the tensor is not one"):
        x.backward()
    with pytest.raises(ValueError, match=r"grad: expected shape \(2, 3\), that of the tensor, got \(3,\)"):
        x.backward(np.ones(3))
    with pytest.raises(ValueError, match="backward: expected a tensor that requires a gradient"):
        Tensor(1.0).backward()
    with pytest.raises(TypeError, match="exponent: expected a number"):
        x**x
    assert x.grad is None


def test_what_a_tensor_shows():
    x = Tensor([[1.0, 2.0]], requires_grad=True)
    assert repr(x) == "Tensor([[1. 2.]], dtype=float32, requires_grad=True)"
    assert (x.shape, x.ndim, x.size, len(x), x.sum().item()) == ((1, 2), 2, 2, 1, 3.0)
    assert x.numpy() is x.data and as_tensor(x) is x and array_module(x.data) is np
    assert [row.shape for row in x] == [(2,)]
    assert isinstance(np.ones(2) + x, Tensor) and isinstance(np.ones((1, 1)) @ x, Tensor)


@given(shape=hnp.array_shapes(min_dims=0, max_dims=4, max_side=3, min_side=0), extra=st.integers(0, 2))
@few
def test_unbroadcast_undoes_broadcast(shape, extra):
    whole = (2,) * extra + tuple(3 if n == 1 else n for n in shape)
    got = unbroadcast(np.ones(whole), shape)
    assert got.shape == shape and (got == math.prod(whole) / max(1, math.prod(shape))).all()
