"""What the tests of channel analysis share: models from text, analysis, pruning, masking, comparing.

The reference for correctness is the masked model: the untouched widths with a 0/1 mask on the data
operand of every contraction. A pruned model has to give the same outputs, for any selection.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxmerge import optimize
from onnxmerge.channels import Channels, find_channels
from onnxmerge.channels.analysis import Analysis
from onnxmerge.channels.cost import CostModel, removed_channels
from onnxmerge.channels.depth import Depth
from onnxmerge.channels.sites import fold_sites
from onnxmerge.compensation import LeastSquares, PairedCompensation
from onnxmerge.criteria import Reconstruction, choosing_again
from onnxmerge.data import Dataset
from onnxmerge.graph import GraphView, canonicalize, export_model, load
from onnxmerge.graph.edit import Editor
from onnxmerge.graph.view import Axis, NodeView
from onnxmerge.operators import table
from onnxmerge.operators.relations import Contract, Freeze, Mix, Normalise, Relation, Tie
from onnxmerge.plan import Selection
from onnxmerge.reconstruction import reconstruct
from onnxmerge.rewrite.fold import Fold, apply_folds
from onnxmerge.rewrite.mask import mask
from onnxmerge.rewrite.resize import resize
from onnxmerge.rewrite.vanish import vanish
from onnxmerge.runtime import Runtime, Session

MODELS = Path(__file__).parents[1] / "models"
RUNTIME = Runtime.create("cpu", 1)
TOLERANCE = 1e-4
FITTED = LeastSquares()

Feed = Mapping[str, np.ndarray]

interruptible = pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
    reason="what is started here ignores SIGINT: the tests run as a background job",
)


@cache
def narrow_digits() -> onnx.ModelProto:
    """models/digits.onnx with a third of its channels: as deep, and a tenth of the time to work on.

    For what does not depend on how right the answers are.
    """
    images = np.load(MODELS / "digits_calib.npz")["image"][:64]
    return optimize(
        MODELS / "digits.onnx", ratio=0.67, criterion="l1", calibration=images, patches=1000, threads=1
    ).model


# --- models from text ---------------------------------------------------------------------------------


def model(text: str, *, opset: int = 17, contrib: bool = False, seed: int = 0) -> onnx.ModelProto:
    """A model from the text of one graph in ONNX's own syntax.

    Values that are declared between the signature and the nodes, and that no node makes, become
    random weights: positive where the name says scale or var, integers where the type does.
    """
    domains = f'"" : {opset}' + (', "com.microsoft" : 1' if contrib else "")
    ir_version = 10 if opset >= 21 else 8
    proto = onnx.parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{domains}]>\n{text}")
    made = {name for node in proto.graph.node for name in node.output}
    rng = np.random.default_rng(seed)
    declared = list(proto.graph.value_info)
    del proto.graph.value_info[:]
    for value in declared:
        if value.name in made:
            proto.graph.value_info.append(value)
        else:
            proto.graph.initializer.append(_random_weight(rng, value))
    return proto


def _random_weight(rng: np.random.Generator, value: onnx.ValueInfoProto) -> TensorProto:
    kind = value.type.tensor_type
    shape = [d.dim_value for d in kind.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if np.dtype(dtype).kind in "iu":
        values = rng.integers(-100 if np.dtype(dtype).kind == "i" else 0, 100, shape)
    elif any(word in value.name for word in ("scale", "var")):
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.standard_normal(shape)
    return numpy_helper.from_array(np.asarray(values).astype(dtype), value.name)


def random_feed(
    session: Session, *, seed: int = 0, sizes: Mapping[str, int] | int = 2
) -> dict[str, np.ndarray]:
    """Standard normal inputs, integers in 0..2 and booleans; free lengths are ``sizes`` (by name, or all)."""
    rng = np.random.default_rng(seed)
    feed = {}
    for value in session.inputs:
        shape = [
            d if isinstance(d, int) else sizes if isinstance(sizes, int) else sizes.get(str(d), 2)
            for d in value.shape or ()
        ]
        feed[value.name] = random_values(rng, shape, value.dtype)
    return feed


def random_values(rng: np.random.Generator, shape: Sequence[int], dtype) -> np.ndarray:
    kind = np.dtype(dtype).kind
    if kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2 if kind == "b" else 3, shape).astype(dtype)


# --- analysis and rewriting ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Analysed:
    """A model with its channels and one feed that runs."""

    original: onnx.ModelProto
    proto: onnx.ModelProto
    channels: Channels
    feed: Feed

    @property
    def widths(self) -> list[int]:
        """The numbers of channels of all groups, in the order of the graph."""
        return [len(group) for group in self.channels.groups]

    @cached_property
    def cost(self) -> CostModel:
        return CostModel(self.channels)

    @property
    def reach(self) -> float:
        """The share of the multiplications that goes when every group keeps one channel."""
        least = removed_channels(self.channels, {g.name: np.array([0]) for g in self.channels.groups})
        return 1 - self.cost.macs_kept(least) / max(self.cost.macs, 1)

    def node(self, op: str) -> NodeView:
        """The first node of an operator."""
        return next(node for node in self.channels.view if node.op == op)

    def selection(self, seed: int, least: float = 0.0) -> Selection:
        """Random widths, at least the share ``least`` and one channel, and random channels."""
        rng = np.random.default_rng(seed)
        return Selection({g.name: _chosen(rng, len(g), least) for g in self.channels.groups})

    def folds(self, seed: int) -> list[Fold]:
        """Random weights and biases in place of every consumer's own."""
        rng = np.random.default_rng(seed)
        folds = []
        for site in fold_sites(self.channels):
            weight = site.values
            bias = None if site.rows is None else rng.standard_normal(weight.shape[site.rows])
            new = rng.permutation(weight.reshape(-1)).reshape(weight.shape)
            folds.append(Fold.of(site, new, bias, None))
        return folds

    def prune(self, selection: Selection, folds: Sequence[Fold] = ()) -> onnx.ModelProto:
        return self._rewritten(_cut, selection, folds)

    def mask(self, selection: Selection, folds: Sequence[Fold] = ()) -> onnx.ModelProto:
        return self._rewritten(mask, selection, folds)

    def _rewritten(self, rewrite, selection: Selection, folds: Sequence[Fold]) -> onnx.ModelProto:
        editor = Editor(self.channels.view.graph)
        apply_folds(editor, folds)
        rewrite(editor, self.channels, removed_channels(self.channels, selection.keep))
        return export_model(editor.graph, self.original)


