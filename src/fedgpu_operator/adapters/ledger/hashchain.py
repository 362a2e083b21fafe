"""Hash chains over the append-only tables: how a row is written down, hashed and appended (see docs/ledger.md).

Each row of a chained table has a position, from 1 without a gap, and a hash over the hash of the row before it and its
own canonical text. So no row can be altered, taken out, put in or moved without every later hash being another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from itertools import islice
from json import JSONEncoder
from operator import itemgetter
from types import NoneType
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Table, insert, select, type_coerce, update

from fedgpu_operator.adapters.ledger.schema import (
    CHAINED,
    Instant,
    attempts,
    chain_heads,
    epochs,
    microseconds,
    postings,
    receipts,
    usage_records,
)
from fedgpu_operator.domain.ledger import ChainHead, LedgerHead
from fedgpu_operator.errors import LedgerError

MUTABLE: dict[str, frozenset[str]] = {
    attempts.name: frozenset({"ended_at", "outcome", "stop_requested_at", "stop_reason"}),
    # The manifest is bound by its own hash, which is the chain's word on it too.
    epochs.name: frozenset({"stage", "chain_epoch", "post_tx", "manifest"}),
    postings.name: frozenset(),
    receipts.name: frozenset(),
    usage_records.name: frozenset(),
}
"""Columns that a chain does not bind, by table, in addition to `position` and `hash`."""

COLUMNS: dict[str, tuple[str, ...]] = {
    table.name: tuple(
        column.name for column in table.columns if column.name not in MUTABLE[table.name] | {"position", "hash"}
    )
    for table in CHAINED
}
"""What a row's text holds, by table, in this order."""

ROWS_AT_ONCE = 5_000
"""Rows held in memory while a table is read or written."""

Field = str | int | bytes | None
"""What a column holds; an instant is its microseconds."""

_encode = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_written: dict[type, Callable[[Any], str | None]] = {
    str: str,
    int: str,
    bytes: bytes.hex,
    NoneType: lambda _: None,
}


def genesis(chain: str) -> bytes:
    """The hash before the first row."""
    return sha256(f"fedgpu.dev/ledger/v1/{chain}".encode()).digest()


def canonical(chain: str, position: int, fields: Sequence[Field]) -> bytes:
    """A row's text: a JSON array of the table, the position and the fields, without blanks, in UTF-8.

    Numbers are decimal strings, instants their microseconds since 1970, bytes lower-case hex; what is absent is null.
    Raises TypeError for anything else, which no ledger writes.
    """
    try:
        return _encode([chain, str(position), *[_written[type(field)](field) for field in fields]]).encode()
    except KeyError as error:
        raise TypeError(f"a ledger holds no {error}") from error


def row_hash(before: bytes, chain: str, position: int, fields: Sequence[Field]) -> bytes:
    """The hash of a row that follows one with the hash `before`."""
    return sha256(before + canonical(chain, position, fields)).digest()


def append(connection: Connection, table: Table, rows: Iterable[Sequence[Field]], **unbound: Field) -> None:
    """Insert rows, in this order, at the end of their table's chain.

    Each has the values of COLUMNS[table]; `unbound` are columns that the chain does not bind, the same for every row.
    """
    began, last = _end(connection, table.name)
    length, left = began, iter(rows)
    insertion = Insertion(connection, table, [*COLUMNS[table.name], "position", "hash", *unbound])
    while chunk := list(islice(left, ROWS_AT_ONCE)):
        values: list[tuple[Field, ...]] = []
        for row in chunk:
            length += 1
            last = row_hash(last, table.name, length, row)
            values.append((*row, length, last, *unbound.values()))
        insertion.run(values)
    if length > began:
        connection.execute(
            update(chain_heads).where(chain_heads.c.chain == table.name).values(length=length, hash=last)
        )


def head(connection: Connection) -> LedgerHead:
    """The ends of all chains."""
    rows = connection.execute(select(chain_heads))
    return LedgerHead({row.chain: ChainHead(row.length, row.hash.hex()) for row in rows})


def raw(table: Table, name: str) -> ColumnElement[Any]:
    """A column as a chain writes it: an instant as its microseconds."""
    column = table.c[name]
    return type_coerce(column, BigInteger) if isinstance(column.type, Instant) else column


def stamp(at: datetime) -> int:
    """An instant as a field; LedgerError without a time zone."""
    try:
        return microseconds(at)
    except ValueError as error:
        raise LedgerError(str(error)) from error


class Insertion:
    """One INSERT in the driver's own words: values go in as they were hashed, and very many of them fast.

    Instants are their microseconds, as in `Field`.
    """

    def __init__(self, connection: Connection, table: Table, columns: Sequence[str]) -> None:
        made = insert(table).compile(dialect=connection.dialect, column_keys=list(columns))
        self._connection, self._columns, self._statement = connection, columns, str(made)
        self._order = [columns.index(name) for name in made.positiontup or ()]

    def run(self, rows: Sequence[tuple[Field, ...]]) -> None:
        """Insert rows of the columns in the given order."""
        if self._order:
            pick = itemgetter(*self._order)
            self._connection.exec_driver_sql(self._statement, [pick(row) for row in rows])
        else:
            named = [dict(zip(self._columns, row, strict=True)) for row in rows]
            self._connection.exec_driver_sql(self._statement, named)


def _end(connection: Connection, chain: str) -> tuple[int, bytes]:
    row = connection.execute(select(chain_heads).where(chain_heads.c.chain == chain)).one_or_none()
    if row is None:
        raise LedgerError(f"the head of the hash chain {chain} is missing in the ledger: run `fedgpu ledger verify`")
    return row.length, row.hash
