"""Peak memory and processor time of a run at the default, over twelve published networks.

    pip install timm transformers torchvision
    python tools/memory.py [--only TEXT ...] [--models FOLDER] [--again] [--table]

Networks of ``tools/zoo.py`` with random weights, each made smaller by the command line in a process of its
own, on one thread and with 64 samples. No data are given: images are generic photographs under all plausible
conventions, other inputs are made up. Rows go to tools/results/memory.json, a table beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from architectures import HERE, bar, child, exported, last_line, options

RESULTS = HERE / "results" / "memory.json"
# Answers of random weights change a lot, which would be refused.
OPTIONS = ("--macs", "0.6", "--samples", "64", "--threads", "1", "--tolerance", "1")
NETWORKS = (
    "timm resnet50", "timm swin_tiny_patch4_window7_224", "timm efficientnet_b0", "timm densenet121",
    "timm inception_v3", "timm resnet18", "timm mobilenetv2_100", "timm convnext_atto",
    "timm vit_tiny_patch16_224", "timm nfnet_l0", "torchvision googlenet", "transformers bert",
)  # fmt: skip
# Of wall time: processors may be shared.
LIMIT = 3600


def measured(name: str, folder: Path) -> dict[str, Any]:
    """A row for a network, exported to the folder where it is not there yet."""
    stem = "".join(c if c.isalnum() else "_" for c in name)
    model, inputs, log, output = (folder / f"{stem}{end}" for end in (".onnx", ".npz", ".log", ".out.onnx"))
    why = exported({"name": name}, model, inputs, log)
    if why:
        return {"name": name, "said": why}
    command = [sys.executable, "-m", "onnxmerge", str(model), str(output), *OPTIONS]
    ran = child(command, log, LIMIT)
    output.unlink(missing_ok=True)
    size = model.stat().st_size
    return {
        "name": name,
        "code": ran.code,
        "bytes": size,
        "peak": ran.peak,
        "bar": bar(size),
        "processor": round(ran.processor, 1),
        "said": last_line(log) if ran.code else "",
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "# Memory",
        "",
        f"`python tools/memory.py`: {len(rows)} of {len(NETWORKS)} networks with random weights, "
        f"`onnxmerge IN OUT {' '.join(OPTIONS)}` without data. Peak: the largest resident set of the whole "
        "process, Python and its libraries included. Bar: twice the model and 0.8 GB (1.6 times and 0.6 GB "
        "from 256 MB on). Processor seconds are those of a machine that others may use, too. A row "
        "stays until it is made again.",
        "",
        "| network | model, MB | peak, MB | bar, MB | within | processor s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.get("code") != 0:
            lines.append(f"| {row['name']} | {row['said']} | | | | |")
            continue
        size, peak, most = (f"{row[key] / 1e6:.0f}" for key in ("bytes", "peak", "bar"))
        within = "yes" if row["peak"] <= row["bar"] else "no"
        lines.append(f"| {row['name']} | {size} | {peak} | {most} | {within} | {row['processor']:.0f} |")
    return "\n".join(lines) + "\n"


def rows_there() -> dict[str, dict[str, Any]]:
    """The rows that are kept, by name; read whenever they are needed: several runs may go side by side."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def main() -> None:
    arguments = options(__doc__).parse_args()
    arguments.models.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        asked = any(text in name for text in arguments.only)
        if arguments.table or not asked or (name in rows_there() and not arguments.again):
            continue
        row = measured(name, arguments.models)
        print(row, flush=True)
        known = rows_there()
        ordered = {n: (known | {name: row})[n] for n in NETWORKS if n in known or n == name}
        RESULTS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(table(list(rows_there().values())), encoding="utf-8")


if __name__ == "__main__":
    main()
