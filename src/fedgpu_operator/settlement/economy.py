"""When an epoch is worth its gas: values in, a verdict out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from fedgpu_operator.domain.money import NOTHING, MicroUSD
from fedgpu_operator.domain.settlement import EpochPlan, Pair

WEI: Final = 10**18
"""Wei of one whole native coin."""

# What the transactions cost, measured by `make bench-gas` and rounded up: benchmarks/results/gas.json.
POST_GAS: Final = 92_000
POST_GAS_PER_TENANT: Final = 8_000
CLAIM_GAS: Final = 55_000
CLAIM_GAS_PER_LEAF: Final = 32_000
CLAIM_GAS_PER_LINE: Final = 36_000


@dataclass(frozen=True, slots=True)
class Terms:
    """How often to settle, and for how little.

    An epoch is due `every` so often. It waits while its gas costs more than `max_cost_share` of what it newly pays, at
    `native_usd` µUSD per whole native coin (None: gas is not counted), but never longer than `at_most`: what is not
    debited by then could be withdrawn. Pairs owed less than `min_payout` wait.
    """

    every: timedelta
    at_most: timedelta
    min_payout: MicroUSD = NOTHING
    native_usd: MicroUSD | None = None
    max_cost_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Extent:
    """How large some epochs were: each figure is the sum over them, `runs` that of the leases they covered."""

    epochs: int
    tenants: int
    providers: int
    lines: int
    runs: int

    @property
    def gas(self) -> int:
        """What it takes to post and to claim all of them whole, where every pair is new to the contract."""
        return (
            (POST_GAS + CLAIM_GAS) * self.epochs
            + POST_GAS_PER_TENANT * self.tenants
            + CLAIM_GAS_PER_LEAF * self.providers
            + CLAIM_GAS_PER_LINE * self.lines
        )


LONELY: Final = Extent(epochs=1, tenants=1, providers=1, lines=1, runs=1)
"""One run that has an epoch to itself: nobody can cost more gas."""


def gas_of(plan: EpochPlan) -> int:
    """What it takes to post the epoch and to claim it whole, where every pair is new to the contract."""
    lines = sum(len(leaf.lines) for leaf in plan.leaves)
    return Extent(1, len(plan.debits), len(plan.leaves), lines, 0).gas


def share_of_run(past: Extent, wei_per_gas: int, native_usd: MicroUSD) -> MicroUSD:
    """µUSD of gas that one run is expected to bear, rounded up: that of past epochs over the runs that shared them.

    Where nothing was settled yet, a run is taken to have an epoch to itself.
    """
    seen = past if past.runs else LONELY
    return MicroUSD(-(-cost_of(seen.gas, wei_per_gas, native_usd) // seen.runs))


def cost_of(gas: int, wei_per_gas: int, native_usd: MicroUSD) -> MicroUSD:
    """µUSD that so much gas costs, rounded up."""
    return MicroUSD(-(-gas * wei_per_gas * native_usd // WEI))


def newly_paid(plan: EpochPlan, before: Mapping[Pair, MicroUSD]) -> MicroUSD:
    """What the epoch pays beyond `before`: what was paid, or promised by the newest root, of each of its pairs."""
    return MicroUSD(sum(max(0, total - before.get(pair, NOTHING)) for pair, total in plan.pairs.items()))


def worth_its_gas(pays: MicroUSD, gas: int, wei_per_gas: int, terms: Terms, waited: timedelta) -> bool:
    """Whether the epoch goes out now: cheap enough for what it pays, or it has waited as long as it may."""
    if terms.native_usd is None or waited >= terms.at_most:
        return True
    return cost_of(gas, wei_per_gas, terms.native_usd) <= pays * terms.max_cost_share
