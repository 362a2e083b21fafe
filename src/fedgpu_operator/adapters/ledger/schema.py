"""The ledger's tables as the queries see them, and how an older ledger is upgraded; the steps are in migrations/."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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
    func,
    inspect,
    select,
)

from fedgpu_operator.errors import ConfigurationError

SCHEMA_VERSION = 7
"""Number of the newest migration; the ledger's file carries it, so that an older release can name what it refuses."""

UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Text = String().with_variant(String(collation="C"), "postgresql")
"""Text that every engine sorts by code point, whatever language its server was set up for."""


def microseconds(instant: datetime) -> int:
    """The instant as the ledger keeps it: whole microseconds since 1970 in UTC; ValueError without a time zone."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant!r} has no time zone")
    return (instant - UNIX_EPOCH) // _MICROSECOND


def instant(count: int) -> datetime:
    """The instant that is so many microseconds after 1970 in UTC."""
    return UNIX_EPOCH + count * _MICROSECOND


class Instant(TypeDecorator[datetime]):
    """A timezone-aware instant as integer microseconds since 1970 in UTC: exact, sortable, free of any zone."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> int | None:
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, _dialect: Dialect) -> datetime | None:
        return None if value is None else instant(value)


metadata = MetaData()


def _chained() -> tuple[Column[int], Column[bytes]]:
    """Where a row stands in its table's hash chain, and the hash up to and with it; see hashchain.py."""
    return (
        Column("position", BigInteger, nullable=False, server_default="0"),
        Column("hash", LargeBinary, nullable=False, server_default=""),
    )


schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

