"""A loaded model: running it, timing it, and the element types that numpy lacks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxmerge.errors import DeviceError, ModelError
from onnxmerge.runtime.messages import sentence
from onnxmerge.runtime.tensor_info import TensorInfo, tensor_info

try:
    import onnxruntime as ort
except ImportError as missing:  # pragma: no cover - the tests need a runtime
    raise DeviceError(
        'onnxruntime is not installed: pip install "onnxmerge[cpu]", or "onnxmerge[gpu]" for CUDA'
    ) from missing

# ``ort`` too: whoever needs onnxruntime gets it from here, with the words for where it is missing.
__all__ = ["CUDA", "Feed", "Session", "ort"]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Inputs of one run by name.
Feed = dict[str, np.ndarray]


class Session:
    """A loaded model. ``provider`` is the one that really runs it, ``threads`` its intra-op threads.

    ``mapped`` says that its weights lie in files, and are in memory only while it runs
    (see ``graph.external_weights``).
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        threads: int,
        held: Mapping[str, ort.OrtValue] | None = None,
        *,
        arena: bool = True,
    ) -> None:
        self._session = session
        self._arena = arena
        self._held = held or {}  # what the session uses in place must outlive it
        self.mapped = bool(self._held)
        self.provider: str = session.get_providers()[0]
        self.threads = threads
        self.inputs: tuple[TensorInfo, ...] = tuple(tensor_info(i) for i in session.get_inputs())
        self.outputs: tuple[TensorInfo, ...] = tuple(tensor_info(o) for o in session.get_outputs())
        # numpy has no bfloat16, and onnxruntime refuses to convert it in either direction.
        self._narrow_in = {i.name for i in self.inputs if i.kind == "tensor(bfloat16)"}
        self._narrow_out = any(o.kind == "tensor(bfloat16)" for o in self.outputs)

    @property
    def inference_session(self) -> ort.InferenceSession:
        """onnxruntime's own session."""
        return self._session

    def run(
        self,
        feed: Mapping[str, np.ndarray],
        outputs: Sequence[str] | None = None,
        *,
        shrink: bool = False,
    ) -> dict[str, Any]:
        """Output values by name: arrays, or lists for sequences. ``outputs`` limits them to these names.

        Args:
            shrink: whether to give the memory of activations back, which is else kept for the next run.

        Raises:
            ModelError: it does not run on the feed; the message names the node where onnxruntime does.
        """
        names = [o.name for o in self.outputs] if outputs is None else list(outputs)
        if not names:
            return {}  # onnxruntime takes an empty list for all outputs
        fed: dict[str, Any] = {k: _to_bfloat16(v) if k in self._narrow_in else v for k, v in feed.items()}
        options = _shrinking() if shrink and self._arena else None
        try:
            if not self._narrow_out:
                return dict(zip(names, self._session.run(names, fed, options), strict=True))
            fed = {k: v if isinstance(v, ort.OrtValue) else ort.OrtValue.ortvalue_from_numpy(v)
                   for k, v in fed.items()}  # fmt: skip
            values = self._session.run_with_ort_values(names, fed, options)
            return {name: _from_ort(value) for name, value in zip(names, values, strict=True)}
        except MemoryError:
            raise
        except Exception as failure:  # onnxruntime raises a dozen unrelated classes
            raise ModelError(f"the model does not run: {sentence(failure)}") from failure

    def runner(self, feed: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """What runs the model once on these inputs, for timing.

        On CUDA inputs and outputs stay on the device (onnxruntime's I/O binding), and a run ends when
        the device is done. Calling it raises ModelError.
        """
        return self.bound_runner(feed, "cuda") if self.provider == CUDA else lambda: self.run(feed)

    def bound_runner(self, feed: Mapping[str, np.ndarray], device: str) -> Callable[[], None]:
        """The same with inputs and outputs bound to a device, 'cpu' or 'cuda'; tensors only."""
        binding = self._session.io_binding()
        for name, value in feed.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value, device, 0))
        for output in self.outputs:
            binding.bind_output(output.name, device, 0)

        def run() -> None:
            try:
                self._session.run_with_iobinding(binding)
                binding.synchronize_outputs()
            except Exception as failure:  # onnxruntime raises a dozen unrelated classes
                raise ModelError(f"the model does not run: {sentence(failure)}") from failure

        return run

    def end_profiling(self) -> str:
        """Stop the profiling that the session was loaded with; returns the path of its trace."""
        return self._session.end_profiling()


def _shrinking() -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _to_bfloat16(value: np.ndarray) -> ort.OrtValue:
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(rounded, TensorProto.BFLOAT16)


def _from_ort(value: ort.OrtValue) -> Any:
    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    wide = np.frombuffer(raw, np.uint16).astype(np.uint32) << 16
    return wide.view(np.float32).reshape(value.shape())
