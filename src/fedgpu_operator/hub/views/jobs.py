"""A job's status from its facts: conditions, state, candidates, usage and settlement; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from fedgpu_operator.api.base import (
    JOB_STATUS_BYTES,
    MAX_DECIMAL_USD,
    READY,
    Condition,
    Finding,
    Model,
    find,
    is_true,
    merge,
    standing,
    stored_bytes,
)
from fedgpu_operator.api.computejob import (
    DRY_RUN,
    WINDING_DOWN,
    Candidate,
    ComputeJobStatus,
    PlacementStatus,
    SettlementStatus,
    UsageStatus,
    job_state,
)
from fedgpu_operator.api.computelease import ComputeLease, lease_state
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.attempts import Attempt
from fedgpu_operator.domain.decision import Decision, Verdict
from fedgpu_operator.domain.faults import SUCCEEDED
from fedgpu_operator.domain.geo import LAW_DATE
from fedgpu_operator.domain.money import format_usd
from fedgpu_operator.domain.settlement import Coverage, EpochStage
from fedgpu_operator.hub.views.jobfacts import (
    DEADLINE,
    MAX_MESSAGE,
    MOST_REFUSED,
    MOVED,
    SUSPENDED,
    UNFUNDED,
    UNSTARTED,
    JobFacts,
    Phase,
    attempt_failed,
    cut,
    failed,
    move_reason,
    phase,
    resumes_at,
    retries_used,
    unstarted,
    waits_for_money,
    words,
)


def fitted(status: ComputeJobStatus) -> ComputeJobStatus:
    """The status in at most JOB_STATUS_BYTES: candidates are left out from the worst-judged on until it fits.

    What was decided by (policies, law, conditions) always stays.
    """
    if _at_most(status) <= JOB_STATUS_BYTES:
        return status
    left = JOB_STATUS_BYTES - _size(status.model_copy(update={"candidates": []}))
    kept = []
    for candidate in status.candidates:
        # And the comma behind it.
        left -= _size(candidate) + 1
        if left < 0:
            break
        kept.append(candidate)
    return status.model_copy(update={"candidates": kept})


def _size(model: Model) -> int:
    return stored_bytes(model.to_wire())


def _at_most(status: ComputeJobStatus) -> int:
    """An upper bound of the size that costs nothing to find: 6 bytes a letter, as an escaped one has, and the rest."""
    placement = status.placement
    policies = sum(len(each) + 3 for each in placement.policies) if placement is not None else 0
    candidates = sum(6 * len(each.message) + 64 * len(each.components) + 700 for each in status.candidates)
    conditions = sum(6 * len(each.message) + 300 for each in status.conditions)
    return policies + candidates + conditions + 2000


MAX_CANDIDATES: Final = 10


def job_status(
    facts: JobFacts, now: datetime, transactions: Mapping[int, tuple[str, str]], *, settlement: bool = True
) -> ComputeJobStatus:
    """The status that follows from the facts.

    `transactions` gives (post, claim) hashes by epoch number; `settlement` is whether this hub pays on chain at all.
    """
    job, known, where = facts.job, facts.job.status, phase(facts, now)
    found = tuple(_FINDINGS[where](facts))
    findings = [
        replace(each, message=cut(each.message))
        for each in (*found, _settled(facts, settlement=settlement), *_readiness(where, facts, found))
    ]
    ended = where in (Phase.FINISHED, Phase.INVALID, Phase.EXPIRED, Phase.DELETING)
    still = known.conditions if ended else [c for c in known.conditions if c.type not in ("Failed", "Complete")]
    conditions = merge(still, findings, generation=job.metadata.generation, now=now)
    newest, lease = facts.newest, facts.lease
    usage = lease.status.usage if lease is not None else None
    done = where in (Phase.FINISHED, Phase.DELETING)
    completed = known.completion_time if _lease_is_gone(facts) else None
    status = ComputeJobStatus(
        observed_generation=job.metadata.generation,
        state=job_state(conditions),
        reason=_reason(where, conditions),
        placement=_placement(facts, newest),
        candidates=[_candidate(v) for v in facts.decision.verdicts[:MAX_CANDIDATES]]
        if facts.decision
        else known.candidates,
        start_time=usage.started_at if usage and usage.started_at else known.start_time,
        completion_time=(usage.finished_at if usage else completed) if done else None,
        usage=UsageStatus(gpu_seconds=facts.gpu_seconds, cost=_usd(facts.cost)) if newest else None,
        settlement=_settlement(facts, transactions),
        conditions=conditions,
    )
    return fitted(status)


def _lease_is_gone(facts: JobFacts) -> bool:
    """Whether the lease of the newest attempt was deleted: what only it told is then kept as the status shows it."""
    placement, newest = facts.job.status.placement, facts.newest
    return facts.lease is None and newest is not None and placement is not None and placement.lease == newest.lease_name


def _told_before(facts: JobFacts, kind: str, reason: str) -> str:
    """The message of that condition, if it is of the newest attempt's end and its lease is gone."""
    known = find(facts.job.status.conditions, kind)
    return known.message if known is not None and known.reason == reason and _lease_is_gone(facts) else ""


