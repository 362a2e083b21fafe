"""Whole passes: group, judge, reserve funds, solve, explain; and what stays true from one pass to the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedgpu_operator.domain.decision import Decision
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement import explain, funds
from fedgpu_operator.placement.classes import Grouping, JobGroup
from fedgpu_operator.placement.context import Snapshot
from fedgpu_operator.placement.judge import Judge, JudgedClass
from fedgpu_operator.placement.problem import JobClass, Problem, Solution
from fedgpu_operator.placement.registry import BUILT_IN, Filter, Guard, PluginFailure, Plugins
from fedgpu_operator.placement.solve import Solver
from fedgpu_operator.placement.table import OfferTable


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Who goes where, without words.

    `problem.classes[i]` stands for `classes[i]`. `lefts` says what of its funds a job could still commit (µUSD) where
    that refused it an offer. `failures` are those of third parties' plugins.
    """

    classes: tuple[JudgedClass, ...]
    table: OfferTable
    problem: Problem
    solution: Solution
    lefts: funds.Lefts
    failures: tuple[PluginFailure, ...] = ()

    def assigned(self) -> dict[str, int]:
        """Offer index by job uid: the first members of a class, by uid, go to the first of its flows."""
        return {
            uid: offer
            for judged, flows in zip(self.classes, self.solution.flows, strict=True)
            for uid, offer in _members(judged, flows)
            if offer is not None
        }


@dataclass(frozen=True, slots=True, eq=False)
class PassResult:
    """One decision per job, by priority and then uid; how good they are together; and whose plugins failed."""

    decisions: tuple[Decision, ...]
    solution: Solution
    failures: tuple[PluginFailure, ...]


class Engine:
    """Decides pass after pass. What a pass computed of offers and rules that did not change serves the next one.

    The answers are those of a fresh engine. Raises FedGPUError when a solver fails.
    """

    def __init__(self, plugins: Plugins = BUILT_IN) -> None:
        self._guard = Guard(plugins)
        self._solver = Solver()
        self._grouping = Grouping(self._guard)
        self._judge: Judge | None = None
        self._offers: tuple[Offer, ...] = ()
        self._aside: tuple[tuple[Offer, ...], Judge] | None = None
        self._spoken: explain.Spoken | None = None

    def decide(self, snapshot: Snapshot, *, clearing: bool = False) -> PassResult:
        """A decision with its words for every job."""
        placement = self.place(snapshot, clearing=clearing)
        return PassResult(self._decisions(placement), placement.solution, placement.failures)

    def place(self, snapshot: Snapshot, *, clearing: bool = False, first_only: bool = False) -> Placement:
        """The same without words. `first_only` takes the first answer with a bound, `clearing` adds clearing prices."""
        groups = self._grouping.groups(snapshot)
        placement = self._solved(groups, snapshot, clearing=clearing, first_only=first_only)
        while any(
            self._contradicted(judged, placement.table, (offer for offer, _ in flows))
            for judged, flows in zip(placement.classes, placement.solution.flows, strict=True)
        ):
            placement = self._solved(groups, snapshot, clearing=clearing, first_only=first_only)
        return replace(placement, failures=self._guard.drain())

    def _contradicted(self, judged: JudgedClass, table: OfferTable, chosen: Iterable[int]) -> bool:
        """Whether a third party's filter refuses an offer that it let through; then what was judged is forgotten."""
        filters = [gate.plugin for gate in judged.gates if gate.plugin in self._guard.plugins.extra_filters]
        for offer in chosen if filters else ():
            for each in filters:
                if isinstance(each, Filter) and self._guard.contradicts(each, judged.ctx, table.offers[offer]):
                    self._judge, self._aside = None, None
                    return True
        return False

    def _solved(self, groups: Sequence[JobGroup], snapshot: Snapshot, *, clearing: bool, first_only: bool) -> Placement:
        judge = self._judge_of(snapshot.offers)
        classes, lefts = funds.reserve([judge.judged(each) for each in groups], judge.table, snapshot.funds)
        judge.forget()
        self._judge, self._offers = judge, snapshot.offers
        problem = _problem(classes, judge.table)
        solution = self._solver.solve(problem, clearing=clearing, first_only=first_only)
        return Placement(tuple(classes), judge.table, problem, solution, lefts)

    def evaluate(self, job: Job, snapshot: Snapshot) -> Decision:
        """What the job would get if it were alone; for dryRun and explain. Reserves nothing.

        `job` need not be among the snapshot's jobs; those are not looked at.
        """
        group = self._grouping.alone(job, snapshot)
        judge = self._asked(snapshot.offers)
        judged = judge.judged(group)
        while self._contradicted(judged, judge.table, np.flatnonzero(judged.eligible).tolist()):
            judge = self._asked(snapshot.offers)
            judged = judge.judged(group)
        left = None if judged.payer is None else snapshot.funds.get(judged.payer) or 0
        verdicts = explain.Verdicts(funds.affordable(judged, judge.table, left), judge.table, self._guard, left)
        best = verdicts.best
        return explain.waiting(job.uid, verdicts) if best is None else explain.placed(job.uid, verdicts, best)

    def _asked(self, offers: tuple[Offer, ...]) -> Judge:
        """The judge of the last pass, or one beside it for other offers: the next pass still goes on from the last."""
        if self._judge is not None and offers is self._offers:
            return self._judge
        if self._aside is None or offers is not self._aside[0]:
            self._aside = offers, self._judge_of(offers)
        return self._aside[1]

    def _judge_of(self, offers: tuple[Offer, ...]) -> Judge:
        """One that goes on from the last pass."""
        table = OfferTable(offers, None if self._judge is None else self._judge.table)
        return Judge(table, self._guard, self._judge)

    def _decisions(self, placement: Placement) -> tuple[Decision, ...]:
        ranked: list[tuple[int, Decision]] = []
        misses: explain.Misses = {}
        spoken = explain.Spoken(placement.table, self._spoken)
        for judged, flows in zip(placement.classes, placement.solution.flows, strict=True):
            rank = -judged.ctx.job.priority
            words = _Words(judged, placement, self._guard, misses, spoken)
            ranked += [(rank, words.decision(uid, offer)) for uid, offer in _members(judged, flows)]
        spoken.forget()
        self._spoken = spoken
        ranked.sort(key=lambda each: (each[0], each[1].job_uid))
        return tuple(decision for _, decision in ranked)


