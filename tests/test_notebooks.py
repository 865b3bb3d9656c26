"""The notebook rules. Each test's name is a rule; CONTRIBUTING.md explains them."""

import ast
import hashlib
import html
import json
import re
import sys
import warnings
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
sys.path.insert(0, str(ROOT / "tools"))
import notebooks as tool  # noqa: E402

PATHS = sorted(BOOK.glob("*.ipynb"))
NOTEBOOKS = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in PATHS}
IGNORED = "nbval-ignore-output"
TAGS = {"hide-input", "hide-cell", IGNORED}
LAST_SECTIONS = ["Exercises", "Questions people ask", "Summary", "Where to read on"]

every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def cells(name, kind):
    return [cell for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return cell["metadata"].get("tags", [])


def outputs(cell, mime):
    return ["".join(o["data"][mime]) for o in cell["outputs"] if mime in o.get("data", {})]


def headings(name):
    """[(level, title)] outside code fences."""
    text = re.sub(r"```.*?```", "", "\n".join(source(c) for c in cells(name, "markdown")), flags=re.S)
    return [(len(marks), title.strip()) for marks, title in re.findall(r"^(#+) (.*)$", text, flags=re.M)]


def has_assertion(cell):
    return any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(source(cell)))) or "assert_" in source(cell)


def test_there_are_notebooks_and_the_table_of_contents_lists_each():
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert PATHS
    assert [p.stem for p in PATHS] == re.findall(r"book/(\d\d_\w+)", toc)


@every_notebook
def test_is_in_canonical_form(name):
    path = BOOK / name
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert nbformat.writes(tool.canonical(notebook)) + "\n" == path.read_text(encoding="utf-8"), "run: make notebooks"


