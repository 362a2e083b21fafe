"""Watches the coins that the settler pays gas with: figures for metrics, and a condition before they run out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf
from typing import Final

from fedgpu_operator.api.base import Finding, Status, find, merge
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.api.settlementepoch import SettlementEpoch
from fedgpu_operator.domain.settlement import Epoch
from fedgpu_operator.domain.transactions import Fees, TxState
from fedgpu_operator.errors import ChainError, InvalidResourceError, KubeError, NotFoundError
from fedgpu_operator.hub.services.costs import extent_of
from fedgpu_operator.hub.services.hubstate import load_all
from fedgpu_operator.hub.services.writes import Writers
from fedgpu_operator.hub.views.epochs import EPOCHS, names_of
from fedgpu_operator.ports import Clock, Escrow, Kube, Ledger, Metrics
from fedgpu_operator.settlement.fees import WEI
from fedgpu_operator.settlement.funding import DAY, WINDOW, Ebb, Purse, PurseLevel, burn_of, dearest, purse_of

log = logging.getLogger(__name__)


SETTLER_FUNDED: Final = "SettlerFunded"
"""On the newest SettlementEpoch: whether the settler can go on paying for gas."""
REASONS: Final[dict[PurseLevel, tuple[Status, ConditionReason]]] = {
    PurseLevel.FUNDED: ("True", ConditionReason.FUNDED),
    PurseLevel.LOW: ("False", ConditionReason.SETTLER_LOW),
    PurseLevel.EMPTY: ("False", ConditionReason.SETTLER_EMPTY),
}
REFRESH: Final = timedelta(minutes=1)
RETOLD: Final = timedelta(hours=1)
"""The figures in the condition's message are at most so old; its reason is as new as the last look."""
EPOCHS_SEEN: Final = 200
"""Epochs, newest first, whose transactions say what is spent: a week of them at one an hour."""
EPOCHS_SIZED: Final = 20
"""Of these, the newest say how large epochs are."""
RECEIPTS_PER_LOOK: Final = 20
"""Of transactions that are final: each is read once, and after a restart they are read little by little."""


@dataclass(frozen=True, slots=True)
class _Spent:
    """What the transactions of one epoch cost, in wei; `data` is the part of it that is not gas."""

    at: datetime
    fee: int
    data: int


