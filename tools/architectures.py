"""Networks that people use, as people export them, each made smaller in a process of its own.

    pip install timm transformers torchvision
    python tools/architectures.py [--only TEXT ...] [--models FOLDER] [--inspect] [--again] [--table]

Every network of ``tools/zoo.py`` is exported once to the folder and optimised by the command line to 0.6 of
its multiplications, on random inputs. Kept are the exit code, reach, what is left, seconds, peak memory and
sizes: one line for each in tools/results/architectures.jsonl, and a table beside it. What is there already
is not run again unless it is asked for, so an interrupted run goes on; what needs a library that is not
installed is passed over with a line. Weights and inputs are random: how much the answers of a trained
network would change cannot be read off, what can be removed from it can.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

# This process stays small, and imports nothing big: what a child is said to need at most is at least what
# its parent had when it was started.
HERE = Path(__file__).parent
RESULTS = HERE / "results" / "architectures.jsonl"
ASKED = 0.6
# Rows per layer for least squares: what can be removed does not depend on them, the time does.
PATCHES = 4000
LIMIT = 420
# Reach below this is listed with its reasons.
LEAST_REACH = {"cnn": 0.9, "transformer": 0.85, "other": 0.85}


def bar(size: int) -> float:
    """Bytes that a run on a model of this size may take at most."""
    return 2 * size + 0.8e9 if size < 256e6 else 1.6 * size + 0.6e9


class Ran(NamedTuple):
    """What a process took: exit code (-9: over the limit), seconds on the wall and of processors, and peak
    memory in bytes."""

    code: int
    seconds: float
    processor: float
    peak: int


def child(command: list[str], log: Path, limit: float = LIMIT) -> Ran:
    """Run a command in a process of its own, for at most ``limit`` seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")])
    )
    start = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        timer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
    seconds = time.monotonic() - start
    processor = usage.ru_utime + usage.ru_stime
    return Ran(os.waitstatus_to_exitcode(status), seconds, processor, usage.ru_maxrss * 1024)


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def exported(entry: dict[str, str], model: Path, inputs: Path, log: Path) -> str:
    """Why there is no model file; empty where there is one."""
    if model.exists() and inputs.exists():
        return ""
    code = child([sys.executable, str(HERE / "zoo.py"), entry["name"], str(model), str(inputs)], log).code
    if code:
        model.unlink(missing_ok=True)
        return f"not exported: {last_line(log) if code > 0 else f'longer than {LIMIT} s'}"
    return ""


def inspected(entry: dict[str, str], folder: Path) -> dict[str, Any]:
    """A row of what ``inspect`` says: exit code, reach, reasons."""
    stem = "".join(c if c.isalnum() else "_" for c in entry["name"])
    model, inputs, log, report = (folder / f"{stem}{end}" for end in (".onnx", ".npz", ".log", ".json"))
    why = exported(entry, model, inputs, log)
    if why:
        return {**entry, "skipped": why}
    report.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "onnxmerge",
        "inspect",
        str(model),
        "--threads",
        "1",
        "--report",
        str(report),
    ]
    code, seconds, _, _ = child(command, log)
    row = {
        **entry,
        "inspect": code,
        "inspect_seconds": round(seconds, 1),
        "said": last_line(log) if code else "",
    }
    if code == 0:
        found = json.loads(report.read_text(encoding="utf-8"))
        row |= {
            "reach": round(found["reach"], 3),
            "frozen": {f["reason"]: f["count"] for f in found["frozen"]},
        }
    return row


