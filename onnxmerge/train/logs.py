"""What happened in training: a JSON-lines file, and TensorBoard's where that is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


class Log:
    """Writes scalars by step into a folder: ``log.jsonl``, and event files if TensorBoard is installed."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / "log.jsonl"
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._board = None
        else:
            self._board = SummaryWriter(str(self.folder))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
