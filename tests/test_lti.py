"""lti: recurrence, kernel, convolution and transfer function against plain loops, NumPy and scipy.signal, and each other."""

import inspect

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st

from mambalib import lti

DTYPES = (np.float32, np.float64, np.complex64, np.complex128)
LENGTHS = (0, 1, 2, 3, 7, 8, 31, 64)
KERNELS = ("powers", "generating")
CONVS = ("fft", "direct")


def normal(rng, shape, dtype):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if np.issubdtype(dtype, np.complexfloating) else x).astype(dtype)


def contraction(rng, N, dtype, dense, size=0.99):
    """A_bar that makes no state longer, so that rounding errors add up and do not grow."""
    A = normal(rng, (N, N) if dense else N, dtype)
    return (A * (size / (np.linalg.norm(A, 2) if dense else np.abs(A).max()))).astype(dtype)


@st.composite
def systems(draw, dtypes=st.sampled_from(DTYPES)):
    """A_bar, B_bar, C, u (with up to two batch axes), D and h0, each absent or of its own dtype."""
    rng, N, dense = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.integers(1, 6)), draw(st.booleans())
    rows, L = draw(st.sampled_from([(), (1,), (3,), (2, 2), (0,)])), draw(st.sampled_from(LENGTHS))
    system = {
        "A_bar": contraction(rng, N, draw(dtypes), dense),
        "B_bar": normal(rng, N, draw(dtypes)),
        "C": normal(rng, N, draw(dtypes)),
        "u": normal(rng, rows + (L,), draw(dtypes)),
    }
    D = normal(rng, (), draw(dtypes)) if draw(st.booleans()) else None
    h0 = normal(rng, rows + (N,), draw(dtypes)) if draw(st.booleans()) else None
    return system, D, h0


def widest(*arrays):
    return np.result_type(*(x for x in arrays if x is not None))


def coarsest(*arrays):
    """The rounding of the least precise array: a product of two float32 arrays is rounded to float32 before it meets a float64."""
    return max(np.finfo(x.dtype).eps for x in arrays if x is not None)


def by_loops(A_bar, B_bar, C, u, D=None, h0=None):
    """The definition, number by number in double precision: y, and the last states."""
    A = (np.diag(A_bar) if A_bar.ndim == 1 else A_bar).tolist()
    B, C, D = B_bar.tolist(), C.tolist(), 0.0 if D is None else D.item()
    N, y, last = len(B), np.zeros(u.shape, complex), np.zeros(u.shape[:-1] + (len(B),), complex)
    for row in np.ndindex(u.shape[:-1]):
        h = [0.0] * N if h0 is None else h0[row].tolist()
        for t, sample in enumerate(u[row].tolist()):
            h = [sum(A[i][j] * h[j] for j in range(N)) + B[i] * sample for i in range(N)]
            y[(*row, t)] = sum(C[i] * h[i] for i in range(N)) + D * sample
        last[row] = h
    return y, last


def size(A_bar, B_bar, C, u, D=None, h0=None):
    """The largest that any number on the way to y can be, A_bar being a contraction."""
    state = np.linalg.norm(B_bar) * np.abs(u).sum(-1).max(initial=0) + (
        0 if h0 is None else np.linalg.norm(h0, axis=-1).max(initial=0)
    )
    return (1 + np.linalg.norm(C)) * state + (0 if D is None else abs(D) * np.abs(u).max(initial=0))


def assert_near(got, expected, bound):
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


# --- the recurrence --------------------------------------------------------------------------------


@given(drawn=systems())
def test_recurrence_is_the_definition(drawn):
    system, D, h0 = drawn
    y, h = lti.recurrence(**system, D=D, h0=h0, return_last_state=True)
    dtype = widest(*system.values(), h0)
    assert (y.dtype, h.dtype) == (widest(*system.values(), h0, D), dtype)
    exact_y, exact_h = by_loops(**system, D=D, h0=h0)
    N, L = len(system["C"]), system["u"].shape[-1]
    bound = 2 * (N + 2) * (L + 1) * coarsest(*system.values(), D, h0) * size(**system, D=D, h0=h0)
    assert_near(y, exact_y, bound)
    assert_near(h, exact_h, bound)
    np.testing.assert_array_equal(lti.recurrence(**system, D=D, h0=h0), y)


