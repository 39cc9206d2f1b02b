"""Recovery: a smaller model is taught by the original, on unlabelled inputs, and never for the worse.

Inputs that are held out decide. No step sees them, though the student may have been fitted to them before,
and what the student's answers are wrong by on them is measured again and again: to choose the learning rate,
to see that a run goes astray, to choose the weights that are kept, and whether they are taken at all.

The rate is found by short trials, each from the student as it was, of 0.03, 0.01, 0.003 and 0.001: the first
is taken whose error is at most 5% above both the student's and the next trial's. A fixed rate would not do:
the best one differs by a factor of ten between models, and is the smaller the less a student is wrong. The
best of the trials would not do either, for any rate does harm before it does good, and in a short run smaller
ones look better than they are: on a ResNet-20 at half its MACs a trial of 24 steps at 0.01 gained 0.008 of
0.126 and one at 0.003 0.010, but runs of 300 steps on the same 448 images 0.045 and 0.032 (of 0.130, on
training images that neither saw). The run goes on from the best weights so far, its rate falling to zero
along a cosine over the steps or the time there is. Where the held-out error is far above the student's, or in
the second half above it at all, it returns to them with a third of the rate.

Models are executed node by node (``train.executor``) and not by way of onnx2torch, whose converters (read in
its repository, not run) copy weights into torch.nn modules: the way back into the file by name is lost, a
weight that two nodes share becomes two, stored operands of sums and products become buffers that nothing
trains, BatchNormalization before opset 9 and several operators of real files (ScatterElements, OneHot,
RandomNormalLike, Upsample) have no converter, and inner tensors need hooks. Speed would be no reason, either:
a step forth and back through the executor took 0.92 times that of the same ResNet-56 in torch.nn, for a
convolution and its normalisation are one there, and 1.17 times that of a small transformer
(``tools/results/step_speed.md``). bfloat16, on a processor with AMX, saved another
quarter of a step on a ResNet-20 and lost more than that: 500 steps led to an error of 0.075, and to 0.070 in
float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import cos, inf, isfinite, nan, pi

import onnx
import torch
from torch import Tensor

from onnxmerge.config import Recovery
from onnxmerge.data import Dataset
from onnxmerge.errors import ModelError
from onnxmerge.train.bound import Bound, Progress
from onnxmerge.train.descent import Descent, Weights
from onnxmerge.train.executor import OnnxModule
from onnxmerge.train.lessons import Lessons
from onnxmerge.train.pair import Pair, paired
from onnxmerge.train.targets import Errors

# Samples in a step: the largest number of which the time allows so many steps, for few steps teach more of
# few samples each. Of runs that took as long, 400 steps of 8 and 100 of 32 left a MobileNetV2 at 0.7 of its
# MACs wrong by 0.264 and 0.277 (0.313 before), and a detector by 0.0147 and 0.0173 (0.0227); 450 of 8 and 150
# of 32 a ResNet-56 by 0.0272 and 0.0265 (0.0413). One run each, on held-out inputs; one of two longer ones
# went the other way (tools/results/recovery.md).
_BATCHES, _ENOUGH_STEPS = (32, 16, 8), 400
# The rates that are tried, in this order, until one is not much worse than the next.
_RATES = (0.03, 0.01, 0.003, 0.001)
# A rate is taken whose error is at most this multiple of the student's, and of a smaller rate's.
_NEAR = 1.05
# The part of the bound that a trial may take, and the fewest steps that say anything.
_TRIAL, _LEAST_STEPS = 0.06, 10
# How often held-out inputs are looked at in a run.
_CHECKS = 10
# By what the rate is divided where a run went astray.
_FACTOR = 3.0
# A run is astray where the held-out error is this multiple of the student's in its first half (or any in the
# second), or the loss this multiple of the largest one at the beginning.
_ASTRAY, _DIVERGED = 1.5, 5.0
_MOST_RETURNS = 3
# The rate rises to its full size over so many steps: till then the moments of the gradients say little.
_WARM_STEPS = 10
# An error that is rounding; there is nothing to be learned from it.
_NOTHING = 1e-9

# Of the answers, and of the outputs, on the held-out samples; float64 [samples] each.
Judged = tuple[Tensor, Tensor]


_ENDED = {
    "steps": "the bound in steps",
    "time": "the bound in time",
    "no better": "want of progress",
    "interrupted": "an interruption; the best so far is kept",
}


def ensure_covered(teacher: onnx.ModelProto) -> None:
    """Raise ModelError where a model cannot be taught: operators or types of weights are not covered."""
    if next(OnnxModule(teacher).parameters(), None) is None:
        raise ModelError(
            "the model cannot be taught: it has no weights of float32, and weights of other types are not "
            "trained: leave recover= out, or give the model in float32"
        )


@dataclass(frozen=True, eq=False)
class Recovered:
    """What came of teaching.

    Attributes:
        model: the taught student, or the student as it was where that is not better.
        taken: whether the new weights are in it.
        error_before, error_after: the mean over the held-out inputs and the answers of |y' - y|^2 in units of
            the answer's variance: of the student, and of the best weights that were found.
        steps: updates of the weights, those of trials included.
        batch: samples in a step.
        seconds: all the time that was spent.
        learning_rate: the one chosen, relative to the size of each tensor; nan where none was.
        stopped: why: ``time``, ``steps``, ``no better`` or ``interrupted``.
        trials: the rates that were tried, and the held-out error that each led to.
    """

    model: onnx.ModelProto
    taken: bool
    error_before: float
    error_after: float
    steps: int
    batch: int
    seconds: float
    learning_rate: float
    stopped: str
    trials: tuple[tuple[float, float], ...] = ()

    def summary(self) -> str:
        """One line for a person."""
        kept = "taken" if self.taken else "not taken: no better than by chance"
        return (
            f"recovery: held-out error {self.error_before:.4g} > {self.error_after:.4g}, {kept} "
            f"({self.steps} steps of {self.batch}, {self.seconds:.0f} s, "
            f"learning rate {self.learning_rate:g}, ended by {_ENDED[self.stopped]})"
        )


def recover(
    teacher: onnx.ModelProto,
    student: onnx.ModelProto,
    fit: Dataset,
    held_out: Dataset,
    options: Recovery | None = None,
    *,
    images: Mapping[str, str] | None = None,
    threads: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Recovered:
    """Teach all weights of a student until it answers as its teacher does, or the bound is reached.

    With a bound in steps, one thread and one seed, the result is the same every time. Ctrl-C ends the work,
    and what is best so far comes back.

    Args:
        teacher: the original model.
        student: a smaller one with the same inputs and outputs.
        fit: inputs to learn from.
        held_out: inputs of the same kind, which are not learned from.
        options: None: ``Recovery()``; without a bound there, 10 minutes.
        images: the layout, ``nchw`` or ``nhwc``, of every input that takes images: they are mirrored and
            shifted, which suits photographs. None: nothing is.
        threads: of torch; None: as it is.
        device: ``cpu`` or ``cuda``; on the latter the student's convolutions and products run in bfloat16
            while it learns, not while it is judged.
        progress: called with ("recover", done, total), in steps where these are bounded, else in seconds.

    Raises:
        ModelError: an operator is not covered, or the two models do not belong together; nothing has been
            done then.
    """
    options = options or Recovery()
    if options.steps is None and options.seconds is None:
        options = replace(options, seconds=600.0)
    bound = Bound(options.steps, options.seconds, progress)
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        pair = paired(teacher, student, fit, held_out, torch.device(device))
        return _Recovery(pair, options, images or {}, seed, bound).run()
    except KeyboardInterrupt:  # before there was anything to keep
        return Recovered(student, False, nan, nan, 0, 0, bound.elapsed, nan, "interrupted")
    finally:
        torch.set_num_threads(before)


class _Recovery:
    """One piece of work: what is best so far, and how it came to be."""

    def __init__(
        self, pair: Pair, options: Recovery, images: Mapping[str, str], seed: int, bound: Bound
    ) -> None:
        self._pair, self._options, self._bound, self._seed = pair, options, bound, seed
        names, most = pair.targets.names, pair.most
        layouts = images if options.augment else {}
        self._lessons = Lessons(pair.teacher, pair.fit, names, most, layouts, seed)
        self._exam = Lessons(pair.teacher, pair.held_out, pair.targets.judged, most)
        self._best: Weights = []
        self._before: Judged = (torch.zeros(0), torch.zeros(0))
        self._after = self._before
        self._trials: dict[float, float] = {}
        self._rate = nan
        self._number = 0  # of the next lesson
        self._batch = options.batch or _BATCHES[0]

    def run(self) -> Recovered:
        try:
            stopped = self._work()
        except KeyboardInterrupt:
            stopped = "interrupted"
        before, after = (float(judged[0].mean()) for judged in (self._before, self._after))
        taken = self._is_better()
        model = self._pair.student_proto
        if taken:
            self._descent.put(self._best)
            model = self._pair.to_model()
        done = self._bound.steps, self._batch, self._bound.elapsed
        return Recovered(model, taken, before, after, *done, self._rate, stopped, tuple(self._trials.items()))

    def _work(self) -> str:
        names = self._pair.targets.names
        expected = (answers for _, answers, _ in self._lessons.all())
        self._errors = Errors(self._pair.targets, expected)
        self._descent = Descent(self._pair.student, names, self._errors, self._options.inner)
        self._best = self._descent.weights()
        self._before = self._after = self._judged()
        if not float(self._before[0].mean()) > _NOTHING:
            return "no better"
        if self._options.batch is None and self._bound.left < inf:
            self._batch = self._affordable()
        self._rate = self._options.rate or self._tried_rate(self._best)
        for _ in range(_MOST_RETURNS + 1):
            stopped = self._learn(self._rate, 1.0, self._best, _CHECKS)
            if stopped != "astray":
                return stopped
            self._rate /= _FACTOR
        return "no better"

    def _affordable(self) -> int:
        """The largest batch of which the time allows enough steps; they take as long as their samples."""
        least = _BATCHES[-1]
        for number in range(2):  # the first one takes longer
            begin = self._bound.elapsed
            self._descent.step(self._lessons.step(number, least), 0.0)
            seconds = self._bound.elapsed - begin
        steps = min(_ENOUGH_STEPS, self._options.steps or _ENOUGH_STEPS)
        return next((n for n in _BATCHES if steps * seconds * n / least <= self._bound.left), least)

    def _tried_rate(self, start: Weights) -> float:
        """The largest rate that does no harm in a short run: see above."""
        before = float(self._before[0].mean())
        larger, error = nan, inf
        for rate in _RATES:
            end = min(self._bound.used + _TRIAL, 1.0)
            self._learn(rate, end, start, 1, _LEAST_STEPS)
            self._trials[rate] = self._look(self._descent.average, self._descent.weights())
            if error <= _NEAR * min(before, self._trials[rate]):
                return larger
            larger, error = rate, self._trials[rate]
            # Where a few steps use up much of the bound there is no time for comparing.
            if self._bound.reached is not None or self._bound.used > len(self._trials) * 2 * _TRIAL:
                break
        return min(self._trials, key=lambda one: self._trials[one])

    def _learn(self, rate: float, end: float, start: Weights, checks: int, least: int = 0) -> str:
        """Steps from ``start``, the rate falling from ``rate`` to zero, until ``end`` of the bound is used.

        Args:
            checks: how often held-out inputs are looked at, the end included.
            least: steps that are done at least.

        Returns:
            why it ended: ``steps``, ``time`` or ``astray``.
        """
        self._descent.restart(start)
        begin, count, looked = self._bound.used, 0, 0
        recent = usual = 0.0
        stopped = None
        while stopped is None:
            part = (self._bound.used - begin) / max(end - begin, 1e-9)
            if part >= 1 and count >= least:
                break
            self._bound.begin()
            falling = 0.5 + 0.5 * cos(pi * min(part, 1.0))
            feeds = self._lessons.step(self._number, self._batch)
            loss = self._descent.step(feeds, rate * falling * min(1.0, (count + 1) / _WARM_STEPS))
            self._bound.end()
            self._number += 1
            count += 1
            # Of single steps it is noisy: a few inputs may be far harder than the others.
            recent = loss if count == 1 else 0.8 * recent + 0.2 * loss
            usual = max(usual, recent) if count <= _WARM_STEPS else usual
            if not recent <= (_DIVERGED if count > _WARM_STEPS else 1.0) * usual:
                return "astray"
            if part * checks >= looked + 1:
                looked = int(part * checks)
                most = _ASTRAY if part < 0.5 else 1.0
                if not self._look(self._descent.average) < most * float(self._before[0].mean()):
                    return "astray"
            stopped = self._bound.reached
        self._look(self._descent.average, self._descent.weights())
        return stopped or "steps"

    def _look(self, *candidates: Weights) -> float:
        """Compare weights with the best so far; returns the smallest held-out error among them.

        The student goes on from where it was.
        """
        now = self._descent.weights()
        errors = []
        for weights in candidates:
            self._descent.put(weights)
            judged = self._judged()
            error = float(judged[0].mean())
            errors.append(error if isfinite(error) else inf)
            if errors[-1] < float(self._after[0].mean()):
                self._best, self._after = [w.clone() for w in weights], judged
        self._descent.put(now)
        return min(errors)

    @torch.no_grad()
    def _judged(self) -> Judged:
        """The errors of the answers and of the outputs on all held-out samples, float64 [samples] each."""
        student, names = self._pair.student, self._pair.targets.judged
        parts = []
        for feed, expected, rows in self._exam.all():
            found = dict(zip(names, student.run(feed, names), strict=True))
            parts.append(self._errors.of_samples(found, expected, rows))
        answers, outputs = (torch.cat(both) for both in zip(*parts, strict=True))
        return answers, outputs

    def _is_better(self) -> bool:
        """Whether the best weights are better than the student as it was, by more than chance.

        The answers' errors are compared sample by sample, and the mean has to fall by more than one standard
        error of it; the outputs' own must not rise.
        """
        if self._after is self._before:
            return False
        gain = self._before[0] - self._after[0]
        chance = float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else 0.0
        return float(gain.mean()) > chance and float((self._before[1] - self._after[1]).mean()) >= 0
