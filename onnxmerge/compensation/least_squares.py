"""Calibrated least squares: the weights of a consumer that make the best of the channels that stay.

Features are what the site reads in the smaller model as it has become so far, targets what the untouched
model computed there. The weight is W = argmin |T - W P|^2 + l |W - W0|^2 on centred features P and targets
T, the bias follows from the means. W0 is the stored weight with the columns of removed channels folded into
those of kept ones, by an almost unregularised regression of the former on the latter: channels that
depend exactly on others cost nothing. Strengths l are chosen on samples that are held out.

Fitting pruned inputs to the original outputs is due to He et al., Channel Pruning for Accelerating Very Deep
Neural Networks (ICCV 2017), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from onnxmerge.channels.sites import FoldSite
from onnxmerge.compensation.folding import fold_predictions
from onnxmerge.compensation.solvers import held_out_error, minimum_norm, ridge, ridge_rows
from onnxmerge.graph import external_weights
from onnxmerge.statistics import Needs
from onnxmerge.statistics.moments import Covariance, submatrix
from onnxmerge.statistics.paired import Paired, PositionMoments, Rows, SplitMoments
from onnxmerge.statistics.regression import LinearForm

# Strengths of the ridge, as shares of the mean variance of the features, tried on held-out samples.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
DEFAULT_STRENGTH = 1e-3
# Strengths are compared on some of the targets, spread over all, that have at most so many weights.
MOST_PROBED = 1 << 16
# Weights that are fitted from rows at a time.
MOST_AT_ONCE = 1 << 22

# Covariance of the features, covariance of the targets with them, strength, targets (int64) -> coefficients,
# float64 [targets, features].
Solve = Callable[[np.ndarray, np.ndarray, float, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class LeastSquares:
    """Consumers are refitted by least squares on a walk along the graph.

    Attributes:
        patches: rows per site, spread over the samples.
        seed: of the choice of rows.
    """

    patches: int = 40_000
    seed: int = 0
    needs: ClassVar[Literal[Needs.PAIRED]] = Needs.PAIRED

    def __call__(
        self, site: FoldSite, kept: np.ndarray, statistics: Paired
    ) -> tuple[np.ndarray, np.ndarray | None]:
        weight = folded(site, statistics, kept)
        if statistics.fit is not None:
            weight = refitted(statistics.fit.form, statistics, kept, weight)
        return weight, self.bias_of(statistics, weight)

    def bias_of(self, statistics: Paired, weight: np.ndarray) -> np.ndarray | None:
        """The change of the bias, float64 [rows], that makes the means right for a weight.

        Statistics that are pooled over several sites have the means of the first.
        """
        fit = statistics.fit
        if fit is None:
            return None
        matrix = fit.form.matrix_of(weight)
        blocks = [b if isinstance(b, Rows) else b.all for b in statistics.blocks]
        # Columns of features that are not present are zero.
        features = np.zeros((len(blocks), matrix.shape[-1]))
        for row, block in zip(features, blocks, strict=True):
            row[statistics.present] = block.feature_mean
        found = [b.target_mean - _product(m, f) for b, m, f in zip(blocks, matrix, features, strict=True)]
        change: np.ndarray = np.concatenate(found) - fit.bias
        return change


def folded(site: FoldSite, paired: Paired, kept: np.ndarray) -> np.ndarray:
    """The site's weight with the columns of removed channels folded into those of kept ones.

    Every removed position is predicted linearly from all kept positions of its block, with one coefficient
    for all taps.

    Args:
        kept: bool [channels].

    Returns:
        In the layout of the file and the precision of ``site.values``; columns of removed channels are zero.
    """
    stays = kept[site.channel[site.columns]]
    weight = np.array(site.values)
    external_weights.release()
    if paired.positions:
        blocks = zip(paired.positions, np.split(stays, len(paired.positions)), strict=True)
        weight = fold_predictions(site, stays, [_predictors(block, here) for block, here in blocks])
    weight = np.moveaxis(weight, site.axis, 0)
    weight[~kept[site.channel]] = 0
    return np.moveaxis(weight, 0, site.axis)


def _predictors(positions: PositionMoments, stays: np.ndarray) -> np.ndarray:
    """Coefficients of removed positions, as little regularised as the held-out samples allow.

    Args:
        stays: bool, of every position of the block.

    Returns:
        float64 [removed, kept].
    """
    present, gone = np.flatnonzero(stays[positions.stay]), np.flatnonzero(~stays[positions.go])

    def solve(gram: np.ndarray, cross: np.ndarray, strength: float, targets: np.ndarray) -> np.ndarray:
        return ridge(gram, cross, np.zeros(cross.shape), strength) if strength else minimum_norm(gram, cross)

    return _best(positions.moments, solve, present, gone, (0.0, *STRENGTHS))


def refitted(form: LinearForm, paired: Paired, kept: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The weight that fits best.

    Args:
        kept: bool [channels].
        start: the weight that the ridge pulls towards, as ``folded`` gives it; it is used up.

    Returns:
        In the layout of the file, at full size; columns of removed channels are zero.
    """
    matrix = form.matrix_of(start)
    # Places among the features that were measured, and among all of a block.
    here = np.flatnonzero(kept[form.channel[paired.present]])
    there = paired.present[here]
    rows = np.arange(form.outputs)
    for number, block in enumerate(paired.blocks):
        if isinstance(block, Rows):
            features = block.features if len(here) == len(paired.present) else block.features[:, here]
            for part in np.array_split(rows, max(len(rows) * len(here) // MOST_AT_ONCE, 1)):
                begin = matrix[number][np.ix_(part, there)]
                fitted = ridge_rows(features, block.targets[:, part], begin, STRENGTHS)
                matrix[number][np.ix_(part, there)] = fitted
        else:
            begin = matrix[number][:, there]

            def solve(
                gram: np.ndarray,
                cross: np.ndarray,
                strength: float,
                targets: np.ndarray,
                begin: np.ndarray = begin,
            ) -> np.ndarray:
                return ridge(gram, cross, begin[targets], strength)

            matrix[number][:, there] = _best(block, solve, here, rows, STRENGTHS)
    return form.weight(matrix)


def _best(
    moments: SplitMoments, solve: Solve, features: np.ndarray, targets: np.ndarray, strengths: Sequence[float]
) -> np.ndarray:
    """The solution on all samples with the strength that does best on the held-out ones.

    Args:
        features: places of the features that are used, int64.
        targets: places of the targets, int64.
        strengths: in ascending order, ``DEFAULT_STRENGTH`` among them.

    Returns:
        float64 [targets, features].
    """
    strength = DEFAULT_STRENGTH
    if moments.held_out is not None:
        probed = targets[:: max(-(-len(targets) * len(features) // MOST_PROBED), 1)]
        held, fit = (_covariance(m.gram, features) for m in (moments.held_out, moments.fit))
        held_cross, fit_cross = (m.cross[np.ix_(probed, features)] for m in (moments.held_out, moments.fit))

        def error(s: float) -> float:
            weight = solve(fit(), fit_cross, s, probed)
            return held_out_error(held(), held_cross, weight)

        strength = lowest(error, strengths, strengths.index(DEFAULT_STRENGTH))
        del held, fit
    cross = moments.all.cross[np.ix_(targets, features)]
    return solve(submatrix(moments.all.gram, features), cross, strength, targets)


def _covariance(gram: Covariance, features: np.ndarray) -> Callable[[], np.ndarray]:
    """What gives these rows and columns; large ones are made anew whenever they are asked for."""
    if isinstance(gram, np.ndarray):
        part = submatrix(gram, features)
        return lambda: part
    return lambda: gram.part(features)


def lowest(error: Callable[[float], float], values: Sequence[float], begin: int) -> float:
    """The value with the least error, reached downhill from ``values[begin]``: there is one valley."""
    found: dict[int, float] = {}

    def at(place: int) -> float:
        if not 0 <= place < len(values):
            return np.inf
        if place not in found:
            found[place] = error(values[place])
        return found[place]

    place = begin
    while (best := min((place, place - 1, place + 1), key=at)) != place:
        place = best
    return values[place]


def _product(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """The product in float64, without a float64 copy of a float32 matrix."""
    if matrix.dtype == np.float64:
        product: np.ndarray = matrix @ vector
    else:
        product = np.einsum("of,f->o", matrix, vector, dtype=np.float64, casting="same_kind")
    return product
