"""Attempts are opened together; what goes wrong is told to each who asked, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import cast

import pytest

from fedgpu_operator.domain.attempts import Attempt, AttemptRequest
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import LedgerError
from fedgpu_operator.hub.services.attempts import Opener
from fedgpu_operator.ports import Clock, Ledger


def request(job: str) -> AttemptRequest:
    return AttemptRequest(job, "after-0", "team-a", job, "berlin", "H100", MicroUSD(1), 1, 3600)


class Books:
    """A ledger that does what a test planned for each transaction, once it may."""

    def __init__(self, *plan: BaseException | None) -> None:
        self.plan = list(plan)
        self.batches: list[list[str]] = []
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def open_many(self, requests: Sequence[AttemptRequest], at: datetime) -> tuple[Attempt | LedgerError, ...]:
        self.batches.append([each.job_uid for each in requests])
        self.begun.set()
        await self.go.wait()
        error = self.plan.pop(0) if self.plan else None
        if error is not None:
            raise error
        return tuple(Attempt(each, 1, at) for each in requests)


def opener(books: Books, clock: Clock) -> Opener:
    return Opener(cast("Ledger", books), clock)


async def _three(books: Books, clock: Clock) -> tuple[Opener, list[asyncio.Task[tuple[Attempt, bool]]]]:
    """One request under way, and two that wait for the next transaction."""
    made = opener(books, clock)
    tasks = [asyncio.create_task(made.open(request("a")))]
    await books.begun.wait()
    tasks += [asyncio.create_task(made.open(request(job))) for job in ("b", "c")]
    await asyncio.sleep(0)
    return made, tasks


async def test_what_comes_meanwhile_shares_the_next_transaction(clock: Clock) -> None:
    books = Books()
    _, tasks = await _three(books, clock)
    books.go.set()
    assert [fresh for _, fresh in await asyncio.gather(*tasks)] == [True, True, True]
    assert books.batches == [["a"], ["b", "c"]]


@pytest.mark.parametrize("error", [LedgerError("locked"), ZeroDivisionError("ours")])
async def test_an_error_is_told_to_who_asked_and_the_next_are_tried(clock: Clock, error: Exception) -> None:
    """Were they cancelled instead, so would be the loop that waits for them, and no error would be seen."""
    books = Books(error)
    _, tasks = await _three(books, clock)
    books.go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert found[0] is error
    assert [isinstance(each, tuple) for each in found[1:]] == [True, True]


async def test_the_end_of_the_process_leaves_nobody_waiting(clock: Clock) -> None:
    books = Books()
    made, tasks = await _three(books, clock)
    assert made._work is not None
    made._work.cancel()
    async with asyncio.timeout(5):
        found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in found] == [asyncio.CancelledError] * 3
