"""Compile the scan's kernels and assemble them for three cards, with no card: `python tests/scan/assemble.py [--all]`. Exit code 77: tools missing.

Fails when a kernel spills registers or keeps an array in local memory.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from assembly import assemble, check, find_tools, ptx  # noqa: E402, F401 (benchmarks/scan_steps.py asks here)


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


def cases():
    for name, kernel, integers in kernels("--all" in sys.argv):
        yield name, kernel, signature(kernel, integers), None, True


if __name__ == "__main__":
    sys.exit(check(cases))
