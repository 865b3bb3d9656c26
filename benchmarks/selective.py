"""The selective scan against what a user would run instead, on the same arrays in one run.

    python benchmarks/selective.py cpu       the processor's cores: this package, NumPy, and PyTorch, JAX, mambapy and
                                             transformers where they are installed      -> book/data/selective_cpu.json
    python benchmarks/selective.py gpu       a card (selective_gpu.py)

With skip connection, gate, bias and softplus, in float32. Contestants that keep time second to last or channels before
time get their arrays so. "forward" is y; "forward and backward" is y and the gradients of u, delta, A, B, C, D, z and
delta_bias; "step" is one step of decoding, the state updated in place.

    NumPy, a loop over time         arrays of one step, written into memory that is there
    NumPy, the reference            this package's definition and its gradient
    unfused                         exp(delta A) and delta B u made by NumPy as (batch, L, D, N), this package's linear_scan
    PyTorch, a loop over time       the same two arrays, then a loop
    transformers                    its own code where there is no CUDA kernel, the same in other words; its gradient is left
                                    out, as a slice a[:, t] of it has a gradient of the size of a: minutes
    mambapy                         the same two arrays, then its parallel scan
    JAX, lax.scan                   compiled, step by step, nothing of (batch, L, D, N)

Contestants take turns, each until it has had its seconds and at least 3 turns, and the smallest time of each counts: on a
machine with other work it says most about the code.
"""

import argparse
import time

import numba
import numpy as np
from scan import optional, versions

from mambalib import linear_scan, measured, selective_scan, selective_scan_backward, selective_state_update

SHAPES = [(2, 1024, 768, 16), (1, 4096, 1536, 16), (8, 256, 512, 16)]            # batch, L, D, N
STEPS = [(1, 1536, 16), (16, 1536, 16)]                                          # batch, D, N
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def arguments_of(batch, L, D, N):
    """As a Mamba block at its start has them: steps from 0.001 to 0.1, A = -(1, ..., N)."""
    rng = np.random.default_rng(0)
    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    step = np.exp(rng.uniform(np.log(0.001), np.log(0.1), D))
    return {
        "u": draw(batch, L, D), "delta": 0.1 * draw(batch, L, D), "A": -np.tile(np.arange(1, N + 1, dtype=np.float32), (D, 1)),
        "B": draw(batch, L, N), "C": draw(batch, L, N), "D": np.ones(D, np.float32), "z": draw(batch, L, D),
        "delta_bias": np.log(np.expm1(step)).astype(np.float32),
    }


def silu(x):
    return x / (1 + np.exp(-x))


def numpy_loop(u, delta, A, B, C, D, z, delta_bias):
    step = np.logaddexp(delta + delta_bias, 0)
    entering, (batch, L, channels) = step * u, u.shape
    h, decay, new = (np.zeros((batch, *A.shape), u.dtype) for _ in range(3))
    y = np.empty_like(u)
    for t in range(L):
        np.multiply(step[:, t, :, None], A, out=decay)
        np.exp(decay, out=decay)
        np.multiply(entering[:, t, :, None], B[:, t, None], out=new)
        np.multiply(h, decay, out=h)
        np.add(h, new, out=h)
        np.matmul(h, C[:, t, :, None], out=y[:, t, :, None])
    y += D * u
    return y * silu(z)


def unfused(u, delta, A, B, C, D, z, delta_bias):
    step = np.logaddexp(delta + delta_bias, 0)
    h = linear_scan(np.exp(step[..., None] * A), (step * u)[..., None] * B[:, :, None], axis=1)
    return (np.matmul(h, C[..., None])[..., 0] + D * u) * silu(z)


# --- PyTorch and what runs in it --------------------------------------------------------------------------------------


