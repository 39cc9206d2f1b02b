"""How outputs are judged, and whether the change that is said predicts the loss of the task.

    python tools/kinds.py list FOLDER                     how each output of the models is judged, and why
    python tools/kinds.py detector MODEL --images FOLDER  boxes lost: a YOLOX with raw outputs, 0..255 BGR
    python tools/kinds.py reader MODEL                    lines lost: a CTC whose metadata list its characters

``detector`` and ``reader`` prune to several shares of the MACs and measure the loss on inputs that were not
given to onnxmerge, with post-processing of their own: boxes against those of the original (0.25, suppression
at 0.45, IoU 0.5), lines of rendered text against what was written. Prints rows of Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import onnxmerge
from onnxmerge.data.gather import Reading, gather
from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph.files import load
from onnxmerge.runtime import Runtime
from onnxmerge.validation import class_scores, output_kinds, seen

FONTS = Path("/usr/share/fonts/truetype/dejavu")
_TEXT = """
Invoice Total Amount Delivery Street Number Order Please Return Before Winter Garden Market
Customer Balance Account Payment Summer Machine Engine Bridge Station Window Kitchen Morning
Evening Country Village Harbour Forest Mountain Weather History Science Music Theatre Paper
Silver Copper Orange Yellow Purple Quality Service Product Project Manager Director Student
Teacher Doctor Hospital Journey
"""
WORDS = _TEXT.split()


def listed(folder: Path, samples: int) -> Iterator[str]:
    """A row for every output of every model: what it is judged by and why; models that do not run say so."""
    runtime = Runtime.create("cpu", 1)
    yield "| model | data | output | judged |\n|---|---|---|---|"
    for path in sorted(folder.glob("*.onnx")):
        try:
            loaded = load(path)
            kinds = output_kinds(loaded.proto)
            session = runtime.session_of(loaded)
            reading = Reading(samples=samples)
            data, _ = gather(loaded.proto, session, runtime, None, None, class_scores(kinds), reading)
            kinds = seen(kinds, loaded.proto, session, data.fit)
        except OnnxMergeError as error:
            yield f"| {path.stem} | - | - | {' '.join(str(error).split())[:120]} |"
            continue
        rows: dict[str, list[str]] = {}
        for name, how in kinds.items():
            rows.setdefault(how.words.split("; output_kinds")[0], []).append(name)
        for words, names in rows.items():
            yield f"| {path.stem} | {data.kind} | {', '.join(n[:24] for n in names)} | {words} |"


def compared(
    model: Path,
    calibration: np.ndarray,
    evaluation: np.ndarray,
    loss: Callable[[bytes, bytes], float],
    what: str,
    samples: int,
    shares: Sequence[float],
) -> Iterator[str]:
    """A row for every share: what onnxmerge says beside what is lost."""
    yield f"| model | MACs | change said | at most (90%) | relative error | {what} |"
    yield "|---|---|---|---|---|---|"
    original = model.read_bytes()
    for share in shares:
        start = time.time()
        result = onnxmerge.optimize(
            model, macs=share, calibration=calibration, evaluation=evaluation, samples=samples, threads=1
        )
        parity = result.report.parity
        lost = loss(original, result.model.SerializeToString())
        yield (
            f"| {model.stem} | {share} | {parity.change:.1%} | {parity.change_upper_90:.1%} "
            f"| {parity.relative_error:.1%} | {lost:.1%} |"
        )
        yield f"<!-- {result.report.headline.answers} ({time.time() - start:.0f} s) -->"


def session_of(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# --- a detector -------------------------------------------------------------------------------------


def pictures(folder: Path, side: int, part: int, most: int) -> np.ndarray:
    """A third of a folder's files, each whole and its corners; float32 [N, 3, side, side], 0..255, BGR."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".png", ".webp"))[part::3]
    read = []
    for path in files:
        image = Image.open(path).convert("RGB")
        w, h = image.size
        for x, y, share in ((0, 0, 1), (0, 0, 0.6), (0.4, 0, 0.6), (0, 0.4, 0.6), (0.4, 0.4, 0.6)):
            view = image.crop((int(x * w), int(y * h), int((x + share) * w), int((y + share) * h)))
            read.append(np.asarray(view.resize((side, side))))
    chosen = np.random.default_rng(0).permutation(len(read))[:most]
    return np.stack([read[i] for i in chosen])[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)


