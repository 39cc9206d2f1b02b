"""Edits of a working graph that keep names unique and shared constants apart."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import DTypeLike

from onnxmerge.graph.constants import constant_values, set_values, times_read
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.view import Axis, NodeView

# The operators that edits put into a graph.
ADD, MULTIPLY, PRODUCT, SELECT, SHAPE = "Add", "Mul", "MatMul", "Where", "Shape"


class Editor:
    """A copy of a working graph under edit; the graph it was made from is never changed.

    Attributes:
        graph: the copy.
        captured: the names of tensors that subgraphs read.
        follows: for constants that were added, the axis of the original that each of their axes
            follows, so that they are cut with it.

    Args:
        scratch: where big new values go; None: they stay in memory.
    """

    def __init__(self, graph: gs.Graph, scratch: Scratch | None = None):
        self.graph = graph.copy()  # shares the values of constants
        self._scratch = scratch
        self.follows: dict[str, dict[int, Axis]] = {}
        self._tensors = self.graph.tensors()
        self._nodes = list(self.graph.nodes)
        self._names = set(self._tensors) | {node.name for node in self._nodes}
        # Copies of subgraphs have copies of the stored tensors that they read: only the original tells.
        own = {id(node) for node in graph.nodes}
        self.captured = {
            name for name, tensor in graph.tensors().items() if any(id(u) not in own for u in tensor.outputs)
        }

    def tensor(self, name: str) -> gs.Tensor:
        return self._tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def node(self, view: NodeView) -> gs.Node:
        """The copy of a node of the view."""
        return self._nodes[view.index]

    def values(self, tensor: gs.Tensor) -> np.ndarray | None:
        """The values of a constant as they are now; None for a variable."""
        return constant_values(tensor)

    def set_values(self, tensor: gs.Tensor, values: np.ndarray) -> None:
        """Replace the values of a constant for all of its users."""
        if self._scratch is not None:
            values = self._scratch.store(values)
        set_values(tensor, values)

    def own_input(self, node: gs.Node, number: int) -> gs.Tensor:
        """The node's constant input, made its own first where other nodes use it too."""
        tensor = node.inputs[number]
        if self.read_once(tensor):
            return tensor
        values = self.values(tensor)
        assert values is not None, f"{tensor.name} is computed"
        own = self.new_constant(tensor.name, values)
        node.inputs[number] = own
        return own

    def new_constant(
        self, like: str, values: np.ndarray, follows: dict[int, Axis] | None = None
    ) -> gs.Constant:
        """A new constant under a free name derived from ``like``."""
        constant = gs.Constant(self._free_name(like), values)
        self._tensors[constant.name] = constant
        if follows:
            self.follows[constant.name] = follows
        return constant

    def new_variable(self, like: str, dtype: DTypeLike) -> gs.Variable:
        """A new variable under a free name derived from ``like``."""
        variable = gs.Variable(self._free_name(like), dtype=dtype)
        self._tensors[variable.name] = variable
        return variable

    def insert(
        self,
        op: str,
        like: str,
        inputs: list[gs.Tensor],
        output: gs.Tensor,
        *,
        before: gs.Node | None = None,
        after: gs.Node | None = None,
    ) -> gs.Node:
        """A new node right before or right after another one, under a free name derived from ``like``."""
        node = gs.Node(op, self._free_name(like), inputs=inputs, outputs=[output])
        place = next(i for i, n in enumerate(self.graph.nodes) if n is before or n is after)
        self.graph.nodes.insert(place + (after is not None), node)
        return node

    def set_input(self, node: gs.Node, number: int, tensor: gs.Tensor) -> None:
        """Set one input of a node; inputs left out before it become empty."""
        while len(node.inputs) <= number:
            node.inputs.append(gs.Variable.empty())
        node.inputs[number] = tensor

    def is_output(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor is an output of the graph."""
        return any(output is tensor for output in self.graph.outputs)

    def read_once(self, tensor: gs.Tensor) -> bool:
        """Whether one node reads a tensor, once; and neither a subgraph nor whoever runs the model does."""
        return times_read(tensor) == 1 and tensor.name not in self.captured and not self.is_output(tensor)

    def bypass(self, node: gs.Node, kept: gs.Tensor) -> None:
        """Let the users of a node's output read ``kept``.

        Where that is a graph output, ``kept`` takes its name. A graph input, or another graph output, cannot:
        there the node stays.
        """
        output = node.outputs[0]
        if self.is_output(output):
            if len(kept.inputs) != 1 or self.is_output(kept):
                return
            node.outputs.clear()
            kept.inputs[0].outputs = [output if t is kept else t for t in kept.inputs[0].outputs]
            kept, output = output, kept
        else:
            node.outputs.clear()
        for user in list(output.outputs):
            user.inputs = [kept if t is output else t for t in user.inputs]
        node.inputs.clear()

    def _free_name(self, like: str) -> str:
        name, number = like, 0
        while name in self._names:
            number += 1
            name = f"{like}_{number}"
        self._names.add(name)
        return name
