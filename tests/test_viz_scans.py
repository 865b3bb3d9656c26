"""viz.trace, scans and chunks: what a diagram shows is what the code does, edge by edge; and the figures are the book's."""

import re
import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from mambalib import linear_scan
from mambalib.scan import reference
from mambalib.viz import (
    COLORS, animate, boxes, chunk_diagram, chunks, draw_scan, scan_animation, scan_diagram, scans, setup, style
)
from mambalib.viz.boxes import number
from mambalib.viz.chunks import chunked
from mambalib.viz.trace import Node, trace

A = np.array([0.5, 2, 1, 0.5, 0, 1, 2, 0.5])
B = np.array([3.0, 1, 7, 0, 4, 1, 6, 3])
PAIRS = (
    reference.sequential_sweeps, reference.hillis_steele_sweeps, reference.blelloch_sweeps, reference.blelloch_mirrored_sweeps
)


@pytest.fixture(autouse=True)
def notebook(monkeypatch):
    """What is displayed, in the book's style; a warning is an error."""
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    displayed = []
    for module in (style, animate):
        monkeypatch.setattr(module, "display", lambda data, raw: displayed.append(data))
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("error")
        setup()
        yield displayed
    plt.close("all")


def hillis_steele(x, combine=np.add):
    """What a reader writes for one array."""
    yield x
    reach = 1
    while reach < len(x):
        x = np.concatenate([x[:reach], combine(x[:-reach], x[reach:])])
        yield x
        reach *= 2


def serial(x, combine=np.add):
    """The same entry by entry, in place, yielding one array again and again."""
    yield x
    for t in range(1, len(x)):
        x[t] = combine(x[t - 1], x[t])
        yield x


def of_kind(scan, k, kind):
    """{position: sources} of the nodes of one kind in row k."""
    return {i: node.sources for i, node in enumerate(scan.nodes[k]) if node.kind == kind}


def operands(k, edges, row=None):
    """{child: (left, right)} within row k - 1, as sources; the right operands may come from another row."""
    return {i: ((k - 1, left), (k - 1 if row is None else row, right)) for i, (left, right) in edges.items()}


# --- Edges ------------------------------------------------------------------------------------------------------------


def test_the_loop_combines_each_entry_with_the_one_before():
    scan = trace(reference.sequential_sweeps, A, B)
    assert len(scan.nodes) == 8 and all(node == Node("input") for node in scan.nodes[0])
    for t in range(1, 8):
        assert of_kind(scan, t, "computed") == {t: ((t - 1, t - 1), (t - 1, t))}
        assert of_kind(scan, t, "unchanged") == {i: ((t - 1, i),) for i in range(8) if i != t}


def test_hillis_and_steele_reach_1_2_4_back():
    scan = trace(reference.hillis_steele_sweeps, A, B)
    assert of_kind(scan, 1, "computed") == operands(
        1, {1: (0, 1), 2: (1, 2), 3: (2, 3), 4: (3, 4), 5: (4, 5), 6: (5, 6), 7: (6, 7)}
    )
    assert of_kind(scan, 2, "computed") == operands(2, {2: (0, 2), 3: (1, 3), 4: (2, 4), 5: (3, 5), 6: (4, 6), 7: (5, 7)})
    assert of_kind(scan, 3, "computed") == operands(3, {4: (0, 4), 5: (1, 5), 6: (2, 6), 7: (3, 7)})
    assert [len(of_kind(scan, k, "unchanged")) for k in (1, 2, 3)] == [1, 2, 4] and len(scan.nodes) == 4


