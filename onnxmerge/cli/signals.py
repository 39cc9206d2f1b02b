"""A request of the system to end, treated like Ctrl-C: nothing half-done is left behind."""

from __future__ import annotations

import signal
from typing import NoReturn

_NAMES = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Terminated(BaseException):
    """The system asked the program to end."""


def raise_when_asked() -> None:
    """Raise Terminated in the main thread at SIGTERM and SIGHUP; ignored signals stay ignored (nohup)."""
    for name in _NAMES:
        if signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:
            signal.signal(getattr(signal, name), _terminate)


def _terminate(*_: object) -> NoReturn:
    # Once is enough: a second one would interrupt the tidying up.
    for name in _NAMES:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    raise Terminated
