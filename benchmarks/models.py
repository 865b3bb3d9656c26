"""A MambaLM against the same model in PyTorch, on the processor's cores: a training step, and decoding.

    python benchmarks/models.py [--quick]      needs torch; mambapy and transformers where they are  -> book/data/models_cpu.json

    training step   forward, backward and AdamW at d_model 256, 4 layers, batch 8, L = 512, vocabulary 256. In PyTorch the model
                    is written out below, with its own convolution and products, and three ways to scan: a loop over time,
                    mambapy's parallel scan, doubling (Hillis and Steele). All start from the same weights and tokens, and must
                    agree in the loss and in every gradient
    decoding        a token at a time at the sizes of Mamba-130M (24 layers, d_model 768, vocabulary 50280), random weights,
                    batch 1, after 16 tokens: this package's step(), and transformers' MambaForCausalLM with its cache
    command line    `python -m mambalib train` with nothing said, once: its seconds, and the bits per character held out at best

Contestants take turns, each until it has had its seconds and at least 3 turns, and the smallest time of each counts. "load" is
how many processes wanted a core at the start and at the end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scan import optional, versions
from selective import take_turns

from mambalib import measured
from mambalib.models import MambaLM
from mambalib.nn import functional as F
from mambalib.optim import AdamW

TRAINING = dict(vocab_size=256, d_model=256, n_layers=4)
BATCH, L = 8, 512
DECODING = dict(vocab_size=50280, d_model=768, n_layers=24)


def ours(config, tokens, targets):
    """The step, and the loss and gradients of the first."""
    model = MambaLM(**config)
    optimizer = AdamW(model.named_parameters(), lr=0.0)

    def gradients():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens), targets)
        loss.backward()
        return loss

    def step():
        gradients()
        optimizer.step()

    return step, gradients().item(), {name: np.array(p.grad) for name, p in model.named_parameters()}, model


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def scans(torch):
    """{name: a, b (batch, L, D, N) -> h}: pure PyTorch, nothing compiled."""
    def loop(a, b):
        h, states = torch.zeros_like(a[:, 0]), []
        for a_t, b_t in zip(a.unbind(1), b.unbind(1)):
            h = a_t * h + b_t
            states.append(h)
        return torch.stack(states, dim=1)

    def doubling(a, b):
        distance = 1
        while distance < a.shape[1]:
            a_late, b_late = a[:, distance:], b[:, distance:]
            b = torch.cat([b[:, :distance], b_late + a_late * b[:, :-distance]], dim=1)
            a = torch.cat([a[:, :distance], a_late * a[:, :-distance]], dim=1)
            distance *= 2
        return b

    found = {"PyTorch, a loop over time": loop, "PyTorch, doubling": doubling}
    pscan = optional("mambapy.pscan")
    return found | ({"mambapy": pscan.pscan} if pscan else {})


def torch_step(torch, scan, state, config, tokens, targets):
    """The same in PyTorch, from the weights `state` of a MambaLM."""
    T = torch.nn.functional
    w = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in state.items()}
    tokens, targets = torch.from_numpy(tokens), torch.from_numpy(targets)
    optimizer = torch.optim.AdamW(w.values(), lr=0.0)

    def norm(x, weight):
        return T.rms_norm(x, (x.shape[-1],), weight, 1e-5)

    def block(x, of):
        x, z = (x @ of["in_proj.weight"].T).chunk(2, dim=-1)
        channels, N = of["A_log"].shape
        x = T.conv1d(x.transpose(1, 2), of["conv1d.weight"], of["conv1d.bias"], padding=3, groups=channels)
        x = T.silu(x[..., :-3].transpose(1, 2))
        low, B, C = (x @ of["x_proj.weight"].T).split([of["dt_proj.weight"].shape[1], N, N], dim=-1)
        delta = T.softplus(low @ of["dt_proj.weight"].T + of["dt_proj.bias"])
        a, b = torch.exp(delta[..., None] * -torch.exp(of["A_log"])), (delta * x)[..., None] * B[:, :, None]
        y = (scan(a, b) @ C[..., None])[..., 0] + of["D"] * x
        return (y * T.silu(z)) @ of["out_proj.weight"].T

    def gradients():
        optimizer.zero_grad()
        x = w["backbone.embedding.weight"][tokens]
        for i in range(config["n_layers"]):
            start = f"backbone.layers.{i}."
            of = {name.removeprefix(start + "mixer."): value for name, value in w.items() if name.startswith(start + "mixer.")}
            x = x + block(norm(x, w[start + "norm.weight"]), of)
        logits = norm(x, w["backbone.norm_f.weight"]) @ w["backbone.embedding.weight"].T
        loss = T.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        return loss

    def step():
        gradients()
        optimizer.step()

    return step, gradients().item(), {name: value.grad.numpy() for name, value in w.items()}


def training(torch, config, batch, length, seconds):
    drawn = np.random.default_rng(0).integers(0, config["vocab_size"], (batch, length + 1))
    tokens, targets = drawn[:, :-1].copy(), drawn[:, 1:].copy()
    step, loss, grads, model = ours(config, tokens, targets)
    todo = {"mambalib": step}
    if torch:
        for name, scan in scans(torch).items():
            todo[name], other_loss, other = torch_step(torch, scan, model.state_dict(), config, tokens, targets)
            assert abs(other_loss - loss) < 1e-4, name
            for key, grad in grads.items():
                assert np.abs(other[key] - grad).max() < 2e-3 * np.abs(grad).max(), (name, key)
    return {"config": config, "batch": batch, "L": length, "seconds": take_turns(todo, seconds)}


def decoding(torch, config, seconds):
    token, prompt = np.zeros(1, np.int64), np.zeros((1, 16), np.int64)
    model = MambaLM(**config)
    state = model.empty_state(1)
    model(prompt, state=state)
    todo = {"mambalib": lambda: model.step(token, state)}
    if torch and optional("transformers"):
        from transformers import MambaConfig, MambaForCausalLM
        other = MambaForCausalLM(MambaConfig(vocab_size=config["vocab_size"], hidden_size=config["d_model"],
                                             num_hidden_layers=config["n_layers"])).eval()
        with torch.no_grad():
            cache = other(torch.from_numpy(prompt), use_cache=True).cache_params

        @torch.no_grad()
        def step():
            other(torch.from_numpy(token[None]), cache_params=cache, use_cache=True)

        todo["transformers"] = step
    return {"config": config, "seconds a token": take_turns(todo, seconds)}


def command_line():
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mambalib", "train"], cwd=folder, check=True, capture_output=True,
                       env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])})
        seconds = time.perf_counter() - begin
        lines = (Path(folder) / "mamba-run" / "history.jsonl").read_text(encoding="utf-8").splitlines()
        best = min(line["validation"] for line in map(json.loads, lines) if line.get("validation") is not None)
    return {"seconds": round(seconds, 1), "bits per character": round(best, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="time spent on each contestant, about")
    parser.add_argument("--quick", action="store_true", help="small sizes; writes nothing")
    arguments = parser.parse_args()
    torch, load = optional("torch"), [round(os.getloadavg()[0], 1)]
    small = dict(vocab_size=64, d_model=32, n_layers=2)
    if arguments.quick:
        results = {"training step": training(torch, small, 2, 64, 0.1), "decoding": decoding(torch, small, 0.1)}
    else:
        results = {"training step": training(torch, TRAINING, BATCH, L, arguments.seconds)}
        print(results["training step"], flush=True)
        results["decoding"] = decoding(torch, DECODING, arguments.seconds)
        results["command line"] = command_line()
    print(results)
    if not arguments.quick:
        load.append(round(os.getloadavg()[0], 1))
        record = {"dtype": "float32", "statistic": "minimum, in seconds", "load": load} | results
        found = versions("numpy", "numba", "torch", "mambapy", "transformers")
        print(measured.save("models_cpu", record, measured.cpu_name(), found))


if __name__ == "__main__":
    main()
