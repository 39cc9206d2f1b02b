"""What a run comes to, in three sentences for a person: what is left, how answers change, what time it takes.

No figure stands alone: each says what it was measured on, and how sure it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from onnxmerge.data.generic import Plausible
from onnxmerge.data.holdout import Holdout
from onnxmerge.graph.constants import operators
from onnxmerge.outcomes import Decision, Proof
from onnxmerge.study import Study
from onnxmerge.validation import Latency, Parity, percent

CONFIDENCE = 0.9
# Where the middle half of the measured ratios is wider than this, the clock says little.
UNSTEADY = 0.1
_UNCHECKED = "How the answers to real inputs change could not be checked."


@dataclass(frozen=True)
class Headline:
    """The three sentences, in the order in which a person wants to know.

    Attributes:
        size: what was asked, and what was reached.
        answers: how the answers change, on what that was measured, and how sure that is.
        time: how long one run takes beside the input's, and how far measurements were apart.
    """

    size: str
    answers: str
    time: str

    @property
    def sentences(self) -> tuple[str, ...]:
        return self.size, self.answers, self.time


def headline(study: Study, decision: Decision, proof: Proof, size: float) -> Headline:
    """The headline of a run.

    Args:
        size: of what is written, as a share of the input's bytes.
    """
    cost = study.analysis.cost
    macs, params = (study.analysis.kept(kind, decision.candidate.selection) for kind in ("macs", "params"))
    kept = (
        f"{macs / max(cost.macs, 1):.1%} of the multiplications and "
        f"{params / max(cost.params, 1):.1%} of the parameters are kept"
    )
    plain = decision if decision.lowered is None else decision.lowered.before
    if decision.unchanged:
        kept = "nothing was removed: the output is the input"
    elif plain.unchanged:
        kept = "nothing was removed"
    elif not study.analysis.removed(decision.candidate.selection).any():
        before, after = operators(study.source.loaded.proto), operators(plain.candidate.model)
        kept = "all channels are kept"
        if after < before:
            kept += f", and {after} operators do what {before} did"
    if decision.lowered is not None:
        kept += f"; turned into {study.config.precision}, the file takes {percent(size)} of the input's bytes"
    size_said = f"{_asked(study, decision)}: {kept}."
    if decision.unchanged:
        return Headline(size_said, "The answers are the input's own.", "One run takes the input's own time.")
    found = checked(proof.parity, decision.choice.holdout, study.plausible)
    time = time_taken(proof.latency, "input") + _not_by_pruning(study, proof)
    return Headline(size_said, f"{_score(study, decision, proof)}{found}", time)


def _not_by_pruning(study: Study, proof: Proof) -> str:
    """What of the time is saved by other means than fewer channels; nothing where nothing is."""
    analysis, found = study.analysis, []
    if analysis.denormals:
        found.append(f"{analysis.denormals:,} denormal weights, slow to compute with, are zero now")
    if analysis.freed:
        found.append(
            f"{len(analysis.freed):,} weights that were inputs of the graph, too, which keeps onnxruntime "
            "from preparing them, are none now"
        )
    if not found:
        return ""
    if proof.all_channels is None:
        return f" That is not due to fewer channels: {'; '.join(found)}."
    alike = " in the input's precision" if proof.before is not None else ""
    return f" With all channels{alike} it would take {proof.all_channels:.2f}: {'; '.join(found)}."


def _asked(study: Study, decision: Decision) -> str:
    config = study.config
    if decision.choice.planned:
        return "As the plan says"
    match config.budget:
        case ("macs", value):
            return f"Asked to keep at most {value:.1%} of the multiplications"
        case ("params", value):
            return f"Asked to keep at most {value:.1%} of the parameters"
        case ("latency", value):
            return f"Asked for {value:.1%} of the time"
        case ("ratio", value):
            return f"Asked to remove {value:.1%} of the channels of every group"
    if study.own is not None and study.searches_by_score:
        return f"Asked to keep the drop of {study.own.name} within {study.tolerance:.4g}"
    within = study.tolerance
    few = f"{within:.2%}" if within >= 1e-4 or not within else f"{100 * within:.3g}%"
    return f"Asked to keep the change of the answers within {few}"


def _score(study: Study, decision: Decision, proof: Proof) -> str:
    """A sentence about the user's own score, with a space after it; nothing where there is none."""
    own = study.own
    if own is None or proof.score is None:
        return ""
    drop = own.drop(proof.score)
    moved = f"goes from {own.before:.6g} to {proof.score:.6g}"
    found = f"{moved}, a {'drop' if drop > 0 else 'gain'} of {abs(drop):.4g}"
    if not isfinite(proof.score):
        found = f"{moved}, which is no score"
    elif drop == 0:
        found = f"stays at {own.before:.6g}"
    elif abs(drop) <= own.spread:
        found = f"{moved}, no more than two evaluations of the input differ by ({own.spread:.4g})"
    searched = study.searches_by_score and not decision.choice.planned
    several = own.looked_at if searched else 0
    chosen = (
        f"; {several} candidates were looked at on the same data, so this flatters" if several > 1 else ""
    )
    return f"The score of {own.name} {found}{chosen}. "


