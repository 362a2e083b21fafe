"""Writes a month into an empty database as a ledger of schema 3, which is what commit 32e03ab writes; any later release
upgrades it when it opens it.

Rows go in by bulk SQL, but their hashes are made by the product's own chain functions, so `fedgpu ledger verify` finds
nothing to complain of. SQLite takes them by executemany, PostgreSQL by COPY with its triggers off, as a restore does.

    python -m benchmarks.month.load PATH_OR_URL            the whole month: a minute, 500 MB
    python -m benchmarks.month.load PATH_OR_URL --small    a thousandth of it
"""

from __future__ import annotations

import argparse
import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, NamedTuple, Protocol

import psycopg
from alembic import command
from alembic.config import Config
from benchmarks.month.history import AFTER, CHAIN_ID, ESCROW, HOUR, SETTLER, START, Month, Pair, Record, Size, make
from eth_utils.crypto import keccak
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from fedgpu_operator.adapters.ledger.epochs import parts_hash
from fedgpu_operator.adapters.ledger.hashchain import Field, genesis, row_hash
from fedgpu_operator.adapters.ledger.schema import STEPS, microseconds
from fedgpu_operator.domain.ledger import ChainHead, LedgerHead
from fedgpu_operator.domain.money import SECONDS_PER_HOUR, MicroUSD
from fedgpu_operator.domain.settlement import ZERO_HASH, EpochLine, LeaseCover
from fedgpu_operator.settlement import build_epoch
from fedgpu_operator.settlement.epochs import KIND
from fedgpu_operator.settlement.evidence import canonical

SCHEMA: Final = 3
BEGAN: Final = microseconds(START)
SECOND: Final = 1_000_000
RUN_LIMIT: Final = 2 * 86_400 + 30
"""Of the jobs' 48 hours with the termination grace of their pods, as an attempt holds it."""
SIGNATURE: Final = bytes(range(64)) + b"\x1b"
CHAINS: Final = ("attempts", "epochs", "postings", "receipts", "usage_records")

COLUMNS: Final[dict[str, str]] = {
    "attempts": "lease_name job_uid attempt request_id tenant job_name provider product price gpus run_limit "
    "tenant_wallet provider_wallet created_at",
    "epochs": "number seq prev_root root manifest_hash period_end total created_at ledger_head parts_hash",
    "postings": "entry leg kind tenant_wallet provider_wallet account amount block at",
    "receipts": "tenant_wallet provider_wallet cumulative period_end usage_root provider_signature meter_signature at",
    "usage_records": "lease_name sequence gpu_seconds observed_at signed_sequence signed_gpu_seconds signed_at "
    "usage_hash signer signature",
}
"""What a chain binds in schema 3, in its order; see docs/ledger.md."""

Row = tuple[Field, ...]


class Sink(Protocol):
    """A database that takes many rows."""

    def put(self, table: str, columns: str, rows: Iterable[Row]) -> None:
        """Insert rows of these columns, named with blanks between."""
        ...

    def head(self, chain: str, length: int, last: bytes) -> None:
        """Set the end of a chain."""
        ...


def load(location: str, month: Month) -> None:
    """Make the ledger of that month in an empty database: a path for SQLite, or a URL of PostgreSQL."""
    make_schema(location, SCHEMA)
    with _sink(location) as sink:
        _Books(month, sink).write()


def make_schema(location: str, number: int) -> None:
    """An empty ledger of that schema, made by the released steps."""
    engine = create_engine(_url(location))
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(STEPS).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, f"{number:04}")
    engine.dispose()


def _url(location: str) -> str:
    if "://" not in location:
        return f"sqlite:///{location}"
    return make_url(location).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


@contextmanager
def _sink(location: str) -> Iterator[Sink]:
    if "://" in location:
        with psycopg.connect(location) as server:
            server.execute("SET session_replication_role = replica")
            yield _PostgreSQL(server)
        with psycopg.connect(location, autocommit=True) as server:
            # What a server's autovacuum does by itself after such a load.
            server.execute("VACUUM ANALYZE")
        return
    raw = sqlite3.connect(location)
    raw.execute("PRAGMA journal_mode = OFF")
    raw.execute("PRAGMA synchronous = OFF")
    raw.execute("PRAGMA cache_size = -262144")
    with raw:
        yield _SQLite(raw)
    raw.close()


@dataclass
class _SQLite:
    connection: sqlite3.Connection

    def put(self, table: str, columns: str, rows: Iterable[Row]) -> None:
        names = columns.split()
        marks = ", ".join("?" * len(names))
        quoted = ", ".join(f'"{name}"' for name in names)
        self.connection.executemany(f"INSERT INTO {table} ({quoted}) VALUES ({marks})", rows)

    def head(self, chain: str, length: int, last: bytes) -> None:
        self.connection.execute("UPDATE chain_heads SET length = ?, hash = ? WHERE chain = ?", (length, last, chain))


