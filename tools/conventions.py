"""Which numbers models expect their pixels to be: the weights of the inference, and how often it is right.

    python tools/conventions.py train --out nets          small nets, one for each convention (needs torch)
    python tools/conventions.py observe --nets nets       what every model does under every convention
    python tools/conventions.py judge                     weights, and every family judged without itself
    python tools/conventions.py told                      agreement said against agreement on real images

``conventions_known.json`` lists models whose convention is known (family, file, convention, order of
colours) below the folder ``--shared``. Trained models are also rewritten to expect other conventions: the
first layer scaled, shifted and its colours swapped. ``judge`` reads what ``observe`` wrote.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from scipy.optimize import minimize

import onnxmerge
from onnxmerge.data import ImageOptions
from onnxmerge.data.conventions import COLOUR, GREY, Convention
from onnxmerge.data.generic import plausible as inference
from onnxmerge.data.generic.evidence import Evidence
from onnxmerge.data.generic.stand_ins import look
from onnxmerge.runtime import Runtime
from onnxmerge.validation import class_scores, output_kinds

OBSERVED = Path(__file__).parent / "results" / "conventions.json"
KNOWN = Path(__file__).parent / "conventions_known.json"
BY_NAME = {str(c): c for c in (*COLOUR, *GREY)}
CAFFE = "0..255 less the mean colour"
# What trained models are rewritten to expect.
REWRITTEN = (
    *("0..255, RGB", "0..255, BGR", f"{CAFFE}, BGR", "0..1, RGB", "0..1, BGR", "-0.5..0.5, RGB"),
    *("-1..1, RGB", "ImageNet mean and std, RGB"),
)
FAMILIES_REWRITTEN = ("resnet56", "resnet20", "resnet8", "mobilenetv2")


@dataclass(frozen=True)
class Known:
    """A model whose convention is known; several names where the order of colours is not."""

    family: str
    name: str
    path: Path
    truth: tuple[str, ...]
    rewritten_from: str | None = None

    def model(self) -> onnx.ModelProto | None:
        """The model, rewritten where it is to be; None where that is not possible."""
        proto = onnx.load(self.path)
        if self.rewritten_from is None:
            return proto
        return rewritten(proto, BY_NAME[self.rewritten_from], BY_NAME[self.truth[0]])


def known(shared: Path, nets: Path | None) -> Iterator[Known]:
    """The listed models, the rewritten ones, and the nets of ``train``."""
    for family, pattern, convention, order in json.loads(KNOWN.read_text()):
        for path in sorted(shared.glob(pattern)):
            orders = {"either": ("rgb", "bgr")}.get(order, (order,))
            every = (*COLOUR, *GREY)
            truth = tuple(str(c) for o in orders for c in every if (c.name, c.order) == (convention, o))
            yield Known(family, path.stem, path, truth)
            if family in FAMILIES_REWRITTEN:
                for other in REWRITTEN:
                    if other not in truth:
                        yield Known(family, f"{path.stem} for {other}", path, (other,), truth[0])
    for path in sorted(nets.glob("*.onnx")) if nets is not None else ():
        family, number = path.stem.rsplit("_", 1)
        yield Known(family, path.stem, path, (str(COLOUR[int(number)]),))


def rewritten(model: onnx.ModelProto, before: Convention, after: Convention) -> onnx.ModelProto | None:
    """A model changed to expect another convention; None if its input feeds other than convolutions."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph, stored = changed.graph, {t.name: t for t in changed.graph.initializer}
    entry = next(i.name for i in graph.input if i.name not in stored)
    users = [node for node in graph.node if entry in node.input]
    if not users or any(node.op_type != "Conv" for node in users):
        return None
    factor = before.scale * _wide(after.std) / (_wide(before.std) * after.scale)
    shift = (before.scale * _wide(after.mean) / after.scale - _wide(before.mean)) / _wide(before.std)

    def store(name: str, values: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), f"{name}_rewritten"))
        return f"{name}_rewritten"

    for node in users:
        weight = numpy_helper.to_array(stored[node.input[1]]).astype(np.float64)
        weight = weight[:, ::-1] if before.order == "bgr" else weight
        added = (weight.sum((2, 3)) * shift).sum(1)
        scaled = weight * factor[None, :, None, None]
        node.input[1] = store(node.input[1], scaled[:, ::-1] if after.order == "bgr" else scaled)
        norm = [n for n in graph.node if node.output[0] in n.input and n.op_type == "BatchNormalization"]
        if len(node.input) > 2:
            bias = numpy_helper.to_array(stored[node.input[2]]).astype(np.float64)
            node.input[2] = store(node.input[2], bias + added)
        elif norm:
            mean = numpy_helper.to_array(stored[norm[0].input[3]]).astype(np.float64)
            norm[0].input[3] = store(norm[0].input[3], mean - added)
        else:
            node.input.append(store(f"{node.input[1]}_bias", added))
    return changed


