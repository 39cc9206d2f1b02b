"""Two models run on the same data and compared: streamed, so that any set fits in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxmerge import limits
from onnxmerge.data.dataset import Dataset
from onnxmerge.graph import external_weights
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.runtime import Session
from onnxmerge.runtime.session import Feed
from onnxmerge.validation.parity import Kinds, Outputs, Parity, collect, rows_of, size_of

# Of large models: the samples whose outputs are compared at a time, if not fewer.
_MOST_SAMPLES = 4


# Told at every feed: ("parity", samples done, samples).
Step = Callable[[str, int, int], None]


def measure(
    reference: Session,
    candidate: Session,
    data: Dataset,
    kinds: Kinds,
    step: Step | None = None,
    known: list[Outputs] | None = None,
) -> Parity:
    """Run both models on all feeds of ``data`` and compare. Raises ModelError if one of them does not run.

    Models whose weights lie in files run one after the other, so that never both are in memory.

    Args:
        known: the reference's outputs by feed, as far as they are known; the others are added to it, for
            whoever measures several candidates on a few samples.
    """
    convention = data.conventions[0] if len(data.conventions) == 1 else None
    return replace(_measured(reference, candidate, data, kinds, step, known), convention=convention)


def worst(parities: Sequence[Parity]) -> Parity:
    """Of comparisons under several conventions the one with the largest change, beside the others."""
    place = max(range(len(parities)), key=lambda i: parities[i].change)
    rest = tuple(p for i, p in enumerate(parities) if i != place)
    return replace(parities[place], others=rest)


def _measured(
    reference: Session,
    candidate: Session,
    data: Dataset,
    kinds: Kinds,
    step: Step | None,
    known: list[Outputs] | None,
) -> Parity:
    names = list(kinds)

    done = 0

    def rows(feed: Mapping[str, np.ndarray]) -> int:
        nonlocal done
        count = 1 if data.ready is not None else rows_of(feed, data.shared)
        done += count
        if step is not None:
            step("parity", min(done, len(data)), len(data))
        return count

    def expected(number: int, feed: Feed) -> Outputs:
        if known is None:
            return reference.run(feed, names, shrink=True)
        if number == len(known):
            known.append(reference.run(feed, names, shrink=True))
        return known[number]

    if not (reference.mapped or candidate.mapped):
        return collect(
            (
                (expected(number, feed), candidate.run(feed, names, shrink=True), rows(feed))
                for number, feed in enumerate(data.feeds())
            ),
            kinds,
            data.source,
        )
    external_weights.trim()
    scratch = Scratch()
    batch = _affordable(reference, names, data)
    before = [_on_disk(reference.run(feed, names), scratch) for feed in data.feeds(batch)]
    external_weights.release()
    external_weights.trim()
    after = ((candidate.run(feed, names), rows(feed)) for feed in data.feeds(batch))
    parity = collect(((_back(a), b, n) for a, (b, n) in zip(before, after, strict=True)), kinds, data.source)
    external_weights.release()
    return parity


def _on_disk(outputs: Outputs, scratch: Scratch) -> dict[str, Any]:
    """The same outputs, big arrays of numbers in files."""

    def big(value: Any) -> bool:
        return (
            isinstance(value, np.ndarray)
            and value.dtype.kind in "fiu"
            and value.nbytes >= limits.LIMITS.mapped_tensor
        )

    return {name: scratch.put(v) if big(v) else v for name, v in outputs.items()}


def _back(outputs: Mapping[str, Any]) -> Outputs:
    """The outputs that ``_on_disk`` put away."""
    return {name: v.values() if isinstance(v, external_weights.Stored) else v for name, v in outputs.items()}


def _affordable(session: Session, names: list[str], data: Dataset) -> int:
    """How many samples' outputs can be compared at a time."""
    outputs = session.run(next(iter(data.feeds(1))), names)
    return int(min(max(limits.LIMITS.compared // max(size_of(outputs), 1), 1), _MOST_SAMPLES))
