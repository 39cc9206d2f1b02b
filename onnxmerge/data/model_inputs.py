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
    hint = _hint(array.shape, info.shape)
    if array.ndim != len(info.shape):
        raise CalibrationError(
            f"{where} has shape {list(array.shape)}, and the model expects the {len(info.shape)} axes "
            f"{expected}{hint}"
        )
    if not (_fits(array.shape, info.shape) if whole else _fits(array.shape[1:], info.shape[1:])):
        raise CalibrationError(
            f"{where} has shape {list(array.shape)}, and the model expects {expected}{hint}"
        )
    if array.size == 0:
        raise CalibrationError(f"{where} is empty: its shape is {list(array.shape)}")


def _fits(shape: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    return len(shape) == len(wanted) and all(
        have == want or not isinstance(want, int) for have, want in zip(shape, wanted, strict=True)
    )


def _hint(shape: tuple[int, ...], wanted: Sequence[int | str | None]) -> str:
    """What may have gone wrong where an array does not fit."""
    if _fits(shape, wanted[1:]):
        return ": add the batch axis in front"
    for place in [i for i, want in enumerate(wanted) if want == 1 and i > 0]:
        rest = [want for i, want in enumerate(wanted) if i != place]
        if _fits(shape[1:], rest[1:]) and len(shape) == len(rest):
            return f": np.expand_dims(array, {place}) adds the axis that is missing"
    for order, are in (((0, 3, 1, 2), "last"), ((0, 2, 3, 1), "first")):
        if len(shape) == len(wanted) == 4 and _fits([shape[i] for i in order[1:]], wanted[1:]):
            return f": its channels are {are}, array.transpose{order} moves them"
    return ""


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
