"""One-to-many restoration: what is a combination of others is restored exactly, and ridge does the rest."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import support
from onnx import numpy_helper

from onnxmerge.channels.cost import removed_channels
from onnxmerge.channels.sites import fold_sites
from onnxmerge.compensation.lbyl import LeaveBeforeYouLeave
from onnxmerge.plan import Selection
from onnxmerge.rewrite import Fold

LINEAR = """net (float[N,3,4,4] x) => (float[N,5,4,4] y)
<float[6,3,1,1] w, float[6] scale, float[6] shift, float[6] mean, float[6] var, float[5,6,1,1] v> {
  h = Conv(x, w)
  n = BatchNormalization(h, scale, shift, mean, var)
  a = ACTIVATION(n)
  y = Conv(a, v)
}"""
FLAT = """net (float[N,3,1,2] x) => (float[N,5] y) <float[6,3,1,1] w, float[12,5] v> {
  h = Conv(x, w)  f = Flatten(h)  y = MatMul(f, v) }"""


def dependent(text: str) -> onnx.ModelProto:
    """A net whose channel 4 is, before the activation, a combination of channels 0 and 2."""
    proto = support.model(text)
    values = {t.name: t for t in proto.graph.initializer}

    def put(name: str, array: np.ndarray) -> None:
        values[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))

    arrays = {name: numpy_helper.to_array(t).astype(np.float64) for name, t in values.items()}
    if "scale" not in arrays:
        arrays["w"][4] = 0.5 * arrays["w"][0] - 2 * arrays["w"][2]
    else:
        gain = arrays["scale"] / np.sqrt(arrays["var"])
        rest = arrays["shift"] - gain * arrays["mean"]
        rows = gain[:, None, None, None] * arrays["w"]
        arrays["w"][4] = (0.5 * rows[0] - 2 * rows[2]) / gain[4]
        arrays["shift"][4] = 0.5 * rest[0] - 2 * rest[2] + gain[4] * arrays["mean"][4]
    for name, array in arrays.items():
        put(name, array)
    return proto


def error(proto, strength: float, keep: list[int]) -> float:
    model = support.analysed(proto)
    (group,) = model.channels.groups
    selection = Selection({group.name: np.array(keep)})
    kept = ~removed_channels(model.channels, selection.keep)
    method = LeaveBeforeYouLeave(spread_weight=strength)
    folds = [Fold.of(site, *method(site, kept), None) for site in fold_sites(model.channels)]
    pruned = model.prune(selection, folds)
    before, after = (support.RUNTIME.session(m).run(model.feed)["y"] for m in (model.proto, pruned))
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


@pytest.mark.parametrize(
    "text", [LINEAR.replace("ACTIVATION", "Identity"), FLAT], ids=["BatchNorm", "flattened"]
)
def test_a_combination_of_kept_channels_is_restored(text):
    proto = dependent(text)
    assert error(proto, 1e-9, [0, 1, 2, 3, 5]) < 1e-3
    assert error(proto, 1e9, [0, 1, 2, 3, 5]) > 0.05  # plain pruning


def test_an_activation_leaves_less_than_plain_pruning_does():
    proto = dependent(LINEAR.replace("ACTIVATION", "LeakyRelu<alpha = 0.5>"))
    assert error(proto, 0.01, [0, 1, 2, 3, 5]) < 0.7 * error(proto, 1e9, [0, 1, 2, 3, 5])
