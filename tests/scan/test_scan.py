"""Every engine of the scan, forward and backward, against a loop in float64; the trees' sweeps; what is refused.

An engine is a line in ENGINES. Sizes are small enough for a card's simulator; what only long arrays show has its own
tests.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mambalib
from mambalib.scan import cpu, linear_scan, linear_scan_backward, reference

DTYPES = ("float32", "float64", "complex64", "complex128")


class Engine(NamedTuple):
    forward: callable                                # as linear_scan, NumPy in and out
    backward: callable                               # as linear_scan_backward
    dtypes: tuple = DTYPES
    in_order: bool = True                            # scans in the order of time: infinity lands where a loop puts it
    equal_bits: bool = True                          # and real numbers are those of the loop


def tree(forward, backward):
    """The reference by another method, behind the front door's checks."""
    def run(function, method, *arrays, axis=-1, h0=None, reverse=False):
        *arrays, b = arrays
        arrays = [np.asarray(x, b.dtype) for x in arrays]            # numbers among them
        h0 = None if h0 is None else np.asarray(h0, b.dtype)
        return function(*arrays, b, axis % b.ndim, h0, reverse, method)
    return Engine(
        partial(run, reference.linear_scan, forward), partial(run, reference.linear_scan_backward, backward),
        in_order=False, equal_bits=False,
    )


ENGINES = {
    "reference": Engine(partial(linear_scan, engine="reference"), partial(linear_scan_backward, engine="reference")),
    "cpu": Engine(linear_scan, linear_scan_backward),
    "hillis_steele": tree(reference.hillis_steele, reference.blelloch_backward),
    "blelloch": tree(reference.blelloch, reference.blelloch_backward),
}


@pytest.fixture(params=ENGINES, scope="module")
def engine(request):
    return ENGINES[request.param]


# --- The oracle: the definition, in the widest dtype ------------------------------------------------------------------


def wide(x):
    return np.asarray(x).astype(np.result_type(x, np.float64))


def loop(a, b, axis=-1, h0=None, reverse=False):
    """h, one step after the other, in float64 or complex128."""
    b = np.moveaxis(wide(b), axis, 0)
    a = np.moveaxis(np.broadcast_to(wide(a), np.moveaxis(b, 0, axis).shape), axis, 0)
    h, state = np.empty_like(b), np.zeros(b.shape[1:], b.dtype) if h0 is None else wide(h0)
    with np.errstate(all="ignore"):
        for t in reversed(range(len(b))) if reverse else range(len(b)):
            state = a[t] * state + b[t]
            h[t] = state
    return np.moveaxis(h, 0, axis)


def unrolled(grad, a, b, axis, h0, reverse):
    """The gradient, from h = M b + (product of all decays up to t) h0 with M[t, s] = a_{s+1} ... a_t.

    dh_t / db_s = M[t, s], dh_t / da_s = M[t, s] h_{s-1}, dh_t / dh0 = M[t, 0] a_0; the conjugate for complex arrays.
    """
    shape = np.shape(b)
    a_all, b, grad = (np.moveaxis(np.broadcast_to(wide(x), shape), axis, -1) for x in (a, b, grad))
    if reverse:
        a_all, b, grad = a_all[..., ::-1], b[..., ::-1], grad[..., ::-1]
    L = b.shape[-1]
    M = np.zeros((*b.shape, L), b.dtype)
    for t in range(L):
        for s in range(t + 1):
            M[..., t, s] = a_all[..., s + 1:t + 1].prod(-1)
    start = np.broadcast_to(np.zeros((), b.dtype) if h0 is None else wide(h0), b.shape[:-1])
    h = np.einsum("...ts,...s->...t", M, b) + np.einsum("...t,...->...t", M[..., :1].sum(-1) * a_all[..., :1], start)
    before = np.concatenate([start[..., None], h], axis=-1)[..., :L]
    grad_b = np.einsum("...ts,...t->...s", M.conj(), grad)
    grad_a = before.conj() * grad_b
    grad_h0 = (a_all[..., :1].conj() * grad_b[..., :1]).sum(-1)
    grad_a, grad_b = (np.moveaxis(g[..., ::-1] if reverse else g, -1, axis) for g in (grad_a, grad_b))
    return summed(grad_a, np.shape(a)), grad_b, None if h0 is None else summed(grad_h0, np.shape(h0))


