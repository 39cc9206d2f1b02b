"""What a user should know of a run beside its figures: one sentence each."""

from __future__ import annotations

from collections.abc import Iterator

from onnxmerge.config import DEFAULT_TOLERANCE
from onnxmerge.outcomes import Decision, Proof, Shortfall
from onnxmerge.study import Study
from onnxmerge.validation import SLOWER, Latency

# Measured ratios are uncertain by about this much.
REACHED = 0.03


def warnings_of(study: Study, decision: Decision, proof: Proof) -> Iterator[str]:
    """The warnings of a run, those of the model first."""
    yield from study.source.warnings
    yield from proof.parity.notes
    if decision.choice.foreign:
        yield (
            "the plan was made for another file: which channels stay was decided by the weights of that one"
        )
    for name in decision.distrusted:
        yield (
            f"the group '{name}' was left whole: without it the model would not answer like its masked "
            "reference, which is a defect of onnxmerge; please report it"
        )
    if decision.unexplained:
        yield (
            "the result differs from its masked reference by more than rounding, and no group alone is to "
            "blame, which is a defect of onnxmerge; please report it"
        )
    yield from decision.candidate.notes
    yield from of_data(study)
    yield from of_own_measure(study)
    yield from _of_measuring(study, decision, proof)
    if decision.shortfall is not None:
        yield _in_words(decision.shortfall, study.config.align)
    yield from _of_precision(study, proof)
    yield from _of_time(study, decision, proof.latency)
    if not study.analysis.channels.groups:
        yield "no channel of this model can be removed: see what is frozen and why"
    elif decision.unchanged:
        yield "nothing was removed: the input model is the output"
    if decision.unchanged:
        yield from of_storage(study)


def of_data(study: Study) -> Iterator[str]:
    """What is to be known of the data that a run was made with."""
    found = study.plausible
    yield from study.samples.notes
    if study.samples.kind != "given":
        yield (
            f"no data was given: {study.samples.fit.source} were used; a change measured on them proves "
            "little: give real ones with calibration="
        )
    if found is not None and not found.clear:
        listed = "; ".join(
            f"{c} ({p:.0%})" for c, p in zip(found.conventions, found.probabilities, strict=True)
        )
        yield (
            "which numbers the model expects its pixels to be is not certain, so everything was done for all "
            f"that is plausible: {listed}; mean=, std=, scale= and order= settle it"
        )
    if found is not None and found.meaningful is False and study.samples.kind == "generic":
        yield (
            "the model makes nothing of photographs (it may be made for faces, digits, text or other "
            "pictures): how its answers to real inputs change could not be checked"
        )


def of_storage(study: Study) -> Iterator[str]:
    """What makes the file slower than it has to be."""
    analysis, mended = study.analysis, ": latency=1 mends that, and removes no channel"
    if analysis.denormals:
        yield (
            f"{analysis.denormals:,} stored weights are denormal numbers, which processors compute with many "
            f"times slower{mended}"
        )
    if analysis.freed:
        yield (
            f"{len(analysis.freed):,} stored weights are inputs of the graph, too, which keeps onnxruntime "
            f"from preparing them for its kernels{mended}"
        )


def of_own_measure(study: Study) -> Iterator[str]:
    """What is to be known of the user's own score."""
    own = study.own
    if own is None or not own.spread:
        return
    limit = study.config.max_drop
    if limit is not None and own.spread > limit:
        yield (
            f"two evaluations of the input by {own.name} differ by {own.spread:.4g}, more than max_drop= of "
            f"{limit:.4g}: what was held within it is chance; fix the random choices of the function"
        )
    else:
        yield (
            f"two evaluations of the input by {own.name} differ by {own.spread:.4g}: smaller differences "
            "between models mean nothing"
        )


