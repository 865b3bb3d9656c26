"""The kernels of the scan without a card: each runs on numba's simulator, and compiles and assembles for three cards without spilling.

The simulator is chosen when numba is imported, so this file runs itself again under it.
"""

import numpy as np
import pytest
from simulated import SIMULATED, assemble, run_on_the_simulator

if not SIMULATED:

    def test_every_kernel_agrees_with_a_loop_over_time_on_the_simulator():
        run_on_the_simulator(__file__)

    def test_every_kernel_assembles_for_three_cards_and_spills_nothing():
        assemble(__file__)

else:
    from numba import cuda

    from mambalib._cuda import permuted, view
    from mambalib._device import board
    from mambalib.scan import cuda as engine
    from mambalib.scan import cuda_steps

    def bfloat16(x):
        """The 16 bits of numbers that bfloat16 holds."""
        return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)

    def values(bits):
        return (bits.astype(np.uint32) << 16).view(np.float32)

    def loop(a, b, axis, h0, reverse, dtype=np.float64):
        """The definition."""
        a, b = np.broadcast_to(a, b.shape).astype(dtype), b.astype(dtype)
        a, b = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)
        h, state = np.empty_like(b), np.broadcast_to(dtype(0) if h0 is None else h0, b.shape[1:]).astype(dtype)
        for t in reversed(range(len(b))) if reverse else range(len(b)):
            h[t] = state = a[t] * state + b[t]
        return np.moveaxis(h, 0, axis)

    def gradient(grad, a, h, axis, h0, reverse):
        """By the definition, in float64; grad_a before it is summed."""
        flip = (lambda x: np.flip(x, axis)) if reverse else (lambda x: x)
        a, h, grad = (np.moveaxis(flip(np.broadcast_to(x, h.shape).astype(float)), axis, 0) for x in (a, h, grad))
        g, before = np.zeros_like(h), np.concatenate([np.broadcast_to(0.0 if h0 is None else h0, h.shape[1:])[None], h[:-1]])
        carry = np.zeros(h.shape[1:])
        for t in reversed(range(len(h))):
            g[t] = grad[t] + carry
            carry = a[t] * g[t]
        return flip(np.moveaxis(before * g, 0, axis)), flip(np.moveaxis(g, 0, axis)), carry

    def summed(x, shape):
        x = x.sum(tuple(range(x.ndim - len(shape))))
        return x.sum(tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)

    def host(x):
        x = np.asarray(x.copy_to_host())
        return values(x) if x.dtype == np.uint16 else x

    def check(shape, a_shape, axis, h0=None, reverse=False, dtype="float32", order=None, seed=0):
        rng = np.random.default_rng(seed)
        a, b, grad = rng.uniform(0.3, 1.1, a_shape), rng.standard_normal(shape), rng.standard_normal(shape)
        rest = shape[:axis] + shape[axis + 1:]
        h0 = None if h0 is None else rng.standard_normal(np.broadcast_to(0, rest).shape if h0 == "full" else h0)
        if dtype == "bfloat16":
            narrow, tolerance = bfloat16, 1e-2
        else:
            narrow, tolerance = (lambda x: x.astype(dtype)), {"float16": 2e-3, "float32": 1e-5, "float64": 1e-13}[dtype]
        a, b, grad, h0 = (None if x is None else narrow(x) for x in (a, b, grad, h0))
        device = [None if x is None else cuda.to_device(x) for x in (a, b, grad, h0)]
        if order:                                       # the same numbers, laid out in another order of axes
            device[1:3] = [permuted(cuda.to_device(np.ascontiguousarray(x.transpose(order))), np.argsort(order)) for x in (b, grad)]
        wide = [None if x is None else values(x) if dtype == "bfloat16" else x for x in (a, b, grad, h0)]

        h = engine.linear_scan(device[0], device[1], axis, device[3], reverse)
        close(host(h), loop(wide[0], wide[1], axis, wide[3], reverse), tolerance)

        results = engine.linear_scan_backward(device[2], device[0], h, axis, device[3], reverse)
        grad_a, grad_b, grad_h0 = gradient(wide[2], wide[0], host(h), axis, wide[3], reverse)
        close(host(results[0]), summed(grad_a, a.shape), tolerance)
        close(host(results[1]), grad_b, tolerance)
        assert (results[2] is None) == (h0 is None)
        if h0 is not None:
            close(host(results[2]), summed(grad_h0, h0.shape), tolerance)

    def close(got, wanted, tolerance):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * max(1, np.abs(wanted).max(initial=0)))

    # Capacity here, with 4 lanes a warp and 2 warps: a tile is 128 float32 of a row forward, 64 backward.
    @pytest.mark.parametrize("length, reverse", [(1, False), (5, True), (31, False), (64, True), (140, False), (140, True)])
    def test_rows_of_any_length_in_one_block_or_several(length, reverse):
        rows = 1 if length > 128 else 3
        check((rows, length), (rows, length), 1, h0="full", reverse=reverse, seed=length)

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("shape", [(1, 9, 8), (1, 40, 4), (1, 5, 3)])
    def test_columns_by_vectors_or_one_by_one(shape, reverse):
        check(shape, shape, 1, h0="full", reverse=reverse)

    @pytest.mark.parametrize("a_shape", [(), (1,), (7,), (3, 1), (2, 1, 1), (2, 3, 1)])
    def test_decays_are_broadcast_and_their_gradient_is_summed(a_shape):
        check((2, 3, 7), a_shape, 2)

    @pytest.mark.parametrize("a_shape", [(4,), (3, 1), (2, 1, 4)])
    def test_decays_are_broadcast_over_columns(a_shape):
        check((2, 2, 3, 4), a_shape, 1, seed=1)

    @pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
    def test_other_dtypes(dtype):
        check((2, 33), (2, 33), 1, h0="full", dtype=dtype)
        check((1, 5, 8), (5, 8), 1, h0="full", reverse=True, dtype=dtype)

    @pytest.mark.parametrize("axis, order", [(1, (0, 2, 1)), (0, (1, 0, 2)), (2, (2, 0, 1))])
    def test_axes_in_another_order_of_memory(axis, order):
        check((2, 6, 5), (2, 6, 5), axis, h0="full", order=order)

    def test_strides_that_skip_or_go_backward_are_copied_on_the_card():
        rng = np.random.default_rng(2)
        a, b = rng.uniform(0, 1, (3, 10)).astype(np.float32), rng.standard_normal((6, 10)).astype(np.float32)
        h = engine.linear_scan(cuda.to_device(a), cuda.to_device(b)[::2], 1, None, False)
        close(host(h), loop(a, b[::2], 1, None, False), 1e-5)

    def test_an_h0_that_is_broadcast_or_a_number():
        check((2, 3, 5), (2, 3, 5), 2, h0=(3,))
        check((2, 5, 3), (2, 5, 3), 1, h0=(2, 1))
        a, b = np.full(5, 0.5, np.float32), np.ones(5, np.float32)
        h = engine.linear_scan(0.5, cuda.to_device(b), 0, 2.0, False)
        close(host(h), loop(a, b, 0, 2.0, False), 1e-6)

    def test_length_zero_and_no_rows():
        for shape in [(0,), (3, 0), (0, 3)]:
            b = cuda.to_device(np.zeros(shape, np.float32))
            assert engine.linear_scan(0.5, b, len(shape) - 1, None, False).shape == shape
            grad_a, grad_b, grad_h0 = engine.linear_scan_backward(b, 0.5, b, len(shape) - 1, 1.0, False)
            assert grad_b.shape == shape and not host(grad_a).any() and not host(grad_h0).any()

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    @pytest.mark.parametrize("shape", [(1, 200), (1, 70, 3)])
    def test_infinity_and_nan_land_where_a_loop_puts_them(shape):
        length = shape[1]
        for at_a, at_b in [({50: 0}, {40: np.inf, 5: np.inf}), ({20: np.nan}, {40: np.inf}),
                           ({t: 1e30 for t in range(3, 40)}, {0: 0, 1: 0, 2: 0})]:
            a, b = np.full(shape, 0.5, np.float32), np.ones(shape, np.float32)
            for t, x in at_a.items():
                a[:, t] = x
            for t, x in at_b.items():
                b[:, t] = x
            if len(at_a) > 2:
                b[:, :length - 5] = 0                   # the products overflow, the states are zero
            h = host(engine.linear_scan(cuda.to_device(a), cuda.to_device(b), 1, None, False))
            np.testing.assert_allclose(h, loop(a, b, 1, None, False, np.float32), rtol=1e-5, atol=1e-6)

    def taught(rows, length, seed):
        """Arrays on the card, and the result that a loop gives."""
        rng = np.random.default_rng(seed)
        a, b = rng.uniform(0.3, 1.1, (rows, length)).astype(np.float32), rng.standard_normal((rows, length)).astype(np.float32)
        h0 = rng.standard_normal(rows).astype(np.float32)
        h = np.full((rows, length), np.nan, np.float32)
        return [cuda.to_device(x) for x in (a, b, h0, h)], loop(a, b, 1, h0, False)

    def addresses(*arrays):
        return [view(x).address for x in arrays]

    @pytest.mark.parametrize("length", [1, 7, 16])
    def test_the_trees_that_the_book_teaches(length):
        for kernel, blocks, threads in (
            (cuda_steps.row_per_thread(), 1, 3), (cuda_steps.block_scan(8), 2, 8), (cuda_steps.block_scan_padded(8), 2, 8),
        ):
            arrays, wanted = taught(2, length, length)
            kernel[blocks, threads](*arrays)
            close(host(arrays[3]), wanted, 1e-5)

    def test_a_tree_of_more_nodes_than_banks():
        arrays, wanted = taught(1, 100, 3)
        cuda_steps.block_scan_padded(64)[1, 64](*arrays)
        close(host(arrays[3]), wanted, 1e-5)

    @pytest.mark.parametrize("length, wide", [(1, False), (37, False), (32, True), (68, True)])
    def test_the_block_of_folds_and_shuffles_that_the_book_teaches(length, wide):
        arrays, wanted = taught(2, length, length)
        cuda_steps.warp_block_scan(2, wide)[2, 8](*addresses(*arrays), length)      # a tile is 32 steps here
        close(host(arrays[3]), wanted, 1e-5)

    def test_the_three_launches_that_the_book_teaches():
        rows, chunk, chunks = 2, 36, 3
        (a, b, h0, h), wanted = taught(rows, chunk * chunks, 4)
        A, B, entries = (cuda.device_array((rows, chunks), np.float32) for _ in range(3))
        cuda_steps.fold_chunks(2)[rows * chunks, 8](*addresses(a, b, A, B), chunk, chunks)
        cuda_steps.warp_block_scan(2, False)[rows, 8](*addresses(A, B, h0, entries), chunks)
        cuda_steps.warp_block_scan(2, True)[rows * chunks, 8](*addresses(a, b, entries, h), chunk)
        close(host(h), wanted, 1e-5)

    def test_the_look_back_that_the_book_teaches():
        rows, length, tiles = 2, 84, 3
        (a, b, h0, h), wanted = taught(rows, length, 5)
        noted = cuda.to_device(np.zeros(board("float32").slots * rows * tiles + 1))
        cuda_steps.look_back_scan(2)[rows * tiles, 8](*addresses(a, b, h0, h), rows, length, tiles, *addresses(noted))
        close(host(h), wanted, 1e-5)
