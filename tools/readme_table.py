"""Print the README's before/after table: the shipped model at half of its multiplications.

    python tools/readme_table.py

Accuracy is measured on the test images, which neither training nor calibration has seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

import onnxmerge
from onnxmerge.runtime import Runtime

MODELS = Path(__file__).parents[1] / "models"
METHODS = {
    "l1 pruning": {"criterion": "l1", "compensation": "none", "align": 1},
    "neuron merging, as published": {"criterion": "l1", "compensation": "merge", "align": 1},
    "onnxmerge, no data given (`--scale 0.0039216`)": {"calibration": None, "scale": 1 / 255},
    "onnxmerge, 512 unlabelled images": {},
}


def accuracy(model: onnx.ModelProto, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of right answers."""
    answers = Runtime.create("cpu").session(model).run({"image": images})["logits"].argmax(axis=1)
    return float((answers == labels).mean())


def main() -> None:
    test = np.load(MODELS / "digits_test.npz")
    images, labels = test["image"], test["label"]
    dense = onnx.load(MODELS / "digits.onnx")
    print("| `models/digits.onnx` at `--macs 0.5` | MACs | parameters | latency | test accuracy |")
    print("|---|---|---|---|---|")
    rows = {}
    for name, options in METHODS.items():
        options = {"calibration": MODELS / "digits_calib.npz"} | options
        if "scale" in options:
            options["images"] = onnxmerge.ImageOptions(scale=options.pop("scale"))
        result = onnxmerge.optimize(dense, macs=0.5, evaluation=images, threads=1, **options)
        rows[name] = (result.report, accuracy(result.model, images, labels))
    before = next(iter(rows.values()))[0]["input"]
    print(
        f"| before | {before['macs']:,} | {before['params']:,} | 1 | {accuracy(dense, images, labels):.1%} |"
    )
    for name, (report, right) in rows.items():
        after, ratio = report["output"], report["latency"]["ratio"]
        print(f"| {name} | {after['macs']:,} | {after['params']:,} | {ratio:.2f} | {right:.1%} |")


if __name__ == "__main__":
    main()
