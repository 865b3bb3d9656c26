"""discretize and first_order_hold against scipy.signal, 50-digit arithmetic, and the inputs each rule is exact for."""

import functools

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mambalib.discretize import METHODS, discretize, first_order_hold, phi1, phi2

DTYPES = (np.float32, np.float64, np.complex64, np.complex128)

# The rule's name in scipy.signal.cont2discrete, and the weight w in  scipy's y_t = w y_t + (1 - w) y_{t-1}  (see below).
SCIPY = {
    "euler": ("euler", 0.0),
    "backward_euler": ("backward_diff", 1.0),
    "bilinear": ("bilinear", 0.5),
    "zoh": ("zoh", 0.0),
    "mamba": ("impulse", 1.0),
}

RULES = {method: functools.partial(discretize, method=method) for method in METHODS} | {
    "first_order_hold": first_order_hold
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def eps(x):
    return np.finfo(x.dtype).eps


def normal(rng, shape, dtype):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if np.issubdtype(dtype, np.complexfloating) else x).astype(dtype)


def stable(rng, N, dtype, dense):
    """A whose numerical range lies left of -0.1: no rule meets a singular or an ill-conditioned matrix."""
    if not dense:
        a = -rng.uniform(0.1, 3, N)
        return (a + 1j * rng.standard_normal(N) if np.issubdtype(dtype, np.complexfloating) else a).astype(dtype)
    S, T = normal(rng, (N, N), dtype), normal(rng, (N, N), dtype)
    return (S - S.conj().T - T @ T.conj().T / N - 0.1 * np.eye(N)).astype(dtype)


@st.composite
def systems(draw, dense=st.booleans()):
    """(A, B): up to 5 states, no axis of inputs or up to 3 inputs, each array of its own dtype."""
    rng, N = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.integers(1, 5))
    inputs = draw(st.sampled_from([(), (0,), (1,), (3,)]))
    A = stable(rng, N, draw(st.sampled_from(DTYPES)), draw(dense))
    return A, normal(rng, (N, *inputs), draw(st.sampled_from(DTYPES)))


@st.composite
def deltas(draw):
    """A step from 1e-8 to 1e2: a Python number, or a float32 or float64 array with any axes, of length 0 too."""
    exponents = st.floats(-8, 2)
    if draw(st.booleans()):
        return 10.0 ** draw(exponents)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))
    return np.power(10.0, draw(hnp.arrays(np.float64, shape, elements=exponents))).astype(
        draw(st.sampled_from(DTYPES[:2]))
    )


def wide(x):
    return x.astype(np.result_type(x, np.float64))


def error_bound(A, delta, dtype):
    """What rounding may do, relative to the largest number on the way: it grows with the size of delta A."""
    size = np.abs(A).max() if A.ndim == 1 else np.linalg.norm(wide(A))
    return 30 * np.finfo(dtype).eps * (1 + float(np.max(delta, initial=0)) * size)


def assert_near(got, expected, bound):
    assert got.shape == np.shape(expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound * np.abs(expected).max(initial=0))


# --- scipy.signal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", METHODS)
@given(system=systems(dense=st.just(True)), delta=deltas())
def test_matrices_are_those_of_scipy(rule, system, delta):
    """A_bar and B_bar are scipy's, one step at a time; for "mamba" scipy's "impulse" moves the state on: bd = A_bar B_bar."""
    A, B = system
    A_bar, B_bar = discretize(A, B, delta, rule)
    two_axes = B.reshape(len(B), -1)
    for i in np.ndindex(np.shape(delta)):
        step = float(np.asarray(delta)[i])
        C, D = np.ones((1, len(A))), np.zeros((1, two_axes.shape[1]))
        ad, bd, *_ = scipy.signal.cont2discrete((wide(A), wide(two_axes), C, D), step, SCIPY[rule][0])
        bound = error_bound(A, step, A_bar.dtype)
        np.testing.assert_allclose(A_bar[i], ad, rtol=0, atol=bound * max(1, np.abs(ad).max()))
        if rule == "mamba":
            moved = (wide(A_bar[i]) @ wide(B_bar[i])).reshape(bd.shape)
            np.testing.assert_allclose(moved, bd, rtol=0, atol=bound * step * np.abs(B).max(initial=0))
        else:
            assert_near(B_bar[i].reshape(bd.shape), bd, bound)


