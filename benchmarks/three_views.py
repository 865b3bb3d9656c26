"""What the three views of a time-invariant state space cost against the length L. Writes book/data/three_views.json.

16 signals through one system with N = 64 states, float64, on one thread (the second core is left to the rest of the
machine). Measured for L = 64, 128, ..., 65536, where memory and patience allow:

    recurrence    lti.recurrence (a loop in Python), and the same loop compiled by numba; A_bar dense and diagonal
    convolution   direct, O(L^2), compiled by numba, and by FFT, O(L log L); the kernel given
    kernel        by powers and by the generating function; A_bar dense and diagonal
    token         one more output at position L: one step of the recurrence, or one dot product with the whole past

Each time is the 5th percentile of several repetitions after one unmeasured call, in seconds of processor time of the thread
that computes: on a machine with other work this says more about the code than the clock on the wall, and on an idle one it is
the same. (The smallest would be at the mercy of the processor clock, which now and then counts too little.)
"""

import argparse
import os
import platform
import time

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numba  # noqa: E402  (numpy reads the lines above when it is first imported)
import numpy as np  # noqa: E402

from mambalib import lti, measured  # noqa: E402

N, SIGNALS = 64, 16
one_step = lti.step.__wrapped__                          # the chapter's own step: the library's, without its checks


@numba.njit(fastmath={"reassoc"})                        # the sum over states may be reordered, so that it vectorises
def loop_diagonal(A_bar, B_bar, C, u):
    """lti.recurrence for a real diagonal A_bar (N,) and u (signals, L), compiled."""
    y = np.empty_like(u)
    for s in range(u.shape[0]):
        h = np.zeros(N)
        for t in range(u.shape[1]):
            total = 0.0
            for n in range(N):
                h[n] = A_bar[n] * h[n] + B_bar[n] * u[s, t]
                total += C[n] * h[n]
            y[s, t] = total
    return y


@numba.njit
def loop_dense(A_bar, B_bar, C, columns):
    """lti.recurrence for a real dense A_bar (N, N), compiled; the products stay BLAS's. columns = u.T, contiguous; y too."""
    y = np.empty_like(columns)
    h, new = np.zeros((N, columns.shape[1])), np.zeros((N, columns.shape[1]))
    for t in range(len(columns)):
        np.dot(A_bar, h, new)
        for n in range(N):
            for s in range(columns.shape[1]):
                new[n, s] += B_bar[n] * columns[t, s]
        np.dot(C, new, y[t])
        h, new = new, h
    return y


@numba.njit
def direct(u, K):
    """lti.conv_direct for real u (signals, L) and K (L,), compiled."""
    y = np.zeros_like(u)
    for s in range(u.shape[0]):
        for k in range(len(K)):
            for t in range(u.shape[1] - k):
                y[s, k + t] += K[k] * u[s, t]
    return y


def systems(rng):
    """Systems with a memory of thousands of steps: 0.999 times a rotation, and a diagonal one with eigenvalues 0.99 ... 0.9999.

    Their powers stay above the smallest normal number up to L = 65536. With faster eigenvalues the diagonal kernel by
    powers would be a measurement of another thing: a power that underflows takes the slow way through the processor.
    """
    rotation = np.linalg.qr(rng.standard_normal((N, N)))[0]
    B_bar, C = rng.standard_normal(N) / N, rng.standard_normal(N)
    return {"dense": (0.999 * rotation, B_bar, C), "diagonal": (np.exp(-np.geomspace(1e-4, 1e-2, N)), B_bar, C)}


def work(L, rng):
    """name: a call to be timed, for everything that is measured at length L."""
    u, K = rng.standard_normal((SIGNALS, L)), rng.standard_normal(L)
    columns = np.ascontiguousarray(u.T)                  # (L, SIGNALS), for the compiled dense loop
    state, u_t = rng.standard_normal((SIGNALS, N)), rng.standard_normal(SIGNALS)
    todo = {
        "convolution, FFT": lambda: lti.conv_by_fft(u, K),
        "token, convolution": lambda: u @ K[::-1],
    }
    if L <= 32768:
        todo["convolution, direct"] = lambda: direct(u, K)
    for kind, (A_bar, B_bar, C) in systems(rng).items():
        loop, v = (loop_diagonal, u) if kind == "diagonal" else (loop_dense, columns)
        todo[f"recurrence, NumPy, {kind}"] = lambda A=A_bar, B=B_bar, C=C: lti.recurrence(A, B, C, u)
        todo[f"recurrence, numba, {kind}"] = lambda A=A_bar, B=B_bar, C=C, f=loop, v=v: f(A, B, C, v)
        todo[f"kernel, powers, {kind}"] = lambda A=A_bar, B=B_bar, C=C: lti.kernel(A, B, C, L)
        todo[f"token, recurrence, {kind}"] = lambda A=A_bar, B=B_bar, C=C: one_step(state, u_t, A, B, C)
        if kind == "diagonal" or L <= 4096:              # dense: L matrices of N x N complex numbers at once
            todo[f"kernel, generating, {kind}"] = lambda A=A_bar, B=B_bar, C=C: lti.kernel(A, B, C, L, "generating")
    return todo


def typical_time(call, seconds):
    """The 5th percentile of at least 3 runs, and of as many as fit into `seconds`, after one run to warm up; in seconds."""
    call()
    times, start = [], time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - start < seconds and len(times) < 1000):
        begin = time.thread_time()
        call()
        times.append(time.thread_time() - begin)
    return sorted(times)[len(times) // 20]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each measurement, at least")
    parser.add_argument("--longest", type=int, default=65536, help="the largest L")
    parser.add_argument("--dry-run", action="store_true", help="measure and print, write nothing")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    seconds = {}
    lengths = [L for L in 2 ** np.arange(6, 17) if L <= arguments.longest]
    for L in map(int, lengths):
        for name, call in work(L, rng).items():
            typical = typical_time(call, arguments.seconds)
            seconds.setdefault(name, {})[str(L)] = float(f"{typical:.4g}")
            print(f"{L:6d}  {name:32s} {1e3 * typical:10.4f} ms", flush=True)
    if not arguments.dry_run:
        versions = {"python": platform.python_version(), "numpy": np.__version__, "numba": numba.__version__}
        results = {"N": N, "signals": SIGNALS, "dtype": "float64", "threads": 1, "statistic": "5th percentile of thread time", "seconds": seconds}
        print(measured.save("three_views", results, measured.cpu_name(), versions))


if __name__ == "__main__":
    main()
