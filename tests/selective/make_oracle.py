"""Write oracle.npz: the selective scan, its gradients and its step by the PyTorch code of Hugging Face's transformers.

    pip install torch transformers
    python tests/selective/make_oracle.py

Run once; the tests read the file. Made with transformers 5.24.0, whose `mamba_selective_scan` and
`mamba_selective_state_update` are what a Mamba model runs where no CUDA kernel is installed. They take (batch, D, L). All
arrays are float64, but that code takes B and u through float32: so they hold float32 numbers, and their gradients and the
step are float32 numbers.
"""

from pathlib import Path

import numpy as np
import torch
from transformers.models.mamba.modeling_mamba import mamba_selective_scan, mamba_selective_state_update

BATCH, L, D, N = 2, 12, 5, 4


def main():
    rng = np.random.default_rng(0)
    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    given = {
        "u": draw(BATCH, L, D), "delta": draw(BATCH, L, D), "A": -np.exp(draw(D, N)).astype(np.float32).astype(np.float64),
        "B": draw(BATCH, L, N), "C": draw(BATCH, L, N), "D": draw(D), "z": draw(BATCH, L, D), "delta_bias": draw(D),
    }
    grad_y, grad_last_state = draw(BATCH, L, D), draw(BATCH, D, N)
    x = {name: torch.tensor(value, requires_grad=True) for name, value in given.items()}
    turned = {name: x[name].transpose(1, 2) for name in ("u", "delta", "B", "C", "z")}
    y, last_state = mamba_selective_scan(
        turned["u"], turned["delta"], x["A"], turned["B"], turned["C"], D=x["D"], z=turned["z"],
        delta_bias=x["delta_bias"], delta_softplus=True, return_last_state=True,
    )
    y = y.transpose(1, 2)
    ((y * torch.tensor(grad_y)).sum() + (last_state * torch.tensor(grad_last_state)).sum()).backward()

    state = last_state.detach().clone()
    step = {name: value[:, 0].detach() if value.dim() == 3 else value.detach() for name, value in x.items()}
    y_step = mamba_selective_state_update(
        state, step["u"], step["delta"], step["A"].double(), step["B"], step["C"], step["D"], step["delta_bias"], True, step["z"],
    )
    np.savez_compressed(
        Path(__file__).with_name("oracle.npz"), **given, grad_y=grad_y, grad_last_state=grad_last_state,
        y=y.detach().numpy(), last_state=last_state.detach().numpy(), y_step=y_step.numpy(), state_step=state.numpy(),
        **{f"grad_{name}": value.grad.numpy() for name, value in x.items()},
    )


if __name__ == "__main__":
    main()
