"""Modules: every parameter is found, named, loaded and moved; layers begin as they should and do what they say."""

from types import SimpleNamespace

import numpy as np
import pytest

from mambalib.autograd import Tensor
from mambalib.nn import Conv1d, Dropout, Embedding, Linear, Module, Parameter, RMSNorm


def rng():
    return np.random.default_rng(0)


class Parts(Module):
    """Parameters wherever an object can hold them."""

    def __init__(self):
        self.own = Parameter(np.ones(2))
        self.inner = Linear(2, 3, rng=rng())
        self.list = [RMSNorm(2), (Parameter(np.ones(3)), {"deep": Linear(1, 1, bias=False, rng=rng())})]
        self.tied = self.inner
        self.also = self.own
        self.config = {"d_model": 2, "name": "x", "sizes": [1, 2]}
        self.array = np.ones(3)
        self.none = None


NAMES = ["own", "inner.weight", "inner.bias", "list.0.weight", "list.1.0", "list.1.1.deep.weight"]


def test_every_parameter_is_found_once_under_the_way_to_it():
    parts = Parts()
    assert [name for name, _ in parts.named_parameters()] == NAMES
    assert [name for name, _ in parts.named_parameters("a.b")][:2] == ["a.b.own", "a.b.inner.weight"]
    assert len(parts.parameters()) == len(NAMES)
    assert parts.num_parameters == 2 + 6 + 3 + 2 + 3 + 1
    assert [name for name, _ in parts.named_modules()] == ["", "inner", "list.0", "list.1.1.deep"]


@pytest.mark.parametrize("place, message", [
    ({RMSNorm(2)}, "hidden: expected modules and parameters in modules, lists, tuples and dicts, got a set"),
    ({"deep": SimpleNamespace(norm=RMSNorm(2))}, "hidden.deep: expected modules and .*, got a SimpleNamespace"),
    ([Tensor(np.ones(2), requires_grad=True)], "hidden.0: expected a Parameter, got a Tensor that requires a gradient"),
])
def test_what_is_learned_cannot_hide(place, message):
    parts = Parts()
    parts.hidden = place
    with pytest.raises(TypeError, match=message):
        parts.parameters()


def test_modules_that_hold_each_other_are_walked_once():
    a, b = Parts(), Parts()
    a.other, b.other = b, a
    assert a.num_parameters == 2 * Parts().num_parameters


def test_training_reaches_every_module():
    parts = Parts()
    assert parts.eval() is parts
    assert not any(module.training for _, module in parts.named_modules())
    assert parts.train().list[1][1]["deep"].training


def test_gradients_are_forgotten():
    parts = Parts()
    (parts.inner(Tensor(np.ones((1, 2), np.float32))) * 2).sum().backward()
    assert parts.inner.weight.grad is not None
    parts.zero_grad()
    assert all(p.grad is None for p in parts.parameters())


def test_a_state_goes_from_module_to_module():
    one, two = Parts(), Parts()
    for i, p in enumerate(one.parameters()):
        p.data += i
    held = two.inner.weight.data
    two.load_state_dict(one.state_dict())
    assert two.inner.weight.data is held                                         # written in place
    for p, q in zip(one.parameters(), two.parameters()):
        np.testing.assert_array_equal(p.data, q.data)
    state = one.state_dict()
    state["own"][0] = 99                                                         # a copy
    assert one.own.data[0] != 99


def test_numbers_of_another_precision_are_converted():
    parts = Parts()
    parts.load_state_dict({name: x.astype(np.float16) for name, x in parts.state_dict().items()})
    assert parts.inner.weight.dtype == np.float32 and parts.own.dtype == np.float64


@pytest.mark.parametrize("change, error, message", [
    (lambda s: s.pop("own"), ValueError, "state: expected one array for each of 6 parameters, got missing own$"),
    (lambda s: s.update(more=np.ones(1)), ValueError, "got unexpected more$"),
    (lambda s: s.update(more=s.pop("inner.bias")), ValueError, "got missing inner.bias; unexpected more$"),
    (lambda s: s.update(own=np.ones((2, 1))), ValueError, r"own: expected shape \(2,\), got \(2, 1\)"),
    (lambda s: s.update({"inner.bias": np.ones(3, int)}), TypeError, "inner.bias: expected floating-.*, got int64"),
])
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_written(change, error, message):
    parts = Parts()
    before = parts.state_dict()
    state = {name: x + 1 for name, x in before.items()}
    change(state)
    with pytest.raises(error, match=message):
        parts.load_state_dict(state)
    for name, x in parts.state_dict().items():
        np.testing.assert_array_equal(x, before[name])


