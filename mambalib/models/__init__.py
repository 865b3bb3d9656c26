"""Language models with one interface: a Mamba, and what it is compared with.

    mamba           MambaLM, with selection or without
    lstm            LSTMLM
    transformer     TransformerLM
    language_model  what they share: embedding, blocks, head; forward, step, states

    model(tokens)                     logits of all positions, with gradients
    model.empty_state(batch)          the memory before the first token
    model(tokens, state=state)        go on from there, many tokens at once; the state is changed in place
    model.step(tokens, state)         one token for each sequence
    model.config, build(model.config) the arguments that made the model, and the way back
"""

from .. import _check
from .lstm import LSTMLM
from .mamba import Mamba, MambaLM
from .transformer import TransformerLM

__all__ = ["LSTMLM", "Mamba", "MambaLM", "TransformerLM", "build", "match_parameters"]

_KINDS = {"mamba": MambaLM, "lstm": LSTMLM, "transformer": TransformerLM}


def build(config):
    """The model with the arguments in `config`, as `model.config` gives them; its weights are as new.

    Raises
    ------
    ValueError
        `config["model"]` is not "mamba", "lstm" or "transformer".

    Examples
    --------
    >>> build({"model": "lstm", "vocab_size": 7, "d_model": 4}).config["d_model"]
    4
    """
    arguments = dict(config)
    kind = arguments.pop("model", None)
    _check.choice('config["model"]', kind, tuple(_KINDS))
    return _KINDS[kind](**arguments)


def match_parameters(model, target, *, multiple=8, **arguments):
    """A model of the kind `model` that has about `target` parameters: of all widths, the one that comes closest.

    Parameters
    ----------
    model : {"mamba", "lstm", "transformer"}
    target : int
        How many parameters are wanted; two models are compared fairly with `other.num_parameters`.
    multiple : int
        d_model is a multiple of it. A Transformer needs one of twice its number of heads.
    **arguments
        All others of the model but d_model.

    Examples
    --------
    >>> match_parameters("lstm", 20_000, vocab_size=16, n_layers=2).num_parameters
    17248
    """
    target, multiple = _check.count("target", target, least=1), _check.count("multiple", multiple, least=1)

    def size(k):
        return build({"model": model, "d_model": k * multiple, **arguments}).num_parameters

    most = 1
    while size(most) < target:
        most *= 2
    least = most // 2                                # size(least) < target <= size(most), or least is 0
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if size(middle) < target else (least, middle)
    best = min((k for k in (least, most) if k), key=lambda k: abs(size(k) - target))
    return build({"model": model, "d_model": best * multiple, **arguments})
