"""Write what ``--help`` prints into docs/command-line.md; to be run where an option changes.

python tools/docs_help.py
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from onnxmerge.cli import options

PAGE = Path(__file__).parents[1] / "docs" / "command-line.md"
PARSERS = {
    "onnxmerge IN OUT": options.optimize_parser,
    "onnxmerge inspect": options.inspect_parser,
    "onnxmerge sweep": options.sweep_parser,
    "onnxmerge plan": options.plan_parser,
    "onnxmerge apply": options.apply_parser,
    "onnxmerge compare": options.compare_parser,
}


def main() -> None:
    os.environ["COLUMNS"] = "88"
    parts = ["# Command line", "`python -m onnxmerge` is the same program as `onnxmerge`."]
    for title, parser in PARSERS.items():
        help_text = re.sub(r"[ \t]+$", "", parser().format_help(), flags=re.MULTILINE).rstrip()
        parts += [f"## {title}", f"```text\n{help_text}\n```"]
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
