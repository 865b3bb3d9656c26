"""Every engine of the selective scan, forward, backward and step by step, against loops in float64; what is refused.

An engine is a line in ENGINES. Sizes are small enough for a card's simulator; what only large arrays show has its own
tests.
"""

import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambalib import selective_scan, selective_scan_backward, selective_state_update
from mambalib.discretize import discretize

ORACLE = Path(__file__).with_name("oracle.npz")
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


class Engine(NamedTuple):
    scan: callable                                   # as selective_scan, NumPy in and out
    backward: callable                               # as selective_scan_backward
    update: callable                                 # as selective_state_update
    dtypes: tuple = ("float32", "float64")


def on_the_host(name):
    functions = selective_scan, selective_scan_backward, selective_state_update
    return Engine(*(np.errstate(all="ignore")(partial(f, engine=name)) for f in functions))


ENGINES = {"reference": on_the_host("reference"), "cpu": on_the_host("cpu")}


@pytest.fixture(params=ENGINES, scope="module")
def engine(request):
    return ENGINES[request.param]


# --- The oracles: the definition as a loop, and its gradient from the loop unrolled ------------------------------------


def wide(x):
    """In float64 or complex128, and B and C for each channel."""
    return None if x is None else np.asarray(x).astype(np.result_type(x, np.float64))


def for_each_channel(B, channels):
    """(batch, L, D, N)."""
    B = wide(B)
    B = B[:, :, None] if B.ndim == 3 else B
    return np.repeat(B, channels // B.shape[2], axis=2)


def prepared(p, softplus):
    """Steps, and what multiplies y."""
    steps = wide(p["delta"]) + (0 if p.get("delta_bias") is None else wide(p["delta_bias"]))
    if softplus:
        steps = np.maximum(steps, 0) + np.log1p(np.exp(-np.abs(steps)))
    gate = 1.0 if p.get("z") is None else wide(p["z"]) / (1 + np.exp(-wide(p["z"])))
    return steps, gate


@np.errstate(all="ignore")
def loop(p, softplus, reset=None):
    """y and the last state, number by number in channel and time."""
    steps, gate = prepared(p, softplus)
    u, A, (batch, L, channels) = wide(p["u"]), wide(p["A"]), p["u"].shape
    B, C = for_each_channel(p["B"], channels), for_each_channel(p["C"], channels)
    state = np.zeros((batch, *A.shape), A.dtype) if p.get("initial_state") is None else wide(p["initial_state"])
    state, y = state.copy(), np.empty(u.shape)
    for b, t in np.ndindex(batch, L):
        if reset is not None and reset[b, t]:
            state[b] = 0
        for d in range(channels):
            state[b, d] = np.exp(steps[b, t, d] * A[d]) * state[b, d] + steps[b, t, d] * u[b, t, d] * B[b, t, d]
            y[b, t, d] = (C[b, t, d] * state[b, d]).sum().real * (2 if A.dtype.kind == "c" else 1)
    if p.get("D") is not None:
        y += wide(p["D"]) * u
    return y * gate, state


def unrolled(grad_y, p, softplus, grad_last=None, reset=None):
    """The gradient, from h_t = sum_s M[t, s] (step_s u_s B_s) + M[t, -1] h_0 with M[t, s] = exp(A (time_t - time_s)).

    M[t, s] is 0 where a sequence starts after s, up to t. Then everything that reaches h_s is sum_t M[t, s] C_t grad_t.
    """
    steps, gate = prepared(p, softplus)
    u, A, (batch, L, channels) = wide(p["u"]), wide(p["A"]), p["u"].shape
    B, C = for_each_channel(p["B"], channels), for_each_channel(p["C"], channels)
    reset = np.zeros((batch, L), bool) if reset is None else reset
    time = np.concatenate([np.zeros((batch, 1, channels)), steps.cumsum(1)], axis=1)              # at the end of a step
    sequence = np.concatenate([np.zeros((batch, 1)), reset.cumsum(1)], axis=1)
    later = np.tril(np.ones((L + 1, L + 1))) * (sequence[:, :, None] == sequence[:, None])        # (batch, t, s)
    gap = time[:, :, None] - time[:, None]                                                        # (batch, t, s, D)
    M = np.exp(np.where(later[..., None, None] > 0, gap[..., None] * A, -np.inf))                 # (batch, t, s, D, N)
    state = np.zeros((batch, *A.shape)) if p.get("initial_state") is None else wide(p["initial_state"])
    enters = np.concatenate([state[:, None], (steps * u)[..., None] * B], axis=1)                 # (batch, 1 + L, D, N)
    h = np.einsum("btsdn,bsdn->btdn", M, enters)
    y = (C * h[:, 1:]).sum(-1) + (0 if p.get("D") is None else wide(p["D"]) * u)
    grads = dict.fromkeys(NAMES)
    grad_y = wide(grad_y)
    if p.get("z") is not None:
        z, s = wide(p["z"]), 1 / (1 + np.exp(-wide(p["z"])))
        grads["z"] = grad_y * y * (s + z * s * (1 - s))
        grad_y = grad_y * gate
    outer = np.concatenate([np.zeros((batch, 1, *A.shape)), C * grad_y[..., None]], axis=1)
    if grad_last is not None:
        outer[:, -1] += wide(grad_last)
    g = np.einsum("btsdn,btdn->bsdn", M, outer)                                                   # reaches h_s
    kept = h[:, 1:] - enters[:, 1:]                                                               # exp(step A) h_{t-1}
    grads["initial_state"] = None if p.get("initial_state") is None else g[:, 0]
    g = g[:, 1:]
    from_B = (g * B).sum(-1)
    grads["u"] = steps * from_B + (0 if p.get("D") is None else wide(p["D"]) * grad_y)
    grads["A"] = np.einsum("btd,btdn->dn", steps, kept * g)
    grad_steps = u * from_B + (A * kept * g).sum(-1)
    if softplus:
        raw = wide(p["delta"]) + (0 if p.get("delta_bias") is None else wide(p["delta_bias"]))
        grad_steps = grad_steps / (1 + np.exp(-raw))
    grads["delta"] = grad_steps
    for name, x in (("B", (steps * u)[..., None] * g), ("C", h[:, 1:] * grad_y[..., None])):
        groups = 1 if p[name].ndim == 3 else p[name].shape[2]
        x = x.reshape(batch, L, groups, channels // groups, A.shape[1]).sum(3)
        grads[name] = x[:, :, 0] if p[name].ndim == 3 else x
    grads["D"] = None if p.get("D") is None else (grad_y * u).sum((0, 1))
    grads["delta_bias"] = None if p.get("delta_bias") is None else grad_steps.sum((0, 1))
    return grads


# --- What is drawn ----------------------------------------------------------------------------------------------------


def problem(rng, batch, L, channels, N, groups=None, dtype="float64", optional=("D", "z", "delta_bias", "initial_state")):
    """Arguments by name. Of the decays some are below e^-80, some round to 1, some grow a little."""
    matrix = (batch, L, N) if groups is None else (batch, L, groups, N)
    shapes = {
        "u": (batch, L, channels), "delta": (batch, L, channels), "A": (channels, N), "B": matrix, "C": matrix,
        "D": (channels,), "z": (batch, L, channels), "delta_bias": (channels,), "initial_state": (batch, channels, N),
    }
    p = {name: rng.standard_normal(shape) for name, shape in shapes.items() if name in NAMES[:5] or name in optional}
    kind = rng.integers(0, 12, (channels, N))
    p["A"] = np.select([kind == 0, kind == 1, kind == 2, kind == 3], [0.0, -200.0, -1e-9, 0.01], -np.exp(p["A"]))
    return {name: x.astype(dtype) for name, x in p.items()}


def positive_steps(p):
    """Without softplus."""
    for name in ("delta", "delta_bias"):
        if name in p:
            p[name] = np.abs(p[name])


def strided(draw, x):
    """x with the same values in other memory: axes in another order, cut from a larger array, backwards."""
    order = draw(st.permutations(range(x.ndim)))
    steps = [draw(st.sampled_from([1, 1, 1, 2, -1])) for _ in range(x.ndim)]
    room = np.full([x.shape[i] * abs(steps[i]) for i in order], np.nan if x.dtype.kind == "f" else True, x.dtype)
    view = room.transpose(np.argsort(order))[(..., *(slice(None, None, s) for s in steps))]
    view[...] = x
    return view


@st.composite
def problems(draw, dtypes, lengths=(0, 1, 2, 3, 4, 5, 7, 8, 16, 17, 31, 33)):
    """(arguments, delta_softplus, reset), and a generator of random numbers."""
    rng, dtype = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.sampled_from(dtypes))
    batch, L = draw(st.sampled_from([0, 1, 1, 2, 3])), draw(st.sampled_from(lengths))
    channels, N = draw(st.sampled_from([0, 1, 2, 3, 6, 8, 16, 20, 33])), draw(st.sampled_from([1, 2, 3, 4, 5, 16, 17]))
    groups = draw(st.sampled_from([None, None] + [g for g in (1, 2, 3, 4) if channels % g == 0]))
    optional = [name for name in NAMES[5:] if draw(st.booleans())]
    p = problem(rng, batch, L, channels, N, groups, dtype, optional)
    softplus = draw(st.booleans())
    if not softplus:
        positive_steps(p)
    if draw(st.booleans()):
        p = {name: strided(draw, x) for name, x in p.items()}
    reset = draw(st.sampled_from([None, None, 0.1, 0.5]))
    reset = None if reset is None else strided(draw, rng.random((batch, L)) < reset)
    return p, softplus, reset, rng


def assert_near(got, expected, dtype, what=""):
    """To 1e-5 of the largest number in float32, 1e-12 in float64."""
    assert got.shape == expected.shape and got.dtype == dtype, what
    tolerance = {"float32": 1e-5, "complex64": 1e-5}.get(np.dtype(dtype).name, 1e-12)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max(initial=1e-3), err_msg=what)


