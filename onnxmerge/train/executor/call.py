"""What a function of the executor is told about its node, and how it reads shape operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Result = Tensor | tuple[Tensor, ...]
Function = Callable[..., Result]


@dataclass(frozen=True)
class Call:
    """One execution of a node.

    Attributes:
        attributes: the node's, as plain values.
        opset: of the model.
        outputs: how many the node has.
        training: whether normalisation uses the batch's statistics.
    """

    attributes: Mapping[str, Any]
    opset: int
    outputs: int
    training: bool

    def __call__(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or ``default``."""
        return self.attributes.get(name, default)

    def numbers(self, name: str, operand: Tensor | None) -> list[int] | None:
        """Integers that newer opsets take from an operand and older ones from an attribute."""
        if operand is not None:
            return integers(operand)
        stated = self.attributes.get(name)
        return None if stated is None else [int(v) for v in stated]


def integers(operand: Tensor) -> list[int]:
    """The numbers in a shape operand."""
    return [int(v) for v in operand.flatten().tolist()]
