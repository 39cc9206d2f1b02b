"""What the other tools make of a model; runs in their environment and imports nothing of onnxmerge.

    python worker.py onnxsim|torch-pruning IN.onnx CALIBRATION.npz FOLDER SHARE ...

In every way that a tool can be called it gets the least strength that meets a share of the multiplications.
FOLDER gets the models; ways and shares that its done.json lists are left out. A line is printed for each
model: {way, share, strength, file} or, where a tool declines, {way, share, reason}.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence, Set
from functools import cache, partial
from importlib.metadata import version
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Calibration = dict[str, np.ndarray]
Model = onnx.ModelProto
Done = Set[tuple[str, float]]
# Strengths are tried in hundredths.
_MOST = 95
_BATCH = 50


def onnxsim_ways(model: Model, calibration: Calibration) -> Iterator[tuple[str, Callable, Callable]]:
    """Structured pruning by norms and by activations ("Wanda"), every layer alike or all layers pooled.

    It expects BatchNorm to be folded, which its ``simplify`` does; its ``apply_pruning_finetune`` refits the
    matrix products (not the convolutions) by ridge regression.
    """
    import onnxsim
    from onnxsim import finetune, pruning

    simple, _ = onnxsim.simplify(model)
    batches = _batches(simple, calibration)
    calls: dict[str, Callable[..., Model]] = {
        "structured": pruning.apply_structured_pruning,
        "structured Wanda": partial(pruning.apply_structured_wanda_pruning, calibration_data=batches),
    }
    for (name, call), norm, pooled in product(calls.items(), ("l1", "l2"), (False, True)):

        @cache
        def made(strength: float, call=call, norm=norm, pooled=pooled) -> Model:
            return call(simple, sparsity=strength, importance_norm=norm, global_sparsity=pooled)

        way = f"{name}, {norm}{', global' if pooled else ''}"
        yield way, made, lambda strength, made=made: macs(made(strength))
        if name == "structured Wanda" and norm == "l2":

            def refitted(strength: float, made=made) -> Model:
                return finetune.apply_pruning_finetune(simple, made(strength), batches)

            yield f"{way}, refitted", refitted, lambda strength, made=made: macs(made(strength))


def torch_pruning_ways(model: Model, calibration: Calibration) -> Iterator[tuple[str, Callable, Callable]]:
    """Magnitudes and group norms, every layer alike or pooled; of all channels, or of those in no sum.

    The model comes by onnx2torch, BatchNorm folded, and goes back by torch.onnx.export.
    """
    import onnx2torch
    import onnxsim
    import torch
    import torch_pruning as tp

    simple, _ = onnxsim.simplify(model)
    example = torch.from_numpy(next(iter(calibration.values()))[:1])

    def pruned(importance: Any, pooled: bool, alone: bool, strength: float) -> torch.nn.Module:
        network = onnx2torch.convert(simple).eval()
        layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
        kept = [layers[-1]]
        if alone:
            graph = tp.DependencyGraph().build_dependency(network, example)
            for group in graph.get_all_groups(ignored_layers=kept, root_module_types=[torch.nn.Conv2d]):
                makers = {
                    d.target.module for d, _ in group if d.handler.__name__ == "prune_out_channels"
                    and isinstance(d.target.module, torch.nn.Conv2d) and d.target.module.groups == 1
                }  # fmt: skip
                kept += makers if len(makers) > 1 else []
        tp.pruner.BasePruner(
            network, example, importance=importance, pruning_ratio=strength, global_pruning=pooled,
            ignored_layers=kept,
        ).step()  # fmt: skip
        with torch.no_grad():
            network(example)
        return network

    def exported(make: Callable[[float], torch.nn.Module], strength: float) -> Model:
        path, source = Path(sys.argv[4]) / "exported.onnx", simple.graph
        stored = {t.name for t in source.initializer}
        inputs = [i.name for i in source.input if i.name not in stored]
        outputs = [o.name for o in source.output]
        network = make(strength)  # the tool traces by gradients
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network, (example,), str(path), dynamo=False, opset_version=17, input_names=inputs,
                output_names=outputs, dynamic_axes={inputs[0]: {0: "N"}} if _batch(simple) is None else None,
            )  # fmt: skip
        return onnx.load(path)

    importances = {
        "magnitude l1": tp.importance.MagnitudeImportance(p=1),
        "magnitude l2": tp.importance.MagnitudeImportance(p=2),
        "group norm": tp.importance.GroupMagnitudeImportance(p=2),
    }
    for pooled, alone, (name, importance) in product((False, True), (True, False), importances.items()):
        if pooled and name == "magnitude l1":  # pooled l2 stands for magnitudes
            continue
        make = partial(pruned, importance, pooled, alone)

        @cache
        def counted(strength: float, make=make) -> float:
            return float(tp.utils.count_ops_and_params(make(strength), example)[0])

        way = f"{name}{', global' if pooled else ''}{', not in sums' if alone else ''}"
        yield way, partial(exported, make), counted


def macs(model: Model) -> float:
    """The multiplications of convolutions and products with stored weights, for a batch of 1."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    weights = {t.name: tuple(t.dims) for t in graph.initializer}
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.value_info, *graph.output, *graph.input)
    }
    total = 0.0
    for node in graph.node:
        weight = weights.get(node.input[1]) if len(node.input) > 1 else None
        if weight is None or node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        place = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
        inner = slice(2, None) if node.op_type.startswith("Conv") else slice(1, -1)
        total += prod(weight) * prod(shapes.get(place, [])[inner])
    return total