@dataclass
class _PostgreSQL:
    connection: psycopg.Connection[Any]

    def put(self, table: str, columns: str, rows: Iterable[Row]) -> None:
        names = sql.SQL(", ").join(map(sql.Identifier, columns.split()))
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)
        with self.connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)

    def head(self, chain: str, length: int, last: bytes) -> None:
        self.connection.execute("UPDATE chain_heads SET length = %s, hash = %s WHERE chain = %s", (length, last, chain))


@dataclass
class _Chain:
    """The hashes of a table's rows, by position from 1; the first one is that before any row."""

    name: str
    hashes: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hashes.append(genesis(self.name))

    def bound(self, row: Row) -> Row:
        """The row's position and hash at the end of the chain."""
        position = len(self.hashes)
        self.hashes.append(row_hash(self.hashes[-1], self.name, position, row))
        return position, self.hashes[-1]

    def head(self, length: int | None = None) -> ChainHead:
        """The end of the chain when it had that many rows, or now."""
        at = len(self.hashes) - 1 if length is None else length
        return ChainHead(at, self.hashes[at].hex())


class _Epoch(NamedTuple):
    """A row of `epochs` with its chain and stage, and the parts that it has."""

    number: int
    row: Row
    lines: list[tuple[Pair, MicroUSD]]
    covers: list[Record]


