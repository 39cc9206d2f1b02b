"""Does an array fit an input? One clear sentence if it does not, the right type if it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxmerge.errors import CalibrationError
from onnxmerge.runtime.tensor_info import TensorInfo


def fit_names(given: Mapping[str, Any], inputs: Sequence[TensorInfo], source: str) -> None:
    """Raise CalibrationError unless exactly the inputs of the model are given."""
    expected = [i.name for i in inputs]
    if set(given) != set(expected):
        raise CalibrationError(
            f"{source} names {', '.join(map(str, given)) or 'nothing'}; "
            f"the model's inputs are {', '.join(expected)}"
        )


def fixed_batch(inputs: Sequence[TensorInfo]) -> int | None:
    """The batch size that the model fixes: the first axis of the input with most axes; None if open."""
    # Auxiliary inputs (scalars, states) may have a fixed first axis that is no batch axis.
    leading = [i.shape for i in inputs if i.shape]
    if not leading:
        return None
    first = max(leading, key=len)[0]
    return first if isinstance(first, int) else None


def fit_array(array: np.ndarray, info: TensorInfo, source: str, whole: bool = False) -> np.ndarray:
    """The array as the type of the input, contiguous. The first axis may have any length, unless ``whole``.

    Raises:
        CalibrationError: a wrong rank or shape, a type that cannot be cast without loss, NaN and infinity,
            and no elements.
    """
    where = f"{source}, input {info.name!r}"
    if info.dtype is None:
        raise CalibrationError(f"{where}: the model expects a {info.kind}, which cannot be calibrated")
    _check_shape(array, info, where, whole)
    return np.asarray(_cast(array, info.dtype, where), order="C")


def _check_shape(array: np.ndarray, info: TensorInfo, where: str, whole: bool) -> None:
    if info.shape is None:
        return
    expected = "[" + ", ".join("?" if d is None else str(d) for d in info.shape) + "]"
    if array.ndim != len(info.shape):
        hint = ": add the batch axis in front" if array.ndim == len(info.shape) - 1 else ""
        raise CalibrationError(
            f"{where} has shape {list(array.shape)}, and the model expects the {len(info.shape)} axes "
            f"{expected}{hint}"
        )
    pairs = list(zip(array.shape, info.shape, strict=True))
    if any(isinstance(want, int) and have != want for have, want in (pairs if whole else pairs[1:])):
        raise CalibrationError(f"{where} has shape {list(array.shape)}, and the model expects {expected}")
    if array.size == 0:
        raise CalibrationError(f"{where} is empty: its shape is {list(array.shape)}")


def _cast(array: np.ndarray, dtype: np.dtype, where: str) -> np.ndarray:
    have = array.dtype
    if dtype.kind == "O" or have.kind in "OSU":
        if dtype.kind == "O" and have.kind in "OSU":
            return array.astype(object)
        raise CalibrationError(f"{where} is {have}, and the model expects {_word(dtype)}")
    # ml_dtypes' bfloat16 and float8 are of kind V, like records; only the former become floats.
    if have.kind == "V" and have.names is None and dtype.kind == "f":
        array = array.astype(np.float32)
        have = array.dtype
    if have.kind not in "biuf":
        raise CalibrationError(f"{where} is {have}, and the model expects {_word(dtype)}")
    if have.kind == "f":
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise CalibrationError(f"{where} has {bad} values that are NaN or infinite")
    if have == dtype:
        return array
    if have.kind == "f" and dtype.kind != "f":
        raise CalibrationError(f"{where} is {have}, and the model expects {_word(dtype)}: convert it first")
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    # Rounding float64 to float32 is what exporters do to the weights; a changed integer is another token.
    lossless = np.isfinite(cast).all() if have.kind == "f" else np.array_equal(cast.astype(have), array)
    if not lossless:
        raise CalibrationError(f"{where} is {have} with values that {_word(dtype)} cannot hold")
    return cast


def _word(dtype: np.dtype) -> str:
    return "strings" if dtype.kind == "O" else str(dtype)
