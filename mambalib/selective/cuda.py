"""The selective scan on a card: which kernels, of which shape, for which arrays.

`cuda_forward` has the kernel for y, `cuda_backward` those for the gradient, `cuda_update` the one for a step. Where there
are few channels, time is cut in chunks, and `cuda_sweep` finds the states between them first. `cuda_stage` and
`cuda_math` are what these share.

    forward     1 launch; 3 where time is cut
    backward    3 launches: the marks, the gradients, the sums over blocks; 4 where time is cut

Rounding: in float16 and bfloat16 all arithmetic is in float32. Sums are taken in an order that only shapes decide, so the
same arrays give the same bits. Memory beside the results: forward, where time is cut, one state a chunk; backward, one
state in SPAN steps, and 2 N numbers a step for each slab of THREADS channels.
"""

from collections import namedtuple
from functools import lru_cache
from math import prod

from .._cuda import SIMULATED, Memory, device, dtype_name, launch, new, processors, stream, view
from .._device import LANES, SIZE
from ..scan.cuda_layout import copied, filled, is_dense
from . import cuda_backward, cuda_forward, cuda_sweep, cuda_update

DTYPES = ("float32", "float16", "bfloat16", "uint16", "void16")     # of u; the last two: bfloat16 as its bits

THREADS = 4 if SIMULATED else 64                        # channels of a slab, backward
RESIDENT = 256                                          # threads of a multiprocessor, backward: registers allow no more
SPAN, SPAN_RESET = (4, 4) if SIMULATED else (16, 8)      # steps that a thread holds, backward; resets take registers, too
AT_ONCE = 4 if SIMULATED else 16                        # states whose B and C a block holds, backward
SCHEDULERS = 4                                          # of a multiprocessor
ALONE, SWEEP, LAUNCHES = 75, 1.8, 15000                 # cycles that a warp waits a step; the sweep's share; cycles for two launches

_is_dense = lru_cache(maxsize=4096)(is_dense)
Shape = namedtuple("Shape", "split channels tile unrolled chunk")       # of a forward launch; chunk: its steps
Plan = namedtuple("Plan", "launches words")


def selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, reset, return_last_state):
    """y and the last state (None unless asked for), in kind."""
    with device(u):
        on, (batch, length, channels) = stream(u), u.shape
        last = None
        if return_last_state:
            last = new(A, (batch, *A.shape))
        if 0 in u.shape:
            if last is not None and prod(last.shape):
                start = view(initial_state) if initial_state is not None else None
                last = copied(A, start.address, start.shape, start.strides, on) if start else filled(A, last.shape, 0.0, on)
            return new(u, u.shape), last
        dtype, groups, states = dtype_name(u), *B.shape[2:]
        plan = _forward_plan(dtype, batch, length, channels, groups, states, bool(delta_softplus), z is not None, reset is not None)
        kernel, blocks, threads, sizes = plan.launches[-1]
        y, hold = new(u, u.shape), []
        u_, delta_, A_, B_, C_, D_, z_, bias_, start_, reset_, y_, last_ = _addresses(
            (u, delta, A, B, C, D, z, delta_bias, initial_state, reset, y, last), on, hold)
        entry, strides = start_, (1, states)
        if plan.words:
            work = new(A, (sum(plan.words),))
            entry, end_sums = _pieces(work, plan.words)
            strides = channels, 1
            _launch(plan.launches[0], on, 0, u_, delta_, 0, A_, B_, 0, bias_, 0, reset_, 0, 0, 0, entry, end_sums, 0)
            _launch(plan.launches[1], on, A_, entry, end_sums, 0, start_, 0)
        launch(kernel, blocks, threads, on, u_, delta_, z_, A_, B_, C_, D_, bias_, entry, *strides, reset_, y_, last_, sizes)
        return y, last


