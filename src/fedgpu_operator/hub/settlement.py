"""The settlement loop: from receipts in the ledger to an epoch on chain, to finality, to payment; one step per pass."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Final

from fedgpu_operator.domain.books import ChainTx, Epoch, EpochDraft, EpochLine, EpochStage, SettlementSnapshot, TxState
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import ChainSnapshot, Claim, EpochPlan, EpochState, Pair
from fedgpu_operator.errors import RevertedError
from fedgpu_operator.hub.epochstatus import EpochFacts, publish
from fedgpu_operator.hub.sending import KeptSender
from fedgpu_operator.hub.wallets import cumulative_pairs
from fedgpu_operator.metering import covers
from fedgpu_operator.ports import Clock, Escrow, Kube, Ledger, Metrics
from fedgpu_operator.settlement import advances, build_epoch, claims, fund, parse_manifest

log = logging.getLogger(__name__)

POST: Final = "post"
CLAIM: Final = "claim"
CLAIM_LINES: Final = 200
"""Lines of one claim: at 40k gas for a line's first payment about 8 M gas, a fraction of any block."""
LIVE: Final = frozenset({EpochStage.PREPARED, EpochStage.POSTED, EpochStage.FINALIZED})


class SettlementLoop:
    """At most one epoch is on its way; every step is kept in the ledger before the next one begins."""

    def __init__(
        self,
        kube: Kube,
        ledger: Ledger,
        escrow: Escrow,
        clock: Clock,
        metrics: Metrics,
        *,
        epoch_seconds: float,
        poll: float,
        auto_claim: bool,
    ) -> None:
        self._kube = kube
        self._ledger = ledger
        self._escrow = escrow
        self._sender = KeptSender(ledger, escrow, clock)
        self._clock = clock
        self._metrics = metrics
        self._every = timedelta(seconds=epoch_seconds)
        self._poll = poll
        self._auto_claim = auto_claim
        self._began = clock.now()
        """Before any epoch there is, the first one is due one interval after this."""
        self._refused_at = self._began - self._every
        """When the contract last refused to take an epoch."""
        self._closed: set[int] = set()
        """Ended epochs that were published by this process; a restart publishes them once more."""

    async def pass_once(self) -> float | None:
        """Take the open epoch one step further, or begin the next one; then publish what changed."""
        known = await self._ledger.epochs(limit=20)
        for epoch in known:
            if epoch.stage not in LIVE and epoch.number not in self._closed:
                await self._advance(epoch)
        live = [epoch for epoch in known if epoch.stage in LIVE]
        if not any(self._blocks(epoch) for epoch in live):
            begun = await self._begin(known[0] if known else None)
            live += [begun] if begun is not None else []
        for epoch in live:
            await self._advance(epoch)
        return self._poll

    def _blocks(self, epoch: Epoch) -> bool:
        """Whether the next epoch must wait for this one: always, but where its owners claim for themselves.

        Such a root stays claimable only until the next one is active, which carries every unpaid pair again.
        """
        return self._auto_claim or epoch.stage is not EpochStage.FINALIZED

    async def _begin(self, last: Epoch | None) -> Epoch | None:
        """Prepare an epoch when the last one is old enough, there is something new, and the contract would take it."""
        now = self._clock.now()
        since = last.created_at if last is not None else self._began
        if now - max(since, self._refused_at) < self._every:
            return None
        books = await self._ledger.settlement_snapshot()
        pairs = cumulative_pairs(books.pairs)
        if not pairs:
            return None
        chain = await self._escrow.snapshot(sorted({tenant for tenant, _ in pairs}), sorted(pairs))
        if not chain.head_is_active:
            return None
        plan = await self._plan(pairs, chain, now)
        if plan is None:
            return None
        try:
            await self._escrow.prepare_post(plan)
        except RevertedError as error:
            self._refused_at = now
            log.warning("the contract would refuse the next epoch (%s); tried again in %s", error, self._every)
            return None
        epoch = await self._ledger.store_epoch(_draft(plan, books, now), now)
        log.info("epoch %d prepared: %d µUSD over %d pairs", epoch.number, plan.total, len(plan.pairs))
        return epoch

    async def _plan(self, pairs: dict[Pair, MicroUSD], chain: ChainSnapshot, now: datetime) -> EpochPlan | None:
        committed = await self._committed(chain)
        funding = fund(pairs, chain, committed)
        for wallet, short in funding.unfunded.items():
            log.warning("wallet %s lacks %d µUSD of escrow or spend limit for what it owes", wallet, short)
        if not funding.payable or not advances(funding, committed):
            return None
        return build_epoch(
            chain_id=chain.chain_id,
            escrow=chain.escrow,
            seq=chain.seq,
            prev_root=chain.head_root,
            period_end=int(now.timestamp()),
            pairs=funding.payable,
            debits=funding.debits,
        )

    async def _committed(self, chain: ChainSnapshot) -> dict[Pair, MicroUSD]:
        """The pairs of the newest root on chain: what was promised already."""
        for epoch in await self._ledger.epochs():
            if epoch.draft.root == chain.head_root and epoch.stage in (EpochStage.FINALIZED, EpochStage.PAID):
                return dict(parse_manifest(epoch.draft.manifest).pairs)
        return {}

    async def _advance(self, epoch: Epoch) -> None:
        plan = parse_manifest(epoch.draft.manifest)
        if epoch.stage is EpochStage.PREPARED:
            epoch = await self._post(epoch, plan)
        if epoch.stage is EpochStage.POSTED:
            epoch = await self._settle_post(epoch, plan)
        chain = await self._escrow.snapshot(sorted({tenant for tenant, _ in plan.pairs}), sorted(plan.pairs))
        state = await self._escrow.finalized_epoch(epoch.chain_epoch) if epoch.chain_epoch else None
        if state is not None and epoch.stage is EpochStage.FINALIZED:
            epoch = await self._collect(epoch, plan, chain, state)
        txs = await self._ledger.transactions(epoch=epoch.number)
        await publish(self._kube, self._clock.now(), EpochFacts(epoch, plan, chain, state, txs))
        if epoch.stage not in LIVE:
            self._closed.add(epoch.number)

    async def _post(self, epoch: Epoch, plan: EpochPlan) -> Epoch:
        kept = await self._sender.kept(epoch, POST)
        if kept:
            # Where the process died right after sending, they may be mined by now: a node refuses such bytes for good.
            if await self._escrow.receipt(kept[-1].tx_hash) is None and not await self._sender.send_again(kept[-1]):
                return epoch
            return await self._ledger.mark_epoch(epoch.number, EpochStage.POSTED, post_tx=kept[-1].tx_hash)
        try:
            signed = await self._escrow.prepare_post(plan)
        except RevertedError as error:
            log.warning("epoch %d cannot be posted (%s); it is built anew", epoch.number, error)
            return await self._ledger.mark_epoch(epoch.number, EpochStage.ABANDONED)
        await self._sender.send(signed, POST, epoch)
        return await self._ledger.mark_epoch(epoch.number, EpochStage.POSTED, post_tx=signed.tx_hash)

    async def _settle_post(self, epoch: Epoch, plan: EpochPlan) -> Epoch:
        """From a broadcast to a finalized root; the receipt only tells where to look, the state decides."""
        tx_hash = epoch.post_tx or ""
        receipt = await self._escrow.receipt(tx_hash)
        if receipt is None:
            # In no block: not mined yet, dropped, or undone by a reorg. The same bytes can do no harm twice.
            kept = await self._sender.kept(epoch, POST)
            if not kept or not await self._sender.send_again(kept[-1]):
                return await self._ledger.mark_epoch(epoch.number, EpochStage.PREPARED)
            return epoch
        if not receipt.succeeded:
            if receipt.block_number > (await self._escrow.snapshot((), ())).block_number:
                return epoch
            log.warning("epoch %d: the contract refused the post in %s", epoch.number, tx_hash)
            await self._ledger.mark_tx(tx_hash, TxState.REVERTED, receipt.block_number)
            return await self._ledger.mark_epoch(epoch.number, EpochStage.ABANDONED)
        if receipt.epoch is None:
            return epoch
        state = await self._escrow.finalized_epoch(receipt.epoch)
        if state.root != plan.root:
            await self._ledger.mark_tx(tx_hash, TxState.INCLUDED, receipt.block_number)
            return await self._ledger.mark_epoch(epoch.number, EpochStage.POSTED, chain_epoch=receipt.epoch)
        await self._ledger.mark_tx(tx_hash, TxState.FINALIZED, receipt.block_number)
        if receipt.skipped:
            log.warning("epoch %d: debits of %s did not fit any more", epoch.number, ", ".join(receipt.skipped))
        return await self._ledger.mark_epoch(
            epoch.number, EpochStage.FINALIZED, chain_epoch=receipt.epoch, skipped=receipt.skipped
        )

    async def _collect(self, epoch: Epoch, plan: EpochPlan, chain: ChainSnapshot, state: EpochState) -> Epoch:
        """From a finalized root to a paid one; whoever claims, the books at finalized say that it is paid."""
        if state.cancelled:
            log.warning("epoch %d was cancelled by the guardian; its usage is settled anew", epoch.number)
            return await self._ledger.mark_epoch(epoch.number, EpochStage.CANCELLED)
        txs = await self._sender.kept(epoch, CLAIM)
        active = chain.active_epoch == epoch.chain_epoch
        unpaid = {pair for pair, total in plan.pairs.items() if chain.paid[pair] < total}
        # A line is paid up to what was taken of its tenant: where nothing is left, a later epoch has to bring it.
        claimable = {pair for pair in unpaid if chain.accounts[pair[0]].allocated} if active else unpaid
        if not claimable:
            for tx in txs:
                await self._sender.note(tx, await self._escrow.receipt(tx.tx_hash), final=True)
            self._metrics.paid(state.total)
            return await self._ledger.mark_epoch(epoch.number, EpochStage.PAID)
        if self._auto_claim and active and epoch.chain_epoch:
            await self._claim(epoch, plan, txs, claimable, chain.block_number)
        return epoch

    async def _claim(
        self, epoch: Epoch, plan: EpochPlan, txs: list[ChainTx], claimable: set[Pair], finalized: int
    ) -> None:
        if txs:
            receipt = await self._escrow.receipt(txs[-1].tx_hash)
            await self._sender.note(txs[-1], receipt, final=False)
            if receipt is None and await self._sender.send_again(txs[-1]):
                return
            if receipt is not None and receipt.succeeded and receipt.block_number > finalized:
                return
        wanted = [
            claim for claim in claims(plan) if any((line.tenant, claim.provider) in claimable for line in claim.lines)
        ]
        signed = await self._escrow.prepare_claim(epoch.chain_epoch or 0, _first_lines(wanted, CLAIM_LINES))
        await self._sender.send(signed, CLAIM, epoch)


def _first_lines(unpaid: list[Claim], most: int) -> list[Claim]:
    """As many leaves as hold at most that many lines, but at least one."""
    taken: list[Claim] = []
    lines = 0
    for claim in unpaid:
        lines += len(claim.lines)
        if taken and lines > most:
            break
        taken.append(claim)
    return taken


def _draft(plan: EpochPlan, books: SettlementSnapshot, now: datetime) -> EpochDraft:
    lines = tuple(
        EpochLine(total.tenant, total.provider, total.tenant_wallet, total.provider_wallet, total.cumulative)
        for total in books.pairs
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
        covers=covers(books, plan.pairs),
    )
