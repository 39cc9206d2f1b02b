"""Broken models through the whole program: each ends in a valid model or in one clear error.

    python tools/fuzz.py [--count 2000] [--first 0] [--workers 2] [--out FILE]

Every input is a small model with its bytes flipped, cut or spliced, or with attributes, types,
shapes, names and versions changed at random. A worker process optimises it; a worker that crashes or
takes too long is replaced, and counted. Every input has its seed: ``--first SEED --count 1`` runs one.
"""

from __future__ import annotations

import argparse
import json
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

# An optimisation of these models takes a second; this is a hang.
TIME_LIMIT = 60.0
CONFIGURATIONS = (
    {"ratio": 0.5, "compensation": "none"},
    {"ratio": 0.3, "compensation": "merge"},
    {"macs": 0.7, "compensation": "lstsq"},
    {},
)


def attempt(seed: int, folder: Path) -> dict[str, str]:
    """Optimise one mutated model; ``outcome`` is changed, unchanged, refused, or a kind of failure."""
    import mutations
    import numpy as np
    import onnx

    import onnxmerge
    from onnxmerge.errors import InternalError, OnnxMergeError
    from onnxmerge.runtime import Runtime

    rng = np.random.default_rng(seed)
    source, target = folder / "in.onnx", folder / "out.onnx"
    target.unlink(missing_ok=True)
    name, data = mutations.mutated(rng)
    source.write_bytes(data)
    options = CONFIGURATIONS[int(rng.integers(len(CONFIGURATIONS)))]
    answer = {"base": name, "options": json.dumps(options)}
    try:
        result = onnxmerge.optimize(source, samples=2, threads=1, device="cpu", **options)
        result.save(target)
    except InternalError as error:
        return answer | {"outcome": "internal error", "error": str(error)}
    except OnnxMergeError as error:
        if target.exists():
            return answer | {"outcome": "partial file", "error": str(error)}
        return answer | {"outcome": "refused", "error": f"{type(error).__name__}: {error}"}
    except Exception:
        return answer | {"outcome": "traceback", "error": traceback.format_exc(limit=-4)}
    leftovers = {path.name for path in folder.iterdir()} - {"in.onnx", "out.onnx"}
    if leftovers:
        return answer | {"outcome": "partial file", "error": f"left behind: {sorted(leftovers)}"}
    try:
        Runtime.create("cpu", 1).session(onnx.load(target))
    except Exception as error:
        return answer | {"outcome": "invalid result", "error": str(error)}
    return answer | {"outcome": "unchanged" if target.read_bytes() == data else "changed"}


def work() -> None:
    """The worker: one seed per line in, one JSON object per line out."""
    answers, sys.stdout = sys.stdout, sys.stderr
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            answers.write(json.dumps(attempt(int(line), Path(folder))) + "\n")
            answers.flush()


@dataclass
class Worker:
    """A worker process and what it is busy with."""

    process: subprocess.Popen[str]
    seed: int = -1
    since: float = field(default_factory=time.monotonic)

    @staticmethod
    def start() -> Worker:
        command = [sys.executable, __file__, "--worker"]
        return Worker(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        )

    def give(self, seed: int) -> None:
        self.seed, self.since = seed, time.monotonic()
        self.process.stdin.write(f"{seed}\n")
        self.process.stdin.flush()


def supervise(seeds: range, workers: int) -> list[dict[str, str]]:
    """All answers, with ``seed``; workers that end or hang are replaced."""
    waiting = list(seeds)[::-1]
    answers: list[dict[str, str]] = []
    pool = selectors.DefaultSelector()

    def busy(worker: Worker) -> None:
        if waiting:
            worker.give(waiting.pop())
            pool.register(worker.process.stdout, selectors.EVENT_READ, worker)
        else:
            worker.process.stdin.close()
            worker.process.wait()

    for _ in range(min(workers, len(waiting))):
        busy(Worker.start())
    while pool.get_map():
        ready = {key.data.seed for key, _ in pool.select(timeout=1.0)}
        for key in list(pool.get_map().values()):
            worker: Worker = key.data
            line = ""
            if worker.seed in ready:
                line = worker.process.stdout.readline()
            elif time.monotonic() - worker.since < TIME_LIMIT:
                continue
            pool.unregister(worker.process.stdout)
            if line:
                answers.append(json.loads(line) | {"seed": worker.seed})
                busy(worker)
                continue
            outcome = "crash" if worker.seed in ready else "hang"
            worker.process.kill()
            code = worker.process.wait()
            answers.append({"seed": worker.seed, "outcome": outcome, "error": f"exit code {code}"})
            busy(Worker.start())
    return answers


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the summary as JSON")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work()
        return 0
    answers = supervise(range(arguments.first, arguments.first + arguments.count), arguments.workers)
    outcomes = Counter(answer["outcome"] for answer in answers)
    failures = [a for a in answers if a["outcome"] not in ("changed", "unchanged", "refused")]
    for answer in failures:
        print(json.dumps(answer, indent=1))
    refusals = Counter(a["error"].split(":")[0] for a in answers if a["outcome"] == "refused")
    summary = {
        "inputs": len(answers), "first_seed": arguments.first, "outcomes": dict(outcomes),
        "refusals": dict(refusals), "failures": sorted(a["seed"] for a in failures),
    }  # fmt: skip
    print(json.dumps(summary))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
