"""Write oracle.npz: logits and gradients of small random models, by PyTorch and Hugging Face's transformers.

    pip install torch transformers
    python tests/models/make_oracle.py

Run once; the tests read the file. Made with torch 2.13.0 and transformers 5.24.0, on a processor without CUDA, where
MambaForCausalLM runs its plain PyTorch path. Every weight is random, also those that begin as ones or zeros. For each
model the file holds, under `model/`: tokens, targets, logits, loss, weight/NAME and grad/NAME, named as in that code.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

VOCAB, BATCH, L = 19, 2, 11


class LSTM(torch.nn.Module):
    """Blocks x + LSTM(norm(x)) between an embedding and a tied head. Of PyTorch's two biases the second stays zero."""

    def __init__(self, d_model=12, n_layers=2):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCAB, d_model)
        self.norms = torch.nn.ModuleList(torch.nn.RMSNorm(d_model, eps=1e-5) for _ in range(n_layers))
        self.lstms = torch.nn.ModuleList(torch.nn.LSTM(d_model, d_model, batch_first=True) for _ in range(n_layers))
        self.norm_f = torch.nn.RMSNorm(d_model, eps=1e-5)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for norm, lstm in zip(self.norms, self.lstms):
            x = x + lstm(norm(x))[0]
        return self.norm_f(x) @ self.embedding.weight.T


def mamba(**options):
    sizes = dict(vocab_size=VOCAB, hidden_size=12, num_hidden_layers=2, state_size=4, time_step_rank=3)
    return MambaForCausalLM(MambaConfig(**sizes, **options))


def llama():
    sizes = dict(vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    return LlamaForCausalLM(LlamaConfig(**sizes, rms_norm_eps=1e-5, tie_word_embeddings=True, rope_theta=10000.0))


def main():
    torch.manual_seed(0)
    models = {
        "mamba": mamba(),
        "mamba_biased": mamba(use_bias=True, use_conv_bias=False, conv_kernel=3, expand=1, tie_word_embeddings=False),
        "lstm": LSTM(),
        "llama": llama(),
    }
    out = {}
    for kind, model in models.items():
        for name, p in model.named_parameters():
            p.data = p.data + 0.3 * torch.randn(p.shape) * (not name.endswith("bias_hh_l0"))
            if name.endswith("bias_hh_l0"):
                p.data.zero_()
        tokens, targets = torch.randint(VOCAB, (BATCH, L)), torch.randint(VOCAB, (BATCH, L))
        logits = model(tokens)
        logits = getattr(logits, "logits", logits)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        tensors = dict(tokens=tokens, targets=targets, logits=logits, loss=loss)
        for name, p in model.named_parameters():
            tensors |= {f"weight/{name}": p, f"grad/{name}": p.grad}
        out |= {f"{kind}/{name}": x.detach().numpy() for name, x in tensors.items()}
    np.savez_compressed(Path(__file__).with_name("oracle.npz"), **out)


if __name__ == "__main__":
    main()
