"""Attempts are handed out once, at most one open at a time, and end once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.ledgers import attempts_of, current_attempt, open_attempt

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.attempts import Attempt, AttemptRequest, Stop
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import LedgerError

Ask = Callable[..., AttemptRequest]


async def test_the_same_request_gets_the_same_attempt_with_its_first_terms(
    ledger: SqlLedger, ask: Ask, now: datetime
) -> None:
    first = await open_attempt(ledger, ask(), now)
    assert first == Attempt(ask(), 1, now)
    assert first.lease_name == "job-1"
    again = await open_attempt(ledger, ask(provider="paris", price=MicroUSD(9)), now + timedelta(hours=1))
    assert again == first
    assert await current_attempt(ledger, "job") == first


async def test_no_second_attempt_while_one_is_open(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    await open_attempt(ledger, ask(), now)
    with pytest.raises(LedgerError, match="job-1"):
        await open_attempt(ledger, ask(request_id="placement-2"), now)
    await ledger.end_attempt("job-1", "Fenced", now)
    second = await open_attempt(ledger, ask(request_id="placement-2", provider="paris"), now)
    assert (second.attempt, second.terms.provider) == (2, "paris")
    assert [a.attempt for a in await attempts_of(ledger, "job")] == [1, 2]


async def test_an_old_request_after_the_end_comes_back_ended_and_opens_nothing(
    ledger: SqlLedger, ask: Ask, now: datetime
) -> None:
    await open_attempt(ledger, ask(), now)
    ended = await ledger.end_attempt("job-1", "Succeeded", now)
    assert await open_attempt(ledger, ask(), now) == ended
    assert not ended.is_open
    assert await current_attempt(ledger, "job") is None


async def test_an_attempt_is_stopped_once_and_keeps_why_and_when(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    opened = await open_attempt(ledger, ask(), now)
    assert opened.stop is None
    stopped = await ledger.stop_attempt("job-1", "Suspended", now)
    assert stopped.stop == Stop("Suspended", now)
    assert stopped.is_open, "it has not ended yet"
    assert await ledger.stop_attempt("job-1", "Deleted", now + timedelta(hours=1)) == stopped
    assert await current_attempt(ledger, "job") == stopped
    ended = await ledger.end_attempt("job-1", "Suspended", now)
    assert ended.stop == Stop("Suspended", now)
    for name, reason in (("job-9", "Deleted"), ("job-1", "")):
        with pytest.raises(LedgerError, match=name):
            await ledger.stop_attempt(name, reason, now)


async def test_an_attempt_that_has_ended_is_not_stopped_any_more(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    await open_attempt(ledger, ask(), now)
    ended = await ledger.end_attempt("job-1", "Succeeded", now)
    assert await ledger.stop_attempt("job-1", "Deleted", now) == ended


async def test_an_attempt_ends_once(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    await open_attempt(ledger, ask(), now)
    ended = await ledger.end_attempt("job-1", "Succeeded", now)
    assert (ended.ended_at, ended.outcome) == (now, "Succeeded")
    assert await ledger.end_attempt("job-1", "Succeeded", now + timedelta(hours=1)) == ended
    with pytest.raises(LedgerError, match="Succeeded"):
        await ledger.end_attempt("job-1", "Failed", now)
    with pytest.raises(LedgerError, match="outcome"):
        await ledger.end_attempt("job-1", "", now)
    with pytest.raises(LedgerError, match="job-9"):
        await ledger.end_attempt("job-9", "Failed", now)


async def test_open_attempts_are_found_with_what_they_used(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    for job, delay in (("late", 2), ("done", 1), ("early", 0)):
        await open_attempt(ledger, ask(job_uid=job), now + timedelta(seconds=delay))
    await ledger.record_usage("late-1", 1, 40, now)
    await ledger.end_attempt("done-1", "Succeeded", now)
    found = await ledger.open_attempts()
    assert [(usage.attempt.lease_name, usage.gpu_seconds) for usage in found] == [("early-1", 0), ("late-1", 40)]


async def test_nonsense_and_instants_without_a_zone_are_refused(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    for request in (ask(gpus=0), ask(price=-1), ask(run_limit=0), ask(price=2**70)):
        with pytest.raises(LedgerError):
            await open_attempt(ledger, request, now)
    with pytest.raises(LedgerError, match="time zone"):
        await open_attempt(ledger, ask(), now.replace(tzinfo=None))
    assert await attempts_of(ledger, "job") == ()


async def test_two_operators_asking_at_once_never_open_two_attempts(path: Path, ask: Ask, now: datetime) -> None:
    async with await SqlLedger.open(path) as one, await SqlLedger.open(path) as two:
        calls = [
            open_attempt(holder, ask(request_id=f"placement-{n}"), now) for n in range(10) for holder in (one, two)
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        opened = {answer for answer in answers if isinstance(answer, Attempt)}
        assert len(opened) == 1
        assert all(isinstance(answer, Attempt | LedgerError) for answer in answers)
        assert await attempts_of(one, "job") == tuple(opened)


async def test_many_are_opened_in_one_transaction_and_a_refusal_of_one_is_its_own(
    ledger: SqlLedger, ask: Ask, now: datetime
) -> None:
    first = await open_attempt(ledger, ask(), now)
    later = now + timedelta(hours=1)
    asked = [ask(job_uid="other"), ask(request_id="placement-2"), ask(), ask(job_uid="third")]
    opened, refused, again, third = await ledger.open_many(asked, later)
    assert opened == Attempt(asked[0], 1, later)
    assert isinstance(refused, LedgerError)
    assert again == first
    assert third == Attempt(asked[3], 1, later)
    assert {entry.attempt.lease_name for entry in await ledger.open_attempts()} == {"job-1", "other-1", "third-1"}
    for tenant in {entry.attempt.terms.tenant for entry in await ledger.open_attempts()}:
        theirs = [entry for entry in await ledger.open_attempts() if entry.attempt.terms.tenant == tenant]
        assert list(await ledger.open_attempts(tenant)) == theirs
    assert await ledger.open_attempts("nobody") == ()


async def test_histories_of_many_jobs_are_those_of_each(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    for uid in ("a", "b"):
        await open_attempt(ledger, ask(job_uid=uid), now)
        await ledger.record_usage(f"{uid}-1", 1, 7, now)
    await ledger.end_attempt("a-1", "Suspended", now)
    await open_attempt(ledger, ask(job_uid="a", request_id="after-1"), now + timedelta(hours=1))
    found = await ledger.histories([*(f"none-{index}" for index in range(1200)), "a", "b"])
    assert {
        uid: [(e.attempt.attempt, e.gpu_seconds, e.sequence) for e in entries] for uid, entries in found.items()
    } == {
        "a": [(1, 7, 1), (2, 0, 0)],
        "b": [(1, 7, 1)],
    }
