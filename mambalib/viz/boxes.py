"""What scan diagrams are drawn of: boxes with numbers, edges, a legend, on axes whose unit is a point."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.textpath import TextPath

from .style import COLORS

INK, MUTED, GRID, PAPER, BLUE, ORANGE, GREEN = (
    COLORS[name][0] for name in ("ink", "muted", "grid", "paper", "blue", "orange", "green")
)
BOX = {                                              # kind: (fill, outline, its width, its dashes, text)
    "input": (PAPER, INK, 1.0, "-", INK),
    "computed": (BLUE, BLUE, 1.0, "-", PAPER),
    "moved": (PAPER, ORANGE, 2.0, "-", INK),
    "unchanged": (PAPER, GRID, 1.0, "-", MUTED),
    "identity": (PAPER, MUTED, 1.0, (0, (2.5, 2)), MUTED),
    "moved identity": (PAPER, ORANGE, 2.0, (0, (1.6, 1.1)), MUTED),
}
LOCAL = (PAPER, BLUE, 1.4, "-", INK)                  # a pair within a chunk
EDGE = {"left": (BLUE, "-"), "right": (GREEN, (0, (3, 1.5)))}
SMALL = 8.5                                          # points: the least size of text that a phone's column bears
LINE = 17                                            # points: the height of a line under the diagram


def canvas(width, height):
    """A figure and axes on all of it: points from the top left corner."""
    fig = plt.figure(figsize=(width / 72, height / 72))
    fig.set_layout_engine("none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    return fig, ax


def number(x):
    """A number for a box: three digits, no zeros at the end."""
    return f"{float(f'{x:.3g}'):g}" if isinstance(x, (float, np.floating)) else str(x)


def fit(values, format, column):
    """How the values are written in boxes for this column: lines, the size of text, (width, height) of a box."""
    if format is None:
        return 0, 0, (min(0.5 * column, 12),) * 2
    room = 0.9 * column - 6
    widths = [max(text_width(line) for value in values for line in text_lines(value, format, lines)) for lines in (1, 2)]
    pairs = isinstance(values[0], tuple)
    lines = 2 if pairs and widths[0] * SMALL > room else 1
    size = min(9.5, room / widths[lines - 1])
    return lines, size, (max(widths[lines - 1] * size + 6, 0.55 * column), (0.75 + 1.2 * lines) * size)


def text_lines(value, format, lines):
    """The lines of text of a number, or of a pair."""
    if not isinstance(value, tuple):
        return [format(value)]
    a, b = (format(x) for x in value)
    return [f"({a},", f"{b})"] if lines == 2 else [f"({a}, {b})"]


def text_width(text):
    """The width of a text, in units of its size."""
    return TextPath((0, 0), text, size=100).get_extents().width / 100 if text.strip() else 0.5


def write(ax, x, y, text, size=SMALL, color=MUTED, ha="left", zorder=4):
    """A line of text whose digits stand around y: matplotlib centres on the line, which is lower."""
    ax.text(x, y + 0.36 * size, str(text), size=size, color=color, ha=ha, va="baseline", zorder=zorder)


def draw_box(ax, at, box, look, lines=(), size=0):
    """A rounded box around a point, with lines of text; without text, round."""
    (x, y), (width, height), (fill, outline, weight, dashes, ink) = at, box, look
    ax.add_patch(FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, facecolor=fill, edgecolor=outline, linewidth=weight, linestyle=dashes,
        boxstyle=f"round,pad=0,rounding_size={4 if lines else min(width, height) / 2}", zorder=3,
    ))
    for j, text in enumerate(lines):
        write(ax, x, y + (j - (len(lines) - 1) / 2) * 1.2 * size, text, size, ink, ha="center")


def draw_edge(ax, start, end, color, dashes, zorder=2):
    ax.plot(*zip(start, end), color=color, linestyle=dashes, linewidth=1.3, zorder=zorder, solid_capstyle="butt")


def draw_arrow(ax, start, end):
    """The edge of what moved."""
    ax.add_patch(FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=9, shrinkA=0, shrinkB=0, color=ORANGE, linewidth=1.3, zorder=2
    ))


def draw_legend(ax, x, y, kinds):
    """Kinds of edges and boxes, by name, from x to the right."""
    for kind in kinds:
        if kind == "moved":
            draw_arrow(ax, (x, y), (x + 18, y))
            x += 19
        if kind in EDGE:
            draw_edge(ax, (x, y), (x + 20, y), *EDGE[kind])
        else:
            draw_box(ax, (x + 10, y), (18, 9), BOX[kind])
        name = f"{kind} operand" if kind in EDGE else kind
        write(ax, x + 24, y, name)
        x += 38 + SMALL * text_width(name)
