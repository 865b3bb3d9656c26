# Set-up, the same in every chapter: the package if it is missing, the figure style, a simulated GPU where there is none.
import importlib.util
import subprocess
import sys

REPOSITORY = ""  # the book's public address; `make repo URL=...` fills it in
if importlib.util.find_spec("mambalib") is None:
    if not REPOSITORY:
        raise ModuleNotFoundError("mambalib is missing: in a checkout of the book, run `pip install -e .`")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", f"git+{REPOSITORY}"], check=True)

from mambalib import viz

viz.setup()