def torch_contestants(torch, p, grad_y, threads):
    """{name: (forward, forward and backward)}."""
    F = torch.nn.functional
    torch.set_num_threads(threads)
    x = {name: torch.from_numpy(value).requires_grad_() for name, value in p.items()}
    grad_y = torch.from_numpy(grad_y)

    def around(scan):
        def run(u, delta, A, B, C, D, z, delta_bias):
            step = F.softplus(delta + delta_bias)
            a, b = torch.exp(step[..., None] * A), (step * u)[..., None] * B[:, :, None]
            return (scan(a, b, C) + D * u) * F.silu(z)
        return run

    def loop(a, b, C):
        h, y = torch.zeros_like(a[:, 0]), []
        for a_t, b_t, C_t in zip(a.unbind(1), b.unbind(1), C.unbind(1)):         # a[:, t] has a gradient as large as a
            h = a_t * h + b_t
            y.append((h @ C_t[..., None])[..., 0])
        return torch.stack(y, dim=1)

    runs = {"PyTorch, a loop over time": around(loop)}
    pscan = optional("mambapy.pscan")
    if pscan:
        runs["mambapy"] = around(lambda a, b, C: (pscan.pscan(a, b) @ C[..., None])[..., 0])
    mamba = optional("transformers.models.mamba.modeling_mamba")
    if mamba:
        def transformers(u, delta, A, B, C, D, z, delta_bias):
            u, delta, B, C, z = (x.transpose(1, 2) for x in (u, delta, B, C, z))
            return mamba.mamba_selective_scan(u, delta, A, B, C, D=D, z=z, delta_bias=delta_bias, delta_softplus=True).transpose(1, 2)
        runs["transformers"] = transformers

    def pair(run):
        def forward():
            with torch.no_grad():
                return run(**x).numpy()

        def both():
            y = run(**x)
            return [y.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(y, list(x.values()), grad_y))]

        return forward, both

    return {name: pair(run) if name != "transformers" else (pair(run)[0], None) for name, run in runs.items()}


def jax_contestant(jax, p, grad_y):
    jnp = jax.numpy
    x = {name: jax.device_put(value) for name, value in p.items()}

    def run(x):
        step = jax.nn.softplus(x["delta"] + x["delta_bias"])

        def advance(h, now):
            step, entering, B, C = now
            h = jnp.exp(step[..., None] * x["A"]) * h + entering[..., None] * B[:, None]
            return h, (h * C[:, None]).sum(-1)

        in_time = [v.swapaxes(0, 1) for v in (step, step * x["u"], x["B"], x["C"])]
        _, y = jax.lax.scan(advance, jnp.zeros((x["u"].shape[0], *x["A"].shape)), in_time)
        return (y.swapaxes(0, 1) + x["D"] * x["u"]) * jax.nn.silu(x["z"])

    forward = jax.jit(run)
    def gradient(x, grad_y):
        y, back = jax.vjp(run, x)
        return y, back(grad_y)[0]

    both = jax.jit(gradient)
    def run_both():
        y, grads = jax.block_until_ready(both(x, grad_y))
        return [y, *(grads[name] for name in NAMES)]

    return lambda: forward(x).block_until_ready(), run_both


def contestants(p, grad_y, threads):
    def ours(engine=None):
        def forward():
            return selective_scan(**p, delta_softplus=True, engine=engine)

        def both():
            return [forward(), *selective_scan_backward(grad_y, **p, delta_softplus=True, engine=engine)[:8]]

        return forward, both

    todo = {
        "mambalib": ours(), "NumPy, the reference": ours("reference"), "NumPy, a loop over time": (lambda: numpy_loop(**p), None),
        "unfused": (lambda: unfused(**p), None),
    }
    torch, jax = optional("torch"), optional("jax")
    if torch:
        todo |= torch_contestants(torch, p, grad_y, threads)
    if jax:
        todo["JAX, lax.scan"] = jax_contestant(jax, p, grad_y)
    return todo


