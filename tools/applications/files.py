"""magika: which type a file has, on files of this machine whose suffix tells."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from application import Case, Client, session

# The label that magika gives files of a suffix; suffixes that say little (.txt, .so, .in) are left out.
LABELS = {
    ".py": "python", ".c": "c", ".h": "c", ".cc": "cpp", ".cpp": "cpp", ".hpp": "cpp", ".js": "javascript",
    ".ts": "typescript", ".json": "json", ".html": "html", ".css": "css", ".xml": "xml", ".svg": "svg",
    ".md": "markdown", ".rst": "rst", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".csv": "csv",
    ".sh": "shell", ".pl": "perl", ".pm": "perl", ".pyc": "pythonbytecode", ".png": "png", ".jpg": "jpeg",
    ".gif": "gif", ".gz": "gzip", ".zip": "zip", ".whl": "zip", ".ttf": "ttf", ".pdf": "pdf",
    ".java": "java", ".go": "go", ".rs": "rust", ".lua": "lua", ".awk": "awk", ".cmake": "cmake",
    ".sql": "sql", ".php": "php", ".rb": "ruby", ".wav": "wav", ".m4": "m4", ".ipynb": "ipynb",
}  # fmt: skip
# A suffix gives at most so many files: most of a machine's are Python.
_MOST = 60
# Smaller files never reach the model.
_LEAST_BYTES = 64


class Files:
    name = "magika"
    packages = ("magika",)
    without_dependencies = ()
    metric = "files whose type is right"
    unit = 100.0
    told_by = "the files' suffixes"
    calibration = 300

    def model(self) -> Path:
        import magika

        (found,) = (Path(magika.__file__).parent / "models").glob("*/model.onnx")
        return found

    def client(self, model: Path) -> Client:
        return _Client(model, self.model().parent)

    def cases(self, count: int, seed: int) -> list[Case]:
        generator = np.random.default_rng(0)
        by_suffix: dict[str, list[Path]] = {}
        roots = (Path(sysconfig.get_paths()["stdlib"]), Path(sys.prefix), Path("/usr"))
        for path in (p for root in roots for p in sorted(root.rglob("*"))):
            if path.suffix in LABELS and path.is_file() and not path.is_symlink():
                by_suffix.setdefault(path.suffix, []).append(path)
        chosen: list[Case] = []
        for suffix, paths in sorted(by_suffix.items()):
            big = [p for p in dict.fromkeys(paths) if p.stat().st_size >= _LEAST_BYTES]
            generator.shuffle(big)  # type: ignore[arg-type]
            chosen += [Case(path, LABELS[suffix]) for path in big[:_MOST]]
        generator.shuffle(chosen)  # type: ignore[arg-type]
        # Seeds take turns, so that no file is in the draws of two of them.
        return chosen[seed % 2 :: 2][:count]

    def score(self, answers: Sequence[Any], truths: Sequence[Any]) -> float:
        return 100 * float(np.mean([a == t for a, t in zip(answers, truths, strict=True)]))


class _Client:
    def __init__(self, model: Path, configuration: Path) -> None:
        import magika

        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(model, Path(folder) / "model.onnx")
            for extra in configuration.glob("*.json"):
                shutil.copy(extra, folder)
            self._magika = magika.Magika(model_dir=Path(folder))
            self.session = self._magika._onnx_session = session(model)

    def __call__(self, given: Path) -> str:
        return str(self._magika.identify_path(given).dl.label)
