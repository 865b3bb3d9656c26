"""viz: the same bytes on each run, ids that resolve, two colour schemes with contrast, and animations that step."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import mambalib
from mambalib.viz import COLORS, animate, animation, setup, show, style
from mambalib.viz.style import STYLE, svg


@pytest.fixture(autouse=True)
def notebook(monkeypatch):
    """A notebook after its set-up cell; afterwards the settings and the environment are as they were. Yields what is displayed."""
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    displayed = []
    for module in (style, animate):
        monkeypatch.setattr(module, "display", lambda data, raw: displayed.append(data))
    with matplotlib.rc_context():
        setup()
        yield displayed
    plt.close("all")


def figure(k=1):
    """Lines with markers, a band, a legend, mathematics, an image: what needs ids, clips and references."""
    fig, ax = plt.subplots()
    x = np.linspace(0, 1, 7)
    for i in range(3):
        ax.plot(x, x ** (i + k), marker="o", label=f"$x^{i + k}$")
    ax.fill_between(x, 0, x, alpha=0.2)
    ax.imshow(np.eye(3), extent=(0, 0.2, 0.8, 1), aspect="auto", cmap="gray")
    ax.set_title("a < b & c")
    ax.legend()
    return fig


def ids(picture):
    return [e.get("id") for e in ElementTree.fromstring(picture).iter() if e.get("id")]


def references(text):
    return set(re.findall(r"url\(#([^)]*)\)", text)) | set(re.findall(r'href=\\?"#([^"\\]*)', text))


# --- svg -------------------------------------------------------------------------------------------


def test_a_figure_drawn_twice_gives_the_same_bytes_also_in_another_process():
    here = svg(figure(), "alt")
    assert svg(figure(), "alt") == here
    code = "import sys; from test_viz import *; setup(); sys.stdout.buffer.write(svg(figure(), 'alt').encode())"
    paths = os.pathsep.join(
        [str(Path(mambalib.__file__).parent.parent), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
    )
    assert other.stdout.decode() == here


def test_it_does_not_depend_on_settings_that_a_chapter_changed():
    matplotlib.rcParams.update({"svg.hashsalt": None, "svg.fonttype": "none"})
    fig = figure()
    assert svg(fig, "alt") == svg(fig, "alt") and "<text" not in svg(fig, "alt")


def test_ids_are_unique_within_a_figure_and_across_figures_and_every_reference_resolves():
    pictures = [svg(figure(k), "alt") for k in (1, 2, 3)]
    for picture in pictures:
        assert len(ids(picture)) == len(set(ids(picture)))
        assert references(picture) and references(picture) <= set(ids(picture))
    for a, b in combinations(pictures, 2):
        assert set(ids(a)).isdisjoint(ids(b))


def test_it_carries_no_date_no_metadata_no_prologue_and_scales_with_the_page():
    picture = svg(figure(), "alt")
    assert picture.startswith("<svg ") and picture.endswith("</svg>")
    assert not re.search(r"<metadata|<!--|<\?xml|<!DOCTYPE|[Mm]atplotlib v|20\d\d-\d\d-\d\d", picture)
    root = ElementTree.fromstring(picture)
    assert (
        root.get("height") is None and "max-width: 100%" in root.get("style") and root.get("viewBox").startswith("0 0 ")
    )


def test_the_text_alternative_survives_every_sign():
    alt = "a \"quoted\" <b> & 'c' > d, 5 µs"
    root = ElementTree.fromstring(svg(figure(), alt))
    assert (root.get("role"), root.get("aria-label")) == ("img", alt)


def test_shortened_numbers_draw_the_same_picture():
    """Coordinates are cut to hundredths of a point, no further: each differs from matplotlib's own by less than that."""
    matplotlib.rcParams["path.simplify"] = False
    fig, ax = plt.subplots(dpi=72, layout="none")
    x = np.random.default_rng(0).random(200)
    (line,) = ax.plot(x, x[::-1])
    line.set_gid("line")
    fig.draw_without_rendering()
    pixels = line.get_transform().transform(line.get_xydata())
    path = next(e for e in ElementTree.fromstring(svg(fig, "alt")).iter() if (e.get("id") or "").endswith("-line"))[
        0
    ].get("d")
    drawn = np.array(re.findall(r"-?[\d.]+", path), float).reshape(-1, 2)
    assert drawn.shape == pixels.shape
    np.testing.assert_allclose(
        drawn, np.column_stack([pixels[:, 0], fig.get_size_inches()[1] * 72 - pixels[:, 1]]), atol=0.0051
    )


