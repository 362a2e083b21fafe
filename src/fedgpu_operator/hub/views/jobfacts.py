"""What is known of one job: its facts, the phase that they put it in, its announced move, and its Events; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from itertools import takewhile
from typing import Final, Literal

from fedgpu_operator.api.base import (
    Condition,
    JSONObject,
    find,
    stored_bytes,
)
from fedgpu_operator.api.computejob import (
    ComputeJob,
    ComputeJobStatus,
)
from fedgpu_operator.api.computelease import MAX_WHY, ComputeLease, LeaseMove, lease_state
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.attempts import Attempt, AttemptUsage
from fedgpu_operator.domain.decision import Decision, Reason
from fedgpu_operator.domain.faults import (
    FAILED,
    SUCCEEDED,
    SUSPENDED_BY_MEMBER,
    Ended,
    NextStep,
    credible,
    next_step,
    outcome_row,
)
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.running import Announced, MoveReason
from fedgpu_operator.domain.settlement import Coverage
from fedgpu_operator.errors import InvalidResourceError


@dataclass(frozen=True, slots=True)
class Notice:
    """An announced move: what it is, when the workload is stopped, until when its capacity is held, and why.

    `priority` is that of the mover.
    """

    move: Announced
    stop_at: datetime
    held_until: datetime
    priority: int
    why: str

    def to_wire(self) -> JSONObject:
        """As the lease's spec holds it."""
        told = LeaseMove(
            reason=self.move.reason,
            to=self.move.to,
            serves=self.move.serves,
            stop_at=self.stop_at,
            held_until=self.held_until,
            priority=self.priority,
            why=self.why[:MAX_WHY],
        )
        return told.to_wire()


def notice_of(lease: ComputeLease) -> Notice | None:
    """The announced move of a lease; None where there is none."""
    said = lease.spec.move
    if said is None:
        return None
    move = Announced(said.reason, said.to, said.serves)
    return Notice(move, said.stop_at, said.held_until, said.priority, said.why)


def words(lease: ComputeLease) -> str:
    """What a person should know of the announced move of a lease that still runs; empty where there is none."""
    notice = notice_of(lease)
    if notice is None or lease.status.ended:
        return ""
    return f"will be stopped at {notice.stop_at:%Y-%m-%dT%H:%M:%SZ} and placed again: {notice.why}"


def move_reason(outcome: str, announced: LeaseMove | None) -> str:
    """Why a lease with that outcome was moved, as it was announced; empty if the outcome is not that of a move."""
    if outcome not in _UNANNOUNCED:
        return ""
    return announced.why if announced is not None and announced.why else _UNANNOUNCED[MoveReason(outcome)]


_UNANNOUNCED: Final[Mapping[MoveReason, str]] = {
    MoveReason.PREEMPTED: "work of higher priority needs its GPUs",
    MoveReason.REBALANCED: "a better place was found",
}
"""By kind of move, its reason if the announcement is gone."""


SUSPENDED: Final = ConditionReason.SUSPENDED.value
DELETED: Final = ConditionReason.DELETED.value
DEADLINE: Final = ConditionReason.DEADLINE_EXCEEDED.value
SUPERSEDED: Final = ConditionReason.SUPERSEDED.value
"""The job changed, or the process died, between the decision and the lease: nothing ran."""
WRITE_REFUSED: Final = ConditionReason.WRITE_REFUSED.value
"""The API server refused the job's status or the lease: nothing ran."""
UNSTARTED: Final = frozenset({SUPERSEDED, WRITE_REFUSED})
"""Outcomes of attempts that never had a lease."""
MOST_REFUSED: Final = 6
"""Attempts in a row whose writes were refused, after which a job is given up."""
LONGEST_PAUSE: Final = timedelta(minutes=15)
"""Between two attempts of which the first never had a lease; it begins at nothing and doubles from two seconds on."""
UNFUNDED: Final = ConditionReason.UNFUNDED.value
"""The tenant's money for it ended; it is placed again as soon as its whole run is funded."""
MOVED: Final = frozenset(reason.value for reason in MoveReason)
"""It made room for work of higher priority, or went to a better place; counts against its budget of disruptions."""