def copied(p):
    return {name: x.copy() for name, x in p.items()}


# --- Forward and backward ---------------------------------------------------------------------------------------------


@settings(max_examples=120)
@given(st.data())
def test_every_engine_is_the_loop(engine, data):
    p, softplus, reset, _ = data.draw(problems(engine.dtypes))
    before = copied(p)
    y, last = engine.scan(**p, delta_softplus=softplus, return_last_state=True, reset=reset)
    expected, state = loop(p, softplus, reset)
    assert_near(y, expected, p["u"].dtype, "y")
    assert_near(last, state, p["u"].dtype, "last state")
    assert np.array_equal(engine.scan(**p, delta_softplus=softplus, reset=reset), y)
    assert all(np.array_equal(p[name], before[name]) for name in p), "an argument was changed"


@settings(max_examples=120)
@given(st.data())
def test_every_gradient_is_that_of_the_unrolled_sum(engine, data):
    p, softplus, reset, rng = data.draw(problems(engine.dtypes))
    dtype = p["u"].dtype
    grad_y = strided(data.draw, rng.standard_normal(p["u"].shape).astype(dtype))
    last = (p["u"].shape[0], *p["A"].shape)
    grad_last = rng.standard_normal(last).astype(dtype) if data.draw(st.booleans()) else None
    before = copied(p)
    got = engine.backward(grad_y, **p, delta_softplus=softplus, grad_last_state=grad_last, reset=reset)
    expected = unrolled(grad_y, p, softplus, grad_last, reset)
    assert got._fields == NAMES
    for name in NAMES:
        if name not in p:
            assert getattr(got, name) is None
        else:
            assert_near(getattr(got, name), expected[name], dtype, name)
    assert all(np.array_equal(p[name], before[name]) for name in p), "an argument was changed"