def _usd(amount: int) -> str:
    # A mad price times a long run must not make the status unwritable.
    return format_usd(min(amount, MAX_DECIMAL_USD))


def _readiness(where: Phase, facts: JobFacts, found: Sequence[Finding]) -> tuple[Finding, ...]:
    """`Ready` and what goes with it: True if it runs, has succeeded, is suspended by its spec, or was answered."""
    said = {each.type: each for each in found}
    of = next(said[kind] for kind in _EXPLAINED_BY[where] if kind in said)
    if where is Phase.DRY_RUN:
        return standing(Finding(READY, "False" if facts.decision is None else "True", DRY_RUN), of.message)
    if where is Phase.ACTIVE:
        # A workload in its grace period still runs, and is not what the spec asks for any more.
        status = "False" if of.reason in WINDING_DOWN else of.status
        return standing(Finding(READY, status, of.reason), of.message)
    if where is Phase.SUSPENDED or of.type == "Complete":
        return standing(Finding(READY, "True", of.reason))
    return standing(Finding(READY, "False", of.reason), of.message, stalled=of.type == "Failed")


def _reason(where: Phase, conditions: Sequence[Condition]) -> str:
    """The reason of the condition that the state follows from."""
    known = (find(conditions, kind) for kind in _EXPLAINED_BY[where])
    return next((each.reason for each in known if each is not None), "")


_EXPLAINED_BY: Final[Mapping[Phase, tuple[str, ...]]] = {
    Phase.DELETING: ("Running",),
    Phase.INVALID: ("Failed",),
    Phase.ACTIVE: ("Running",),
    Phase.FINISHED: ("Failed", "Complete"),
    Phase.EXPIRED: ("Failed",),
    Phase.SUSPENDED: ("Running",),
    Phase.DRY_RUN: ("Placed",),
    Phase.PENDING: ("Placed",),
}


def _deleting(_: JobFacts) -> Iterable[Finding]:
    return (Finding("Running", "False", ConditionReason.DELETING, "the workload is being stopped"),)


def _invalid(facts: JobFacts) -> Iterable[Finding]:
    error = facts.invalid
    why, message = (error.why, str(error)) if error is not None else (ConditionReason.INVALID_SPEC, "")
    return (
        Finding("Admitted", "False", why, message),
        Finding("Placed", "False", why, message),
        Finding("Failed", "True", why, message),
    )


def _expired(_: JobFacts) -> Iterable[Finding]:
    text = "the deadline passed before the job could finish"
    return (Finding("Placed", "False", DEADLINE, text), Finding("Failed", "True", DEADLINE, text))


def _suspended(_: JobFacts) -> Iterable[Finding]:
    text = "suspend is set: nothing runs and nothing is metered; set it to false to place the job again"
    return (
        Finding("Admitted", "True", ConditionReason.ADMITTED),
        Finding("Placed", "False", ConditionReason.SUSPENDED, text),
        Finding("Running", "False", ConditionReason.SUSPENDED, text),
    )


