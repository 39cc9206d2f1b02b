"""How far the analysis reaches into a folder of models, and whether pruned equals masked for each.

    python tools/reach.py FOLDER [--out FILE] [--only TEXT ...]

Reach is the share of the multiplications that goes when every group keeps one channel. An ``index.json``
in the folder may list, per file, ``run_input_shapes``, ``runs`` and ``nondeterministic``; without it all
free lengths are 1. Files under half of the reach are listed with their reasons.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import folders

# What is listed in full is below this.
LOW_REACH = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    parser.add_argument("--only", nargs="*", default=[""], help="parts of file names")
    arguments = parser.parse_args()
    entries = [e for e in folders.entries(arguments.folder) if any(t in e.path.name for t in arguments.only)]
    rows = []
    for entry in entries:
        rows.append(folders.examine(entry))
        print(folders.line(rows[-1]), flush=True)
    print(summary(rows))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def summary(rows: list[dict]) -> str:
    """Counts, mean reach over the files with convolutions, and the reasons for every low reach."""
    analysed = [row for row in rows if "reach" in row]
    convolutional = [row["reach"] for row in analysed if row["convolutions"]]
    mean = sum(convolutional) / max(len(convolutional), 1)
    text = [
        f"{len(rows)} files, {len(analysed)} analysed, {len(rows) - len(analysed)} refused; "
        f"mean reach {mean:.3f} over {len(convolutional)} files with convolutions"
    ]
    for row in (row for row in analysed if row["reach"] < LOW_REACH):
        text.append(f"{row['file']}: reach {row['reach']:.2f}")
        text += [f"    {count} channels: {reason}" for reason, count in row["frozen"].items()]
    return "\n".join(text)


if __name__ == "__main__":
    main()
