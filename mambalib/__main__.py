"""python -m mambalib train | generate | eval: a language model from the command line."""

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np

from . import checkpoint, text
from .generate import sample_text
from .models import build
from .train import LAST, bits_per_character, load_model, train

RUN = "mamba-run"


def main(arguments=None):
    parser, train_parser = parsers()
    args = parser.parse_args(arguments)
    try:
        if args.command == "train" and args.resume:  # what the run was started with, but for what is given now
            train_parser.set_defaults(**_kept(args.run, checkpoint.load(Path(args.run) / LAST)[1])["arguments"])
            args = parser.parse_args(arguments)
        {"train": run_train, "generate": run_generate, "eval": run_eval}[args.command](args)
    except KeyboardInterrupt:
        parser.exit(130, "\n")
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        parser.exit(2, f"mambalib {args.command}: error: {error}\n")


def run_train(args):
    corpus, digest = _corpus(args.text, args.encoding)
    training, held_out = text.split(corpus, args.validation)
    if args.resume:
        kept = _kept(args.run, checkpoint.load(Path(args.run) / LAST)[1])
        if kept["digest"] != digest:
            raise ValueError(f"--text: expected the text that the run in {args.run} was started with, got another")
        tokenizer = text.tokenizer_from_json(kept["tokenizer"])
    elif args.tokens == "characters":
        tokenizer = text.CharTokenizer(corpus)
    else:
        tokenizer = text.BPETokenizer(training, args.vocab_size)
    training, held_out = tokenizer.encode(training), tokenizer.encode(held_out)
    held_out_characters = len(tokenizer.decode(held_out[1:]))
    text.batches(training, args.batch, args.length, None)                     # says at once if the text is too short

    own = {"mamba": dict(d_state=args.d_state), "transformer": dict(n_heads=args.n_heads), "lstm": {}}[args.model]
    model = build(dict(model=args.model, vocab_size=tokenizer.vocab_size, d_model=args.d_model, n_layers=args.n_layers,
                       dropout=args.dropout, seed=args.seed, **own)).to(args.device)
    print(f"{args.text or 'the Python language reference'}: {len(corpus):,} characters, "
          f"{tokenizer.vocab_size} kinds of token; {len(training):,} tokens to train on, {len(held_out):,} held out\n"
          f"{args.model}: {model.num_parameters:,} parameters; "
          f"{args.steps:,} steps of {args.batch} x {args.length} tokens\n"
          f"loss: nats per token; validation: bits per character of the held-out text", flush=True)

    def sample(step):                                # from a stream of the step's own, whatever came before
        return next(text.batches(training, args.batch, args.length, np.random.default_rng([args.seed, step])))

    of_this_call = ("command", "run", "resume", "overwrite")
    arguments = {name: value for name, value in vars(args).items() if name not in of_this_call}
    history = train(
        model, sample, steps=args.steps, lr=args.lr, warmup=args.warmup, weight_decay=args.weight_decay, clip=args.clip,
        validate=lambda model: bits_per_character(model, held_out, characters=held_out_characters, **_windows(args)),
        every=args.every, path=args.run, resume=args.resume, overwrite=args.overwrite,
        metadata={"arguments": arguments, "tokenizer": tokenizer.to_json(), "digest": digest},
    )
    if not history or history[-1]["step"] < args.steps:
        print(f"stopped; python -m mambalib train --run {args.run} --resume goes on")
        return
    print(f"\n{args.run}: best {min(line['validation'] for line in history):.3f} bits per character "
          f"(uniform guessing: {np.log2(tokenizer.vocab_size) * (len(held_out) - 1) / held_out_characters:.2f})\n")
    prompt = "The " if set("The ") <= set(corpus) else corpus[:20]
    _write(prompt)
    sample_text(model, tokenizer, prompt, 400, temperature=0.7, seed=args.seed, write=_write)
    print(f"\n\nMore: python -m mambalib generate --run {args.run} --prompt 'The '")


def run_generate(args):
    model, about = load_model(args.run)
    tokenizer = text.tokenizer_from_json(_kept(args.run, about)["tokenizer"])
    _write(args.prompt)
    sample_text(model.to(args.device), tokenizer, args.prompt, args.n, temperature=args.temperature, top_k=args.top_k,
                top_p=args.top_p, seed=args.seed, stop=args.stop or (), write=_write)
    print()


def run_eval(args):
    model, about = load_model(args.run)
    kept = _kept(args.run, about)
    tokenizer, arguments = text.tokenizer_from_json(kept["tokenizer"]), kept["arguments"]
    if args.text is None:
        corpus, digest = _corpus(arguments["text"], arguments["encoding"])
        if digest != kept["digest"]:
            raise ValueError("--text: the text that this run was trained on has changed; name one to evaluate on")
        tokens = tokenizer.encode(text.split(corpus, arguments["validation"])[1])
    else:
        tokens = tokenizer.encode(text.read_text(args.text, args.encoding))
    characters = len(tokenizer.decode(tokens[1:]))
    bits = bits_per_character(model.to(args.device), tokens, characters=characters,
                              **_windows(argparse.Namespace(**arguments)))
    print(f"{bits:.4f} bits per character, of {characters:,} characters of {args.text or 'the held-out text'}; "
          f"step {about['step']} of {args.run}")


def _corpus(path, encoding):
    """The text, and a name for exactly this text."""
    corpus = text.default_text() if path is None else text.read_text(path, encoding)
    if not corpus:
        raise ValueError(f"{path}: expected a text, got an empty file")
    return corpus, hashlib.sha256(corpus.encode()).hexdigest()


