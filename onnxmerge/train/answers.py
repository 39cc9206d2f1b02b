"""What stands for a model's outputs: the numbers that they are made of, as far back as these say all.

A saturated probability, a whole number and the corner of a box in pixels teach little: errors of all boxes of
a picture are small beside how far apart the boxes are. What they are decoded from has units of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from onnxmerge.operators.table import is_contraction
from onnxmerge.operators.values import competes, moves_or_selects, operands_that_say_all, recodes
from onnxmerge.train.executor import OnnxModule
from onnxmerge.train.executor.module import Step

# A tensor of which less than this share has a part in the outputs does not stand for them.
_READ = 0.5

# By a tensor's name what it is made of, and can be matched; empty where nothing can.
Origins = dict[str, tuple[str, ...]]


def answers_of(
    teacher: OnnxModule, student: OnnxModule, values: Mapping[str, Tensor], fits: set[str]
) -> tuple[list[str], set[str]]:
    """The names of what stands for the outputs, each once; and of what both models make of these alike.

    Args:
        values: the student's tensors by name, with their gradients' history.
        fits: the names of those that can be matched.
    """
    far, near = (_origins(teacher, student, values, fits, decoded=decoded) for decoded in (True, False))
    outputs = [name for name in teacher.outputs if name in far]
    read = _read(values, {name for output in outputs for name in far[output]}, outputs)
    found = dict.fromkeys(
        name for output in outputs for name in (far[output] if read.issuperset(far[output]) else near[output])
    )
    follows = {
        name for name, parts in far.items() if parts and name not in found and found.keys() >= {*parts}
    }
    return list(found), follows


def _origins(
    teacher: OnnxModule,
    student: OnnxModule,
    values: Mapping[str, Tensor],
    fits: set[str],
    *,
    decoded: bool,
) -> Origins:
    """What every tensor of the teacher is made of.

    Args:
        decoded: whether also behind arithmetic, selections, and expectations under a Softmax, where both
            models compute the same there.
    """
    origins: Origins = {}
    probabilities: set[str] = set()
    pupils = student.makers
    for name, step in teacher.makers.items():
        learned = [x for x in dict.fromkeys(step.inputs) if x in values and values[x].requires_grad]
        handed = operands_that_say_all(step.op, step.inputs)
        parts = [origins.get(x, (x,) if x in fits else ()) for x in handed or learned]
        of_probabilities = bool(learned) and probabilities.issuperset(learned)
        if competes(step.op) or (moves_or_selects(step.op) and of_probabilities):
            probabilities.add(name)
        if handed:
            passes = all(parts) or (name not in fits and any(parts))
        else:
            same = bool(parts) and all(parts) and len(set(parts)) == 1
            expects = is_contraction(step.op) and of_probabilities
            passes = decoded and same and (recodes(step.op) or expects) and _alike(step, pupils.get(name))
        own = (name,) if name in fits else ()
        origins[name] = tuple(dict.fromkeys(x for part in parts for x in part)) if passes else own
    return origins


def _alike(one: Step, other: Step | None) -> bool:
    """Whether two steps compute the same of the same operands: what neither has to learn."""
    if other is None or (one.op, one.inputs, one.slots) != (other.op, other.inputs, other.slots):
        return False
    constants = [(getattr(one, slot), getattr(other, slot)) for slot in one.slots if slot]
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in constants)


def _read(values: Mapping[str, Tensor], names: Iterable[str], outputs: Iterable[str]) -> set[str]:
    """Those of these tensors most of whose numbers have a part in the outputs."""
    asked = sorted(names)
    ends = [values[name] for name in outputs if name in values and values[name].requires_grad]
    if not asked or not ends:
        return set()
    # Random factors: what is added up, as the parts of a Softmax are, would have no part in the sum.
    own = torch.Generator().manual_seed(0)
    total = torch.stack([(end * torch.rand(end.shape, generator=own).to(end)).sum() for end in ends]).sum()
    slopes = torch.autograd.grad(total, [values[n] for n in asked], retain_graph=True, allow_unused=True)
    found = set()
    for name, slope in zip(asked, slopes, strict=True):
        is_end = any(values[name] is end for end in ends)
        if is_end or (slope is not None and float((slope != 0).float().mean()) >= _READ):
            found.add(name)
    return found
