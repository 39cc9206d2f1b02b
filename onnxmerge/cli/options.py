"""What can be said on the command line: a parser for every verb."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from onnxmerge.cli.parser import Completion, Parser, Version
from onnxmerge.cli.values import align, bound, kind, numbers, shape, size

# Where options go: a parser, or a group of one.
Group = argparse._ActionsContainer

EXAMPLES = """\
  onnxmerge in.onnx out.onnx                   as much as goes within a change of 1% of the answers
  onnxmerge in.onnx out.onnx --macs 0.5 --calib images/      keep half of the multiplications
  onnxmerge inspect in.onnx                    what could be removed, what stays and why
  onnxmerge sweep in.onnx                      the trade-off curve: size and speed against change
  onnxmerge plan in.onnx --save plan.toml      decide, and write down what stays, to read and to edit
  onnxmerge apply in.onnx plan.toml out.onnx   do what a plan says
  onnxmerge compare a.onnx b.onnx              any two models beside each other: a check for pipelines
"""
EXIT_CODES = """\
Verbs stand in the place of IN (a file of that name is given as ./inspect); each has a --help of its own.
A model may be - : IN from standard input, OUT to standard output.

exit codes:
  0  done, OUT was written (unchanged, if nothing could be removed)
  2  options or paths that contradict each other, or IN is OUT
  3  the model cannot be read, is not valid, or does not run in onnxruntime
  4  the calibration data does not fit the model
  5  the budget cannot be met
  6  at the given budget or plan the change exceeds --tolerance, or the drop of the own score --max-drop;
     without data, 20% on inputs that prove nothing; or the change of a comparison exceeds --max-change
  7  OUT or the report cannot be written
  8  the device does not work here
  9  a defect of onnxmerge: an error that nobody foresaw, or a result that failed its own checks
  10  training diverged
  11  compare: one run takes more than --max-latency allows
  12  the function that --eval names fails, or gives no number
  130  interrupted (143: terminated); no OUT was written
  141  nobody reads what is printed any more
