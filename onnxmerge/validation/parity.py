"""How much the outputs of two models differ, added up feed by feed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxmerge.errors import ModelError
from onnxmerge.validation.judgement import Judgement
from onnxmerge.validation.kinds import KINDS, Found, Numbers, Tally
from onnxmerge.validation.kinds.protocol import percent

Outputs = Mapping[str, Any]
Kinds = Mapping[str, Judgement | str]


def size_of(outputs: Outputs) -> int:
    """The bytes of all arrays; sequences are not counted."""
    return sum(value.nbytes for value in outputs.values() if isinstance(value, np.ndarray))


@dataclass(frozen=True)
class OutputParity:
    """The comparison of one output.

    Attributes:
        kind: how it was judged: ``values`` where its own kind found nothing to judge.
        change: what its kind calls so, see ``validation.kinds``; of outputs that are read together that of
            all.
        relative_error, max_abs_error: None for integers.
        agreement: the share of equal answers or elements, of probabilities that of equal decisions at 0.5;
            None for values and vectors.
        judged: how and why it is judged so, in words.
        found: the figures that the change was chosen from, and those beside it.
    """

    name: str
    kind: str
    change: float
    relative_error: float | None
    max_abs_error: float | None
    agreement: float | None
    judged: str
    found: Found = field(repr=False, compare=False)

    @property
    def sums(self) -> np.ndarray:
        """Float64 [samples, 2]: what differs and what is there, per sample, of what is the change."""
        return self.found.worst.sums

    @property
    def distance(self) -> float:
        """`change` where it is continuous, else what is: `relative_error`, or what the kind has for it."""
        if self.found.distance is not None:
            return self.found.distance
        return self.change if self.relative_error is None else self.relative_error

    def change_upper(self, confidence: float = 0.9) -> float:
        """The upper one-sided confidence bound of ``change``, samples being independent draws."""
        return self.found.upper(confidence)

    def said(self, of: str = "") -> str:
        """The finding as a clause, ``of`` (" of output 'y'") put in where the name belongs."""
        return self.found.said.replace("{of}", of)


@dataclass(frozen=True)
class Parity:
    """The comparison of two models over a data set.

    Attributes:
        relative_error: |y' - y| / |y|, Frobenius over the whole set, the largest over the float outputs.
        max_abs_error: the largest over the float outputs.
        top1_agreement: the smallest share of equal answers over the outputs that choose among classes; None
            without any.
        change: the largest over all outputs.
        notes: what could not be compared, or not in the way it should be.
        convention: where it is not known which numbers the model expects, the one of these inputs.
        others: the comparisons under the other plausible conventions, none of which is worse.
    """

    relative_error: float
    max_abs_error: float
    top1_agreement: float | None
    change: float
    outputs: tuple[OutputParity, ...]
    samples: int
    source: str
    notes: tuple[str, ...] = ()
    convention: str | None = None
    others: tuple[Parity, ...] = ()

    @property
    def distance(self) -> float:
        """The change, for comparing candidates with one another on few samples.

        Of answers and elements that are the same or not it takes a hundred samples to see one percent, so
        there the numbers behind them count; the change itself is continuous for all other outputs.
        """
        return max((o.distance for o in self.outputs), default=0.0)

    @property
    def worst(self) -> OutputParity | None:
        """The output that changes most; None where there was nothing to compare."""
        return max(self.outputs, key=lambda o: o.change, default=None)

    @property
    def said(self) -> str:
        """What changes most, as the beginning of a sentence; empty where nothing was compared."""
        worst = self.worst
        if worst is None:
            return ""
        # Outputs that are read together change together.
        together = all(one.found is worst.found for one in self.outputs)
        said = worst.said("" if together else f" of output '{worst.name}'")
        return said[:1].upper() + said[1:]

    @property
    def clause(self) -> str:
        """The same for the middle of a sentence."""
        return self.said[:1].lower() + self.said[1:]

    def change_upper(self, confidence: float = 0.9) -> float:
        """The largest of the outputs' upper one-sided confidence bounds of their change."""
        return max((output.change_upper(confidence) for output in self.outputs), default=0.0)


def compare(
    reference: Iterable[Outputs], candidate: Iterable[Outputs], kinds: Kinds, source: str = ""
) -> Parity:
    """Compare outputs feed by feed; every feed counts as many samples as all its outputs have rows.

    ``kinds`` names the outputs to compare, as ``output_kinds`` returns them, or with bare kinds. Raises
    ValueError if one side has more feeds than the other.
    """
    triples = ((a, b, rows_of(a, frozenset())) for a, b in zip(reference, candidate, strict=True))
    return collect(triples, kinds, source)


