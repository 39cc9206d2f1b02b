"""One consumer: which of its input channels stay, and the weights that make the best of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxmerge.channels.demand import row_weights
from onnxmerge.channels.sites import FoldSite
from onnxmerge.compensation.lstsq import held_out_error, ridge, ridge_rows
from onnxmerge.compensation.lstsq import mixing as mixture
from onnxmerge.compensation.mixing import mix_positions
from onnxmerge.criteria.elimination import TINY, Regression, eliminate, precision
from onnxmerge.graph import external_weights
from onnxmerge.reconstruction.paired import Mixing, Paired, Rows, Split
from onnxmerge.reconstruction.requests import Fit
from onnxmerge.statistics.moments import Moments
from onnxmerge.statistics.regression import LinearForm

# Strengths of the ridge, as shares of the mean variance of the features, tried on held-out samples.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
DEFAULT_STRENGTH = 1e-3
# Strengths are compared on so many weights at most, of targets spread over all.
MOST_PROBED = 1 << 16
# Weights that are fitted from rows at a time.
MOST_AT_ONCE = 1 << 22


def choose_channels(
    fit: Fit,
    moments: Sequence[Moments],
    present: np.ndarray,
    kept: np.ndarray,
    likely: np.ndarray,
    demanded: np.ndarray,
    candidates: np.ndarray,
    width: int,
) -> np.ndarray:
    """The places of the ``width`` channels that the site's targets need most, ascending.

    Args:
        moments: of every block.
        present: the features that they describe, int64, places in ``fit.form.channel``.
        kept: bool [channels], candidates included; others may have gone since the data was seen.
        likely: bool [channels], those whose values will be asked for.
        demanded: what is made of each channel, see ``channels.demand``.
        candidates: channel numbers of the group.
    """
    form, site = fit.form, fit.form.site
    place = np.full(len(likely), -1, dtype=np.int64)
    place[candidates] = np.arange(len(candidates))
    rows = likely[site.channels.of(form.output)]
    weight = (fit.fed.scale * rows * row_weights(site, demanded)).reshape(form.blocks, form.outputs)
    here = np.flatnonzero(kept[form.channel[present]])
    owner = place[form.channel[present[here]]]
    regressions = []
    for block, scale in zip(moments, weight, strict=True):
        # Least squares on the rows themselves, where there are fewer of them, would believe the noise.
        strength = TINY + max(0.0, len(here) / block.rows - 0.1)
        gram = submatrix(block.gram, here)
        coefficients = (block.cross[:, here] * scale[:, None]) @ precision(gram, strength)
        regressions.append(Regression(gram, coefficients, owner, block.rows))
    gone, _ = eliminate(regressions, len(candidates), width)
    return np.setdiff1d(np.arange(len(candidates)), gone)


def mixed(site: FoldSite, paired: Paired, kept: np.ndarray) -> np.ndarray:
    """The site's weight (float64, layout of the file) with removed channels mixed out of kept ones.

    Columns of removed channels are zero. Every removed position is predicted linearly from all kept
    positions of its block, with one coefficient for all taps.
    """
    stays = kept[site.channel[site.columns]]
    weight = np.array(site.values)
    external_weights.release()
    if paired.mixing:
        blocks = zip(paired.mixing, np.split(stays, len(paired.mixing)), strict=True)
        weight = mix_positions(site, stays, [_mixing(mixing, here) for mixing, here in blocks])
    weight = np.moveaxis(weight, site.axis, 0)
    weight[~kept[site.channel]] = 0
    return np.moveaxis(weight, 0, site.axis)


def _mixing(mixing: Mixing, stays: np.ndarray) -> np.ndarray:
    """Predictors of removed positions, as unregularised as the held-out samples allow."""
    present, gone = np.flatnonzero(stays[mixing.stay]), np.flatnonzero(~stays[mixing.go])

    def solve(m: Moments, strength: float, targets: np.ndarray) -> np.ndarray:
        cross = m.cross[np.ix_(targets, present)]
        if not strength:
            return mixture(submatrix(m.gram, present), cross)
        return ridge(submatrix(m.gram, present), cross, np.zeros(cross.shape), strength)

    return _best(mixing.split, solve, present, gone, (0.0, *STRENGTHS))


def _best(split: Split, solve, features: np.ndarray, targets: np.ndarray, strengths) -> np.ndarray:
    """The solution on all samples with the strength that does best on the held-out ones."""
    strength = DEFAULT_STRENGTH
    if split.held_out is not None:
        probed = targets[:: max(-(-len(targets) * len(features) // MOST_PROBED), 1)]
        gram = submatrix(split.held_out.gram, features)
        cross = split.held_out.cross[np.ix_(probed, features)]
        begin = strengths.index(DEFAULT_STRENGTH)
        strength = lowest(
            lambda s: held_out_error(gram, cross, solve(split.fit, s, probed)), strengths, begin
        )
    return solve(split.all, strength, targets)


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


def submatrix(square: np.ndarray, places: np.ndarray) -> np.ndarray:
    """These rows and columns; the matrix itself where they are all of them."""
    return square if len(places) == len(square) else square[np.ix_(places, places)]


def refit(form: LinearForm, paired: Paired, kept: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The weight (full size, layout of the file, zero columns for removed channels) that fits best.

    Args:
        start: the weight that the ridge pulls towards, as ``mixed`` gives it; it is used up.
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
                m: Moments, strength: float, targets: np.ndarray, begin: np.ndarray = begin
            ) -> np.ndarray:
                cross = m.cross[np.ix_(targets, here)]
                return ridge(submatrix(m.gram, here), cross, begin[targets], strength)

            matrix[number][:, there] = _best(block, solve, here, rows, STRENGTHS)
    return form.weight(matrix)


def rebias(fit: Fit, paired: Paired, weight: np.ndarray) -> np.ndarray:
    """The change of the bias, float64 [rows], that makes the means right for a weight."""
    matrix = fit.form.matrix_of(weight)
    blocks = [b if isinstance(b, Rows) else b.all for b in paired.blocks]
    # Columns of features that are not present are zero.
    features = np.zeros((len(blocks), matrix.shape[-1]))
    for row, block in zip(features, blocks, strict=True):
        row[paired.present] = block.feature_mean
    found = [b.target_mean - _times(m, f) for b, m, f in zip(blocks, matrix, features, strict=True)]
    return np.concatenate(found) - fit.bias


def _times(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """The product in float64, without a float64 copy of a float32 matrix."""
    if matrix.dtype == np.float64:
        return matrix @ vector
    return np.einsum("of,f->o", matrix, vector, dtype=np.float64, casting="same_kind")
