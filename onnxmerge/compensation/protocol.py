"""What a compensation is: it gives the consumers of removed channels new weights and biases.

An implementation is a frozen dataclass whose fields are its options, named like those of ``Config``; it says
which statistics it needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from onnxmerge.channels import Channels
from onnxmerge.channels.blends import Blend
from onnxmerge.channels.sites import FoldSite
from onnxmerge.plan import Selection
from onnxmerge.statistics import Needs
from onnxmerge.statistics.dense import Statistics
from onnxmerge.statistics.paired import Paired


class Compensation(Protocol):
    """One that works from the weights, or from dense statistics: every site on its own.

    Attributes:
        needs: the statistics that it is given.
    """

    @property
    def needs(self) -> Literal[Needs.NOTHING, Needs.DENSE]: ...

    def __call__(
        self, site: FoldSite, kept: np.ndarray, statistics: Statistics | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Compensate one consumer.

        Args:
            site: the consumer, with the weights of the untouched model.
            kept: bool [channels], True where a channel stays.
            statistics: of the untouched model; None where nothing is needed.

        Returns:
            The consumer's new weight in the layout of the file, at full size (columns of removed channels
            do not matter), and what is added to its bias, float64 [rows]; None where they stay as they are.
        """
        ...


@runtime_checkable
class BlendingCompensation(Compensation, Protocol):
    """One that changes what makes the channels, too, and so chooses which of them stay."""

    def choose(self, channels: Channels, selection: Selection) -> Selection:
        """The channels that stay, at the widths of a selection."""
        ...

    def blends(self, channels: Channels, kept: np.ndarray) -> Iterable[Blend]:
        """What is made of the stored numbers that make the channels.

        Args:
            kept: bool [channels], as for the consumers; it need not be what ``choose`` gave.
        """
        ...

    def notes(self, channels: Channels, kept: np.ndarray) -> Iterable[str]:
        """What a user should know of groups that were treated otherwise, a sentence each."""
        ...


class PairedCompensation(Protocol):
    """One that is fitted on a walk along the graph, to what earlier sites have become.

    Attributes:
        needs: ``PAIRED``.
        patches: how many rows of each site it wants to see, spread over the samples.
        seed: of the choice of rows.
    """

    @property
    def needs(self) -> Literal[Needs.PAIRED]: ...

    @property
    def patches(self) -> int: ...

    @property
    def seed(self) -> int: ...

    def __call__(
        self, site: FoldSite, kept: np.ndarray, statistics: Paired
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Compensate one consumer.

        Args:
            site: the consumer, with the weights of the untouched model.
            kept: bool [channels], True where a channel stays.
            statistics: of this site, or pooled over all sites that share its weight.

        Returns:
            The consumer's new weight in the layout of the file, at full size, columns of removed channels
            zero; and what is added to its bias, float64 [rows], None where it stays as it is.
        """
        ...

    def bias_of(self, statistics: Paired, weight: np.ndarray) -> np.ndarray | None:
        """The change of the bias of another site that shares a weight which is decided already.

        Args:
            statistics: of that site.
            weight: in the layout of the file, at full size.

        Returns:
            float64 [rows]; None where the bias stays as it is.
        """
        ...
