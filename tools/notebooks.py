"""Run the book's notebooks in place and keep them in one canonical form.

    python tools/notebooks.py run [--measure] [NOTEBOOK ...]      execute; all of book/ by default
    python tools/notebooks.py format [NOTEBOOK ...]               the canonical form only

Canonical: nbformat 4.5, the plain python3 kernel, execution counts 1, 2, 3, ..., tags as the only cell metadata, outputs
without anything that differs from run to run. A cell tagged nbval-ignore-output shows what one machine measured: it keeps
its stored output as long as its source is the one that was measured, unless --measure asks for a new one.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

BOOK = Path(__file__).parent.parent / "book"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
IGNORED = "nbval-ignore-output"


def canonical(notebook):
    """The notebook in canonical form, changed in place and returned."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict(METADATA)
    count = 0
    for cell in notebook.cells:
        keep = {key: cell.metadata[key] for key in ("tags", "measured") if key in cell.metadata}
        cell.metadata = nbformat.from_dict(keep)
        cell.source = cell.source.strip("\n")
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
    return notebook


def source_mark(cell):
    """Names the source a stored measurement came from."""
    return hashlib.sha256(cell.source.encode()).hexdigest()[:12]


def run(path, measure=False):
    """Execute one notebook; write it only when every cell has run."""
    notebook = nbformat.read(path, as_version=4)
    measured = {}
    for cell in notebook.cells:
        cell.source = cell.source.strip("\n")
        if cell.cell_type == "code" and cell.metadata.get("measured") == source_mark(cell) and not measure:
            measured[cell.id] = cell.outputs
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", coalesce_streams=True, resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("measured", None)
        if cell.cell_type == "code" and IGNORED in cell.metadata.get("tags", []):
            cell.outputs = measured.get(cell.id, cell.outputs)
            cell.metadata["measured"] = source_mark(cell)
    write(canonical(notebook), path)


def write(notebook, path):
    part = path.with_suffix(".part")
    nbformat.write(notebook, part)
    os.replace(part, path)


def main():
    os.environ["OMP_NUM_THREADS"] = "1"              # the last digits of a figure depend on how many threads add up
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "format"))
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--measure", action="store_true", help="measure again what the machine's speed decides")
    arguments = parser.parse_args()
    for path in arguments.notebooks or sorted(BOOK.glob("*.ipynb")):
        print(path.name, flush=True)
        if arguments.action == "format":
            write(canonical(nbformat.read(path, as_version=4)), path)
            continue
        try:
            run(path, arguments.measure)
        except CellExecutionError as error:
            sys.exit(f"{path}: left as it was; a cell failed\n{error}")


if __name__ == "__main__":
    main()
