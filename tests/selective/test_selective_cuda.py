"""The kernels of the selective scan without a card: each runs on numba's simulator, and compiles and assembles for three cards without spilling.

The simulator is chosen when numba is imported, so this file runs itself again under it.
"""

import numpy as np
import pytest
from simulated import SIMULATED, assemble, run_on_the_simulator

if not SIMULATED:

    def test_every_kernel_agrees_with_the_definition_on_the_simulator():
        run_on_the_simulator(__file__)

    def test_every_kernel_assembles_for_three_cards_and_spills_nothing():
        assemble(__file__)

else:
    from numba import cuda

    from mambalib._cuda import permuted
    from mambalib.selective import cuda as engine
    from mambalib.selective import reference

    NAMES = "u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state"
    TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}

    def bits(x):
        """The 16 bits of numbers that bfloat16 holds."""
        return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)

    def host(x):
        x = x.copy_to_host()
        return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x

    def inputs(batch, length, width, groups, states, dtype, options, seed):
        """(on the card, in float64): arrays by name, None where an option is not among those asked for."""
        rng, channels = np.random.default_rng(seed), width * groups
        shapes = {"u": (batch, length, channels), "delta": (batch, length, channels), "A": (channels, states),
                  "B": (batch, length, groups, states), "C": (batch, length, groups, states), "D": (channels,),
                  "z": (batch, length, channels), "delta_bias": (channels,), "initial_state": (batch, channels, states)}
        card, wide = {}, {}
        for name, shape in shapes.items():
            x = rng.standard_normal(shape)
            x = -np.exp(x) if name == "A" else abs(x) * 0.5 if name == "delta" and "softplus" not in options else x
            if name in ("D", "z", "delta_bias", "initial_state") and name not in options:
                card[name] = wide[name] = None
                continue
            kind = dtype if name in ("u", "delta", "B", "C", "z") else "float32"
            x = bits(x) if kind == "bfloat16" else x.astype(kind)
            card[name] = cuda.to_device(x)
            wide[name] = host(card[name]).astype(float)
        return card, wide

    def close(got, wanted, tolerance):
        got = host(got)
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * max(1, np.abs(wanted).max(initial=0)))

    ALL = ("D", "z", "delta_bias", "softplus", "initial_state", "last")

    def check(batch=1, length=6, width=2, groups=1, states=2, dtype="float32", options=ALL, resets=(), seed=0, forward=True, backward=True):
        card, wide = inputs(batch, length, width, groups, states, dtype, options, seed)
        softplus, tolerance = "softplus" in options, TOLERANCE[dtype]
        reset = reset_card = None
        if resets:
            reset = np.zeros((batch, length), bool)
            reset[:, list(resets)] = True
            reset_card = cuda.to_device(reset)
        arrays = [x for name in NAMES for x in ([card[name], softplus] if name == "delta_bias" else [card[name]])]
        wides = [x for name in NAMES for x in ([wide[name], softplus] if name == "delta_bias" else [wide[name]])]
        if forward:
            y, last = engine.selective_scan(*arrays, reset_card, "last" in options)
            y_wide, last_wide = reference.selective_scan(*wides, reset, True)
            close(y, y_wide, tolerance)
            assert (last is None) == ("last" not in options)
            if last is not None:
                close(last, last_wide, tolerance)
        if backward:
            rng = np.random.default_rng(seed + 1)
            grad_y, grad_last = rng.standard_normal(wide["u"].shape), None
            grad_y = cuda.to_device(bits(grad_y) if dtype == "bfloat16" else grad_y.astype(dtype))
            if "last" in options:
                grad_last = cuda.to_device(rng.standard_normal((batch, *wide["A"].shape)).astype(np.float32))
            got = engine.selective_scan_backward(grad_y, *arrays, grad_last, reset_card)
            wanted = reference.selective_scan_backward(host(grad_y).astype(float), *wides, None if grad_last is None else host(grad_last).astype(float), reset)
            assert len(got) == len(wanted) == 9
            for name, g, w in zip(NAMES, got, wanted):
                assert (g is None) == (w is None), name
                if g is not None:
                    try:
                        close(g, w, 3 * tolerance)
                    except AssertionError as error:
                        raise AssertionError(f"gradient of {name}: {error}") from None

    @pytest.fixture(autouse=True)
    def plans_made_anew():
        engine._forward_plan.cache_clear()
        engine._backward_plan.cache_clear()

    def forced(monkeypatch, split=1, slab=2, tile=4, unrolled=2, chunk=1024, backward_chunk=1024):
        monkeypatch.setattr(engine, "forward_shape", lambda *_: engine.Shape(split, slab, tile, unrolled, chunk))
        monkeypatch.setattr(engine, "backward_chunk", lambda *_: backward_chunk)

    @pytest.mark.parametrize("length", [1, 4, 7])
    def test_any_length(length, monkeypatch):
        forced(monkeypatch)
        check(length=length, states=1)

    @pytest.mark.parametrize("length, chunk", [(9, 4), (8, 4), (13, 8)])
    def test_time_cut_in_chunks(length, chunk, monkeypatch):
        forced(monkeypatch, chunk=chunk, backward_chunk=chunk)
        check(length=length, states=2)

    @pytest.mark.parametrize("states, split, slab", [(3, 2, 2), (3, 4, 2), (16, 4, 1)])
    def test_states_of_a_channel_split_over_threads(states, split, slab, monkeypatch):
        forced(monkeypatch, split=split, slab=slab, chunk=4)
        check(length=5, states=states, backward=False)

    @pytest.mark.parametrize("options", [(), ("D",), ("z", "softplus"), ("delta_bias", "initial_state"), ("last",)])
    @pytest.mark.parametrize("chunk", [1024, 4])
    def test_any_options(options, chunk, monkeypatch):
        forced(monkeypatch, chunk=chunk, backward_chunk=chunk)
        check(length=5, states=1, options=options)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_narrow_dtypes(dtype, monkeypatch):
        forced(monkeypatch, chunk=4, backward_chunk=4)
        check(length=5, states=2, dtype=dtype)

    @pytest.mark.parametrize("chunk", [1024, 4])
    def test_packed_sequences(chunk, monkeypatch):
        forced(monkeypatch, chunk=chunk, backward_chunk=chunk)
        check(length=10, states=1, resets=(0, 3, 8))
        check(length=9, states=1, resets=(6,))

    def test_groups_of_channels_and_slabs_of_a_group(monkeypatch):
        forced(monkeypatch)
        check(batch=2, length=3, width=3, groups=2, states=1)
        check(length=3, width=5, states=1)

    def test_sixteen_states_and_more():
        check(length=3, width=1, states=16)
        check(length=2, width=1, states=18, options=())

    def test_more_parts_than_steps_of_a_tile(monkeypatch):
        forced(monkeypatch, split=8, slab=1, chunk=4)
        check(length=5, width=1, states=9, backward=False)

    def test_shapes_that_the_model_picks():
        for batch, length, width, groups, states, cards in [(1, 100, 4, 1, 16, 1), (64, 512, 1536, 1, 16, 132), (1, 2 ** 20, 1, 3, 256, 40), (1, 1, 1, 1, 1, 132)]:
            shape = engine.forward_shape(batch, length, width, groups, states, cards)
            assert shape.chunk % shape.tile == max(shape.tile, shape.split) % min(shape.tile, shape.split) == shape.tile % shape.unrolled == 0
            assert engine.backward_chunk(batch, length, width, groups, 16, 128, cards) % 16 == 0

    def test_strides_are_copied_on_the_card(monkeypatch):
        forced(monkeypatch)
        card, wide = inputs(1, 4, 2, 1, 2, "float32", (), 0)
        turned = {name: permuted(cuda.to_device(np.ascontiguousarray(wide[name].T, np.float32)), range(wide[name].ndim)[::-1]) for name in ("u", "delta", "A", "B", "C")}
        y, _ = engine.selective_scan(*turned.values(), None, None, None, False, None, None, False)
        close(y, reference.selective_scan(*[wide[name] for name in NAMES[:5]])[0], 1e-5)

    @pytest.mark.parametrize("batch, length, channels", [(0, 3, 2), (2, 0, 2), (2, 3, 0)])
    def test_no_elements(batch, length, channels):
        card, wide = inputs(batch, length, channels, 1, 2, "float32", ALL, 0)
        arrays = [card[name] for name in NAMES[:8]] + [True, card["initial_state"]]
        y, last = engine.selective_scan(*arrays, None, True)
        assert y.shape == (batch, length, channels)
        close(last, wide["initial_state"], 0)
        grads = engine.selective_scan_backward(card["u"], *arrays, card["initial_state"], None)
        assert [g.shape for g in grads] == [card[name].shape for name in NAMES]
        close(grads[8], wide["initial_state"], 0)
        assert not any(host(g).any() for g in grads[:8])

    @pytest.mark.parametrize("options", [ALL, ()])
    def test_a_step_changes_the_state_in_place(options):
        card, wide = inputs(2, 1, 3, 2, 3, "float32", options + ("initial_state",), 0)
        state, softplus = card.pop("initial_state"), "softplus" in options
        step = {name: x if x is None or name in ("A", "D", "delta_bias") else cuda.to_device(np.ascontiguousarray(host(x)[:, 0])) for name, x in card.items()}
        out = cuda.device_array((2, 6), np.float32) if options else None
        y = engine.selective_state_update(state, *step.values(), softplus, out)
        y_wide, last_wide = reference.selective_scan(*[wide[name] for name in NAMES[:8]], softplus, wide["initial_state"], None, True)
        close(y, y_wide[:, 0], 1e-5)
        close(state, last_wide, 1e-5)
        assert out is None or y is out

    def test_a_step_changes_a_state_of_any_strides():
        card, wide = inputs(2, 1, 3, 1, 3, "float32", ("initial_state",), 0)
        turned = cuda.to_device(np.ascontiguousarray(wide["initial_state"].T, np.float32))
        step = [cuda.to_device(np.ascontiguousarray(host(card[name])[:, 0])) if name != "A" else card[name] for name in NAMES[:5]]
        engine.selective_state_update(permuted(turned, (2, 1, 0)), *step, None, None, None, False, None)
        _, last_wide = reference.selective_scan(*[wide[name] for name in NAMES[:5]], initial_state=wide["initial_state"], return_last_state=True)
        close(turned, last_wide.T, 1e-5)

    @pytest.mark.parametrize("chunk", [1024, 4])
    def test_steps_far_above_and_below_zero_make_no_nan(chunk, monkeypatch):
        forced(monkeypatch, chunk=chunk, backward_chunk=chunk)
        card, wide = inputs(1, 6, 2, 1, 2, "float32", ALL, 0)
        wide["delta"][0, :, 0] = [100, -100, 80, -30, 0, 1e4]
        wide["z"][0, :, 0] = [100, -100, 80, -30, 0, -1e4]
        card["delta"], card["z"] = (cuda.to_device(wide[name].astype(np.float32)) for name in ("delta", "z"))
        arrays, wides = ([x[name] for name in NAMES[:8]] + [True, x["initial_state"]] for x in (card, wide))
        y, last = engine.selective_scan(*arrays, None, True)
        y_wide, last_wide = reference.selective_scan(*wides, None, True)
        close(y, y_wide, 1e-5)
        close(last, last_wide, 1e-5)
        for g, w in zip(engine.selective_scan_backward(card["u"], *arrays, None, None), reference.selective_scan_backward(wide["u"], *wides, np.zeros_like(last_wide), None)):
            close(g, w, 1e-5)