@given(system=systems(dense=st.just(True)), delta=st.floats(-8, 1).map(lambda x: 10.0**x))
def test_first_order_hold_is_that_of_scipy(system, delta):
    """scipy keeps the state h_t - B_next u_t, whose recurrence has B = B_prev + A_bar B_next and D = C B_next."""
    A, B = system
    two_axes, C = B.reshape(len(B), -1), np.eye(len(A))
    A_bar, B_prev, B_next = first_order_hold(A, B, delta)
    ad, bd, _, dd, _ = scipy.signal.cont2discrete((wide(A), wide(two_axes), C, np.zeros(two_axes.shape)), delta, "foh")
    bound = error_bound(A, delta, A_bar.dtype)
    assert_near(A_bar, ad, bound)
    assert_near(B_next.reshape(dd.shape), dd, bound)
    moved = wide(B_prev) + wide(A_bar) @ wide(B_next)
    np.testing.assert_allclose(moved.reshape(bd.shape), bd, rtol=0, atol=2 * bound * delta * np.abs(B).max(initial=0))


@pytest.mark.parametrize("rule", METHODS)
def test_whole_systems_answer_like_those_of_scipy(rule):
    """Outputs of h_t = A_bar h_{t-1} + B_bar u_t, y_t = C h_t against scipy's whole discrete system (A, B, C, D).

    scipy substitutes s = (z - 1) / (delta (w z + 1 - w)) into C (s I - A)^-1 B. With R = I - w delta A, A_bar = R^-1 (I + (1 -
    w) delta A) and B_bar = delta R^-1 B this is (w z + 1 - w) C (z I - A_bar)^-1 B_bar. The recurrence is z C (z I - A_bar)^-1
    B_bar. So scipy's output is w y_t + (1 - w) y_{t-1}: w = 0 for Euler, 1 for backward Euler, 1/2 for bilinear. Its "zoh"
    takes u_{t-1}, hence w = 0; its "impulse" counts the sample at once, hence w = 1.
    """
    rng = np.random.default_rng(7)
    name, w = SCIPY[rule]
    A, B, C, delta, u = (
        stable(rng, 4, np.float64, True),
        normal(rng, 4, np.float64),
        normal(rng, 4, np.float64),
        0.3,
        normal(rng, 50, np.float64),
    )
    A_bar, B_bar = discretize(A, B, delta, rule)
    h, y = np.zeros(4), [0.0]
    for sample in u:
        h = A_bar @ h + B_bar * sample
        y.append(C @ h)
    y = np.array(y)
    system = scipy.signal.cont2discrete((A, B[:, None], C[None], np.zeros((1, 1))), delta, name)
    np.testing.assert_allclose(
        w * y[1:] + (1 - w) * y[:-1], scipy.signal.dlsim(system, u)[1][:, 0], rtol=0, atol=1e-12 * abs(y).max()
    )


# --- dense and diagonal, shapes, dtypes ------------------------------------------------------------


@every_rule
@given(system=systems(), delta=deltas())
def test_results_have_the_documented_shapes_and_the_widest_dtype(rule, system, delta):
    A, B = system
    A_bar, *B_bars = rule(A, B, delta)
    dtype = np.result_type(A, B) if type(delta) is float else np.result_type(A, B, delta)
    assert (A_bar.shape, A_bar.dtype) == (np.shape(delta) + A.shape, dtype)
    assert [(x.shape, x.dtype) for x in B_bars] == [(np.shape(delta) + B.shape, dtype)] * len(B_bars)


@every_rule
@given(system=systems(dense=st.just(False)), delta=deltas())
def test_a_diagonal_and_the_dense_matrix_with_that_diagonal_agree(rule, system, delta):
    A, B = system
    A_bar, *B_bars = rule(A, B, delta)
    A_dense, *B_denses = rule(np.diag(A), B, delta)
    bound = error_bound(A, delta, A_bar.dtype)
    np.testing.assert_allclose(
        A_dense, A_bar[..., None] * np.eye(len(A)), rtol=0, atol=bound * max(1, np.abs(A_bar).max(initial=0))
    )
    for x, y in zip(B_bars, B_denses):
        assert np.all(
            np.abs(x - y).T <= bound * np.abs(B).max(initial=0) * np.transpose(delta)
        )  # each step at its own scale