@pytest.mark.parametrize("softplus", [False, True])
def test_every_gradient_is_that_of_finite_differences(engine, softplus):
    rng = np.random.default_rng(1)
    p = problem(rng, 2, 5, 4, 3, groups=2)
    if not softplus:
        positive_steps(p)
    reset = np.array([[0, 0, 0, 1, 0], [1, 0, 0, 0, 0]], bool)
    weight_y, weight_last = rng.standard_normal((2, 5, 4)), rng.standard_normal((2, 4, 3))
    got = engine.backward(weight_y, **p, delta_softplus=softplus, grad_last_state=weight_last, reset=reset)

    def loss(p):
        y, last = engine.scan(**p, delta_softplus=softplus, return_last_state=True, reset=reset)
        return (weight_y * y).sum() + (weight_last * last).sum()

    for name in NAMES:
        for at in np.ndindex(p[name].shape):
            up, down = copied(p), copied(p)
            up[name][at] += 1e-6
            down[name][at] -= 1e-6
            slope = (loss(up) - loss(down)) / 2e-6
            assert slope == pytest.approx(getattr(got, name)[at], abs=1e-6), (name, at)


def test_transformers_agrees(engine):
    """Its arithmetic takes B and u, and all of the step, through float32."""
    stored = dict(np.load(ORACLE))
    names = NAMES[:8]
    p = {name: stored[name] for name in names}
    y, last = engine.scan(**p, delta_softplus=True, return_last_state=True)
    got = engine.backward(stored["grad_y"], **p, delta_softplus=True, grad_last_state=stored["grad_last_state"])
    assert_near(y, stored["y"], "float64")
    assert_near(last, stored["last_state"], "float64")
    for name in names:
        np.testing.assert_allclose(getattr(got, name), stored[f"grad_{name}"], atol=1e-6 if name in "Bu" else 1e-13)
    step = {name: x[:, 0] if x.ndim == 3 else x for name, x in p.items()}
    u, delta, A, B, C, *rest = step.values()
    np.testing.assert_allclose(engine.update(last, u, delta, A, B, C, *rest, True), stored["y_step"], atol=1e-6)
    np.testing.assert_allclose(last, stored["state_step"], atol=1e-6)


# --- States, packed sequences, groups ---------------------------------------------------------------------------------


@settings(max_examples=120)
@given(st.data())
def test_steps_and_pieces_are_the_whole(engine, data):
    """Scan up to a step, go on one step at a time, then scan the rest: outputs, and the gradient of the state between."""
    p, softplus, _, rng = data.draw(problems(engine.dtypes, lengths=(1, 2, 5, 9)))
    L, dtype = p["u"].shape[1], p["u"].dtype
    first, second = sorted((data.draw(st.integers(0, L)), data.draw(st.integers(0, L))))
    in_time = ("u", "delta", "B", "C", "z")

    def part(start, stop, state):
        piece = {name: x[:, start:stop] if name in in_time else x for name, x in p.items()}
        return {**piece, "initial_state": state} if state is not None else piece

    y, last = engine.scan(**p, delta_softplus=softplus, return_last_state=True)
    before, state = engine.scan(**part(0, first, None), delta_softplus=softplus, return_last_state=True)
    ys = [before]
    state = strided(data.draw, state)
    for t in range(first, second):
        now = {name: x[:, 0] if name in in_time else x for name, x in part(t, t + 1, None).items()}
        out = strided(data.draw, np.empty_like(now["u"])) if data.draw(st.booleans()) else None
        rest = {name: x for name, x in now.items() if name in NAMES[5:8]}
        got = engine.update(state, *(now[name] for name in NAMES[:5]), **rest, delta_softplus=softplus, out=out)
        assert out is None or got is out
        ys.append(got[:, None])
    rest, end = engine.scan(**part(second, L, state), delta_softplus=softplus, return_last_state=True)
    assert_near(np.concatenate([*ys, rest], axis=1), y, dtype)
    assert_near(end, last, dtype)
    if first == second:                              # what comes back through the state is what the whole has
        grad_y = rng.standard_normal(p["u"].shape).astype(dtype)
        whole = engine.backward(grad_y, **p, delta_softplus=softplus)
        right = engine.backward(grad_y[:, first:], **part(first, L, state), delta_softplus=softplus)
        left = engine.backward(grad_y[:, :first], **part(0, first, None), delta_softplus=softplus,
                               grad_last_state=right.initial_state)
        assert_near(np.concatenate([left.u, right.u], axis=1), whole.u, dtype)
        assert_near(left.A + right.A, whole.A, dtype)


def test_out_may_be_an_argument(engine):
    p = problem(np.random.default_rng(2), 2, 1, 20, 3)
    u, delta, A, B, C, D, z, bias, state = (x[:, 0] if x.ndim == 3 and name not in ("initial_state",) else x for name, x in p.items())
    expected = engine.update(state.copy(), u, delta, A, B, C, D, z, bias, True)
    for out in (u, z, delta):
        kept = out.copy()
        assert np.array_equal(engine.update(state.copy(), u, delta, A, B, C, D, z, bias, True, out=out), expected)
        out[...] = kept


