"""The synthetic tasks: each sequence is read again, place by place, and must ask what its description says."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mambalib.autograd import Tensor
from mambalib.tasks import IGNORE, accuracy, induction_heads, selective_copying


@given(st.integers(0, 5), st.integers(1, 9), st.integers(0, 40), st.integers(3, 20), st.integers(0, 2**32))
def test_selective_copying_asks_for_the_data_tokens_in_the_order_they_came(batch, n_tokens, noise, vocab, seed):
    tokens, targets = selective_copying(batch, n_tokens + noise, n_tokens, vocab, rng=seed)
    assert tokens.shape == targets.shape == (batch, 2 * n_tokens + noise) and tokens.dtype == targets.dtype == np.int64
    for sequence, target in zip(tokens.tolist(), targets.tolist()):
        seen = [token for token in sequence if token not in (0, vocab - 1)]
        assert target == [IGNORE] * (n_tokens + noise) + seen and len(seen) == n_tokens
        assert sequence[n_tokens + noise:] == [vocab - 1] * n_tokens
        assert all(0 <= token < vocab for token in sequence)


def test_selective_copying_draws_places_and_tokens_uniformly():
    tokens, targets = selective_copying(20_000, 10, 3, 7, rng=0)
    assert stats.chisquare((tokens[:, :10] > 0).sum(0)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(targets[:, 10:].ravel())[1:]).pvalue > 1e-3
    subsets = np.unique((tokens[:, :10] > 0) @ (1 << np.arange(10)), return_counts=True)[1]
    assert len(subsets) == 120 and stats.chisquare(subsets).pvalue > 1e-3, "each choice of places is as likely"


def test_plain_copying_puts_the_data_first():
    tokens, targets = selective_copying(4, 20, 5, rng=0, positions="first")
    assert (tokens[:, :5] == targets[:, 20:]).all() and (tokens[:, 5:20] == 0).all()


@given(st.integers(0, 5), st.integers(3, 60), st.integers(2, 20), st.integers(0, 2**32))
def test_induction_heads_asks_what_followed_the_special_token(batch, length, vocab, seed):
    tokens, targets = induction_heads(batch, length, vocab, rng=seed)
    assert tokens.shape == targets.shape == (batch, length) and tokens.dtype == targets.dtype == np.int64
    for sequence, target in zip(tokens.tolist(), targets.tolist()):
        places = [t for t, token in enumerate(sequence) if token == vocab - 1]
        assert len(places) == 2 and places[1] == length - 1 and places[0] < length - 2
        assert target == [IGNORE] * (length - 1) + [sequence[places[0] + 1]]
        assert all(0 <= token < vocab for token in sequence)


def test_induction_heads_draws_the_place_and_the_answer_uniformly():
    tokens, targets = induction_heads(20_000, 12, 7, rng=0)
    assert stats.chisquare(np.bincount((tokens == 6).argmax(1))).pvalue > 1e-3
    assert stats.chisquare(np.bincount(targets[:, -1])).pvalue > 1e-3


@pytest.mark.parametrize("task", (selective_copying, induction_heads))
def test_the_same_seed_gives_the_same_batch_and_a_generator_goes_on(task):
    one, two = task(3, 40, rng=5), task(3, 40, rng=5)
    assert all(np.array_equal(x, y) for x, y in zip(one, two))
    rng = np.random.default_rng(5)
    first, second = task(3, 40, rng=rng)[0], task(3, 40, rng=rng)[0]
    assert np.array_equal(first, one[0]) and not np.array_equal(second, first)


@pytest.mark.parametrize("task", (selective_copying, induction_heads))
def test_a_batch_of_the_papers_size_takes_little_time(task):
    def seconds():
        start = time.perf_counter()
        task(64, 4096, rng=0)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(20)) < 0.01


@pytest.mark.parametrize("change, error, message", [
    (dict(batch=-1), ValueError, "batch: expected at least 0, got -1"),
    (dict(batch=2.0), TypeError, "batch: expected an integer, got 2.0"),
    (dict(length=15), ValueError, "length: expected at least 16, got 15"),
    (dict(n_tokens=0), ValueError, "n_tokens: expected at least 1, got 0"),
    (dict(vocab=2), ValueError, "vocab: expected at least 3, got 2"),
    (dict(positions="last"), ValueError, "positions: expected one of 'random', 'first', got 'last'"),
    (dict(rng=None), TypeError, "rng: expected a np.random.Generator or a seed, got None"),
    (dict(rng=-1), ValueError, "rng: expected a seed of at least 0, got -1"),
])
def test_selective_copying_names_what_it_refuses(change, error, message):
    with pytest.raises(error, match=message):
        selective_copying(**(dict(batch=2, length=32, rng=0) | change))


@pytest.mark.parametrize("change, error, message", [
    (dict(length=2), ValueError, "length: expected at least 3, got 2"),
    (dict(vocab=1), ValueError, "vocab: expected at least 2, got 1"),
    (dict(rng=np.random.RandomState(0)), TypeError, "rng: expected a np.random.Generator or a seed, got RandomState"),
])
def test_induction_heads_names_what_it_refuses(change, error, message):
    with pytest.raises(error, match=message):
        induction_heads(**(dict(batch=2, length=32, rng=0) | change))


@pytest.mark.parametrize("kind", (np.asarray, Tensor))
def test_accuracy_counts_the_asked_alone(kind):
    logits = np.array([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
    assert accuracy(kind(logits), np.array([[1, IGNORE], [1, 0]])) == pytest.approx(2 / 3)


def test_accuracy_names_what_it_refuses():
    with pytest.raises(ValueError, match=r"targets: expected shape \(2, 3\), as logits \(2, 3, 4\), got \(3,\)"):
        accuracy(np.zeros((2, 3, 4)), np.zeros(3, int))
    with pytest.raises(ValueError, match="targets: expected at least one that is not -100"):
        accuracy(np.zeros((2, 4)), np.full(2, IGNORE))
