"""The one sender of the settler's key: intent first, then signed bytes, then the chain; all of it kept in the ledger.

An intent is one thing that shall happen once. It has one nonce and as many signed versions as it took: with another
fee, or with a smaller call if no node will ever take the larger one; of versions of one nonce the chain takes at most
one. The nonce is the next one in the finalized chain, so an intent begins only when everything before it is beyond
doubt, and no gap can open. What became of it is read from the chain: first the finalized nonce, then the receipts, so
that "used, and not by us" cannot be said too early.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum, auto
from fractions import Fraction
from itertools import pairwise
from typing import Final

from fedgpu_operator.domain.settlement import SignedTx, TxReceipt
from fedgpu_operator.domain.transactions import FINAL_TX, Call, ChainTx, Fees, Intent, IntentCall, IntentState, TxState
from fedgpu_operator.errors import (
    ChainError,
    ChainMismatchError,
    ChainUnreachableError,
    NotTakenError,
    Refusal,
    RevertedError,
)
from fedgpu_operator.hub.services.dispute_answers import ANSWER, CLOSE
from fedgpu_operator.ports import Clock, Escrow, TransactionBook
from fedgpu_operator.settlement import (
    GAS_MARGIN,
    MAX_TX_GAS,
    NonceAction,
    NonceState,
    Room,
    data_size,
    fewer,
    first_fees,
    highest,
    next_action,
    replacing,
    share_that_fits,
)

log = logging.getLogger(__name__)


PATIENCE: Final = timedelta(seconds=60)
"""How long a transaction that a node has may stay out of every block before its fee is raised all the same."""
POST: Final = "post"
CLAIM: Final = "claim"
"""Kinds of intents; those of disputes are ANSWER and CLOSE."""
FREE: Final = "free"
"""Kind of a version that does nothing: it uses up the nonce of an intent that no node will ever take."""
GIVES_WAY: Final = "it gives way to "
"""How the reason begins why a nonce is freed for something urgent."""
URGENCY: Final = timedelta(minutes=5)
"""How long an intent that no node takes may hold the key while something urgent waits; that has days."""
MORE_GAS: Final = Fraction(3, 2)
"""Of a gas limit that nodes call too low, the next one where no estimate is higher: 2**24 is reached in few steps."""

Smaller = Callable[[Call, Fraction], Call | None]
"""A call that does about that share of the given one, and certainly less; None where nothing less can be done."""


def smaller_calls(escrow: Escrow) -> dict[str, Smaller]:
    """By kind of intent, what makes less of its call. A post is whole or not at all."""

    def fewer_leaves(call: Call, share: Fraction) -> Call | None:
        """A claim of a share of a claim's leaves; the rest is claimed by the next one."""
        chain_epoch, leaves = escrow.claimed(call)
        less = fewer(leaves, share)
        return escrow.call_claim(chain_epoch, less) if less else None

    def fewer_bundled(call: Call, share: Fraction) -> Call | None:
        """A share of the calls of a bundle; the rest is found as still to be done by a later pass."""
        less = fewer(escrow.call_bundled(call), share)
        if len(less) < 2:
            return less[0] if less else None
        return escrow.call_bundle(call.to or "", less)

    return {CLAIM: fewer_leaves, ANSWER: fewer_bundled, CLOSE: fewer_bundled}


class Fate(Enum):
    """What became of an intent; all but the first three are final."""

    NOT_TAKEN = auto()
    """No node has taken it so far; or its nonce is being freed, since none ever will."""
    IN_FLIGHT = auto()
    MINED = auto()
    DONE = auto()
    FAILED = auto()
    LOST = auto()
    REFUSED = auto()
    FREED = auto()


@dataclass(frozen=True, slots=True)
class IntentProgress:
    """How far an intent got; `receipt` is that of the version that is in a block, if one is.

    `why` explains it: the contract's reason, or the words of the nodes whose refusal has the class `refusal`.
    """

    fate: Fate
    receipt: TxReceipt | None = None
    why: str = ""
    refusal: Refusal | None = None


