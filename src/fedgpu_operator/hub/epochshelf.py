"""Which epochs the hub still shows: deletes the object and the manifest of those that are over for everybody.

The ledger keeps both for good, and the chain keeps the root: what is deleted here is the copy that people look at.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from fedgpu_operator.api.settlementepoch import SettlementEpoch
from fedgpu_operator.domain.books import Epoch, EpochStage
from fedgpu_operator.domain.settlement import ChainSnapshot, EpochState
from fedgpu_operator.domain.terms import EscrowPeriods
from fedgpu_operator.errors import ChainError, ConflictError, ForbiddenError
from fedgpu_operator.hub.epochstatus import EPOCHS
from fedgpu_operator.hub.manifests import withdraw_manifest
from fedgpu_operator.hub.settlement import LOOKED_AT
from fedgpu_operator.hub.store import load_all
from fedgpu_operator.ports import Clock, Escrow, Kube, Ledger

log = logging.getLogger(__name__)

EVERY: Final = timedelta(minutes=10)
"""Between two looks."""
MOST_PER_LOOK: Final = 100
"""Epochs that one look asks the chain for."""
_ENDED: Final = frozenset({"Paid", "Cancelled"})
"""States of a SettlementEpoch that no step follows; the chart's admission policy holds the operator to them."""
_STOOD: Final = frozenset({EpochStage.PAID, EpochStage.CANCELLED, EpochStage.SUPERSEDED})


class EpochShelf:
    """Deletes what is over; `keep` is how many seconds after its period an epoch is shown at least.

    The newest LOOKED_AT epochs of the ledger always stay: the settlement loop shows them again after a restart.
    """

    def __init__(
        self, kube: Kube, ledger: Ledger, escrow: Escrow, clock: Clock, *, namespace: str, keep: float
    ) -> None:
        self._kube = kube
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
            if shown.status.state in _ENDED
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
        spec, meta = shown.spec, shown.metadata
        await withdraw_manifest(self._kube, self._namespace, spec.sequence, spec.manifest_hash)
        await self._kube.delete(EPOCHS, meta.name, uid=meta.uid, resource_version=meta.resource_version)
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
