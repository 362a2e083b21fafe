"""The database itself refuses to have history rewritten, whatever tool it is asked with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest
from tests.contract.ledger.intruder import Intruder
from tests.ledgers import open_attempt

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.ledger import Position, PostingKind, UsageDispute, UsageDisputeState
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import EpochDraft, EpochLine, LeaseCover, Receipt
from fedgpu_operator.domain.transactions import ChainTx, IntentState, TxState

Ask = Callable[..., AttemptRequest]

GUARDED = {
    "attempts": "price",
    "usage_records": "gpu_seconds",
    "usage_disputes": "claimed",
    "receipts": "cumulative",
    "epochs": "total",
    "epoch_lines": "cumulative",
    "epoch_leases": "gpu_seconds",
    "chain_intents": "nonce",
    "chain_txs": "max_fee",
    "intent_calls": "number",
    "postings": "amount",
    "bound_escrows": "chain_id",
}
"""By table, a column that never changes."""


@pytest.fixture
async def filled(held: SqlLedger, ask: Ask, now: datetime) -> SqlLedger:
    """At least one row in every table."""
    await held.bind(1, "0xE")
    await open_attempt(held, ask(), now)
    await held.record_usage("job-1", 5, 100, now)
    await held.dispute_usage(UsageDispute("job-1", 5, 130, 100, "HubClock", "{}", now))
    line = EpochLine("team-a", "berlin", "0xT", "0xB", MicroUSD(1))
    draft = EpochDraft(1, "0x0", "0x1", b"{}", "0xh", now, MicroUSD(1), (line,), (LeaseCover("job-1", 100),))
    await held.store_epoch(draft, now)
    intent = await held.open_intent("post:1", "post", 1, "0xS", 0, "0xE", b"", now)
    await held.amend_intent(intent.id, "0xE", b"\x01", "too large", now)
    await held.store_tx(ChainTx("0x1", "post", 1, None, "0xS", 0, b"\x02", intent=intent.id), now)
    await held.mark_tx("0x1", TxState.REVERTED)
    await held.close_intent(intent.id, IntentState.DEAD)
    await held.append_receipt(Receipt("0xT", "0xB", MicroUSD(5), 7, "0x"), b"", b"", now)
    await held.post([Position(PostingKind.CHARGED, "0xT", "0xB", MicroUSD(5))], now)
    await held.rule_usage_dispute("job-1", 5, UsageDisputeState.REFUSED, "", now)
    await held.stop_attempt("job-1", "Suspended", now)
    await held.end_attempt("job-1", "Succeeded", now)
    return held


async def test_no_row_is_altered_or_deleted(filled: SqlLedger, intruder: Intruder) -> None:
    for table, column in GUARDED.items():
        for statement in (f"UPDATE {table} SET {column} = 9", f"DELETE FROM {table}"):
            with pytest.raises(intruder.refusal, match="append-only"):
                intruder.run(statement)
        if intruder.engine == "postgresql":
            with pytest.raises(intruder.refusal, match="append-only"):
                intruder.run(f"TRUNCATE {table} CASCADE")


async def test_what_is_owed_only_rises_and_stays(filled: SqlLedger, intruder: Intruder) -> None:
    for statement, why in [
        ("UPDATE lease_usage SET gpu_seconds = gpu_seconds - 1", "usage only rises"),
        ("UPDATE lease_usage SET gpu_seconds = gpu_seconds + 1", "usage only rises"),
        ("UPDATE lease_usage SET sequence = sequence - 1", "usage only rises"),
        ("UPDATE lease_usage SET observed_at = 7", "usage only rises"),
        ("UPDATE lease_usage SET checkpoint_sequence = checkpoint_sequence - 1", "usage only rises"),
        ("DELETE FROM lease_usage", "kept for good"),
        ("UPDATE pair_totals SET numerator = '9'", "owes only rises"),
        ("UPDATE pair_totals SET gpu_seconds = '99'", "owes only rises"),
        ("UPDATE pair_totals SET ended_attempts = 0", "owes only rises"),
        ("UPDATE pair_totals SET tenant = 'team-b'", "owes only rises"),
        ("DELETE FROM pair_totals", "kept for good"),
    ]:
        with pytest.raises(intruder.refusal, match=why):
            intruder.run(statement)
    if intruder.engine == "postgresql":
        for table in ("lease_usage", "pair_totals"):
            with pytest.raises(intruder.refusal, match="kept for good"):
                intruder.run(f"TRUNCATE {table} CASCADE")


async def test_what_ended_stays_ended(filled: SqlLedger, intruder: Intruder) -> None:
    for statement, why in [
        ("UPDATE attempts SET ended_at = NULL", "ends once"),
        ("UPDATE attempts SET stop_reason = 'Another'", "stopped once"),
        ("UPDATE usage_disputes SET state = 'Granted'", "ends once"),
        ("UPDATE chain_intents SET state = 'Open'", "closes once"),
        ("UPDATE chain_heads SET length = 0 WHERE chain = 'receipts'", "only grows"),
        ("DELETE FROM chain_heads", "keeps its head"),
    ]:
        with pytest.raises(intruder.refusal, match=why):
            intruder.run(statement)


async def test_a_ledger_that_settled_keeps_its_escrow(filled: SqlLedger, intruder: Intruder) -> None:
    with pytest.raises(intruder.refusal, match="keeps its escrow"):
        intruder.run("INSERT INTO bound_escrows (number, chain_id, escrow) VALUES (2, 1, '0xOther')")


async def test_no_contradicting_usage_or_receipt_gets_in(filled: SqlLedger, intruder: Intruder) -> None:
    usage = "INTO usage_records (lease_name, sequence, gpu_seconds, observed_at, position) VALUES ('job-1', ?, ?, 0, 9)"
    verbs = ("INSERT", "INSERT OR REPLACE") if intruder.engine == "sqlite" else ("INSERT",)
    for verb in verbs:
        for sequence, gpu_seconds in [(5, 100), (5, 101), (4, 101), (6, 99)]:
            with pytest.raises(intruder.refusal, match="usage only rises"):
                intruder.run(f"{verb} {usage}", sequence, gpu_seconds)
        for cumulative, period_end in [(4, 8), (6, 6), (5, 7)]:
            with pytest.raises(intruder.refusal, match="receipts only rise"):
                intruder.run(
                    f"{verb} INTO receipts (tenant_wallet, provider_wallet, cumulative, period_end, usage_root,"
                    " provider_signature, meter_signature, at, position) VALUES ('0xT', '0xB', ?, ?, '', '', '', 0, 9)",
                    cumulative,
                    period_end,
                )
    assert (await filled.verify()).rows["usage_records"] == 1