def yolox_boxes(raw: np.ndarray, side: int) -> list[tuple[int, float, tuple[float, ...]]]:
    """(class, confidence, corners) of one picture, by the rules that YOLOX is published with."""
    grids, strides = [], []
    for stride in (8, 16, 32):
        n = side // stride
        ys, xs = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
        grids.append(np.stack([xs, ys], axis=-1).reshape(-1, 2))
        strides.append(np.full((n * n, 1), stride))
    grid, stride = np.concatenate(grids), np.concatenate(strides)
    centre, size = (raw[:, :2] + grid) * stride, np.exp(raw[:, 2:4]) * stride
    confidence = raw[:, 4:5] * raw[:, 5:]
    label, best = confidence.argmax(1), confidence.max(1)
    order = [i for i in np.argsort(-best) if best[i] >= 0.25]
    kept: list[tuple[int, float, tuple[float, ...]]] = []
    for i in order:
        corners = (*(centre[i] - size[i] / 2), *(centre[i] + size[i] / 2))
        if all(k[0] != label[i] or iou(k[2], corners) <= 0.45 for k in kept):
            kept.append((int(label[i]), float(best[i]), corners))
    return kept


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0.0) * max(high, 0.0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def boxes_lost(images: np.ndarray) -> Callable[[bytes, bytes], float]:
    """1 - F1 of the boxes of a model against the original's."""

    def loss(before: bytes, after: bytes) -> float:
        a, b = session_of(before), session_of(after)
        name, hits, total = a.get_inputs()[0].name, 0, 0
        for image in images:
            truth, found = (
                yolox_boxes(one.run(None, {name: image[None]})[0][0], image.shape[-1]) for one in (a, b)
            )
            total += len(truth) + len(found)
            for label, _, corners in found:
                same = [t for t in truth if t[0] == label and iou(t[2], corners) >= 0.5]
                if same:
                    truth.remove(max(same, key=lambda t: iou(t[2], corners)))
                    hits += 1
        print(f"<!-- {total} boxes of both on {len(images)} pictures -->", flush=True)
        return 1 - 2 * hits / max(total, 1)

    return loss


# --- a reader of text -------------------------------------------------------------------------------


def lines(count: int, seed: int, height: int = 48, width: int = 320) -> tuple[np.ndarray, list[str]]:
    """Rendered lines of text as float32 [N, 3, height, width] in -1..1, and what was written."""
    rng = random.Random(seed)
    noise = np.random.default_rng(seed)
    fonts = sorted(p for p in FONTS.glob("*.ttf") if "Math" not in p.name and "ExtraLight" not in p.name)
    images, texts = [], []
    for _ in range(count):
        number = f"{rng.randint(10, 99999)}"
        text = " ".join(rng.sample(WORDS, rng.randint(1, 3)) + [number] * rng.randint(0, 1))
        font = ImageFont.truetype(str(rng.choice(fonts)), rng.randint(22, 34))
        while font.getlength(text) > width - 12:
            text = text[:-1].strip()
        back, ink = rng.randint(140, 255), rng.randint(0, 90)
        image = Image.new("L", (width, height), back)
        top = rng.randint(2, 10)
        ImageDraw.Draw(image).text((rng.randint(3, 10), top), text, fill=ink, font=font)
        image = image.rotate(rng.uniform(-1.5, 1.5), fillcolor=back, resample=Image.Resampling.BILINEAR)
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.4)))
        pixels = np.asarray(image, np.float32) + noise.normal(0, rng.uniform(0, 14), (height, width))
        images.append(np.repeat((np.clip(pixels, 0, 255) / 127.5 - 1)[None], 3, axis=0))
        texts.append(text)
    return np.stack(images).astype(np.float32), texts


def read(scores: np.ndarray, characters: list[str]) -> str:
    """One line: repeats collapsed, class 0 left out."""
    best, text, last = scores.argmax(-1), "", 0
    for number in best:
        if number not in (0, last):
            text += characters[number - 1]
        last = number
    return text


def plain(text: str) -> str:
    return text.replace(" ", "").lower()


def lines_lost(images: np.ndarray, texts: list[str]) -> Callable[[bytes, bytes], float]:
    """How many fewer of the lines are read exactly, as a share; blanks and case are not counted."""

    def loss(before: bytes, after: bytes) -> float:
        proto = onnx.load_model_from_string(before)
        listing = {p.key: p.value for p in proto.metadata_props}["character"]
        characters = [*listing.splitlines(), " "]
        right, told = [], []
        for model in (before, after):
            one = session_of(model)
            name = one.get_inputs()[0].name
            found = [read(one.run(None, {name: image[None]})[0][0], characters) for image in images]
            told.append(found)
            right.append(np.mean([plain(a) == plain(b) for a, b in zip(found, texts, strict=True)]))
        other = np.mean([a != b for a, b in zip(*told, strict=True)])
        print(
            f"<!-- exact: {right[0]:.1%} before, {right[1]:.1%} after; {other:.1%} read differently -->",
            flush=True,
        )
        return float(right[0] - right[1])

    return loss


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("list", "detector", "reader"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--images", type=Path, help="photographs: thirds to fit, to judge and to test")
    parser.add_argument("--samples", type=int, default=192, help="most that onnxmerge is given")
    parser.add_argument("--tested", type=int, default=200, help="inputs that judge, and others that test")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.9, 0.8, 0.7])
    args = parser.parse_args()
    rows: Iterator[str]
    if args.what == "list":
        rows = listed(args.path, args.samples)
    elif args.what == "detector":
        side = session_of(args.path.read_bytes()).get_inputs()[0].shape[-1]
        given, judged, test = (
            pictures(args.images, side, i, n) for i, n in enumerate((args.samples, args.tested, args.tested))
        )
        rows = compared(args.path, given, judged, boxes_lost(test), "boxes lost", args.samples, args.shares)
    else:
        given, judged, test = lines(args.samples, 1)[0], lines(args.tested, 3)[0], lines(args.tested, 2)
        rows = compared(
            args.path, given, judged, lines_lost(*test), "exact lines lost", args.samples, args.shares
        )
    with contextlib.suppress(KeyboardInterrupt):
        for row in rows:
            print(row, flush=True)


if __name__ == "__main__":
    main()
