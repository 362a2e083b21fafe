"""The retention loop: deletes leases of ended attempts, jobs past their TTL, and epochs that are over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from fedgpu_operator.api.base import find, is_true
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.api.settlementepoch import SettlementEpoch
from fedgpu_operator.domain.attempts import AttemptUsage, Stop
from fedgpu_operator.domain.settlement import ChainSnapshot, Coverage, Epoch, EpochStage, EpochState
from fedgpu_operator.domain.terms import EscrowPeriods
from fedgpu_operator.errors import ChainError, ConflictError, ForbiddenError
from fedgpu_operator.hub.loops.settlement import LOOKED_AT
from fedgpu_operator.hub.services.attempts import is_cleared
from fedgpu_operator.hub.services.epochs import withdraw_manifest
from fedgpu_operator.hub.services.hubstate import load_all
from fedgpu_operator.hub.services.writes import Writers, for_each, one_of_many
from fedgpu_operator.ports import Clock, EpochBook, Escrow, Kube, Ledger

log = logging.getLogger(__name__)


EVERY: Final = timedelta(minutes=10)
"""Between two looks."""
MOST_PER_LOOK: Final = 100
"""Epochs that one look asks the chain for."""
"""States of a SettlementEpoch that no step follows; the chart's admission policy holds the operator to them."""
_STOOD: Final = frozenset({EpochStage.PAID, EpochStage.CANCELLED, EpochStage.SUPERSEDED})


class EpochShelf:
    """Deletes what is over; `keep` is how many seconds after its period an epoch is shown at least.

    The newest LOOKED_AT epochs of the ledger always stay: the settlement loop shows them again after a restart.
    """

    def __init__(
        self,
        kube: Kube,
        writers: Writers,
        ledger: EpochBook,
        escrow: Escrow,
        clock: Clock,
        *,
        namespace: str,
        keep: float,
    ) -> None:
        self._kube = kube
        self._writer = writers.epochs
        self._ledger = ledger
        self._escrow = escrow
        self._clock = clock
        self._namespace = namespace
        self._keep = timedelta(seconds=keep)
        self._next = clock.now()
        self._seen = 0
        """The newest epoch that the last look asked the chain for; 0 once it came to the end: the next begins again."""
        self._forbidden = False
        """Whether that was logged."""

    async def tidy(self) -> float:
        """One look, if it is time for one; seconds until the next. A chain that does not answer puts it off."""
        now = self._clock.now()
        if now < self._next:
            return (self._next - now).total_seconds()
        self._next = now + EVERY
        old = await self._old(now)
        try:
            some = [shown for shown in old if shown.spec.sequence > self._seen][:MOST_PER_LOOK]
            over = await self._over(some, now)
        except ChainError as error:
            log.info("old epochs stay on the hub for now: %s", error)
            return EVERY.total_seconds()
        # Some may never be over: the next look goes on behind them.
        self._seen = some[-1].spec.sequence if len(some) == MOST_PER_LOOK else 0
        try:
            for shown in over:
                await self._delete(shown)
        except ConflictError as error:
            log.debug("epochs: %s; next look", error)
        except ForbiddenError as error:
            if not self._forbidden:
                log.warning(
                    "old epochs stay on the hub without the right that rbac.confineByAdmission gives: %s", error
                )
            self._forbidden = True
            return EVERY.total_seconds()
        if len(over) == MOST_PER_LOOK:
            self._next = now
            return 1.0
        return EVERY.total_seconds()

    async def _old(self, now: datetime) -> list[SettlementEpoch]:
        """Epochs of this escrow that have ended, are archived, and were shown for long enough; oldest first."""
        newest = next(iter(await self._ledger.epoch_headers(limit=1)), None)
        if newest is None:
            return []
        most = min(newest.number - LOOKED_AT, await self._ledger.archived_until())
        contract = self._escrow.escrow.lower()
        found = [
            shown
            for shown in await load_all(self._kube, SettlementEpoch)
            if shown.status.ended
            and (shown.spec.chain_id, shown.spec.contract.lower()) == (self._escrow.chain_id, contract)
            and shown.spec.sequence <= most
            and shown.spec.period_end + self._keep <= now
        ]
        return sorted(found, key=lambda shown: shown.spec.sequence)

    async def _over(self, old: Sequence[SettlementEpoch], now: datetime) -> list[SettlementEpoch]:
        """Those that are over by ledger and finalized chain; raises ChainError."""
        if not old:
            return []
        periods, chain = await self._escrow.periods(), await self._escrow.snapshot((), ())
        found = []
        for shown in old:
            epoch = await self._ledger.epoch(shown.spec.sequence)
            if epoch is None or epoch.draft.manifest_hash != shown.spec.manifest_hash:
                # Of a ledger that began again: this one cannot tell what became of it.
                continue
            state = await self._escrow.finalized_epoch(epoch.chain_epoch) if epoch.chain_epoch else None
            if is_over(epoch, state, chain, periods, now):
                found.append(shown)
        return found

    async def _delete(self, shown: SettlementEpoch) -> None:
        """The manifest first: an object that is still there says that there is something left to do."""
        spec = shown.spec
        await withdraw_manifest(self._kube, self._namespace, spec.sequence, spec.manifest_hash)
        await self._writer.delete(shown)
        log.info("epoch %d is no longer shown on the hub; the ledger keeps it", spec.sequence)