def test_blelloch_goes_up_the_tree_and_down_again():
    scan = trace(reference.blelloch_sweeps, A, B)
    computed = [of_kind(scan, k, "computed") for k in range(9)]
    assert computed[1] == operands(1, {1: (0, 1), 3: (2, 3), 5: (4, 5), 7: (6, 7)})
    assert computed[2] == operands(2, {3: (1, 3), 7: (5, 7)})
    assert computed[3] == operands(3, {7: (3, 7)})
    assert computed[4] == {} and of_kind(scan, 4, "identity") == {7: ()}
    # Down: what comes before the parent stands at the right child, the sum of the left child at the left one.
    assert computed[5] == operands(5, {7: (7, 3)})
    assert computed[6] == operands(6, {3: (3, 1), 7: (7, 5)})
    assert computed[7] == operands(7, {1: (1, 0), 3: (3, 2), 5: (5, 4), 7: (7, 6)})
    assert computed[8] == operands(8, {i: (i, i) for i in range(8)}, row=0)
    assert [of_kind(scan, k, "moved") for k in (5, 6, 7)] == [
        {}, {5: ((5, 7),)}, {2: ((6, 3),), 4: ((6, 5),), 6: ((6, 7),)}
    ]
    assert [of_kind(scan, k, "identity") for k in (5, 6, 7)] == [{3: ((4, 7),)}, {1: ((5, 3),)}, {0: ((6, 1),)}]


@pytest.mark.parametrize("n", range(1, 18))
def test_the_mirrored_tree_is_the_tree_in_the_mirror(n):
    rng = np.random.default_rng(n)
    a, b = rng.random(n), rng.random(n)
    there, here = trace(reference.blelloch_sweeps, a, b), trace(reference.blelloch_mirrored_sweeps, a, b)
    last = len(there.nodes[0]) - 1
    if last + 1 == n:                                # padding is at the end in both
        mirrored = [[Node(x.kind, tuple((k, last - i) for k, i in x.sources)) for x in row[::-1]] for row in there.nodes]
        assert here.nodes == mirrored
    assert (here.work, here.depth) == (there.work, there.depth)


def test_padding_is_identity_and_its_edges_are_found_too():
    scan = trace(reference.blelloch_sweeps, A[:5], B[:5])
    assert [node.kind for node in scan.nodes[0]] == ["input"] * 5 + ["identity"] * 3
    assert of_kind(scan, 1, "computed") == operands(1, {1: (0, 1), 3: (2, 3), 5: (4, 5), 7: (6, 7)})
    assert of_kind(scan, 7, "computed") == operands(7, {1: (1, 0), 3: (3, 2), 5: (5, 4), 7: (7, 6)})
    assert of_kind(scan, 8, "computed") == operands(8, {i: (i, i) for i in range(8)}, row=0)
    assert of_kind(scan, 4, "identity") == {6: ((3, 6),), 7: ()}
    assert of_kind(scan, 7, "identity") == {0: ((6, 1),)}
    mirrored = trace(reference.blelloch_mirrored_sweeps, A[:5], B[:5])
    assert of_kind(mirrored, 7, "identity") == {7: ((6, 6),)}        # moved onto an identity


@pytest.mark.parametrize("sweeps", PAIRS)
@pytest.mark.parametrize("n", (1, 2, 3, 5, 8, 13, 16))
@pytest.mark.parametrize("dtype", (np.int8, np.int64, np.float16, np.float32, np.float64))
def test_work_depth_and_values_are_those_of_a_run(sweeps, n, dtype):
    a, b = (np.arange(n) % 2).astype(dtype), (np.arange(n) % 3).astype(dtype)
    counter = reference.Counter()
    rows = [list(zip(*row)) for row in sweeps(a, b, combine=counter)]
    scan = trace(sweeps, a, b)
    assert (scan.work, scan.depth) == (counter.work, counter.depth)
    assert scan.values == rows and [len(row) for row in scan.nodes] == [len(row) for row in rows]
    assert sum(node.kind == "computed" for row in scan.nodes for node in row) == counter.work


@pytest.mark.parametrize("dtype", (np.int64, np.float32))
def test_one_array_and_a_combine_that_is_given_numbers(dtype):
    x = np.arange(8).astype(dtype)
    scan = trace(hillis_steele, x)
    assert scan.nodes == trace(reference.hillis_steele_sweeps, A, B).nodes and (scan.work, scan.depth) == (17, 3)
    assert scan.values[-1] == np.cumsum(x).tolist()
    scan = trace(serial, x)
    assert scan.nodes == trace(reference.sequential_sweeps, A, B).nodes and (scan.work, scan.depth) == (7, 7)
    assert x.tolist() == list(range(8))


