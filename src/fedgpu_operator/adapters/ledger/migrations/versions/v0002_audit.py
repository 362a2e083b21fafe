"""Schema 2: hash chains, signatures, receipts, disputes of usage, double entries, and intents with fee versions."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from json import dumps

import sqlalchemy as sa
from alembic import op

from fedgpu_operator.adapters.ledger.hashchain import genesis, row_hash
from fedgpu_operator.adapters.ledger.migrations import guards

revision = "0002"
down_revision = "0001"

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
TX = "id tx_hash kind epoch provider_wallet sender nonce raw created_at intent max_fee tip"
CHAINED = {
    "attempts": (
        "lease_name",
        (
            "lease_name job_uid attempt request_id tenant job_name provider product price gpus run_limit tenant_wallet "
            "provider_wallet created_at"
        ),
        "created_at lease_name",
    ),
    "epochs": (
        "number",
        "number seq prev_root root manifest_hash period_end total created_at ledger_head parts_hash",
        "number",
    ),
    "postings": (
        "entry leg",
        "entry leg kind tenant_wallet provider_wallet account amount block at",
        "entry leg",
    ),
    "receipts": (
        "tenant_wallet provider_wallet cumulative period_end",
        "tenant_wallet provider_wallet cumulative period_end usage_root provider_signature meter_signature at",
        "at",
    ),
    "usage_records": (
        "lease_name sequence",
        (
            "lease_name sequence gpu_seconds observed_at signed_sequence signed_gpu_seconds signed_at usage_hash "
            "signer signature"
        ),
        "observed_at lease_name sequence",
    ),
}
"""By chained table: its key, what its chain binds, and the order in which rows older than the chain enter it."""

USAGE_ONLY_RISES = """
COALESCE((SELECT u.gpu_seconds FROM usage_records AS u WHERE u.lease_name = NEW.lease_name
    AND u.sequence < NEW.sequence ORDER BY u.sequence DESC LIMIT 1), 0) > NEW.gpu_seconds
OR COALESCE((SELECT u.gpu_seconds FROM usage_records AS u WHERE u.lease_name = NEW.lease_name
    AND u.sequence > NEW.sequence ORDER BY u.sequence LIMIT 1), NEW.gpu_seconds) < NEW.gpu_seconds
OR EXISTS (SELECT 1 FROM usage_records AS u WHERE u.lease_name = NEW.lease_name AND u.sequence = NEW.sequence)
"""
RECEIPTS_ONLY_RISE = """
EXISTS (SELECT 1 FROM receipts AS r WHERE r.tenant_wallet = NEW.tenant_wallet
    AND r.provider_wallet = NEW.provider_wallet AND (r.cumulative > NEW.cumulative OR r.period_end > NEW.period_end
    OR (r.cumulative = NEW.cumulative AND r.period_end = NEW.period_end)))
"""
BOUND_FOR_GOOD = """
EXISTS (SELECT 1 FROM bound_escrows) AND (EXISTS (SELECT 1 FROM epochs) OR EXISTS (SELECT 1 FROM chain_intents)
    OR EXISTS (SELECT 1 FROM postings) OR EXISTS (SELECT 1 FROM receipts))