@every_rule
@given(system=systems(), delta=deltas())
def test_an_array_of_deltas_gives_one_discretization_per_entry(rule, system, delta):
    A, B = system
    together = rule(A, B, np.asarray(delta))
    for i in np.ndindex(np.shape(delta)):
        for x, y in zip(together, rule(A, B, np.asarray(delta)[i])):
            np.testing.assert_allclose(x[i], y, rtol=4 * eps(x), atol=4 * eps(x) * np.abs(y).max(initial=0))


@every_rule
@pytest.mark.parametrize("dtype", (np.float32, np.complex64))
def test_a_dense_single_precision_system_is_solved_in_double_and_rounded_once(rule, dtype):
    rng = np.random.default_rng(0)
    A, B = stable(rng, 4, dtype, True), normal(rng, (4, 2), dtype)
    for single, double in zip(rule(A, B, 0.7), rule(wide(A), wide(B), 0.7)):
        np.testing.assert_array_equal(single, double.astype(dtype))


@pytest.mark.parametrize("front", (discretize, first_order_hold))
@pytest.mark.parametrize("dense", (True, False))
def test_views_are_read_as_they_are_and_never_written(front, dense):
    rng = np.random.default_rng(3)
    A, B, delta = (
        stable(rng, 3, np.complex128, dense),
        normal(rng, (3, 2), np.float64),
        np.array([[0.1, 0.2], [0.3, 0.4]]),
    )
    views = [
        np.repeat(np.repeat(A, 2, 0), 2, -1)[::2, ::2] if dense else np.repeat(A, 2)[::2],
        B.T.copy().T,
        delta[::-1].copy()[::-1],
    ]
    for x in views:
        assert not x.flags.c_contiguous
        x.setflags(write=False)
    for got, expected in zip(front(*views), front(A, B, delta)):
        np.testing.assert_allclose(got, expected, rtol=1e-14)
        assert not any(np.shares_memory(got, x) for x in views)


# --- 50 digits -------------------------------------------------------------------------------------


def exact_phi(k, z):
    """phi_k(z) = sum_j z^j / (j + k)! = 1F1(1; k + 1; z) / k!, to 50 digits."""
    with mpmath.workdps(50):
        return mpmath.hyp1f1(1, k + 1, mpmath.mpmathify(z)) / mpmath.factorial(k)


def exact_phi_of_matrix(k, Z):
    """The same sum for a matrix, as an object array of 50-digit numbers."""
    term = np.array([[mpmath.mpf(i == j) for j in range(len(Z))] for i in range(len(Z))]) / mpmath.factorial(k)
    total = term
    for j in range(1, 80):
        term = term @ Z / (j + k)
        total = total + term
    return total


def exactly(x):
    return np.array([mpmath.mpmathify(v) for v in x.ravel().tolist()], object).reshape(x.shape)


def relative_error(got, exact, scale=None):
    """The largest |got - exact|, each entry relative to its own size, or all to the largest of `scale`."""
    exact = np.asarray(exact, object)
    with mpmath.workdps(50):
        off = np.abs(exactly(np.asarray(got)) - exact).ravel()
        size = np.abs(exact).ravel() if scale is None else [max(np.abs(scale).ravel())] * off.size
        return np.max([float(a / b) if a else 0.0 for a, b in zip(off, size)])  # NaN, unlike with max(), comes through


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", (1, 2))
def test_phi_is_right_to_the_last_digits_at_every_magnitude(k, dtype):
    """From where its argument is far below the rounding of 1 up to 1e2, both signs, every direction of the plane."""
    tiny = np.finfo(dtype).smallest_subnormal
    sizes = np.concatenate(
        [
            [0, tiny, 3 * tiny],
            10.0 ** np.arange(-300, 2.01, 5),
            10.0 ** np.linspace(-3, 1.9, 150),
            [0.5, np.nextafter(0.5, 0)],
        ]
    )
    turns = [1, -1]
    if np.issubdtype(dtype, np.complexfloating):
        turns = np.concatenate([[1, -1, 1j, -1j], np.exp(2j * np.pi * np.arange(1, 11) / 11)])
    with np.errstate(under="ignore"):
        z = np.unique(np.multiply.outer(sizes, turns).astype(dtype))
    got = (phi1 if k == 1 else phi2)(z)
    assert got.dtype == dtype
    assert relative_error(got, [exact_phi(k, v) for v in z.tolist()]) < 8 * eps(got)


