"""Schema 4: when an attempt was told to stop, and why; the lease object only shows it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fedgpu_operator.adapters.ledger.migrations import guards

revision = "0004"
down_revision = "0003"

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """From schema 3; a stop that is only on a lease object so far is taken over when the lease is next followed."""
    op.add_column("attempts", sa.Column("stop_requested_at", sa.BigInteger))
    op.add_column("attempts", sa.Column("stop_reason", TEXT, nullable=False, server_default=""))
    guards.refuse(
        "attempts",
        "stops_once",
        "UPDATE OF stop_requested_at, stop_reason",
        "an attempt is stopped once",
        "OLD.stop_requested_at IS NOT NULL",
    )
    op.execute("UPDATE schema_version SET version = 4")