class _Books:
    """One month on its way into one database."""

    def __init__(self, month: Month, sink: Sink) -> None:
        self._month, self._sink = month, sink
        self._chains = {name: _Chain(name) for name in CHAINS}

    def write(self) -> None:
        """All tables, in the order of their references."""
        self._sink.put("bound_escrows", "number chain_id escrow", [(1, CHAIN_ID, ESCROW)])
        self._attempts()
        self._usage()
        totals = self._epochs()
        self._transactions()
        self._receipts(totals)
        self._postings(totals)
        self._heads()

    def _chained(self, table: str, rows: Iterable[tuple[Row, Row]], beside: str = "") -> None:
        """Rows with what the chain does not bind of them."""
        chain = self._chains[table]
        values = ((*row, *chain.bound(row), *more) for row, more in rows)
        self._sink.put(table, f"{COLUMNS[table]} position hash {beside}", values)

    def _attempts(self) -> None:
        rows = (
            (
                (
                    each.lease,
                    each.uid,
                    1,
                    "after-0",
                    each.pair.names[0],
                    each.job,
                    each.pair.names[1],
                    each.product,
                    each.price,
                    each.gpus,
                    RUN_LIMIT,
                    each.pair.tenant_wallet,
                    each.pair.provider_wallet,
                    _stamp(each.created),
                ),
                (None if each.ended is None else _stamp(each.ended), each.outcome),
            )
            for each in self._month.attempts
        )
        self._chained("attempts", rows, "ended_at outcome")

    def _usage(self) -> None:
        self._chained("usage_records", (((*self._reading(each),), ()) for each in self._month.records))

    def _reading(self, record: Record) -> Row:
        attempt = record.attempt
        facts = (record.lease, record.sequence, record.gpu_seconds, _stamp(record.at))
        proof = "0x" + sha256(f"{record.lease} {record.sequence}".encode()).hexdigest()
        at = BEGAN // SECOND + record.at
        return (*facts, record.sequence, record.gpu_seconds, at, proof, attempt.pair.provider_wallet, SIGNATURE)

    def _epochs(self) -> dict[Pair, MicroUSD]:
        """Epochs with their lines and covers; what each pair was paid by the last one."""
        made = list(self._made_epochs())
        self._sink.put("epochs", f"{COLUMNS['epochs']} position hash manifest stage chain_epoch", (e.row for e in made))
        self._sink.put(
            "epoch_lines",
            "epoch tenant provider tenant_wallet provider_wallet cumulative",
            (
                (each.number, *pair.names, pair.tenant_wallet, pair.provider_wallet, owed)
                for each in made
                for pair, owed in each.lines
            ),
        )
        covers = ((record.lease, each.number, record.gpu_seconds) for each in made for record in each.covers)
        self._sink.put("epoch_leases", "lease_name epoch gpu_seconds", covers)
        return dict(made[-1].lines) if made else {}

    def _made_epochs(self) -> Iterator[_Epoch]:
        covers, prev, before = self._month.covers(), ZERO_HASH, 0
        order = sorted(self._month.pairs, key=lambda pair: pair.names)
        opened = [each.created for each in self._month.attempts]
        recorded = [each.at for each in self._month.records]
        for number, totals in self._month.numerators():
            lines = [(p, MicroUSD(owed)) for p in order if (owed := totals.get(p, 0) // SECONDS_PER_HOUR)]
            at, total = number * HOUR, sum(owed for _, owed in lines)
            lengths = {"attempts": bisect_right(opened, at), "usage_records": bisect_right(recorded, at)}
            head = self._ledger_head(lengths | {"epochs": number - 1})
            root, manifest = self._manifest(number, prev, lines, head)
            mine = sorted(covers.get(number, ()), key=lambda record: record.lease)
            parts = parts_hash(
                (EpochLine(*p.names, p.tenant_wallet, p.provider_wallet, owed) for p, owed in lines),
                (LeaseCover(record.lease, record.gpu_seconds) for record in mine),
            )
            named = "0x" + keccak(manifest).hex()
            row: Row = (number, number - 1, prev, root, named, _stamp(at), total - before, _stamp(at), head, parts)
            bound = self._chains["epochs"].bound(row)
            yield _Epoch(number, (*row, *bound, manifest, "Paid", number), lines, mine)
            prev, before = root, total

    def _ledger_head(self, lengths: dict[str, int]) -> str:
        return str(LedgerHead({name: chain.head(lengths.get(name, 0)) for name, chain in self._chains.items()}))

    def _manifest(self, number: int, prev: str, lines: Sequence[tuple[Pair, MicroUSD]], head: str) -> tuple[str, bytes]:
        """(root, manifest): the newest epochs' are whole, of older ones the lines are left out."""
        seq, period_end = number - 1, BEGAN // SECOND + number * HOUR
        if number > self._month.size.epochs - self._month.size.manifests and lines:
            plan = build_epoch(
                chain_id=CHAIN_ID,
                escrow=ESCROW,
                seq=seq,
                prev_root=prev,
                period_end=period_end,
                pairs={(pair.tenant_wallet, pair.provider_wallet): owed for pair, owed in lines},
                debits={},
                ledger_head=head,
            )
            return plan.root, plan.manifest
        root = "0x" + sha256(f"root {number}".encode()).hexdigest()
        facts = {"kind": KIND, "chainId": CHAIN_ID, "escrow": ESCROW, "seq": seq, "prevRoot": prev, "root": root}
        rest = {"periodEnd": period_end, "ledger": head, "debits": [], "leaves": []}
        return root, canonical({**facts, **rest}).encode("ascii")

    def _transactions(self) -> None:
        """A post and a claim of each epoch, both final."""
        intents, sent = [], []
        for number in range(1, self._month.size.epochs + 1):
            for step, kind in enumerate(("post", "claim")):
                key, nonce, at = 2 * number - 1 + step, 2 * (number - 1) + step, _stamp(number * HOUR + 60 * step)
                data = sha256(f"{kind} {number}".encode()).digest() * 8
                intents.append((key, f"{kind}:{number}", kind, number, SETTLER, nonce, ESCROW, data, at, "Done"))
                tx = "0x" + sha256(data).hexdigest()
                sent.append((key, tx, kind, number, SETTLER, nonce, data, "Finalized", 100 + nonce, at, key, 10**9, 1))
        self._sink.put("chain_intents", "id key kind epoch sender nonce to data created_at state", intents)
        columns = "id tx_hash kind epoch sender nonce raw state block_number created_at intent max_fee tip"
        self._sink.put("chain_txs", columns, sent)

    def _receipts(self, totals: dict[Pair, MicroUSD]) -> None:
        """The newest receipt of each pair, as of the last epoch."""
        at, root = self._month.size.epochs * HOUR, "0x" + "ab" * 32
        rows = (
            (
                (
                    p.tenant_wallet,
                    p.provider_wallet,
                    owed,
                    BEGAN // SECOND + at,
                    root,
                    SIGNATURE,
                    SIGNATURE,
                    _stamp(at),
                ),
                (),
            )
            for p, owed in totals.items()
        )
        self._chained("receipts", rows)

    def _postings(self, totals: dict[Pair, MicroUSD]) -> None:
        """What was charged, set aside and paid by the last epoch, as one entry of each position."""
        at, block = _stamp(self._month.size.epochs * HOUR + AFTER // 2), 10_000
        rows: list[tuple[Row, Row]] = []
        aside: dict[str, int] = {}
        for pair, owed in totals.items():
            aside[pair.tenant_wallet] = aside.get(pair.tenant_wallet, 0) + owed
        wallets = [(p.tenant_wallet, p.provider_wallet, int(owed)) for p, owed in totals.items()]
        moves = [("Charged", "tenant/", "provider/", *each) for each in wallets]
        moves += [("SetAside", "escrow/", "tenant/", tenant, "", total) for tenant, total in aside.items()]
        moves += [("Paid", "provider/", "escrow/", *each) for each in wallets]
        for entry, (kind, plus, minus, tenant, provider, amount) in enumerate(moves, start=1):
            for leg, (side, sign) in enumerate(((plus, 1), (minus, -1)), start=1):
                account = side + (provider if side == "provider/" else tenant)
                rows.append(((entry, leg, kind, tenant, provider, account, sign * amount, block, at), ()))
        self._chained("postings", rows)

    def _heads(self) -> None:
        for name, chain in self._chains.items():
            if len(chain.hashes) > 1:
                self._sink.head(name, len(chain.hashes) - 1, chain.hashes[-1])


def _stamp(seconds: int) -> int:
    return BEGAN + seconds * SECOND


def main() -> None:
    """Make a month and load it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("location", help="of an empty database")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    load(args.location, make(Size.small(args.seed) if args.small else Size(seed=args.seed)))


if __name__ == "__main__":
    main()