def checked(parity: Parity, holdout: Holdout, plausible: Plausible | None) -> str:
    """How the answers change, and whether that says anything of real inputs."""
    found = answers(parity, holdout)
    if holdout.basis == "made up":
        return f"{_UNCHECKED} {found}"
    if holdout.basis != "photographs" or plausible is None:
        return found
    if plausible.meaningful is False:
        return f"{_UNCHECKED} {found} The model makes nothing of photographs, so this proves nothing."
    if plausible.meaningful is None:
        return f"{found} Whether the model is made for photographs cannot be told from its outputs."
    return found


def answers(parity: Parity, holdout: Holdout) -> str:
    """How the answers change, and what that was measured on."""
    worst = parity.worst
    if worst is None:
        return "The model has no outputs of numbers: nothing was compared."
    most = max(_bound(one, worst.name) for one in (parity, *parity.others))
    bound = percent(most) if most < float("inf") else "any amount"
    sure = (
        f"with {CONFIDENCE:.0%} confidence in at least {percent(max(1 - most, 0.0))}"
        if worst.found.stays
        else f"with {CONFIDENCE:.0%} confidence by {'' if bound.startswith('less') else 'at most '}{bound}"
    )
    said = parity.said
    said = f"{said[:-1]}; {sure})" if said.endswith(")") else f"{said} ({sure})"
    return f"{said}, measured on {measured_on(parity, holdout)}."


def _bound(parity: Parity, output: str) -> float:
    """The upper confidence bound of the change of one output."""
    return max(one.change_upper(CONFIDENCE) for one in parity.outputs if one.name == output)


def measured_on(parity: Parity, holdout: Holdout) -> str:
    """What a change was measured on, with what that is worth."""
    count = f"{parity.samples} samples"
    match holdout.basis:
        case "held out":
            found = f"{count} of {parity.source} that were held out"
            found += _repeated(holdout) or ": nothing was fitted to them"
        case "evaluation":
            found = f"{count} of {parity.source}, given to measure on{_repeated(holdout)}"
        case "compared":
            found = f"{count} of {parity.source}; whether a model was fitted to them is not known here"
        case "calibration":
            found = f"{count} of {parity.source}: nothing was fitted to them"
        case "fit":
            found = f"the same {count} of {parity.source} that were fitted, which flatters"
        case "photographs":
            found = f"{count}, not of your data but {parity.source}"
        case _:
            found = f"{count} of made-up numbers, which say little about real inputs"
    if parity.others:
        several = len(parity.others) + 1
        return f"{found}, under the worst of the {several} plausible input conventions ({parity.convention})"
    return f"{found}, under the convention {parity.convention}" if parity.convention else found


def _repeated(holdout: Holdout) -> str:
    """That some of the samples that judge were fitted all the same; nothing where none were."""
    if not holdout.repeated:
        return ""
    return f", of which {holdout.repeated} have the same values as samples that were fitted, which flatters"


def time_taken(latency: Latency, other: str) -> str:
    """How long one run takes beside that of the other model, which is called so."""
    low, high = latency.spread
    unsteady = "; the machine was busy, so this is rough" if high - low > UNSTEADY * latency.ratio else ""
    if latency.sessions is not None:
        unsteady = f"; new sessions differ from {latency.sessions[0]:.2f} to {latency.sessions[1]:.2f}"
    device = latency.provider.removesuffix("ExecutionProvider")
    threads = f"{latency.threads} thread{'s' if latency.threads > 1 else ''}"
    if latency.of_processor:
        threads = f"processor time of {threads}"
    return (
        f"One run takes {latency.ratio:.2f} of the {other}'s time here (half of {latency.runs} measurements "
        f"lie between {low:.2f} and {high:.2f}; {device}, {threads}{unsteady})."
    )