def _wide(values: tuple[float, ...]) -> np.ndarray:
    return np.broadcast_to(np.array(values, np.float64), (3,))


def observe(args: argparse.Namespace) -> None:
    """Write what every model does under every convention."""
    runtime = Runtime.create("cpu", args.threads)
    rows = json.loads(OBSERVED.read_text()) if OBSERVED.exists() else {}
    for one in known(args.shared, args.nets):
        if one.name in rows and not args.again:
            continue
        begin, model = time.time(), one.model()
        if model is None:
            continue
        scores = class_scores(output_kinds(model))
        found = look(model, runtime.session(model).inputs, runtime, scores=scores)
        if found is None:
            print(f"{one.name}: takes no images", flush=True)
            continue
        seen, side = found
        rows[one.name] = {
            "family": one.family, "truth": list(one.truth), "side": side,
            "seen": {str(c): [None if v is None else float(f"{v:.4g}") for v in astuple(e)]
                     for c, e in seen.items()},
        }  # fmt: skip
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
        OBSERVED.write_text(f"{{\n{lines}\n}}\n")
        print(f"{one.name}: {time.time() - begin:.1f} s", flush=True)


@dataclass(frozen=True, eq=False)
class Row:
    """One model: features [conventions, 5] and which conventions are right."""

    family: str
    name: str
    side: int
    conventions: tuple[Convention, ...]
    table: np.ndarray
    right: np.ndarray

    def probabilities(self, weights: np.ndarray) -> np.ndarray:
        return inference.probabilities(self.conventions, self.table, self.side, weights)


def read() -> list[Row]:
    """What ``observe`` wrote."""
    found = []
    for name, row in json.loads(OBSERVED.read_text()).items():
        conventions = tuple(BY_NAME[c] for c in row["seen"])
        table = np.array([inference.features(Evidence(*values)) for values in row["seen"].values()])
        right = np.array([str(c) in row["truth"] for c in conventions])
        found.append(Row(row["family"], name, row["side"], conventions, table, right))
    return found


def fitted(rows: list[Row], strength: float = 0.3) -> np.ndarray:
    """The weights that make what is right most probable; families count alike, weights are not negative."""
    size = Counter(row.family for row in rows)

    def loss(weights: np.ndarray) -> float:
        told = [np.log(r.probabilities(weights)[r.right].sum() + 1e-12) for r in rows]
        shares = [1 / np.sqrt(size[r.family]) for r in rows]
        return float(strength * (weights**2).sum() - np.dot(told, shares))

    start = np.full(len(inference.WEIGHTS), 0.3)
    return minimize(loss, start, method="L-BFGS-B", bounds=[(0, None)] * len(start)).x


def judge(args: argparse.Namespace) -> None:
    """Print the weights of all families, and the table of every family judged without itself."""
    rows = read()
    print("weights", np.round(fitted(rows), 2).tolist(), "\n")
    print("| model | expects | its probability | plausible |\n|---|---|---|---|")
    hits, clear = [], []
    for family in sorted({row.family for row in rows}):
        weights = fitted([row for row in rows if row.family != family])
        for row in (row for row in rows if row.family == family):
            p = row.probabilities(weights)
            kept = inference.chosen(p)
            hit = bool(row.right[kept].any())
            hits.append(hit)
            clear.append(len(kept) == 1)
            listed = "; ".join(f"{row.conventions[i]} {p[i]:.2f}" for i in kept)
            truth = " or ".join(str(c) for c, r in zip(row.conventions, row.right, strict=True) if r)
            missed = "" if hit else " (missed)"
            print(f"| {row.name} | {truth} | {p[row.right].sum():.3f}{missed} | {listed} |")
    wrong = sum(c and not h for c, h in zip(clear, hits, strict=True))
    print(
        f"\n{len(rows)} models of {len({r.family for r in rows})} families: {hits.count(False)} missed, "
        f"{sum(clear)} clear, {wrong} clear and wrong"
    )


