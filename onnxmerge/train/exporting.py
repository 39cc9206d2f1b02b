"""From a torch module to an ONNX model whose initializers are the module's parameters."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import onnx
import torch
from torch import Tensor, nn

from onnxmerge.errors import ModelError
from onnxmerge.train.executor import OnnxModule

Example = Tensor | Sequence[Tensor]
Exporter = Callable[[nn.Module, Example], onnx.ModelProto]


def inputs_of(example: Example) -> tuple[Tensor, ...]:
    """The positional inputs of a module."""
    return (example,) if isinstance(example, Tensor) else tuple(example)


def input_names(example: Example) -> list[str]:
    count = len(inputs_of(example))
    return ["input"] if count == 1 else [f"input_{i}" for i in range(count)]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """The module in evaluation mode, without gradients; every part gets its own mode back."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield module
    finally:
        for part in training:
            part.training = True


def to_onnx(module: nn.Module, example: Example) -> onnx.ModelProto:
    """Export a module with names and layers as they are: nothing is folded, the batch is dynamic.

    The TorchScript-based exporter is used: it needs no further package, is quick, and gives every
    parameter its name. Inputs are named ``input`` (or ``input_0``, ...), outputs ``output`` (or
    ``output_0``, ...).

    A module that was made from an ONNX file gives that file back, with its weights as they are now.

    Raises:
        ModelError: the module cannot be exported.
    """
    if isinstance(module, OnnxModule):
        return module.to_model()
    inputs = inputs_of(example)
    with evaluating(module):
        result = module(*inputs)
        count = 1 if isinstance(result, Tensor) else len(result)
        names = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
        batched = [name for name, x in zip(input_names(example), inputs, strict=True) if x.ndim]
        file = io.BytesIO()
        with warnings.catch_warnings():
            # Its deprecation, and the exporter's remarks on shapes that are constant in the trace.
            warnings.simplefilter("ignore")
            try:
                torch.onnx.export(
                    module,
                    inputs,
                    file,  # type: ignore[arg-type] # a buffer is meant for this exporter
                    dynamo=False,
                    training=torch.onnx.TrainingMode.PRESERVE,
                    do_constant_folding=False,
                    input_names=input_names(example),
                    output_names=names,
                    dynamic_axes={name: {0: "batch"} for name in (*batched, *names)},
                )
            except Exception as error:  # the exporter raises many unrelated classes
                line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise ModelError(f"the module cannot be exported to ONNX: {line}") from error
    return onnx.load_from_string(file.getvalue())
