"""The operations against what PyTorch computed and against central differences; the kernels against the definitions."""

from pathlib import Path

import numba
import numpy as np
import pytest
from differences import check
from hypothesis import given, settings
from hypothesis import strategies as st

from mambalib.autograd import Tensor, no_grad, split
from mambalib.nn import _cpu, _reference
from mambalib.nn import functional as F

ORACLE = np.load(Path(__file__).with_name("oracle.npz"))
few = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


# --- PyTorch ----------------------------------------------------------------------------------------------------------

CASES = {
    "linear": F.linear, "embedding": F.embedding, "silu": F.silu, "softplus": F.softplus, "sigmoid": F.sigmoid,
    "tanh": F.tanh, "relu": F.relu, "rms_norm": F.rms_norm, "conv1d": F.conv1d,
    "conv1d_groups": lambda *p: F.conv1d(*p, groups=2),
    "conv1d_depthwise": lambda *p: F.conv1d(*p, groups=20),
    "conv1d_depthwise_silu": lambda *p: F.conv1d(*p[:3], groups=20, window=p[3], activation="silu"),
    "cross_entropy": F.cross_entropy, "softmax": F.softmax, "log_softmax": lambda x: F.log_softmax(x, axis=1),
    "causal_attention": F.causal_attention, "causal_attention_offset": lambda *p: F.causal_attention(*p, offset=5),
    "lstm": F.lstm,
    "tensor": lambda a, b: (
        (a @ b.T).exp().sum(1, keepdims=True).log() * a[:, :1].sigmoid() / (b[1:3].mean() ** 2 + 1)
    ).sqrt().max(0),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_pytorch(case):
    def stored(kind):
        return {key.split("/")[2]: ORACLE[key] for key in ORACLE.files if key.startswith(f"{case}/{kind}/")}

    gradients = stored("gradient")
    arguments = {name: Tensor(x, requires_grad=True) if name in gradients else x for name, x in stored("in").items()}
    ys = CASES[case](*arguments.values())
    ys = [ys] if isinstance(ys, Tensor) else ys
    for y, expected in zip(ys, stored("out").values(), strict=True):
        assert y.dtype == np.float32
        np.testing.assert_allclose(y.data, expected, rtol=1e-5, atol=1e-5)
    sum((y * g).sum() for y, g in zip(ys, stored("grad").values())).backward()
    for name, expected in gradients.items():
        assert arguments[name].grad.dtype == np.float32
        np.testing.assert_allclose(arguments[name].grad, expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_every_case_of_the_oracle_is_tested():
    assert {key.split("/")[0] for key in ORACLE.files} == set(CASES)


# --- Central differences ----------------------------------------------------------------------------------------------


@given(before=st.lists(st.integers(0, 3), max_size=3), inputs=st.integers(0, 4), outputs=st.integers(0, 4),
       bias=st.booleans(), seed=seeds)
@few
def test_linear(before, inputs, outputs, bias, seed):
    check(F.linear, normal(seed, *before, inputs), normal(1, outputs, inputs), *([normal(2, outputs)] if bias else []))


@given(shape=st.lists(st.integers(0, 4), max_size=2), vocab=st.integers(1, 4), columns=st.integers(0, 3), seed=seeds)
@few
def test_embedding_adds_up_what_a_repeated_token_gets(shape, vocab, columns, seed):
    tokens = np.random.default_rng(seed).integers(0, vocab, shape)
    check(lambda weight: F.embedding(tokens, weight), normal(seed, vocab, columns))


@pytest.mark.parametrize("name", ["silu", "softplus", "sigmoid", "tanh", "softmax", "log_softmax"])
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=seeds)
@few
def test_functions_of_each_number(name, shape, seed):
    check(getattr(F, name), 2 * normal(seed, *shape))


def test_softmax_along_any_axis():
    for axis in (0, 1, -1):
        check(lambda x: F.softmax(x, axis), normal(0, 3, 4))
        check(lambda x: F.log_softmax(x, axis), normal(0, 3, 4))
        np.testing.assert_allclose(F.softmax(normal(0, 3, 4), axis).data.sum(axis), 1)


@given(before=st.lists(st.integers(0, 3), max_size=2), columns=st.integers(1, 20), seed=seeds)
@few
def test_rms_norm(before, columns, seed):
    check(lambda x, w: F.rms_norm(x, w, 1e-3), normal(seed, *before, columns), normal(1, columns))


@given(batch=st.integers(0, 2), L=st.integers(0, 6), K=st.integers(1, 5), groups=st.integers(1, 3),
       width=st.integers(1, 2), outputs=st.integers(1, 2), bias=st.booleans(), window=st.booleans(),
       activation=st.sampled_from([None, "silu"]), seed=seeds)
@few
def test_conv1d(batch, L, K, groups, width, outputs, bias, window, activation, seed):
    rng = np.random.default_rng(seed)
    before = rng.standard_normal((batch, K - 1, groups * width)) if window else None
    x, weight = rng.standard_normal((batch, L, groups * width)), rng.standard_normal((groups * outputs, width, K))
    rest = [rng.standard_normal(groups * outputs)] if bias else []
    options = dict(groups=groups, window=before, activation=activation)
    check(lambda *p: F.conv1d(*p, **options), x, weight, *rest)
    whole = x if before is None else np.concatenate([before, x], axis=1)
    y = F.conv1d(whole, weight, *rest, groups=groups, activation=activation).data
    np.testing.assert_allclose(F.conv1d(x, weight, *rest, **options).data, y[:, y.shape[1] - L:], atol=1e-12)


@given(batch=st.integers(1, 2), L=st.integers(1, 20), K=st.integers(1, 5), channels=st.integers(1, 19),
       cut=st.integers(0, 20), seed=seeds)
@few
def test_a_depthwise_convolution_is_causal_and_can_be_cut_anywhere(batch, L, K, channels, cut, seed):
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((batch, K - 1 + L, channels)), rng.standard_normal((channels, 1, K))
    cut = K - 1 + min(cut, L)
    options = dict(groups=channels, activation="silu")
    y = F.conv1d(x, weight, **options).data
    first = F.conv1d(x[:, :cut], weight, **options)
    second = F.conv1d(x[:, cut:], weight, window=x[:, cut - K + 1:cut], **options)
    np.testing.assert_array_equal(np.concatenate([first.data, second.data], axis=1), y)


@given(shape=st.lists(st.integers(1, 4), max_size=2), vocab=st.integers(1, 20), ignored=st.booleans(), seed=seeds)
@few
def test_cross_entropy(shape, vocab, ignored, seed):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, vocab, shape)
    if ignored and targets.size > 1:
        targets = np.where(np.arange(targets.size).reshape(shape) % 2, -1, targets)
    check(lambda x: F.cross_entropy(x, targets, ignore=-1), normal(seed, *shape, vocab))
    x = normal(seed, *shape, vocab)
    logp = F.log_softmax(x).data.reshape(-1, vocab)[np.arange(targets.size), targets.reshape(-1)]
    expected = -logp[targets.reshape(-1) != -1].mean()
    np.testing.assert_allclose(F.cross_entropy(x, targets, ignore=-1).item(), expected, atol=1e-12)


