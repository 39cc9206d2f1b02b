"""The command line."""

from onnxmerge.cli.main import main, run

__all__ = ["main", "run"]
