"""Text as tokens: what to train on when there is nothing at hand, characters or byte pairs, and windows to train on.

    default_text, read_text             a text
    CharTokenizer, BPETokenizer         text -> tokens -> the same text
    split, batches                      a held-out part; random windows with what follows each token
"""

import json
from importlib import import_module
from pathlib import Path

import numpy as np

from . import _check

__all__ = ["default_text", "read_text", "CharTokenizer", "BPETokenizer", "tokenizer_from_json", "split", "batches"]


def default_text():
    """The Python language reference as it comes with this Python: about 370,000 characters of English and code.

    The topics of `pydoc_data`, in alphabetical order, each paragraph once: a fifth of what the topics hold is repeated between
    them, and a held-out part would hold what was learned by heart. Another version of Python has another text.
    """
    topics = import_module("pydoc_data.topics").topics
    text = "\n\n".join(topics[name].strip() for name in sorted(topics))
    return "\n\n".join(dict.fromkeys(text.split("\n\n"))) + "\n"


def read_text(path, encoding="utf-8"):
    """The text of a file.

    Parameters
    ----------
    path : str or Path
    encoding : str
        UTF-8 by default.

    Raises
    ------
    ValueError
        Bytes that are not text in that encoding; the message names the first one and where it stands.
    OSError
        A file that cannot be read.
    """
    raw = Path(path).read_bytes()
    try:
        return raw.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in {encoding}, got byte 0x{raw[error.start]:02x} at offset "
                         f"{error.start} ({error.reason}); if the text has another encoding, name it: "
                         f"encoding='latin-1'") from None


class CharTokenizer:
    """One token a character; the vocabulary is the characters of a text, sorted.

    Parameters
    ----------
    text : str
        Any text that holds every character that is to have a token.

    Examples
    --------
    >>> tokenizer = CharTokenizer("hello world")
    >>> tokenizer.vocab_size, tokenizer.characters
    (8, ' dehlorw')
    >>> tokenizer.encode("hold")
    array([3, 5, 4, 1])
    >>> tokenizer.decode([3, 5, 4, 1])
    'hold'
    """

    def __init__(self, text):
        if not isinstance(text, str) or not text:
            raise ValueError(f"text: expected a string of at least one character, got {text!r}")
        self._codes = np.unique(_code_points(text))
        self.characters = "".join(map(chr, self._codes))
        self.vocab_size = len(self.characters)

    def encode(self, text):
        """(len(text),) int64 array; ValueError names a character that has no token."""
        codes = _code_points(text)
        tokens = np.minimum(np.searchsorted(self._codes, codes), self.vocab_size - 1)
        unknown = np.flatnonzero(self._codes[tokens] != codes)
        if unknown.size:
            raise ValueError(f"text: expected the {self.vocab_size} characters of the vocabulary, "
                             f"got {text[unknown[0]]!r} at position {unknown[0]}")
        return tokens

    def decode(self, tokens):
        """The text of a sequence of tokens."""
        return "".join(map(self.characters.__getitem__, in_vocabulary(tokens, self.vocab_size).tolist()))

    def bytes_of(self, token):
        """The UTF-8 bytes that a token stands for."""
        return self.characters[token].encode()

    def to_json(self):
        """A string from which `from_json` makes this tokenizer again."""
        return json.dumps({"characters": self.characters})

    @classmethod
    def from_json(cls, string):
        return cls(json.loads(string)["characters"])