def test_cross_entropy_of_large_logits_and_of_nothing():
    x = Tensor(np.array([[1e4, 0.0, -1e4], [0.0, 1e4, 0.0]]), requires_grad=True)
    loss = F.cross_entropy(x, np.array([1, 1]))
    loss.backward()
    assert loss.item() == 5000 and np.isfinite(x.grad).all()
    nothing = Tensor(np.zeros((0, 3)), requires_grad=True)
    for targets, logits in ((np.array([-100, -100]), x), (np.zeros(0, int), nothing)):
        logits.grad = None
        loss = F.cross_entropy(logits, targets)
        loss.backward()
        assert np.isnan(loss.item()) and (logits.grad == 0).all()


@given(L=st.integers(1, 4), offset=st.integers(0, 3), heads=st.integers(1, 2), d=st.integers(1, 3), seed=seeds)
@few
def test_causal_attention(L, offset, heads, d, seed):
    rng = np.random.default_rng(seed)
    q, k, v = rng.standard_normal((2, heads, L, d)), *rng.standard_normal((2, 2, heads, offset + L, d))
    check(lambda *p: F.causal_attention(*p, offset=offset), q, k, v)
    y = F.causal_attention(q, k, v, offset=offset).data
    k[:, :, -1], v[:, :, -1] = 1e3, 1e3                              # only the last query sees the last key
    np.testing.assert_array_equal(F.causal_attention(q, k, v, offset=offset).data[:, :, :-1], y[:, :, :-1])


