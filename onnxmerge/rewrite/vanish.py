"""What is constant disappears: layers whose inputs have no channels left, and what follows from them.

A contraction over no channels becomes its bias. That goes on as a constant, per channel, as far as
operators keep it one; a sum or a product takes it in, and what nobody reads any more is deleted.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.channels import Channels
from onnxmerge.channels.depth import Depth, Fate
from onnxmerge.graph.edit import Editor
from onnxmerge.graph.extract import extract, typed
from onnxmerge.graph.view import NodeView
from onnxmerge.graph.working_graph import export_node
from onnxmerge.operators.uniform import value_of_nothing, value_of_uniform
from onnxmerge.rewrite.simplify import simplify
from onnxmerge.runtime import Runtime


def vanish(editor: Editor, depth: Depth, removed: np.ndarray) -> None:
    """Take the layers without channels out of a graph under edit that was cut already.

    Args:
        removed: bool [channels.count], True where a channel went.
    """
    fate = depth.fate(removed)
    if not fate.empty:
        return
    assert fate.possible, "these groups cannot all go"
    changed = _Constants(editor, depth.channels, fate).propagate()
    # What nobody reads goes first: a producer with one reader left can take a constant into its bias.
    editor.graph.cleanup(recurse_subgraphs=False, recurse_functions=False)
    simplify(editor, changed)
    editor.graph.cleanup(recurse_subgraphs=False, recurse_functions=False)


class _Constants:
    """The values of uniform tensors, in the order of the graph; see ``operators.uniform``."""

    def __init__(self, editor: Editor, channels: Channels, fate: Fate):
        self._editor, self._fate = editor, fate
        self._views = {id(editor.node(view)): view for view in channels.view}
        self._values: dict[str, np.ndarray] = {}
        self._runtime = Runtime.create("cpu", 1)

    def propagate(self) -> list[gs.Node]:
        """Put constants in the place of uniform tensors; returns the nodes that take them in."""
        changed = []
        for node in list(self._editor.graph.nodes):
            view = self._views.get(id(node))
            if view is None:
                self._added(node)
            elif view.y and view.y[0] is not None and view.y[0].name in self._fate.uniform:
                self._evaluate(node, view)
            elif view.index in self._fate.live and self._take(node):
                changed.append(node)
        return changed

    def _added(self, node: gs.Node) -> None:
        """A node that a fold brought: the bias behind a consumer."""
        if any(x.name in self._values for x in node.inputs):
            self._values[node.outputs[0].name] = self._run(node, [self._known(x) for x in node.inputs])

    def _take(self, node: gs.Node) -> bool:
        """Give a node that stays constants for its inputs, and take away those of no channels; if any."""
        before = list(node.inputs)
        for number, tensor in enumerate(node.inputs):
            if tensor.name in self._values:
                constant = self._editor.new_constant(f"{tensor.name}_constant", self._values[tensor.name])
                node.inputs[number] = constant
        if any(x.name in self._fate.empty for x in node.inputs):  # of a Concat
            node.inputs = [x for x in node.inputs if x.name not in self._fate.empty]
        return list(node.inputs) != before

    def _evaluate(self, node: gs.Node, view: NodeView) -> None:
        name = node.outputs[0].name
        if view.x[0].name in self._fate.empty:
            weight, bias = (self._known(x) for x in [*node.inputs[1:], gs.Variable.empty()][:2])
            assert weight is not None, "the weight of a contraction over no channels is stored"
            self._values[name] = value_of_nothing(node, weight, bias, view.y[0].rank)
            return
        operands = [self._known(x) for x in node.inputs]
        value = value_of_uniform(node, operands)
        self._values[name] = self._run(node, operands) if value is None else value

    def _known(self, tensor: gs.Tensor) -> np.ndarray | None:
        if not tensor.name:
            return None
        found = self._values.get(tensor.name)
        return self._editor.values(tensor) if found is None else found

    def _run(self, node: gs.Node, operands: list[np.ndarray | None]) -> np.ndarray:
        """What a node makes of constants."""
        # By onnxruntime, for operators may be its own, and as the model itself would have computed it.
        single = export_node(node)
        feed = {f"in_{i}": value for i, value in enumerate(operands) if value is not None}
        single.input[:] = ["" if value is None else f"in_{i}" for i, value in enumerate(operands)]
        single.output[:] = ["out"]
        inputs = [typed(name, value.dtype, value.shape) for name, value in feed.items()]
        model = extract([single], inputs, ["out"], opsets=self._editor.graph.import_domains)
        return self._runtime.session(model).run(feed)["out"]
