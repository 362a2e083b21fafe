"""Opens attempts in the ledger, those asked for at the same time in one transaction: one commit for many jobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime

from fedgpu_operator.domain.books import Attempt, AttemptRequest
from fedgpu_operator.errors import LedgerError
from fedgpu_operator.ports import Clock, Ledger

log = logging.getLogger(__name__)


class Opener:
    """While one transaction runs, the requests that come meanwhile gather for the next one."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._waiting: list[tuple[AttemptRequest, asyncio.Future[tuple[Attempt, datetime]]]] = []
        self._work: asyncio.Task[None] | None = None

    async def open(self, request: AttemptRequest) -> tuple[Attempt, bool]:
        """The ledger's attempt for this request, and whether it was opened just now; raises LedgerError."""
        answer: asyncio.Future[tuple[Attempt, datetime]] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write())
        attempt, at = await answer
        return attempt, attempt == Attempt(request, attempt.attempt, at)

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            now = self._clock.now()
            found: Sequence[Attempt | Exception]
            try:
                found = await self._ledger.open_many([request for request, _ in batch], now)
            except LedgerError as error:
                found = (error,) * len(batch)
            except Exception as error:
                # One of ours is for those who asked, too: cancelled, they would take their loop along.
                log.exception("%d attempts could not be opened", len(batch))
                found = (error,) * len(batch)
            except BaseException:
                for _, answer in (*batch, *self._waiting):
                    answer.cancel()
                raise
            for (_, answer), each in zip(batch, found, strict=True):
                if answer.done():
                    continue
                if isinstance(each, Exception):
                    answer.set_exception(each)
                else:
                    answer.set_result((each, now))
