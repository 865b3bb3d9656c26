"""The part of scan.py that runs on a card, on PyTorch's arrays. Run it through `python benchmarks/scan.py gpu`.

The limit is a copy on the card that moves as many bytes as the scan must: three arrays, five for the gradient. Times
are CUDA events, medians of 15 calls behind a kernel that sleeps until all of them are queued, so Python's own time is
not in them, the smallest of three such medians, with results at other addresses each time: at some addresses the memory is
up to 15 % slower, whoever uses it; JAX has its own queue and is timed by the clock, three calls in a row. Peers count when their result is
that of linear_scan; who is not there, fails or comes too late is "left out", with the reason. It saves after each shape.
"""

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor, wait
from importlib import import_module
from statistics import median

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")     # else JAX takes most of the card's memory

import torch
from scan import optional, versions

from mambalib import linear_scan, linear_scan_backward, measured

SHAPES = {"rows": ((16384, 2048), 1), "longer rows": ((4096, 16384), 1), "long rows": ((256, 65536), 1), "16 long rows": ((16, 2**20), 1),
          "one long row": ((1, 2**24), 1), "state innermost": ((8, 2048, 2048, 16), 2)}        # name: (shape, axis)
SMALL = (10, 28, 64, 10), 2                          # batch, channels, time, states
START, LIMIT = time.perf_counter(), 200              # seconds after which no more peers are tried


def data(shape):
    generator = torch.Generator("cuda").manual_seed(0)
    a = torch.rand(shape, generator=generator, device="cuda").mul_(0.5).add_(0.5)
    return a, torch.randn(shape, generator=generator, device="cuda")


def event_seconds(call, repeats=15, placements=3):
    """The smallest of a few medians, each with the results at other addresses."""
    held, best = [], float("inf")
    for _ in range(placements):
        held.append([call() for _ in range(3)][-1])
        best = min(best, events_median(call, repeats))
    return best


def events_median(call, repeats):
    for cycles in (2 * 10**7, 10**8, 5 * 10**8):
        torch.cuda.synchronize()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        torch.cuda._sleep(cycles)
        events[0].record()
        for event in events[1:]:
            call()
            event.record()
        queued = not events[0].query()               # all of it before the card woke up
        torch.cuda.synchronize()
        if queued:
            break
    return median(start.elapsed_time(end) for start, end in zip(events, events[1:])) / 1e3


def clock_seconds(call, calls, finish=lambda last: None):
    """The median over rounds of a call's share; `finish` waits for what the last call returned."""
    times = []
    while len(times) < 5 and sum(times) < 1:
        begin = time.perf_counter()
        for _ in range(calls):
            last = call()
        finish(last)
        times.append((time.perf_counter() - begin) / calls)
        torch.cuda.synchronize()
    return median(times)


