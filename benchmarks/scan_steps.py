"""The kernels of chapter 12, a step at a time: what each adds in speed.       -> book/data/scan_steps.json

    python benchmarks/scan_steps.py          on a card, with PyTorch: the time of every step, of linear_scan and of copies
    python benchmarks/scan_steps.py ncu      on a card, with Nsight Compute: what its counters say of each kernel
    python benchmarks/scan_steps.py ptxas    without a card: registers and shared memory, as tests/scan/assemble.py finds them

Each part replaces its own entry of the file and leaves the others. The limit is a copy of as many bytes as the scan
must move, three arrays; the three launches move five. Times are CUDA events as in scan_gpu.py. A step counts when its
result is that of linear_scan. --dry-run writes nothing.
"""

import csv
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS"] = "0"

from mambalib import linear_scan, measured

SHAPES = {"rows of 1024": (16384, 1024), "rows of 2048": (16384, 2048), "long rows": (256, 65536), "16 long rows": (16, 2**20),
          "one long row": (1, 2**24)}
COUNTED = ["a thread a row", "tree", "tree, padded", "folds and shuffles", "16 bytes at once", "linear_scan"]     # by Nsight Compute, at the first shape
WARPS, THREADS, CHUNK = 8, 512, 8192                  # of the kernels with warps; of the trees; steps that the first of three launches folds
COUNTERS = {                                          # by Nsight Compute: what to call it, for a kernel
    "dram__bytes_read.sum": "bytes read", "dram__bytes_write.sum": "bytes written",
    "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum": "load requests", "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum": "load sectors",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum": "bank conflicts", "smsp__inst_executed.sum": "instructions of warps",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy, percent", "gpu__time_duration.sum": "nanoseconds",
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio": "waiting at barriers",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": "waiting for memory",
}


