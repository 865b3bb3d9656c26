"""What the next token costs: a Mamba, an LSTM and a Transformer that generate, on one core.

    python benchmarks/generation.py [--quick]      -> book/data/generation_cpu.json

    step        seconds a token after a context, small models of about as many parameters (d_model 128 in the Mamba)
    prefill     seconds for a prompt, the small models: token by token, and in parallel, 512 tokens at a time
    large       a Mamba of 24 layers, d_model 768, and a Transformer of 12, as of the published 130M: seconds a token
                after a context; seconds a step of a batch, and for several tokens at once, after a context of 1024
    read        seconds to read an array as large as the large Mamba's weights once, adding it up

The weights are random, the tokens too: neither changes the time. A context of a Mamba or an LSTM is a prompt that it
has read; a Transformer's cache is filled with random numbers, which takes no prefill and reads the same. All in
float32, one sequence unless a batch is named, on one core. Seconds are the process's processor time, which does not
count what other programs took of the core ("load" is how many wanted one, at the start and at the end: on a machine
with other work the caches and the memory are shared all the same).

Contestants take turns in a random order; the median of their turns counts, and the quartiles are stored beside it.
--quick runs a few small sizes and writes nothing.
"""

import argparse
import os
import time

if __name__ == "__main__":                           # one core; NumPy's matrix products read this when it is imported
    os.environ.update({f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "MKL", "OMP", "NUMBA")})

import numpy as np
from numba import njit
from scan import versions

from mambalib import measured
from mambalib.autograd import no_grad
from mambalib.generate import PREFILL
from mambalib.models import MambaLM, TransformerLM, match_parameters

VOCAB = 96
CONTEXTS = [16, 64, 256, 1024, 4096, 16384, 65536]
PROMPTS = [16, 64, 256, 1024, 4096]
BATCHES = [1, 2, 4, 8, 16, 32, 64]
ROOM = 512                                           # tokens after a context, at most
LARGE = dict(vocab_size=50280, d_model=768)


def small_models():
    mamba = MambaLM(VOCAB, d_model=128, n_layers=2)
    size = mamba.num_parameters
    others = {kind: match_parameters(kind, size, vocab_size=VOCAB, n_layers=2) for kind in ("lstm", "transformer")}
    return {"mamba": mamba, **others}


def large_models(quick):
    layers = (2, 1) if quick else (24, 12)
    return {
        "mamba": MambaLM(**LARGE, n_layers=layers[0]),
        "transformer": TransformerLM(**LARGE, n_layers=layers[1], n_heads=12),
    }


def prefill(model, tokens, state, size=PREFILL):
    """In parallel, `size` tokens at a time."""
    with no_grad():
        for start in range(0, tokens.shape[1], size):
            model(tokens[:, start:start + size], state=state)


def state_after(model, context, batch=1):
    """As it is after a context, with room for more."""
    state, rng = model.empty_state(batch, context + ROOM), np.random.default_rng(context)
    if model.config["model"] == "transformer":
        for layer in state:
            for array in (layer.keys, layer.values):     # written, so that memory is behind it
                rng.standard_normal(array.shape[1:], np.float32, array[0])
                array[1:] = array[0]
            layer.length[0] = context
    else:
        one = model.empty_state(1)                       # every sequence of the batch has the same context
        prefill(model, tokens_of(model, 1, context), one)
        for layer, memory in zip(state, one):
            for array, row in zip(layer, memory):
                array[...] = row
    return state


def tokens_of(model, *shape):
    return np.random.default_rng(0).integers(model.config["vocab_size"], size=shape)


def stepper(model, context, batch=1):
    """A call that takes one step; a Transformer's cache goes back to the context when its room is used up."""
    state, token = state_after(model, context, batch), tokens_of(model, batch)

    def step():
        model.step(token, state)
        rewind(model, state, context, 1)
    return step


def rewind(model, state, context, more):
    if model.config["model"] == "transformer":
        for layer in state:
            if layer.length[0] + more > context + ROOM:
                layer.length[0] = context


def at_once(model, count, context=1024):
    state, tokens = state_after(model, context), tokens_of(model, 1, count)

    def run():
        prefill(model, tokens, state)
        rewind(model, state, context, count)
    return run