def agree(todo):
    """Everyone computes the same: to 1e-4 of the largest number, as long products of float32 differ by that."""
    for kind in (0, 1):
        (first, *others) = ((name, both[kind]()) for name, both in todo.items() if both[kind])
        for name, results in others:
            results, expected = (x if isinstance(x, list) else [x] for x in (results, first[1]))
            for got, e in zip(results, expected, strict=True):
                assert np.abs(np.asarray(got) - e).max() < 1e-4 * np.abs(e).max(), name


def step_contestants(batch, D, N, threads):
    p = arguments_of(batch, 1, D, N)
    u, delta, A, B, C, skip, z, bias = (x[:, 0] if x.ndim == 3 else x for x in p.values())
    state, out = np.zeros((batch, D, N), np.float32), np.empty_like(u)

    def numpy():
        step = np.logaddexp(delta + bias, 0)
        state[...] = np.exp(step[..., None] * A) * state + (step * u)[..., None] * B[:, None]
        return (np.matmul(state, C[..., None])[..., 0] + skip * u) * silu(z)

    todo = {"mambalib": lambda: selective_state_update(state, u, delta, A, B, C, skip, z, bias, True, out=out), "NumPy": numpy}
    torch, mamba = optional("torch"), optional("transformers.models.mamba.modeling_mamba")
    if torch and mamba:
        torch.set_num_threads(threads)
        s, *given = (torch.from_numpy(x) for x in (state, u, delta, A, B, C, skip, bias))
        gate = torch.from_numpy(z)
        todo["transformers"] = torch.no_grad()(lambda: mamba.mamba_selective_state_update(s, *given, True, gate))
    return todo


def take_turns(todo, seconds):
    """{name: the smallest time, in seconds}."""
    times = {name: [] for name in todo}
    for call in todo.values():
        call()
    while waiting := [name for name, t in times.items() if len(t) < 3 or (sum(t) < seconds and len(t) < 1000)]:
        for name in waiting:
            begin = time.perf_counter()
            todo[name]()
            times[name].append(time.perf_counter() - begin)
    return {name: float(f"{min(t):.4g}") for name, t in times.items()}


def main_cpu(arguments):
    threads, results = numba.get_num_threads(), []
    for shape in SHAPES[:1] if arguments.quick else SHAPES:
        p = arguments_of(*shape)
        grad_y = np.random.default_rng(1).standard_normal(p["u"].shape).astype(np.float32)
        todo = contestants(p, grad_y, threads)
        agree(todo)
        result = {"shape": shape}
        print("(batch, L, D, N) =", shape)
        for kind, key in enumerate(("forward", "forward and backward")):
            result[key] = take_turns({name: both[kind] for name, both in todo.items() if both[kind]}, arguments.seconds)
            for who, t in result[key].items():
                print(f"    {key:22s} {who:28s} {1e3 * t:10.2f} ms  {t / result[key]['mambalib']:8.1f}", flush=True)
        results.append(result)
    steps = [{"shape": shape, "seconds": take_turns(step_contestants(*shape, threads), arguments.seconds)} for shape in STEPS]
    for step in steps:
        print("step", step["shape"], {who: f"{1e6 * t:.0f} us" for who, t in step["seconds"].items()})
    if not (arguments.dry_run or arguments.quick):
        record = {"dtype": "float32", "threads": threads, "statistic": "minimum, in seconds", "shapes": results, "step": steps}
        found = versions("numpy", "numba", "torch", "jax", "mambapy", "transformers")
        print(measured.save("selective_cpu", record, measured.cpu_name(), found))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", choices=["cpu", "gpu"])
    parser.add_argument("--seconds", type=float, default=3.0, help="time spent on each contestant, about (cpu)")
    parser.add_argument("--quick", action="store_true", help="the first shape alone; writes nothing (cpu)")
    parser.add_argument("--dry-run", action="store_true", help="measure and print, write nothing")
    arguments = parser.parse_args()
    if arguments.where == "gpu":
        from selective_gpu import main_gpu
        main_gpu(arguments.dry_run)
    else:
        main_cpu(arguments)


if __name__ == "__main__":
    main()
