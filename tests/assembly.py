"""From a kernel to what ptxas says of it, on three cards, with no card: what the `assemble.py` of each folder of kernels uses.

Needs libnvvm and ptxas, as in the wheels nvidia-cuda-nvcc-cu12 and nvidia-cuda-runtime-cu12.
"""

import os
import re
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from unittest import mock

NVIDIA = Path(sysconfig.get_paths()["purelib"], "nvidia")
PTXAS = NVIDIA / "cuda_nvcc/bin/ptxas"
CARDS = (7, 5), (8, 0), (9, 0)
REGISTERS = 1 << 16                                  # of a multiprocessor


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


def check(cases):
    """The exit code: 1 when a kernel spills, keeps an array in local memory, asks for more registers than there are, or computes in float64.

    cases: (title, kernel, signature, threads of a block or None, whether it may compute in float64), from a generator that is run
    after numba has its tools. 77 when there is no ptxas.
    """
    if not PTXAS.exists():
        print("no ptxas: pip install nvidia-cuda-nvcc-cu12 nvidia-cuda-runtime-cu12")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        find_tools(folder)
        bad = False
        for title, kernel, signature, threads, wide in cases():
            text = ptx(kernel, signature, CARDS[0])     # PTX for the oldest assembles for the others
            doubles = not wide and ".f64" in text
            bad |= doubles
            report = ["FLOAT64"] if doubles else []
            for major, minor in CARDS:
                registers, shared, stack, spills = assemble(text, (major, minor), folder)
                bad |= stack + spills > 0 or registers * (threads or 1) > REGISTERS
                report.append(f"sm_{major}{minor} {registers:3}" + (f" STACK {stack} SPILLED {spills}" if stack + spills else ""))
            print(f"{kernel.py_func.__name__:24} {title:60} threads {threads or '':3} shared {shared:5}  {'  '.join(report)}", flush=True)
    return int(bad)