@pytest.mark.parametrize("dense", (True, False))
def test_recurrence_is_scipys_dlsim_one_step_ahead(dense):
    """scipy's state lags: x_{t+1} = A x_t + B u_t, y_t = C x_t. With C A for C and C B for D its output is C h_t."""
    rng = np.random.default_rng(1)
    A, B, C, u = (
        contraction(rng, 4, float, dense),
        normal(rng, 4, float),
        normal(rng, 4, float),
        normal(rng, 501, float),
    )
    M = A if dense else np.diag(A)
    expected = scipy.signal.dlsim((M, B[:, None], (C @ M)[None], (C @ B).reshape(1, 1), 1), u)[1][:, 0]
    assert_near(lti.recurrence(A, B, C, u), expected, 1e-12)


@given(drawn=systems(), where=st.floats(0, 1))
def test_a_sequence_split_anywhere_goes_on_from_its_last_state(drawn, where):
    system, D, h0 = drawn
    u = system.pop("u")
    k = round(where * u.shape[-1])
    whole, last = lti.recurrence(**system, u=u, D=D, h0=h0, return_last_state=True)
    first, h = lti.recurrence(**system, u=u[..., :k], D=D, h0=h0, return_last_state=True)
    second, h = lti.recurrence(**system, u=u[..., k:], D=D, h0=h, return_last_state=True)
    bound = 4 * coarsest(*system.values(), u, D) * size(**system, u=u, D=D, h0=h0)
    assert_near(np.concatenate([first, second], -1), whole, bound)
    assert_near(h, last, bound)


@given(drawn=systems())
def test_steps_repeated_are_the_recurrence(drawn):
    system, D, h0 = drawn
    u = system.pop("u")
    whole, last = lti.recurrence(**system, u=u, D=D, h0=h0, return_last_state=True)
    h = np.zeros(last.shape, last.dtype) if h0 is None else h0
    bound = 4 * (1 + u.shape[-1]) * coarsest(*system.values(), u, D, h0) * size(**system, u=u, D=D, h0=h0)
    for t in range(u.shape[-1]):
        y_t, h = lti.step(h, u[..., t], **system, D=D)
        assert np.result_type(y_t) == whole.dtype
        assert_near(y_t, whole[..., t], bound)
    assert_near(h, last, bound)


def test_an_integrator_sums_and_an_unstable_state_grows_as_its_power():
    u = np.random.default_rng(2).standard_normal((3, 1000))
    one = np.ones(1)
    np.testing.assert_allclose(lti.recurrence(one, one, one, u), np.cumsum(u, -1), rtol=1e-12, atol=1e-12)
    impulse = np.eye(1, 5000)[0]
    np.testing.assert_allclose(
        lti.recurrence(1.001 * one, one, one, impulse), np.exp(np.arange(5000) * np.log(1.001)), rtol=1e-11
    )


# --- the kernel and the convolution ----------------------------------------------------------------


@pytest.mark.parametrize("method", KERNELS)
@given(drawn=systems())
def test_kernel_is_C_times_the_powers_of_A_bar_times_B_bar(method, drawn):
    system, _, _ = drawn
    L = system.pop("u").shape[-1]
    K = lti.kernel(**system, L=L, method=method)
    A, C = system["A_bar"].astype(complex), system["C"].astype(complex)
    h, expected = system["B_bar"].astype(complex), []
    for _ in range(L):
        expected.append(C @ h)
        h = A * h if A.ndim == 1 else A @ h
    assert K.dtype == widest(*system.values())
    bound = (
        10 * (L + 1) * (len(C) + 2) * coarsest(*system.values()) * np.linalg.norm(system["B_bar"]) * np.linalg.norm(C)
    )
    assert_near(K, np.array(expected, complex), bound)


@pytest.mark.parametrize("method", KERNELS)
def test_kernel_is_scipys_impulse_response_one_step_ahead(method):
    """scipy's discrete impulse response is D, C B, C A B, ...: ours without its first sample."""
    rng = np.random.default_rng(4)
    A, B, C = contraction(rng, 5, float, True), normal(rng, 5, float), normal(rng, 5, float)
    expected = scipy.signal.dimpulse((A, B[:, None], C[None], np.zeros((1, 1)), 1), n=258)[1][0][1:, 0]
    assert_near(lti.kernel(A, B, C, 257, method), expected, 1e-13)


