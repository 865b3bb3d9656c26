"""The kernel of chapter 13 on numba's simulator. The simulator is chosen when numba is imported, so this file runs itself again under it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
ROOT = Path(__file__).parents[2]

if not SIMULATED:

    def test_the_chapters_kernel_agrees_with_the_definition_on_the_simulator():
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__], cwd=ROOT, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_ENABLE_CUDASIM": "1"})
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]

else:
    from numba import cuda

    from mambalib.selective import reference
    from mambalib.selective.cuda_steps import channel_per_thread

    @pytest.mark.parametrize("batch, length, channels, states, blocks, threads", [(1, 1, 1, 1, 1, 1), (2, 9, 3, 4, 2, 4), (1, 20, 5, 16, 1, 8)])
    def test_a_thread_a_channel_agrees_with_the_definition(batch, length, channels, states, blocks, threads):
        rng = np.random.default_rng(length)
        u, delta = rng.standard_normal((batch, length, channels)), rng.uniform(0.01, 1, (batch, length, channels))
        A, B, C = -np.exp(rng.standard_normal((channels, states))), *rng.standard_normal((2, batch, length, states))
        wanted, _ = reference.selective_scan(u, delta, A, B[:, :, None], C[:, :, None])
        y = cuda.to_device(np.full(u.shape, np.nan, np.float32))
        channel_per_thread(states)[blocks, threads](*(cuda.to_device(x.astype(np.float32)) for x in (u, delta, A, B, C)), y)
        np.testing.assert_allclose(y.copy_to_host(), wanted, rtol=1e-5, atol=1e-5)
