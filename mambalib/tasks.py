"""Synthetic tasks that ask one thing of a model: remember by content (selective copying), recall (induction heads).

Each function makes a batch of fresh sequences, tokens and targets, as integer arrays of shape (batch, total length).
Where nothing is asked the target is IGNORE, which `cross_entropy` and `accuracy` leave out.

References
----------
- Gu, Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", COLM 2024, section 4.1 and appendix E.1.
- Olsson et al., "In-context Learning and Induction Heads", Transformer Circuits Thread, 2022.
"""

import numpy as np

from . import _check
from .autograd import Tensor

__all__ = ["IGNORE", "selective_copying", "induction_heads", "accuracy"]

IGNORE = -100                                        # the target of a place where nothing is asked


def selective_copying(batch, length, n_tokens=16, vocab=16, *, rng, positions="random"):
    """Data tokens among noise, then as many markers, at which the model must give the data tokens back in order.

    Token 0 is noise, token ``vocab - 1`` the marker, those between are data. The data tokens stand at random places, so
    when a token comes says nothing about whether to keep it: what it is decides, and a time-invariant system cannot
    look.

    Parameters
    ----------
    batch : int
        How many sequences.
    length : int, at least n_tokens
        The places for data and noise; n_tokens markers follow. The paper takes 4096.
    n_tokens : int
        How many tokens to remember.
    vocab : int, at least 3
        How many tokens there are, noise and marker included.
    rng : np.random.Generator or int
        What draws the sequences, or the seed of it.
    positions : {"random", "first"}
        "first" puts the data tokens in the first places: the plain copying task, which a fixed delay solves.

    Returns
    -------
    tokens, targets : (batch, length + n_tokens) int64 arrays
        The targets are IGNORE at the first `length` places.

    Raises
    ------
    ValueError
        A number that is too small, positions that are neither.
    TypeError
        A number that is not an integer, an rng that is neither.

    Examples
    --------
    >>> tokens, targets = selective_copying(1, 8, n_tokens=3, vocab=6, rng=1)
    >>> tokens
    array([[0, 2, 3, 0, 0, 4, 0, 0, 5, 5, 5]])
    >>> targets[:, 8:]
    array([[2, 3, 4]])
    """
    batch, n_tokens = _check.count("batch", batch, 0), _check.count("n_tokens", n_tokens, 1)
    length, vocab = _check.count("length", length, n_tokens), _check.count("vocab", vocab, 3)
    _check.choice("positions", positions, ("random", "first"))
    rng = generator(rng)
    data = rng.integers(1, vocab - 1, (batch, n_tokens))                      # (batch, n_tokens)
    if positions == "random":                        # where n_tokens of `length` random numbers are the smallest
        order = np.argpartition(rng.random((batch, length), dtype=np.float32), n_tokens - 1, axis=1)
        places = np.sort(order[:, :n_tokens], axis=1)                         # (batch, n_tokens)
    else:
        places = np.broadcast_to(np.arange(n_tokens), (batch, n_tokens))

    tokens = np.zeros((batch, length + n_tokens), np.int64)
    np.put_along_axis(tokens, places, data, axis=1)
    tokens[:, length:] = vocab - 1
    targets = np.full_like(tokens, IGNORE)
    targets[:, length:] = data
    return tokens, targets


def induction_heads(batch, length, vocab=16, *, rng):
    """Random tokens in which a special one stands twice, somewhere and at the end: what followed it the first time?

    The special token is ``vocab - 1``; it stands nowhere else. The answer, one of the others, is asked at the last
    place.

    Parameters
    ----------
    batch : int
        How many sequences.
    length : int, at least 3
        Their length, all told. The paper trains at 256 and tests up to 1048576.
    vocab : int, at least 2
        How many tokens there are, the special one included.
    rng : np.random.Generator or int
        What draws the sequences, or the seed of it.

    Returns
    -------
    tokens, targets : (batch, length) int64 arrays
        The targets are IGNORE but for the last place.

    Raises
    ------
    ValueError
        A number that is too small.
    TypeError
        A number that is not an integer, an rng that is neither.

    Examples
    --------
    >>> tokens, targets = induction_heads(1, 8, vocab=6, rng=8)
    >>> tokens                                       # 5 is the special token
    array([[3, 1, 1, 5, 0, 1, 3, 5]])
    >>> targets
    array([[-100, -100, -100, -100, -100, -100, -100,    0]])
    """
    batch, length = _check.count("batch", batch, 0), _check.count("length", length, 3)
    vocab, rng = _check.count("vocab", vocab, 2), generator(rng)
    tokens = rng.integers(0, vocab - 1, (batch, length))
    rows, place = np.arange(batch), rng.integers(0, length - 2, batch)        # the answer comes before the last place
    tokens[rows, place] = tokens[:, -1] = vocab - 1
    targets = np.full_like(tokens, IGNORE)
    targets[:, -1] = tokens[rows, place + 1]
    return tokens, targets


def accuracy(logits, targets):
    """The share of the targets that the largest logit names, among those that are not IGNORE.

    Parameters
    ----------
    logits : (..., vocab) array or Tensor
    targets : (...) integer array

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        Shapes that do not fit, or no target but IGNORE.

    Examples
    --------
    >>> logits = np.array([[0.1, 2.0], [3.0, 0.0], [0.0, 1.0]])
    >>> accuracy(logits, np.array([1, 1, IGNORE]))
    0.5
    """
    logits = logits.data if isinstance(logits, Tensor) else logits
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets: expected shape {logits.shape[:-1]}, as logits {logits.shape}, got {targets.shape}")
    asked = targets != IGNORE
    if not asked.any():
        raise ValueError(f"targets: expected at least one that is not {IGNORE}, got none")
    return float((logits.argmax(-1) == targets)[asked].mean())


def generator(rng):
    """`rng`, or the generator of that seed."""
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, bool) or not isinstance(rng, (int, np.integer)):
        raise TypeError(f"rng: expected a np.random.Generator or a seed, got {rng!r}")
    if rng < 0:
        raise ValueError(f"rng: expected a seed of at least 0, got {rng}")
    return np.random.default_rng(rng)
