"""Models inside real applications, made smaller, put back, and judged by what the application is for.

    python tools/applications install DIR          an environment with the applications and onnxmerge
    DIR/bin/python tools/applications run --out rows.jsonl [--only NAME ...] [--photographs FOLDER]
    DIR/bin/python tools/applications table rows.jsonl > tools/results/applications.md
    DIR/bin/python tools/applications picture rows.jsonl > tools/results/applications.svg

For every application: its own client answers cases made here, and what it feeds its session is recorded
(``onnxmerge.record``). The command line makes the model smaller from the record, or without data. The same
client answers other cases, which calibrated nothing, with the smaller model in the place of its own. All on
one thread; times are ratios of processor time to the original, runs taking turns, over inputs of the judged
cases. Rows are appended one by one, and those that are there are skipped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

# What is asked of every model. `{calib}` is where the recorded inputs are.
BUDGETS: dict[str, Sequence[str]] = {
    "latency 0.85": ("--latency", "0.85", "--calib", "{calib}"),
    "macs 0.9": ("--macs", "0.9", "--calib", "{calib}"),
    "macs 0.7": ("--macs", "0.7", "--calib", "{calib}"),
    "macs 0.5": ("--macs", "0.5", "--calib", "{calib}"),
    "macs 0.7, no data": ("--macs", "0.7"),
    "latency 0.85, recovery": ("--latency", "0.85", "--calib", "{calib}", "--recover", "3m"),
    "latency 0.85, 10 minutes of recovery": ("--latency", "0.85", "--calib", "{calib}", "--recover", "10m"),
}
JUDGED = 300
# Recorded and judged cases are drawn with these seeds.
RECORDED_SEED, JUDGED_SEED = 0, 1
_ROOT = Path(__file__).parents[2]


def applications(photographs: Path | None = None) -> dict[str, Any]:
    """All applications by name."""
    from detector import PHOTOGRAPHS, Detector
    from files import Files
    from lines import Captchas, TextLines
    from notes import Notes

    found = (Files(), Detector(photographs or PHOTOGRAPHS), Captchas(), TextLines(), Notes())
    return {one.name: one for one in found}


def install(arguments: argparse.Namespace) -> None:
    """Make the environment. Packages that are not to be had are named, and left out when things are run."""
    subprocess.run([sys.executable, "-m", "venv", arguments.folder], check=True)
    pip = [str(arguments.folder / "bin" / "python"), "-m", "pip", "install", "-q"]
    # torch is for the row with recovery alone; torch first, or the extra brings the CUDA build.
    subprocess.run([*pip, "torch==2.13.0"], check=True)
    subprocess.run([*pip, "-e", f"{_ROOT}[cpu,train]"], check=True)
    for name, one in applications().items():
        done = subprocess.run([*pip, *one.packages], check=False).returncode == 0
        if done and one.without_dependencies:
            done = subprocess.run([*pip, "--no-deps", *one.without_dependencies], check=False).returncode == 0
        print(f"{name}: {'installed' if done else 'not to be had here'}")


def run(arguments: argparse.Namespace) -> None:
    done = {(row["application"], row["budget"]) for row in _rows(arguments.out)}
    for name, one in applications(arguments.photographs).items():
        if arguments.only and name not in arguments.only:
            continue
        asked = [budget for budget in arguments.budgets if (name, budget) not in done]
        if not asked:
            continue
        try:
            source = one.model()
        except ImportError as error:
            print(f"{name}: skipped, {error}", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(one, source, Path(folder), arguments.samples, arguments.keep)
            for budget in asked:
                row = bench.row(budget)
                with arguments.out.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(row) + "\n")
                print(row, flush=True)


class Bench:
    """One application: recorded inputs, judged cases, and what the original makes of these."""

    def __init__(self, one: Any, source: Path, folder: Path, judged: int, keep: Path | None) -> None:
        import onnxmerge

        self._one, self._source, self._folder, self._keep = one, source, folder, keep
        self._calib = folder / "recorded"
        client = one.client(source)
        with onnxmerge.record(client.session, self._calib):
            for case in one.cases(one.calibration, RECORDED_SEED):
                client(case.given)
        self._cases = one.cases(judged, JUDGED_SEED)
        self._answers, self._feeds = _answered(one.client(source), self._cases)
        truths = [case.truth for case in self._cases]
        self._truths = self._answers if truths[0] is None else truths
        self._score = one.score(self._answers, self._truths)

    def row(self, budget: str) -> dict[str, Any]:
        """Make the model smaller, put it back, and judge it."""
        one = self._one
        target, report = self._folder / "smaller.onnx", self._folder / "report.json"
        target.unlink(missing_ok=True)
        options = [option.replace("{calib}", str(self._calib)) for option in BUDGETS[budget]]
        command = [sys.executable, "-m", "onnxmerge", str(self._source), str(target), *options]
        command += ["--threads", "1", "--report", str(report), "--quiet"]
        begin = time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        row = {
            "application": one.name, "metric": one.metric, "unit": one.unit, "told_by": one.told_by,
            "budget": budget, "cases": len(self._cases), "recorded": one.calibration,
            "original": self._score, "exit": ended.returncode,
            "error": ended.stderr.strip().splitlines()[-1] if ended.returncode else None,
            "seconds": time.perf_counter() - begin,
        }  # fmt: skip
        if ended.returncode:
            return row
        if self._keep is not None:
            self._keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(target, self._keep / f"{one.name} {budget}.onnx")
        said = json.loads(report.read_text(encoding="utf-8"))
        client = one.client(target)
        answers, _ = _answered(client, self._cases)
        return row | {
            "score": one.score(answers, self._truths),
            "differing": 1 - one.score(answers, self._answers) / one.unit,
            "time": self._time(client.session),
            "macs": said["output"]["macs"] / said["input"]["macs"],
            "change": said["parity"]["change"],
            "at_most": said["parity"]["change_upper_90"],
            "basis": said["parity"]["basis"],
            "answers": said["headline"]["answers"],
            "unchanged": said["unchanged"],
        }

    def _time(self, smaller: Any) -> float:
        """The ratio of the processor time of a run, over inputs of judged cases, both models taking turns."""
        original = self._one.client(self._source).session
        spent = {id(original): 0.0, id(smaller): 0.0}
        for turn, feed in enumerate(self._feeds[:60] * 3):
            for session in (original, smaller) if turn % 2 else (smaller, original):
                begin = time.thread_time()
                session.run(None, feed)
                spent[id(session)] += time.thread_time() - begin
        return spent[id(smaller)] / spent[id(original)]


def _answered(client: Any, cases: Sequence[Any]) -> tuple[list[Any], list[dict[str, Any]]]:
    """The client's answers, and what its session was fed."""
    feeds: list[dict[str, Any]] = []
    session = client.session

    def seen(names: Any, feed: dict[str, Any], *rest: Any) -> Any:
        feeds.append(dict(feed))
        return type(session).run(session, names, feed, *rest)

    session.run = seen
    try:
        return [client(case.given) for case in cases], feeds
    finally:
        del session.run