def summed(x, shape):
    """x summed over the axes along which an array of `shape` was broadcast."""
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    for i, n in enumerate(shape):
        x = x.sum(axis=i, keepdims=True) if n == 1 else x
    return x


# --- What is drawn ----------------------------------------------------------------------------------------------------


LENGTHS = st.one_of(st.integers(0, 5), st.sampled_from([7, 8, 16, 17, 31, 33]))


def numbers(rng, shape, dtype, scale=1.0):
    x = scale * rng.standard_normal(shape)
    return (x + 1j * scale * rng.standard_normal(shape) if "complex" in dtype else x).astype(dtype)


def decays(rng, shape, dtype):
    """Mostly in (-1, 1); some exactly 0 or 1, above 1, subnormal. (At most 33 of them are multiplied.)"""
    a = rng.uniform(-1, 1, shape)
    kind = rng.integers(0, 12, shape)
    for k, value in enumerate((0.0, 1.0, 1.2, np.finfo(dtype).tiny / 8)):
        a = np.where(kind == k, value, a)
    return (a * np.exp(1j * rng.uniform(0, 7, shape)) if "complex" in dtype else a).astype(dtype)


def strided(draw, x):
    """x with the same values in other memory: axes in another order, cut from a larger array, backwards."""
    order = draw(st.permutations(range(x.ndim)))
    steps = [draw(st.sampled_from([1, 1, 1, 2, -1, -2])) for _ in range(x.ndim)]
    room = np.full([x.shape[i] * abs(steps[i]) for i in order], np.nan, x.dtype)
    view = room.transpose(np.argsort(order))[(..., *(slice(None, None, s) for s in steps))]
    view[...] = x
    return view


@st.composite
def problems(draw, dtypes=DTYPES, most_axes=3):
    """(a, b, keywords): any number of axes, any of them time, a and h0 broadcast along any axes or numbers."""
    rng, dtype = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.sampled_from(dtypes))
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 5, 17]), min_size=0, max_size=most_axes - 1))
    axis = draw(st.integers(0, len(shape)))
    rest, shape = shape, (*shape[:axis], draw(LENGTHS), *shape[axis:])
    def part(full):
        full = [draw(st.sampled_from([n, n, 1])) for n in full]
        return tuple(full[draw(st.sampled_from([0, 0, 0, 1, len(full)])):])
    a, b = strided(draw, decays(rng, part(shape), dtype)), strided(draw, numbers(rng, shape, dtype))
    h0 = draw(st.sampled_from(["none", "none", "array", "number"]))
    h0 = {"none": None, "number": 0.5, "array": strided(draw, numbers(rng, part(rest), dtype))}[h0]
    if draw(st.integers(0, 9)) == 0:
        a = 0.5
    axis = draw(st.sampled_from([axis, axis - len(shape)]))
    return a, b, {"axis": axis, "h0": h0, "reverse": draw(st.booleans())}


