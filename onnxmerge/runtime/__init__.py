"""Running models with onnxruntime, which nothing else imports."""

from onnxmerge.runtime.runtime import DEVICES, Runtime
from onnxmerge.runtime.session import Session

__all__ = ["DEVICES", "Runtime", "Session"]
