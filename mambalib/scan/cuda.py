"""The scan on a card: which kernel, of which shape, for which arrays.

`cuda_rows` scans along an axis whose elements are neighbours in memory, `cuda_columns` along any other; `cuda_layout`
brings arrays into these two forms. One launch a scan, and one read of a and b and one write of h: three arrays' bytes
at any length. (Cutting rows in chunks and launching three times, as is usual, moves five.) A row of several tiles needs
a few zeroed words besides.

Rounding: in float16 and bfloat16 all arithmetic is in float32. Where a row spans several tiles and is looked back
along, how pairs are grouped depends on which blocks are done, so the last digits may differ from run to run.
"""

from collections import namedtuple
from functools import lru_cache
from math import prod

from .._cuda import SIMULATED, device, full, launch, new, permuted, processors, stream, view, zeros
from .._device import LANES, SIZE, board
from . import cuda_columns, cuda_rows
from .cuda_layout import broadcast, collapsed, copied, filled, inverse, is_dense, summed

DTYPES = ("float32", "float64", "float16", "bfloat16", "uint16", "void16")     # the last two: bfloat16 as its bits

WARPS = 2 if SIMULATED else 8                           # of a block, at most
THREADS = 8 if SIMULATED else 128                       # of a block that holds several rows
ELEMENTS = {"forward": 16, "backward": 8}               # that a thread owns; backward keeps half as many registers again for each
FEW, LONG = 64, 2**15                                   # at most FEW rows, each at least LONG: blocks wait for each other all at once, so
REACH, STRETCH, SHORT = 1, 2, 4                         # each asks REACH tiles ahead, see `forward`, and holds STRETCH times the elements, on SHORT warps

Plan = namedtuple("Plan", "order shape rest back back_rest kernel blocks threads sizes words")


def linear_scan(a, b, axis, h0, reverse):
    """h, in kind. a: broadcasts to b; a and h0 may be numbers; axis: not negative."""
    if 0 in b.shape:
        return new(b, b.shape)
    with device(b):
        on = stream(b)
        a, b, h0 = _like(a, b), _packed(b, on), _like(h0, b)
        at_a, at_b, at_0 = view(a), view(b), view(h0) if h0 is not None else None
        plan = _plan(
            at_b.dtype, at_b.shape, at_b.strides, at_a.shape, at_a.strides, at_0 and at_0.shape, at_0 and at_0.strides, axis,
            reverse, None, _aligned(at_a), _aligned(at_b), at_0 is None or _aligned(at_0),
        )
        if isinstance(plan, str):                       # an operand that no kernel can read where it lies
            a, h0 = _moved(plan, a, h0, at_b.shape, axis, on)
            return linear_scan(a, b, axis, h0, reverse)
        h = new(b, plan.shape)
        state = zeros(b, plan.words) if plan.words else None
        launch(
            plan.kernel, plan.blocks, plan.threads, on, at_a.address, at_b.address, view(h).address,
            at_0.address if at_0 else 0, *plan.sizes, view(state).address if plan.words else 0,
        )
        return permuted(h, plan.back)


