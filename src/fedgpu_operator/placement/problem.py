"""What the solvers see: classes of equal jobs, columns of offers, and what a solution is; no rule and no reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.domain.offer import Histogram

IntVector = NDArray[np.int64]
BoolVector = NDArray[np.bool_]

UNBOUNDED: Final = -1
"""A clearing price without an upper end: no offer of any price would be left alone."""


@dataclass(frozen=True, slots=True, eq=False)
class JobClass:
    """Equal jobs: one more or one less of them is the only thing that can differ.

    `members` are job uids, sorted. A job takes `replicas` × `gpus` GPUs, the GPUs of one replica on one node, all
    replicas at one offer. `seconds` is its run limit in GPU-seconds over all replicas. `price` (int64, shape
    (offers,), µUSD per GPU-hour, effective) and `eligible` (bool, shape (offers,)) are read-only and often the very
    same arrays in many classes: identity may be used to share work. Where `eligible` is False, `price` means nothing.
    A job at offer o costs exactly ``price[o] * seconds`` (µUSD · s per hour).
    """

    members: Sequence[str]
    priority: int
    gpus: int
    replicas: int
    seconds: int
    price: IntVector
    eligible: BoolVector

    @property
    def size(self) -> int:
        """How many jobs."""
        return len(self.members)

    @property
    def is_single(self) -> bool:
        """One GPU in all: it fits wherever one is free, so flow solves it exactly."""
        return self.gpus == self.replicas == 1


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One solve. Offers are indices in name order; classes are in order of descending priority, then first uid.

    `free` is each offer's free-GPU histogram, `provider` (int64, shape (offers,)) the index of its provider, `slots`
    each provider's lease slots (None: unbounded; a job takes one slot).
    """

    classes: tuple[JobClass, ...]
    free: tuple[Histogram, ...]
    provider: IntVector
    slots: tuple[int | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Clearing:
    """What one more free GPU at each offer would save, as an interval: int64, shape (offers,), µUSD · s per hour.

    `low` is what one more GPU there with a lease slot of its own would save at equal counts, `high` what taking one
    away would cost; `high` is UNBOUNDED if one fewer would leave one more job waiting. Both are zero where GPUs are
    left over, and both are `low` where nothing is for sale.
    """

    low: IntVector
    high: IntVector


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Who goes where, and how far that can be from the best.

    `flows[c]` lists (offer, jobs) for class c, by offer. `cost` is the exact total (µUSD · s per hour). `most` bounds
    from above how many jobs any assignment can place (summed over the priority levels in their order), `floor` bounds
    from below what placing as many jobs of each class as were placed must cost. `certified` is whether both were
    proven equal to what was reached: then nothing better exists; a first answer, handed out before the proof, is not.
    `clearing` is there if the solver was asked for it. `rounds` is how often the flow was solved.
    """

    flows: tuple[tuple[tuple[int, int], ...], ...]
    cost: int
    placed: int
    most: int
    floor: int
    certified: bool
    clearing: Clearing | None = None
    rounds: int = field(default=1)

    @property
    def gap(self) -> float:
        """How much of the cost is not proven necessary, and of the jobs not proven unplaceable: the larger share.

        0 if the optimum is certified. A share of 0.03 means within 3 % of the bound.
        """
        missing = (self.most - self.placed) / self.most if self.most else 0.0
        excess = (self.cost - self.floor) / self.floor if self.floor > 0 else 0.0
        return max(missing, excess, 0.0)