class SettlerWatch:
    """Looks once a minute. Nothing it fails at keeps settlement from going on.

    `fee_cap` is wei per gas, `warn` the seconds of runway below which the settler counts as low.
    """

    def __init__(
        self,
        kube: Kube,
        writers: Writers,
        ledger: Ledger,
        escrow: Escrow,
        clock: Clock,
        metrics: Metrics,
        *,
        fee_cap: int,
        warn: float,
    ) -> None:
        self._kube = kube
        self._writer = writers.epochs
        self._ledger = ledger
        self._escrow = escrow
        self._clock = clock
        self._metrics = metrics
        self._fee_cap = fee_cap
        self._warn = warn
        self._ebb = Ebb()
        self._fees: dict[str, tuple[int, int]] = {}
        """By the hash of a final transaction: what it cost, and the part of that which is not gas."""
        self._looked: datetime | None = None
        self._standing: PurseLevel | None = None
        self._shown: tuple[str, str, datetime] | None = None
        """Which epoch was last marked (by manifest hash), with which reason, and when."""
        self._trouble = ""

    async def look(self) -> None:
        """Measure, log a change, and mark the newest epoch; raises LedgerError alone."""
        now, account = self._clock.now(), self._escrow.address
        if account is None or (self._looked is not None and now - self._looked < REFRESH):
            return
        self._looked = now
        epochs = await self._ledger.epochs(EPOCHS_SEEN)
        try:
            purse = await self._measure(account, epochs, now)
            self._metrics.settler(purse)
            text = message_of(purse, account, self._escrow.chain_id)
            standing = purse.standing(self._warn)
            if standing is not self._standing:
                level = logging.INFO if standing is PurseLevel.FUNDED else logging.WARNING
                log.log(level, "settler: %s: %s", REASONS[standing][1], text)
            self._standing = standing
            if epochs:
                await self._show(epochs[0], standing, text, now)
        except (ChainError, KubeError, InvalidResourceError) as error:
            if self._trouble != error.reason:
                log.warning("the settler's coins cannot be looked at or shown: %s", error)
            self._trouble = error.reason
        else:
            self._trouble = ""

    # ---------------------------------------------------------------- measuring

    async def _measure(self, account: str, epochs: Sequence[Epoch], now: datetime) -> Purse:
        view = await self._escrow.suggest_fees()
        balance = await self._escrow.balance(account)
        spent = await self._spent(epochs, now)
        since = min((each.at for each in spent), default=now)
        data = -(-sum(each.data for each in spent) // len(spent)) if spent else 0
        # The ledger's transactions are known across a restart; the balance also falls by what is not in an epoch.
        ebb = self._ebb.see(balance, dearest(view, self._fee_cap, data), now)
        burn = max(burn_of((each.fee for each in spent), since, now), ebb)
        past, waiting = extent_of(epochs[:EPOCHS_SIZED]), await self._waiting(account)
        return purse_of(balance, view, self._fee_cap, past, data, burn, waiting)

    async def _waiting(self, account: str) -> list[tuple[int, Fees]]:
        """Gas limit and offer of each version that is sent again: the newest one, and those that nodes took."""
        for intent in await self._ledger.intents(sender=account, open_only=True):
            versions = await self._ledger.transactions(intent=intent.id)
            if versions and not any(tx.state is TxState.INCLUDED for tx in versions):
                sent = [tx for tx in versions if tx is versions[-1] or tx.broadcast_at is not None]
                return [(tx.gas, Fees(tx.max_fee, tx.tip)) for tx in sent if tx.gas]
        return []

    async def _spent(self, epochs: Sequence[Epoch], now: datetime) -> list[_Spent]:
        """By epoch, newest first, as far back as has been read; more of it at the next look."""
        found: list[_Spent] = []
        left, held = RECEIPTS_PER_LOOK, set[str]()
        for epoch in epochs:
            if now - epoch.created_at > WINDOW:
                break
            fee = data = 0
            for tx in await self._ledger.transactions(epoch=epoch.number):
                if tx.state not in (TxState.FINALIZED, TxState.REVERTED):
                    continue
                if tx.tx_hash not in self._fees:
                    if not left:
                        return found
                    left -= 1
                    receipt = await self._escrow.receipt(tx.tx_hash)
                    if receipt is None:
                        continue
                    self._fees[tx.tx_hash] = receipt.fee, receipt.data_fee
                held.add(tx.tx_hash)
                fee, data = fee + self._fees[tx.tx_hash][0], data + self._fees[tx.tx_hash][1]
            found.append(_Spent(epoch.created_at, fee, data))
        self._fees = {tx_hash: self._fees[tx_hash] for tx_hash in held}
        return found

    # ---------------------------------------------------------------- showing

    async def _show(self, epoch: Epoch, standing: PurseLevel, text: str, now: datetime) -> None:
        """Mark the newest epoch, and no other; an Event when the reason changes to one that asks for something."""
        (status, reason), hash_ = REASONS[standing], epoch.draft.manifest_hash
        if self._shown is not None and self._shown[:2] == (hash_, reason) and now - self._shown[2] < RETOLD:
            return
        known = await self._object(epoch)
        if known is None:
            return
        # Those that were marked while they were the newest.
        former = [
            each
            for each in await load_all(self._kube, SettlementEpoch)
            if each.metadata.name != known.metadata.name and find(each.status.conditions, SETTLER_FUNDED) is not None
        ]
        marks = (find(each.status.conditions, SETTLER_FUNDED) for each in (known, *former))
        said = next((mark.reason for mark in marks if mark is not None), "")
        finding, generation = Finding(SETTLER_FUNDED, status, reason, text), known.metadata.generation
        await self._writer.set_conditions(
            known, merge(known.status.conditions, [finding], generation=generation, now=now)
        )
        if standing is not PurseLevel.FUNDED and said != reason:
            await self._writer.event(known, "Warning", reason, text)
        for each in former:
            kept = [mark for mark in each.status.conditions if mark.type != SETTLER_FUNDED]
            await self._writer.set_conditions(each, kept)
        self._shown = hash_, reason, now

    async def _object(self, epoch: Epoch) -> SettlementEpoch | None:
        """The epoch's object; None until it is published."""
        for name in names_of(epoch):
            try:
                found = SettlementEpoch.parse(await self._kube.get(EPOCHS, name))
            except NotFoundError:
                return None
            if found.spec.manifest_hash == epoch.draft.manifest_hash:
                return found
        return None


def message_of(purse: Purse, account: str, chain_id: int) -> str:
    """What the settler has, for how long that is enough, and what to do; amounts in whole coins."""
    has = f"{account} has {_coins(purse.balance)} coins of chain {chain_id}"
    if purse.balance < purse.next:
        return (
            f"{has}, the next transaction needs {_coins(purse.next)}: send coins to it, nothing is settled until then"
        )
    left = "gas costs nothing" if purse.epochs == inf else f"enough for {purse.epochs:.0f} epochs at present fees"
    if purse.burn:
        left += f", and for {purse.lasts / DAY.total_seconds():.1f} days at {_coins(purse.burn)} a day"
    return f"{has}: {left}"


def _coins(wei: int) -> str:
    return f"{wei / WEI:.6g}"
