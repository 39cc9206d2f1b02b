"""What a session takes and gives. Does not import onnxruntime."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a session.

    ``dtype`` is the numpy type to feed or expect (bfloat16 is exchanged as float32; strings as object),
    None for sequences, maps and optionals. ``shape`` has an int for a fixed dimension, a str for a named
    one (equal names are equal sizes) and None for an unknown one; it is None where not even the rank is
    known. ``kind`` is onnxruntime's own word, such as 'tensor(float)'.
    """

    name: str
    dtype: np.dtype | None
    shape: tuple[int | str | None, ...] | None
    kind: str


def tensor_info(value: Any) -> TensorInfo:
    """The description of an input or output from onnxruntime's own."""
    words = re.fullmatch(r"tensor\((\w+)\)", value.type)
    if not words:
        return TensorInfo(value.name, None, None, value.type)
    word = {"float": "float32", "double": "float64", "bfloat16": "float32", "string": "object"}
    try:
        dtype = np.dtype(word.get(words[1], words[1]))
    except TypeError:  # float8 and 4-bit integers: numpy has no such types
        dtype = None
    # Exporters write 0, -1 and '?' where they mean that nothing is known.
    dims = (d if (isinstance(d, int) and d > 0) or (isinstance(d, str) and d.strip("?")) else None
            for d in value.shape)  # fmt: skip
    return TensorInfo(value.name, dtype, tuple(dims), value.type)
