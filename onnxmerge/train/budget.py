"""mu, the weight of the regulariser, as it is adapted until the masks meet a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """A share of the module to keep, and how it is approached.

    The papers give no schedule for mu. Ours is a controller: the wanted share falls from 1 to
    ``target`` by the same factor in every step, up to ``ramp`` of the time in which the masks are
    learned; mu is proportional to the logarithm of how far the share is above it, plus a slow
    integral. (A linear fall would leave the last hundredth of its time for the way from 2% to 1%.)

    Attributes:
        kind: macs or params.
        target: the share, 0..1.
        ramp: the part of the learning time in which the wanted share falls.
        proportional, integral: the gains of the controller; the integral's is per step.
    """

    kind: str
    target: float
    ramp: float = 0.7
    proportional: float = 2.0
    integral: float = 0.02

    def wanted(self, progress: float) -> float:
        """The share wanted at ``progress`` (0..1) of the learning of the masks."""
        return self.target ** min(1.0, progress / self.ramp)


@dataclass
class Pressure:
    """mu at this moment: fixed, or held by a budget.

    Attributes:
        mu: the weight of the regulariser.
        memory: the controller's integral.
    """

    budget: Budget | None
    mu: float
    memory: float = 0.0

    def update(self, share: float, progress: float) -> None:
        """Adapt mu to the share that is kept at ``progress`` of the learning."""
        if self.budget is None:
            return
        above = math.log(max(share, 1e-12) / self.budget.wanted(progress))
        self.memory = max(0.0, self.memory + self.budget.integral * above)
        self.mu = max(0.0, self.budget.proportional * above + self.memory)
