"""Market figures as values: what GPUs of a product cost in a region at one moment, and how attempts ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fedgpu_operator.domain.money import MicroUSD

GLOBAL: Final = "GLOBAL"
"""The region that holds every offer."""


@dataclass(frozen=True, slots=True)
class PricePoint:
    """One market (GPU product × region) at one moment; prices are µUSD per GPU-hour, the rest are GPUs.

    `low` and `high` are the clearing interval as docs/market.md defines it; `high` is None if it has no upper end.
    `cheapest` and `dearest` are the list prices on offer. `free` is what can be sold, `wanted` what waiting work that
    may lawfully run here asks for, `unmet` how much of that no free GPU is left for.
    """

    at: datetime
    product: str
    region: str
    low: MicroUSD
    high: MicroUSD | None
    cheapest: MicroUSD
    dearest: MicroUSD
    free: int
    wanted: int
    unmet: int

    @property
    def market(self) -> tuple[str, str]:
        """(product, region): what it is a price of."""
        return self.product, self.region


@dataclass(frozen=True, slots=True)
class PriceBucket:
    """A market over one span of time: the last point of it, and the least and greatest `low` seen in it.

    `start` is the span's first instant, `seconds` its length: 60, 3,600 or 86,400. Points are kept only where
    something changed, so a span without a bucket has the figures of the one before it.
    """

    start: datetime
    seconds: int
    last: PricePoint
    least: MicroUSD
    greatest: MicroUSD


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """How many attempts at a provider's product ended in one way, and how long they had lasted together.

    `seconds` is the sum of the attempts' lengths on the hub's clock (dispatch to end), `gpus` that of their GPUs.
    """

    provider: str
    product: str
    outcome: str
    attempts: int
    gpus: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Premium:
    """What one GPU more at an offer would save, and one less would cost, in µUSD per GPU-hour beyond the list price.

    `high` is None if one less would leave waiting work without a GPU, or where there is none to take away.
    """

    low: MicroUSD
    high: MicroUSD | None


@dataclass(frozen=True, slots=True)
class Market:
    """One product in one region: its price now, and its depth as (list price, free GPUs), cheapest first."""

    point: PricePoint
    offers: int
    depth: tuple[tuple[MicroUSD, int], ...]