@every_notebook
def test_was_run_from_top_to_bottom_without_an_error(name):
    code = cells(name, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert source(cell).strip(), "an empty cell"
        for output in cell["outputs"]:
            assert output["output_type"] in ("stream", "display_data", "execute_result")
            assert output.get("name") != "stderr", output


@every_notebook
def test_tags_are_the_known_ones_and_no_cell_is_skipped(name):
    for cell in NOTEBOOKS[name]["cells"]:
        assert set(tags(cell)) <= TAGS
        assert set(cell["metadata"]) <= {"tags", "measured"}
        assert "NBVAL_" not in source(cell)


@every_notebook
def test_a_cell_with_ignored_output_is_followed_by_an_assertion(name):
    code = cells(name, "code")
    ignored = [i for i, cell in enumerate(code) if IGNORED in tags(cell)]
    assert len(ignored) <= 3
    for i in ignored:
        assert i + 1 < len(code) and has_assertion(code[i + 1]), source(code[i])
        assert code[i]["metadata"]["measured"] == hashlib.sha256(source(code[i]).encode()).hexdigest()[:12], "measured by another source"


@every_notebook
def test_the_first_code_cell_is_the_set_up_cell_hidden_on_the_site(name):
    first = cells(name, "code")[0]
    assert source(first) == (ROOT / "tools" / "setup_cell.py").read_text(encoding="utf-8").rstrip("\n")
    assert tags(first) == ["hide-input"] and first["outputs"] == []


@every_notebook
def test_holds_no_path_of_the_machine_it_ran_on_and_no_volatile_output(name):
    text = (BOOK / name).read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(home|root|tmp|usr|work|Users|opt)/", text)
    assert not re.search(r"\bat 0x[0-9a-f]{6,}", text)
    assert "application/vnd.jupyter.widget" not in text
    assert "image/png" not in text, "figures are SVG: use viz.show"


@every_notebook
def test_opens_with_what_is_learned_needed_and_how_long_it_takes(name):
    first = NOTEBOOKS[name]["cells"][0]
    assert first["cell_type"] == "markdown"
    number = int(name[:2])
    assert re.match(rf"# {number}\. \S", source(first))
    for lead in ("**You will learn**", "**You need**", "**Time**"):
        assert f"\n\n{lead}" in source(first)


@every_notebook
def test_headings_step_down_one_level_at_a_time_and_end_with_the_common_sections(name):
    found = headings(name)
    assert [level for level, _ in found].count(1) == 1 and found[0][0] == 1
    for (above, _), (below, title) in zip(found, found[1:]):
        assert below <= above + 1, title
        assert "$" not in title
    assert [title for level, title in found if level == 2][-4:] == LAST_SECTIONS


@every_notebook
def test_has_four_exercises_or_more_each_with_a_solution_that_runs_and_checks_itself(name):
    number = int(name[:2])
    exercises = re.findall(rf"^### Exercise {number}\.(\d+): .* \((?:warm-up|medium|hard|research)\)$", "\n".join(source(c) for c in cells(name, "markdown")), flags=re.M)
    assert [int(k) for k in exercises] == list(range(1, len(exercises) + 1)) and len(exercises) >= 4
    for k in exercises:
        solutions = [c for c in cells(name, "code") if source(c).startswith(f"# Solution {number}.{k}\n")]
        assert solutions, f"exercise {number}.{k} has no solution cell"
        assert all("hide-cell" in tags(c) for c in solutions)
        assert any(has_assertion(c) for c in solutions), f"solution {number}.{k} checks nothing"


@every_notebook
def test_answers_four_questions_or_more(name):
    titles = [title for _, title in headings(name)]
    answers = titles[titles.index("Questions people ask") + 1:titles.index("Summary")]
    assert len(answers) >= 4 and all(title.endswith("?") for title in answers)


@every_notebook
def test_each_figure_has_a_number_a_caption_and_a_text_alternative(name):
    number, figures = int(name[:2]), []
    for cell in cells(name, "code"):
        shown = [o for o in cell["outputs"] if "image/svg+xml" in o.get("data", {})]
        captions = outputs(cell, "text/markdown")
        assert len(shown) == len(captions), f"a figure without a caption, or the reverse: {source(cell)[-200:]}"
        for output, caption in zip(shown, captions):
            svg = "".join(output["data"]["image/svg+xml"])
            alt = html.unescape(re.search(r'aria-label="([^"]*)"', svg)[1])
            assert "".join(output["data"]["text/plain"]) == alt
            assert len(alt) >= 40 and alt not in caption
            found = re.match(rf"\*\*Figure {number}\.(\d+)\.\*\* \S", caption)
            assert found and len(caption) >= 60, caption
            figures.append(int(found[1]))
    assert figures and figures == list(range(1, len(figures) + 1))


@every_notebook
def test_code_parses_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")               # newer Pythons print what 3.11 keeps to itself
        for cell in cells(name, "code"):
            compile(source(cell), name, "exec")


@every_notebook
def test_asserts_its_claims(name):
    code = cells(name, "code")
    assert sum(has_assertion(c) for c in code) >= len(code) / 3


@every_notebook
def test_text_reads_in_plain_markdown(name):
    for cell in cells(name, "markdown"):
        text = source(cell)
        assert not re.search(r"^(```|:::)\s*\{", text, flags=re.M), "a MyST directive does not read in Colab"
        assert not re.search(r"\{(cite|ref|doc|numref|eq|term)[^}]*\}`", text), "a MyST role does not read in Colab"
        assert set(re.findall(r"</?(\w+)[^>]*>", re.sub(r"\$[^$]*\$|`[^`]*`", "", text))) <= {"details", "summary"}
        for line in re.findall(r"^.*\$\$.*$", text, flags=re.M):
            assert line.strip() == "$$", f"$$ stands on its own line: {line}"


def slug(title):
    """GitHub's and MyST's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def links():
    for path in [*PATHS, *sorted(BOOK.glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        text = path.read_text(encoding="utf-8") if path.suffix == ".md" else "\n".join(source(c) for c in cells(path.name, "markdown"))
        text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            yield pytest.param(path, target, id=f"{path.name}->{target}")


@pytest.mark.parametrize("path, target", list(links()))
def test_link_resolves(path, target):
    if target.startswith("https://"):
        known = (BOOK / "references.bib").read_text(encoding="utf-8")
        if path.suffix == ".ipynb" and re.match(r"https://(arxiv\.org|doi\.org)/", target):
            assert f"{{{target}}}" in known, "a cited paper is missing in references.bib"
        return
    assert not target.startswith("http:"), "http: without s"
    file, _, anchor = target.partition("#")
    goal = (path.parent / file).resolve() if file else path
    assert goal.exists(), target
    if anchor:
        text = "\n".join(source(c) for c in cells(goal.name, "markdown")) if goal.suffix == ".ipynb" else goal.read_text(encoding="utf-8")
        assert anchor in {slug(t) for t in re.findall(r"^#+ (.*)$", text, flags=re.M)} | set(re.findall(r"^\((\S+)\)=$", text, flags=re.M))
