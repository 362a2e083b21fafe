"""Ledgers as earlier releases left them: made by the released steps up to one of them, then filled by plain SQL."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from fedgpu_operator.adapters.ledger.migrate import STEPS

INTENT = 'INSERT INTO chain_intents (id, "key", kind, epoch, sender, nonce, "to", data, created_at, state) VALUES '
TX = (
    "INSERT INTO chain_txs (tx_hash, kind, epoch, sender, nonce, raw, state, created_at, intent, max_fee, tip) "
    "VALUES (?, ?, NULL, ?, ?, ?, ?, ?, 1, ?, 1)"
)


def ledger_of_schema(number: int, path: Path) -> None:
    """An empty SQLite ledger of that schema."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(STEPS))
        config.attributes["connection"] = connection
        command.upgrade(config, f"{number:04}")
    engine.dispose()


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