class IntentSender:
    """Begins intents and drives them; at most one is open at a time."""

    def __init__(
        self,
        ledger: TransactionBook,
        escrow: Escrow,
        clock: Clock,
        *,
        fee_cap: int,
        smaller: Mapping[str, Smaller],
    ) -> None:
        """`smaller` makes less of a call, by kind of intent; calls of any other kind are whole or not at all."""
        self._ledger = ledger
        self._escrow = escrow
        self._clock = clock
        self._fee_cap = fee_cap
        self._smaller = smaller
        self._most: int | None = None
        """Gas that nodes were found to take, after they had called a call too large that fits by `gas_cap`."""
        self._height_at: dict[str, int] = {}
        """The newest block when this process first saw a version taken, by hash."""
        self._words = ""
        """What was last logged of a refusal."""

    @property
    def address(self) -> str:
        """The key's address; ChainError for an escrow that was opened as a reader."""
        if self._escrow.address is None:
            raise ChainError("this escrow client has no signer")
        return self._escrow.address

    async def open_intent(self) -> Intent | None:
        """The intent that is on its way, if one is."""
        found = await self._ledger.intents(sender=self.address, open_only=True)
        return found[0] if found else None

    async def watch_others(self) -> None:
        """Close what an earlier key of this settler left open, once the chain says what became of it.

        Its kept bytes may still be mined; nothing is signed for it, and the contract takes no state twice.
        """
        for intent in await self._ledger.intents(open_only=True):
            if intent.sender != self.address:
                await self.drive(intent)

    async def begin(self, key: str, kind: str, epoch: int | None, call: Call) -> Intent:
        """Write an intent down; the same key again gives the one that is open. LedgerError while another is open."""
        nonces = await self._escrow.nonces(self.address)
        return await self._ledger.open_intent(
            key,
            kind,
            epoch,
            self.address,
            nonces.finalized,
            call.to or "",
            bytes.fromhex(call.data.removeprefix("0x")),
            self._clock.now(),
        )

    async def room(self) -> Room:
        """What one transaction may have, as far as chain and nodes have shown."""
        cap = await self._escrow.gas_cap()
        return Room(cap if self._most is None else min(cap, self._most))

    async def drive(self, intent: Intent) -> IntentProgress:
        """Find out what became of an intent, and send, send again, reprice or shrink it where it is in no block."""
        versions = await self._versions(intent)
        nonces = await self._escrow.nonces(intent.sender)
        final = nonces.finalized > intent.nonce
        mined, receipt = await self._mined(versions)
        if mined is not None and receipt is not None:
            return await self._in_a_block(intent, versions, mined, receipt, final=final)
        if final:
            await self._close(intent, versions, IntentState.DEAD)
            return IntentProgress(Fate.LOST, why=f"nonce {intent.nonce} of {intent.sender} went to another transaction")
        if intent.sender != self.address:
            if not versions:
                await self._close(intent, (), IntentState.DEAD)
            return IntentProgress(Fate.IN_FLIGHT)
        if versions:
            return await self._send_again(intent, versions)
        return await self._send_first(intent)

    async def _mined(self, versions: Sequence[ChainTx]) -> tuple[ChainTx | None, TxReceipt | None]:
        for tx in reversed(versions):
            receipt = await self._escrow.receipt(tx.tx_hash)
            if receipt is not None:
                return tx, receipt
        return None, None

    async def _in_a_block(
        self, intent: Intent, versions: Sequence[ChainTx], mined: ChainTx, receipt: TxReceipt, *, final: bool
    ) -> IntentProgress:
        if not final:
            await self._mark(mined, TxState.INCLUDED, receipt.block_number)
            return _freeing(await self._why(intent)) if mined.kind == FREE else IntentProgress(Fate.MINED, receipt)
        others = [tx for tx in versions if tx is not mined]
        if receipt.succeeded:
            why = await self._why(intent)
            await self._mark(mined, TxState.FINALIZED, receipt.block_number)
            await self._close(intent, others, IntentState.DONE)
            return (
                IntentProgress(Fate.FREED, receipt, why=why)
                if mined.kind == FREE
                else IntentProgress(Fate.DONE, receipt)
            )
        await self._mark(mined, TxState.REVERTED, receipt.block_number)
        await self._close(intent, others, IntentState.DEAD)
        return IntentProgress(Fate.FAILED, receipt, why=f"{mined.tx_hash} reverted")

    async def _close(self, intent: Intent, others: Sequence[ChainTx], state: IntentState) -> None:
        for tx in others:
            await self._mark(tx, TxState.REPLACED)
        await self._ledger.close_intent(intent.id, state)

    async def _send_first(self, intent: Intent) -> IntentProgress:
        """Sign the intent for the first time, in a smaller call where the one it was written with does not fit."""
        try:
            kept, call = await self._fitted(intent)
        except RevertedError as error:
            await self._close(intent, (), IntentState.DEAD)
            return IntentProgress(Fate.REFUSED, why=str(error))
        except NotTakenError as error:
            if error.why is not Refusal.TOO_LARGE:
                return IntentProgress(Fate.NOT_TAKEN, why=str(error), refusal=error.why)
            await self._close(intent, (), IntentState.DEAD)
            return IntentProgress(Fate.REFUSED, why=str(error), refusal=error.why)
        fees = first_fees(await self._escrow.suggest_fees(), self._fee_cap)
        return await self._sign_and_send(intent, kept, call, fees, taken=False)

    async def _send_again(self, intent: Intent, versions: Sequence[ChainTx]) -> IntentProgress:
        """The same bytes, or another version where that is what helps (settlement.fees.next_action)."""
        newest, calls = versions[-1], await self._ledger.intent_calls(intent.id)
        had = [tx for tx in versions if _was_taken(tx)]
        refused = await self._broadcast(newest)
        if refused is not None and had and had[-1] is not newest and refused.why is not Refusal.UNDERPRICED:
            # The one before it is still good, and nodes forget.
            await self._broadcast(had[-1])
        standing = NonceState(
            fees=Fees(newest.max_fee, newest.tip),
            refusal=refused.why if refused is not None else None,
            taken=highest(Fees(tx.max_fee, tx.tip) for tx in had) if had else None,
            waited=refused is None and await self._waited(newest),
            capped=_capped(versions),
        )
        view = await self._escrow.suggest_fees()
        move, fees = next_action(standing, view, self._fee_cap)
        working = (refused is None and newest.kind != FREE) or any(tx.kind != FREE for tx in had)
        if refused is not None and not had and calls[-1].number > newest.call and _may_go(refused.why):
            move, fees = NonceAction.SHRINK, replacing(None, view, self._fee_cap)
        if move is NonceAction.SHRINK and not await self._shrink(intent, newest, refused):
            move = NonceAction.KEEP
        if move is NonceAction.KEEP:
            return await self._kept(intent, refused, working=working)
        try:
            # What nodes may have is not replaced by a call that was written down when none of them took it.
            kept, call = await self._fitted(intent, None if move is NonceAction.SHRINK else newest.call)
            if kept.number == newest.call:
                call = await self._with_gas(move, call, newest, refused)
        except (RevertedError, NotTakenError) as error:
            passing = isinstance(error, NotTakenError) and error.why is not Refusal.TOO_LARGE
            if passing or move is not NonceAction.SHRINK:
                log.info("%s would fail now (%s): nothing more is signed for it", intent.key, error)
                return await self._kept(intent, refused, working=working)
            await self._freed(intent, str(error))
            kept, call = await self._fitted(intent)
        log.info("%s: %d wei per gas after %d, %s", intent.key, fees.max_fee, newest.max_fee, move.name.lower())
        return await self._sign_and_send(intent, kept, call, fees, taken=working)

    async def _kept(self, intent: Intent, refused: NotTakenError | None, *, working: bool) -> IntentProgress:
        """Progress of an intent for which nothing more was signed; `working`: a node has, or had, bytes of its call."""
        if refused is not None:
            fate = Fate.IN_FLIGHT if working else Fate.NOT_TAKEN
            return IntentProgress(fate, why=str(refused), refusal=refused.why)
        return IntentProgress(Fate.IN_FLIGHT) if working else _freeing(await self._why(intent))

    async def _waited(self, tx: ChainTx) -> bool:
        """Whether patience is over: blocks went by, and none of them has a transaction that a node took long ago."""
        if self._clock.now() - (tx.broadcast_at or self._clock.now()) <= PATIENCE:
            return False
        height = await self._escrow.height()
        return height > self._height_at.setdefault(tx.tx_hash, height)

    async def _shrink(self, intent: Intent, newest: ChainTx, refused: NotTakenError | None) -> bool:
        """Write down a smaller call in place of what no node takes, or one that frees the nonce; False: only wait."""
        kept = (await self._ledger.intent_calls(intent.id))[-1]
        if kept.number > newest.call:
            return True
        if refused is None or newest.kind == FREE:
            return False
        call, room = _call(intent, kept), await self.room()
        try:
            gas: int | None = await self._escrow.simulate(call)
        except (RevertedError, NotTakenError):
            gas = None
        smaller = self._less(intent, call, share_that_fits(gas, room))
        if smaller is None and refused.why is not Refusal.TOO_LARGE:
            return False
        if smaller is None:
            await self._freed(intent, str(refused))
            return True
        if refused.why is Refusal.TOO_LARGE and 0 < newest.gas <= room.gas:
            # The nodes are stricter than their chain: whatever comes next has no more gas than what is left of this.
            self._most = newest.gas // 2
        await self._amend(intent, smaller, str(refused))
        return True

    def _less(self, intent: Intent, call: Call, share: Fraction) -> Call | None:
        make = self._smaller.get(intent.kind) if call.what != FREE else None
        return make(call, share) if make is not None else None

    async def _with_gas(self, move: NonceAction, call: Call, newest: ChainTx, refused: NotTakenError | None) -> Call:
        """The call with a limit that nodes did not call too low; NotTakenError where there is no higher one."""
        room, had = await self.room(), newest.gas or call.gas
        if move is NonceAction.RESIZE:
            gas = call.gas if call.gas > had else min(int(had * MORE_GAS), room.gas)
            if gas <= had:
                raise NotTakenError(f"a gas limit of {had} is called too low, and none may be higher", Refusal.OTHER)
            return replace(call, gas=gas)
        if move is NonceAction.REPRICE and (refused is None or refused.why is Refusal.UNDERPRICED) and had <= room.gas:
            return replace(call, gas=max(call.gas, had))
        return call

    async def is_stuck(self, intent: Intent) -> bool:
        """Whether an intent of this key has held it for longer than URGENCY, and no node ever took it."""
        if intent.sender != self.address or self._clock.now() - intent.created_at <= URGENCY:
            return False
        versions = await self._versions(intent)
        return not any(_was_taken(tx) or tx.kind == FREE for tx in versions)

    async def give_way(self, intent: Intent, other: str) -> None:
        """End an intent that is stuck, for another one that cannot wait.

        Without a signed version it ends at once. Else its nonce is freed: that is written down, and the next `drive`
        signs it, unless a node takes the intent's call then.
        """
        if not await self._versions(intent):
            log.warning("%s: no node would take it; given up for %s", intent.key, other)
            await self._close(intent, (), IntentState.DEAD)
            return
        if _call(intent, (await self._ledger.intent_calls(intent.id))[-1]).what != FREE:
            await self._freed(intent, f"{GIVES_WAY}{other}")

    async def _versions(self, intent: Intent) -> list[ChainTx]:
        return [tx for tx in await self._ledger.transactions(intent=intent.id) if tx.state is not TxState.REPLACED]

    async def _fitted(self, intent: Intent, number: int | None = None) -> tuple[IntentCall, Call]:
        """The intent's call of that number, or its newest, with its gas; until one fits, smaller ones are written down.

        RevertedError where the contract would refuse it, NotTakenError where it has too much gas for any block and
        nothing less can be done.
        """
        calls, room = await self._ledger.intent_calls(intent.id), await self.room()
        kept = calls[-1] if number is None else next(each for each in calls if each.number == number)
        while True:
            call = _call(intent, kept)
            gas: int | None = None
            why = f"its data of {data_size(call)} bytes is more than {room.data}"
            try:
                gas = await self._escrow.simulate(call)
                if room.holds(call, gas):
                    return kept, replace(call, gas=gas)
                if gas > room.gas:
                    why = f"its gas limit of {gas} is above {room.gas}"
            except NotTakenError as error:
                if error.why is not Refusal.TOO_LARGE:
                    raise
                why = str(error)
            smaller = self._less(intent, call, share_that_fits(gas, room))
            if smaller is not None:
                kept = await self._amend(intent, smaller, why)
            elif gas is None or gas > MAX_TX_GAS * GAS_MARGIN:
                raise NotTakenError(f"{intent.key}: {why}", Refusal.TOO_LARGE)
            else:
                # Whole or not at all: it is tried, with less head-room where it needs all that there may be.
                return kept, replace(call, gas=min(gas, MAX_TX_GAS))

    async def _freed(self, intent: Intent, why: str) -> None:
        """Write down that the intent's nonce is to be used for nothing."""
        log.warning("%s: no node takes it (%s); its nonce %d is freed", intent.key, why, intent.nonce)
        await self._amend(intent, Call(intent.sender, "0x", what=FREE), why)

    async def _amend(self, intent: Intent, call: Call, why: str) -> IntentCall:
        data = bytes.fromhex(call.data.removeprefix("0x"))
        log.info("%s: %d bytes of calldata at nonce %d from now on: %s", intent.key, len(data), intent.nonce, why)
        return await self._ledger.amend_intent(intent.id, call.to or "", data, why, self._clock.now())

    async def _why(self, intent: Intent) -> str:
        """Why the intent's newest call took the place of the one before."""
        return (await self._ledger.intent_calls(intent.id))[-1].why

    async def _sign_and_send(
        self, intent: Intent, kept: IntentCall, call: Call, fees: Fees, *, taken: bool
    ) -> IntentProgress:
        """Sign a version with that call, keep it, send it; `taken`: a node took an earlier one of the intent's call."""
        frees = call.what == FREE
        signed = await self._escrow.sign(call, intent.nonce, fees)
        tx = ChainTx(
            tx_hash=signed.tx_hash,
            kind=FREE if frees else intent.kind,
            epoch=intent.epoch,
            provider_wallet=None,
            sender=signed.sender,
            nonce=signed.nonce,
            raw=signed.raw,
            intent=intent.id,
            max_fee=fees.max_fee,
            tip=fees.tip,
            call=kept.number,
            gas=call.gas,
        )
        await self._ledger.store_tx(tx, self._clock.now())
        refused = await self._broadcast(tx)
        return await self._kept(intent, refused, working=taken or (refused is None and not frees))

    async def _broadcast(self, tx: ChainTx) -> NotTakenError | None:
        """Send kept bytes; what every node says that refuses them."""
        signed = SignedTx(tx_hash=tx.tx_hash, raw=tx.raw, sender=tx.sender, nonce=tx.nonce or 0)
        try:
            await self._escrow.broadcast(signed)
        except (ChainUnreachableError, ChainMismatchError):
            raise
        except ChainError as error:
            # Whatever a node says of bytes that are kept, the next pass reads from the chain what became of them.
            refused = error if isinstance(error, NotTakenError) else NotTakenError(str(error), Refusal.OTHER)
            words = f"{tx.kind} of {tx.sender} was not taken ({refused.why}): {refused}"
            if words != self._words:
                log.log(logging.INFO if refused.why is Refusal.NONCE_USED else logging.WARNING, "%s", words)
            self._words = words
            return refused
        await self._mark(tx, TxState.BROADCAST)
        if tx.tx_hash not in self._height_at:
            self._height_at[tx.tx_hash] = await self._escrow.height()
        return None

    async def _mark(self, tx: ChainTx, state: TxState, block_number: int | None = None) -> None:
        if tx.state not in FINAL_TX:
            at = self._clock.now() if state is TxState.BROADCAST else None
            await self._ledger.mark_tx(tx.tx_hash, state, block_number, at)


