"""Scan diagrams, traced from the code that they show: a column a position, a row a sweep, time downward.

No diagram can drift from its code: its nodes and edges are those of `trace`.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.patches import Rectangle

from .animate import animation
from .boxes import (
    BOX, EDGE, GRID, INK, LINE, PAPER, canvas, draw_arrow, draw_box, draw_edge, draw_legend, fit, number, text_lines, write
)
from .style import STYLE, show
from .trace import trace


@dataclass(frozen=True)
class _Layout:
    """Where things are, in points from the top left corner."""

    x0: float                                        # of column 0
    column: float                                    # from column to column
    row: float                                       # from row to row
    box: tuple                                       # width, height
    size: float                                      # of text in the boxes
    lines: int                                       # of text in a box
    bottom: float                                    # below the last row

    def at(self, k, i):
        return self.x0 + i * self.column, self.box[1] / 2 + 4 + k * self.row


def draw_scan(ax, sweeps, *arrays, format=number, title=""):
    """Draw a scan on axes, as it runs.

    Filled boxes are computed, from a left operand (solid line) and a right one (dashed). A thick outline and an arrow:
    moved. A faint outline: unchanged. A dashed outline: the identity, thick if it moved. "own" stands for the column's
    input.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Its ticks and spines are removed.
    sweeps, *arrays
        As for `trace`.
    format : callable or None
        The text of a number, or of each of a and b. None draws dots.
    title : str

    Returns
    -------
    Trace
        With .work, the number of combinations, and .depth, that of parallel steps.

    Raises
    ------
    ValueError
        As `trace`; axes too low for the rows.

    Examples
    --------
    >>> import matplotlib.pyplot as plt, numpy as np
    >>> from mambalib.scan.reference import hillis_steele_sweeps
    >>> fig, ax = plt.subplots(figsize=(5.8, 3))
    >>> scan = draw_scan(ax, hillis_steele_sweeps, np.full(8, 0.5), np.ones(8), title="Hillis and Steele")
    >>> scan.work, scan.depth
    (17, 3)
    >>> plt.close(fig)
    """
    scan = trace(sweeps, *arrays)
    ax.axis("off")
    ax.set_title(title)
    width, height = _size(ax, title)
    ax.set(xlim=(0, width), ylim=(height, 0))
    _draw(ax, scan, format, _layout(scan, format, width, height), width)
    return scan


def _size(ax, title):
    """Width and height of the axes in points; the figure's empty axes are taken as diagrams to come, with a title too."""
    engine = ax.figure.get_layout_engine()
    if engine is not None:
        empty = [other for other in ax.figure.axes if other.axison and not other.has_data() and not other.texts]
        untitled = [other for other in empty if not any(map(other.get_title, ("left", "center", "right")))]
        for other in empty:
            other.set_axis_off()
        for other in untitled:
            other.set_title(title)
        engine.execute(ax.figure)                    # gives the axes their size
        for other in empty:
            other.set_axis_on()
        for other in untitled:
            other.set_title("")
    return 72 * ax.get_position().size * ax.figure.get_size_inches()


def scan_diagram(sweeps, *arrays, caption, alt, format=number):
    """Display a scan as a figure, with a legend. Parameters as for `draw_scan` and `show`."""
    fig, _, _ = _figure(trace(sweeps, *arrays), format)
    show(fig, caption, alt)


def scan_animation(sweeps, *arrays, caption, alt, format=number):
    """Display a scan sweep by sweep: play, pause, step. Parameters as for `draw_scan` and `show`."""
    scan = trace(sweeps, *arrays)
    fig, ax, layout = _figure(scan, format)
    width = ax.get_xlim()[1]
    # All is drawn. A curtain hangs before what is to come, a band marks the last sweep, its foot hides what leaves there.
    half = layout.box[1] / 2
    curtain, band, foot = (
        ax.add_patch(Rectangle((0, 0), width, height, facecolor=color, edgecolor="none", zorder=zorder, alpha=alpha))
        for height, color, zorder, alpha in ((0, PAPER, 9, 0.85), (2 * half + 7, GRID, 0, 1), (3.5, GRID, 2.5, 1))
    )

    def update(k):
        y = layout.at(k, 0)[1]
        band.set_y(y - half - 3.5)
        foot.set_y(y + half)
        curtain.set_y(y + half + 3.5)
        curtain.set_height(layout.bottom + 1 - curtain.get_y())
        return [band, foot, curtain]

    labels, total = ["start"], 0
    for k, count in enumerate(scan.combinations[1:], 1):
        total += count
        labels.append(f"sweep {k}: {count} combination{'s' * (count != 1)}, {total} in all")
    animation(fig, update, labels, caption, alt, milliseconds=1500)


