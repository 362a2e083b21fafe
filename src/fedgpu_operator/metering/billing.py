"""From a member's reading to billed GPU-seconds, and from these to the exact money of a receipt; integers only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from fedgpu_operator.domain.attempts import UncoveredLease
from fedgpu_operator.domain.money import SECONDS_PER_HOUR, MicroUSD, accrue
from fedgpu_operator.domain.settlement import LeaseCover, Pair, SettlementSnapshot
from fedgpu_operator.domain.usage import UsageReading

DEFAULT_GRACE = 30
"""Seconds a stopped workload may still be paid for: Kubernetes' default terminationGracePeriodSeconds."""


class Clip(StrEnum):
    """Which bound made the bill smaller than the member's reading."""

    NONE = ""
    HUB_CLOCK = "HubClock"
    STOPPED = "Stopped"
    RUN_LIMIT = "RunLimit"


@dataclass(frozen=True, slots=True)
class HubObservation:
    """The hub's own side of one lease, every instant by the hub's clock.

    `observed_at` is now, or the instant at which the hub saw the lease end. `gpus` counts all replicas. `run_limit` is
    seconds and has no grace: it is what was reserved, so a job can never cost more. `stopped_at` is the fencing,
    suspension or deletion instant, None while none was given; `grace` seconds after it stay payable. `billed`
    is the cumulative gpu-seconds billed before.
    """

    created_at: datetime
    observed_at: datetime
    gpus: int
    run_limit: int
    stopped_at: datetime | None = None
    grace: int = DEFAULT_GRACE
    billed: int = 0


@dataclass(frozen=True, slots=True)
class Billed:
    """Cumulative payable gpu-seconds; `why` names the bound that was applied last where the reading was larger."""

    gpu_seconds: int
    why: Clip = Clip.NONE


def bill(reading: UsageReading, hub: HubObservation) -> Billed:
    """The cumulative payable usage: min(member's durations, hub's duration of the lease), never below `hub.billed`.

    Each pod is clipped by the hub's window first, so that one pod's impossible claim cannot fill the room that
    others left; then the sum by gpus × window.
    """
    window, why = _window(hub)
    claimed = reading.gpu_seconds
    possible = reading.folded_gpu_seconds + sum(pod.gpus * min(pod.seconds, window) for pod in reading.pods)
    payable = min(claimed, possible, hub.gpus * window)
    return Billed(max(payable, hub.billed), why if payable < claimed else Clip.NONE)


def _window(hub: HubObservation) -> tuple[int, Clip]:
    """The longest payable duration in whole seconds, rounded up, and the bound that set it."""
    bounds = [(_ceil_seconds(hub.observed_at - hub.created_at), Clip.HUB_CLOCK)]
    if hub.stopped_at is not None:
        bounds.append((_ceil_seconds(hub.stopped_at - hub.created_at) + hub.grace, Clip.STOPPED))
    bounds.append((hub.run_limit, Clip.RUN_LIMIT))
    window, why = min(bounds, key=lambda bound: bound[0])
    return max(window, 0), why


def _ceil_seconds(duration: timedelta) -> int:
    return -(-duration // timedelta(seconds=1))


def receipt_cumulative(numerators: Iterable[int]) -> MicroUSD:
    """Σ (µUSD per GPU-hour × gpu-seconds) // 3600, once for everything that one receipt line holds."""
    return MicroUSD(sum(numerators) // SECONDS_PER_HOUR)


def covers(snapshot: SettlementSnapshot, payable: Mapping[Pair, MicroUSD]) -> tuple[LeaseCover, ...]:
    """Which leases an epoch pays for to the end, when its lines, by (tenant wallet, provider wallet), say `payable`.

    Where a line falls short of what is owed, the oldest usage is paid first and a lease that is reached only in part
    stays uncovered.
    """
    reached: defaultdict[Pair, int] = defaultdict(int)
    for pair in snapshot.pairs:
        reached[pair.tenant_wallet, pair.provider_wallet] += pair.numerator
    for lease in snapshot.uncovered:
        reached[lease.tenant_wallet, lease.provider_wallet] -= _left(lease)
    covered = []
    for lease in snapshot.uncovered:
        line = (lease.tenant_wallet, lease.provider_wallet)
        reached[line] += _left(lease)
        if line in payable and receipt_cumulative([reached[line]]) <= payable[line]:
            covered.append(LeaseCover(lease.lease_name, lease.gpu_seconds))
    return tuple(covered)


def _left(lease: UncoveredLease) -> int:
    return accrue(lease.price, lease.gpu_seconds - lease.covered_gpu_seconds)
