"""The mixers that benchmarks/cost.py times compute what they say, and their hand-written gradients are right."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def cost():
    return _module("cost")


def _module(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numerical_gradient(loss, array, epsilon=1e-6):
    """Central differences of loss() by every entry of `array`, which loss() reads."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + epsilon
        above = loss()
        array[index] = value - epsilon
        gradient[index] = (above - loss()) / (2 * epsilon)
        array[index] = value
    return gradient


def forward_rnn(cost, W, x):
    h = np.empty_like(x)
    cost.rnn_forward(W, x, h)
    return h


def forward_ssm(cost, a, b, c, x):
    h, y = np.empty((x.shape[1], len(x), cost.N)), np.empty_like(x)
    cost.ssm_forward(a, b, c, x, h, y)
    return y


def test_gradients_agree_with_finite_differences(cost):
    rng = np.random.default_rng(0)
    L, D = 7, 3
    q, k, v, dy = rng.standard_normal((4, L, D))
    W = rng.standard_normal((D, D)) / 2
    a, b, c = rng.uniform(0.2, 0.9, (D, cost.N)), *rng.standard_normal((2, D, cost.N))
    cases = (
        (cost.train_attention(q, k, v, dy), (q, k, v), lambda: (cost.attention_forward(q, k, v)[0] * dy).sum()),
        (cost.train_rnn(W, q, dy), (W, q), lambda: (forward_rnn(cost, W, q) * dy).sum()),
        (cost.train_ssm(a, b, c, q, dy), (a, b, c, q), lambda: (forward_ssm(cost, a, b, c, q) * dy).sum()),
    )
    for gradients, arrays, loss in cases:
        for gradient, array in zip(gradients, arrays, strict=True):
            np.testing.assert_allclose(gradient, numerical_gradient(loss, array), rtol=1e-5, atol=1e-7)


def test_attention_looks_at_the_past_only(cost):
    q, k, v = np.random.default_rng(1).standard_normal((3, 9, 4))
    y, P = cost.attention_forward(q, k, v)
    np.testing.assert_allclose(P.sum(axis=1), 1)
    assert np.all(np.triu(P, 1) == 0)
    np.testing.assert_allclose(y[-1], cost.step_attention(q[-1] / 2, k, v))      # sqrt(4) = 2


def test_one_step_continues_the_sequence(cost):
    rng = np.random.default_rng(2)
    L, D = 6, 4
    x, W = rng.standard_normal((L, D)), rng.standard_normal((D, D)) / 2
    a, b, c = rng.uniform(0.2, 0.9, (D, cost.N)), *rng.standard_normal((2, D, cost.N))
    h_rnn, h_ssm = np.zeros(D), np.zeros((D, cost.N))
    for t in range(L):
        h_rnn = cost.step_rnn(W, x[t], h_rnn)
        y = cost.step_ssm(a, b, c, x[t], h_ssm)
    np.testing.assert_allclose(h_rnn, forward_rnn(cost, W, x)[-1])
    np.testing.assert_allclose(y, forward_ssm(cost, a, b, c, x)[-1])


def test_compiled_loops_equal_the_python_loops(cost):
    numba = pytest.importorskip("numba")
    rng = np.random.default_rng(3)
    x, dy = rng.standard_normal((2, 11, 5))
    W = rng.standard_normal((5, 5)) / 2
    a, b, c = rng.uniform(0.2, 0.9, (5, cost.N)), *rng.standard_normal((2, 5, cost.N))
    for train, arrays, loops in (
        (cost.train_rnn, (W, x), [numba.njit(f) for f in (cost.rnn_forward, cost.rnn_backward)]),
        (cost.train_ssm, (a, b, c, x), [numba.njit(f) for f in (cost.ssm_forward, cost.ssm_backward)]),
    ):
        for compiled, plain in zip(train(*arrays, dy, *loops), train(*arrays, dy), strict=True):
            np.testing.assert_allclose(compiled, plain, rtol=1e-12, atol=1e-14)


def test_the_convolution_timed_on_the_card_is_the_recurrence(cost, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "cost", cost)
    module = _module("cost_torch")
    if module.CARD:
        pytest.skip("compares on the CPU")
    rate, cb = -torch.rand(3, cost.N) / 4, torch.randn(3, cost.N)
    x = torch.randn(2, 3, 32)
    y = module.ssm_by_fft(x, rate, cb)
    for row in range(2):
        expected = forward_ssm(cost, rate.exp().double().numpy(), np.ones((3, cost.N)), cb.double().numpy(), x[row].T.double().numpy())
        np.testing.assert_allclose(y[row].T.numpy(), expected, rtol=1e-3, atol=1e-4)
