"""The experiments of neuron merging again, with what it is held against: tables and pictures.

    python tools/papers train                  networks that are not published, one after the other
    python tools/papers run                    fill the cells of the tables, for networks that are there
    python tools/papers page                   write tools/results/papers.md and its pictures

Needs a folder with ``models`` and ``data`` (see tools/accuracy.py), and torch for ``train``. Networks are
trained at the width and for the epochs of ``networks.RECIPES`` or those given. Whatever is there is kept: a
network that was trained, a cell that was filled (a line in tools/results/papers.jsonl). Accuracy is that of
the test images; nothing was chosen by it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

_ROOT = Path(__file__).parents[2]
_RESULTS = _ROOT / "tools" / "results"


def train(arguments: argparse.Namespace) -> None:
    import torch
    from networks import RECIPES
    from running import forget
    from training import train_all

    torch.set_num_threads(arguments.threads)
    names = arguments.only or list(RECIPES)
    changed = {name: getattr(arguments, name) for name in ("width", "epochs", "scratch", "further")}
    for name in train_all(arguments.nets, arguments.shared, names, arguments.device, **changed):
        forget(arguments.rows, name)


def run(arguments: argparse.Namespace) -> None:
    from running import run_all

    where = (arguments.rows, arguments.nets, arguments.shared)
    which = (arguments.tables, arguments.only, arguments.methods, arguments.removed)
    run_all(*where, *which, arguments.device, arguments.threads)


def page(arguments: argparse.Namespace) -> None:
    from page import write

    write(arguments.rows, arguments.out)


def main() -> None:
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument("--nets", type=Path, default=Path("/tmp/papers"), help="where trained networks are")
    rows = argparse.ArgumentParser(add_help=False)
    rows.add_argument("--rows", type=Path, default=_RESULTS / "papers.jsonl", help="cells that are filled")
    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--shared", type=Path, default=_ROOT.parent / "shared")
    machine.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    machine.add_argument("--threads", type=int, default=1)
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("train", parents=[rows, places, machine])
    verb.add_argument("--only", nargs="+", metavar="NET")
    verb.add_argument("--width", type=float, help="in the place of every recipe's own")
    verb.add_argument("--epochs", type=int)
    verb.add_argument("--scratch", action="store_true", help="no net goes on from another one's weights")
    verb.add_argument("--further", action="store_true", help="nets that are there; drops their cells")
    verb.set_defaults(run=train)
    verb = verbs.add_parser("run", parents=[rows, places, machine])
    verb.add_argument("--tables", nargs="+", default=[], metavar="NAME")
    verb.add_argument("--only", nargs="+", default=[], metavar="NET", help="as a row of tables.py names it")
    verb.add_argument("--methods", nargs="+", default=[], metavar="NAME")
    verb.add_argument("--removed", nargs="+", type=float, default=[], metavar="SHARE")
    verb.set_defaults(run=run)
    verb = verbs.add_parser("page", parents=[rows])
    verb.add_argument("--out", type=Path, default=_RESULTS / "papers.md")
    verb.set_defaults(run=page)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
