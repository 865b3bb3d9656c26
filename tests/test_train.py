"""The training loop: it learns, it stops and goes on as if it had not, and it loses nothing when something fails."""

import json
import os
import resource
import signal

import numpy as np
import pytest

from mambalib import checkpoint
from mambalib.autograd import Tensor
from mambalib.models import build
from mambalib.nn import functional as F
from mambalib.optim import AdamW
from mambalib.tasks import accuracy, induction_heads
from mambalib.text import batches
from mambalib.train import bits_per_character, load_model, train, training_step

KINDS = ("mamba", "lstm", "transformer")


def small(kind="mamba", **arguments):
    return build(dict(model=kind, vocab_size=7, d_model=16, n_layers=1, dropout=0.1) | arguments)


def sample(step):
    tokens = np.random.default_rng(step).integers(0, 7, (2, 11))
    return tokens[:, :-1], tokens[:, 1:]


def run(path, model=None, steps=12, sample=sample, **arguments):
    model = small() if model is None else model
    arguments = dict(every=5, validate=lambda m: float(np.abs(m.head.data).sum())) | arguments
    return model, train(model, sample, steps=steps, path=path, progress=False, **arguments)


def stop_at(last, times=1):
    """The same batches, and Ctrl-C in the middle of that step."""
    def stopping(step):
        if step == last:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return sample(step)
    return stopping


def without_seconds(history):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in history]


def same(model, other):
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# --- Learning ---------------------------------------------------------------------------------------------------------


def test_a_step_returns_the_loss_before_it_and_changes_the_model():
    model = small(dropout=0.0)
    tokens, targets = sample(0)
    logits = model(tokens).data.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -np.take_along_axis(log_p, targets[..., None], -1).mean()
    optimizer = AdamW(model.named_parameters())
    losses = [float(training_step(model, optimizer, tokens, targets, 1e-2, 1.0)) for _ in range(5)]
    assert losses[0] == pytest.approx(wanted, rel=1e-5)
    assert losses[4] < losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_learns_a_text_that_repeats(kind):
    tokens = np.tile(np.array([0, 3, 1, 4, 1, 5, 6, 2]), 60)
    model = small(kind, dropout=0.0)
    drawn = batches(tokens, 4, 32, np.random.default_rng(0))
    history = train(model, lambda step: next(drawn), steps=120, lr=1e-2, progress=False)
    assert history[-1]["loss"] < 0.3 and bits_per_character(model, tokens, window=32, carry=False) < 0.5
    if kind != "transformer":                        # which has not learned positions that it was not trained at
        assert bits_per_character(model, tokens) < 0.1


def test_a_mamba_learns_to_recall():
    model = build(dict(model="mamba", vocab_size=6, d_model=32, n_layers=2))
    train(model, lambda step: induction_heads(32, 16, 6, rng=step), steps=300, lr=1e-2, weight_decay=0, progress=False)
    tokens, targets = induction_heads(200, 16, 6, rng=10_000)
    assert accuracy(model(tokens), targets) > 0.9, "chance is 0.2"


def test_the_learning_rate_climbs_falls_and_may_be_a_function():
    rates = [line["lr"] for line in run(None, steps=40, every=1, lr=1e-3, warmup=4)[1]]
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3]) and rates[-1] == pytest.approx(1e-4)
    assert sorted(rates[3:], reverse=True) == rates[3:]
    assert [line["lr"] for line in run(None, steps=3, every=1, lr=lambda step: 1e-3 * step)[1]] == [0.0, 1e-3, 2e-3]


def test_dropout_acts_in_training_and_not_in_validation():
    seen = []
    model = run(None, validate=lambda m: seen.append(m.training) or 0.0)[0]
    assert seen == [False] * 3 and not model.training


def test_the_history_has_a_line_for_each_interval_and_the_end(tmp_path):
    losses = [line["loss"] for line in run(None, every=1)[1]]
    history = run(tmp_path)[1]
    assert [line["step"] for line in history] == [5, 10, 12]
    assert [line["loss"] for line in history] == [np.mean(losses[:5]), np.mean(losses[5:10]), np.mean(losses[10:])]
    assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == history
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.safetensors", "history.jsonl", "last.safetensors"]


