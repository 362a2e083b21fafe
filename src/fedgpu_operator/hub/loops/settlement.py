"""The settlement loop: looks at the epoch on its way, takes the step that the protocol names, writes it down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Final

from fedgpu_operator.domain.settlement import ChainSnapshot, Claim, Epoch, EpochPlan, EpochStage, EpochState, Pair
from fedgpu_operator.domain.transactions import Call, Intent, TxState
from fedgpu_operator.errors import (
    ChainError,
    ChainMismatchError,
    ChainUnreachableError,
    InvalidResourceError,
    KubeError,
    NotTakenError,
    Refusal,
    RevertedError,
    StatePrunedError,
)
from fedgpu_operator.hub.services.dispute_answers import ANSWER, DisputeKeeper, Errand
from fedgpu_operator.hub.services.epochs import Planner, look_at_root, publish_manifest
from fedgpu_operator.hub.services.transactions import CLAIM, FREE, POST, Fate, IntentProgress, IntentSender
from fedgpu_operator.hub.services.writes import Writers
from fedgpu_operator.hub.views.epochs import EpochBlocker, EpochFacts
from fedgpu_operator.ports import Clock, Escrow, Kube, Ledger, Metrics
from fedgpu_operator.settlement import (
    Act,
    EpochSight,
    Terms,
    claim_limit,
    claims,
    fewer,
    first_batch,
    parse_manifest,
    protocol,
    share_that_fits,
)

log = logging.getLogger(__name__)


LOOKED_AT: Final = 20
"""Epochs, newest first, that a pass looks at: all that can still change, and a few more."""
_SEEN: Final = {
    Fate.NOT_TAKEN: EpochSight.NOT_TAKEN,
    Fate.IN_FLIGHT: EpochSight.IN_FLIGHT,
    Fate.MINED: EpochSight.MINED,
    # Final and successful, but the root is not there: nothing of ours was posted by it.
    Fate.DONE: EpochSight.FAILED,
    Fate.FAILED: EpochSight.FAILED,
    Fate.LOST: EpochSight.LOST,
    Fate.REFUSED: EpochSight.REFUSED,
    Fate.FREED: EpochSight.FREED,
}


class SettlementLoop:
    """At most one epoch and one transaction are on their way; what happens next follows from ledger and chain alone."""

    def __init__(
        self,
        kube: Kube,
        writers: Writers,
        ledger: Ledger,
        escrow: Escrow,
        clock: Clock,
        metrics: Metrics,
        *,
        sender: IntentSender,
        planner: Planner,
        disputes: DisputeKeeper,
        namespace: str,
        terms: Terms,
        poll: float,
        auto_claim: bool,
        opens: Callable[[], bool],
    ) -> None:
        """`opens` is whether an epoch may be begun or sent: not while the ledger is older than the world."""
        self._kube = kube
        self._writer = writers.epochs
        self._ledger = ledger
        self._escrow = escrow
        self._clock = clock
        self._metrics = metrics
        self._sender = sender
        self._planner = planner
        self._disputes = disputes
        self._terms = terms
        self._namespace = namespace
        self._poll = poll
        self._auto_claim = auto_claim
        self._opens = opens
        self._closed: set[int] = set()
        """Ended epochs that were published by this process; a restart publishes them once more."""
        self._plans: dict[str, EpochPlan] = {}
        """Of the epochs that were last looked at, by manifest hash."""
        self._scale = Fraction(1)
        """What a claim's gas was last found to be, over what was expected of it."""
        self._refused: dict[int, IntentProgress] = {}
        """What nodes or contract last had against an epoch's transaction, by the epoch's number."""
        self._unread = ""
        """Why disputes could not be read, as it was last logged."""
        self._pruned = ""
        self._found: tuple[Errand | None, Errand | None] | None = None
        """What disputes needed when this pass read them; None before. Each read is some requests to the chain."""

    @property
    def pruned(self) -> str:
        """Why disputes cannot be served, if the chain's nodes lack state or logs for it; empty as far as is known."""
        return self._pruned

    async def pass_once(self) -> float | None:
        """Show what ended, take what is on its way one step further, or begin the next."""
        self._found = None
        known = await self._ledger.epochs(limit=LOOKED_AT)
        hashes, numbers = {each.draft.manifest_hash for each in known}, {each.number for each in known}
        self._plans = {hash_: plan for hash_, plan in self._plans.items() if hash_ in hashes}
        self._refused = {number: why for number, why in self._refused.items() if number in numbers}
        await self._show_ended(known)
        await self._tell_due(known)
        live = [epoch for epoch in reversed(known) if epoch.stage in protocol.LIVE]
        await self._drive_errand(live)
        for epoch in live:
            await self._advance(epoch)
        intent = await self._sender.open_intent()
        if intent is None:
            await self._idle()
        else:
            await self._give_way(intent)
        return self._poll

    async def _tell_due(self, known: Iterable[Epoch]) -> None:
        """By when the next epoch must be begun: so long after the newest that stood, or after the first work.

        None is due while the newest ones cover all that is owed.
        """
        if not await self._ledger.work_to_settle():
            self._metrics.epoch_due(None)
            return
        since = next((epoch.created_at for epoch in known if epoch.stage not in protocol.DEAD), None)
        since = since or await self._ledger.first_work()
        if since is not None:
            self._metrics.epoch_due(since + self._terms.at_most)

    async def _show_ended(self, known: Iterable[Epoch]) -> None:
        """Publish what ended in an earlier pass, first of all: a chain that fails each pass must not put it off."""
        for epoch in known:
            if epoch.stage in protocol.LIVE or epoch.number in self._closed:
                continue
            try:
                shown = await self._publish(epoch)
            except ChainUnreachableError as error:
                log.info("epoch %d is shown later: %s", epoch.number, error)
                return
            if shown:
                self._closed.add(epoch.number)

    async def _idle(self) -> None:
        """No transaction is on its way: first what a dispute needs in time, then the next epoch, then what can wait."""
        if await self._urgent_first():
            return
        _, waiting = await self._errands()
        known = await self._ledger.epochs(limit=LOOKED_AT)
        if self._opens() and not any(self._blocks(epoch) for epoch in known if epoch.stage in protocol.LIVE):
            begun = await self._planner.begin(known)
            if begun is not None:
                await self._advance(begun)
                return
        if waiting is not None:
            await self._run(waiting)
            return
        await self._collect_late(known)

    async def _give_way(self, intent: Intent) -> None:
        """End an intent that no node takes where a dispute needs its key in time.

        A claim is claimed again after that; an epoch is given up, and its usage is settled by a later one.
        """
        if intent.kind == ANSWER or not await self._sender.is_stuck(intent):
            return
        urgent, _ = await self._errands(hand_out=False)
        if urgent is not None and urgent.kind != intent.kind:
            await self._sender.give_way(intent, urgent.key)

    async def _urgent_first(self) -> bool:
        """Whether something urgent used the key, which is free: before a claim or a post is begun."""
        urgent, waiting = await self._errands()
        if urgent is None:
            return False
        self._found = None, waiting
        await self._run(urgent)
        return True

    async def _errands(self, *, hand_out: bool = True) -> tuple[Errand | None, Errand | None]:
        """What disputes need; nothing while they cannot be read: everybody's next epoch must not wait for that."""
        if self._found is None:
            self._found = await self._read_errands(hand_out=hand_out)
        return self._found

    async def _read_errands(self, *, hand_out: bool) -> tuple[Errand | None, Errand | None]:
        try:
            found = await self._disputes.errands(self._sender.room, hand_out=hand_out)
            self._pruned = self._disputes.pruned
        except ChainMismatchError:
            raise
        except ChainError as error:
            self._pruned = str(error) if isinstance(error, StatePrunedError) else self._pruned
            if str(error) != self._unread:
                log.warning("disputes cannot be read, epochs go on without: %s", error)
            self._unread = str(error)
            return None, None
        if self._unread:
            log.info("disputes can be read again")
        self._unread = ""
        return found

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

    async def _look(self, epoch: Epoch, plan: EpochPlan) -> tuple[EpochSight, IntentProgress | None, EpochState | None]:
        """What is seen of an epoch that is not final; looking at a transaction in no block sends it again."""
        progress = await self._post_progress(epoch)
        self._note(epoch, progress)
        stands = await self._stands(plan, progress)
        if stands is not None and stands.active_at:
            return EpochSight.STANDS, progress, stands
        if stands is not None:
            # Its receipt is final, and this node's finalized state does not have the epoch yet: nothing is known.
            return EpochSight.MINED, progress, None
        return (_SEEN[progress.fate] if progress is not None else EpochSight.UNSENT), progress, None

    async def _post_progress(self, epoch: Epoch) -> IntentProgress | None:
        """How far the epoch's transaction got; None where none was begun, or all that was came to nothing."""
        intent = await self._sender.open_intent()
        if intent is not None and (intent.kind, intent.epoch) == (POST, epoch.number):
            return await self._sender.drive(intent)
        for tx in await self._ledger.transactions(epoch=epoch.number):
            # The intent was closed, and the process died before the epoch's stage was written.
            if tx.kind == FREE and tx.state is TxState.FINALIZED:
                return IntentProgress(Fate.FREED, await self._escrow.receipt(tx.tx_hash))
            if tx.kind == POST and tx.state in (TxState.FINALIZED, TxState.REVERTED):
                fate = Fate.DONE if tx.state is TxState.FINALIZED else Fate.FAILED
                return IntentProgress(fate, await self._escrow.receipt(tx.tx_hash))
        return None

    async def _stands(self, plan: EpochPlan, progress: IntentProgress | None) -> EpochState | None:
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
        if not self._opens() or await self._sender.open_intent() is not None or await self._urgent_first():
            return False
        await publish_manifest(self._kube, self._namespace, epoch)
        await self._sender.begin(f"{POST}:{epoch.number}", POST, epoch.number, self._escrow.call_post(plan))
        return True

    async def _write(
        self, epoch: Epoch, stage: EpochStage, progress: IntentProgress | None, stands: EpochState | None
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
        ours = chain.active_epoch == epoch.chain_epoch or any(
            known.chain_epoch == chain.active_epoch for known in await self._ledger.epoch_headers(limit=LOOKED_AT)
        )
        sight, wanted = look_at_root(epoch, plan, chain, state, ours=ours)
        step = protocol.step(epoch.stage, sight)
        claiming = step.act is Act.CLAIM and self._auto_claim and wanted and claimed is None and not chain.paused
        if claiming and not await self._urgent_first():
            await self._claim(epoch, plan, wanted)
        if step.stage is EpochStage.CANCELLED:
            log.warning("epoch %d was cancelled by the guardian; its usage is settled anew", epoch.number)
        if step.stage is EpochStage.SUPERSEDED:
            log.warning("epoch %d: another settler's root is active; what is unpaid is settled anew", epoch.number)
        if step.stage is EpochStage.PAID:
            await self._planner.keep_books()
            self._metrics.paid(state.total)
        return epoch if step.stage is epoch.stage else await self._ledger.mark_epoch(epoch.number, step.stage)

    async def _claim_progress(self, epoch: Epoch) -> Intent | None:
        """The transaction that must end before the next claim; driven on where it is this epoch's own."""
        intent = await self._sender.open_intent()
        if intent is not None and (intent.kind, intent.epoch) == (CLAIM, epoch.number):
            self._note(epoch, await self._sender.drive(intent))
            return await self._sender.open_intent()
        return intent

    async def _claim(self, epoch: Epoch, plan: EpochPlan, wanted: set[Pair]) -> None:
        """Begin a claim of the first leaves of which something is wanted, as many as fit into one transaction."""
        leaves = [leaf for leaf in claims(plan) if any((line.tenant, leaf.provider) in wanted for line in leaf.lines)]
        try:
            call = await self._fitting_claim(epoch.chain_epoch or 0, leaves)
        except (RevertedError, NotTakenError) as error:
            refusal = error.why if isinstance(error, NotTakenError) else None
            self._note(epoch, IntentProgress(Fate.REFUSED, why=str(error), refusal=refusal))
            log.warning("epoch %d: the claim is refused: %s", epoch.number, error)
            return
        intent = await self._sender.begin(f"{CLAIM}:{epoch.number}", CLAIM, epoch.number, call)
        progress = await self._sender.drive(intent)
        self._note(epoch, progress)
        if progress.fate is Fate.REFUSED:
            log.warning("epoch %d: the contract refuses the claim: %s", epoch.number, progress.why)

    async def _fitting_claim(self, chain_epoch: int, leaves: list[Claim]) -> Call:
        """A claim of the first leaves, as many as fit; what it was found to need is remembered for the next one."""
        room = replace(await self._sender.room(), scale=self._scale)
        batch = first_batch(leaves, room)
        while True:
            call = self._escrow.call_claim(chain_epoch, batch)
            try:
                gas: int | None = await self._escrow.simulate(call)
            except NotTakenError as error:
                if error.why is not Refusal.TOO_LARGE:
                    raise
                gas = None
            if gas is not None:
                self._scale = Fraction(gas, claim_limit(batch))
                if room.holds(call, gas):
                    return call
            if not (less := fewer(batch, share_that_fits(gas, room))):
                return call
            batch = less

    def _note(self, epoch: Epoch, progress: IntentProgress | None) -> None:
        """Remember what stands against an epoch's transaction, for its status; nothing once it is on its way."""
        if progress is not None and progress.fate in (Fate.NOT_TAKEN, Fate.REFUSED) and progress.why:
            self._refused[epoch.number] = progress
        else:
            self._refused.pop(epoch.number, None)

    # ---------------------------------------------------------------- both

    async def _chain(self, plan: EpochPlan) -> ChainSnapshot:
        return await self._escrow.snapshot(sorted({tenant for tenant, _ in plan.pairs}), sorted(plan.pairs))

    async def _publish(self, epoch: Epoch) -> bool:
        """Show the epoch on the hub; False if the hub did not take it, which holds up no money."""
        plan = self._plan(epoch)
        state = await self._escrow.finalized_epoch(epoch.chain_epoch) if epoch.chain_epoch else None
        txs = await self._ledger.transactions(epoch=epoch.number)
        refused = self._refused.get(epoch.number)
        held = EpochBlocker(refused.refusal, refused.why) if refused is not None else None
        facts = EpochFacts(epoch, plan, await self._chain(plan), state, txs, held)
        try:
            await self._writer.publish(facts)
        except (KubeError, InvalidResourceError) as error:
            log.warning("epoch %d cannot be shown on the hub: %s", epoch.number, error)
            return False
        return True