@pytest.mark.parametrize("k", (1, 2))
@given(x=st.floats(-700, 700))
@example(x=5e-324)
@example(x=-0.5)
def test_phi_of_any_float_is_right_to_the_last_digits(k, x):
    assert relative_error((phi1 if k == 1 else phi2)(np.array([x])), [exact_phi(k, x)]) < 4 * np.finfo(float).eps


DIAGONALS = {
    "zero": [0.0, 0.0],
    "1e-12": [1e-12, -1e-12],
    "1e-300": [1e-300, -1e-300],
    "mixed": [0.0, -1.0, 1e-12, -30.0],
    "complex": [1e-300j, 1e-12 - 1e-12j, -0.5 + 3j, 0.0],
}


@pytest.mark.parametrize("delta", (1e-8, 1e-3, 1.0, 10.0))
@pytest.mark.parametrize("A", DIAGONALS.values(), ids=DIAGONALS)
def test_zoh_and_first_order_hold_are_exact_near_a_singular_diagonal(A, delta):
    A, eps = np.array(A), np.finfo(float).eps
    B = np.arange(1.0, len(A) + 1)
    with mpmath.workdps(50):
        z, step = exactly(A) * mpmath.mpf(delta), exactly(B) * mpmath.mpf(delta)
        e, p1, p2 = (np.array([exact_phi(k, v) for v in z]) for k in (0, 1, 2))
        bound = 4 * eps * (1 + float(max(np.abs(z))))  # e^z itself turns an error of z into one of |z| that size
        A_bar, B_bar = discretize(A, B, delta)
        assert relative_error(A_bar, e) < bound
        assert relative_error(B_bar, p1 * step) < bound
        _, B_prev, B_next = first_order_hold(A, B, delta)
        assert relative_error(B_next, p2 * step) < bound
        assert relative_error(B_prev, (p1 - p2) * step) < 2 * bound


def rotated(values, seed=5):
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values),) * 2))[0]
    return Q @ np.diag(values) @ Q.T


MATRICES = {
    "zero": np.zeros((2, 2)),
    "double integrator": np.array([[0.0, 1.0], [0.0, 0.0]]),
    "nilpotent, full": np.array([[1.0, -1.0], [1.0, -1.0]]),
    "chain of three": np.diag([1.0, 1.0], 1),
    "rank one": np.outer([1.0, 2.0, -1.0], [0.5, -1.0, 0.25]),
    "1e-12 in a Jordan block": np.array([[1e-12, 1.0], [0.0, 1e-12]]),
    "1e-300": np.diag([1e-300, -1.0]),
    "0 and 1e-12, rotated": rotated([0.0, 1e-12, -1.0]),
    "oscillator and 0": np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
    "complex": np.array([[1j, 1.0], [1.0, -1j]]),
}


@pytest.mark.parametrize("delta", (1e-8, 1e-3, 1.0, 3.0))
@pytest.mark.parametrize("A", MATRICES.values(), ids=MATRICES)
def test_zoh_and_first_order_hold_are_exact_near_a_singular_matrix(A, delta):
    B = np.random.default_rng(11).standard_normal((len(A), 2))
    with mpmath.workdps(50):
        Z, Y = exactly(A) * mpmath.mpf(delta), exactly(B) * mpmath.mpf(delta)
        e, p1, p2 = (exact_phi_of_matrix(k, Z) for k in (0, 1, 2))
        bound = 10 * np.finfo(float).eps * (1 + delta * np.linalg.norm(A))
        A_bar, B_bar = discretize(A, B, delta)
        assert relative_error(A_bar, e, e) < bound
        assert relative_error(B_bar, p1 @ Y, p1 @ Y) < bound
        _, B_prev, B_next = first_order_hold(A, B, delta)
        assert relative_error(B_next, p2 @ Y, p2 @ Y) < bound
        assert relative_error(B_prev, (p1 - p2) @ Y, p1 @ Y) < bound