# --- colours ---------------------------------------------------------------------------------------


def test_the_style_sheet_holds_both_schemes_and_the_sites_switch_wins_over_the_readers_system():
    css = re.search(r"<style>(.*?)</style>", svg(figure(), "alt"))[1]
    rules = dict(
        re.findall(
            r"([^{}]+)\{([^{}]*)\}", css.replace("@media(prefers-color-scheme:dark){", "@dark ").replace("}}", "}")
        )
    )
    for scheme, selectors in enumerate(
        (
            (".mambalib-figure", "[data-theme=light] .mambalib-figure"),
            ("@dark .mambalib-figure", "[data-theme=dark] .mambalib-figure"),
        )
    ):
        for selector in selectors:
            assert dict(re.findall(r"--m-(\w+):([^;]+);", rules[selector])) == {
                name: pair[scheme] for name, pair in COLORS.items()
            }
    for name, (light, _) in COLORS.items():
        for what in ("fill", "stroke"):
            assert rules[f'.mambalib-figure [style*="{what}: {light}"]'] == f"{what}:var(--m-{name})!important"


def test_every_colour_of_a_styled_figure_has_a_partner_in_the_dark():
    drawn = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg(figure(), "alt")))
    assert len(drawn) > 5 and drawn <= {light for light, _ in COLORS.values()}


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(a, b):
    """WCAG 2.2: (L1 + 0.05) / (L2 + 0.05), from 1 to 21."""
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", (0, 1), ids=("light", "dark"))
@pytest.mark.parametrize("name", [name for name in COLORS if name not in ("paper", "grid")])
def test_lines_and_text_stand_out_from_the_paper(name, scheme):
    """WCAG asks 3 of graphics and 4.5 of text; grid lines are decoration."""
    assert contrast(COLORS[name][scheme], COLORS["paper"][scheme]) >= (4.5 if name in ("ink", "muted") else 3)


def test_lines_differ_without_colour_too():
    dashes = [str(props["linestyle"]) for props in STYLE["axes.prop_cycle"]]
    assert len(dashes) == len(set(dashes)) >= 5


# --- setup -----------------------------------------------------------------------------------------


def test_setup_leaves_matplotlib_in_the_books_style_whatever_it_was_before():
    matplotlib.rcParams.update({"font.size": 30, "figure.figsize": (1, 1), "image.cmap": "jet"})
    setup()
    for key, value in STYLE.items():
        got = matplotlib.rcParams[key]
        assert (tuple(got) == tuple(value)) if key == "figure.figsize" else (got == value)
    assert matplotlib.rcParams["image.cmap"] == matplotlib.rcParamsDefault["image.cmap"]
    assert matplotlib.get_backend().lower() == "agg"


@pytest.mark.parametrize("gpu, before, after", ((True, None, None), (False, None, "1"), (False, "0", "0")))
def test_setup_turns_the_cuda_simulator_on_only_where_there_is_no_card_and_no_wish(monkeypatch, gpu, before, after):
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM")
    if before:
        monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", before)
    monkeypatch.setattr(style, "_has_gpu", lambda: gpu)
    setup()
    assert os.environ.get("NUMBA_ENABLE_CUDASIM") == after


class Driver:
    """libcuda as far as it is asked: cuInit's and cuDeviceGetCount's results, and how many cards there are."""

    def __init__(self, init, status, cards):
        self.init, self.status, self.cards = init, status, cards

    def cuInit(self, flags):
        return self.init

    def cuDeviceGetCount(self, count):
        count._obj.value = self.cards
        return self.status


@pytest.mark.parametrize(
    "driver, there",
    (
        (None, False),
        (Driver(100, 0, 1), False),
        (Driver(0, 3, 1), False),
        (Driver(0, 0, 0), False),
        (Driver(0, 0, 2), True),
    ),
    ids=("no driver", "a driver that does not start", "a driver that cannot count", "no card", "two cards"),
)
def test_a_card_is_there_when_its_driver_starts_and_counts_it(monkeypatch, driver, there):
    import ctypes

    def load(name):
        if driver is None:
            raise OSError(name)
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert style._has_gpu() is there


