"""How kernels are tested without a card: a test file runs itself again on numba's simulator, and a script beside it assembles them.

The simulator is chosen when numba is imported, so a process of its own is needed for each.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
ROOT = Path(__file__).parents[1]


def run(arguments, **environment):
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **environment})
    assert done.returncode in (0, 77), done.stdout[-6000:] + done.stderr[-2000:]
    return done


def run_on_the_simulator(file):
    """The tests that `file` has where SIMULATED."""
    run(["-m", "pytest", "-q", "-p", "no:cacheprovider", file], NUMBA_ENABLE_CUDASIM="1")


def assemble(file):
    """`assemble.py` beside `file`: compiled for three cards, nothing spilled."""
    done = run([Path(file).with_name("assemble.py")], NUMBA_ENABLE_CUDASIM="0")
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
