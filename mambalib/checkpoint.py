"""Arrays and what belongs to them in one file, in the safetensors format.

It is written so that a crash leaves the old file or the new one, never half of one.

    save(path, tensors, metadata)       {name: array} and JSON data
    load(path)                          both again
"""

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

KEY = "mambalib"                                     # the format's metadata are strings; ours is JSON under this name


def save(path, tensors, metadata=None):
    """Write arrays and metadata to `path`.

    They are written to a new file beside it, which takes its place once all is on the disk.

    Parameters
    ----------
    path : str or path
        A file that exists is replaced; its folder must exist.
    tensors : dict of NumPy arrays
        By their names.
    metadata : dict, optional
        Anything that JSON has.

    Raises
    ------
    TypeError
        A value that is not a NumPy array, or metadata that JSON does not have.
    OSError
        The file could not be written, on a full disk for example. What was at `path` is still there.
    """
    from safetensors.numpy import save as to_bytes

    for name, x in tensors.items():
        if not isinstance(x, np.ndarray):
            raise TypeError(f"{name}: expected a NumPy array, got {type(x).__name__}")
    tensors = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    data = to_bytes(tensors, {KEY: json.dumps({} if metadata is None else metadata)})
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise type(error)(error.errno, f"could not write {path}, which is as it was: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    with suppress(OSError):                          # the folder's entry, too, should reach the disk, where that can be
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load(path):
    """Read a file of `save`, or any safetensors file.

    Returns
    -------
    tensors : dict of NumPy arrays
    metadata : dict
        Of a file that `save` did not write: its own, strings.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is not a safetensors file, or is cut short.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: expected a safetensors file, found none at {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"path: expected a safetensors file, but {path} is none, or is damaged: {error}") from None
    return tensors, json.loads(metadata[KEY]) if KEY in metadata else metadata
