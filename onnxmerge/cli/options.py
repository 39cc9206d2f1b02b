"""What can be said on the command line, and the Config that it makes."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxmerge.config import Config

# Where options go: a parser, or a group of one.
Group = argparse._ActionsContainer

EXIT_CODES = """\
verbs, in the place of IN (a file of that name is given as ./inspect):
  onnxmerge inspect IN    what could be removed, what stays and why
  onnxmerge sweep IN      the trade-off curve: size and speed against change

exit codes:
  0  done, OUT was written (unchanged, if nothing could be removed)
  2  options or paths that contradict each other, or IN is OUT
  3  the model cannot be read, is not valid, or does not run in onnxruntime
  4  the calibration data does not fit the model
  5  the budget cannot be met
  6  the change exceeds --tolerance at the given budget
  7  OUT or the report cannot be written
  8  the device does not work here
  9  a defect of onnxmerge: an error that nobody foresaw, or a result that failed its own checks
  130  interrupted
"""


def optimize_parser() -> argparse.ArgumentParser:
    """``onnxmerge IN OUT``."""
    parser = _parser(
        "onnxmerge", "Remove channels from a trained ONNX model, repair what they carried, prove the result."
    )
    parser.add_argument("output", metavar="OUT", help="the smaller model; an existing file is replaced")
    budget = parser.add_argument_group("how much goes (without a budget: as much as --tolerance allows)")
    budget.add_argument("--ratio", type=float, metavar="R", help="share of channels removed per group")
    budget.add_argument("--macs", type=float, metavar="F", help="share of the model's multiplications kept")
    budget.add_argument("--params", type=float, metavar="F", help="share of the model's parameters kept")
    _add(budget, "--latency", "share of the measured time of one run kept", type=float, metavar="F")
    _add(budget, "--tolerance", "largest change of the answers (default 0.01 without a budget; "
         "with one, exceeding it is an error)", type=float, metavar="T")  # fmt: skip
    _add_method(parser)
    _add_data(parser)
    _add_evaluation(parser)
    running = _add_running(parser)
    running.add_argument(
        "--no-clobber", action="store_true", default=False, help="refuse to replace an existing OUT"
    )
    return parser


def inspect_parser() -> argparse.ArgumentParser:
    """``onnxmerge inspect IN``."""
    parser = _parser("onnxmerge inspect", "Show which channels could be removed, and what stays and why.")
    _add_scope(parser.add_argument_group("which groups"))
    _add_shape(parser.add_argument_group("data"))
    _add_running(parser)
    return parser


def sweep_parser() -> argparse.ArgumentParser:
    """``onnxmerge sweep IN``."""
    parser = _parser(
        "onnxmerge sweep", "Measure change and latency over a range of budgets; writes no model."
    )
    _add(parser, "--steps", "shares of MACs kept (default %(default)s)", type=_numbers,
         default=(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), metavar="0.9,0.8,...")  # fmt: skip
    _add(parser, "--plot", "write the curve as a picture (.png, .svg or .pdf)", default=None, metavar="FILE")
    _add_method(parser)
    _add_data(parser)
    _add_evaluation(parser)
    _add_running(parser)
    return parser


def config_of(options: argparse.Namespace) -> Config:
    """The Config of parsed options; what a verb does not offer keeps its default.

    Raises:
        UsageError: options that are out of range or contradict one another.
    """
    from onnxmerge.config import Config
    from onnxmerge.data import ImageOptions

    given = {name: value for name, value in vars(options).items() if name in _CONFIG}
    for name in ("shapes", "output_kinds"):
        given[name] = dict(given.get(name, ()))
    if given.get("recover") == "":
        given["recover"] = True
    images = {name: getattr(options, name, None) for name in _IMAGES}
    if any(value is not None for value in images.values()):
        given["images"] = ImageOptions(**{k: v for k, v in images.items() if v is not None})
    return Config(**given)


def in_flags(message: str) -> str:
    """A message of the package, which names arguments (``macs=``), in the words of the command line."""
    return re.sub(rf"\b({'|'.join(_ARGUMENTS)})=(?=[\s,;:.)]|$)", lambda m: _ARGUMENTS[m[1]], message)


_CONFIG = {
    "ratio", "macs", "params", "latency", "tolerance", "criterion", "compensation", "threshold",
    "trade_off", "target", "allocation", "align", "patches", "scope", "skip", "only", "samples", "seed",
    "depth", "shapes", "output_kinds", "recover", "threads", "device",
}  # fmt: skip
_IMAGES = ("mean", "std", "scale", "order", "layout", "resize")

_ARGUMENTS = {name: f"--{name.replace('_', '-')}" for name in (*_CONFIG, *_IMAGES, "steps")}
_ARGUMENTS |= {"trade_off": "--lambda", "shapes": "--shape", "output_kinds": "--output-kind"}
_ARGUMENTS |= {"calibration": "--calib", "evaluation": "--eval-calib"}


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        # What is not given keeps the default of Config, which stands there alone; help repeats it in words.
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("model", metavar="IN", help="the model; it is never changed")
    return parser


def _add(group: Group, flag: str, text: str, **how: Any) -> None:
    group.add_argument(flag, help=text, **how)


def _add_method(parser: argparse.ArgumentParser) -> None:
    method = parser.add_argument_group("how it is done")
    _add(method, "--criterion", "reconstruction, l1, l2, gm or random (default: reconstruction where there "
         "are data, else l1)")  # fmt: skip
    _add(method, "--compensation", "lstsq, gaussian, merge, bias or none (default: lstsq where there are "
         "data, else gaussian where BatchNorm survived, else merge)")  # fmt: skip
    _add(method, "--threshold", "merge: smallest cosine that is merged", type=float, metavar="T")
    _add(method, "--lambda", "merge: weight of the cosine against the BatchNorm shift (default 0.85)",
         dest="trade_off", type=float, metavar="L")  # fmt: skip
    _add(method, "--allocation", "curves, uniform or global (default: curves, under --ratio uniform)")
    _add(method, "--align", "widths are multiples of N where a group is that wide, auto: of what the target "
         "computes without waste (default auto; never under --ratio)",
         type=_align, metavar="auto|N")  # fmt: skip
    _add(method, "--target", "what to align for: auto, cpu, cuda or tensorrt (default auto)")
    _add_scope(method)
    _add(method, "--recover", "then teach the smaller model by the original, without labels: for a time such "
         "as 2m, or a number of steps (default: five times as long as the rest, at most 10m; needs torch)",
         nargs="?", const="", type=_bound, metavar="2m|500")  # fmt: skip
    method.add_argument(
        "--no-depth", dest="depth", action="store_false", help="keep every layer: only make layers narrower"
    )


def _add_scope(group: Group) -> None:
    several = {"nargs": "+", "action": "extend", "default": [], "metavar": "GLOB"}
    _add(group, "--scope", "all, or chain: only groups not coupled by a sum or a concat")
    _add(group, "--skip", "leave groups that touch these nodes or tensors whole", **several)
    _add(group, "--only", "touch only groups with these nodes or tensors", **several)


def _add_shape(group: Group) -> None:
    _add(group, "--shape", "input shapes for made-up inputs", dest="shapes", type=_shape, nargs="+",
         action="extend", default=[], metavar="NAME=1,3,224,224")  # fmt: skip
    _add(group, "--seed", "of every random choice (default 0)", type=int, metavar="S")


def _add_data(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    _add(data, "--calib", ".npz, .npy, a folder of those, or a folder of images", default=None,
         metavar="PATH")  # fmt: skip
    _add(data, "--samples", "use at most N samples (default 512)", type=int, metavar="N")
    _add(data, "--patches", "rows per layer for least squares (default 40000)", type=int, metavar="N")
    _add_shape(data)
    _add(data, "--mean", "images become (x*scale - mean)/std", type=_numbers, metavar="M")
    _add(data, "--std", "with x in 0..255", type=_numbers, metavar="S")
    _add(data, "--scale", "for example 0.00392157", type=float, metavar="F")
    _add(data, "--order", "order of the colours in the model's input, and of --mean and --std (default rgb)",
         metavar="rgb|bgr")  # fmt: skip
    _add(data, "--layout", "where the colour channels of images are", metavar="nchw|nhwc")
    _add(data, "--resize", "size of images before the centre crop", type=_size, metavar="H,W")


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("measuring")
    _add(group, "--eval-calib", "measure parity on these instead of the calibration data", default=None,
         metavar="PATH")  # fmt: skip
    _add(group, "--output-kind", "how an output is judged, where the guess is wrong: classes by the highest "
         "score, probabilities by how much of them moves, values by |y' - y| / |y|, integers by how many "
         "differ, detections by the boxes that appear, vanish or move, sequences by what they read, masks by "
         "pixels and IoU, embeddings by the angle; the report says how each was judged, and why",
         dest="output_kinds", type=_kind, nargs="+",
         action="extend", default=[], metavar="NAME=KIND")  # fmt: skip


def _add_running(parser: argparse.ArgumentParser) -> Group:
    running = parser.add_argument_group("running and reporting")
    _add(running, "--threads", "of onnxruntime (default: all processors)", type=int, metavar="N")
    _add(running, "--device", "(default auto)", metavar="auto|cpu|cuda")
    _add(running, "--report", "write what was found as JSON", default=None, metavar="FILE")
    running.add_argument("-q", "--quiet", action="store_true", default=False, help="print nothing but errors")
    running.add_argument(
        "-v", "--verbose", action="store_true", default=False, help="print more: every group and reason"
    )
    return running


def _bound(text: str) -> str:
    """A time or a number of steps; anything else was meant for another option."""
    if not re.fullmatch(r"[\d.]+\s*[smh]?", text):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no time such as 2m and no number of steps; write a bare --recover behind IN and OUT"
        )
    return text


def _align(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _size(text: str) -> tuple[int, int]:
    parts = [int(part) for part in text.split(",")]
    return (parts[0], parts[-1])


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, dims = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form NAME=1,3,224,224")
    return name, tuple(int(d) for d in dims.split(","))


def _kind(text: str) -> tuple[str, str]:
    name, _, kind = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form NAME=classes")
    return name, kind
