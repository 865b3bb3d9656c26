"""The public address: one place, equal copies, and nothing installed from a guess."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import repository  # noqa: E402

URL = "https://github.com/someone/mamba-book"


@pytest.fixture
def tree(tmp_path):
    for name in ("pyproject.toml", "_config.yml", "CITATION.cff", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=lambda folder, names: [n for n in names if "." in n and not n.endswith(".ipynb")])
    return tmp_path


def texts(tree):
    return {p.relative_to(tree): p.read_text(encoding="utf-8") for p in tree.rglob("*") if p.is_file() and p.suffix != ".pyc"}


def test_every_copy_is_equal_to_the_one_in_pyproject():
    for path, wanted in repository.copies(repository.address()).items():
        assert path.read_text(encoding="utf-8") == wanted, f"{path.name}: run: make repo URL={repository.address()}"


def test_an_address_is_written_everywhere_and_can_be_taken_back(tree):
    repository.write("", tree)
    before = texts(tree)
    repository.write(URL + ".git/", tree)
    after = texts(tree)
    assert repository.address(tree) == URL
    changed = {str(name) for name in before if before[name] != after[name]}
    chapters = {str(p.relative_to(tree)) for p in (tree / "book").glob("*.ipynb")}
    assert changed == {"pyproject.toml", "_config.yml", "CITATION.cff", "README.md", "tools/setup_cell.py"} | chapters
    assert all(URL in after[Path(name)] or "colab" in after[Path(name)] for name in changed)
    assert "colab.research.google.com/github/someone/mamba-book/blob/main/book/01_why.ipynb" in after[Path("README.md")]
    repository.write("", tree)
    assert texts(tree) == before


def test_a_second_address_replaces_the_first(tree):
    repository.write(URL, tree)
    repository.write("https://gitlab.com/group/sub/book", tree)
    assert not any(URL in text for text in texts(tree).values())
    assert 'colab_url: ""' in (tree / "_config.yml").read_text(encoding="utf-8"), "Colab opens notebooks of GitHub alone"


@pytest.mark.parametrize("url", ["github.com/a/b", "http://github.com/a/b", "https://github.com", "https://github.com/a", 'https://github.com/a/b" ; x', "https://x/$(y)/z"])
def test_anything_else_is_refused_and_changes_nothing(tree, url):
    before = texts(tree)
    with pytest.raises(ValueError, match="URL: expected https://HOST/OWNER/NAME, got"):
        repository.write(url, tree)
    assert texts(tree) == before


def run_setup_cell(monkeypatch, url):
    """Run the set-up cell as if mambalib were missing; return what it would have installed."""
    calls, find = [], importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "mambalib" else find(name, *a))
    monkeypatch.setattr(subprocess, "run", lambda command, **kwargs: calls.append(command))
    cell = (ROOT / "tools" / "setup_cell.py").read_text(encoding="utf-8")
    exec(repository.SETUP_LINE.sub(f'REPOSITORY = "{url}"', cell), {})
    return calls


def test_the_set_up_cell_installs_nothing_while_no_address_is_decided(monkeypatch):
    with pytest.raises(ModuleNotFoundError, match="mambalib is missing"):
        run_setup_cell(monkeypatch, "")


def test_the_set_up_cell_installs_the_package_alone_from_the_decided_address(monkeypatch):
    (command,) = run_setup_cell(monkeypatch, URL)
    assert command[1:] == ["-m", "pip", "install", "--quiet", "--no-deps", f"git+{URL}"]


def test_the_set_up_cell_installs_nothing_where_the_package_is(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("installed something"))
    exec((ROOT / "tools" / "setup_cell.py").read_text(encoding="utf-8"), {})


def test_with_an_address_every_chapter_offers_colab_and_without_one_none_does(tree):
    shutil.copytree(ROOT / "book", tree / "book", dirs_exist_ok=True)
    shutil.copytree(ROOT / "mambalib", tree / "mambalib")
    shutil.copy(ROOT / "_toc.yml", tree)
    chapters = sorted(p.stem for p in (tree / "book").glob("*.ipynb"))
    for url in (URL, ""):
        repository.write(url, tree)
        shutil.rmtree(tree / "_build", ignore_errors=True)
        subprocess.run([Path(sys.executable).with_name("jupyter-book"), "build", ".", "-W", "-q"], cwd=tree, check=True, capture_output=True)
        for chapter in chapters:
            page = (tree / "_build" / "html" / "book" / f"{chapter}.html").read_text(encoding="utf-8")
            button = f'href="https://colab.research.google.com/github/someone/mamba-book/blob/main/book/{chapter}.ipynb"'
            assert (button in page) == bool(url)
            assert ("github.com/someone" in page) == bool(url)
