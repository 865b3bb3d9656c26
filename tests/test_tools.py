"""The notebook runner: reproducible, keeps what was measured, leaves a failing notebook as it was."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import notebooks  # noqa: E402


def notebook(tmp_path, *sources, tags=()):
    cells = [nbformat.v4.new_code_cell(s, id=f"cell-{i}") for i, s in enumerate(sources)]
    cells[-1].metadata["tags"] = list(tags)
    path = tmp_path / "chapter.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_running_twice_gives_the_same_bytes(tmp_path):
    path = notebook(tmp_path, "import sys\nprint(1)\nprint(2)", "1 + 1")
    notebooks.run(path)
    first = path.read_bytes()
    notebooks.run(path)
    assert path.read_bytes() == first
    cells = nbformat.read(path, as_version=4).cells
    assert [c.execution_count for c in cells] == [1, 2]
    assert cells[0].outputs[0].text == "1\n2\n"


def test_a_measured_output_is_kept_until_its_source_changes(tmp_path):
    path = notebook(tmp_path, "import time", "print(time.perf_counter_ns())", tags=[notebooks.IGNORED])
    notebooks.run(path)
    first = path.read_bytes()
    notebooks.run(path)
    assert path.read_bytes() == first
    notebooks.run(path, measure=True)
    second = path.read_bytes()
    assert second != first
    changed = nbformat.read(path, as_version=4)
    changed.cells[1].source += "  # again"
    nbformat.write(changed, path)
    notebooks.run(path)
    cell = nbformat.read(path, as_version=4).cells[1]
    assert cell.outputs[0].text not in second.decode() and cell.metadata.measured == notebooks.source_mark(cell)


def test_a_failing_notebook_is_left_as_it_was(tmp_path):
    path = notebook(tmp_path, "x = 1", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        notebooks.run(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_the_readme_quotes_the_stored_measurements():
    import tables

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.written(text) == text, "run python tools/tables.py"
    assert text.count("| float32 |") >= 6
