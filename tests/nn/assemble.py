"""Compile the layers' kernels and assemble them for three cards, with no card: `python tests/nn/assemble.py`.

Needs what `tests/scan/assemble.py` needs, and fails as it does: when a kernel spills registers or keeps an array in
local memory, or (here) computes in float64, or asks for more registers than a multiprocessor has.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from assembly import check  # noqa: E402


def kernels():
    """Each kernel in the shapes that `_cuda.py` gives it: a name, the threads of a block, the kernel."""
    from mambalib.nn import _cuda as engine
    from mambalib.nn import cuda_conv, cuda_embedding, cuda_loss, cuda_norm, cuda_pointwise, cuda_sums
    block = engine.THREADS
    for width in (4, 1):
        yield f"{width} numbers at once", block, cuda_pointwise.silu(width)
        yield f"{width} numbers at once", block, cuda_pointwise.silu_backward(width)
        yield f"{width} numbers at once", block, cuda_pointwise.adamw(width, 0.9, 0.999, 1e-8, 0.1)
        yield f"{width} numbers at once", block, cuda_sums.squares(width)
        yield f"{width} numbers at once", block, cuda_norm.forward(width, 1e-5)
        for some, threads in ((1, 64), (1, 384), (4, engine.MOST), (8, engine.MOST // 2)):
            yield f"{some} times {width} numbers", threads, cuda_norm.backward(width, some, threads)
        yield f"{width} numbers at once, a warp a row", block, cuda_loss.cross_entropy("int64", width, 1)
        yield f"{width} numbers at once, a block a row", block, cuda_loss.cross_entropy("int32", width, 8)
    for taps in (4, 2, 3):
        for activated in (True, False):
            title = f"{taps} taps{', SiLU' if activated else ''}"
            yield title, block, cuda_conv.forward(taps, engine.STEPS, activated)
            yield title, block, cuda_conv.backward(taps, engine.STEPS, activated)
    yield "", block, cuda_pointwise.lstm_cell()
    yield "", block, cuda_pointwise.lstm_cell_backward()
    for dtype in ("int64", "int32", "uint16"):
        yield dtype, block, cuda_embedding.backward(dtype)
    yield "", engine.LANES * cuda_sums.GROUPS, cuda_sums.columns()
    yield "", block, cuda_sums.everything()


def cases():
    from mambalib._cuda import types
    for title, threads, kernel in kernels():
        yield title, kernel, (types.int64,) * kernel.py_func.__code__.co_argcount, threads, False


if __name__ == "__main__":
    sys.exit(check(cases))
