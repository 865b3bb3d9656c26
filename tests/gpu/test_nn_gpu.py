"""The layers' kernels on a card at sizes that fill it, against the definition in float64: `make test-gpu`.

Skipped where there is no card. What is captured in a graph needs CuPy.
"""

import numpy as np
import pytest
from test_scan_gpu import LIBRARIES, host, to_card       # skips this file, too, where there is no card

from mambalib.nn import _cuda as engine
from mambalib.nn import _reference as reference

LIBRARY = LIBRARIES[-1]
rng = np.random.default_rng(0)


def draw(*shape):
    return rng.standard_normal(shape, dtype=np.float32)


def card(x, library=LIBRARY):
    return None if x is None else to_card(x, library, x.dtype.name)[0]


def padded(x, before=64):
    """x on the card as columns of a wider matrix; with `before` odd, no vector of four is aligned."""
    gap = np.full((*x.shape[:-1], before + x.shape[-1] + 64), np.nan, np.float32)
    gap[..., before:before + x.shape[-1]] = x
    return card(gap)[..., before:before + x.shape[-1]]


def wide(x):
    return None if x is None else np.array(x, float)


def close(got, wanted, limit=2e-6):
    if wanted is None:
        assert got is None
        return
    got = host(got)
    assert got.shape == np.shape(wanted)
    assert np.linalg.norm(got - wanted) <= limit * np.linalg.norm(wanted) + 1e-30
    assert np.abs(got - wanted).max(initial=0) <= 20 * limit * np.abs(wanted).max(initial=0) + 1e-30


def twice(function, *arguments):
    """What the function returns, as a tuple; a second run gives the same bits."""
    first, second = (r if isinstance(r, tuple) else (r,) for r in (function(*arguments), function(*arguments)))
    for a, b in zip(first, second):
        assert a is None or np.array_equal(host(a), host(b), equal_nan=True)
    return first


@pytest.mark.parametrize("library", LIBRARIES)
def test_arrays_of_every_library_come_back_in_kind(library):
    x, taps, weight = (card(draw(*shape), library) for shape in ((3, 40, 64), (64, 4), (64,)))
    rows, targets = x.reshape(120, 64), card(rng.integers(0, 64, 120), library)
    loss, grad = engine.cross_entropy(rows, targets, -100)
    y, scale = engine.rms_norm(rows, weight, 1e-5)
    for result in (engine.silu(x), engine.conv_depthwise(x, taps, None, None, True), y, scale, loss, grad):
        assert type(result) is type(x)
    assert tuple(loss.shape) == ()


@pytest.mark.parametrize("shape", [(8, 2048, 1536), (1, 1, 1536), (5, 77, 333), (1000003,)])
@pytest.mark.parametrize("put", [card, padded, lambda x: padded(x, 1)], ids=["whole", "columns", "odd columns"])
def test_silu(shape, put):
    x, grad = 3 * draw(*shape), draw(*shape)
    close(*twice(engine.silu, put(x)), reference.silu(wide(x)))
    close(*twice(engine.silu_backward, card(grad), put(x)), reference.silu_backward(wide(grad), wide(x)))


@pytest.mark.parametrize("shape", [
    (16384, 768), (4096, 256), (16384, 1536), (333, 77), (1, 768), (9, 8192), (3, 20000), (100000, 64),
])
@pytest.mark.parametrize("put", [card, padded], ids=["whole", "columns"])
def test_rms_norm(shape, put):
    x, weight, grad = draw(*shape), draw(shape[-1]), draw(*shape)
    y, scale = twice(engine.rms_norm, put(x), card(weight), 1e-5)
    y_wide, scale_wide = reference.rms_norm(wide(x), wide(weight), 1e-5)
    close(y, y_wide)
    close(scale, scale_wide)
    got = twice(engine.rms_norm_backward, put(grad), put(x), card(weight), scale)
    for g, w in zip(got, reference.rms_norm_backward(wide(grad), wide(x), wide(weight), scale_wide)):
        close(g, w, 5e-6)


@pytest.mark.parametrize("batch, length, channels, taps", [
    (8, 2048, 1536, 4), (8, 512, 512, 4), (1, 10007, 48, 3), (64, 1, 1536, 4), (3, 100, 33, 2), (2, 50, 64, 16),
])
@pytest.mark.parametrize("activated", [True, False])
def test_conv_depthwise(batch, length, channels, taps, activated):
    x, weight, grad = draw(batch, length, channels), draw(channels, taps), draw(batch, length, channels)
    for bias, window, put in ((draw(channels), draw(batch, taps - 1, channels), padded), (None, None, card)):
        arrays = put(x), card(weight), card(bias), card(window), activated
        wides = wide(x), wide(weight), wide(bias), wide(window), activated
        close(*twice(engine.conv_depthwise, *arrays), reference.conv_depthwise(*wides))
        got = twice(engine.conv_depthwise_backward, card(grad), *arrays)
        for g, w in zip(got, reference.conv_depthwise_backward(wide(grad), *wides)):
            close(g, w, 1e-5)


