"""What a run gives back: the smaller model, its report, and the plan to make it again."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from onnxmerge.comparison import compare
from onnxmerge.config import Config
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.files import LoadedModel
from onnxmerge.graph.output import check_output, copy_file, save
from onnxmerge.outcomes import Decision
from onnxmerge.plan import Plan
from onnxmerge.report import Comparison, Report
from onnxmerge.study import Study


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What ``optimize`` gives back.

    Attributes:
        model: the smaller model, or the input model where nothing was removed. The weights of a large one
            are references to files that are there as long as this object is; ``save`` writes all.
        report: before and after, parity, latency, groups, what was frozen and why.
        plan: the decisions; ``optimize(model, plan=...)`` applies them again.
        original: the input model.
        config: the options of the run.
        unchanged: whether nothing was removed.
        unchanged_file: the input file, where it is the result as it stands.
        external: whether the weights are written beside the model, as the input had them.
        scratch: holds the weights of a large model.
    """

    model: onnx.ModelProto
    report: Report
    plan: Plan
    original: LoadedModel
    config: Config
    unchanged: bool = False
    unchanged_file: Path | None = None
    external: bool = False
    scratch: Scratch | None = None

    @staticmethod
    def of(study: Study, decision: Decision, plan: Plan, report: Report) -> Result:
        """The result of a run."""
        loaded, candidate, unchanged = study.source.loaded, decision.candidate, decision.unchanged
        return Result(
            (loaded.proto if loaded.large else loaded.whole()) if unchanged else candidate.model,
            report,
            plan,
            loaded,
            study.config,
            unchanged=unchanged,
            unchanged_file=loaded.path if unchanged and loaded.self_contained else None,
            external=not loaded.self_contained,
            scratch=loaded.scratch if unchanged else candidate.scratch,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, replacing an existing file at once or not at all.

        A large model whose input had external data, and any above 2 GB, gets its weights in ``<path>.data``.

        Raises:
            UsageError: the path is that of the input or of its weights, which are never changed.
            OutputError: the file cannot be written.
        """
        for source in (self.original.path, *self.original.beside):
            check_output(source, Path(path), clobber=True)
        # What came through a pipe is there once.
        if self.unchanged_file is not None and self.unchanged_file.is_file():
            copy_file(self.unchanged_file, path)
        else:
            save(self.model, path, external=self.external)

    def compare(self, calibration: Any = None, **options: Any) -> Comparison:
        """The smaller model beside the input on further data, read with the options of the run.

        Args:
            calibration: in any form that ``optimize`` takes; all samples count unless ``samples=`` is given.

        Raises:
            OnnxMergeError: one of its subclasses, see ``onnxmerge.errors``.
        """
        config = replace(self.config, samples=Config().samples)
        made = self.original if self.unchanged else self.model
        return compare(self.original, made, calibration=calibration, config=config, **options)

    def __repr__(self) -> str:
        return "\n  ".join(("Result:", *self.report.sentences))

    def _repr_html_(self) -> str:
        return self.report._repr_html_()
