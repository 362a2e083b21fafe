"""One pass: judge, reserve funds, solve, explain; the only way into placement."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from fedgpu_operator.domain.decision import Decision
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement import explain, funds
from fedgpu_operator.placement.asks import Ask
from fedgpu_operator.placement.book import Load
from fedgpu_operator.placement.context import Context
from fedgpu_operator.placement.judge import Judgement, class_key, judge
from fedgpu_operator.placement.snapshot import Snapshot
from fedgpu_operator.placement.solve import assign


def decide(snapshot: Snapshot) -> tuple[Decision, ...]:
    """One decision per job, by priority and then uid; the same set in any order gives the same answer.

    Raises FedGPUError when the flow solver fails.
    """
    offers = _by_name(snapshot.offers)
    jobs = sorted(snapshot.jobs, key=lambda job: (-job.priority, job.uid))
    judgements = funds.reserve(jobs, _judged(snapshot, jobs, offers), snapshot.funds)
    asks = [
        Ask(job.priority, Load(job.uid, job.gpu.count, job.replicas), judgement.options)
        for job, judgement in zip(jobs, judgements, strict=True)
        if judgement.options
    ]
    assigned = assign(asks, offers)
    return tuple(
        explain.placed(job.uid, judgement, judgement.by_offer[assigned[job.uid]])
        if job.uid in assigned
        else explain.waiting(job.uid, judgement)
        for job, judgement in zip(jobs, judgements, strict=True)
    )


def evaluate(job: Job, snapshot: Snapshot) -> Decision:
    """What the job would get if it were alone; for dryRun and explain. Reserves nothing.

    `job` need not be among the snapshot's jobs; those are not looked at.
    """
    offers = _by_name(snapshot.offers)
    judgement = judge(_context(snapshot, job), offers)
    judgement = funds.affordable(judgement, job, snapshot.funds.get(job.namespace, MicroUSD(0)))
    best = judgement.best
    return explain.waiting(job.uid, judgement) if best is None else explain.placed(job.uid, judgement, best)


def _by_name(offers: Sequence[Offer]) -> list[Offer]:
    return sorted(offers, key=lambda offer: (offer.provider, offer.gpu.product))


def _context(snapshot: Snapshot, job: Job) -> Context:
    policies = snapshot.policies.get(job.namespace, ())
    ordered = tuple(sorted(policies, key=lambda policy: (policy.name, policy.generation)))
    return Context(job, ordered, snapshot.default_deny, snapshot.now)


def _judged(snapshot: Snapshot, jobs: Sequence[Job], offers: Sequence[Offer]) -> list[Judgement]:
    known: dict[Hashable, Judgement] = {}
    result = []
    for job in jobs:
        ctx = _context(snapshot, job)
        key = class_key(ctx)
        if key not in known:
            known[key] = judge(ctx, offers)
        result.append(known[key])
    return result
