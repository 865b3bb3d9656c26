"""The measurements stored with the book: the JSON files of book/data/, written by the scripts in benchmarks/."""

import json
import os
import platform
from datetime import date
from pathlib import Path

_HERE = Path(__file__).parent
_FOLDERS = (_HERE / "data", _HERE.parent / "book" / "data")     # installed from a wheel; in a checkout


def load(name):
    """The stored measurement `name`, a dict: "machine", "versions", "date" and what its script measured.

    Raises
    ------
    FileNotFoundError
        No such measurement; the message lists those there are.
    """
    for folder in _FOLDERS:
        if (folder / f"{name}.json").is_file():
            return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    there = sorted({f.stem for folder in _FOLDERS for f in folder.glob("*.json")})
    raise FileNotFoundError(f"name: no measurement {name!r}; there are {', '.join(there) or 'none'}")


def save(name, results, machine, versions):
    """Write `results` (a dict) as book/data/NAME.json of this checkout, with the machine, versions and today's date.

    The file is written beside its place and then moved there, so that it is never half a file. Returns its path.
    """
    path = _FOLDERS[-1] / f"{name}.json"
    head = {"machine": machine, "versions": versions, "date": date.today().isoformat()}
    record = head | results | head                   # head first, and nothing in `results` replaces it
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def cpu_name():
    """The processor and how many of its cores this process may use, in words."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
        cores = len(os.sched_getaffinity(0))
    except (OSError, AttributeError):
        cores = os.cpu_count()
    return f"{name} ({cores} cores)"
