"""Checks of a model: its structure, its outputs against another model's, its speed."""

from onnxmerge.validation.judgement import Judgement, class_scores, output_kinds
from onnxmerge.validation.kinds import KINDS, Found, percent
from onnxmerge.validation.latency import SLOWER, Latency, compare_latency, median_of_sessions
from onnxmerge.validation.masked import equals_mask, misjudged
from onnxmerge.validation.measure import measure, worst
from onnxmerge.validation.most_changed import ChangedSample, ImageFacts, most_changed
from onnxmerge.validation.own_measure import OwnMeasure
from onnxmerge.validation.parity import OutputParity, Parity, compare
from onnxmerge.validation.seen import seen
from onnxmerge.validation.structure import check_model

__all__ = [
    "KINDS",
    "SLOWER",
    "ChangedSample",
    "Found",
    "ImageFacts",
    "Judgement",
    "Latency",
    "OutputParity",
    "OwnMeasure",
    "Parity",
    "check_model",
    "class_scores",
    "compare",
    "compare_latency",
    "equals_mask",
    "measure",
    "median_of_sessions",
    "misjudged",
    "most_changed",
    "output_kinds",
    "percent",
    "seen",
    "worst",
]
