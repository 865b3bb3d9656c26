"""The scan on a card: which kernel, of which shape, for which arrays.

`cuda_rows` scans along an axis whose elements are neighbours in memory, `cuda_columns` along any other; `cuda_layout` brings arrays into
these two forms. One launch a scan, and one read of a and b and one write of h: three arrays' bytes at any length. (Cutting
rows in chunks and launching three times, as is usual, moves five.) A row of several tiles needs a few zeroed words besides.

Rounding: in float16 and bfloat16 all arithmetic is in float32. Where a row spans several tiles and is looked back along, how
pairs are grouped depends on which blocks are done, so the last digits may differ from run to run.
"""

from math import prod

from .._cuda import SIMULATED, contiguous, device, full, launch, new, permuted, processors, stream, view, zeros
from .._device import LANES, SIZE
from . import cuda_columns, cuda_rows
from .cuda_layout import broadcast, collapsed, dense, filled, gathered, summed

DTYPES = ("float32", "float64", "float16", "bfloat16", "uint16", "void16")     # the last two: bfloat16 as its bits

WARPS = 2 if SIMULATED else 8                           # of a block, at most
THREADS = 8 if SIMULATED else 128                       # of a block that holds several rows
ELEMENTS = {False: 16, True: 8}                         # that a thread owns: forward, backward (which keeps half as much again)


def linear_scan(a, b, axis, h0, reverse):
    """h, in kind. a: broadcasts to b; a and h0 may be numbers; axis: not negative."""
    if prod(b.shape) == 0:
        return new(b, b.shape)
    with device(b):
        on = stream(b)
        v, order, b = dense(b, None, on)
        axis = order.index(axis)
        a = _decays(a, b, v, order, axis, on)
        h0, hold = _initial(h0, b, v, order, axis, on)
        h = new(b, v.shape)
        _scan(v, a, axis, reverse, on, b, (view(h),), (h0,))
        return permuted(h, _inverse(order))


def linear_scan_backward(grad, a, h, axis, h0, reverse):
    """(grad_a, grad_b, grad_h0), in kind; grad_h0 is None where h0 is."""
    with device(h):
        on = stream(h)
        a_shape, h0_shape = getattr(a, "shape", ()), getattr(h0, "shape", ())
        if prod(h.shape) == 0:
            return filled(h, a_shape, 0.0, on), new(h, h.shape), None if h0 is None else filled(h, h0_shape, 0.0, on)
        v, order, h = dense(h, None, on)
        g, _, grad = dense(grad, order, on)
        axis = order.index(axis)
        rest = v.shape[:axis] + v.shape[axis + 1:]
        whole, whole_0 = prod(a_shape) == prod(v.shape), prod(h0_shape) == prod(rest)
        wide = "float64" if v.dtype == "float64" else "float32"
        a = _decays(a, h, v, order, axis, on)
        first, hold = _initial(h0, h, v, order, axis, on)
        grad_a = new(h, v.shape, None if whole else wide)
        grad_b = new(h, v.shape)
        grad_h0 = None if h0 is None else new(h, rest)
        start = view(grad_h0) if h0 is not None else None
        _scan(v, a, axis, not reverse, on, h, (view(grad_a), view(grad_b), start), (first, g))
        back = _inverse(order)
        rest_order = tuple(i - (i > order[axis]) for i in order if i != order[axis])
        if h0 is not None:
            grad_h0 = _in_shape(grad_h0, h, rest_order, h0_shape, on)
        return _in_shape(grad_a, h, order, a_shape, on), permuted(grad_b, back), grad_h0


def _in_shape(x, like, order, shape, on):
    """x, dense in `order`, in the shape that was broadcast to it."""
    v, missing = view(x), len(order) - len(shape)
    if prod(shape) == prod(v.shape) and v.dtype == view(like).dtype and missing == 0:
        return permuted(x, _inverse(order))
    out = summed(x, like, v, order, shape, on)
    return permuted(out, _inverse([i - missing for i in order if i >= missing]))


def _inverse(order):
    return tuple(sorted(range(len(order)), key=lambda i: order[i]))


def _decays(a, b, v, order, axis, on):
    """a as (address, split, outer, inner, time, column split, outer, inner, can it be read by vectors), and the array itself."""
    if isinstance(a, (int, float)):
        a = full(b, float(a))
        strides, address = [0] * len(order), view(a).address
    else:
        at = view(a)
        address, strides = at.address, broadcast(at, v.shape)
        strides = [strides[i] for i in order]
    for _ in range(2):
        rows = collapsed(v.shape[:axis], strides[:axis])
        columns = collapsed(v.shape[axis + 1:], strides[axis + 1:])
        if len(rows) <= 2 and len(columns) <= 2:
            break
        a = gathered(b, address, v.shape, strides, on)
        address, strides = view(a).address, contiguous(v.shape)
    return a, address, _halves(rows), strides[axis], _halves(columns)


def _halves(groups):
    """(split, outer, inner): index i of one or two merged axes lies at i // split * outer + i % split * inner."""
    if len(groups) == 2:
        return groups[1][0], groups[0][1], groups[1][1]
    return (groups[0][0], 0, groups[0][1]) if groups else (1, 0, 0)


