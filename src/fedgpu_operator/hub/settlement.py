"""The settlement loop: looks at the epoch on its way, takes the step that the protocol names, writes it down."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from fedgpu_operator.domain.books import Epoch, EpochStage, TxState
from fedgpu_operator.domain.ledger import Intent
from fedgpu_operator.domain.settlement import ChainSnapshot, EpochPlan, EpochState, Pair
from fedgpu_operator.errors import InvalidResourceError, KubeError
from fedgpu_operator.hub.disputes import DisputeKeeper, Errand
from fedgpu_operator.hub.epochstatus import EpochFacts, publish
from fedgpu_operator.hub.manifests import publish_manifest
from fedgpu_operator.hub.planning import Planner
from fedgpu_operator.hub.roots import first_lines, look_at_root
from fedgpu_operator.hub.sending import Fate, IntentSender, Progress
from fedgpu_operator.ports import Clock, Escrow, Kube, Ledger, Metrics
from fedgpu_operator.settlement import Act, Sight, Terms, claims, parse_manifest, protocol

log = logging.getLogger(__name__)

POST: Final = "post"
CLAIM: Final = "claim"
CLAIM_LINES: Final = 200
"""Lines of one claim: at 40k gas for a line's first payment about 8 M gas, a fraction of any block."""
LOOKED_AT: Final = 20
"""Epochs, newest first, that a pass looks at: all that can still change, and a few more."""
_SEEN: Final = {
    Fate.IN_FLIGHT: Sight.IN_FLIGHT,
    Fate.MINED: Sight.MINED,
    # Final and successful, but the root is not there: nothing of ours was posted by it.
    Fate.DONE: Sight.FAILED,
    Fate.FAILED: Sight.FAILED,
    Fate.LOST: Sight.LOST,
    Fate.REFUSED: Sight.REFUSED,
}


