"""Settlement epochs: whether one is due, its preparation in the ledger, its manifest, and its root on chain."""

from __future__ import annotations

import base64
import gzip
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from fedgpu_operator.api.base import GROUP, JSONObject
from fedgpu_operator.domain.ledger import LedgerHead
from fedgpu_operator.domain.money import NOTHING, MicroUSD
from fedgpu_operator.domain.settlement import (
    NO_BOOKS,
    ChainSnapshot,
    Epoch,
    EpochDraft,
    EpochLine,
    EpochPlan,
    EpochStage,
    EpochState,
    Funding,
    Pair,
    SettlementSnapshot,
)
from fedgpu_operator.errors import AlreadyExistsError, NotFoundError, NotTakenError, Refusal, RevertedError
from fedgpu_operator.hub.services.transactions import FREE
from fedgpu_operator.hub.views.accounts import cumulative_pairs
from fedgpu_operator.metering import covers
from fedgpu_operator.ports import CONFIG_MAPS, Clock, Escrow, Kube, Ledger
from fedgpu_operator.settlement import (
    MAX_DEBITS,
    EpochSight,
    Room,
    Terms,
    advances,
    build_epoch,
    fund,
    gas_of,
    newly_paid,
    parse_manifest,
    positions,
    protocol,
    worth_its_gas,
)

log = logging.getLogger(__name__)


STOOD: Final = frozenset({EpochStage.FINALIZED, EpochStage.PAID})
RETRY: Final = timedelta(minutes=1)
"""When to look again after an epoch was due and none was made; soon, since anybody can make one post stale."""


@dataclass(frozen=True, slots=True)
class SettlementReading:
    """The books and the chain, read one after the other: what was metered since then waits for the next epoch."""

    books: SettlementSnapshot
    owed: dict[Pair, MicroUSD]
    chain: ChainSnapshot
    head: LedgerHead