"""
# What the first screen of the help shows.
_FIRST = (
    "--macs", "--latency", "--tolerance", "--calib", "--skip", "--recover", "--report", "--json", "--config",
    "--threads",
)  # fmt: skip


def optimize_parser() -> Parser:
    """``onnxmerge IN OUT``."""
    parser = _parser(
        "onnxmerge",
        "Remove channels from a trained ONNX model, repair what they carried, prove the result.",
        examples=EXAMPLES,
        first=_FIRST,
    )
    _add_output(parser)
    _add_budget(parser)
    _add_precision(_add_method(parser))
    _add_data(parser)
    _add_examples(_add_evaluation(parser))
    _add_no_clobber(_add_running(parser))
    parser.add_argument("--version", action=Version, nargs=0, help="print the version")
    _add(parser, "--print-completion", "print what makes a shell complete these options (needs shtab)",
         metavar="bash|zsh|...", action=Completion)  # fmt: skip
    return parser


def plan_parser() -> Parser:
    """``onnxmerge plan IN --save FILE``."""
    parser = _parser(
        "onnxmerge plan",
        "Decide what stays, measure it, and write it down in the place of a model; see onnxmerge apply.",
        first=("--save", *_FIRST),
    )
    _add(parser, "--save", "the plan: TOML, or JSON where the suffix is .json", required=True, metavar="FILE")
    _add_budget(parser)
    _add_precision(_add_method(parser))
    _add_data(parser)
    _add_examples(_add_evaluation(parser))
    _add_running(parser)
    return parser


def apply_parser() -> Parser:
    """``onnxmerge apply IN PLAN OUT``."""
    parser = _parser(
        "onnxmerge apply",
        "Make the model that a plan describes, with its own methods and options. The same data give the same "
        "bytes.",
    )
    parser.add_argument("plan", metavar="PLAN", help="a file that onnxmerge plan wrote, edited or not")
    _add_output(parser)
    _add(parser, "--force", "apply a plan that was made for another file with the same groups, such as the "
         "next checkpoint of the same network", action="store_true", default=False)  # fmt: skip
    _add_tolerance(parser, "largest change of the answers; exceeding it is an error")
    _add_max_drop(parser, "largest drop of the score that --eval gives; exceeding it is an error")
    _add_precision(parser)
    _add_data(parser)
    _add_examples(_add_evaluation(parser))
    _add_no_clobber(_add_running(parser))
    return parser


def compare_parser() -> Parser:
    """``onnxmerge compare A B``."""
    parser = _parser(
        "onnxmerge compare",
        "Compare any two models with the same inputs and outputs: answers, time, size. A is the reference.",
        models=(("model", "A", "the reference"), ("other", "B", "the model to compare with it")),
    )
    limits = parser.add_argument_group("what passes")
    _add(limits, "--max-change", "exit code 6 where the answers change more", type=float, metavar="T",
         default=None)  # fmt: skip
    _add(limits, "--max-latency", "exit code 11 where B takes more than this share of A's time", type=float,
         metavar="F", default=None)  # fmt: skip
    data = parser.add_argument_group("data")
    _add_calibration(data, "use at most N samples (default: all that are given)")
    _add_images(data)
    _add_output_kinds(parser.add_argument_group("measuring"))
    _add_running(parser)
    return parser


def inspect_parser() -> Parser:
    """``onnxmerge inspect IN``."""
    parser = _parser("onnxmerge inspect", "Show which channels could be removed, and what stays and why.")
    _add_scope(parser.add_argument_group("which groups"))
    _add_shape(parser.add_argument_group("data"))
    _add_running(parser)
    return parser


def sweep_parser() -> Parser:
    """``onnxmerge sweep IN``."""
    parser = _parser(
        "onnxmerge sweep",
        "Measure change and latency over a range of budgets; writes no model.",
        first=("--steps", "--plot", *_FIRST[_FIRST.index("--calib") :]),
    )
    _add(parser, "--steps", "shares of MACs kept (default 0.9,0.8,0.7,0.6,0.5,0.4,0.3)", type=numbers,
         default=(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), metavar="0.9,0.8,...")  # fmt: skip
    _add(parser, "--plot", "write the curve as a picture (.png, .svg or .pdf)", default=None, metavar="FILE")
    _add_method(parser)
    _add_data(parser)
    _add_evaluation(parser)
    _add_running(parser)
    return parser


def _parser(
    prog: str,
    description: str,
    *,
    models: Sequence[tuple[str, str, str]] = (("model", "IN", "the model; it is never changed"),),
    examples: str = "",
    first: Iterable[str] = (),
) -> Parser:
    parser = Parser(prog=prog, description=description, examples=examples, first=first, more=EXIT_CODES)
    for name, metavar, text in models:
        parser.add_argument(name, metavar=metavar, help=text)
    return parser


def _add(group: Group, flag: str, text: str, **how: Any) -> None:
    group.add_argument(flag, help=text, **how)


def _add_output(parser: Parser) -> None:
    parser.add_argument("output", metavar="OUT", help="the smaller model; an existing file is replaced")


def _add_no_clobber(running: Group) -> None:
    running.add_argument(
        "--no-clobber", action="store_true", default=False, help="refuse to replace an existing OUT"
    )


def _add_budget(parser: Parser) -> None:
    budget = parser.add_argument_group("how much goes (without a budget: as much as --tolerance allows)")
    budget.add_argument("--ratio", type=float, metavar="R", help="share of channels removed per group")
    budget.add_argument("--macs", type=float, metavar="F", help="share of the model's multiplications kept")
    budget.add_argument("--params", type=float, metavar="F", help="share of the model's parameters kept")
    _add(budget, "--latency", "share of the measured time of one run kept", type=float, metavar="F")
    _add_tolerance(budget, "largest change of the answers (default 0.01 without a budget; with one, "
                   "exceeding it is an error)")  # fmt: skip
    _add_max_drop(budget, "largest drop of the score that --eval gives, in its unit, in the place of "
                  "--tolerance")  # fmt: skip


def _add_tolerance(group: Group, text: str) -> None:
    _add(group, "--tolerance", text, type=float, metavar="T")


def _add_max_drop(group: Group, text: str) -> None:
    _add(group, "--max-drop", text, type=float, metavar="D")


def _add_method(parser: Parser) -> Group:
    method = parser.add_argument_group("how it is done")
    _add(method, "--criterion", "reconstruction, l1, l2, gm or random (default: reconstruction where there "
         "are data, else l1)")  # fmt: skip
    _add(method, "--compensation", "lstsq, gaussian, merge, lbyl, folding, bias or none (default: lstsq "
         "where there are data, else gaussian where BatchNorm survived, else folding, or merge where its "
         "options or a criterion are given)")  # fmt: skip
    _add(method, "--threshold", "merge: smallest cosine that is merged", type=float, metavar="T")
    _add(method, "--lambda", "merge: weight of the cosine against the BatchNorm shift (default 0.85)",
         dest="trade_off", type=float, metavar="L")  # fmt: skip
    _add(method, "--lambda1", "lbyl: weight of BatchNorm's shifts (default 0.01)", dest="shift_weight",
         type=float, metavar="L")  # fmt: skip
    _add(method, "--lambda2", "lbyl: weight of the bound on what activations add (default 1.0)",
         dest="spread_weight", type=float, metavar="L")  # fmt: skip
    _add(method, "--allocation", "curves, uniform or global (default: curves, under --ratio uniform)")
    _add(method, "--align", "widths are multiples of N where a group is that wide, auto: of what the target "
         "computes without waste (default auto; never under --ratio)",
         type=align, metavar="auto|N")  # fmt: skip
    _add(method, "--target", "what to align for: auto, cpu, cuda or tensorrt (default auto)")
    _add_scope(method)
    _add(method, "--recover", "then teach the smaller model by the original, without labels: for a time such "
         "as 2m, or a number of steps (default: five times as long as the rest, at most 10m; needs torch)",
         nargs="?", const="", type=bound, metavar="2m|500")  # fmt: skip
    method.add_argument(
        "--no-depth", dest="depth", action="store_false", help="keep every layer: only make layers narrower"
    )
    return method


def _add_precision(among: Group) -> None:
    fewer = among.add_mutually_exclusive_group()
    fewer.add_argument("--int8", dest="precision", action="store_const", const="int8",
                       help="then turn weights and activations into int8 (QuantizeLinear pairs, scales per "
                            "channel), with ranges from the same data")  # fmt: skip
    fewer.add_argument("--fp16", dest="precision", action="store_const", const="fp16",
                       help="then turn them into float16; inputs and outputs stay as they are")  # fmt: skip


def _add_scope(group: Group) -> None:
    several = {"nargs": "+", "action": "extend", "default": [], "metavar": "GLOB"}
    _add(group, "--scope", "all, or chain: only groups not coupled by a sum or a concat")
    _add(group, "--skip", "leave groups that touch these nodes or tensors whole", **several)
    _add(group, "--only", "touch only groups with these nodes or tensors", **several)


def _add_shape(group: Group) -> None:
    _add(group, "--shape", "input shapes for made-up inputs", dest="shapes", type=shape, nargs="+",
         action="extend", default=[], metavar="NAME=1,3,224,224")  # fmt: skip
    _add(group, "--seed", "of every random choice (default 0)", type=int, metavar="S")


def _add_data(parser: Parser) -> None:
    data = parser.add_argument_group("data")
    _add_calibration(data, "fit to at most N samples (default 512); of more, others judge")
    _add(data, "--patches", "rows per layer for least squares (default 40000)", type=int, metavar="N")
    _add_images(data)


def _add_calibration(data: Group, samples: str) -> None:
    _add(data, "--calib", ".npz, .npy, a folder of those, or a folder of images", default=None,
         metavar="PATH")  # fmt: skip
    _add(data, "--samples", samples, type=int, metavar="N")
    _add_shape(data)


def _add_images(data: Group) -> None:
    _add(data, "--mean", "images become (x*scale - mean)/std", type=numbers, metavar="M")
    _add(data, "--std", "with x in 0..255", type=numbers, metavar="S")
    _add(data, "--scale", "for example 0.00392157", type=float, metavar="F")
    _add(data, "--order", "order of the colours in the model's input, and of --mean and --std (default rgb)",
         metavar="rgb|bgr")  # fmt: skip
    _add(data, "--layout", "where the colour channels of images are", metavar="nchw|nhwc")
    _add(data, "--resize", "size of images before the centre crop", type=size, metavar="H,W")


def _add_evaluation(parser: Parser) -> Group:
    group = parser.add_argument_group("measuring")
    _add(group, "--eval-calib", "measure parity on these instead of the calibration data", default=None,
         metavar="PATH")  # fmt: skip
    _add(group, "--eval", "your own score: a function that takes an onnxruntime InferenceSession and returns "
         "a number, larger is better; given as module:function or path/to/file.py:function",
         dest="evaluate", default=None, metavar="FUNCTION")  # fmt: skip
    group.add_argument("--eval-lower-is-better", dest="lower_is_better", action="store_true",
                       help="the score is an error: smaller is better")  # fmt: skip
    _add_output_kinds(group)
    return group


def _add_output_kinds(group: Group) -> None:
    _add(group, "--output-kind", "how an output is judged, where the guess is wrong: classes by the highest "
         "score, probabilities by how much of them moves, values by |y' - y| / |y|, integers by how many "
         "differ, detections by the boxes that appear, vanish or move, sequences by what they read, masks by "
         "pixels and IoU, embeddings by the angle; the report says how each was judged, and why",
         dest="output_kinds", type=kind, nargs="+",
         action="extend", default=[], metavar="NAME=KIND")  # fmt: skip


def _add_examples(group: Group) -> None:
    _add(group, "--examples", "how many of the samples that change most --report holds, as a page with their "
         "images (default 8; 0 where data must not be shown)", type=int, metavar="N")  # fmt: skip


def _add_running(parser: Parser) -> Group:
    running = parser.add_argument_group("running and reporting")
    _add(running, "--threads", "of onnxruntime (default: all processors)", type=int, metavar="N")
    _add(running, "--device", "(default auto)", metavar="auto|cpu|cuda")
    _add(running, "--report", "write what was found: a page to read (.html), else JSON", default=None,
         metavar="FILE")  # fmt: skip
    _add(running, "--json", "print that JSON on standard output, and nothing else there",
         action="store_true", default=False)  # fmt: skip
    _add(running, "--config", "read options from a TOML or JSON file, or from the report of an earlier run; "
         "the command line counts more", metavar="FILE")  # fmt: skip
    running.add_argument("-q", "--quiet", action="store_true", default=False, help="print nothing but errors")
    running.add_argument(
        "-v", "--verbose", action="store_true", default=False, help="print more: every group and reason"
    )
    return running
