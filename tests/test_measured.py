"""measured: what is saved is loaded, a file is never half written, and a name that is not there is answered with those that are."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from mambalib import measured


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Empty stand-ins for the folder of an installed wheel and that of a checkout."""
    pair = (tmp_path / "wheel", tmp_path / "checkout")
    for folder in pair:
        folder.mkdir()
    monkeypatch.setattr(measured, "_FOLDERS", pair)
    return pair


RESULTS = {"seconds": [1.5e-3, 2.0], "sizes": {"L": 2048, "name": "Zürich µ"}}


def test_what_is_saved_is_loaded_with_machine_versions_and_date(folders):
    path = measured.save("scan", RESULTS, machine="a machine", versions={"numpy": "2.1"})
    assert path == folders[1] / "scan.json"
    before = {"machine": "a machine", "versions": {"numpy": "2.1"}, "date": date.today().isoformat()}
    assert measured.load("scan") == json.loads(path.read_text(encoding="utf-8")) == {**before, **RESULTS}
    assert path.read_bytes().endswith(b"}\n") and list(folders[1].iterdir()) == [path]


def test_saving_again_replaces(folders):
    measured.save("scan", {"seconds": 1}, "m", {})
    measured.save("scan", {"seconds": 2}, "m", {})
    assert measured.load("scan")["seconds"] == 2


def half_a_file(self, text, **_):
    with open(self, "w") as f:
        f.write(text[: len(text) // 2])
    raise OSError("disk full")


@pytest.mark.parametrize(
    "results, stop, error",
    (
        ({"seconds": np.float32(1)}, None, TypeError),
        ({"seconds": {1, 2}}, None, TypeError),
        ({"seconds": 2}, (Path, "write_text", half_a_file), OSError),
        ({"seconds": 2}, (measured.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("power cut"))), OSError),
    ),
    ids=("a number JSON has no word for", "a set", "the disk fills up", "the power fails before the move"),
)
def test_a_save_that_fails_leaves_the_old_measurement(folders, monkeypatch, results, stop, error):
    measured.save("scan", {"seconds": 1}, "m", {})
    with monkeypatch.context() as patch:
        if stop:
            patch.setattr(*stop)
        with pytest.raises(error):
            measured.save("scan", results, "m", {})
    assert measured.load("scan")["seconds"] == 1
    assert [f.name for f in folders[1].glob("*.json")] == ["scan.json"]


def test_a_name_that_is_not_there_is_answered_with_those_that_are(folders):
    with pytest.raises(FileNotFoundError, match="^name: no measurement 'scan'; there are none$"):
        measured.load("scan")
    (folders[0] / "kernel.json").write_text("{}")
    measured.save("block", {}, "m", {})
    with pytest.raises(FileNotFoundError, match="^name: no measurement 'scan'; there are block, kernel$"):
        measured.load("scan")


@pytest.mark.parametrize("where", (0, 1))
def test_a_measurement_is_found_in_a_wheel_and_in_a_checkout(folders, where):
    (folders[where] / "kernel.json").write_text('{"seconds": "µ"}', encoding="utf-8")
    assert measured.load("kernel") == {"seconds": "µ"}


def test_every_measurement_of_this_checkout_names_its_machine_versions_and_date():
    names = {f.stem for folder in measured._FOLDERS for f in folder.glob("*.json")}
    for name in names:
        record = measured.load(name)
        assert record["machine"] and record["versions"] and date.fromisoformat(record["date"])


def test_cpu_name_names_a_processor_and_counts_the_cores_of_this_process():
    name, cores = measured.cpu_name().removesuffix(")").rsplit(" (", 1)
    count = (
        len(measured.os.sched_getaffinity(0)) if hasattr(measured.os, "sched_getaffinity") else measured.os.cpu_count()
    )
    assert name.strip() and cores == f"{count} cores"


def test_cpu_name_does_without_proc(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    name, cores = measured.cpu_name().removesuffix(")").rsplit(" (", 1)
    assert name.strip() and cores == f"{measured.os.cpu_count()} cores"


def test_results_do_not_replace_the_machine_the_versions_or_the_date(folders):
    measured.save("head", {"machine": "another", "date": "1900-01-01", "time": 1.0}, "this one", {"numpy": "2"})
    loaded = measured.load("head")
    assert (loaded["machine"], loaded["date"], loaded["time"]) == ("this one", date.today().isoformat(), 1.0)
    assert list(loaded)[:3] == ["machine", "versions", "date"]


def test_a_measurement_that_is_not_a_number_is_refused(folders):
    with pytest.raises(ValueError, match="JSON compliant"):
        measured.save("nan", {"time": float("nan")}, "this one", {})
    with pytest.raises(FileNotFoundError):
        measured.load("nan")
