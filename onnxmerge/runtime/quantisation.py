"""Models in fewer bits, by onnxruntime's own tools: int8 with QuantizeLinear pairs, and float16.

Both keep the float32 inputs and outputs, so that what runs the model need not change.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxmerge.errors import ModelError
from onnxmerge.runtime.messages import sentence
from onnxmerge.runtime.session import Feed, ort

# Scales per channel are an attribute since this version of the operators.
_LEAST_OPSET, _LEAST_IR = 13, 7
_FATAL_ONLY, _WARNINGS = 4, 2
# What the quantiser leaves in the metadata of a model, for itself to find.
_MARK = "onnxruntime.quant"


@dataclass(frozen=True)
class Int8:
    """How numbers become int8; weights are signed, symmetric, and have a scale per output channel.

    Attributes:
        signed: whether activations are signed, too.
        symmetric: whether zero is at the centre of their range.
        seven_bits: whether weights keep to 7 bits, where sums of products would overflow.
        why: the choice in words.
        for_tensorrt: whether biases stay float32 and every reader has QuantizeLinear pairs of its own: its
            parser takes no int32, and no pair that several nodes read.
    """

    signed: bool
    symmetric: bool
    seven_bits: bool
    why: str
    for_tensorrt: bool = False

    @staticmethod
    def of(target: str) -> Int8:
        """What suits a target: ``cpu`` (this one), ``cuda`` or ``tensorrt``; by onnxruntime's advice."""
        if target != "cpu":
            why = f"signed and symmetric activations, as {target} computes them"
            return Int8(True, True, False, why, for_tensorrt=target == "tensorrt")
        if platform.machine().lower() in ("arm64", "aarch64"):
            return Int8(True, False, False, "signed activations, as ARM's kernels compute them")
        if _has_vnni():
            return Int8(False, False, False, "unsigned activations, as x86 computes them; it has VNNI")
        why = "unsigned activations; weights of 7 bits, for without VNNI x86 saturates sums of 8 bits"
        return Int8(False, False, True, why)


def to_int8(model: onnx.ModelProto, feeds: Iterable[Feed], how: Int8) -> onnx.ModelProto:
    """A model with int8 weights and activations, with ranges from the smallest to the largest value seen.

    Args:
        model: float32, all weights in memory.
        feeds: what is run to see the ranges of activations.

    Raises:
        ModelError: onnxruntime's quantiser cannot do it.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            self._left = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self._left, None)

    options = {
        "WeightSymmetric": True,
        "ActivationSymmetric": how.symmetric,
        "QuantizeBias": not how.for_tensorrt,
        "DedicatedQDQPair": how.for_tensorrt,
    }

    def convert(folder: Path) -> onnx.ModelProto:
        # By its path: of a model in memory it takes the weights away.
        onnx.save(_recent(model), folder / "model.onnx")
        quant_pre_process(str(folder / "model.onnx"), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
        quantize_static(
            str(folder / "prepared.onnx"),
            str(folder / "int8.onnx"),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=how.seven_bits,
            activation_type=QuantType.QInt8 if how.signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options=options,
        )
        return onnx.load(folder / "int8.onnx")

    return _finished(_converted(convert, "int8"), model)


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with float16 weights and activations, but for operators that have no kernels for them.

    Raises:
        ModelError: onnxruntime's converter cannot do it.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    def convert(_: Path) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        made = ONNXModel(convert_float_to_float16(copy, keep_io_types=True))
        made.topological_sort()  # the casts of inputs come last
        return made.model

    return _finished(_converted(convert, "fp16"), model)


def _converted(convert: Callable[[Path], onnx.ModelProto], name: str) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder, _quiet():
        try:
            return convert(Path(folder))
        except MemoryError:
            raise
        except Exception as failure:  # the tools raise whatever a strange graph leads them into
            raise ModelError(
                f"onnxruntime's tools cannot turn the model into {name}: {type(failure).__name__}: "
                f"{sentence(failure)}; leave precision= out"
            ) from failure


def _recent(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in a version of the operators with scales per channel, its weights constants."""
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    recent = onnx.ModelProto()
    recent.CopyFrom(model)
    if opset < _LEAST_OPSET:
        recent = onnx.version_converter.convert_version(recent, _LEAST_OPSET)
    # What is an input, too, might be fed another value, and BatchNorm would not be folded into it.
    stored = {tensor.name for tensor in recent.graph.initializer}
    inputs = [value for value in recent.graph.input if value.name not in stored]
    del recent.graph.input[:]
    recent.graph.input.extend(inputs)
    recent.ir_version = max(recent.ir_version, _LEAST_IR)
    return recent


def _finished(made: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """What the tools made, without what they leave behind, and as the source calls itself."""
    kept = [(entry.key, entry.value) for entry in made.metadata_props if entry.value != _MARK]
    del made.metadata_props[:]
    for key, value in kept:
        made.metadata_props.add(key=key, value=value)
    made.producer_name, made.producer_version = source.producer_name, source.producer_version
    made.graph.name = source.graph.name
    used = {node.domain for node in _nodes(made.graph)} | {f.domain for f in made.functions} | {"", "ai.onnx"}
    imports = [entry for entry in made.opset_import if entry.domain in used]
    del made.opset_import[:]
    made.opset_import.extend(imports)
    return made


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _has_vnni() -> bool:
    """Whether this CPU multiplies bytes without saturation; False where nothing says so."""
    try:
        return bool(re.search(r"\b(avx512_vnni|avx_vnni)\b", Path("/proc/cpuinfo").read_text()))
    except OSError:
        return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the tools log and warn: what a user should know of a result is measured."""
    root, own = logging.getLogger(), logging.getLogger("onnxruntime")
    level = own.level
    # The tools load sessions of their own. What the level was cannot be asked; this is the usual one.
    ort.set_default_logger_severity(_FATAL_ONLY)
    root.addFilter(_from_tools)
    own.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ort.set_default_logger_severity(_WARNINGS)
        own.setLevel(level)
        root.removeFilter(_from_tools)


def _from_tools(record: logging.LogRecord) -> bool:
    """Whether a record that was logged at the root comes of somebody else."""
    return "onnxruntime" not in record.pathname
