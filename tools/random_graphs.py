"""Pruned against masked on many random graphs; the result is committed beside this script.

    python tools/random_graphs.py [--count 500] [--first 0] [--out FILE]

Also with random weights folded into every consumer. Every graph is made from its own seed, so that a
counterexample can be looked at again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import onnx
import support
from random_graphs import random_graph
from random_steps import STEPS

SELECTIONS = 3
MOST_STEPS = 20


def graph_of(seed: int) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    return random_graph(lambda count: int(rng.integers(0, count)), STEPS, MOST_STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "random_graphs.json")
    arguments = parser.parse_args()
    operators: Counter[str] = Counter()
    groups: list[int] = []
    worst, counterexamples = 0.0, []
    for seed in range(arguments.first, arguments.first + arguments.count):
        proto = graph_of(seed)
        operators.update({node.op_type for node in proto.graph.node})
        model = support.analysed(proto)
        groups.append(len(model.channels.groups))
        error = max(support.difference(model, model.selection(s)) for s in range(SELECTIONS))
        error = max(error, support.difference(model, model.selection(SELECTIONS), folds=model.folds(seed)))
        worst = max(worst, error)
        if error > support.TOLERANCE:
            counterexamples.append(seed)
            print(f"seed {seed}: difference {error:.1e}", flush=True)
    result = {
        "graphs": arguments.count,
        "first_seed": arguments.first,
        "selections_per_graph": SELECTIONS,
        "tolerance": support.TOLERANCE,
        "largest_difference": float(f"{worst:.1e}"),
        "counterexamples": counterexamples,
        "graphs_with_groups": sum(count > 0 for count in groups),
        "groups": sum(groups),
        "graphs_per_operator": dict(operators.most_common()),
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in result.items() if k != "graphs_per_operator"}))


if __name__ == "__main__":
    main()
