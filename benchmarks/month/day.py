"""What a day of one running lease weighs in the books of a build: readings, billed one by one, and an epoch each hour.

    python -m benchmarks.month.day LEASES HOURS

Started by `python -m benchmarks.month` for each build; LOCATION says where the empty ledger is. All goes through the
ledger's own methods, at instants of a clock that does not wait. On PostgreSQL dead rows are vacuumed each hour, as a
server's autovacuum does by itself, and tables are written anew before they are weighed: the room that dead rows leave
is used again, comes and goes by hundreds of pages, and is no growth. The manifests are a few words long: a real one
belongs to no lease.

What is weighed begins after an hour of the same: what a table costs once, when its first rows come (PostgreSQL gives
each a map of its free space, each index a page), is no growth of a day.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import psycopg
from benchmarks.month.history import ESCROW, HOUR, START, wallet

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import ZERO_HASH
from fedgpu_operator.errors import LedgerError
from fedgpu_operator.settings import Settings

try:
    from fedgpu_operator.domain.attempts import AttemptRequest, SignedUsage
    from fedgpu_operator.domain.settlement import EpochDraft, EpochLine, EpochStage, LeaseCover
except ImportError:  # 32e03ab
    from fedgpu_operator.domain.books import (  # type: ignore[import-not-found, no-redef]
        AttemptRequest,
        EpochDraft,
        EpochLine,
        EpochStage,
        LeaseCover,
        SignedUsage,
    )

PAIR: Final = (wallet("tenant", 0), wallet("provider", 0))
GPUS: Final = 8
SIGNATURE: Final = bytes(range(64)) + b"\x1b"
WARM_UP: Final = 1
"""Hours before those that are weighed."""


async def weigh(location: str, leases: int, hours: int) -> dict[str, Any]:
    """Bytes per lease and day, and what they were measured on."""
    interval = int(Settings.from_env({}).usage_interval_seconds)
    ledger = await SqlLedger.open(location)
    names = [await _opened(ledger, index) for index in range(leases)]
    await _epoch(ledger, 0, {})
    for hour in range(WARM_UP):
        await _hour(ledger, location, names, hour, interval)
    await ledger.close()
    vacuum(location, full=True)
    before = size_of(location)
    ledger = await SqlLedger.open(location)
    began = time.perf_counter()
    for hour in range(WARM_UP, WARM_UP + hours):
        await _hour(ledger, location, names, hour, interval)
    seconds = time.perf_counter() - began
    audit = await ledger.verify()
    if not audit.sound:
        raise SystemExit(f"the audit found {audit.faults}")
    await ledger.close()
    vacuum(location, full=True)
    grown = size_of(location) - before
    return {
        "bytesPerLeaseDay": round(grown * 24 / hours / leases),
        "leases": leases,
        "hours": hours,
        "intervalSeconds": interval,
        "rows": dict(audit.rows),
        "millisecondsPerReading": round(1000 * seconds / (hours * (HOUR // interval) * leases), 3),
    }


async def _hour(ledger: SqlLedger, location: str, names: Sequence[str], hour: int, interval: int) -> None:
    """A reading of each lease every so many seconds, and the epoch at the end of the hour."""
    for number in range(1, HOUR // interval + 1):
        sequence, at = hour * (HOUR // interval) + number, hour * HOUR + number * interval
        for name in names:
            await _reading(ledger, name, sequence, at)
    await _epoch(ledger, hour + 1, dict.fromkeys(names, (hour + 1) * HOUR * GPUS))
    vacuum(location)


async def _opened(ledger: SqlLedger, index: int) -> str:
    uid = f"00000000-0000-4000-8000-{index:012x}"
    price = MicroUSD(2_400_000)
    terms = ("team-000", f"train-{index}", "gpu-0000", "NVIDIA-H100-80GB-HBM3", price, GPUS, 2_000_000)
    (attempt,) = await ledger.open_many((AttemptRequest(uid, "after-0", *terms, *PAIR),), START)
    if isinstance(attempt, LedgerError):
        raise attempt
    return attempt.lease_name


async def _reading(ledger: SqlLedger, name: str, sequence: int, at: int) -> None:
    observed = _instant(at)
    digest = "0x" + sha256(f"{name} {sequence}".encode()).hexdigest()
    signed = SignedUsage(sequence, at * GPUS, int(observed.timestamp()), digest, ESCROW, SIGNATURE)
    await ledger.record_usage(name, sequence, at * GPUS, observed, signed=signed)


async def _epoch(ledger: SqlLedger, number: int, covers: dict[str, int]) -> None:
    """An epoch that is prepared, posted, final and paid."""
    manifest = b'{"epoch":%d}' % number
    total = MicroUSD(number * 1_000_000)
    draft = EpochDraft(
        seq=number,
        prev_root=ZERO_HASH,
        root="0x" + sha256(manifest).hexdigest(),
        manifest=manifest,
        manifest_hash="0x" + _keccak(manifest),
        period_end=_instant(number * HOUR),
        total=total,
        lines=(EpochLine("team-000", "gpu-0000", *PAIR, total),),
        covers=tuple(LeaseCover(name, used) for name, used in covers.items()),
        ledger_head=await _sealed(ledger),
    )
    stored = await ledger.store_epoch(draft, _instant(number * HOUR))
    for stage in (EpochStage.POSTED, EpochStage.FINALIZED, EpochStage.PAID):
        await ledger.mark_epoch(stored.number, stage, chain_epoch=number + 1)


async def _sealed(ledger: SqlLedger) -> str:
    """The heads that an epoch is stored over; a build with live rows puts those into the chain first."""
    if hasattr(ledger, "seal"):
        await ledger.seal()
    return str(await ledger.head())


def _keccak(data: bytes) -> str:
    from eth_utils.crypto import keccak

    return keccak(data).hex()


def size_of(location: str) -> int:
    """Bytes of all tables and indexes, or of the file."""
    if "://" not in location:
        return sum(path.stat().st_size for path in Path(location).parent.glob(f"{Path(location).name}*"))
    vacuum(location)
    with psycopg.connect(location) as server:
        row = server.execute(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchone()
        return int(row[0]) if row else 0


def vacuum(location: str, *, full: bool = False) -> None:
    """Let PostgreSQL take back the room of dead rows, for itself or, `full`, for the disk."""
    if "://" in location:
        with psycopg.connect(location, autocommit=True) as server:
            server.execute("VACUUM FULL" if full else "VACUUM")


def _instant(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


def main() -> None:
    leases, hours = map(int, sys.argv[1:])
    print(json.dumps(asyncio.run(weigh(os.environ["LOCATION"], leases, hours))))


if __name__ == "__main__":
    main()
