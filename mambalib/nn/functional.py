"""Operations on tensors, each with its gradient: what layers are made of.

    linear, embedding, rms_norm, conv1d                    operations with weights
    silu, softplus, sigmoid, tanh, relu, dropout           of each number by itself
    softmax, log_softmax, cross_entropy                    from logits to a loss
    causal_attention, rotary                               what a Transformer needs
    lstm                                                   and what an LSTM needs
    linear_scan, selective_scan                            mambalib's scans

Every function takes tensors, or arrays as constants, and returns tensors. What costs time and is neither a matrix
product nor a scan has kernels: `_cpu` for NumPy arrays, `_cuda` for those of float32 on a card, both with the functions
of `_reference`.
"""

import math

import numpy as np

from .. import _check
from .. import scan, selective
from ..autograd import array_module, as_tensor, primitive
from . import _reference

FLOATS = tuple(np.dtype(name) for name in _check.FLOATS)


def _engine(x):
    """The module whose kernels run where the array x lives, for its dtype."""
    if isinstance(x, np.ndarray):
        if x.dtype not in FLOATS:
            return _reference
        from . import _cpu

        return _cpu
    if x.dtype != FLOATS[0]:
        return _reference
    from . import _cuda

    return _cuda


# --- With weights -----------------------------------------------------------------------------------------------------


def linear(x, weight, bias=None):
    """y = W x + b on the last axis: (..., inputs) to (..., outputs).

    Parameters
    ----------
    x : (..., inputs) Tensor or array
    weight : (outputs, inputs) Tensor or array
    bias : (outputs,) Tensor or array, optional

    Returns
    -------
    (..., outputs) Tensor

    Raises
    ------
    ValueError
        The shapes do not fit.

    Examples
    --------
    >>> linear(np.array([1.0, 2.0]), np.array([[1.0, 1.0], [0.0, 3.0]]), np.array([0.5, 0.0])).data
    array([3.5, 6. ])
    """
    x, weight, bias = _tensors(x, weight, bias)
    _check.shape("weight", weight, (None, None), "(outputs, inputs)")
    outputs, inputs = weight.shape
    _last_axis("x", x, inputs, "as weight has columns")
    rows = x.data.reshape(math.prod(x.shape[:-1]), inputs)                       # (rows, inputs)
    y = rows @ weight.data.T
    if bias is not None:
        _check.shape("bias", bias, (outputs,), "(outputs,)")
        y += bias.data

    def backward(grad):
        grad = grad.reshape(len(rows), outputs)                                  # (rows, outputs)
        return (
            (grad @ weight.data).reshape(x.shape) if x.requires_grad else None,
            grad.T @ rows if weight.requires_grad else None,                     # one product for all rows
            *(() if bias is None else (grad.sum(axis=0),)),
        )

    return primitive(y.reshape(*x.shape[:-1], outputs), _given(x, weight, bias), backward)


def embedding(tokens, weight):
    """Row tokens[i] of `weight`, for every i: (...) integers to (..., columns).

    Parameters
    ----------
    tokens : array of integers in [0, vocab), of any shape
    weight : (vocab, columns) Tensor or array

    Returns
    -------
    (*tokens.shape, columns) Tensor

    Raises
    ------
    TypeError
        `tokens` are not integers.
    ValueError
        One of them is no row of `weight`. (On a card this is not checked, as looking would mean waiting.)

    Notes
    -----
    The gradient adds up, in the order of the positions, so the same tokens give the same bits.

    Examples
    --------
    >>> embedding(np.array([1, 0, 1]), np.array([[0.0, 0.5], [1.0, 2.0]])).data
    array([[1. , 2. ],
           [0. , 0.5],
           [1. , 2. ]])
    """
    weight = as_tensor(weight)
    _check.shape("weight", weight, (None, None), "(vocab, columns)")
    vocab, columns = weight.shape
    tokens = _integers("tokens", tokens, weight, vocab)

    def backward(grad):
        return (_engine(grad).embedding_backward(grad.reshape(tokens.size, columns), tokens.reshape(-1), vocab),)

    return primitive(weight.data[tokens], (weight,), backward)


