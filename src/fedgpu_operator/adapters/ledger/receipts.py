"""Receipts that provider and meter signed; functions of one connection."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select

from fedgpu_operator.adapters.ledger.attempts import seal_pair
from fedgpu_operator.adapters.ledger.calls import Calls, in_transaction
from fedgpu_operator.adapters.ledger.hashchain import Field, append, stamp
from fedgpu_operator.adapters.ledger.schema import receipts
from fedgpu_operator.domain.ledger import CountersignedReceipt
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Receipt
from fedgpu_operator.errors import LedgerError


def append_receipt(
    connection: Connection, receipt: Receipt, provider_signature: bytes, meter_signature: bytes, at: datetime
) -> bool:
    """Append a receipt; False if the same statement of the pair is held already, whatever its signatures.

    Raises LedgerError if its cumulative or its period end is below one that is held, or if the two are held with
    another usage root.
    """
    theirs = select(receipts).where(
        receipts.c.tenant_wallet == receipt.tenant, receipts.c.provider_wallet == receipt.provider
    )
    same = connection.execute(
        theirs.where(receipts.c.cumulative == receipt.cumulative, receipts.c.period_end == receipt.period_end)
    ).one_or_none()
    if same is not None:
        if _signed(same).receipt == receipt:
            return False
        raise LedgerError(f"the receipt over {_described(receipt)} is held with another usage root")
    newest = connection.execute(
        theirs.order_by(receipts.c.cumulative.desc(), receipts.c.period_end.desc()).limit(1)
    ).one_or_none()
    if newest is not None and (receipt.cumulative < newest.cumulative or receipt.period_end < newest.period_end):
        raise LedgerError(f"receipts only rise: {_described(receipt)} after {_described(_signed(newest).receipt)}")
    row: tuple[Field, ...] = (
        receipt.tenant,
        receipt.provider,
        receipt.cumulative,
        receipt.period_end,
        receipt.usage_root,
        provider_signature,
        meter_signature,
        stamp(at),
    )
    append(connection, receipts, [row])
    return True


def receipts_of(
    connection: Connection, tenant: str | None, provider: str | None, *, newest_only: bool
) -> tuple[CountersignedReceipt, ...]:
    """Receipts by tenant wallet, provider wallet and time."""
    query = select(receipts)
    if newest_only:
        last = (
            select(func.max(receipts.c.position).label("position"))
            .group_by(receipts.c.tenant_wallet, receipts.c.provider_wallet)
            .subquery()
        )
        query = query.join(last, last.c.position == receipts.c.position)
    if tenant is not None:
        query = query.where(receipts.c.tenant_wallet == tenant)
    if provider is not None:
        query = query.where(receipts.c.provider_wallet == provider)
    rows = connection.execute(query.order_by(receipts.c.tenant_wallet, receipts.c.provider_wallet, receipts.c.position))
    return tuple(_signed(row) for row in rows)


def _signed(row: Row[Any]) -> CountersignedReceipt:
    receipt = Receipt(row.tenant_wallet, row.provider_wallet, MicroUSD(row.cumulative), row.period_end, row.usage_root)
    return CountersignedReceipt(receipt, row.provider_signature, row.meter_signature, row.at)


def _described(receipt: Receipt) -> str:
    return f"{receipt.cumulative} µUSD of {receipt.tenant} to {receipt.provider} up to {receipt.period_end}"


class SqlReceipts(Calls):
    """Receipts of an open ledger (ports.ReceiptBook)."""

    seal_pair = in_transaction(seal_pair)
    append_receipt = in_transaction(append_receipt)

    async def receipts(
        self, *, tenant: str | None = None, provider: str | None = None, newest_only: bool = True
    ) -> tuple[CountersignedReceipt, ...]:
        """Receipts by tenant wallet, provider wallet and time; the newest of each pair, or all of them."""
        # An archive run removes older receipts, and leaves the newest of each pair as it is.
        read = self._read if newest_only else self._look
        return await read(receipts_of, tenant, provider, newest_only=newest_only)
