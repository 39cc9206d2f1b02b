"""An ONNX graph as a torch module: its weights can be trained and written back under their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import is_
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn

from onnxmerge.errors import ModelError
from onnxmerge.graph import canonicalize, export_model
from onnxmerge.graph.constants import constant_tensor, constant_values
from onnxmerge.graph.edit import Editor
from onnxmerge.train.executor import indexing, layout, pointwise, recurrent, resize, sums, windows
from onnxmerge.train.executor.call import Call, Function, Result
from onnxmerge.train.executor.fusion import layers

FUNCTIONS: Mapping[str, Function] = {
    **pointwise.FUNCTIONS,
    **windows.FUNCTIONS,
    **sums.FUNCTIONS,
    **layout.FUNCTIONS,
    **indexing.FUNCTIONS,
    **recurrent.FUNCTIONS,
    **resize.FUNCTIONS,
}
# Inputs that hold weights, whatever their size; elsewhere a constant of one element is no weight.
_WEIGHTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "PRelu": (1,),
    "Gather": (0,),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), (1, 2, 3)),
}
_AFFINE = {"Add", "Sub", "Mul", "Div"}
# Operators that read the lengths of a tensor, and none of its values.
_MEASURING = {"Shape", "Size"}
_RANDOM = {"RandomNormalLike", "RandomUniformLike"}


class Step(nn.Module):
    """One node; its weights are parameters ``constant_<input>``, its other constants buffers.

    Attributes:
        of_lengths: whether it computes with lengths alone, and so the same for every feed of one shape.
    """

    def __init__(self, node: gs.Node, opset: int, batch_statistics: bool):
        super().__init__()
        self.batch_statistics = batch_statistics
        self.op = node.op
        self.function = FUNCTIONS[node.op]
        self.attributes = dict(node.attrs)
        self.opset = opset
        self.inputs = [x.name for x in node.inputs]
        self.slots = [
            "" if constant_tensor(x) is None else f"constant_{i}" for i, x in enumerate(node.inputs)
        ]
        self.outputs = [y.name for y in node.outputs]
        self.of_lengths = False
        self._last: tuple[list[Any], tuple[Tensor, ...]] = [], ()

    def forward(self, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        operands = [
            getattr(self, slot) if slot else values[name] if name else None
            for name, slot in zip(self.inputs, self.slots, strict=True)
        ]
        if self.of_lengths:
            return self._remembered(operands)
        result = self.call(*operands)
        return (result,) if isinstance(result, Tensor) else result

    def _remembered(self, operands: list[Tensor | None]) -> tuple[Tensor, ...]:
        """What came of the same operands the last time, or of a tensor of the same lengths."""
        asked: list[Any]
        if self.op in _MEASURING:
            asked = [x.shape for x in operands if x is not None]
            known = asked == self._last[0]
        else:
            asked = operands
            known = len(asked) == len(self._last[0]) and all(map(is_, asked, self._last[0]))
        if not known:
            result = self.call(*operands)
            self._last = asked, (result,) if isinstance(result, Tensor) else result
        return self._last[1]

    def call(self, *operands: Tensor | None) -> Result:
        """What the node makes of any operands."""
        call = Call(self.attributes, self.opset, len(self.outputs), self.training and self.batch_statistics)
        return self.function(call, *operands)


class OnnxModule(nn.Module):
    """A model whose graph is executed by torch, node by node.

    Inputs are taken in the graph's order; the result is one tensor, or a tuple for several outputs.

    Args:
        proto: the model; it is not changed.
        outputs: names of the tensors to return, of any in the graph; what they do not need is left out.
            None: the graph's outputs.
        batch_statistics: whether BatchNormalization uses, and follows, the batches' statistics in training.

    Raises:
        ModelError: an operator is not covered, or an output is not in the graph.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        outputs: Sequence[str] | None = None,
        *,
        batch_statistics: bool = True,
    ):
        super().__init__()
        self._proto = proto
        self._graph = _with_own_statistics(canonicalize(proto))
        self.inputs = [x.name for x in self._graph.inputs]
        self.outputs = own = [y.name for y in self._graph.outputs]
        self._outputs = own if outputs is None else list(outputs)
        nodes = list(self._graph.nodes)
        if outputs is not None:
            nodes = _needed(nodes, self._outputs)
        unknown = not_covered(nodes)
        if unknown:
            raise ModelError(
                f"the model cannot be trained: {', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} "
                "not covered"
            )
        opset = self._graph.opset or 1
        # Lengths and indices, as a rule: worked out once, and left on the CPU.
        self._constants: dict[str, Tensor] = {
            node.outputs[0].name: layout.constant(Call(node.attrs, opset, 1, False))
            for node in nodes
            if node.op == "Constant"
        }
        nodes = [node for node in nodes if node.op != "Constant"]
        self.steps = nn.ModuleList(Step(node, opset, batch_statistics) for node in nodes)
        self._stored: dict[str, tuple[Step, str]] = {}
        made: dict[str, Tensor] = {}
        for node, step in zip(nodes, self._steps, strict=True):
            self._register(node, step, made)
        self._constants |= {
            name: _tensor(tensor)
            for name, tensor in zip(own, self._graph.outputs, strict=True)
            if constant_tensor(tensor) is not None
        }
        lost = set(self._outputs) - {*self.made, *self._constants}
        if lost:
            raise ModelError(f"the graph computes no tensor named '{min(lost)}'")
        last_use = {name: i for i, step in enumerate(self._steps) for name in step.inputs}
        self._done_with: list[list[str]] = [[] for _ in self._steps]
        for name, i in last_use.items():
            self._done_with[i].append(name)
        self._layers = layers(self._steps)
        self._find_lengths()

    def _find_lengths(self) -> None:
        """Mark what computes with lengths alone."""
        lengths: set[str] = set()
        for step in self._steps:
            read = [name for name, slot in zip(step.inputs, step.slots, strict=True) if name and not slot]
            computed = [name for name in read if name not in self._constants]
            step.of_lengths = step.op in _MEASURING or (
                bool(computed)
                and lengths.issuperset(computed)
                and step.op not in _RANDOM
                and next(step.parameters(), None) is None
            )
            if step.of_lengths:
                lengths.update(step.outputs)

    def _register(self, node: gs.Node, step: Step, made: dict[str, Tensor]) -> None:
        """Put a node's constants into its step; one that several nodes use is one parameter."""
        for i, x in enumerate(node.inputs):
            if constant_tensor(x) is None:
                continue
            if x.name not in made:
                values = _tensor(x)
                made[x.name] = nn.Parameter(values) if _is_weight(node, i, values) else values
            value, slot = made[x.name], step.slots[i]
            if isinstance(value, nn.Parameter):
                step.register_parameter(slot, value)
            elif value.is_floating_point():
                step.register_buffer(slot, value)
            else:
                # Lengths and indices stay on the CPU, and are no part of the state.
                setattr(step, slot, value)
                continue
            self._stored.setdefault(x.name, (step, slot))

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        values = self.run(dict(zip(self.inputs, inputs, strict=True)), self._outputs)
        return values[0] if len(values) == 1 else tuple(values)

    def run(self, feed: Mapping[str, Tensor], names: Sequence[str]) -> list[Tensor]:
        """The values of any tensors of the graph, intermediate ones included, by name."""
        values = {**feed, **self._constants}
        wanted = {*names, *self._outputs}
        done: set[int] = set()
        steps = self._steps
        for i, step in enumerate(steps):
            if i in done:
                continue
            second, layer = self._layers.get(i, (i, None))
            if layer is not None and step.outputs[0] not in wanted:
                values[steps[second].outputs[0]] = layer(values[step.inputs[0]], step, steps[second])
                done.add(second)
            else:
                values.update(zip(step.outputs, step(values), strict=False))
            for name in self._done_with[i]:
                if name not in wanted:
                    values.pop(name, None)
        return [values[name] for name in names]

    @property
    def made(self) -> list[str]:
        """The names of all tensors that nodes compute."""
        return [name for step in self._steps for name in step.outputs if name]

    @property
    def makers(self) -> dict[str, Step]:
        """The step that makes a tensor, by the tensor's name."""
        return {name: step for step in self._steps for name in step.outputs if name}

    @property
    def sums(self) -> list[str]:
        """The names of all sums of two computed tensors: residual streams, where there are any."""
        made = set(self.made)
        return [s.outputs[0] for s in self._steps if s.op == "Add" and made.issuperset(s.inputs)]

    @property
    def _steps(self) -> list[Step]:
        return [step for step in self.steps if isinstance(step, Step)]

    @torch.no_grad()
    def copy_weights(self, other: OnnxModule) -> None:
        """Take the values that a module of the same file has, as far as it has them."""
        for name, (step, slot) in other._stored.items():
            mine = self._stored.get(name)
            if mine is not None:
                getattr(mine[0], mine[1]).copy_(getattr(step, slot))

    def to_model(self) -> onnx.ModelProto:
        """The model with the weights as they are now; names and everything else as in the original."""
        editor = Editor(self._graph)
        for name, (step, slot) in self._stored.items():
            editor.set_values(editor.tensor(name), getattr(step, slot).detach().cpu().numpy())
        return export_model(editor.graph, self._proto)


