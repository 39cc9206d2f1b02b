"""Least-squares weights for a consumer whose input lost channels."""

from __future__ import annotations

import numpy as np

# Eigenvalues below this share of the largest count as zero where removed channels are regressed on kept ones.
CUTOFF = 1e-7


def mixing(kept: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Coefficients that predict removed channels from kept ones, almost unregularised.

    Args:
        kept: covariance of the kept channels, float64 [K, K].
        cross: covariance of removed with kept channels, float64 [R, K].

    Returns:
        float64 [R, K]; exactly dependent channels are predicted exactly.
    """
    if not len(cross) or not len(kept):
        return np.zeros(cross.shape)
    scale = np.sqrt(np.maximum(np.diag(kept), 0))
    scale = np.where(scale > 1e-6 * scale.max(initial=0), scale, np.inf)
    values, vectors = np.linalg.eigh(kept / np.outer(scale, scale))
    good = values > CUTOFF * values.max(initial=0)
    basis = vectors[:, good] / scale[:, None]
    return ((cross @ basis) / values[good]) @ basis.T


def predictors(kept: np.ndarray, cross: np.ndarray, strength: float) -> np.ndarray:
    """Like ``mixing``, but regularised for covariances that are only estimates."""
    if not len(cross) or not len(kept):
        return np.zeros(cross.shape)
    return ridge(kept, cross, np.zeros(cross.shape), strength)


def ridge(gram: np.ndarray, cross: np.ndarray, start: np.ndarray, strength: float) -> np.ndarray:
    """argmin over W of |T - W P|^2 + l |W - start|^2, with l = strength * mean diagonal of the covariance.

    Args:
        gram: covariance of the features, float64 [F, F].
        cross: covariance of targets and features, float64 [O, F].
        start: float64 [O, F].
    """
    if not len(gram):
        return start
    penalty = strength * float(np.trace(gram)) / len(gram)
    if penalty <= 0:
        return start
    regular = gram + penalty * np.eye(len(gram))
    return start + np.linalg.solve(regular, (cross - start @ gram).T).T


def ridge_rows(features: np.ndarray, targets: np.ndarray, start: np.ndarray, strength: float) -> np.ndarray:
    """``ridge`` for fewer rows than features, from the rows themselves (the dual form).

    Args:
        features, targets: centred, float32 [n, F] and [n, O].
        start: float64 [O, F].
    """
    products = (features @ features.T).astype(np.float64)
    penalty = strength * float(np.trace(products)) / max(features.shape[1], 1)
    if penalty <= 0:
        return start
    rest = targets - features @ start.T
    return start + np.linalg.solve(products + penalty * np.eye(len(products)), rest).T @ features