def copy_seconds(count):
    """A copy on the card that reads and writes `count` float32 numbers in all."""
    source, targets = torch.randn(count // 2, device="cuda"), [torch.empty(count // 2, device="cuda") for _ in range(3)]
    return min(event_seconds(lambda: target.copy_(source), placements=1) for target in targets)


def ours(shape, axis):
    (a, b), n = data(shape), torch.Size(shape).numel()
    h, out = linear_scan(a, b, axis=axis), torch.empty_like(b)
    return {"copy of 3 arrays": copy_seconds(3 * n), "triad": event_seconds(lambda: torch.add(b, a, alpha=0.5, out=out)),
            "scan": event_seconds(lambda: linear_scan(a, b, axis=axis)), "copy of 5 arrays": copy_seconds(5 * n),
            "gradient": event_seconds(lambda: linear_scan_backward(b, a, h, axis=axis))}


def small_calls(shape, axis):
    """Python's own time for a call, and a thousand calls whose results are copied to the host."""
    a, b = data(shape)
    h = linear_scan(a, b, axis=axis)
    calls = {"scan": lambda: linear_scan(a, b, axis=axis), "gradient": lambda: linear_scan_backward(b, a, h, axis=axis), "torch.add": lambda: a + b}
    host = {who: clock_seconds(call, 300) for who, call in calls.items()}
    begin = time.perf_counter()
    for _ in range(1000):
        linear_scan(a, b, axis=axis).cpu()
    return {"shape": shape, "axis": axis, "host seconds": host, "seconds of 1000 calls, results copied to the host": time.perf_counter() - begin}


# --- Peers: each a function (a, b, axis) -> a call, what makes its result a tensor like b, a timer; or the reason why not ---


def combine(left, right):
    return right[0] * left[0], right[0] * left[1] + right[1]


def torch_loop(a, b, axis):
    out, zero = torch.empty_like(b), torch.zeros_like(b.select(axis, 0))

    def run():
        state = zero
        for t in range(b.shape[axis]):
            state = torch.addcmul(b.select(axis, t), a.select(axis, t), state, out=out.select(axis, t))
        return out
    return run, lambda h: h, lambda call: event_seconds(call, 3, 1)


def torch_tree(a, b, axis):
    from torch._higher_order_ops.associative_scan import associative_scan
    tree = torch.compile(lambda a, b: associative_scan(combine, (a, b), axis)[1], dynamic=False, fullgraph=True)
    return lambda: tree(a, b), lambda h: h, event_seconds


def accelerated_scan(language):
    """Proger's package: (batch, channels, time) with time innermost; its CUDA C++ kernel takes powers of two up to 2**16."""
    def make(a, b, axis):
        if axis != b.ndim - 1:
            raise ValueError("takes the last axis alone")
        scan = import_module(f"accelerated_scan.{'warp' if language == 'CUDA C++' else 'scalar'}").scan
        wide = [x.reshape(1, *x.shape) for x in (a, b)]
        return lambda: scan(*wide), lambda h: h[0], event_seconds
    return make


def mambapy(a, b, axis):
    """mamba.py's scan: (batch, time, channels, states); arrays are brought into its layout beforehand."""
    pscan = import_module("mambapy.pscan").pscan
    wide = [(x.transpose(1, 2) if x.ndim == 4 else x.t()[None, :, :, None]).contiguous() for x in (a, b)]
    return lambda: pscan(*wide), (lambda h: h.transpose(1, 2) if b.ndim == 4 else h[0, :, :, 0].t()), event_seconds


def jax_programs(pool):
    """{(peer, shape's name): a program being compiled}; lax.scan up to 2**14 steps, it launches kernels for each."""
    jax = optional("jax")
    if jax is None or jax.default_backend() != "gpu":
        raise RuntimeError("not installed" if jax is None else "no CUDA backend here")
    first, step = (lambda x, axis: jax.numpy.moveaxis(x, axis, 0)), (lambda h, ab: (ab[0] * h + ab[1],) * 2)
    steps = lambda a, b, axis: jax.lax.scan(step, 0 * first(b, axis)[0], (first(a, axis), first(b, axis)))[1]     # noqa: E731
    tree = lambda a, b, axis: jax.lax.associative_scan(combine, (a, b), axis=axis)[1]                            # noqa: E731

    def program(function, shape, axis):
        x = jax.ShapeDtypeStruct(shape, "float32")
        return jax.jit(lambda a, b: function(a, b, axis)).lower(x, x).compile()
    todo = {("JAX associative_scan", name): (tree, *case) for name, case in SHAPES.items()}
    todo |= {("JAX lax.scan", name): (steps, *case) for name, case in SHAPES.items() if case[0][case[1]] <= 2**14}
    return {key: pool.submit(program, *arguments) for key, arguments in todo.items()}


def jax_peer(program, time_first):
    def make(a, b, axis):
        run = program.result(timeout=max(1, START + LIMIT - time.perf_counter()))
        arrays, like_b = [optional("jax").dlpack.from_dlpack(x) for x in (a, b)], lambda h: torch.from_dlpack(h.block_until_ready())
        timer = lambda call: clock_seconds(call, 3, lambda h: h.block_until_ready())                             # noqa: E731
        return lambda: run(*arrays), (lambda h: like_b(h).movedim(0, axis)) if time_first else like_b, timer
    return make


def peers(result, shape, axis, makers):
    a, b = data(shape)
    h = linear_scan(a, b, axis=axis)
    for peer, make in makers.items():
        begin = time.perf_counter()
        try:
            if begin > START + LIMIT:
                raise TimeoutError("no time left")
            call, like_b, timer = make(a, b, axis)
            worst = ((like_b(call()) - h).abs_().max() / h.abs().max()).item()
            if not worst < 1e-4:
                raise ArithmeticError(f"another result, off by {worst:.1e}")
            result["seconds"][peer] = timer(call)
        except Exception as error:                   # a peer's trouble is not ours
            result["left out"][peer] = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        print(f"    {peer}: {time.perf_counter() - begin:.1f} s", result["left out"].get(peer, ""), flush=True)


def rounded(x):
    return {key: rounded(value) for key, value in x.items()} if isinstance(x, dict) else float(f"{x:.4g}") if isinstance(x, float) else x


def main_gpu(dry_run):
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    found = versions("numpy", "numba", "numba-cuda", "torch", "triton", "jax", "accelerated-scan", "mambapy") | {"cuda": torch.version.cuda}
    found["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0].strip()
    record, programs, pool = {"dtype": "float32", "statistic": "median", "left out": {}, "shapes": {}}, {}, ThreadPoolExecutor(5)
    print(torch.cuda.get_device_name(), found, flush=True)
    try:
        programs = jax_programs(pool)
    except Exception as error:
        record["left out"]["JAX"] = f"{type(error).__name__}: {error}"[:200]
    pool.submit(optional, "accelerated_scan.warp")    # compiles its C++
    for shape, axis in SHAPES.values():              # compiles our kernels meanwhile
        ours(shape, axis)
    wait(programs.values(), timeout=max(1, START + 50 - time.perf_counter()))
    print(f"{time.perf_counter() - START:.1f} s: compiled, but for", [key for key, program in programs.items() if not program.done()], flush=True)

    record["small call"] = small_calls(*SMALL)
    print(record["small call"], record["left out"], flush=True)
    for first in (True, False):                      # ours, then peers
        for name, case in SHAPES.items():
            makers = {peer: jax_peer(run, peer == "JAX lax.scan") for (peer, where), run in programs.items() if where == name}
            makers |= {"PyTorch associative_scan, compiled": torch_tree} | ({"PyTorch loop": torch_loop} if name == "rows" else {})
            makers |= {f"accelerated-scan, {language}": accelerated_scan(language) for language in ("Triton", "CUDA C++")}
            makers |= {"mambapy": mambapy} if case[0][case[1]] <= 2**14 else {}
            print(f"{time.perf_counter() - START:.1f} s: {name} {case[0]} axis {case[1]}", flush=True)
            if first:
                record["shapes"][name] = {"shape": case[0], "axis": case[1], "seconds": ours(*case), "left out": {}}
            else:
                peers(record["shapes"][name], *case, makers)
            torch.cuda.empty_cache()
            seconds = record["shapes"][name]["seconds"]
            for who, t in seconds.items():
                limit = seconds["copy of 5 arrays" if who in ("copy of 5 arrays", "gradient") else "copy of 3 arrays"]
                print(f"    {who:36s} {1e3 * t:9.4f} ms {limit / t:6.1%}", flush=True)
            if not dry_run:
                measured.save("scan_gpu", rounded(record), torch.cuda.get_device_name(), found)
    pool.shutdown(wait=False, cancel_futures=True)
