"""Work that runs, as one who thinks of moving it sees it, and the moves that are decided; values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import SECONDS_PER_HOUR, MicroUSD

RESTART_SECONDS: Final = 120
"""What a start elsewhere is taken to cost before work goes on (pulling an image, loading weights): our assumption."""
MAX_NOTICE: Final = 3600
"""The longest time between the announcement of a move and the stop, in seconds; room that is made waits for it."""


class MoveReason(StrEnum):
    """Why a running job is told to go; also the stop reason of its lease and the outcome of its attempt."""

    PREEMPTED = "Preempted"
    REBALANCED = "Rebalanced"


@dataclass(frozen=True, slots=True)
class Announced:
    """A move that was announced and has not ended: the same in every pass until it is carried out or called off.

    `to` is the offer whose capacity is held for the mover (empty: none), `serves` the uid of the job that it makes
    room for (empty: none) at the mover's own offer.
    """

    reason: MoveReason
    to: str = ""
    serves: str = ""


@dataclass(frozen=True, slots=True)
class RunningJob:
    """One running job that its owner lets be moved.

    `job` is what placement would see if it waited now, what it has cost so far already taken from its budget. `price`
    is the frozen one (µUSD per GPU-hour). `seconds` is how long this attempt has run (0: it has not started),
    `resident` how long it has been placed there. `notice` and `grace` are seconds; `moves_left` is what is left of
    its budget of disruptions. `announced` is the move that it was told of.
    """

    job: Job
    lease: str
    provider: str
    product: str
    price: MicroUSD
    seconds: int
    resident: int
    moves_left: int
    notice: int
    grace: int = 0
    announced: Announced | None = None

    @property
    def uid(self) -> str:
        """The job's."""
        return self.job.uid

    @property
    def offer(self) -> str:
        """Name of the offer that it runs at."""
        return f"{self.provider}/{self.product}"

    @property
    def warning(self) -> int:
        """Seconds between the announcement and the stop: none is needed where nothing has started."""
        return self.notice if self.seconds else 0

    @property
    def left(self) -> int:
        """Seconds that the attempt may still run."""
        return max(0, self.job.run_limit - self.grace - self.seconds)

    @property
    def lost(self) -> int:
        """Seconds of work to be done again after a stop, at the worst: all since the last checkpoint, or all of it."""
        done = self.seconds + self.warning
        every = self.job.checkpoint_seconds
        return done if every is None else min(done, every)

    @property
    def released(self) -> int:
        """µUSD that the stop sets free of what the attempt may still cost."""
        unused = max(0, self.job.run_limit - self.seconds - self.warning - self.grace)
        return self.price * self.job.gpus * unused // SECONDS_PER_HOUR


@dataclass(frozen=True, slots=True)
class Move:
    """One running job told to go.

    `to` is the offer that it will get (empty: it waits), `serves` the uid of the job that gets its place (empty: it
    goes for its own sake). `saving` (µUSD) is what the move saves over the rest of the run, moving paid; below zero
    where it costs. `message` says why, for people.
    """

    uid: str
    lease: str
    reason: MoveReason
    to: str
    serves: str
    saving: int
    message: str


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """How much better another place must be.

    A move must save at least `relative` percent of what staying costs over the rest of the run, and at least
    `absolute` µUSD, all costs of moving paid. A job rests `residence` seconds after each placement, and at most
    `most` jobs are announced per pass. None of it holds back work that leaves a draining provider.
    """

    relative: int = 10
    absolute: int = 100_000
    residence: int = 900
    most: int = 8
