"""Training: one step, the loop around it that can stop and go on, and bits per character of a text.

    training_step           loss, gradients, one step of the optimiser
    train                   many of them; validation, checkpoints, resuming
    load_model              the model of a checkpoint
    bits_per_character      how well a model predicts a text

A run is a folder. `last.safetensors` and `best.safetensors` hold all there is to a run, each in one file: weights, the
optimiser's state, the step, the history, the model's arguments, and what the caller adds (a tokenizer, say).
`history.jsonl` is the history for other programs to read, one JSON object a line.
"""

import json
import math
import os
import signal
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event

import numpy as np
from tqdm import tqdm

from . import _check, checkpoint
from .autograd import array_module, no_grad
from .models import build
from .nn import functional as F
from .optim import AdamW, cosine_with_warmup

__all__ = ["training_step", "train", "load_model", "bits_per_character"]

LAST, BEST, HISTORY = "last.safetensors", "best.safetensors", "history.jsonl"


def training_step(model, optimizer, tokens, targets, lr, clip=None):
    """One step on one batch; returns the loss before it, an array of shape () that nothing has waited for.

    Parameters
    ----------
    model : Module
        model(tokens) gives logits (batch, L, vocab).
    optimizer : AdamW
        Of the model's parameters.
    tokens, targets : (batch, L) integer arrays, where the model lives
        Targets of -100 do not count.
    lr : float
    clip : float, optional
        The largest norm of the gradient, all parameters together.
    """
    optimizer.zero_grad()
    loss = F.cross_entropy(model(tokens), targets)
    loss.backward()
    optimizer.step(lr, clip)
    return loss.data


