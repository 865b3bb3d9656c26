"""Text to tokens and back, with every text there is; windows that are cut where they should be; what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mambalib.text import BPETokenizer, CharTokenizer, batches, default_text, read_text, split, tokenizer_from_json

BPE = BPETokenizer(default_text()[:50_000], 400)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)))


def test_the_default_text_is_long_and_english():
    text = default_text()
    assert len(text) > 300_000 and text == default_text()
    assert all(word in text for word in (" the ", " statement ", " expression "))


# --- Tokenizers -------------------------------------------------------------------------------------------------------


@given(TEXTS.filter(bool))
def test_characters_come_back_and_are_numbered_in_order(text):
    tokenizer = CharTokenizer(text)
    alphabet = sorted(set(text))
    assert tokenizer.encode(text).tolist() == [alphabet.index(character) for character in text]
    assert tokenizer.decode(tokenizer.encode(text)) == text and tokenizer.vocab_size == len(alphabet)


@given(TEXTS)
def test_byte_pairs_give_any_text_back(text):
    tokens = BPE.encode(text)
    assert BPE.decode(tokens) == text
    assert b"".join(BPE.bytes_of(token) for token in tokens.tolist()) == text.encode()


def test_byte_pairs_are_the_frequent_ones():
    tokenizer = BPETokenizer("aaab" * 10 + "cd", 257)
    assert tokenizer.vocab_size == 257 and tokenizer.bytes_of(256) == b"aa"
    assert sorted(tokenizer.bytes_of(token) for token in range(256)) == [bytes([byte]) for byte in range(256)]


def test_byte_pairs_make_text_shorter():
    text = default_text()[:50_000]
    assert len(BPE.encode(text)) < 0.7 * len(text)


@pytest.mark.parametrize("tokenizer", (CharTokenizer("ábc😀\n\"\\"), BPE), ids=lambda t: type(t).__name__)
def test_a_tokenizer_comes_back_from_its_json(tokenizer):
    again = tokenizer_from_json(tokenizer.to_json())
    assert type(again) is type(tokenizer) and again.vocab_size == tokenizer.vocab_size
    assert np.array_equal(again.encode("cáb😀\n"), tokenizer.encode("cáb😀\n"))


@pytest.mark.parametrize("tokenizer", (CharTokenizer("abc"), BPE), ids=lambda t: type(t).__name__)
def test_decoding_names_a_token_that_is_none(tokenizer):
    assert tokenizer.decode([]) == ""
    with pytest.raises(ValueError, match=f"tokens: expected 0 to {tokenizer.vocab_size - 1}, got 1000"):
        tokenizer.decode([0, 1000])
    with pytest.raises(ValueError, match="got -1"):
        tokenizer.decode([-1])
    with pytest.raises(TypeError, match="tokens: expected integers, got dtype float64"):
        tokenizer.decode([0.5])


def test_half_a_character_decodes_to_a_replacement():
    assert BPE.decode(BPE.encode("😀")[:-1]).strip("\ufffd") == ""


def test_an_unknown_character_is_named_with_its_place():
    with pytest.raises(ValueError, match="text: expected the 3 characters of the vocabulary, got 'é' at position 2"):
        CharTokenizer("abc").encode("abé")


@pytest.mark.parametrize("kind", (CharTokenizer, BPETokenizer))
def test_no_text_makes_no_tokenizer(kind):
    with pytest.raises(ValueError, match="text: expected a string of at least one character, got ''"):
        kind("")


def test_a_vocabulary_holds_all_bytes():
    with pytest.raises(ValueError, match="vocab_size: expected at least 256, got 255"):
        BPETokenizer("abc", 255)


# --- Files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes("naïve\r\nlines 😀".encode())
    assert read_text(file) == "naïve\nlines 😀"
    file.write_bytes("naïve".encode("latin-1"))
    assert read_text(file, encoding="latin-1") == "naïve"


def test_a_file_in_another_encoding_is_named_with_the_byte(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes("abc naïve".encode("latin-1"))
    with pytest.raises(ValueError, match=r"text.txt: expected text in utf-8, got byte 0xef at offset 6 .*encoding='"):
        read_text(file)


# --- Windows ----------------------------------------------------------------------------------------------------------


@given(st.integers(2, 1000), st.floats(0.01, 0.99))
def test_split_cuts_once(n, share):
    tokens = np.arange(n)
    if round(share * n) in (0, n):
        with pytest.raises(ValueError, match="text: expected enough for two parts"):
            split(tokens, share)
    else:
        training, held_out = split(tokens, share)
        assert np.array_equal(np.concatenate([training, held_out]), tokens) and abs(len(held_out) - share * n) <= 0.5
        assert split("a" * n, share) == ("a" * len(training), "a" * len(held_out))


@pytest.mark.parametrize("share", (0, 1, -0.1, np.nan))
def test_split_names_a_share_that_is_none(share):
    with pytest.raises(ValueError, match="validation: expected a share between 0 and 1, got"):
        split(np.arange(10), share)


@given(st.integers(1, 5), st.integers(1, 20), st.integers(1, 30), st.integers(0, 99))
def test_windows_are_pieces_of_the_text_and_what_follows(batch, length, more, seed):
    tokens = np.arange(100, 100 + length + more)
    x, y = next(batches(tokens, batch, length, np.random.default_rng(seed)))
    assert x.shape == y.shape == (batch, length)
    assert (np.diff(x, axis=1) == 1).all() and (y == x + 1).all() and x.min() >= 100 and y.max() < 100 + length + more


def test_every_place_is_as_likely():
    drawn = batches(np.arange(20), 1000, 11, np.random.default_rng(0))
    starts = np.concatenate([next(drawn)[0][:, 0] for _ in range(10)])
    counts = np.bincount(starts)
    assert len(counts) == 9 and stats.chisquare(counts).pvalue > 1e-3, "the last window ends with the text"


def test_a_text_that_is_shorter_than_a_window_is_refused_before_the_first_batch():
    with pytest.raises(ValueError, match="tokens: expected more than length = 10, a window and what follows, got 10"):
        batches(np.arange(10), 2, 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="batch: expected at least 1, got 0"):
        batches(np.arange(10), 0, 5, np.random.default_rng(0))