def assert_near(got, expected, dtype, size=1.0):
    """Within rounding of numbers as large as `size` and as the largest expected."""
    assert got.shape == expected.shape and got.dtype == dtype
    largest = max(size, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(got, expected, rtol=0, atol=60 * np.finfo(dtype).eps * largest)


# --- Forward ----------------------------------------------------------------------------------------------------------


@given(st.data())
def test_every_engine_is_the_loop(engine, data):
    a, b, how = data.draw(problems(engine.dtypes))
    copies = [np.copy(x) for x in (a, b, 0 if how["h0"] is None else how["h0"])]
    h = engine.forward(a, b, **how)
    assert_near(h, loop(a, b, **how), b.dtype)
    if engine.equal_bits and b.dtype.kind == "f":
        state = None if how["h0"] is None else np.asarray(how["h0"], b.dtype)
        assert np.array_equal(h, same_dtype_loop(np.asarray(a, b.dtype), b, how["axis"], state, how["reverse"]))
    for x, copy in zip((a, b, how["h0"]), copies):
        assert x is None or np.array_equal(x, copy), "an argument was changed"


def same_dtype_loop(a, b, axis, h0, reverse):
    b = np.moveaxis(b, axis, 0)
    a = np.moveaxis(np.broadcast_to(a, np.moveaxis(b, 0, axis).shape), axis, 0)
    h, state = np.empty_like(b), np.zeros(b.shape[1:], b.dtype) if h0 is None else h0
    for t in reversed(range(len(b))) if reverse else range(len(b)):
        state = a[t] * state + b[t]
        h[t] = state
    return np.moveaxis(h, 0, axis)


@pytest.mark.parametrize("axis, shape", [(-1, (20, 50)), (0, (50, 20)), (1, (3, 50, 20)), (-1, (50,))])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["a", "b", "h0"])
def test_nan_and_infinity_land_where_the_loop_puts_them(engine, where, value, axis, shape, reverse):
    rng = np.random.default_rng(1)
    arrays = {
        "a": rng.uniform(0.5, 1, shape), "b": rng.uniform(-1, 1, shape),
        "h0": np.ones(np.delete(shape, axis)),
    }
    x = arrays[where]
    x.flat[rng.integers(0, x.size, 2)] = value
    if where == "a" and np.isinf(value) and not engine.in_order:
        pytest.skip("a tree multiplies decays before they meet a state")
    with np.errstate(all="ignore"):
        h = engine.forward(arrays["a"], arrays["b"], axis=axis, h0=arrays["h0"], reverse=reverse)
    expected = loop(arrays["a"], arrays["b"], axis, arrays["h0"], reverse)
    assert not np.isfinite(expected).all()
    np.testing.assert_allclose(h, expected)          # NaN equals NaN here, infinity its own sign


def test_no_h0_is_an_h0_of_zero(engine):
    rng = np.random.default_rng(2)
    a, b = rng.uniform(0, 1, (4, 9)), rng.standard_normal((4, 9))
    a[0, 0] = np.nan
    with np.errstate(all="ignore"):
        assert np.array_equal(engine.forward(a, b), engine.forward(a, b, h0=0.0), equal_nan=True)
        assert np.isnan(engine.forward(a, b)[0]).all()


def test_a_zero_starts_a_new_sequence(engine):
    """Packed sequences: values and gradients are those of separate sequences, that of the zero itself apart."""
    rng = np.random.default_rng(3)
    lengths = 5, 1, 8
    parts = [(rng.uniform(0.5, 1, (n, 3)), rng.standard_normal((n, 3)), rng.standard_normal((n, 3))) for n in lengths]
    a, b, grad = (np.concatenate(x) for x in zip(*parts))
    starts = np.cumsum((0, *lengths))[:-1]
    a[starts] = 0
    h = engine.forward(a, b, axis=0)
    grad_a, grad_b, _ = engine.backward(grad, a, h, axis=0)
    for start, (a_1, b_1, grad_1) in zip(starts, parts):
        here = slice(start, start + len(b_1))
        np.testing.assert_allclose(h[here], loop(a_1, b_1, axis=0), rtol=1e-12)
        grad_a_1, grad_b_1, _ = unrolled(grad_1, a_1, b_1, 0, None, False)
        np.testing.assert_allclose(grad_b[here], grad_b_1, atol=1e-12)
        np.testing.assert_allclose(grad_a[here][1:], grad_a_1[1:], atol=1e-12)
        if start:                                    # the zero's own gradient is what a decay there would change
            np.testing.assert_allclose(grad_a[start], h[start - 1] * grad_b[start], atol=1e-12)


