"""What a criterion is: it scores how much every channel matters.

An implementation is a frozen dataclass whose fields are its options, named like those of ``Config``; it says
which statistics it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np

from onnxmerge.channels import Channels
from onnxmerge.plan import Scores
from onnxmerge.statistics import Needs
from onnxmerge.statistics.dense import Statistics
from onnxmerge.statistics.paired import Paired


class Criterion(Protocol):
    """Scores every channel of every group.

    A criterion may also have a method ``choose_again(sensitivity, paired, group)``, see ``choosing_again``:
    with it the walk chooses the channels of a group again once it has reached the group's consumer.

    Attributes:
        needs: the statistics that it is given.
    """

    @property
    def needs(self) -> Literal[Needs.NOTHING, Needs.DENSE]: ...

    def __call__(self, channels: Channels, statistics: Statistics | None) -> Scores:
        """Score all groups.

        Args:
            channels: the analysis of the untouched model.
            statistics: of that model; None where nothing is needed.

        Raises:
            UsageError: the criterion needs statistics, and there are none.
        """
        ...


@dataclass(frozen=True, eq=False)
class OpenGroup:
    """A group whose channels are chosen on the way: it has one consumer, which the walk has reached.

    Attributes:
        candidates: numbers of its channels, int64 [C].
        width: how many of them stay.
        kept: bool [channels], those that may still stay, all candidates included.
        likely: bool [channels], those whose values will be asked for, as far as is known.
    """

    candidates: np.ndarray
    width: int
    kept: np.ndarray
    likely: np.ndarray


# Statistics of the consumer, and the group -> the places of the channels that stay, int64 [width], ascending;
# None where the statistics are not enough, and the first choice stands.
ChooseAgain = Callable[[Paired, OpenGroup], np.ndarray | None]


def choosing_again(criterion: Criterion, sensitivity: np.ndarray) -> ChooseAgain | None:
    """How a criterion chooses again from paired statistics; None where it does not.

    Args:
        sensitivity: of the output to errors in every channel, float64 [channels.count].
    """
    choose_again = getattr(criterion, "choose_again", None)
    return None if choose_again is None else partial(choose_again, sensitivity)