class Planner:
    """Prepares at most one epoch at a time."""

    def __init__(self, ledger: Ledger, escrow: Escrow, clock: Clock, terms: Terms) -> None:
        self._ledger = ledger
        self._escrow = escrow
        self._clock = clock
        self._terms = terms
        self._again_at = clock.now()
        self._most = MAX_DEBITS
        """Debits of one post, as far as chain and nodes were found to take them."""
        self._short: dict[str, MicroUSD] = {}
        """What each wallet lacked when that was last said."""

    async def begin(self, known: Sequence[Epoch]) -> Epoch | None:
        """Prepare an epoch when one is due, there is something new, it is worth its gas and would be taken.

        `known` are the newest epochs, newest first. One that came to nothing put nothing off: else whoever makes posts
        stale, by an exit in front of each, would hold up everybody's settlement.
        """
        now = self._clock.now()
        since = next((epoch.created_at for epoch in known if epoch.stage not in protocol.DEAD), None)
        if since is None:
            # From the books and not from this process's start: however often it restarts, the first epoch gets due.
            since = await self._ledger.first_work()
        if since is None or now < max(since + self._terms.every, self._again_at):
            return None
        await self._learn(known)
        self._again_at = now + min(self._terms.every, RETRY)
        reading = await self._read()
        if reading is None or not reading.chain.head_is_active or reading.chain.paused:
            return None
        # Sealed only once an epoch would be taken: one that is put off every minute must not leave evidence each time.
        if await self._plan(reading, since, now) is None:
            return None
        reading = await self._sealed(reading)
        plan = await self._plan(reading, since, now)
        if plan is None:
            return None
        epoch = await self._ledger.store_epoch(_draft(plan, reading, now), now)
        log.info("epoch %d prepared: %d µUSD over %d pairs", epoch.number, plan.total, len(plan.pairs))
        return epoch

    async def _learn(self, known: Sequence[Epoch]) -> None:
        """Plan smaller posts than those that no node took, by the ledger: a restart must not repeat them for ever."""
        for epoch in known:
            if epoch.stage not in protocol.DEAD:
                return
            if any(tx.kind == FREE for tx in await self._ledger.transactions(epoch=epoch.number)):
                self._halve(parse_manifest(epoch.draft.manifest))

    def _halve(self, plan: EpochPlan) -> None:
        if len(plan.debits) > 1 and self._most > len(plan.debits) // 2:
            self._most = len(plan.debits) // 2
            log.warning("a post of %d debits is too large: at most %d from now on", len(plan.debits), self._most)

    async def keep_books(self) -> None:
        """Post what the finalized chain and the ledger now show as double entries."""
        await self._read()

    async def _read(self) -> SettlementReading | None:
        books = await self._ledger.settlement_snapshot()
        owed = cumulative_pairs(books.pairs)
        if not owed:
            return None
        head = await self._ledger.head()
        chain = await self._escrow.snapshot(sorted({tenant for tenant, _ in owed}), sorted(owed))
        await self._ledger.post(positions(owed, chain), self._clock.now(), block=chain.block_number)
        return SettlementReading(books, owed, chain, head)

    async def _sealed(self, reading: SettlementReading) -> SettlementReading:
        """The same chain over the books as the ledger seals them: the heads then bind what the epoch pays.

        Pairs that owe something since the chain was read wait for the next epoch.
        """
        sealed = await self._ledger.seal()
        now_owed = cumulative_pairs(sealed.books.pairs)
        owed = {pair: total for pair, total in now_owed.items() if pair in reading.owed}
        return SettlementReading(sealed.books, owed, reading.chain, sealed.head)

    async def _plan(self, reading: SettlementReading, since: datetime, now: datetime) -> EpochPlan | None:
        chain = reading.chain
        committed = await self._committed(chain)
        least = self._terms.min_payout if now - since < self._terms.at_most else NOTHING
        while True:
            funding = fund(reading.owed, chain, committed, min_payout=least, most=self._most)
            self._tell_short(funding)
            if not funding.payable or not advances(funding, committed):
                return None
            plan = build_epoch(
                chain_id=chain.chain_id,
                escrow=chain.escrow,
                seq=chain.seq,
                prev_root=chain.head_root,
                period_end=int(now.timestamp()),
                pairs=funding.payable,
                debits=funding.debits,
                ledger_head=str(reading.head),
            )
            if not await self._is_worth_it(plan, chain, committed, now - since):
                return None
            refused = await self._refusal(plan)
            if refused is None:
                return plan
            too_large = isinstance(refused, NotTakenError) and refused.why is Refusal.TOO_LARGE
            if not too_large or len(plan.debits) <= 1:
                log.warning("the next epoch would be refused: %s", refused)
                return None
            self._halve(plan)

    def _tell_short(self, funding: Funding) -> None:
        # Beyond the most debits of one post, who is not debited is not short: it waits for the next epoch.
        full = len(funding.debits) >= min(self._most, MAX_DEBITS)
        short = {wallet: lack for wallet, lack in funding.unfunded.items() if not full or wallet in funding.debits}
        for wallet, lack in short.items():
            if self._short.get(wallet) != lack:
                log.warning("wallet %s lacks %d µUSD of escrow or spend limit for what it owes", wallet, lack)
        self._short = short

    async def _is_worth_it(
        self, plan: EpochPlan, chain: ChainSnapshot, committed: dict[Pair, MicroUSD], waited: timedelta
    ) -> bool:
        books = chain.books
        before = {pair: max(books.get(pair, NO_BOOKS).base, committed.get(pair, NOTHING)) for pair in plan.pairs}
        pays, view = newly_paid(plan, before), await self._escrow.suggest_fees()
        if worth_its_gas(pays, gas_of(plan), view.base_fee + view.tip, self._terms, waited):
            return True
        log.info("%d µUSD are not worth an epoch's gas yet", pays)
        return False

    async def _refusal(self, plan: EpochPlan) -> RevertedError | NotTakenError | None:
        """What the contract, or every node, would have against the post."""
        call = self._escrow.call_post(plan)
        room = Room(await self._escrow.gas_cap())
        try:
            gas = await self._escrow.simulate(call)
        except (RevertedError, NotTakenError) as error:
            return error
        return None if room.holds(call, gas) else NotTakenError(f"{gas} gas, above {room.gas}", Refusal.TOO_LARGE)

    async def _committed(self, chain: ChainSnapshot) -> dict[Pair, MicroUSD]:
        """The pairs of the newest root on chain: what was promised already, and still counts."""
        for header in await self._ledger.epoch_headers():
            if header.root == chain.head_root and header.stage in STOOD:
                epoch = await self._ledger.epoch(header.number)
                pairs = parse_manifest(epoch.draft.manifest).pairs if epoch is not None else {}
                return {
                    pair: total
                    for pair, total in pairs.items()
                    if chain.books.get(pair, NO_BOOKS).dead < chain.head_epoch
                }
        return {}


