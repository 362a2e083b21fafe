"""The live rows: the newest usage of each lease, in place, and how it becomes evidence in the hash chain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Connection, bindparam, case, insert, select, update

from fedgpu_operator.adapters.ledger.chaining import COLUMNS, append, genesis, raw, row_hash
from fedgpu_operator.adapters.ledger.schema import instant, lease_usage, usage_records

T = TypeVar("T")

READING = COLUMNS[usage_records.name]
"""What live row and usage checkpoint have in common, in the order of the chain."""
AT = READING.index("observed_at")
MOVING = (*READING[1:], "checkpoint_sequence", "checkpoint_at", "hash", "unsealed")
"""Columns of a live row that a reading or a usage checkpoint sets; `uncovered` follows from them."""
LEASES_AT_ONCE = 500
"""Leases that are read together: far below the number of parameters that any engine takes."""


def live_hash(reading: Sequence[Any], checkpoint_at: int) -> bytes:
    """The hash of a live row: over its reading (READING) and the instant from which its next usage checkpoint counts.

    It chains to nothing, since the row moves; it is what makes an altered row show before its next usage checkpoint.
    """
    return row_hash(genesis(lease_usage.name), lease_usage.name, reading[1], [*reading, checkpoint_at])


def moved(reading: Sequence[Any], checkpoint_sequence: int, checkpoint_at: int) -> dict[str, object]:
    """A live row's columns at this reading, but for what epochs cover of it."""
    values: dict[str, object] = dict(zip(READING, reading, strict=True))
    return values | {
        "observed_at": instant(reading[AT]),
        "checkpoint_sequence": checkpoint_sequence,
        "checkpoint_at": instant(checkpoint_at),
        "hash": live_hash(reading, checkpoint_at),
        "unsealed": int(reading[1] != checkpoint_sequence),
    }


def put(connection: Connection, fresh: Sequence[dict[str, object]], known: Sequence[dict[str, object]]) -> None:
    """Insert the first live rows of leases, and move those of others; as `moved` makes them."""
    if fresh:
        connection.execute(insert(lease_usage), [{**row, "uncovered": int(row["gpu_seconds"] != 0)} for row in fresh])
    if known:
        # `uncovered` is what the new figure and the old cover make it: the statement sees the old row.
        values = {name: bindparam(name, type_=lease_usage.c[name].type) for name in MOVING}
        above = case((bindparam("gpu_seconds", type_=BigInteger) > lease_usage.c.covered_gpu_seconds, 1), else_=0)
        statement = update(lease_usage).where(lease_usage.c.lease_name == bindparam("of_lease"))
        connection.execute(
            statement.values({**values, "uncovered": above}), [{**row, "of_lease": row["lease_name"]} for row in known]
        )


def seal(connection: Connection, *which: ColumnElement[bool]) -> int:
    """Append a usage checkpoint for each live row that is newer than its last one, by lease; how many there were.

    `which` narrows down the leases.
    """
    columns = [raw(lease_usage, name) for name in READING]
    unsealed = select(*columns).where(lease_usage.c.unsealed == 1, *which).order_by(lease_usage.c.lease_name)
    rows = [tuple(row) for row in connection.execute(unsealed)]
    append(connection, usage_records, rows)
    put(connection, (), [moved(row, row[1], row[AT]) for row in rows])
    return len(rows)


def chunks(keys: Iterable[T]) -> list[list[T]]:
    """Leases, or keys of another table, by as many as one query takes."""
    names = list(keys)
    return [names[begin : begin + LEASES_AT_ONCE] for begin in range(0, len(names), LEASES_AT_ONCE)]