def reconstructed(
    analysis: Analysis,
    selection: Selection,
    data: Dataset,
    runtime: Runtime = RUNTIME,
    compensation: PairedCompensation = FITTED,
) -> tuple[Selection, list[Fold]]:
    """What a walk over the whole model keeps and folds, channels chosen again on the way."""
    choose_again = choosing_again(Reconstruction(), analysis.sensitivity)
    return reconstruct(
        analysis.channels,
        analysis.sites,
        analysis.proto,
        selection,
        data,
        runtime,
        compensation,
        choose_again,
    )


def _cut(editor: Editor, channels: Channels, removed: np.ndarray) -> None:
    resize(editor, channels, removed)
    vanish(editor, Depth(channels), removed)


def _chosen(rng: np.random.Generator, count: int, least: float) -> np.ndarray:
    low = max(1, int(np.ceil(least * count)))
    return np.sort(rng.choice(count, rng.integers(low, count + 1), replace=False))


def analysed(source, feed: Feed | None = None, *, sizes: Mapping[str, int] | int = 2) -> Analysed:
    """Load, bring into canonical form, trace shapes and find channels."""
    original = load(source).proto
    graph = canonicalize(original)
    proto = export_model(graph, original)
    if feed is None:
        feed = random_feed(RUNTIME.session(proto), sizes=sizes)
    return Analysed(original, proto, find_channels(GraphView(graph, RUNTIME.trace(proto, feed))), feed)


# --- comparing ----------------------------------------------------------------------------------------


def difference(
    model: Analysed, selection: Selection, *, checked: bool = True, folds: Sequence[Fold] = ()
) -> float:
    """The largest error of the pruned model against the masked one, relative to each output's range.

    The range is the largest magnitude in the masked or the untouched model, and 1 for a sigmoid or
    softmax, whose rounding errors are of that size even where it saturates at zero.

    Args:
        checked: whether the pruned model is put through the checker of the onnx package as well.
        folds: compensations, in both models.
    """
    pruned, masked = model.prune(selection, folds), model.mask(selection, folds)
    if checked:
        onnx.checker.check_model(pruned, full_check=True)
    before, after, reference = (RUNTIME.session(m).run(model.feed) for m in (model.proto, pruned, masked))
    units = _units(model.proto.graph)
    return max((_error(after[k], reference[k], before[k], units.get(k, 0.0)) for k in reference), default=0.0)


