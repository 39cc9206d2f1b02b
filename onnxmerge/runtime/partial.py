"""Running a model piece by piece while it is being rewritten.

A ``Segments`` keeps the values of a frontier of tensors, for every batch: little in memory, more in files.
Asking for tensors behind the frontier runs only the nodes between; where that is affordable, the frontier
then moves up to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import helper, numpy_helper

from onnxmerge import limits
from onnxmerge.graph import external_weights
from onnxmerge.graph.edit import ADD, MULTIPLY, PRODUCT, SELECT
from onnxmerge.graph.external_weights import Scratch, Waiting
from onnxmerge.graph.extract import extract, reads, typed
from onnxmerge.operators.parameters import convolution_bias
from onnxmerge.runtime.runtime import Runtime
from onnxmerge.runtime.session import Session


class Segments:
    """One model under execution.

    Args:
        model: the model; never changed.
        feeds: the batches; what waits in them is read whenever it is needed.
        wanted: every tensor that will be asked for, as often as it will be (decides how long it is kept).
        keep_bytes: a frontier above this is not kept; None: a default.
        scratch: where the frontier waits in files; None: in memory where it is small, else in a folder of
            its own.

    Attributes:
        live: the values of the frontier, by name, one array for every batch, in memory or in files.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        feeds: Sequence[Mapping[str, np.ndarray | Waiting]],
        runtime: Runtime,
        wanted: Sequence[str],
        keep_bytes: int | None = None,
        scratch: Scratch | None = None,
    ):
        self._model, self._runtime, self._scratch = model, runtime, scratch
        self._in_files = scratch is not None
        default = limits.LIMITS.frontier if scratch is None else limits.LIMITS.stored_frontier
        self.keep_bytes = default if keep_bytes is None else keep_bytes
        self._nodes = list(model.graph.node)
        self._producer = {name: i for i, node in enumerate(self._nodes) for name in node.output if name}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._edits: dict[int, list[onnx.NodeProto]] = {}
        self._done: set[int] = set()
        self.live: dict[str, list[np.ndarray | Waiting]] = {
            name: [_held(feed[name]) for feed in feeds] for name in (feeds[0] if feeds else ())
        }
        self._batches = len(feeds)
        self._pending = Counter(wanted)
        needed = self._needed(wanted, stop=set())
        self._users: dict[str, set[int]] = {}
        for i in needed:
            for name in reads(self._nodes[i]):
                self._users.setdefault(name, set()).add(i)

    def __len__(self) -> int:
        """How many batches there are."""
        return self._batches

    def folder(self, waiting: int) -> Scratch | None:
        """A new folder for one tensor of the frontier, gone with its values; None: it stays in memory.

        Args:
            waiting: bytes of the whole frontier.
        """
        if not self._in_files and waiting <= limits.LIMITS.waiting:
            return None
        self._scratch = self._scratch or Scratch()
        return self._scratch.inner()

    def advance(
        self,
        run: set[int],
        frontier: Sequence[str],
        stored: Mapping[str, list[np.ndarray | Waiting | None]],
    ) -> None:
        """Move the frontier up: these nodes have run, and gave these values for every batch."""
        self._done |= run
        there = self.live | {n: [v for v in values if v is not None] for n, values in stored.items()}
        self.live = {name: there[name] for name in frontier}

    def set_constant(self, name: str, values: np.ndarray) -> None:
        """Give a constant new values, for nodes that run from now on."""
        self._producer.pop(name, None)
        self._constants[name] = external_weights.tensor_of(name, values)

    def constant(self, name: str) -> np.ndarray:
        """The present values of an initializer."""
        return external_weights.values_of(self._constants[name])

    def add_to_output(self, node: int, values: np.ndarray) -> None:
        """Add a constant to the first output of a node that has not run yet.

        Args:
            values: one per channel, with axes of length 1 around them so that they broadcast.
        """
        *rest, last = self._edits.get(node, [self._nodes[node]])
        output, changed = last.output[0], onnx.NodeProto()
        changed.CopyFrom(last)
        number = convolution_bias(last)
        bias = last.input[number] if number is not None and len(last.input) > number else ""
        if number is not None and (not bias or bias in self._constants):
            # The operator does it on the way, and what follows can still be fused with it.
            old = self.constant(bias) if bias else np.zeros((), values.dtype)
            name = f"{output}__bias"
            self._constants[name] = external_weights.tensor_of(name, old + values.reshape(-1))
            changed.input[:] = [*last.input[:number], name]
            self._edits[node] = [*rest, changed]
            return
        inner = f"{output}__before"
        changed.output[0] = inner
        self._constants[f"{inner}_by"] = numpy_helper.from_array(values, f"{inner}_by")
        self._edits[node] = [*rest, changed, helper.make_node(ADD, [inner, f"{inner}_by"], [output])]

    def scale_input(self, node: int, operand: int, values: np.ndarray) -> None:
        """Multiply an input of a node by a constant (that broadcasts)."""
        edited = self._edits.get(node, [self._nodes[node]])
        # Other inputs may be scaled before: the node itself comes behind what does that.
        place = next(i for i, n in enumerate(edited) if n.op_type == self._nodes[node].op_type)
        before, first, rest = edited[:place], edited[place], edited[place + 1 :]
        name = f"{first.input[operand]}__masked_{node}_{operand}"
        self._constants[f"{name}_by"] = numpy_helper.from_array(values, f"{name}_by")
        scaled = helper.make_node(MULTIPLY, [first.input[operand], f"{name}_by"], [name])
        changed = onnx.NodeProto()
        changed.CopyFrom(first)
        changed.input[operand] = name
        self._edits[node] = [*before, scaled, changed, *rest]

    def fill_input(self, node: int, operand: int, kept: np.ndarray, dtype: DTypeLike, *, mean: bool) -> None:
        """Give removed positions of the last axis of an input of a node the mean of the kept ones, or zero.

        Args:
            kept: bool [length of the axis].
            dtype: of the input.
        """
        *before, last = self._edits.get(node, [self._nodes[node]])
        source = last.input[operand]
        name = f"{source}__filled_{node}_{operand}"
        self._constants[f"{name}_kept"] = numpy_helper.from_array(kept, f"{name}_kept")
        filler, made = f"{name}_by", []
        if mean and kept.any():
            share = (kept / kept.sum()).astype(dtype)[:, None]
            self._constants[f"{name}_share"] = numpy_helper.from_array(share, f"{name}_share")
            made.append(helper.make_node(PRODUCT, [source, f"{name}_share"], [filler]))
        else:
            self._constants[filler] = numpy_helper.from_array(np.zeros(1, dtype), filler)
        made.append(helper.make_node(SELECT, [f"{name}_kept", source, filler], [name]))
        changed = onnx.NodeProto()
        changed.CopyFrom(last)
        changed.input[operand] = name
        self._edits[node] = [*before, *made, changed]

    def read(self, names: Sequence[str], threads: int | None = None) -> Reading:
        """The values of these tensors, batch by batch; the frontier moves up to them where it fits.

        A stored constant is the same in every batch.

        Args:
            threads: of onnxruntime, for each batch; None: all.

        Raises:
            ModelError: nothing makes a tensor that is asked for, or the nodes before it do not run.
        """
        run = self._needed(names, stop=set(self.live))
        self._pending.subtract(names)
        frontier = self._frontier(run)
        stored = {n for n in names if n in self._constants and n not in self.live and n not in self._producer}
        fresh = sorted({*names, *frontier} - set(self.live) - stored)
        session = self._session(run, fresh, threads) if fresh else None
        constants = {name: self.constant(name) for name in sorted(stored)}
        return Reading(self, tuple(names), run, frontier, session, constants)

    def _needed(self, names: Sequence[str], stop: set[str]) -> set[int]:
        """The nodes to run for these tensors, from the values that are there."""
        found: set[int] = set()
        open_names = [name for name in names if name not in stop]
        while open_names:
            i = self._producer.get(open_names.pop())
            if i is None or i in found:
                continue
            found.add(i)
            open_names += [name for name in reads(self._nodes[i]) if name not in stop]
        return found

    def _frontier(self, run: set[int]) -> list[str]:
        """The tensors that later nodes read, once ``run`` has run."""
        done = self._done | run
        made = {name for i in run for name in self._nodes[i].output if name} | set(self.live)
        return sorted(name for name in made if self._pending[name] > 0 or self._users.get(name, set()) - done)

    def _session(self, run: set[int], outputs: Sequence[str], threads: int | None) -> Session:
        nodes = [edited for i in sorted(run) for edited in self._edits.get(i, [self._nodes[i]])]
        made = {name for node in nodes for name in node.output}
        inputs = sorted({name for node in nodes for name in reads(node)} - made - {""})
        constants = [self._constants[name] for name in inputs if name in self._constants]
        fed = [typed(name, self.live[name][0].dtype, None) for name in inputs if name not in self._constants]
        opsets, version = self._model.opset_import, self._model.ir_version
        model = extract(nodes, fed, outputs, constants, opsets=opsets, ir_version=version)
        runtime = self._runtime if threads is None else replace(self._runtime, threads=threads)
        return runtime.session(model)


