"""Inputs that are made up from the model alone, where no data is given.

Floats are N(0, 1); integers that index a Gather lie within its range, other integers are 0 or 1 (0..255
for images of bytes); masks are true; recurrent state is zero; lengths are those of the sequence. Dynamic
dimensions are 1 on the batch axis and otherwise the smallest size at which the model runs; where it runs at
none, those of recurrent state are taken for the batch axis, too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxmerge.arguments import whole
from onnxmerge.data.dataset import Dataset, stack
from onnxmerge.data.files import ensure_fits
from onnxmerge.data.input_roles import Role, roles
from onnxmerge.data.model_inputs import fixed_batch
from onnxmerge.errors import ModelError, UsageError
from onnxmerge.runtime import Runtime, Session
from onnxmerge.runtime.session import Feed
from onnxmerge.runtime.tensor_info import TensorInfo

_SIZES = (
    *(1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448, 480, 512),
    *(576, 640, 768, 1024, 2048, 4096, 16000),
)
_SAMPLES = 64
_MOST_VALUES = 1 << 23  # in one input of a size that nobody asked for
_MOST_TRIED = 1 << 22  # numbers fed in all; what fails at so many sizes fails for another reason

Shapes = dict[str, tuple[int, ...]]


def made_up_inputs(
    model: onnx.ModelProto,
    session_inputs: Sequence[TensorInfo],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    samples: int | None = None,
    runtime: Runtime | None = None,
) -> Dataset:
    """Seeded inputs of ``samples`` samples (64 if None; rounded up to whole batches) that the model runs on.

    ``shapes`` gives whole input shapes by name and binds the named dimensions in them. A size is accepted
    if the outputs are finite and not empty; where that never happens, the smallest one that runs.

    Raises:
        UsageError: shapes that contradict the model.
        ModelError: the model runs at no size.
    """
    runtime = runtime or Runtime.create()
    inputs = tuple(session_inputs)
    session = runtime.session(model)
    parts = roles(model, inputs)
    maker, feed = _smallest(session, inputs, parts, dict(shapes or {}))
    if any(role.indices or role.sequence for role in parts.values()):
        maker = _bounded(maker, runtime.trace(model, feed), session, parts)
    batch = fixed_batch(inputs)
    count = _SAMPLES if samples is None else whole("samples", samples, 1)
    count = math.ceil(count / _rows(feed, batch))
    ensure_fits(count * sum(a.nbytes for a in feed.values()), f"{count} made-up inputs")
    generator = np.random.default_rng(seed)
    drawn = [maker.draw(generator) for _ in range(count)]
    sizes = ", ".join(f"{name} {list(shape)}" for name, shape in maker.shapes.items())
    source = f"made-up inputs ({sizes}, seed {seed})"
    data = stack(drawn, source, batch, made_up=True)
    if batch is None and data.ready is None and len(data) > 1:
        try:
            session.run(next(iter(data.feeds(2))))
        except ModelError:  # the graph fixes a batch size that its inputs do not show
            data = stack(drawn, source, _rows(feed, None), made_up=True)
    return data


@dataclass(frozen=True)
class _Maker:
    """Draws one feed. ``limits`` bounds index inputs (exclusive) and gives lengths their value."""

    inputs: tuple[TensorInfo, ...]
    roles: Mapping[str, Role]
    shapes: Shapes
    limits: Mapping[str, int]

    def draw(self, generator: np.random.Generator) -> Feed:
        return {i.name: self._values(i, generator) for i in self.inputs}

    def _values(self, info: TensorInfo, generator: np.random.Generator) -> np.ndarray:
        role, shape, dtype = self.roles[info.name], self.shapes[info.name], info.dtype
        assert dtype is not None
        if role.ones:
            return np.ones(shape, dtype)
        if role.zeros:
            return np.zeros(shape, dtype)
        if role.sequence or role.length:
            return np.full(shape, self.limits.get(info.name, 1), dtype)
        if role.indices:
            return generator.integers(0, self.limits.get(info.name, 1), shape).astype(dtype)
        if dtype.kind == "f":
            return generator.standard_normal(shape, np.float32).astype(dtype)
        if dtype.kind == "O":
            return np.full(shape, "a", object)
        picture = dtype == np.uint8 and len(shape) > 2
        return generator.integers(0, 256 if picture else 2, shape).astype(dtype)


def _smallest(
    session: Session, inputs: tuple[TensorInfo, ...], parts: Mapping[str, Role], given: Shapes
) -> tuple[_Maker, Feed]:
    """The smallest sizes that run, with a feed of them."""
    for info in inputs:
        if info.dtype is None or (info.shape is None and info.name not in given):
            what = f"is a {info.kind}" if info.dtype is None else "has no rank"
            raise ModelError(
                f"no values can be made up for the input {info.name!r}, which {what}: "
                "give shapes= or calibration="
            )
    runs: tuple[_Maker, Feed] | None = None
    reason = ""
    for shapes in _candidates(inputs, given, _states(inputs, parts, given)):
        lengths = {name: _sequence(name, inputs, shapes) for name, role in parts.items() if role.length}
        maker = _Maker(inputs, parts, shapes, lengths)
        try:
            feed = maker.draw(np.random.default_rng(0))
            results = session.run(feed)
        except (MemoryError, ValueError):  # a fixed length that no memory holds
            reason = f"inputs of shape {', '.join(str(s) for s in shapes.values())} are too large"
            continue
        except ModelError as failure:
            reason = str(failure)
            continue
        runs = runs or (maker, feed)
        if all(_sound(value) for value in results.values()):
            return maker, feed
    if runs is None:
        raise ModelError(_advice(inputs, parts, given, reason))
    return runs


def _states(inputs: tuple[TensorInfo, ...], parts: Mapping[str, Role], given: Shapes) -> set[str]:
    """The inputs that hold recurrent state with an open length that has no name."""
    return {i.name for i in inputs if parts[i.name].zeros and i.name not in given and None in (i.shape or ())}


def _advice(inputs: tuple[TensorInfo, ...], parts: Mapping[str, Role], given: Shapes, reason: str) -> str:
    """What was tried in vain, and what may help."""
    left = [i for i in inputs if i.name not in given and not _fixed(i)]
    said = "the model runs on no made-up input"
    if not left:
        return f"{said}, give data with calibration= (last: {reason})"
    dims = ", ".join(f"{i.name!r} {_text(i.shape or ())}" for i in left)
    states = _states(inputs, parts, given)
    alike = "a batch of 1 and one size for all others, one size for all"
    also = f", a batch of 1 for {' and '.join(map(repr, sorted(states)))}" if states else ""
    example = " ".join(f"{i.name}={','.join(map(str, _usual(i, parts[i.name])))}" for i in left)
    return (
        f"{said}: lengths are open in {dims}, and sizes from {_SIZES[0]} to at most {_SIZES[-1]} were tried "
        f"({alike}{also}); say what it is fed with shapes= {example} (with your own lengths), or give data "
        f"with calibration= (last: {reason})"
    )


def _usual(info: TensorInfo, role: Role) -> tuple[int, ...]:
    """A shape that inputs like this one often have."""
    assert info.shape is not None and info.dtype is not None
    size = 1 if role.zeros else 224 if len(info.shape) > 3 else 512 if info.dtype.kind == "f" else 32
    return tuple(d if isinstance(d, int) else size if axis else 1 for axis, d in enumerate(info.shape))


def _candidates(inputs: tuple[TensorInfo, ...], given: Shapes, states: Collection[str]) -> Iterator[Shapes]:
    """Input shapes to try, smallest first: batch 1 and equal sizes elsewhere, then equal sizes everywhere.

    Then, where there are any, batch 1 in ``states``, whatever axis it is.
    """
    bound = _bind(inputs, given)
    free = [i for i in inputs if i.name not in given]
    first = {i.shape[0] for i in free if i.shape and isinstance(i.shape[0], str)}
    tried: set[tuple[tuple[int, ...], ...]] = set()
    for several in ([(1, False), (None, False)], [(1, True)] if states else []):
        fed = 0
        for batch, apart in several:
            for size in _SIZES:
                known = dict.fromkeys(first, batch or size) | bound
                shapes = {
                    i.name: given[i.name]
                    if i.name in given
                    else _shape(i, known, 1 if apart and i.name in states else size, batch or size)
                    for i in inputs
                }
                key = tuple(shapes.values())
                largest = max((math.prod(shape) for shape in key), default=0)
                if key in tried or (tried and (largest > _MOST_VALUES or fed > _MOST_TRIED)):
                    continue
                tried.add(key)
                fed += sum(math.prod(shape) for shape in key)
                yield shapes


def _shape(info: TensorInfo, known: Mapping[int | str | None, int], size: int, batch: int) -> tuple[int, ...]:
    assert info.shape is not None
    dims = []
    for axis, dim in enumerate(info.shape):
        if isinstance(dim, int):
            dims.append(dim)
        elif dim is None:
            dims.append(size if axis else batch)
        elif dim in known:
            dims.append(known[dim])
        else:
            # Exporters name sums of dimensions: 'past_length + 1'.
            terms = [t.strip() for t in dim.split("+")]
            plus = [int(t) if t.isdigit() else known.get(t, size) for t in terms]
            dims.append(sum(plus))
    return tuple(dims)


def _bind(inputs: tuple[TensorInfo, ...], given: Shapes) -> dict[int | str | None, int]:
    """The values of the named dimensions in the given shapes. Raises UsageError where they contradict."""
    bound: dict[int | str | None, int] = {}
    by_name = {i.name: i for i in inputs}
    for name, shape in given.items():
        if name not in by_name:
            raise UsageError(f"shapes= names {name!r}; the model's inputs are {', '.join(by_name)}")
        declared = by_name[name].shape
        if any(d < 1 for d in shape):
            raise UsageError(f"shapes= for {name!r} is {list(shape)}: every dimension is at least 1")
        if declared is None:
            continue
        if len(shape) != len(declared):
            raise UsageError(
                f"shapes= for {name!r} is {list(shape)}, and the model declares {_text(declared)}"
            )
        for have, want in zip(shape, declared, strict=True):
            value = bound.setdefault(want, have) if isinstance(want, str) else want
            if value not in (None, have):
                raise UsageError(
                    f"shapes= for {name!r} is {list(shape)}, and the model needs {_text(declared)}"
                )
    return bound


def _bounded(
    maker: _Maker, traced: Mapping[str, tuple[int, ...]], session: Session, parts: Mapping[str, Role]
) -> _Maker:
    """The maker with index ranges and sequence lengths of the real shapes, if the model runs on them."""
    limits = dict(maker.limits)
    for name, role in parts.items():
        if role.sequence and traced.get(role.sequence):
            limits[name] = traced[role.sequence][0]
        ranges = []
        for index in role.indices:
            dims = traced.get(index.data)
            if dims:
                ranges.append((min(dims) if index.axis is None else dims[index.axis]) - index.offset)
        if ranges:
            limits[name] = max(min(ranges), 1)
    better = _Maker(maker.inputs, parts, maker.shapes, limits)
    try:
        session.run(better.draw(np.random.default_rng(0)))
    except ModelError:
        return maker
    return better


def _sequence(name: str, inputs: tuple[TensorInfo, ...], shapes: Shapes) -> int:
    """The sequence length: the first open axis after the batch of another input, else its axis 1."""
    others = [i for i in inputs if i.name != name and i.shape is not None and len(i.shape) > 1]
    for info in others:
        for axis, dim in enumerate(info.shape or ()):
            if axis and not isinstance(dim, int):
                return shapes[info.name][axis]
    return shapes[others[0].name][1] if others else 1


def _sound(value: object) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return True
    return value.size > 0 and bool(np.isfinite(value).all())


def _fixed(info: TensorInfo) -> bool:
    return info.shape is not None and all(isinstance(d, int) for d in info.shape)


def _rows(feed: Feed, batch: int | None) -> int:
    """The number of samples in a feed; inputs without a common first axis are one sample together."""
    lengths = {len(a) if a.ndim else 1 for a in feed.values()}
    return batch or (lengths.pop() if len(lengths) == 1 else 1)


def _text(shape: tuple[int | str | None, ...]) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"
