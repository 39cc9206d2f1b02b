"""Least-squares weights for a consumer whose input lost channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

# Eigenvalues below this share of the largest count as zero where removed channels are regressed on kept ones.
CUTOFF = 1e-7


def minimum_norm(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Coefficients that predict removed channels from kept ones by the pseudo-inverse.

    Hardly regularised: eigenvalues of the correlations below ``CUTOFF`` of the largest count as zero, and
    exactly dependent channels are predicted exactly.

    Args:
        gram: covariance of the kept channels, float64 [K, K].
        cross: covariance of removed with kept channels, float64 [R, K].

    Returns:
        float64 [R, K]; zeros where a covariance is infinite or undefined.
    """
    if not len(cross) or not len(gram) or not _finite(gram, cross):
        return np.zeros(cross.shape)
    scale = np.sqrt(np.maximum(np.diag(gram), 0))
    scale = np.where(scale > 1e-6 * scale.max(initial=0), scale, np.inf)
    values, vectors = np.linalg.eigh(gram / np.outer(scale, scale))
    good = values > CUTOFF * values.max(initial=0)
    basis = vectors[:, good] / scale[:, None]
    coefficients: np.ndarray = ((cross @ basis) / values[good]) @ basis.T
    return coefficients


def ridge(gram: np.ndarray, cross: np.ndarray, start: np.ndarray, strength: float) -> np.ndarray:
    """argmin over W of |T - W P|^2 + l |W - start|^2, with l = strength * mean diagonal of the covariance.

    Args:
        gram: covariance of the features P, float64 or float32 [F, F].
        cross: covariance of the targets T with the features, [O, F].
        start: the weight that is returned where the data tell nothing, [O, F].
        strength: of the penalty, as a share of the mean variance of the features.

    Returns:
        float64 [O, F]; ``start`` itself where nothing can be solved.
    """
    if not gram.size or not cross.size:
        return start
    penalty = strength * float(np.trace(gram)) / len(gram)
    if penalty <= 0 or not _finite(gram, cross, start):
        return start
    rest = cross - start @ gram
    # In Fortran order LAPACK factorises it where it is.
    regular = np.array(gram, dtype=np.float64, order="F")
    np.fill_diagonal(regular, np.diagonal(regular) + penalty)
    try:
        factor = cho_factor(regular, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:  # rounding left directions of a negative variance beyond the penalty
        values, vectors = np.linalg.eigh(gram)
        change = ((rest @ vectors) / (np.maximum(values, 0) + penalty)) @ vectors.T
    else:
        change = cho_solve(factor, rest.T, check_finite=False).T
    weight: np.ndarray = start + change
    return weight


def ridge_rows(
    features: np.ndarray, targets: np.ndarray, start: np.ndarray, strengths: Sequence[float]
) -> np.ndarray:
    """``ridge`` for fewer rows than features, from the rows themselves (the dual form).

    With so few rows the fit on them says nothing: the strength is the one that does best on the last
    quarter after fitting the others, and where none improves on ``start``, that is the answer.

    Args:
        features: centred, float32 [n, F]; rows of one sample lie together.
        targets: centred, float32 [n, O].
        start: float64 [O, F].
        strengths: to choose from; of one alone nothing is held out.

    Returns:
        float64 [O, F].
    """
    products = (features @ features.T).astype(np.float64)
    unit = float(np.trace(products)) / max(features.shape[1], 1)
    if unit <= 0 or not _finite(products, targets, start):
        return start
    rest = targets - features @ start.T
    strength = strengths[0] if len(strengths) == 1 else _best_strength(products, rest, unit, strengths)
    if strength is None:
        return start
    regular = products + strength * unit * np.eye(len(products))
    weight: np.ndarray = start + np.linalg.solve(regular, rest).T @ features
    return weight


def _best_strength(
    products: np.ndarray, rest: np.ndarray, unit: float, strengths: Sequence[float]
) -> float | None:
    """The strength that predicts the last quarter of the rows best from the others; None where none helps."""
    fit = len(products) - max(len(products) // 4, 1)
    best, least = None, float(np.sum(rest[fit:] ** 2))
    for strength in strengths if fit else ():
        solved = np.linalg.solve(products[:fit, :fit] + strength * unit * np.eye(fit), rest[:fit])
        error = float(np.sum((rest[fit:] - products[fit:, :fit] @ solved) ** 2))
        if error < least:
            best, least = strength, error
    return best


def held_out_error(gram: np.ndarray, cross: np.ndarray, weight: np.ndarray) -> float:
    """Summed squared error of ``weight`` on held-out rows, up to a constant that no weight changes.

    Args:
        gram: covariance of the features of these rows, [F, F].
        cross: covariance of their targets with their features, [O, F].
        weight: float64 [O, F].
    """
    return float(np.sum((weight @ gram - 2 * cross) * weight))


def _finite(*arrays: np.ndarray) -> bool:
    """Whether there is anything to solve: models with infinite or undefined values keep their weights."""
    return all(bool(np.isfinite(array).all()) for array in arrays)
