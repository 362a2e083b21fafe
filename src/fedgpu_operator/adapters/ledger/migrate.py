"""Brings a ledger's schema to the present one, or says why it cannot; the steps themselves are in migrations/."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, func, inspect, select

from fedgpu_operator.adapters.ledger.schema import SCHEMA_VERSION, attempts, chain_heads, metadata, schema_version
from fedgpu_operator.errors import ConfigurationError

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
        raise ConfigurationError(f"{name} is a database, but no fedgpu ledger; name another one")
    version: int = connection.execute(select(schema_version.c.version)).scalar_one()
    return version
