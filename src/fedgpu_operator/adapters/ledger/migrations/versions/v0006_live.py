"""Schema 6: the newest usage of a lease as one live row, totals by pair, and an index for all that is asked often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from fedgpu_operator.adapters.ledger.hashchain import genesis, row_hash
from fedgpu_operator.adapters.ledger.migrations import guards

revision = "0006"
down_revision = "0005"

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
READING = (
    "lease_name",
    "sequence",
    "gpu_seconds",
    "observed_at",
    "signed_sequence",
    "signed_gpu_seconds",
    "signed_at",
    "usage_hash",
    "signer",
    "signature",
)
ROWS_AT_ONCE = 5000
FALLS = """
NEW.lease_name <> OLD.lease_name OR NEW.sequence < OLD.sequence OR NEW.gpu_seconds < OLD.gpu_seconds
OR NEW.checkpoint_sequence < OLD.checkpoint_sequence OR NEW.checkpoint_sequence > NEW.sequence
OR (NEW.sequence = OLD.sequence AND (NEW.gpu_seconds <> OLD.gpu_seconds OR NEW.observed_at <> OLD.observed_at))
"""
OWES_LESS = """
NEW.tenant <> OLD.tenant OR NEW.provider <> OLD.provider
OR NEW.tenant_wallet <> OLD.tenant_wallet OR NEW.provider_wallet <> OLD.provider_wallet
OR NEW.ended_attempts < OLD.ended_attempts
OR length(NEW.numerator) < length(OLD.numerator) OR length(NEW.gpu_seconds) < length(OLD.gpu_seconds)
OR (length(NEW.numerator) = length(OLD.numerator) AND NEW.numerator < OLD.numerator)
OR (length(NEW.gpu_seconds) = length(OLD.gpu_seconds) AND NEW.gpu_seconds < OLD.gpu_seconds)
"""
NEWEST = """
SELECT u.lease_name, u.sequence, u.gpu_seconds, u.observed_at, u.signed_sequence, u.signed_gpu_seconds, u.signed_at,
    u.usage_hash, u.signer, u.signature, COALESCE(c.epoch, 0) AS epoch, COALESCE(c.gpu_seconds, 0) AS covered
FROM usage_records AS u
JOIN (SELECT lease_name, MAX(sequence) AS sequence FROM usage_records GROUP BY lease_name) AS n
    ON n.lease_name = u.lease_name AND n.sequence = u.sequence
LEFT JOIN (SELECT l.lease_name, MAX(l.epoch) AS epoch, MAX(l.gpu_seconds) AS gpu_seconds
    FROM epoch_leases AS l JOIN epochs AS e ON e.number = l.epoch
    WHERE l.skipped = 0 AND e.stage NOT IN ('Abandoned', 'Cancelled', 'Superseded')
    GROUP BY l.lease_name) AS c ON c.lease_name = u.lease_name