def test_the_best_checkpoint_is_the_one_that_validated_best(tmp_path):
    values = iter([3.0, 1.0, 2.0, float("nan")])
    run(tmp_path, steps=20, validate=lambda m: next(values))
    assert load_model(tmp_path)[1]["step"] == 10
    assert load_model(tmp_path / "last.safetensors")[1]["step"] == 20


def test_a_checkpoint_brings_back_model_history_and_metadata(tmp_path):
    trained, history = run(tmp_path, metadata={"tokenizer": "x"})
    model, about = load_model(tmp_path / "last.safetensors")
    assert same(model, trained) and about["history"] == history and about["metadata"] == {"tokenizer": "x"}
    tokens = sample(0)[0]
    assert np.array_equal(model(tokens).data, trained(tokens).data), "both predict, without dropout"


# --- Stopping and going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("last", (0, 4, 6, 10))
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, kind, last):
    whole, history = run(tmp_path / "whole", small(kind))
    stopped, first = run(tmp_path / "run", small(kind), sample=stop_at(last))
    assert [line["step"] for line in first] == [line["step"] for line in history if line["step"] <= last + 1]
    assert not same(stopped, whole)
    resumed, second = run(tmp_path / "run", small(kind, seed=9), resume=True)
    assert same(resumed, whole) and without_seconds(second) == without_seconds(history)
    for name in ("last.safetensors", "best.safetensors"):
        tensors, about = checkpoint.load(tmp_path / "run" / name)
        wanted, wanted_about = checkpoint.load(tmp_path / "whole" / name)
        assert tensors.keys() == wanted.keys() and all(np.array_equal(tensors[key], wanted[key]) for key in wanted)
        assert about["step"] == wanted_about["step"]


def test_a_finished_run_resumes_to_itself_and_a_longer_one_goes_on(tmp_path):
    model, history = run(tmp_path)
    again, same_history = run(tmp_path, resume=True)
    assert same(again, model) and same_history == history
    assert [line["step"] for line in run(tmp_path, steps=20, resume=True)[1]] == [5, 10, 12, 15, 20]


def test_the_second_ctrl_c_ends_at_once_and_leaves_the_signal_as_it_was(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, sample=stop_at(7, times=2))
    assert signal.getsignal(signal.SIGINT) is before and load_model(tmp_path)[1]["step"] == 5


def test_a_run_is_not_mixed_with_another(tmp_path):
    model = run(tmp_path / "run")[0]
    with pytest.raises(FileExistsError, match="without a run, got .*run, which has last.safetensors; resume=True"):
        run(tmp_path / "run", steps=3)
    assert same(load_model(tmp_path / "run" / "last.safetensors")[0], model)
    run(tmp_path / "run", steps=3, overwrite=True)
    assert load_model(tmp_path / "run")[1]["step"] == 3
    with pytest.raises(ValueError, match="resume: expected False with overwrite=True"):
        run(tmp_path / "run", resume=True, overwrite=True)
    with pytest.raises(FileNotFoundError, match="path: expected a run to resume, found no last.safetensors in .*none"):
        run(tmp_path / "none", resume=True)


# --- What goes wrong --------------------------------------------------------------------------------------------------


def test_another_model_cannot_resume_and_what_differs_is_named(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match="model: expected d_model=16, as in .*last.safetensors, got 24"):
        run(tmp_path, small(d_model=24), resume=True)
    with pytest.raises(ValueError, match="model: expected model='mamba', as in .*, got 'lstm'"):
        run(tmp_path, small("lstm"), resume=True)


