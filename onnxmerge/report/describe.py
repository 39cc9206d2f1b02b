"""From what the stages of a run found to its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from onnxmerge.data.holdout import Holdout
from onnxmerge.graph.constants import operators
from onnxmerge.graph.output import measured
from onnxmerge.outcomes import Decision, Proof, Recovered
from onnxmerge.plan import Selection
from onnxmerge.progress import Clock
from onnxmerge.report.document import SCHEMA_VERSION
from onnxmerge.report.facts import (
    Asked,
    CalibrationFacts,
    ConventionFacts,
    ConventionParity,
    GroupWidths,
    LatencyFacts,
    MeasureFacts,
    ModelFacts,
    OutputChange,
    ParityFacts,
    PrecisionFacts,
    Reached,
    ScoreFacts,
    SearchFacts,
    StepFacts,
)
from onnxmerge.report.headline import CONFIDENCE, headline, measured_on
from onnxmerge.report.report import Inspection, Point, Report, Sweep
from onnxmerge.report.warnings import of_data, of_own_measure, of_storage, warnings_of
from onnxmerge.study import Study
from onnxmerge.validation import Found, Parity


def describe(study: Study, decision: Decision, proof: Proof) -> Report:
    """The report of a run."""
    source = _input(study)
    output = _output(study, decision, source)
    return Report(
        headline=headline(study, decision, proof, output.bytes / max(source.bytes, 1)),
        asked=_asked(study, decision),
        reached=_reached(study, decision, proof),
        schema_version=SCHEMA_VERSION,
        input=source,
        output=output,
        unchanged=decision.unchanged,
        parity=parity_facts(proof.parity, decision.choice.holdout),
        most_changed=proof.most_changed,
        score=_score(study, decision, proof),
        latency=LatencyFacts(
            **asdict(proof.latency),
            predicted_ratio=decision.choice.predicted,
            all_channels_ratio=proof.all_channels,
        ),
        precision=_precision(study, decision, proof, source, output),
        search=_search(study, decision),
        groups=_groups(study, decision),
        emptied=_emptied(study, decision),
        shapes=decision.choice.shapes,
        frozen=study.explanation.frozen,
        reach=study.explanation.reach,
        calibration=_calibration(study),
        method=study.method,
        recovery=decision.recovery,
        config=study.options,
        warnings=tuple(warnings_of(study, decision, proof)),
        seconds=seconds_of(study.clock),
    )


def describe_inspection(study: Study) -> Inspection:
    """What could be removed, and what stays and why."""
    scope = {group.name for group in study.analysis.channels.groups}
    return Inspection(
        schema_version=SCHEMA_VERSION,
        input=_input(study),
        reach=study.explanation.reach,
        groups=tuple(group for group in study.explanation.groups if group.name in scope),
        frozen=study.explanation.frozen,
        inputs=study.samples.fit.source,
        warnings=(*study.source.warnings, *of_storage(study), *_not_analysed(study)),
        seconds=seconds_of(study.clock),
    )


def _not_analysed(study: Study) -> tuple[str, ...]:
    found = study.explanation.not_analysed
    return () if found is None else (found,)


def describe_sweep(
    study: Study,
    holdout: Holdout,
    points: Sequence[tuple[Decision, Proof, Recovered | None]],
    beyond: Mapping[float, Exception],
) -> Sweep:
    """The trade-off curve: one entry per budget.

    Args:
        beyond: the shares that cannot be reached, and why.
    """
    return Sweep(
        schema_version=SCHEMA_VERSION,
        input=_input(study),
        points=tuple(_point(study, *point) for point in points),
        measure=None if study.own is None else study.own.name,
        score=None if study.own is None else study.own.before,
        judged=_judged(points),
        source=measured_on(points[0][1].parity, holdout) if points else study.samples.fit.source,
        stand_in=holdout.stands_in,
        config=study.options,
        warnings=(*_of_sweep(study, points), *_left_out(beyond)),
        seconds=seconds_of(study.clock),
    )


def _judged(points: Sequence[tuple[Decision, Proof, Recovered | None]]) -> str:
    """How the outputs that change most are judged, the one of the last point first."""
    worst = [proof.parity.worst for _, proof, _ in reversed(points)]
    return "; ".join(dict.fromkeys(f"'{one.name}' is {one.judged}" for one in worst if one is not None))


def _of_sweep(study: Study, points: Sequence[tuple[Decision, Proof, Recovered | None]]) -> tuple[str, ...]:
    notes = [note for _, proof, _ in points for note in proof.parity.notes]
    of_study = (*of_storage(study), *of_data(study), *of_own_measure(study))
    return tuple(dict.fromkeys([*study.source.warnings, *notes, *of_study]))


def _left_out(beyond: Mapping[float, Exception]) -> Iterator[str]:
    """What a curve does not show."""
    if beyond:
        shares = ", ".join(f"{share:.4g}" for share in beyond)
        yield f"left out, for it cannot be reached: {shares} ({next(iter(beyond.values()))})"


def _input(study: Study) -> ModelFacts:
    cost, loaded = study.analysis.cost, study.source.loaded
    nodes, name = operators(loaded.proto), None if loaded.path is None else loaded.path.name
    return ModelFacts(cost.params, cost.macs, loaded.bytes, loaded.sha256, nodes, name)


def _output(study: Study, decision: Decision, source: ModelFacts) -> ModelFacts:
    if decision.unchanged:
        return source
    params, macs = (study.analysis.kept(kind, decision.candidate.selection) for kind in ("params", "macs"))
    size, digest = measured(decision.candidate.model, external=not study.source.loaded.self_contained)
    return ModelFacts(round(params), round(macs), size, digest, operators(decision.candidate.model))


def _asked(study: Study, decision: Decision) -> Asked:
    if decision.choice.planned:
        return Asked("plan", None)
    kind = "max_drop" if study.searches_by_score else "tolerance"
    return Asked(*(study.config.budget or (kind, study.tolerance)))


def _reached(study: Study, decision: Decision, proof: Proof) -> Reached:
    analysis, selection = study.analysis, decision.candidate.selection
    return Reached(
        macs=analysis.kept("macs", selection) / max(analysis.cost.macs, 1),
        params=analysis.kept("params", selection) / max(analysis.cost.params, 1),
        latency=proof.latency.ratio,
        change=proof.parity.change,
    )


def parity_facts(parity: Parity, holdout: Holdout) -> ParityFacts:
    """A comparison as reports have it."""
    return ParityFacts(
        relative_error=parity.relative_error,
        max_abs_error=parity.max_abs_error,
        top1_agreement=parity.top1_agreement,
        change=parity.change,
        change_upper_90=parity.change_upper(CONFIDENCE),
        samples=parity.samples,
        source=parity.source,
        basis=holdout.basis,
        repeated=holdout.repeated,
        stand_in=holdout.stands_in,
        convention=parity.convention,
        conventions=tuple(
            ConventionParity(
                p.convention, p.change, p.change_upper(CONFIDENCE), p.top1_agreement, p.relative_error
            )
            for p in (parity, *parity.others)
            if p.convention is not None
        ),
        outputs=tuple(
            OutputChange(
                o.name,
                o.kind,
                o.change,
                o.relative_error,
                o.max_abs_error,
                o.agreement,
                o.judged,
                o.said(),
                _measures(o.found),
            )
            for o in parity.outputs
        ),
    )


def _score(study: Study, decision: Decision, proof: Proof) -> ScoreFacts | None:
    own = study.own
    if own is None or proof.score is None:
        return None
    return ScoreFacts(
        name=own.name,
        lower_is_better=own.lower_is_better,
        before=own.before,
        after=proof.score,
        drop=own.drop(proof.score),
        spread=own.spread,
        looked_at=own.looked_at,
        chose=study.searches_by_score and decision.choice.sought is not None,
        seconds=round(own.seconds, 4),
    )


def _precision(
    study: Study, decision: Decision, proof: Proof, source: ModelFacts, output: ModelFacts
) -> PrecisionFacts | None:
    found = decision.lowered
    if found is None or proof.before is None or study.config.precision is None:
        return None
    size = _output(study, found.before, source).bytes
    steps = (_step(size, proof.before), _step(output.bytes, proof))
    return PrecisionFacts(study.config.precision, found.why, found.samples, *steps)


def _step(size: int, proof: Proof) -> StepFacts:
    parity = proof.parity
    return StepFacts(size, parity.change, parity.change_upper(CONFIDENCE), proof.latency.ratio, proof.score)


def _measures(found: Found) -> tuple[MeasureFacts, ...]:
    return tuple(
        MeasureFacts(one.name, one.value, one.upper(CONFIDENCE), counts)
        for several, counts in ((found.measures, True), (found.beside, False))
        for one in several
    )


def _search(study: Study, decision: Decision) -> SearchFacts | None:
    if study.config.budget is not None or decision.choice.planned:
        return None
    if decision.choice.sought is None:
        # Nothing could go; or what was found could not be trusted, and was not searched for again.
        nothing = SearchFacts(1.0, 0.0, 0.0, study.samples.fit.source, 0)
        return nothing if decision.unchanged else None
    share, parity = decision.choice.sought.share, decision.choice.sought.verdict.parity
    return SearchFacts(share, parity.change, parity.change_upper(CONFIDENCE), parity.source, parity.samples)


def _groups(study: Study, decision: Decision) -> tuple[GroupWidths, ...]:
    analysis, keep = study.analysis, decision.candidate.selection.keep

    def alone(kind: str, name: str) -> float:
        index = keep.get(name)
        if index is None or len(index) == sizes[name]:
            return 0.0
        total = analysis.cost.macs if kind == "macs" else analysis.cost.params
        return 1 - analysis.kept(kind, Selection({name: index})) / max(total, 1)

    sizes = {group.name: len(group) for group in analysis.channels.groups}
    return tuple(
        GroupWidths(
            group.name,
            len(group),
            len(keep.get(group.name, group.channels)),
            group.nodes,
            alone("macs", group.name),
            alone("params", group.name),
        )
        for group in analysis.channels.groups
    )


def _emptied(study: Study, decision: Decision) -> str | None:
    gone = len(decision.candidate.selection.emptied)
    may_go = len(study.analysis.depth.names)
    return (
        f"{gone} of {may_go} groups that may go left altogether, and their layers with them" if gone else None
    )


def _calibration(study: Study) -> CalibrationFacts:
    conventions: tuple[ConventionFacts, ...] = ()
    if study.plausible is not None:
        conventions = tuple(
            ConventionFacts(str(c), p, c.mean, c.std, c.scale, c.order, c.per_image)
            for c, p in zip(study.plausible.conventions, study.plausible.probabilities, strict=True)
        )
    fit = study.samples.fit
    return CalibrationFacts(fit.source, len(fit), study.samples.kind, conventions)


def _point(study: Study, decision: Decision, proof: Proof, taught: Recovered | None) -> Point:
    reached, parity = _reached(study, decision, proof), proof.parity
    return Point(
        macs=reached.macs,
        params=reached.params,
        change=parity.change,
        change_upper_90=parity.change_upper(CONFIDENCE),
        top1_agreement=parity.top1_agreement,
        relative_error=parity.relative_error,
        latency=reached.latency,
        recovered_change=None if taught is None else taught.parity.change,
        score=proof.score,
        recovered_score=None if taught is None else taught.score,
    )


def seconds_of(clock: Clock) -> dict[str, float]:
    """Seconds by stage, as reports have them."""
    return {stage: round(value, 4) for stage, value in clock.seconds.items()}
