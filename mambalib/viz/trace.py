"""What a scan does, traced from its code: which entry comes from which, sweep by sweep.

A generator like those of `mambalib.scan.reference` runs twice: on the numbers, and on tags with a `combine` that writes
down which tags it was given. Every node and edge follows from where the tags turn up.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

IDENTITY = 0                                         # the tag of 0, and of the pair (1, 0)


@dataclass(frozen=True)
class Node:
    """Entry `position` of row `row`: how it came about, and from where.

    kind : "input", "computed", "moved", "unchanged" or "identity"
    sources : the (row, position) of what it came from: the left and the right operand if computed, one if moved or
        unchanged, none for an input. None stands for an identity that was in no row.
    """

    kind: str
    sources: tuple = ()


@dataclass(frozen=True)
class Trace:
    """nodes[k][i] and values[k][i] (a number, or a pair): entry i after sweep k. combinations[k]: how many sweep k took."""

    nodes: list
    values: list
    combinations: list
    depth: int

    @property
    def work(self):
        return sum(self.combinations)


class _Recorder:
    """`combine` on tags: notes the operands of each result, and gives every result a tag of its own.

    Tags are 2, 5, 8, ...: sums, differences and products of two of them, and a b + c of three, are no tags, so that
    arithmetic beside `combine` is noticed.
    """

    def __init__(self, pairs):
        self.pairs, self.known, self.operands, self.calls = pairs, {IDENTITY}, {}, 0

    def fresh(self, count):
        tags = np.arange(count) * 3 + 3 * len(self.known) - 1
        self.known.update(tags.tolist())
        return tags

    def __call__(self, left, right):
        shape = np.shape(left[1] if self.pairs else left)
        left, right = self.tags(left), self.tags(right)
        if len(left) != len(right):
            raise ValueError(f"sweeps: combine was given {len(left)} entries on the left and {len(right)} on the right")
        new = self.fresh(len(left))
        self.operands.update(zip(new.tolist(), zip(left, right, [self.calls] * len(left))))
        self.calls += 1
        new = new.reshape(shape)[()]
        return (new, np.copy(new)) if self.pairs else new

    def tags(self, arrays):
        """The tags in what combine is given, or in what is yielded."""
        a, b = (np.atleast_1d(x) for x in (arrays if self.pairs else (arrays, arrays)))
        if b.ndim != 1 or a.shape != b.shape:
            raise ValueError(f"sweeps: expected one axis and equal lengths, got shapes {a.shape} and {b.shape}")
        whole = (a == b) | ((a == 1) & (b == IDENTITY)) if self.pairs else b == b
        for i, tag in enumerate(b.tolist()):
            if tag not in self.known or not whole[i] or (self.pairs and a[i] == IDENTITY):
                raise ValueError(
                    "sweeps: expected entries, identities and results of combine only, got another value at "
                    f"position {i}: all arithmetic has to go through combine"
                )
        return [int(tag) for tag in b.tolist()]


def trace(sweeps, *arrays):
    """Run `sweeps` on numbers and on tags.

    Parameters
    ----------
    sweeps : generator function
        `sweeps(x, combine=...)` or `sweeps(a, b, combine=...)`: yields the array or arrays that it starts from, then
        those after every sweep, all of one length. All arithmetic goes through `combine`, which has a default and takes
        (left, right): arrays, or pairs of arrays. It may copy and move entries and set some to the identity, 0 or
        (1, 0).
    *arrays : one array (n,), or two

    Returns
    -------
    Trace

    Raises
    ------
    ValueError
        `arrays` that are not one or two of one axis and one length; `sweeps` that do arithmetic outside combine,
        combine what was never yielded, or change the number of entries.

    Notes
    -----
    Identities are all alike. Where one came from is read off the other entries of the same sweep, which came from the
    same distance; if there are none, it is the nearest.
    """
    arrays = [np.asarray(x) for x in arrays]
    if len(arrays) not in (1, 2) or any(x.ndim != 1 or x.shape != arrays[0].shape or not x.size for x in arrays):
        raise ValueError(f"arrays: expected one array or two, (n,) each, n > 0, got {[x.shape for x in arrays]}")
    pairs = len(arrays) == 2
    values = [list(zip(*map(np.array, row))) if pairs else list(np.array(row)) for row in sweeps(*map(np.copy, arrays))]
    recorder = _Recorder(pairs)
    wide = np.int64 if all(x.dtype.kind in "iu" for x in arrays) else np.float64    # holds every tag exactly
    tags = recorder.fresh(len(arrays[0])).astype(wide)
    rows, nodes, combinations, done = [], [], [], 0
    for row in sweeps(*(tags.copy() for _ in arrays), combine=recorder):
        rows.append(recorder.tags(row))
        if len(rows[-1]) != len(rows[0]):
            raise ValueError(f"sweeps: expected {len(rows[0])} entries in every row, got {len(rows[-1])}")
        nodes.append(_row_of_nodes(rows, recorder.operands))
        combinations.append(len(recorder.operands) - done)
        done = len(recorder.operands)
    if [len(row) for row in values] != [len(row) for row in rows]:
        raise ValueError("sweeps: expected the same rows whatever the numbers, got others for the tags")
    return Trace(nodes, values, combinations, recorder.calls)


def _row_of_nodes(rows, operands):
    """The nodes of the last row."""
    *before, row = rows
    if not before:
        return [Node("identity" if tag == IDENTITY else "input") for tag in row]
    earlier, nodes = set().union(*before), []
    for i, tag in enumerate(row):
        if tag == IDENTITY:
            nodes.append(Node("identity"))           # from where: below, once the others are known
        elif tag == before[-1][i]:
            nodes.append(Node("unchanged", ((len(before) - 1, i),)))
        elif tag in earlier:
            nodes.append(Node("moved", (_find(before, tag, i),)))
        else:
            left, right, _ = operands[tag]
            nodes.append(Node("computed", tuple(_find(before, operand, i, own=True) for operand in (left, right))))
    return _with_identities(before, row, nodes, operands)


def _find(before, tag, i, own=False):
    """(row, position) of a tag: in the row before, nearest to i, or where it first was. None for the identity.

    With `own`, the input of column i that is no longer there comes from the start, also if the row before has it elsewhere.
    """
    if tag == IDENTITY:
        return None
    if own and tag == before[0][i] != before[-1][i]:
        return 0, i
    for k in (len(before) - 1, *range(len(before) - 1)):
        places = [j for j, other in enumerate(before[k]) if other == tag]
        if places:
            return k, min(places, key=lambda j: abs(j - i))
    raise ValueError(f"sweeps: sweep {len(before)} combines what was never yielded: yield after every call of combine")


def _with_identities(before, row, nodes, operands):
    """The same nodes, with the places that identities came from."""
    last, done = len(before) - 1, []
    moved = [(j, n.sources[0]) for j, n in enumerate(nodes) if n.kind == "moved"]
    gone = [old if old != new else None for old, new in zip(before[-1], row)]     # an identity that stayed did not move
    for i, (tag, node) in enumerate(zip(row, nodes)):
        sources = node.sources
        if node.kind == "computed":
            call = operands[tag][2]
            alike = [(j, n) for j, n in enumerate(nodes) if n.kind == "computed" and operands[row[j]][2] == call]
            sources = tuple(
                s or _identity_at(before, i, [(j, n.sources[side]) for j, n in alike if n.sources[side]])
                for side, s in enumerate(sources)
            )
        elif node.kind == "identity":
            found = _identity_at([*before[:-1], gone], i, moved) if moved or before[-1][i] != IDENTITY else None
            sources = (found,) if found else ((last, i),) if before[-1][i] == IDENTITY else ()
        done.append(Node(node.kind, sources))
    return done


def _identity_at(before, i, others):
    """Where the identity that went to i was, given [(j, (row, position))] of entries that came the same way."""
    if others:
        (k, distance), _ = Counter((k, place - j) for j, (k, place) in others).most_common(1)[0]
        place = i + distance
        return (k, place) if 0 <= place < len(before[k]) and before[k][place] == IDENTITY else None
    places = [j for j, tag in enumerate(before[-1]) if tag == IDENTITY]
    return (len(before) - 1, min(places, key=lambda j: abs(j - i))) if places else None