class _Words:
    """The decisions of one class: jobs that got the same share all but their uid."""

    def __init__(
        self,
        judged: JudgedClass,
        placement: Placement,
        guard: Guard,
        misses: explain.Misses,
        spoken: explain.Spoken,
    ) -> None:
        self._misses = misses
        self._spoken = spoken
        self._judged = judged
        self._placement = placement
        self._guard = guard
        self._verdicts: dict[int | None, explain.Verdicts] = {}
        self._known: dict[tuple[int | None, int | None], Decision] = {}

    def decision(self, uid: str, offer: int | None) -> Decision:
        """The decision for a job that got this offer, or none."""
        left = self._placement.lefts.get(uid)
        known = self._known.get((left, offer))
        if known is not None:
            return explain.same(uid, known)
        verdicts = self._verdicts.get(left)
        if verdicts is None:
            verdicts = explain.Verdicts(self._judged, self._placement.table, self._guard, left, self._misses)
            self._verdicts[left] = self._spoken.add(verdicts)
        made = explain.waiting(uid, verdicts) if offer is None else explain.placed(uid, verdicts, offer)
        self._known[left, offer] = made
        return made


def place(
    snapshot: Snapshot, *, plugins: Plugins = BUILT_IN, clearing: bool = False, first_only: bool = False
) -> Placement:
    """One pass from nothing, without words."""
    return Engine(plugins).place(snapshot, clearing=clearing, first_only=first_only)


def demand(snapshot: Snapshot, plugins: Plugins = BUILT_IN) -> tuple[JobClass, ...]:
    """The classes of a pass as the solver would see them, without a solve."""
    guard = Guard(plugins)
    judge = Judge(OfferTable(snapshot.offers), guard)
    groups = Grouping(guard).groups(snapshot)
    classes, _ = funds.reserve([judge.judged(each) for each in groups], judge.table, snapshot.funds)
    return _problem(classes, judge.table).classes


def _problem(classes: Sequence[JudgedClass], table: OfferTable) -> Problem:
    return Problem(
        tuple(
            JobClass(
                members=each.members,
                priority=each.ctx.job.priority,
                gpus=each.ctx.job.gpu.count,
                replicas=each.ctx.job.replicas,
                seconds=each.seconds,
                price=each.price,
                eligible=each.eligible,
            )
            for each in classes
        ),
        table.free,
        table.provider,
        table.slots,
    )


def _members(judged: JudgedClass, flows: Sequence[tuple[int, int]]) -> Iterator[tuple[str, int | None]]:
    uids = iter(judged.members)
    for offer, jobs in flows:
        for _ in range(jobs):
            yield next(uids), offer
    for uid in uids:
        yield uid, None


def decide(snapshot: Snapshot, plugins: Plugins = BUILT_IN) -> tuple[Decision, ...]:
    """One decision per job, by priority and then uid; the same set in any order gives the same answer.

    Raises FedGPUError when the flow solver fails.
    """
    return Engine(plugins).decide(snapshot).decisions


def evaluate(job: Job, snapshot: Snapshot, plugins: Plugins = BUILT_IN) -> Decision:
    """What the job would get if it were alone; for dryRun and explain. Reserves nothing.

    `job` need not be among the snapshot's jobs; those are not looked at.
    """
    return Engine(plugins).evaluate(job, snapshot)
