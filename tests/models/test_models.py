"""The language models: against stored numbers of PyTorch and transformers, against themselves cut in pieces, against
finite differences; how they begin; what they refuse."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambalib.autograd import Tensor, no_grad
from mambalib.models import LSTMLM, Mamba, MambaLM, TransformerLM, build, match_parameters
from mambalib.models.mamba import inverse_softplus
from mambalib.nn import functional as F

ORACLE = Path(__file__).with_name("oracle.npz")

KINDS = {
    "mamba": lambda **options: MambaLM(11, 8, 2, d_state=4, **options),
    "mamba, odd sizes": lambda **options: MambaLM(11, 9, 1, d_state=3, expand=3, d_conv=2, dt_rank=5, bias=True,
                                                  conv_bias=False, tie=False, **options),
    "mamba, window of one": lambda **options: MambaLM(11, 8, 2, d_state=1, expand=1, d_conv=1, **options),
    "mamba, not selective": lambda **options: MambaLM(11, 8, 2, d_state=4, selective=False, **options),
    "lstm": lambda **options: LSTMLM(11, 8, 2, **options),
    "transformer": lambda **options: TransformerLM(11, 8, 2, n_heads=2, **options),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def make(request):
    return request.param


def shaken(model, scale=0.3):
    """The model with random numbers on all its parameters, so that none is at a special place."""
    rng = np.random.default_rng(1)
    for p in model.parameters():
        p.data += (scale * rng.standard_normal(p.shape)).astype(p.dtype)
    return model


def draw(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 11, shape)


# --- Against other implementations ------------------------------------------------------------------------------------


def stored(kind):
    with np.load(ORACLE) as file:
        return {name[len(kind) + 1:]: file[name] for name in file.files if name.startswith(kind + "/")}


def names_of_transformers(weights):
    """{our name: array} of a Mamba; the one name that differs is accepted in loading."""
    return {name.replace("embeddings", "embedding"): x for name, x in weights.items()}


def names_of_lstm(weights):
    out = {"backbone.embedding.weight": weights["embedding.weight"], "backbone.norm_f.weight": weights["norm_f.weight"]}
    for i in range(2):
        layer = f"backbone.layers.{i}"
        out[f"{layer}.norm.weight"] = weights[f"norms.{i}.weight"]
        out[f"{layer}.mixer.bias"] = weights[f"lstms.{i}.bias_ih_l0"]
        for part in ("ih", "hh"):
            out[f"{layer}.mixer.weight_{part}"] = weights[f"lstms.{i}.weight_{part}_l0"]
    return out


def names_of_llama(weights):
    out = {"backbone.embedding.weight": weights["model.embed_tokens.weight"]}
    out["backbone.norm_f.weight"] = weights["model.norm.weight"]
    for i in range(2):
        layer, theirs = f"backbone.layers.{i}", f"model.layers.{i}"
        out[f"{layer}.attention.norm.weight"] = weights[f"{theirs}.input_layernorm.weight"]
        out[f"{layer}.mlp.norm.weight"] = weights[f"{theirs}.post_attention_layernorm.weight"]
        out[f"{layer}.attention.mixer.qkv_proj.weight"] = np.concatenate(
            [weights[f"{theirs}.self_attn.{part}_proj.weight"] for part in "qkv"])
        out[f"{layer}.attention.mixer.out_proj.weight"] = weights[f"{theirs}.self_attn.o_proj.weight"]
        out[f"{layer}.mlp.mixer.in_proj.weight"] = np.concatenate(
            [weights[f"{theirs}.mlp.{part}_proj.weight"] for part in ("gate", "up")])
        out[f"{layer}.mlp.mixer.out_proj.weight"] = weights[f"{theirs}.mlp.down_proj.weight"]
    return out


OTHERS = {
    "mamba": (lambda **dtype: MambaLM(19, 12, 2, d_state=4, dt_rank=3, **dtype), names_of_transformers),
    "mamba_biased": (lambda **dtype: MambaLM(19, 12, 2, d_state=4, dt_rank=3, d_conv=3, expand=1, bias=True,
                                             conv_bias=False, tie=False, **dtype), names_of_transformers),
    "lstm": (lambda **dtype: LSTMLM(19, 12, 2, **dtype), names_of_lstm),
    "llama": (lambda **dtype: TransformerLM(19, 16, 2, n_heads=2, hidden=24, **dtype), names_of_llama),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", OTHERS)
def test_logits_and_gradients_are_those_of_pytorch(kind, dtype):
    numbers, (make_model, ours) = stored(kind), OTHERS[kind]
    weights, grads = (ours({name[len(part) + 1:]: x for name, x in numbers.items() if name.startswith(part)})
                      for part in ("weight", "grad"))
    model = make_model(dtype=dtype)
    model.load_state_dict(weights)
    logits = model(numbers["tokens"])
    assert logits.dtype == dtype
    np.testing.assert_allclose(logits.data, numbers["logits"], rtol=1e-4, atol=1e-4)
    loss = F.cross_entropy(logits, numbers["targets"])
    np.testing.assert_allclose(loss.item(), numbers["loss"], rtol=1e-5)
    loss.backward()
    for name, p in model.named_parameters():
        near = dict(rtol=1e-3, atol=3e-5 * max(1, abs(grads[name]).max()))
        np.testing.assert_allclose(p.grad, grads[name], **near, err_msg=name)


# --- In pieces --------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.sampled_from(list(KINDS)), st.integers(0, 3), st.lists(st.integers(0, 9), max_size=5), st.booleans(),
       st.integers(0, 99))
def test_a_sequence_in_pieces_and_steps_gives_the_logits_of_the_whole(kind, batch, pieces, stepwise, seed):
    model = shaken(KINDS[kind](dtype="float64"))
    tokens = draw(batch, sum(pieces), seed=seed)
    whole = model(tokens).data
    state, parts, at = model.empty_state(batch, sum(pieces)), [], 0
    for i, L in enumerate(pieces):
        piece, at = tokens[:, at:at + L], at + L
        if stepwise == (i % 2 == 0):
            parts += [model.step(column, state)[:, None] for column in piece.T]
        else:
            parts.append(model(piece, state=state).data)
    got = np.concatenate(parts, axis=1) if parts else np.zeros((batch, 0, 11))
    np.testing.assert_allclose(got, whole, rtol=1e-9, atol=1e-9)


def test_steps_in_float32_stay_within_1e_5_of_the_parallel_logits(make):
    model = shaken(make(), 0.1)
    tokens = draw(2, 50)
    with no_grad():
        whole = model(tokens).data
    state = model.empty_state(2, 50)
    steps = np.stack([model.step(column, state) for column in tokens.T], axis=1)
    assert steps.dtype == np.float32
    np.testing.assert_allclose(steps, whole, atol=1e-5 * abs(whole).max())


@pytest.mark.filterwarnings("error")
def test_large_numbers_in_a_step_overflow_no_more_than_in_the_parallel_form():
    model = MambaLM(11, 8, 1)
    for p in (model.backbone.layers[0].mixer.in_proj.weight, model.backbone.layers[0].mixer.conv1d.weight):
        p.data *= 100
    tokens = draw(1, 20)
    state = model.empty_state(1)
    steps = np.stack([model.step(column, state) for column in tokens.T], axis=1)
    np.testing.assert_allclose(steps, model(tokens).data, rtol=1e-3, atol=1e-3)


def test_a_mambas_state_has_the_size_it_began_with():
    model = MambaLM(11, 8, 2)
    state = model.empty_state(3)
    sizes = [[x.shape for x in layer] for layer in state]
    assert sizes == [[(3, 16, 16), (3, 3, 16)]] * 2
    model(draw(3, 20), state=state)
    model.step(draw(3), state)
    assert [[x.shape for x in layer] for layer in state] == sizes


def test_a_logit_depends_on_earlier_tokens_alone(make):
    model = shaken(make())
    tokens = draw(1, 12)
    other = tokens.copy()
    other[0, 7] = (other[0, 7] + 1) % 11
    one, two = model(tokens).data, model(other).data
    np.testing.assert_array_equal(one[:, :7], two[:, :7])
    assert (one[:, 7:] != two[:, 7:]).any(axis=(0, 2)).all()


def test_with_a_state_no_gradient_is_recorded(make):
    model = make()
    assert not model(draw(1, 3), state=model.empty_state(1, 3)).requires_grad
    assert model(draw(1, 3)).requires_grad


# --- Gradients --------------------------------------------------------------------------------------------------------


def test_every_parameter_receives_the_gradient_that_finite_differences_show(make):
    model, tokens, targets = shaken(make(dtype="float64")), draw(2, 6), draw(2, 6, seed=1)
    F.cross_entropy(model(tokens), targets).backward()
    rng, step = np.random.default_rng(0), 1e-6
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.shape == p.shape and np.any(p.grad), name
        direction = rng.standard_normal(p.shape)
        start, losses = p.data.copy(), []
        for sign in (1, -1):
            p.data[...] = start + sign * step * direction
            losses.append(F.cross_entropy(model(tokens), targets).item())
        p.data[...] = start
        slope = (losses[0] - losses[1]) / (2 * step)
        np.testing.assert_allclose((p.grad * direction).sum(), slope, rtol=1e-5, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("selective", [True, False])
def test_the_block_passes_back_the_gradient_of_its_input(selective):
    rng = np.random.default_rng(0)
    block = shaken(Mamba(6, d_state=3, selective=selective, rng=rng, dtype="float64"))
    x, weight, direction = (rng.standard_normal((2, 7, 6)) for _ in range(3))
    given_x = Tensor(x, requires_grad=True)
    (block(given_x) * weight).sum().backward()
    up, down = ((block(Tensor(x + sign * 1e-6 * direction)).data * weight).sum() for sign in (1, -1))
    np.testing.assert_allclose((given_x.grad * direction).sum(), (up - down) / 2e-6, rtol=1e-6)


# --- How they begin ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MambaLM(256, 64, 4), MambaLM(256, 64, 4, selective=False), LSTMLM(256, 64, 2),
                                   TransformerLM(256, 64, 4), MambaLM(256, 64, 4, tie=False)])
def test_the_first_loss_is_that_of_a_guess(model):
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 256, (2, 4, 50))
    assert abs(F.cross_entropy(model(tokens), targets).item() - math.log(256)) < 0.25


def test_a_mamba_begins_as_the_paper_says():
    model = MambaLM(11, 64, 4, d_state=5)
    assert model.backbone.layers[0].mixer.dt_proj.weight.shape == (128, 4)
    for layer in model.backbone.layers:
        mixer = layer.mixer
        np.testing.assert_allclose(np.exp(mixer.A_log.data), np.tile(np.arange(1, 6), (128, 1)), rtol=1e-6)
        np.testing.assert_array_equal(mixer.D.data, np.ones(128))
        dt = np.logaddexp(mixer.dt_proj.bias.data, 0)
        assert 0.999e-3 < dt.min() < 2e-3 and 0.05 < dt.max() < 0.1001
        assert 0.4 < abs(mixer.dt_proj.weight.data).max() <= 0.5
        assert 0.97 * 128**-0.5 / 2 < abs(mixer.out_proj.weight.data).max() <= 128**-0.5 / 2
    decays = {name.split("mixer.")[-1] for name, p in model.named_parameters() if p.decay}
    matrices = {f"{name}.weight" for name in ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj")}
    assert decays == {"backbone.embedding.weight"} | matrices


def test_inverse_softplus_undoes_softplus():
    y = np.array([1e-8, 1e-4, 0.1, 1.0, 30.0, 1000.0])
    np.testing.assert_allclose(np.logaddexp(inverse_softplus(y), 0), y, rtol=1e-12)


def test_the_names_are_those_of_the_published_checkpoints():
    names = set(MambaLM(7, 8, 1, tie=False).state_dict())
    mixer = ("in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias",
             "A_log", "D", "out_proj.weight")
    assert names == {"backbone.embedding.weight", "backbone.layers.0.norm.weight", "backbone.norm_f.weight",
                     "lm_head.weight", *(f"backbone.layers.0.mixer.{name}" for name in mixer)}
    assert "lm_head.weight" not in MambaLM(7, 8, 1).state_dict()


def test_the_seed_decides_the_weights():
    one, two, three = (MambaLM(7, 8, 2, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all((one[name] == two[name]).all() for name in one)
    assert (one["backbone.embedding.weight"] != three["backbone.embedding.weight"]).all()


def test_layers_begin_different_from_each_other(make):
    weights = [p.data for name, p in make().named_parameters() if name.endswith("proj.weight") or "weight_hh" in name]
    for i, x in enumerate(weights):
        assert not any(x.shape == y.shape and (x == y).all() for y in weights[:i])


# --- States, files, configurations ------------------------------------------------------------------------------------


def test_a_model_comes_back_from_its_configuration_and_state(make):
    model = shaken(make())
    again = build(json.loads(json.dumps(model.config)))
    again.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(again(draw(1, 5)).data, model(draw(1, 5)).data)
    assert again.config == model.config


def test_a_tied_head_is_stored_once_and_accepted_where_a_file_has_it():
    model = MambaLM(7, 8, 1)
    assert model.head is model.backbone.embedding.weight
    state = model.state_dict()
    model.load_state_dict(state | {"lm_head.weight": state["backbone.embedding.weight"]})
    with pytest.raises(ValueError, match="lm_head.weight: expected the embedding's numbers, as tie=True, got others"):
        model.load_state_dict(state | {"lm_head.weight": state["backbone.embedding.weight"] + 1})
    state["backbone.embeddings.weight"] = state.pop("backbone.embedding.weight") + 1
    model.load_state_dict(state)
    np.testing.assert_array_equal(model.head.data, state["backbone.embeddings.weight"])


def test_dropout_acts_in_training_and_not_in_a_step():
    model = MambaLM(11, 8, 2, dropout=0.5)
    tokens = draw(1, 6)
    model.reseed(3)
    one, two = model(tokens).data, model(tokens).data
    assert (one != two).any()
    model.reseed(3)
    np.testing.assert_array_equal(model(tokens).data, one)
    calm = model.eval()(tokens).data
    np.testing.assert_array_equal(model(tokens).data, calm)
    model.train()
    state = model.empty_state(1)
    np.testing.assert_allclose(model.step(tokens[:, 0], state), calm[:, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind, arguments", [
    ("mamba", {}), ("mamba", {"selective": False, "multiple": 3}), ("lstm", {"n_layers": 3}), ("transformer", {}),
])
def test_no_other_width_comes_closer_to_the_parameters_that_were_asked_for(kind, arguments):
    multiple = arguments.get("multiple", 8)
    for target in (1, 10_000, 60_000, 300_000):
        model = match_parameters(kind, target, vocab_size=16, **arguments)
        width, distance = model.config["d_model"], abs(model.num_parameters - target)
        assert width % multiple == 0
        for other in {width - multiple, width + multiple} - {0}:
            assert abs(build(model.config | {"d_model": other}).num_parameters - target) >= distance


# --- Refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens, error, message", [
    (np.zeros((1, 2)), TypeError, "tokens: expected integers, got float64"),
    (np.zeros((1, 2), bool), TypeError, "tokens: expected integers, got bool"),
    (np.zeros(2, int), ValueError, r"tokens: expected shape \(batch, L\), got \(2,\)"),
    (np.array([[0, 11]]), ValueError, "tokens: expected numbers from 0 to 10, got 11"),
    (np.array([[0, -1]]), ValueError, "tokens: expected numbers from 0 to 10, got -1"),
])
def test_wrong_tokens_are_refused(make, tokens, error, message):
    with pytest.raises(error, match=message):
        make()(tokens)


def test_steps_refuse_wrong_tokens_and_states_of_other_batches(make):
    model = make()
    state = model.empty_state(2, 4)
    with pytest.raises(ValueError, match=r"tokens: expected shape \(batch,\), got \(2, 1\)"):
        model.step(draw(2, 1), state)
    with pytest.raises(ValueError, match="tokens: expected numbers from 0 to 10, got 99"):
        model.step(np.array([1, 99]), state)
    n = len(state)
    with pytest.raises(ValueError, match=f"state: expected one for each of {n} layers, got {n + 1}"):
        model.step(draw(2), [*state, state[0]])
    for call in (lambda: model.step(draw(3), state), lambda: model(draw(3, 2), state=state)):
        with pytest.raises(ValueError, match="tokens: expected 2 sequences, as the state has, got 3"):
            call()


def test_a_transformers_state_has_room_for_what_was_asked_and_no_more():
    model = KINDS["transformer"]()
    with pytest.raises(ValueError, match="length: expected the number of tokens to make room for"):
        model.empty_state(1)
    state = model.empty_state(1, 5)
    model(draw(1, 4), state=state)
    with pytest.raises(ValueError, match="tokens: expected at most 1, for which the state has room, got 2"):
        model(draw(1, 2), state=state)
    model.step(draw(1), state)
    with pytest.raises(ValueError, match="tokens: expected at most 0"):
        model.step(draw(1), state)


@pytest.mark.parametrize("call, message", [
    (lambda: MambaLM(0), "vocab_size: expected at least 1, got 0"),
    (lambda: MambaLM(7, 8, d_conv=0), "d_conv: expected at least 1, got 0"),
    (lambda: MambaLM(7, 8, dt_rank=0), "dt_rank: expected at least 1, got 0"),
    (lambda: MambaLM(7, 8, dt_min=0.2), "dt_min: expected a number above 0 and up to dt_max, 0.1, got 0.2"),
    (lambda: MambaLM(7, 8, dtype="float16"), "dtype: expected one of 'float32', 'float64', got 'float16'"),
    (lambda: MambaLM(7, 8, dropout=1.5), r"dropout: expected a probability in \[0, 1\), got 1.5"),
    (lambda: LSTMLM(7, d_model=-1), "d_model: expected at least 1, got -1"),
    (lambda: TransformerLM(7, 12, n_heads=4), "d_model: expected a multiple of 8, twice the number of heads, got 12"),
    (lambda: build({"model": "gru"}), r"""config\["model"\]: expected one of 'mamba', 'lstm', .*, got 'gru'"""),
])
def test_models_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("kind", ["mamba", "lstm", "transformer"])
def test_the_last_logits_alone_are_the_last_of_all(kind):
    model = build({"model": kind, "vocab_size": 11, "d_model": 16, "n_layers": 2, "dtype": "float64"})
    tokens = np.random.default_rng(0).integers(0, 11, (2, 7))
    last = model(tokens, state=model.empty_state(2, 7), last=True).data
    assert last.shape == (2, 1, 11)
    np.testing.assert_allclose(last[:, 0], model(tokens).data[:, -1], rtol=1e-12, atol=1e-14)