class Phase(Enum):
    """Where a job stands; exactly one holds."""

    DELETING = auto()
    INVALID = auto()
    ACTIVE = auto()
    FINISHED = auto()
    EXPIRED = auto()
    SUSPENDED = auto()
    DRY_RUN = auto()
    PENDING = auto()


@dataclass(frozen=True, slots=True)
class JobFacts:
    """One job with all that its status is derived from.

    `usage` holds every attempt with its newest billed usage, oldest first; `lease` is that of the newest attempt,
    where it still exists; `coverage` tells how far each ended, billed attempt is settled, by lease name. `priority` is
    that of a job that waits, where its class was asked for.
    """

    job: ComputeJob
    usage: tuple[AttemptUsage, ...] = ()
    lease: ComputeLease | None = None
    decision: Decision | None = None
    invalid: InvalidResourceError | None = None
    coverage: tuple[Coverage, ...] = ()
    priority: int | None = None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Oldest first."""
        return tuple(entry.attempt for entry in self.usage)

    @property
    def newest(self) -> Attempt | None:
        """The newest attempt."""
        return self.usage[-1].attempt if self.usage else None

    @property
    def next_step(self) -> NextStep | None:
        """What comes after the newest attempt; None while it is open, and before the first."""
        if self.newest is None or self.newest.is_open:
            return None
        spec = self.job.spec
        interval = spec.checkpoint.interval_seconds if spec.checkpoint is not None else None
        ended = [
            Ended(entry.attempt.outcome, -(-entry.gpu_seconds // entry.attempt.terms.gpus))
            for entry in self.usage
            if not entry.attempt.is_open
        ]
        return next_step(ended, spec.retries.to_domain(), interval)

    @property
    def gpu_seconds(self) -> int:
        """Billed over all attempts."""
        return sum(entry.gpu_seconds for entry in self.usage)

    @property
    def cost(self) -> MicroUSD:
        """What all attempts cost, µUSD."""
        return MicroUSD(sum(entry.cost for entry in self.usage))


def phase(facts: JobFacts, now: datetime) -> Phase:
    """The job's phase. An attempt that is open wins over everything: first it must stop."""
    job, newest = facts.job, facts.newest
    if job.metadata.deletion_timestamp is not None:
        return Phase.DELETING
    if newest is not None and newest.is_open:
        return Phase.ACTIVE
    step = facts.next_step
    if step is not None and not (step.again and refused(facts) < MOST_REFUSED):
        return Phase.FINISHED
    if newest is not None and _has_ended(job, newest):
        # As it was said once: another release's table does not bring it back.
        return Phase.FINISHED
    if facts.invalid is not None:
        return Phase.INVALID
    if job.spec.deadline is not None and job.spec.deadline <= now:
        return Phase.EXPIRED
    if job.spec.suspend:
        return Phase.SUSPENDED
    return Phase.DRY_RUN if job.spec.dry_run else Phase.PENDING


def _has_ended(job: ComputeJob, newest: Attempt) -> bool:
    """Whether the status says that the job ended with that attempt."""
    placement, failed = job.status.placement, find(job.status.conditions, "Failed")
    if placement is None or placement.lease != newest.lease_name or newest.is_open:
        return False
    return failed is not None and (failed.status, failed.reason) == ("True", newest.outcome)


def refused(facts: JobFacts) -> int:
    """How many of the attempts in a row that never had a lease ended because a write was refused."""
    trailing = facts.attempts[len(facts.attempts) - unstarted(facts) :]
    return sum(1 for attempt in trailing if attempt.outcome == WRITE_REFUSED)


def unstarted(facts: JobFacts) -> int:
    """How many attempts in a row, up to now, ended before they had a lease."""
    return sum(1 for _ in takewhile(lambda attempt: attempt.outcome in UNSTARTED, reversed(facts.attempts)))


def resumes_at(facts: JobFacts) -> datetime | None:
    """The earliest instant of the next attempt of a job whose last ones never had a lease; None for any time."""
    newest, failed = facts.newest, unstarted(facts)
    if newest is None or newest.ended_at is None or failed < 2:
        return None
    return newest.ended_at + min(LONGEST_PAUSE, timedelta(seconds=2 ** min(failed - 1, 16)))


def waits_for_money(facts: JobFacts) -> bool:
    """Whether a job that waits was stopped for want of money, and has it not yet."""
    newest, decision = facts.newest, facts.decision
    if newest is None or newest.is_open or newest.outcome != UNFUNDED:
        return False
    return decision is None or (decision.chosen is None and decision.reason is Reason.UNFUNDED)


