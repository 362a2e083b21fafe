"""Usage as evidence: a reading's canonical text, its hash, what a provider signs of it, and the root over leases."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast

import rfc8785
from eth_utils.crypto import keccak

from fedgpu_operator.domain.usage import PodUsage, UsageReading
from fedgpu_operator.settlement.typeddata import SigningDomain, TypedData, usage_record


def usage_detail(reading: UsageReading) -> str:
    """The figures behind a reading as canonical JSON: pods, what is carried of older ones, first start and last end."""
    return canonical(
        {
            "foldedGPUSeconds": reading.folded_gpu_seconds,
            "startedAt": instant(reading.started_at),
            "finishedAt": instant(reading.finished_at),
            "pods": [_pod(pod) for pod in sorted(reading.pods, key=lambda pod: (pod.index, pod.uid))],
        }
    )


def usage_hash(reading: UsageReading) -> str:
    """keccak-256 of `usage_detail`, as lower-case ``0x…``."""
    return _hash(usage_detail(reading))


def usage_statement(domain: SigningDomain, lease: str, sequence: int, reading: UsageReading) -> TypedData:
    """What a provider signs of a reading; `sequence` is that of the ledger, so a record made again has another one.

    Raises ValueError (from `TypedData.digest`) where a figure does not fit its field.
    """
    return usage_record(
        domain,
        lease=lease,
        sequence=sequence,
        gpu_seconds=reading.gpu_seconds,
        observed_at=int(reading.observed_at.timestamp()),
        usage_hash=usage_hash(reading),
    )


def usage_root(leases: Iterable[tuple[str, int]]) -> str:
    """The `usageRoot` of a receipt: keccak-256 over canonical JSON of every (lease, billed GPU-seconds), by name.

    Whoever holds the ledger's rows of a pair can rebuild it. Leases that used nothing are left out.
    """
    return _hash(canonical([[name, seconds] for name, seconds in sorted(leases) if seconds]))


def canonical(document: object) -> str:
    """Canonical JSON text (RFC 8785). Raises ValueError for what it cannot hold, such as whole numbers from 2^53 on."""
    return rfc8785.dumps(cast("Any", document)).decode("utf-8")


def instant(at: datetime | None) -> str:
    """E.g. ``2026-01-01T12:00:00.000000Z``; empty for an instant that is not known."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if at is not None else ""


def _pod(pod: PodUsage) -> dict[str, str | int]:
    return {
        "uid": pod.uid,
        "name": pod.name,
        "index": pod.index,
        "gpus": pod.gpus,
        "seconds": pod.seconds,
        "startedAt": instant(pod.started_at),
        "finishedAt": instant(pod.finished_at),
    }


def _hash(text: str) -> str:
    return "0x" + keccak(text=text).hex()