def train(model, sample, *, steps, lr=8e-3, warmup=None, betas=(0.9, 0.95), weight_decay=0.1, clip=1.0, validate=None,
          every=100, path=None, resume=False, overwrite=False, metadata=None, progress=True):
    """Train a model, AdamW on batch after batch, and write down how it went.

    Ctrl-C ends the training after the step that runs, saves, and returns; a second one ends it at once.

    Parameters
    ----------
    model : Module
        Trained in place.
    sample : function
        sample(step) gives the tokens and targets of that step, steps counted from 0. Where it depends on the step
        alone, a run that was stopped and resumed gives the numbers of one that was not, bit for bit on a CPU.
    steps : int
        How many, all told: a run resumed at step 300 of 500 makes 200 more.
    lr : float or function
        The peak of a cosine schedule that ends at a tenth of it, or the learning rate as a function of the step.
    warmup : int, optional
        The steps in which the schedule climbs to its peak; a twentieth of all by default.
    betas, weight_decay : AdamW's
    clip : float, optional
        The largest norm of the gradient; None leaves it as it is.
    validate : function, optional
        validate(model), a number that should get smaller, as `bits_per_character` of held-out text.
    every : int
        Steps from one validation, checkpoint and line of the history to the next; one more follows the last step.
    path : str or path, optional
        The run's folder. Without it nothing is written.
    resume : bool
        Go on from the folder's `last.safetensors`.
    overwrite : bool
        Start anew in a folder that holds a run.
    metadata : dict, optional
        What JSON can hold, to be kept in the checkpoints.
    progress : bool
        Whether to write each line of the history to standard error, and on a terminal to draw a bar below.

    Returns
    -------
    list of dict
        The history: "step" (how many were made), "loss" (the mean since the line before, in nats), "validation" (where
        asked for), "lr", and "seconds" since the start, of all sittings together.

    Raises
    ------
    FileExistsError
        The folder holds a run, and neither resume nor overwrite is set.
    FileNotFoundError
        resume, and nothing to go on from.
    ValueError
        A checkpoint that is damaged, or of another model: the message names what differs, and for a parameter both
        shapes. Numbers out of range.
    FloatingPointError
        The loss is infinite or no number. Checkpoints of before stay.
    OSError
        A checkpoint could not be written, on a full disk say. The one before it stays.
    """
    steps, every = _check.count("steps", steps, 1), _check.count("every", every, 1)
    if not callable(lr) and not 0 < lr < math.inf:
        raise ValueError(f"lr: expected a number above 0 or a function of the step, got {lr!r}")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip: expected a number above 0 or None, got {clip!r}")
    warmup = steps // 20 if warmup is None else _check.count("warmup", warmup, 0)
    cosine = partial(cosine_with_warmup, steps=steps, warmup=warmup)
    rate = lr if callable(lr) else partial(cosine, peak=lr, floor=lr / 10)
    optimizer = AdamW(model.named_parameters(), betas=betas, weight_decay=weight_decay)
    xp = array_module(model.parameters()[0].data)
    path = None if path is None else _folder(path, resume, overwrite)
    first, history, losses = _load(path / LAST, model, optimizer) if resume else (0, [], [])
    started = time.perf_counter() - (history[-1]["seconds"] if history else 0.0)

    def save(name, step):
        tensors = {f"model.{key}": x for key, x in model.state_dict().items()}
        tensors |= {f"optimizer.{key}": x for key, x in optimizer.state_dict().items()}
        tensors["losses"] = np.array([float(x) for x in losses])              # since the last line of the history
        about = {"config": getattr(model, "config", None), "step": step, "history": history, "metadata": metadata}
        checkpoint.save(path / name, tensors, about)

    step = first
    with _bar(first, steps, progress) as bar, _ctrl_c() as stop:
        while step < steps and not stop.is_set():
            model.train().reseed(step)
            tokens, targets = sample(step)
            losses.append(training_step(model, optimizer, xp.asarray(tokens), xp.asarray(targets), rate(step), clip))
            step += 1
            bar.update()
            if step % every and step < steps:
                continue

            loss = float(np.mean([float(x) for x in losses]))                 # here alone is a card waited for
            if not math.isfinite(loss):
                raise FloatingPointError(f"loss: expected a finite number, got {loss} by step {step}; try a smaller lr")
            line = {"step": step, "loss": loss, "lr": rate(step - 1), "seconds": time.perf_counter() - started}
            if validate is not None:
                line["validation"] = float(validate(model.eval()))
            earlier = [old["validation"] for old in history if "validation" in old]
            best = validate is not None and line["validation"] <= min(earlier, default=math.inf)
            history.append(line)
            losses.clear()
            if progress:
                seen = "".join(f"   {key} {line[key]:.3f}" for key in ("loss", "validation") if key in line)
                bar.write(f"step {step:6d}{seen}   {line['seconds']:.0f} s", file=sys.stderr)
            if path is not None:
                save(LAST, step)
                if best:
                    save(BEST, step)
                _write_lines(path / HISTORY, history)
        if stop.is_set() and path is not None and losses:
            save(LAST, step)
    model.eval()
    return history


def _folder(path, resume, overwrite):
    """The run's folder, made if need be; refuses to mix two runs."""
    path = Path(path)
    if resume and overwrite:
        raise ValueError("resume: expected False with overwrite=True, got True")
    if resume:
        if not (path / LAST).is_file():
            raise FileNotFoundError(f"path: expected a run to resume, found no {LAST} in {path}")
        return path
    old = [path / name for name in (LAST, BEST, HISTORY) if (path / name).exists()]
    if old and not overwrite:
        raise FileExistsError(f"path: expected a folder without a run, got {path}, which has {old[0].name}; "
                              f"resume=True goes on from it, overwrite=True starts anew")
    path.mkdir(parents=True, exist_ok=True)
    for file in old:
        file.unlink()
    return path


