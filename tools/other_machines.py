"""Run every notebook under strict nbval as if on other machines: fewer threads, older processors, another BLAS kernel."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ONE_THREAD = {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
MACHINES = {
    "one thread": ONE_THREAD,
    "a generic processor": ONE_THREAD | {"NUMBA_CPU_NAME": "generic"},
    "NumPy without its wide instruction sets": {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"},
    "another OpenBLAS kernel": {"OPENBLAS_CORETYPE": "Nehalem"},
    "all of these": ONE_THREAD | {
        "NUMBA_CPU_NAME": "generic",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
}


def main():
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "--nbval", "--nbval-current-env"]
    command += ["--nbval-sanitize-with", "tests/nbval.cfg", "-p", "no:cacheprovider", "book"]
    failed = []
    for name, settings in MACHINES.items():
        print(f"== {name}: {settings}", flush=True)
        if subprocess.run(command, cwd=ROOT, env=os.environ | settings).returncode:
            failed.append(name)
    sys.exit(f"failed as on: {', '.join(failed)}" if failed else None)


if __name__ == "__main__":
    main()