def _draft(plan: EpochPlan, reading: SettlementReading, now: datetime) -> EpochDraft:
    lines = tuple(
        EpochLine(total.tenant, total.provider, total.tenant_wallet, total.provider_wallet, total.cumulative)
        for total in reading.books.pairs
        if (total.tenant_wallet, total.provider_wallet) in plan.pairs
    )
    return EpochDraft(
        seq=plan.seq,
        prev_root=plan.prev_root,
        root=plan.root,
        manifest=plan.manifest,
        manifest_hash=plan.manifest_hash,
        period_end=now.replace(microsecond=0),
        total=plan.total,
        lines=lines,
        covers=covers(reading.books, plan.pairs),
        ledger_head=str(reading.head),
    )


def look_at_root(
    epoch: Epoch, plan: EpochPlan, chain: ChainSnapshot, state: EpochState, *, ours: bool
) -> tuple[EpochSight, set[Pair]]:
    """What is seen of a finalized root, and the pairs that a claim would pay; `ours`: the active root is."""
    if state.cancelled:
        return EpochSight.CANCELLED, set()
    active = chain.active_epoch == epoch.chain_epoch
    if not active and chain.clock < state.active_at:
        return EpochSight.IN_WINDOW, set()
    number = epoch.chain_epoch or 0
    # A line that a closed dispute made void in this root is brought again by the next one.
    books = {pair: chain.books[pair] for pair in plan.pairs if chain.books[pair].dead < number}
    unpaid = {pair for pair, book in books.items() if book.base < plan.pairs[pair]}
    if not active:
        if unpaid and not ours:
            return EpochSight.SUPERSEDED, set()
        # A later root carries what this one leaves; claims go against that one.
        return (EpochSight.PAYABLE if unpaid else EpochSight.PAID_UP), set()
    # A line is paid up to what was taken of its tenant: where nothing is left, a later epoch has to bring it.
    claimable = {pair for pair in unpaid if chain.accounts[pair[0]].allocated}
    return (EpochSight.PAYABLE if claimable else EpochSight.PAID_UP), claimable


EPOCH_LABEL: Final = f"{GROUP}/epoch"
HASH_ANNOTATION: Final = f"{GROUP}/manifest-hash"
PIECES_ANNOTATION: Final = f"{GROUP}/pieces"
KEY: Final = "manifest.json.gz"
PIECE_BYTES: Final = 640 * 1024
"""Of compressed manifest in one ConfigMap: base64 makes 854 KiB of it, and an object may have 1 MiB."""


async def publish_manifest(kube: Kube, namespace: str, epoch: Epoch) -> None:
    """Make the ConfigMaps of an epoch that are not there yet; they are named after the manifest's hash too."""
    for piece in _pieces(namespace, epoch):
        try:
            await kube.create(CONFIG_MAPS, piece)
        except AlreadyExistsError:
            continue


async def withdraw_manifest(kube: Kube, namespace: str, epoch: int, manifest_hash: str) -> None:
    """Delete the ConfigMaps of an epoch; the first one goes last, since it says how many there are."""
    try:
        first = await kube.get(CONFIG_MAPS, manifest_name(epoch, manifest_hash, 0), namespace)
    except NotFoundError:
        return
    for index in reversed(range(int(first["metadata"]["annotations"][PIECES_ANNOTATION]))):
        await kube.delete(CONFIG_MAPS, manifest_name(epoch, manifest_hash, index), namespace)


def manifest_name(epoch: int, manifest_hash: str, index: int) -> str:
    """The name of one piece: a hub whose ledger began anew numbers its epochs anew, their hashes differ."""
    return f"fedgpu-epoch-{epoch}-{manifest_hash.removeprefix('0x')[:12]}-{index}"


def _pieces(namespace: str, epoch: Epoch) -> Iterator[JSONObject]:
    # No time of day in it: the same manifest has to give the same bytes.
    packed = gzip.compress(epoch.draft.manifest, mtime=0)
    cuts = [packed[start : start + PIECE_BYTES] for start in range(0, len(packed), PIECE_BYTES)]
    for index, cut in enumerate(cuts):
        yield {
            "apiVersion": CONFIG_MAPS.api_version,
            "kind": CONFIG_MAPS.kind,
            "metadata": {
                "name": manifest_name(epoch.number, epoch.draft.manifest_hash, index),
                "namespace": namespace,
                "labels": {EPOCH_LABEL: str(epoch.number)},
                "annotations": {HASH_ANNOTATION: epoch.draft.manifest_hash, PIECES_ANNOTATION: str(len(cuts))},
            },
            "immutable": True,
            "binaryData": {KEY: base64.b64encode(cut).decode("ascii")},
        }