def test_a_checkpoint_whose_weights_do_not_fit_is_named_with_both_shapes(tmp_path):
    run(tmp_path)
    tensors, about = checkpoint.load(tmp_path / "last.safetensors")
    name = "backbone.norm_f.weight"
    checkpoint.save(tmp_path / "x.safetensors", tensors | {f"model.{name}": np.ones(8, np.float32)}, about)
    with pytest.raises(ValueError, match=rf"x.safetensors: {name}: expected shape \(16,\), got \(8,\)"):
        load_model(tmp_path / "x.safetensors")
    checkpoint.save(tmp_path / "x.safetensors", {k: x for k, x in tensors.items() if k != f"model.{name}"}, about)
    with pytest.raises(ValueError, match=f"missing {name}"):
        load_model(tmp_path / "x.safetensors")


def test_a_damaged_or_foreign_file_is_named(tmp_path):
    run(tmp_path)
    file = tmp_path / "last.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-100], whole[:5], b"", b"\xff" * 100):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="last.safetensors"):
            run(tmp_path, resume=True)
        with pytest.raises(ValueError, match="last.safetensors"):
            load_model(file)
    checkpoint.save(file, {"x": np.zeros(3)})
    with pytest.raises(ValueError, match="expected a checkpoint of train, got .*last.safetensors, which has no con"):
        load_model(file)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "none")


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    """A limit on the size of a file stands for the disk: writing fails half-way through."""
    run(tmp_path, steps=5)
    before = (tmp_path / "last.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="last.safetensors, which is as it was"):
            run(tmp_path, steps=10, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "last.safetensors").read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"best.safetensors", "history.jsonl", "last.safetensors"}
    assert [line["step"] for line in run(tmp_path, steps=10, resume=True)[1]] == [5, 10]


@np.errstate(all="ignore")
def test_a_loss_that_is_no_number_ends_the_training_and_leaves_the_old_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match="loss: expected a finite number, got nan by step 10"):
        run(tmp_path, lr=lambda step: np.nan if step == 6 else 1e-3)
    model, about = load_model(tmp_path / "last.safetensors")
    assert about["step"] == 5 and all(np.isfinite(x).all() for x in model.state_dict().values())


@pytest.mark.parametrize("change, message", [
    (dict(steps=0), "steps: expected at least 1, got 0"),
    (dict(every=0), "every: expected at least 1, got 0"),
    (dict(lr=0), "lr: expected a number above 0 or a function of the step, got 0"),
    (dict(lr=np.nan), "lr: expected a number above 0 or a function of the step, got nan"),
    (dict(clip=-1.0), "clip: expected a number above 0 or None, got -1.0"),
    (dict(warmup=-1), "warmup: expected at least 0, got -1"),
    (dict(weight_decay=-1), "weight_decay: expected at least 0, got -1"),
])
def test_numbers_out_of_range_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


def test_tokens_out_of_range_are_named(tmp_path):
    with pytest.raises(ValueError, match="tokens: expected .*6, got 7"):
        run(tmp_path, sample=lambda step: (np.full((1, 4), 7), np.zeros((1, 4), int)))


# --- Bits per character -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", (1, 7, 64))
def test_bits_are_those_of_the_whole_text_at_once(kind, window):
    model, tokens = small(kind).eval(), np.random.default_rng(0).integers(0, 7, 50)
    log_p = F.log_softmax(Tensor(model(tokens[None]).data.astype(np.float64))).data[0]
    wanted = -log_p[np.arange(49), tokens[1:]].sum() / np.log(2)
    assert bits_per_character(model, tokens, window=window) == pytest.approx(wanted / 49, rel=1e-5)
    assert bits_per_character(model, tokens, window=window, characters=98) == pytest.approx(wanted / 98, rel=1e-5)


def test_windows_on_their_own_begin_anew():
    model, tokens = small().eval(), np.random.default_rng(0).integers(0, 7, 21)
    pieces = [bits_per_character(model, tokens[start:start + 11]) for start in (0, 10)]
    assert bits_per_character(model, tokens, window=10, carry=False) == pytest.approx(np.mean(pieces), rel=1e-5)


def test_a_text_of_one_token_has_nothing_to_predict():
    with pytest.raises(ValueError, match=r"tokens: expected shape \(n,\), n at least 2, got \(1,\)"):
        bits_per_character(small(), np.zeros(1, int))