def test_rotary_products_depend_on_the_distance_alone():
    x, y = normal(0, 1, 1, 1, 8), normal(1, 1, 1, 1, 8)
    products = [(F.rotary(x, [5 + s]).data * F.rotary(y, [2 + s]).data).sum() for s in (0, 1, 100)]
    np.testing.assert_allclose(products, products[0], rtol=1e-12)
    expected = x[..., 3] * np.cos(7 * 10000**-0.75) - x[..., 7] * np.sin(7 * 10000**-0.75)
    np.testing.assert_allclose(F.rotary(x, [7]).data[..., 3], expected, rtol=1e-12)
    check(lambda x: F.rotary(x, np.array([3, 0, 9])), normal(0, 2, 3, 4))
    assert F.rotary(x.astype(np.float32), [1]).dtype == np.float32


@given(batch=st.integers(1, 2), L=st.integers(0, 4), inputs=st.integers(1, 3), H=st.integers(1, 3),
       states=st.booleans(), seed=seeds)
@few
def test_lstm(batch, L, inputs, H, states, seed):
    rng = np.random.default_rng(seed)
    shapes = [(batch, L, inputs), (4 * H, inputs), (4 * H, H), (4 * H,)] + [(batch, H)] * 2 * states
    check(F.lstm, *(rng.standard_normal(shape) for shape in shapes))


def test_lstm_with_some_results_unused():
    shapes = [(2, 3, 2), (12, 2), (12, 3), (12,), (2, 3), (2, 3)]
    arrays = [normal(i, *shape) for i, shape in enumerate(shapes)]
    for used in ([0], [1], [2], [0, 2]):
        check(lambda *p: [F.lstm(*p)[i] for i in used], *arrays)


@given(L=st.integers(0, 5), reverse=st.booleans(), start=st.booleans(),
       shape=st.sampled_from([(), (1, 3), (2, 1, 3), "same"]), seed=seeds)
@few
def test_linear_scan(L, reverse, start, shape, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, L, 3) if shape == "same" else shape), rng.standard_normal((2, L, 3))
    h0 = [rng.standard_normal(3)] if start else []
    check(lambda a, b, h0=None: F.linear_scan(a, b, axis=1, h0=h0, reverse=reverse), a, b, *h0)


@given(L=st.integers(0, 5), optional=st.sets(st.sampled_from(["D", "z", "delta_bias", "initial_state"])),
       softplus=st.booleans(), last=st.booleans(), reset=st.booleans(), seed=seeds)
@few
def test_selective_scan(L, optional, softplus, last, reset, seed):
    rng = np.random.default_rng(seed)
    shapes = {"u": (2, L, 3), "delta": (2, L, 3), "A": (3, 2), "B": (2, L, 2), "C": (2, L, 2)}
    more = {"D": (3,), "z": (2, L, 3), "delta_bias": (3,), "initial_state": (2, 3, 2)}
    shapes |= {name: more[name] for name in sorted(optional)}
    given = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    given["A"], given["delta"] = -np.exp(given["A"]), 0.5 + np.abs(given["delta"])
    if "delta_bias" in given:
        given["delta_bias"] *= 0.1                                   # steps stay positive, and states small
    options = dict(delta_softplus=softplus, return_last_state=last, reset=rng.random((2, L)) < 0.3 if reset else None)
    check(lambda *p: F.selective_scan(**dict(zip(given, p)), **options), *given.values())
    if last:
        check(lambda *p: F.selective_scan(**dict(zip(given, p)), **options)[1], *given.values())