def _nearest(share: float, dense: float, counted: Callable[[float], float]) -> float | None:
    """The least strength that keeps at most a share; None where none does."""
    low, high = 0, _MOST
    if counted(high / 100) > share * dense:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if counted(middle / 100) <= share * dense else (middle, high)
    return high / 100


def _batch(model: Model) -> int | None:
    """The number of samples that a model takes at once; None where that is free."""
    stored = {t.name for t in model.graph.initializer}
    first = next(i for i in model.graph.input if i.name not in stored)
    return first.type.tensor_type.shape.dim[0].dim_value or None


def _batches(model: Model, calibration: Calibration) -> list[Calibration]:
    step = _batch(model) or _BATCH
    count = len(next(iter(calibration.values())))
    return [{k: x[i : i + step] for k, x in calibration.items()} for i in range(0, count - step + 1, step)]


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


def rows(
    tool: str, ways: Callable, model: Model, calibration: Calibration, shares: Sequence[float], done: Done
) -> Iterator[dict]:
    """A row for every way and share but those that are done, as files and reasons."""
    for way, make, counted in ways(model, calibration):
        for share in (share for share in shares if (way, share) not in done):
            row: dict[str, Any] = {"way": way, "share": share, "version": f"{tool} {version(tool)}"}
            try:
                strength = _nearest(share, counted(0.0), counted)
                if strength is None:
                    row["reason"] = (
                        f"it keeps {counted(_MOST / 100) / counted(0.0):.2f} of the MACs at the least"
                    )
                else:
                    name = f"{way.replace(' ', '_').replace(',', '')}_{share:g}.onnx"
                    onnx.save(make(strength), Path(sys.argv[4]) / name)
                    row |= {"strength": strength, "file": name}
            except Exception as error:  # whatever the tool says is the result
                row["reason"] = _said(error)
            yield row


def main() -> None:
    tool, source, data, folder, *shares = sys.argv[1:]
    done = {(way, share) for way, share in json.loads(Path(folder, "done.json").read_text("utf-8"))}
    with np.load(data) as stored:
        calibration = {name: stored[name] for name in stored.files}
    ways = {"onnxsim": onnxsim_ways, "torch-pruning": torch_pruning_ways}[tool]
    try:
        for row in rows(tool, ways, onnx.load(source), calibration, list(map(float, shares)), done):
            print(json.dumps(row), flush=True)
    except Exception as error:
        for share in shares:
            print(json.dumps({"way": "any", "share": float(share), "reason": _said(error)}), flush=True)


if __name__ == "__main__":
    main()
