"""Schedulers to compare with: they decide one job after the other, in the queue's order, and never take back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.placement.rules import Policies, Stock, allowed, effective_price

from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.offer import Offer

Pairs = list[tuple[int, int]]
Peer = Callable[[Sequence[Job], Sequence[Offer], Policies, float], tuple[Pairs, int]]
"""Jobs, offers, policies and seconds of CPU to spend → (index of job, index of offer) placed, and jobs looked at."""


def queue(jobs: Sequence[Job]) -> list[int]:
    """Indices by priority, then uid: the order in which a queue would hand them out."""
    return sorted(range(len(jobs)), key=lambda i: (-jobs[i].priority, jobs[i].uid))


def greedy(jobs: Sequence[Job], offers: Sequence[Offer], policies: Policies, seconds: float) -> tuple[Pairs, int]:
    """Each job takes the offer of the least effective price that still has room.

    The order of offers is computed once for equal jobs, and offers found sold out for them are not asked again.
    """
    stock, placed = Stock.of(offers), Pairs()
    orders: dict[object, list[int]] = {}
    until, looked = time.process_time() + seconds, 0
    for i in queue(jobs):
        if time.process_time() > until:
            break
        job, looked = jobs[i], looked + 1
        key = (job.gpu, job.replicas, job.rules, job.latency, job.max_price, job.rates, policies[job.namespace])
        if key not in orders:
            fit = [o for o, offer in enumerate(offers) if allowed(job, offer, policies)]
            # Dearest first, so that the best is taken from the end.
            orders[key] = sorted(fit, key=lambda o: (-effective_price(job, offers[o]), -o))
        order = orders[key]
        while order and not stock.fits(job, offers[order[-1]], order[-1]):
            order.pop()
        if order:
            stock.take(job, offers[order[-1]], order[-1])
            placed.append((i, order[-1]))
    return placed, looked


@dataclass(slots=True)
class OneAtATime:
    """The loop of kube-scheduler: filter offers from where the last cycle ended, score those that fit, take the best.

    `sampled` stops filtering at the number that kube-scheduler's default `percentageOfNodesToScore` gives: 50 % less
    one per 125 nodes, at least 5 % and at least 100 nodes (numFeasibleNodesToFind in its schedule_one.go). The score is
    the effective price, cheapest best.
    """

    sampled: bool
    start: int = 0

    def __call__(
        self, jobs: Sequence[Job], offers: Sequence[Offer], policies: Policies, seconds: float
    ) -> tuple[Pairs, int]:
        """Place until the jobs or the seconds end."""
        stock, placed = Stock.of(offers), Pairs()
        until, looked = time.process_time() + seconds, 0
        for i in queue(jobs):
            if time.process_time() > until:
                break
            looked += 1
            best = min(
                ((effective_price(jobs[i], offers[o]), o) for o in self._feasible(jobs[i], offers, policies, stock)),
                default=None,
            )
            if best is not None:
                stock.take(jobs[i], offers[best[1]], best[1])
                placed.append((i, best[1]))
        return placed, looked

    def _feasible(self, job: Job, offers: Sequence[Offer], policies: Policies, stock: Stock) -> Iterator[int]:
        enough, found = feasible_wanted(len(offers)) if self.sampled else len(offers), 0
        for step in range(len(offers)):
            o = (self.start + step) % len(offers)
            if stock.fits(job, offers[o], o) and allowed(job, offers[o], policies):
                found += 1
                yield o
                if found >= enough:
                    break
        self.start = (self.start + step + 1) % len(offers)


def feasible_wanted(nodes: int) -> int:
    """How many feasible nodes kube-scheduler looks for among so many, with its defaults."""
    if nodes < 100:
        return nodes
    percentage = max(5, 50 - nodes // 125)
    return max(100, nodes * percentage // 100)