def test_dropout():
    x = Tensor(np.ones((100, 100), np.float32), requires_grad=True)
    y = F.dropout(x, 0.25, np.random.default_rng(0))
    y.sum().backward()
    assert set(np.unique(y.data)) == {0, np.float32(4 / 3)} and abs((y.data == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(x.grad, y.data)
    np.testing.assert_array_equal(y.data, F.dropout(x, 0.25, np.random.default_rng(0)).data)
    assert F.dropout(x, 0.0, np.random.default_rng(0)) is x and y.dtype == np.float32


# --- The kernels ------------------------------------------------------------------------------------------------------


def halves(seed, rows, columns, dtype):
    """A left and a right half of a wider matrix: views with gaps, one of them not at the start of the memory."""
    x = normal(seed, rows, 2 * columns).astype(dtype)
    return x[:, :columns], x[:, columns:]


def broadcast(x):
    return np.broadcast_to(x[:1, :1], x.shape)                       # as a sum's gradient is


def close(got, expected, dtype):
    got, expected = (x if isinstance(x, tuple) else (x,) for x in (got, expected))
    for x, y in zip(got, expected, strict=True):
        if y is None:
            assert x is None
        else:
            assert x.dtype == dtype and x.shape == y.shape
            limit = dict(rtol=2e-5, atol=2e-5) if dtype == np.float32 else dict(rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(x, y, **limit)


def wide(*arrays):
    return [np.asarray(x, np.float64) if x is not None else None for x in arrays]


dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@dtypes
@given(rows=st.integers(0, 40), columns=st.integers(1, 70), seed=seeds)
@few
def test_kernels_of_rows_take_views(dtype, rows, columns, seed):
    x, grad = halves(seed, rows, columns, dtype)
    x, weight = 5 * x, normal(1, columns).astype(dtype)
    for g in (grad, broadcast(grad)):
        close(_cpu.silu(x), _reference.silu(*wide(x)), dtype)
        close(_cpu.silu_backward(g, x), _reference.silu_backward(*wide(g, x)), dtype)
        (y, scale), expected = _cpu.rms_norm(x, weight, 1e-5), _reference.rms_norm(*wide(x, weight), 1e-5)
        close((y, scale), expected, dtype)
        expected = _reference.rms_norm_backward(*wide(g, x, weight), expected[1])
        close(_cpu.rms_norm_backward(g, x, weight, scale), expected, dtype)
    targets = np.random.default_rng(seed).integers(-1, columns, rows)
    if (targets >= 0).any():
        close(_cpu.cross_entropy(x, targets, -1), _reference.cross_entropy(*wide(x), targets, -1), dtype)


@dtypes
@given(batch=st.integers(0, 3), L=st.integers(0, 150), channels=st.integers(1, 40), K=st.integers(1, 5),
       bias=st.booleans(), window=st.booleans(), silu=st.booleans(), seed=seeds)
@few
def test_kernels_of_the_depthwise_convolution(dtype, batch, L, channels, K, bias, window, silu, seed):
    both = normal(seed, 2, batch, L, 2 * channels).astype(dtype)
    x, grad = both[0, :, :, channels:], both[1, :, :, :channels]
    weight, b = normal(1, channels, K).astype(dtype), normal(2, channels).astype(dtype) if bias else None
    before = normal(3, batch, K - 1, channels).astype(dtype) if window else None
    expected = _reference.conv_depthwise(*wide(x, weight, b, before), silu)
    close(_cpu.conv_depthwise(x, weight, b, before, silu), expected, dtype)
    for g in (grad, np.broadcast_to(dtype(1), grad.shape)):
        got = _cpu.conv_depthwise_backward(g, x, weight, b, before, silu)
        expected = _reference.conv_depthwise_backward(*wide(g, x, weight, b, before), silu)
        close(got, expected, dtype)


@dtypes
@given(batch=st.integers(0, 5), H=st.integers(1, 40), cell=st.booleans(), seed=seeds)
@few
def test_kernels_of_the_lstm_cell(dtype, batch, H, cell, seed):
    gates, c, grad_h, grad_c = (normal(seed + i, batch, n * H).astype(dtype) for i, n in enumerate((4, 1, 1, 1)))
    (h, c_new), expected = _cpu.lstm_cell(3 * gates, c), _reference.lstm_cell(*wide(3 * gates, c))
    close((h, c_new), expected, dtype)
    grad_c = grad_c if cell else None
    got = _cpu.lstm_cell_backward(grad_h, grad_c, 3 * gates, c, c_new)
    close(got, _reference.lstm_cell_backward(*wide(grad_h, grad_c, 3 * gates, c), expected[1]), dtype)


@dtypes
@given(L=st.integers(1, 40), offset=st.integers(0, 40), seed=seeds)
@few
def test_kernels_of_the_causal_softmax(dtype, L, offset, seed):
    x, grad = normal(seed, 2, 2, 3, L, offset + L).astype(dtype)
    expected = _reference.causal_softmax(*wide(x), offset)
    back = _reference.causal_softmax_backward(*wide(grad), expected, offset)
    p = _cpu.causal_softmax(x, offset)
    close((p, _cpu.causal_softmax_backward(grad, p, offset)), (expected, back), dtype)


@dtypes
@given(positions=st.integers(0, 200), vocab=st.integers(1, 30), columns=st.integers(1, 100), seed=seeds)
@few
def test_kernel_of_the_embedding(dtype, positions, vocab, columns, seed):
    grad, tokens = halves(seed, positions, columns, dtype)[1], np.random.default_rng(seed).integers(0, vocab, positions)
    expected = _reference.embedding_backward(*wide(grad), tokens, vocab)
    close(_cpu.embedding_backward(grad, tokens, vocab), expected, dtype)


@dtypes
@pytest.mark.parametrize("shape", [(), (7,), (5, 3), (300, 200)])
def test_kernels_of_the_optimiser(dtype, shape):
    param, grad, m, v = (np.asarray(normal(i, *shape), dtype) for i in range(4))
    v = np.asarray(np.abs(v))
    scalars = np.array([1e-2, 0.1, 0.05, 0.5], dtype)
    expected = [np.array(x, np.float64) for x in (param, grad, m, v)]
    _cpu.adamw(param, grad, m, v, scalars, 0.9, 0.95, 1e-8, 0.1)
    _reference.adamw(*expected, scalars.astype(np.float64), 0.9, 0.95, 1e-8, 0.1)
    for got, want in zip((param, grad, m, v), expected):
        close(np.asarray(got), np.asarray(want), dtype)
    total = np.zeros((), dtype)
    assert _cpu.sum_of_squares(grad, total, True) is total
    _cpu.sum_of_squares(grad, total, False)
    np.testing.assert_allclose(total, 2 * (grad.astype(np.float64) ** 2).sum(), rtol=1e-5)


def test_kernels_give_the_same_bits_with_any_number_of_threads():
    x, grad = (normal(i, 4, 300, 96).astype(np.float32) for i in range(2))
    weight, bias = normal(2, 96, 4).astype(np.float32), normal(3, 96).astype(np.float32)
    x_rows, grad_rows = x.reshape(1200, 96), grad.reshape(1200, 96)
    targets = np.random.default_rng(0).integers(0, 96, 1200)

    def everything():
        y, scale = _cpu.rms_norm(x_rows, bias, 1e-5)
        return [
            _cpu.silu(x), _cpu.silu_backward(grad, x), y, scale,
            *_cpu.rms_norm_backward(grad_rows, x_rows, bias, scale),
            _cpu.conv_depthwise(x, weight, bias, None, True),
            *_cpu.conv_depthwise_backward(grad, x, weight, bias, None, True),
            *_cpu.cross_entropy(x_rows, targets, -100), _cpu.embedding_backward(grad_rows, targets, 96),
            _cpu.sum_of_squares(grad, np.zeros((), np.float32), True),
        ]

    most, results = numba.get_num_threads(), []
    try:
        for n in (1, most):
            numba.set_num_threads(n)
            results.append(everything())
    finally:
        numba.set_num_threads(most)
    for one, many in zip(*results):
        np.testing.assert_array_equal(one, many)


@dtypes
def test_extreme_numbers_pass_as_the_definitions_have_them(dtype):
    x = np.array([[-1e30, -100.0, -88.0, -0.0, 0.0, 1e-30, 88.0, 100.0, 1e30, -np.inf, np.inf, np.nan]], dtype)
    with np.errstate(all="ignore"):
        expected = _reference.silu(x.astype(np.float64))
        np.testing.assert_allclose(_cpu.silu(x)[0, :9], expected[0, :9], rtol=1e-5, atol=1e-30)
        slope = _cpu.silu_backward(np.ones_like(x), x)[0]
        np.testing.assert_allclose(slope[:9], [0, 0, 0, 0.5, 0.5, 0.5, 1, 1, 1], atol=1e-5)
        assert np.isnan(_cpu.silu(x)[0, -1]) and _cpu.silu(x)[0, -2] == np.inf and np.isnan(slope[-1])
        loss, grad = _cpu.cross_entropy(np.array([[np.nan, 1.0], [0.0, 1.0]], dtype), np.array([0, 1]), -100)
        assert np.isnan(loss) and np.isnan(grad[0]).all() and np.isfinite(grad[1]).all()
        loss, grad = _cpu.cross_entropy(np.array([[-np.inf, 1.0]], dtype), np.array([1]), -100)
        assert loss == 0 and (grad == 0).all()


# --- Tensors in and out, errors ---------------------------------------------------------------------------------------


def test_halves_of_a_projection_go_through_the_kernels_as_views():
    def gated(x):
        a, b = split(x, (4, 4))
        return F.conv1d(a, weight, groups=4, activation="silu") * F.silu(b) + F.rms_norm(a, np.ones(4))

    weight = normal(1, 4, 1, 3)
    check(gated, normal(0, 2, 5, 8))


def test_arrays_are_constants_and_under_no_grad_nothing_is_recorded():
    x, weight = normal(0, 2, 3), Tensor(normal(1, 4, 3), requires_grad=True)
    y = F.linear(x, weight)
    y.sum().backward()
    np.testing.assert_allclose(weight.grad, np.broadcast_to(x.sum(0), (4, 3)))
    assert not F.linear(x, weight.data).requires_grad
    with no_grad():
        assert not F.silu(F.linear(x, weight)).requires_grad


def zeros(*shapes):
    return [np.zeros(shape) for shape in shapes]


ERRORS = [
    ("weight: expected shape (any, any) = (outputs, inputs), got (3,)", lambda: F.linear(*zeros(3, 3))),
    ("x: expected 4 numbers on the last axis, as weight has columns, got", lambda: F.linear(*zeros(3, (2, 4)))),
    ("bias: expected shape (2,)", lambda: F.linear(*zeros(4, (2, 4), 4))),
    ("tokens: expected numbers from 0 to 3, got 4", lambda: F.embedding([0, 4], np.zeros((4, 2)))),
    ("tokens: expected numbers from 0 to 3, got -1", lambda: F.embedding([0, -1], np.zeros((4, 2)))),
    ("tokens: expected integers, got float64", lambda: F.embedding([0.0], np.zeros((4, 2)))),
    ("x: expected 2 numbers on the last axis", lambda: F.rms_norm(*zeros(3, 2))),
    ("weight: expected dtype float32, that of x", lambda: F.rms_norm(np.zeros(2, np.float32), np.zeros(2))),
    ("groups: expected a divisor of the 3 channels", lambda: F.conv1d(*zeros((1, 2, 3), (2, 1, 2)), groups=2)),
    ("weight: expected shape (any, 2, any)", lambda: F.conv1d(*zeros((1, 2, 4), (2, 1, 2)), groups=2)),
    ("weight: expected K >= 1 and a multiple of 2", lambda: F.conv1d(*zeros((1, 2, 4), (3, 2, 2)), groups=2)),
    ("activation: expected one of 'silu'", lambda: F.conv1d(*zeros((1, 2, 4), (4, 4, 2)), activation="relu")),
    ("window: expected shape (1, 1, 4)", lambda: F.conv1d(*zeros((1, 2, 4), (4, 4, 2)), window=np.zeros((1, 2, 4)))),
    ("targets: expected shape (2,)", lambda: F.cross_entropy(np.zeros((2, 3)), np.zeros(3, int))),
    ("targets: expected numbers from 0 to 2, got 3", lambda: F.cross_entropy(np.zeros((1, 3)), [3])),
    ("targets: expected integers", lambda: F.cross_entropy(np.zeros((1, 3)), [1.0])),
    ("p: expected a probability", lambda: F.dropout(np.zeros(3), 1.0, np.random.default_rng(0))),
    ("k: expected shape (1, 2, any, 4)", lambda: F.causal_attention(*zeros((1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 5)))),
    ("offset: expected at least 0", lambda: F.causal_attention(*np.zeros((3, 1, 2, 3, 4)), offset=-1)),
    ("positions: expected shape (3,)", lambda: F.rotary(np.zeros((3, 4)), np.arange(2))),
    ("x: expected shape (..., L, d) with d even", lambda: F.rotary(np.zeros((3, 5)), np.arange(3))),
    ("weight_ih: expected shape (8, 3)", lambda: F.lstm(*zeros((1, 2, 3), (8, 4), (8, 2), 8))),
    ("weight_hh: expected shape (8, 2)", lambda: F.lstm(*zeros((1, 2, 3), (8, 3), (8, 3), 8))),
    ("h0: expected shape (1, 2)", lambda: F.lstm(*zeros((1, 2, 3), (8, 3), (8, 2), 8, 2))),
    ("delta: expected shape", lambda: F.selective_scan(*zeros((1, 2, 3), (1, 2, 4), (3, 2), *[(1, 2, 2)] * 2))),
]


@pytest.mark.parametrize("message, call", ERRORS, ids=[message for message, _ in ERRORS])
def test_errors_name_the_argument(message, call):
    with pytest.raises((TypeError, ValueError)) as error:
        call()
    assert str(error.value).startswith(message)