def _of_measuring(study: Study, decision: Decision, proof: Proof) -> Iterator[str]:
    change, allowed = proof.parity.change, study.config.tolerance
    if allowed is not None and allowed > 1:
        percent = f"{allowed:.4g}% is {allowed / 100:.4g}"
        yield f"tolerance= is a share: {allowed:.4g} allows a change of {allowed:.0%}; {percent}"
    if study.own is not None and study.searches_by_score and proof.score is not None:
        drop = study.own.drop(proof.score)
        if drop > study.tolerance:
            yield (
                f"the score drops by {drop:.4g}, more than the {study.tolerance:.4g} that was sought: what "
                "was found was changed afterwards"
            )
    elif decision.choice.sought is not None and change > study.tolerance and not _by_precision(proof):
        yield (
            f"on samples that chose nothing the change is {change:.4g}, above the tolerance of "
            f"{study.tolerance:.4g} that was sought on others: give more samples, or a smaller tolerance="
        )
    recovery = decision.recovery
    if recovery is not None and recovery.stopped == "too few inputs":
        yield "there are too few inputs to teach on and to hold any out: the model was not taught"
    if recovery is not None and recovery.taken and study.samples.kind == "made up":
        yield "the model was taught on made-up numbers: what it answers to real inputs was not looked at"


def _of_precision(study: Study, proof: Proof) -> Iterator[str]:
    """Whether fewer bits were worth it: against the smaller model in the input's own precision."""
    if proof.before is None:
        return
    name, limit = study.config.precision, DEFAULT_TOLERANCE
    if name == "int8" and study.samples.kind != "given":
        several = 1 if study.plausible is None else len(study.plausible.conventions)
        under = f" under all {several} plausible input conventions at once" if several > 1 else ""
        yield (
            f"the ranges of int8 were seen on {study.samples.fit.source}{under}, and real inputs may need "
            "others: give real ones with calibration="
        )
    if not study.searches_by_score:
        limit = study.tolerance
    changes = proof.before.parity.change, proof.parity.change
    if changes[1] > limit and _by_precision(proof):
        advice = {
            "int8": "float16 changes less, and a model that was trained for int8 takes it best",
            "fp16": "numbers may leave the range of float16: leave precision= out",
        }
        yield (
            f"as {name} the answers change by {changes[1]:.4g}, in the input's own precision by "
            f"{changes[0]:.4g}: {advice[str(name)]}"
        )
    ratio, before = proof.latency.ratio, proof.before.latency.ratio
    if ratio > SLOWER * before:
        where = {
            "int8": "int8 pays where the kernels are (VNNI, ARM dot products, TensorRT)",
            "fp16": "a CPU has few kernels for float16 and converts to and fro; GPUs have them",
        }
        yield (
            f"as {name} a run takes {ratio:.2f} of the input's time here, in the input's own precision "
            f"{before:.2f}: {where[str(name)]}; leave precision= out for this machine"
        )


def _by_precision(proof: Proof) -> bool:
    """Whether fewer bits change the answers more than fewer channels alone."""
    return proof.before is not None and proof.parity.change > proof.before.parity.change


def _of_time(study: Study, decision: Decision, latency: Latency) -> Iterator[str]:
    if not latency.in_turn:
        yield (
            "the model is large: it and its output were timed in alternating blocks of runs, without packed "
            "weights, and not run by run"
        )
    goal = study.config.latency
    if goal is not None and latency.ratio > goal + REACHED:
        yield (
            f"the latency is {latency.ratio:.2f} of the input's, above the {goal:.2f} asked for"
            + _of_sessions(latency)
        )
    elif latency.ratio > SLOWER and not decision.unchanged and decision.lowered is None:
        yield (
            f"the output took {latency.ratio:.2f} of the input's time here: its widths do not suit "
            "this machine's kernels, or the machine was busy; latency= asks for time"
        )


def _of_sessions(latency: Latency) -> str:
    if latency.sessions is None:
        return ""
    low, high = latency.sessions
    return f"; new sessions of the same two models gave {low:.2f} to {high:.2f}"


def _in_words(shortfall: Shortfall, align: int | str) -> str:
    what = {"macs": "multiplications", "params": "parameters"}[shortfall.kind]
    why = "" if align == "auto" else f"; widths are multiples of {align}, as align asks for"
    said = f"{shortfall.kept:.4g} of the {what} are kept where {shortfall.asked:.4g} were asked for: "
    if shortfall.group is None:
        return f"{said}some layers left altogether, and all others are as wide as they were{why}"
    return f"{said}the next wider step of '{shortfall.group}' would keep {shortfall.wider:.4g}{why}"
