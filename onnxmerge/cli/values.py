"""Texts of the command line as values; what is none raises ArgumentTypeError, or ValueError for a number."""

from __future__ import annotations

import argparse
import re

# A time or a number of steps.
BOUND = re.compile(r"[\d.]+\s*[smh]?")


def bound(text: str) -> str:
    """A time or a number of steps; nothing stands for the usual time."""
    if text and not BOUND.fullmatch(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no time such as 2m and no number of steps")
    return text


def align(text: str) -> int | str:
    return text if text == "auto" else int(text)


def numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers such as 0.485,0.456") from error


def size(text: str) -> tuple[int, int]:
    try:
        parts = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no size such as 256,256") from error
    return (parts[0], parts[-1])


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, dims = text.rpartition("=")
    if not name or not re.fullmatch(r"\d+([,x]\d+)*", dims):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form NAME=1,3,224,224")
    return name, tuple(int(d) for d in re.split("[,x]", dims))


def kind(text: str) -> tuple[str, str]:
    name, _, kind = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form NAME=classes")
    return name, kind
