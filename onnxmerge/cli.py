"""The command line: arguments -> Config -> optimize -> printed report. No logic of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from onnxmerge.errors import ModelError, OnnxMergeError, UsageError

INTERRUPTED = 130

EXIT_CODES = """\
exit codes:
  0  done, OUT was written (unchanged, if nothing could be removed)
  2  options or paths that contradict each other, or IN is OUT
  3  the model cannot be read, is not valid, or does not run in onnxruntime
  4  the calibration data does not fit the model
  5  the budget cannot be met
  6  the change exceeds --tolerance at the given budget
  7  OUT or the report cannot be written
  8  the device does not work here
  9  a rewritten model failed its own checks: a defect of onnxmerge
  130  interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        _optimize(options)
    except OnnxMergeError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", INTERRUPTED)
    except MemoryError:
        return _fail("not enough memory; fewer --samples need less", ModelError.exit_code)
    return 0


def _fail(message: str, code: int) -> int:
    print(f"onnxmerge: error: {message}", file=sys.stderr)
    return code


def _optimize(options: argparse.Namespace) -> None:
    # Imported late, so that --help and mistakes in the options are answered at once.
    from onnxmerge.graph.io import check_output, same_file
    from onnxmerge.pipeline import optimize
    from onnxmerge.terminal import Terminal

    terminal = Terminal(quiet=options.quiet, verbose=options.verbose)
    source, target = Path(options.model), Path(options.output)
    check_output(source, target, clobber=not options.no_clobber)
    if options.report is not None:
        report = Path(options.report)
        check_output(source, report, clobber=True)
        if same_file(report, target):
            raise UsageError(f"the report {report} is the output file; name another file")
    config = _config(options)
    with terminal.progress() as progress:
        result = optimize(
            source, calibration=options.calib, evaluation=options.eval_calib, config=config, progress=progress
        )
        result.save(target)
    if options.report is not None:
        result.report.save(options.report)
    terminal.summary(result.report, target)


def _config(options: argparse.Namespace):
    from onnxmerge.calibration import ImageOptions
    from onnxmerge.config import Config

    images = ImageOptions(
        mean=tuple(options.mean),
        std=tuple(options.std),
        scale=options.scale,
        layout=options.layout,
        resize=options.resize,
    )
    return Config(
        ratio=options.ratio,
        macs=options.macs,
        params=options.params,
        tolerance=options.tolerance,
        criterion=options.criterion,
        compensation=options.compensation,
        threshold=options.threshold,
        trade_off=options.trade_off,
        allocation=options.allocation,
        scope=options.scope,
        skip=tuple(options.skip),
        only=tuple(options.only),
        samples=options.samples,
        seed=options.seed,
        shapes=dict(options.shape),
        images=images,
        output_kinds=dict(options.output_kind),
        threads=options.threads,
        device=options.device,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="onnxmerge",
        description="Remove channels from a trained ONNX model, repair what they carried, prove the result.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="IN", help="the model; it is never changed")
    parser.add_argument(
        "output", metavar="OUT", help="the smaller model; an existing file is replaced at once"
    )
    budget = parser.add_argument_group("how much goes (without one of these: as much as --tolerance allows)")
    budget.add_argument("--ratio", type=float, metavar="R", help="share of channels removed per group")
    budget.add_argument("--macs", type=float, metavar="F", help="share of the model's multiplications kept")
    budget.add_argument("--params", type=float, metavar="F", help="share of the model's parameters kept")
    budget.add_argument(
        "--tolerance", type=float, metavar="T",
        help="largest change of the answers (default 0.01 without a budget; with one, exceeding it fails)",
    )  # fmt: skip
    method = parser.add_argument_group("how it is done")
    method.add_argument("--criterion", default="l1", help="l1, l2, gm or random (default %(default)s)")
    method.add_argument("--compensation", default="merge", help="none, bias or merge (default %(default)s)")
    method.add_argument("--threshold", type=float, metavar="T", help="merge: smallest cosine that is merged")
    method.add_argument(
        "--lambda", dest="trade_off", type=float, default=0.85, metavar="L",
        help="merge: weight of the cosine against the BatchNorm shift (default %(default)s)",
    )  # fmt: skip
    method.add_argument("--allocation", default="uniform", help="uniform or global (default %(default)s)")
    method.add_argument(
        "--scope", default="all", help="all, or chain: only groups not coupled by a sum or a concat"
    )
    method.add_argument("--skip", nargs="+", action="extend", default=[], metavar="GLOB",
                        help="leave groups that touch these nodes or tensors whole")  # fmt: skip
    method.add_argument("--only", nargs="+", action="extend", default=[], metavar="GLOB",
                        help="touch only groups with these nodes or tensors")  # fmt: skip
    data = parser.add_argument_group("data")
    data.add_argument("--calib", metavar="PATH", help=".npz, .npy, a folder of those, or a folder of images")
    data.add_argument(
        "--eval-calib", metavar="PATH", help="measure parity on these instead of the calibration data"
    )
    data.add_argument("--samples", type=int, metavar="N", help="use at most N samples")
    data.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of every random choice (default %(default)s)"
    )
    data.add_argument("--shape", type=_shape, nargs="+", action="extend", default=[], metavar="NAME=1,3,224,224",
                      help="input shapes for made-up inputs")  # fmt: skip
    data.add_argument(
        "--mean", type=_numbers, default=(0.0,), metavar="M", help="images: (x*scale - mean)/std"
    )
    data.add_argument("--std", type=_numbers, default=(1.0,), metavar="S", help="images: with x in 0..255")
    data.add_argument("--scale", type=float, default=1.0, metavar="F", help="images: for example 0.00392157")
    data.add_argument("--layout", metavar="nchw|nhwc", help="images: where the colour channels are")
    data.add_argument("--resize", type=_size, metavar="H,W", help="images: size before the centre crop")
    data.add_argument("--output-kind", type=_kind, nargs="+", action="extend", default=[], metavar="NAME=classes|values",
                      help="what an output holds, where the guess is wrong")  # fmt: skip
    running = parser.add_argument_group("running and reporting")
    running.add_argument("--threads", type=int, metavar="N", help="of onnxruntime (default: all processors)")
    running.add_argument("--device", default="auto", metavar="auto|cpu|cuda", help="(default %(default)s)")
    running.add_argument("--report", metavar="FILE", help="write what was done as JSON")
    running.add_argument("--no-clobber", action="store_true", help="refuse to replace an existing OUT")
    running.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    running.add_argument("-v", "--verbose", action="store_true", help="print every group and what is frozen")
    return parser


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


def run() -> None:
    """The installed program."""
    sys.exit(main())
