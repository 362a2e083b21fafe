"""From billed GPU-seconds to the figures of a receipt: integers only, rounded once per pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from fedgpu_operator.domain.books import LeaseCover, SettlementSnapshot, UncoveredLease
from fedgpu_operator.domain.money import SECONDS_PER_HOUR, MicroUSD, accrue

Line = tuple[str, str]
"""(tenant wallet, provider wallet)."""


def receipt_cumulative(numerators: Iterable[int]) -> MicroUSD:
    """Σ (µUSD per GPU-hour × gpu-seconds) // 3600, once for everything that one receipt line holds."""
    return MicroUSD(sum(numerators) // SECONDS_PER_HOUR)


def covers(snapshot: SettlementSnapshot, payable: Mapping[Line, MicroUSD]) -> tuple[LeaseCover, ...]:
    """Which leases an epoch pays for to the end, when its lines, by (tenant wallet, provider wallet), say `payable`.

    Where a line falls short of what is owed, the oldest usage is paid first and a lease that is reached only in part
    stays uncovered.
    """
    reached: defaultdict[Line, int] = defaultdict(int)
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
