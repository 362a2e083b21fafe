"""Keeps every transaction's signed bytes in the ledger before they are sent, and sends the same again where needed."""

from __future__ import annotations

import logging

from fedgpu_operator.domain.books import ChainTx, Epoch, TxState
from fedgpu_operator.domain.settlement import SignedTx, TxReceipt
from fedgpu_operator.ports import Clock, Escrow, Ledger

log = logging.getLogger(__name__)


class KeptSender:
    """The only one that broadcasts: what was sent can be found, and sent again, whenever the process dies."""

    def __init__(self, ledger: Ledger, escrow: Escrow, clock: Clock) -> None:
        self._ledger = ledger
        self._escrow = escrow
        self._clock = clock

    async def kept(self, epoch: Epoch, kind: str) -> list[ChainTx]:
        """Transactions of that kind that may still count, oldest first."""
        txs = await self._ledger.transactions(epoch=epoch.number)
        return [tx for tx in txs if tx.kind == kind and tx.state is not TxState.REPLACED]

    async def send(self, signed: SignedTx, kind: str, epoch: Epoch) -> None:
        """Keep signed bytes, then broadcast them."""
        tx = ChainTx(
            tx_hash=signed.tx_hash,
            kind=kind,
            epoch=epoch.number,
            provider_wallet=None,
            sender=signed.sender,
            nonce=signed.nonce,
            raw=signed.raw,
        )
        await self._ledger.store_tx(tx, self._clock.now())
        await self._escrow.broadcast(signed)
        await self._ledger.mark_tx(signed.tx_hash, TxState.BROADCAST)

    async def send_again(self, tx: ChainTx) -> bool:
        """Broadcast kept bytes that are in no block; False where another transaction took their nonce for good."""
        if await self._escrow.finalized_nonce(tx.sender) > (tx.nonce or 0):
            if await self._escrow.receipt(tx.tx_hash) is None:
                log.warning("the nonce of %s was used by another transaction of the same key", tx.tx_hash)
                await self._ledger.mark_tx(tx.tx_hash, TxState.REPLACED)
                return False
            return True
        await self._escrow.broadcast(SignedTx(tx_hash=tx.tx_hash, raw=tx.raw, sender=tx.sender, nonce=tx.nonce or 0))
        if tx.state is TxState.SIGNED:
            await self._ledger.mark_tx(tx.tx_hash, TxState.BROADCAST)
        return True

    async def note(self, tx: ChainTx, receipt: TxReceipt | None, *, final: bool) -> None:
        """Write down what became of a transaction."""
        if receipt is None or tx.state in (TxState.FINALIZED, TxState.REVERTED):
            return
        state = TxState.REVERTED if not receipt.succeeded else TxState.FINALIZED if final else TxState.INCLUDED
        await self._ledger.mark_tx(tx.tx_hash, state, receipt.block_number)