@dataclass(eq=False)
class _Compared:
    """Running sums for the outputs that one judgement reads."""

    names: tuple[str, ...]
    judged: Judgement
    tally: Tally
    numbers: dict[str, Numbers]

    @staticmethod
    def of(name: str, judged: Judgement) -> _Compared:
        names = judged.outputs or (name,)
        return _Compared(names, judged, judged.how.tally(), {one: Numbers() for one in names})

    def add(self, before: Outputs, after: Outputs, rows: int) -> str | None:
        """Count one feed; an output that holds no numbers is named and not counted."""
        pairs = []
        for name in self.names:
            x, y = _array(before[name]), _array(after[name])
            texts = x is not None and x.dtype.kind in "OSU"
            if x is None or y is None or (texts and self.judged.kind != "integers"):
                return name
            pairs.append((x, y))
            if not texts and self.judged.kind != "integers":
                self.numbers[name].add(x, y, rows)
        self.tally.add([x for x, _ in pairs], [y for _, y in pairs], rows)
        return None

    def unknown(self) -> Iterator[str]:
        """What to know of numbers that the reference does not give."""
        for name, numbers in self.numbers.items():
            if numbers.unknown:
                share = percent(numbers.unknown / numbers.count)
                yield (
                    f"the original answers NaN in {share} of output {name!r}; where both answer it, that "
                    "counts as no change"
                )

    def results(self, words: Mapping[str, str]) -> list[OutputParity]:
        """The comparison of every output; where its kind found nothing to judge, its numbers are judged."""
        together, results = self.tally.found(), []
        for name, numbers in self.numbers.items():
            found = together or numbers.found()
            exact = self.judged.kind == "integers"
            results.append(
                OutputParity(
                    name,
                    self.judged.kind if together is not None or exact else "values",
                    found.worst.value,
                    None if exact else numbers.relative.value,
                    None if exact else numbers.largest,
                    found.agreement,
                    words[name],
                    found,
                )
            )
        return results


def _refuse_unanswered(compared: Iterable[_Compared], source: str) -> None:
    """Raise ModelError where the reference gives no number at all: NaN beside NaN would be no change."""
    counted = [numbers for one in compared for numbers in one.numbers.values() if numbers.count]
    if counted and all(numbers.unknown == numbers.count for numbers in counted):
        raise ModelError(
            f"the model answers nothing but NaN to {source}, so there is nothing to hold others to: look "
            "at the inputs (their range), the weights, and float16, which overflows"
        )


def collect(triples: Iterable[tuple[Outputs, Outputs, int]], kinds: Kinds, source: str) -> Parity:
    """The comparison of (reference outputs, candidate outputs, samples) of every feed."""
    judgements = {n: Judgement(KINDS[kind]()) if isinstance(kind, str) else kind for n, kind in kinds.items()}
    compared: dict[tuple[str, ...], _Compared] = {}
    for name, judged in judgements.items():
        compared.setdefault(judged.outputs or (name,), _Compared.of(name, judged))
    notes: dict[str, str] = {}
    samples = 0
    for before, after, rows in triples:
        samples += rows
        for one in compared.values():
            unread = one.add(before, after, rows)
            if unread is not None:
                note = f"the output {unread!r} holds no numbers and was not compared"
                notes |= dict.fromkeys(one.names, note)
    _refuse_unanswered(compared.values(), source)
    words = {name: judged.words for name, judged in judgements.items()}
    found = {o.name: o for one in compared.values() for o in one.results(words) if o.name not in notes}
    outputs = tuple(found[name] for name in judgements if name in found)
    agreements = [
        o.agreement
        for o in outputs
        if o.agreement is not None and o.kind != "values" and judgements[o.name].how.of_classes
    ]
    said = [note for o in outputs for note in o.found.notes]
    said += [note for one in compared.values() for note in one.unknown()]
    return Parity(
        relative_error=max((o.relative_error for o in outputs if o.relative_error is not None), default=0.0),
        max_abs_error=max((o.max_abs_error for o in outputs if o.max_abs_error is not None), default=0.0),
        top1_agreement=min(agreements, default=None),
        change=max((o.change for o in outputs), default=0.0),
        outputs=outputs,
        samples=samples,
        source=source,
        notes=tuple(dict.fromkeys([*notes.values(), *said])),
    )


def _array(value: Any) -> np.ndarray | None:
    """A value as one array; sequences and maps (the probabilities of a ZipMap) are laid out in order."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, dict):
        return np.array([value[key] for key in sorted(value)])
    if isinstance(value, list):
        parts = [part for part in map(_array, value) if part is not None]
        if len(parts) < len(value):
            return None
        if len({part.shape for part in parts}) == 1:
            return np.stack(parts)
        return np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0)
    return np.asarray(value) if np.isscalar(value) else None


def rows_of(values: Mapping[str, Any], skip: frozenset[str]) -> int:
    """The length of the first axis that all the arrays share, 1 if they share none."""
    lengths = {
        len(v) if isinstance(v, list) or np.ndim(v) else 1 for name, v in values.items() if name not in skip
    }
    return max(lengths.pop(), 1) if len(lengths) == 1 else 1
