"""What must hold before anything is written: bounds that were given, and sense where there are no data."""

from __future__ import annotations

from onnxmerge.errors import ToleranceExceeded
from onnxmerge.outcomes import Decision, Proof
from onnxmerge.study import Study

# The largest change on inputs that say nothing of real ones that is written without being asked for.
MOST_BLIND_CHANGE = 0.2
_UNSTATED = "photographs, which the model may not be made for,"


def refuse_excess(study: Study, decision: Decision, proof: Proof) -> None:
    """Raise ToleranceExceeded where a result is not to be written.

    With a budget or a plan that is a change above the tolerance that was given, or a drop of the user's own
    score above the largest one; where neither was given and there are no data, a change above what made-up
    inputs, or photographs that may mean nothing to the model, may show.
    """
    config, parity = study.config, proof.parity
    settled = decision.choice.planned or config.budget is not None
    if settled and config.tolerance is not None and parity.change > config.tolerance:
        raise ToleranceExceeded(
            f"the change is {parity.change:.4g}, above the tolerance of {config.tolerance:.4g}: "
            f"{parity.clause} (measured on {parity.source}); nothing was written: keep more, or allow more"
        )
    if settled and config.max_drop is not None and study.own is not None and proof.score is not None:
        own, drop = study.own, study.own.drop(proof.score)
        if drop > config.max_drop:
            raise ToleranceExceeded(
                f"the score of {own.name} goes from {own.before:.6g} to {proof.score:.6g}, a drop of "
                f"{drop:.4g}, above max_drop= of {config.max_drop:.4g}; nothing was written: keep more, or "
                "allow more"
            )
    bounded = config.tolerance is not None or config.max_drop is not None or config.compensation != "auto"
    blind = None if bounded else _blind(study, decision)
    if blind is not None and parity.change > MOST_BLIND_CHANGE:
        pixels = ", state the pixels' scale= and mean= if it takes pictures" if blind is _UNSTATED else ""
        raise ToleranceExceeded(
            f"no data was given, and on {blind} the answers change by {parity.change:.0%} "
            f"({parity.clause}), more than the {MOST_BLIND_CHANGE:.0%} that pass where nothing real can be "
            f"measured; nothing was written: give real inputs with calibration=, keep more{pixels}, or say "
            "with tolerance= what change you accept"
        )


def _blind(study: Study, decision: Decision) -> str | None:
    """What stands in for data and says nothing of real inputs; None where what was measured on may."""
    basis, plausible, images = decision.choice.holdout.basis, study.plausible, study.config.images
    if basis == "made up":
        return "made-up inputs"
    if basis != "photographs" or plausible is None or plausible.meaningful:
        return None
    if plausible.meaningful is False:
        return "photographs, of which the model makes nothing,"
    # Whoever says what the pixels are knows that the model takes pictures.
    stated = images is not None and images.states_numbers
    return None if stated else _UNSTATED