def selective_scan_backward(grad_y, u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, grad_last_state, reset):
    """The gradients with respect to u, delta, A, B, C, D, z, delta_bias and initial_state, in kind; None for what is None."""
    with device(u):
        on, (batch, length, channels) = stream(u), u.shape
        if 0 in u.shape:
            grads = [None if x is None else filled(x, x.shape, 0.0, on) if prod(x.shape) else new(x, x.shape)
                     for x in (u, delta, A, B, C, D, z, delta_bias, initial_state)]
            if initial_state is not None and grad_last_state is not None and prod(initial_state.shape):
                at = view(grad_last_state)
                grads[-1] = copied(grad_last_state, at.address, at.shape, at.strides, on)
            return tuple(grads)
        dtype, groups, states = dtype_name(u), *B.shape[2:]
        plan = _backward_plan(dtype, batch, length, channels, groups, states, bool(delta_softplus), z is not None, reset is not None)
        grads = tuple(None if x is None else new(x, x.shape) for x in (u, delta, A, B, C, D, z, delta_bias, initial_state))
        work, hold = new(A, (sum(plan.words),)), []
        pairs, rates, marks, mark_sums, ends, end_sums, carries, grad_rates, grad_steps, parts = _pieces(work, plan.words)
        grad_, u_, delta_, A_, B_, C_, D_, z_, bias_, start_, last_, reset_ = _addresses(
            (grad_y, u, delta, A, B, C, D, z, delta_bias, initial_state, grad_last_state, reset), on, hold)
        to_u, to_delta, to_A, to_B, to_C, to_D, to_z, to_bias, to_start = _addresses(grads, on, hold)
        sweep, *between, gradient, sums = plan.launches
        if between:
            _launch(sweep, on, grad_, u_, delta_, z_, A_, B_, C_, bias_, 0, reset_, rates, marks, mark_sums, ends, end_sums, carries)
            _launch(between[0], on, A_, ends, end_sums, carries, start_, last_)
        else:
            _launch(sweep, on, 0, u_, delta_, 0, A_, B_, 0, bias_, start_, reset_, rates, marks, mark_sums, 0, 0, 0)
        _launch(gradient, on, grad_, u_, delta_, z_, B_, C_, D_, bias_, last_, reset_, rates, marks, mark_sums, ends, carries, pairs,
                to_u, to_delta, to_z, grad_rates, grad_steps, to_start, parts)
        _launch(sums, on, parts, grad_rates, grad_steps, to_B, to_C, to_A, to_D, to_bias)
        return grads


def selective_state_update(state, u, delta, A, B, C, D, z, delta_bias, delta_softplus, out):
    """y (batch, D), in kind: `out`, if it is not None. state is changed in place. Both may have any strides."""
    with device(u):
        on, (batch, channels) = stream(u), u.shape
        y = new(u, u.shape) if out is None else out
        if 0 in u.shape:
            return y
        groups, states = B.shape[1:]
        of_state, of_y, hold = view(state), view(y), []
        addresses = _addresses((u, delta, z, A, B, C, D, delta_bias), on, hold)
        kernel, blocks, threads, sizes = _update_plan(dtype_name(u), batch, channels, groups, states, bool(delta_softplus), z is not None)
        launch(kernel, blocks, threads, on, of_state.address, *addresses, of_y.address, *sizes, tuple(of_state.strides), tuple(of_y.strides))
        return y


def _addresses(arrays, on, hold):
    """Where the arrays lie, 0 for None. Of one with gaps a copy is made, and put in `hold`."""
    addresses = []
    for x in arrays:
        at = None if x is None else view(x)
        if at and not _is_dense(at.shape, at.strides):
            hold.append(copied(x, at.address, at.shape, at.strides, on))
            at = view(hold[-1])
        addresses.append(at.address if at else 0)
    return addresses


def _pieces(work, words):
    """The addresses of the pieces of one array, of so many elements each; 0 for a piece of none."""
    at, first, addresses = view(work), 0, []
    for n in words:
        if SIMULATED:
            addresses.append(Memory(at.address.array[first:first + n]) if n else 0)
        else:
            addresses.append(at.address + first * SIZE[at.dtype] if n else 0)
        first += n
    return addresses


def _launch(planned, on, *arguments):
    kernel, blocks, threads, sizes = planned
    launch(kernel, blocks, threads, on, *arguments, *sizes)


