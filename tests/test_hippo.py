"""hippo: the matrices against other papers' forms of them, the memories against integrals of the past."""

import numpy as np
import pytest
import scipy.interpolate
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from mambalib import hippo
from mambalib.discretize import first_order_hold
from mambalib.lti import impulse_response

SIZES = (1, 2, 3, 8, 33)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2  # of integrals over [0, 1]


def projection(f, N):
    """int_0^1 f(x) sqrt(2n+1) P_n(2x - 1) dx: the coefficients of the best approximation, by quadrature."""
    basis = np.array([np.sqrt(2 * n + 1) * scipy.special.eval_legendre(n, 2 * NODES - 1) for n in range(N)])
    return basis @ (WEIGHTS * f(NODES))


def wave(x):
    return np.sin(5 * x) + x**2 - 0.3


# --- LegS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("N", SIZES)
def test_legs_is_derived_from_what_its_basis_must_obey(N):
    """d/dt of c_n(t) = int_0^1 u(t x) p_n(x) dx is (B u - (c_n + int u(t x) x p_n'(x) dx)) / t, after one integration by parts.

    So A expands -(p_n + x p_n') in the basis, and B holds p_n(1).
    """
    A, B = hippo.legs(N)
    for n in range(N):
        p = np.sqrt(2 * n + 1) * np.polynomial.Legendre.basis(n, domain=[0, 1])
        np.testing.assert_allclose(A[n], projection(lambda x: -p(x) - x * p.deriv()(x), N), atol=1e-9)
        np.testing.assert_allclose(B[n], p(1.0), rtol=1e-14)


@pytest.mark.parametrize("N", SIZES)
def test_legs_is_a_skew_matrix_minus_half_the_identity_minus_a_matrix_of_rank_one(N):
    """The normal-plus-low-rank form behind S4 (appendix C.1 there), with P = B / sqrt(2)."""
    A, B = hippo.legs(N)
    S = A + np.outer(B, B) / 2 + np.eye(N) / 2
    np.testing.assert_allclose(S, -S.T, atol=1e-13 * N)


@pytest.mark.parametrize("N", SIZES)
def test_legs_is_lower_triangular_and_decays_at_the_rates_1_to_N(N):
    A, _ = hippo.legs(N)
    np.testing.assert_array_equal(A, np.tril(A))
    np.testing.assert_array_equal(np.diag(A), -np.arange(1, N + 1))


@pytest.mark.parametrize("N", SIZES)
def test_legs_rests_at_the_first_unit_vector_under_a_constant_input(N):
    A, B = hippo.legs(N)
    np.testing.assert_allclose(A[:, 0] + B, 0, atol=1e-14 * N)


