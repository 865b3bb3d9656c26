"""linear_scan against what a user would pick instead, on the same arrays in one run.

    python benchmarks/scan.py cpu        the processor's cores: this package, a triad, NumPy, scipy, and PyTorch, JAX,
                                         mambapy where they are installed            -> book/data/scan_cpu.json
    python benchmarks/scan.py gpu        a card: this package, copies, PyTorch, JAX (scan_gpu.py)
                                                                                     -> book/data/scan_gpu.json

The triad h = a s + b over the same arrays, in parallel, is the limit: it moves the same bytes and waits for nothing.
For the gradient it is h = a s + b, g = c h: three arrays read and two written, too. It writes into arrays that are
there; so does the scan in "scan, in place", the kernel without the front door; "scan" is what a user calls, which takes
new memory from the system each time, like "triad, new arrays".

Contestants take turns, and the smallest time of each counts: on a machine with other work it says most about the code.
"""

import argparse
import platform
import time
from importlib import import_module, metadata

import numba
import numpy as np
from numba import njit, prange

from mambalib import linear_scan, linear_scan_backward, measured
from mambalib.scan import cpu

SHAPES = {                                           # name: (shape, axis)
    "state innermost": ((2, 768, 4096, 16), 2),
    "rows": ((12288, 4096), 1),
    "one long row": ((1, 2**22), 1),
    "short rows": ((65536, 64), 1),
    "very short rows": ((262144, 16), 1),
    "channels innermost": ((8, 2048, 768), 1),
}


@njit(parallel=True)
def triad(a, b, h, s):
    for i in prange(a.size):
        h[i] = a[i] * s + b[i]


@njit(parallel=True)
def triad_backward(a, b, c, h, g, s):
    for i in prange(a.size):
        x = a[i] * s + b[i]
        h[i] = x
        g[i] = c[i] * x


def optional(name):
    try:
        return import_module(name)
    except ImportError:
        return None


# --- The cores --------------------------------------------------------------------------------------------------------


def numpy_loop(a, b, axis):
    a, b = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)
    h, state = np.empty_like(b), np.zeros(b.shape[1:], b.dtype)
    for t in range(len(b)):
        state = a[t] * state + b[t]
        h[t] = state
    return h


def contestants_cpu(a, b, axis, threads):
    """{name: a call}: forward and backward of this package, the limits, and whoever else is here."""
    flat, h, again, grad = (lambda x: x.reshape(-1)), np.empty_like(b), np.empty_like(b), np.ones_like(b)
    s, views = np.float32(0.5), [cpu._views(x, b.shape, axis, False) for x in (a, b, h)]
    a_channel = a.take([0], axis)
    todo = {
        "triad": lambda: triad(flat(a), flat(b), flat(h), s),
        "scan, in place": lambda: cpu._scan(*views, 0),
        "triad, new arrays": lambda: triad(flat(a), flat(b), np.empty(b.size, b.dtype), s),
        "scan": lambda: linear_scan(a, b, axis=axis),
        "scan, one decay a channel": lambda: linear_scan(a_channel, b, axis=axis),
        "triad of the gradient": lambda: triad_backward(flat(a), flat(b), flat(grad), flat(h), flat(again), s),
        "triad of the gradient, new arrays": lambda: triad_backward(
            flat(a), flat(b), flat(grad), np.empty(b.size, b.dtype), np.empty(b.size, b.dtype), s
        ),
        "gradient": lambda: linear_scan_backward(grad, a, h, axis=axis),
    }
    if b.shape[axis] <= 2**16:
        todo["NumPy loop"] = lambda: numpy_loop(a, b, axis)
    signal = optional("scipy.signal")
    if signal:                                       # one decay for all, since it takes no other
        todo["scipy.signal.lfilter, one decay for all"] = lambda: signal.lfilter([s], [s, -s * s], b, axis=axis)
        todo["scan, one decay for all"] = lambda: linear_scan(0.5, b, axis=axis)
    torch = optional("torch")
    if torch:
        torch.set_num_threads(threads)
        ta, tb = (torch.from_numpy(np.moveaxis(x, axis, 0)) for x in (a, b))
        if len(tb) <= 2**16:
            def loop():
                out, state = torch.empty_like(tb), torch.zeros_like(tb[0])
                for t in range(len(tb)):
                    state = torch.addcmul(tb[t], ta[t], state, out=out[t])
                return out
            todo["PyTorch loop"] = loop
    jax = optional("jax")
    if jax:
        ja, jb = jax.device_put(a), jax.device_put(b)
        combine = lambda left, right: (right[0] * left[0], right[0] * left[1] + right[1])    # noqa: E731
        tree = jax.jit(lambda a, b: jax.lax.associative_scan(combine, (a, b), axis=axis)[1])
        todo["JAX associative_scan"] = lambda: tree(ja, jb).block_until_ready()

        def step(state, ab):
            state = ab[0] * state + ab[1]
            return state, state
        first = lambda x: jax.numpy.moveaxis(x, axis, 0)                                      # noqa: E731
        steps = jax.jit(lambda a, b: jax.lax.scan(step, jax.numpy.zeros_like(first(b)[0]), (first(a), first(b)))[1])
        todo["JAX lax.scan"] = lambda: steps(ja, jb).block_until_ready()
    pscan = optional("mambapy.pscan")
    if pscan and torch and b.ndim == 4 and axis == 2:                    # (B, L, D, N), its own layout
        pa, pb = (torch.from_numpy(np.ascontiguousarray(x.swapaxes(1, 2))) for x in (a, b))
        todo["mambapy"] = lambda: pscan.pscan(pa, pb)
    return todo


