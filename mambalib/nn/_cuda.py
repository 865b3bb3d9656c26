"""The layers' operations on a card, for float32 arrays: which kernel, of which launch shape, for which arrays.

                                            launches
    silu, silu_backward                     1           cuda_pointwise
    lstm_cell, lstm_cell_backward           1
    adamw                                   1
    rms_norm, rms_norm_backward             1, 2        cuda_norm
    conv_depthwise, conv_depthwise_backward 1, 2        cuda_conv
    cross_entropy                           2           cuda_loss
    embedding_backward                      1 or 2      cuda_embedding
    sum_of_squares                          1 or 2      cuda_sums, which has the second stages of the others, too

`_reference` says what each function returns; `_cpu` has the same for NumPy arrays. Results are new arrays without gaps,
in kind. Arguments may have gaps between their rows, as half of the columns of a wider matrix has; of one that is
strided otherwise a copy is made first, which is a launch more.

A function asks the host for nothing but memory of the array's library, waits for nothing and copies nothing between
host and card: once it has run, and its kernels are compiled, it can be captured in a CUDA graph. Sums are taken in an
order that only shapes decide, so the same arrays give the same bits.
"""

from math import prod

from .._cuda import SIMULATED, device, launch, new, processors, stream, view
from .._device import LANES
from ..scan.cuda_layout import filled
from . import cuda_conv, cuda_embedding, cuda_loss, cuda_norm, cuda_pointwise, cuda_sums
from .cuda_arrays import Rows, dense, in_place, integers, rows, sequences, together, width
from .cuda_block import THREADS

MOST = 8 if SIMULATED else 512                          # threads that share a row, where each has registers for it
STEPS = 2 if SIMULATED else 8                           # of time that a thread of a convolution takes at once
FULL = 8 if SIMULATED else 2048                         # threads that a multiprocessor can hold
LONG = 16 if SIMULATED else 2048                        # logits from which a block, not a warp, takes a row
PART, PARTS = (4, 1 << 10) if SIMULATED else (256, 1 << 21)     # positions of a part, at least; numbers of all parts


# --- Number by number -------------------------------------------------------------------------------------------------


def silu(x):
    """x sigmoid(x)."""
    with device(x):
        on, hold, y = stream(x), [], new(x, x.shape)
        if prod(x.shape):
            from_x, = together(on, hold, x=x)
            w = width(from_x)
            n, across = from_x.count * from_x.columns // w, from_x.columns // w
            launch(cuda_pointwise.silu(w), _blocks(n), THREADS, on, from_x.address, view(y).address,
                   n, across, from_x.step)
        return y


def silu_backward(grad, x):
    """The gradient of x."""
    with device(x):
        on, hold, gx = stream(x), [], new(x, x.shape)
        if prod(x.shape):
            of_y, from_x = together(on, hold, grad=grad, x=x)
            w = width(of_y, from_x)
            n, across = from_x.count * from_x.columns // w, from_x.columns // w
            launch(cuda_pointwise.silu_backward(w), _blocks(n), THREADS, on, of_y.address, from_x.address,
                   view(gx).address, n, across, of_y.step, from_x.step)
        return gx


def lstm_cell(gates, c):
    """(h, c after the step) from the gates before their activations, (batch, 4 H) for i, f, g, o, and c (batch, H)."""
    with device(c):
        on, hold, n = stream(c), [], prod(c.shape)
        h, c_new = new(c, c.shape), new(c, c.shape)
        if n:
            g = rows("gates", gates, on, hold)
            launch(cuda_pointwise.lstm_cell(), _blocks(n), THREADS, on, g.address, dense("c", c, on, hold),
                   view(h).address, view(c_new).address, n, c.shape[1], g.step)
        return h, c_new


def lstm_cell_backward(grad_h, grad_c, gates, c, c_new):
    """The gradients of gates and c, from those of h and of c_new (None: zero), which `lstm_cell` returned."""
    with device(c):
        on, hold, n = stream(c), [], prod(c.shape)
        ggates, gc = new(gates, gates.shape), new(c, c.shape)
        if n:
            g, given = rows("gates", gates, on, hold), dict(grad_h=grad_h, grad_c=grad_c, c=c, c_new=c_new)
            of_h, of_c, before, after = (dense(name, x, on, hold) for name, x in given.items())
            launch(cuda_pointwise.lstm_cell_backward(), _blocks(n), THREADS, on, of_h, of_c, g.address, before, after,
                   view(ggates).address, view(gc).address, n, c.shape[1], g.step)
        return ggates, gc


