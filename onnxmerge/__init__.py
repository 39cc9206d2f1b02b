"""Make trained ONNX networks smaller and faster without retraining."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnxmerge.version import __version__ as __version__

if TYPE_CHECKING:
    from onnxmerge.comparison import compare
    from onnxmerge.config import Config, Recovery
    from onnxmerge.data import Dataset, ImageOptions
    from onnxmerge.data.recording import record
    from onnxmerge.errors import OnnxMergeError
    from onnxmerge.pipeline import inspect, optimize, sweep
    from onnxmerge.plan import Plan
    from onnxmerge.report import Comparison, Inspection, Report, Sweep
    from onnxmerge.result import Result

# Loaded on first use: the command line answers --help and Ctrl-C before onnxruntime is imported.
_HOMES = {
    "Comparison": "onnxmerge.report",
    "Config": "onnxmerge.config",
    "Dataset": "onnxmerge.data",
    "ImageOptions": "onnxmerge.data",
    "Inspection": "onnxmerge.report",
    "OnnxMergeError": "onnxmerge.errors",
    "Plan": "onnxmerge.plan",
    "Recovery": "onnxmerge.config",
    "Report": "onnxmerge.report",
    "Result": "onnxmerge.result",
    "Sweep": "onnxmerge.report",
    "compare": "onnxmerge.comparison",
    "inspect": "onnxmerge.pipeline",
    "optimize": "onnxmerge.pipeline",
    "record": "onnxmerge.data.recording",
    "sweep": "onnxmerge.pipeline",
}
__all__ = [
    "Comparison",
    "Config",
    "Dataset",
    "ImageOptions",
    "Inspection",
    "OnnxMergeError",
    "Plan",
    "Recovery",
    "Report",
    "Result",
    "Sweep",
    "compare",
    "inspect",
    "optimize",
    "record",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'onnxmerge' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