def small_call(seconds):
    """What a call costs by itself: (10, 28, 10) over the middle axis, one thread."""
    b = np.ones((10, 28, 10), np.float32)
    a, h = 0.5 * b, linear_scan(0.5, b, axis=1)
    todo = {
        "scan": lambda: linear_scan(a, b, axis=1), "gradient": lambda: linear_scan_backward(b, a, h, axis=1),
        "NumPy loop": lambda: numpy_loop(a, b, 1),
    }
    return take_turns(todo, seconds)


def take_turns(todo, seconds):
    """{name: the smallest time, in seconds}, of at least 3 turns and of about `seconds` for each contestant."""
    best = dict.fromkeys(todo, float("inf"))
    for call in todo.values():
        call()
    turns, start = 0, time.perf_counter()
    while turns < 3 or (turns < 1000 and time.perf_counter() - start < seconds * len(todo)):
        for name, call in todo.items():
            begin = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - begin)
        turns += 1
    return {name: float(f"{t:.4g}") for name, t in best.items()}


def main_cpu(arguments):
    rng, results = np.random.default_rng(0), {}
    for name, (shape, axis) in SHAPES.items():
        if arguments.shapes and name not in arguments.shapes:
            continue
        a, b = rng.uniform(0.5, 1, shape).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
        results[name] = {
            "shape": shape, "axis": axis,
            "seconds": take_turns(contestants_cpu(a, b, axis, numba.get_num_threads()), arguments.seconds),
        }
        print(f"{name} {shape} axis {axis}")
        for who, t in results[name]["seconds"].items():
            print(f"    {who:42s} {1e3 * t:9.3f} ms", flush=True)
    small = small_call(arguments.seconds)
    print("a call of (10, 28, 10)", {who: f"{1e6 * t:.0f} us" for who, t in small.items()})
    if not arguments.dry_run:
        record = {"dtype": "float32", "threads": numba.get_num_threads(), "statistic": "minimum"}
        record |= {"shapes": results, "small call": small}
        found = versions("numpy", "numba", "scipy", "torch", "jax", "mambapy")
        print(measured.save("scan_cpu", record, measured.cpu_name(), found))


def versions(*names):
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", choices=["cpu", "gpu"])
    parser.add_argument("--seconds", type=float, default=3.0, help="time spent on each contestant, about (cpu)")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, help="these alone (cpu)")
    parser.add_argument("--dry-run", action="store_true", help="measure and print, write nothing")
    arguments = parser.parse_args()
    if arguments.where == "gpu":
        from scan_gpu import main_gpu
        main_gpu(arguments.dry_run)
    else:
        main_cpu(arguments)


if __name__ == "__main__":
    main()
