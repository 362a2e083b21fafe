"""Decisions in words: verdicts made when somebody looks, the histogram of refusals, the sentence for the chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np

from fedgpu_operator.domain.decision import Decision, Reason, Verdict
from fedgpu_operator.domain.money import MicroUSD, format_usd
from fedgpu_operator.placement.context import IntVector, OfferRefusal
from fedgpu_operator.placement.judge import Gate, JudgedClass
from fedgpu_operator.placement.plugins import latency
from fedgpu_operator.placement.plugins.budget import run_cost
from fedgpu_operator.placement.registry import Filter, Guard
from fedgpu_operator.placement.table import OfferTable

Misses = dict[tuple[int, int], dict[str, int]]
"""Histograms by the identity of the gates and of the mask that they leave, which classes of one pass share."""


class Verdicts(Sequence[Verdict]):
    """Every offer's verdict for the jobs of one class: the eligible first by effective price, then by name.

    A verdict is made when it is looked at, and kept. `left` is what of its funds the job could still commit (µUSD).
    `misses` holds the histograms of the classes of one pass, so that those which the same filters refuse share one.
    """

    def __init__(
        self,
        judged: JudgedClass,
        table: OfferTable,
        guard: Guard,
        left: int | None = None,
        misses: Misses | None = None,
    ) -> None:
        self.judged = judged
        self._misses = {} if misses is None else misses
        self._table = table
        self._guard = guard
        self._left = left
        self._made: dict[int, Verdict] = {}
        self._cut: dict[tuple[int | None, int | None, int | None], tuple[Verdict, ...]] = {}

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> Verdict: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Verdict, ...]: ...
    def __getitem__(self, index: int | slice) -> Verdict | tuple[Verdict, ...]:
        if isinstance(index, slice):
            # All jobs of the class show the same ones.
            name = index.start, index.stop, index.step
            if name not in self._cut:
                self._cut[name] = tuple(self.of(offer) for offer in self._order[index])
            return self._cut[name]
        return self.of(self._order[index])

    def __iter__(self) -> Iterator[Verdict]:
        return (self.of(offer) for offer in self._order)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def of(self, offer: int) -> Verdict:
        """The verdict on the offer with this index in name order."""
        known = self._made.get(offer)
        if known is None:
            known = self._made[offer] = self._verdict(offer)
        return known

    def cheaper(self, offer: int) -> int:
        """How many eligible offers stand before this one."""
        judged, mine = self.judged, self.judged.price[offer]
        before = (judged.price < mine) | ((judged.price == mine) & (np.arange(len(self)) < offer))
        return int(np.count_nonzero(judged.eligible & before))

    @property
    def total(self) -> int:
        """How many providers there are."""
        return len(self._table.providers)

    @cached_property
    def fits(self) -> int:
        """How many providers have an eligible offer."""
        return int(np.count_nonzero(np.bincount(self._table.provider, weights=self.judged.eligible)))

    @property
    def nearest_misses(self) -> dict[str, int]:
        """How many providers by reason: each counts once, with that of its offer that came furthest.

        The eligible ones were outbid. The most frequent reason comes first, among equals the farther miss.
        """
        name = id(self.judged.gates), id(self.judged.eligible)
        known = self._misses.get(name)
        if known is None:
            known = self._misses[name] = self._count_misses()
        return known

    def _count_misses(self) -> dict[str, int]:
        plugins = self._guard.plugins
        if not len(self):
            return {}
        first = np.searchsorted(self._table.provider, np.arange(len(self._table.providers)))
        nearest = np.maximum.reduceat(self._depths(), first)
        counts = np.bincount(nearest, minlength=len(plugins.reason_order)).tolist()
        found = [(reason, count) for reason, count in zip(plugins.reason_order, counts, strict=True) if count]
        return dict(sorted(found, key=lambda each: -each[1]))

    @property
    def furthest(self) -> str:
        """The reason of `nearest_misses` that is the nearest miss of all."""
        return max(self.nearest_misses, key=self._guard.plugins.depth.__getitem__)

    @property
    def best(self) -> int | None:
        """The eligible offer with the least effective price, ties by name; None if there is none."""
        first = self._order[0] if len(self) else None
        return first if first is not None and self.judged.eligible[first] else None

    @cached_property
    def _order(self) -> list[int]:
        judged = self.judged
        order: list[int] = np.lexsort((judged.price, ~judged.eligible)).tolist()
        return order

    @cached_property
    def _best(self) -> int:
        judged = self.judged
        return int(judged.price[judged.eligible].min()) if judged.eligible.any() else 0

    def _verdict(self, i: int) -> Verdict:
        judged, offer = self.judged, self._table.offers[i]
        refused = self._refusal(i)
        components = {name: int(row[i]) for name, row in judged.parts if row[i]}
        effective = offer.price + sum(components.values())
        seen = latency.seen(judged.ctx, offer)
        score = 0
        if refused is None:
            score = max(1, 100 * self._best // effective) if effective else 100
        return Verdict(
            provider=offer.provider,
            product=offer.gpu.product,
            reason=refused.reason if refused else None,
            message=refused.message if refused else "",
            price=offer.price,
            effective_price=MicroUSD(effective),
            cost=run_cost(judged.ctx.job, offer),
            components=components,
            latency_ms=None if seen is None else seen.ms,
            latency_source="" if seen is None else seen.source,
            latency_measured_at=None if seen is None else seen.measured_at,
            score=score,
        )

    def _refusal(self, i: int) -> OfferRefusal | None:
        judged = self.judged
        if judged.eligible[i]:
            return None
        gate = next((each for each in judged.gates if not each.mask[i]), None)
        if gate is not None:
            return self._said(gate, i)
        cost = run_cost(judged.ctx.job, self._table.offers[i])
        return OfferRefusal(
            Reason.UNFUNDED,
            f"insufficient funds: a full run costs up to {format_usd(cost)} USD, "
            f"the account has {format_usd(self._left or 0)} USD left",
        )

    def _said(self, gate: Gate, i: int) -> OfferRefusal:
        if gate.broken or not isinstance(gate.plugin, Filter):
            return OfferRefusal(Reason.PLUGIN_FAILED, gate.broken)
        return self._guard.words(gate.plugin, self.judged.ctx, self._table.offers[i])

    def _depths(self) -> IntVector:
        """How far each offer came, as a position in `reason_order`; shape (offers,)."""
        depth = self._guard.plugins.depth
        judged = self.judged
        result = np.where(judged.eligible, depth[Reason.OUTBID], depth[Reason.UNFUNDED])
        for gate in reversed(judged.gates):
            if not gate.mask.all():
                result = np.where(gate.mask, result, self._depth_of(gate))
        return result

    def _depth_of(self, gate: Gate) -> IntVector:
        """The depth of what one filter says, where it refuses; elsewhere it means nothing."""
        depth, plugin = self._guard.plugins.depth, gate.plugin
        if gate.broken or not isinstance(plugin, Filter):
            return np.full(len(self), depth[Reason.PLUGIN_FAILED])
        if plugin.name not in self._guard.plugins.foreign:
            if len(plugin.reasons) == 1:
                return np.full(len(self), depth[plugin.reasons[0]])
            if plugin.reason_index is not None:
                return np.array([depth[each] for each in plugin.reasons])[
                    plugin.reason_index(self.judged.ctx, self._table)
                ]
        refused = np.flatnonzero(~gate.mask).tolist()
        result = np.zeros(len(self), dtype=np.int64)
        result[refused] = [depth[self._said(gate, i).reason] for i in refused]
        return result


def placed(uid: str, verdicts: Verdicts, offer: int) -> Decision:
    """The decision for a job that got this offer."""
    chosen = verdicts.of(offer)
    message = (
        f"{verdicts.fits}/{verdicts.total} providers fit: {chosen.provider}/{chosen.product} "
        f"at {format_usd(chosen.price)} USD per GPU-hour"
    )
    if chosen.components:
        message += f" (effective {format_usd(chosen.effective_price)})"
    cheaper = verdicts.cheaper(offer)
    if cheaper:
        message += f"; {cheaper} better offer{'s' if cheaper > 1 else ''} went to other jobs"
    return Decision(uid, chosen, verdicts, None, message, verdicts.judged.policies, verdicts.fits, verdicts.total)


def waiting(uid: str, verdicts: Verdicts) -> Decision:
    """The decision for a job that got nothing: the reason is that of the nearest miss, the message the histogram."""
    nearest = verdicts.nearest_misses
    fits, total = verdicts.fits, verdicts.total
    reason: str = Reason.NO_ELIGIBLE_PROVIDER
    message = "0/0 providers fit: no provider offers GPUs"
    if nearest:
        reason = verdicts.furthest
        but = ", but their capacity went to other jobs in this pass" if fits else ""
        message = f"{fits}/{total} providers fit{but}: " + ", ".join(f"{n} {each}" for each, n in nearest.items())
    return Decision(uid, None, verdicts, reason, message, verdicts.judged.policies, fits, total)


def same(uid: str, decision: Decision) -> Decision:
    """The same decision for another job of the class."""
    return Decision(
        uid,
        decision.chosen,
        decision.verdicts,
        decision.reason,
        decision.message,
        decision.policies,
        decision.fits,
        decision.total,
    )
