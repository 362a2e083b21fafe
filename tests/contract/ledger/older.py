"""Ledgers as earlier releases left them: made by the released steps up to one of them, then filled by plain SQL."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, insert, sql, update

from fedgpu_operator.adapters.ledger.schema import STEPS

INTENT = 'INSERT INTO chain_intents (id, "key", kind, epoch, sender, nonce, "to", data, created_at, state) VALUES '
TX = (
    "INSERT INTO chain_txs (tx_hash, kind, epoch, sender, nonce, raw, state, created_at, intent, max_fee, tip) "
    "VALUES (?, ?, NULL, ?, ?, ?, ?, ?, 1, ?, 1)"
)


def ledger_of_schema(number: int, location: Path | str) -> None:
    """An empty ledger of that schema: an SQLite file, or a PostgreSQL database by its URL."""
    engine = _engine(location)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(STEPS))
        config.attributes["connection"] = connection
        command.upgrade(config, f"{number:04}")
    engine.dispose()


def filled_from(document: Path, location: Path | str) -> None:
    """Put the rows of `document` into an empty ledger: JSON by table, bytes as {"hex": …}, in the chains' order."""
    rows = json.loads(document.read_text())
    engine = _engine(location)
    with engine.begin() as connection:
        for name in ("bound_escrows", *(name for name in rows if name not in ("bound_escrows", "chain_heads"))):
            columns = rows[name]["columns"]
            table = sql.table(name, *map(sql.column, columns))
            for row in rows[name]["rows"]:
                values = [bytes.fromhex(each["hex"]) if isinstance(each, dict) else each for each in row]
                connection.execute(insert(table).values(dict(zip(columns, values, strict=True))))
        heads = sql.table("chain_heads", *map(sql.column, ("chain", "length", "hash")))
        for chain, length, end in rows["chain_heads"]["rows"]:
            if length:
                new = {"length": length, "hash": bytes.fromhex(end["hex"])}
                connection.execute(update(heads).where(heads.c.chain == chain).values(new))
    engine.dispose()


def _engine(location: Path | str) -> Engine:
    url = str(location)
    if "://" not in url:
        return create_engine(f"sqlite:///{url}")
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


def stuck_intent(
    path: Path,
    kind: str,
    sender: str,
    call: tuple[str, bytes],
    versions: list[tuple[str, bytes, str, int]],
    at: int,
    nonce: int = 0,
) -> None:
    """An open intent of schema 4 with a call (to, data) and signed versions (hash, bytes, state, fee) of it."""
    with closing(sqlite3.connect(path)) as raw, raw:
        to, data = call
        raw.execute(
            f"{INTENT} (1, ?, ?, NULL, ?, ?, ?, ?, ?, 'Open')", (f"{kind}:1", kind, sender, nonce, to, data, at)
        )
        for tx_hash, signed, state, fee in versions:
            raw.execute(TX, (tx_hash, kind, sender, nonce, signed, state, at, fee))