def test_a_zero_does_not_stop_infinity(engine):
    """0 times infinity is NaN: the documented limit of starting a sequence by a zero."""
    a, b = np.array([0.5, 0.5, 0.0, 0.5]), np.array([1.0, np.inf, 1.0, 1.0])
    with np.errstate(all="ignore"):
        assert np.isnan(engine.forward(a, b)[2:]).all()


# --- Backward ---------------------------------------------------------------------------------------------------------


@given(st.data())
def test_the_gradient_is_that_of_the_unrolled_sum(engine, data):
    a, b, how = data.draw(problems(engine.dtypes))
    rng = np.random.default_rng(4)
    h = loop(a, b, **how)
    grad = strided(data.draw, numbers(rng, b.shape, b.dtype.name))
    h = strided(data.draw, h.astype(b.dtype))
    copies = [np.copy(x) for x in (grad, a, h)]
    got = engine.backward(grad, a, h, **how)
    expected = unrolled(grad, a, b, **how)
    assert (got[2] is None) == (how["h0"] is None)
    size = np.abs(h).max(initial=1) * np.abs(expected[1]).max(initial=1) * math.sqrt(b.size + 1)
    for g, e in zip(got, expected):
        if e is not None:
            assert_near(np.asarray(g), np.asarray(e), b.dtype, size)
    for x, copy in zip((grad, a, h), copies):
        assert np.array_equal(x, copy), "an argument was changed"


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_gradient_is_that_of_finite_differences(engine, reverse, dtype):
    """For z = x + iy it is dloss/dx + i dloss/dy, of the real loss sum(Re(conj(weight) h))."""
    rng = np.random.default_rng(5)
    a, b, h0, weight = (numbers(rng, shape, dtype) for shape in ((5, 1), (5, 3), (3,), (5, 3)))
    how = {"axis": 0, "reverse": reverse}
    h = engine.forward(a, b, h0=h0, **how)
    got = engine.backward(weight, a, h, h0=h0, **how)

    def loss(a, b, h0):
        return (weight.conj() * loop(a, b, h0=h0, **how)).real.sum()

    for i, x in enumerate((a, b, h0)):
        for at in np.ndindex(x.shape):
            for unit in (1, 1j)[:1 + (x.dtype.kind == "c")]:
                up, down = ([y.copy() for y in (a, b, h0)] for _ in range(2))
                up[i][at] += 1e-6 * unit
                down[i][at] -= 1e-6 * unit
                slope = (loss(*up) - loss(*down)) / 2e-6
                assert slope == pytest.approx((got[i][at] * np.conj(unit)).real, abs=1e-7)


@pytest.mark.parametrize("axis, shape", [(-1, (20, 50)), (0, (50, 20)), (-1, (50,))])
def test_nan_in_the_gradient_lands_where_the_loop_puts_it(engine, axis, shape):
    rng = np.random.default_rng(6)
    a, b, grad = rng.uniform(0.5, 1, shape), rng.standard_normal(shape), rng.standard_normal(shape)
    h = loop(a, b, axis)
    grad.flat[rng.integers(0, grad.size, 2)] = np.nan
    got = engine.backward(grad, a, h, axis=axis)
    expected = linear_scan_backward(grad, a, h, axis=axis, engine="reference")
    assert np.isnan(expected[1]).any() and not np.isnan(expected[1]).all()
    for g, e in zip(got[:2], expected):
        np.testing.assert_allclose(g, e, atol=1e-12)