def table(arguments: argparse.Namespace) -> None:
    """Print the table in Markdown."""
    print(HEADER)
    columns = ("application", "budget", "measure", "lost", "time", "MACs", "said to change", "at most (90%)")
    print(f"| {' | '.join((*columns, 'did change'))} |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows = sorted(_rows(arguments.rows), key=lambda row: list(BUDGETS).index(row["budget"]))
    for name in dict.fromkeys(row["application"] for row in rows):
        for row in (row for row in rows if row["application"] == name):
            print(f"| {' | '.join(_cells(row))} |")
    for row in rows:
        if row["exit"]:
            print(f"\n{row['application']}, {row['budget']}: {row['error']}")


def draw(arguments: argparse.Namespace) -> None:
    """Print the picture as SVG."""
    from picture import picture

    print(picture(sorted(_rows(arguments.rows), key=lambda row: row["application"])), end="")


def _cells(row: dict[str, Any]) -> list[str]:
    digits = 1 if row["unit"] == 100 else 3
    first = [row["application"], row["budget"]]
    before = f"{row['original']:.{digits}f}"
    if row["exit"]:
        return [*first, f"{before}, exit {row['exit']}", *["-"] * 6]
    after, lost = f"{row['score']:.{digits}f}", (row["original"] - row["score"]) / row["unit"]
    said = f"{row['change']:.1%}{' on stand-ins' if row['basis'] in ('photographs', 'made up') else ''}"
    return [
        *first, f"{before} > {after}", f"{lost:.1%}", f"{row['time']:.2f}", f"{row['macs']:.2f}",
        said, f"{row['at_most']:.1%}", f"{row['differing']:.1%}",
    ]  # fmt: skip


HEADER = """# Models inside real applications

Made with `tools/applications`: the application's own client answers cases that calibrated nothing, with the
smaller model in the place of its own. *Measure* is the task's: files whose type is right (magika, by their
suffixes), exact lines (ddddocr, RapidOCR, by what was rendered), F1 of boxes (NudeNet, by the original's
own), F1 of notes (basic-pitch, by what was synthesised). *Lost* is what of it is gone, in points of its full
score. *Did change* is the share of answers that are not the original's, right or wrong: that is what
onnxmerge, which has no labels, can speak of, and *said to change* is what it said. *Time* is processor time
of one thread.
"""


def _rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    installing = verbs.add_parser("install")
    installing.add_argument("folder", type=Path)
    installing.set_defaults(run=install)
    running = verbs.add_parser("run")
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--only", nargs="*", metavar="NAME")
    running.add_argument("--budgets", nargs="*", choices=BUDGETS, default=list(BUDGETS))
    running.add_argument("--samples", type=int, default=JUDGED, help="cases that are judged")
    running.add_argument("--photographs", type=Path, help="a folder of photographs, with people in them")
    running.add_argument("--keep", type=Path, metavar="FOLDER", help="where the smaller models go")
    running.set_defaults(run=run)
    printing = verbs.add_parser("table")
    printing.add_argument("rows", type=Path)
    printing.set_defaults(run=table)
    drawing = verbs.add_parser("picture")
    drawing.add_argument("rows", type=Path)
    drawing.set_defaults(run=draw)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
