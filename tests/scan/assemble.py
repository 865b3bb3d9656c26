"""Compile the scan's kernels and assemble them for three cards, with no card: `python tests/scan/assemble.py [--all]`. Exit code 77: tools missing.

Needs libnvvm and ptxas, as in the wheels nvidia-cuda-nvcc-cu12 and nvidia-cuda-runtime-cu12. Fails when a kernel spills
registers or keeps an array in local memory.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from unittest import mock

NVIDIA = Path(sysconfig.get_paths()["purelib"], "nvidia")
PTXAS = NVIDIA / "cuda_nvcc/bin/ptxas"


def kernels(every):
    """The scan's kernels in the shapes that `cuda.py` gives them: name, kernel, how many integers are in its layout."""
    from mambalib.scan import cuda_columns, cuda_layout, cuda_rows, cuda_steps
    for dtype, width in (("float32", 4), ("bfloat16", 8), ("float16", 8), ("float64", 2))[:4 if every else 2]:
        wide = "float64" if dtype == "float64" else "float32"
        elements = 8 if dtype == "float64" else 16
        for reverse, same in ((False, True), (True, False))[:2 if every else 1]:
            for warps, look_back in ((8, True), (1, False), (4, False))[:3 if dtype == "float32" else 1]:
                shape = dtype, reverse, same, same, True, width
                yield "rows", cuda_rows.forward(*shape, elements // width, 32, warps, look_back), 0 if same else 4
                yield "rows, backward", cuda_rows.backward(*shape, elements // width // 2, 32, warps, look_back, wide), 0 if same else 4
            yield "few rows", cuda_rows.forward(*shape, 2 * elements // width, 32, 4, True), 0 if same else 4
            yield "few rows, backward", cuda_rows.backward(*shape, elements // width, 32, 4, True, wide), 0 if same else 4
            for look_back in (False, True)[:2 if every or dtype == "float32" else 1]:
                shape = dtype, reverse, same, same
                yield "columns", cuda_columns.forward(*shape, width, elements // width, 4, 8, look_back), 0 if same else 7
                yield "columns, backward", cuda_columns.backward(*shape, width, elements // width // 2, 4, 8, look_back, wide), 0 if same else 7
        if every:
            yield "columns, one by one", cuda_columns.forward(dtype, False, True, False, 1, elements // 2, 16, 8, False), 0
    yield "sum", cuda_layout._sum("float32", "float64"), None
    yield "gather", cuda_layout._gather("float32"), None
    for name, kernel in steps(cuda_steps).items():
        yield name, kernel, None


def steps(of):
    """The kernels of chapter 12, in the shapes that its benchmark gives them."""
    return {
        "a thread a row": of.row_per_thread(), "tree": of.block_scan(512), "tree, padded": of.block_scan_padded(512),
        "folds and shuffles": of.warp_block_scan(8, False), "16 bytes at once": of.warp_block_scan(8, True),
        "fold of chunks": of.fold_chunks(8), "look-back": of.look_back_scan(8),
    }


def signature(kernel, integers):
    from mambalib._cuda import types
    names = kernel.py_func.__code__.co_varnames[:kernel.py_func.__code__.co_argcount]
    if names == ("a", "b", "h0", "h"):
        return types.float32[:, ::1], types.float32[:, ::1], types.float32[::1], types.float32[:, ::1]
    tuples = {"layout": types.UniTuple(types.int64, integers) if integers else types.Tuple(()),
              "shape": types.UniTuple(types.int64, 2), "strides": types.UniTuple(types.int64, 2)}
    return tuple(tuples.get(name, types.int64) for name in names)


def ptx(kernel, signature, capability):
    from numba.cuda import dispatcher

    from mambalib._cuda import cuda
    card = mock.Mock(compute_capability=capability)
    with mock.patch.object(dispatcher, "get_current_device", lambda: card):
        return cuda.compile(kernel.py_func, signature, cc=capability, device=False, abi="numba")[0]


def assemble(text, capability, folder):
    """What ptxas reports: registers of a thread, bytes of shared memory of a block, bytes of stack and of spills of a thread."""
    source = Path(folder, "kernel.ptx")
    for _ in range(2):
        source.write_text(text)
        done = subprocess.run([PTXAS, "-v", "-arch=sm_%d%d" % capability, source, "-o", source.with_suffix(".cubin")], capture_output=True, text=True)
        newer = re.search(r"Unsupported .version ([\d.]+); current version is '([\d.]+)'", done.stderr)
        if not newer:
            break
        text = text.replace(f".version {newer[1]}", f".version {newer[2]}")     # numba's guess where no runtime says it
    assert done.returncode == 0, done.stderr
    stack, stores, loads = map(int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr).groups())
    shared = re.search(r"(\d+) bytes smem", done.stderr)
    return int(re.search(r"Used (\d+) registers", done.stderr)[1]), int(shared[1]) if shared else 0, stack, stores + loads


def find_tools(folder):
    """Have numba find libnvvm among the wheels; this process has to have no use for another CUDA."""
    home = Path(folder, "cuda")
    home.mkdir()
    for name, target in (("nvvm", NVIDIA / "cuda_nvcc/nvvm"), ("bin", NVIDIA / "cuda_nvcc/bin"), ("lib64", NVIDIA / "cuda_runtime/lib")):
        (home / name).symlink_to(target)
    os.environ.setdefault("CUDA_HOME", str(home))


def main():
    if not PTXAS.exists():
        print("no ptxas: pip install nvidia-cuda-nvcc-cu12 nvidia-cuda-runtime-cu12")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        find_tools(folder)
        spilled = False
        for name, kernel, integers in kernels("--all" in sys.argv):
            text = ptx(kernel, signature(kernel, integers), (7, 5))     # PTX for the oldest assembles for the others
            for capability in ((7, 5), (8, 0), (9, 0)):
                registers, shared, stack, spills = assemble(text, capability, folder)
                spilled |= stack + spills > 0
                print(f"{name:24} sm_{capability[0]}{capability[1]} {registers:4} registers {shared:6} bytes shared {stack:4} bytes of stack {spills:4} spilled", flush=True)
    return int(spilled)


if __name__ == "__main__":
    sys.exit(main())
