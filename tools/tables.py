"""Write the README's tables from the stored measurements, between its two marks: `python tools/tables.py`."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = ("copy", "triad", "scan", "gradient", "ours")       # names of rows that are no peers begin with one of these


def load(name):
    return json.loads((ROOT / "book" / "data" / f"{name}.json").read_text(encoding="utf-8"))


def table(head, rows):
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def milliseconds(seconds):
    return f"{1e3 * seconds:.0f}" if seconds >= 1 else f"{1e3 * seconds:#.3g}".rstrip(".")


def best_peer(seconds):
    """Time and name of the fastest that is neither this package nor a limit."""
    return min((t, who) for who, t in seconds.items() if not who.startswith(OURS))


def source(record, *versions):
    named = ", ".join(f"{name} {record['versions'][name]}" for name in versions)
    return f"{record['machine']}, {record['date']}, {named}"


def scan_on_a_card():
    record = load("scan_gpu")
    rows = []
    for case in record["shapes"].values():
        s = case["seconds"]
        time, who = best_peer(s)
        rows.append([f"{tuple(case['shape'])}, axis {case['axis']}", milliseconds(s["scan"]), f"{s['copy of 3 arrays'] / s['scan']:.0%}",
                     milliseconds(s["gradient"]), f"{s['copy of 5 arrays'] / s['gradient']:.0%}", f"{milliseconds(time)} ({who})"])
    head = ["shape, axis", "`linear_scan` (ms)", "of a copy's speed", "gradient (ms)", "of a copy's speed", "fastest other, forward (ms)"]
    return f"The linear scan on a card, float32 ({source(record, 'numba', 'numba-cuda', 'torch', 'jax')}):\n\n{table(head, rows)}"


def scan_on_cores():
    record = load("scan_cpu")
    rows = []
    for case in record["shapes"].values():
        s = case["seconds"]
        time, who = best_peer({k: t for k, t in s.items() if "one decay" not in k})
        rows.append([f"{tuple(case['shape'])}, axis {case['axis']}", milliseconds(s["scan"]), f"{s['triad, new arrays'] / s['scan']:.0%}",
                     f"{s['NumPy loop'] / s['scan']:.0f} times" if "NumPy loop" in s else "", f"{milliseconds(time)} ({who})"])
    head = ["shape, axis", "`linear_scan` (ms)", "of a triad's speed", "the NumPy loop", "fastest other (ms)"]
    return f"The linear scan on two cores, float32 ({source(record, 'numba', 'torch', 'jax')}):\n\n{table(head, rows)}"


def selective_on_a_card():
    record = load("selective_gpu")
    there, rows = record["elsewhere"], []
    for case in record["shapes"]:
        at = there["shapes"].index(case["batch, D, L"])
        both = there[case["dtype"]][at]
        rows.append([str(tuple(case["batch, D, L"])), case["dtype"],
                     *(milliseconds(case[way]["ours"]) for way in ("forward", "backward")), *map(milliseconds, both),
                     *(f"{theirs / case[way]['ours']:.1f}" for way, theirs in zip(("forward", "backward"), both))])
    head = ["batch, D, L", "", "forward (ms)", "backward (ms)", "CUDA C++, forward (ms)", "CUDA C++, backward (ms)", "times faster, forward", "backward"]
    return (f"The selective scan on a card, N = 16, with skip, gate, bias and softplus ({source(record, 'numba', 'numba-cuda')}; "
            f"CUDA C++: {there['what'].partition(';')[0]}):\n\n{table(head, rows)}")


def models_on_cores():
    record = load("models_cpu")
    train, write = record["training step"], record["decoding"]
    rows = [["a training step", f"d_model {train['config']['d_model']}, {train['config']['n_layers']} layers, batch {train['batch']}, L = {train['L']}"],
            ["a token", f"d_model {write['config']['d_model']}, {write['config']['n_layers']} layers, vocabulary {write['config']['vocab_size']}"]]
    for row, seconds in zip(rows, (train["seconds"], write["seconds a token"])):
        time, who = min((t, who) for who, t in seconds.items() if who != "mambalib")
        row += [milliseconds(seconds["mambalib"]), f"{milliseconds(time)} ({who})", f"{time / seconds['mambalib']:.1f}"]
    head = ["a MambaLM", "", "mambalib (ms)", "fastest other (ms)", "times faster"]
    shell = record["command line"]
    return (f"A Mamba on two cores, float32 ({source(record, 'numba', 'torch', 'mambapy', 'transformers')}):\n\n{table(head, rows)}\n\n"
            f"`python -m mambalib train` took {shell['seconds']:.0f} seconds there and reached {shell['bits per character']:.2f} bits a character on held-out text.")


def tables():
    return "\n\n".join((scan_on_a_card(), scan_on_cores(), selective_on_a_card(), models_on_cores()))


def written(text):
    """The README with the tables between its marks."""
    return re.sub(r"(<!-- measured -->\n).*?(\n<!-- /measured -->)", lambda m: m[1] + tables() + m[2], text, flags=re.S)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
