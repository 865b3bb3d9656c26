"""What a sequence mixer costs against the length L of its sequence: an RNN, causal attention, a linear state space.

    python benchmarks/cost.py cpu [--quick]        NumPy and numba, this machine's cores   -> book/data/cost_cpu.json
    python benchmarks/cost.py gpu [--quick]        PyTorch on a card (cost_torch.py)       -> book/data/cost_gpu.json

Measured for the mixer alone, with nothing around it (the four products by a D x D matrix that a layer spends before and
after its mixer are measured by themselves, as "projections"):

    train        forward and backward over whole sequences: seconds, and the most bytes allocated on the way, not
                 counting the inputs
    generate     one token after a context of L: seconds, and the bytes kept from token to token

On the CPU: D = 64 channels, one head, float32, one sequence, one core; the least processor time of the repetitions in
three rounds, which other programs on the machine disturb little. On the card: D = 1024 channels in 16 heads, 131072 tokens
in all, so that the batch shrinks as L grows, then once more with one sequence ("train_one"); the median of the repetitions;
float16, but float32 for the state space. A measurement repeats for about 0.3 s, 2 to 200 times; the spread is not stored.

The state space has 16 states a channel; on the CPU it is a loop over time, on the card a convolution by FFT. Attention and
the state space have no input products. The RNN has W h only, but in training on the card cuDNN's includes its input product
U x. On the CPU attention computes all pairs and stores its scores. --quick runs a few small sizes, without a card too, and
writes nothing.
"""

import argparse
import os
import platform
import sys
import time
import tracemalloc
from pathlib import Path

if __name__ == "__main__":                           # one core; NumPy's matrix products read this when it is imported
    os.environ.update(OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_NUM_THREADS="1")

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from mambalib import measured

N = 16                                               # states a channel
SECONDS = 0.3                                        # how long one measurement may repeat


def repeat(once, choose):
    """choose() among the seconds that once() returns: 2 to 200 calls, after one that is not counted."""
    once()
    first = once()
    return choose([first] + [once() for _ in range(int(min(199, max(1, SECONDS / first))))])


# On the CPU: every mixer forward, then backward, by hand. Inputs, outputs and their gradients are (L, D).

def attention_forward(q, k, v):
    P = q @ k.T
    P /= np.sqrt(q.dtype.type(q.shape[1]))
    for t in range(len(P)):
        P[t, t + 1:] = -np.inf                       # the future
    P -= P.max(axis=1, keepdims=True)
    np.exp(P, out=P)
    P /= P.sum(axis=1, keepdims=True)                # (L, L): every row sums to 1
    return P @ v, P


def attention_backward(q, k, v, P, y, dy):
    dv = P.T @ dy
    dS = dy @ v.T
    dS -= (dy * y).sum(axis=1, keepdims=True)        # the sum over a row of P dP is dy . y
    dS *= P
    dS /= np.sqrt(q.dtype.type(q.shape[1]))
    return dS @ k, dS.T @ q, dv


def rnn_forward(W, x, h):
    """h_t = tanh(x_t + W h_{t-1}), written into h (L, D)."""
    L, D = x.shape
    Wt = W.T.copy()                                  # so that the inner loop runs along memory
    z = np.zeros_like(x[0])
    for t in range(L):
        z[:] = x[t]
        if t > 0:
            for j in range(D):
                for i in range(D):
                    z[i] += Wt[j, i] * h[t - 1, j]
        h[t] = np.tanh(z)


def rnn_backward(W, h, dh, dx):
    """dx from the last step to the first, written into dx (L, D); dW is one product of matrices afterwards."""
    L, D = h.shape
    g = np.zeros_like(h[0])
    for t in range(L - 1, -1, -1):
        g[:] = dh[t]
        if t < L - 1:
            for j in range(D):
                for i in range(D):
                    g[i] += W[j, i] * dx[t + 1, j]
        dx[t] = g * (1 - h[t] * h[t])


def ssm_forward(a, b, c, x, h, y):
    """h_t = a h_{t-1} + b x_t and y_t = the sum of c h_t over the states: a, b, c (D, N), h (D, L, N), x and y (L, D)."""
    L, D = x.shape
    for d in range(D):                               # channel by channel: its N states stay in registers
        a_d, b_d, c_d, state = a[d].copy(), b[d].copy(), c[d].copy(), np.zeros(N, x.dtype)
        for t in range(L):
            total = 0 * x[t, d]
            for n in range(N):
                state[n] = a_d[n] * state[n] + b_d[n] * x[t, d]
                total += c_d[n] * state[n]
            h[d, t] = state
            y[t, d] = total