def test_a_reset_starts_a_new_sequence(engine):
    """Packed sequences: values and gradients are those of separate sequences, whatever came before."""
    rng, lengths = np.random.default_rng(3), (5, 1, 8)
    parts = [problem(rng, 1, n, 6, 3, groups=2, optional=("D", "z", "delta_bias")) for n in lengths]
    shared = {name: parts[0][name] for name in ("A", "D", "delta_bias")}
    parts = [{**part, **shared} for part in parts]
    packed = {name: x if name in shared else np.concatenate([part[name] for part in parts], 1) for name, x in parts[0].items()}
    starts = np.cumsum((0, *lengths))[:-1]
    reset = np.isin(np.arange(14), starts)[None]
    packed["initial_state"] = np.full((1, 6, 3), np.inf)             # a reset at the first step forgets even this
    y, last = engine.scan(**packed, delta_softplus=True, return_last_state=True, reset=reset)
    grad_y = rng.standard_normal(y.shape)
    got = engine.backward(grad_y, **packed, delta_softplus=True, reset=reset)
    assert not got.initial_state.any()
    grad_A = 0
    for start, part in zip(starts, parts):
        here = slice(start, start + part["u"].shape[1])
        expected, state = loop(part, True)
        np.testing.assert_allclose(y[:, here], expected, rtol=1e-12, atol=1e-12)
        grads = unrolled(grad_y[:, here], part, True)
        for name in ("u", "delta", "B", "C", "z"):
            np.testing.assert_allclose(getattr(got, name)[:, here], grads[name], atol=1e-12)
        grad_A += grads["A"]
    np.testing.assert_allclose(got.A, grad_A, atol=1e-12)
    np.testing.assert_allclose(last, state, atol=1e-12)


def test_groups_are_separate_channels(engine):
    p = problem(np.random.default_rng(4), 2, 7, 6, 3, groups=3)
    whole = engine.scan(**p)
    for g in range(3):
        of_group = slice(2 * g, 2 * g + 2)
        part = {name: x[..., of_group] if name in ("u", "delta", "D", "z", "delta_bias") else x for name, x in p.items()}
        part |= {"A": p["A"][of_group], "initial_state": p["initial_state"][:, of_group]}
        part |= {name: p[name][:, :, g] for name in "BC"}
        np.testing.assert_allclose(engine.scan(**part), whole[..., of_group], atol=1e-12)


# --- Numerics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", NAMES)
def test_nan_and_infinity_pass_as_in_the_loop(engine, where, value):
    rng = np.random.default_rng(5)
    for channels in (1, 18):
        p = problem(rng, 2, 9, channels, 2)
        p["A"] = -np.exp(rng.standard_normal((channels, 2)))
        p[where].flat[rng.integers(0, p[where].size, 2)] = value
        expected, state = loop(p, True)
        y, last = engine.scan(**p, delta_softplus=True, return_last_state=True)
        np.testing.assert_allclose(y, expected, atol=1e-12)          # NaN equals NaN here, infinity its own sign
        np.testing.assert_allclose(last, state, atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["grad_y", "B", "C", "u"])
