"""Schema 3: prices of the past, rolled up by minute, hour and day, and a way to the attempts that ended lately."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """From schema 2; no row that is there changes."""
    op.create_table(
        "market_prices",
        sa.Column("span", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("product", TEXT, primary_key=True),
        sa.Column("region", TEXT, primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("low", sa.BigInteger, nullable=False),
        sa.Column("high", sa.BigInteger),
        sa.Column("cheapest", sa.BigInteger, nullable=False),
        sa.Column("dearest", sa.BigInteger, nullable=False),
        sa.Column("free", sa.BigInteger, nullable=False),
        sa.Column("wanted", sa.BigInteger, nullable=False),
        sa.Column("unmet", sa.BigInteger, nullable=False),
        sa.Column("least", sa.BigInteger, nullable=False),
        sa.Column("greatest", sa.BigInteger, nullable=False),
        sa.CheckConstraint(
            "span IN (60, 3600, 86400) AND free >= 0 AND unmet >= 0 AND wanted >= unmet", name="price_sane"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("market_prices_by_start", "market_prices", ["span", "start"])
    op.create_index("attempts_by_end", "attempts", ["ended_at"])
    op.execute("UPDATE schema_version SET version = 3")