def ssm_backward(a, b, c, x, h, dy, dx, da, db, dc):
    """The adjoint state g_t = c dy_t + a g_{t+1} runs from the last step to the first, and gives every gradient."""
    L, D = x.shape
    for d in range(D):
        a_d, b_d, c_d, g = a[d].copy(), b[d].copy(), c[d].copy(), np.zeros(N, x.dtype)
        da_d, db_d, dc_d = np.zeros(N, x.dtype), np.zeros(N, x.dtype), np.zeros(N, x.dtype)
        for t in range(L - 1, -1, -1):
            total = 0 * x[t, d]
            for n in range(N):
                g[n] = c_d[n] * dy[t, d] + a_d[n] * g[n]
                total += b_d[n] * g[n]
                db_d[n] += x[t, d] * g[n]
                dc_d[n] += dy[t, d] * h[d, t, n]
            if t > 0:
                for n in range(N):
                    da_d[n] += h[d, t - 1, n] * g[n]
            dx[t, d] = total
        da[d], db[d], dc[d] = da_d, db_d, dc_d


def train_attention(q, k, v, dy):
    y, P = attention_forward(q, k, v)
    return attention_backward(q, k, v, P, y, dy)


def train_rnn(W, x, dy, forward=rnn_forward, backward=rnn_backward):
    h, dx = np.empty_like(x), np.empty_like(x)
    forward(W, x, h)
    backward(W, h, dy, dx)
    return dx[1:].T @ h[:-1], dx


def train_ssm(a, b, c, x, dy, forward=ssm_forward, backward=ssm_backward):
    h, y, dx = np.empty((x.shape[1], len(x), N), x.dtype), np.empty_like(x), np.empty_like(x)
    da, db, dc = (np.empty_like(a) for _ in range(3))
    forward(a, b, c, x, h, y)
    backward(a, b, c, x, h, dy, dx, da, db, dc)
    return da, db, dc, dx


def train_projections(weights, x, dy):
    for W in weights:
        x @ W, dy @ W.T, x.T @ dy


def step_attention(q, K, V):
    p = K @ q
    p -= p.max()
    np.exp(p, out=p)
    return (p / p.sum()) @ V


def step_rnn(W, x, h):
    return np.tanh(x + W @ h)


def step_ssm(a, b, c, x, h):
    h *= a
    h += b * x[:, None]
    return (c * h).sum(axis=1)


def cpu(quick):
    import numba                                     # the card's side does without

    D, lengths = 64, [16, 64, 256] if quick else [2 ** k for k in range(4, 15)]
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    a, b, c, h = np.exp(-np.abs(normal(D, N)) / 4), normal(D, N), normal(D, N), normal(D, N)
    W, weights, x1, h1 = normal(D, D) / np.float32(np.sqrt(D)), [normal(D, D) for _ in range(4)], normal(D), normal(D)
    rnn = [numba.njit(f) for f in (rnn_forward, rnn_backward)]
    ssm = [numba.njit(f) for f in (ssm_forward, ssm_backward)]
    train, generate = {}, {}
    for L in lengths * (1 if quick else 3):
        q, k, v, dy = (normal(L, D) for _ in range(4))
        for name, run in {
            "attention": lambda: train_attention(q, k, v, dy),
            "rnn": lambda: train_rnn(W, q, dy, *rnn),
            "state space": lambda: train_ssm(a, b, c, q, dy, *ssm),
            "projections": lambda: train_projections(weights, q, dy),
        }.items():
            seconds = repeat(lambda: processor_seconds(run), min)
            note(train, name, L, seconds, peak_bytes(run))
        for name, run, kept in (
            ("attention", lambda: step_attention(x1, k, v), k.nbytes + v.nbytes),
            ("rnn", lambda: step_rnn(W, x1, h1), h1.nbytes),
            ("state space", lambda: step_ssm(a, b, c, x1, h), h.nbytes),
        ):
            note(generate, name, L, repeat(lambda: processor_seconds(run, calls=20), min), kept)
    versions = {"python": platform.python_version(), "numpy": np.__version__, "numba": numba.__version__}
    return {"channels": D, "states": N, "train": train, "generate": generate}, f"one core of {measured.cpu_name()}", versions


def processor_seconds(run, calls=1):
    start = time.process_time()
    for _ in range(calls):
        run()
    return (time.process_time() - start) / calls


def peak_bytes(run):
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def note(results, name, L, seconds, size):
    """Add a measurement of length L, or replace it where this one is faster."""
    print(f"{name:24s} {L:7d} {seconds * 1e3:12.4f} ms {size / 1e6:12.3f} MB", flush=True)
    row = results.setdefault(name, {"L": [], "seconds": [], "bytes": []})
    seconds = float(f"{seconds:.4g}")
    if L not in row["L"]:
        row["L"].append(L), row["seconds"].append(seconds), row["bytes"].append(size)
    elif seconds < row["seconds"][row["L"].index(L)]:
        row["seconds"][row["L"].index(L)] = seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", choices=("cpu", "gpu"))
    parser.add_argument("--quick", action="store_true", help="a few small sizes; writes nothing")
    arguments = parser.parse_args()
    if arguments.where == "gpu":
        from cost_torch import gpu as measure
    else:
        measure = cpu
    results = measure(arguments.quick)
    if not arguments.quick:
        print(measured.save(f"cost_{arguments.where}", *results))


if __name__ == "__main__":
    main()
