"""What outputs mean, and how a change of each is counted: a frozen dataclass and a file for every kind."""

from onnxmerge.validation.kinds.classes import Classes
from onnxmerge.validation.kinds.detections import Detections
from onnxmerge.validation.kinds.embeddings import Embeddings
from onnxmerge.validation.kinds.integers import Integers
from onnxmerge.validation.kinds.masks import Masks
from onnxmerge.validation.kinds.probabilities import Probabilities
from onnxmerge.validation.kinds.protocol import Found, Kind, Measure, Tally, percent
from onnxmerge.validation.kinds.sequences import Sequences
from onnxmerge.validation.kinds.values import Numbers, Values

KINDS: dict[str, type[Kind]] = {
    kind.name: kind
    for kind in (Classes, Probabilities, Values, Integers, Detections, Sequences, Masks, Embeddings)
}

__all__ = [
    "KINDS", "Classes", "Detections", "Embeddings", "Found", "Integers", "Kind", "Masks", "Measure",
    "Numbers", "Probabilities", "Sequences", "Tally", "Values", "percent",
]  # fmt: skip
