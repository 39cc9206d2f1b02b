"""``python -m onnxmerge`` is the same program as ``onnxmerge``."""

from onnxmerge.cli import run

if __name__ == "__main__":
    run()
