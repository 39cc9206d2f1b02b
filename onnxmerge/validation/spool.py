"""Outputs of a model, kept on disk until another model has run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Spool:
    """Outputs feed by feed, in a temporary folder that goes with the block it is used in."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="onnxmerge-", ignore_cleanup_errors=True)
        self._kept: list[dict[str, Any]] = []

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def add(self, outputs: Mapping[str, Any]) -> None:
        """Put the outputs of one feed away; what is no array of numbers stays in memory."""
        kept: dict[str, Any] = {}
        for i, (name, value) in enumerate(outputs.items()):
            if isinstance(value, np.ndarray) and not value.dtype.hasobject:
                path = Path(self._folder.name) / f"{len(self._kept)}_{i}.npy"
                np.save(path, value)
                kept[name] = path
            else:
                kept[name] = value
        self._kept.append(kept)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for kept in self._kept:
            yield {name: np.load(v) if isinstance(v, Path) else v for name, v in kept.items()}