def _dry_run(facts: JobFacts) -> Iterable[Finding]:
    decision = facts.decision
    if decision is None:
        return (Finding("Placed", "False", ConditionReason.DRY_RUN, "not evaluated yet"),)
    if decision.chosen is None:
        return (Finding("Placed", "False", _word(decision), f"dry run: {decision.message}"),)
    chosen = decision.chosen
    text = f"dry run: would go to {_where(chosen)} for at most {format_usd(chosen.cost)} USD; nothing is reserved"
    return (
        Finding("Admitted", "True", ConditionReason.ADMITTED),
        Finding("Placed", "False", ConditionReason.DRY_RUN, text),
    )


def _stopped_for_money(facts: JobFacts) -> Iterable[Finding]:
    why = facts.decision.message if facts.decision is not None else "its whole run must be funded again"
    text = f"stopped when the account's money for it ended; runs again by itself after a deposit: {why}"
    return (
        Finding("Admitted", "False", UNFUNDED, text),
        Finding("Placed", "False", UNFUNDED, text),
        Finding("Running", "False", UNFUNDED, text),
    )


def _pending(facts: JobFacts) -> Iterable[Finding]:
    decision = facts.decision
    if waits_for_money(facts):
        return _stopped_for_money(facts)
    step, newest = facts.next_step, facts.newest
    running = Finding("Running", "False", ConditionReason.NOT_PLACED)
    if step is not None and newest is not None and failed(newest.outcome):
        told = _told_before(facts, "Running", newest.outcome)
        text = told or f"{attempt_failed(facts)}; {retries_used(step)}"
        running = Finding("Running", "False", newest.outcome, text)
    moved = _moved(facts)
    if moved:
        running = Finding("Running", "False", facts.attempts[-1].outcome, moved)
    if decision is None and (resumes := resumes_at(facts)) is not None:
        text = (
            f"{unstarted(facts)} attempts in a row could not be started, the last one as {facts.attempts[-1].outcome}; "
            f"the next one is at {resumes:%Y-%m-%dT%H:%M:%SZ}, and after {MOST_REFUSED} refused ones the job fails; "
            "its Events have more"
        )
        return (
            Finding("Admitted", "True", ConditionReason.ADMITTED),
            Finding("Placed", "False", ConditionReason.START_REFUSED, text),
            running,
        )
    if decision is None or decision.chosen is not None:
        text = moved or "waiting for the next placement pass"
        return (
            Finding("Admitted", "True", ConditionReason.ADMITTED),
            Finding("Placed", "False", ConditionReason.QUEUED, text),
            running,
        )
    word = _word(decision)
    admitted = Finding("Admitted", "True", ConditionReason.ADMITTED)
    if word in (ConditionReason.UNFUNDED, ConditionReason.OVER_BUDGET):
        admitted = Finding("Admitted", "False", word, decision.message)
    return (admitted, Finding("Placed", "False", word, decision.message), running)


def _moved(facts: JobFacts) -> str:
    """What becomes of a job that was stopped to be placed again; empty unless that is how its newest attempt ended."""
    newest, lease = facts.newest, facts.lease
    if newest is None or newest.outcome not in MOVED:
        return ""
    if told := _told_before(facts, "Running", newest.outcome):
        return told
    why = move_reason(newest.outcome, lease.spec.move if lease is not None else None)
    return f"stopped at {newest.terms.provider} to be placed again: {why}; waiting for the next placement pass"


_STOPPED_FOR: Final[Mapping[str, str]] = {
    SUSPENDED: "spec.suspend is set",
    DEADLINE: "spec.deadline has passed",
    UNFUNDED: "the account's money for it has ended",
}


def _stopping(lease: ComputeLease) -> Finding:
    """`Running` of an attempt that the hub stops, until its last usage is billed."""
    reason = lease.spec.stop_reason
    why = _STOPPED_FOR.get(reason) or move_reason(reason, lease.spec.move) or reason
    if lease.status.ended:
        text = f"the workload was stopped: {why}; its last usage is being billed"
        return Finding("Running", "False", ConditionReason.STOPPED, text)
    running = find(lease.status.conditions, "Running")
    text = f"the workload is being stopped: {why}"
    if lease.spec.stop_requested_at is not None:
        until = lease.spec.stop_requested_at + timedelta(seconds=lease.spec.grace_seconds)
        text = f"{text}; its grace period of {lease.spec.grace_seconds} s runs until {until:%Y-%m-%dT%H:%M:%SZ}"
    return Finding("Running", running.status if running is not None else "False", ConditionReason.STOPPING, text)