def _call(intent: Intent, kept: IntentCall) -> Call:
    what = intent.kind if kept.data or not kept.number else FREE
    return Call(kept.to or None, "0x" + kept.data.hex(), what=what)


def _capped(versions: Sequence[ChainTx]) -> int | None:
    """The least offer for the newest version's call that no node took and that a lower one followed.

    Only a node's own limit on the cost makes an offer for the same call fall.
    """
    newest, above = versions[-1], list[int]()
    for earlier, later in pairwise(tx for tx in versions if tx.call == newest.call):
        if later.max_fee < earlier.max_fee and not _was_taken(earlier):
            above.append(earlier.max_fee)
    return min((fee for fee in above if fee > newest.max_fee), default=None)


def _may_go(why: Refusal) -> bool:
    """Whether a nonce can be freed of what is refused so: not if it is used, nor if a free one is refused as well."""
    return why not in (Refusal.NONCE_USED, Refusal.UNDERPRICED)


def _was_taken(tx: ChainTx) -> bool:
    """Whether a node ever had it; a receipt that a reorg took away shows that too."""
    return tx.broadcast_at is not None or tx.state in (TxState.BROADCAST, TxState.INCLUDED)


def _freeing(why: str) -> IntentProgress:
    refusal = Refusal.OTHER if why.startswith(GIVES_WAY) else Refusal.TOO_LARGE
    return IntentProgress(Fate.NOT_TAKEN, why=why, refusal=refusal)
