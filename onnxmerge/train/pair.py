"""Teacher and student as torch modules on the same data, as large a batch as memory and the files allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch

from onnxmerge.data import Dataset
from onnxmerge.data.batching import open_batch
from onnxmerge.errors import ModelError
from onnxmerge.graph.constants import is_constant
from onnxmerge.runtime import Runtime
from onnxmerge.train.executor import OnnxModule
from onnxmerge.train.samples import Feed, Samples
from onnxmerge.train.targets import Targets, find_targets

# What the tensors of one feed may take, in bytes: all are kept for the way back.
_MOST_BYTES = 1 << 30
# How far torch's answers may be from onnxruntime's, as a share: more than rounding is an operator misread.
_ALIKE = 0.02
# How far a batch may be from its samples one by one, as a share.
_SAME = 1e-3


@dataclass(frozen=True, eq=False)
class Pair:
    """Two models that can be executed, on data that run.

    Attributes:
        teacher, student: in evaluation mode; only the student's weights have gradients.
        targets: what is matched.
        fit, held_out: the inputs.
        most: samples in a feed that memory allows, where the model leaves their number open.
        student_proto: the student's file.
    """

    teacher: OnnxModule
    student: OnnxModule
    targets: Targets
    fit: Samples
    held_out: Samples
    most: int
    student_proto: onnx.ModelProto

    def to_model(self) -> onnx.ModelProto:
        """The student's file with the weights as they are now."""
        module = OnnxModule(self.student_proto)
        module.copy_weights(self.student)
        return module.to_model()


def paired(
    teacher: onnx.ModelProto,
    student: onnx.ModelProto,
    fit: Dataset,
    held_out: Dataset,
    device: torch.device,
) -> Pair:
    """Make both models ready.

    A batch of 1 that the files fix is opened where that changes nothing.

    Raises:
        ModelError: an operator is not covered, or answers differently than in onnxruntime; or the two do not
            belong together.
    """
    files = [teacher, student]
    modules = [_module(proto, device) for proto in files]
    samples = Samples(fit, device)
    rows = samples.pieces(1)[0]
    first = samples.feed(rows)
    try:
        targets = find_targets(modules[0], modules[1], first)
    except (RuntimeError, IndexError, TypeError) as error:
        line = str(error).strip().splitlines()[0]
        raise ModelError(f"the model cannot be trained: torch does not run it: {line}") from error
    _check_answers(teacher, modules[0], first, targets.outputs)
    if fit.batch == 1 and fit.arrays is not None and not fit.shared and len(fit) > 1:
        free = [open_batch(_stored(proto)) for proto in files]
        singles = [samples.feed(np.array([row])) for row in (0, 1)]
        if all(
            _opens(module, _module(proto, device), singles, targets.names)
            for module, proto in zip(modules, free, strict=True)
        ):
            files = free
            fit, held_out = (replace(data, batch=None) for data in (fit, held_out))
            samples = Samples(fit, device)
    with torch.no_grad():
        values = modules[1].run(first, modules[1].made)
    size = sum(v.numel() * v.element_size() for v in values) / len(rows)
    guide, pupil = (_module(proto, device, targets.names) for proto in files)
    return Pair(
        guide.requires_grad_(False),
        pupil,
        targets,
        samples,
        Samples(held_out, device),
        max(1, int(_MOST_BYTES / max(size, 1.0))),
        student,
    )


def _module(proto: onnx.ModelProto, device: torch.device, names: Sequence[str] | None = None) -> OnnxModule:
    """In evaluation mode, images' channels last in memory: convolutions are faster so, on CPUs too."""
    module = OnnxModule(proto, names, batch_statistics=False).eval().to(device)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack it


@torch.no_grad()
def _check_answers(proto: onnx.ModelProto, module: OnnxModule, feed: Feed, names: Sequence[str]) -> None:
    """Whatever is judged here is judged by what torch computes: it has to be what the file says."""
    expected = (
        Runtime.create("cpu", 1).session(proto).run({n: v.cpu().numpy() for n, v in feed.items()}, names)
    )
    for name, found in zip(names, module.run(feed, names), strict=True):
        a, b = np.nan_to_num(expected[name]), np.nan_to_num(found.cpu().numpy())
        if a.shape != b.shape or not np.linalg.norm(a - b) <= _ALIKE * np.linalg.norm(a) + 1e-6:
            raise ModelError(f"the model cannot be trained: torch computes '{name}' differently")


def _stored(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose tensors in Constant nodes are initializers: there lengths are looked for."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.node[:]
    for node in proto.graph.node:
        if is_constant(node) and node.attribute[0].name == "value":
            tensor = copy.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            copy.graph.node.append(node)
    return copy


@torch.no_grad()
def _opens(fixed: OnnxModule, free: OnnxModule, singles: Sequence[Feed], names: Sequence[str]) -> bool:
    """Whether a model whose batch was opened answers to two samples at once as to each by itself."""
    apart = [fixed.run(feed, names) for feed in singles]
    try:
        both = free.run({name: torch.cat([feed[name] for feed in singles]) for name in singles[0]}, names)
    except (RuntimeError, IndexError, ModelError):  # shapes that do not go together
        return False
    expected = [torch.cat(parts) if parts[0].ndim else parts[0] for parts in zip(*apart, strict=True)]
    return all(
        a.shape == b.shape and bool(torch.linalg.norm(a - b) <= _SAME * torch.linalg.norm(a))
        for a, b in zip(expected, both, strict=True)
    )
