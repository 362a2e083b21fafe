"""Schema 5: smaller calls at the nonce of an intent, and when a node first took a transaction."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fedgpu_operator.adapters.ledger.migrations import guards

revision = "0005"
down_revision = "0004"

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
TX = "id tx_hash kind epoch provider_wallet sender nonce raw created_at intent max_fee tip call gas"
NOT_THE_NEXT = """
NOT EXISTS (SELECT 1 FROM chain_intents AS i WHERE i.id = NEW.intent AND i.state = 'Open')
OR NEW.number <> 1 + COALESCE((SELECT MAX(c.number) FROM intent_calls AS c WHERE c.intent = NEW.intent), 0)
"""


def upgrade() -> None:
    """From schema 4; each transaction that is there carries its intent's first call.

    Earlier releases called a transaction Broadcast once a node had taken it, and kept no time of that: the time of its
    signing stands for it, which is what they waited from after a restart.
    """
    op.create_table(
        "intent_calls",
        sa.Column("intent", sa.Integer, sa.ForeignKey("chain_intents.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("to", TEXT, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("why", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    guards.fixed("intent_calls", "intent number to data why created_at")
    guards.refuse_insert("intent_calls", "in_order", "calls of an open intent are numbered in order", NOT_THE_NEXT)
    guards.lift("chain_txs", "no_update")
    op.add_column("chain_txs", sa.Column("call", sa.Integer, nullable=False, server_default="0"))
    op.add_column("chain_txs", sa.Column("gas", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("chain_txs", sa.Column("broadcast_at", sa.BigInteger))
    op.execute("UPDATE chain_txs SET broadcast_at = created_at WHERE state IN ('Broadcast', 'Included')")
    guards.fixed("chain_txs", TX, again=True)
    guards.refuse(
        "chain_txs",
        "taken_once",
        "UPDATE OF broadcast_at",
        "a node takes it first once",
        "OLD.broadcast_at IS NOT NULL",
    )
    op.execute("UPDATE schema_version SET version = 5")