def steps(a, b, h0, h):
    """{step: a call that fills h}, for PyTorch's arrays of this shape, as far as the step can do it."""
    import torch
    from numba import cuda

    from mambalib._cuda import view
    from mambalib._device import LANES, board
    from mambalib.scan import cuda_steps

    rows, length = b.shape
    tile = cuda_steps.WIDTH * LANES * WARPS
    tiles, chunks = -(-length // tile), -(-length // CHUNK)
    arrays, at = [cuda.as_cuda_array(x) for x in (a, b, h0, h)], [view(x).address for x in (a, b, h0, h)]
    A, B, entries = (torch.empty(rows * chunks, device="cuda") for _ in range(3))
    at_pairs = [view(x).address for x in (A, B, entries)]
    threads = WARPS * LANES
    alone, narrow, wide = cuda_steps.row_per_thread(), cuda_steps.warp_block_scan(WARPS, False), cuda_steps.warp_block_scan(WARPS, True)
    fold, look_back = cuda_steps.fold_chunks(WARPS), cuda_steps.look_back_scan(WARPS)

    def three_launches():
        fold[rows * chunks, threads](*at[:2], *at_pairs[:2], CHUNK, chunks)
        narrow[rows, threads](*at_pairs[:2], at[2], at_pairs[2], chunks)
        wide[rows * chunks, threads](*at[:2], at_pairs[2], at[3], CHUNK)

    def one_launch():
        noted = torch.zeros(board("float32").slots * rows * tiles + 1, dtype=torch.float64, device="cuda")
        look_back[rows * tiles, threads](*at, rows, length, tiles, view(noted).address)

    found = {}
    if rows > 1:                                     # else it takes seconds
        found["a thread a row"] = lambda: alone[-(-rows // 64), 64](*arrays)
    if length <= 2 * THREADS:
        found["tree"] = lambda: cuda_steps.block_scan(THREADS)[rows, THREADS](*arrays)
        found["tree, padded"] = lambda: cuda_steps.block_scan_padded(THREADS)[rows, THREADS](*arrays)
    found["folds and shuffles"] = lambda: narrow[rows, threads](*at, length)
    found["16 bytes at once"] = lambda: wide[rows, threads](*at, length)
    if length % CHUNK == 0:
        found["three launches"] = three_launches
    if length > tile:
        found["look-back"] = one_launch
    return found


def data(shape):
    import torch
    from scan_gpu import data
    a, b = data(shape)
    return a, b, torch.randn(shape[0], device="cuda"), torch.empty_like(b)


def measure(dry_run):
    import torch
    from scan import versions
    from scan_gpu import copy_seconds, event_seconds, rounded

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    found = versions("numpy", "numba", "numba-cuda", "torch") | {"cuda": torch.version.cuda}
    found["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0].strip()
    record = {"dtype": "float32", "statistic": "median", "shapes": {}}
    for name, shape in SHAPES.items():
        a, b, h0, h = data(shape)
        wanted, n = linear_scan(a, b, axis=1, h0=h0), b.numel()
        seconds = {"copy of 3 arrays": copy_seconds(3 * n), "copy of 5 arrays": copy_seconds(5 * n)}
        left_out = {}
        for step, call in steps(a, b, h0, h).items():
            h.fill_(torch.nan)
            call()
            worst = ((h - wanted).abs_().max() / wanted.abs().max()).item()
            if worst < 1e-4:
                seconds[step] = event_seconds(call, 5 if step == "a thread a row" else 15)
            else:
                left_out[step] = f"another result, off by {worst:.1e}"
        seconds["linear_scan"] = event_seconds(lambda: linear_scan(a, b, axis=1, h0=h0))
        record["shapes"][name] = {"shape": shape, "seconds": seconds, "left out": left_out}
        print(name, shape, left_out, flush=True)
        for who, t in seconds.items():
            print(f"    {who:20s} {1e3 * t:9.4f} ms {seconds['copy of 3 arrays'] / t:6.1%}", flush=True)
    return rounded(record), torch.cuda.get_device_name(), found


def run_once():
    """Each step once, at the first shape: what Nsight Compute watches."""
    a, b, h0, h = data(SHAPES["rows of 1024"])
    calls = steps(a, b, h0, h) | {"linear_scan": lambda: linear_scan(a, b, axis=1, h0=h0)}
    for step in COUNTED:
        calls[step]()


def count():
    """{step: {what: count}}."""
    command = ["ncu", "--clock-control", "none", "--csv", "--print-units", "base", "--metrics", ",".join(COUNTERS), sys.executable, __file__, "once"]
    done = subprocess.run(command, capture_output=True, text=True)
    table = done.stdout[done.stdout.find('"ID"'):]
    kernels = {}
    for line in csv.DictReader(io.StringIO(table)):
        if "scan_row" in line["Kernel Name"]:        # not PyTorch's
            value = float(line["Metric Value"].replace(",", ""))
            kernels.setdefault(int(line["ID"]), {})[COUNTERS[line["Metric Name"]]] = value
    assert len(kernels) == len(COUNTED), done.stdout[-3000:] + done.stderr[-3000:]
    found = {name: {what: float(f"{value:.4g}") for what, value in kernels[i].items()} for name, i in zip(COUNTED, sorted(kernels))}
    for name, counts in found.items():
        print(name, counts)
    return found


def assembled():
    """{step: {card: {registers, shared bytes, spilled bytes}}}, and the version of ptxas."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "scan"))
    import assemble
    with tempfile.TemporaryDirectory() as folder:
        assemble.find_tools(folder)
        from mambalib.scan import cuda_rows, cuda_steps
        kernels = assemble.steps(cuda_steps)
        shape = "float32", False, True, True, True, 4, 4, 32
        kernels |= {"linear_scan": cuda_rows.forward(*shape, 2, False), "linear_scan, look-back": cuda_rows.forward(*shape, 8, True)}
        found = {}
        for name, kernel in kernels.items():
            text = assemble.ptx(kernel, assemble.signature(kernel, 0), (7, 5))
            found[name] = {}
            for capability in ((7, 5), (8, 0), (9, 0)):
                registers, shared, stack, spills = assemble.assemble(text, capability, folder)
                found[name]["sm_%d%d" % capability] = {"registers": registers, "shared bytes": shared, "spilled bytes": spills, "stack bytes": stack}
            print(name, found[name], flush=True)
    return found


def stored():
    try:
        return measured.load("scan_steps")
    except FileNotFoundError:
        return {"machine": "none", "versions": {}}


def main():
    what = next((x for x in sys.argv[1:] if not x.startswith("-")), "times")
    if what == "once":
        return run_once()
    record = stored()
    machine, versions = record.pop("machine"), record.pop("versions")
    if what == "ptxas":
        record["ptxas"] = assembled()
    elif what == "ncu":
        record["ncu"] = count()
    else:
        times, machine, versions = measure("--dry-run" in sys.argv)
        record |= times
    if "--dry-run" not in sys.argv:
        print(measured.save("scan_steps", record, machine, versions))


if __name__ == "__main__":
    main()