# --- show ------------------------------------------------------------------------------------------


def test_show_displays_the_figure_then_its_caption_and_closes_it(notebook):
    fig = figure()
    picture = svg(fig, "what it shows")
    show(fig, "**Figure 1.** See.", "what it shows")
    assert notebook == [
        {"image/svg+xml": picture, "text/plain": "what it shows"},
        {"text/markdown": "**Figure 1.** See.", "text/plain": "**Figure 1.** See."},
    ]
    assert not plt.fignum_exists(fig.number)


@pytest.mark.parametrize("empty", ("", " \n\t"))
@pytest.mark.parametrize("name", ("caption", "alt"))
@pytest.mark.parametrize(
    "front",
    (show, lambda fig, caption, alt: animation(fig, lambda i: [], ["a"], caption, alt)),
    ids=("show", "animation"),
)
def test_an_empty_caption_or_alternative_is_refused_before_anything_is_displayed(notebook, front, name, empty):
    with pytest.raises(ValueError, match=f"^{name}: expected .*, got nothing$"):
        front(figure(), **{"caption": "c", "alt": "a", name: empty})
    assert notebook == []


# --- animation -------------------------------------------------------------------------------------

LABELS = ["start", "</script><b>", "<!-- <script>", 'µ & "quotes" \u2028']


def animated(notebook, labels=LABELS, start=0.0):
    """The HTML of a line with markers that leaves its axes (so its clip shows) and a bar."""
    fig, ax = plt.subplots()
    ax.plot([0, 1], [1, 0])
    (line,) = ax.plot([0, 1], [0, 1], marker="o")
    bar = ax.axvspan(0, 0.1)
    ax.set(xlim=(0, 1), ylim=(0, 1))

    def update(i):
        line.set_ydata([start, i])
        return [line, bar]

    animation(fig, update, labels, "caption", "alt", milliseconds=50)
    assert not plt.fignum_exists(fig.number)
    return notebook[-2]["text/html"]


