"""Where in a picture a detector decides: where it finds something, or nearly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from onnxmerge.runtime import Session
from onnxmerge.runtime.session import Feed
from onnxmerge.validation.answers import picture
from onnxmerge.validation.judgement import Judgement
from onnxmerge.validation.kinds import Detections
from onnxmerge.validation.kinds.boxes import Boxes
from onnxmerge.validation.kinds.detections import FAINT
from onnxmerge.validation.kinds.heads import Form

# Cells in a line of the grid that boxes are entered into.
CELLS = 40
# Coordinates of boxes up to this are shares of the picture, and not pixels.
_SHARES = 4.0


class Places:
    """What places of pictures count: inside of a box its score, of several the highest.

    The steps of a sequence were tried likewise, those that are read and those beside them: at 0.7 of its
    multiplications a reader of captchas then read 14.7% of 300 differently, and 12.7% without.

    Args:
        judgements: how every output is judged.
        session: of the untouched model.
    """

    def __init__(self, judgements: Mapping[str, Judgement], session: Session):
        self._session = session
        self._judged: list[tuple[Detections, list[str]]] = []
        for name, judged in judgements.items():
            names, how = list(judged.outputs or (name,)), judged.how
            known = names in [other for _, other in self._judged]
            if not known and isinstance(how, Detections) and _in_pictures(how):
                self._judged.append((how, names))

    def __call__(self, feeds: Iterable[Feed], batch: int | None) -> list[np.ndarray | None]:
        """What counts in every feed, float64 [samples, height, width], or None where nothing tells.

        Args:
            batch: the samples that the model takes at a time; None: any number.
        """
        return [self._of(feed, batch) for feed in feeds] if len(self._judged) == 1 else [None]

    def _of(self, feed: Feed, batch: int | None) -> np.ndarray | None:
        how, names = self._judged[0]
        samples = {len(v) for v in feed.values() if v.ndim}
        image = picture(feed)
        if len(samples) != 1 or image is None:
            return None
        rows, found = samples.pop(), []
        step = rows if batch is None else batch
        for start in range(0, rows, step):
            part = {n: value[start : start + step] if value.ndim else value for n, value in feed.items()}
            answers = self._session.run(part, names)
            arrays = [answers[name] for name in names]
            if any(len(v) != min(step, rows - start) for v in arrays):
                return None
            for i in range(len(arrays[0])):
                boxes = how.head.read([v[i : i + 1] for v in arrays]).boxes
                found.append(_entered(boxes.above(FAINT), image))
        return np.stack(found)


def _in_pictures(how: Detections) -> bool:
    """Whether boxes are known to lie somewhere in a picture."""
    return how.head.form not in (Form.UNKNOWN, Form.PLACES) and how.head.batched


def _entered(boxes: Boxes, image: tuple[int, int]) -> np.ndarray:
    """The score of the surest box at every place, float64 [CELLS, CELLS]."""
    found = np.zeros((CELLS, CELLS))
    corners = boxes.corners
    if not len(corners):
        return found
    size = np.array([image[1], image[0]] * 2) if np.abs(corners).max() > _SHARES else 1.0
    scaled = corners / size * CELLS
    begin = np.clip(np.floor(scaled[:, :2]), 0, CELLS - 1).astype(int)
    end = np.clip(np.ceil(scaled[:, 2:]), begin + 1, CELLS).astype(int)
    for i in np.argsort(boxes.scores, kind="stable"):
        found[begin[i, 1] : end[i, 1], begin[i, 0] : end[i, 0]] = boxes.scores[i]
    return found
