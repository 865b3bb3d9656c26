"""python -m mambalib, as a user meets it: train, generate, eval, and what is refused, in one line, no traceback."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mambalib
from mambalib import checkpoint
from mambalib.__main__ import main
from mambalib.text import default_text
from mambalib.train import load_model

ROOT = Path(mambalib.__file__).parent.parent
TEXT = default_text()[:6000]
TINY = "--d-model 16 --n-layers 1 --steps 6 --every 3 --batch 2 --length 16".split()


def cli(*arguments):
    main([str(argument) for argument in arguments])


@pytest.fixture
def refused(capsys):
    """What the command says as it refuses: one line, exit status 2."""
    def refuse(*arguments):
        with pytest.raises(SystemExit) as exit:
            cli(*arguments)
        assert exit.value.code == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "error: " in error
        return error

    return refuse


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    cli("train", "--run", folder / "run", "--text", folder / "text.txt", *TINY)
    return folder


def test_a_model_is_trained_and_written_with_from_a_shell(tmp_path):
    def shell(*arguments):
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.run([sys.executable, "-m", "mambalib", *arguments], cwd=tmp_path,
                              env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True)

    said = shell("train", *TINY)
    assert "the Python language reference: " in said.stdout and "parameters; 6 steps of 2 x 16 tokens" in said.stdout
    assert re.search(r"step +3   loss \d\.\d+   validation \d\.\d+   \d+ s\n", said.stderr)
    assert re.search(r"mamba-run: best \d\.\d+ bits per character \(uniform guessing: \d\.\d+\)", said.stdout)
    assert {file.name for file in tmp_path.iterdir()} == {"mamba-run"}
    written = sorted(file.name for file in (tmp_path / "mamba-run").iterdir())
    assert written == ["best.safetensors", "history.jsonl", "last.safetensors"]
    one = shell("generate", "--prompt", "The ", "--n", "30", "--seed", "1").stdout
    assert one == shell("generate", "--prompt", "The ", "--n", "30", "--seed", "1").stdout
    assert one.startswith("The ") and len(one) == 4 + 30 + 1


@pytest.mark.parametrize("command", ((), ("train",), ("generate",), ("eval",)), ids=lambda c: c[0] if c else "all")
def test_help_explains_every_option(command, capsys):
    with pytest.raises(SystemExit) as exit:
        cli(*command, "--help")
    said = capsys.readouterr().out
    assert exit.value.code == 0 and "None" not in said
    for option in re.findall(r"^  (--[a-z-]+.*)$", said, re.M):
        name, *rest = re.split(r"  +", option)
        assert rest or re.search(rf"^  {re.escape(option)}\n {{20,}}\w", said, re.M), f"{name} has no explanation"


@pytest.mark.parametrize("kind", ("lstm", "transformer"))
def test_the_other_models_are_trained_the_same_way(trained, tmp_path, kind, capsys):
    cli("train", "--run", tmp_path, "--text", trained / "text.txt", "--model", kind, *TINY)
    cli("generate", "--run", tmp_path, "--n", 5)
    cli("eval", "--run", tmp_path)
    assert f"{kind}: " in capsys.readouterr().out


def test_byte_pairs_are_measured_in_characters(trained, tmp_path, capsys):
    cli("train", "--run", tmp_path, "--text", trained / "text.txt", "--tokens", "bpe", "--vocab-size", 300, *TINY)
    said = capsys.readouterr().out
    assert "300 kinds of token" in said
    uniform = float(re.search(r"uniform guessing: (\d\.\d+)", said)[1])
    assert uniform < np.log2(300) * 0.8, "a token stands for more than one character"


def test_eval_repeats_what_training_said_of_the_held_out_text(trained, capsys):
    said = min(line["validation"] for line in load_model(trained / "run")[1]["history"])
    cli("eval", "--run", trained / "run")
    assert float(capsys.readouterr().out.split()[0]) == pytest.approx(said, abs=1e-3)
    (trained / "other.txt").write_text(TEXT[:500])
    cli("eval", "--run", trained / "run", "--text", trained / "other.txt")
    assert "499 characters of" in capsys.readouterr().out


def test_a_stopped_run_goes_on_with_its_own_arguments(trained, tmp_path, capsys):
    """The first half of a run, made by the same command with fewer steps and the whole schedule."""
    whole = ["--text", trained / "text.txt", *TINY, "--lr", "1e-2", "--seed", 3]
    cli("train", "--run", tmp_path / "whole", *whole)
    script = ("import os, signal, sys, mambalib.__main__ as m, mambalib.text as t\n"
              "batches, drawn = t.batches, []\n"
              "def stopping(*a):\n"
              "    drawn.append(0)\n"
              "    len(drawn) == 5 and os.kill(os.getpid(), signal.SIGINT)\n"
              "    return batches(*a)\n"
              "t.batches = stopping\n"
              "m.main(sys.argv[1:])\n")
    said = subprocess.run([sys.executable, "-c", script, "train", "--run", tmp_path / "run", *map(str, whole)],
                          cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"stopped; python -m mambalib train --run {tmp_path / 'run'} --resume goes on" in said
    assert load_model(tmp_path / "run" / "last.safetensors")[1]["step"] == 4
    cli("train", "--run", tmp_path / "run", "--resume")
    one, two = (load_model(tmp_path / name / "last.safetensors")[0].state_dict() for name in ("run", "whole"))
    assert all(np.array_equal(one[key], two[key]) for key in two)
    cli("train", "--run", tmp_path / "run", "--resume", "--steps", 9)
    assert load_model(tmp_path / "run" / "last.safetensors")[1]["step"] == 9


def test_generation_streams_stops_and_takes_a_file(trained, capsys):
    command = "generate", "--run", trained / "run" / "last.safetensors", "--prompt", "An ", "--temperature", 0
    cli(*command)
    greedy = capsys.readouterr().out
    stop = greedy[10:12]
    cli(*command, "--stop", stop)
    assert capsys.readouterr().out == "An " + greedy[3:-1].split(stop)[0] + "\n"


def test_a_run_is_kept_unless_it_may_go(trained, refused):
    run = trained / "run"
    before = {file: file.read_bytes() for file in run.iterdir()}
    assert re.search("expected a folder without a run, got .*run, which has last.safetensors",
                     refused("train", "--run", run, "--text", trained / "text.txt", *TINY))
    assert {file: file.read_bytes() for file in run.iterdir()} == before
    assert "not allowed with argument" in refused("train", "--run", run, "--resume", "--overwrite")


def test_what_cannot_be_done_is_said_in_one_line(trained, tmp_path, refused):
    run, text, new = trained / "run", trained / "text.txt", tmp_path / "a"
    assert "found none at" in refused("generate", "--run", tmp_path / "none")
    assert "expected a safetensors file" in refused("generate", "--run", text)
    assert "prompt: expected at least one character" in refused("generate", "--run", run, "--prompt", "")
    assert "got '☕' at position 1" in refused("generate", "--run", run, "--prompt", "a☕")
    assert "top_p: expected more than 0 and at most 1, got 2.0" in refused("generate", "--run", run, "--top-p", 2)
    assert "No such file" in refused("train", "--run", new, "--text", tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    assert "got byte 0xef at offset 2" in refused("train", "--run", new, "--text", tmp_path / "latin.txt")
    (tmp_path / "empty.txt").write_text("")
    assert "expected a text, got an empty file" in refused("train", "--run", new, "--text", tmp_path / "empty.txt")
    (tmp_path / "short.txt").write_text("too short to train on")
    assert "expected more than length = 256" in refused("train", "--run", new, "--text", tmp_path / "short.txt")
    assert "expected d_model=16" in refused("train", "--run", run, "--resume", "--d-model", 32, "--steps", 9)
    assert not new.exists(), "nothing is made before everything is checked"


def test_a_run_goes_on_with_its_own_text_alone(trained, tmp_path, refused):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    cli("train", "--run", tmp_path / "run", "--text", text, *TINY)
    text.write_text(TEXT + "!")
    assert "expected the text that the run in" in refused("train", "--run", tmp_path / "run", "--resume")
    assert "has changed; name one" in refused("eval", "--run", tmp_path / "run")


def test_weights_without_a_tokenizer_are_refused(trained, tmp_path, refused):
    tensors, about = checkpoint.load(trained / "run" / "last.safetensors")
    checkpoint.save(tmp_path / "x.safetensors", tensors, about | {"metadata": None})
    assert "which keeps no tokenizer" in refused("generate", "--run", tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").rename(tmp_path / "last.safetensors")
    assert "which keeps no tokenizer" in refused("train", "--run", tmp_path, "--resume")
