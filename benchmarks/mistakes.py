"""The mistakes of chapter 14, made on purpose, and undone.

    python benchmarks/mistakes.py cpu [--dry-run] [--patience 60]   the processor's cores -> book/data/mistakes_cpu.json
    python benchmarks/mistakes.py gpu [--dry-run]                   a card, with PyTorch  -> book/data/mistakes_gpu.json

On the cores, where a part is repeated for up to `patience` seconds until other programs leave the cores alone:

    limits       a triad over arrays far larger than the caches, and a product of matrices: bytes and operations a second
    first call   linear_scan in a new process: nothing compiled, compiled code found on disk, and the calls after that
    sizes        a triad on one core over arrays from 4 KB to 256 MB
    zeros        the sum of products of random numbers, of zeros, and of np.zeros that nobody has written
    subnormals   a scan whose states get stuck at the smallest numbers there are, against one whose states do not
    dead code    a loop whose result nobody reads, at several lengths
    times        the same call 1500 times: with the cores quiet, with two other programs at work
    turns        a call against itself while two other programs start halfway: one after the other, and in turns
    ceiling      linear_scan, its kernel and a triad over (12288, 4096): with the cores quiet, with two programs in memory
    clock        the clock, counted with a chain of instructions that cannot overlap
    ladder       1000 calls of linear_scan against a loop in NumPy on (10, 28, 64, 10), corrected one mistake at a time

Where nothing else is said, times are the smallest of several. "others" is the share of the cores' time that went to other
programs while a part was measured, without those that the part started.

On a card, all with linear_scan or PyTorch, times by events (medians) where nothing else is said:

    first call      by the clock: the first operation of the process, the first call of linear_scan, the calls after that
    launches        n calls by the clock, with and without waiting for the card
    small call      the call of the ladder: the kernel, a call by the clock, a call whose result is copied to the host
    large call      the same for a large one
    sizes           linear_scan over arrays from 1 MB to 1 GB: the same arrays each time, and taking turns among many sets
    zeros           products of matrices in bfloat16, and linear_scan, over random numbers and over zeros, in turns
    times           300 single calls by events; by the clock with a synchronization on either side
    clock           the card's clock while idle, and after two seconds of work
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

import numba
import numpy as np
from numba import njit, prange
from scan import versions

from mambalib import linear_scan, measured
from mambalib.scan import cpu

SMALL, AXIS = (10, 28, 64, 10), 2                    # batch, channels, time, states: the contest of the ladder
SPIN = "while True: pass"
STREAM = "import numpy as np; a = np.ones(2**25); b = np.empty_like(a)\nwhile True: b[:] = a"


@njit(parallel=True)
def triad_on_all(a, b, h, s):
    for i in prange(a.size):
        h[i] = a[i] * s + b[i]


@njit
def triad(a, b, h, s, times):
    for _ in range(times):
        for i in range(a.size):
            h[i] = a[i] * s + b[i]


@njit
def scan_and_forget(a, b):
    state = np.float32(0)
    for t in range(a.size):
        state = a[t] * state + b[t]


@njit
def scan_and_tell(a, b):
    state = np.float32(0)
    for t in range(a.size):
        state = a[t] * state + b[t]
    return state


@njit(fastmath=True)
def dot(a, b):
    total = np.float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@njit
def chain(x, steps):
    """Three pairs of a shift and an exclusive or, each waiting for the one before: 6 cycles a step on most processors."""
    for _ in range(steps):
        x ^= x << np.uint64(13)
        x ^= x >> np.uint64(7)
        x ^= x << np.uint64(17)
    return x


def numpy_loop(a, b):
    """As it is often written: over the last axis but one, new arrays in every step."""
    h = np.zeros(b.shape, b.dtype)
    h[:, :, 0, :] = b[:, :, 0, :]
    for t in range(1, b.shape[2]):
        h[:, :, t, :] = h[:, :, t - 1, :] * a[:, :, t, :] + b[:, :, t, :]
    return h


def numpy_loop_time_first(a, b, h):
    """Time is the first axis: every step is one piece of memory."""
    h[0] = b[0]
    for t in range(1, len(b)):
        np.multiply(h[t - 1], a[t], out=h[t])
        h[t] += b[t]
    return h


def seconds(call, calls=1):
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


def least(call, repeats=15, calls=1):
    call()
    return min(seconds(call, calls) for _ in range(repeats))


def data(shape, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 1, shape).astype(dtype), rng.standard_normal(shape).astype(dtype)


class Programs:
    """Other programs at work for as long as the block lasts."""

    def __init__(self, code, count):
        self.code, self.count = code, count

    def __enter__(self):
        self.running = [subprocess.Popen([sys.executable, "-c", self.code]) for _ in range(self.count)]
        time.sleep(0.5)
        return self

    def __exit__(self, *_):
        for program in self.running:
            program.kill()
            program.wait()


def busy_jiffies():
    """(the time all cores have worked, of that this process and its children that have ended), in 1/100 s."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
    mine = os.times()
    return user + nice + system + irq + softirq, 100 * (sum(mine[:4]))


