"""Where it is asked for, what was decided in fewer bits: the stage between the masked check and the proof."""

from __future__ import annotations

from dataclasses import replace

from onnxmerge.config import Config
from onnxmerge.errors import UsageError
from onnxmerge.graph.files import LoadedModel
from onnxmerge.operators.values import quantised_from
from onnxmerge.outcomes import Candidate, Decision, Lowered
from onnxmerge.runtime.quantisation import Int8, to_float16, to_int8
from onnxmerge.study import Study

# Ranges of activations settle with this many; more only find rarer extremes, which make the steps wider.
SAMPLES = 128


def refuse_precision(loaded: LoadedModel, config: Config) -> None:
    """Raise UsageError where fewer bits are asked of a model that cannot have them, before any work."""
    if config.precision is None:
        return
    if loaded.large or not loaded.self_contained:
        raise UsageError(
            "int8 and fp16 are for models in one file below 256 MB: this one is larger, or has external "
            "data; leave precision= out, and turn the output into fewer bits with onnxruntime's own tools"
        )
    if config.precision == "int8" and any(quantised_from(node) for node in loaded.proto.graph.node):
        raise UsageError("the model is quantised already, and int8 was asked for: leave precision= out")


def lowered(study: Study, decision: Decision) -> Decision:
    """The decision with its models in fewer bits, where that is asked for.

    Ranges of activations are seen on samples that do not judge the result: the same ones whether a search or
    a plan decided.

    Raises:
        ModelError: onnxruntime's tools cannot do it.
    """
    if study.config.precision is None:
        return decision
    data = study.holdout().fit.take(SAMPLES, study.config.seed)
    target = study.config.target
    how = Int8.of(study.runtime.device if target == "auto" else target)

    def made(candidate: Candidate) -> Candidate:
        if study.config.precision == "int8":
            return replace(candidate, model=to_int8(candidate.model, data.feeds(), how))
        return replace(candidate, model=to_float16(candidate.model))

    with study.clock(study.config.precision):
        candidate = made(decision.candidate)
        tried = candidate if decision.tried is decision.candidate else made(decision.tried)
    facts = Lowered(decision, how.why, len(data)) if study.config.precision == "int8" else Lowered(decision)
    return replace(decision, candidate=candidate, tried=tried, unchanged=False, lowered=facts)