def test_an_operand_may_come_from_far_or_be_an_identity_that_was_in_no_row():
    def sweeps(x, combine=np.add):
        first = x.copy()
        yield x
        x = combine(np.concatenate([np.zeros(1), x[:-1]]), x)
        yield x
        x = x.copy()
        x[2:] = combine(first[:-2], x[2:])
        yield x

    scan = trace(sweeps, B[:4])
    assert of_kind(scan, 1, "computed") == {0: (None, (0, 0)), 1: ((0, 0), (0, 1)), 2: ((0, 1), (0, 2)), 3: ((0, 2), (0, 3))}
    assert of_kind(scan, 2, "computed") == {2: ((0, 0), (1, 2)), 3: ((0, 1), (1, 3))}


def test_an_own_input_comes_from_the_start_also_if_the_row_before_has_it_elsewhere():
    def exclusive(x, combine=np.add):
        yield x
        before = np.concatenate([np.zeros(1), x[:-1]])
        yield before
        yield combine(before, x)

    scan = trace(exclusive, B[:4])
    assert of_kind(scan, 1, "moved") == {i: ((0, i - 1),) for i in (1, 2, 3)}
    assert of_kind(scan, 2, "computed") == {i: ((1, i), (0, i)) for i in range(4)}


def test_what_moves_there_and_back_comes_from_the_row_before():
    def turned_twice(x, combine=np.add):
        yield x
        yield x[::-1]
        yield x

    assert of_kind(trace(turned_twice, B[:4]), 2, "moved") == {i: ((1, 3 - i),) for i in range(4)}


# --- Errors -----------------------------------------------------------------------------------------------------------


def beside_combine(x, combine=np.add):
    yield x
    yield np.cumsum(x)


def one_map_beside_combine(a, b, combine=None):
    yield a, b
    yield a, np.append(b[:1], a[1:] * b[:-1] + b[1:])


def halved_operands(x, combine=np.add):
    yield x
    yield combine(x / 2, x / 2)


def half_a_pair(a, b, combine=None):
    yield a, b
    yield a, b[::-1]


def unseen(x, combine=np.add):
    yield x
    yield combine(combine(x, x), x)


def shorter(x, combine=np.add):
    yield x
    yield combine(x[::2], x[1::2])


def lopsided(x, combine=np.add):
    yield x
    yield combine(x[:1], x)


def depends_on_numbers(x, combine=np.add):
    yield x
    if x[0] == 3:
        yield x


@pytest.mark.parametrize(
    "sweeps, arrays, message",
    (
        (beside_combine, [B], "all arithmetic has to go through combine"),
        (one_map_beside_combine, [A, B], "all arithmetic has to go through combine"),
        (halved_operands, [B], "all arithmetic has to go through combine"),
        (half_a_pair, [A, B], "all arithmetic has to go through combine"),
        (unseen, [B], "sweep 1 combines what was never yielded"),
        (shorter, [B], "expected 8 entries in every row, got 4"),
        (lopsided, [B], "1 entries on the left and 8 on the right"),
        (depends_on_numbers, [B], "the same rows whatever the numbers"),
    ),
    ids=lambda x: getattr(x, "__name__", None),
)
def test_what_cannot_be_traced_is_refused(sweeps, arrays, message):
    with pytest.raises(ValueError, match=f"^sweeps: .*{message}"):
        trace(sweeps, *arrays)


@pytest.mark.parametrize("arrays", ([], [B, B, B], [A, B[:3]], [np.ones((2, 2))], [B[:0]]), ids=lambda x: str(len(x)))
def test_arrays_that_are_no_sequence_are_refused(arrays):
    with pytest.raises(ValueError, match="^arrays: expected one array or two"):
        trace(hillis_steele, *arrays)


def test_axes_that_are_too_low_are_refused():
    fig, ax = plt.subplots(figsize=(5.8, 2))
    with pytest.raises(ValueError, match=r"^ax: expected a height of \d\.\d inches or more for 9 rows, got \d\.\d$"):
        draw_scan(ax, reference.blelloch_sweeps, A, B)


# --- Figures ----------------------------------------------------------------------------------------------------------


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_values_names_and_totals_are_written():
    fig, ax = plt.subplots(figsize=(5.8, 4))
    scan = draw_scan(ax, hillis_steele, B / 8, title="Title")
    written = texts(ax)
    assert {"start", "sweep 1", "sweep 3", "work", "7", "6", "4", "work 17, depth 3", "0.375", "0.875"} <= set(written)
    assert (scan.work, scan.depth, ax.get_title(loc="left")) == (17, 3, "Title") and not ax.axison


