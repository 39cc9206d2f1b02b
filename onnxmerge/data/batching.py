"""Batches for running a model from the inside: as large as memory likes, also where the file fixes 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from onnxmerge import limits
from onnxmerge.data.columns import Batch, samples_of
from onnxmerge.data.dataset import Dataset
from onnxmerge.errors import ModelError
from onnxmerge.graph import external_weights
from onnxmerge.operators.values import target_shape
from onnxmerge.runtime import Runtime

# The most samples in one batch, and the fewest in a piece of one: of a single row a library may compute a
# product in another way.
_MOST_SAMPLES, _FEWEST_SAMPLES = 32, 2
# How far the outputs of a batch may be from those of its samples one by one.
_SAME = 1e-3


class Batches(NamedTuple):
    """What a model runs on.

    Attributes:
        model: the model, maybe with its batch opened.
        whole: the batches; statistics are added up batch by batch.
        pieces: the samples (begin, end) of the pieces that each of them is run in.
    """

    model: onnx.ModelProto
    whole: list[Batch]
    pieces: list[list[tuple[int, int]]]


def batches_of(
    model: onnx.ModelProto, dataset: Dataset, runtime: Runtime, shapes: Mapping[str, tuple[int, ...]]
) -> Batches:
    """A model and the batches to run it on, in pieces where activations are large.

    A batch size that the file fixes is opened where that provably changes nothing.

    Args:
        shapes: of all tensors, at batch 1.
    """
    largest = max((prod(shape) for shape in shapes.values()), default=1) * 4
    size = int(min(max(limits.LIMITS.batch // max(largest, 1), 1), _MOST_SAMPLES))
    if dataset.batch == 1 and dataset.arrays is not None and not dataset.shared and len(dataset) > 1:
        opened = replace(dataset, batch=None)
        free = open_batch(model)
        if _agree(model, free, dataset, runtime):
            model, dataset = free, opened
    batches = dataset.batches(size)
    most = dataset.batch or max(limits.LIMITS.piece // max(largest, 1), _FEWEST_SAMPLES)
    return Batches(model, batches, [_spans(batch, most) for batch in batches])


def _spans(batch: Batch, most: int) -> list[tuple[int, int]]:
    """The pieces of a batch, of nearly equal size."""
    samples = samples_of(batch)
    count = max(min(-(-samples // most), samples // _FEWEST_SAMPLES), 1)
    return list(pairwise([samples * i // count for i in range(count + 1)]))


def open_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose first input axis has any length; Reshape targets that begin with 1 follow it."""
    free = onnx.ModelProto()
    free.CopyFrom(model)
    graph = free.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for value in [*graph.input, *graph.output]:
        if value.name in stored or not value.type.HasField("tensor_type"):
            continue
        shape = value.type.tensor_type.shape
        if shape.dim and shape.dim[0].dim_value == 1:
            shape.dim[0].dim_param = "batch"
    del graph.value_info[:]
    for node in graph.node:
        slot = target_shape(node)
        if slot is None or node.input[slot] not in stored:
            continue
        target = external_weights.values_of(stored[node.input[slot]]).copy()
        if target.size > 1 and target[0] == 1:
            target[0] = 0 if -1 in target else -1
            name = f"{node.input[slot]}__{node.output[0]}"
            graph.initializer.append(numpy_helper.from_array(target, name))
            node.input[slot] = name
    return free


def _agree(model: onnx.ModelProto, free: onnx.ModelProto, dataset: Dataset, runtime: Runtime) -> bool:
    singles = [feed for feed, _ in zip(dataset.feeds(1), range(3), strict=False)]
    together = {name: np.concatenate([feed[name] for feed in singles]) for name in singles[0]}
    try:
        found = runtime.session(free).run(together)
    except ModelError:
        return False
    session = runtime.session(model)
    apart = [session.run(feed) for feed in singles]
    for name, value in found.items():
        one_by_one = [result[name] for result in apart]
        if not isinstance(value, np.ndarray) or any(np.ndim(v) == 0 or len(v) != 1 for v in one_by_one):
            return False
        expected = np.concatenate(one_by_one)
        if expected.shape != value.shape:
            return False
        if value.dtype.kind == "f":
            difference = np.linalg.norm((expected - value).astype(np.float64))
            if not difference <= _SAME * np.linalg.norm(expected.astype(np.float64)) + 1e-12:
                return False
        elif not np.array_equal(expected, value):
            return False
    return True
