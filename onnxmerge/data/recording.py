"""What a client feeds a session, written where ``--calib`` reads it: real inputs without any export code."""

from __future__ import annotations

import io
import os
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.lib import format as npy

from onnxmerge.arguments import refused, whole
from onnxmerge.errors import OutputError, UsageError


def record(
    session: Any,
    path: str | os.PathLike[str],
    *,
    limit: int = 512,
    most_bytes: int = 1 << 30,
    seed: int = 0,
) -> Recording:
    """Write what is fed to a session into a folder that ``calibration=`` and ``--calib`` read.

    Recording begins at once, and ends with the block or with ``close``::

        with onnxmerge.record(session, "calib"):
            serve(session)

    Every chosen call is a file of its own, ``.npz`` with an array per input, whole as soon as it is there.
    Which calls are kept is drawn evenly from all that were made, so that a long recording is no record of
    its first minute; inputs that are states are kept as they were fed. Calls from several threads, and
    several recordings into one folder (other sessions of the model, other processes, other days), add up.

    Calls of one client follow one another and are much alike: several clients, or days, tell more than
    many calls, and what is measured on the calls of one looks surer than it is.

    ``session.run`` is what is recorded. Runs through I/O binding, ``run_with_ort_values`` and ``run_async``
    are not seen. Calls that fail are not kept. A call that cannot be written never disturbs the client:
    recording stops, and ``close`` raises.

    Args:
        session: an ``onnxruntime.InferenceSession``, or anything with its ``run`` and ``get_inputs``.
        path: a folder; made if it is not there.
        limit: the most calls that are kept.
        most_bytes: the most that the kept calls take together; a call that is larger by itself is left out.
        seed: of the choice.

    Raises:
        UsageError: ``session`` is none, ``path`` is a file, or limits that are no numbers.
        OutputError: the folder cannot be made or written into.
    """
    if not all(callable(getattr(session, name, None)) for name in ("run", "get_inputs")):
        raise refused(
            "session", "an onnxruntime.InferenceSession, or what has its run and get_inputs", session
        )
    folder = Path(path)
    limits = whole("limit", limit, 1), whole("most_bytes", most_bytes, 1)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError(f"{folder} is a file: a recording is a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot record into {folder}: no permission to write into it")
    return Recording(session, folder, *limits, whole("seed", seed, 0))


class Recording:
    """A recording at work; ``record`` begins one.

    Attributes:
        folder: where the files are.
        seen: how many calls were made.
    """

    def __init__(self, session: Any, folder: Path, limit: int, most_bytes: int, seed: int) -> None:
        self.folder, self.seen = folder, 0
        self._session, self._limit, self._most_bytes = session, limit, most_bytes
        self._names = [value.name for value in session.get_inputs()]
        self._sizes: list[int] = []  # of the files that are kept
        self._random = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self._open = True
        self._failure: str | None = None
        # A name that no other recording into the folder has.
        handle, self._prefix = tempfile.mkstemp(prefix="recorded-", suffix=".part", dir=folder)
        os.close(handle)
        self._before: Any = vars(session).get("run")
        self._wrapper = self._wrapped(session.run)
        session.run = self._wrapper

    @property
    def count(self) -> int:
        """How many calls are kept."""
        return len(self._sizes)

    @property
    def bytes(self) -> int:
        """What they take."""
        return sum(self._sizes)

    def close(self) -> None:
        """Stop recording and give the session its own ``run`` back; a second time does nothing.

        Raises:
            OutputError: a call could not be written.
        """
        with self._lock:
            if not self._open:
                return
            self._open = False
            # Whoever wrapped run after this recording did keeps a wrapper that only passes calls on.
            if vars(self._session).get("run") is self._wrapper:
                if self._before is None:
                    del self._session.run
                else:
                    self._session.run = self._before
            Path(self._prefix).unlink(missing_ok=True)
        if self._failure is not None:
            raise OutputError(
                f"recording into {self.folder} stopped with {self.count} of {self.seen} calls: "
                f"{self._failure}"
            )
        if not self.count:
            warnings.warn(
                f"nothing was recorded into {self.folder}: session.run was called {self.seen} times (runs "
                "through I/O binding are not seen)",
                stacklevel=2,
            )

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except OutputError:
            if error is None:
                raise

    def _wrapped(self, run: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(run)
        def recorded(output_names: Any, input_feed: Any, *rest: Any, **options: Any) -> Any:
            found = run(output_names, input_feed, *rest, **options)
            self._take(input_feed)
            return found

        return recorded

    def _take(self, feed: Mapping[str, Any]) -> None:
        """Keep a call, or not: of n calls each is kept with the same probability."""
        with self._lock:
            if not self._open or self._failure is not None:
                return
            self.seen += 1
            place = self.count
            if place >= self._limit:
                place = int(self._random.integers(self.seen))
                if place >= self.count:
                    return
            try:
                self._keep(place, {name: _stored(feed[name]) for name in self._names if name in feed})
            except Exception as error:  # whatever it is, the client's call was answered
                self._failure = f"{type(error).__name__}: {error}"

    def _keep(self, place: int, arrays: Mapping[str, np.ndarray]) -> None:
        data = _npz(arrays)
        old = self._sizes[place] if place < self.count else 0
        if self.bytes - old + len(data) > self._most_bytes:
            if place < self.count or not self.count:
                return
            # No room for more: from here on calls take the places of others.
            self._limit = self.count
            return
        # The process is in the name, for servers fork.
        target = Path(f"{self._prefix.removesuffix('.part')}-{os.getpid()}-{place:06d}.npz")
        part = target.with_suffix(".part")
        try:
            part.write_bytes(data)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        self._sizes[place : place + 1] = [len(data)]


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a .npz file; an input may have any name, that of an argument of ``np.savez`` too."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)
    return buffer.getvalue()


def _stored(value: Any) -> np.ndarray:
    """A fed value as an array that needs no pickle: an OrtValue, an array, or what numpy makes of it."""
    array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    return array.astype(np.str_) if array.dtype == object else array
