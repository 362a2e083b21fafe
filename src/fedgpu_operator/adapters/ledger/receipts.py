"""Receipts that both sides signed, and disputes over readings that differ; functions of one connection."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from fedgpu_operator.adapters.ledger.attempts import attempt_of
from fedgpu_operator.adapters.ledger.chaining import Field, append, stamp
from fedgpu_operator.adapters.ledger.schema import attempts, receipts, usage_disputes
from fedgpu_operator.domain.ledger import CountersignedReceipt, UsageDispute, UsageDisputeState
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Receipt
from fedgpu_operator.errors import LedgerError

OPEN = UsageDisputeState.OPEN.value


def append_receipt(connection: Connection, signed: CountersignedReceipt) -> bool:
    """Append a receipt; False where the same statement of the pair is held already, whatever its signatures.

    Raises LedgerError where its cumulative or its period end is below one that is held, or where the two are held with
    another usage root.
    """
    receipt = signed.receipt
    theirs = select(receipts).where(
        receipts.c.tenant_wallet == receipt.tenant, receipts.c.provider_wallet == receipt.provider
    )
    same = connection.execute(
        theirs.where(receipts.c.cumulative == receipt.cumulative, receipts.c.period_end == receipt.period_end)
    ).one_or_none()
    if same is not None:
        if _signed(same).receipt == receipt:
            return False
        raise LedgerError(f"the receipt over {_said(receipt)} is held with another usage root")
    newest = connection.execute(
        theirs.order_by(receipts.c.cumulative.desc(), receipts.c.period_end.desc()).limit(1)
    ).one_or_none()
    if newest is not None and (receipt.cumulative < newest.cumulative or receipt.period_end < newest.period_end):
        raise LedgerError(f"receipts only rise: {_said(receipt)} after {_said(_signed(newest).receipt)}")
    row: tuple[Field, ...] = (
        receipt.tenant,
        receipt.provider,
        receipt.cumulative,
        receipt.period_end,
        receipt.usage_root,
        signed.provider_signature,
        signed.meter_signature,
        stamp(signed.at),
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


def dispute_usage(connection: Connection, dispute: UsageDispute) -> bool:
    """Keep a dispute; False where it is held already, LedgerError where it is held with other figures or is an old one.

    An open dispute of an earlier reading of the lease is superseded: usage is cumulative.
    """
    attempt_of(connection, dispute.lease_name)
    held = {d.sequence: d for d in disputes_of(connection, dispute.lease_name, None, open_only=False)}
    same = held.get(dispute.sequence)
    if same is not None:
        if (same.claimed, same.payable, same.why) == (dispute.claimed, dispute.payable, dispute.why):
            return False
        raise LedgerError(f"reading {dispute.sequence} of {dispute.lease_name} is disputed with other figures")
    if held and max(held) > dispute.sequence:
        raise LedgerError(f"a later reading than {dispute.sequence} of {dispute.lease_name} is disputed already")
    connection.execute(
        update(usage_disputes)
        .where(usage_disputes.c.lease_name == dispute.lease_name, usage_disputes.c.state == OPEN)
        .values(state=UsageDisputeState.SUPERSEDED.value, ruled_at=dispute.at)
    )
    connection.execute(
        insert(usage_disputes).values(
            lease_name=dispute.lease_name,
            sequence=dispute.sequence,
            claimed=dispute.claimed,
            payable=dispute.payable,
            why=dispute.why,
            evidence=dispute.evidence,
            at=dispute.at,
            state=OPEN,
        )
    )
    return True


def rule_usage_dispute(
    connection: Connection, lease: str, sequence: int, state: UsageDisputeState, note: str, at: datetime
) -> UsageDispute:
    """Close an open dispute as Granted or Refused; the same ruling again changes nothing."""
    found = [d for d in disputes_of(connection, lease, None, open_only=False) if d.sequence == sequence]
    if not found:
        raise LedgerError(f"reading {sequence} of {lease} is not disputed")
    dispute = found[0]
    if dispute.state is state:
        return dispute
    if dispute.state is not UsageDisputeState.OPEN:
        raise LedgerError(f"the dispute of reading {sequence} of {lease} is {dispute.state} for good")
    if state not in (UsageDisputeState.GRANTED, UsageDisputeState.REFUSED):
        raise LedgerError(f"a ruling grants or refuses; {state} is none")
    connection.execute(
        update(usage_disputes)
        .where(usage_disputes.c.lease_name == lease, usage_disputes.c.sequence == sequence)
        .values(state=state.value, note=note, ruled_at=at)
    )
    return replace(dispute, state=state, note=note, ruled_at=at)


def disputes_of(
    connection: Connection, lease: str | None, tenant: str | None, *, open_only: bool
) -> tuple[UsageDispute, ...]:
    """Disputes, oldest first; of one lease or one tenant's namespace where it is named."""
    query = select(usage_disputes).order_by(usage_disputes.c.at, usage_disputes.c.lease_name, usage_disputes.c.sequence)
    if lease is not None:
        query = query.where(usage_disputes.c.lease_name == lease)
    if tenant is not None:
        theirs = select(attempts.c.lease_name).where(attempts.c.tenant == tenant)
        query = query.where(usage_disputes.c.lease_name.in_(theirs))
    if open_only:
        query = query.where(usage_disputes.c.state == OPEN)
    return tuple(
        UsageDispute(
            lease_name=row.lease_name,
            sequence=row.sequence,
            claimed=row.claimed,
            payable=row.payable,
            why=row.why,
            evidence=row.evidence,
            at=row.at,
            state=UsageDisputeState(row.state),
            note=row.note,
            ruled_at=row.ruled_at,
        )
        for row in connection.execute(query)
    )


def _signed(row: Row[Any]) -> CountersignedReceipt:
    receipt = Receipt(row.tenant_wallet, row.provider_wallet, MicroUSD(row.cumulative), row.period_end, row.usage_root)
    return CountersignedReceipt(receipt, row.provider_signature, row.meter_signature, row.at)


def _said(receipt: Receipt) -> str:
    return f"{receipt.cumulative} µUSD of {receipt.tenant} to {receipt.provider} up to {receipt.period_end}"
