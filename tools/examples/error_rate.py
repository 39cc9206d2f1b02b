"""The character error rate of a sequence model (OCR, speech) with CTC outputs: copy this, set the lines.

    onnxmerge in.onnx out.onnx --calib lines/ --eval error_rate.py:error_rate \\
        --eval-lower-is-better --max-drop 0.005

The folder has a ``.npy`` with the input of one sample, without the batch axis, for every ``.txt`` with what
it says; the outputs are scores [batch, steps, characters + 1], or [steps, batch, ...], one of them the blank.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

FOLDER = Path(os.environ.get("LINES", "lines"))
ALPHABET = os.environ.get("ALPHABET", " abcdefghijklmnopqrstuvwxyz'")
BLANK = 0  # the characters are 1, 2, ...
TIME_FIRST = False  # whether the outputs are [steps, batch, characters + 1]


def error_rate(session) -> float:
    """Edits that turn what is read into what is there, as a share (0..1 or more) of its characters."""
    name = session.get_inputs()[0].name
    edits = characters = 0
    for path in sorted(FOLDER.glob("*.npy")):
        said = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
        scores = session.run(None, {name: np.load(path)[None].astype(np.float32)})[0]
        edits += distance(greedy(scores[:, 0] if TIME_FIRST else scores[0]), said)
        characters += len(said)
    return edits / characters


def greedy(scores: np.ndarray) -> str:
    """The best path of scores [steps, characters + 1]: repeats are one, blanks are none."""
    best = scores.argmax(axis=1)
    first = np.concatenate([[True], best[1:] != best[:-1]])
    return "".join(ALPHABET[i - (i > BLANK)] for i in best[first] if i != BLANK)


def distance(one: str, other: str) -> int:
    """The Levenshtein distance of two texts."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]
