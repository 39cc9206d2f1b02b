"""onnxmerge beside other tools, on networks that people know: the same file, data and measure.

    python tools/rivals run --shared FOLDER --out tools/results/rivals.jsonl [--only NAME ...] [--ways ..]
    python tools/rivals table tools/results/rivals.jsonl

``run`` makes an environment with the other tools (``--environment``, outside of the tree) and calls them
there, in every way that they can be called, with the least strength that meets a budget. What is said of
answers: top-1 on labelled test images where there are any, else the change that ``onnxmerge.compare``
measures. Times are ratios of processor time of one thread, runs taking turns. Rows are appended one by one,
and those that are there are not made again: a run that was cut off goes on. ``table`` writes the Markdown
and the picture beside the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parent))
from render import write
from subjects import CLASSIFIERS, OTHERS, Subject, subject

import onnxmerge
from onnxmerge.errors import OnnxMergeError
from onnxmerge.runtime import Runtime, Session
from onnxmerge.validation import compare_latency

SHARES = (0.9, 0.8, 0.7)
PACKAGES = ("torch", "torchvision", "torch-pruning", "onnx2torch", "onnxsim", "onnxruntime", "onnxscript")


def _published() -> Iterator[tuple[str, dict[str, object]]]:
    """Methods of others in onnxmerge, of all channels, and of those in no sum, as merging was published."""
    names = {"model folding": "folding", "lbyl": "lbyl", "neuron merging": "merge"}
    for (way, compensation), alone in product(names.items(), (False, True)):
        options = {"compensation": compensation, "criterion": "l1", "allocation": "uniform"}
        yield (f"{way}, not in sums", options | {"scope": "chain"}) if alone else (way, options)


# What is asked of onnxmerge, and whether it is given the data.
OWN: dict[str, tuple[str, dict[str, object], bool]] = {
    "onnxmerge": ("macs", {}, True),
    "onnxmerge --latency": ("latency", {}, True),
    "onnxmerge, no data": ("macs", {}, False),
    **{way: ("macs", options, False) for way, options in _published()},
}
TOOLS = ("onnxsim", "torch-pruning")
# Rows that are there, of one network: way and share.
Made = Set[tuple[str, float]]


@dataclass(frozen=True, eq=False)
class Judge:
    """Measures any model beside the subject's own."""

    subject: Subject
    runtime: Runtime

    @cached_property
    def before(self) -> Session:
        return self.runtime.session(self.subject.path)

    @cached_property
    def macs(self) -> int:
        return macs(self.subject.path)

    @cached_property
    def dense(self) -> np.ndarray:
        """The class of every judged input, by the network itself."""
        return self._classes(self.before)

    def of(self, model: onnx.ModelProto | Path) -> dict[str, float]:
        """Shares of multiplications and of time, and what answers lost."""
        subject, session = self.subject, self.runtime.session(model)
        one = {name: x[:1] for name, x in subject.judged.items()}
        ratio = compare_latency(self.before, session, one, seconds=0.3).ratio
        row = {"macs": macs(model) / self.macs, "time": ratio}
        if subject.labels is not None:
            found = self._classes(session)
            row["dense"] = 100 * float((self.dense == subject.labels).mean())
            row["top1"] = 100 * float((found == subject.labels).mean())
            row["agreement"] = 100 * float((found == self.dense).mean())
            return row
        compared = onnxmerge.compare(
            subject.path, model, calibration=subject.judged, threads=1, device="cpu"
        ).parity
        return row | {"change": compared.change, "error": compared.relative_error}

    def _classes(self, session: Session) -> np.ndarray:
        (name, images), output = next(iter(self.subject.judged.items())), self.before.outputs[0].name
        fixed = session.inputs[0].shape[0]
        step = fixed if isinstance(fixed, int) and fixed > 0 else 50
        parts = [
            session.run({name: images[i : i + step]}, [output])[output] for i in range(0, len(images), step)
        ]
        return np.concatenate([y.reshape(len(y), -1) for y in parts]).argmax(axis=1)


def macs(model: onnx.ModelProto | Path) -> int:
    return onnxmerge.inspect(model, threads=1, device="cpu").input.macs