@pytest.mark.parametrize("method", KERNELS)
@pytest.mark.parametrize("L", (10_007, 2**14))
def test_a_long_kernel_of_a_diagonal_system_is_its_partial_fractions_filter(method, L):
    """K(z) = sum_n C_n B_n / (1 - A_n z) is a ratio of polynomials in z; scipy.signal.lfilter runs it. A_0 = 1: an integrator."""
    A, B, C = (
        np.array([1.0, 0.9995 * np.exp(0.3j), 0.9995 * np.exp(-0.3j)]),
        np.array([1.0, 1 + 1j, 1 - 1j]),
        np.array([2.0, 1.0, 1.0]),
    )
    b, a = scipy.signal.invresz(C * B, A, [])
    expected = scipy.signal.lfilter(b.real, a.real, np.eye(1, L)[0])
    K = lti.kernel(A, B, C, L, method)
    assert_near(K, expected + 0j, 1e-7)  # lfilter's own error: its poles are close together


@pytest.mark.parametrize("method", KERNELS)
@pytest.mark.parametrize("L", (1, 2, 50, 693, 2000))
@pytest.mark.parametrize("growth", (1.0, 1.001, -1.001, 2.0, "2^(1/L)"))
@pytest.mark.parametrize("dense", (True, False))
def test_kernel_of_a_marginal_or_unstable_system_is_right_in_every_sample(method, L, growth, dense):
    """Each sample relative to its own size; 2^(1/L) is where a circle that fits stable systems meets the pole."""
    growth = 2 ** (1 / L) if growth == "2^(1/L)" else growth
    L = min(L, 800) if growth == 2 else L  # 2^800 is about the end of float64 with room to round
    A = np.array([[growth, 0.0], [0.25, 0.5]]) if dense else np.array([growth, 0.5])
    with np.errstate(over="ignore"):  # one squaring more than is used
        K = lti.kernel(A, np.array([1.0, 0.0]), np.array([3.0, 0.0]), L, method)
    np.testing.assert_allclose(K, 3 * np.cumprod(np.append(1.0, np.full(L - 1, growth))), rtol=1e-10)


@pytest.mark.parametrize("method", CONVS)
@given(drawn=systems(), length=st.sampled_from(LENGTHS))
def test_causal_conv_is_the_start_of_numpys_convolution(method, drawn, length):
    system, D, _ = drawn
    u = system["u"]
    K = normal(np.random.default_rng(length), length, system["C"].dtype)
    y = lti.causal_conv(u, K, D, method)
    expected = np.zeros(u.shape, complex)
    for row in np.ndindex(u.shape[:-1]):
        if length and u.shape[-1]:
            expected[row] = np.convolve(u[row].astype(complex), K.astype(complex))[: u.shape[-1]]
    expected = expected if D is None else expected + D * u
    assert y.dtype == widest(u, K, D)
    bound = 30 * coarsest(u, K, D) * (np.linalg.norm(K) * np.linalg.norm(u, axis=-1).max(initial=0) + 1)
    assert_near(y, expected, bound * (1 if D is None else 1 + abs(D) * np.abs(u).max(initial=0)))


# --- the transfer function -------------------------------------------------------------------------


