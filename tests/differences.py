"""Gradients against central differences in float64."""

import numpy as np

from mambalib.autograd import Tensor


def check(function, *arrays, tolerance=1e-6, step=1e-5):
    """The gradients of sum(function(*arrays) * w), w random, with respect to every number of every array.

    `function` returns a Tensor, or several.
    """
    rng, arrays = np.random.default_rng(0), [np.array(x, np.float64) for x in arrays]

    def outputs(tensors):
        y = function(*tensors)
        return [y] if isinstance(y, Tensor) else list(y)

    tensors = [Tensor(x.copy(), requires_grad=True) for x in arrays]
    ys = outputs(tensors)
    ws = [rng.standard_normal(y.shape) for y in ys]
    sum(((y * w).sum() for y, w in zip(ys, ws)), Tensor(np.float64(0))).backward()
    for k, x in enumerate(arrays):
        expected = np.zeros(x.shape)
        for i in np.ndindex(x.shape):
            ends = []
            for sign in (1, -1):
                moved = [z.copy() for z in arrays]
                moved[k][i] += sign * step
                ends.append(sum((y.data * w).sum() for y, w in zip(outputs(map(Tensor, moved)), ws)))
            expected[i] = (ends[0] - ends[1]) / (2 * step)
        got = tensors[k].grad
        got = np.zeros(x.shape) if got is None else got
        assert got.shape == x.shape and got.dtype == x.dtype
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