def test_pairs_go_on_one_line_if_it_fits_and_text_is_large_enough_for_a_phone():
    for a, lines in ((np.ones(8), ["(1, 3)"]), (A, ["(0.5,", "3)", "3.5)"])):
        fig, ax = plt.subplots(figsize=(5.8, 5.5))
        draw_scan(ax, reference.hillis_steele_sweeps, a, B)
        assert set(lines) <= set(texts(ax))
        assert min(text.get_size() for text in ax.texts) >= 8.5


def test_dots_have_no_numbers():
    fig, ax = plt.subplots(figsize=(5.8, 4))
    draw_scan(ax, hillis_steele, np.arange(16) + 100, format=None)
    assert set(texts(ax)) == {"start", *(f"sweep {k}" for k in (1, 2, 3, 4)), "work", "15", "14", "12", "8", "work 49, depth 4"}


def test_format_writes_the_numbers():
    fig, ax = plt.subplots(figsize=(5.8, 4))
    draw_scan(ax, hillis_steele, np.arange(4), format=lambda x: f"<{x}>")
    assert {"<0>", "<1>", "<6>"} <= set(texts(ax))


@pytest.mark.parametrize(
    "x, text", ((0.5, "0.5"), (2.0, "2"), (0.125, "0.125"), (np.float32(0.1), "0.1"), (1234.0, "1230"), (-0.25, "-0.25"),
                (np.int64(1234), "1234"), ("a", "a"))
)
def test_numbers_are_short(x, text):
    assert number(x) == text


@pytest.mark.parametrize("shape, size", (((1, 2), (5.8, 4)), ((2, 1), (5.8, 5.5))))
def test_panels_that_a_layout_engine_places_have_equal_rows_and_titles_of_their_own(shape, size):
    fig, axes = plt.subplots(*shape, figsize=size)
    axes[1].set_title("set before", loc="right")
    draw_scan(axes[0], hillis_steele, np.arange(8), format=None, title="first")
    assert axes[1].axison and [axes[1].get_title(loc) for loc in ("left", "right")] == ["", "set before"]
    draw_scan(axes[1], hillis_steele, np.arange(8), format=None, title="second")
    fig.draw_without_rendering()
    heights = [ax.transData.transform([(0, 0), (0, 1)]) for ax in axes]
    units = [72 / fig.dpi * (bottom - top)[1] for top, bottom in heights]
    np.testing.assert_allclose(units, -1, rtol=0.01)                 # points
    assert [ax.get_title("left") for ax in axes] == ["first", "second"]


def test_moved_identities_have_a_dashed_orange_outline_and_the_legend_has_the_arrow(monkeypatch):
    seen = []
    monkeypatch.setattr(scans, "show", lambda fig, caption, alt: seen.append(fig.axes[0]))
    for n in (8, 2):                                 # of two, an identity is all that moves
        scan_diagram(reference.blelloch_sweeps, A[:n], B[:n], caption="c", alt="a")
        ax, orange = seen.pop(), matplotlib.colors.to_rgba(COLORS["orange"][0])
        scan = trace(reference.blelloch_sweeps, A[:n], B[:n])
        moved = [sum(x.kind == kind and x.sources != () and x.sources[0][1] != i for row in scan.nodes
                     for i, x in enumerate(row)) for kind in ("moved", "identity")]
        outlined, arrows = ([p for p in ax.patches if type(p).__name__ == name and p.get_edgecolor() == orange]
                            for name in ("FancyBboxPatch", "FancyArrowPatch"))
        dashed = [p for p in outlined if p.get_linestyle() not in ("-", "solid")]
        assert (len(outlined) - len(dashed) - 1, len(dashed), len(arrows) - 1) == (*moved, sum(moved))
        assert {"moved", "identity", "computed"} <= set(texts(ax))


def figures():
    keywords = {"caption": "c", "alt": "a"}
    yield from (lambda sweeps=sweeps: scan_diagram(sweeps, A, B, **keywords) for sweeps in PAIRS)
    yield lambda: scan_diagram(reference.blelloch_sweeps, A[:1], B[:1], **keywords)
    yield lambda: scan_diagram(hillis_steele, np.arange(16), format=None, **keywords)
    yield lambda: scan_animation(reference.blelloch_sweeps, A[:5], B[:5], **keywords)
    yield lambda: chunk_diagram(A, B, 3, **keywords)