class Reading:
    """Some tensors of a ``Segments``, batch by batch: call it with the number of a batch.

    Batch 0 comes first and alone, the others in any order and from any thread. As a context manager it
    moves the frontier at the end, if all batches were read.
    """

    def __init__(
        self,
        segments: Segments,
        names: tuple[str, ...],
        run: set[int],
        frontier: list[str],
        session: Session | None,
        constants: Mapping[str, np.ndarray],
    ):
        self._constants = constants
        self._segments, self._names, self._run, self._frontier = segments, names, run, frontier
        self._session = session
        self._entry = [i.name for i in session.inputs] if session is not None else []
        count = len(segments)
        self._fresh = [name for name in frontier if name not in segments.live]
        self._folders: dict[str, Scratch | None] = {}
        self._stored: dict[str, list[np.ndarray | Waiting | None]] | None = {
            name: [None] * count for name in self._fresh
        }

    def __call__(self, batch: int) -> dict[str, np.ndarray]:
        live = self._segments.live
        values = {}
        if self._session is not None:
            values = self._session.run({name: _values(live[name][batch]) for name in self._entry})
        if batch == 0:
            self._prepare(self._size(values))
        if self._stored is not None:
            for name, batches in self._stored.items():
                folder, value = self._folders[name], values[name]
                if folder is None or value.dtype.hasobject:
                    # What a run returns keeps all memory of its session alive, which is many times as much.
                    batches[batch] = value.copy()
                else:
                    batches[batch] = folder.put(value)
        # A run brings all weights that it uses into memory.
        external_weights.release()
        values = {**self._constants, **values}
        return {n: values[n] if n in values else _values(live[n][batch]) for n in self._names}

    def _prepare(self, size: int) -> None:
        """Decide where the new frontier of so many bytes waits, if it is kept."""
        if size > self._segments.keep_bytes:
            self._stored = None
        else:
            self._folders = {name: self._segments.folder(size) for name in self._fresh}

    def _size(self, first: Mapping[str, np.ndarray]) -> int:
        """The bytes of the new frontier, judged by the first batch, so that nothing is stored in vain."""
        live = self._segments.live
        fresh = sum(first[name].nbytes for name in self._fresh)
        return fresh * len(self._segments) + sum(_bytes(a) for n in self._frontier for a in live.get(n, ()))

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, failure: type[BaseException] | None, *rest: object) -> None:
        external_weights.release()
        stored = self._stored
        if failure is None and stored is not None and all(v is not None for b in stored.values() for v in b):
            self._segments.advance(self._run, self._frontier, stored)


def _held(value: np.ndarray | Waiting) -> np.ndarray | Waiting:
    """What waits as it is; anything else as an array."""
    return value if isinstance(value, Waiting) else np.asarray(value)


def _values(array: np.ndarray | Waiting) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else array.values()


def _bytes(array: np.ndarray | Waiting) -> int:
    return prod(array.shape) * array.dtype.itemsize
