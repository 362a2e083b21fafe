"""Verdicts: every offer judged for one job, with effective prices; jobs that differ in nothing share one judgement."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from fedgpu_operator.domain.decision import Verdict
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import MicroUSD, accrue
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import Context, Refusal
from fedgpu_operator.placement.plugins.budget import run_cost
from fedgpu_operator.placement.plugins.latency import estimate_ms
from fedgpu_operator.placement.registry import FILTERS, PRICERS


class Option(NamedTuple):
    """An eligible offer (index in name order) and the exact effective cost of the run limit (µUSD · s per hour)."""

    offer: int
    cost: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """All verdicts of one class of jobs.

    `by_offer` and `options` (the eligible ones) are in offer order; `verdicts` has the eligible ones first by
    effective price, then by name.
    """

    by_offer: tuple[Verdict, ...]
    verdicts: tuple[Verdict, ...]
    options: tuple[Option, ...]
    policies: tuple[str, ...]

    @property
    def best(self) -> Verdict | None:
        """The eligible verdict with the least effective price, ties by name."""
        return next((verdict for verdict in self.verdicts[:1] if verdict.reason is None), None)


def class_key(ctx: Context) -> Hashable:
    """Equal for two jobs exactly when nothing a plugin may look at differs between them."""
    job = ctx.job
    passed = job.deadline if job.deadline is not None and job.deadline <= ctx.now else None
    return (
        (job.gpu, job.replicas, job.run_limit, job.rules, job.latency, job.max_price, job.budget_left, job.rates),
        (tuple(sorted(job.avoid.items())), passed, ctx.policies),
    )


def judge(ctx: Context, offers: Sequence[Offer]) -> Judgement:
    """Every offer's verdict for the job of `ctx`; `offers` must be sorted by name."""
    parts = [(each.name, each.price(ctx, offers).tolist()) for each in PRICERS]
    verdicts = [
        _verdict(ctx, offer, {name: amounts[i] for name, amounts in parts if amounts[i]})
        for i, offer in enumerate(offers)
    ]
    return _judgement(verdicts, ctx.job, tuple(f"{each.name}@{each.generation}" for each in ctx.policies))


def restricted(judgement: Judgement, job: Job, refuse: Callable[[Verdict], Refusal | None]) -> Judgement:
    """The same judgement with further refusals among the eligible."""
    verdicts = []
    for verdict in judgement.by_offer:
        refused = refuse(verdict) if verdict.reason is None else None
        if refused is not None:
            verdict = replace(verdict, reason=refused.reason, message=refused.message)
        verdicts.append(verdict)
    return _judgement(verdicts, job, judgement.policies)


def _verdict(ctx: Context, offer: Offer, components: dict[str, int]) -> Verdict:
    refused = next((no for each in FILTERS if (no := each.refusal(ctx, offer)) is not None), None)
    milliseconds = estimate_ms(ctx, offer)
    return Verdict(
        provider=offer.provider,
        product=offer.gpu.product,
        reason=refused.reason if refused else None,
        message=refused.message if refused else "",
        price=offer.price,
        effective_price=MicroUSD(offer.price + sum(components.values())),
        cost=run_cost(ctx.job, offer),
        components=components,
        latency_ms=milliseconds,
        latency_source="" if milliseconds is None else "estimate",
    )


def _judgement(verdicts: Sequence[Verdict], job: Job, policies: tuple[str, ...]) -> Judgement:
    best = min((each.effective_price for each in verdicts if each.reason is None), default=0)
    scored = tuple(_scored(each, best) for each in verdicts)
    seconds = job.gpus * job.run_limit
    options = tuple(
        Option(i, accrue(each.effective_price, seconds)) for i, each in enumerate(scored) if each.reason is None
    )
    return Judgement(scored, tuple(sorted(scored, key=_for_people)), options, policies)


def _scored(verdict: Verdict, best: int) -> Verdict:
    score = 0
    if verdict.reason is None:
        score = max(1, 100 * best // verdict.effective_price) if verdict.effective_price else 100
    return verdict if score == verdict.score else replace(verdict, score=score)


def _for_people(verdict: Verdict) -> tuple[bool, int, str, str]:
    return verdict.reason is not None, verdict.effective_price, verdict.provider, verdict.product
