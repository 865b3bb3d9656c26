"""The part of cost.py that runs on a card, in PyTorch. Run it through `python benchmarks/cost.py gpu`.

Attention, the RNN and the projections are in float16, the state space in float32, the usual precision of an FFT in PyTorch:
the match is uneven (FFTs in half precision exist, and are not measured here). What fails at a length is left out. Times are CUDA events; a token's step is recorded as a CUDA graph and played back.
"""

import platform
from statistics import median

import torch
from cost import N, note, processor_seconds, repeat
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

CARD = torch.cuda.is_available()
DEVICE = "cuda" if CARD else "cpu"
CALLS = 10                                           # tokens in one recorded graph


def normal(*shape, dtype=torch.float16, grad=False):
    return torch.randn(*shape, device=DEVICE, dtype=dtype, requires_grad=grad)


# Training: each returns a function that goes forward and backward once.

def train_attention(batch, L, D, H, backend):
    """Attention that never stores its L x L scores; `backend` says whose kernel."""
    q, k, v = (normal(batch, H, L, D // H, grad=True) for _ in range(3))
    dy = normal(batch, H, L, D // H)

    def run():
        with sdpa_kernel(backend if CARD else SDPBackend.MATH):
            torch.autograd.grad(scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), dy)
    return run


def train_attention_kept(batch, L, D, H):
    """Attention as it is written, with its L x L scores in memory."""
    q, k, v = (normal(batch, H, L, D // H, grad=True) for _ in range(3))
    dy, future = normal(batch, H, L, D // H), torch.ones(L, L, dtype=torch.bool, device=DEVICE).triu(1)

    def run():
        scores = (q @ k.mT / (D // H) ** 0.5).masked_fill(future, -torch.inf)
        torch.autograd.grad(scores.softmax(-1) @ v, (q, k, v), dy)
    return run


def train_rnn(batch, L, D, H):
    """h_t = tanh(W h_{t-1} + U x_t + bias), by cuDNN."""
    layer = torch.nn.RNN(D, D, device=DEVICE, dtype=torch.float16)
    x, dy = normal(L, batch, D, grad=True), normal(L, batch, D)
    return lambda: torch.autograd.grad(layer(x)[0], (x, *layer.parameters()), dy)


def ssm_by_fft(x, rate, cb):
    """The recurrence h_t = a h_{t-1} + b x_t, y_t = c h_t, a = e^rate, as a convolution: K_k = sum over n of c b a^k."""
    D, L = x.shape[1:]
    M = 2 ** (L.bit_length() // 2)
    i, j = torch.arange(L // M, device=x.device), torch.arange(M, device=x.device)
    coarse = (rate[:, None] * (M * i)[:, None]).exp() * cb[:, None]          # a^k with k = M i + j is (a^M)^i a^j, so
    fine = (rate[..., None] * j).exp()                                       # (D, L / M, N) @ (D, N, M) is the kernel
    K = (coarse @ fine).reshape(D, L)
    return torch.fft.irfft(torch.fft.rfft(x, 2 * L) * torch.fft.rfft(K, 2 * L), 2 * L)[..., :L]


def train_ssm(batch, L, D, H):
    x, dy = (normal(batch, D, L, dtype=torch.float32, grad=grad) for grad in (True, False))
    rate = (-torch.rand(D, N, device=DEVICE) / 16).requires_grad_()
    cb = normal(D, N, dtype=torch.float32, grad=True)
    return lambda: torch.autograd.grad(ssm_by_fft(x, rate, cb), (x, rate, cb), dy)


def train_projections(batch, L, D, H):
    """The four D x D products around a mixer: three before it, one after."""
    x, dy, weights = normal(batch * L, D, grad=True), normal(batch * L, D), [normal(D, D, grad=True) for _ in range(4)]

    def run():
        for W in weights:
            torch.autograd.grad(x @ W, (x, W), dy)
    return run


# Generating: each returns a function that makes one token for every user, and the bytes it must keep for the next.

def token_attention(users, L, D, H, fused):
    q, K, V = (normal(users, H, length, D // H) for length in (1, L, L))

    def run():
        if fused:
            return scaled_dot_product_attention(q, K, V)
        return (q @ K.mT / (D // H) ** 0.5).softmax(-1) @ V
    return run, K.nbytes + V.nbytes


def token_rnn(users, L, D, H):
    W, x, h = normal(D, D), normal(users, D), normal(users, D)
    return lambda: torch.tanh(torch.addmm(x, h, W)), h.nbytes


def token_ssm(users, L, D, H):
    a, b, c, h = (torch.rand(*rows, D, N, device=DEVICE) for rows in ((), (), (), (users,)))
    x = normal(users, D, 1, dtype=torch.float32)
    return lambda: (h.mul_(a).addcmul_(b, x) * c).sum(-1), h.nbytes


def recorded(run):
    """`run`, CALLS times, as one CUDA graph: its playback spends no time in Python."""
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):
        run()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            run()
    return lambda keep=run: graph.replay()           # the graph knows addresses only: `run` keeps its arrays alive


def event_seconds(run):
    if not CARD:
        return processor_seconds(run)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def measure_training(results, name, L, make, *arguments):
    """Time and peak; what the card cannot hold is left out, by name."""
    try:
        run = make(*arguments)
        if CARD:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        run()
        peak = torch.cuda.max_memory_allocated() - before if CARD else 0
        note(results, name, L, repeat(lambda: event_seconds(run), median), peak)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        print(f"{name:24s} {L:7d} left out: {str(error)[:100]}", flush=True)


@torch.no_grad()
def measure_token(results, name, L, make, *arguments):
    run, kept = make(*arguments)
    play, tokens = (recorded(run), CALLS) if CARD else (run, 1)
    note(results, name, L, repeat(lambda: event_seconds(play) / tokens, median), kept)


def gpu(quick):
    D, H, tokens, users, powers = (64, 4, 512, 2, range(6, 9)) if quick else (1024, 16, 2 ** 17, 16, range(8, 18))
    flash, cudnn = SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION
    torch.manual_seed(0)
    train, train_one, generate = {}, {}, {}
    for L in (2 ** power for power in powers):
        for results, batch in ((train, tokens // L), (train_one, 1)):
            measure_training(results, "attention", L, train_attention, batch, L, D, H, flash)
            measure_training(results, "attention, cuDNN", L, train_attention, batch, L, D, H, cudnn)
            measure_training(results, "attention, scores kept", L, train_attention_kept, batch, L, D, H)
            measure_training(results, "rnn", L, train_rnn, batch, L, D, H)
            measure_training(results, "state space", L, train_ssm, batch, L, D, H)
            measure_training(results, "projections", L, train_projections, batch, L, D, H)
        measure_token(generate, "attention", L, token_attention, users, L, D, H, False)
        measure_token(generate, "attention, fused", L, token_attention, users, L, D, H, True)
        measure_token(generate, "rnn", L, token_rnn, users, L, D, H)
        measure_token(generate, "state space", L, token_ssm, users, L, D, H)
    results = {"channels": D, "heads": H, "states": N, "tokens": tokens, "users": users,
               "train": train, "train_one": train_one, "generate": generate}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version()}
    return results, torch.cuda.get_device_name() if CARD else "no card", versions
