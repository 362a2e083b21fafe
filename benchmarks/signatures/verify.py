"""How many signed usage records and receipts one core makes and verifies in a second, with each backend there is.

    python -m benchmarks.signatures.verify           prints a table and writes benchmarks/results/signatures.json
    python -m benchmarks.signatures.verify --quick   a fiftieth of the work, nothing written

What is timed is what the hub does with a lease: the reading is hashed as evidence, its statement hashed as EIP-712
typed data, and the account recovered from the signature. eth_keys takes coincurve (libsecp256k1) by itself where it is
installed, and otherwise its own Python; each backend is timed in a process of its own, pinned to one core. A second is
one of CPU time, so that a busy machine changes little.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from benchmarks.machine import machine
from eth_account import Account
from hexbytes import HexBytes

from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Receipt
from fedgpu_operator.domain.usage import PodUsage, UsageReading
from fedgpu_operator.settlement.evidence import usage_statement
from fedgpu_operator.settlement.typeddata import (
    SigningDomain,
    TypedData,
    escrow_domain,
    hub_domain,
    receipt,
    recover,
)

RESULT = Path(__file__).parents[1] / "results" / "signatures.json"
BACKENDS = {
    "coincurve": "eth_keys.backends.CoinCurveECCBackend",
    "python": "eth_keys.backends.NativeECCBackend",
}
RECORDS = {"coincurve": 20_000, "python": 1_000}
ACCOUNT = Account.from_key("0x" + "c3" * 32)
CHAIN, ESCROW = 31337, "0x" + "11" * 20
T = TypeVar("T")
START = datetime(2026, 1, 1, tzinfo=UTC)


def reading(number: int) -> UsageReading:
    """A lease of two pods with four GPUs each, no two alike."""
    pods = tuple(
        PodUsage(f"uid-{number}-{index}", f"pod-{number}-{index}", index, 4, 900 + number % 7, START)
        for index in range(2)
    )
    seconds = sum(pod.gpu_seconds for pod in pods)
    return UsageReading(1, seconds, START, None, START + timedelta(seconds=number), pods)


def usage(domain: SigningDomain, number: int) -> TypedData:
    """The statement of one usage record."""
    return usage_statement(domain, f"00000000-0000-0000-0000-{number:012d}-1", 1, reading(number))


def promise(domain: SigningDomain, number: int) -> TypedData:
    """The statement of one receipt."""
    tenant, provider = (f"0x{number:040x}", f"0x{number + 1:040x}")
    return receipt(domain, Receipt(tenant, provider, MicroUSD(number), number, f"0x{number:064x}"))


def measure(count: int) -> dict[str, float]:
    """Per second of CPU, with the backend of this process."""
    hub, escrow = hub_domain(CHAIN, ESCROW), escrow_domain(CHAIN, ESCROW)
    return {
        "usage_hashed": _rate(range(count), lambda number: usage(hub, number).digest)[0],
        **_both("usage", lambda number: usage(hub, number), count),
        **_both("receipt", lambda number: promise(escrow, number), count),
    }


def _both(name: str, make: Callable[[int], TypedData], count: int) -> dict[str, float]:
    signing, signatures = _rate(range(count), lambda number: _sign(make(number)))
    verifying, _ = _rate(range(count), lambda number: _check(make(number), signatures[number]))
    return {f"{name}_signed": signing, f"{name}_verified": verifying}


def _rate(numbers: range, step: Callable[[int], T]) -> tuple[float, list[T]]:
    begun = time.process_time()
    outcomes = [step(number) for number in numbers]
    return round(len(numbers) / (time.process_time() - begun), 1), outcomes


def _sign(data: TypedData) -> bytes:
    return bytes(ACCOUNT.unsafe_sign_hash(HexBytes(data.digest)).signature)


def _check(data: TypedData, signature: bytes) -> None:
    if recover(data.digest, signature) != ACCOUNT.address:
        raise AssertionError("a true signature was not recognised")


def _in_a_process(backend: str, count: int) -> dict[str, float]:
    environ = {**os.environ, "ECC_BACKEND_CLASS": BACKENDS[backend]}
    command = [sys.executable, "-m", "benchmarks.signatures.verify", "--measure", str(count)]
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _there(backend: str) -> bool:
    try:
        version("coincurve")
    except PackageNotFoundError:
        return backend == "python"
    return True


def main() -> None:
    """Time every backend there is; the one with the most records a second comes first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the work, nothing written")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        sys.stdout.write(json.dumps(measure(chosen.measure)))
        return
    where = machine()
    share = 50 if chosen.quick else 1
    results = {name: _in_a_process(name, RECORDS[name] // share) for name in BACKENDS if _there(name)}
    packages = ("eth-keys", "eth-account", *(name for name in results if name == "coincurve"))
    document = {
        "machine": where,
        "versions": {name: version(name) for name in packages},
        "records": {name: RECORDS[name] // share for name in results},
        "perSecondOfOneCore": results,
    }
    for name, rates in results.items():
        for what, rate in rates.items():
            sys.stdout.write(f"{name:10} {what:18} {rate:>12,.0f} /s\n")
    if not chosen.quick:
        RESULT.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