@pytest.mark.parametrize("make", list(figures()))
def test_a_figure_is_the_same_bytes_again_in_the_books_colours_and_closed(notebook, make):
    make()
    make()
    first, caption, again, _ = notebook
    assert first == again and caption["text/markdown"] == "c" and not plt.get_fignums()
    picture = re.sub(r"<style>.*?</style>", "", first["image/svg+xml"], flags=re.S)
    drawn = set(re.findall(r"(?:fill|stroke): (#\w+)", picture))
    assert len(drawn) > 3 and drawn <= {light for light, _ in COLORS.values()}
    assert set(re.findall(r"#[0-9a-f]{6}\b", picture)) == drawn


def test_the_kinds_of_box_and_the_operands_differ_without_colour():
    looks = [(fill == style.COLORS["blue"][0], weight, str(dashes), ink, outline == style.COLORS["grid"][0])
             for fill, outline, weight, dashes, ink in boxes.BOX.values()]
    assert len(set(looks)) == len(looks) == 6
    assert len({str(dashes) for _, dashes in boxes.EDGE.values()}) == 2


def test_an_animation_has_a_frame_for_the_start_and_for_every_sweep(monkeypatch):
    seen = []
    monkeypatch.setattr(scans, "animation", lambda fig, update, labels, *rest, **more: seen.append((update, labels)))
    scan_animation(reference.blelloch_sweeps, A, B, caption="c", alt="a")
    ((update, labels),) = seen
    assert labels[:3] + labels[-1:] == [
        "start", "sweep 1: 4 combinations, 4 in all", "sweep 2: 2 combinations, 6 in all", "sweep 8: 8 combinations, 22 in all"
    ]
    assert labels[3] == "sweep 3: 1 combination, 7 in all" and len(labels) == 9
    heights = []
    for k in range(9):
        *same, curtain = update(k)
        assert [*same, curtain] == update(0)
        update(k)
        heights.append(curtain.get_height())
    assert np.all(np.diff(heights) < 0) and 0 <= heights[-1] < 6     # it rises, and hides no row in the end


# --- In chunks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", (1, 2, 3, 4, 8, 100))
@pytest.mark.parametrize("n", (1, 5, 8, 12))
def test_the_chunked_scan_is_the_scan(n, size):
    rng = np.random.default_rng(n)
    a, b = rng.uniform(0.5, 1, n), rng.standard_normal(n)
    decay, local, carry, h = chunked(a, b, size)
    expected = linear_scan(a, b)
    np.testing.assert_allclose(h, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(carry, np.append(0, expected)[: n : size], rtol=1e-12, atol=1e-12)
    for start in range(0, n, size):
        chunk = slice(start, start + size)
        np.testing.assert_allclose(local[chunk], linear_scan(a[chunk], b[chunk]), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(decay[chunk], np.cumprod(a[chunk]), rtol=1e-12)


def test_the_chunk_diagram_writes_pairs_carries_and_states(monkeypatch):
    seen = []
    monkeypatch.setattr(chunks, "show", lambda fig, caption, alt: seen.extend(texts(fig.axes[0])))
    chunk_diagram(np.full(6, 2), np.arange(6), 3, caption="c", alt="a")
    decay, local, carry, h = chunked(np.full(6, 2), np.arange(6), 3)
    assert carry.tolist() == [0, 4] and h.tolist() == [0, 1, 4, 11, 26, 57]
    boxes = [*(f"(2, {b})" for b in range(6)), *(f"({x}, {y})" for x, y in zip(decay, local)), *map(str, carry), *map(str, h)]
    for text in boxes:
        seen.remove(text)
    assert not any(re.search(r"\d", text) for text in seen)


@pytest.mark.parametrize("a, b, size, name", ((A, B, 0, "size"), (A, B[:3], 2, "a, b"), (A[:0], B[:0], 2, "a, b")))
def test_chunks_that_cannot_be_are_refused(a, b, size, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        chunk_diagram(a, b, size, caption="c", alt="a")
