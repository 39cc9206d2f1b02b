"""Writing model files.

Everything goes to temporary files in the target folder that are renamed at the end, so that an
interrupted run leaves either the old files or the new ones.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import onnx

from onnxmerge.errors import OutputError, UsageError
from onnxmerge.graph import external_weights, leftovers, wire_format

# protobuf refuses messages of 2 GiB and more.
PROTOBUF_LIMIT = 2**31 - 2**20
# Data of a tensor starts at a multiple of this in a data file, so that it can be mapped on its own.
_PAGE = 4096


def same_file(first: Path, second: Path) -> bool:
    """Whether two paths name one file, through symbolic and hard links."""
    try:
        return os.path.samefile(first, second)
    except OSError:
        return first.resolve() == second.resolve()


def check_output(source: Path | None, target: Path, *, clobber: bool) -> None:
    """Refuse an output path that cannot or must not be written, before any work is done.

    Raises:
        UsageError: the output is the input (also through links), or exists and may not be replaced.
        OutputError: the folder does not exist or is not writable, or the target is no regular file.
    """
    if source is not None and same_file(source, target):
        raise UsageError(f"the output {target} is an input file; name another file")
    # Unlike those of Path, these say False, and do not raise, where a folder may not be looked into.
    if os.path.exists(target) and not clobber:
        raise UsageError(f"{target} exists and --no-clobber was given; name another file")
    if os.path.isdir(target):
        raise OutputError(f"{target} is a folder; name a file")
    _refuse_special(target)
    folder = target.parent
    if not os.path.isdir(folder):
        raise OutputError(f"cannot write {target}: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {target}: no permission to write into {folder}")


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that replaces it when the block ends without an error.

    Raises:
        OutputError: it cannot be written.
    """
    _refuse_special(target)
    leftovers.remove_parts(target)
    try:
        part, lock = _new_part(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        yield part
        part.chmod(0o666 & ~_umask())
        os.replace(part, target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def _refuse_special(target: Path) -> None:
    """Refuse devices and pipes: what is written is renamed, and a file would be in the place of /dev/null."""
    try:
        mode = target.stat().st_mode
    except OSError:  # most often it is not there; what else is wrong shows where it is written
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OutputError(
            f"cannot write {target}: it is a device or a pipe, which a file would replace; name a file "
            "(on the command line - is standard output, and --json prints the report there)"
        )


def _new_part(target: Path) -> tuple[Path, int | None]:
    """An empty file beside a target, and the descriptor that locks it."""
    while True:
        prefix, suffix = f".{target.name}.", leftovers.PART_SUFFIX
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=target.parent)
        os.close(handle)
        with suppress(FileNotFoundError):  # another run took it for a leftover before it was locked
            return Path(name), leftovers.lock(Path(name))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def serialize(proto: onnx.ModelProto) -> bytes:
    """The bytes of a model; equal models give equal bytes."""
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def measured(proto: onnx.ModelProto, *, external: bool) -> tuple[int, str]:
    """The bytes and the sha256 of what ``save`` writes, without building it in memory.

    With external data it is the model file and then the data of every tensor, as ``load`` counts an
    input; the data file is taken to be called ``model.onnx.data``.
    """
    parts = _parts(proto)
    if _is_beside(proto, external):
        moved, places = _with_data_file(proto, "model.onnx.data")
        parts = iter([serialize(moved), *(values for values, _ in places)])
    digest, count = hashlib.sha256(), 0
    for part in parts:
        digest.update(part)
        count += len(part)
        external_weights.release()
    return count, digest.hexdigest()


def save(proto: onnx.ModelProto, target: str | os.PathLike[str], *, external: bool = False) -> None:
    """Write a model atomically, to one file or with its weights in ``<target>.data``.

    Args:
        external: whether the weights of a large model go to a file of their own; they do in any case
            where one file cannot hold them.

    Raises:
        OutputError: a file cannot be written.
        UsageError: the data file is where the weights of the input lie.
    """
    target = Path(target)
    if not _is_beside(proto, external):
        _write(target, _parts(proto))
        return
    data = target.with_name(f"{target.name}.data")
    for tensor in external_weights.references(proto):
        if same_file(Path(external_weights.location_of(tensor).path), data):
            raise UsageError(f"the weights of the input lie in {data}, where those of the output would go")
    proto, places = _with_data_file(proto, data.name)
    with atomic_write(target) as part:
        part.write_bytes(serialize(proto))
        # Renamed first: a model without its data would be worse than data without a model.
        _write(data, _padded(places))


def _is_beside(proto: onnx.ModelProto, external: bool) -> bool:
    """Whether the weights go to a file of their own."""
    references = external_weights.references(proto)
    return bool(references) and (external or _stored(references) >= PROTOBUF_LIMIT)


def _stored(references: list[onnx.TensorProto]) -> int:
    return sum(external_weights.values_of(tensor).nbytes for tensor in references)


def _parts(proto: onnx.ModelProto) -> Iterator[bytes | memoryview]:
    """The bytes of a single file."""
    big = {
        tensor.name: _bytes_of(external_weights.values_of(tensor))
        for tensor in external_weights.references(proto)
    }
    return iter(wire_format.pieces(proto, big) if big else [serialize(proto)])


def _bytes_of(values: np.ndarray) -> memoryview:
    return values.reshape(-1).view(np.uint8).data


def _with_data_file(
    proto: onnx.ModelProto, name: str
) -> tuple[onnx.ModelProto, list[tuple[memoryview, int]]]:
    """The model with relative references to one data file, and what lies where in that."""
    moved = onnx.ModelProto()
    moved.CopyFrom(proto)
    places = []
    end = 0
    for tensor in external_weights.references(moved):
        values = _bytes_of(external_weights.values_of(tensor))
        start = -(-end // _PAGE) * _PAGE
        end = start + values.nbytes
        places.append((values, start))
        external_weights.locate(tensor, name, start, values.nbytes)
    return moved, places


def _padded(places: list[tuple[memoryview, int]]) -> Iterator[bytes | memoryview]:
    end = 0
    for values, start in places:
        yield bytes(start - end)
        yield values
        end = start + values.nbytes


def _write(target: Path, parts: Iterator[bytes | memoryview]) -> None:
    with atomic_write(target) as part, part.open("wb") as file:
        for piece in parts:
            file.write(piece)
            external_weights.release()
        file.flush()
        os.fsync(file.fileno())


def copy_file(source: Path, target: str | os.PathLike[str]) -> None:
    """Copy a file atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(Path(target)) as part:
        shutil.copyfile(source, part)