def is_over(
    epoch: Epoch, state: EpochState | None, chain: ChainSnapshot, periods: EscrowPeriods, now: datetime
) -> bool:
    """Whether nobody can challenge, rule on, claim, or exit from the epoch any more; pure.

    `state` is the contract's epoch at finalized, None for one that never had a number there. Its windows run on the
    settlement clock: the challenge ends as it becomes active, the ruling follows; an exit on a receipt of its period
    can begin EXIT_AFTER that period's end, be challenged for CHALLENGE and ruled on for RULING.
    """
    after = periods.exit_after + periods.challenge + periods.ruling
    if epoch.stage is EpochStage.ABANDONED:
        return epoch.chain_epoch is None and epoch.created_at + timedelta(seconds=after) <= now
    if epoch.stage not in _STOOD or state is None or state.root != epoch.draft.root or not state.active_at:
        return False
    if not state.cancelled and state.number >= min(chain.active_epoch, chain.head_epoch):
        # It can be claimed, or the next one is built on it.
        return False
    return chain.clock >= max(state.active_at + periods.ruling, state.period_end + after)


MOST_PER_PASS: Final = 500
"""Objects of a kind that one pass changes: a hub that was upgraded with a year of them must not hold up the others."""
SOON_SECONDS: Final = 1.0
"""Until the next pass, if this one left something over."""
COVERAGE_AGAIN: Final = timedelta(minutes=5)
"""Between two looks into the ledger for one lease whose usage waits for an epoch."""
FORBIDDEN_AGAIN: Final = timedelta(minutes=30)
"""Before a deletion is tried again that the API server did not allow."""
SETTLED_STAGES: Final = frozenset({EpochStage.FINALIZED, EpochStage.PAID})


class Housekeeping(Protocol):
    """What else is tidied up by this loop, after jobs and leases."""

    async def tidy(self) -> float:
        """One look; seconds until the next one is due."""
        ...