def prompt_of(model, length, parallel):
    tokens = tokens_of(model, 1, length)

    def run():
        state = model.empty_state(1, length)
        if parallel:
            prefill(model, tokens, state)
        else:
            for token in tokens[0]:
                model.step(token[None], state)
    return run


@njit(fastmath=True)
def total(x):
    sums = np.float32(0)
    for i in range(x.size):
        sums += x[i]
    return sums


def reader(size):
    array = np.ones(size, np.float32)
    return lambda: total(array)


def take_turns(todo, seconds, least, most, warm=True):
    """{name: quartiles} in seconds: all take turns, in a random order, until each has had its time.

    Each turn begins with a call that is not counted, if `warm`: a generator's own earlier steps left its weights in the
    cache, the contestant before it did not.
    """
    times, rng = {name: [] for name in todo}, np.random.default_rng(0)
    for call in todo.values():
        call()
    while waiting := [name for name, t in times.items() if len(t) < least or (sum(t) < seconds and len(t) < most)]:
        for name in (waiting[i] for i in rng.permutation(len(waiting))):
            if warm:
                todo[name]()
            begin = time.process_time()
            todo[name]()
            times[name].append(time.process_time() - begin)
    return {name: [float(f"{q:.4g}") for q in np.quantile(t, [0.25, 0.5, 0.75])] for name, t in times.items()}


def table(name, found):
    print(name)
    for key, (_, median, _) in found.items():
        print(f"    {str(key):36s} {1e3 * median:12.3f} ms", flush=True)


def nested(found):
    """{(a, b): x} as {a: {b: x}}, keys as JSON has them."""
    result = {}
    for (first, second), value in found.items():
        result.setdefault(str(first), {})[str(second)] = value
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small sizes; writes nothing")
    parser.add_argument("--seconds", type=float, default=1.5, help="time spent on each contestant, about")
    arguments = parser.parse_args()
    quick = arguments.quick
    seconds = 0.05 if quick else arguments.seconds
    contexts, prompts, batches = (x[:2] if quick else x for x in (CONTEXTS, PROMPTS, BATCHES))
    load = [os.getloadavg()[0]]

    models = small_models()
    sizes = {name: {"parameters": model.num_parameters, "config": model.config} for name, model in models.items()}
    todo = {(name, L): stepper(model, L) for name, model in models.items() for L in contexts}
    step = take_turns(todo, seconds, 20, 500)
    table("step", step)
    found = take_turns({
        (f"{name}, {how}", L): prompt_of(model, L, how == "parallel") for name, model in models.items()
        for how in ("parallel", "token by token") for L in prompts
    }, seconds, 3, 200, warm=False)
    table("prefill", found)

    large = large_models(quick)
    large_sizes = {name: {"parameters": model.num_parameters, "config": model.config} for name, model in large.items()}
    wanted = {"mamba": [L for L in contexts if L in (16, 1024)], "transformer": contexts}
    contestants = {(name, L): stepper(model, L) for name, model in large.items() for L in wanted[name]}
    contestants["read", 0] = reader(large["mamba"].num_parameters)
    large_step = take_turns(contestants, 2 * seconds, 10, 100)
    table("large", large_step)
    read = large_step.pop(("read", 0))
    contestants.clear()
    todo = {(name, k): at_once(model, k) for name, model in large.items() for k in batches}
    once = take_turns(todo, seconds, 5, 100)
    table("several tokens at once", once)
    batched = {}
    for batch in batches:                            # one size after the other: the caches together are large
        todo = {(name, batch): stepper(model, 1024, batch) for name, model in large.items()}
        batched |= take_turns(todo, seconds, 7, 100)
    table("batch", batched)
    load.append(os.getloadavg()[0])

    record = {
        "threads": 1, "dtype": "float32", "statistic": "quartiles: [lower, median, upper], seconds of processor time",
        "load": load,
        "models": sizes, "step": nested(step), "prefill": nested(found),
        "large": {
            "models": large_sizes, "step": nested(large_step),
            "at once": nested(once), "batch": nested(batched), "context": 1024,
        },
        "read": {"bytes": 4 * large["mamba"].num_parameters, "seconds": read},
    }
    print("load", load)
    if not quick:
        print(measured.save("generation_cpu", record, measured.cpu_name(), versions("numpy", "numba")))


if __name__ == "__main__":
    main()
