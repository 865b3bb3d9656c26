"""The part of selective.py that runs on a card, on PyTorch's arrays. Run it through `python benchmarks/selective.py gpu`.

With skip connection, gate, bias and softplus, N = 16, channel-last. Times are CUDA events, medians behind a kernel that
sleeps until all calls are queued (`scan_gpu.event_seconds`), so Python's own time is not in them; "host seconds" is that
time. "copy" moves as many bytes as must be moved: u, delta, z and y (4 arrays), for the gradient u, delta, z, grad_y and
three gradients (7). Memory is what a call has allocated at its peak beside its results.

    ours                      selective_scan, selective_scan_backward
    unfused                   exp(delta A) and delta B u as (batch, L, D, N) by PyTorch, this package's linear_scan, a sum
    a loop over time          the same arithmetic step by step, compiled by nobody (forward alone, one shape)
    mamba_ssm                 the CUDA C++ kernel, where it is installed; channels before time, as it wants them

Results count when they agree with a loop in float64 on the smallest shape.
"""

import subprocess
from importlib import import_module

import torch
from scan import versions
from scan_gpu import clock_seconds, copy_seconds, event_seconds, rounded
from torch.nn.functional import silu, softplus

from mambalib import linear_scan, measured, selective_scan, selective_scan_backward

STATES = 16
SHAPES = [(8, 2048, 2048), (1, 2048, 16384), (8, 1536, 1024), (64, 1536, 512), (1, 1536, 131072), (1, 1536, 1024)]     # batch, D, L
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def inputs(batch, channels, length, dtype):
    """As a Mamba block at its start has them, with random rates."""
    generator = torch.Generator("cuda").manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, device="cuda")                                # noqa: E731
    row, rates = (batch, length, channels), torch.exp(0.5 * draw(channels, STATES))
    return {"u": draw(*row).to(dtype), "delta": (draw(*row) - 2).to(dtype), "A": -rates, "B": draw(batch, length, STATES).to(dtype),
            "C": draw(batch, length, STATES).to(dtype), "D": draw(channels), "z": draw(*row).to(dtype), "delta_bias": 0.1 * draw(channels)}


def loop(u, delta, A, B, C, D, z, delta_bias):
    """The definition, in the precision of its arguments."""
    step = softplus(delta + delta_bias, threshold=1e9)
    h, y = torch.zeros(u.shape[0], *A.shape, dtype=u.dtype, device="cuda"), []
    for t in range(u.shape[1]):
        h = torch.exp(step[:, t, :, None] * A) * h + (step[:, t] * u[:, t])[..., None] * B[:, t, None]
        y.append((h * C[:, t, None]).sum(-1))
    return (torch.stack(y, 1) + D * u) * silu(z)


def unfused(u, delta, A, B, C, D, z, delta_bias):
    step = softplus(delta + delta_bias)
    h = linear_scan(torch.exp(step[..., None] * A), (step * u)[..., None] * B[:, :, None], axis=1)
    return ((h * C[:, :, None]).sum(-1) + D * u) * silu(z)


def mamba_ssm():
    """Of channel-last arguments, its call on them turned beforehand, and the turned ones, whose gradients it has; None where it is not."""
    try:
        scan = import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    except Exception:
        return None

    def make(x):
        turned = {k: (v.transpose(1, 2) if v.dim() == 3 else v).contiguous().requires_grad_() for k, v in x.items()}
        call = lambda: scan(*(turned[k] for k in NAMES[:7]), delta_bias=turned["delta_bias"], delta_softplus=True)   # noqa: E731
        return call, list(turned.values())
    return make


def memory(call, results):
    """Bytes allocated at the peak of a call, beside its results."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    kept = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    return peak - sum(x.numel() * x.element_size() for x in results(kept))


def agrees(x, grad_y):
    """The relative errors of y and of each gradient against a loop in float64."""
    wide = {k: v.double().requires_grad_() for k, v in x.items()}
    y = loop(**wide)
    wanted = dict(zip(NAMES, torch.autograd.grad(y, list(wide.values()), grad_y.double())))
    got = selective_scan_backward(grad_y, **x, delta_softplus=True)
    error = lambda a, b: ((a.double() - b).norm() / b.norm()).item()                                             # noqa: E731
    return {"y": error(selective_scan(**x, delta_softplus=True), y), **{k: error(getattr(got, k), wanted[k]) for k in NAMES}}


def main_gpu(dry_run):
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    found = versions("numpy", "numba", "numba-cuda", "torch", "mamba-ssm") | {"cuda": torch.version.cuda}
    found["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0].strip()
    record, peer = {"states": STATES, "statistic": "median", "shapes": []}, mamba_ssm()
    for dtype, torch_dtype in DTYPES.items():
        x = inputs(*SHAPES[-1], torch_dtype)
        record[f"relative errors, {dtype}"] = agrees(x, torch.randn_like(x["u"]))
        print(dtype, record[f"relative errors, {dtype}"], flush=True)
    for shape in SHAPES:
        for dtype, torch_dtype in DTYPES.items():
            x = inputs(*shape, torch_dtype)
            grad_y, n = torch.randn_like(x["u"]), x["u"].numel() * x["u"].element_size() // 4       # in float32 numbers
            forward = lambda: selective_scan(**x, delta_softplus=True)                                           # noqa: E731
            backward = lambda: selective_scan_backward(grad_y, **x, delta_softplus=True)                         # noqa: E731
            case = {"batch, D, L": shape, "dtype": dtype,
                    "forward": {"copy": copy_seconds(4 * n), "ours": event_seconds(forward)},
                    "backward": {"copy": copy_seconds(7 * n), "ours": event_seconds(backward)},
                    "host seconds": {"forward": clock_seconds(forward, 100), "backward": clock_seconds(backward, 100)},
                    "bytes": {"forward": memory(forward, lambda y: [y]),
                              "backward": memory(backward, lambda g: [v for v in g if v is not None])}}
            if dtype == "float32" and 4 * n * STATES < 2**32:
                case["forward"]["unfused"] = event_seconds(lambda: unfused(**x), 5)
                case["bytes"]["forward, unfused"] = memory(lambda: unfused(**x), lambda y: [y])
            if dtype == "float32" and shape == SHAPES[-1]:
                case["forward"]["a loop over time"] = clock_seconds(lambda: loop(**x), 1, lambda y: torch.cuda.synchronize())
            if peer:
                run, leaves = peer(x)
                out, grad = run(), grad_y.transpose(1, 2).contiguous()
                case["forward"]["mamba_ssm"] = event_seconds(run)
                case["backward"]["mamba_ssm"] = event_seconds(lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True))
            record["shapes"].append(case)
            print(shape, dtype, {k: {w: f"{1e3 * t:.4f} ms" for w, t in case[k].items()} for k in ("forward", "backward", "host seconds")}, case["bytes"], flush=True)
            torch.cuda.empty_cache()
    if not dry_run:
        record = rounded(record) | {"shapes": [rounded(case) for case in record["shapes"]]}
        record["elsewhere"] = measured.load("selective_gpu")["elsewhere"]      # the CUDA C++ kernel's times, from another run
        print(measured.save("selective_gpu", record, torch.cuda.get_device_name(), found))
