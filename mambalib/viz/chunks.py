"""The scan in chunks: its stages, and a diagram of them."""

import numpy as np
from matplotlib.patches import Rectangle

from ..scan import reference
from .boxes import BOX, EDGE, GRID, LINE, LOCAL, canvas, draw_box, draw_edge, draw_legend, fit, number, text_lines, write
from .style import STYLE, show


def chunked(a, b, size):
    """The scan of h_t = a_t h_{t-1} + b_t in chunks: what every stage of it holds.

    Parameters
    ----------
    a, b : arrays (n,)
    size : int
        Steps in a chunk; the last chunk may be shorter.

    Returns
    -------
    decay, local : arrays (n,)
        The pair of all steps of the chunk up to t; `local` is the state that a chunk which starts from 0 has at t.
    carry : array (chunks,)
        The state before each chunk: a scan over the pairs at the ends of the chunks.
    h : array (n,)
        decay_t carry + local_t.

    Raises
    ------
    ValueError
        A size below 1; arrays that are not two of one axis, one length and at least one step.
    """
    a, b = np.asarray(a), np.asarray(b)
    if b.ndim != 1 or a.shape != b.shape or not b.size:
        raise ValueError(f"a, b: expected two arrays (n,), n > 0, got {a.shape} and {b.shape}")
    if size < 1:
        raise ValueError(f"size: expected at least 1, got {size}")
    starts = range(0, len(b), size)
    folded = [list(reference.sequential_sweeps(a[s:s + size], b[s:s + size]))[-1] for s in starts]
    decay, local = (np.concatenate(x) for x in zip(*folded))
    ends = [s + size - 1 for s in starts][:-1]
    carry = np.concatenate([np.zeros(1, local.dtype), reference.sequential(decay[ends], local[ends])])
    return decay, local, carry, decay * np.repeat(carry, [len(x) for x, _ in folded]) + local


def chunk_diagram(a, b, size, caption, alt):
    """Display the scan in chunks: the pairs, their scans within each chunk, the states between the chunks, the states.

    A filled pair is that of a whole chunk. A wide box holds the state before a chunk, and lies on all of its columns: every
    step of the chunk takes it in. Parameters and errors as for `chunked` and `show`.
    """
    decay, local, carry, h = chunked(a, b, size)
    n, width, left, gap = len(h), 72 * STYLE["figure.figsize"][0], 58, 16
    column = min((width - left - 4 - gap * (len(carry) - 1)) / n, 54)
    rows = [list(zip(np.asarray(a), np.asarray(b))), list(zip(decay, local)), list(carry), list(h)]
    lines, text, box = fit([*rows[0], *rows[1]], number, column)
    xs = [left + (t + 0.5) * column + t // size * gap for t in range(n)]
    ys = np.cumsum([box[1] / 2 + 8, box[1] + 26, box[1] + 30, box[1] + 26])
    fig, ax = canvas(width, ys[3] + box[1] / 2 + 6 + LINE)
    for y, name in zip(ys, (("pairs",), ("scanned", "in the chunk"), ("state before", "the chunk"), ("states",))):
        for j, line in enumerate(name):
            write(ax, left - 6, y + (j - (len(name) - 1) / 2) * 11, line, ha="right")
    above, below = ys - box[1] / 2, ys + box[1] / 2
    for c, state in enumerate(carry):
        first, last = xs[c * size], xs[min((c + 1) * size, n) - 1]
        middle, wide = (first + last) / 2, last - first + box[0]
        ax.add_patch(Rectangle((middle - wide / 2 - 4, above[0] - 5), wide + 8, below[3] - above[0] + 10, facecolor="none",
                               edgecolor=GRID, linewidth=1, zorder=0))
        draw_box(ax, (middle, ys[2]), (wide, box[1]), BOX["moved" if c else "identity"], [number(state)], 9.5)
        if c:
            end = xs[c * size - 1]
            draw_edge(ax, (end + box[0] / 2, ys[2]), (first - box[0] / 2, ys[2]), *EDGE["left"])
            draw_edge(ax, (end, below[1]), (first - box[0] / 4, above[2]), *EDGE["right"])
    for t, x in enumerate(xs):
        whole, shift = t % size == size - 1 or t == n - 1, 0.13 * column
        draw_box(ax, (x, ys[0]), box, BOX["input"], text_lines(rows[0][t], number, lines), text)
        draw_box(ax, (x, ys[1]), box, BOX["computed"] if whole else LOCAL, text_lines(rows[1][t], number, lines), text)
        draw_box(ax, (x, ys[3]), box, LOCAL, [number(h[t])], 9.5)
        if t % size == 0:
            draw_edge(ax, (x, below[0]), (x, above[1]), GRID, "-")
        else:
            draw_edge(ax, (x + shift, below[0]), (x + shift, above[1]), *EDGE["right"])
            draw_edge(ax, (xs[t - 1] + box[0] / 2, ys[1]), (x - box[0] / 2, ys[1]), *EDGE["left"])
        draw_edge(ax, (x + shift, below[1]), (x + shift, above[3]), *EDGE["right"])
        draw_edge(ax, (x - shift, below[2]), (x - shift, above[3]), *EDGE["left"])
    draw_legend(ax, xs[0] - box[0] / 2, ys[3] + box[1] / 2 + 6 + LINE / 2, list(EDGE))
    show(fig, caption, alt)
