"""Answers of the ledger that still hold: each with the tables it was read from, until one of those is written."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache

from fedgpu_operator.adapters.ledger.schema import metadata

MOST = 4096
"""Answers held; what was not asked for the longest goes first."""
MOST_ITEMS = 500_000
"""Items in them together, such as attempts or totals of pairs: a few hundred MB at most. The newest answer stays."""

_TARGET = re.compile(r'\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+"?(\w+)', re.IGNORECASE)
_HARMLESS = re.compile(r"\s*(?:SELECT|SAVEPOINT|RELEASE|ROLLBACK|BEGIN|COMMIT|PRAGMA)\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")

TABLES = frozenset(metadata.tables)

Answer = tuple[int, Mapping[str, int], object, int]
"""The token of the database, the version of each table it was read from, the answer, and how many items it has."""


class Memo:
    """Answers by what was asked, and how often each table was written; one thread reads it, and one writes tables."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._held: OrderedDict[Hashable, Answer] = OrderedDict()
        self._items = 0

    @property
    def held(self) -> tuple[int, int]:
        """How many answers are held, and how many items are in them."""
        return len(self._held), self._items

    def versions(self) -> Mapping[str, int]:
        """How often each table was written; what is read after this call is at least as new."""
        return dict(self._versions)

    def written(self, statements: Iterable[str]) -> None:
        """These statements may have been committed; a statement that is not understood wrote every table."""
        for table in {table for statement in statements for table in tables_written(statement)}:
            self._versions[table] = self._versions.get(table, 0) + 1

    def get(self, key: Hashable, token: int) -> tuple[bool, object]:
        """Whether the answer is held and still true, and the answer; a mapping is handed out as a copy.

        One that is not true any more is dropped.
        """
        try:
            found = self._held.get(key)
        except TypeError:
            return False, None
        if found is None:
            return False, None
        then, versions, value, _ = found
        if then != token or any(self._versions.get(table, 0) != seen for table, seen in versions.items()):
            self._drop(key)
            return False, None
        self._held.move_to_end(key)
        return True, dict(value) if isinstance(value, dict) else value

    def put(self, key: Hashable, token: int, versions: Mapping[str, int], value: object) -> None:
        """Hold an answer; one whose question cannot be hashed is not held."""
        items = _items(value)
        try:
            self._drop(key)
        except TypeError:
            return
        self._held[key] = (token, versions, dict(value) if isinstance(value, dict) else value, items)
        self._items += items
        while len(self._held) > MOST or (self._items > MOST_ITEMS and len(self._held) > 1):
            self._drop(next(iter(self._held)))

    def _drop(self, key: Hashable) -> None:
        dropped = self._held.pop(key, None)
        if dropped is not None:
            self._items -= dropped[3]


def _items(value: object) -> int:
    """How many items an answer has: those of a collection, or of the collections in a record; 1 for anything else."""
    if is_dataclass(value) and not isinstance(value, type):
        return sum(_items(getattr(value, each.name)) for each in fields(value))
    return max(1, len(value)) if isinstance(value, (tuple, frozenset, Mapping)) else 1


@lru_cache(maxsize=1024)
def tables_read(statement: str) -> frozenset[str]:
    """The tables that a statement names, wherever it does."""
    return TABLES.intersection(_WORD.findall(statement))


@lru_cache(maxsize=1024)
def tables_written(statement: str) -> frozenset[str]:
    """The table that a statement writes; every table if that cannot be told."""
    if _HARMLESS.match(statement):
        return frozenset()
    target = _TARGET.match(statement)
    return TABLES if target is None else frozenset({target[1]})