# --- Plans: shapes decide them, so each is made once ------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _forward_plan(dtype, batch, length, channels, groups, states, softplus, gated, resets):
    split, slab, tile, unrolled, chunk = forward_shape(batch, length, channels // groups, groups, states, processors())
    slabs, chunks = -(-(channels // groups) // slab), -(-length // chunk)
    sizes = length, channels // groups, groups, slabs, chunk, chunks
    blocks, threads = batch * chunks * groups * slabs, slab * split
    launches, words = [], ()
    if chunks > 1:
        sweep = cuda_sweep.sweep(dtype, states, split, slab, tile, softplus, False, resets, False, 0)
        launches = [(sweep, blocks, threads, (sizes,)), _between(batch, chunks, states, channels)]
        words = batch * chunks * states * channels, batch * chunks * channels
    kernel = cuda_forward.forward(dtype, states, split, slab, tile, unrolled, softplus, gated, resets)
    return Plan((*launches, (kernel, blocks, threads, sizes)), words)


@lru_cache(maxsize=1024)
def _backward_plan(dtype, batch, length, channels, groups, states, softplus, gated, resets):
    width = channels // groups
    span = SPAN_RESET if resets or states > 32 else SPAN        # many states take registers, too
    threads = min(THREADS, max(_power(width), LANES))
    chunk = backward_chunk(batch, length, width, groups, span, threads, processors())
    slabs, chunks, spans = -(-width // threads), -(-length // chunk), -(-length // span)
    sizes, cut = (length, width, groups, slabs, chunk, chunks), chunks > 1
    blocks = batch * chunks * groups * slabs
    split = least_split(states)
    tile, slab = 4 if SIMULATED else 8, max(threads // split, 16 if states > 128 else 1)
    of_sweep = length, width, groups, -(-width // slab), chunk, chunks
    sweep = cuda_sweep.sweep(dtype, states, split, slab, tile, softplus, gated and cut, resets, cut, span)
    at_once = min(AT_ONCE, _power(states))
    kernel = cuda_backward.backward(dtype, states, threads, span, at_once, softplus, gated, resets, cut)
    count = batch * length * groups * 2 * states + states * channels + 2 * channels
    block = 8 if SIMULATED else 256
    launches = (
        (sweep, batch * chunks * groups * of_sweep[3], slab * split, (of_sweep,)),
        *([_between(batch, chunks, states, channels)] if cut else []),
        (kernel, blocks, threads, (sizes,)),
        (cuda_backward.sums(dtype), -(-count // block), block, (batch, states, sizes)),
    )
    state, entries = states * channels, batch * chunks * states * channels
    words = (2 * entries, state, batch * spans * state, batch * spans * channels, entries * cut, batch * chunks * channels * cut,
             entries * cut, entries, batch * chunks * 2 * channels, batch * slabs * groups * length * 2 * states)
    return Plan(launches, words)


def _between(batch, chunks, states, channels):
    threads = 8 if SIMULATED else 64
    return cuda_sweep.between(), -(-batch * states * channels // threads), threads, (batch, chunks, states, channels)


@lru_cache(maxsize=1024)
def _update_plan(dtype, batch, channels, groups, states, softplus, gated):
    lanes, threads = min(_power(states), LANES, 8), 8 if SIMULATED else 128
    kernel = cuda_update.update(dtype, states, lanes, softplus, gated)
    return kernel, -(-batch * channels * lanes // threads), threads, (batch, channels // groups, groups)


def _power(n):
    """The least power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def least_split(states):
    """In how many parts the states of a channel are taken at least: 16 in a thread leave registers for the rest."""
    return _power(-(-states // 16))


def forward_shape(batch, length, width, groups, states, processors):
    """The forward launch that takes least time by a small model of a multiprocessor.

    A step costs a warp about 6 issue slots for each state of a thread, 10 for itself, and 40 for every channel's own work,
    of which a thread has 1 / split; the special-function unit 8 cycles for each exponential. A scheduler runs its warps
    in turn; one warp alone waits for its own results. Chunks are paid for by the sweep (SWEEP times as much in all), two
    launches more, and what a block does before its first step and after its last.
    """
    best, split = None, least_split(states)
    while split <= max(least_split(states), min(_power(states), 16)):
        some = -(-states // split)
        slab = max(min(_power(width), (8 if SIMULATED else 128) // split), 1 if SIMULATED else 16 if states > 128 else 8)
        tile = 4 if SIMULATED else 8 if states > 128 or split == 1 else 16
        unrolled = 1 if states > 64 else 2 if some > 4 else 4
        blocks, warps = batch * groups * -(-width // slab), -(-slab * split // LANES)
        cost = max(6 * some + 10 + 40 / split, 8 * (some + 3 / split))
        for chunks in (1, *(2 ** k for k in range(1, 13) if length >= 128 * 2 ** k)):
            chunk = -(-length // (chunks * tile)) * tile
            each = -(-blocks * -(-length // chunk) // processors) * warps / SCHEDULERS        # warps of a scheduler
            time = chunk * max(each * cost, cost + ALONE)
            if chunks > 1:
                time = SWEEP * (time + 400 * max(each, 1)) + 150 * chunks + LAUNCHES
            if best is None or time < best[0]:
                best = time, Shape(split, slab, tile, unrolled, chunk)
        split *= 2
    return best[1]


def backward_chunk(batch, length, width, groups, span, threads, processors):
    """Steps of a chunk, backward: those with which the blocks fill the card in rounds without a rest, and not too many.

    A block costs its steps, a round the card's fill of them, a block's start and end some spans more; cutting costs the
    sweep half as much again.
    """
    best, blocks = None, batch * groups * -(-width // threads)
    for chunks in range(1, 257):
        chunk = -(-length // (chunks * span)) * span
        if chunks > 1 and chunk < 3 * span:
            break
        rounds = -(-blocks * -(-length // chunk) * threads // (RESIDENT * processors))
        time = rounds * (chunk * (1 if chunks == 1 else 1.12) + span)
        if best is None or time < best[0]:
            best = time, chunk
    return best[1]
