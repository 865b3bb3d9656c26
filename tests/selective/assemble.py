"""Compile the selective scan's kernels and assemble them for three cards, with no card: `python tests/selective/assemble.py [--all]`.

Which kernels, `mambalib/selective/cuda.py` says: those of its plans for some shapes. Needs what `tests/scan/assemble.py`
needs, and fails as it does: when a kernel spills registers or keeps an array in local memory, or (here) computes in float64.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

spec = importlib.util.spec_from_file_location("assemble_scan", Path(__file__).parents[1] / "scan" / "assemble.py")
scan = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scan)

SHAPES = [  # batch, length, channels, states
    (8, 2048, 2048, 16), (1, 16384, 2048, 16), (1, 131072, 1536, 16), (1, 1024, 1536, 16), (64, 512, 1536, 16), (1, 65536, 64, 16),
    (2, 2048, 2048, 1), (2, 2048, 2048, 64), (2, 2048, 512, 256),
]
OPTIONS = [(True, True, False), (True, True, True), (False, False, False)]      # softplus, gate, resets


def kernels(every):
    """Kernel and, for each, why it is there; each once."""
    from mambalib.selective import cuda as engine
    engine.processors = lambda: 132
    cases = [(dtype, shape, options) for dtype in ("float32", "bfloat16", "float16") for shape in SHAPES for options in OPTIONS]
    if not every:
        cases = [("float32", SHAPES[0], OPTIONS[0]), ("float32", SHAPES[5], OPTIONS[2]), ("bfloat16", SHAPES[2], OPTIONS[0]),
                 ("bfloat16", SHAPES[0], OPTIONS[1]), ("bfloat16", SHAPES[8], OPTIONS[0])]
    seen = set()
    for dtype, (batch, length, channels, states), options in cases:
        for plan in (engine._forward_plan, engine._backward_plan):
            for kernel, _, _, _ in plan(dtype, batch, length, channels, 1, states, *options).launches:
                if kernel not in seen:
                    seen.add(kernel)
                    yield kernel, f"{kernel.py_func.__name__} {dtype} {(batch, length, channels, states)} {''.join('+-'[not o] for o in options)}"
        kernel = engine._update_plan(dtype, batch, channels, 1, states, *options[:2])[0]
        if kernel not in seen and (every or not seen or options[0]):
            seen.add(kernel)
            yield kernel, f"{kernel.py_func.__name__} {dtype} {states}"


def signature(kernel):
    from mambalib._cuda import types
    names = kernel.py_func.__code__.co_varnames[:kernel.py_func.__code__.co_argcount]
    tuples = {"sizes": 6, "state_strides": 3, "y_strides": 2}
    return tuple(types.UniTuple(types.int64, tuples[name]) if name in tuples else types.int64 for name in names)


def main():
    if not scan.PTXAS.exists():
        print("no ptxas: pip install nvidia-cuda-nvcc-cu12 nvidia-cuda-runtime-cu12")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        scan.find_tools(folder)
        bad = False
        for kernel, title in kernels("--all" in sys.argv):
            text = scan.ptx(kernel, signature(kernel), (7, 5))      # PTX for the oldest assembles for the others
            report = []
            for capability in ((7, 5), (8, 0), (9, 0)):
                registers, shared, stack, spills = scan.assemble(text, capability, folder)
                bad |= stack + spills > 0 or ".f64" in text
                report.append(f"sm_{capability[0]}{capability[1]} {registers:3}" + (f" STACK {stack} SPILLED {spills}" if stack + spills else ""))
            print(f"{title:75} shared {shared:5}  {'  '.join(report)}{'  FLOAT64' if '.f64' in text else ''}", flush=True)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
