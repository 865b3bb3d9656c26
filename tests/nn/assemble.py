"""Compile the layers' kernels and assemble them for three cards, with no card: `python tests/nn/assemble.py`.

Needs what `tests/scan/assemble.py` needs, and fails as it does: when a kernel spills registers or keeps an array in
local memory, or (here) computes in float64, or asks for more registers than a multiprocessor has.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

spec = importlib.util.spec_from_file_location("assemble_scan", Path(__file__).parents[1] / "scan" / "assemble.py")
scan = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scan)


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


def main():
    if not scan.PTXAS.exists():
        print("no ptxas: pip install nvidia-cuda-nvcc-cu12 nvidia-cuda-runtime-cu12")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        scan.find_tools(folder)
        from mambalib._cuda import types
        bad = False
        for title, threads, kernel in kernels():
            arguments = kernel.py_func.__code__.co_argcount
            text = scan.ptx(kernel, (types.int64,) * arguments, (7, 5))     # the oldest's assembles for the others
            report, wide = [], ".f64" in text
            for capability in ((7, 5), (8, 0), (9, 0)):
                registers, shared, stack, spills = scan.assemble(text, capability, folder)
                bad |= stack + spills > 0 or wide or registers * threads > 1 << 16
                more = f" STACK {stack} SPILLED {spills}" if stack + spills else ""
                report.append(f"sm_{capability[0]}{capability[1]} {registers:3}{more}")
            report.append("FLOAT64" if wide else "")
            name = kernel.py_func.__name__
            print(f"{name:24} {title:32} threads {threads:3} shared {shared:5}  {'  '.join(report)}", flush=True)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
