"""Funds: what each namespace can still commit is reserved before the solve; no money moves here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedgpu_operator.domain.decision import Reason, Verdict
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import MicroUSD, format_usd
from fedgpu_operator.placement.context import Refusal
from fedgpu_operator.placement.judge import Judgement, restricted


def affordable(judgement: Judgement, job: Job, left: int | None) -> Judgement:
    """The judgement without the eligible offers whose run limit costs more than `left` µUSD (None: no limit)."""
    if left is None or _worst_case(judgement) <= left:
        return judgement

    def refuse(verdict: Verdict) -> Refusal | None:
        if verdict.cost <= left:
            return None
        return Refusal(
            Reason.UNFUNDED,
            f"the run limit would cost {format_usd(verdict.cost)} USD, "
            f"{format_usd(left)} USD of the account's funds is left",
        )

    return restricted(judgement, job, refuse)


def reserve(
    jobs: Sequence[Job], judgements: Sequence[Judgement], funds: Mapping[str, MicroUSD | None]
) -> list[Judgement]:
    """Judgements after each job, in the order given, has reserved the dearest eligible offer it can pay.

    So whatever the solve assigns, the placed jobs of a namespace never cost more than its funds. A namespace that
    `funds` does not name has none.
    """
    left: dict[str, int | None] = {}
    result: list[Judgement] = []
    for job, judgement in zip(jobs, judgements, strict=True):
        have = left.setdefault(job.namespace, funds.get(job.namespace, MicroUSD(0)))
        judgement = affordable(judgement, job, have)
        if have is not None:
            left[job.namespace] = have - _worst_case(judgement)
        result.append(judgement)
    return result


def _worst_case(judgement: Judgement) -> int:
    return max((each.cost for each in judgement.by_offer if each.reason is None), default=0)