def stop_reason(job: ComputeJob, now: datetime, *, funded: bool = True) -> str:
    """Why an open attempt must stop now; empty where it may go on."""
    if job.metadata.deletion_timestamp is not None:
        return DELETED
    if job.spec.deadline is not None and job.spec.deadline <= now:
        return DEADLINE
    if job.spec.suspend:
        return SUSPENDED
    return "" if funded else UNFUNDED


def outcome_of(lease: ComputeLease) -> str:
    """The outcome of an ended lease, as the ledger keeps it; a failure is what its member claims, within its words."""
    state = lease_state(lease.status.conditions)
    if state == "Succeeded":
        return SUCCEEDED
    if state == "Stopped":
        return lease.spec.stop_reason or ConditionReason.STOPPED.value
    failed = find(lease.status.conditions, "Failed")
    return credible(failed.reason) if failed is not None else FAILED


MAX_MESSAGE: Final = 768
"""Bytes of a condition's message as it is stored: conditions and the longest list of policies fit together."""


def cut(message: str, most: int = MAX_MESSAGE) -> str:
    """The longest beginning of the message that is stored in at most `most` bytes."""
    kept = message[:most]
    while (size := stored_bytes(kept) - len('""')) > most:
        # A letter takes six bytes at most, so never too much is cut at once.
        kept = kept[: len(kept) - max(1, (size - most) // 6)]
    return kept


def failed(outcome: str) -> bool:
    """Whether an attempt that ended so failed, and was not stopped by the hub."""
    return not outcome_row(outcome).hub


def attempt_failed(facts: JobFacts) -> str:
    """Which attempt failed where and how, in the words of its member; there must be one."""
    newest, lease = facts.attempts[-1], facts.lease
    words_of = f": {lease.status.exit_message}" if lease is not None and lease.status.exit_message else ""
    text = f"attempt {newest.attempt} at {newest.terms.provider} ended as {newest.outcome}{words_of}"
    return cut(text, MAX_MESSAGE - 128)


def retries_used(step: NextStep) -> str:
    """How much of a budget of retries is gone, in words."""
    if step.retry is None:
        return "this uses no retries"
    return f"{step.used} of {step.limit} retries of spec.retries.{step.retry} used"


QUIET: Final = frozenset({ConditionReason.QUEUED, ConditionReason.NOT_PLACED})
"""Reasons that say only that nothing has been decided yet."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One Event about a job."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def failed_attempt(facts: JobFacts) -> JobEvent | None:
    """The Event for an attempt that has just failed and is followed by another one, maybe in the same pass."""
    step, newest = facts.next_step, facts.newest
    if step is None or newest is None or not step.again or not failed(newest.outcome):
        return None
    return JobEvent("Warning", newest.outcome, f"{attempt_failed(facts)}; {retries_used(step)}")


def job_events(before: ComputeJobStatus, after: ComputeJobStatus) -> Iterator[JobEvent]:
    """An Event for each condition that newly says something a person would want to be told."""
    for condition in after.conditions:
        known = find(before.conditions, condition.type)
        if known is None or (known.status, known.reason) != (condition.status, condition.reason):
            event = _event(condition)
            # A workload that is being stopped still runs: only that it began is news.
            old_news = condition.type == "Running" and known is not None and known.status == condition.status
            if event is not None and not old_news:
                yield event


def _event(condition: Condition) -> JobEvent | None:
    message = condition.message or condition.reason
    match condition.type, condition.status:
        case "Placed", "False" if condition.reason in (ConditionReason.DRY_RUN, ConditionReason.SUSPENDED):
            return JobEvent("Normal", condition.reason, message)
        case "Placed", "False" if condition.reason not in QUIET:
            return JobEvent("Warning", condition.reason, message)
        case ("Failed", "True") | ("Running", "False") if condition.reason == SUSPENDED_BY_MEMBER:
            return JobEvent("Warning", condition.reason, message)
        case "Failed", "True":
            return JobEvent("Warning", condition.reason, message)
        case (("Placed" | "Running" | "Complete" | "Settled"), "True"):
            return JobEvent("Normal", condition.type, message)
        case _:
            return None
