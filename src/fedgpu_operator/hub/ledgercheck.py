"""Holds back what would open an attempt, an epoch or a receipt until the ledger is known to be as new as the world."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Final

from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.conditions import Finding, merge
from fedgpu_operator.errors import ChainError, LedgerUnreachableError
from fedgpu_operator.hub.gaps import Gap, Place, compare, compare_chain, without_accepted
from fedgpu_operator.hub.loop import Pass
from fedgpu_operator.hub.store import load_all
from fedgpu_operator.hub.write import for_each, one_of_many, write_status
from fedgpu_operator.ports import Clock, Escrow, Kube, Ledger, Metrics

log = logging.getLogger(__name__)

LEDGER_BEHIND: Final = "LedgerBehind"
AGAIN: Final = timedelta(seconds=10)
"""Between two comparisons while there are gaps, or while the chain does not answer."""
FIX: Final = "an older backup? `fedgpu ledger check` lists what it lacks, docs/ledger.md says what to do"


class LedgerCheck:
    """Compares at the start, and after the connection that writes was made again; `gaps` are what was found last."""

    def __init__(
        self, kube: Kube, ledger: Ledger, clock: Clock, metrics: Metrics, *, namespace: str, escrow: Escrow | None
    ) -> None:
        self._kube, self._ledger, self._clock, self._metrics = kube, ledger, clock, metrics
        self._namespace, self._escrow = namespace, escrow
        self._lock = asyncio.Lock()
        self._compared: int | None = None
        """The ledger's session that was compared with the hub."""
        self._chain_compared: int | None = None
        self._again: datetime | None = None
        self._unpaid: tuple[Gap, ...] = ()
        self.gaps: tuple[Gap, ...] = ()

    @property
    def behind(self) -> bool:
        """Whether nothing may be opened: there are gaps, or it is not known whether there are."""
        return bool(self.gaps) or self._compared != self._ledger.session

    @property
    def settles(self) -> bool:
        """Whether an epoch may be begun or sent: the chain was compared as well."""
        return not self.behind and (self._escrow is None or self._chain_compared == self._ledger.session)

    async def look(self) -> None:
        """Compare if that is due; costs nothing otherwise. Raises the KubeError tree and LedgerError.

        A ledger that does not answer ends the pass here, and not for each of its objects.
        """
        if self._ledger.silent:
            raise LedgerUnreachableError("the ledger does not answer")
        async with self._lock:
            if self._is_due():
                await self._compare()

    def held_back(self, pass_once: Pass) -> Pass:
        """That pass once the ledger is not behind; before that it is left out."""

        async def held() -> float | None:
            await self.look()
            return AGAIN.total_seconds() if self.behind else await pass_once()

        return held

    def jobs_held_back(self, pass_once: Pass) -> Pass:
        """As `held_back`, and jobs that wait say why. What runs is left alone: its readings wait on the leases."""

        async def held() -> float | None:
            await self.look()
            if not self.behind:
                return await pass_once()
            await self._tell_jobs()
            return AGAIN.total_seconds()

        return held

    def looked_at(self, pass_once: Pass) -> Pass:
        """That pass in any case, after a look: for one that asks `settles` before it begins anything."""

        async def looked() -> float | None:
            await self.look()
            return await pass_once()

        return looked

    def trouble(self) -> str:
        """What readiness reports; empty if the ledger is as new as the world."""
        if self._compared is None:
            return "the ledger was not compared with the hub yet"
        return f"{LEDGER_BEHIND}: {len(self.gaps)} gaps, the first: {self.gaps[0].text}" if self.gaps else ""

    def _is_due(self) -> bool:
        session = self._ledger.session
        if self._compared != session:
            return True
        waits = bool(self.gaps) or (self._escrow is not None and self._chain_compared != session)
        return waits and (self._again is None or self._clock.now() >= self._again)

    async def _compare(self) -> None:
        session = self._ledger.session
        escrow = self._escrow
        place = Place(escrow.chain_id, str(escrow.escrow)) if escrow is not None else None
        found = await compare(self._kube, self._ledger, self._namespace, place)
        found += await self._compare_chain(session)
        if found != self.gaps:
            self._report(found)
        self.gaps, self._compared, self._again = found, session, self._clock.now() + AGAIN
        self._metrics.ledger_gaps(len(found))
        self._ledger.compared(session)

    async def _compare_chain(self, session: int) -> tuple[Gap, ...]:
        """What the chain shows; what it showed last, while it does not answer: computing does not wait for it."""
        if self._escrow is None:
            return ()
        try:
            found = await compare_chain(self._ledger, self._escrow)
        except ChainError as error:
            log.info("the ledger cannot be compared with the chain now: %s", error)
            return self._unpaid
        self._unpaid = await without_accepted(self._kube, self._namespace, found)
        self._chain_compared = session
        return self._unpaid

    def _report(self, found: tuple[Gap, ...]) -> None:
        if not found:
            log.warning("the ledger holds what hub and chain show again: attempts, epochs and receipts are opened")
            return
        log.error("the ledger is older than the world (%d gaps): nothing is opened; %s", len(found), FIX)
        for gap in found:
            log.error("ledger gap %s: %s", gap.id, gap.text)

    async def _tell_jobs(self) -> None:
        """Every job that waits for a place says that it waits for the ledger."""
        text = f"the ledger is older than this hub: nothing is placed before it is reconciled; {FIX}"
        finding = Finding("Placed", "False", LEDGER_BEHIND, text)

        async def tell(job: ComputeJob) -> None:
            generation = job.metadata.generation
            conditions = merge(job.status.conditions, [finding], generation=generation, now=self._clock.now())
            update = {"conditions": conditions, "reason": LEDGER_BEHIND, "state": "Pending"}
            with one_of_many(job):
                await write_status(self._kube, job, job.status, job.status.model_copy(update=update))

        jobs = await load_all(self._kube, ComputeJob)
        await for_each(
            tell, [job for job in jobs if job.status.state == "Pending" and not job.metadata.deletion_timestamp]
        )
