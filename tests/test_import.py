"""import mambalib: light, complete, and documented by examples that run."""

import doctest
import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mambalib

ROOT = Path(mambalib.__file__).parent.parent


def in_a_fresh_interpreter(code):
    """What `code` prints, as JSON."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    "what", ("import mambalib", "from mambalib import discretize, lti, hippo, measured; discretize.METHODS")
)
def test_import_brings_numpy_and_nothing_heavier(what):
    loaded = in_a_fresh_interpreter(
        f"{what}; import json, sys; print(json.dumps([name for name in sys.modules if '.' not in name]))"
    )
    assert {"scipy", "matplotlib", "numba", "IPython", "cupy", "torch", "pandas"}.isdisjoint(loaded)


def test_import_takes_under_30_milliseconds_on_top_of_numpy():
    """The least of several fresh interpreters: another process can only make it slower."""
    code = "import numpy, time; start = time.perf_counter(); import mambalib; print(time.perf_counter() - start)"
    times = []
    while len(times) < 10 and min(times, default=1) >= 0.03:
        times.append(in_a_fresh_interpreter(code))
    assert min(times) < 0.03


@pytest.mark.parametrize("name", mambalib.__all__)
def test_every_public_name_is_loaded_on_first_use_from_its_module(name):
    if name in mambalib._FUNCTIONS:
        home = importlib.import_module(f"mambalib.{mambalib._FUNCTIONS[name]}")
        assert getattr(mambalib, name) is getattr(home, name)
    else:
        assert getattr(mambalib, name) is importlib.import_module(f"mambalib.{name}")
    assert name in dir(mambalib)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'mambalib' has no attribute 'discretise'"):
        mambalib.discretise
    with pytest.raises(ImportError, match="discretise"):
        from mambalib import discretise  # noqa: F401


@pytest.mark.parametrize(
    "name", ["mambalib", *sorted(m.name for m in pkgutil.walk_packages(mambalib.__path__, "mambalib."))]
)
def test_the_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    "module, name",
    [
        (m, name)
        for m in ("discretize", "lti", "hippo")
        for name in sorted(vars(getattr(mambalib, m)))
        if not name.startswith("_")
        and getattr(getattr(getattr(mambalib, m), name), "__module__", "") == f"mambalib.{m}"
    ],
)
def test_every_public_function_says_what_it_does_and_shows_it_or_is_short(module, name):
    """numpydoc with an example for what a reader calls; a line or two for the pieces that the chapters derive."""
    doc = getattr(getattr(mambalib, module), name).__doc__
    assert doc and (">>>" in doc or len(doc.splitlines()) <= 2)