def _active(facts: JobFacts) -> Iterable[Finding]:
    found = [Finding("Admitted", "True", ConditionReason.ADMITTED), _placed(facts)]
    lease = facts.lease
    if (
        lease is not None
        and lease.spec.desired == "Stop"
        and lease_state(lease.status.conditions) not in ("Succeeded", "Failed")
    ):
        return [*found, _stopping(lease)]
    running = find(lease.status.conditions, "Running") if lease is not None else None
    suspended = find(lease.status.conditions, "Suspended") if lease is not None else None
    if suspended is not None and lease is not None and lease.status.suspended:
        found.append(Finding("Running", "False", suspended.reason, suspended.message))
    elif running is None or running.reason == ConditionReason.WAITING:
        # That the member took it is said on the lease; here it would be one more write for each job.
        found.append(
            Finding(
                "Running", "False", ConditionReason.DISPATCHING, "handed to the member; nothing has started there yet"
            )
        )
    else:
        told = words(lease) if lease is not None else ""
        found.append(Finding("Running", running.status, running.reason, told or running.message))
    return found


def _finished(facts: JobFacts) -> Iterable[Finding]:
    newest, lease = facts.newest, facts.lease
    outcome = newest.outcome if newest is not None else ""
    detail = lease.status.exit_message if lease is not None else ""
    found = [_placed(facts), Finding("Running", "False", ConditionReason.ENDED, "the workload has ended")]
    if told := _told_before(facts, "Complete" if outcome == SUCCEEDED else "Failed", outcome):
        return [*found, Finding("Complete" if outcome == SUCCEEDED else "Failed", "True", outcome, told)]
    if outcome == SUCCEEDED:
        return [*found, Finding("Complete", "True", SUCCEEDED, detail or "every replica succeeded")]
    if outcome == DEADLINE:
        detail = (
            "spec.deadline passed while the job ran: its workload was stopped and is not started again; "
            "what ran stays billed"
        )
    if outcome in UNSTARTED:
        detail = f"{unstarted(facts)} attempts in a row could not be started; the job's Events say what was refused"
    step = facts.next_step
    if step is not None and step.retry is not None and step.limit:
        tries = len(facts.attempts)
        detail = f"{cut(detail, MAX_MESSAGE - 128)}; {retries_used(step)}, {tries} tries in all".removeprefix("; ")
    return [*found, Finding("Failed", "True", outcome, detail)]


_FINDINGS: Final[Mapping[Phase, Callable[[JobFacts], Iterable[Finding]]]] = {
    Phase.DELETING: _deleting,
    Phase.INVALID: _invalid,
    Phase.ACTIVE: _active,
    Phase.FINISHED: _finished,
    Phase.EXPIRED: _expired,
    Phase.SUSPENDED: _suspended,
    Phase.DRY_RUN: _dry_run,
    Phase.PENDING: _pending,
}


def _word(decision: Decision) -> str:
    return decision.reason if decision.reason is not None else ConditionReason.NO_ELIGIBLE_PROVIDER


def _where(verdict: Verdict) -> str:
    return f"{verdict.provider} ({verdict.product}) at {format_usd(verdict.price)} USD per GPU-hour"


def _placed(facts: JobFacts) -> Finding:
    if facts.decision is not None and facts.decision.chosen is not None:
        return Finding("Placed", "True", ConditionReason.PLACED, placed_message(facts.decision))
    known = find(facts.job.status.conditions, "Placed")
    if known is not None and known.status == "True":
        return Finding("Placed", "True", known.reason, known.message)
    terms = facts.attempts[-1].terms
    return Finding(
        "Placed",
        "True",
        ConditionReason.PLACED,
        f"{terms.provider} ({terms.product}) at {format_usd(terms.price)} USD per GPU-hour",
    )


