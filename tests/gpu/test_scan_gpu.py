"""The scan on a card at real sizes, against a loop in float64: `make test-gpu`. Skipped where there is no card."""

import numpy as np
import pytest
from numba import config, cuda, njit, prange

if config.ENABLE_CUDASIM or not cuda.is_available():
    pytest.skip("no card", allow_module_level=True)

from mambalib.scan import cuda as engine


@njit(parallel=True)
def _loop(a, b, h0, reverse):
    h = np.empty_like(b)
    for o in prange(b.shape[0]):
        for i in range(b.shape[2]):
            state = h0[o, i]
            for s in range(b.shape[1]):
                t = b.shape[1] - 1 - s if reverse else s
                state = a[o, t, i] * state + b[o, t, i]
                h[o, t, i] = state
    return h


def loop(a, b, axis, h0, reverse, dtype=np.float64):
    """The definition."""
    outer, length, inner = int(np.prod(b.shape[:axis])), b.shape[axis], int(np.prod(b.shape[axis + 1:]))
    a = np.ascontiguousarray(np.broadcast_to(a, b.shape), dtype).reshape(outer, length, inner)
    h0 = np.ascontiguousarray(np.broadcast_to(0 if h0 is None else h0, b.shape[:axis] + b.shape[axis + 1:]), dtype).reshape(outer, inner)
    return _loop(a, np.ascontiguousarray(b, dtype).reshape(outer, length, inner), h0, reverse).reshape(b.shape)


def gradient(grad, a, h, axis, h0, reverse):
    """(grad_a before it is summed, grad_b, grad_h0) by the definition, in float64."""
    flip = (lambda x: np.flip(x, axis)) if reverse else (lambda x: x)
    a, h, grad = (np.moveaxis(flip(np.broadcast_to(x, h.shape).astype(float)), axis, 0) for x in (a, h, grad))
    after = np.concatenate([a[1:], np.ones_like(a[:1])])
    g = np.moveaxis(loop(np.moveaxis(after, 0, axis), np.moveaxis(grad, 0, axis), axis, None, True), axis, 0)
    before = np.concatenate([np.broadcast_to(0.0 if h0 is None else h0, h.shape[1:])[None], h[:-1]])
    return flip(np.moveaxis(before * g, 0, axis)), flip(np.moveaxis(g, 0, axis)), a[0] * g[0]


