"""Schema 1: attempts with their usage, epochs with their lines and covers, transactions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fedgpu_operator.adapters.ledger.migrations import guards

revision = "0001"
down_revision: str | None = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """From an empty database."""
    guards.prepare()
    op.create_table("schema_version", sa.Column("version", sa.Integer, primary_key=True, autoincrement=False))
    op.execute("INSERT INTO schema_version (version) VALUES (1)")
    _attempts()
    _usage_records()
    _epochs()
    _chain_txs()


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("lease_name", TEXT, primary_key=True),
        sa.Column("job_uid", TEXT, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("request_id", TEXT, nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("job_name", TEXT, nullable=False),
        sa.Column("provider", TEXT, nullable=False),
        sa.Column("product", TEXT, nullable=False),
        sa.Column("price", sa.BigInteger, nullable=False),
        sa.Column("gpus", sa.Integer, nullable=False),
        sa.Column("run_limit", sa.BigInteger, nullable=False),
        sa.Column("tenant_wallet", TEXT, nullable=False, server_default=""),
        sa.Column("provider_wallet", TEXT, nullable=False, server_default=""),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("outcome", TEXT, nullable=False, server_default=""),
        sa.UniqueConstraint("job_uid", "attempt"),
        sa.UniqueConstraint("job_uid", "request_id"),
        sa.CheckConstraint("attempt > 0 AND price >= 0 AND gpus > 0 AND run_limit > 0", name="attempts_sane"),
    )
    is_open = sa.text("ended_at IS NULL")
    op.create_index(
        "one_open_attempt_per_job",
        "attempts",
        ["job_uid"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    op.create_index("attempts_by_pair", "attempts", ["tenant", "provider"])
    guards.fixed(
        "attempts",
        "lease_name job_uid attempt request_id tenant job_name provider product price gpus run_limit tenant_wallet "
        "provider_wallet created_at",
    )
    guards.refuse(
        "attempts", "ends_once", "UPDATE OF ended_at, outcome", "an attempt ends once", "OLD.ended_at IS NOT NULL"
    )


def _usage_records() -> None:
    op.create_table(
        "usage_records",
        sa.Column("lease_name", TEXT, sa.ForeignKey("attempts.lease_name"), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("gpu_seconds", sa.BigInteger, nullable=False),
        sa.Column("observed_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("sequence > 0 AND gpu_seconds >= 0", name="usage_sane"),
        sqlite_with_rowid=False,
    )
    guards.fixed("usage_records", "lease_name sequence gpu_seconds observed_at")
    guards.refuse_insert(
        "usage_records",
        "only_rises",
        "usage only rises",
        "EXISTS (SELECT 1 FROM usage_records AS u WHERE u.lease_name = NEW.lease_name"
        " AND (u.sequence >= NEW.sequence OR u.gpu_seconds > NEW.gpu_seconds))",
    )


def _epochs() -> None:
    op.create_table(
        "epochs",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("prev_root", TEXT, nullable=False),
        sa.Column("root", TEXT, nullable=False),
        sa.Column("manifest", sa.LargeBinary, nullable=False),
        sa.Column("manifest_hash", TEXT, nullable=False),
        sa.Column("period_end", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("stage", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("chain_epoch", sa.BigInteger),
        sa.Column("post_tx", TEXT),
    )
    op.create_index("epochs_by_manifest", "epochs", ["manifest_hash"])
    guards.fixed("epochs", "number seq prev_root root manifest manifest_hash period_end total created_at")
    op.create_table(
        "epoch_lines",
        sa.Column("epoch", sa.Integer, sa.ForeignKey("epochs.number"), primary_key=True),
        sa.Column("tenant", TEXT, primary_key=True),
        sa.Column("provider", TEXT, primary_key=True),
        sa.Column("tenant_wallet", TEXT, primary_key=True),
        sa.Column("provider_wallet", TEXT, primary_key=True),
        sa.Column("cumulative", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    guards.fixed("epoch_lines", "epoch tenant provider tenant_wallet provider_wallet cumulative")
    op.create_table(
        "epoch_leases",
        sa.Column("lease_name", TEXT, sa.ForeignKey("attempts.lease_name"), primary_key=True),
        sa.Column("epoch", sa.Integer, sa.ForeignKey("epochs.number"), primary_key=True),
        sa.Column("gpu_seconds", sa.BigInteger, nullable=False),
        sa.Column("skipped", sa.Integer, nullable=False, server_default="0"),
        sqlite_with_rowid=False,
    )
    op.create_index("epoch_leases_by_epoch", "epoch_leases", ["epoch"])
    guards.fixed("epoch_leases", "lease_name epoch gpu_seconds")


def _chain_txs() -> None:
    op.create_table(
        "chain_txs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("tx_hash", TEXT, nullable=False, unique=True),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("epoch", sa.Integer, sa.ForeignKey("epochs.number")),
        sa.Column("provider_wallet", TEXT),
        sa.Column("sender", TEXT, nullable=False),
        sa.Column("nonce", sa.BigInteger),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("block_number", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    guards.fixed("chain_txs", "id tx_hash kind epoch provider_wallet sender nonce raw created_at")
