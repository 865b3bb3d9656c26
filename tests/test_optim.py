"""AdamW against PyTorch's numbers; clipping; a step in two halves; the optimiser's state; learning rates."""

import numpy as np
import pytest

from mambalib.nn import Parameter
from mambalib.optim import AdamW, constant_with_warmup, cosine_with_warmup, grad_norm

# p (three numbers), q and the norm before clipping after each step of torch.optim.AdamW 2.13.0 in float64, with
# weight_decay 0.2 for p and 0 for q, betas (0.8, 0.9), eps 1e-3, lr 0.1 / (step + 1), the gradients' norm clipped at 2.
PYTORCH = [
    [0.8802093394084018, -2.0599475828505867, 0.391487931809085, 3.099726132889009, 37.760139366797894],
    [0.8225260225702592, -2.0893376768922436, 0.33824014099415556, 3.1496663799864137, 40.926966278999764],
    [0.7850164863437848, -2.1087419356700234, 0.3030720897564067, 3.1830044910354607, 42.653020242440014],
    [0.7574405268006175, -2.1232009901770783, 0.2768977263114819, 3.208034109826512, 43.869877409869424],
]


def two_parameters(dtype="float64"):
    return Parameter(np.array([1.0, -2.0, 0.5], dtype)), Parameter(np.array([3.0], dtype), decay=False)


def gradients(p, q, step):
    """Of sum(p^3) q + (step - 1) p_2."""
    p.grad = 3 * p.data**2 * q.data + np.array([0, 0, step - 1], p.dtype)
    q.grad = (p.data**3).sum(keepdims=True)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 2e-6)])
def test_adamw_takes_pytorchs_steps(dtype, tolerance):
    p, q = two_parameters(dtype)
    optimizer = AdamW([p, q], betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2)
    for step, expected in enumerate(PYTORCH):
        gradients(p, q, step)
        norm = optimizer.step(lr=0.1 / (step + 1), clip=2.0)
        assert norm.shape == () and p.dtype == dtype
        np.testing.assert_allclose([*p.data, *q.data, norm], expected, rtol=tolerance)


def test_a_small_gradient_is_not_clipped():
    results = []
    for clip in (None, 1e9):
        p, q = two_parameters()
        optimizer = AdamW([p, q])
        gradients(p, q, 0)
        optimizer.step(clip=clip)
        results.append(p.data)
    np.testing.assert_array_equal(*results)


def test_clipping_leaves_the_gradients_as_they_were():
    p, q = two_parameters()
    gradients(p, q, 0)
    before = p.grad.copy()
    AdamW([p, q]).step(clip=0.1)
    np.testing.assert_array_equal(p.grad, before)
    np.testing.assert_allclose(grad_norm([p, q]), np.sqrt((p.grad**2).sum() + (q.grad**2).sum()))
    p.grad = q.grad = None
    assert grad_norm([p, q]) == 0


def test_a_parameter_without_a_gradient_stays():
    p, q = two_parameters()
    q.grad = np.ones(1)
    AdamW([p, q], weight_decay=1.0).step()
    np.testing.assert_array_equal(p.data, [1.0, -2.0, 0.5])
    assert q.data < 3


def test_weight_decay_alone_shrinks_only_what_may_decay():
    p, q = two_parameters()
    p.grad, q.grad = np.zeros(3), np.zeros(1)
    AdamW([p, q], lr=0.1, weight_decay=0.5).step()
    np.testing.assert_allclose(p.data, 0.95 * np.array([1.0, -2.0, 0.5]))
    np.testing.assert_array_equal(q.data, [3.0])


def test_parameters_and_scalars_are_changed_in_place_so_that_a_captured_step_can_be_replayed():
    p, q = two_parameters()
    optimizer = AdamW([p, q])
    held = p.data, optimizer.scalars, optimizer.m["0"], optimizer.v["0"]
    for step in range(2):
        gradients(p, q, step)
        optimizer.prepare(0.5 / (step + 1))
        assert optimizer.apply() is None
    assert all(x is y for x, y in zip(held, (p.data, optimizer.scalars, optimizer.m["0"], optimizer.v["0"])))
    np.testing.assert_allclose(optimizer.scalars, [0.25, 1 - 0.9**2, 1 - 0.95**2, 1.0])


def test_an_optimiser_with_a_loaded_state_goes_on_bit_for_bit():
    p, q = two_parameters("float32")
    optimizer = AdamW([("p", p), ("q", q)])
    gradients(p, q, 0)
    optimizer.step()
    state, again = optimizer.state_dict(), [Parameter(x.data.copy(), x.decay) for x in (p, q)]
    assert set(state) == {"t", "m.p", "m.q", "v.p", "v.q"}
    gradients(p, q, 1)
    optimizer.step()
    second = AdamW(zip("pq", again))
    second.load_state_dict(state)
    gradients(*again, 1)
    second.step()
    np.testing.assert_array_equal(again[0].data, p.data)
    np.testing.assert_array_equal(again[1].data, q.data)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    p, q = two_parameters()
    optimizer = AdamW([p, q])
    gradients(p, q, 0)
    optimizer.step()
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"missing \['m.1', 'v.1'\], unexpected \[\]"):
        optimizer.load_state_dict({"t": state["t"], "m.0": state["m.0"], "v.0": state["v.0"]})
    with pytest.raises(ValueError, match=r"v.1: expected shape \(1,\), got \(2,\)"):
        optimizer.load_state_dict(state | {"t": np.array(9), "v.1": np.zeros(2)})
    assert optimizer.t == 1
    with pytest.raises(ValueError, match="parameters: expected at least one"):
        AdamW([])
    with pytest.raises(ValueError, match=r"betas: expected numbers in \[0, 1\), got \(0.9, 1.0\)"):
        AdamW([p], betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="lr: expected at least 0, got -1"):
        AdamW([p], lr=-1)


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine():
    rates = [cosine_with_warmup(step, steps=1000, peak=3e-3, warmup=100, floor=3e-4) for step in range(1000)]
    np.testing.assert_allclose(rates[:100], 3e-3 * np.arange(1, 101) / 100)
    np.testing.assert_allclose(rates[99], 3e-3)
    np.testing.assert_allclose(rates[-1], 3e-4)
    assert all(np.diff(rates[99:]) < 0)
    np.testing.assert_allclose(rates[549], (3e-3 + 3e-4) / 2)                    # half way down
    assert rates[:150][99:] != [3e-3] * 51
    assert [constant_with_warmup(step, peak=2.0, warmup=2) for step in range(4)] == [1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("steps, warmup", [(1, 0), (1, 1), (2, 0), (3, 3), (3, 9)])
def test_a_short_run_has_positive_rates_up_to_the_peak(steps, warmup):
    rates = [cosine_with_warmup(step, steps=steps, peak=1.0, warmup=warmup, floor=0.1) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)


def test_a_rate_refuses_what_is_not_a_number_of_steps():
    with pytest.raises(ValueError, match="warmup: expected at least 0, got -1"):
        constant_with_warmup(0, peak=1.0, warmup=-1)
    with pytest.raises(TypeError, match="steps: expected an integer, got 2.5"):
        cosine_with_warmup(0, steps=2.5, peak=1.0)