def rms_norm(x, weight, eps=1e-5):
    """y = weight x / sqrt(mean(x^2) + eps), the mean over the last axis.

    Parameters
    ----------
    x : (..., columns) Tensor or array
    weight : (columns,) Tensor or array
    eps : float

    Returns
    -------
    Tensor of the shape of `x`

    References
    ----------
    - Zhang, Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019, equation 4.

    Examples
    --------
    >>> rms_norm(np.array([3.0, -4.0]), np.ones(2), eps=0.0).data.round(4)
    array([ 0.8485, -1.1314])
    """
    x, weight = as_tensor(x), as_tensor(weight)
    _check.shape("weight", weight, (None,), "(columns,)")
    columns, = weight.shape
    _last_axis("x", x, columns, "as weight has numbers")
    _alike(x, weight=weight)
    engine, rows = _engine(x.data), x.data.reshape(math.prod(x.shape[:-1]), columns)
    y, scale = engine.rms_norm(rows, weight.data, eps)

    def backward(grad):
        gx, gweight = engine.rms_norm_backward(grad.reshape(rows.shape), rows, weight.data, scale)
        return gx.reshape(x.shape), gweight

    return primitive(y.reshape(x.shape), (x, weight), backward)


def conv1d(x, weight, bias=None, *, groups=1, window=None, activation=None):
    """A causal convolution along time: y_t = bias + sum_k weight[:, :, k] x_{t-K+1+k}.

    Parameters
    ----------
    x : (batch, L, inputs) Tensor or array
    weight : (outputs, inputs // groups, K) Tensor or array
        The last of the K taps multiplies x_t, the first x_{t-K+1}.
    bias : (outputs,) Tensor or array, optional
    groups : int
        Inputs and outputs are cut in so many groups, and each output sees those of its own. groups = inputs = outputs
        is a depthwise convolution, each channel by itself.
    window : (batch, K - 1, inputs) array, optional
        The inputs before x; zeros by default. It gets no gradient.
    activation : {None, "silu"}
        What y goes through in the end.

    Returns
    -------
    (batch, L, outputs) Tensor

    Raises
    ------
    ValueError
        A shape, `groups` or `activation` does not fit.
    TypeError
        The dtypes differ.

    Examples
    --------
    >>> x = np.array([1.0, 0.0, 0.0, 2.0]).reshape(1, 4, 1)
    >>> conv1d(x, np.array([[[0.5, 3.0]]])).data.ravel()
    array([3. , 0.5, 0. , 6. ])
    """
    x, weight, bias = _tensors(x, weight, bias)
    _check.shape("x", x, (None, None, None), "(batch, L, inputs)")
    if activation is not None:
        _check.choice("activation", activation, ("silu",))
    batch, L, inputs = x.shape
    _check.count("groups", groups, least=1)
    if inputs % groups:
        raise ValueError(f"groups: expected a divisor of the {inputs} channels of x, got {groups}")
    _check.shape("weight", weight, (None, inputs // groups, None), "(outputs, inputs // groups, K)")
    outputs, width, K = weight.shape
    if K == 0 or outputs % groups:
        raise ValueError(f"weight: expected K >= 1 and a multiple of {groups} outputs, got shape {weight.shape}")
    if bias is not None:
        _check.shape("bias", bias, (outputs,), "(outputs,)")
    if window is not None:
        window = as_tensor(window).data
        _check.shape("window", window, (batch, K - 1, inputs), "(batch, K - 1, inputs)")
    _alike(x, weight=weight, bias=bias, window=window)

    if groups == inputs == outputs:
        arguments = weight.data[:, 0], None if bias is None else bias.data, window, activation == "silu"
        engine = _engine(x.data)

        def backward(grad):
            gx, gweight, gbias = engine.conv_depthwise_backward(grad, x.data, *arguments)
            return _given(gx, gweight[:, None], gbias)

        return primitive(engine.conv_depthwise(x.data, *arguments), _given(x, weight, bias), backward)

    # One matrix product for each group: the K inputs that a step sees stand side by side, as a row.
    xp = array_module(x.data)
    before = xp.zeros((batch, K - 1, inputs), x.dtype) if window is None else window
    long = xp.concatenate([before, x.data], axis=1).reshape(batch, K - 1 + L, groups, width)
    rows = xp.stack([long[:, k:k + L] for k in range(K)], axis=-1)               # (batch, L, groups, width, K)
    rows = rows.transpose(2, 0, 1, 3, 4).reshape(groups, batch * L, width * K)
    matrices = weight.data.reshape(groups, outputs // groups, width * K)         # (groups, own, width K)
    own = outputs // groups                                                      # outputs of a group
    y = (rows @ matrices.swapaxes(1, 2)).reshape(groups, batch, L, own)
    y = y.transpose(1, 2, 0, 3).reshape(batch, L, outputs)
    y = y if bias is None else y + bias.data

    def backward(grad):
        g = grad.reshape(batch, L, groups, own).transpose(2, 0, 1, 3).reshape(groups, batch * L, own)
        g_rows = (g @ matrices).reshape(groups, batch, L, width, K).transpose(1, 2, 0, 3, 4)
        g_long = xp.zeros_like(long)
        for k in range(K):
            g_long[:, k:k + L] += g_rows[..., k]
        gweight = (g.swapaxes(1, 2) @ rows).reshape(weight.shape)
        return _given(g_long[:, K - 1:].reshape(x.shape), gweight, None if bias is None else grad.sum(axis=(0, 1)))

    y = primitive(y, _given(x, weight, bias), backward)
    return silu(y) if activation else y


# --- Of each number ---------------------------------------------------------------------------------------------------


def silu(x):
    """x sigmoid(x).

    References
    ----------
    - Elfwing, Uchibe, Doya, "Sigmoid-Weighted Linear Units", Neural Networks 107, 2018, equation 2.
    """
    x = as_tensor(x)
    engine = _engine(x.data)
    return primitive(engine.silu(x.data), (x,), lambda grad: (engine.silu_backward(grad, x.data),))


def softplus(x):
    """log(1 + exp(x)), which for large x is x: a smooth relu."""
    x = as_tensor(x)
    xp = array_module(x.data)
    y = xp.maximum(x.data, 0) + xp.log1p(xp.exp(-xp.abs(x.data)))                # the exponential never overflows
    return primitive(y, (x,), lambda grad: (grad * _reference.sigmoid(x.data),))


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return as_tensor(x).sigmoid()


def tanh(x):
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x))."""
    return as_tensor(x).tanh()


def relu(x):
    """max(x, 0)."""
    x = as_tensor(x)
    return primitive(array_module(x.data).maximum(x.data, 0), (x,), lambda grad: (grad * (x.data > 0),))


def dropout(x, p, rng):
    """Each number is zero with probability p, and what stays is divided by 1 - p, so that the mean stays.

    Parameters
    ----------
    x : Tensor or array
    p : float in [0, 1)
    rng : np.random.Generator
        For an array on a card CuPy's Generator avoids a copy to it.
    """
    x = as_tensor(x)
    if not 0 <= p < 1:
        raise ValueError(f"p: expected a probability in [0, 1), got {p}")
    if p == 0:
        return x
    keep = array_module(x.data).asarray(rng.random(x.shape, dtype=np.float32) >= p)
    scale = keep * x.dtype.type(1 / (1 - p))
    return primitive(x.data * scale, (x,), lambda grad: (grad * scale,))


# --- From logits to a loss --------------------------------------------------------------------------------------------


def softmax(x, axis=-1):
    """exp(x) / sum(exp(x)) along an axis: positive numbers that sum to 1."""
    x = as_tensor(x)
    y = array_module(x.data).exp(x.data - x.data.max(axis=axis, keepdims=True))
    y /= y.sum(axis=axis, keepdims=True)
    return primitive(y, (x,), lambda grad: (y * (grad - (grad * y).sum(axis=axis, keepdims=True)),))


def log_softmax(x, axis=-1):
    """x - log(sum(exp(x))) along an axis."""
    x = as_tensor(x)
    xp = array_module(x.data)
    shifted = x.data - x.data.max(axis=axis, keepdims=True)
    y = shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))
    return primitive(y, (x,), lambda grad: (grad - xp.exp(y) * grad.sum(axis=axis, keepdims=True),))


def cross_entropy(logits, targets, ignore=-100):
    """The mean of -log softmax(logits)[target], in nats: how surprising the targets are.

    Parameters
    ----------
    logits : (..., vocab) Tensor or array
    targets : (...) array of integers in [0, vocab), or `ignore`
    ignore : int
        The target of a position that does not count.

    Returns
    -------
    Tensor of shape ()
        NaN, and a gradient of zero, if no position counts: the mean of nothing.

    Raises
    ------
    TypeError
        `targets` are not integers.
    ValueError
        The shapes do not fit; a target is out of range (which on a card is not checked, but makes the loss NaN).

    Examples
    --------
    >>> cross_entropy(np.log([[0.25, 0.75], [0.5, 0.5]]), np.array([1, -100])).data.round(4)
    np.float64(0.2877)
    """
    logits = as_tensor(logits)
    if logits.ndim == 0:
        raise ValueError("logits: expected shape (..., vocab), got ()")
    vocab = logits.shape[-1]
    targets = _integers("targets", targets, logits, vocab, ignore)
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets: expected shape {logits.shape[:-1]}, as logits (..., vocab), got {targets.shape}")
    rows = logits.data.reshape(math.prod(targets.shape), vocab)
    loss, slope = _engine(rows).cross_entropy(rows, targets.reshape(-1), ignore)
    return primitive(loss, (logits,), lambda grad: ((grad * slope).reshape(logits.shape),))


# --- Attention --------------------------------------------------------------------------------------------------------


def causal_attention(q, k, v, *, offset=0):
    """y_i = sum_j p_ij v_j over the keys j <= offset + i, with p_i = softmax of q_i . k_j / sqrt(d).

    Parameters
    ----------
    q : (batch, heads, L, d) Tensor or array
    k, v : (batch, heads, S, d) Tensor or array
    offset : int
        How many keys come before the first query.

    Returns
    -------
    (batch, heads, L, d) Tensor

    References
    ----------
    - Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.1.
    """
    q, k, v = as_tensor(q), as_tensor(k), as_tensor(v)
    _check.shape("q", q, (None,) * 4, "(batch, heads, L, d)")
    batch, heads, L, d = q.shape
    _check.shape("k", k, (batch, heads, None, d), "(batch, heads, S, d)")
    _check.shape("v", v, (batch, heads, k.shape[2], None), "(batch, heads, S, d)")
    _check.count("offset", offset, least=0)
    engine = _engine(q.data) if isinstance(q.data, np.ndarray) else _reference
    scale = q.dtype.type(1 / math.sqrt(d))
    scaled = q.data * scale
    p = engine.causal_softmax(scaled @ k.data.swapaxes(-1, -2), offset)          # (batch, heads, L, S)

    def backward(grad):
        g = engine.causal_softmax_backward(grad @ v.data.swapaxes(-1, -2), p, offset)    # of q . k / sqrt(d)
        return g @ k.data * scale, g.swapaxes(-1, -2) @ scaled, p.swapaxes(-1, -2) @ grad

    return primitive(p @ v.data, (q, k, v), backward)


def rotary(x, positions):
    """Turn each pair (x_i, x_{i+d/2}) by the angle position * 10000^(-2i/d).

    Then a product of two such vectors depends on their positions by the difference alone.

    Parameters
    ----------
    x : (..., L, d) Tensor or array, d even
    positions : (L,) array of integers

    Returns
    -------
    Tensor of the shape of `x`

    References
    ----------
    - Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", Neurocomputing 568, 2024, section
      3.2.2.
    """
    x = as_tensor(x)
    if x.ndim < 2 or x.shape[-1] % 2:
        raise ValueError(f"x: expected shape (..., L, d) with d even, got {x.shape}")
    xp, half = array_module(x.data), x.shape[-1] // 2
    positions = xp.asarray(positions)
    _check.shape("positions", positions, x.shape[-2:-1], "(L,)")
    angles = positions[:, None] * 10000.0 ** (-xp.arange(half) / half)     # (L, d / 2)
    cos, sin = xp.cos(angles).astype(x.dtype), xp.sin(angles).astype(x.dtype)

    def turn(x, sin):
        a, b = x[..., :half], x[..., half:]
        return xp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    return primitive(turn(x.data, sin), (x,), lambda grad: (turn(grad, -sin),))  # back by the same angle


# --- Recurrences ------------------------------------------------------------------------------------------------------


def lstm(x, weight_ih, weight_hh, bias, h0=None, c0=None):
    """A layer of LSTM cells, from the first step to the last::

        i, f, g, o = weight_ih x_t + weight_hh h_{t-1} + bias
        c_t        = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)
        h_t        = sigmoid(o) tanh(c_t)

    Parameters
    ----------
    x : (batch, L, inputs) Tensor or array
    weight_ih : (4 H, inputs) Tensor or array
    weight_hh : (4 H, H) Tensor or array
    bias : (4 H,) Tensor or array
    h0, c0 : (batch, H) Tensor or array, optional
        h and c before the first step; zero by default.

    Returns
    -------
    hs : (batch, L, H) Tensor
    h_last, c_last : (batch, H) Tensors

    References
    ----------
    - Gers, Schmidhuber, Cummins, "Learning to Forget: Continual Prediction with LSTM", Neural Computation 12(10), 2000.
    """
    x, weight_ih, weight_hh, bias = (as_tensor(t) for t in (x, weight_ih, weight_hh, bias))
    _check.shape("x", x, (None, None, None), "(batch, L, inputs)")
    _check.shape("weight_hh", weight_hh, (4 * (weight_hh.shape[0] // 4), weight_hh.shape[0] // 4), "(4 H, H)")
    (batch, L, inputs), H, xp = x.shape, weight_hh.shape[1], array_module(x.data)
    _check.shape("weight_ih", weight_ih, (4 * H, inputs), "(4 H, inputs)")
    _check.shape("bias", bias, (4 * H,), "(4 H,)")
    h0, c0 = (as_tensor(xp.zeros((batch, H), x.dtype) if t is None else t) for t in (h0, c0))
    _check.shape("h0", h0, (batch, H), "(batch, H)")
    _check.shape("c0", c0, (batch, H), "(batch, H)")
    _alike(x, weight_ih=weight_ih, weight_hh=weight_hh, bias=bias, h0=h0, c0=c0)
    engine = _engine(x.data)
    steps = xp.ascontiguousarray(x.data.swapaxes(0, 1)).reshape(L * batch, inputs)     # time first
    gates = (steps @ weight_ih.data.T + bias.data).reshape(L, batch, 4 * H)
    hs, cs = xp.empty((L + 1, batch, H), x.dtype), xp.empty((L + 1, batch, H), x.dtype)
    hs[0], cs[0] = h0.data, c0.data
    for t in range(L):
        gates[t] += hs[t] @ weight_hh.data.T
        hs[t + 1], cs[t + 1] = engine.lstm_cell(gates[t], cs[t])

    def backward(grads):
        zero = xp.zeros((batch, H), x.dtype)
        g_hs, g_h, g_c = grads[0], *(zero if g is None else g for g in grads[1:])
        g_gates = xp.empty_like(gates)
        for t in reversed(range(L)):
            g_h = g_h if g_hs is None else g_h + g_hs[:, t]
            g_gates[t], g_c = engine.lstm_cell_backward(g_h, g_c, gates[t], cs[t], cs[t + 1])
            g_h = g_gates[t] @ weight_hh.data
        flat = g_gates.reshape(L * batch, 4 * H)
        g_x = (flat @ weight_ih.data).reshape(L, batch, inputs).swapaxes(0, 1)
        return g_x, flat.T @ steps, flat.T @ hs[:L].reshape(L * batch, H), flat.sum(axis=0), g_h, g_c

    # Copies of the last states, as a caller may write into them.
    data = xp.ascontiguousarray(hs[1:].swapaxes(0, 1)), hs[L].copy(), cs[L].copy()
    return primitive(data, (x, weight_ih, weight_hh, bias, h0, c0), backward)


def linear_scan(a, b, *, axis=-1, h0=None, reverse=False):
    """h_t = a_t h_{t-1} + b_t along an axis; see `mambalib.linear_scan`, whose arguments these are. Of floats only."""
    a, b, h0 = _tensors(a, b, h0)
    options = dict(axis=axis, h0=None if h0 is None else h0.data, reverse=reverse)
    h = scan.linear_scan(a.data, b.data, **options)
    return primitive(h, _given(a, b, h0), lambda grad: _given(*scan.linear_scan_backward(grad, a.data, h, **options)))


def selective_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, initial_state=None,
                   return_last_state=False, reset=None):
    """The selective scan; see `mambalib.selective_scan`, whose arguments these are. Of floats only."""
    given = dict(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias, initial_state=initial_state)
    given = {name: as_tensor(x) for name, x in given.items() if x is not None}
    arrays = {name: x.data for name, x in given.items()} | dict(delta_softplus=delta_softplus, reset=reset)
    results = selective.selective_scan(**arrays, return_last_state=return_last_state)

    def backward(grads):
        grad, grad_last_state = grads if return_last_state else (grads, None)
        if grad is None:
            grad = array_module(results[0]).zeros_like(results[0])
        found = selective.selective_scan_backward(grad, **arrays, grad_last_state=grad_last_state)
        return [getattr(found, name) for name in given]

    return primitive(results, tuple(given.values()), backward)


# --- Arguments --------------------------------------------------------------------------------------------------------


def _tensors(*values):
    """Each as a tensor; None stays."""
    return [None if x is None else as_tensor(x) for x in values]


def _given(*values):
    """Those that are not None."""
    return tuple(x for x in values if x is not None)


def _last_axis(name, x, n, why):
    if x.ndim == 0 or x.shape[-1] != n:
        raise ValueError(f"{name}: expected {n} numbers on the last axis, {why}, got shape {x.shape}")


def _alike(x, **others):
    """Raise unless the others, tensors, arrays or None, have the dtype of x."""
    for name, other in others.items():
        if other is not None and other.dtype != x.dtype:
            raise TypeError(f"{name}: expected dtype {x.dtype}, that of x, got {other.dtype}")


def _integers(name, x, like, stop, also=None):
    """x as an array of integers, below `stop` or equal to `also`, where `like` lives; on a card it is not looked at."""
    x = x if array_module(x) is not np else np.asarray(x)
    if x.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {x.dtype.name}")
    if isinstance(x, np.ndarray):
        wrong = (x < 0) | (x >= stop)
        wrong = wrong if also is None else wrong & (x != also)
        if wrong.any():
            raise ValueError(f"{name}: expected numbers from 0 to {stop - 1}, got {x[wrong][0]}")
    return array_module(like.data).asarray(x)