def _units(graph: onnx.GraphProto) -> dict[str, float]:
    """By name, the range of the outputs that a sigmoid or softmax bounds, whatever rearranges them."""
    makers = {name: node for node in graph.node for name in node.output}
    rearranging = ("Concat", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
    units = {}
    for output in graph.output:
        node = makers.get(output.name)
        while node is not None and node.op_type in rearranging:
            node = makers.get(node.input[0])
        if node is not None and node.op_type in ("HardSigmoid", "Sigmoid", "Softmax"):
            units[output.name] = 1.0
    return units


def _error(value, reference, original, unit: float) -> float:
    if not isinstance(reference, np.ndarray):
        return 0.0 if str(value) == str(reference) else np.inf
    if value.shape != reference.shape or value.dtype != reference.dtype:
        return np.inf
    if reference.dtype.kind != "f":
        return float(np.mean(value != reference)) if reference.size else 0.0
    value, reference, original = (np.asarray(v, dtype=np.float64) for v in (value, reference, original))
    same = (value == reference) | (np.isnan(value) & np.isnan(reference))
    delta = np.where(same, 0.0, np.abs(value - reference))
    span = max(np.abs(v[np.isfinite(v)]).max(initial=unit) for v in (reference, original))
    return float(np.nan_to_num(delta, nan=np.inf, posinf=np.inf).max(initial=0.0) / max(span, 1e-30))


def check(
    model: Analysed, *, seeds: Sequence[int] = (0, 1, 2), tolerance: float = TOLERANCE, checked=True
) -> None:
    """Assert that pruned and masked agree for several random selections, and that something was removed."""
    removed = False
    for seed in seeds:
        selection = model.selection(seed)
        removed |= any(len(selection.keep.get(g.name, g.channels)) < len(g) for g in model.channels.groups)
        error = difference(model, selection, checked=checked)
        assert error <= tolerance, f"pruned and masked differ by {error:.2e} for the selection of seed {seed}"
    assert removed or not model.channels.groups, "no selection removed anything"


def said(node: NodeView) -> str:
    """What the rule of a node says, as one line.

    Axes that it leaves frozen by default are left out; "tie h ~ t" ties all axes one by one.
    """
    default = f"not a channel axis of {node.op}"
    relations = [r for r in table.relations(node) if not (isinstance(r, Freeze) and r.why == default)]
    ranks = {tensor.name: tensor.rank for tensor in node.tensors}
    words: list[str] = []
    while relations:
        count = _whole_tensors(relations, ranks)
        first = relations[0]
        words.append(f"tie {first.a.tensor} ~ {first.b.tensor}" if count else str(first))
        relations = relations[count or 1 :]
    return "; ".join(words)


def _whole_tensors(relations: list[Relation], ranks: Mapping[str, int]) -> int:
    """How many of the first relations tie all axes of two tensors one by one; 0 if they do not."""
    match relations[0]:
        case Tie(a=Axis(tensor=a), b=Axis(tensor=b)) if ranks.get(a, 0) == ranks.get(b) > 1:
            whole = [f"tie {a}[{i}] ~ {b}[{i}]" for i in range(ranks[a])]
            return len(whole) if [str(r) for r in relations[: len(whole)]] == whole else 0
    return 0


# --- wrong rules --------------------------------------------------------------------------------------


@contextmanager
def tied_instead(op: str, domain: str = "") -> Iterator[None]:
    """The table with one wrong rule: whatever the operator mixes or freezes is tied instead."""
    right = table.OPERATORS.get((domain, op))

    def wrong(node: NodeView) -> Iterator[Relation]:
        relations = list(right.rule(node)) if right else []
        yield from (_tied(r) for r in relations)
        inputs = [x for x in node.x if x is not None]
        for y in (y for y in node.y if y is not None):
            for x in inputs:
                if x.rank == y.rank:
                    yield from (Tie(x[i], y[i]) for i in range(x.rank) if x[i].size == y[i].size)
        for tensor in node.tensors:
            yield from (Tie(axis, axis) for axis in tensor.axes)

    operator = replace(right, rule=wrong) if right else table.Operator(wrong)
    with mock.patch.dict(table.OPERATORS, {(domain, op): operator}):
        yield


def _tied(relation: Relation) -> Relation:
    match relation:
        case Mix(axis=axis):
            return Tie(axis, axis)
        case Freeze(where=where):
            return Tie(where, where)
        case Contract(data=axis, average=True):
            return Tie(axis, axis)
        case Normalise(data=data):
            return Tie(data[0], data[0])
    return relation


def disagrees(analyse_again: Callable[[], Analysed], op: str, domain: str, seeds: Sequence[int]) -> bool:
    """Whether the wrong rule shows: pruned and masked differ, or the pruned model does not run."""
    with tied_instead(op, domain):
        model = analyse_again()
    for seed in seeds:
        try:
            if difference(model, model.selection(seed)) > 10 * TOLERANCE:
                return True
        except Exception:  # whatever the checker or the runtime raises, the fault has shown
            return True
    return False
