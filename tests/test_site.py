"""The built site (`make book`, which `make test` runs first): pages, links, figures."""

import html
import json
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

ROOT = Path(__file__).parent.parent
SITE = ROOT / "_build" / "html"
PAGES = sorted(p for p in SITE.glob("book/*.html"))
LOADED_FROM_OUTSIDE = {"cdn.jsdelivr.net", "unpkg.com"}      # MathJax, and Thebe, which loads only when asked to

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)


def text(page):
    return page.read_text(encoding="utf-8")


def test_the_site_is_built_and_has_every_page_of_the_table_of_contents():
    names = re.findall(r"(?:root|file): (book/\w+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
    assert len(names) >= 10
    assert {SITE / f"{name}.html" for name in names} == set(PAGES)
    assert (SITE / "index.html").is_file()


@every_page
def test_every_local_link_leads_to_a_file_and_an_anchor_that_exist(page):
    broken = []
    for target in re.findall(r'(?:href|src)="([^"]*)"', re.sub(r"<svg .*?</svg>", "", text(page), flags=re.S)):
        url = urlparse(html.unescape(target))
        if url.scheme in ("http", "https", "mailto", "data"):
            continue
        goal = (page.parent / unquote(url.path)).resolve() if url.path else page
        if goal.is_dir():
            goal /= "index.html"
        if not goal.is_file():
            broken.append(target)
        elif url.fragment and goal.suffix == ".html" and f'id="{unquote(url.fragment)}"' not in text(goal):
            broken.append(target)
    assert not broken


@every_page
def test_loads_nothing_from_outside_but_mathjax_and_thebe(page):
    for target in re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?://[^"]*)"', text(page)):
        assert urlparse(target).hostname in LOADED_FROM_OUTSIDE or 'rel="canonical"' in target, target


@pytest.mark.parametrize("path", sorted((ROOT / "book").glob("*.ipynb")), ids=lambda p: p.name)
def test_every_figure_of_the_notebook_stands_in_the_page_itself_with_its_text_alternative(path):
    page = text(SITE / "book" / f"{path.stem}.html")
    outputs = [o["data"] for c in json.loads(path.read_text(encoding="utf-8"))["cells"] for o in c.get("outputs", []) if "data" in o]
    alts = ["".join(data["text/plain"]) for data in outputs if "image/svg+xml" in data]
    found = [html.unescape(a) for a in re.findall(r'class="mambalib-figure"[^>]*aria-label="([^"]*)"', page)]
    assert found == alts
    players = sum("text/html" in data and "mambalib-animation" in "".join(data["text/html"]) for data in outputs)
    assert page.count('<div class="mambalib-animation"') == players
    for image in re.findall(r"<img [^>]*>", page):
        assert re.search(r'alt="[^"]', image), image


@every_page
def test_no_formula_or_markup_is_left_unread(page):
    body = re.sub(r"<(pre|code|script|style|svg)\b.*?</\1>", "", text(page)[text(page).index("<article"):text(page).index("</article>")], flags=re.S)
    words = html.unescape(re.sub(r"<[^>]+>", "", re.sub(r'<(span|div) class="math.*?</\1>', "", body, flags=re.S)))
    assert "$" not in words
    assert not re.search(r"\*\*(?![a-z_]+(\)| –))", words)      # but **arguments in a signature, and where it is described
    assert not re.search(r"\]\(\w", words)


def test_the_cover_is_the_figure_of_chapter_5():
    chapter = json.loads((ROOT / "book" / "05_memory.ipynb").read_text(encoding="utf-8"))
    figures = ["".join(o["data"]["image/svg+xml"]) for c in chapter["cells"] for o in c.get("outputs", []) if "image/svg+xml" in o.get("data", {})]
    cover = (ROOT / "book" / "_static" / "cover.svg").read_text(encoding="utf-8")
    assert cover in figures, "the figure has changed: copy it to book/_static/cover.svg"
    assert cover in text(SITE / "book" / "intro.html")