@pytest.mark.parametrize("channels", [1, 18])
def test_nan_and_infinity_pass_backward_as_in_the_reference(engine, where, value, channels):
    rng = np.random.default_rng(6)
    p = problem(rng, 2, 9, channels, 2)
    p["grad_y"] = rng.standard_normal((2, 9, channels))
    p["A"] = -np.exp(rng.standard_normal((channels, 2)))
    p[where].flat[rng.integers(0, p[where].size)] = value
    got, expected = (e.backward(**p, delta_softplus=True) for e in (engine, ENGINES["reference"]))
    assert not all(np.isfinite(x).all() for x in expected)
    for name, g, e in zip(NAMES, got, expected):
        np.testing.assert_allclose(g, e, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("softplus", [False, True])
def test_steps_and_decays_of_every_size(engine, softplus):
    """Softplus from e^-60 to 1000, decays from 0 over 1e-40 to 1: nothing overflows that does not in float64."""
    for dtype in engine.dtypes:
        size = np.concatenate([-np.geomspace(60, 0.01, 24), np.geomspace(0.01, 1000, 24)]) if softplus else np.geomspace(1e-9, 1000, 48)
        delta = np.repeat(size.astype(dtype)[None, :, None], 5, axis=2)
        A = -np.array([[0.0], [1e-9], [0.1], [1.0], [1e5]], dtype)
        u = np.ones_like(delta)
        p = {"u": u, "delta": delta, "A": A, "B": u[..., :1], "C": u[..., :1], "z": delta, "D": u[0, 0]}
        y, last = engine.scan(**p, delta_softplus=softplus, return_last_state=True)
        expected, state = loop(p, softplus)
        assert np.isfinite(y).all()
        np.testing.assert_allclose(y, expected, rtol=2e-5 if dtype == "float32" else 1e-12, atol=1e-30)
        np.testing.assert_allclose(last, state, rtol=2e-5 if dtype == "float32" else 1e-12)
        got = engine.backward(u, **p, delta_softplus=softplus)
        expected = unrolled(u, p, softplus)
        for name in ("u", "delta", "A", "B", "C", "z", "D"):
            assert_near(getattr(got, name), expected[name], dtype, name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@np.errstate(all="ignore")
def test_the_decay_is_the_exponential(engine, dtype):
    """With B = 0 and C = 1 one step makes exp(delta A) of a state of 1. Rounding the exponent alone costs |delta A| / 2 units."""
    if dtype not in engine.dtypes:
        pytest.skip("not a dtype of this engine")
    rng, n = np.random.default_rng(7), 4000
    top = 87.0 if dtype == "float32" else 700.0
    A = np.concatenate([rng.uniform(-top, top, n), rng.uniform(-1, 1, n), [0, -np.inf, np.inf, np.nan, -1e4, 1e4]])
    A = A.astype(dtype)[:, None]
    one = np.ones((1, 1, len(A)), dtype)
    got = engine.scan(one, one, A, 0 * one[..., :1], one[..., :1], initial_state=np.ones((1, len(A), 1), dtype))[0, 0]
    expected = np.exp(A[:, 0].astype(np.longdouble)).astype(dtype)
    finite = np.abs(A[:, 0]) <= top
    error = np.abs(got - expected)[finite] / np.spacing(expected[finite])
    units = 1.0 if engine is ENGINES["cpu"] else 3.0                 # NumPy's own exponential of float32 is off by 2.6
    assert (error <= units + 1.5 * np.abs(A[finite, 0])).all()
    np.testing.assert_array_equal(got[~finite], expected[~finite])
    assert got[2 * n] == 1


# --- What only large arrays show, on the cores ------------------------------------------------------------------------


LARGE = [                                            # batch, L, channels, N, groups: blocks, chunks and what is left of both
    (2, 300, 200, 16, None), (1, 131, 96, 7, 3), (3, 70, 33, 64, None), (1, 40, 20, 256, None), (1, 2100, 17, 1, None),
]


@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_arrays_on_the_cores(shape, dtype):
    rng = np.random.default_rng(8)
    p = problem(rng, *shape, dtype=dtype)
    reset = rng.random(shape[:2]) < 0.02
    grad_y, grad_last = (rng.standard_normal(s).astype(dtype) for s in (p["u"].shape, p["initial_state"].shape))
    exact = {name: x.astype("float64") for name, x in p.items()}
    y, last = ENGINES["cpu"].scan(**p, delta_softplus=True, return_last_state=True, reset=reset)
    got = ENGINES["cpu"].backward(grad_y, **p, delta_softplus=True, grad_last_state=grad_last, reset=reset)
    expected, state = ENGINES["reference"].scan(**exact, delta_softplus=True, return_last_state=True, reset=reset)
    grads = ENGINES["reference"].backward(
        grad_y.astype("float64"), **exact, delta_softplus=True, grad_last_state=grad_last.astype("float64"), reset=reset)
    for what, g, e in zip(("y", "last", *NAMES), (y, last, *got), (expected, state, *grads)):
        assert_near(g, e, dtype, what)


def test_a_million_steps():
    """In float32 a state that never fades collects a million roundings, as it does in any loop in float32; others do not."""
    L = 10**6
    rng = np.random.default_rng(9)
    u, delta = (rng.standard_normal((1, L, 3)).astype(np.float32) for _ in range(2))
    B, C = (rng.standard_normal((1, L, 2)).astype(np.float32) for _ in range(2))
    A = -np.array([[1e-3, 1], [0.5, 30], [1e-4, 0.1]], np.float32)
    y, last = selective_scan(u, delta, A, B, C, delta_softplus=True, return_last_state=True)
    steps = np.logaddexp(delta.astype(float), 0)[0]
    state = np.zeros((3, 2))
    stop = 50_000                                    # the loop in Python is slow; the states forget, so its end can be seen, too
    for start in (0, L - stop):
        expected = np.empty((stop, 3))
        for t in range(stop):
            i = start + t
            state = np.exp(steps[i, :, None] * A) * state + (steps[i] * u[0, i])[:, None] * B[0, i]
            expected[t] = (C[0, i] * state).sum(-1)
        known = slice(0 if start == 0 else 2000, 2)
        channels = slice(0, 3) if start == 0 else [1]
        here = y[0, start:start + stop][known.start:, channels]
        assert np.abs(here - expected[known.start:, channels]).max() < 1e-5 * np.abs(expected[:, channels]).max()
        state = np.zeros((3, 2))
    got = selective_scan_backward(np.ones_like(u), u, delta, A, B, C, delta_softplus=True)
    wide = [x.astype(np.float64) for x in (np.ones_like(u), u, delta, A, B, C)]
    for g, e in zip(got, selective_scan_backward(*wide, delta_softplus=True)):
        if e is not None:
            assert np.abs(g - e).max() < 1e-5 * np.abs(e).max()


@pytest.mark.parametrize("shape", [(2, 300, 200, 16, None), (1, 70, 33, 5, 3)], ids=str)
def test_the_bits_depend_neither_on_the_run_nor_on_the_number_of_threads(shape):
    numba = pytest.importorskip("numba")
    before, p = numba.get_num_threads(), problem(np.random.default_rng(10), *shape, dtype="float32")
    results = []
    for threads in (1, before, before):
        numba.set_num_threads(threads)
        y, last = selective_scan(**p, delta_softplus=True, return_last_state=True)
        results.append((y, last, *selective_scan_backward(p["u"], **p, delta_softplus=True)))
    numba.set_num_threads(before)
    for one, *others in zip(*results):
        assert all(np.array_equal(one, other) for other in others)


def test_many_updates_go_to_all_cores():
    p = problem(np.random.default_rng(11), 6, 1, 1000, 17, dtype="float32")
    u, delta, A, B, C, D, z, bias, state = (x[:, 0] if x.ndim == 3 and name != "initial_state" else x for name, x in p.items())
    expected, whole = loop(p, True)
    assert state.size > 2**16
    assert_near(selective_state_update(state, u, delta, A, B, C, D, z, bias, True), expected[:, 0], "float32")
    assert_near(state, whole, "float32")


def test_several_python_threads_may_scan_at_once():
    from concurrent.futures import ThreadPoolExecutor
    p = problem(np.random.default_rng(12), 2, 50, 40, 4)
    y = selective_scan(**p, delta_softplus=True)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(y, other) for other in pool.map(lambda _: selective_scan(**p, delta_softplus=True), range(12)))


def test_a_step_allocates_nothing_with_out():
    from numba.core.runtime import _nrt_python, rtsys
    _nrt_python.memsys_enable_stats()
    p = problem(np.random.default_rng(13), 4, 1, 256, 16, dtype="float32")
    u, delta, A, B, C, D, z, bias, state = (x[:, 0] if x.ndim == 3 and name != "initial_state" else x for name, x in p.items())
    out = np.empty_like(u)
    step = partial(selective_state_update, state, u, delta, A, B, C, D, z, bias, True, out=out)
    step()
    before = rtsys.get_allocation_stats().alloc      # in compiled code
    tracemalloc.start()
    step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rtsys.get_allocation_stats().alloc - before == 10         # numba's note of each array it is given
    assert peak < u.nbytes                           # views and integers; u is the smallest array of a step here, 4 kB


def test_no_array_of_all_states_is_made():
    """All states of this problem are 134 MB in float32, its arguments and gradients 28 MB."""
    code = """
import resource
import numpy as np
from mambalib import selective_scan_backward
def run(L):
    u, B, A = np.ones((1, L, 128), np.float32), np.ones((1, L, 64), np.float32), -np.ones((128, 64), np.float32)
    selective_scan_backward(u, u, u, A, B, B, delta_softplus=True)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(-run(64) + run(4096))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60_000                 # kilobytes


# --- What only the reference has --------------------------------------------------------------------------------------


def complex_problem(rng):
    p = problem(rng, 2, 6, 4, 3, groups=2)
    for name in ("A", "B", "C", "initial_state"):
        p[name] = p[name] + 1j * rng.standard_normal(p[name].shape)
    p["A"] = -np.abs(p["A"].real) + 1j * p["A"].imag
    return p


def test_complex_states_stand_for_conjugate_pairs():
    """y is that of twice as many states, A, B, C and their conjugates, of which the sum is real."""
    p = complex_problem(np.random.default_rng(14))
    y, last = selective_scan(**p, delta_softplus=True, return_last_state=True, engine="reference")
    expected, state = loop(p, True)
    np.testing.assert_allclose(y, expected, atol=1e-12)
    np.testing.assert_allclose(last, state, atol=1e-12)
    def pairs(x):
        return np.concatenate([x, x.conj()], axis=-1)
    both = {name: pairs(x) if np.iscomplexobj(x) else x for name, x in p.items()}
    steps, gate = prepared(p, True)
    both = [(both[name] if name in both else None) for name in NAMES]
    u, _, A, B, C, D, _, _, h = both
    for t in range(u.shape[1]):
        B_t, C_t = (np.repeat(x[:, t], 2, axis=1) for x in (B, C))
        h = np.exp(steps[:, t, :, None] * A) * h + (steps[:, t] * u[:, t])[..., None] * B_t
        sum_ = (C_t * h).sum(-1)
        np.testing.assert_allclose(sum_.imag, 0, atol=1e-12)
        np.testing.assert_allclose((sum_.real + D * u[:, t]) * gate[:, t], y[:, t], atol=1e-12)


def test_complex_gradients_are_those_of_finite_differences():
    """For z = x + iy, dloss/dx + i dloss/dy."""
    rng = np.random.default_rng(15)
    p = complex_problem(rng)
    reset = rng.random((2, 6)) < 0.2
    weight_y, weight_last = rng.standard_normal((2, 6, 4)), p["initial_state"][::-1].copy()
    how = {"delta_softplus": True, "reset": reset, "engine": "reference"}
    got = selective_scan_backward(weight_y, **p, grad_last_state=weight_last, **how)

    def loss(p):
        y, last = selective_scan(**p, return_last_state=True, **how)
        return (weight_y * y).sum() + (weight_last.conj() * last).real.sum()

    for name in NAMES:
        for at in np.ndindex(p[name].shape):
            for unit in (1, 1j)[:1 + (p[name].dtype.kind == "c")]:
                up, down = copied(p), copied(p)
                up[name][at] += 1e-6 * unit
                down[name][at] -= 1e-6 * unit
                slope = (loss(up) - loss(down)) / 2e-6
                assert slope == pytest.approx((getattr(got, name)[at] * np.conj(unit)).real, abs=1e-6), (name, at)


@pytest.mark.parametrize("zoh, method", [(False, "mamba"), (True, "zoh")])
def test_the_rule_is_that_of_discretize(zoh, method):
    p = problem(np.random.default_rng(16), 1, 5, 2, 3, optional=())
    p["delta"] = np.abs(p["delta"])
    got = selective_scan(**p, zoh=zoh, engine="reference")
    for d in range(2):
        h = np.zeros(3)
        for t in range(5):
            A_bar, B_bar = discretize(p["A"][d], p["B"][0, t], p["delta"][0, t, d], method)
            h = A_bar * h + B_bar * p["u"][0, t, d]
            assert got[0, t, d] == pytest.approx(p["C"][0, t] @ h, abs=1e-12)


# --- What is refused --------------------------------------------------------------------------------------------------


P = problem(np.random.default_rng(17), 2, 7, 6, 3)
ONE = {name: x[:, 0] if x.ndim == 3 and name != "initial_state" else x for name, x in P.items()}
SINGLE = {name: x.astype("float32") for name, x in P.items()}
REFUSED = {                                          # name: (what is changed, the error, its message)
    "shape of u": ({"u": P["u"][0]}, ValueError, r"u: expected shape \(any, any, any\) = \(batch, length, channels\), got \(7, 6\)"),
    "integers": ({"u": P["u"].astype(int)}, TypeError, "u: expected dtype float32 or float64, got int64"),
    "half precision": ({"u": P["u"].astype("float16")}, TypeError, "u: expected dtype float32 or float64, got float16"),
    "complex u": ({"u": P["u"] * 1j}, TypeError, "u: expected dtype float32 or float64, got complex128"),
    "no u": ({"u": None}, TypeError, "u: expected an array of .*, got None"),
    "shape of delta": ({"delta": P["delta"][:, 1:]}, ValueError, r"delta: expected shape \(2, 7, 6\) = that of u, got \(2, 6, 6\)"),
    "dtype of delta": ({"delta": SINGLE["delta"]}, TypeError, "delta: expected dtype float64, as u is float64, got float32"),
    "ragged delta": ({"delta": [[1.0], [1.0, 2.0]]}, ValueError, "delta: expected a rectangular array"),
    "shape of A": ({"A": P["A"].T}, ValueError, r"A: expected shape \(6, any\) = \(channels, state\), got \(3, 6\)"),
    "a vector A": ({"A": P["D"]}, ValueError, r"A: expected shape \(6, any\) = \(channels, state\), got \(6,\)"),
    "ragged A": ({"A": [[1.0], [1.0, 2.0]]}, ValueError, "A: expected a rectangular array"),
    "integers in A": ({"A": P["A"].astype(int)}, TypeError, "A: expected dtype float32 or float64 .*, got int64"),
    "ragged B": ({"B": [[1.0], [1.0, 2.0]]}, ValueError, "B: expected a rectangular array"),
    "no C": ({"C": None}, TypeError, "C: expected an array of .*, got None"),
    "no states": ({"A": P["A"][:, :0]}, ValueError, r"A: expected 1 to 256 states a channel, got shape \(6, 0\)"),
    "many states": ({"A": np.ones((6, 257))}, ValueError, r"A: expected 1 to 256 states a channel, got shape \(6, 257\)"),
    "complex A": ({"A": P["A"] * 1j}, TypeError, 'A: expected real rates unless engine="reference", got complex128'),
    "dtype of A": ({"A": SINGLE["A"]}, TypeError, "A: expected dtype float64, as u is float64, got float32"),
    "shape of B": ({"B": P["B"].swapaxes(1, 2)}, ValueError, r"B: expected shape \(2, 7, 3\) = \(batch, length, state\), got \(2, 3, 7\)"),
    "groups of B": (
        {"B": np.ones((2, 7, 4, 3)), "C": np.ones((2, 7, 4, 3))}, ValueError,
        "B: expected a number of groups that divides the 6 channels, got 4",
    ),
    "no groups": ({"B": np.ones((2, 7, 0, 3))}, ValueError, "B: expected a number of groups .*, got 0"),
    "other groups": ({"C": np.ones((2, 7, 2, 3))}, ValueError, "C: expected as many groups as B, 1, got 2"),
    "constant B": ({"B": P["A"]}, ValueError, r"B: expected shape \(2, 7, 3\) = \(batch, length, state\), got \(6, 3\)"),
    "shape of C": (
        {"C": np.ones((2, 7, 1, 4))}, ValueError,
        r"C: expected shape \(2, 7, any, 3\) = \(batch, length, groups, state\), got \(2, 7, 1, 4\)",
    ),
    "complex C": ({"C": P["C"] * 1j}, TypeError, "C: expected dtype float64, as u is float64, got complex128"),
    "shape of D": ({"D": np.ones(7)}, ValueError, r"D: expected shape \(6,\) = \(channels,\), got \(7,\)"),
    "a number for D": ({"D": 1.0}, ValueError, r"D: expected shape \(6,\) = \(channels,\), got \(\)"),
    "shape of z": ({"z": P["z"][:1]}, ValueError, r"z: expected shape \(2, 7, 6\) = that of u, got \(1, 7, 6\)"),
    "shape of delta_bias": ({"delta_bias": np.ones((1, 6))}, ValueError, r"delta_bias: expected shape \(6,\) = \(channels,\), got \(1, 6\)"),
    "softplus": ({"delta_softplus": 1}, TypeError, "delta_softplus: expected True or False, got 1"),
    "shape of the state": (
        {"initial_state": np.ones((2, 3, 6))}, ValueError,
        r"initial_state: expected shape \(2, 6, 3\) = \(batch, channels, state\), got \(2, 3, 6\)",
    ),
    "dtype of the state": ({"initial_state": SINGLE["initial_state"]}, TypeError, "initial_state: expected dtype float64, as u"),
    "resets that are numbers": ({"reset": np.zeros((2, 7))}, TypeError, "reset: expected dtype bool, got float64"),
    "a number for reset": ({"reset": True}, TypeError, "reset: expected an array of bool, got True"),
    "ragged reset": ({"reset": [[True], [True, False]]}, ValueError, "reset: expected a rectangular array"),
    "shape of reset": ({"reset": np.zeros(7, bool)}, ValueError, r"reset: expected shape \(2, 7\) = \(batch, length\), got \(7,\)"),
    "engine": ({"engine": "gpu"}, ValueError, "engine: expected one of 'reference', 'cpu', 'cuda', got 'gpu'"),
    "a card's engine": ({"engine": "cuda"}, TypeError, "u: expected an array on a card, where the engine 'cuda' runs, got ndarray"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_do_not_fit_are_refused_by_name(name):
    change, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        selective_scan(**{**P, **change})
    with pytest.raises(error, match=message):
        selective_scan_backward(P["u"], **{**P, **change})


REFUSED_STEPS = {
    "shape of u_t": ({"u_t": P["u"]}, ValueError, r"u_t: expected shape \(any, any\) = \(batch, channels\), got \(2, 7, 6\)"),
    "shape of delta_t": ({"delta_t": P["D"]}, ValueError, r"delta_t: expected shape \(2, 6\) = that of u_t, got \(6,\)"),
    "shape of B_t": ({"B_t": ONE["B"].T}, ValueError, r"B_t: expected shape \(2, 3\) = \(batch, state\), got \(3, 2\)"),
    "shape of C_t": ({"C_t": np.ones((2, 4, 3))}, ValueError, "C_t: expected a number of groups that divides the 6 channels, got 4"),
    "other groups": ({"C_t": np.ones((2, 2, 3))}, ValueError, "C_t: expected as many groups as B_t, 1, got 2"),
    "dtype of A": ({"A": SINGLE["A"]}, TypeError, "A: expected dtype float64, as u_t is float64, got float32"),
    "shape of z": ({"z": P["z"]}, ValueError, r"z: expected shape \(2, 6\) = that of u_t, got \(2, 7, 6\)"),
    "shape of state": ({"state": np.ones((2, 6, 4))}, ValueError, r"state: expected shape \(2, 6, 3\) = \(batch, channels, state\)"),
    "a list of states": ({"state": [[0.0]]}, TypeError, "state: expected an array to write into, got list"),
    "dtype of state": ({"state": np.ones((2, 6, 3), "float32")}, TypeError, "state: expected dtype float64, as u_t is float64, got float32"),
    "a read-only state": (
        {"state": np.broadcast_to(1.0, (2, 6, 3))}, TypeError, "state: expected an array to write into, got one that is read-only",
    ),
    "shape of out": ({"out": np.ones((6, 2))}, ValueError, r"out: expected shape \(2, 6\) = that of u_t, got \(6, 2\)"),
    "dtype of out": ({"out": np.ones((2, 6), "float32")}, TypeError, "out: expected dtype float64, as u_t is float64, got float32"),
    "softplus": ({"delta_softplus": None}, TypeError, "delta_softplus: expected True or False, got None"),
}


@pytest.mark.parametrize("name", REFUSED_STEPS)
def test_steps_that_do_not_fit_are_refused_by_name(name):
    change, error, message = REFUSED_STEPS[name]
    given = {"state": P["initial_state"].copy(), "u_t": ONE["u"], "delta_t": ONE["delta"], "A": P["A"], "B_t": ONE["B"], "C_t": ONE["C"]}
    with pytest.raises(error, match=message):
        selective_state_update(**{**given, **change})


def test_what_belongs_to_one_function_is_refused_there():
    with pytest.raises(TypeError, match="return_last_state: expected True or False, got 1"):
        selective_scan(**P, return_last_state=1)
    with pytest.raises(ValueError, match='zoh: expected False unless engine="reference", the one that has it, got True with None'):
        selective_scan(**P, zoh=True)
    with pytest.raises(ValueError, match=r"grad_y: expected shape \(2, 7, 6\) = that of u, got \(7, 6\)"):
        selective_scan_backward(P["u"][0], **P)
    with pytest.raises(TypeError, match="grad_y: expected dtype float64, as u is float64, got float32"):
        selective_scan_backward(SINGLE["u"], **P)
    with pytest.raises(ValueError, match=r"grad_last_state: expected shape \(2, 6, 3\) = \(batch, channels, state\), got \(6, 3\)"):
        selective_scan_backward(P["u"], **P, grad_last_state=P["A"])


class OnACard:
    """What an array on a card shows of itself."""

    def __init__(self, x):
        self.shape, self.dtype = x.shape, x.dtype
        self.__cuda_array_interface__ = {"shape": x.shape, "typestr": x.dtype.str, "data": (0, False), "version": 3}


@pytest.mark.parametrize("name", [*NAMES[1:], "reset"])
def test_nothing_is_copied_between_host_and_card(name):
    p = {**P, "reset": np.zeros((2, 7), bool)}
    with pytest.raises(TypeError, match=f"{name}: expected a NumPy array, as u, got an array on a card"):
        selective_scan(**{**p, name: OnACard(p[name])})
    with pytest.raises(TypeError, match="u: expected a NumPy array, where the engine 'cpu' runs, got OnACard"):
        selective_scan(**{**p, "u": OnACard(p["u"])}, engine="cpu")


# --- What else a user may give ----------------------------------------------------------------------------------------


def test_lists_other_byte_orders_unaligned_and_read_only_arrays_are_read(engine):
    y, grads = engine.scan(**P, delta_softplus=True), engine.backward(P["u"], **P, delta_softplus=True)
    record = np.zeros((2, 7, 6), np.dtype([("flag", "i1"), ("u", "f8")]))
    record["u"] = P["u"]
    fixed = P["u"].copy()
    fixed.flags.writeable = False
    for u in (P["u"].tolist(), P["u"].astype(">f8"), record["u"], fixed):
        assert np.array_equal(engine.scan(**{**P, "u": u}, delta_softplus=True), y)
    lists = {name: x.tolist() for name, x in P.items()}
    assert np.array_equal(engine.scan(**lists, delta_softplus=True), y)
    for got, expected in zip(engine.backward(P["u"].tolist(), **lists, delta_softplus=True), grads):
        assert np.array_equal(got, expected)
    same = {name: np.broadcast_to(P[name][:1], P[name].shape) for name in ("u", "delta", "B", "C", "z", "initial_state")}
    y = engine.scan(**{**P, **same})
    assert np.array_equal(y[0], y[1])


def test_no_step_is_the_initial_state_and_its_gradient(engine):
    p = {name: x[:, :0] if name in ("u", "delta", "B", "C", "z") else x for name, x in P.items()}
    y, last = engine.scan(**p, return_last_state=True)
    assert y.shape == (2, 0, 6) and np.array_equal(last, P["initial_state"]) and last is not p["initial_state"]
    got = engine.backward(y, **p, grad_last_state=last)
    assert np.array_equal(got.initial_state, last) and not got.A.any() and got.B.shape == (2, 0, 3)
    del p["initial_state"]
    assert not engine.scan(**p, return_last_state=True)[1].any()