class SettlementLoop:
    """At most one epoch and one transaction are on their way; what happens next follows from ledger and chain alone."""

    def __init__(
        self,
        kube: Kube,
        ledger: Ledger,
        escrow: Escrow,
        clock: Clock,
        metrics: Metrics,
        *,
        namespace: str,
        terms: Terms,
        fee_cap: int,
        poll: float,
        auto_claim: bool,
    ) -> None:
        self._kube = kube
        self._ledger = ledger
        self._escrow = escrow
        self._clock = clock
        self._metrics = metrics
        self._sender = IntentSender(ledger, escrow, clock, fee_cap=fee_cap)
        self._planner = Planner(ledger, escrow, clock, terms)
        self._disputes = DisputeKeeper(ledger, escrow, clock)
        self._namespace = namespace
        self._poll = poll
        self._auto_claim = auto_claim
        self._closed: set[int] = set()
        """Ended epochs that were published by this process; a restart publishes them once more."""
        self._plans: dict[str, EpochPlan] = {}
        """Of the epochs that were last looked at, by manifest hash."""

    async def pass_once(self) -> float | None:
        """Take what is on its way one step further, or begin the next; then publish what changed."""
        known = await self._ledger.epochs(limit=LOOKED_AT)
        self._plans = {hash_: plan for hash_, plan in self._plans.items() if hash_ in _hashes(known)}
        live = [epoch for epoch in reversed(known) if epoch.stage in protocol.LIVE]
        await self._drive_errand(live)
        for epoch in live:
            await self._advance(epoch)
        if await self._sender.open_intent() is None:
            await self._idle()
        for epoch in known:
            if epoch.stage not in protocol.LIVE and epoch.number not in self._closed:
                await self._publish(epoch)
                self._closed.add(epoch.number)
        return self._poll

    async def _idle(self) -> None:
        """No transaction is on its way: first what a dispute needs in time, then the next epoch, then what can wait."""
        urgent, waiting = await self._disputes.errands()
        if urgent is not None:
            await self._run(urgent)
            return
        known = await self._ledger.epochs(limit=LOOKED_AT)
        if not any(self._blocks(epoch) for epoch in known if epoch.stage in protocol.LIVE):
            begun = await self._planner.begin(known)
            if begun is not None:
                await self._advance(begun)
                return
        if waiting is not None:
            await self._run(waiting)
            return
        await self._collect_late(known)

    async def _collect_late(self, known: Iterable[Epoch]) -> None:
        """Claim what the active root has to pay once more: money that an answered dispute gave back to its line.

        No epoch would bring it, since that line is in a root already and asks for no debit.
        """
        paid = next((epoch for epoch in known if epoch.stage is EpochStage.PAID and epoch.chain_epoch), None)
        if paid is None or not self._auto_claim:
            return
        plan = self._plan(paid)
        chain = await self._chain(plan)
        if chain.paused or chain.active_epoch != paid.chain_epoch:
            return
        state = await self._escrow.finalized_epoch(paid.chain_epoch or 0)
        _, wanted = look_at_root(paid, plan, chain, state, ours=True)
        if wanted:
            await self._claim(paid, plan, wanted)

    async def _run(self, errand: Errand) -> None:
        await self._sender.drive(await self._sender.begin(errand.key, errand.kind, None, errand.call))

    def _blocks(self, epoch: Epoch) -> bool:
        """Whether the next epoch must wait for this one: always, but where its owners claim for themselves.

        Such a root stays claimable only until the next one is active, which carries every unpaid pair again.
        """
        return self._auto_claim or epoch.stage is not EpochStage.FINALIZED

    async def _drive_errand(self, live: list[Epoch]) -> None:
        """Take a transaction further that no epoch waits for.

        Also one whose epoch went on without it: the root, or its payment, can be seen at finalized a moment before the
        transaction is. Left open it would hold up the key for ever.
        """
        await self._sender.watch_others()
        intent = await self._sender.open_intent()
        if intent is None:
            return
        posting = {epoch.number for epoch in live if epoch.stage in protocol.OPEN}
        paying = {epoch.number for epoch in live if epoch.stage is EpochStage.FINALIZED}
        if intent.epoch not in {POST: posting, CLAIM: paying}.get(intent.kind, set()):
            progress = await self._sender.drive(intent)
            log.info("%s: %s %s", intent.key, progress.fate.name, progress.why)

    def _plan(self, epoch: Epoch) -> EpochPlan:
        if epoch.draft.manifest_hash not in self._plans:
            self._plans[epoch.draft.manifest_hash] = parse_manifest(epoch.draft.manifest)
        return self._plans[epoch.draft.manifest_hash]

    async def _advance(self, epoch: Epoch) -> None:
        plan = self._plan(epoch)
        if epoch.stage in protocol.OPEN:
            epoch = await self._carry(epoch, plan)
        if epoch.stage is EpochStage.FINALIZED:
            epoch = await self._collect(epoch, plan)
        await self._publish(epoch)

    # ---------------------------------------------------------------- from Prepared to Finalized

    async def _carry(self, epoch: Epoch, plan: EpochPlan) -> Epoch:
        """Bring the root onto the chain: look, step, and look once more where something was begun."""
        sight, progress, stands = await self._look(epoch, plan)
        step = protocol.step(epoch.stage, sight)
        if step.act is Act.SEND:
            epoch = await self._write(epoch, step.stage, progress, stands)
            if not await self._begin_post(epoch, plan):
                return epoch
            sight, progress, stands = await self._look(epoch, plan)
            step = protocol.step(epoch.stage, sight)
        return await self._write(epoch, step.stage, progress, stands)

    async def _look(self, epoch: Epoch, plan: EpochPlan) -> tuple[Sight, Progress | None, EpochState | None]:
        """What is seen of an epoch that is not final; looking at a transaction in no block sends it again."""
        progress = await self._post_progress(epoch)
        stands = await self._stands(plan, progress)
        if stands is not None and stands.active_at:
            return Sight.STANDS, progress, stands
        if stands is not None:
            # Its receipt is final, and this node's finalized state does not have the epoch yet: nothing is known.
            return Sight.MINED, progress, None
        return (_SEEN[progress.fate] if progress is not None else Sight.UNSENT), progress, None

    async def _post_progress(self, epoch: Epoch) -> Progress | None:
        """How far the epoch's transaction got; None where none was begun, or all that was came to nothing."""
        intent = await self._sender.open_intent()
        if intent is not None and (intent.kind, intent.epoch) == (POST, epoch.number):
            return await self._sender.drive(intent)
        for tx in await self._ledger.transactions(epoch=epoch.number):
            # The intent was closed, and the process died before the epoch's stage was written.
            if tx.kind == POST and tx.state in (TxState.FINALIZED, TxState.REVERTED):
                fate = Fate.DONE if tx.state is TxState.FINALIZED else Fate.FAILED
                return Progress(fate, await self._escrow.receipt(tx.tx_hash))
        return None

    async def _stands(self, plan: EpochPlan, progress: Progress | None) -> EpochState | None:
        """The contract's epoch with this very root, at finalized; whoever posted it."""
        if progress is not None and progress.receipt is not None and progress.receipt.epoch is not None:
            state = await self._escrow.finalized_epoch(progress.receipt.epoch)
            return state if state.root == plan.root or (progress.fate is Fate.DONE and not state.active_at) else None
        chain = await self._escrow.snapshot((), ())
        if chain.head_root != plan.root or not chain.head_epoch:
            return None
        posted = await self._escrow.posted(chain.head_epoch)
        if posted is None or (posted.seq, posted.manifest_hash) != (plan.seq, plan.manifest_hash):
            return None
        return await self._escrow.finalized_epoch(chain.head_epoch)

    async def _begin_post(self, epoch: Epoch, plan: EpochPlan) -> bool:
        """Write the intent of the post; False while another transaction of the key is on its way."""
        if await self._sender.open_intent() is not None:
            return False
        await publish_manifest(self._kube, self._namespace, epoch)
        await self._sender.begin(f"{POST}:{epoch.number}", POST, epoch.number, self._escrow.call_post(plan))
        return True

    async def _write(
        self, epoch: Epoch, stage: EpochStage, progress: Progress | None, stands: EpochState | None
    ) -> Epoch:
        """Keep the stage, with the transaction and the contract's number where they are known."""
        if stage is EpochStage.ABANDONED:
            log.warning("epoch %d is given up: %s", epoch.number, progress.why if progress else "it reverted")
        receipt = progress.receipt if progress is not None else None
        newest = [tx for tx in await self._ledger.transactions(epoch=epoch.number) if tx.kind == POST]
        tx_hash = receipt.tx_hash if receipt is not None else newest[-1].tx_hash if newest else None
        skipped = receipt.skipped if receipt is not None and stands is not None else ()
        if stands is not None and receipt is None:
            posted = await self._escrow.posted(stands.number)
            skipped = posted.skipped if posted is not None else ()
        if skipped:
            log.warning("epoch %d: debits of %s did not fit any more", epoch.number, ", ".join(skipped))
        number = stands.number if stands is not None else None
        return await self._ledger.mark_epoch(epoch.number, stage, chain_epoch=number, post_tx=tx_hash, skipped=skipped)

    # ---------------------------------------------------------------- from Finalized to Paid

    async def _collect(self, epoch: Epoch, plan: EpochPlan) -> Epoch:
        """From a finalized root to a paid one; whoever claims, the books at finalized say that it is paid."""
        claimed = await self._claim_progress(epoch)
        chain = await self._chain(plan)
        state = await self._escrow.finalized_epoch(epoch.chain_epoch or 0)
        ours = chain.active_epoch == epoch.chain_epoch or await self._is_ours(chain.active_epoch)
        sight, wanted = look_at_root(epoch, plan, chain, state, ours=ours)
        step = protocol.step(epoch.stage, sight)
        if step.act is Act.CLAIM and self._auto_claim and wanted and claimed is None and not chain.paused:
            await self._claim(epoch, plan, wanted)
        if step.stage is EpochStage.CANCELLED:
            log.warning("epoch %d was cancelled by the guardian; its usage is settled anew", epoch.number)
        if step.stage is EpochStage.SUPERSEDED:
            log.warning("epoch %d: another settler's root is active; what is unpaid is settled anew", epoch.number)
        if step.stage is EpochStage.PAID:
            await self._planner.keep_books()
            self._metrics.paid(state.total)
        return epoch if step.stage is epoch.stage else await self._ledger.mark_epoch(epoch.number, step.stage)

    async def _is_ours(self, chain_epoch: int) -> bool:
        return any(known.chain_epoch == chain_epoch for known in await self._ledger.epochs(limit=LOOKED_AT))

    async def _claim_progress(self, epoch: Epoch) -> Intent | None:
        """The transaction that must end before the next claim; driven on where it is this epoch's own."""
        intent = await self._sender.open_intent()
        if intent is not None and (intent.kind, intent.epoch) == (CLAIM, epoch.number):
            await self._sender.drive(intent)
            return await self._sender.open_intent()
        return intent

    async def _claim(self, epoch: Epoch, plan: EpochPlan, wanted: set[Pair]) -> None:
        leaves = [leaf for leaf in claims(plan) if any((line.tenant, leaf.provider) in wanted for line in leaf.lines)]
        call = self._escrow.call_claim(epoch.chain_epoch or 0, first_lines(leaves, CLAIM_LINES))
        intent = await self._sender.begin(f"{CLAIM}:{epoch.number}", CLAIM, epoch.number, call)
        progress = await self._sender.drive(intent)
        if progress.fate is Fate.REFUSED:
            log.warning("epoch %d: the contract refuses the claim: %s", epoch.number, progress.why)

    # ---------------------------------------------------------------- both

    async def _chain(self, plan: EpochPlan) -> ChainSnapshot:
        return await self._escrow.snapshot(sorted({tenant for tenant, _ in plan.pairs}), sorted(plan.pairs))

    async def _publish(self, epoch: Epoch) -> None:
        """Show the epoch on the hub; a hub that does not take it holds up no money."""
        plan = self._plan(epoch)
        state = await self._escrow.finalized_epoch(epoch.chain_epoch) if epoch.chain_epoch else None
        txs = await self._ledger.transactions(epoch=epoch.number)
        facts = EpochFacts(epoch, plan, await self._chain(plan), state, txs)
        try:
            await publish(self._kube, self._clock.now(), facts)
        except (KubeError, InvalidResourceError) as error:
            log.warning("epoch %d cannot be shown on the hub: %s", epoch.number, error)


def _hashes(epochs: Iterable[Epoch]) -> set[str]:
    return {epoch.draft.manifest_hash for epoch in epochs}
