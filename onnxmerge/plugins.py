"""Methods from other packages: an installed package names them in its entry points, and they are options."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from onnxmerge.errors import UsageError


def enter(table: dict[str, Any], kind: str, name: Any) -> None:
    """Put a method that some installed package offers under ``onnxmerge.<kind>`` into the table of its kind.

    Nothing is imported unless it is asked for by name, and what is in the table already stays.

    Args:
        table: methods by their names.
        kind: ``criterion``, ``allocation`` or ``compensation``.
        name: what a user asked for; nothing happens where no package offers it.

    Raises:
        UsageError: the package that offers it cannot be imported.
    """
    if not isinstance(name, str) or name in table:
        return
    for point in entry_points(group=f"onnxmerge.{kind}", name=name):
        try:
            table[name] = point.load()
        except Exception as error:
            raise UsageError(
                f"{kind}={name!r} is offered by {point.value}, which cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error
