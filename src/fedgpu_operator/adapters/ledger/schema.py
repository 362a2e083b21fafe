"""The ledger's tables, their triggers and the schema version; no query lives here."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    event,
)

SCHEMA_VERSION = 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """A timezone-aware instant as integer microseconds since 1970 in UTC: exact, sortable, free of any zone."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> int | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, _dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + value * _MICROSECOND


metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

attempts = Table(
    "attempts",
    metadata,
    Column("lease_name", String, primary_key=True),
    Column("job_uid", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("request_id", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("job_name", String, nullable=False),
    Column("provider", String, nullable=False),
    Column("product", String, nullable=False),
    Column("price", BigInteger, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("run_limit", BigInteger, nullable=False),
    Column("tenant_wallet", String, nullable=False, server_default=""),
    Column("provider_wallet", String, nullable=False, server_default=""),
    Column("created_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("outcome", String, nullable=False, server_default=""),
    UniqueConstraint("job_uid", "attempt"),
    UniqueConstraint("job_uid", "request_id"),
    CheckConstraint("attempt > 0 AND price >= 0 AND gpus > 0 AND run_limit > 0", name="attempts_sane"),
)
Index(
    "one_open_attempt_per_job",
    attempts.c.job_uid,
    unique=True,
    sqlite_where=attempts.c.ended_at.is_(None),
    postgresql_where=attempts.c.ended_at.is_(None),
)
Index("attempts_by_pair", attempts.c.tenant, attempts.c.provider)

usage_records = Table(
    "usage_records",
    metadata,
    Column("lease_name", String, ForeignKey(attempts.c.lease_name), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("gpu_seconds", BigInteger, nullable=False),
    Column("observed_at", Instant, nullable=False),
    CheckConstraint("sequence > 0 AND gpu_seconds >= 0", name="usage_sane"),
    sqlite_with_rowid=False,
)

epochs = Table(
    "epochs",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("prev_root", String, nullable=False),
    Column("root", String, nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("manifest_hash", String, nullable=False),
    Column("period_end", Instant, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("stage", String, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("chain_epoch", BigInteger),
    Column("post_tx", String),
)
Index("epochs_by_manifest", epochs.c.manifest_hash)

epoch_lines = Table(
    "epoch_lines",
    metadata,
    Column("epoch", Integer, ForeignKey(epochs.c.number), primary_key=True),
    Column("tenant", String, primary_key=True),
    Column("provider", String, primary_key=True),
    Column("tenant_wallet", String, primary_key=True),
    Column("provider_wallet", String, primary_key=True),
    Column("cumulative", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

epoch_leases = Table(
    "epoch_leases",
    metadata,
    Column("lease_name", String, ForeignKey(attempts.c.lease_name), primary_key=True),
    Column("epoch", Integer, ForeignKey(epochs.c.number), primary_key=True),
    Column("gpu_seconds", BigInteger, nullable=False),
    # Set where the chain skipped the tenant's debit: the epoch does not pay for the lease after all.
    Column("skipped", Integer, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)
Index("epoch_leases_by_epoch", epoch_leases.c.epoch)

chain_txs = Table(
    "chain_txs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tx_hash", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("epoch", Integer, ForeignKey(epochs.c.number)),
    Column("provider_wallet", String),
    Column("sender", String, nullable=False),
    Column("nonce", BigInteger),
    Column("raw", LargeBinary, nullable=False),
    Column("state", String, nullable=False),
    Column("block_number", BigInteger),
    Column("created_at", Instant, nullable=False),
)


def _refuse(table: Table, name: str, when: str, why: str) -> None:
    """Add an SQLite trigger that aborts a statement; PostgreSQL's come with its migrations."""
    statement = f"CREATE TRIGGER {table.name}_{name} BEFORE {when} BEGIN SELECT RAISE(ABORT, '{why}'); END"

    def create(_table: Table, connection: Connection, **_: object) -> None:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(statement)

    event.listen(table, "after_create", create)


def _fixed(table: Table, *changing: str) -> None:
    """Refuse DELETE, and UPDATE of every column but those that may change."""
    columns = ", ".join(f'"{column.name}"' for column in table.columns if column.name not in changing)
    _refuse(table, "no_update", f"UPDATE OF {columns} ON {table.name}", f"{table.name} is append-only")
    _refuse(table, "no_delete", f"DELETE ON {table.name}", f"{table.name} is append-only")


_fixed(attempts, "ended_at", "outcome")
_refuse(
    attempts,
    "ends_once",
    "UPDATE OF ended_at, outcome ON attempts WHEN OLD.ended_at IS NOT NULL",
    "an attempt ends once",
)
_fixed(usage_records)
_refuse(
    usage_records,
    "only_rises",
    "INSERT ON usage_records WHEN EXISTS (SELECT 1 FROM usage_records AS u WHERE u.lease_name = NEW.lease_name"
    " AND (u.sequence >= NEW.sequence OR u.gpu_seconds > NEW.gpu_seconds))",
    "usage only rises",
)
_fixed(epochs, "stage", "chain_epoch", "post_tx")
_fixed(epoch_lines)
_fixed(epoch_leases, "skipped")
_fixed(chain_txs, "state", "block_number")
