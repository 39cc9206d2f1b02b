"""One consumer: which of its input channels stay, and the weights that make the best of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxmerge.calibration.forms import LinearForm
from onnxmerge.calibration.moments import Moments
from onnxmerge.compensation.lstsq import mixing, ridge, ridge_rows
from onnxmerge.compensation.mixing import mix_positions
from onnxmerge.criteria.elimination import Regression, eliminate, precision
from onnxmerge.reconstruction.paired import Paired, Rows
from onnxmerge.reconstruction.requests import Request


def choose_channels(
    request: Request, moments: Sequence[Moments], kept: np.ndarray, candidates: np.ndarray, width: int
) -> np.ndarray:
    """The places of the ``width`` channels that the site's targets need most, ascending.

    Args:
        kept: bool [channels], candidates included.
        candidates: channel numbers of the group.
    """
    form = request.form
    place = np.full(len(kept), -1, dtype=np.int64)
    place[candidates] = np.arange(len(candidates))
    rows = kept[request.site.channels.of(request.site.output)]
    weight = (request.fed.scale * rows).reshape(form.blocks, form.outputs)
    regressions = []
    for block, scale in zip(moments, weight, strict=True):
        present = np.flatnonzero(kept[form.channel])
        inverse = precision(block.gram[np.ix_(present, present)])
        coefficients = (block.cross[:, present] * scale[:, None]) @ inverse
        regressions.append(Regression(inverse, coefficients, place[form.channel[present]]))
    gone, _ = eliminate(regressions, len(candidates), width)
    return np.setdiff1d(np.arange(len(candidates)), gone)


def mixed(request: Request, paired: Paired, kept: np.ndarray) -> np.ndarray:
    """The site's weight (float64, layout of the file) with removed channels mixed out of kept ones.

    Columns of removed channels are zero. Every removed position is predicted linearly from all kept
    positions of its block, with one coefficient for all taps.
    """
    site = request.site
    stays = kept[site.channel[site.columns]]
    factors = []
    for moments, here in zip(paired.mixing, np.split(stays, len(paired.mixing)), strict=True):
        if moments is None:
            factors.append(np.zeros((int((~here).sum()), int(here.sum()))))
        else:
            factors.append(mixing(moments.gram[np.ix_(here, here)], moments.cross[np.ix_(~here, here)]))
    weight = np.moveaxis(mix_positions(site, stays, factors), site.axis, 0)
    weight[~kept[site.channel]] = 0
    return np.moveaxis(weight, 0, site.axis)


def refit(
    request: Request, paired: Paired, kept: np.ndarray, start: np.ndarray, strength: float
) -> np.ndarray:
    """The weight (full size, layout of the file, zero columns for removed channels) that fits best.

    Args:
        start: the weight that the ridge pulls towards, as ``mixed`` gives it.
        strength: of the ridge, as a share of the mean variance of the features.
    """
    form: LinearForm = request.form
    first = form.matrix_of(start)
    present = np.flatnonzero(kept[form.channel])
    matrix = np.zeros_like(first)
    for number, block in enumerate(paired.blocks):
        begin = first[number][:, present]
        if isinstance(block, Rows):
            fitted = ridge_rows(block.features[:, present], block.targets, begin, strength)
        else:
            fitted = ridge(block.gram[np.ix_(present, present)], block.cross[:, present], begin, strength)
        matrix[number][:, present] = fitted
    return form.weight(matrix)


def rebias(request: Request, paired: Paired, weight: np.ndarray) -> np.ndarray:
    """The change of the bias, float64 [rows], that makes the means right for a weight."""
    matrix = request.form.matrix_of(weight)
    means = [b.target_mean - m @ b.feature_mean for b, m in zip(paired.blocks, matrix, strict=True)]
    return np.concatenate(means) - request.bias
