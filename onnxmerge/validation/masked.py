"""The program checks itself: a pruned model must answer like its masked reference.

Operator rules are written for every model that may come, and a model may come that a rule
misjudges. Then the two differ, and the groups that are to blame are left whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from onnxmerge.errors import ModelError
from onnxmerge.graph import external_weights
from onnxmerge.plan import Selection
from onnxmerge.runtime import Runtime
from onnxmerge.runtime.model_bytes import source_of

# Wrong rules give differences of the size of the outputs; rounding, even where it is amplified by
# exponentials and divisions, far smaller ones.
TOLERANCE = 0.03


def misjudged(
    selection: Selection, sizes: Mapping[str, int], agrees: Callable[[Selection], bool]
) -> list[str]:
    """The names of the groups without which a selection's plain removal equals its mask.

    Groups are cut one after the other, so that those are found, too, that are wrong only together.

    Args:
        sizes: the number of channels of every group.
        agrees: whether plain removal of what a selection removes equals its mask.
    """
    wrong: list[str] = []
    right: dict[str, np.ndarray] = {}
    for name, keep in selection.keep.items():
        if len(keep) < sizes[name]:
            if agrees(Selection({**right, name: keep})):
                right[name] = keep
            else:
                wrong.append(name)
    return wrong


def equals_mask(
    pruned: onnx.ModelProto,
    masked: Callable[[], onnx.ModelProto],
    feed: Mapping[str, np.ndarray],
    runtime: Runtime,
) -> bool:
    """Whether a pruned model runs and answers like its masked reference on one feed.

    Outputs that differ between two runs of the reference (random operators) are not compared.

    Args:
        masked: makes the reference, which is as large as the input and not kept longer than it is needed.
    """
    try:
        source = source_of(masked())
        reference = runtime.session(source, prepack=False)
        del source
        expected, again = reference.run(feed), reference.run(feed)
        # One after the other: each holds all weights.
        del reference
        external_weights.release()
        external_weights.trim()
        found = runtime.session(pruned, prepack=False).run(feed)
    except ModelError:
        return False
    steady = [name for name in expected if _close(expected[name], again[name])]
    return all(_close(expected[name], found[name]) for name in steady)


def _close(expected: object, found: object) -> bool:
    if not isinstance(expected, np.ndarray) or expected.dtype.kind != "f":
        return True
    if not isinstance(found, np.ndarray) or expected.shape != found.shape:
        return False
    finite = np.isfinite(expected) & np.isfinite(found)
    if not np.array_equal(np.isfinite(expected), np.isfinite(found)):
        return False
    a, b = expected[finite].astype(np.float64), found[finite].astype(np.float64)
    return bool(np.linalg.norm(a - b) <= TOLERANCE * max(float(np.linalg.norm(a)), 1e-12) or not len(a))