def test_without_strict_what_fits_is_loaded():
    parts = Parts()
    parts.load_state_dict({"own": np.full(2, 7.0), "other": np.ones(3)}, strict=False)
    np.testing.assert_array_equal(parts.own.data, [7, 7])


def test_to_knows_two_places():
    parts = Parts()
    assert parts.to("cpu") is parts
    with pytest.raises(ValueError, match="place: expected one of 'cpu', 'cuda', got 'gpu'"):
        parts.to("gpu")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layers_begin_uniform_or_normal_in_their_dtype(dtype):
    linear = Linear(400, 300, rng=rng(), dtype=dtype)
    conv = Conv1d(200, 200, 4, groups=200, rng=rng(), dtype=dtype)
    embedding = Embedding(300, 200, rng=rng(), dtype=dtype)
    norm = RMSNorm(5, dtype=dtype)
    for weight, bound in ((linear.weight, 0.05), (linear.bias, 0.05), (conv.weight, 0.5), (conv.bias, 0.5)):
        assert abs(weight.data).max() <= bound and abs(weight.data).max() > 0.97 * bound
        np.testing.assert_allclose(weight.data.std(), bound / np.sqrt(3), rtol=0.1)
    np.testing.assert_allclose(embedding.weight.data.std(), 0.02, rtol=0.02)
    np.testing.assert_array_equal(norm.weight.data, np.ones(5))
    assert conv.weight.shape == (200, 1, 4)
    for module in (linear, conv, embedding, norm):
        assert all(p.dtype == dtype and p.requires_grad for p in module.parameters())


def test_only_matrices_decay():
    modules = Linear(2, 2, rng=rng()), Conv1d(2, 2, 3, rng=rng()), Embedding(2, 2, rng=rng()), RMSNorm(2)
    decays = {(type(m).__name__, name): p.decay for m in modules for name, p in m.named_parameters()}
    fixed = {key for key, decay in decays.items() if not decay}
    assert fixed == {("Linear", "bias"), ("Conv1d", "bias"), ("RMSNorm", "weight")}


def test_the_same_rng_makes_the_same_layer():
    np.testing.assert_array_equal(Linear(3, 4, rng=rng()).weight.data, Linear(3, 4, rng=rng()).weight.data)


def test_layers_compute_what_they_say():
    x = rng().standard_normal((2, 5, 4))
    linear = Linear(4, 3, rng=rng(), dtype="float64")
    np.testing.assert_allclose(linear(Tensor(x)).data, x @ linear.weight.data.T + linear.bias.data)
    norm = RMSNorm(4, eps=0.5, dtype="float64")
    norm.weight.data[...] = [1, 2, 3, 4]
    np.testing.assert_allclose(norm(Tensor(x)).data, x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.5) * [1, 2, 3, 4])
    embedding = Embedding(6, 3, rng=rng(), dtype="float64")
    np.testing.assert_array_equal(embedding(np.array([[5, 0]])).data, embedding.weight.data[[[5, 0]]])
    conv = Conv1d(4, 6, 3, groups=2, rng=rng(), dtype="float64")
    expected = np.zeros((2, 5, 6)) + conv.bias.data
    for t in range(5):
        for k in range(3):
            if t - 2 + k >= 0:
                for c in range(6):
                    expected[:, t, c] += x[:, t - 2 + k, c // 3 * 2:c // 3 * 2 + 2] @ conv.weight.data[c, :, k]
    np.testing.assert_allclose(conv(Tensor(x)).data, expected)


def test_dropout_acts_in_training_alone_and_draws_again_after_the_same_seed():
    dropout, x = Dropout(0.25, rng=rng()), Tensor(np.ones((100, 100)))
    first = dropout(x).data
    assert set(np.unique(first)) == {0.0, 1 / 0.75}
    np.testing.assert_allclose((first == 0).mean(), 0.25, atol=0.02)
    dropout.reseed(7)
    second = dropout(x).data
    assert (second != first).any()
    dropout.reseed(7)
    np.testing.assert_array_equal(dropout(x).data, second)
    assert dropout.eval()(x) is x


def test_layers_refuse_what_makes_no_sense():
    with pytest.raises(ValueError, match=r"dropout: expected a probability in \[0, 1\), got 1"):
        Dropout(1, rng=rng())
    with pytest.raises(ValueError, match="groups: expected a divisor of 4 inputs and 6 outputs, got 4"):
        Conv1d(4, 6, 3, groups=4, rng=rng())