def placed_message(decision: Decision) -> str:
    """Where and why there, in one sentence."""
    chosen = decision.chosen
    if chosen is None:
        return decision.message
    refused = f"; {decision.total - decision.fits} refused" if decision.total > decision.fits else ""
    text = (
        f"{_where(chosen)}: least effective price {format_usd(chosen.effective_price)} of {decision.fits} that fit"
        f"{refused}"
    )
    best = next(iter(decision.verdicts[:1]), chosen)
    rivals = best.eligible and best.effective_price < chosen.effective_price
    return f"{text} (cheaper ones went to jobs that gain more)" if rivals else text


def _placement(facts: JobFacts, newest: Attempt | None) -> PlacementStatus | None:
    if newest is None:
        return None
    known, terms = facts.job.status.placement, newest.terms
    if known is not None and known.lease == newest.lease_name:
        return known
    chosen = facts.decision.chosen if facts.decision is not None else None
    return PlacementStatus(
        provider=terms.provider,
        product=terms.product,
        lease=newest.lease_name,
        attempt=newest.attempt,
        price=format_usd(terms.price),
        effective_price=_usd(chosen.effective_price if chosen is not None else terms.price),
        law=LAW_DATE,
        placed_at=newest.created_at.replace(microsecond=0),
        priority=known.priority if known is not None and known.priority is not None else facts.priority,
        policies=list(facts.decision.policies[:64]) if facts.decision is not None else [],
    )


def _candidate(verdict: Verdict) -> Candidate:
    return Candidate(
        provider=verdict.provider,
        product=verdict.product,
        eligible=verdict.eligible,
        reason=verdict.reason or "",
        message=verdict.message[:256],
        price=_usd(verdict.price),
        effective_price=_usd(verdict.effective_price),
        components={name: _usd(amount) for name, amount in verdict.components.items() if amount},
        cost=_usd(verdict.cost),
        latency_ms=None if verdict.latency_ms is None else round(verdict.latency_ms, 1),
        latency_source=verdict.latency_source,
        latency_measured_at=verdict.latency_measured_at,
        score=verdict.score,
    )


def _newest_cover(facts: JobFacts) -> Coverage | None:
    covered = [cover for cover in facts.coverage if cover.epoch is not None]
    return max(covered, key=lambda cover: cover.epoch or 0) if covered else None


def _settled(facts: JobFacts, *, settlement: bool) -> Finding:
    newest = facts.newest
    if not settlement:
        return Finding(
            "Settled", "False", ConditionReason.SETTLEMENT_DISABLED, "this hub meters and does not pay on chain"
        )
    if newest is None or newest.is_open:
        return Finding(
            "Settled", "False", ConditionReason.NOT_FINISHED, "settled once the attempt has ended and its epoch is paid"
        )
    if not facts.cost:
        return Finding("Settled", "True", ConditionReason.NOTHING_TO_PAY, "what was used costs nothing")
    if any(not cover.complete for cover in facts.coverage) or not facts.coverage:
        return Finding(
            "Settled",
            "False",
            ConditionReason.AWAITING_EPOCH,
            "the charge is in the ledger and waits for the next epoch",
        )
    stages = {cover.stage for cover in facts.coverage if cover.gpu_seconds}
    if stages == {EpochStage.PAID}:
        return Finding("Settled", "True", ConditionReason.PAID, "paid on chain, read back at finalized")
    if EpochStage.PREPARED in stages or EpochStage.POSTED in stages:
        return Finding("Settled", "False", ConditionReason.AWAITING_FINALITY, "the epoch is not final on chain yet")
    return Finding(
        "Settled",
        "False",
        ConditionReason.AWAITING_PAYMENT,
        "the epoch is final; its challenge window or the claim is open",
    )


def _settlement(facts: JobFacts, transactions: Mapping[int, tuple[str, str]]) -> SettlementStatus | None:
    cover = _newest_cover(facts)
    if cover is None or cover.epoch is None:
        return None
    known = facts.job.status.settlement
    if known is not None and known.epoch == cover.epoch and cover.epoch not in transactions:
        return known
    post, claim = transactions.get(cover.epoch, ("", ""))
    return SettlementStatus(epoch=cover.epoch, post_transaction=post, claim_transaction=claim)


def is_settled(status: ComputeJobStatus) -> bool:
    """Whether nothing of this job is left to pay."""
    return is_true(status.conditions, "Settled")
