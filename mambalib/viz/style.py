"""The figure style, and `show`, which turns a matplotlib figure into an SVG with a caption and a text alternative.

A figure is drawn in the light colours below. Its SVG carries a style sheet that swaps each one for its dark partner where
the page is dark: by the site's own switch (data-theme), elsewhere by what the reader's system prefers.
"""

import hashlib
import html
import io
import os
import re
from contextlib import suppress

import matplotlib
from cycler import cycler
from IPython.display import display

COLORS = {                                           # name: (on a light page, on a dark page)
    "paper": ("#ffffff", "#14181e"),
    "ink": ("#1f2933", "#e4e7eb"),
    "muted": ("#5f6b7a", "#9aa5b1"),
    "grid": ("#d9dee4", "#38414d"),
    "blue": ("#0b62a8", "#6cb6ff"),
    "orange": ("#c2570c", "#ff9f5a"),
    "green": ("#19764d", "#5fd3a0"),
    "purple": ("#8a3ea8", "#d49cf0"),
    "red": ("#b3262e", "#ff8a8a"),
}

_LIGHT = {name: light for name, (light, dark) in COLORS.items()}

# Lines differ by dash as well as by colour, so that a figure reads without colour.
_CYCLE = cycler(color=[_LIGHT[c] for c in ("blue", "orange", "green", "purple", "red")]) + cycler(
    linestyle=["-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1))]
)

STYLE = {
    "figure.figsize": (5.8, 3.3),                    # inches: the width of a phone's column at a readable size
    "figure.facecolor": _LIGHT["paper"],
    "figure.constrained_layout.use": True,
    "hatch.color": _LIGHT["ink"],
    "font.size": 10.0,
    "axes.facecolor": "none",
    "axes.edgecolor": _LIGHT["muted"],
    "axes.labelcolor": _LIGHT["ink"],
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titlecolor": _LIGHT["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": _CYCLE,
    "grid.color": _LIGHT["grid"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "text.color": _LIGHT["ink"],
    "xtick.color": _LIGHT["muted"],
    "ytick.color": _LIGHT["muted"],
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "svg.fonttype": "path",
    "svg.hashsalt": "mambalib",
    "mathtext.fontset": "dejavusans",
}


def setup():
    """Prepare a notebook: the figure style, and numba's CUDA simulator where there is no card.

    Called by the first cell of every chapter, before numba is imported.
    """
    matplotlib.use("agg")                            # figures appear through `show`, never by themselves
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(STYLE)
    os.environ.setdefault("NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS", "0")      # the book's grids are small on purpose
    if not _has_gpu():
        os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")      # numba reads it when it is imported


def _has_gpu():
    import ctypes

    for library in ("libcuda.so.1", "nvcuda.dll"):
        with suppress(OSError):
            driver, count = ctypes.CDLL(library), ctypes.c_int(0)
            return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    return False


def show(fig, caption, alt):
    """Display a figure as SVG, its caption under it, and close it.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
    caption : str
        Markdown that starts with the figure's number and says what to see: "**Figure 3.1.** Bilinear stays ...".
    alt : str
        What the figure shows, in words, for someone who cannot see it.

    Raises
    ------
    ValueError
        An empty caption or text alternative.
    """
    check_caption(caption)
    display({"image/svg+xml": svg(fig, alt), "text/plain": alt}, raw=True)
    show_caption(caption)
    _close(fig)


def check_caption(caption):
    if not caption.strip():
        raise ValueError("caption: expected a sentence that says what to see, got nothing")


def show_caption(caption):
    display({"text/markdown": caption, "text/plain": caption}, raw=True)


def svg(fig, alt):
    """The figure as an SVG element: the same bytes on each run, named, sized for the page, in both colour schemes."""
    if not alt.strip():
        raise ValueError("alt: expected a description of the figure, got nothing")
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": STYLE["svg.hashsalt"], "svg.fonttype": STYLE["svg.fonttype"]}):
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg"):].strip()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"\s*<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'( d="| translate\(|translate\()([^")]*)', lambda m: m[1] + _shorter(m[2]), text)
    text = re.sub(r'(\b(?:x|y|x1|y1|x2|y2)=")([^"]*)', lambda m: m[1] + _shorter(m[2]), text)
    # A marker's edge is drawn through <use>, where the style sheet reaches the <use> alone: it carries the color, too.
    text = re.sub(r'(<defs>\s*<path [^>]*?style=")stroke: #[0-9a-f]{6};? ?', r"\1", text)
    mark = "f" + hashlib.sha256(text.encode()).hexdigest()[:8] + "-"      # two figures on a page share no id
    text = re.sub(r'\bid="', f'id="{mark}', text)
    text = re.sub(r'(href="#|url\(#)', lambda m: m[1] + mark, text)
    width, height = (float(v) for v in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups())
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" class="mambalib-figure" role="img" '
        f'width="{width * 1.5:.0f}" viewBox="0 0 {width:g} {height:g}" style="max-width: 100%; height: auto" '
        f'aria-label="{html.escape(alt)}">\n <style>{_STYLESHEET}</style>'
    )
    return head + text[text.index(">") + 1:]


def _shorter(numbers):
    return re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), numbers)


def _stylesheet():
    light = "".join(f"--m-{name}:{a};" for name, (a, b) in COLORS.items())
    dark = "".join(f"--m-{name}:{b};" for name, (a, b) in COLORS.items())
    rules = [
        f".mambalib-figure{{{light}}}",
        f"@media(prefers-color-scheme:dark){{.mambalib-figure{{{dark}}}}}",
        f"[data-theme=light] .mambalib-figure{{{light}}}",
        f"[data-theme=dark] .mambalib-figure{{{dark}}}",
    ]
    for name, (a, b) in COLORS.items():
        for what in ("fill", "stroke"):
            rules.append(f'.mambalib-figure [style*="{what}: {a}"]{{{what}:var(--m-{name})!important}}')
    return "".join(rules)


_STYLESHEET = _stylesheet()


def _close(fig):
    import matplotlib.pyplot as plt

    plt.close(fig)
