"""Schema 7: sealed segments of the chains in archives, and the balances that archived postings leave behind."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fedgpu_operator.adapters.ledger.migrations import guards

revision = "0007"
down_revision = "0006"

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
SEGMENT = "number chain first_position last_position hash_before hash_after epoch file digest kept_hash at"
BOUND = "number seq prev_root root manifest_hash period_end total created_at ledger_head parts_hash position hash"
"""Columns of an epoch that never change. Its manifest may go, and go only."""

ARCHIVED_ROW = "COALESCE((SELECT MAX(s.last_position) FROM archived_segments AS s WHERE s.chain = '{}'), 0)"
ARCHIVED_EPOCH = "COALESCE((SELECT MAX(s.epoch) FROM archived_segments AS s WHERE s.chain = 'epochs'), 0)"
NOT_THE_NEXT = """
NEW.first_position <> 1 + COALESCE(
    (SELECT MAX(s.last_position) FROM archived_segments AS s WHERE s.chain = NEW.chain), 0)
OR NEW.last_position < NEW.first_position - 1
OR NEW.last_position > COALESCE((SELECT h.length FROM chain_heads AS h WHERE h.chain = NEW.chain), 0)
OR NEW.epoch < COALESCE((SELECT MAX(s.epoch) FROM archived_segments AS s WHERE s.chain = NEW.chain), 0)
"""
NOT_ARCHIVING = "NEW.segment <= COALESCE((SELECT MAX(s.number) FROM archived_segments AS s), 0)"


def upgrade() -> None:
    """From schema 6; no row that is there changes, and nothing is archived yet."""
    op.create_table(
        "archived_segments",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("chain", TEXT, primary_key=True),
        sa.Column("first_position", sa.BigInteger, nullable=False),
        sa.Column("last_position", sa.BigInteger, nullable=False),
        sa.Column("hash_before", sa.LargeBinary, nullable=False),
        sa.Column("hash_after", sa.LargeBinary, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("file", TEXT, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("kept_hash", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_index("archived_segments_by_end", "archived_segments", ["chain", "last_position"])
    guards.fixed("archived_segments", SEGMENT)
    guards.refuse_insert("archived_segments", "in_order", "a segment begins where the last one ended", NOT_THE_NEXT)
    op.create_table(
        "opening_balances",
        sa.Column("kind", TEXT, primary_key=True),
        sa.Column("tenant_wallet", TEXT, primary_key=True),
        sa.Column("provider_wallet", TEXT, primary_key=True),
        sa.Column("leg", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("account", TEXT, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("entry", sa.BigInteger, nullable=False),
        sa.Column("block", sa.BigInteger),
        sa.Column("segment", sa.Integer, nullable=False),
        sa.CheckConstraint("leg IN (1, 2)", name="opening_sane"),
    )
    guards.kept("opening_balances", "opening balances are kept for good")
    for event in ("INSERT", "UPDATE"):
        guards.refuse_where(
            "opening_balances", f"no_{event.lower()}", event, "opening balances change with an archive", NOT_ARCHIVING
        )
    _allow_what_is_archived()
    op.execute("UPDATE schema_version SET version = 7")


def _allow_what_is_archived() -> None:
    """Rows up to an archived boundary may go, and no others."""
    for table in ("usage_records", "postings", "receipts"):
        guards.lift(table, "no_delete")
        beyond = f"OLD.position > {ARCHIVED_ROW.format(table)}"
        guards.refuse_where(table, "no_delete", "DELETE", f"{table} is append-only", beyond)
    for table in ("epoch_lines", "epoch_leases"):
        guards.lift(table, "no_delete")
        guards.refuse_where(table, "no_delete", "DELETE", f"{table} is append-only", f"OLD.epoch >= {ARCHIVED_EPOCH}")
    guards.lift("epochs", "no_update")
    guards.fixed("epochs", BOUND, again=True)
    guards.refuse_where(
        "epochs",
        "keeps_manifest",
        "UPDATE OF manifest",
        "epochs is append-only",
        f"length(NEW.manifest) > 0 OR OLD.number >= {ARCHIVED_EPOCH}",
    )
