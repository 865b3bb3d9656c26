"""The selective scan on a card at sizes that fill it, against the reference in float64: `make test-gpu`. Skipped where there is no card."""

import numpy as np
import pytest
from test_scan_gpu import LIBRARIES, host, to_card       # skips this file, too, where there is no card

from mambalib import selective_scan, selective_scan_backward, selective_state_update
from mambalib.selective import cuda as engine

LIMIT = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
WIDE = ("A", "D", "delta_bias", "initial_state")        # float32 whatever the others are


def arguments(batch, length, channels, states, dtype, library, options, groups=None, seed=0):
    """(on the card, in float64 with the values that the card holds)."""
    rng = np.random.default_rng(seed)
    row, matrix = (batch, length, channels), (batch, length, states) if groups is None else (batch, length, groups, states)
    drawn = {"u": rng.standard_normal(row), "delta": rng.standard_normal(row) - 2, "A": -np.exp(rng.standard_normal((channels, states))),
             "B": rng.standard_normal(matrix), "C": rng.standard_normal(matrix), "D": rng.standard_normal(channels), "z": rng.standard_normal(row),
             "delta_bias": 0.1 * rng.standard_normal(channels), "initial_state": rng.standard_normal((batch, channels, states))}
    card, wide = {}, {}
    for name, x in drawn.items():
        if name in ("u", "delta", "A", "B", "C") or name in options:
            card[name], held = to_card(x, library, "float32" if name in WIDE else dtype)
            wide[name] = held.astype(float)
    return card, wide


def close(got, wanted, dtype):
    got = host(got)
    assert got.shape == wanted.shape
    assert np.linalg.norm(got - wanted) <= LIMIT[dtype] * np.linalg.norm(wanted) + 1e-30


def check(batch, length, channels, states, dtype="float32", library=LIBRARIES[-1], options=WIDE[1:] + ("z",), groups=None, resets=False):
    card, wide = arguments(batch, length, channels, states, dtype, library, options, groups)
    rng = np.random.default_rng(1)
    grad, grad_wide = to_card(rng.standard_normal((batch, length, channels)), library, dtype)
    grad_last, last_wide = to_card(rng.standard_normal((batch, channels, states)), library, "float32")
    reset = rng.random((batch, length)) < 0.02 if resets else None
    reset_card = None if reset is None else to_card(reset, library, bool)[0]
    y, last = selective_scan(**card, delta_softplus=True, return_last_state=True, reset=reset_card)
    assert type(y) is type(card["u"])
    wanted, wanted_last = selective_scan(**wide, delta_softplus=True, return_last_state=True, reset=reset, engine="reference")
    close(y, wanted, dtype)
    close(last, wanted_last, dtype)
    backward = [selective_scan_backward(grad, **card, delta_softplus=True, grad_last_state=grad_last, reset=reset_card) for _ in range(2)]
    wanted = selective_scan_backward(grad_wide.astype(float), **wide, delta_softplus=True, grad_last_state=last_wide.astype(float), reset=reset,
                                     engine="reference")
    for name, expected in wanted._asdict().items():
        first, second = (getattr(grads, name) for grads in backward)
        assert (first is None) == (expected is None)
        if first is not None:
            close(first, expected, dtype)
            assert np.array_equal(host(first), host(second)), name      # sums in a fixed order: the same bits


@pytest.mark.parametrize("library", LIBRARIES)
def test_arrays_of_every_library_come_back_in_kind(library):
    check(2, 300, 160, 16, library=library)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    check(2, 300, 160, 16, dtype=dtype)


@pytest.mark.parametrize("states", [1, 3, 16, 100, 256])
def test_any_number_of_states(states):
    check(1, 150, 72, states)


def test_packed_sequences():
    check(2, 301, 96, 16, groups=2, resets=True)
    check(1, 129, 40, 16, dtype="bfloat16", resets=True)


def test_without_options():
    check(2, 77, 64, 16, options=())
    check(3, 1, 5, 2, options=("z",))


def test_time_cut_in_chunks():
    assert engine._forward_plan("float32", 1, 5000, 64, 1, 16, True, True, False).words
    check(1, 5000, 64, 16)
    check(1, 3001, 40, 16, resets=True)


def test_steps_one_by_one_are_the_scan():
    card, wide = arguments(2, 5, 64, 16, "float32", LIBRARIES[-1], ("D", "z", "delta_bias", "initial_state"))
    wanted, last = selective_scan(**wide, delta_softplus=True, return_last_state=True, engine="reference")
    state = to_card(wide["initial_state"], LIBRARIES[-1], "float32")[0]
    for t in range(5):
        step = {name: to_card(wide[name][:, t], LIBRARIES[-1], "float32")[0] for name in ("u", "delta", "B", "C", "z")}
        y = selective_state_update(state, step["u"], step["delta"], card["A"], step["B"], step["C"], card["D"], step["z"], card["delta_bias"], True)
        close(y, wanted[:, t], "float32")
    close(state, last, "float32")
