"""The linear recurrence h_t = a_t h_{t-1} + b_t in NumPy, one definition and two parallel scans, written to be read.

Time is the first axis here, and a has the shape of b. A pair (a, b) stands for the map h -> a h + b; doing one map and
then another is again such a map, and `combine` finds its pair. A scan combines all the pairs up to t, for every t at
once::

    sequential        L - 1 combinations one after the other: work L, depth L
    hillis_steele     each sweep reaches twice as far back: work about L log2 L, depth log2 L
    blelloch          a tree up and down again: work about 3 L, depth 2 log2 L + 1

Each has a generator (`..._sweeps`) that yields the arrays (a, b) it started from and then those after every sweep. All
its arithmetic goes through `combine`, one call a sweep; a `Counter` in its place counts work and depth.

`sequential` is the definition. The trees agree with it up to rounding as long as products of decays stay finite: they
multiply decays before they meet a state, so a product that overflows gives infinity times 0 = NaN where the loop, whose
state is 0, has 0; and one that underflows gives 0 times infinity.

References
----------
- Hillis, Steele, "Data Parallel Algorithms", Communications of the ACM 29(12), 1986.
- Blelloch, "Prefix Sums and Their Applications", CMU-CS-90-190, 1990; section 1.4 has the operator.
"""

import numpy as np


def combine(left, right):
    """One pair for `left` and then `right`: a_r (a_l h + b_l) + b_r = (a_r a_l) h + (a_r b_l + b_r)."""
    a_left, b_left = left
    a_right, b_right = right
    return a_right * a_left, a_right * b_left + b_right


class Counter:
    """`combine`, counted: one call is one parallel step (depth), its pairs are the combinations done in it (work)."""

    def __init__(self):
        self.work = self.depth = 0

    def __call__(self, left, right):
        self.work += len(left[0])
        self.depth += 1
        return combine(left, right)


# --- Forward ----------------------------------------------------------------------------------------------------------


def sequential(a, b, h0=0):
    """The definition, one step after the other."""
    h, state = np.empty_like(b), h0
    for t in range(len(b)):
        state = a[t] * state + b[t]
        h[t] = state
    return h


def sequential_sweeps(a, b, combine=combine):
    """The same as a scan over pairs: after step t, entry t holds the pair of all steps up to t."""
    a, b = a.copy(), b.copy()
    yield a.copy(), b.copy()
    for t in range(1, len(b)):
        last, here = slice(t - 1, t), slice(t, t + 1)
        a[here], b[here] = combine((a[last], b[last]), (a[here], b[here]))
        yield a.copy(), b.copy()


def hillis_steele(a, b, h0=0):
    """h, each sweep reaching twice as far back as the one before."""
    *_, (_, h) = hillis_steele_sweeps(*with_initial_state(a, b, h0))
    return h


def hillis_steele_sweeps(a, b, combine=combine):
    """After sweep k, entry t holds the pair of the last 2^k steps up to t."""
    yield a, b
    reach = 1
    while reach < len(b):
        a_far, b_far = combine((a[:-reach], b[:-reach]), (a[reach:], b[reach:]))
        a, b = np.concatenate([a[:reach], a_far]), np.concatenate([b[:reach], b_far])
        yield a, b
        reach *= 2


def blelloch(a, b, h0=0):
    """h, by a tree of sums up and of prefixes down."""
    *_, (_, h) = blelloch_sweeps(*with_initial_state(a, b, h0))
    return h[:len(b)]


def blelloch_sweeps(a, b, combine=combine):
    """Up: sums of 2, 4, 8, ... steps. Down: what comes before each of them. Last: each entry's own step on top."""
    a, b = padded(a, b)
    own = a.copy(), b.copy()
    yield own
    stride = 1
    while stride < len(b):
        left, right = slice(stride - 1, None, 2 * stride), slice(2 * stride - 1, None, 2 * stride)
        a[right], b[right] = combine((a[left], b[left]), (a[right], b[right]))
        yield a.copy(), b.copy()
        stride *= 2
    a[-1:], b[-1:] = 1, 0                            # before the whole: nothing
    yield a.copy(), b.copy()
    while stride > 1:
        stride //= 2
        left, right = slice(stride - 1, None, 2 * stride), slice(2 * stride - 1, None, 2 * stride)
        sums = a[left].copy(), b[left].copy()
        a[left], b[left] = a[right], b[right]        # before the left child: what comes before its parent
        a[right], b[right] = combine((a[right], b[right]), sums)   # before the right child: that, then the left child
        yield a.copy(), b.copy()
    yield combine((a, b), own)                       # from exclusive to inclusive


def with_initial_state(a, b, h0):
    """(a, b) with h0 taken into the first step, so that a scan which starts from nothing starts from h0."""
    b = b.copy()
    b[:1] = a[:1] * h0 + b[:1]
    return a, b


