"""From billed GPU-seconds to the figures of a receipt: integers only, rounded once per pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

from fedgpu_operator.domain.books import LeaseCover, SettlementSnapshot
from fedgpu_operator.domain.money import SECONDS_PER_HOUR, MicroUSD, accrue

K = TypeVar("K", bound=Hashable)


def receipt_cumulative(numerators: Iterable[int]) -> MicroUSD:
    """Σ (µUSD per GPU-hour × gpu-seconds) // 3600, once for everything that one receipt line holds."""
    return MicroUSD(sum(numerators) // SECONDS_PER_HOUR)


def covers(
    snapshot: SettlementSnapshot, payable: Mapping[K, MicroUSD], key: Callable[[str, str], K]
) -> tuple[LeaseCover, ...]:
    """Which leases an epoch pays for to the end, when its lines say `payable`.

    `key(tenant, provider)` names the line a pair is paid by (its two wallets). Where a line falls short of what is
    owed, the oldest usage is paid first and a lease that is reached only in part stays uncovered.
    """
    reached: defaultdict[K, int] = defaultdict(int)
    for pair in snapshot.pairs:
        reached[key(pair.tenant, pair.provider)] += pair.numerator
    for lease in snapshot.uncovered:
        reached[key(lease.tenant, lease.provider)] -= accrue(lease.price, lease.gpu_seconds - lease.covered_gpu_seconds)
    covered = []
    for lease in snapshot.uncovered:
        line = key(lease.tenant, lease.provider)
        reached[line] += accrue(lease.price, lease.gpu_seconds - lease.covered_gpu_seconds)
        if receipt_cumulative([reached[line]]) <= payable.get(line, 0):
            covered.append(LeaseCover(lease.lease_name, lease.gpu_seconds))
    return tuple(covered)