ORDER BY u.lease_name
"""
OWED = """
SELECT a.tenant, a.provider, a.tenant_wallet, a.provider_wallet, a.price, a.ended_at, COALESCE(u.gpu_seconds, 0)
FROM attempts AS a LEFT JOIN lease_usage AS u ON u.lease_name = a.lease_name
"""


def upgrade() -> None:
    """From schema 5; every usage record stays as it is, and the newest of each lease becomes its live row."""
    _lease_usage()
    _pair_totals()
    op.create_index("attempts_by_wallets", "attempts", ["tenant_wallet", "provider_wallet"])
    op.execute("UPDATE schema_version SET version = 6")


def _lease_usage() -> None:
    op.create_table(
        "lease_usage",
        sa.Column("lease_name", TEXT, sa.ForeignKey("attempts.lease_name"), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("gpu_seconds", sa.BigInteger, nullable=False),
        sa.Column("observed_at", sa.BigInteger, nullable=False),
        sa.Column("signed_sequence", sa.BigInteger),
        sa.Column("signed_gpu_seconds", sa.BigInteger),
        sa.Column("signed_at", sa.BigInteger),
        sa.Column("usage_hash", TEXT),
        sa.Column("signer", TEXT, nullable=False, server_default=""),
        sa.Column("signature", sa.LargeBinary),
        sa.Column("checkpoint_sequence", sa.BigInteger, nullable=False),
        sa.Column("checkpoint_at", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("epoch", sa.Integer),
        sa.Column("covered_gpu_seconds", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("unsealed", sa.Integer, nullable=False),
        sa.Column("uncovered", sa.Integer, nullable=False),
        sa.CheckConstraint("sequence > 0 AND gpu_seconds >= 0 AND covered_gpu_seconds >= 0", name="lease_usage_sane"),
        sa.CheckConstraint(
            "unsealed = CASE WHEN sequence > checkpoint_sequence THEN 1 ELSE 0 END"
            " AND uncovered = CASE WHEN gpu_seconds > covered_gpu_seconds THEN 1 ELSE 0 END",
            name="lease_usage_flags",
        ),
        sqlite_with_rowid=False,
    )
    table = sa.table(
        "lease_usage",
        *map(sa.column, [*READING, "checkpoint_sequence", "checkpoint_at", "hash", "epoch", "covered_gpu_seconds"]),
        *map(sa.column, ["unsealed", "uncovered"]),
    )
    bind = op.get_bind()
    for rows in _pages(bind.execute(sa.text(NEWEST))):
        bind.execute(sa.insert(table), [_live(row) for row in rows])
    for flag in ("unsealed", "uncovered"):
        flagged = sa.text(f"{flag} = 1")
        op.create_index(
            f"lease_usage_{flag}", "lease_usage", ["lease_name"], sqlite_where=flagged, postgresql_where=flagged
        )
    op.create_index("lease_usage_by_epoch", "lease_usage", ["epoch"])
    guards.kept("lease_usage", "usage is kept for good")
    guards.refuse("lease_usage", "only_rises", "UPDATE", "usage only rises", FALLS)


def _live(row: Sequence[Any]) -> dict[str, object]:
    """A record as the live row of its lease, as usage.py writes it: all of it is in the chain already."""
    *reading, epoch, covered = row
    values: dict[str, object] = dict(zip(READING, reading, strict=True))
    fields = [*reading, values["observed_at"]]
    return values | {
        "checkpoint_sequence": values["sequence"],
        "checkpoint_at": values["observed_at"],
        "hash": row_hash(genesis("lease_usage"), "lease_usage", reading[1], fields),
        "epoch": epoch or None,
        "covered_gpu_seconds": covered,
        "unsealed": 0,
        "uncovered": int(reading[2] > covered),
    }


def _pair_totals() -> None:
    op.create_table(
        "pair_totals",
        sa.Column("tenant", TEXT, primary_key=True),
        sa.Column("provider", TEXT, primary_key=True),
        sa.Column("tenant_wallet", TEXT, primary_key=True),
        sa.Column("provider_wallet", TEXT, primary_key=True),
        sa.Column("numerator", TEXT, nullable=False),
        sa.Column("gpu_seconds", TEXT, nullable=False),
        sa.Column("open_attempts", sa.BigInteger, nullable=False),
        sa.Column("ended_attempts", sa.BigInteger, nullable=False),
        sa.CheckConstraint("open_attempts >= 0 AND ended_attempts >= 0", name="pair_totals_sane"),
        sqlite_with_rowid=False,
    )
    bind = op.get_bind()
    totals: dict[tuple[str, ...], list[int]] = {}
    for rows in _pages(bind.execute(sa.text(OWED))):
        for *pair, price, ended_at, gpu_seconds in rows:
            total = totals.setdefault(tuple(pair), [0, 0, 0, 0])
            total[0] += price * gpu_seconds
            total[1] += gpu_seconds
            total[2 if ended_at is None else 3] += 1
    names = ("tenant", "provider", "tenant_wallet", "provider_wallet")
    sums = ("numerator", "gpu_seconds", "open_attempts", "ended_attempts")
    table = sa.table("pair_totals", *map(sa.column, (*names, *sums)))
    made = [
        dict(zip((*names, *sums), (*pair, str(total[0]), str(total[1]), *total[2:]), strict=True))
        for pair, total in sorted(totals.items())
    ]
    if made:
        bind.execute(sa.insert(table), made)
    guards.kept("pair_totals", "what a pair owes is kept for good")
    guards.refuse("pair_totals", "only_rises", "UPDATE", "what a pair owes only rises", OWES_LESS)


def _pages(result: sa.CursorResult[Any]) -> Iterator[Sequence[Sequence[Any]]]:
    """All rows, some at a time, read to their end before anything is written: a statement of its own is under way."""
    rows = result.all()
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[begin : begin + ROWS_AT_ONCE]