class Page(HTMLParser):
    """The ids, scripts and texts that a browser would see."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.text, self.scripts, self.inside = [], {}, [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.inside.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if self.inside and self.inside[-1] == "script":
            self.scripts[-1] += data
        elif self.inside:
            self.text[self.inside[-1]] = self.text.get(self.inside[-1], "") + data


def json_after(words, script):
    return json.JSONDecoder().raw_decode(script, script.index(words) + len(words))[0]


def test_an_animation_has_one_entry_a_frame_whose_groups_exist_and_whose_references_resolve(notebook):
    html = animated(notebook)
    page = Page(html)
    (script,) = page.scripts
    frames, labels = json_after("frames = ", script), json_after("labels = ", script)
    assert labels == LABELS and [len(frame) for frame in frames] == [2] * len(LABELS)
    mark = re.search(r'getElementById\("(\w+)"\)', script)[1]
    assert {mark, f"{mark}-0", f"{mark}-1"} <= set(page.ids) and len(page.ids) == len(set(page.ids))
    first = ElementTree.fromstring(re.search(r"<svg .*?</svg>", html, re.S)[0])
    moving = [next(e for e in first.iter() if e.get("id") == f"{mark}-{k}") for k in range(2)]
    static = {e.get("id") for e in first.iter()} - {e.get("id") for group in moving for e in group.iter()}
    for frame in frames:
        for inner in frame:
            inside = {e.get("id") for e in ElementTree.fromstring(f'<g xmlns:xlink="x">{inner}</g>').iter()}
            assert references(inner) and references(inner) <= static | inside
    assert len({frame[0] for frame in frames}) == len(LABELS) and len({frame[1] for frame in frames}) == 1


def test_the_first_frame_is_drawn_before_any_script_runs_and_stands_for_the_animation_elsewhere(notebook):
    html = animated(notebook, ["a < b", "c"])
    assert Page(html).text["output"] == "a < b"
    assert 'max="1"' in html and "}}" not in re.sub(r"<style>.*?</style>", "", html)
    data = notebook[-2]
    assert data["image/svg+xml"] in html and data["text/plain"] == "alt"
    assert notebook[-1] == {"text/markdown": "caption", "text/plain": "caption"}


def test_labels_cannot_end_or_swallow_the_script(notebook):
    script = re.search(r"<script>(.*)</script>", animated(notebook), re.S)[1]
    assert not re.search(r"</|<!--|<script", script)


def test_two_animations_on_a_page_share_no_id_and_the_same_one_twice_is_the_same_bytes(notebook):
    first, second, again = animated(notebook), animated(notebook, start=0.5), animated(notebook)
    assert first == again
    assert set(Page(first).ids).isdisjoint(Page(second).ids)


def test_a_definition_that_a_later_frame_needs_and_the_first_lacks_is_refused_with_the_artists_index(notebook):
    fig, ax = plt.subplots()
    (line,), bar = ax.plot([0, 1], [0, 1]), ax.axvspan(0, 0.1)

    def update(i):
        bar.set_hatch("//" if i == 2 else None)
        return [line, bar]

    with pytest.raises(ValueError, match="^update: artist 1 of frame 2 refers to a definition that is not in the first frame"):
        animation(fig, update, ["a", "b", "c"], "caption", "alt")
    assert notebook == []


def test_hatches_and_markers_that_stay_are_accepted_wherever_they_are_defined(notebook):
    fig, ax = plt.subplots()
    lines = [ax.plot([0, 1], [k, 1], color=COLORS["blue"][0], marker="o")[0] for k in range(2)]    # they share the marker
    bar = ax.axvspan(0, 0.1, hatch="//")

    def update(i):
        bar.set_x(0.1 * i)
        return [*lines, bar]

    animation(fig, update, ["a", "b"], "caption", "alt")
    assert "text/html" in notebook[0]


def test_axes_stay_where_the_first_frame_has_them(notebook):
    """The layout engine alone would need several frames to come to rest, and carry the moving artists with it."""
    fig, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(5.8, 4.2), height_ratios=[1, 2.6])
    top.set(ylabel="input $u_s$", ylim=(-0.8, 1.1))
    bottom.set(xlabel="step $t$", ylabel="copies and their sum", xlim=(-1, 48), ylim=(-0.6, 0.75))
    (line,) = top.plot([0, 0], [-0.8, 1.1])
    animation(fig, lambda i: [line], ["a", "b", "c", "d"], "caption", "alt")
    frames = json_after("frames = ", notebook[0]["text/html"])
    assert frames == [frames[0]] * 4


def test_no_labels_are_refused(notebook):
    with pytest.raises(ValueError, match="^labels: expected one text for each frame, got none$"):
        animated(notebook, [])
    assert notebook == []


PRESSES = """
const things = {};
function thing(name) {
  return things[name] = things[name] || {innerHTML: "", textContent: "", value: "0", setAttribute(k, v) { this[k] = v; }};
}
const box = {querySelector: thing};
const document = {getElementById: () => box};
let tick = null;
const setInterval = (f, ms) => { tick = f; return ms; }, clearInterval = () => { tick = null; };
SCRIPT
const seen = [], slider = thing("input"), play = thing("[data-do=play]");
const see = () => seen.push([
  +slider.value, thing("output").textContent, thing("#MARK-0").innerHTML.length > 0, play.textContent, tick !== null
]);
thing("[data-do=next]").onclick(); see();
thing("[data-do=back]").onclick(); see();
thing("[data-do=back]").onclick(); see();
play.onclick(); tick(); see();
tick(); see();
play.onclick(); see();
play.onclick(); see();
play.onclick(); slider.value = "2"; slider.oninput(); see();
console.log(JSON.stringify(seen));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="node runs the player's script")
def test_the_player_steps_plays_pauses_and_stops_at_the_end(notebook):
    html = animated(notebook, ["a", "b", "c"])
    script = Page(html).scripts[0]
    mark = re.search(r'getElementById\("(\w+)"\)', script)[1]
    code = PRESSES.replace("SCRIPT", script).replace("MARK", mark)
    seen = json.loads(subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True).stdout)
    assert seen == [
        [1, "b", True, "Play", False],  # on
        [0, "a", True, "Play", False],  # back
        [0, "a", True, "Play", False],  # there is nothing before the first
        [1, "b", True, "Pause", True],  # playing
        [2, "c", True, "Play", False],  # the last one: stopped
        [0, "a", True, "Pause", True],  # played again, from the start
        [0, "a", True, "Play", False],  # paused
        [2, "c", True, "Play", False],  # playing, then dragged: stops where the reader drags
    ]
