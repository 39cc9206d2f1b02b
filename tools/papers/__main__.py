from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

_ROOT = Path(__file__).parents[2]


def train(arguments: argparse.Namespace) -> None:
    import torch
    from nets import RECIPES
    from training import train_all

    torch.set_num_threads(arguments.threads)
    names = arguments.only or list(RECIPES)
    train_all(arguments.nets, arguments.shared, names, arguments.device, arguments.width, arguments.epochs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=_ROOT.parent / "shared")
    parser.add_argument("--nets", type=Path, default=Path("/tmp/papers"), help="trained networks")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="networks, or tables")
    verbs = parser.add_subparsers(required=True)
    training = verbs.add_parser("train")
    training.add_argument("--width", type=float)
    training.add_argument("--epochs", type=int)
    training.set_defaults(run=train)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