@given(drawn=systems(), length=st.sampled_from(LENGTHS), shape=st.sampled_from([(), (0,), (5,), (2, 3)]))
def test_generating_function_of_a_length_is_the_sum_of_that_many_terms(drawn, length, shape):
    system, _, _ = drawn
    del system["u"]
    z = np.exp(2j * np.pi * np.random.default_rng(length).random(shape)).reshape(shape)
    expected = sum(
        (k * z**i for i, k in enumerate(lti.kernel(**system, L=length).astype(complex))), np.zeros(shape, complex)
    )
    got = lti.generating_function(**system, z=z, length=length)
    assert got.dtype == complex
    single = 200 * (1 + length) * coarsest(*system.values())  # the kernel's own error; the poles are 0.01 away and more
    assert_near(got, expected, single * np.linalg.norm(system["B_bar"]) * np.linalg.norm(system["C"]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dense", (True, False))
def test_generating_function_of_any_length_is_the_endless_sum(dense, dtype):
    rng = np.random.default_rng(6)
    A, B, C = contraction(rng, 4, dtype, dense, 0.8), normal(rng, 4, dtype), normal(rng, 4, dtype)
    z = np.array([[1.0, -1.0, 1j], [0.0, 0.3 - 0.4j, np.exp(1j)]])
    K = lti.kernel(A.astype(complex), B, C, 200)  # 0.8^200 = 4e-20
    assert_near(lti.generating_function(A, B, C, z), np.polynomial.polynomial.polyval(z, K), 1e-13)


def test_generating_function_on_the_circle_is_scipys_frequency_response():
    """As for dlsim: C A for C and C B for D, since scipy's state lags a step."""
    rng = np.random.default_rng(8)
    A, B, C = contraction(rng, 4, float, True, 0.9), normal(rng, 4, float), normal(rng, 4, float)
    w, expected = scipy.signal.dfreqresp(
        (A, B[:, None], (C @ A)[None], (C @ B).reshape(1, 1), 1), np.linspace(0, 3, 20)
    )
    assert_near(lti.generating_function(A, B, C, np.exp(-1j * w)), expected, 1e-11)


@pytest.mark.parametrize("dense", (True, False))
def test_transfer_function_is_scipys_frequency_response(dense):
    rng = np.random.default_rng(9)
    A = normal(rng, (4, 4), float) - 4 * np.eye(4) if dense else -np.array([0.5, 1.0, 2.0, 3.0])
    B, C, D = normal(rng, 4, float), normal(rng, 4, float), 0.7
    w, expected = scipy.signal.freqresp(
        (A if dense else np.diag(A), B[:, None], C[None], [[D]]), np.logspace(-2, 2, 30)
    )
    assert_near(lti.transfer_function(A, B, C, 1j * w, D), expected, 1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transfer_function_of_a_diagonal_is_its_partial_fractions(dtype):
    A, B, C, D = np.array([-1, -2], dtype), np.array([1, 3], dtype), np.array([1, -1], dtype), dtype(5)
    s = np.array([[0, 1j], [2.0, -0.5 + 1j]])
    expected = 1 / (s + 1) - 3 / (s + 2) + 5
    for matrix in (A, np.diag(A)):
        got = lti.transfer_function(matrix, B, C, s, D)
        assert got.dtype == complex
        assert_near(got, expected, 1e-14)
    assert lti.transfer_function(A, B, C, np.zeros((0, 2))).shape == (0, 2)


def test_at_a_pole_a_diagonal_is_infinite_and_a_dense_matrix_has_no_inverse():
    A, B = np.array([0.5, 0.25]), np.ones(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        assert np.isinf(lti.transfer_function(A, B, B, 0.5)) and np.isinf(lti.generating_function(A, B, B, 2.0))
    for front, where in ((lti.transfer_function, 0.5), (lti.generating_function, 2.0)):
        with pytest.raises(np.linalg.LinAlgError, match="[Ss]ingular"):
            front(np.diag(A), B, B, where)


# --- the impulse response --------------------------------------------------------------------------


@pytest.mark.parametrize("dense", (True, False))
def test_impulse_response_is_scipys(dense):
    rng = np.random.default_rng(10)
    A = normal(rng, (4, 4), float) - 2 * np.eye(4) if dense else -np.array([0.5, 1.0, 2.0, 3.0])
    B, C, t = normal(rng, 4, float), normal(rng, 4, float), np.linspace(0, 5, 101)
    expected = scipy.signal.impulse((A if dense else np.diag(A), B[:, None], C[None], [[0.0]]), T=t)[1]
    assert_near(lti.impulse_response(A, B, C, t), expected, 1e-12)


@given(
    seed=st.integers(0, 2**32),
    dtype=st.sampled_from(DTYPES),
    dense=st.booleans(),
    shape=st.sampled_from([(), (0,), (4,), (2, 3)]),
)
def test_impulse_response_is_the_exponential_from_t_0_on_and_nothing_before(seed, dtype, dense, shape):
    rng = np.random.default_rng(seed)
    A, B, C, t = (
        normal(rng, (3, 3) if dense else 3, dtype),
        normal(rng, 3, dtype),
        normal(rng, 3, dtype),
        normal(rng, shape, np.float32),
    )
    y = lti.impulse_response(A, B, C, t)
    assert (y.shape, y.dtype) == (shape, widest(A, B, C, t))
    M = (A if dense else np.diag(A)).astype(complex)
    for i in np.ndindex(shape):
        e = scipy.linalg.expm(float(t[i]) * M)
        bound = (
            100
            * np.finfo(dtype).eps
            * (1 + abs(t[i]) * np.linalg.norm(M))
            * np.linalg.norm(e)
            * np.linalg.norm(B)
            * np.linalg.norm(C)
        )
        assert abs(y[i] - (C @ e @ B if t[i] >= 0 else 0)) <= bound


def test_impulse_response_long_before_0_is_0_though_its_exponential_overflows():
    A = np.array([-1000.0, -1.0])
    for matrix in (A, np.diag(A)):
        np.testing.assert_array_equal(
            lti.impulse_response(matrix, np.ones(2), np.ones(2), np.array([-1e6, -1.0, 0.0])), [0, 0, 2]
        )


# --- all views together ----------------------------------------------------------------------------


@given(drawn=systems())
def test_recurrence_convolution_and_transfer_function_give_one_output(drawn):
    """And a first state adds C A_bar^(t+1) h0, the kernel of A_bar with B_bar = A_bar h0."""
    system, D, h0 = drawn
    u = system.pop("u")
    L = u.shape[-1]
    y = lti.recurrence(**system, u=u, D=D)
    bound = 60 * (L + 1) * coarsest(*system.values(), u, D) * (1 + size(**system, u=u, D=D))
    for method in KERNELS:
        K = lti.kernel(**system, L=L, method=method)
        for conv in CONVS:
            assert_near(lti.causal_conv(u, K, D, conv), y, bound)
    if L:
        circle = np.exp(-2j * np.pi * np.arange(2 * L) / (2 * L))
        spectrum = lti.generating_function(**system, z=circle, length=L) * np.fft.fft(u, 2 * L)
        assert_near(np.fft.ifft(spectrum)[..., :L] + (0 if D is None else D * u), y, bound)
    if h0 is not None and h0.ndim == 1:
        A = system["A_bar"]
        free = lti.kernel(A, A * h0 if A.ndim == 1 else A @ h0, system["C"], L)
        both = 60 * (L + 1) * coarsest(*system.values(), u, D, h0) * (1 + size(**system, u=u, D=D, h0=h0))
        assert_near(lti.recurrence(**system, u=u, D=D, h0=h0), y + free, both)


# --- how arrays are taken --------------------------------------------------------------------------


def arguments():
    """Arguments that fit each function, all arrays."""
    A, v = np.array([0.5, 0.25]), np.array([1.0, 2.0])
    return {
        lti.step: dict(h=v.copy(), u_t=np.array(1.0), A_bar=A, B_bar=v.copy(), C=v.copy(), D=np.array(2.0)),
        lti.recurrence: dict(
            A_bar=A, B_bar=v.copy(), C=v.copy(), u=np.array([1.0, 2.0, 3.0]), D=np.array(2.0), h0=v.copy()
        ),
        lti.kernel: dict(A_bar=A, B_bar=v.copy(), C=v.copy(), L=3),
        lti.generating_function: dict(A_bar=A, B_bar=v.copy(), C=v.copy(), z=np.array([0.5, 1.0]), length=3),
        lti.causal_conv: dict(u=np.array([1.0, 2.0, 3.0]), K=v.copy(), D=np.array(2.0)),
        lti.transfer_function: dict(A=A, B=v.copy(), C=v.copy(), s=np.array([1.0, 2.0]), D=np.array(2.0)),
        lti.impulse_response: dict(A=A, B=v.copy(), C=v.copy(), t=np.array([0.0, 1.0])),
    }


ARGUMENTS = arguments()
ARRAYS = [(front, name) for front, given in ARGUMENTS.items() for name, x in given.items() if isinstance(x, np.ndarray)]
by_name = pytest.mark.parametrize("front, name", ARRAYS, ids=[f"{front.__name__}-{name}" for front, name in ARRAYS])


def leaves(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("dense", (True, False))
@pytest.mark.parametrize("front", ARGUMENTS, ids=lambda front: front.__name__)
def test_views_are_read_as_they_are_and_never_written_or_handed_back(front, dense):
    straight = {k: np.diag(x) if k in ("A", "A_bar") and dense else x for k, x in ARGUMENTS[front].items()}
    views = {}
    for k, x in straight.items():
        if isinstance(x, np.ndarray) and x.ndim:
            x = np.repeat(x, 3, -1)[..., ::-3] if x.ndim == 1 else np.repeat(x, 2, 0).T[:, ::2].T
            x = x[::-1] if x.ndim == 1 else x
            x.setflags(write=False)
        views[k] = x
    for got, expected in zip(leaves(front(**views)), leaves(front(**straight))):
        np.testing.assert_allclose(got, expected, rtol=1e-14)
        assert not any(np.shares_memory(got, x) for x in views.values() if isinstance(x, np.ndarray))


def test_an_empty_sequence_hands_back_a_copy_of_its_first_state():
    h0 = np.ones((2, 1), np.float32)
    y, h = lti.recurrence(*np.ones((3, 1), np.float32), u=np.zeros((2, 0), np.float32), h0=h0, return_last_state=True)
    assert (y.shape, y.dtype, h.dtype) == ((2, 0), np.float32, np.float32)
    np.testing.assert_array_equal(h, h0)
    assert not np.shares_memory(h, h0)


@pytest.mark.parametrize("method", KERNELS)
def test_nan_in_a_state_reaches_the_kernel_as_nan(method):
    A = np.array([[0.5, 0.0], [0.0, np.nan]])
    for matrix in (A, np.diag(A)):
        with np.errstate(invalid="ignore"):
            K = lti.kernel(matrix, np.ones(2), np.ones(2), 4, method)
        assert np.isnan(K[1:]).all()


@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_nan_and_infinity_in_a_sample_spoil_no_sample_before_and_no_other_row(bad):
    u = np.ones((2, 6))
    u[1, 3] = bad
    A, one = np.array([0.5]), np.ones(1)
    for y in (lti.recurrence(A, one, one, u), lti.causal_conv(u, lti.kernel(A, one, one, 6), method="direct")):
        np.testing.assert_allclose(y[0], 2 - 0.5 ** np.arange(6), rtol=1e-15)
        np.testing.assert_array_equal(y[1, :3], y[0, :3])
        np.testing.assert_array_equal(y[1, 3:], [bad] * 3)


# --- input that does not fit -----------------------------------------------------------------------


@by_name
def test_what_is_not_a_float_array_is_refused_by_name(front, name, not_an_array):
    value, error, says = not_an_array
    with pytest.raises(error, match=f"^{name}: {says}$"):
        front(**{**ARGUMENTS[front], name: value})


@pytest.mark.parametrize(
    "front, name",
    [(f, n) for f in ARGUMENTS for n, p in inspect.signature(f).parameters.items() if p.default is p.empty],
)
def test_none_for_what_is_required_is_refused_by_name(front, name):
    with pytest.raises(TypeError, match=rf"^{name}: expected an (array of .*|integer), got None$"):
        front(**{**ARGUMENTS[front], name: None})


@pytest.mark.parametrize("front, name", [(f, n) for f, n in ARRAYS if n in ("B_bar", "B", "C")])
@pytest.mark.parametrize("shape", ((), (3,), (1, 2), (2, 1)))
def test_a_vector_that_does_not_fit_A_is_refused_by_name(front, name, shape):
    with pytest.raises(ValueError, match=rf"^{name}: expected shape \(2,\) = \(N,\), got \({str(shape)[1:-1]}\)$"):
        front(**{**ARGUMENTS[front], name: np.ones(shape)})


@pytest.mark.parametrize("front, name", [(f, n) for f, n in ARRAYS if n in ("A_bar", "A")])
@pytest.mark.parametrize("shape", ((), (0,), (0, 0), (2, 3), (2, 2, 2)))
def test_a_state_matrix_that_is_none_is_refused_by_name(front, name, shape):
    with pytest.raises(
        ValueError, match=rf"^{name}: expected shape \(N, N\) .* or \(N,\) .*, N >= 1, got \({str(shape)[1:-1]}\)$"
    ):
        front(**{**ARGUMENTS[front], name: np.ones(shape)})


WRONG = {
    "D of one axis": (lti.recurrence, dict(D=np.ones(1)), ValueError, r"D: expected shape \(\) = a number, got \(1,\)"),
    "a scalar u": (lti.recurrence, dict(u=1.0), ValueError, r"u: expected shape \(\.\.\., L\), got \(\)"),
    "a scalar u, convolved": (lti.causal_conv, dict(u=1.0), ValueError, r"u: expected shape \(\.\.\., L\), got \(\)"),
    "h0 without the rows": (
        lti.recurrence,
        dict(u=np.ones((3, 4))),
        ValueError,
        r"h0: expected shape \(3, 2\) = .* then N, got \(2,\)",
    ),
    "h0 of another N": (
        lti.recurrence,
        dict(h0=np.ones(3)),
        ValueError,
        r"h0: expected shape \(2,\) = .* then N, got \(3,\)",
    ),
    "h without the rows": (
        lti.step,
        dict(u_t=np.ones(3)),
        ValueError,
        r"h: expected shape \(3, 2\) = .* then N, got \(2,\)",
    ),
    "K of two axes": (
        lti.causal_conv,
        dict(K=np.ones((2, 2))),
        ValueError,
        r"K: expected shape \(any,\) = \(L,\), got \(2, 2\)",
    ),
    "a number for K": (lti.causal_conv, dict(K=1.0), ValueError, r"K: expected shape \(any,\) = \(L,\), got \(\)"),
    "negative L": (lti.kernel, dict(L=-1), ValueError, "L: expected at least 0, got -1"),
    "L of 3.0": (lti.kernel, dict(L=3.0), TypeError, "L: expected an integer, got 3.0"),
    "L of True": (lti.kernel, dict(L=True), TypeError, "L: expected an integer, got True"),
    "negative length": (lti.generating_function, dict(length=-2), ValueError, "length: expected at least 0, got -2"),
    "length of '3'": (lti.generating_function, dict(length="3"), TypeError, "length: expected an integer, got '3'"),
    "complex t": (lti.impulse_response, dict(t=1j), TypeError, "t: expected dtype float32 or float64, got complex128"),
    "kernel method": (
        lti.kernel,
        dict(method="fft"),
        ValueError,
        "method: expected one of 'powers', 'generating', got 'fft'",
    ),
    "conv method": (
        lti.causal_conv,
        dict(method=None),
        ValueError,
        "method: expected one of 'fft', 'direct', got None",
    ),
}


@pytest.mark.parametrize("front, change, error, says", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_by_name(front, change, error, says):
    with pytest.raises(error, match=f"^{says}$"):
        front(**{**ARGUMENTS[front], **change})


def test_an_integer_of_numpy_is_a_length():
    assert lti.kernel(**{**ARGUMENTS[lti.kernel], "L": np.int64(3)}).shape == (3,)


def test_pythons_numbers_follow_the_precision_of_the_arrays():
    A_bar, B_bar, C = (np.array([v], np.float32) for v in (0.5, 1.0, 2.0))
    y, h = lti.step(np.zeros(1, np.float32), 1.0, A_bar, B_bar, C, D=0.5)
    assert y.dtype == h.dtype == np.float32 and y == 2.5
    assert lti.impulse_response(A_bar, B_bar, C, 1.0).dtype == np.float32
    assert lti.recurrence(A_bar, B_bar, C, np.ones(3, np.float32), D=1).dtype == np.float32


@pytest.mark.parametrize("method", ("fft", "direct"))
def test_arrays_of_two_precisions_are_computed_in_the_wider_one(method):
    rng = np.random.default_rng(0)
    u, K = rng.standard_normal(50), rng.standard_normal(50).astype(np.float32)
    expected = np.convolve(u, K.astype(float))[:50]
    got = lti.causal_conv(u, K, method=method)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)