def padded(a, b):
    """(a, b) continued to a power of two by the pair (1, 0), which changes nothing."""
    rest = 2 ** max(0, len(b) - 1).bit_length() - len(b)
    ones, zeros = np.ones((rest, *b.shape[1:]), b.dtype), np.zeros((rest, *b.shape[1:]), b.dtype)
    return np.concatenate([a, ones]), np.concatenate([b, zeros])


# --- Backward ---------------------------------------------------------------------------------------------------------


def sequential_backward(grad, a, h, h0=0):
    """The gradient with respect to a, b and h0, from `grad` with respect to h: the steps taken back, last one first.

    g_t is what reaches h_t in all: from its own output, and from h_{t+1} = a_{t+1} h_t + b_{t+1}.
    """
    grad_a, grad_b, carried = np.empty_like(h), np.empty_like(h), 0
    for t in reversed(range(len(h))):
        g = grad[t] + carried
        grad_a[t] = np.conj(h[t - 1] if t > 0 else h0) * g
        grad_b[t] = g
        carried = np.conj(a[t]) * g
    return grad_a, grad_b, carried


def blelloch_backward(grad, a, h, h0=0):
    """The same, the recurrence g_t = grad_t + a_{t+1} g_{t+1} as a scan from the right."""
    a_next = np.concatenate([a[1:], np.zeros_like(a[:1])])
    h_before = np.concatenate([np.zeros_like(h[:1]) + h0, h[:-1]])
    grad_b = blelloch_mirrored(np.conj(a_next), grad)
    return np.conj(h_before) * grad_b, grad_b, (np.conj(a[:1]) * grad_b[:1]).sum(axis=0)


def blelloch_mirrored(a, b):
    """h_t = a_t h_{t+1} + b_t, by the tree in the mirror: sums gather at the left, and the right child comes first."""
    *_, (_, h) = blelloch_mirrored_sweeps(a, b)
    return h[:len(b)]


def blelloch_mirrored_sweeps(a, b, combine=combine):
    """Every index of `blelloch_sweeps` counted from the other end."""
    a, b = padded(a, b)
    own = a.copy(), b.copy()
    yield own
    stride = 1
    while stride < len(b):
        left, right = slice(0, None, 2 * stride), slice(stride, None, 2 * stride)
        a[left], b[left] = combine((a[right], b[right]), (a[left], b[left]))
        yield a.copy(), b.copy()
        stride *= 2
    a[:1], b[:1] = 1, 0
    yield a.copy(), b.copy()
    while stride > 1:
        stride //= 2
        left, right = slice(0, None, 2 * stride), slice(stride, None, 2 * stride)
        sums = a[right].copy(), b[right].copy()
        a[right], b[right] = a[left], b[left]
        a[left], b[left] = combine((a[left], b[left]), sums)
        yield a.copy(), b.copy()
    yield combine((a, b), own)


# --- The engine -------------------------------------------------------------------------------------------------------


def linear_scan(a, b, axis, h0, reverse, method=sequential):
    """What the front door calls: any axis, a broadcast, either direction."""
    a, b = _time_first(a, b.shape, axis, reverse), _time_first(b, b.shape, axis, reverse)
    h = method(a, b, 0 if h0 is None else h0)
    return np.moveaxis(h[::-1] if reverse else h, 0, axis)


def linear_scan_backward(grad, a, h, axis, h0, reverse, method=sequential_backward):
    """What the front door calls; gradients are summed over the axes along which a and h0 were broadcast."""
    shape = h.shape
    grad, a_all, h = (_time_first(x, shape, axis, reverse) for x in (grad, a, h))
    if len(h) == 0:                                  # no step: nothing that depends on h0
        grad_a, grad_b, grad_h0 = h, h, np.zeros(h.shape[1:], h.dtype)
    else:
        grad_a, grad_b, grad_h0 = method(grad, a_all, h, 0 if h0 is None else h0)
    grad_a, grad_b = (np.moveaxis(g[::-1] if reverse else g, 0, axis) for g in (grad_a, grad_b))
    return unbroadcast(grad_a, a.shape), grad_b.copy(), None if h0 is None else unbroadcast(grad_h0, h0.shape)


def unbroadcast(grad, shape):
    """`grad` summed over the axes along which an array of `shape` was broadcast."""
    if grad.shape == shape:
        return grad
    missing = grad.ndim - len(shape)
    stretched = tuple(missing + i for i, n in enumerate(shape) if n == 1)
    wide = np.result_type(grad, np.float64)          # a long sum of float32 is kept in float64 and rounded once
    total = grad.sum(axis=(*range(missing), *stretched), keepdims=True, dtype=wide)
    return total.reshape(shape).astype(grad.dtype)


def _time_first(x, shape, axis, reverse):
    x = np.moveaxis(np.broadcast_to(x, shape), axis, 0)
    return x[::-1] if reverse else x