# --- On the cores -----------------------------------------------------------------------------------------------------


def limits():
    n, m = 2**25, 2048
    a, b = data(n)
    h, (x, y) = np.empty_like(a), data((m, m))
    return {
        "triad": {"bytes": 3 * a.nbytes, "seconds": least(lambda: triad_on_all(a, b, h, np.float32(0.5)))},
        "matrix product": {"operations": 2 * m**3, "seconds": least(lambda: x @ y)},
    }


def in_new_process(part, cache):
    """What `part` prints there, with compiled code kept in the folder `cache`."""
    found = subprocess.run([sys.executable, __file__, part], capture_output=True, text=True, check=True, env=os.environ | {"NUMBA_CACHE_DIR": cache})
    return json.loads(found.stdout)


def first_call():
    """The first calls in a new process, with numba's cache of compiled code empty, then filled."""
    with tempfile.TemporaryDirectory() as folder:
        return {"compiling": in_new_process("first", folder), "from disk": in_new_process("first", folder)}


def first():
    a, b = data(SMALL)
    print(json.dumps([seconds(lambda: linear_scan(a, b, axis=AXIS)) for _ in range(20)]))


def sizes():
    found = {"bytes": [], "seconds": []}
    for k in range(10, 27):                          # numbers in an array
        (a, b), h = data(2**k), np.empty(2**k, np.float32)
        times = max(1, 2**20 // 2**k)
        found["bytes"].append(3 * a.nbytes)
        found["seconds"].append(least(lambda: triad(a, b, h, np.float32(0.5), times), 9 if k > 23 else 25) / times)
    return found


def zeros():
    n = 2**24
    a, b = data(n)
    written, written_too, fresh, fresh_too = (np.zeros(n, np.float32) for _ in range(4))
    written[:] = written_too[:] = 0
    pairs = {"random": (a, b), "zeros": (written, written_too), "zeros, never written": (fresh, fresh_too)}
    return {"bytes": 2 * a.nbytes} | {name: least(lambda: dot(*pair), 25) for name, pair in pairs.items()}


def subnormals():
    shape = 64, 8192
    a, impulse = np.full(shape, 0.97, np.float32), np.zeros(shape, np.float32)
    impulse[:, 0] = 1
    noise = data(shape)[1]
    stuck = linear_scan(a, impulse, axis=1)
    share = np.mean((stuck != 0) & (np.abs(stuck) < np.finfo(np.float32).tiny))
    numba.set_num_threads(1)
    found = {"shape": shape, "share": float(share)}
    found |= {name: least(lambda: linear_scan(a, b, axis=1), 40) for name, b in (("noise", noise), ("impulse", impulse))}
    x, out = np.full(2**13, 1e-40, np.float32), np.empty(2**13, np.float32)
    for name, value in (("product of normal numbers", 1e-30), ("product of subnormal numbers", 1e-40)):
        x[:] = value
        found[name] = least(lambda: np.multiply(x, np.float32(0.9), out=out), 40, 20)
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    return found


def dead_code():
    lengths = [2**k for k in (10, 14, 18, 22)]
    found = {"L": lengths, "result not read": [], "result returned": []}
    for L in lengths:
        a, b = data(L)
        found["result not read"].append(least(lambda: scan_and_forget(a, b), 9, 20))
        found["result returned"].append(least(lambda: scan_and_tell(a, b), 9))
    return found


def times():
    (a, b), calls = (np.ascontiguousarray(np.moveaxis(x, AXIS, 0)) for x in data(SMALL)), 1500
    h = np.empty_like(b)
    call = lambda: numpy_loop_time_first(a, b, h)    # noqa: E731
    call()
    quiet = [seconds(call) for _ in range(calls)]
    with Programs(SPIN, 2):
        busy = [seconds(call) for _ in range(calls)]
    return {"quiet": quiet, "busy": busy}


def turns():
    """The call "first" is the call "second"; two programs that stream through memory start halfway."""
    n, calls = 2**24, 100
    (a, b), h = data(n), np.empty(n, np.float32)
    call = lambda: triad(a, b, h, np.float32(0.5), 1)                                         # noqa: E731
    call()
    found = {"one after the other": {"first": [seconds(call) for _ in range(calls)]}, "in turns": {"first": [], "second": []}}
    with Programs(STREAM, 2):
        found["one after the other"]["second"] = [seconds(call) for _ in range(calls)]
    time.sleep(0.5)

    def round_of_turns():
        for _ in range(calls // 2):
            for who in ("first", "second"):
                found["in turns"][who].append(seconds(call))
    round_of_turns()
    with Programs(STREAM, 2):
        round_of_turns()
    return found


def ceiling():
    shape = 12288, 4096
    (a, b), h, again = data(shape), np.empty(shape, np.float32), np.empty(shape, np.float32)
    flat, views = [x.reshape(-1) for x in (a, b, again)], [cpu._views(x, shape, 1, False) for x in (a, b, h)]
    todo = {"triad": lambda: triad_on_all(*flat, np.float32(0.5)), "scan, in place": lambda: cpu._scan(*views, 0),
            "triad, new arrays": lambda: triad_on_all(*flat[:2], np.empty(b.size, np.float32), np.float32(0.5)),
            "scan": lambda: linear_scan(a, b, axis=1)}

    def contest(turns=12):
        for call in todo.values():
            call()
        rounds = [{name: seconds(call) for name, call in todo.items()} for _ in range(turns)]
        return {name: [r[name] for r in rounds] for name in todo}
    found = {"shape": shape, "bytes": 3 * a.nbytes, "quiet": contest()}
    with Programs(STREAM, 2):
        found["two programs in memory"] = contest()
    return found


def clock():
    steps, x = 10**5, np.uint64(88172645463325252)
    chain(x, 10)
    time.sleep(1)
    return {"cycles a step": 6, "steps": steps, "seconds": [seconds(lambda: chain(x, steps)) for _ in range(1000)]}


def ladder():
    """[{what, seconds of a call: scan, loop}], each rung with the corrections of those before it."""
    calls, (a8, b8), (a, b) = 1000, data(SMALL, np.float64), data(SMALL)
    a_first, b_first = (np.ascontiguousarray(np.moveaxis(x, AXIS, 0)) for x in (a, b))
    h, h_loop = np.empty_like(b_first), np.empty_like(b_first)
    views = [cpu._views(x, b_first.shape, 0, False) for x in (a_first, b_first, h)]
    row = lambda call: least(call, 50, calls // 50)                                             # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        rungs = [{"what": "as found"} | in_new_process("rung", folder)]

    def rung(what, scan=None, loop=None):
        last = rungs[-1]
        rungs.append({"what": what, "scan": row(scan) if scan else last["scan"], "loop": row(loop) if loop else last["loop"]})
    scan, scan_first = lambda: linear_scan(a, b, axis=AXIS), lambda: cpu._scan(*views, 0)     # noqa: E731
    loop_first = lambda: numpy_loop_time_first(a_first, b_first, h_loop)                      # noqa: E731
    rung("first call left out", lambda: scan().copy(), lambda: numpy_loop(a8, b8))
    rung("result copied on neither side", scan)
    rung("float32 on both sides", None, lambda: numpy_loop(a, b))
    numba.set_num_threads(1)
    rung("one core on both sides", scan)
    rung("time first, the better layout of both", lambda: linear_scan(a_first, b_first, axis=0),
         lambda: numpy_loop_time_first(a_first, b_first, np.zeros_like(b_first)))
    rung("both into arrays that are there", scan_first, loop_first)
    in_turns = {"scan": [], "loop": []}
    for _ in range(calls):
        in_turns["scan"].append(seconds(scan_first))
        in_turns["loop"].append(seconds(loop_first))
    rungs.append({"what": "in turns, medians"} | {who: median(found) for who, found in in_turns.items()})
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    right = np.moveaxis(scan(), AXIS, 0)
    for found in (np.moveaxis(numpy_loop(a, b), AXIS, 0), h, h_loop):
        assert np.allclose(found, right, rtol=1e-4, atol=1e-5)
    return rungs


def lowest_rung():
    """As found: 1000 calls each, the first among them, the scan's result copied, the loop in float64."""
    (a, b), (a8, b8) = data(SMALL), data(SMALL, np.float64)
    scan = seconds(lambda: linear_scan(a, b, axis=AXIS).copy(), 1000)
    print(json.dumps({"scan": scan, "loop": seconds(lambda: numpy_loop(a8, b8), 1000)}))


def main_cpu(dry_run, patience, chosen):
    record = {"dtype": "float32", "threads": numba.get_num_threads(), "statistic": "minimum", "others": {}}
    if chosen:
        record = measured.load("mistakes_cpu")
    for part in (limits, first_call, sizes, zeros, subnormals, dead_code, times, turns, ceiling, clock, ladder):
        name, start, others = part.__name__.replace("_", " "), time.perf_counter(), 1.0
        if chosen and name not in chosen:
            continue
        while others > 0.1:                          # the quietest of the attempts counts
            begin, before = time.perf_counter(), busy_jiffies()
            found = rounded(part())
            late, early = busy_jiffies(), before
            share = (late[0] - early[0] - late[1] + early[1]) / (time.perf_counter() - begin) / os.cpu_count() / 100
            if share < others:
                record[name], others = found, max(0.0, share)
            if time.perf_counter() - start > patience:
                break
        record["others"][name] = float(f"{others:.2g}")
        print(f"{name}: others {others:.0%}", str(record[name])[:600], flush=True)
    if not dry_run:
        print(measured.save("mistakes_cpu", record, measured.cpu_name(), versions("numpy", "numba")))


# --- On a card --------------------------------------------------------------------------------------------------------


def main_gpu(dry_run):
    import torch

    synchronize = torch.cuda.synchronize
    a_cpu, b_cpu = data(SMALL)
    begin = time.perf_counter()
    small = [torch.from_numpy(x).cuda() for x in (a_cpu, b_cpu)]
    synchronize()
    first = {"first operation of the process": time.perf_counter() - begin}

    def waited(call, calls=1):
        """Seconds of a call by the clock: calls in a row, then one synchronization."""
        synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize()
        return (time.perf_counter() - begin) / calls
    first["calls of linear_scan"] = [waited(lambda: linear_scan(*small, axis=AXIS)) for _ in range(20)]

    from scan_gpu import copy_seconds, event_seconds
    from scan_gpu import data as data_gpu
    scan_small, (a, b) = lambda: linear_scan(*small, axis=AXIS), data_gpu((16384, 2048))       # noqa: E731
    scan = lambda: linear_scan(a, b, axis=1)         # noqa: E731
    record = {"dtype": "float32", "statistic": "median", "shapes": {"small": SMALL, "large": (16384, 2048)}, "first call": first}
    record["launches"] = {"large": launches(scan, torch), "small": launches(scan_small, torch)}
    record["small call"], record["large call"] = (
        {
            "event": event_seconds(call), "clock, 300 calls and one wait": median(waited(call, 300) for _ in range(5)),
            "clock, a wait after each": median(waited(call) for _ in range(50)),
            "clock, result copied": median(waited(lambda: call().cpu()) for _ in range(20)),
        }
        for call in (scan_small, scan)
    )
    b_first, a_first = (np.ascontiguousarray(np.moveaxis(x, AXIS, 0)) for x in (b_cpu, a_cpu))
    h_first = np.empty_like(b_first)
    record["small call"]["NumPy loop on the host"] = least(lambda: numpy_loop_time_first(a_first, b_first, h_first), 100)
    record["large call"]["copy of 3 arrays"] = copy_seconds(3 * b.numel())
    record["times"] = {"events": single_events(scan, torch), "clock": [waited(scan) for _ in range(300)]}
    del a, b, scan
    record["sizes"] = sizes_gpu(torch, data_gpu, event_seconds, copy_seconds)
    record["zeros"] = zeros_gpu(torch, event_seconds)
    record["clock"] = clock_gpu(torch)
    found = versions("numpy", "numba", "numba-cuda", "torch") | {"cuda": torch.version.cuda}
    for name, value in record.items():
        print(name, str(rounded(value))[:1500], flush=True)
    if not dry_run:
        print(measured.save("mistakes_gpu", rounded(record), torch.cuda.get_device_name(), found))


def launches(call, torch):
    """n calls by the clock: when Python has launched them, and when the card has done them."""
    found = {"n": [1, 3, 10, 30, 100, 300, 1000, 3000], "launched": [], "done": []}
    for n in found["n"]:
        rounds = []
        for _ in range(5 if n < 1000 else 3):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            for _ in range(n):
                call()
            launched = time.perf_counter() - begin
            torch.cuda.synchronize()
            rounds.append((launched, time.perf_counter() - begin))
        found["launched"].append(median(r[0] for r in rounds))
        found["done"].append(median(r[1] for r in rounds))
    return found


def single_events(call, torch, calls=300):
    events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    call()
    torch.cuda.synchronize()
    torch.cuda._sleep(10**8)                         # long enough to queue them all
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in zip(events, events[1:])]


def sizes_gpu(torch, data_gpu, event_seconds, copy_seconds):
    """Rows of 1024 steps, {bytes of the three arrays, seconds on the same arrays, on sets that together exceed 512 MB}."""
    found = {"bytes": [], "same": [], "rotated": [], "copy": []}
    for k in range(7, 17):
        shape = 2**k, 1024
        total, n = 12 * 2**k * 1024, 2**k * 1024
        sets = [data_gpu(shape) for _ in range(max(2, min(64, 2**29 // total)))]
        turn, kept = [0], [None] * len(sets)

        def rotate():
            turn[0] = (turn[0] + 1) % len(sets)
            kept[turn[0]] = linear_scan(*sets[turn[0]], axis=1)                               # kept, so that results rotate, too
        for _ in range(2 * len(sets)):
            rotate()
        found["bytes"].append(total)
        found["rotated"].append(event_seconds(rotate, 25, 1))
        kept[:] = [None] * len(sets)
        found["same"].append(event_seconds(lambda: linear_scan(*sets[0], axis=1), 25))
        found["copy"].append(copy_seconds(3 * n))
        del sets, kept, rotate
        torch.cuda.empty_cache()
    return found


def zeros_gpu(torch, event_seconds):
    generator = torch.Generator("cuda").manual_seed(0)
    x, y = (torch.randn((8192, 8192), generator=generator, device="cuda").bfloat16() for _ in range(2))
    z, out = torch.zeros_like(x), torch.empty_like(x)
    a, b = torch.rand((16384, 2048), generator=generator, device="cuda"), torch.randn((16384, 2048), generator=generator, device="cuda")
    zero, zero_too = torch.zeros_like(b), torch.zeros_like(b)
    todo = {
        "product, random": lambda: torch.matmul(x, y, out=out), "product, zeros": lambda: torch.matmul(z, z, out=out),
        "scan, random": lambda: linear_scan(a, b, axis=1), "scan, zeros": lambda: linear_scan(zero, zero, axis=1),                              # one array twice: chapter 14 finds out
        "scan, two arrays of zeros": lambda: linear_scan(zero, zero_too, axis=1),
    }
    rounds = [{name: event_seconds(call, 200, 1) for name, call in todo.items()} for _ in range(5)]     # long enough to feel the power limit
    return {name: [r[name] for r in rounds] for name in todo}


def clock_gpu(torch):
    def asked():
        query = ["nvidia-smi", "--query-gpu=clocks.sm,temperature.gpu,power.draw", "--format=csv,noheader,nounits"]
        return [float(x) for x in subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0].split(",")]
    torch.cuda.synchronize()
    time.sleep(1.5)
    found = {"what": ["clock, MHz", "temperature, C", "power, W"], "idle": asked()}
    x = torch.randn((8192, 8192), device="cuda").bfloat16()
    begin = time.perf_counter()
    while time.perf_counter() - begin < 2:
        for _ in range(20):
            y = x @ x
        torch.cuda.synchronize()
    for _ in range(1000):
        y = x @ x                                    # more of it, while the driver is asked
    found["at work"] = asked()
    torch.cuda.synchronize()
    del x, y
    return found


def rounded(x):
    if isinstance(x, dict):
        return {key: rounded(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [rounded(value) for value in x]
    return float(f"{x:.4g}") if isinstance(x, float) else x


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", choices=["cpu", "gpu", "first", "rung"], help="cpu or gpu; cpu starts the others")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for quiet, for each part (cpu)")
    parser.add_argument("--dry-run", action="store_true", help="measure and print, write nothing")
    parser.add_argument("--parts", nargs="*", help="these alone, the others stay as they are (cpu)")
    arguments = parser.parse_args()
    if arguments.where == "gpu":
        main_gpu(arguments.dry_run)
    elif arguments.where == "cpu":
        main_cpu(arguments.dry_run, arguments.patience, arguments.parts)
    else:
        {"first": first, "rung": lowest_rung}[arguments.where]()


if __name__ == "__main__":
    main()
