"""The trainer: what a training loop adds to learn masks beside its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from onnxmerge.errors import BudgetError, TrainingError, UsageError
from onnxmerge.train.behind import keep_behind_gates
from onnxmerge.train.budget import Budget, Pressure
from onnxmerge.train.logs import Log
from onnxmerge.train.masks import Masks
from onnxmerge.train.scales import Scales

# A net that diverges behind gates can stay finite for thousands of steps. From here on a square is more
# than a float32 holds.
_LARGEST_LOSS = torch.finfo(torch.float32).max ** 0.5


@dataclass(frozen=True)
class Learning:
    """How masks are learned. The papers give no numbers; these are ours.

    Attributes:
        macs, params: the budget, as a share to keep; at most one of them.
        mu: the weight of the regulariser where there is no budget.
        lr: the learning rate of the masks' own optimizer (SGD).
        norm: of the regulariser: l1 or l2.
        weigh: what a gate weighs in it: macs, params or none; None: the budget's kind.
        bilevel: weights and masks in turn (each on its own part of the data) or jointly.
        settle: the part of all steps, at the end, in which the masks are fixed.
        scale_free: steps in units of loss per cost, see ``scales``, so that ``lr`` and ``mu`` mean the
            same in every layer and model; False is the published update to the letter.
        average: the part of the steps before the masks are fixed over which m is averaged
            (exponentially) for the last decision; gates that the net needs open and close all the
            time, and one step alone would decide by chance. 0: the last m.

    Raises:
        UsageError: options that are out of range or contradict one another.
    """

    macs: float | None = None
    params: float | None = None
    mu: float = 0.0
    lr: float = 0.02
    norm: str = "l1"
    weigh: str | None = None
    bilevel: bool = False
    settle: float = 0.3
    scale_free: bool = True
    average: float = 0.1

    def __post_init__(self) -> None:
        if self.macs is not None and self.params is not None:
            raise UsageError("macs and params are both budgets: give one")
        for name in ("macs", "params"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"{name} is the share that is kept, above 0 and at most 1, not {value}")
        if self.norm not in ("l1", "l2"):
            raise UsageError(f"norm is l1 or l2, not {self.norm!r}")
        if self.weigh not in (None, "macs", "params", "none"):
            raise UsageError(f"weigh is macs, params or none, not {self.weigh!r}")
        if not 0 <= self.settle < 1:
            raise UsageError(f"settle is a part of all steps, from 0 to below 1, not {self.settle}")
        if not 0 <= self.average <= 1:
            raise UsageError(f"average is a part of the steps with masks, 0 to 1, not {self.average}")

    @property
    def budget(self) -> Budget | None:
        if self.macs is not None:
            return Budget("macs", self.macs)
        return None if self.params is None else Budget("params", self.params)


class Trainer:
    """Steps the weights and the masks; call ``step`` in the place of ``optimizer.step``.

    Args:
        masks: of the module that is trained.
        optimizer: the user's, for the weights; masks are taken out of it, and weights behind closed
            gates keep their values whatever it does (weight decay and momentum included).
        steps: how often ``step`` will be called in all.
        learning: the options at once; or give them by name: ``macs=0.3``, ...
        mask_optimizer: makes the optimizer of the masks from their parameters; None: SGD.
        scaler: the loop's gradient scaler, for float16.
        log: where to write share, mu, open gates and recoveries; every ``log_every`` steps.

    Attributes:
        done: steps so far.
        turns: steps so far by what they updated: weights, masks, both.
        recovered: how often a closed gate opened again.

    Raises:
        UsageError: an unknown or impossible option.
        BudgetError: the budget cannot be met even with one channel per group.
    """

    def __init__(
        self,
        masks: Masks,
        optimizer: Optimizer,
        steps: int,
        *,
        learning: Learning | None = None,
        mask_optimizer: Callable[[list[torch.nn.Parameter]], Optimizer] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        log: Log | None = None,
        log_every: int = 50,
        **options: Any,
    ):
        unknown = set(options) - {f.name for f in fields(Learning)}
        if unknown or (learning is not None and options):
            raise UsageError(f"unknown or doubled options of the trainer: {', '.join(sorted(options))}")
        self.masks = masks
        self.learning = learning or Learning(**options)
        self.optimizer = optimizer
        self.steps = steps
        self.done = 0
        self.turns = {"weights": 0, "masks": 0, "both": 0}
        self.recovered = 0
        self.pressure = Pressure(self.learning.budget, self.learning.mu)
        self._scales = Scales()
        self._means = [values.detach().clone() for values in masks.parameters]
        self._scaler = scaler
        self._log, self._log_every = log, log_every
        self._check_budget()
        _take_out(optimizer, masks)
        keep_behind_gates(optimizer, masks)
        make = mask_optimizer or (lambda parameters: SGD(parameters, lr=self.learning.lr))
        self.mask_optimizer = make(masks.parameters) if masks.parameters else None

    def _check_budget(self) -> None:
        budget = self.learning.budget
        if budget is None:
            return
        if budget.kind not in self.masks.kinds:
            known = ", ".join(self.masks.kinds)
            raise UsageError(f"these masks know no budget of {budget.kind}, only of {known}")
        least = self.masks.smallest[budget.kind]
        if least > budget.target:
            raise BudgetError(
                f"{budget.kind}={budget.target:g} cannot be met: with one channel in every group "
                f"{least:.3f} are left; the rest of the module has no gates"
            )

    @property
    def turn(self) -> str:
        """What the next step updates: weights, masks, or both."""
        if self.masks.fixed:
            return "weights"
        if not self.learning.bilevel:
            return "both"
        return "weights" if self.done % 2 == 0 else "masks"

    @property
    def progress(self) -> float:
        """How far the learning of the masks is, 0..1."""
        return min(1.0, self.done / max(1.0, (1 - self.learning.settle) * self.steps))

    def backward(self, loss: Tensor) -> None:
        """``loss.backward()``, scaled where the loop has a gradient scaler."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def step(self, loss: Tensor | None = None) -> None:
        """Update what the turn says from the gradients that ``backward`` left, and clear them all.

        Args:
            loss: for the log, and for a check: without it a run that diverges goes on to its end.

        Raises:
            TrainingError: the loss is not finite or beyond all measure; nothing has been updated.
        """
        if loss is not None:
            self._check(loss)
        turn = self.turn
        if turn != "masks":
            self._apply(self.optimizer)
        if turn != "weights":
            self._step_masks()
        if self._scaler is not None:
            self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.mask_optimizer is not None:
            self.mask_optimizer.zero_grad(set_to_none=True)
        self.done += 1
        self.turns[turn] += 1
        if self.progress >= 1 and not self.masks.fixed:
            budget = self.learning.budget
            for values, mean in zip(self.masks.parameters, self._means, strict=True):
                values.data.copy_(mean)
            self.masks.fix(*((budget.kind, budget.target) if budget else ()))
        if self._log is not None and (self.done % self._log_every == 0 or self.done == self.steps):
            seen = {} if loss is None else {"loss": float(loss.detach())}
            self._log.write(self.done, self.state_of_masks() | seen)

    def _check(self, loss: Tensor) -> None:
        value = float(loss.detach())
        if not abs(value) < _LARGEST_LOSS:
            raise TrainingError(
                f"the loss is {value:.6g} at step {self.done + 1} of {self.steps}: training diverged; "
                f"use a smaller learning rate or clip the gradients, and check the data for values like it"
            )

    def _apply(self, optimizer: Optimizer) -> None:
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)

    def _step_masks(self) -> None:
        """m <- m - eta * (gradient of the loss + mu * gradient of R); mu follows the budget."""
        assert self.mask_optimizer is not None
        learning, budget = self.learning, self.pressure.budget
        kind = budget.kind if budget else "macs" if "macs" in self.masks.kinds else "params"
        before = self.masks.opened
        if self._scaler is not None:
            self._scaler.unscale_(self.mask_optimizer)
        costs = self.masks.costs(learning.weigh or kind)
        if learning.scale_free:
            costs = self._scales.apply(self.masks, costs)
        if self.pressure.mu:
            for values, cost in zip(self.masks.parameters, costs, strict=True):
                penalty = self.masks.method.penalty(values, cost, learning.norm)
                (gradient,) = torch.autograd.grad(self.pressure.mu * penalty, values)
                values.grad = gradient if values.grad is None else values.grad + gradient
        self._apply(self.mask_optimizer)
        self.masks.keep_alive()
        self._average()
        self.recovered += sum(
            int((now & ~old).sum()) for now, old in zip(self.masks.opened, before, strict=True)
        )
        self.pressure.update(self.masks.share(kind), self.progress)

    @torch.no_grad()
    def _average(self) -> None:
        """Follow m with the running mean that decides in the end."""
        learning = self.learning
        updates = (1 - learning.settle) * self.steps / (2 if learning.bilevel else 1)
        part = 1 / max(1.0, learning.average * updates)
        for mean, values in zip(self._means, self.masks.parameters, strict=True):
            mean.lerp_(values, part)

    def state_of_masks(self) -> dict[str, float]:
        """What a log or a progress line says: shares, open gates, mu, recoveries."""
        opened = self.masks.opened
        return {
            **{kind: self.masks.share(kind) for kind in self.masks.kinds},
            "open": sum(int(o.sum()) for o in opened) / max(1, sum(o.numel() for o in opened)),
            "mu": self.pressure.mu,
            "recovered": self.recovered,
        }

    def state_dict(self) -> dict[str, Any]:
        """All that ``load_state_dict`` needs to go on as if nothing had happened."""
        return {
            "module": self.masks.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "mask_optimizer": None if self.mask_optimizer is None else self.mask_optimizer.state_dict(),
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
            "fixed": self.masks.fixed,
            "noise": self.masks.generator.get_state(),
            "done": self.done,
            "turns": dict(self.turns),
            "recovered": self.recovered,
            "pressure": (self.pressure.mu, self.pressure.memory),
            "mean_square": self._scales.mean_square,
            "means": [mean.cpu() for mean in self._means],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; module, optimizer and options have to be those that it was made with."""
        self.masks.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.mask_optimizer is not None:
            self.mask_optimizer.load_state_dict(state["mask_optimizer"])
        if self._scaler is not None and state["scaler"] is not None:
            self._scaler.load_state_dict(state["scaler"])
        self.masks.fixed = state["fixed"]
        self.masks.generator.set_state(state["noise"])
        self.done, self.recovered = state["done"], state["recovered"]
        self.turns = dict(state["turns"])
        self.pressure.mu, self.pressure.memory = state["pressure"]
        self._scales.mean_square = state["mean_square"]
        for mean, stored in zip(self._means, state["means"], strict=True):
            mean.copy_(stored)


def _take_out(optimizer: Optimizer, masks: Masks) -> None:
    """Remove the auxiliary parameters from the weights' optimizer: they have one of their own.

    Raises:
        UsageError: it has no weight then that learns.
    """
    own = {id(p) for p in masks.parameters}
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in own]
    if not any(p.requires_grad for group in optimizer.param_groups for p in group["params"]):
        raise UsageError(
            "the optimizer has no weight that learns: requires_grad is off for all of them, as in a copy of "
            "a frozen teacher; switch it on with module.requires_grad_()"
        )