def _windows(args):
    """How a text is measured: a recurrent model reads it in one go, a Transformer no further back than in training."""
    return dict(window=args.length, carry=False) if args.model == "transformer" else {}


def _kept(run, about):
    """What `run_train` has put into a checkpoint."""
    kept = about.get("metadata") or {}
    if "tokenizer" not in kept:
        raise ValueError(f"--run: expected a run of python -m mambalib train, got {run}, which keeps no tokenizer")
    return kept


def _write(piece):
    sys.stdout.write(piece)
    sys.stdout.flush()


def parsers():
    """The command's parser, and the one of train."""
    parser = argparse.ArgumentParser(
        prog="python -m mambalib", description="Train a small language model on a text, write with it, measure it.",
        epilog="Begin with: python -m mambalib train (about a minute on two cores), then: python -m mambalib generate")
    commands = parser.add_subparsers(dest="command", required=True, metavar="train | generate | eval")

    def option(group, name, help, **arguments):
        """Add it, its default told at the end of its help."""
        group.add_argument(name, help=help + (" (default: %(default)s)" if "default" in arguments else ""), **arguments)

    train = commands.add_parser(
        "train", help="train a model on a text",
        description="Train a model to predict each token of a text from those before it. Each interval it says how "
                    "well it does on a part of the text that it does not train on; the best and the last model are "
                    "kept in the run's folder.")
    run = train.add_argument_group("the run")
    option(run, "--run", "folder for best.safetensors, last.safetensors, history.jsonl", default=RUN, metavar="DIR")
    how = run.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true",
                     help="go on with the run in DIR, with its arguments; Ctrl-C stops one")
    how.add_argument("--overwrite", action="store_true", help="start anew in DIR, whose run is deleted")
    data = train.add_argument_group("the text")
    option(data, "--text", "text to learn; without it the Python language reference", metavar="FILE")
    option(data, "--encoding", "of the file", default="utf-8")
    option(data, "--tokens",
           "characters: a token each. bpe: frequent groups of bytes, so a window spans more text and the model has a "
           "larger vocabulary to learn",
           choices=("characters", "bpe"), default="characters")
    option(data, "--vocab-size", "tokens of bpe", type=int, default=1024)
    option(data, "--validation", "share of the text, from its end, that is held out", type=float, default=0.1)
    model = train.add_argument_group("the model")
    option(model, "--model", "which kind", choices=("mamba", "lstm", "transformer"), default="mamba")
    option(model, "--d-model",
           "width: numbers that stand for a token between layers; weights and time grow with its square",
           type=int, default=128)
    option(model, "--n-layers", "depth: blocks on top of each other", type=int, default=3)
    option(model, "--d-state", "mamba: numbers that each channel remembers", type=int, default=16)
    option(model, "--n-heads", "transformer: attention heads", type=int, default=4)
    option(model, "--dropout",
           "share of numbers set to zero in training; above 0 where a model learns a small text by heart and gets "
           "worse on held-out text",
           type=float, default=0.0)
    steps = train.add_argument_group("the training")
    option(steps, "--steps", "how many batches, all told", type=int, default=600)
    option(steps, "--batch", "windows a step: more make a smoother gradient and a slower step", type=int, default=8)
    option(steps, "--length", "tokens in a window: how far back the model can learn to look", type=int, default=256)
    option(steps, "--lr",
           "peak learning rate: too low learns slowly, too high not at all; it falls along a cosine to a tenth",
           type=float, default=0.008)
    option(steps, "--warmup", "steps in which it climbs to the peak; without it a twentieth of all", type=int)
    option(steps, "--weight-decay", "pull of the matrices towards zero", type=float, default=0.1)
    option(steps, "--clip", "largest norm of the gradient: one bad batch cannot undo the rest", type=float, default=1.0)
    option(steps, "--every", "steps from one validation and checkpoint to the next", type=int, default=150)
    option(steps, "--seed", "of first weights and windows; the same seed, the same run", type=int, default=0)

    generate = commands.add_parser("generate", help="continue a prompt",
                                   description="Continue a prompt, token by token.")
    option(generate, "--prompt", "text to continue", default="The ")
    option(generate, "--n", "tokens, at most", type=int, default=500)
    option(generate, "--temperature",
           "0 always takes the likeliest token, 1 draws as the model predicts, above 1 more boldly",
           type=float, default=0.8)
    option(generate, "--top-k", "draw among the k likeliest tokens alone", type=int)
    option(generate, "--top-p", "draw among the fewest likeliest tokens of probability p together", type=float)
    option(generate, "--seed", "the same seed, the same text; without it a new text each time", type=int)
    option(generate, "--stop", "end before this text; may be repeated", action="append", metavar="TEXT")
    evaluate = commands.add_parser("eval", help="bits per character of a text",
                                   description="How many bits the model needs for each character of a text: what is "
                                               "held out of its own, or another's.")
    option(evaluate, "--text", "text to predict; without it the held-out part of the run's", metavar="FILE")
    option(evaluate, "--encoding", "of the file", default="utf-8")
    for command in (generate, evaluate):
        option(command, "--run",
               "the run's folder, whose best checkpoint is taken, or a file",
               default=RUN, metavar="PATH")
    for command in (train, generate, evaluate):
        option(command, "--device", "cuda needs CuPy and numba-cuda", choices=("cpu", "cuda"), default="cpu")
    return parser, train


if __name__ == "__main__":
    main()
