"""What all reports can do: be read by key, written as JSON or as a page, and shown in a notebook."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from onnxmerge.graph.output import atomic_write

SCHEMA_VERSION = 1


def is_page(path: str | Path) -> bool:
    """Whether a report of this name is written as a page, and not as JSON."""
    return Path(path).suffix.lower() in (".html", ".htm")


class Document(ABC):
    """Frozen values that are written as JSON or as a page; ``document["key"]`` reads the JSON's top level."""

    @property
    @abstractmethod
    def sentences(self) -> tuple[str, ...]:
        """What a person wants to know first."""

    def __repr__(self) -> str:
        # All values are pages long, and pictures are among them.
        return "\n  ".join((f"{type(self).__name__}:", *self.sentences))

    @cached_property
    def content(self) -> dict[str, Any]:
        """Plain data, in the order and with the names of the attributes; pictures are left out."""
        return _plain(asdict(self, dict_factory=_without_pictures))  # type: ignore[call-overload]

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def __contains__(self, key: object) -> bool:
        return key in self.content

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def to_json(self) -> str:
        """JSON text; figures that are not finite are null."""
        return json.dumps(_finite(self.content), indent=2)

    def to_html(self) -> str:
        """A page of its own: one file without scripts, which loads nothing."""
        from onnxmerge.report.html import page

        return page(self)

    def save(self, path: str | Path) -> None:
        """Write a page where the name ends in ``.html`` or ``.htm``, else JSON; atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        path = Path(path)
        text = self.to_html() if is_page(path) else self.to_json() + "\n"
        with atomic_write(path) as part:
            part.write_text(text, encoding="utf-8")

    def _repr_html_(self) -> str:
        """What a notebook shows: the headline and a table."""
        from onnxmerge.report.html import summary

        return summary(self)


def _without_pictures(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of one value; of a file of text nobody wants a picture in."""
    return {name: value for name, value in pairs if name != "picture"}


def _plain(value: Any) -> Any:
    """Mappings as dicts, sequences as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