class BPETokenizer:
    """Byte pairs: the 256 bytes, and for each further token the pair of tokens that was the most frequent one then.

    Byte-level, so every text has tokens and ``decode(encode(text)) == text``; a token may be part of a character.
    Needs the library `tokenizers`.

    Parameters
    ----------
    text : str
        What the pairs are counted in.
    vocab_size : int, at least 256
        How many tokens, at most: a short text may not have as many pairs.

    References
    ----------
    - Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016.
    - Radford et al., "Language Models are Unsupervised Multitask Learners", 2019 (byte-level).

    Examples
    --------
    >>> tokenizer = BPETokenizer("low lower lowest " * 20, vocab_size=260)
    >>> tokens = tokenizer.encode("lowest")
    >>> [tokenizer.bytes_of(token) for token in tokens]
    [b'low', b'e', b's', b't']
    >>> tokenizer.decode(tokens)
    'lowest'
    """

    def __init__(self, text, vocab_size=1024):
        vocab_size = _check.count("vocab_size", vocab_size, 256)
        if not isinstance(text, str) or not text:
            raise ValueError(f"text: expected a string of at least one character, got {text!r}")
        library = _tokenizers()
        level = library.pre_tokenizers.ByteLevel
        bpe = library.Tokenizer(library.models.BPE())
        bpe.pre_tokenizer = level(add_prefix_space=False)
        bpe.decoder = library.decoders.ByteLevel()
        bpe.train_from_iterator([text], library.trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=sorted(level.alphabet()), show_progress=False))
        self._take(bpe)

    def _take(self, bpe):
        """Keep the library's tokenizer, and the bytes of each token."""
        added = {token.content for token in bpe.get_added_tokens_decoder().values()}
        vocabulary = bpe.get_vocab()                                          # {token's text: its number}
        self._bpe, self.vocab_size = bpe, max(vocabulary.values()) + 1
        self._bytes = [b""] * self.vocab_size
        for name, token in vocabulary.items():
            self._bytes[token] = name.encode() if name in added else bytes(map(_BYTE.__getitem__, name))

    def encode(self, text):
        """(tokens,) int64 array."""
        return np.array(self._bpe.encode(text, add_special_tokens=False).ids, np.int64)

    def decode(self, tokens):
        """The text of a sequence of tokens; bytes that are no character, as half of one, become U+FFFD."""
        tokens = in_vocabulary(tokens, self.vocab_size).tolist()
        return b"".join(map(self._bytes.__getitem__, tokens)).decode("utf-8", "replace")

    def bytes_of(self, token):
        """The bytes that a token stands for."""
        return self._bytes[token]

    def to_json(self):
        """A string from which `from_json` makes this tokenizer again: the content of the library's tokenizer.json."""
        return self._bpe.to_str()

    @classmethod
    def from_json(cls, string):
        """Also of a byte-level tokenizer that comes with pretrained weights: the content of its tokenizer.json."""
        tokenizer = cls.__new__(cls)
        tokenizer._take(_tokenizers().Tokenizer.from_str(string))
        return tokenizer


def tokenizer_from_json(string):
    """The tokenizer that `to_json` of either class wrote."""
    return (CharTokenizer if "characters" in json.loads(string) else BPETokenizer).from_json(string)


def split(text, validation=0.1):
    """The first part to train on, the last part held out, cut by position.

    Parameters
    ----------
    text : str, or (n,) array of its tokens
    validation : float between 0 and 1
        The share that is held out.

    Returns
    -------
    training, held_out : as `text`

    Examples
    --------
    >>> split(np.arange(10), validation=0.2)
    (array([0, 1, 2, 3, 4, 5, 6, 7]), array([8, 9]))
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation: expected a share between 0 and 1, got {validation!r}")
    cut = len(text) - round(validation * len(text))
    if cut in (0, len(text)):
        raise ValueError(f"text: expected enough for two parts, got {len(text)} with validation {validation}")
    return text[:cut], text[cut:]


def batches(tokens, batch, length, rng):
    """Windows from random places of a text, without end: pairs (x, y), where y[:, t] is the token after x[:, t].

    Parameters
    ----------
    tokens : (n,) integer array, n > length
    batch, length : int
        The shape of x and y.
    rng : np.random.Generator
        Draws the places, each as likely as any other.

    Returns
    -------
    iterator of (x, y), (batch, length) integer arrays

    Examples
    --------
    >>> x, y = next(batches(np.arange(100, 200), 2, 4, np.random.default_rng(0)))
    >>> x
    array([[181, 182, 183, 184],
           [161, 162, 163, 164]])
    >>> y
    array([[182, 183, 184, 185],
           [162, 163, 164, 165]])
    """
    batch, length = _check.count("batch", batch, 1), _check.count("length", length, 1)
    if len(tokens) <= length:
        raise ValueError(f"tokens: expected more than length = {length}, a window and what follows, got {len(tokens)}")
    windows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)    # (n - length, length + 1)

    def draw():                                      # apart, so that the checks above come before the first batch
        while True:
            drawn = windows[rng.integers(0, len(windows), batch)]
            yield drawn[:, :-1], drawn[:, 1:]

    return draw()


def in_vocabulary(tokens, size, name="tokens"):
    """`tokens` as an integer array, all of them from 0 to size - 1."""
    tokens = np.asarray(tokens)
    if tokens.size and tokens.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {tokens.dtype}")
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < size:
        outside = tokens[(tokens < 0) | (tokens >= size)].flat[0]
        raise ValueError(f"{name}: expected 0 to {size - 1}, got {outside}")
    return tokens.astype(np.int64, copy=False)


def _code_points(text):
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _tokenizers():
    try:
        return import_module("tokenizers")
    except ImportError:
        raise ImportError("byte pairs need the library tokenizers: pip install tokenizers") from None


# Byte-level vocabularies write a byte as one visible character: itself where Latin-1 has one there, else U+0100 and up.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTE = {chr(byte): byte for byte in _VISIBLE}
_BYTE |= {chr(0x100 + i): byte for i, byte in enumerate(sorted(set(range(256)) - set(_VISIBLE)))}