def told(args: argparse.Namespace) -> None:
    """Agreement that a run without data says, against that on real images; inferred, and with it stated."""
    from accuracy import load_bench  # the models, their images and what they expect

    runtime = Runtime.create("cpu", args.threads)
    print("| model expects | kept | convention | agreement said | agreement on real images | points lost |")
    print("|---|---|---|---|---|---|")
    for one in known(args.shared, None):
        if one.path.stem not in args.models or (args.only and one.truth[0] not in args.only):
            continue
        bench = load_bench(args.shared, one.path.stem, "test")
        model, truth = one.model(), BY_NAME[one.truth[0]]
        assert model is not None
        images = bench.judged
        if one.rewritten_from is not None:
            images = _converted(images, BY_NAME[one.rewritten_from], truth)
        judged = type(bench)(bench.name, bench.path, bench.pool, images, bench.labels)
        dense = judged.answers(model, runtime)
        order = truth.order
        mean, std = (v[::-1] if order == "bgr" and len(v) == 3 else v for v in (truth.mean, truth.std))
        stated = ImageOptions(mean, std, truth.scale, order=order)
        for share in args.shares:
            for how, options in (("inferred", None), ("stated", stated)):
                result = onnxmerge.optimize(model, macs=share, images=options, threads=args.threads)
                found = judged.answers(result.model, runtime)
                lost = 100 * ((dense == bench.labels).mean() - (found == bench.labels).mean())
                said = result.report["parity"]["top1_agreement"]
                same = (found == dense).mean()
                row = (
                    f"{one.path.stem}: {truth}",
                    f"{share:g}",
                    how,
                    f"{said:.1%}",
                    f"{same:.1%}",
                    f"{lost:.2f}",
                )
                print("|", " | ".join(row), "|", flush=True)


def _converted(images: np.ndarray, before: Convention, after: Convention) -> np.ndarray:
    """Images [N, C, H, W] under one convention as they are under another."""
    values = images.transpose(0, 2, 3, 1)
    values = values[..., ::-1] if before.order == "bgr" else values
    pixels = (values * np.float32(before.std) + np.float32(before.mean)) / np.float32(before.scale)
    return np.ascontiguousarray(after.apply(pixels).transpose(0, 3, 1, 2))


def train(args: argparse.Namespace) -> None:
    """Train small nets on CIFAR-10, without and with BatchNorm, one for each of some conventions."""
    import torch
    from torch import nn
    from train_common import read as read_images

    def net(norm: bool) -> nn.Module:
        layers, channels = [], 3
        for width in (16, 16, 0, 32, 32, 0, 64, 64, 0):
            if not width:
                layers.append(nn.MaxPool2d(2))
                continue
            layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=not norm))
            layers += [nn.BatchNorm2d(width)] if norm else []
            layers.append(nn.ReLU())
            channels = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))

    args.out.mkdir(exist_ok=True)
    data = read_images(args.shared / "data" / "cifar10", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    (images, labels), (unseen, answers) = data.train, data.test
    for norm, number in ((norm, i) for norm in (False, True) for i in args.conventions):
        torch.manual_seed(number)
        convention, model = COLOUR[number], net(norm)

        def fed(x, convention=convention):
            pixels = x.permute(0, 2, 3, 1).numpy() * 255
            return torch.from_numpy(np.ascontiguousarray(convention.apply(pixels).transpose(0, 3, 1, 2)))

        x = fed(images)
        steps = args.epochs * len(x) // 64
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps + 1, pct_start=0.1)
        for step in range(steps):
            if step % (len(x) // 64) == 0:
                order = torch.randperm(len(x))
            rows = order[step % (len(x) // 64) * 64 :][:64]
            batch = x[rows].flip(3) if step % 2 else x[rows]
            loss = nn.functional.cross_entropy(model(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            right = (model(fed(unseen)).argmax(1) == answers).float().mean().item()
        name = f"{'norm' if norm else 'plain'}_{number}"
        torch.onnx.export(
            *(model, (x[:1],), str(args.out / f"{name}.onnx")),
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}},
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,  # or BatchNorm is folded
            do_constant_folding=False,
        )
        print(f"{name} ({convention}): {right:.1%}", flush=True)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--threads", type=int, default=2)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("train")
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--epochs", type=int, default=3)
    verb.add_argument("--conventions", type=int, nargs="+", default=[0, 2, 3, 4, 6, 8, 14])
    verb.set_defaults(run=train)
    verb = verbs.add_parser("observe")
    verb.add_argument("--nets", type=Path)
    verb.add_argument("--again", action="store_true")
    verb.set_defaults(run=observe)
    verb = verbs.add_parser("judge")
    verb.set_defaults(run=judge)
    verb = verbs.add_parser("told")
    verb.add_argument("--models", nargs="+", default=["resnet56_bn", "resnet20_bn", "resnet8", "mobilenetv2"])
    verb.add_argument("--only", nargs="+", metavar="CONVENTION")
    verb.add_argument("--shares", type=float, nargs="+", default=[0.7])
    verb.set_defaults(run=told)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
