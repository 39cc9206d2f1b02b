"""Arrays from .npy and .npz files that nobody vouches for.

Nothing is unpickled, and nothing is allocated before the size that a header claims has been compared
with the size of the file and of the memory.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from onnxmerge.errors import CalibrationError


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped read-only: rows are read when they are used.

    Raises:
        CalibrationError: a file that is unreadable, truncated, or holds Python objects.
    """
    try:
        with path.open("rb") as file:
            _check_header(file, path.stat().st_size, str(path))
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as failure:
        raise CalibrationError(f"{path} is not a readable .npy file: {failure}") from failure


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name. Raises CalibrationError as ``read_npy`` does."""
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            ensure_fits(sum(m.file_size for m in members), str(path))
            for member in members:
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    _check_header(file, member.file_size, f"{path}, array {name!r}")
                with archive.open(member) as file:
                    arrays[name] = npy.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as failure:
        raise CalibrationError(f"{path} is not a readable .npz file: {failure}") from failure
    if not arrays:
        raise CalibrationError(f"{path} holds no arrays")
    return arrays


def ensure_fits(size: int, what: str) -> None:
    """Raise CalibrationError if ``size`` bytes are more than half of the memory of this machine."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        memory = 16 << 30
    if size > memory // 2:
        raise CalibrationError(
            f"{what} would take {size / 2**30:.3g} GiB of {memory / 2**30:.3g} GiB of memory: "
            "give fewer or smaller samples"
        )


def _check_header(file: IO[bytes], size: int, what: str) -> None:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):  # 3.0 is for field names in other scripts: no tensor has fields
        raise CalibrationError(f"{what} is of .npy version {version}, which holds no plain numbers")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise CalibrationError(f"{what} holds Python objects, which are never loaded: store plain numbers")
    claimed, present = math.prod(shape) * dtype.itemsize, size - file.tell()
    if claimed > present:
        raise CalibrationError(f"{what} is truncated: its header claims {claimed} bytes, {present} follow")
