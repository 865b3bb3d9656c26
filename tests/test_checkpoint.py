"""Checkpoints: what is written comes back, and a write that fails leaves the old file."""

import errno
import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

from mambalib import checkpoint

pytest.importorskip("safetensors")

ARRAYS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "turned": np.arange(12.0).reshape(3, 4).T,
    "every other": np.arange(10, dtype=np.int64)[::2],
    "number": np.array(7),
    "nothing": np.zeros((0, 3), np.float32),
    "half": np.array([1.5, -2.0], np.float16),
}
METADATA = {"config": {"model": "mamba", "d_model": 64, "tie": True}, "history": [1.25, None], "note": "größer"}


def test_arrays_and_metadata_come_back_as_they_were(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, ARRAYS, METADATA)
    tensors, metadata = checkpoint.load(str(path))
    assert metadata == METADATA
    assert set(tensors) == set(ARRAYS)
    for name, x in ARRAYS.items():
        assert tensors[name].dtype == x.dtype and tensors[name].shape == x.shape
        np.testing.assert_array_equal(tensors[name], x)


def test_the_file_is_what_the_format_says(tmp_path):
    checkpoint.save(tmp_path / "x", {"a": np.array([1.0, 2.0], np.float32)}, {"b": 1})
    data = (tmp_path / "x").read_bytes()
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    assert header["a"] == {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    assert np.frombuffer(data[8 + size:], np.float32).tolist() == [1.0, 2.0]
    assert json.loads(header["__metadata__"]["mambalib"]) == {"b": 1}


def test_saving_again_replaces_the_file_and_leaves_no_other(tmp_path):
    for number in (1, 2):
        checkpoint.save(tmp_path / "x", {"a": np.array(number)})
    assert checkpoint.load(tmp_path / "x")[0]["a"] == 2
    assert os.listdir(tmp_path) == ["x"]


def test_files_of_other_programs_are_read_with_their_metadata(tmp_path):
    from safetensors.numpy import save_file
    save_file({"a": np.ones(2)}, tmp_path / "with", {"format": "pt"})
    save_file({"a": np.ones(2)}, tmp_path / "without")
    assert checkpoint.load(tmp_path / "with")[1] == {"format": "pt"}
    assert checkpoint.load(tmp_path / "without")[1] == {}


def test_after_a_failed_write_the_old_file_is_there_and_no_other(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "x", {"a": np.array(1)})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="could not write .*x, which is as it was: No space left on device") as caught:
        checkpoint.save(tmp_path / "x", {"a": np.array(2)})
    assert caught.value.errno == errno.ENOSPC
    assert checkpoint.load(tmp_path / "x")[0]["a"] == 1
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX does")
def test_a_file_that_the_system_cuts_short_does_not_replace_the_old_one(tmp_path):
    program = """
import resource, sys
import numpy as np
from mambalib import checkpoint
checkpoint.save("x", {"a": np.array(1)})
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
try:
    checkpoint.save("x", {"a": np.ones(100_000)})
except OSError as error:
    print("x, which is as it was" in str(error), checkpoint.load("x")[0]["a"])
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.split() == ["True", "1"], run.stderr
    assert os.listdir(tmp_path) == ["x"]


def test_what_cannot_be_saved_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"a: expected a NumPy array, got list"):
        checkpoint.save(tmp_path / "x", {"a": [1.0]})
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoint.save(tmp_path / "x", {}, {"a": np.ones(2)})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        checkpoint.save(tmp_path / "nowhere" / "x", {"a": np.ones(2)})
    assert os.listdir(tmp_path) == []


def test_what_is_no_checkpoint_is_refused_by_its_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="found none at .*missing"):
        checkpoint.load(tmp_path / "missing")
    checkpoint.save(tmp_path / "x", ARRAYS)
    data = (tmp_path / "x").read_bytes()
    for cut in (b"", b"hello", data[:100], data[:-1], b"\xff" * 64):
        (tmp_path / "x").write_bytes(cut)
        with pytest.raises(ValueError, match="path: expected a safetensors file, but .*x is none, or is damaged"):
            checkpoint.load(tmp_path / "x")
