"""Checks of what callers give: a message names the argument, says what it takes, and what was given.

Messages write arguments as ``macs=``, so that the command line can say ``--macs`` instead.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from onnxmerge.errors import UsageError

T = TypeVar("T")


def made(cls: type[T], options: Mapping[str, Any]) -> T:
    """A method from the options that it has.

    Args:
        cls: a dataclass whose fields are its options.
        options: all options of a run by name; those that ``cls`` has no field for are not its own.
    """
    own = [f.name for f in fields(cls) if f.init and f.name in options]  # type: ignore[arg-type]
    return cls(**{name: options[name] for name in own})


def number(name: str, value: Any, what: str, fits: Callable[[float], bool]) -> float:
    """A real number, of Python or numpy, that fits; booleans and texts are none. Raises UsageError."""
    try:
        if _is_number(value) and fits(float(value)):
            return float(value)
    except OverflowError:  # an integer beyond all floats
        pass
    raise refused(name, what, value)


def whole(name: str, value: Any, least: int, what: str = "") -> int:
    """A whole number of at least ``least``, which messages call ``what``. Raises UsageError."""
    if _is_whole(value) and value >= least:
        return int(value)
    raise refused(name, what or f"a whole number of at least {least}", value)


def word(name: str, value: Any, known: Collection[str]) -> str:
    """One of some words. Raises UsageError."""
    if isinstance(value, str) and value in known:
        return str(value)
    raise refused(name, f"one of {', '.join(known)}", value)


def flag(name: str, value: Any) -> bool:
    """Raises UsageError for anything but a truth value."""
    if not isinstance(value, bool | np.bool_):
        raise refused(name, "True or False", value)
    return bool(value)


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Several texts; a single one would count as its letters. Raises UsageError."""
    listed = _listed(value)
    if listed is not None and all(isinstance(item, str) for item in listed):
        return tuple(listed)
    raise refused(name, "a list of texts", value)


def numbers(name: str, value: Any, what: str, fits: Callable[[tuple[float, ...]], bool]) -> tuple[float, ...]:
    """Several real numbers that fit together; one alone counts as a list of it. Raises UsageError."""
    listed = [value] if _is_number(value) else _listed(value)
    if listed is not None and all(_is_number(item) for item in listed):
        found = tuple(float(item) for item in listed)
        if fits(found):
            return found
    raise refused(name, what, value)


def lengths(
    name: str, value: Any, what: str, *, count: int | None = None, of: str | None = None
) -> tuple[int, ...]:
    """Several whole numbers of at least 1, ``count`` of them where it is given. Raises UsageError."""
    listed = _listed(value)
    if listed is None or not all(_is_whole(item) and item >= 1 for item in listed):
        raise refused(name, what, value, of)
    if count is not None and len(listed) != count:
        raise refused(name, what, value, of)
    return tuple(int(item) for item in listed)


def named(name: str, value: Any, what: str) -> dict[str, Any]:
    """A mapping from names to something else. Raises UsageError."""
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise refused(name, what, value)


def refused(name: str, what: str, value: Any, of: str | None = None) -> UsageError:
    """What to raise for an argument, or for its entry ``of`` that name, which takes something else."""
    entry = "" if of is None else f" for {of!r}"
    return UsageError(f"{name}={entry} is {what}, not {_said(value)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The words ``; did you mean '...'?`` where a known name is much like this one; else nothing."""
    found = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean '{found[0]}'?" if found else ""


def _said(value: Any) -> str:
    """A value in a message; a text is called one, for '1' looks much like 1."""
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return reprlib.repr(value.item() if isinstance(value, np.generic) else value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _listed(value: Any) -> list[Any] | None:
    """The items of a list, a tuple or an array of one axis; None for anything else."""
    if isinstance(value, np.ndarray):
        return list(value) if value.ndim == 1 else None
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else None
