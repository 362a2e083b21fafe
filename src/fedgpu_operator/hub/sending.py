"""The one sender of the settler's key: intent first, then signed bytes, then the chain; all of it kept in the ledger.

An intent is one thing that shall happen once. It has one nonce, and as many signed versions as its fee was raised; of
versions of one nonce the chain takes at most one. The nonce is the next one in the finalized chain, so an intent
begins only when everything before it is beyond doubt, and no gap can open. What became of it is read from the chain:
first the finalized nonce, then the receipts, so that "used, and not by us" cannot be said too early.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Final

from fedgpu_operator.domain.books import ChainTx, TxState
from fedgpu_operator.domain.ledger import FINAL_TX, Intent, IntentState
from fedgpu_operator.domain.settlement import SignedTx, TxReceipt
from fedgpu_operator.domain.transactions import Call, Fees
from fedgpu_operator.errors import ChainError, ChainUnreachableError, RevertedError
from fedgpu_operator.ports import Clock, Escrow, Ledger
from fedgpu_operator.settlement import bumped, first_fees, underpriced

log = logging.getLogger(__name__)

PATIENCE: Final = timedelta(seconds=60)
"""How long a fairly paid transaction may stay out of every block before its fee is raised all the same."""


class Fate(Enum):
    """What became of an intent; the last three are final, and so is DONE."""

    IN_FLIGHT = auto()
    MINED = auto()
    DONE = auto()
    FAILED = auto()
    LOST = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an intent got; `receipt` is that of the version that is in a block, if one is."""

    fate: Fate
    receipt: TxReceipt | None = None
    why: str = ""


class IntentSender:
    """Begins intents and drives them; at most one is open at a time."""

    def __init__(self, ledger: Ledger, escrow: Escrow, clock: Clock, *, fee_cap: int) -> None:
        self._ledger = ledger
        self._escrow = escrow
        self._clock = clock
        self._fee_cap = fee_cap
        self._sent_at: dict[str, datetime] = {}
        """When this process first sent a version, by hash."""

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

    async def drive(self, intent: Intent) -> Progress:
        """Find out what became of an intent, and send, send again or raise the fee where it is in no block."""
        versions = [tx for tx in await self._ledger.transactions(intent=intent.id) if tx.state is not TxState.REPLACED]
        nonces = await self._escrow.nonces(intent.sender)
        final = nonces.finalized > intent.nonce
        mined, receipt = await self._mined(versions)
        if mined is not None and receipt is not None:
            return await self._in_a_block(intent, versions, mined, receipt, final=final)
        if final:
            await self._close(intent, versions, IntentState.DEAD)
            return Progress(Fate.LOST, why=f"nonce {intent.nonce} of {intent.sender} went to another transaction")
        if intent.sender != self.address:
            if not versions:
                await self._close(intent, (), IntentState.DEAD)
            return Progress(Fate.IN_FLIGHT)
        if versions:
            await self._send_again(intent, versions[-1])
            return Progress(Fate.IN_FLIGHT)
        return await self._send_first(intent)

    async def _mined(self, versions: Sequence[ChainTx]) -> tuple[ChainTx | None, TxReceipt | None]:
        for tx in reversed(versions):
            receipt = await self._escrow.receipt(tx.tx_hash)
            if receipt is not None:
                return tx, receipt
        return None, None

    async def _in_a_block(
        self, intent: Intent, versions: Sequence[ChainTx], mined: ChainTx, receipt: TxReceipt, *, final: bool
    ) -> Progress:
        if not final:
            await self._mark(mined, TxState.INCLUDED, receipt.block_number)
            return Progress(Fate.MINED, receipt)
        others = [tx for tx in versions if tx is not mined]
        if receipt.succeeded:
            await self._mark(mined, TxState.FINALIZED, receipt.block_number)
            await self._close(intent, others, IntentState.DONE)
            return Progress(Fate.DONE, receipt)
        await self._mark(mined, TxState.REVERTED, receipt.block_number)
        await self._close(intent, others, IntentState.DEAD)
        return Progress(Fate.FAILED, receipt, why=f"{mined.tx_hash} reverted")

    async def _close(self, intent: Intent, others: Sequence[ChainTx], state: IntentState) -> None:
        for tx in others:
            await self._mark(tx, TxState.REPLACED)
        await self._ledger.close_intent(intent.id, state)

    async def _send_first(self, intent: Intent) -> Progress:
        call = _call(intent)
        try:
            gas = await self._escrow.simulate(call)
        except RevertedError as error:
            await self._close(intent, (), IntentState.DEAD)
            return Progress(Fate.REFUSED, why=str(error))
        fees = first_fees(await self._escrow.suggest_fees(), self._fee_cap)
        await self._sign_and_send(intent, replace(call, gas=gas), fees)
        return Progress(Fate.IN_FLIGHT)

    async def _sign_and_send(self, intent: Intent, call: Call, fees: Fees) -> None:
        signed = await self._escrow.sign(call, intent.nonce, fees)
        tx = ChainTx(
            tx_hash=signed.tx_hash,
            kind=intent.kind,
            epoch=intent.epoch,
            provider_wallet=None,
            sender=signed.sender,
            nonce=signed.nonce,
            raw=signed.raw,
            intent=intent.id,
            max_fee=fees.max_fee,
            tip=fees.tip,
        )
        await self._ledger.store_tx(tx, self._clock.now())
        await self._broadcast(tx)

    async def _send_again(self, intent: Intent, newest: ChainTx) -> None:
        """The same bytes, or where they are paid too little or wait too long, a version that pays more."""
        refused = await self._broadcast(newest)
        fees, view = Fees(newest.max_fee, newest.tip), await self._escrow.suggest_fees()
        waited = self._clock.now() - self._sent_at.setdefault(newest.tx_hash, self._clock.now())
        if not (refused or underpriced(fees, view) or waited > PATIENCE):
            return
        higher = bumped(fees, view, self._fee_cap)
        if higher is None:
            log.warning("%s (%s) waits at the fee cap of %d wei", intent.key, newest.tx_hash, self._fee_cap)
            return
        call = _call(intent)
        try:
            gas = await self._escrow.simulate(call)
        except RevertedError as error:
            log.info("%s would revert now (%s): its fee is not raised", intent.key, error)
            return
        log.info("%s: fee raised from %d to %d wei per gas", intent.key, fees.max_fee, higher.max_fee)
        await self._sign_and_send(intent, replace(call, gas=gas), higher)

    async def _broadcast(self, tx: ChainTx) -> bool:
        """Send kept bytes; True where every node refuses them because another transaction of that nonce pays more."""
        signed = SignedTx(tx_hash=tx.tx_hash, raw=tx.raw, sender=tx.sender, nonce=tx.nonce or 0)
        try:
            await self._escrow.broadcast(signed)
        except ChainUnreachableError:
            raise
        except ChainError as error:
            # Whatever a node says of bytes that are kept, the next pass reads from the chain what became of them.
            poor = "insufficient funds" in str(error).lower()
            log.log(logging.WARNING if poor else logging.INFO, "%s of %s was not taken: %s", tx.kind, tx.sender, error)
            return "underpriced" in str(error).lower()
        await self._mark(tx, TxState.BROADCAST)
        self._sent_at.setdefault(tx.tx_hash, self._clock.now())
        return False

    async def _mark(self, tx: ChainTx, state: TxState, block_number: int | None = None) -> None:
        if tx.state not in FINAL_TX:
            await self._ledger.mark_tx(tx.tx_hash, state, block_number)


def _call(intent: Intent) -> Call:
    return Call(intent.to or None, "0x" + intent.data.hex(), what=intent.kind)