def adamw(param, grad, m, v, scalars, beta1, beta2, eps, decay):
    """One step of AdamW; param, m and v are changed in place.

    scalars (4,): lr, 1 - beta1^t, 1 - beta2^t, the gradient's scale.
    """
    with device(param):
        on, hold, n = stream(param), [], prod(param.shape)
        places = in_place("param", param), dense("grad", grad, on, hold), in_place("m", m), in_place("v", v)
        if n:
            w = width(*(Rows(place, 1, n, n) for place in places))
            kernel = cuda_pointwise.adamw(w, float(beta1), float(beta2), float(eps), float(decay))
            launch(kernel, _blocks(n // w), THREADS, on, *places, dense("scalars", scalars, on, hold), n // w)


def sum_of_squares(grad, accumulator, fresh):
    """Add the sum of grad's squares to `accumulator`, an array of one number; with `fresh`, put it there. Returns it.

    Over all gradients, the first one fresh, this is the square of their norm, on the card where clipping needs it.
    """
    with device(grad):
        on, hold, n = stream(grad), [], prod(grad.shape)
        to, values = in_place("accumulator", accumulator), dense("grad", grad, on, hold)
        w, add = width(Rows(values, 1, n, n)) if n else 1, int(not fresh)
        blocks = max(1, min(-(-n // (THREADS * cuda_sums.SOME * w)), 4 * processors()))
        if blocks == 1:
            launch(cuda_sums.squares(w), 1, THREADS, on, values, to, n, add)
        else:
            parts = new(grad, (blocks,))
            at = view(parts).address
            launch(cuda_sums.squares(w), blocks, THREADS, on, values, at, n, 0)
            launch(cuda_sums.everything(), 1, THREADS, on, at, to, 0, blocks, add)
        return accumulator


# --- Row by row -------------------------------------------------------------------------------------------------------


def rms_norm(x, weight, eps):
    """(y, scale): y = x scale weight, scale (rows,) = 1 / sqrt(mean(x^2) + eps), of x (rows, columns)."""
    with device(x):
        on, hold, (count, columns) = stream(x), [], x.shape
        y, scale = new(x, x.shape), new(x, (count,))
        if prod(x.shape):
            from_x, weights = rows("x", x, on, hold), dense("weight", weight, on, hold)
            kernel = cuda_norm.forward(width(from_x, Rows(weights, 1, columns, columns)), float(eps))
            launch(kernel, _blocks(count * LANES), THREADS, on, from_x.address, weights, view(y).address,
                   view(scale).address, count, columns, from_x.step)
        return y, scale


def rms_norm_backward(grad, x, weight, scale):
    """The gradients of x and weight; scale is what `rms_norm` returned."""
    with device(x):
        on, hold, (count, columns) = stream(x), [], x.shape
        gx = new(x, x.shape)
        if not prod(x.shape):
            return gx, _zeros(weight, on)
        gweight = new(weight, weight.shape)
        of_y, from_x, weights = rows("grad", grad, on, hold), rows("x", x, on, hold), dense("weight", weight, on, hold)
        w, some = width(of_y, from_x, Rows(weights, 1, columns, columns)), 1
        most = MOST if columns <= 4 * w * MOST else MOST // 2   # more registers a thread: fewer threads
        while -(-columns // (w * some)) > most:
            some *= 2
        threads = -(-columns // (w * some * LANES)) * LANES
        blocks = min(-(-count // 4), processors() * max(FULL // threads, 1))
        parts = gweight if blocks == 1 else new(x, (blocks, columns))
        scales, kernel = dense("scale", scale, on, hold), cuda_norm.backward(w, some, threads)
        launch(kernel, blocks, threads, on, of_y.address, from_x.address, weights, scales, view(gx).address,
               view(parts).address, count, columns, of_y.step, from_x.step)
        if blocks > 1:
            _sum_columns(parts, on, gweight, columns)
        return gx, gweight


def cross_entropy(logits, targets, ignore):
    """(loss, gradient of the logits): the mean of -log softmax(row)[target] over the rows whose target is not `ignore`.

    Without such a row the loss is NaN, the mean of nothing, and the gradient zero; a target that is no column makes the
    loss NaN.
    """
    with device(logits):
        on, hold, (count, columns) = stream(logits), [], logits.shape
        loss, grad = new(logits, ()), new(logits, logits.shape)
        x, (wanted, dtype) = rows("logits", logits, on, hold), integers("targets", targets)
        warps = 1 if columns < LONG else THREADS // LANES       # that share a row
        teams = THREADS // (LANES * warps)
        blocks = max(1, min(-(-count // teams), processors() * FULL // (2 * THREADS)))
        losses, used = new(logits, (blocks * teams,)), new(logits, (1,))
        at, of_used = view(losses).address, view(used).address
        launch(cuda_loss.cross_entropy(dtype, width(x), warps), blocks, THREADS, on, x.address, wanted,
               view(grad).address, at, of_used, int(ignore), count, columns, x.step)
        launch(cuda_sums.everything(), 1, THREADS, on, at, view(loss).address, of_used, blocks * teams, 0)
        return loss, grad


def embedding_backward(grad, tokens, vocab):
    """The gradient of the weight (vocab, columns), from grad (positions, columns) and tokens (positions,).

    A token that is no row counts for nothing.
    """
    with device(grad):
        on, hold, (n, columns) = stream(grad), [], grad.shape
        gweight = new(grad, (vocab, columns))
        if not n * vocab * columns:
            return _zeros(gweight, on)
        g, (at, dtype) = rows("grad", grad, on, hold), integers("tokens", tokens)
        parts = max(1, min(n // PART, PARTS // (vocab * columns)))
        slabs, groups = -(-columns // (LANES * cuda_embedding.SOME)), -(-vocab * LANES // THREADS)
        to = gweight if parts == 1 else new(grad, (parts, vocab * columns))
        launch(cuda_embedding.backward(dtype), slabs * groups * parts, THREADS, on, g.address, at, view(to).address,
               n, vocab, columns, -(-n // parts), slabs, groups, g.step)
        if parts > 1:
            _sum_columns(to, on, gweight, vocab * columns)
        return gweight


# --- Along time -------------------------------------------------------------------------------------------------------


def conv_depthwise(x, weight, bias, window, silu):
    """y_t = bias + sum_k weight[:, k] x_{t-K+1+k}, for every channel by itself; with SiLU if `silu`.

    x (batch, L, C), weight (C, K), bias (C,) or None, window (batch, K - 1, C), the inputs before x, or None: zeros.
    """
    with device(x):
        on, hold, (batch, length, channels) = stream(x), [], x.shape
        y = new(x, x.shape)
        if prod(x.shape):
            at, *x_steps = sequences("x", x, on, hold)
            chunk, chunks = _chunks(batch * channels, length, 4 * FULL * processors())
            n = batch * chunks * channels
            launch(cuda_conv.forward(weight.shape[1], STEPS, bool(silu)), _blocks(n), THREADS, on, at,
                   *_parameters(weight, bias, window, on, hold), view(y).address,
                   n, length, channels, chunk, chunks, *x_steps)
        return y


def conv_depthwise_backward(grad, x, weight, bias, window, silu):
    """The gradients of x, weight and bias (None where that is None)."""
    with device(x):
        on, hold, (batch, length, channels) = stream(x), [], x.shape
        gx, taps = new(x, x.shape), weight.shape[1]
        if not prod(x.shape):
            return gx, _zeros(weight, on), None if bias is None else _zeros(bias, on)
        gweight, gbias = new(weight, weight.shape), None if bias is None else new(bias, bias.shape)
        (of_y, *grad_steps), (at, *x_steps) = sequences("grad", grad, on, hold), sequences("x", x, on, hold)
        chunk, chunks = _chunks(batch * channels, length, FULL * processors() // 2)
        n, parts = batch * chunks * channels, new(x, (batch * chunks, (taps + 1) * channels))
        launch(cuda_conv.backward(taps, STEPS, bool(silu)), _blocks(n), THREADS, on, of_y, at,
               *_parameters(weight, bias, window, on, hold), view(gx).address, view(parts).address,
               n, length, channels, chunk, chunks, *grad_steps, *x_steps)
        _sum_columns(parts, on, gweight, channels, taps, gbias)
        return gx, gweight, gbias


def _parameters(weight, bias, window, on, hold):
    return [dense(name, x, on, hold) for name, x in (("weight", weight), ("bias", bias), ("window", window))]


def _chunks(channels, length, threads):
    """(steps of a chunk, chunks) of time, a multiple of STEPS, so that channels * chunks is about `threads`."""
    chunks = min(-(-length // STEPS), -(-threads // channels))
    chunk = -(-length // (chunks * STEPS)) * STEPS
    return chunk, -(-length // chunk)


# --- Launches ---------------------------------------------------------------------------------------------------------


def _blocks(threads):
    """Of THREADS threads, so that there are as many."""
    return -(-threads // THREADS)


def _sum_columns(parts, on, to, across, depth=1, rest=None):
    address, (count, n), _, _ = view(parts)
    launch(cuda_sums.columns(), -(-n // LANES), LANES * cuda_sums.GROUPS, on, address, view(to).address,
           0 if rest is None else view(rest).address, count, n, across, depth)


def _zeros(like, on):
    return filled(like, like.shape, 0.0, on)
