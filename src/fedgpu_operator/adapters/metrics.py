"""Prometheus metrics of the loops, the queue, the solver and the market; every label comes from a bounded set.

Named as Kueue names its own, where it has the like. docs/metrics.md is generated from here and from requests.py.
"""

from __future__ import annotations

import platform
from collections import Counter as Counts
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from math import nan
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server

from fedgpu_operator import __version__
from fedgpu_operator.adapters.requests import INSTRUMENTS
from fedgpu_operator.domain.faults import OUTCOMES
from fedgpu_operator.domain.market import PricePoint
from fedgpu_operator.domain.money import MicroUSD

if TYPE_CHECKING:
    from fedgpu_operator.placement.problem import Solution
    from fedgpu_operator.settlement.funding import Purse

STATES = ("Pending", "Placed", "Running", "Suspended", "Succeeded", "Failed", "DryRun")


MOST_NAMESPACES: Final = 100
"""Namespaces with series of their own, those that were seen first; tenants make them, so nothing else bounds them."""
MOST_PROVIDERS: Final = 500
OTHER: Final = "(other)"
"""Stands for what is beyond a bound; no object can be called so."""


class PrometheusMetrics:
    """Implements `ports.Metrics`."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        for each in INSTRUMENTS:
            self.registry.register(each)
        build = Info("fedgpu_build", "The operator's version, and the Python that it runs on.", registry=self.registry)
        build.info({"version": __version__, "python_version": platform.python_version()})
        self._namespaces: set[str] = set()
        self._shown = Counts[tuple[str, str]]()
        """What `_pending` holds, by namespace and reason."""
        self._pending = Gauge(
            "fedgpu_pending_jobs",
            "Jobs that wait to be placed, by namespace and the reason in their status; (other) holds namespaces beyond "
            "the first 100.",
            ["namespace", "reason"],
            registry=self.registry,
        )
        self._waited = Histogram(
            "fedgpu_admission_wait_time_seconds",
            "From a job's creation, or the end of its attempt before, until it had its lease.",
            ["namespace"],
            buckets=(1, 5, 30, 60, 300, 1800, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600),
            registry=self.registry,
        )
        self._attempts = Counter(
            "fedgpu_admission_attempts",
            "Decisions over the queue: success if a place was found for at least one job, else inadmissible.",
            ["result"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "fedgpu_admission_attempt_duration_seconds",
            "Duration of one decision over the queue.",
            ["result"],
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10),
            registry=self.registry,
        )
        self._admitted = Counter(
            "fedgpu_admitted_jobs", "Jobs that got a lease.", ["namespace"], registry=self.registry
        )
        self._evicted = Counter(
            "fedgpu_evicted_jobs",
            "Attempts that the hub stopped before they ended: moves, and what its tenant, its money or its deadline "
            "ended.",
            ["reason"],
            registry=self.registry,
        )
        self._connected = Gauge(
            "fedgpu_provider_connected",
            "1 if the provider's member answers its agent, else 0.",
            ["provider"],
            registry=self.registry,
        )
        self._due = Gauge(
            "fedgpu_epoch_due_timestamp_seconds",
            "By when the next settlement epoch must be begun whatever it costs, Unix time; NaN without work to settle.",
            registry=self.registry,
        )
        self._refused = Counter(
            "fedgpu_placement_refusals",
            "Jobs that no place was found for; each counts once for each reason it waits for.",
            ["reason"],
            registry=self.registry,
        )
        self._failed = Counter(
            "fedgpu_loop_failures",
            "Passes, and objects within a pass, that ended with an error.",
            ["loop", "reason"],
            registry=self.registry,
        )
        self._passes = Histogram(
            "fedgpu_loop_pass_seconds",
            "Duration of one pass of a loop.",
            ["loop"],
            buckets=(0.01, 0.1, 1, 10, 60, 300),
            registry=self.registry,
        )
        self._succeeded = Gauge(
            "fedgpu_loop_last_success_timestamp_seconds",
            "When a pass of the loop last ended without an error, Unix time.",
            ["loop"],
            registry=self.registry,
        )
        self._gaps = Gauge(
            "fedgpu_ledger_gaps",
            "What the hub and the chain show and the ledger does not hold; the operator opens nothing meanwhile.",
            registry=self.registry,
        )
        self._gpu_seconds = Counter(
            "fedgpu_billed_gpu_seconds", "Billed GPU-seconds.", ["provider"], registry=self.registry
        )
        self._jobs = Gauge("fedgpu_jobs", "ComputeJobs by state.", ["state"], registry=self.registry)
        self._moves = Counter(
            "fedgpu_moves", "Running jobs that were stopped to be placed again.", ["reason"], registry=self.registry
        )
        self._paid = Counter("fedgpu_paid_micro_usd", "Paid on chain, seen at finalized.", registry=self.registry)
        self._obstacles = Gauge(
            "fedgpu_settlement_obstacle",
            "1 while this keeps settlement from working as configured; the operator's log says what to do.",
            ["reason"],
            registry=self.registry,
        )
        self._balance = Gauge("fedgpu_settler_balance_wei", "Coins of the settler's account.", registry=self.registry)
        self._burn = Gauge(
            "fedgpu_settler_burn_wei_per_day", "What the settler spent lately, per day.", registry=self.registry
        )
        self._lasts = Gauge(
            "fedgpu_settler_runway_seconds",
            "For how long the settler's coins last at that burn; +Inf if nothing was spent.",
            registry=self.registry,
        )
        self._epochs = Gauge(
            "fedgpu_settler_epochs",
            "How many more epochs the settler's coins pay for at present fees; +Inf if gas costs nothing.",
            registry=self.registry,
        )
        for gauge in (self._balance, self._lasts, self._epochs, self._due):
            # Not 0 before anybody has looked, or without settlement: that would be an alarm.
            gauge.set(nan)
        self._silence = Gauge(
            "fedgpu_watch_silence_seconds",
            "Since the hub's API server last told anything of that kind; it does so about once a minute.",
            ["kind"],
            registry=self.registry,
        )
        self._leader = Gauge(
            "fedgpu_leader",
            "1 while this replica does the operator's work, 0 while it stands by for the leader.",
            registry=self.registry,
        )
        self._market = MarketMetrics(self.registry)

    def follow_leader(self, leads: Callable[[], bool]) -> None:
        """Report what this returns, at each scrape."""
        self._leader.set_function(lambda: float(leads()))

    def follow(self, silences: Mapping[str, Callable[[], float]]) -> None:
        """Report by kind what these return, at each scrape."""
        for kind, silence in silences.items():
            self._silence.labels(kind).set_function(silence)

    def serve(self, port: int, address: str) -> None:
        """Serve `/metrics`; raises OSError if the port is taken."""
        start_http_server(port, address, registry=self.registry)

    def decided(self, placed: int, refused: dict[str, int], seconds: float) -> None:
        result = "success" if placed else "inadmissible"
        self._attempts.labels(result).inc()
        self._seconds.labels(result).observe(seconds)
        for reason, jobs in refused.items():
            self._refused.labels(reason).inc(jobs)

    def admitted(self, namespace: str, waited: float) -> None:
        label = self._namespace(namespace)
        self._admitted.labels(label).inc()
        self._waited.labels(label).observe(waited)

    def pending(self, jobs: Mapping[tuple[str, str], int]) -> None:
        found = Counts[tuple[str, str]]()
        for (namespace, reason), count in jobs.items():
            found[self._namespace(namespace), reason] += count
        # Hundreds of series, of which one or two changed.
        for gone in self._shown.keys() - found.keys():
            self._pending.remove(*gone)
        for labels, count in found.items():
            if self._shown[labels] != count:
                self._pending.labels(*labels).set(count)
        self._shown = found

    def evicted(self, reason: str) -> None:
        self._evicted.labels(reason if reason in OUTCOMES else OTHER).inc()

    def providers(self, connected: Mapping[str, bool]) -> None:
        self._connected.clear()
        for provider in sorted(connected)[:MOST_PROVIDERS]:
            self._connected.labels(provider).set(connected[provider])

    def epoch_due(self, at: datetime | None) -> None:
        self._due.set(nan if at is None else at.timestamp())

    def _namespace(self, name: str) -> str:
        if len(self._namespaces) < MOST_NAMESPACES:
            self._namespaces.add(name)
        return name if name in self._namespaces else OTHER

    def loop_failed(self, loop: str, reason: str) -> None:
        self._failed.labels(loop, reason).inc()

    def loop_passed(self, loop: str, seconds: float, *, succeeded: bool) -> None:
        self._passes.labels(loop).observe(seconds)
        if succeeded:
            self._succeeded.labels(loop).set_to_current_time()

    def ledger_gaps(self, count: int) -> None:
        self._gaps.set(count)

    def billed(self, provider: str, gpu_seconds: int) -> None:
        self._gpu_seconds.labels(provider).inc(gpu_seconds)

    def moved(self, reason: str) -> None:
        self._moves.labels(reason).inc()

    def jobs(self, by_state: dict[str, int]) -> None:
        for state in STATES:
            self._jobs.labels(state).set(by_state.get(state, 0))

    def paid(self, micro_usd: MicroUSD) -> None:
        self._paid.inc(micro_usd)

    def solved(self, solution: Solution) -> None:
        self._market.solved(solution)

    def market(self, prices: Sequence[PricePoint]) -> None:
        self._market.market(prices)

    def settler(self, purse: Purse) -> None:
        self._balance.set(purse.balance)
        self._burn.set(purse.burn)
        self._lasts.set(purse.lasts)
        self._epochs.set(purse.epochs)

    def obstacles(self, present: Mapping[str, bool]) -> None:
        for reason, holds in present.items():
            self._obstacles.labels(reason).set(holds)


MOST_MARKETS: Final = 500
"""Time series per gauge; owners name products and regions, so nothing else bounds them."""
USD: Final = 10**6
_LABELS: Final = ["product", "region"]


class MarketMetrics:
    """The part of `ports.Metrics` about solutions and prices."""

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