def summed(x, shape):
    x = x.sum(tuple(range(x.ndim - len(shape))))
    return x.sum(tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


def libraries():
    found = ["numba"]
    for name in ("torch", "cupy"):
        try:
            module = __import__(name)
            found += [name] if (module.cuda.is_available() if name == "torch" else module.cuda.runtime.getDeviceCount()) else []
        except Exception:                               # not installed, or not for this card
            pass
    return found


LIBRARIES = libraries()


def to_card(x, library, dtype):
    """The array in a library, rounded to dtype, and the values it then holds."""
    if x is None:
        return None, None
    if dtype == "bfloat16":
        bits = (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        x, wide = bits, (bits.astype(np.uint32) << 16).view(np.float32)
    else:
        x = wide = np.ascontiguousarray(x, dtype)
    if library == "torch":
        import torch
        tensor = torch.from_numpy(x.view(np.int16) if dtype == "bfloat16" else x).cuda()
        return (tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor), wide
    if library == "cupy":
        import cupy
        return cupy.asarray(x), wide
    return cuda.to_device(x), wide


def host(x):
    if hasattr(x, "cpu"):
        return x.double().cpu().numpy()
    x = x.get() if hasattr(x, "get") else x.copy_to_host()
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x


def close(got, wanted, dtype):
    assert got.shape == wanted.shape
    assert np.isfinite(got).all()
    limit = {"float64": 1e-14, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
    assert np.linalg.norm(got - wanted) <= limit * np.linalg.norm(wanted) + 1e-30
    assert np.abs(got - wanted).max(initial=0) <= 100 * limit * np.abs(wanted).max(initial=0)


def check(shape, a_shape, axis, h0=True, reverse=False, dtype="float32", library=LIBRARIES[-1], top=1.0):
    rng = np.random.default_rng(shape[axis])
    a, a_wide = to_card(rng.uniform(0.1, top, a_shape), library, dtype)
    b, b_wide = to_card(rng.standard_normal(shape), library, dtype)
    grad, grad_wide = to_card(rng.standard_normal(shape), library, dtype)
    z, z_wide = to_card(rng.standard_normal(shape[:axis] + shape[axis + 1:]) if h0 else None, library, dtype)
    h = engine.linear_scan(a, b, axis, z, reverse)
    assert type(h) is type(b)
    close(host(h), loop(a_wide, b_wide, axis, z_wide, reverse), dtype)
    results = engine.linear_scan_backward(grad, a, h, axis, z, reverse)
    grad_a, grad_b, grad_h0 = gradient(grad_wide, a_wide, host(h), axis, z_wide, reverse)
    close(host(results[0]), summed(grad_a, a_wide.shape), dtype)
    close(host(results[1]), grad_b, dtype)
    assert (results[2] is None) == (not h0)
    if h0:
        close(host(results[2]), grad_h0, dtype)


@pytest.mark.parametrize("library", LIBRARIES)
def test_arrays_of_every_library_come_back_in_kind(library):
    check((7, 3001), (7, 3001), 1, library=library)
    check((7, 3001), (7, 3001), 1, library=library, dtype="bfloat16")


@pytest.mark.parametrize("reverse", [False, True])
def test_rows_of_any_length(reverse):
    for length in (1, 31, 127, 2049, 2**20 + 1):
        rows = 3 if length > 10000 else 700
        check((rows, length), (rows, length), 1, reverse=reverse)


def test_rows_with_decays_above_one_and_of_zero_and_one():
    check((50, 300), (50, 300), 1, top=1.2)
    ones, _ = to_card(np.ones((4, 9000)), LIBRARIES[-1], "float32")
    zeros, _ = to_card(np.zeros((4, 9000)), LIBRARIES[-1], "float32")
    assert np.array_equal(host(engine.linear_scan(ones, ones, 1, None, False)), np.broadcast_to(np.arange(1.0, 9001), (4, 9000)))
    assert np.array_equal(host(engine.linear_scan(zeros, ones, 1, None, False)), np.ones((4, 9000)))


@pytest.mark.parametrize("shape", [(3, 500, 16), (1, 30000, 16), (40, 700, 256), (5, 129, 33)])
def test_columns(shape):
    check(shape, shape, 1)


def test_columns_of_a_broadcast_decay():
    check((4, 2000, 64), (64,), 1, reverse=True)
    check((4, 2000, 8, 16), (4, 2000, 8, 1), 1)
    check((600, 20000), (600, 1), 1, top=0.9)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_dtypes(dtype):
    check((5, 20001), (5, 20001), 1, dtype=dtype)
    check((5, 1000, 24), (5, 1000, 24), 1, reverse=True, dtype=dtype)


def test_many_runs_of_one_long_row_agree():
    """Blocks of one launch wait for each other: what is not ordered would show now and then."""
    rng = np.random.default_rng(0)
    (a, a_wide), (b, b_wide) = (to_card(x, LIBRARIES[-1], "float32") for x in (rng.uniform(0.9, 1, (1, 3 * 10**6)), rng.standard_normal((1, 3 * 10**6))))
    wanted = loop(a_wide, b_wide, 1, None, False)
    for _ in range(30):
        close(host(engine.linear_scan(a, b, 1, None, False)), wanted, "float32")


def test_infinity_and_nan_land_where_a_loop_puts_them():
    for shape in ((2, 30000), (2, 3000, 16)):
        for at in ({700: np.inf}, {700: np.nan}, {700: np.inf, 900: -np.inf}):
            a, b = np.full(shape, 0.5, np.float32), np.ones(shape, np.float32)
            for t, x in at.items():
                b[(0, t, 3)[:b.ndim]] = x               # one lane of a warp meets it, the others do not
            h = host(engine.linear_scan(*(to_card(x, LIBRARIES[-1], "float32")[0] for x in (a, b)), 1, None, False))
            np.testing.assert_allclose(h, loop(a, b, 1, None, False, np.float32), rtol=1e-5)
        a, b = np.full(shape, 2, np.float32), np.zeros(shape, np.float32)
        b[:, -20:] = 1                                  # the products overflow, the states do not
        h = host(engine.linear_scan(*(to_card(x, LIBRARIES[-1], "float32")[0] for x in (a, b)), 1, None, False))
        np.testing.assert_allclose(h, loop(a, b, 1, None, False, np.float32), rtol=1e-5)