@pytest.mark.parametrize("L", (500, 1000, 4000))
@pytest.mark.parametrize("f", (np.ones_like, lambda x: x, wave), ids=("constant", "ramp", "wave"))
def test_legs_memory_tends_to_the_projection_of_the_past_at_any_sample_rate(f, L):
    """The same stretch of signal in L samples gives the same state, up to an error that falls as 1 / L."""
    h = hippo.legs_memory(f((np.arange(L) + 0.5) / L), 6)
    assert h.shape == (L, 6)
    for t in (L // 2, L):
        expected = projection(lambda x: f(x * t / L), 6)
        assert np.abs(h[t - 1] - expected).max() < 8 / t


def test_legs_memory_forgets_its_empty_start_as_one_over_twice_the_time():
    """With N = 1 and u = 1 the rule reads (1 + 1/2t) h_t = (1 - 1/2t) h_{t-1} + 1/t: h_t = 1 - 1 / (2t + 1)."""
    t = np.arange(1, 200)
    np.testing.assert_allclose(hippo.legs_memory(np.ones(199), 1)[:, 0], 1 - 1 / (2 * t + 1), rtol=1e-13)


def test_legs_memory_reconstructs_a_smooth_past_better_with_every_state():
    L, x = 8000, np.linspace(0.05, 0.95, 50)
    u = wave((np.arange(L) + 0.5) / L)
    errors = [np.abs(hippo.reconstruct(hippo.legs_memory(u, N)[-1], x) - wave(x)).max() for N in (2, 4, 6, 8)]
    assert all(later < earlier / 4 for earlier, later in zip(errors, errors[1:])) and errors[-1] < 1e-3


@given(
    seed=st.integers(0, 2**32),
    L=st.integers(0, 20),
    N=st.integers(1, 6),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_legs_memory_is_causal_linear_and_of_the_dtype_of_its_input(seed, L, N, dtype):
    u, v = np.random.default_rng(seed).standard_normal((2, L)).astype(dtype)
    h = hippo.legs_memory(u, N)
    assert (h.shape, h.dtype) == ((L, N), dtype)
    np.testing.assert_array_equal(hippo.legs_memory(u[: L // 2], N), h[: L // 2])
    bound = 100 * np.finfo(dtype).eps * N * (1 + np.abs(u).max(initial=0) + np.abs(v).max(initial=0))
    np.testing.assert_allclose(hippo.legs_memory(u + 2 * v, N), h + 2 * hippo.legs_memory(v, N), rtol=0, atol=bound)


def test_legs_memory_takes_strided_read_only_signals_and_lets_nan_through():
    u = np.random.default_rng(0).standard_normal(40)
    view = u[::-2]
    view.setflags(write=False)
    np.testing.assert_array_equal(hippo.legs_memory(view, 3), hippo.legs_memory(view.copy(), 3))
    u[7] = np.nan
    assert np.isfinite(hippo.legs_memory(u, 3)[:7]).all() and np.isnan(hippo.legs_memory(u, 3)[7:]).all()


# --- LegT ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", (1, 0.25, np.float32(2.0), np.array(30.0)))
@pytest.mark.parametrize("N", SIZES)
def test_legt_is_the_legendre_memory_unit_in_other_units(N, window):
    """Voelker et al. run time backwards and leave P_n unnormalised: m_n = (-1)^n sqrt(2n+1) h_n."""
    n = np.arange(N)
    i, j = np.meshgrid(n, n, indexing="ij")
    A_lmu = (2 * i + 1) / float(window) * np.where(i < j, -1.0, (-1.0) ** (i - j + 1))
    B_lmu = (2 * n + 1) * (-1.0) ** n / float(window)
    T = (-1.0) ** n * np.sqrt(2 * n + 1)
    A, B = hippo.legt(N, window)
    assert A.dtype == B.dtype == np.float64
    np.testing.assert_allclose(T[:, None] * A / T, A_lmu, rtol=1e-13)
    np.testing.assert_allclose(T * B, B_lmu, rtol=1e-13)


@pytest.mark.parametrize("N", (1, 2, 5, 8))
def test_the_oldest_end_of_legt_is_the_pade_approximant_of_a_delay(N):
    """Read at x = 0, one window ago, the memory answers like q(s) / p(s), the [N-1 / N] approximant of e^{-s}."""
    A, B = hippo.legt(N)
    taylor = (-1.0) ** np.arange(2 * N) / scipy.special.factorial(np.arange(2 * N))
    q, p = scipy.interpolate.pade(taylor, N, N - 1)
    C = hippo.reconstruct(np.eye(N), np.zeros(1))[:, 0]
    for s in (0.3, 1j, 2 - 3j):
        np.testing.assert_allclose(C @ np.linalg.solve(s * np.eye(N) - A, B), q(s) / p(s), rtol=1e-7)


@pytest.mark.parametrize("window", (0.5, 3.0))
def test_legt_holds_a_slow_wave_as_spherical_bessel_functions(window):
    """The coefficients of e^{i omega t} over its last window are e^{-i a} i^n sqrt(2n+1) j_n(a), with a = omega window / 2."""
    N, n = 16, np.arange(8)
    A, B = hippo.legt(N, window)
    for omega in (0.5 / window, 4 / window):
        a = omega * window / 2
        expected = np.exp(-1j * a) * 1j**n * np.sqrt(2 * n + 1) * scipy.special.spherical_jn(n, a)
        np.testing.assert_allclose(np.linalg.solve(1j * omega * np.eye(N) - A, B)[:8], expected, atol=1e-9)


@pytest.mark.parametrize("N", (2, 3, 8))
def test_legt_holds_a_ramp_exactly_and_a_wave_closely(N):
    """first_order_hold feeds a straight line without error, and two polynomials are enough for it."""
    window, delta = 2.0, 0.01
    A_bar, B_prev, B_next = first_order_hold(*hippo.legt(N, window), delta)
    t, x = delta * np.arange(6001), np.linspace(0, 1, 21)

    def remembered(u):
        h = np.zeros(N)
        for before, now in zip(u, u[1:]):
            h = A_bar @ h + B_prev * before + B_next * now
        return hippo.reconstruct(h, x)

    then = t[-1] - window * (1 - x)
    np.testing.assert_allclose(remembered(3 * t - 2), 3 * then - 2, rtol=1e-10)
    error = np.abs(remembered(np.sin(t)) - np.sin(then)).max()
    assert error < {2: 0.5, 3: 0.1, 8: 2e-5}[N]


# --- reading a memory ------------------------------------------------------------------------------


def test_the_functions_that_reconstruct_adds_up_are_orthonormal():
    basis = hippo.reconstruct(np.eye(20), NODES)
    np.testing.assert_allclose((basis * WEIGHTS) @ basis.T, np.eye(20), atol=1e-12)


@given(coefficients=st.lists(st.floats(-10, 10), min_size=1, max_size=9))
def test_a_polynomial_comes_back_from_its_projection(coefficients):
    f = np.polynomial.Polynomial(coefficients)
    x = np.linspace(0, 1, 30)
    np.testing.assert_allclose(hippo.reconstruct(projection(f, len(coefficients)), x), f(x), atol=1e-11)


@pytest.mark.parametrize("h_dtype", (np.float32, np.float64))
@pytest.mark.parametrize("x_dtype", (np.float32, np.float64))
@pytest.mark.parametrize("rows", ((), (0,), (2, 3)))
@pytest.mark.parametrize("K", (0, 1, 7))
def test_reconstruct_reads_every_row_at_every_place(h_dtype, x_dtype, rows, K):
    rng = np.random.default_rng(0)
    h, x = rng.standard_normal(rows + (4,)).astype(h_dtype), rng.random(K).astype(x_dtype)
    y = hippo.reconstruct(h, x)
    dtype = np.result_type(h, x)
    assert (y.shape, y.dtype) == (rows + (K,), dtype)
    for row in np.ndindex(rows):
        expected = sum(
            c * np.sqrt(2 * n + 1) * scipy.special.eval_legendre(n, 2 * x.astype(float) - 1)
            for n, c in enumerate(h[row].astype(float))
        )
        coarse = max(np.finfo(h_dtype).eps, np.finfo(x_dtype).eps)
        np.testing.assert_allclose(y[row], expected, atol=100 * coarse)


# --- S4D -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("N", (2, 4, 64))
def test_s4d_lin_oscillates_at_the_multiples_of_half_a_turn_and_halves_by_e_in_two(N):
    """2 Re of its impulse response is a decaying Fourier series: e^{-t/2} (1 + 2 sum_n cos(pi n t)) with C = (1/2, 1, 1, ...)."""
    A = hippo.s4d_lin(N)
    assert (A.shape, A.dtype) == ((N // 2,), np.complex128)
    t = np.linspace(0, 4, 33)
    C = np.where(np.arange(N // 2) == 0, 0.5, 1.0)
    expected = np.exp(-t / 2) * (1 + 2 * sum((np.cos(np.pi * n * t) for n in range(1, N // 2)), np.zeros(33)))
    np.testing.assert_allclose(2 * impulse_response(A, np.ones(N // 2), C, t).real, expected, atol=1e-10)


@pytest.mark.parametrize("N", (2, 4, 64))
def test_s4d_inv_runs_from_N_N_minus_1_over_pi_down_by_an_inverse_law(N):
    A = hippo.s4d_inv(N)
    assert (A.shape, A.dtype) == ((N // 2,), np.complex128)
    np.testing.assert_array_equal(A.real, -0.5)
    np.testing.assert_allclose(A.imag[[0, -1]], [N * (N - 1) / np.pi, N / (N - 1) / np.pi], rtol=1e-12)
    np.testing.assert_allclose(np.diff(1 / (A.imag + N / np.pi)), 2 * np.pi / N**2, rtol=1e-9)


def test_s4d_inv_comes_near_the_spectrum_of_legs():
    """The normal part of LegS is A + B B^T / 2; its frequencies reach N^2 / pi, and S4D-Inv misses none by more than N / pi."""
    N = 64
    A, B = hippo.legs(N)
    spectrum = np.linalg.eigvals(A + np.outer(B, B) / 2)
    spectrum = spectrum[np.argsort(-spectrum.imag)][: N // 2]
    np.testing.assert_allclose(spectrum.real, -0.5, atol=1e-9)
    np.testing.assert_allclose(hippo.s4d_inv(N).imag, spectrum.imag, rtol=0, atol=N / np.pi)


@pytest.mark.parametrize("N", (1, 2, 16))
def test_s4d_real_is_the_diagonal_of_legs(N):
    np.testing.assert_array_equal(hippo.s4d_real(N), np.diag(hippo.legs(N)[0]))


# --- input that does not fit -----------------------------------------------------------------------

SIZED = {
    "legs": hippo.legs,
    "legt": hippo.legt,
    "s4d_lin": hippo.s4d_lin,
    "s4d_inv": hippo.s4d_inv,
    "s4d_real": hippo.s4d_real,
    "legs_memory": lambda N: hippo.legs_memory(np.ones(3), N),
}


@pytest.mark.parametrize("front", SIZED.values(), ids=SIZED)
@pytest.mark.parametrize("N", (2.0, "2", None, True, np.array([2]), 1j), ids=repr)
def test_an_N_that_is_no_integer_is_refused_by_name(front, N):
    with pytest.raises(TypeError, match="^N: expected an integer, got "):
        front(N)


@pytest.mark.parametrize("front", SIZED.values(), ids=SIZED)
@pytest.mark.parametrize("N", (0, -2, np.int64(-1)))
def test_an_N_below_the_least_is_refused_by_name(front, N):
    with pytest.raises(ValueError, match=f"^N: expected at least [12], got {N}$"):
        front(N)


@pytest.mark.parametrize("front", (hippo.s4d_lin, hippo.s4d_inv))
def test_an_odd_N_has_no_pairs(front):
    with pytest.raises(ValueError, match="^N: expected an even number.*, got 5$"):
        front(5)


@pytest.mark.parametrize("N", (np.int8(20), np.uint16(20)))
def test_an_integer_of_numpy_is_a_size(N):
    for front in SIZED.values():
        np.testing.assert_equal(front(N), front(20))


TAKES_AN_ARRAY = {
    "window": lambda value: hippo.legt(2, value),
    "u": lambda value: hippo.legs_memory(value, 2),
    "h": lambda value: hippo.reconstruct(value, np.ones(2)),
    "x": lambda value: hippo.reconstruct(np.ones(2), value),
}


@pytest.mark.parametrize("name", TAKES_AN_ARRAY)
def test_what_is_not_a_float_array_is_refused_by_name(name, not_an_array):
    value, error, says = not_an_array
    with pytest.raises(error, match=f"^{name}: {says}$"):
        TAKES_AN_ARRAY[name](value)


@pytest.mark.parametrize("name", TAKES_AN_ARRAY)
@pytest.mark.parametrize(
    "value, got",
    ((np.ones(2, np.complex64), "dtype .*complex64"), (1j, "dtype .*complex128"), (None, "an array of .*None")),
)
def test_complex_values_and_none_are_refused_by_name(name, value, got):
    with pytest.raises(TypeError, match=f"^{name}: expected {got}$"):
        TAKES_AN_ARRAY[name](value)


@pytest.mark.parametrize(
    "call, says",
    (
        (lambda: hippo.legt(2, 0), "window: expected positive values, got 0"),
        (lambda: hippo.legt(2, -1.5), "window: expected positive values, got -1.5"),
        (lambda: hippo.legt(2, np.ones(2)), r"window: expected shape \(\) = a number, got \(2,\)"),
        (lambda: hippo.legs_memory(1.0, 2), r"u: expected shape \(any,\) = \(L,\), got \(\)"),
        (lambda: hippo.legs_memory(np.ones((2, 3)), 2), r"u: expected shape \(any,\) = \(L,\), got \(2, 3\)"),
        (lambda: hippo.reconstruct(1.0, np.ones(2)), r"h: expected shape \(\.\.\., N\), N >= 1, got \(\)"),
        (
            lambda: hippo.reconstruct(np.ones((3, 0)), np.ones(2)),
            r"h: expected shape \(\.\.\., N\), N >= 1, got \(3, 0\)",
        ),
        (lambda: hippo.reconstruct(np.ones(2), 0.5), r"x: expected shape \(any,\) = \(K,\), got \(\)"),
        (lambda: hippo.reconstruct(np.ones(2), np.ones((2, 2))), r"x: expected shape \(any,\) = \(K,\), got \(2, 2\)"),
    ),
)
def test_what_does_not_fit_is_refused_by_name(call, says):
    with pytest.raises(ValueError, match=f"^{says}$"):
        call()
