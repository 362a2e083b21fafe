"""What the solvers see of a job, and money as solver units; no rule and no reason lives here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from fedgpu_operator.placement.book import Load
from fedgpu_operator.placement.judge import Option


@dataclass(frozen=True, slots=True)
class Ask:
    """One job that has at least one eligible offer."""

    priority: int
    load: Load
    options: tuple[Option, ...]

    @property
    def uid(self) -> str:
        return self.load.uid

    @property
    def is_single(self) -> bool:
        """One GPU in all: it fits wherever one is free, so flow solves it exactly."""
        return self.load.gpus == self.load.replicas == 1


def in_units(costs: Sequence[int], ceiling: int) -> list[int]:
    """The costs in their greatest common divisor, which loses nothing; what is still above `ceiling` counts as it.

    So an absurdly dear offer stays the last choice and cannot blur the differences among the others.
    """
    unit = gcd(*costs) or 1
    return [min(cost // unit, ceiling) for cost in costs]