class RetentionLoop:
    """Load → see what is due → remove. `keep` is how many seconds a lease and its member Job stay after their attempt.

    `settlement` is whether work is paid on chain, `shelf` keeps the objects of epochs.
    """

    def __init__(
        self,
        kube: Kube,
        writers: Writers,
        ledger: Ledger,
        clock: Clock,
        *,
        settlement: bool,
        keep: float,
        shelf: Housekeeping | None,
    ) -> None:
        self._kube = kube
        self._jobs, self._leases = writers.jobs, writers.leases
        self._ledger = ledger
        self._clock = clock
        self._settlement = settlement
        self._keep = timedelta(seconds=keep)
        self._shelf = shelf
        self._ended: dict[str, AttemptUsage] = {}
        """By lease name, attempts that have ended; usage that came late is looked for before a lease is released."""
        self._uncovered: dict[str, datetime] = {}
        """By lease name, when to look again for an epoch that covers it."""
        self._forbidden: dict[str, datetime] = {}
        """By job uid, when to try again a deletion that was refused."""

    async def pass_once(self) -> float | None:
        """Remove what is due now, a bounded number of objects; seconds until the next is due, None for whenever."""
        jobs, leases, providers = await asyncio.gather(
            load_all(self._kube, ComputeJob), load_all(self._kube, ComputeLease), load_all(self._kube, GPUProvider)
        )
        due = await self._expire(jobs)
        due += await self._release(leases, {provider.metadata.name for provider in providers})
        if self._shelf is not None:
            due.append(await self._shelf.tidy())
        return min(due, default=None)

    # ---- jobs

    async def _expire(self, jobs: Iterable[ComputeJob]) -> list[float]:
        """Delete the jobs whose TTL is over; seconds until the next ones."""
        now = self._clock.now()
        over, ahead = [], []
        for job in jobs:
            at = deleted_at(job)
            if at is None:
                continue
            at = max(at, self._forbidden.get(job.metadata.uid, at))
            if at <= now:
                over.append(job)
            else:
                ahead.append((at - now).total_seconds())
        self._forbidden = {uid: at for uid, at in self._forbidden.items() if at > now}
        await for_each(self._delete_job, over[:MOST_PER_PASS])
        if len(over) > MOST_PER_PASS:
            ahead.append(SOON_SECONDS)
        return ahead

    async def _delete_job(self, job: ComputeJob) -> None:
        with one_of_many(job):
            try:
                await self._jobs.delete(job)
            except ForbiddenError as error:
                self._forbidden[job.metadata.uid] = self._clock.now() + FORBIDDEN_AGAIN
                log.warning("job %s is past its ttlSecondsAfterFinished and cannot be deleted: %s", job.key, error)
                text = (
                    "spec.ttlSecondsAfterFinished is over and the operator may not delete the job: an admin enables "
                    "rbac.confineByAdmission of the chart, or deletes it"
                )
                await self._jobs.event(job, "Warning", ConditionReason.DELETION_FORBIDDEN, text)
                return
            log.info("job %s deleted: %d s after it finished", job.key, job.spec.ttl_seconds_after_finished)

    # ---- leases

    async def _release(self, leases: Collection[ComputeLease], providers: Collection[str]) -> list[float]:
        """Have the members cleared of ended attempts, and delete the leases of those that are; seconds until the next.

        An attempt whose usage waits for an epoch keeps its lease: until then the provider's agent holds receipts to it.
        """
        ended = [lease for lease in leases if lease.status.ended]
        entries = await self._entries(ended)
        now = self._clock.now()
        old, ahead = [], []
        for lease in ended:
            entry = entries.get(lease.metadata.name)
            if entry is None or entry.attempt.ended_at is None:
                continue
            left = (entry.attempt.ended_at + self._keep - now).total_seconds()
            if left > 0:
                ahead.append(left)
            elif lease.spec.desired == "Run" or is_cleared(lease) or lease.spec.provider not in providers:
                old.append(lease)
        free = await self._covered(old, now)
        await for_each(lambda lease: self._step(lease, now), free)
        if len(free) == MOST_PER_PASS:
            ahead.append(SOON_SECONDS)
        return ahead

    async def _entries(self, ended: Iterable[ComputeLease]) -> Mapping[str, AttemptUsage]:
        """What the ledger holds of these leases, as far as their attempts have ended; one query for all that is new."""
        present = {lease.metadata.name: lease.spec.job.uid for lease in ended}
        self._ended = {name: entry for name, entry in self._ended.items() if name in present}
        self._uncovered = {name: at for name, at in self._uncovered.items() if name in present}
        unknown = sorted({uid for name, uid in present.items() if name not in self._ended})
        if unknown:
            await self._learn(unknown, present)
        return self._ended

    async def _learn(self, uids: Collection[str], present: Collection[str]) -> None:
        """Read the ended attempts of these jobs, as far as their leases are present."""
        for history in (await self._ledger.histories(sorted(uids))).values():
            self._ended |= {
                entry.attempt.lease_name: entry
                for entry in history
                if entry.attempt.lease_name in present and not entry.attempt.is_open
            }

    async def _covered(self, leases: Collection[ComputeLease], now: datetime) -> list[ComputeLease]:
        """Those of which nothing waits for an epoch, at most MOST_PER_PASS of them after two queries for as many."""
        if not self._settlement:
            return list(leases)[:MOST_PER_PASS]
        # The ledger takes usage of an attempt that has ended: nothing may have been owed when it was read.
        quiet = [lease for lease in leases if not owes(self._ended[lease.metadata.name])][:MOST_PER_PASS]
        if quiet:
            await self._learn({lease.spec.job.uid for lease in quiet}, {lease.metadata.name for lease in quiet})
        free = [lease for lease in quiet if not owes(self._ended[lease.metadata.name])]
        asked: list[ComputeLease] = []
        for lease in leases:
            name = lease.metadata.name
            waits = owes(self._ended[name]) and self._uncovered.get(name, now) <= now
            if waits and len(asked) < MOST_PER_PASS:
                asked.append(lease)
        if asked:
            coverages = await self._ledger.coverages([lease.metadata.name for lease in asked])
            for lease in asked:
                if is_covered(coverages[lease.metadata.name]):
                    free.append(lease)
                else:
                    self._uncovered[lease.metadata.name] = now + COVERAGE_AGAIN
        return free[:MOST_PER_PASS]

    async def _step(self, lease: ComputeLease, now: datetime) -> None:
        """First the tombstone, by which the agent clears the member; the lease goes when the agent has said so."""
        with one_of_many(lease):
            if lease.spec.desired == "Run":
                await self._leases.stop(lease, Stop(ConditionReason.RETENTION_OVER, now))
            else:
                await self._leases.delete(lease)


