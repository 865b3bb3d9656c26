"""Compile the selective scan's kernels and assemble them for three cards, with no card: `python tests/selective/assemble.py [--all]`.

Which kernels, `mambalib/selective/cuda.py` says: those of its plans for some shapes. Needs what `tests/scan/assemble.py`
needs, and fails as it does: when a kernel spills registers or keeps an array in local memory, or (here) computes in float64.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from assembly import check  # noqa: E402

SHAPES = [  # batch, length, channels, states
    (8, 2048, 2048, 16), (1, 16384, 2048, 16), (1, 131072, 1536, 16), (1, 1024, 1536, 16), (64, 512, 1536, 16), (1, 65536, 64, 16),
    (2, 2048, 2048, 1), (2, 2048, 2048, 64), (2, 2048, 512, 256),
]
OPTIONS = [(True, True, False), (True, True, True), (False, False, False)]      # softplus, gate, resets


def kernels(every):
    """Each kernel once, the threads of its block, and why it is there."""
    from mambalib.selective import cuda as engine
    engine.processors = lambda: 132
    cases = [(dtype, shape, options) for dtype in ("float32", "bfloat16", "float16") for shape in SHAPES for options in OPTIONS]
    if not every:
        cases = [("float32", SHAPES[0], OPTIONS[0]), ("float32", SHAPES[5], OPTIONS[2]), ("bfloat16", SHAPES[2], OPTIONS[0]),
                 ("bfloat16", SHAPES[0], OPTIONS[1]), ("bfloat16", SHAPES[8], OPTIONS[0])]
    seen = set()
    for dtype, (batch, length, channels, states), options in cases:
        for plan in (engine._forward_plan, engine._backward_plan):
            for kernel, _, threads, _ in plan(dtype, batch, length, channels, 1, states, *options).launches:
                if kernel not in seen:
                    seen.add(kernel)
                    yield kernel, threads, f"{dtype} {(batch, length, channels, states)} {''.join('+-'[not o] for o in options)}"
        kernel, _, threads, _ = engine._update_plan(dtype, batch, channels, 1, states, *options[:2])
        if kernel not in seen and (every or not seen or options[0]):
            seen.add(kernel)
            yield kernel, threads, f"{dtype} {states}"


def signature(kernel):
    from mambalib._cuda import types
    names = kernel.py_func.__code__.co_varnames[:kernel.py_func.__code__.co_argcount]
    tuples = {"sizes": 6, "state_strides": 3, "y_strides": 2}
    return tuple(types.UniTuple(types.int64, tuples[name]) if name in tuples else types.int64 for name in names)


def cases():
    for kernel, threads, title in kernels("--all" in sys.argv):
        yield title, kernel, signature(kernel), threads, False


if __name__ == "__main__":
    sys.exit(check(cases))
