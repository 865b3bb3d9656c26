"""benchmarks/three_views.py times what it says it times."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mambalib import lti

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "three_views.py"


@pytest.fixture(scope="module")
def benchmark_module():
    spec = importlib.util.spec_from_file_location("three_views", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:          # the script sets thread counts for its own process
        for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.setenv(name, "1")
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("L", [1, 2, 37])
@pytest.mark.parametrize("kind", ["dense", "diagonal"])
def test_the_compiled_loop_is_the_recurrence(benchmark_module, kind, L):
    rng = np.random.default_rng(0)
    A_bar, B_bar, C = benchmark_module.systems(rng)[kind]
    u = rng.standard_normal((3, L))
    if kind == "diagonal":
        y = benchmark_module.loop_diagonal(A_bar, B_bar, C, u)
    else:
        y = benchmark_module.loop_dense(A_bar, B_bar, C, np.ascontiguousarray(u.T)).T
    np.testing.assert_allclose(y, lti.recurrence(A_bar, B_bar, C, u), rtol=1e-11, atol=1e-12)


def test_the_compiled_sum_is_the_convolution(benchmark_module):
    u, K = np.random.default_rng(0).standard_normal((3, 37)), np.random.default_rng(1).standard_normal(37)
    np.testing.assert_allclose(benchmark_module.direct(u, K), lti.causal_conv(u, K, method="direct"), rtol=1e-12, atol=1e-13)


def test_every_measurement_runs_at_the_smallest_length(benchmark_module):
    calls = benchmark_module.work(64, np.random.default_rng(0))
    assert len(calls) == 3 + 2 * 5
    for call in calls.values():
        assert benchmark_module.typical_time(call, 0) > 0