def _initial(h0, b, v, order, axis, on):
    """The address of h0, dense, and what keeps it alive; 0 where there is none."""
    if h0 is None:
        return 0, None
    rest = tuple(i for i in order if i != order[axis])
    rest = tuple(i - (i > order[axis]) for i in rest)
    shape = v.shape[:axis] + v.shape[axis + 1:]
    if isinstance(h0, (int, float)):
        h0 = filled(b, shape, float(h0), on)
    else:
        at = view(h0)
        original = [0] * len(shape)
        for i, n in zip(rest, shape):
            original[i] = n
        strides = broadcast(at, original)
        strides = [strides[i] for i in rest]
        if any(n > 1 and s != t for n, s, t in zip(shape, strides, contiguous(shape))):
            h0 = gathered(b, at.address, shape, strides, on)
    return view(h0).address, h0


def _aligned(address):
    return SIMULATED or address % 16 == 0


def _power(n):
    """The least power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def _scan(v, a, axis, reverse, on, like, outputs, inputs):
    """Launch a kernel, forward (inputs: h0; outputs: h) or backward (inputs: h0, grad; outputs: grad_a, grad_b, grad_h0); v: b or h."""
    _, a_address, (split, a_outer, a_inner), a_time, (a_split, a_column_outer, a_column_inner) = a
    outer, length, inner = prod(v.shape[:axis]), v.shape[axis], prod(v.shape[axis + 1:])
    backward, h0 = len(inputs) == 2, inputs[0]
    has_h0 = int(h0 is not None and not (isinstance(h0, int) and h0 == 0))
    wide = "float64" if v.dtype == "float64" else "float32"
    width, elements = 16 // SIZE[v.dtype], ELEMENTS[backward]
    aligned = _aligned(v.address) and (not backward or _aligned(inputs[1].address))
    if backward:
        addresses = (inputs[1].address, a_address, v.address, h0, has_h0, outputs[0].address, outputs[1].address, outputs[2].address if outputs[2] else 0)
        last = (outputs[0].dtype,)
    else:
        addresses, last = (a_address, v.address, outputs[0].address, h0, has_h0), ()

    if inner == 1:
        vectors, lanes, warps, threads, tiles, look_back = row_shape(outer, length, width, elements, aligned)
        vector_a = aligned and _aligned(a_address) and a_time == 1 and (
            (length % width == 0 and a_outer % width == 0 and a_inner % width == 0)
            or (a_outer, a_inner) in ((0, length), (split * length, length)) or outer == 1)
        make = cuda_rows.backward if backward else cuda_rows.forward
        kernel = make(v.dtype, reverse, vector_a, aligned, width, vectors, lanes, warps, look_back, *last)
        state = zeros(like, 3 * outer * tiles + 1, wide) if look_back else None
        blocks = outer * tiles if look_back else -(-outer // (threads // (lanes * warps)))
        launch(kernel, blocks, threads, on, *addresses, outer, length, tiles, split, a_outer, a_inner, a_time,
               view(state).address if look_back else 0)
        return

    width = width if aligned and inner % width == 0 and (not has_h0 or _aligned(h0)) else 1
    steps, across, warps, tiles, look_back = column_shape(outer, length, inner, width, elements)
    vector_a = width == 1 or (a_column_inner == 1 and _aligned(a_address)
                              and all(n % width == 0 for n in (a_split, a_outer, a_inner, a_time, a_column_outer)))
    vector_a = vector_a and (width > 1 or a_column_inner == 1)
    make = cuda_columns.backward if backward else cuda_columns.forward
    kernel = make(v.dtype, reverse, vector_a, width, steps, across, warps, look_back, *last)
    per_outer = -(-inner // (across * width))
    groups = outer * per_outer
    state = zeros(like, 3 * groups * tiles * across * width + 1, wide) if look_back else None
    launch(kernel, groups * tiles if look_back else groups, warps * LANES, on, *addresses, groups, per_outer, length, inner, tiles, split, a_outer,
           a_inner, a_time, a_split, a_column_outer, a_column_inner, view(state).address if look_back else 0)


def row_shape(rows, length, width, elements, aligned):
    """(vectors, lanes, warps, threads, tiles, look_back) for rows: the smallest block that holds a row, or tiles of the largest."""
    count = -(-length // width) + (aligned and length % width > 0)      # vectors in a row, one more where it starts inside one
    most = max(elements // width, 1)
    lanes = min(_power(count), LANES)
    vectors = min(_power(-(-count // lanes)), most)
    warps = min(_power(-(-count // (lanes * vectors))), WARPS)
    tiles = -(-count // (lanes * vectors * warps))
    threads = lanes * warps if warps > 1 else max(min(THREADS, _power(rows) * lanes), lanes)
    return vectors, lanes, warps, threads, tiles, tiles > 1


def column_shape(outer, length, inner, width, elements):
    """(steps, across, warps, tiles, look_back) for columns."""
    across = min(_power(-(-inner // width)), 2 if SIMULATED else 8 if width > 1 else 16)
    steps = max(elements // width // (1 if width > 1 else 2), 1)
    ranks = LANES // across
    warps = min(_power(-(-length // (ranks * steps))), WARPS)
    tiles = -(-length // (ranks * steps * warps))
    groups = outer * -(-inner // (across * width))
    return steps, across, warps, tiles, tiles > 1 and groups < 16 * processors()
