"""Which samples are fitted, which ones choose among candidates, and which ones judge the result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from onnxmerge.data.dataset import Dataset

# What is held out to measure the change on, and, in a search, of the rest to choose by: the share of the
# samples, the fewest, and the largest share.
JUDGED = (0.1, 48, 0.25)
CHOOSING = (0.25, 64, 0.5)
# Where more was given than is fitted, others judge: a share of how many are fitted, and so many at least.
APART = (0.25, 48)
# The same of what a model is taught on: what decides what is learned.
CHECKING = (1 / 8, 32, 0.25)


@dataclass(frozen=True, eq=False)
class Samples:
    """The data of a run.

    Attributes:
        fit: for statistics and reconstruction.
        kind: ``given``, ``generic`` (images shipped with the package) or ``made up``.
        evaluation: samples that no statistic sees, to measure the change on: what the user gave for it, or
            what was put aside; None: a part of ``fit`` will be.
        evaluation_given: whether the user gave them.
        evaluation_fitted: whether they are the same that are fitted.
        notes: what a user should know of how they were read.
    """

    fit: Dataset
    kind: str
    evaluation: Dataset | None = None
    evaluation_given: bool = False
    evaluation_fitted: bool = False
    notes: tuple[str, ...] = ()


# By the kind of the data, what is measured on samples that were put aside before anything began.
_BASES = {"given": "held out", "generic": "photographs", "made up": "made up"}


@dataclass(frozen=True, eq=False)
class Holdout:
    """What is fitted to when the change is measured, and what it is measured on.

    Attributes:
        judged: no sample of it was fitted or chose, but where ``basis`` says so.
        basis: ``evaluation`` (data given for it), ``held out`` (of the calibration data), ``calibration``
            (nothing was fitted to it), ``compared`` (given to compare two models on, of which nobody knows
            what they were fitted to), ``fit`` (what the fit is made of, for want of others or because it was
            asked for), ``photographs`` (those shipped with the package) or ``made up``. The last two stand
            in for real data.
        choosing: what a search compares candidates on.
        learns: whether anything is fitted to the values of ``fit``.
    """

    fit: Dataset
    judged: Dataset
    basis: str
    choosing: Dataset | None = None
    learns: bool = False

    @staticmethod
    def of(samples: Samples, seed: int, *, fits: bool, share: tuple[float, int, float] = JUDGED) -> Holdout:
        """A part of the data is held out, where no other samples are there to measure on.

        Args:
            fits: whether anything is fitted to the values of the data.
            share: as for ``Dataset.split``: the share held out, the fewest samples, the largest share.
        """
        data = samples.fit
        if samples.evaluation is not None:
            basis = "evaluation" if samples.evaluation_given else _BASES[samples.kind]
            if samples.evaluation_fitted and fits:
                basis = "fit"
            return Holdout(data, samples.evaluation, basis, learns=fits)
        if not fits:
            return Holdout(data, data, "calibration")
        fit, held_out = data.split(*share, seed=seed)
        return Holdout(fit, held_out, "fit" if held_out is fit else "held out", learns=True)

    def for_search(self, seed: int) -> Holdout:
        """The same with a part of what is fitted set aside, to choose among candidates by.

        What a search chooses by would flatter the result: it is judged by samples that chose nothing.
        """
        fit, choosing = self.fit.split(*CHOOSING, seed=seed)
        # Where nothing is fitted, all but what chooses is as good as held out.
        judged = fit if self.basis == "calibration" else self.judged
        return replace(self, fit=fit, choosing=choosing, judged=judged)

    @cached_property
    def repeated(self) -> int:
        """How many samples that judge have the values of others that were fitted, or chose."""
        if not self.learns or self.basis not in ("held out", "evaluation"):
            return 0
        # Every convention of a mixture has the same samples.
        judged = list(_marks(self.judged.parts()[0]))
        used = {mark for data in (self.fit, self.choosing) if data is not None for mark in _marks(data)}
        return sum(mark in used for mark in judged)

    @property
    def stands_in(self) -> bool:
        """Whether the change is measured on anything but data of the model's own kind."""
        return self.basis in ("photographs", "made up")


def _marks(data: Dataset) -> Iterator[bytes]:
    """A digest of the values of every sample; of ready-made feeds, of every feed."""
    for feed in data.feeds():
        own = {name: values for name, values in sorted(feed.items()) if name not in data.shared}
        if data.ready is not None:
            yield _digest(list(own.values()))
        else:
            yield from map(_digest, zip(*own.values(), strict=True))


def _digest(arrays: Sequence[np.ndarray]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for values in map(np.asarray, arrays):
        plain = values.astype(np.str_) if values.dtype.hasobject else values
        digest.update(f"{plain.dtype}{plain.shape}".encode())
        digest.update(plain.tobytes())
    return digest.digest()
