"""Which outputs are those of a detector, and how boxes and scores lie in them: seen in their values.

One output that holds both (before suppression or after it), outputs of boxes and of scores, and those of
several strides. Nothing is recognised where no picture is fed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxmerge.validation.answers import Answers
from onnxmerge.validation.detectors.apart import apart
from onnxmerge.validation.detectors.forms import Detector
from onnxmerge.validation.detectors.together import together
from onnxmerge.validation.scores import Scores

# Below, a threshold of the model's own only keeps the suppression from drowning.
LEAST_CONFIDENCE = 0.1


def detectors(answers: Answers, graph: Scores, asked: Sequence[str] = ()) -> list[Detector]:
    """The detectors among the outputs.

    Args:
        asked: outputs that are said to hold detections: they are read so where that is possible at all.
    """
    if answers.image is None and not asked:
        return []
    names = [name for name in answers.names if answers.of_output(name)[0].ndim]
    found: list[Detector] = []
    for name in names:
        one = together(name, answers, graph, sure=name in asked)
        if one is not None:
            found.append(one)
    taken = {name for one in found for name in one.outputs}
    several = apart([n for n in names if n not in taken], answers, graph, asked)
    return [_with_thresholds(one, graph) for one in [*found, *([several] if several is not None else [])]]


def _with_thresholds(one: Detector, graph: Scores) -> Detector:
    """The model's own thresholds in the place of the usual ones, where they are stored."""
    overlap, confidence = graph.thresholds()
    how = one.how
    if overlap is not None and 0 < overlap < 1:
        how = replace(how, overlap=overlap, own=True)
    if confidence is not None and LEAST_CONFIDENCE <= confidence < 1:
        how = replace(how, confidence=confidence, own=True)
    return replace(one, how=how)
