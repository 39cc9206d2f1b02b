"""Temporary files that outlive a killed process, and their removal by the next one.

Whatever is temporary is locked as long as its process lives, and the system takes the lock back when the
process ends, however it ends. What carries a mark of this program and no lock is nobody's any more. Numbers
of processes would not tell: containers that share a folder have their own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing is locked, and nothing removed
    fcntl = None  # type: ignore[assignment]

FOLDER_PREFIX, PART_SUFFIX = "onnxmerge-", ".part"
# In every temporary folder: a folder without it is somebody else's, whatever its name.
_MARK = ".onnxmerge-scratch"


def lock(path: Path) -> int | None:
    """Lock a file or a folder until the descriptor is closed; None where there are no locks.

    A process that was looking for leftovers at the very moment may have removed it: then FileNotFoundError.
    """
    if fcntl is None:
        return None
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have none
            fcntl.flock(handle, fcntl.LOCK_SH)
        if os.fstat(handle).st_ino != os.stat(path).st_ino:
            raise FileNotFoundError(path)
    except BaseException:
        os.close(handle)
        raise
    return handle


def new_folder() -> tuple[Path, int | None]:
    """A temporary folder of this process, and the descriptor that locks it.

    Raises:
        OSError: it cannot be made.
    """
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX)).resolve()
    handle = None
    try:
        # Without the mark nobody takes the folder for a leftover, so the lock comes first.
        handle = lock(folder)
        (folder / _MARK).touch()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)
        raise
    return folder, handle


def remove_folders() -> None:
    """Remove the temporary folders of killed processes; what cannot be removed stays, without a word."""
    for folder in _entries(Path(tempfile.gettempdir()), FOLDER_PREFIX, ""):
        if folder.is_dir() and not folder.is_symlink() and os.path.exists(folder / _MARK):
            _remove_unlocked(folder)


def remove_parts(target: Path) -> None:
    """Remove what killed processes had begun to write in the place of a file."""
    for part in _entries(target.parent, f".{target.name}.", PART_SUFFIX):
        if part.is_file() and not part.is_symlink():
            _remove_unlocked(part)


def _entries(folder: Path, prefix: str, suffix: str) -> Iterator[Path]:
    """What lies in a folder under such a name, and belongs to this user; nothing where there are no locks."""
    if fcntl is None:
        return
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if name.startswith(prefix) and name.endswith(suffix):
            with suppress(OSError):
                if os.lstat(folder / name).st_uid == os.getuid():
                    yield folder / name


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(handle)
