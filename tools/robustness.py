"""Treat the program roughly and look at what it leaves behind: signals, a full disk, four runs at once.

    python tools/robustness.py [--kills 20]

Signals come at random moments of short runs of models/digits.onnx. After each, the output must be absent or
whole; what SIGKILL leaves behind, in the output's folder and in TMPDIR, must be gone after the next run.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import onnx

MODELS = Path(__file__).parents[1] / "models"
DIGITS, CALIB = MODELS / "digits.onnx", MODELS / "digits_calib.npz"
# A budget in time profiles layers, and so uses temporary files too.
OPTIONS = ("--latency", "0.7", "--calib", str(CALIB), "--samples", "64", "--threads", "1", "-q")
# onnxruntime writes this file into TMPDIR when it is imported, and leaves it there.
ONNXRUNTIMES_OWN = ".ses"
ALLOWED = {
    "SIGINT": (0, 130, -signal.SIGINT),  # the last before the program has begun
    "SIGTERM": (0, 143, -signal.SIGTERM),
    "SIGKILL": (0, -signal.SIGKILL),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Place(Path(folder))
        print(four_at_once(work))
        print(full_disk(work))
        print(signals(work, options.kills, random.Random(options.seed)))


class Place:
    """A folder for outputs and one for temporary files, and runs that use them."""

    def __init__(self, folder: Path) -> None:
        self.out, self.temporary = folder / "out", folder / "tmp"
        for made in (self.out, self.temporary, folder / "cache"):
            made.mkdir()
        self.environment = os.environ | {
            "TMPDIR": str(self.temporary),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, name: str, *options: str, **how: object) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "onnxmerge",
            str(DIGITS),
            str(self.out / name),
            *(options or OPTIONS),
        ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=self.environment, **pipes, **how)

    @property
    def left(self) -> list[str]:
        found = (p.name for p in (*self.out.iterdir(), *self.temporary.iterdir()))
        return sorted(name for name in found if name != ONNXRUNTIMES_OWN)

    def clear(self) -> None:
        for path in self.out.iterdir():
            path.unlink()


def signals(work: Place, count: int, random: random.Random) -> str:
    """Random moments of a run, up to its usual end."""
    begin = time.perf_counter()
    work.start("out.onnx").communicate()
    usual = time.perf_counter() - begin
    seen: Counter[str] = Counter()
    for number in range(count):
        work.clear()
        name = list(ALLOWED)[number % len(ALLOWED)]
        # The latency table is in the cache now; without it profiling can be interrupted as well.
        for path in Path(work.environment["XDG_CACHE_HOME"]).rglob("*.json"):
            path.unlink()
        process = work.start("out.onnx")
        moment = random.uniform(0.05, usual)
        time.sleep(moment)
        process.send_signal(getattr(signal, name))
        _, errors = process.communicate(timeout=120)
        code = process.returncode
        said = errors.decode().strip().splitlines()
        assert code in ALLOWED[name], (name, moment, code, said)
        if code == 0:
            onnx.checker.check_model(onnx.load(work.out / "out.onnx"), full_check=True)
        elif name == "SIGKILL":
            seen["folders and files left by SIGKILL"] += len(work.left)
            last = work.start("out.onnx", "--ratio", "0", "--calib", str(CALIB), "--samples", "8", "-q")
            last.communicate(timeout=120)
            assert work.left == ["out.onnx"], (moment, work.left)
        else:
            assert work.left == [], (name, moment, work.left)
            assert code < 0 or len(said) == 1, said
        seen[f"{name}: exit {code}"] += 1
    return f"signals at {count} moments within {usual:.1f} s: {dict(seen)}"


def four_at_once(work: Place) -> str:
    """Runs that share folders, temporary files and the cache of latency tables."""
    names = [f"{i}.onnx" for i in range(4)]
    budget = ("--macs", "0.6", *OPTIONS[2:])
    runs = [work.start(name, *budget) for name in names[:3]] + [work.start(names[3])]
    ended = [(run.communicate(timeout=300)[1], run.returncode) for run in runs]
    assert all(code == 0 for _, code in ended), ended
    assert work.left == names, work.left
    contents = {(work.out / name).read_bytes() for name in names[:3]}
    assert len(contents) == 1
    work.clear()
    return "four runs at once: all done, the same command gave the same bytes, nothing else was left"


def full_disk(work: Place) -> str:
    """A limit on the size of files stands for a full disk: for the output, and for temporary files."""

    def limited(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    found = []
    for what, size, options in (
        ("output", 100_000, ("--macs", "0.6", *OPTIONS[2:])),
        ("profile", 2_000, OPTIONS),
    ):
        for path in Path(work.environment["XDG_CACHE_HOME"]).rglob("*.json"):
            path.unlink()
        run = work.start("out.onnx", *options, preexec_fn=lambda size=size: limited(size))
        _, errors = run.communicate(timeout=120)
        said = errors.decode().strip().splitlines()
        assert run.returncode == 7, (what, run.returncode, said)
        assert len(said) == 1 and work.left == [], (said, work.left)
        found.append(f"{what}: exit 7, {said[0]!r}")
    return "full disk: " + "; ".join(found)


if __name__ == "__main__":
    main()