# --- Long arrays, on the cores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape, axis", [
    ((2**20,), 0), ((3, 2**17 + 5), 1), ((2**17 - 1, 2), 0), ((40, 4099), 1), ((1500, 37), 1), ((2, 600, 160), 1),
    ((70, 1021, 3), 1),
], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("how", ["full", "constant"])
def test_long_scans_on_the_cores(shape, axis, reverse, how):
    """Past the size where one thread does it all: tiles, strips, chunks and what is left over at their ends."""
    rng = np.random.default_rng(7)
    a = rng.uniform(0.9, 1, shape).astype(np.float32)
    if how == "constant":
        a = a[tuple(slice(1) if i == axis else slice(None) for i in range(len(shape)))]
    b, grad = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    h0 = np.ones(np.delete(shape, axis), np.float32)
    h = linear_scan(a, b, axis=axis, h0=h0, reverse=reverse)
    expected = linear_scan(a, b, axis=axis, h0=h0, reverse=reverse, engine="reference")
    chunked = np.prod(np.delete(shape, axis)) < cpu.FEW and shape[axis] >= cpu.LONG and axis == len(shape) - 1
    if chunked:
        np.testing.assert_allclose(h, expected, atol=2e-5)
    else:
        assert np.array_equal(h, expected)
    got = linear_scan_backward(grad, a, h, axis=axis, h0=h0, reverse=reverse)
    wanted = linear_scan_backward(*(x.astype(np.float64) for x in (grad, a, h)), axis=axis, h0=h0.astype(np.float64),
                                  reverse=reverse, engine="reference")
    for g, w in zip(got, wanted):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4 * max(1, np.abs(w).max() / 100))


def test_chunks_put_infinity_where_the_loop_does():
    """The decays of a chunk multiply to infinity or to zero; a state of zero stays zero, an infinite one infinite."""
    L = 2**16
    a, b = np.full((2, L), 1.5), np.zeros((2, L))
    assert not linear_scan(a, b).any()
    b[0, 5000] = 1.0                                 # overflows later on
    a[1], b[1, 3000] = 0.5, np.inf                   # products of halves underflow
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(linear_scan(a, b), linear_scan(a, b, engine="reference"), rtol=1e-11)
    a[1, 40000], b[1] = np.nan, 1.0
    with np.errstate(over="ignore"):
        assert np.array_equal(np.isnan(linear_scan(a, b)), np.isnan(linear_scan(a, b, engine="reference")))


def test_results_do_not_depend_on_the_number_of_threads():
    numba = pytest.importorskip("numba")
    rng, before = np.random.default_rng(8), numba.get_num_threads()
    for shape, axis in (((1, 2**17), 1), ((100, 700), 1), ((700, 100), 0)):
        a, b = rng.uniform(0.9, 1, shape).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
        results = []
        for threads in (1, before):
            numba.set_num_threads(threads)
            h = linear_scan(a, b, axis=axis)
            results.append((h, *linear_scan_backward(b, a, h, axis=axis)[:2]))
        numba.set_num_threads(before)
        for one, many in zip(*results):
            assert np.array_equal(one, many)


def test_several_python_threads_may_scan_at_once():
    from concurrent.futures import ThreadPoolExecutor
    b = np.ones((300, 400))
    with ThreadPoolExecutor(4) as pool:
        for h in pool.map(lambda _: linear_scan(0.5, b), range(12)):
            assert np.array_equal(h, linear_scan(0.5, b, engine="reference"))


# --- The sweeps, for the diagrams -------------------------------------------------------------------------------------


SWEEPS = {
    "sequential": (reference.sequential_sweeps, lambda L: L - 1, lambda L: L - 1),
    "hillis_steele": (reference.hillis_steele_sweeps, lambda L: L * math.log2(L) - L + 1, lambda L: math.log2(L)),
    "blelloch": (reference.blelloch_sweeps, lambda L: 3 * L - 2, lambda L: 2 * math.log2(L) + 1),
    "mirrored": (reference.blelloch_mirrored_sweeps, lambda L: 3 * L - 2, lambda L: 2 * math.log2(L) + 1),
}


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("L", [1, 2, 8, 64])
def test_sweeps_end_in_the_scan_of_pairs_and_their_work_and_depth_are_counted(name, L):
    sweeps, work, depth = SWEEPS[name]
    rng, count = np.random.default_rng(9), reference.Counter()
    a, b = rng.uniform(0.5, 1, L), rng.standard_normal(L)
    frames = list(sweeps(a, b, combine=count))
    assert (count.work, count.depth) == (work(L), depth(L))
    np.testing.assert_array_equal(frames[0][0], a)
    np.testing.assert_array_equal(frames[0][1], b)
    back = slice(None, None, -1 if name == "mirrored" else 1)
    np.testing.assert_allclose(frames[-1][0], np.cumprod(a[back])[back])
    np.testing.assert_allclose(frames[-1][1], loop(a, b, reverse=name == "mirrored"))