"""


def upgrade() -> None:
    """From schema 1; every row that is there enters its chain."""
    guards.lift("usage_records", "only_rises")
    for table in ("attempts", "epochs", "usage_records", "chain_txs"):
        guards.lift(table, "no_update")
    _widen()
    _usage_disputes()
    _receipts()
    _postings()
    _intents()
    _bound_escrows()
    op.create_table(
        "chain_heads",
        sa.Column("chain", TEXT, primary_key=True),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    _bind_parts()
    for table, (key, columns, order) in CHAINED.items():
        _chain(table, key.split(), columns.split(), order)
    _guard()
    op.execute("UPDATE schema_version SET version = 2")


def _widen() -> None:
    for table in ("attempts", "epochs", "usage_records"):
        op.add_column(table, sa.Column("position", sa.BigInteger, nullable=False, server_default="0"))
        op.add_column(table, sa.Column("hash", sa.LargeBinary, nullable=False, server_default=""))
    for name in ("signed_sequence", "signed_gpu_seconds", "signed_at"):
        op.add_column("usage_records", sa.Column(name, sa.BigInteger))
    op.add_column("usage_records", sa.Column("usage_hash", TEXT))
    op.add_column("usage_records", sa.Column("signer", TEXT, nullable=False, server_default=""))
    op.add_column("usage_records", sa.Column("signature", sa.LargeBinary))
    op.add_column("epochs", sa.Column("ledger_head", TEXT, nullable=False, server_default=""))
    op.add_column("epochs", sa.Column("parts_hash", sa.LargeBinary, nullable=False, server_default=""))


def _usage_disputes() -> None:
    op.create_table(
        "usage_disputes",
        sa.Column("lease_name", TEXT, sa.ForeignKey("attempts.lease_name"), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("claimed", sa.BigInteger, nullable=False),
        sa.Column("payable", sa.BigInteger, nullable=False),
        sa.Column("why", TEXT, nullable=False),
        sa.Column("evidence", TEXT, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("note", TEXT, nullable=False, server_default=""),
        sa.Column("ruled_at", sa.BigInteger),
        sa.CheckConstraint("sequence > 0 AND payable >= 0 AND claimed > payable", name="dispute_sane"),
    )
    guards.fixed("usage_disputes", "lease_name sequence claimed payable why evidence at")
    guards.refuse(
        "usage_disputes", "ruled_once", "UPDATE OF state, note, ruled_at", "a dispute ends once", "OLD.state <> 'Open'"
    )


def _receipts() -> None:
    op.create_table(
        "receipts",
        sa.Column("tenant_wallet", TEXT, primary_key=True),
        sa.Column("provider_wallet", TEXT, primary_key=True),
        sa.Column("cumulative", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("period_end", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("usage_root", TEXT, nullable=False),
        sa.Column("provider_signature", sa.LargeBinary, nullable=False),
        sa.Column("meter_signature", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("hash", sa.LargeBinary, nullable=False, server_default=""),
        sa.CheckConstraint("cumulative >= 0 AND period_end >= 0", name="receipt_sane"),
    )
    guards.refuse_insert("receipts", "only_rises", "receipts only rise", RECEIPTS_ONLY_RISE)


def _postings() -> None:
    op.create_table(
        "postings",
        sa.Column("entry", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("leg", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("tenant_wallet", TEXT, nullable=False),
        sa.Column("provider_wallet", TEXT, nullable=False),
        sa.Column("account", TEXT, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("block", sa.BigInteger),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("hash", sa.LargeBinary, nullable=False, server_default=""),
        sa.CheckConstraint("leg IN (1, 2) AND amount <> 0", name="posting_sane"),
    )
    op.create_index("postings_by_account", "postings", ["account"])


def _intents() -> None:
    op.create_table(
        "chain_intents",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("epoch", sa.Integer, sa.ForeignKey("epochs.number")),
        sa.Column("sender", TEXT, nullable=False),
        sa.Column("nonce", sa.BigInteger, nullable=False),
        sa.Column("to", TEXT, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("state", TEXT, nullable=False),
    )
    is_open = sa.text("state = 'Open'")
    op.create_index(
        "one_open_intent_per_sender",
        "chain_intents",
        ["sender"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    guards.fixed("chain_intents", "id key kind epoch sender nonce to data created_at")
    guards.refuse("chain_intents", "closes_once", "UPDATE OF state", "an intent closes once", "OLD.state <> 'Open'")
    op.execute("ALTER TABLE chain_txs ADD COLUMN intent INTEGER REFERENCES chain_intents (id)")
    op.add_column("chain_txs", sa.Column("max_fee", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("chain_txs", sa.Column("tip", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("chain_txs_by_intent", "chain_txs", ["intent"])


def _bound_escrows() -> None:
    op.create_table(
        "bound_escrows",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("chain_id", sa.BigInteger, nullable=False),
        sa.Column("escrow", TEXT, nullable=False),
    )
    guards.fixed("bound_escrows", "number chain_id escrow")
    guards.refuse_insert("bound_escrows", "settled", "a ledger that settled keeps its escrow", BOUND_FOR_GOOD)


def _bind_parts() -> None:
    """Give each epoch of schema 1 the hash of its lines and covers, as epochs.parts_hash makes it."""
    bind = op.get_bind()
    for (number,) in bind.execute(sa.text("SELECT number FROM epochs ORDER BY number")).all():
        lines = bind.execute(
            sa.text(
                "SELECT tenant, provider, tenant_wallet, provider_wallet, cumulative FROM epoch_lines "
                "WHERE epoch = :number"
            ),
            {"number": number},
        )
        covers = bind.execute(
            sa.text("SELECT lease_name, gpu_seconds FROM epoch_leases WHERE epoch = :number"), {"number": number}
        )
        parts = [sorted([*map(str, row)] for row in rows) for rows in (lines, covers)]
        text = dumps(parts, ensure_ascii=False, separators=(",", ":"))
        bind.execute(
            sa.text("UPDATE epochs SET parts_hash = :hash WHERE number = :number"),
            {"hash": sha256(text.encode()).digest(), "number": number},
        )


def _chain(name: str, key: Sequence[str], columns: Sequence[str], order: str) -> None:
    """Hash the rows that are there, in that order, and begin the table's chain with them."""
    bind = op.get_bind()
    table = sa.table(name, *map(sa.column, [*columns, "position", "hash"]))
    rows = bind.execute(sa.select(*(table.c[column] for column in columns)).order_by(*order.split())).all()
    last = genesis(name)
    for position, row in enumerate(rows, start=1):
        last = row_hash(last, name, position, row)
        this = (table.c[column] == getattr(row, column) for column in key)
        bind.execute(sa.update(table).where(*this).values(position=position, hash=last))
    op.create_index(f"{name}_position", name, ["position"], unique=True)
    heads = sa.table("chain_heads", sa.column("chain"), sa.column("length"), sa.column("hash"))
    bind.execute(sa.insert(heads).values(chain=name, length=len(rows), hash=last))


def _guard() -> None:
    for name in ("attempts", "usage_records"):
        guards.fixed(name, f"{CHAINED[name][1]} position hash", again=True)
    guards.fixed("epochs", f"{CHAINED['epochs'][1]} manifest position hash", again=True)
    for name in ("postings", "receipts"):
        guards.fixed(name, f"{CHAINED[name][1]} position hash")
    guards.fixed("chain_txs", TX, again=True)
    guards.refuse_insert("usage_records", "only_rises", "usage only rises", USAGE_ONLY_RISES)
    guards.refuse("chain_heads", "no_delete", "DELETE", "a chain keeps its head")
    guards.refuse("chain_heads", "only_grows", "UPDATE", "a chain only grows", "NEW.length <= OLD.length")
