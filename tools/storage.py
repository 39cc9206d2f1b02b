"""What a model gains with all of its channels: denormal weights as zeros, and weights that are no inputs.

    python tools/storage.py FOLDER [--only TEXT ...] [--out tools/results/storage.md]

Every ONNX file of a folder is analysed. Those with weights that are slow to compute with (denormal numbers),
or that onnxruntime cannot prepare (those of all layers are inputs of the graph, too), are written anew
with all channels, and timed beside the file, runs of the two taking turns on one thread. The answers to one
input are compared, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from onnxmerge.candidates import Builder
from onnxmerge.config import Config
from onnxmerge.errors import OnnxMergeError
from onnxmerge.pipeline import analysed
from onnxmerge.plan import Selection
from onnxmerge.progress import Clock
from onnxmerge.study import Study

HEAD = ("file", "denormal weights", "were inputs, too", "time", "largest difference")
# New sessions of both models: one may be slow as long as it lives.
SESSIONS = 3


def row(path: Path) -> tuple[str, ...] | None:
    """A file beside itself written anew; None where nothing of its storage is slow, or it does not run."""
    try:
        study = analysed(str(path), None, None, Config(samples=8, threads=1, device="cpu"), Clock())
    except OnnxMergeError as error:
        print(f"{path.name}: {error}")
        return None
    analysis = study.analysis
    if not analysis.lighter:
        return None
    candidate = Builder.of(study, study.samples.fit).cut(Selection({}))
    ratio = float(np.median([study.latency_in_new_sessions(candidate).ratio for _ in range(SESSIONS)]))
    apart = difference(study, study.session(candidate).run(study.feed))
    return path.name, f"{analysis.denormals:,}", f"{len(analysis.freed)}", f"{ratio:.2f}", f"{apart:.1e}"


def difference(study: Study, after: dict[str, np.ndarray]) -> float:
    """The largest difference of any output, as a share of its largest value."""
    before = study.source.session.run(study.feed)
    pairs = [(np.asarray(before[name], float), np.asarray(after[name], float)) for name in before]
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) for a, b in pairs if a.size)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[""], metavar="TEXT", help="parts of file names")
    parser.add_argument("--out", type=Path, help="where the table goes, in Markdown")
    arguments = parser.parse_args()
    paths, rows = sorted(arguments.folder.glob("*.onnx")), []
    paths = [path for path in paths if any(text in path.name for text in arguments.only)]
    for path in paths:
        found = row(path)
        if found is not None:
            print(*found, flush=True)
            rows.append(found)
    lines = [
        "# Weights that are stored slowly",
        "",
        f"`python tools/storage.py FOLDER`: {len(rows)} of {len(paths)} files have denormal weights, or "
        "weights that are inputs of the graph, too. *Time*: of the file written anew with all of its "
        "channels, as a share of the file's own, one thread; runs of the two took turns. Writing a file anew "
        "also merges scales into layers, which onnxruntime does while it loads where it may. *Largest "
        "difference* of any output to one input, as a share of the output's largest value.",
        "",
        *(f"| {' | '.join(cells)} |" for cells in (HEAD, ("---",) * len(HEAD), *rows)),
    ]
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
