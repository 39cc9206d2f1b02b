"""What a run did, as data: before and after, parity, latency, groups, what was frozen and why."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxmerge.data.holdout import Holdout
from onnxmerge.graph.output import atomic_write, measured
from onnxmerge.report.headline import headline, measured_on
from onnxmerge.study import Decision, Proof, Shortfall, Study
from onnxmerge.validation import SLOWER, Latency

SCHEMA_VERSION = 1
# Measured ratios are uncertain by about this much.
REACHED = 0.03


@dataclass(frozen=True)
class Report:
    """The report of a run. ``content`` is plain data in the layout of the README's "Report" section."""

    content: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def to_json(self) -> str:
        """JSON text; figures that are not finite are null."""
        return json.dumps(_finite(self.content), indent=2)

    def save(self, path: str | Path) -> None:
        """Write JSON atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        with atomic_write(Path(path)) as part:
            part.write_text(self.to_json() + "\n", encoding="utf-8")


def describe(study: Study, decision: Decision, proof: Proof) -> Report:
    """The report of a run from what its stages found."""
    analysis, parity, latency = study.analysis, proof.parity, proof.latency
    removed = analysis.removed(decision.candidate.selection)
    params, macs = analysis.cost.params_kept(removed), analysis.cost.macs_kept(removed)
    output = _size(decision, study)
    facts = {group.name: group for group in analysis.channels.groups}
    keep = decision.candidate.selection.keep
    config = study.config
    kind, value = config.budget or ("tolerance", study.tolerance)
    return Report({
        "headline": asdict(headline(study, decision, proof)),
        "asked": {"kind": "plan", "value": None} if decision.planned else {"kind": kind, "value": value},
        "reached": {
            "macs": macs / max(analysis.cost.macs, 1), "params": params / max(analysis.cost.params, 1),
            "latency": latency.ratio, "change": parity.change,
        },
        "schema_version": SCHEMA_VERSION,
        "input": {
            "params": analysis.cost.params, "macs": analysis.cost.macs,
            "bytes": study.source.loaded.bytes, "sha256": study.source.loaded.sha256,
        },
        "output": {"params": round(params), "macs": round(macs), **output},
        "unchanged": decision.unchanged,
        "parity": {
            "relative_error": parity.relative_error, "max_abs_error": parity.max_abs_error,
            "top1_agreement": parity.top1_agreement, "change": parity.change,
            "change_upper_90": parity.change_upper(0.9), "samples": parity.samples, "source": parity.source,
            "basis": decision.holdout.basis, "stand_in": decision.holdout.stands_in,
            "convention": parity.convention,
            "conventions": [
                {"convention": p.convention, "change": p.change, "change_upper_90": p.change_upper(0.9),
                 "top1_agreement": p.top1_agreement, "relative_error": p.relative_error}
                for p in (parity, *parity.others) if p.convention is not None
            ],
            "outputs": [
                {"name": o.name, "kind": o.kind, "change": o.change, "relative_error": o.relative_error,
                 "max_abs_error": o.max_abs_error, "agreement": o.agreement, "judged": o.judged}
                for o in parity.outputs
            ],
        },
        "latency": asdict(latency) | {"predicted_ratio": decision.predicted},
        "search": _search(study, decision),
        "groups": [
            {"name": name, "before": len(group), "after": len(keep.get(name, group.channels)),
             "nodes": list(group.nodes)}
            for name, group in facts.items()
        ],
        "emptied": _emptied(study, decision),
        "frozen": _frozen(study),
        "reach": study.explanation.reach,
        "calibration": {"source": study.samples.fit.source, "samples": len(study.samples.fit),
                        "kind": study.samples.kind, "conventions": _conventions(study)},
        "method": asdict(study.method),
        "config": config.as_dict(),
        "warnings": [*study.source.warnings, *parity.notes, *_warnings(study, decision, proof)],
        "seconds": _seconds(study),
    })  # fmt: skip


def describe_inspection(study: Study) -> Report:
    """What could be removed, and what stays and why."""
    cost, explanation = study.analysis.cost, study.explanation
    scope = {group.name for group in study.analysis.channels.groups}
    return Report({
        "schema_version": SCHEMA_VERSION,
        "input": {
            "params": cost.params, "macs": cost.macs,
            "bytes": study.source.loaded.bytes, "sha256": study.source.loaded.sha256,
        },
        "reach": explanation.reach,
        "groups": [
            {"name": g.name, "channels": g.channels, "macs_share": g.macs,
             "params_share": g.params, "may_go": g.may_go, "nodes": list(g.nodes)}
            for g in explanation.groups if g.name in scope
        ],
        "frozen": _frozen(study),
        "inputs": study.samples.fit.source,
        "warnings": list(study.source.warnings),
        "seconds": _seconds(study),
    })  # fmt: skip


def describe_sweep(study: Study, holdout: Holdout, points: Sequence[tuple[Decision, Proof]]) -> Report:
    """The trade-off curve: one entry per budget."""
    cost = study.analysis.cost
    curve = []
    for decision, proof in points:
        removed = study.analysis.removed(decision.candidate.selection)
        curve.append({
            "macs": cost.macs_kept(removed) / max(cost.macs, 1),
            "params": cost.params_kept(removed) / max(cost.params, 1),
            "change": proof.parity.change,
            "change_upper_90": proof.parity.change_upper(0.9),
            "top1_agreement": proof.parity.top1_agreement,
            "relative_error": proof.parity.relative_error,
            "latency": proof.latency.ratio,
        })  # fmt: skip
    return Report({
        "schema_version": SCHEMA_VERSION,
        "input": {"params": cost.params, "macs": cost.macs, "sha256": study.source.loaded.sha256},
        "points": curve,
        "source": measured_on(points[0][1].parity, holdout) if points else study.samples.fit.source,
        "stand_in": holdout.stands_in,
        "config": study.config.as_dict(),
        "warnings": list(study.source.warnings),
        "seconds": _seconds(study),
    })  # fmt: skip


def _emptied(study: Study, decision: Decision) -> str | None:
    """What left altogether, in a line; None where every group kept a channel."""
    gone = sum(not len(keep) for keep in decision.candidate.selection.keep.values())
    may_go = len(study.analysis.depth.names)
    return (
        f"{gone} of {may_go} groups that may go left altogether, and their layers with them" if gone else None
    )


def _frozen(study: Study) -> list[dict[str, Any]]:
    """Why channels stay: the reason, how many, which operators make them and which nodes keep them."""
    return [
        {"reason": entry.reason, "count": entry.channels, "examples": list(entry.nodes),
         "axes": list(entry.axes), "causes": list(entry.causes)}
        for entry in study.explanation.frozen
    ]  # fmt: skip


def _conventions(study: Study) -> list[dict[str, Any]]:
    """The input conventions that stand-in photographs were fed under, and how probable each is."""
    if study.plausible is None:
        return []
    pairs = zip(study.plausible.conventions, study.plausible.probabilities, strict=True)
    return [
        {"name": str(c), "probability": p, "mean": list(c.mean), "std": list(c.std), "scale": c.scale,
         "order": c.order, "per_image": c.per_image}
        for c, p in pairs
    ]  # fmt: skip


def _seconds(study: Study) -> dict[str, float]:
    return {stage: round(value, 4) for stage, value in study.clock.seconds.items()}


def _size(decision: Decision, study: Study) -> dict[str, Any]:
    if decision.unchanged:
        return {"bytes": study.source.loaded.bytes, "sha256": study.source.loaded.sha256}
    size, digest = measured(decision.candidate.model, external=not study.source.loaded.self_contained)
    return {"bytes": size, "sha256": digest}


def _search(study: Study, decision: Decision) -> dict[str, Any] | None:
    if study.config.budget is not None or decision.planned:
        return None
    if decision.sought is None:
        return {
            "macs": 1.0,
            "change": 0.0,
            "change_upper_90": 0.0,
            "source": study.samples.fit.source,
            "samples": 0,
        }
    found = decision.sought
    return {
        "macs": found.share,
        "change": found.parity.change,
        "change_upper_90": found.parity.change_upper(0.9),
        "source": found.parity.source,
        "samples": found.parity.samples,
    }


def _warnings(study: Study, decision: Decision, proof: Proof) -> list[str]:
    warnings = [
        f"the group '{name}' was left whole: without it the model would not answer like its masked "
        "reference, which is a defect of onnxmerge; please report it"
        for name in decision.distrusted
    ]
    if study.samples.kind != "given":
        warnings.append(
            f"no data was given: {study.samples.fit.source} were used; a change measured on them proves "
            "little: give real ones with calibration="
        )
    found = study.plausible
    if found is not None and not found.clear:
        listed = "; ".join(
            f"{c} ({p:.0%})" for c, p in zip(found.conventions, found.probabilities, strict=True)
        )
        warnings.append(
            "which numbers the model expects its pixels to be is not certain, so everything was done for all "
            f"that is plausible: {listed}; mean=, std=, scale= and order= settle it"
        )
    if found is not None and found.meaningful is False and study.samples.kind == "generic":
        warnings.append(
            "the model makes nothing of photographs (it may be made for faces, digits, text or other "
            "pictures): how its answers to real inputs change could not be checked"
        )
    if decision.shortfall is not None:
        warnings.append(_in_words(decision.shortfall, study.config.align))
    if not proof.latency.in_turn:
        warnings.append(
            "the model is large: it and its output were timed in alternating blocks of runs, without packed "
            "weights, and not run by run"
        )
    goal = study.config.latency
    if goal is not None and proof.latency.ratio > goal + REACHED:
        warnings.append(
            f"the latency is {proof.latency.ratio:.2f} of the input's, above the {goal:.2f} asked for"
            + _of_sessions(proof.latency)
        )
    elif proof.latency.ratio > SLOWER and not decision.unchanged:
        warnings.append(
            f"the output took {proof.latency.ratio:.2f} of the input's time here: its widths do not suit "
            "this machine's kernels, or the machine was busy; latency= asks for time"
        )
    if not study.analysis.channels.groups:
        warnings.append("no channel of this model can be removed: see what is frozen and why")
    elif decision.unchanged:
        warnings.append("nothing was removed: the input model is the output")
    return warnings


def _of_sessions(latency: Latency) -> str:
    if latency.sessions is None:
        return ""
    low, high = latency.sessions
    return f"; new sessions of the same two models gave {low:.2f} to {high:.2f}"


def _in_words(shortfall: Shortfall, align: int | str) -> str:
    what = {"macs": "multiplications", "params": "parameters"}[shortfall.kind]
    why = "" if align == "auto" else f"; widths are multiples of {align}, as align asks for"
    return (
        f"{shortfall.kept:.4g} of the {what} are kept where {shortfall.asked:.4g} were asked for: the next "
        f"wider step of '{shortfall.group}' would keep {shortfall.wider:.4g}{why}"
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
