"""A million usage records, repeated and in any order, into a ledger, and the Merkle root of the epoch that they make.

    python -m benchmarks.ledger.million                      one million on SQLite, in three orders
    python -m benchmarks.ledger.million --engine postgresql  the same on the lab's PostgreSQL
    python -m benchmarks.ledger.million --write              and into benchmarks/results

Each order runs in a process of its own, so that the peak of memory is its own too. The time counts from the first
record to the root: ingest, totals by pair, manifest and tree. Making the records up and opening the attempts is not
counted; neither is checking signatures, which happens before a record reaches the ledger. The audit is timed apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
from benchmarks.machine import machine

from fedgpu_lab.postgres import running
from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.attempts import AttemptRequest, SignedUsage, UsageRecord
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import ZERO_HASH
from fedgpu_operator.settlement import build_epoch

RESULTS = Path(__file__).parents[1] / "results"
START = datetime(2025, 1, 1, tzinfo=UTC)
ESCROW = "0x" + "E5" * 20
LIMIT_SECONDS, LIMIT_BYTES = 60, 2**30
BATCH = 600_000


@dataclass(frozen=True)
class Size:
    """How many leases of how many records each, among how many tenants and providers."""

    leases: int
    each: int
    tenants: int = 200
    providers: int = 50
    repeated: float = 0.2
    """How many records come a second time, as a share."""

    def wallets(self, lease: int) -> tuple[str, str]:
        """(tenant, provider) of a lease."""
        return _wallet("tenant", lease % self.tenants), _wallet("provider", (lease // self.tenants) % self.providers)


def records(size: Size, seed: int) -> Iterator[list[UsageRecord]]:
    """All records with their repetitions, in an order of the seed's, in batches; each with 65 bytes of signature."""
    order = np.random.default_rng(seed)
    total = size.leases * size.each
    repeated = order.integers(0, total, size=int(total * size.repeated))
    numbers = order.permutation(np.concatenate([np.arange(total), repeated])).tolist()
    names = [_lease(index) for index in range(size.leases)]
    for start in range(0, len(numbers), BATCH):
        yield [
            _record(names[n // size.each], n // size.each, n % size.each + 1) for n in numbers[start : start + BATCH]
        ]


async def open_ledger(location: str, size: Size) -> SqlLedger:
    """A ledger in which every lease was opened."""
    ledger = await SqlLedger.open(location)
    await ledger.open_many([_attempt(size, index) for index in range(size.leases)], START)
    return ledger


async def measure(location: str, size: Size, seed: int) -> dict[str, object]:
    """Ingest everything, build the epoch, then audit; what it took."""
    ledger = await open_ledger(location, size)
    ingest, cpu = 0.0, 0.0
    appended = known = 0
    for batch in records(size, seed):
        began, used = time.perf_counter(), time.process_time()
        result = await ledger.record_many(batch)
        ingest, cpu = ingest + time.perf_counter() - began, cpu + time.process_time() - used
        appended, known = appended + result.appended, known + result.known
        if result.refused:
            raise SystemExit(f"refused: {result.refused[0]}")
    began, used = time.perf_counter(), time.process_time()
    root = await epoch_root(ledger)
    build, cpu = time.perf_counter() - began, cpu + time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.perf_counter()
    audit = await ledger.verify()
    audited = time.perf_counter() - began
    if not audit.sound:
        raise SystemExit(f"the audit found {audit.faults}")
    await ledger.close()
    return {
        "seed": seed,
        "records": appended + known,
        "newer": appended,
        "repeatedOrLate": known,
        "root": root,
        "ingestSeconds": round(ingest, 2),
        "epochSeconds": round(build, 2),
        "seconds": round(ingest + build, 2),
        "cpuSeconds": round(cpu, 2),
        "peakBytes": peak,
        "auditSeconds": round(audited, 2),
        "trialBalance": audit.trial_balance.total,
    }


async def epoch_root(ledger: SqlLedger) -> str:
    """The root of the epoch over everything that is owed."""
    snapshot = await ledger.settlement_snapshot()
    plan = build_epoch(
        chain_id=1,
        escrow=ESCROW,
        seq=0,
        prev_root=ZERO_HASH,
        period_end=int(START.timestamp()),
        pairs={(pair.tenant_wallet, pair.provider_wallet): pair.cumulative for pair in snapshot.pairs},
        debits={},
    )
    return plan.root


def run_child(size: Size, seed: int, engine: str) -> dict[str, object]:
    """One order in a process of its own, on a fresh ledger."""
    with ExitStack() as stack:
        if engine == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fedgpu-ledger-"))
            location = f"{folder}/ledger.db"
        else:
            location = stack.enter_context(running()).create()
        argv = [sys.executable, "-m", "benchmarks.ledger.million", "--one", str(seed)]
        argv += ["--leases", str(size.leases), "--each", str(size.each)]
        # By environment: an argument list is there for everybody to read.
        done = subprocess.run(argv, env=os.environ | {"LOCATION": location}, stdout=subprocess.PIPE, check=True)
        answer: dict[str, object] = json.loads(done.stdout)
        return answer


def main() -> int:
    """Run all orders, compare them, print and write down the result."""
    args = _arguments()
    size = Size(args.leases, args.each)
    if args.one is not None:
        print(json.dumps(asyncio.run(measure(os.environ["LOCATION"], size, args.one))))
        return 0
    where = machine()
    runs = [run_child(size, seed, args.engine) for seed in range(1, args.orders + 1)]
    same = len({run["root"] for run in runs}) == 1
    result = {
        "benchmark": "ledger-million",
        "engine": args.engine,
        "machine": where,
        "limits": {"seconds": LIMIT_SECONDS, "bytes": LIMIT_BYTES},
        "sameRoot": same,
        "runs": runs,
    }
    print(json.dumps(result, indent=2))
    if args.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"ledger-million-{args.engine}.json").write_text(json.dumps(result, indent=2) + "\n")
    within = all(_figure(run, "seconds") < LIMIT_SECONDS and _figure(run, "peakBytes") < LIMIT_BYTES for run in runs)
    return 0 if same and within else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leases", type=int, default=10_000)
    parser.add_argument("--each", type=int, default=100, help="records per lease")
    parser.add_argument("--orders", type=int, default=3)
    parser.add_argument("--engine", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/ledger-million-ENGINE.json")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _record(name: str, lease: int, sequence: int) -> UsageRecord:
    at = START + timedelta(minutes=sequence, seconds=lease % 60)
    used = sequence * (60 + lease % 7) * 8
    signature = lease.to_bytes(8, "big") * 8 + b"\x1b"
    signed = SignedUsage(sequence, used, int(at.timestamp()), "0x" + "ab" * 32, ESCROW, signature)
    return UsageRecord(name, sequence, used, at, signed)


def _attempt(size: Size, index: int) -> AttemptRequest:
    tenant, provider = size.wallets(index)
    names = (f"team-{tenant[2:8]}", "train", f"gpu-{provider[2:8]}", "NVIDIA-H100-80GB-HBM3")
    return AttemptRequest(f"job-{index}", "1", *names, MicroUSD(1_250_000 + index % 977), 8, 10**6, tenant, provider)


def _lease(index: int) -> str:
    return f"job-{index}-1"


def _wallet(kind: str, index: int) -> str:
    return "0x" + sha256(f"{kind} {index}".encode()).hexdigest()[:40]


def _figure(run: dict[str, object], name: str) -> float:
    value = run[name]
    return float(value) if isinstance(value, int | float) else float("inf")


if __name__ == "__main__":
    sys.exit(main())