def _load(file, model, optimizer):
    """Put a checkpoint into the model and the optimiser; its step, its history and the losses that came after."""
    tensors, about = _read(file)
    config = getattr(model, "config", None)
    if config and about["config"]:                   # weights of the same shapes can belong to different models
        for key in about["config"] | config:
            if key not in ("seed", "dropout") and config.get(key) != about["config"].get(key):
                raise ValueError(f"model: expected {key}={about['config'].get(key)!r}, as in {file}, "
                                 f"got {config.get(key)!r}")
    model.load_state_dict(_part(tensors, "model."))
    optimizer.load_state_dict(_part(tensors, "optimizer."))
    return about["step"], about["history"], tensors["losses"].tolist()


def load_model(path):
    """The model of a checkpoint, ready to predict, and what else was kept.

    Parameters
    ----------
    path : str or path
        A file that `train` wrote, or a run's folder, which stands for its best checkpoint (its last, without
        validation).

    Returns
    -------
    model : Module
        In evaluation mode.
    about : dict
        "config", "step", "history" and "metadata".

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        It is damaged, not a checkpoint of `train`, or weights and arguments do not fit: the message names the
        parameter and both shapes.
    """
    path = Path(path)
    if path.is_dir():
        path = path / (BEST if (path / BEST).exists() else LAST)
    tensors, about = _read(path)
    if not about["config"]:
        raise ValueError(f"path: expected a checkpoint that names its model's arguments, got {path}, which does not")
    model = build(about["config"])
    try:
        model.load_state_dict(_part(tensors, "model."))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return model.eval(), about


def _read(file):
    tensors, about = checkpoint.load(file)
    missing = {"config", "step", "history", "metadata"} - set(about) or {"losses"} - set(tensors)
    if missing:
        raise ValueError(f"path: expected a checkpoint of train, got {file}, which has no {min(missing)}")
    return tensors, about


def _part(tensors, prefix):
    """The arrays whose names begin so, without the prefix."""
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def _write_lines(file, history):
    """The whole history, in place of the old file at once."""
    part = file.with_suffix(".part")
    part.write_text("".join(json.dumps(line) + "\n" for line in history), encoding="utf-8")
    os.replace(part, file)


@contextmanager
def _ctrl_c():
    """An event that Ctrl-C sets, instead of breaking into the middle of a step; the second time it breaks in."""
    stop = Event()

    def handle(*_):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:                               # not the main thread, where Ctrl-C does not come either
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _bar(first, steps, progress):
    return tqdm(total=steps, initial=first, unit="step", disable=None if progress else True, dynamic_ncols=True)


def bits_per_character(model, tokens, *, characters=None, window=2048, carry=True):
    """-log2 of the probability that the model gives a text, all but the first token, divided by its characters.

    Uniform guessing among V characters takes log2(V) bits, 6.7 for a hundred.

    Parameters
    ----------
    model : language model
    tokens : (n,) integer array, n >= 2
    characters : float, optional
        How many the tokens stand for; as many as tokens by default.
    window : int
        How many tokens the model sees at a time; with carry the result does not depend on it.
    carry : bool
        Whether it remembers the windows before: a recurrent model has a state of constant size, a Transformer a cache
        of the whole text. False begins anew in each window, as in training.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Fewer than two tokens, a token out of range, or a number that is too small.
    """
    tokens, window = np.asarray(tokens), _check.count("window", window, 1)
    if tokens.ndim != 1 or len(tokens) < 2:
        raise ValueError(f"tokens: expected shape (n,), n at least 2, got {tokens.shape}")
    xp, nats, state = array_module(model.parameters()[0].data), 0.0, None
    with no_grad():
        for start in range(0, len(tokens) - 1, window):
            y = tokens[None, start + 1:start + 1 + window]                    # (1, window), at the end less
            x = tokens[None, start:start + y.shape[1]]
            if not carry or state is None:
                state = model.empty_state(1, len(tokens) if carry else window)
            nats += F.cross_entropy(model(x, state=state), xp.asarray(y)).item() * y.size
    return nats / math.log(2) / ((len(tokens) - 1) if characters is None else characters)