@pytest.mark.parametrize("name", SWEEPS)
def test_frames_are_not_changed_afterwards(name):
    a, b = np.linspace(0.5, 0.9, 13), np.arange(13.0)
    kept, copies = [], []
    for frame in SWEEPS[name][0](a, b):
        kept.append(frame)
        copies.append([x.copy() for x in frame])
    for frame, copy in zip(kept, copies):
        assert all(map(np.array_equal, frame, copy))


@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6))
def test_combine_is_associative_and_is_one_map_after_the_other(values):
    one, two, three = zip(values[::2], values[1::2])
    left = reference.combine(reference.combine(one, two), three)
    right = reference.combine(one, reference.combine(two, three))
    assert left == pytest.approx(right, abs=1e-12)
    h = 0.7
    step_by_step = two[0] * (one[0] * h + one[1]) + two[1]
    a, b = reference.combine(one, two)
    assert a * h + b == pytest.approx(step_by_step, abs=1e-12)


# --- What is refused --------------------------------------------------------------------------------------------------


ONES = np.ones((2, 3, 4))
OTHER = {                                            # name: (arguments besides b or h, the error, its message)
    "axis": ({"axis": 3}, ValueError, r"axis: expected -3 to 2 for NAME of shape \(2, 3, 4\), got 3"),
    "negative axis": ({"axis": -4}, ValueError, "axis: expected -3 to 2 .*, got -4"),
    "axis of another type": ({"axis": 1.0}, TypeError, "axis: expected an integer, got 1.0"),
    "reverse": ({"reverse": "yes"}, TypeError, "reverse: expected True or False, got 'yes'"),
    "engine": ({"engine": "gpu"}, ValueError, "engine: expected one of 'reference', 'cpu', 'cuda', got 'gpu'"),
    "a card's engine": (
        {"engine": "cuda"}, TypeError, "NAME: expected an array on a card, where the engine 'cuda' runs, got ndarray",
    ),
    "shape of a": (
        {"a": np.ones(3)}, ValueError, r"a: expected a shape that broadcasts to \(2, 3, 4\) = that of NAME, got \(3,\)",
    ),
    "a larger a": (
        {"a": np.ones((5, 2, 3, 4))}, ValueError, r"a: expected a shape that broadcasts to .*, got \(5, 2, 3, 4\)",
    ),
    "dtype of a": ({"a": np.ones(4, np.float32)}, TypeError, "a: expected dtype float64, that of NAME, got float32"),
    "integers": ({"a": np.ones(4, int)}, TypeError, "a: expected dtype float32 or .*, got int64"),
    "complex a": ({"a": 1j}, TypeError, "a: expected a real number, as NAME is float64, got 1j"),
    "no a": ({"a": None}, TypeError, "a: expected an array of .*, got None"),
    "ragged a": ({"a": [[1.0], [1.0, 2.0]]}, ValueError, "a: expected a rectangular array"),
    "shape of h0": (
        {"axis": 1, "h0": np.ones(3)}, ValueError,
        r"h0: expected a shape that broadcasts to \(2, 4\) = that of NAME without axis 1, got \(3,\)",
    ),
    "dtype of h0": (
        {"h0": np.ones(3, np.complex64)}, TypeError, "h0: expected dtype float64, that of NAME, got complex64",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_arguments_that_do_not_fit_are_refused_by_name(name):
    how, error, message = OTHER[name]
    how = {"a": 0.5, **how}
    a = how.pop("a")
    with pytest.raises(error, match=message.replace("NAME", "b")):
        linear_scan(a, ONES, **how)
    with pytest.raises(error, match=message.replace("NAME", "h")):
        linear_scan_backward(ONES, a, ONES, **how)


@pytest.mark.parametrize("value, error, message", [
    (np.ones(3, np.float16), TypeError, "expected dtype float32 or float64 or complex64 or complex128, got float16"),
    (np.ones(3, int), TypeError, "expected dtype .*, got int64"),
    (np.ones(3, np.longdouble), TypeError, "expected dtype .*, got longdouble|got float128"),
    (np.array([1.0, None]), TypeError, "expected dtype .*, got object"),
    ("1.0", TypeError, "expected an array of .*, got '1.0'"),
    (True, TypeError, "expected an array of .*, got True"),
    (1.0, ValueError, r"expected at least one axis, got shape \(\)"),
    ([[1.0], [1.0, 2.0]], ValueError, "expected a rectangular array"),
], ids=str)
def test_what_is_no_array_is_refused(value, error, message):
    with pytest.raises(error, match="b: " + message):
        linear_scan(0.5, value)
    with pytest.raises(error, match="h: " + message):
        linear_scan_backward(np.ones(3), 0.5, value)


def test_a_gradient_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"grad: expected shape \(2, 3, 4\) = that of h, got \(3, 4\)"):
        linear_scan_backward(np.ones((3, 4)), 0.5, ONES)
    with pytest.raises(TypeError, match="grad: expected dtype float64, that of h, got float32"):
        linear_scan_backward(ONES.astype(np.float32), 0.5, ONES)


class OnACard:
    """What an array on a card shows of itself."""

    def __init__(self, x):
        self.shape, self.dtype = x.shape, x.dtype
        self.__cuda_array_interface__ = {"shape": x.shape, "typestr": x.dtype.str, "data": (0, False), "version": 3}


def test_nothing_is_copied_between_host_and_card():
    with pytest.raises(TypeError, match="a: expected a NumPy array, as b, got an array on a card"):
        linear_scan(OnACard(np.ones(3)), np.ones(3))
    with pytest.raises(TypeError, match="h0: expected a NumPy array, as b, got an array on a card"):
        linear_scan(0.5, np.ones(3), h0=OnACard(np.ones(())))
    with pytest.raises(TypeError, match="b: expected a NumPy array, where the engine 'cpu' runs, got OnACard"):
        linear_scan(0.5, OnACard(np.ones(3)), engine="cpu")


# --- What else a user may give ----------------------------------------------------------------------------------------


def test_numbers_take_the_dtype_of_the_array():
    for dtype in DTYPES:
        h = linear_scan(np.exp(-1.0), np.ones(3, dtype), h0=1)
        assert h.dtype == dtype
        assert h[0] == pytest.approx(1 + np.exp(-1.0), rel=1e-6)
    assert linear_scan(1j, np.ones(2, np.complex64))[1] == 1 + 1j


def test_lists_other_byte_orders_and_unaligned_fields_are_read():
    b = np.array([1.0, 2.0, 3.0])
    expected = linear_scan(0.5, b)
    assert np.array_equal(linear_scan(0.5, [1.0, 2.0, 3.0]), expected)
    assert np.array_equal(linear_scan(0.5, b.astype(">f8")), expected)
    record = np.zeros(3, np.dtype([("flag", "i1"), ("b", "f8")]))
    record["b"] = b
    assert np.array_equal(linear_scan(0.5, record["b"]), expected)
    b.flags.writeable = False
    assert np.array_equal(linear_scan(0.5, b), expected)
    assert np.array_equal(linear_scan(0.5, np.broadcast_to(b[:1], 3)), [1.0, 1.5, 1.75])


def test_the_package_shows_both_names_and_stays_light():
    import subprocess
    import sys
    assert mambalib.linear_scan is linear_scan and mambalib.linear_scan_backward is linear_scan_backward
    code = "import mambalib, sys; dir(mambalib); sys.exit('numba' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
