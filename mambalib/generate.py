"""Generation: the prompt through the parallel path, then one token after another from a state of constant size.

    generate            tokens after a prompt
    stream              the same, each as soon as it is there
    sample_text         text after a prompt, until a stop string
"""

import codecs

import numpy as np

from . import _check
from .autograd import Tensor, no_grad
from .text import in_vocabulary

__all__ = ["generate", "stream", "sample_text"]

PREFILL = 512                                        # tokens of the prompt at a time, for memory


def generate(model, prompt, n, *, temperature=1.0, top_k=None, top_p=None, seed=None, stop=None):
    """n tokens that follow a prompt, each drawn from the model's distribution given all before it.

    Parameters
    ----------
    model : language model
    prompt : (L,) or (batch, L) array of tokens, L >= 1
        Prompts of one length are continued together. (Call once for each of prompts of several lengths.)
    n : int
        How many tokens, at most.
    temperature : float
        Logits are divided by it. Below 1 the likely becomes likelier; 0 always takes the likeliest.
    top_k : int, optional
        Draw among the k likeliest tokens alone.
    top_p : float in (0, 1], optional
        Draw among the fewest likeliest tokens that have probability p together, after temperature and top_k.
    seed : int, optional
        The same seed gives the same tokens.
    stop : token or tokens, optional
        End with the first of them; in a batch a sequence that has ended repeats its last token until all have.

    Returns
    -------
    (at most n,) or (batch, at most n) int64 array
        The new tokens, a stop token included.

    Raises
    ------
    ValueError
        An empty prompt, a token out of range, a number out of range, or a model whose logits are not finite.
    TypeError
        Tokens or numbers that are not integers.

    References
    ----------
    - Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020 (top-p).
    """
    new = list(stream(model, prompt, n, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop))
    new = np.stack(new, axis=-1) if new else np.empty((*np.shape(prompt)[:-1], 0), np.int64)
    return new                                       # (n,) or (batch, n)


def stream(model, prompt, n, *, temperature=1.0, top_k=None, top_p=None, seed=None, stop=None):
    """As `generate`, an iterator of one token at a time: shape () for one prompt, (batch,) for a batch."""
    vocab = model.config["vocab_size"]
    prompt, n = in_vocabulary(prompt, vocab, "prompt"), _check.count("n", n, 0)
    if prompt.ndim not in (1, 2) or prompt.size == 0:
        raise ValueError(f"prompt: expected shape (L,) or (batch, L) with at least one token, got {prompt.shape}")
    if not 0 <= temperature < np.inf:
        raise ValueError(f"temperature: expected 0 or more, got {temperature!r}")
    if top_k is not None:
        top_k = _check.count("top_k", top_k, 1)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: expected more than 0 and at most 1, got {top_p!r}")
    stop = np.empty(0, np.int64) if stop is None else in_vocabulary(np.atleast_1d(stop), vocab, "stop")
    rng = np.random.default_rng(seed)

    def draw():                                      # apart, so that the checks above come before the first token
        tokens = np.atleast_2d(prompt)                                        # (batch, L)
        state, ended = model.empty_state(len(tokens), tokens.shape[1] + n), np.zeros(len(tokens), bool)
        for i in range(n):
            if i:
                logits = model.step(last, state)
            else:
                with no_grad():
                    for start in range(0, tokens.shape[1], PREFILL):
                        logits = model(tokens[:, start:start + PREFILL], state=state, last=True).data[:, 0]
            drawn = _draw(Tensor(logits).numpy(), temperature, top_k, top_p, rng)              # (batch,)
            last = np.where(ended, last, drawn) if i else drawn
            yield last if prompt.ndim == 2 else last[0]
            ended |= np.isin(last, stop)
            if ended.all():
                return

    return draw()


def _draw(logits, temperature, top_k, top_p, rng):
    """A token for each row of logits (batch, vocab), NumPy."""
    if not np.isfinite(logits).all():
        raise ValueError("model: expected finite logits, got NaN or infinity; its weights may be damaged")
    if temperature == 0:
        return logits.argmax(axis=-1)
    logits = logits.astype(np.float64)
    with np.errstate(over="ignore"):                 # a tiny temperature sends all but the greatest to -inf
        logits = (logits - logits.max(axis=-1, keepdims=True)) / temperature
    order = np.argsort(-logits, axis=-1, kind="stable")                       # the likeliest first
    p = np.exp(np.take_along_axis(logits, order, axis=-1))
    if top_k is not None:
        p[:, top_k:] = 0
    p /= p.sum(axis=-1, keepdims=True)
    if top_p is not None:
        p[np.cumsum(p, axis=-1) - p >= top_p] = 0    # what comes before suffices; the likeliest always stays
    total = np.cumsum(p, axis=-1)                                             # (batch, vocab)
    place = (total <= rng.random((len(p), 1)) * total[:, -1:]).sum(axis=-1)   # the first whose sum exceeds the number
    return np.take_along_axis(order, place[:, None], axis=-1)[:, 0]


def sample_text(model, tokenizer, prompt, n=500, *, temperature=1.0, top_k=None, top_p=None, seed=None, stop=(),
                write=None):
    """The text that follows a prompt, n tokens long or up to a stop string.

    Parameters
    ----------
    model, tokenizer : language model, and what made its tokens
    prompt : str
        At least one character.
    n : int
        How many tokens, at most.
    temperature, top_k, top_p, seed
        As in `generate`.
    stop : str or several
        The text ends before the first place where one of them stands.
    write : function, optional
        Called with each new piece of the text as soon as it is certain: whole characters, nothing of a stop string. The
        pieces together are the text that is returned.

    Returns
    -------
    str
        Without the prompt.

    Raises
    ------
    ValueError
        As `generate`; an empty stop string; a character of the prompt that the tokenizer does not know.
    """
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in stop:
        raise ValueError("stop: expected strings of at least one character, got ''")
    if not prompt:
        raise ValueError("prompt: expected at least one character, got ''")
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")                   # keeps the bytes of half a character
    how, text, written = dict(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed), "", 0
    for token in stream(model, tokenizer.encode(prompt), n, **how):
        text += utf8.decode(tokenizer.bytes_of(int(token)))
        found = [place for place in map(text.find, stop) if place >= 0]
        if found:
            text = text[:min(found)]
            break
        certain = len(text) - max((k for s in stop for k in range(1, len(s)) if text.endswith(s[:k])), default=0)
        if write is not None and certain > written:
            write(text[written:certain])
            written = certain
    else:
        text += utf8.decode(b"", final=True)
    if write is not None and len(text) > written:
        write(text[written:])
    return text