def linear_scan_backward(grad, a, h, axis, h0, reverse):
    """(grad_a, grad_b, grad_h0), in kind; grad_h0 is None where h0 is."""
    a_shape, h0_shape = tuple(getattr(a, "shape", ())), tuple(getattr(h0, "shape", ()))
    with device(h):
        on = stream(h)
        if 0 in h.shape:
            return filled(h, a_shape, 0.0, on), new(h, h.shape), None if h0 is None else filled(h, h0_shape, 0.0, on)
        a, h, h0 = _like(a, h), _packed(h, on), _like(h0, h)
        at_a, at_h, at_0 = view(a), view(h), view(h0) if h0 is not None else None
        grad = _packed(grad, on, at_h.strides)
        at_g = view(grad)
        whole = a_shape == at_h.shape
        wide = _wide(at_h.dtype)
        plan = _plan(
            at_h.dtype, at_h.shape, at_h.strides, at_a.shape, at_a.strides, at_0 and at_0.shape, at_0 and at_0.strides, axis,
            not reverse, at_h.dtype if whole else wide, _aligned(at_a), _aligned(at_h) and _aligned(at_g),
            at_0 is None or _aligned(at_0),
        )
        if isinstance(plan, str):
            moved_a, moved_h0 = _moved(plan, a, h0, at_h.shape, axis, on)
            grad_a, grad_b, grad_h0 = linear_scan_backward(grad, moved_a, h, axis, moved_h0, reverse)
            return (_summed_to(grad_a, h, a_shape, on), grad_b, None if h0 is None else _summed_to(grad_h0, h, h0_shape, on))
        grad_a, grad_b = new(h, plan.shape, None if whole else wide), new(h, plan.shape)
        grad_h0 = None if h0 is None else new(h, plan.rest)
        state = zeros(h, plan.words) if plan.words else None
        launch(
            plan.kernel, plan.blocks, plan.threads, on, at_g.address, at_a.address, at_h.address,
            at_0.address if at_0 else 0, view(grad_a).address, view(grad_b).address,
            0 if h0 is None else view(grad_h0).address, *plan.sizes, view(state).address if plan.words else 0,
        )
        grad_a = permuted(grad_a, plan.back) if whole else summed(grad_a, h, plan.order, a_shape, on)
        grad_h0 = None if h0 is None else _summed_to(permuted(grad_h0, plan.back_rest), h, h0_shape, on)
        return grad_a, permuted(grad_b, plan.back), grad_h0


def _wide(dtype):
    return "float64" if dtype == "float64" else "float32"


def _aligned(at):
    return SIMULATED or at.address % 16 == 0


def _like(x, b):
    return full(b, float(x)) if isinstance(x, (int, float)) else x


def _packed(x, on, strides=None):
    """x with no gaps in some order of its axes (that of `strides`, if given), else a copy."""
    at = view(x)
    if is_dense(at.shape, at.strides) and strides in (None, at.strides):
        return x
    order = tuple(sorted(range(len(at.shape)), key=lambda i: -(strides or at.strides)[i]))
    if is_dense([at.shape[i] for i in order], [at.strides[i] for i in order]):
        return x
    back = inverse(order) if strides else range(len(order))
    order = order if strides else tuple(range(len(order)))
    return permuted(copied(x, at.address, [at.shape[i] for i in order], [at.strides[i] for i in order], on), tuple(back))


def _moved(plan, a, h0, shape, axis, on):
    """The operand that the plan names, copied to the shape it is broadcast to."""
    rest = shape[:axis] + shape[axis + 1:]
    if plan == "a":
        return copied(a, view(a).address, shape, broadcast(view(a).shape, view(a).strides, shape), on), h0
    return a, copied(h0, view(h0).address, rest, broadcast(view(h0).shape, view(h0).strides, rest), on)


def _summed_to(x, like, shape, on):
    """x, of any order, in the shape that was broadcast to its own."""
    if tuple(x.shape) == shape:
        return x
    at = view(x)
    order = tuple(sorted(range(len(at.shape)), key=lambda i: -at.strides[i]))
    return summed(x, like, order, shape, on)


