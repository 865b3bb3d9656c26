"""Write oracle.npz: what PyTorch computes for the operations of mambalib.nn.functional, and its gradients, in float32.

    pip install torch
    python tests/nn/make_oracle.py

Run once; the tests read the file. Made with torch 2.13.0 on a processor. For each case the file holds
"case/in/NAME", "case/out/I", "case/grad/I" (what backward began with) and "case/gradient/NAME".
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

rng = np.random.default_rng(0)
stored = {}


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def case(name, function, constants=(), **inputs):
    """Store the inputs, the outputs and the gradients of sum(out * grad) with respect to all but the constants."""
    tensors = {key: torch.tensor(x) for key, x in inputs.items()}
    for key, x in tensors.items():
        x.requires_grad = x.is_floating_point() and key not in constants
    outs = function(*tensors.values())
    outs = outs if isinstance(outs, tuple) else (outs,)
    grads = [normal(*y.shape) for y in outs]
    torch.autograd.backward(outs, [torch.tensor(g) for g in grads])
    for key, x in inputs.items():
        stored[f"{name}/in/{key}"] = x
        if tensors[key].requires_grad:
            stored[f"{name}/gradient/{key}"] = tensors[key].grad.numpy()
    for i, (y, g) in enumerate(zip(outs, grads)):
        stored[f"{name}/out/{i}"], stored[f"{name}/grad/{i}"] = y.detach().numpy(), g


def conv(groups, x, weight, bias, window=None):
    long = F.pad(x.mT, (weight.shape[2] - 1, 0)) if window is None else torch.cat([window, x], 1).mT
    return F.conv1d(long, weight, bias, groups=groups).mT


def lstm(x, weight_ih, weight_hh, bias, h0, c0):
    layer = torch.nn.LSTM(x.shape[2], weight_hh.shape[1], batch_first=True)
    weights = {"weight_ih_l0": weight_ih, "weight_hh_l0": weight_hh}
    weights |= {"bias_ih_l0": bias, "bias_hh_l0": torch.zeros_like(bias)}
    hs, (h, c) = torch.func.functional_call(layer, weights, (x, (h0[None], c0[None])))
    return hs, h[0], c[0]


def attention(offset, q, k, v):
    L, S = q.shape[2], k.shape[2]
    seen = torch.arange(S) <= offset + torch.arange(L)[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


tokens = rng.integers(0, 11, (3, 7))
targets = np.where(rng.random((3, 7)) < 0.3, -100, tokens)
wide = 4 * normal(3, 7, 11)

case("linear", F.linear, x=normal(3, 7, 5), weight=normal(6, 5), bias=normal(6))
case("embedding", lambda tokens, weight: F.embedding(tokens, weight), tokens=tokens, weight=normal(11, 5))
case("silu", F.silu, x=wide)
case("softplus", F.softplus, x=wide)
case("sigmoid", torch.sigmoid, x=wide)
case("tanh", torch.tanh, x=wide)
case("relu", F.relu, x=wide)
case("rms_norm", lambda x, weight: F.rms_norm(x, weight.shape, weight, 1e-5), x=wide, weight=normal(11))
case("conv1d", lambda *p: conv(1, *p), x=normal(2, 9, 6), weight=normal(4, 6, 3), bias=normal(4))
case("conv1d_groups", lambda *p: conv(2, *p), x=normal(2, 9, 6), weight=normal(8, 3, 3), bias=normal(8))
case("conv1d_depthwise", lambda *p: conv(20, *p), x=normal(2, 9, 20), weight=normal(20, 1, 4), bias=normal(20))
case("conv1d_depthwise_silu", lambda *p: F.silu(conv(20, *p)), ["window"], x=normal(2, 9, 20), weight=normal(20, 1, 4),
     bias=normal(20), window=normal(2, 3, 20))
case("cross_entropy", lambda x, y: F.cross_entropy(x.flatten(0, 1), y.flatten()), logits=wide, targets=targets)
case("softmax", lambda x: F.softmax(x, -1), x=wide)
case("log_softmax", lambda x: F.log_softmax(x, 1), x=wide)
case("causal_attention", lambda *p: attention(0, *p), q=normal(2, 3, 6, 4), k=normal(2, 3, 6, 4), v=normal(2, 3, 6, 4))
case("causal_attention_offset", lambda *p: attention(5, *p), q=normal(2, 3, 4, 8), k=normal(2, 3, 9, 8),
     v=normal(2, 3, 9, 8))
case("lstm", lstm, x=normal(3, 8, 5), weight_ih=normal(24, 5), weight_hh=normal(24, 6), bias=normal(24),
     h0=normal(3, 6), c0=normal(3, 6))

# The engine's own operations, in one expression.


def expression(a, b):
    sums = (a @ b.mT).exp().sum(1, keepdim=True)
    return (sums.log() * a[:, :1].sigmoid() / (b[1:3].mean() ** 2 + 1)).sqrt().max(0).values


case("tensor", expression, a=np.abs(normal(4, 5)), b=np.abs(normal(6, 5)))

np.savez_compressed(Path(__file__).with_name("oracle.npz"), **stored)