def _figure(scan, format):
    """A figure of the book's width, as high as the scan needs."""
    width = 72 * STYLE["figure.figsize"][0]
    layout = _layout(scan, format, width)
    fig, ax = canvas(width, layout.bottom + 2 * LINE)
    _draw(ax, scan, format, layout, width)
    kinds = {_look(node, i) for row in scan.nodes for i, node in enumerate(row)} - {"input"}
    if "moved identity" in kinds:                    # no name of its own: it looks moved, and like an identity
        kinds = kinds - {"moved identity"} | {"moved", "identity"}
    left = layout.x0 - layout.box[0] / 2
    draw_legend(ax, width - 210, layout.bottom + LINE / 2, [kind for kind in EDGE if "computed" in kinds])
    draw_legend(ax, left, layout.bottom + 1.5 * LINE, [kind for kind in BOX if kind in kinds])
    return fig, ax, layout


def _layout(scan, format, width, height=np.inf):
    """Columns as wide as the width allows, up to 54 points; text and boxes that fit in; rows as high as their edges need."""
    n, rows = len(scan.nodes[0]), len(scan.nodes)
    left, right = (46, 30) if width > 250 else (26, 24)              # names of sweeps, numbers of combinations
    column = min((width - left - right) / n, 54)
    lines, size, box = fit([value for row in scan.values for value in row], format, column)
    gap, least = (20, 10) if format is None else (30, 12)
    needed = (rows * (box[1] + least) - least + 8 + LINE) / 72
    if height < 72 * needed:
        raise ValueError(f"ax: expected a height of {needed:.1f} inches or more for {rows} rows, got {height / 72:.1f}")
    row = min(box[1] + gap, (height - LINE - box[1] - 8) / max(rows - 1, 1))
    return _Layout(left + column / 2, column, row, box, size, lines, box[1] + 8 + (rows - 1) * row)


def _draw(ax, scan, format, layout, width):
    for k, row in enumerate(scan.nodes):
        left, y = layout.at(k, -0.5)
        name = "start" if k == 0 else f"sweep {k}" if width > 250 else str(k)
        write(ax, left - 4, y, name, ha="right")
        write(ax, layout.at(k, len(row) - 0.5)[0] + 4, y, scan.combinations[k] if k else "work")
        for i, node in enumerate(row):
            text = [] if format is None else text_lines(scan.values[k][i], format, layout.lines)
            draw_box(ax, layout.at(k, i), layout.box, BOX[_look(node, i)], text, layout.size)
            _draw_edges(ax, layout, k, i, node)
    write(ax, layout.x0 - layout.box[0] / 2, layout.bottom + LINE / 2, f"work {scan.work}, depth {scan.depth}", 9.5, INK)


def _look(node, i):
    """The kind of box of a node in column i."""
    moved = node.kind == "identity" and node.sources and node.sources[0][1] != i
    return "moved identity" if moved else node.kind


def _draw_edges(ax, layout, k, i, node):
    """The edges that end in node (k, i). The left operand comes in on the left, the right one on the right."""
    for side, source in zip(("left", "right") if node.kind == "computed" else (node.kind,), node.sources):
        if source is None:
            continue
        shift = {"left": -0.13, "right": 0.13}.get(side, 0) * layout.column
        (x, y), (x_from, y_from) = layout.at(k, i), layout.at(*source)
        end, start = (x + shift, y - layout.box[1] / 2), (x_from, y_from + layout.box[1] / 2)
        if source[1] == i:
            start = end[0], start[1]
        if node.kind == "computed" and source == (0, i) and k > 1:
            start = end[0], end[1] - 10
            if layout.column > 32 and layout.row - layout.box[1] > 20:
                write(ax, end[0] + 0.5 * shift, end[1] - 16, "own", color=INK, ha="center")
        if node.kind in ("unchanged", "identity") and source[1] == i:
            draw_edge(ax, start, end, GRID, "-", 1)
        elif node.kind in ("moved", "identity"):
            draw_arrow(ax, start, end)
        else:
            draw_edge(ax, start, end, *EDGE[side])
