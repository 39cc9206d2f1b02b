"""What MkDocs asks while it builds the documentation: the text of ``--help``, as the program prints it.

A line ``{{ help optimize }}`` in a page becomes the help of that verb.
"""

from __future__ import annotations

import os
import re
from typing import Any

from onnxmerge.cli import options

_PARSERS = {
    "optimize": options.optimize_parser,
    "inspect": options.inspect_parser,
    "sweep": options.sweep_parser,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of every page."""
    return re.sub(r"^\{\{ help (\w+) \}\}$", lambda found: _help(found[1]), markdown, flags=re.MULTILINE)


def _help(verb: str) -> str:
    os.environ["COLUMNS"] = "88"
    return f"```text\n{_PARSERS[verb]().format_help().rstrip()}\n```"
