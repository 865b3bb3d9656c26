"""The kernels of the layers without a card: each agrees with the definition, in float64, on numba's simulator, and
compiles and assembles for three cards without spilling.

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
    from mambalib.nn import _cuda as engine
    from mambalib.nn import _reference as reference

    pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")     # infinity and NaN are numbers here, too
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def card(x):
        return None if x is None else cuda.to_device(x)

    def wide(x):
        return None if x is None else np.array(x, float)

    def padded(x, before=4, after=4):
        """x on the card as columns of a wider matrix."""
        gap = np.full((*x.shape[:-1], before + x.shape[-1] + after), np.nan, np.float32)
        gap[..., before:before + x.shape[-1]] = x
        return cuda.to_device(gap)[..., before:before + x.shape[-1]]

    def close(got, wanted, tolerance=2e-6):
        if wanted is None:
            assert got is None
            return
        got = got.copy_to_host()
        assert got.shape == np.shape(wanted) and got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * max(1, np.abs(wanted).max(initial=0)))

    @pytest.mark.parametrize("shape", [(3, 4), (5, 3), (2, 2, 4), (1,), (), (0, 4), (2, 0)])
    def test_silu(shape):
        x, grad = 3 * draw(*shape), draw(*shape)
        x, grad = np.asarray(x, np.float32), np.asarray(grad, np.float32)
        close(engine.silu(card(x)), reference.silu(wide(x)))
        close(engine.silu_backward(card(grad), card(x)), reference.silu_backward(wide(grad), wide(x)))

    def test_silu_far_from_zero():
        x = np.array([-1e4, -100, -20, 0, 20, 100, 1e4], np.float32)
        close(engine.silu(card(x)), reference.silu(wide(x)))
        close(engine.silu_backward(card(np.ones_like(x)), card(x)), reference.silu_backward(np.ones(7), wide(x)))
        x = np.array([np.nan, np.inf], np.float32)
        np.testing.assert_array_equal(engine.silu(card(x)).copy_to_host(), x)

    @pytest.mark.parametrize("shape, before", [((2, 3, 4), 4), ((2, 3, 4), 1), ((3, 5), 4)])
    def test_silu_of_columns_of_a_wider_matrix(shape, before):
        x, grad = draw(*shape), draw(*shape)
        close(engine.silu(padded(x, before)), reference.silu(wide(x)))
        wanted = reference.silu_backward(wide(grad), wide(x))
        close(engine.silu_backward(card(grad), padded(x, before)), wanted)
        close(engine.silu_backward(padded(grad, before), card(x)), wanted)
        close(engine.silu_backward(padded(grad, before), padded(x, before)), wanted)

    def test_arrays_of_any_strides_are_copied_on_the_card():
        x, grad = draw(3, 4), draw(4)
        close(engine.silu(permuted(card(x), (1, 0))), reference.silu(wide(x.T)))
        cube = permuted(card(draw(2, 3, 4)), (1, 0, 2))
        close(engine.silu(cube), reference.silu(wide(cube.copy_to_host())))

    @pytest.mark.parametrize("shape", [(1, 4), (5, 8), (3, 7), (9, 24), (2, 36), (2, 1), (0, 4)])
    @pytest.mark.parametrize("gaps", [False, True])
    def test_rms_norm(shape, gaps):
        x, weight, grad, put = draw(*shape), draw(shape[-1]), draw(*shape), padded if gaps else card
        y, scale = engine.rms_norm(put(x), card(weight), 1e-2)
        y_wide, scale_wide = reference.rms_norm(wide(x), wide(weight), 1e-2)
        close(y, y_wide)
        close(scale, scale_wide)
        gx, gweight = engine.rms_norm_backward(put(grad), put(x), card(weight), scale)
        gx_wide, gweight_wide = reference.rms_norm_backward(wide(grad), wide(x), wide(weight), scale_wide)
        close(gx, gx_wide)
        close(gweight, gweight_wide)

    @pytest.mark.parametrize("batch, length, channels, taps", [
        (1, 5, 2, 4), (2, 1, 3, 4), (2, 7, 2, 1), (1, 3, 1, 5), (2, 8, 3, 2), (1, 40, 1, 4), (0, 3, 2, 4),
    ])
    @pytest.mark.parametrize("activated", [False, True])
    @pytest.mark.parametrize("options", [(True, True), (False, False)])
    def test_conv_depthwise(batch, length, channels, taps, activated, options):
        x, weight, grad = draw(batch, length, channels), draw(channels, taps), draw(batch, length, channels)
        bias = draw(channels) if options[0] else None
        window = draw(batch, taps - 1, channels) if options[1] else None
        wides = [wide(a) for a in (x, weight, bias, window)]
        for put in (card, padded):
            arrays = put(x), card(weight), card(bias), card(window), activated
            close(engine.conv_depthwise(*arrays), reference.conv_depthwise(*wides, activated))
            got = engine.conv_depthwise_backward(put(grad), *arrays)
            for g, w in zip(got, reference.conv_depthwise_backward(wide(grad), *wides, activated)):
                close(g, w, 5e-6)

    @pytest.mark.parametrize("threads", [2, 8, 100])
    def test_a_convolution_cut_in_chunks(threads, monkeypatch):
        monkeypatch.setattr(engine, "FULL", threads)
        test_conv_depthwise(1, 13, 1, 4, True, (True, True))

    @pytest.mark.parametrize("rows, columns", [(1, 4), (5, 3), (6, 8), (19, 5), (3, 16), (2, 37), (4, 1)])
    @pytest.mark.parametrize("dtype", [np.int32, np.int64])
    def test_cross_entropy(rows, columns, dtype):
        logits, targets = 3 * draw(rows, columns), rng.integers(0, columns, rows).astype(dtype)
        targets[1::3] = -100
        wanted = reference.cross_entropy(wide(logits), targets, -100)
        for put in (card, padded):
            for g, w in zip(engine.cross_entropy(put(logits), card(targets), -100), wanted):
                close(g, w)

    def test_cross_entropy_of_large_logits_and_of_none():
        logits = np.array([[1e4, 0, -1e4, 0], [-3e4, -3e4, -3e4, -3e4], [-np.inf, 0, 0, 0]], np.float32)
        targets = np.array([0, 1, 2])
        wanted = reference.cross_entropy(wide(logits), targets, -100)
        for g, w in zip(engine.cross_entropy(card(logits), card(targets), -100), wanted):
            close(g, w)
        for x in (logits, np.zeros((0, 4), np.float32)):
            loss, grad = engine.cross_entropy(card(x), card(np.full(len(x), 7)), 7)
            assert np.isnan(loss.copy_to_host()) and not grad.copy_to_host().any()

    @pytest.mark.parametrize("target", [4, -1])
    def test_a_target_that_is_no_column_makes_the_loss_nan(target):
        loss, _ = engine.cross_entropy(card(draw(3, 4)), card(np.array([0, target, 1])), -100)
        assert np.isnan(loss.copy_to_host())

    def test_a_row_with_nan_or_infinity_makes_the_loss_nan():
        for value in (np.nan, np.inf):
            logits = draw(2, 20)
            logits[0, 11] = value
            loss, grad = engine.cross_entropy(card(logits), card(np.array([0, 1])), -100)
            assert np.isnan(loss.copy_to_host()) and np.isfinite(grad.copy_to_host()[1]).all()

    @pytest.mark.parametrize("positions, columns, vocab", [
        (7, 3, 4), (23, 4, 3), (5, 9, 1), (1, 1, 1), (0, 3, 2), (40, 2, 2),
    ])
    def test_embedding_backward(positions, columns, vocab):
        grad, tokens = draw(positions, columns), rng.integers(0, vocab, positions)
        wanted = reference.embedding_backward(wide(grad), tokens, vocab)
        close(engine.embedding_backward(card(grad), card(tokens), vocab), wanted)
        close(engine.embedding_backward(padded(grad), card(tokens.astype(np.int32)), vocab), wanted)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int8, np.uint32])
    def test_tokens_may_be_small_integers(dtype):
        grad, tokens = draw(5, 2), np.array([0, 3, 3, 1, 3], dtype)
        wanted = reference.embedding_backward(wide(grad), tokens, 4)
        close(engine.embedding_backward(card(grad), card(tokens), 4), wanted)

    def test_the_gradient_of_an_embedding_in_one_part_and_of_tokens_that_are_no_rows(monkeypatch):
        monkeypatch.setattr(engine, "PARTS", 0)
        grad, tokens = draw(9, 2), np.array([0, 3, -1, 0, 5, 2, 0, 0, 0])
        known = (tokens >= 0) & (tokens < 4)
        wanted = reference.embedding_backward(wide(grad[known]), tokens[known], 4)
        close(engine.embedding_backward(card(grad), card(tokens), 4), wanted)

    @pytest.mark.parametrize("batch, width", [(1, 1), (3, 5), (0, 2)])
    @pytest.mark.parametrize("last", [False, True])
    def test_lstm_cell(batch, width, last):
        gates, c, grad_h = 2 * draw(batch, 4 * width), draw(batch, width), draw(batch, width)
        grad_c = draw(batch, width) if last else None
        wanted = reference.lstm_cell(wide(gates), wide(c))
        for put in (card, padded):
            h, c_new = engine.lstm_cell(put(gates), put(c))
            close(h, wanted[0])
            close(c_new, wanted[1])
            got = engine.lstm_cell_backward(put(grad_h), card(grad_c), put(gates), put(c), c_new)
            wides = [wide(x) for x in (grad_h, grad_c, gates, c)]
            for g, w in zip(got, reference.lstm_cell_backward(*wides, wanted[1])):
                close(g, w)

    @pytest.mark.parametrize("shape", [(4, 5), (7,), (), (0,)])
    def test_adamw(shape):
        param, grad, m, v = (np.asarray(draw(*shape), np.float32) for _ in range(4))
        v = np.asarray(v**2, np.float32)
        scalars, rest = np.array([1e-2, 0.271, 0.0029, 0.5], np.float32), (0.9, 0.999, 1e-8, 0.1)
        there, wanted = ([put(x) for x in (param, grad, m, v, scalars)] for put in (card, wide))
        assert engine.adamw(*there, *rest) is None
        reference.adamw(*wanted, *rest)
        for got, w in zip(there, wanted):
            close(got, w)

    @pytest.mark.parametrize("n", [0, 1, 3, 8, 200, 203])
    def test_sum_of_squares(n):
        values, one = draw(n), draw(3)
        total = card(np.full((), np.nan, np.float32))
        assert engine.sum_of_squares(card(values), total, True) is total
        close(total, (wide(values)**2).sum())
        engine.sum_of_squares(card(one), total, False)
        engine.sum_of_squares(card(values), total, False)
        close(total, 2 * (wide(values)**2).sum() + (wide(one)**2).sum())

    def test_what_a_kernel_would_misread_is_refused_by_name():
        x, wrong, turned = card(draw(2, 4)), card(np.ones((2, 4))), permuted(card(draw(4, 2)), (1, 0))
        scalars, constants = card(draw(4)), (0.9, 0.99, 1e-8, 0.0)
        with pytest.raises(TypeError, match="x: expected dtype float32 on a card, got float64"):
            engine.silu(wrong)
        with pytest.raises(TypeError, match="weight: expected dtype float32"):
            engine.rms_norm(x, card(np.ones(4)), 1e-5)
        with pytest.raises(TypeError, match="targets: expected integers of at most 64 bits on a card, got float32"):
            engine.cross_entropy(x, card(draw(2)), -100)
        with pytest.raises(ValueError, match="param: expected a contiguous array"):
            engine.adamw(turned, x, x, x, scalars, *constants)
        with pytest.raises(ValueError, match="tokens: expected a contiguous array"):
            engine.embedding_backward(x, card(np.arange(4))[::2], 4)
