"""The program checks itself: a pruned model must answer like its masked reference.

Operator rules are written for every model that may come, and a model may come that a rule
misjudges. Then the two differ, and the groups that are to blame are left whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxmerge.errors import ModelError
from onnxmerge.graph import external_weights
from onnxmerge.plan import Selection
from onnxmerge.recipe import Candidate, Recipe

# Wrong rules give differences of the size of the outputs; rounding, even where it is amplified by
# exponentials and divisions, far smaller ones.
TOLERANCE = 0.03


def misjudged(recipe: Recipe, candidate: Candidate, feed: Mapping[str, np.ndarray]) -> list[str]:
    """The names of the groups without which a candidate answers like its masked reference.

    Groups are cut one after the other, so that those are found, too, that are wrong only together.
    """
    if agrees(recipe, candidate, feed):
        return []
    sizes = {group.name: len(group) for group in recipe.subject.channels.groups}
    wrong: list[str] = []
    right: dict[str, np.ndarray] = {}
    for name, keep in candidate.selection.keep.items():
        if len(keep) < sizes[name]:
            if agrees(recipe, recipe.cut(Selection({**right, name: keep})), feed):
                right[name] = keep
            else:
                wrong.append(name)
    return wrong


def agrees(recipe: Recipe, candidate: Candidate, feed: Mapping[str, np.ndarray]) -> bool:
    """Whether a candidate runs and answers like its masked reference on one feed.

    Outputs that differ between two runs of the reference (random operators) are not compared.
    """
    try:
        masked = recipe.runtime.session(recipe.subject.masked(candidate.selection, candidate.folds))
        expected, again = masked.run(feed), masked.run(feed)
        external_weights.release()
        found = recipe.runtime.session(candidate.model).run(feed)
    except ModelError:
        return False
    steady = [name for name in expected if _close(expected[name], again[name])]
    return all(_close(expected[name], found[name]) for name in steady)


def _close(expected, found) -> bool:
    if not isinstance(expected, np.ndarray) or expected.dtype.kind != "f":
        return True
    if expected.shape != found.shape:
        return False
    finite = np.isfinite(expected) & np.isfinite(found)
    if not np.array_equal(np.isfinite(expected), np.isfinite(found)):
        return False
    a, b = expected[finite].astype(np.float64), found[finite].astype(np.float64)
    return bool(np.linalg.norm(a - b) <= TOLERANCE * max(float(np.linalg.norm(a)), 1e-12) or not len(a))