# --- what the rules are ----------------------------------------------------------------------------


@pytest.mark.parametrize("delta", (1e-8, 0.1, 1.0, 20.0))
def test_the_double_integrator_moves_as_in_free_fall(delta):
    """u is an acceleration: held, it adds delta^2/2 to the place; growing in a straight line from 0 to u, delta^2/6."""
    A, B = np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([0.0, 1.0])
    A_bar, B_bar = discretize(A, B, delta)
    _, B_prev, B_next = first_order_hold(A, B, delta)
    np.testing.assert_allclose(A_bar, [[1, delta], [0, 1]], rtol=1e-15)
    np.testing.assert_allclose(B_bar, [delta**2 / 2, delta], rtol=1e-15)
    np.testing.assert_allclose(B_next, [delta**2 / 6, delta / 2], rtol=2e-15)
    np.testing.assert_allclose(B_prev, [delta**2 / 3, delta / 2], rtol=2e-15)


@pytest.mark.parametrize("dense", (True, False))
def test_zoh_answers_a_step_and_first_order_hold_a_ramp_without_error(dense):
    """h' = -2 h + 3 u from rest: 3 (1 - e^{-2t}) / 2 for u = 1, and 3 (2t - 1 + e^{-2t}) / 4 for u = t."""
    A, B, delta = np.array([[-2.0]]) if dense else np.array([-2.0]), np.array([3.0]), 0.25
    t = delta * np.arange(1, 41)
    A_bar, B_bar = (x.item() for x in discretize(A, B, delta))
    _, B_prev, B_next = (x.item() for x in first_order_hold(A, B, delta))
    step, ramp = [0.0], [0.0]
    for now in t:
        step.append(A_bar * step[-1] + B_bar)
        ramp.append(A_bar * ramp[-1] + B_prev * (now - delta) + B_next * now)
    np.testing.assert_allclose(step[1:], 3 * (1 - np.exp(-2 * t)) / 2, rtol=1e-14)
    np.testing.assert_allclose(ramp[1:], 3 * (2 * t - 1 + np.exp(-2 * t)) / 4, rtol=1e-14)


@given(system=systems(), delta=st.floats(-8, 1).map(lambda x: 10.0**x))
def test_two_zoh_steps_are_one_of_twice_the_length(system, delta):
    A, B = system
    (A1, B1), (A2, B2) = discretize(A, B, delta), discretize(A, B, 2 * delta)
    bound = error_bound(A, 2 * delta, A1.dtype)
    A1, B1 = wide(A1), wide(B1)
    power, moved = (A1 @ A1, A1 @ B1) if A.ndim == 2 else (A1 * A1, (A1 * B1.T).T)
    np.testing.assert_allclose(A2, power, rtol=0, atol=bound * np.abs(A1).max() ** 2)
    np.testing.assert_allclose(B2, moved + B1, rtol=0, atol=bound * (np.abs(A1).max() + 1) * np.abs(B1).max(initial=0))


@given(system=systems(), delta=deltas())
def test_the_two_halves_of_first_order_hold_add_up_to_zoh(system, delta):
    A, B = system
    A_bar, B_bar = discretize(A, B, delta)
    A_foh, B_prev, B_next = first_order_hold(A, B, delta)
    bound = error_bound(A, delta, A_bar.dtype)
    np.testing.assert_allclose(A_foh, A_bar, rtol=0, atol=bound)
    np.testing.assert_allclose(
        B_prev + B_next, B_bar, rtol=0, atol=bound * np.max(delta, initial=0) * np.abs(B).max(initial=0)
    )


@given(system=systems(), delta=deltas())
def test_mamba_is_the_exact_decay_with_delta_times_B(system, delta):
    A, B = system
    A_bar, B_bar = discretize(A, B, delta, "mamba")
    np.testing.assert_allclose(
        A_bar, discretize(A, B, delta, "zoh")[0], rtol=0, atol=error_bound(A, delta, A_bar.dtype)
    )
    np.testing.assert_allclose(B_bar, np.multiply.outer(np.float64(delta), wide(B)), rtol=4 * eps(B_bar))