def optimised(entry: dict[str, str], folder: Path) -> dict[str, Any]:
    """What is added to a row by making the network smaller."""
    stem = "".join(c if c.isalnum() else "_" for c in entry["name"])
    model, inputs, log, report = (folder / f"{stem}{end}" for end in (".onnx", ".npz", ".log", ".json"))
    output = folder / f"{stem}.out.onnx"
    for path in (output, report):
        path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "onnxmerge", str(model), str(output), "--macs", str(ASKED), "--calib",
               str(inputs), "--patches", str(PATCHES), "--threads", "1", "--report", str(report)]  # fmt: skip
    code, seconds, _, peak = child(command, log)
    size = model.stat().st_size
    row = {"code": code, "seconds": round(seconds, 1), "peak": peak, "bytes": size,
           "within": peak <= bar(size), "said": last_line(log) if code else ""}  # fmt: skip
    if code == 0:
        found = json.loads(report.read_text(encoding="utf-8"))
        row |= {
            "macs": round(found["reached"]["macs"], 3),
            "before": found["input"]["bytes"],
            "after": found["output"]["bytes"],
            "params": round(found["reached"]["params"], 3),
            "stages": {stage: round(value, 1) for stage, value in found["seconds"].items()},
            "warnings": found["warnings"],
        }
        output.unlink()
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, and what is to be known of them."""
    known = [row for row in rows if row.get("inspect") == 0]
    ran = [row for row in known if "code" in row]
    kinds = {kind: [row["reach"] for row in known if row["kind"] == kind] for kind in LEAST_REACH}
    means = ", ".join(f"{sum(r) / len(r):.3f} ({len(r)} of kind {kind})" for kind, r in kinds.items() if r)
    lines = [
        "# Architectures",
        "",
        f"`python tools/architectures.py`: {len(known)} networks with random weights; {len(ran)} of them "
        f"were optimised with `--macs {ASKED} --patches {PATCHES}` on random inputs. *Reach* is the share of "
        f"the multiplications that goes when every group keeps one channel, on average {means}; *kept* are "
        "shares of the input. "
        "Seconds are those of one thread of a machine that others may use, too. *Over* is a peak above twice "
        "the model and 0.8 GB (1.6 times and 0.6 GB from 256 MB on). A row stays until it is made again, so "
        "rows may come from different states of the code. Nothing here says how the answers of a trained "
        "network change.",
        "",
        "| network | exporter | code | reach | MACs kept | params kept | bytes kept | s | peak, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in known:
        cells = [row["name"], row["exporter"], str(row.get("code", "")), f"{row['reach']:.2f}"]
        if row.get("code") == 0:
            kept = row["after"] / row["before"]
            cells += [f"{row['macs']:.3f}", f"{row['params']:.2f}", f"{kept:.2f}"]
        cells += [""] * (7 - len(cells))
        if "code" in row:
            peak = f"{row['peak'] / 1e6:.0f}{'' if row['within'] else ' (over)'}"
            cells += [f"{row['seconds']:.0f}", peak]
        cells += [""] * (9 - len(cells))
        lines.append(f"| {' | '.join(cells)} |")
    low = [row for row in known if row["reach"] < LEAST_REACH[row["kind"]]]
    lines += ["", "## Low reach, and why", ""]
    for row in low:
        reasons = sorted(row["frozen"].items(), key=lambda item: -item[1])[:4]
        lines.append(f"* {row['name']} ({row['reach']:.2f}): "
                     + "; ".join(f"{reason} ({count} channels)" for reason, count in reasons))  # fmt: skip
    others = [row for row in rows if row.get("skipped") or row.get("inspect") or row.get("code")]
    if others:
        lines += ["", "## Not exported, or refused", ""]
        lines += [f"* {row['name']}: {row.get('skipped') or row['said']}" for row in others]
    return "\n".join(lines) + "\n"


def options(description: str | None) -> argparse.ArgumentParser:
    """What every program takes that runs networks one after the other and keeps their rows."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=[""], metavar="TEXT", help="parts of names")
    parser.add_argument("--models", type=Path, default=Path("architectures"), help="where the models go")
    parser.add_argument("--again", action="store_true", help="run what there is a row of, too")
    parser.add_argument("--table", action="store_true", help="write the table of what there is, run nothing")
    return parser


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--inspect", action="store_true", help="only find out what could be removed")
    arguments = parser.parse_args()
    arguments.models.mkdir(parents=True, exist_ok=True)
    there = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    rows = {row["name"]: row for row in map(json.loads, there)}
    listed = subprocess.run(
        [sys.executable, str(HERE / "zoo.py")], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    entries = [json.loads(line) for line in listed.splitlines()]
    for entry in entries:
        asked = any(text in entry["name"] for text in arguments.only)
        row = rows.get(entry["name"], {})
        known = ("inspect" if arguments.inspect else "code") in row and not arguments.again
        if arguments.table or known or not asked:
            continue
        if "inspect" not in row or arguments.again:
            row = inspected(entry, arguments.models)
        if row.get("inspect") == 0 and not arguments.inspect:
            row |= optimised(entry, arguments.models)
        rows[entry["name"]] = row
        print({key: value for key, value in row.items() if key not in ("frozen", "warnings", "stages")},
              flush=True)  # fmt: skip
        ordered = [rows[e["name"]] for e in entries if e["name"] in rows]
        RESULTS.write_text("".join(json.dumps(row) + "\n" for row in ordered), encoding="utf-8")
    ordered = [rows[e["name"]] for e in entries if e["name"] in rows]
    RESULTS.with_suffix(".md").write_text(table(ordered), encoding="utf-8")


if __name__ == "__main__":
    main()