@lru_cache(maxsize=4096)
def _plan(dtype, shape, strides, a_shape, a_strides, h0_shape, h0_strides, axis, reverse, grad_a_dtype, a_aligned,
          b_aligned, h0_aligned):
    """The launch for arrays of these shapes and strides; "a" or "h0" where that has to be copied first.

    grad_a_dtype: None for the forward scan; reverse: the direction in which the kernel runs.
    """
    order = tuple(range(len(shape)))
    if not is_dense(shape, strides):
        order = tuple(sorted(order, key=lambda i: -strides[i]))
    a_strides = broadcast(a_shape, a_strides, shape)
    rest_order = tuple(i - (i > axis) for i in order if i != axis)
    if h0_shape is not None:
        rest = shape[:axis] + shape[axis + 1:]
        h0_strides = broadcast(h0_shape, h0_strides, rest)
        if not is_dense([rest[i] for i in rest_order], [h0_strides[i] for i in rest_order]):
            return "h0"
    shape, a_strides, axis = tuple(shape[i] for i in order), [a_strides[i] for i in order], order.index(axis)
    outer, length, inner = prod(shape[:axis]), shape[axis], prod(shape[axis + 1:])
    outers, inners = collapsed(shape[:axis], a_strides[:axis]), collapsed(shape[axis + 1:], a_strides[axis + 1:])
    if len(outers) > 2 or len(inners) > 2:
        return "a"
    same = is_dense(shape, a_strides)
    a_time = a_strides[axis]
    split, a_outer, a_inner = _halves(outers)
    column_split, a_column_outer, a_column_inner = _halves(inners)

    width, elements = 16 // SIZE[dtype], ELEMENTS["backward" if grad_a_dtype else "forward"] // (2 if dtype == "float64" else 1)
    last = (grad_a_dtype,) if grad_a_dtype else ()
    if inner == 1:
        vector_a = a_aligned and b_aligned and (same or a_time == 1 and all(n % width == 0 for n in (length, a_outer, a_inner)))
        few = outer <= FEW and length >= LONG
        shape_of_block = (elements * STRETCH, SHORT) if few else (elements, WARPS)
        vectors, lanes, warps, threads, tiles = row_shape(outer, length, width, *shape_of_block, b_aligned)
        look_back = tiles > 1
        make = cuda_rows.backward if grad_a_dtype else cuda_rows.forward
        kernel = make(dtype, reverse, same, vector_a, b_aligned, width, vectors, lanes, warps, look_back, *last)
        sizes = outer, length, tiles, REACH * processors() if few else 0, () if same else (split, a_outer, a_inner, a_time)
        blocks = outer * tiles if look_back else -(-outer // (threads // (lanes * warps)))
        words = board(dtype).slots * outer * tiles + 1
    else:
        if not (b_aligned and h0_aligned and inner % width == 0):
            width = 1
        vector_a = width > 1 and a_aligned and (same or a_column_inner == 1 and all(
            n % width == 0 for n in (column_split, a_outer, a_inner, a_time, a_column_outer)))
        steps, across, warps, threads, tiles = column_shape(length, inner, width, elements)
        groups = outer * -(-inner // (across * width))
        look_back = tiles > 1 and groups < 4 * processors()
        make = cuda_columns.backward if grad_a_dtype else cuda_columns.forward
        kernel = make(dtype, reverse, same, vector_a, width, steps, across, warps, look_back, *last)
        sizes = groups, length, inner, tiles, () if same else (
            split, a_outer, a_inner, a_time, column_split, a_column_outer, a_column_inner)
        blocks = groups * tiles if look_back else groups
        words = board(dtype).slots * groups * tiles * across * width + 1
    rest = shape[:axis] + shape[axis + 1:]
    return Plan(order, shape, rest, inverse(order), inverse(rest_order), kernel, blocks, threads, sizes, words if look_back else 0)


def _halves(groups):
    """(split, outer, inner): index i of one or two merged axes lies at i // split * outer + i % split * inner."""
    if len(groups) == 2:
        return groups[1][0], groups[0][1], groups[1][1]
    return (groups[0][0], 0, groups[0][1]) if groups else (1, 0, 0)


def _power(n):
    """The least power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def row_shape(rows, length, width, elements, most_warps, aligned):
    """(vectors, lanes, warps, threads, tiles) for rows: the smallest block that holds a row, or tiles of the largest."""
    count = -(-length // width) + (aligned and length % width > 0)      # vectors in a row, one more where it starts inside one
    lanes = min(_power(count), LANES)
    vectors = min(_power(-(-count // lanes)), max(elements // width, 1))
    warps = min(_power(-(-count // (lanes * vectors))), most_warps)
    tiles = -(-count // (lanes * vectors * warps))
    threads = lanes * warps if warps > 1 else max(min(THREADS, _power(rows) * lanes), lanes)
    return vectors, lanes, warps, threads, tiles


def column_shape(length, inner, width, elements):
    """(steps, across, warps, threads, tiles) for columns."""
    across = min(_power(-(-inner // width)), 2 if SIMULATED else 8 if width > 1 else 16)
    steps = max(elements // width // (1 if width > 1 else 2), 1)
    ranks = LANES // across
    warps = min(_power(-(-length // (ranks * steps))), WARPS)
    return steps, across, warps, warps * LANES, -(-length // (ranks * steps * warps))
