"""Prometheus metrics of the solver and of the market; at most a fixed number of markets is shown, never more labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from fedgpu_operator.domain.market import PricePoint

if TYPE_CHECKING:
    from fedgpu_operator.placement.problem import Solution

MOST_MARKETS: Final = 500
"""Time series per gauge; owners name products and regions, so nothing else bounds them."""
USD: Final = 10**6
_LABELS: Final = ["product", "region"]


class MarketMetrics:
    """The part of `ports.Metrics` that tells of solutions and prices."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._gap = Gauge(
            "fedgpu_placement_gap_ratio",
            "Of the newest solve: cost not proven necessary, or jobs not proven unplaceable; 0 is a proven optimum.",
            registry=registry,
        )
        self._certified = Gauge(
            "fedgpu_placement_certified",
            "Whether the newest solve is proven optimal (1) or not (0).",
            registry=registry,
        )
        self._rounds = Gauge(
            "fedgpu_placement_rounds",
            "How often the newest solve ran the flow before it had its proof.",
            registry=registry,
        )
        self._solves = Counter("fedgpu_placement_solves", "Solves, proven or not.", ["certified"], registry=registry)
        self._low = Gauge(
            "fedgpu_clearing_price_low_usd", "Lower end of the clearing price per GPU-hour.", _LABELS, registry=registry
        )
        self._high = Gauge(
            "fedgpu_clearing_price_high_usd",
            "Upper end of the clearing price per GPU-hour; +Inf where it has none.",
            _LABELS,
            registry=registry,
        )
        self._free = Gauge("fedgpu_market_free_gpus", "GPUs that can be sold now.", _LABELS, registry=registry)
        self._unmet = Gauge("fedgpu_market_unmet_gpus", "GPUs that waiting work lacks.", _LABELS, registry=registry)

    def solved(self, solution: Solution) -> None:
        """The newest solve replaces the one before."""
        self._gap.set(solution.gap)
        self._certified.set(solution.certified)
        self._rounds.set(solution.rounds)
        self._solves.labels(str(solution.certified).lower()).inc()

    def market(self, prices: Sequence[PricePoint]) -> None:
        """These markets and no others; where there are too many, those with most GPUs free or missing."""
        for gauge in (self._low, self._high, self._free, self._unmet):
            gauge.clear()
        shown = sorted(prices, key=lambda each: (-(each.free + each.unmet), each.market))[:MOST_MARKETS]
        for each in shown:
            self._low.labels(*each.market).set(each.low / USD)
            self._high.labels(*each.market).set(float("inf") if each.high is None else each.high / USD)
            self._free.labels(*each.market).set(each.free)
            self._unmet.labels(*each.market).set(each.unmet)