def driven_oscillator(rule, delta, average):
    """The error at t = 4 of h' = A h + B sin(3t + 1) when its samples (or, averaged, both ends of each step) drive the rule."""
    A, B, L = np.array([[-0.1, 1.0], [-1.0, -0.1]]), np.array([0.0, 1.0]), round(4 / delta)
    u = np.sin(3 * delta * np.arange(L + 1) + 1)
    h = np.zeros(2)
    if rule == "first_order_hold":
        A_bar, B_prev, B_next = first_order_hold(A, B, delta)
    else:
        A_bar, B_next = discretize(A, B, delta, rule)
        B_prev, B_next = (B_next / 2, B_next / 2) if average else (0 * B_next, B_next)
    for t in range(1, L + 1):
        h = A_bar @ h + B_prev * u[t - 1] + B_next * u[t]
    whole = np.zeros((4, 4))  # the sine and the cosine are states too
    whole[:2, :2], whole[:2, 2], whole[2, 3], whole[3, 2] = A, B, 3.0, -3.0
    return np.linalg.norm(h - (scipy.linalg.expm(4 * whole) @ [0, 0, np.sin(1), np.cos(1)])[:2])


ORDERS = [
    *((rule, False, 1) for rule in METHODS),
    ("euler", True, 1),
    ("backward_euler", True, 1),
    ("mamba", True, 1),
    ("bilinear", True, 2),
    ("zoh", True, 2),
    ("first_order_hold", False, 2),
]


@pytest.mark.parametrize("rule, average, order", ORDERS)
def test_order_of_accuracy(rule, average, order):
    """With one sample a step every rule is of first order; with both ends averaged, bilinear and zoh reach the second."""
    errors = [driven_oscillator(rule, delta, average) for delta in (0.02, 0.01, 0.005)]
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), order, atol=0.1)


@pytest.mark.parametrize("rule", ("backward_euler", "bilinear", "zoh", "mamba"))
@given(system=systems(), delta=deltas())
def test_no_step_makes_a_stable_system_unstable_except_eulers(rule, system, delta):
    A, B = system
    A_bar = discretize(A, B, delta, rule)[0]
    size = np.abs(A_bar) if A.ndim == 1 else np.linalg.norm(wide(A_bar), 2, (-2, -1))
    assert np.all(size <= 1 + error_bound(A, delta, A_bar.dtype))
    too_long = 2.1 / (np.abs(A).min() if A.ndim == 1 else np.abs(np.linalg.eigvals(A)).min())
    A_bar = discretize(A, B, too_long, "euler")[0]
    assert np.abs(A_bar if A.ndim == 1 else np.linalg.eigvals(A_bar)).max() > 1


# --- NaN, infinity, singular -----------------------------------------------------------------------


@every_rule
@pytest.mark.parametrize("bad", (np.nan, np.inf))
@pytest.mark.parametrize("dense", (True, False))
@np.errstate(invalid="ignore", over="ignore")
def test_nan_and_infinity_spoil_their_own_step_and_state_and_no_other(rule, bad, dense):
    A, B, delta = np.array([-1.0, -2.0]), np.ones(2), np.array([0.1, bad, 0.2])
    for x, clean in zip(rule(np.diag(A) if dense else A, B, delta), rule(np.diag(A) if dense else A, B, delta[::2])):
        np.testing.assert_allclose(x[::2], clean, rtol=1e-14)
        assert np.isnan(x[1]).all() or np.isinf(bad)
    if not dense:
        spoilt, clean = rule(np.array([-1.0, bad]), B, 0.1), rule(A, B, 0.1)
        np.testing.assert_allclose([x[0] for x in spoilt], [x[0] for x in clean], rtol=1e-14)
        assert np.isnan(spoilt[0][1]) or np.isinf(bad)


@pytest.mark.parametrize("rule, pole", (("bilinear", 2.0), ("backward_euler", 1.0)))
def test_an_implicit_rule_at_its_pole_has_no_inverse(rule, pole):
    A, B = np.array([[4 * pole, 0.0], [0.0, -1.0]]), np.ones(2)
    with pytest.raises(np.linalg.LinAlgError, match="[Ss]ingular"):
        discretize(A, B, np.array([0.1, 0.25]), rule)
    with np.errstate(divide="ignore"):
        A_bar, B_bar = discretize(np.diag(A), B, 0.25, rule)
    assert np.isinf([A_bar[0], B_bar[0]]).all() and np.isfinite([A_bar[1], B_bar[1]]).all()


