"""Running a model piece by piece while it is being rewritten.

A ``Segments`` keeps the values of a frontier of tensors, for every batch. Asking for tensors behind the
frontier runs only the nodes between; where memory allows, the frontier then moves up to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxmerge.calibration.dataset import Feed
from onnxmerge.graph import weights
from onnxmerge.runtime import Runtime

# A frontier above this many bytes is not kept: the nodes before it run again when they are needed.
MOST_KEPT = 400 << 20


class Segments:
    """One model under execution.

    Args:
        model: the model; never changed.
        feeds: the batches.
        wanted: every tensor that will be asked for, as often as it will be (decides how long it is kept).
        keep_bytes: a frontier above this is not kept.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        feeds: Sequence[Feed],
        runtime: Runtime,
        wanted: Sequence[str],
        keep_bytes: int = MOST_KEPT,
    ):
        self._model, self._runtime, self._keep_bytes = model, runtime, keep_bytes
        self._nodes = list(model.graph.node)
        self._producer = {name: i for i, node in enumerate(self._nodes) for name in node.output if name}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._edits: dict[int, list[onnx.NodeProto]] = {}
        self._done: set[int] = set()
        self._live: dict[str, list[np.ndarray]] = {
            name: [np.asarray(feed[name]) for feed in feeds] for name in (feeds[0] if feeds else ())
        }
        self._batches = len(feeds)
        self._pending = Counter(wanted)
        needed = self._needed(wanted, stop=set())
        self._users: dict[str, set[int]] = {}
        for i in needed:
            for name in _reads(self._nodes[i]):
                self._users.setdefault(name, set()).add(i)

    def set_constant(self, name: str, values: np.ndarray) -> None:
        """Give a constant new values, for nodes that run from now on."""
        self._producer.pop(name, None)
        self._constants[name] = weights.tensor_of(name, values)

    def constant(self, name: str) -> np.ndarray:
        """The present values of an initializer."""
        return weights.values_of(self._constants[name])

    def add_to_output(self, node: int, values: np.ndarray) -> None:
        """Add a constant (that broadcasts) to the first output of a node that has not run yet."""
        self._append(node, "Add", values)

    def scale_input(self, node: int, operand: int, values: np.ndarray) -> None:
        """Multiply an input of a node by a constant (that broadcasts)."""
        first, *rest = self._edits.get(node, [self._nodes[node]])
        name = f"{first.input[operand]}__masked_{node}_{operand}"
        self._constants[f"{name}_by"] = numpy_helper.from_array(values, f"{name}_by")
        scaled = helper.make_node("Mul", [first.input[operand], f"{name}_by"], [name])
        changed = onnx.NodeProto()
        changed.CopyFrom(first)
        changed.input[operand] = name
        self._edits[node] = [scaled, changed, *rest]

    def stream(self, names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """The values of these tensors, batch by batch; the frontier moves up to them where it fits."""
        run = self._needed(names, stop=set(self._live))
        self._pending.subtract(names)
        frontier = self._frontier(run)
        fresh = sorted({*names, *frontier} - set(self._live))
        session = self._session(run, fresh) if fresh else None
        entry = [i.name for i in session.inputs] if session is not None else []
        stored: dict[str, list[np.ndarray]] | None = {name: [] for name in frontier if name not in self._live}
        size = sum(a.nbytes for name in frontier if name in self._live for a in self._live[name])
        for batch in range(self._batches):
            values = session.run({name: self._live[name][batch] for name in entry}) if session else {}
            yield {name: values[name] if name in values else self._live[name][batch] for name in names}
            if stored is not None:
                for name in stored:
                    stored[name].append(values[name])
                    size += values[name].nbytes
                # Judged by the first batch, so that nothing is stored in vain.
                if size * self._batches > self._keep_bytes * (batch + 1):
                    stored = None
        weights.release()
        if stored is not None:
            self._done |= run
            self._live |= stored
            self._live = {name: a for name, a in self._live.items() if name in frontier}

    def _needed(self, names: Sequence[str], stop: set[str]) -> set[int]:
        """The nodes to run for these tensors, from the values that are there."""
        found: set[int] = set()
        open_names = [name for name in names if name not in stop]
        while open_names:
            i = self._producer.get(open_names.pop())
            if i is None or i in found:
                continue
            found.add(i)
            open_names += [name for name in _reads(self._nodes[i]) if name not in stop]
        return found

    def _frontier(self, run: set[int]) -> list[str]:
        """The tensors that later nodes read, once ``run`` has run."""
        done = self._done | run
        made = {name for i in run for name in self._nodes[i].output if name} | set(self._live)
        return sorted(name for name in made if self._pending[name] > 0 or self._users.get(name, set()) - done)

    def _session(self, run: set[int], outputs: Sequence[str]):
        nodes = [edited for i in sorted(run) for edited in self._edits.get(i, [self._nodes[i]])]
        made = {name for node in nodes for name in node.output}
        inputs = sorted({name for node in nodes for name in _reads(node)} - made - {""})
        constants = [self._constants[name] for name in inputs if name in self._constants]
        graph = helper.make_graph(
            nodes,
            "segment",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(self._live[name][0].dtype), None
                )
                for name in inputs
                if name not in self._constants
            ],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            constants,
        )
        model = onnx.ModelProto(ir_version=self._model.ir_version, graph=graph)
        model.opset_import.extend(self._model.opset_import)
        return self._runtime.session(model)

    def _append(self, node: int, op: str, values: np.ndarray) -> None:
        *rest, last = self._edits.get(node, [self._nodes[node]])
        output = last.output[0]
        inner = f"{output}__before_{len(rest)}"
        changed = onnx.NodeProto()
        changed.CopyFrom(last)
        changed.output[0] = inner
        self._constants[f"{inner}_by"] = numpy_helper.from_array(values, f"{inner}_by")
        self._edits[node] = [*rest, changed, helper.make_node(op, [inner, f"{inner}_by"], [output])]


def _reads(node: onnx.NodeProto) -> list[str]:
    """The tensors that a node reads, those inside of its subgraphs included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)
        for graph in graphs:
            own = {t.name for t in graph.initializer} | {v.name for v in graph.input}
            own |= {name for inner in graph.node for name in inner.output}
            names += [name for inner in graph.node for name in _reads(inner) if name not in own]
    return names
