"""Reach and equality of the architectures of the tests at full size, from both exporters of torch.

    python tools/architectures.py [--only NAME ...] [--out FILE]

For every network: what each group could give at most (reach), and the largest difference of a pruned
model from its masked reference, relative to the range of each output, over random selections.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import exporting
import support

from onnxmerge.channels.explain import explain

SELECTIONS = 2
# Random deep networks amplify rounding: half of the channels stay at least.
LEAST_KEPT = 0.5


def measure(name: str, dynamo: bool) -> dict[str, object]:
    """One row of the result."""
    start = time.monotonic()
    proto = exporting.export(name, dynamo, full=True)
    exported = time.monotonic()
    sample = exporting.ARCHITECTURES[name].sample(full=True, batch=1)
    model = support.analysed(proto, {proto.graph.input[0].name: sample})
    analysed = time.monotonic()
    differences = [
        support.difference(model, model.selection(seed, LEAST_KEPT), checked=False)
        for seed in range(SELECTIONS)
    ]
    explanation = explain(model.channels, model.cost)
    return {
        "name": name,
        "exporter": "dynamo" if dynamo else "torchscript",
        "nodes": len(model.channels.view.nodes),
        "groups": len(explanation.groups),
        "reach": round(explanation.reach, 4),
        "difference": float(f"{max(differences):.1e}"),
        "frozen": {entry.reason: entry.count for entry in explanation.frozen},
        "seconds": {"export": round(exported - start, 1), "analysis": round(analysed - exported, 1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=list(exporting.ARCHITECTURES), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "architectures.json")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.only:
        for dynamo in (False, True):
            rows.append(measure(name, dynamo))
            row = rows[-1]
            print(f"{name:14} {row['exporter']:11} groups {row['groups']:4} reach {row['reach']:.3f} "
                  f"difference {row['difference']:.0e} {row['seconds']}", flush=True)  # fmt: skip
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("written", arguments.out)


if __name__ == "__main__":
    main()