chain_heads = Table(
    "chain_heads",
    metadata,
    Column("chain", Text, primary_key=True),
    Column("length", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("lease_name", Text, primary_key=True),
    Column("job_uid", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("job_name", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("product", Text, nullable=False),
    Column("price", BigInteger, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("run_limit", BigInteger, nullable=False),
    Column("tenant_wallet", Text, nullable=False, server_default=""),
    Column("provider_wallet", Text, nullable=False, server_default=""),
    Column("created_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("outcome", Text, nullable=False, server_default=""),
    Column("stop_requested_at", Instant),
    Column("stop_reason", Text, nullable=False, server_default=""),
    *_chained(),
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
Index("attempts_by_wallets", attempts.c.tenant_wallet, attempts.c.provider_wallet)
Index("attempts_by_end", attempts.c.ended_at)


def _reading() -> tuple[Column[Any], ...]:
    """What is billed at a sequence, and what the provider signed of it: four nulls and no signer if nothing was."""
    return (
        Column("gpu_seconds", BigInteger, nullable=False),
        Column("observed_at", Instant, nullable=False),
        Column("signed_sequence", BigInteger),
        Column("signed_gpu_seconds", BigInteger),
        Column("signed_at", BigInteger),
        Column("usage_hash", Text),
        Column("signer", Text, nullable=False, server_default=""),
        Column("signature", LargeBinary),
    )


# Evidence for good: the usage checkpoints. Between two of them only the live row moves.
usage_records = Table(
    "usage_records",
    metadata,
    Column("lease_name", Text, ForeignKey(attempts.c.lease_name), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    *_reading(),
    *_chained(),
    CheckConstraint("sequence > 0 AND gpu_seconds >= 0", name="usage_sane"),
    sqlite_with_rowid=False,
)

# The newest usage of each lease that used anything, in place; kept for good, since every receipt is over all of it.
lease_usage = Table(
    "lease_usage",
    metadata,
    Column("lease_name", Text, ForeignKey(attempts.c.lease_name), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    *_reading(),
    # The newest usage checkpoint, 0 before there is one; and the reading from which the time to the next one counts.
    Column("checkpoint_sequence", BigInteger, nullable=False),
    Column("checkpoint_at", Instant, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    # The newest live epoch that covers the lease, and how far; null and 0 if none does.
    Column("epoch", Integer),
    Column("covered_gpu_seconds", BigInteger, nullable=False, server_default="0"),
    # Flags in place of comparisons, so that an update which leaves them alone touches no index.
    Column("unsealed", Integer, nullable=False),
    Column("uncovered", Integer, nullable=False),
    CheckConstraint("sequence > 0 AND gpu_seconds >= 0 AND covered_gpu_seconds >= 0", name="lease_usage_sane"),
    CheckConstraint(
        "unsealed = CASE WHEN sequence > checkpoint_sequence THEN 1 ELSE 0 END"
        " AND uncovered = CASE WHEN gpu_seconds > covered_gpu_seconds THEN 1 ELSE 0 END",
        name="lease_usage_flags",
    ),
    sqlite_with_rowid=False,
)
for _flag in (lease_usage.c.unsealed, lease_usage.c.uncovered):
    Index(
        f"lease_usage_{_flag.name}",
        lease_usage.c.lease_name,
        sqlite_where=_flag == 1,
        postgresql_where=_flag == 1,
    )
Index("lease_usage_by_epoch", lease_usage.c.epoch)

# What each pair owes, brought along by every write that changes it. Decimal text: sums of money outgrow 64 bits.
pair_totals = Table(
    "pair_totals",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("tenant_wallet", Text, primary_key=True),
    Column("provider_wallet", Text, primary_key=True),
    Column("numerator", Text, nullable=False),
    Column("gpu_seconds", Text, nullable=False),
    Column("open_attempts", BigInteger, nullable=False),
    Column("ended_attempts", BigInteger, nullable=False),
    CheckConstraint("open_attempts >= 0 AND ended_attempts >= 0", name="pair_totals_sane"),
    sqlite_with_rowid=False,
)

usage_disputes = Table(
    "usage_disputes",
    metadata,
    Column("lease_name", Text, ForeignKey(attempts.c.lease_name), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("claimed", BigInteger, nullable=False),
    Column("payable", BigInteger, nullable=False),
    Column("why", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("at", Instant, nullable=False),
    Column("state", Text, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
    Column("ruled_at", Instant),
    CheckConstraint("sequence > 0 AND payable >= 0 AND claimed > payable", name="dispute_sane"),
)

receipts = Table(
    "receipts",
    metadata,
    Column("tenant_wallet", Text, primary_key=True),
    Column("provider_wallet", Text, primary_key=True),
    Column("cumulative", BigInteger, primary_key=True, autoincrement=False),
    Column("period_end", BigInteger, primary_key=True, autoincrement=False),
    Column("usage_root", Text, nullable=False),
    Column("provider_signature", LargeBinary, nullable=False),
    Column("meter_signature", LargeBinary, nullable=False),
    Column("at", Instant, nullable=False),
    *_chained(),
    CheckConstraint("cumulative >= 0 AND period_end >= 0", name="receipt_sane"),
)

epochs = Table(
    "epochs",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("prev_root", Text, nullable=False),
    Column("root", Text, nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("manifest_hash", Text, nullable=False),
    Column("period_end", Instant, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("stage", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("chain_epoch", BigInteger),
    Column("post_tx", Text),
    Column("ledger_head", Text, nullable=False, server_default=""),
    # Hash over the epoch's lines and covers, so that the chain over the epochs binds them too.
    Column("parts_hash", LargeBinary, nullable=False, server_default=""),
    *_chained(),
)
Index("epochs_by_manifest", epochs.c.manifest_hash)

epoch_lines = Table(
    "epoch_lines",
    metadata,
    Column("epoch", Integer, ForeignKey(epochs.c.number), primary_key=True),
    Column("tenant", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("tenant_wallet", Text, primary_key=True),
    Column("provider_wallet", Text, primary_key=True),
    Column("cumulative", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

epoch_leases = Table(
    "epoch_leases",
    metadata,
    Column("lease_name", Text, ForeignKey(attempts.c.lease_name), primary_key=True),
    Column("epoch", Integer, ForeignKey(epochs.c.number), primary_key=True),
    Column("gpu_seconds", BigInteger, nullable=False),
    # Set where the chain skipped the tenant's debit: the epoch does not pay for the lease after all.
    Column("skipped", Integer, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)
Index("epoch_leases_by_epoch", epoch_leases.c.epoch)

chain_intents = Table(
    "chain_intents",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("epoch", Integer, ForeignKey(epochs.c.number)),
    Column("sender", Text, nullable=False),
    Column("nonce", BigInteger, nullable=False),
    Column("to", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("state", Text, nullable=False),
)
# Not one per key: what an earlier key of the settler left open must not hold up the present one.
Index(
    "one_open_intent_per_sender",
    chain_intents.c.sender,
    unique=True,
    sqlite_where=chain_intents.c.state == "Open",
    postgresql_where=chain_intents.c.state == "Open",
)

# The calls that took the place of an intent's first one, because no node takes that one; numbered from 1.
intent_calls = Table(
    "intent_calls",
    metadata,
    Column("intent", Integer, ForeignKey(chain_intents.c.id), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("to", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("why", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
)

chain_txs = Table(
    "chain_txs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tx_hash", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("epoch", Integer, ForeignKey(epochs.c.number)),
    Column("provider_wallet", Text),
    Column("sender", Text, nullable=False),
    Column("nonce", BigInteger),
    Column("raw", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("block_number", BigInteger),
    Column("created_at", Instant, nullable=False),
    Column("intent", Integer, ForeignKey(chain_intents.c.id)),
    Column("max_fee", BigInteger, nullable=False, server_default="0"),
    Column("tip", BigInteger, nullable=False, server_default="0"),
    # The number of the intent's call that it carries, its gas limit, and when a node first took it.
    Column("call", Integer, nullable=False, server_default="0"),
    Column("gas", BigInteger, nullable=False, server_default="0"),
    Column("broadcast_at", Instant),
)
Index("chain_txs_by_intent", chain_txs.c.intent)

postings = Table(
    "postings",
    metadata,
    Column("entry", BigInteger, primary_key=True, autoincrement=False),
    Column("leg", Integer, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("tenant_wallet", Text, nullable=False),
    Column("provider_wallet", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("block", BigInteger),
    Column("at", Instant, nullable=False),
    *_chained(),
    CheckConstraint("leg IN (1, 2) AND amount <> 0", name="posting_sane"),
)
Index("postings_by_account", postings.c.account)

# What the postings in archives came to, by position and leg, with the last entry and block of each position.
opening_balances = Table(
    "opening_balances",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("tenant_wallet", Text, primary_key=True),
    Column("provider_wallet", Text, primary_key=True),
    Column("leg", Integer, primary_key=True, autoincrement=False),
    Column("account", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("entry", BigInteger, nullable=False),
    Column("block", BigInteger),
    Column("segment", Integer, nullable=False),
    CheckConstraint("leg IN (1, 2)", name="opening_sane"),
)

# Segments of the chains whose rows were written to files and removed here; see archives.py.
archived_segments = Table(
    "archived_segments",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("chain", Text, primary_key=True),
    Column("first_position", BigInteger, nullable=False),
    Column("last_position", BigInteger, nullable=False),
    Column("hash_before", LargeBinary, nullable=False),
    Column("hash_after", LargeBinary, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("file", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("kept_hash", LargeBinary, nullable=False),
    Column("at", Instant, nullable=False),
)
Index("archived_segments_by_end", archived_segments.c.chain, archived_segments.c.last_position)

# The escrow whose books these are: the row with the highest number, the last one once anything was settled.
bound_escrows = Table(
    "bound_escrows",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("chain_id", BigInteger, nullable=False),
    Column("escrow", Text, nullable=False),
)

# Prices of the past, rolled up by span of time; no money of anybody's, so it is neither chained nor kept for ever.
market_prices = Table(
    "market_prices",
    metadata,
    Column("span", Integer, primary_key=True, autoincrement=False),
    Column("product", Text, primary_key=True),
    Column("region", Text, primary_key=True),
    Column("start", Instant, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("low", BigInteger, nullable=False),
    Column("high", BigInteger),
    Column("cheapest", BigInteger, nullable=False),
    Column("dearest", BigInteger, nullable=False),
    Column("free", BigInteger, nullable=False),
    Column("wanted", BigInteger, nullable=False),
    Column("unmet", BigInteger, nullable=False),
    Column("least", BigInteger, nullable=False),
    Column("greatest", BigInteger, nullable=False),
    CheckConstraint("span IN (60, 3600, 86400) AND free >= 0 AND unmet >= 0 AND wanted >= unmet", name="price_sane"),
    sqlite_with_rowid=False,
)
Index("market_prices_by_start", market_prices.c.span, market_prices.c.start)

CHAINED = (attempts, epochs, postings, receipts, usage_records)
for _table in CHAINED:
    Index(f"{_table.name}_position", _table.c.position, unique=True)

STEPS = Path(__file__).parent / "migrations"


def prepare(connection: Connection, name: str, *, upgrade: bool) -> None:
    """Make or upgrade the schema of the ledger called `name`, in the transaction of `connection`.

    Raises ConfigurationError for a database that is not a ledger or is of a newer release, and, where `upgrade` is
    False, for one that is not of the present schema; nothing is changed then.
    """
    found = _version(connection, name)
    if found == SCHEMA_VERSION:
        return
    if found is not None and found > SCHEMA_VERSION:
        raise ConfigurationError(
            f"the ledger {name} has schema version {found}, this fedgpu knows {SCHEMA_VERSION}: run the newer release"
        )
    if not upgrade:
        what = "is empty" if found is None else f"has schema version {found}, this fedgpu reads {SCHEMA_VERSION}"
        raise ConfigurationError(
            f"the ledger {name} {what}: start the operator on it once, or run the release it is of"
        )
    _run_steps(connection, found)


def check_empty(connection: Connection, name: str) -> None:
    """ConfigurationError unless the database has no table yet, or is a ledger in which nothing was ever written.

    A foreign database, and a ledger of a newer release, are refused by name.
    """
    found = _version(connection, name)
    if found is not None and found > SCHEMA_VERSION:
        prepare(connection, name, upgrade=False)
    there = set(inspect(connection).get_table_names())
    for table in metadata.sorted_tables:
        if table.name not in there or table is schema_version:
            continue
        rows = select(func.count()).select_from(table)
        if table is chain_heads:
            rows = rows.where(chain_heads.c.length > 0)
        if connection.execute(rows).scalar_one():
            raise ConfigurationError(f"the ledger {name} is not empty: {table.name} has rows; name a new one")


def _run_steps(connection: Connection, found: int | None) -> None:
    # Imported here: a ledger of the present schema, which is nearly every one, needs no alembic at all.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(STEPS).replace("%", "%%"))
    config.attributes["connection"] = connection
    if found == 1 and "alembic_version" not in inspect(connection).get_table_names():
        command.stamp(config, "0001")
    command.upgrade(config, "head")


def _version(connection: Connection, name: str) -> int | None:
    """The schema's number; None for an empty database."""
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return None
    if not {schema_version.name, attempts.name} <= tables:
        raise ConfigurationError(f"the database {name} is not a fedgpu ledger: name another one")
    version: int = connection.execute(select(schema_version.c.version)).scalar_one()
    return version
