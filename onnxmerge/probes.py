"""What a narrower group costs at the outputs of a detector or a reader of text: measured, group by group.

The criterion's costs are errors of single layers, and all layers count alike. At the boxes of a detector they
do not: with a quarter of one of its groups taken out, what a unit of cost did to the confidence of its boxes
(squared) differed by a factor of a thousand, most in the first layers, least in the heads that look for large
things. So each group's costs are scaled by what is measured, in all shapes that a budget may be met in but
one (``allocation.BY_LAYER``), and measuring decides between these. At 0.8 of the multiplications 5.1% of the
boxes of that detector changed instead of 11.3%, on pictures that calibrated nothing, and of another one, on
which this was not tried before, 12.9% instead of 27.9%; one run each, see ``tools/results/applications.md``.

Of what reads text (CTC) the lead counts that the highest class loses: at 0.7 of the multiplications, fitted
to 100 and 64 samples, 19.0% of a reader's captchas and 25.0% of another one's lines changed without that, and
13.0% and 17.5% with it; with the relative difference of the scores in its place 11.5% and 45.8%. Of a third
reader, the check, it was 23.3% without and 25.8% with it (of 120 lines), the leads were further off, too, and
so the costs by layer alone stay one of the shapes. Classifiers are not measured: of a ResNet-20's answers
4.5% changed instead of 6.3% at 0.6 of the multiplications, but 11.3% instead of 10.4% at 0.45, and of a
ResNet-56's 1.2% instead of 0.3% at half (by the scores; by the lead 4.6, 11.9 and 1.3%).
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, isfinite

import numpy as np

from onnxmerge import limits
from onnxmerge.compensation.solvers import ridge
from onnxmerge.data.dataset import Dataset
from onnxmerge.errors import ModelError
from onnxmerge.plan import Scores, Selection
from onnxmerge.rewrite import Fold, pruned
from onnxmerge.runtime.threads import one_blas_thread
from onnxmerge.statistics.dense import Statistics
from onnxmerge.statistics.moments import submatrix
from onnxmerge.study import Study
from onnxmerge.validation.kinds import Detections, Kind, Sequences
from onnxmerge.validation.parity import Outputs, size_of

# The share of a group that stays while it is measured.
KEPT = 0.75
# Samples that it is measured on: all groups together at most so many passes of the data, within bounds.
PASSES, FEWEST, SAMPLES = 4, 8, 24
# No group's costs are scaled by more than this beside the middle one's, either way.
MOST = 30.0
# Of the ridge, as a share of the mean variance: covariances are of many rows, and nothing is held out.
_STRENGTH = 1e-4
# A cost or a distance below this is none.
_NOTHING = 1e-8


def worth_probing(study: Study) -> bool:
    """Whether the model is a detector, or reads text."""
    return any(_detects(judged.how) or _reads(judged.how) for judged in study.source.kinds.values())


def _detects(how: Kind) -> bool:
    return isinstance(how, Detections)


def _reads(how: Kind) -> bool:
    return isinstance(how, Sequences) and how.ctc and not how.chosen


@one_blas_thread
def weighed(study: Study, scores: Scores, statistics: Statistics, data: Dataset) -> Scores:
    """The scores, with what taking some of every group out does to the outputs.

    Args:
        statistics: of the untouched model; readers are refitted by them, each alone.
        data: some of it is run, ``SAMPLES`` at most.
    """
    groups = study.analysis.channels.groups
    most = PASSES * len(data) // max(len(groups), 1)
    probe = data.take(min(max(most, FEWEST), SAMPLES), study.config.seed)
    order, found = scores.best_first(), {}
    known: dict[int, list[Outputs]] | None = {}
    for number, group in enumerate(groups):
        study.clock.step("probe", number, len(groups))
        kept = round(KEPT * len(group))
        curve = scores.curves.get(group.name)
        if curve is None or not 0 < kept < len(group):
            continue
        selection = Selection({group.name: np.sort(order[group.name][:kept])})
        distance = _distance(study, selection, statistics, probe, known)
        answers = (outputs for each in (known or {}).values() for outputs in each)
        if sum(map(size_of, answers)) > limits.LIMITS.data:
            known = None  # worked out anew every time, rather than held
        found[group.name] = max(distance * distance, _NOTHING) / max(float(curve[kept]), _NOTHING)
    finite = [value for value in found.values() if isfinite(value)]
    if not finite:
        return scores
    middle = float(np.median(finite))
    factor = {
        name: float(np.clip(value / middle, 1 / MOST, MOST)) if isfinite(value) else MOST
        for name, value in found.items()
    }
    return replace(
        scores,
        values={name: values * factor.get(name, 1.0) for name, values in scores.values.items()},
        measured=factor,
    )


def _distance(
    study: Study,
    selection: Selection,
    statistics: Statistics,
    probe: Dataset,
    known: dict[int, list[Outputs]] | None,
) -> float:
    """How far the outputs move; infinite where the smaller model does not run, or answers with no numbers."""
    scratch = study.source.loaded.new_scratch()
    model = pruned(study.analysis, selection, _refitted(study, selection, statistics), scratch)
    try:
        distance = study.parity(study.runtime.session(model), probe, known).distance
    except ModelError:
        return inf  # a group that is wrong to cut is found out where the result is checked
    return distance if isfinite(distance) else inf


def _refitted(study: Study, selection: Selection, statistics: Statistics) -> tuple[Fold, ...]:
    """Least squares for the readers of what is removed, from the covariances of what they read."""
    stays, folds = ~study.analysis.removed(selection), []
    for site in study.analysis.sites:
        features = statistics.features.get(site.node.index)
        if stays[site.channel].all() or features is None or features.form is None or not features.grams:
            continue
        form = features.form
        before = np.array(form.matrix_of(site.values), dtype=np.float64)
        after, here = before.copy(), np.flatnonzero(stays[form.channel])
        gone = np.flatnonzero(~stays[form.channel])
        means = np.split(statistics.mean(site), form.blocks)
        change = []
        for block, half in enumerate(features.grams):
            gram = half.square
            cross = (before[block] @ gram)[:, here]
            after[block][:, gone] = 0
            after[block][:, here] = ridge(submatrix(gram, here), cross, before[block][:, here], _STRENGTH)
            change.append((before[block] - after[block]) @ np.tile(means[block], form.taps))
        bias = np.concatenate(change) if site.output is not None else None
        folds.append(Fold.of(site, form.weight(after).astype(site.values.dtype), bias, None))
    return tuple(folds)