def deleted_at(job: ComputeJob) -> datetime | None:
    """When the job's TTL is over; None for a job without one, and for one that has not finished or been settled."""
    ttl = job.spec.ttl_seconds_after_finished
    if ttl is None or job.metadata.deletion_timestamp is not None:
        return None
    since = finished_at(job)
    return None if since is None else since + timedelta(seconds=ttl)


def finished_at(job: ComputeJob) -> datetime | None:
    """When the job came to its end by its status, and nothing of it was left to be paid; None before that.

    What cannot be admitted shows as failed too, and may be admitted later: it has not finished. The chart's admission
    policy `jobs` holds the operator to the same rule.
    """
    status = job.status
    if status.observed_generation != job.metadata.generation:
        return None
    complete, failed = find(status.conditions, "Complete"), find(status.conditions, "Failed")
    admitted, settled = find(status.conditions, "Admitted"), find(status.conditions, "Settled")
    end = complete if is_true(status.conditions, "Complete") else failed
    if end is None or end.status != "True":
        return None
    if end is failed and admitted is not None and (admitted.status, admitted.reason) == ("False", end.reason):
        return None
    if status.placement is None or (settled is not None and settled.reason == ConditionReason.SETTLEMENT_DISABLED):
        return end.last_transition_time
    if settled is None or settled.status != "True":
        return None
    return max(end.last_transition_time, settled.last_transition_time)


def owes(entry: AttemptUsage) -> bool:
    """Whether somebody is to be paid for that attempt."""
    return bool(entry.cost and entry.attempt.terms.tenant_wallet and entry.attempt.terms.provider_wallet)


def is_covered(coverage: Coverage) -> bool:
    """Whether all of a lease's usage lies in an epoch that stands on the finalized chain."""
    return coverage.complete and coverage.stage in SETTLED_STAGES