# --- input that does not fit -----------------------------------------------------------------------


@pytest.mark.parametrize("front", (discretize, first_order_hold))
@pytest.mark.parametrize("name", ("A", "B", "delta"))
def test_what_is_not_a_float_array_is_refused_by_name(front, name, not_an_array):
    value, error, says = not_an_array
    with pytest.raises(error, match=f"^{name}: {says}$"):
        front(**{"A": np.array([-1.0, -2.0]), "B": np.ones(2), "delta": 0.1, name: value})


WRONG = {
    "None for A": (dict(A=None), TypeError, "A: expected an array of float32 .*, got None"),
    "None for B": (dict(B=None), TypeError, "B: expected an array of float32 .*, got None"),
    "None for delta": (dict(delta=None), TypeError, "delta: expected an array of float32 or float64, got None"),
    "a number for A": (dict(A=-1.0), ValueError, r"A: expected shape \(N, N\) .* or \(N,\) .*, got \(\)"),
    "a rectangle": (dict(A=np.ones((2, 3))), ValueError, r"A: expected shape \(N, N\) .*, got \(2, 3\)"),
    "three axes": (dict(A=np.ones((2, 2, 2))), ValueError, r"A: expected shape \(N, N\) .*, got \(2, 2, 2\)"),
    "no states, diagonal": (dict(A=np.ones(0), B=np.ones(0)), ValueError, r"A: expected .* N >= 1, got \(0,\)"),
    "no states, dense": (dict(A=np.ones((0, 0)), B=np.ones(0)), ValueError, r"A: expected .* N >= 1, got \(0, 0\)"),
    "a number for B": (dict(B=1.0), ValueError, r"B: expected shape \(N,\) or \(N, inputs\) with N = 2, got \(\)"),
    "B of three axes": (dict(B=np.ones((2, 1, 1))), ValueError, r"B: expected shape \(N,\) or .*, got \(2, 1, 1\)"),
    "B too long": (dict(B=np.ones(3)), ValueError, r"B: expected shape \(2,\) = \(N,\), got \(3,\)"),
    "B as a row": (dict(B=np.ones((1, 2))), ValueError, r"B: expected shape \(2, any\) = \(N, inputs\), got \(1, 2\)"),
    "zero delta": (dict(delta=0), ValueError, "delta: expected positive values, got 0"),
    "one negative delta": (
        dict(delta=np.array([0.1, -0.5, np.nan])),
        ValueError,
        "delta: expected positive values, got -0.5",
    ),
    "complex delta": (dict(delta=0.1 + 0j), TypeError, "delta: expected dtype float32 or float64, got complex128"),
}


@pytest.mark.parametrize("front", (discretize, first_order_hold))
@pytest.mark.parametrize("change, error, says", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_by_name(front, change, error, says):
    with pytest.raises(error, match=f"^{says}$"):
        front(**{"A": np.array([-1.0, -2.0]), "B": np.ones(2), "delta": 0.1, **change})


@pytest.mark.parametrize("method", ("tustin", "ZOH", "", None, 0, ["zoh"], np.array(["zoh", "mamba"])), ids=repr)
def test_an_unknown_method_is_refused_with_the_list_of_those_there_are(method):
    with pytest.raises(ValueError, match="method: expected one of 'euler', .*'mamba', got "):
        discretize(np.array([-1.0]), np.ones(1), 0.1, method)


@pytest.mark.parametrize("z", (-1e-9, -0.5, -0.999, -1.001, -30.0, -1e4, -1e6, 0.7, 3.0))
def test_the_older_sample_of_first_order_hold_keeps_its_digits_in_a_stiff_mode(z):
    _, B_prev, B_next = first_order_hold(np.array([z]), np.array([1.0]), 1.0)
    with mpmath.workdps(50):
        newer = exact_phi(2, z)
        assert relative_error(B_next, np.array([newer])) < 1e-15
        assert relative_error(B_prev, np.array([exact_phi(1, z) - newer])) < 1e-15
