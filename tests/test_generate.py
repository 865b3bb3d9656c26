"""Generation against models whose next token is known, and against real ones that see the whole prefix each time."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mambalib.autograd import Tensor
from mambalib.generate import generate, sample_text, stream
from mambalib.models import build
from mambalib.text import BPETokenizer, CharTokenizer

KINDS = ("mamba", "lstm", "transformer")
MODELS = {kind: build(dict(model=kind, vocab_size=11, d_model=16, n_layers=2)) for kind in KINDS}
PROBABILITIES = np.array([0.1, 0.4, 0.05, 0.3, 0.15])
BPE = BPETokenizer("the cat sat on the mat, naïve café ☕ 😀 " * 3, 300)


class Table:
    """A model whose logits are a row of a table, picked by the last token; its state is the list of all it has seen."""

    def __init__(self, table):
        self.table, self.config = np.asarray(table, np.float32), {"vocab_size": len(table)}

    def empty_state(self, batch, length=None):
        return SimpleNamespace(seen=[[] for _ in range(batch)], calls=[], length=length)

    def __call__(self, tokens, state, last=False):
        self.state = state
        state.calls.append(tokens.shape[1])
        for seen, row in zip(state.seen, tokens):
            seen.extend(row.tolist())
        return Tensor(self.table[tokens[:, -1:] if last else tokens])

    def step(self, tokens, state):
        return self(tokens[:, None], state).data[:, 0]


class Script(Table):
    """A model that says given tokens, one after another, whatever it reads."""

    def __init__(self, tokens, vocab):
        super().__init__(np.zeros((vocab, vocab)))
        self.tokens = iter(tokens)

    def __call__(self, tokens, state, last=False):
        logits = np.zeros((len(tokens), 1 if last else tokens.shape[1], len(self.table)), np.float32)
        logits[..., next(self.tokens)] = 1
        return Tensor(logits)


def constant(probabilities):
    return Table(np.tile(np.log(probabilities), (len(probabilities), 1)))


def successor(vocab=7):
    """Token t is followed by t + 1."""
    return Table(10 * np.roll(np.eye(vocab), 1, axis=1))


# --- Tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_the_likeliest_token_is_the_one_that_the_whole_prefix_predicts(kind):
    model, prompt = MODELS[kind], np.random.default_rng(0).integers(0, 11, (3, 9))
    tokens = prompt
    for _ in range(12):
        tokens = np.concatenate([tokens, model(tokens).data[:, -1].argmax(-1)[:, None]], axis=1)
    assert np.array_equal(generate(model, prompt, 12, temperature=0), tokens[:, 9:])
    assert np.array_equal(generate(model, prompt[1], 12, temperature=0), tokens[1, 9:])


def test_a_long_prompt_is_read_in_pieces_and_nothing_twice():
    model, prompt = successor(), np.arange(1200) % 7
    assert generate(model, prompt, 3, temperature=0).tolist() == [(1199 + k) % 7 for k in (1, 2, 3)]
    assert model.state.calls == [512, 512, 176, 1, 1] and model.state.length == 1203
    assert model.state.seen == [[*prompt.tolist(), 1200 % 7, 1201 % 7]]


@pytest.mark.parametrize("options, wanted", [
    (dict(), PROBABILITIES),
    (dict(temperature=0.5), PROBABILITIES**2),
    (dict(temperature=2.0), PROBABILITIES**0.5),
    (dict(top_k=2), [0, 0.4, 0, 0.3, 0]),
    (dict(top_k=99), PROBABILITIES),
    (dict(top_p=0.6), [0, 0.4, 0, 0.3, 0]),
    (dict(top_p=0.75), [0, 0.4, 0, 0.3, 0.15]),
    (dict(top_p=1.0), PROBABILITIES),
    (dict(top_p=0.01), [0, 1, 0, 0, 0]),
    (dict(top_k=4, top_p=0.85), [0, 0.4, 0, 0.3, 0.15]),
    (dict(temperature=1e-300), [0, 1, 0, 0, 0]),
])
def test_tokens_are_drawn_with_the_probabilities_asked_for(options, wanted):
    wanted = np.array(wanted, float) / np.sum(wanted)
    drawn = generate(constant(PROBABILITIES), np.zeros((10_000, 1), int), 2, seed=1, **options)
    counts = np.bincount(drawn.ravel(), minlength=5)
    assert (counts[wanted == 0] == 0).all()
    if (wanted > 0).sum() > 1:
        assert stats.chisquare(counts[wanted > 0], 20_000 * wanted[wanted > 0]).pvalue > 1e-3


def test_top_k_keeps_k_of_equal_ones():
    drawn = generate(constant(np.full(5, 0.2)), np.zeros((1000, 1), int), 1, top_k=2, seed=0)
    assert set(drawn.ravel()) == {0, 1}


def test_a_seed_repeats_the_tokens_and_another_does_not():
    model, prompt = MODELS["mamba"], np.array([1, 2, 3])
    one, two, other = (generate(model, prompt, 50, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_generation_ends_with_a_stop_token():
    assert generate(successor(), [1], 10, temperature=0, stop=4).tolist() == [2, 3, 4]
    assert generate(successor(), [1], 10, temperature=0, stop=[6, 3]).tolist() == [2, 3]
    three = generate(successor(), [[1], [3], [5]], 10, temperature=0, stop=[4, 6])
    assert three.tolist() == [[2, 3, 4], [4, 4, 4], [6, 6, 6]]


def test_no_tokens_are_an_empty_array():
    assert generate(successor(), [1], 0).shape == (0,) and generate(successor(), [[1], [2]], 0).shape == (2, 0)


def test_a_stream_gives_each_token_before_the_next_is_made():
    model = successor()
    tokens = stream(model, [1, 2], 5, temperature=0)
    assert next(tokens) == 3 and model.state.seen == [[1, 2]]
    assert next(tokens) == 4 and model.state.seen == [[1, 2, 3]]


@pytest.mark.parametrize("change, error, message", [
    (dict(prompt=[]), ValueError, r"prompt: expected shape \(L,\) or \(batch, L\) with at least one token, got \(0,\)"),
    (dict(prompt=3), ValueError, r"prompt: expected shape .* got \(\)"),
    (dict(prompt=[1, 7]), ValueError, "prompt: expected 0 to 6, got 7"),
    (dict(prompt=[-1]), ValueError, "prompt: expected 0 to 6, got -1"),
    (dict(prompt=[0.5]), TypeError, "prompt: expected integers, got dtype float64"),
    (dict(n=-1), ValueError, "n: expected at least 0, got -1"),
    (dict(temperature=-1), ValueError, "temperature: expected 0 or more, got -1"),
    (dict(temperature=np.nan), ValueError, "temperature: expected 0 or more, got nan"),
    (dict(top_k=0), ValueError, "top_k: expected at least 1, got 0"),
    (dict(top_p=0), ValueError, "top_p: expected more than 0 and at most 1, got 0"),
    (dict(top_p=1.5), ValueError, "top_p: expected more than 0 and at most 1, got 1.5"),
    (dict(stop=7), ValueError, "stop: expected 0 to 6, got 7"),
])
def test_what_cannot_be_generated_is_named_before_the_first_token(change, error, message):
    with pytest.raises(error, match=message):
        stream(successor(), **(dict(prompt=[1], n=3) | change))


def test_logits_that_are_no_numbers_are_named():
    with pytest.raises(ValueError, match="model: expected finite logits, got NaN or infinity"):
        generate(Table(np.full((3, 3), np.nan)), [1], 1)


# --- Text -------------------------------------------------------------------------------------------------------------


@given(st.text("the cat☕😀é ", min_size=1, max_size=30),
       st.lists(st.text("the cat☕é ", min_size=1, max_size=4), max_size=3))
def test_pieces_are_whole_characters_and_together_the_text_before_the_first_stop(text, stop):
    tokens, pieces = BPE.encode(text).tolist(), []
    model = Script(tokens, BPE.vocab_size)
    got = sample_text(model, BPE, "the", len(tokens), temperature=0, stop=stop, write=pieces.append)
    places = [text.find(s) for s in stop if s in text]
    assert got == "".join(pieces) == (text[:min(places)] if places else text)
    assert all(pieces)


def test_a_piece_is_written_as_soon_as_its_character_is_whole():
    bytes_alone, pieces = BPETokenizer("a", 256), []
    sample_text(Script(bytes_alone.encode("a😀b"), 256), bytes_alone, "a", 6, temperature=0, write=pieces.append)
    assert pieces == ["a", "😀", "b"]


def test_half_a_character_at_the_end_is_written_as_a_replacement():
    bytes_alone, pieces = BPETokenizer("a", 256), []
    got = sample_text(Script(bytes_alone.encode("a😀"), 256), bytes_alone, "a", 3, temperature=0, write=pieces.append)
    assert got == "".join(pieces) == "a\ufffd"


def test_one_stop_may_be_a_string_and_several_are_looked_for():
    tokenizer = CharTokenizer("abcdef")
    make = lambda: Script(tokenizer.encode("abcdef"), 6)  # noqa: E731
    assert sample_text(make(), tokenizer, "a", 6, temperature=0, stop="de") == "abc"
    assert sample_text(make(), tokenizer, "a", 6, temperature=0, stop=("f", "bcd")) == "a"


def test_text_that_cannot_be_continued_is_named():
    tokenizer, model = CharTokenizer("abc"), constant(np.full(3, 1 / 3))
    with pytest.raises(ValueError, match="prompt: expected at least one character, got ''"):
        sample_text(model, tokenizer, "", 3)
    with pytest.raises(ValueError, match="stop: expected strings of at least one character, got ''"):
        sample_text(model, tokenizer, "a", 3, stop=["b", ""])
    with pytest.raises(ValueError, match="text: expected the 3 characters of the vocabulary, got 'x' at position 1"):
        sample_text(model, tokenizer, "ax", 3)