def environment(folder: Path) -> Path:
    """The Python of an environment with the other tools; made where it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return python


def own_rows(judge: Judge, way: str, done: Made) -> Iterator[dict]:
    kind, options, given = OWN[way]
    for share in SHARES:
        if (way, share) in done:
            continue
        began = time.process_time()
        try:
            result = onnxmerge.optimize(
                judge.subject.path, calibration=judge.subject.calibration if given else None, threads=1,
                device="cpu", **{kind: share}, **options,
            )  # fmt: skip
        except OnnxMergeError as error:
            yield {"asked": share, "reason": str(error)[:200]}
            continue
        seconds = time.process_time() - began
        yield {"asked": share, "seconds": seconds, **judge.of(result.model)}


def rival_rows(judge: Judge, tool: str, done: Made, python: Path) -> Iterator[dict]:
    """What a tool makes within the budgets in all of its ways, or why not; and that it is through."""
    with tempfile.TemporaryDirectory() as text:
        folder, data = Path(text), Path(text) / "calibration.npz"
        np.savez(data, **judge.subject.calibration)
        command = [python, Path(__file__).with_name("worker.py"), tool, judge.subject.path, data, folder]
        names = [[way.removeprefix(f"{tool}: "), share] for way, share in done]
        (folder / "done.json").write_text(json.dumps(names), encoding="utf-8")
        alone = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        started = [*command, *map(str, SHARES)]
        with subprocess.Popen(started, stdout=subprocess.PIPE, text=True, env=alone) as worker:
            assert worker.stdout is not None
            for line in worker.stdout:
                if line.startswith('{"way"'):
                    yield _judged(judge, tool, json.loads(line), folder)
        if worker.returncode == 0:
            yield {"complete": True}


def _judged(judge: Judge, tool: str, row: dict, folder: Path) -> dict:
    """The row of one model that a tool made, or declined to make."""
    full = {"way": f"{tool}: {row['way']}", "asked": row["share"], "version": row.get("version", "")}
    if "reason" in row:
        return full | {"reason": row["reason"]}
    try:
        return full | {"strength": row["strength"]} | judge.of(folder / row["file"])
    except OnnxMergeError as error:
        return full | {"reason": f"what it writes does not run: {error}"[:160]}


def run(arguments: argparse.Namespace) -> None:
    rows = (
        [json.loads(line) for line in arguments.out.read_text().splitlines()]
        if arguments.out.exists()
        else []
    )
    through = {(row["network"], row["run"]) for row in rows if "complete" in row}
    runtime = Runtime.create("cpu", 1)
    for name in arguments.only or (*CLASSIFIERS, *OTHERS):
        made = {(row["way"], row["asked"]) for row in rows if row["network"] == name and "asked" in row}
        asked = [
            way for way in arguments.ways
            if (name, way) not in through and not (way in OWN and {(way, s) for s in SHARES} <= made)
        ]  # fmt: skip
        if not asked:
            continue
        try:
            judge = Judge(subject(arguments.shared, name), runtime)
        except FileNotFoundError as error:
            print(f"{name}: skipped, {error}", file=sys.stderr)
            continue
        for way in asked:
            new = (
                own_rows(judge, way, made)
                if way in OWN
                else rival_rows(judge, way, made, environment(arguments.environment))
            )
            for row in new:
                full = {"network": name, "run": way, "way": way, "about": judge.subject.about} | row
                with arguments.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(full) + "\n")
                print(full, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run")
    runs.add_argument("--shared", type=Path, required=True, help="a folder with models, data and corpus")
    runs.add_argument("--out", type=Path, required=True)
    runs.add_argument("--environment", type=Path, default=Path(tempfile.gettempdir()) / "rivals" / "venv")
    runs.add_argument("--only", nargs="*", help="names of networks")
    runs.add_argument("--ways", nargs="*", default=[*OWN, *TOOLS], choices=[*OWN, *TOOLS])
    runs.set_defaults(do=run)
    tables = commands.add_parser("table")
    tables.add_argument("rows", type=Path)
    tables.set_defaults(do=lambda arguments: write(arguments.rows))
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
