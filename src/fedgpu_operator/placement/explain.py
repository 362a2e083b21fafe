"""Decisions in words: the histogram of refusals by provider and the sentence for what was chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from fedgpu_operator.domain.decision import Decision, Reason, Verdict
from fedgpu_operator.domain.money import format_usd
from fedgpu_operator.placement.judge import Judgement
from fedgpu_operator.placement.registry import REASON_ORDER

_DEPTH: Final = {reason: depth for depth, reason in enumerate(REASON_ORDER)}


def placed(uid: str, judgement: Judgement, chosen: Verdict) -> Decision:
    """The decision for a job that got an offer."""
    verdicts = judgement.verdicts
    fit, total = _fit(verdicts)
    message = (
        f"{fit}/{total} providers fit: {chosen.provider}/{chosen.product} "
        f"at {format_usd(chosen.price)} USD per GPU-hour"
    )
    if chosen.components:
        message += f" (effective {format_usd(chosen.effective_price)})"
    cheaper = verdicts.index(chosen)
    if cheaper:
        message += f"; {cheaper} better offer{'s' if cheaper > 1 else ''} went to other jobs"
    return Decision(uid, chosen, verdicts, None, message, judgement.policies)


def waiting(uid: str, judgement: Judgement) -> Decision:
    """The decision for a job that got nothing: the reason is that of the nearest miss, the message the histogram."""
    verdicts = judgement.verdicts
    fit, total = _fit(verdicts)
    nearest = nearest_misses(verdicts)
    if not nearest:
        reason, message = Reason.NO_ELIGIBLE_PROVIDER, "0/0 providers fit: no provider offers any GPU yet"
    else:
        counts = Counter(nearest.values())
        reason = max(counts, key=lambda each: _DEPTH[each])
        listed = ", ".join(
            f"{counts[each]} {each.value}" for each in sorted(counts, key=lambda each: (-counts[each], _DEPTH[each]))
        )
        but = ", but their capacity went to other jobs in this pass" if fit else ""
        message = f"{fit}/{total} providers fit{but}: {listed}"
    return Decision(uid, None, verdicts, reason, message, judgement.policies)


def nearest_misses(verdicts: Sequence[Verdict]) -> dict[str, Reason]:
    """Per provider the reason of its offer that came furthest through the filters; an eligible one was outbid."""
    nearest: dict[str, Reason] = {}
    for verdict in verdicts:
        reason = verdict.reason or Reason.OUTBID
        known = nearest.get(verdict.provider)
        if known is None or _DEPTH[reason] > _DEPTH[known]:
            nearest[verdict.provider] = reason
    return nearest


def _fit(verdicts: Sequence[Verdict]) -> tuple[int, int]:
    fitting = {verdict.provider for verdict in verdicts if verdict.reason is None}
    return len(fitting), len({verdict.provider for verdict in verdicts})