def not_covered(nodes: Iterable[gs.Node]) -> list[str]:
    """The operators that torch has no function for here, with their domain where it is not ONNX's own."""
    return sorted(
        {
            f"{node.domain}.{node.op}" if node.domain else node.op
            for node in nodes
            if node.op not in FUNCTIONS or node.domain
        }
    )


def _with_own_statistics(graph: gs.Graph) -> gs.Graph:
    """Every BatchNormalization with numbers of its own, for they are learned and followed apart.

    The canonical graph separates ones and zeros that exporters store once; the numbers of a single channel,
    and those that are not all alike, it leaves shared.
    """
    editor = Editor(graph)
    for node in editor.graph.nodes:
        for i in range(1, len(node.inputs) if node.op == "BatchNormalization" else 0):
            if isinstance(node.inputs[i], gs.Constant):
                editor.own_input(node, i)
    return editor.graph


def _needed(nodes: Sequence[gs.Node], outputs: Iterable[str]) -> list[gs.Node]:
    """The nodes that these tensors hang on, in order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(y.name for y in node.outputs):
            wanted.update(x.name for x in node.inputs)
            kept.append(node)
    return kept[::-1]


def _tensor(constant: gs.Tensor) -> Tensor:
    try:
        return torch.from_numpy(np.array(constant_values(constant)))
    except TypeError as error:  # strings, and numbers of 8 bits and less that numpy has no type for
        raise ModelError(
            f"the model cannot be trained: '{constant.name}' holds no numbers of torch"
        ) from error


def _is_weight(node: gs.Node, i: int, values: Tensor) -> bool:
    if values.dtype != torch.float32:
        return False
    return i in _WEIGHTS.get(node.op, ()) or (node.op in _AFFINE and values.numel() > 1)