@pytest.mark.parametrize("rows, columns", [(16384, 256), (4096, 50), (1024, 50257), (2048, 50280), (1, 99), (77, 2047)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_cross_entropy(rows, columns, dtype):
    logits, targets = 4 * draw(rows, columns), rng.integers(0, columns, rows).astype(dtype)
    targets[1::7] = -100
    wanted = reference.cross_entropy(wide(logits), targets, -100)
    for put in (card, padded):
        loss, grad = twice(engine.cross_entropy, put(logits), card(targets), -100)
        close(loss, wanted[0])
        close(grad, wanted[1], 1e-5)


def test_cross_entropy_of_what_it_cannot_answer_is_nan():
    for targets in ([0, 50, 1], [-1, 1, 2], [-100, -100, -100]):
        assert np.isnan(host(engine.cross_entropy(card(draw(3, 50)), card(np.array(targets)), -100)[0]))


@pytest.mark.parametrize("positions, columns, vocab", [
    (16384, 256, 256), (4096, 256, 96), (16384, 768, 50280), (1, 8, 3), (777, 33, 65), (4096, 128, 8192),
])
def test_embedding_backward(positions, columns, vocab):
    grad, tokens = draw(positions, columns), rng.zipf(1.3, positions) % vocab          # a few of them many times
    wanted = reference.embedding_backward(wide(grad), tokens, vocab)
    close(*twice(engine.embedding_backward, card(grad), card(tokens), vocab), wanted, 5e-6)
    close(engine.embedding_backward(padded(grad), card(tokens.astype(np.uint16)), vocab), wanted, 5e-6)


@pytest.mark.parametrize("batch, width", [(64, 512), (1, 128), (7, 33)])
def test_lstm_cell(batch, width):
    gates, c, grad_h, grad_c = 2 * draw(batch, 4 * width), draw(batch, width), draw(batch, width), draw(batch, width)
    wanted = reference.lstm_cell(wide(gates), wide(c))
    h, c_new = twice(engine.lstm_cell, card(gates), card(c))
    close(h, wanted[0])
    close(c_new, wanted[1])
    for of_c in (grad_c, None):
        got = engine.lstm_cell_backward(card(grad_h), card(of_c), card(gates), card(c), c_new)
        wides = wide(grad_h), wide(of_c), wide(gates), wide(c)
        for g, w in zip(got, reference.lstm_cell_backward(*wides, wanted[1])):
            close(g, w, 5e-6)


@pytest.mark.parametrize("shape", [(3072, 768), (77,), (1536, 1, 4), (333, 3)])
def test_ten_steps_of_adamw(shape):
    param, m, v, rest = draw(*shape), np.zeros(shape, np.float32), np.zeros(shape, np.float32), (0.9, 0.95, 1e-8, 0.1)
    there, wides = ([put(x) for x in (param, m, v)] for put in (card, wide))
    for t in range(1, 11):
        grad, scalars = draw(*shape), np.array([1e-3 * t, 1 - 0.9**t, 1 - 0.95**t, 0.5], np.float32)
        engine.adamw(there[0], card(grad), *there[1:], card(scalars), *rest)
        reference.adamw(wides[0], wide(grad), *wides[1:], wide(scalars), *rest)
    for got, wanted in zip(there, wides):
        close(got, wanted, 1e-5)


@pytest.mark.parametrize("n", [1, 1000, 4096, 10**7 + 3])
def test_sum_of_squares(n):
    values, one = draw(n), draw(5)
    total = card(np.full((1,), np.nan, np.float32))
    engine.sum_of_squares(card(values), total, True)
    engine.sum_of_squares(card(one), total, False)
    engine.sum_of_squares(card(values), total, False)
    close(total, np.array([2 * (wide(values)**2).sum() + (wide(one)**2).sum()]))


def test_every_function_can_be_captured_in_a_graph_and_replayed_with_new_numbers():
    if LIBRARY != "cupy":
        pytest.skip("no CuPy")
    import cupy
    B, L, D, V = 4, 300, 512, 100
    shapes = dict(x=(B, L, D), grad=(B, L, D), weight=(D,), taps=(D, 4), bias=(D,), logits=(B * L, V),
                  gates=(B, 4 * D), c=(B, D), v=(D, D), m=(D, D), param=(D, D), slope=(D, D))
    constant = 0.9, 0.99, 1e-8, 0.1

    def numbers():
        drawn = {name: draw(*shape) for name, shape in shapes.items()}
        drawn |= dict(v=drawn["v"]**2, scalars=rng.uniform(0.1, 1, 4).astype(np.float32), total=np.zeros(1, np.float32))
        return drawn | dict(tokens=rng.integers(0, V, B * L))

    def step(run, a):
        """A result of every function; param, m, v and total are changed in place."""
        x, grad = a["x"].reshape(B * L, D), a["grad"].reshape(B * L, D)
        y, scale = run.rms_norm(x, a["weight"], 1e-5)
        c = a["taps"], a["bias"], None, True
        h, c_new = run.lstm_cell(a["gates"], a["c"])
        results = [y, *run.rms_norm_backward(grad, x, a["weight"], scale), run.silu(x), run.silu_backward(grad, x),
                   run.conv_depthwise(a["x"], *c), *run.conv_depthwise_backward(a["grad"], a["x"], *c),
                   *run.cross_entropy(a["logits"], a["tokens"], -100), run.embedding_backward(grad, a["tokens"], V),
                   h, *run.lstm_cell_backward(h, None, a["gates"], a["c"], c_new)]
        run.sum_of_squares(a["slope"], a["total"], True)
        run.adamw(a["param"], a["slope"], a["m"], a["v"], a["scalars"], *constant)
        return results + [a[name] for name in ("total", "param", "m", "v")]

    there, on = {name: cupy.asarray(x) for name, x in numbers().items()}, cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with on:
        step(engine, there)                             # compiles, and leaves memory in the stream's pool
        on.begin_capture()
        results = step(engine, there)
        graph = on.end_capture()
        for _ in range(3):
            drawn = numbers()
            for name, x in drawn.items():
                there[name].set(x)
            graph.launch(on)
            on.synchronize()
            wanted = step(reference, {name: x if name == "tokens" else wide(x) for name, x in drawn.items()})
            for got, w in zip(results, wanted):
                close(got, w, 1e-5)
