"""Decisions in words: verdicts made when somebody looks, the histogram of refusals, the sentence for the chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.domain.decision import Decision, Reason, Verdict
from fedgpu_operator.domain.money import MicroUSD, format_usd
from fedgpu_operator.placement.context import IntVector, OfferRefusal
from fedgpu_operator.placement.judge import Gate, JudgedClass
from fedgpu_operator.placement.plugins import latency
from fedgpu_operator.placement.plugins.budget import run_cost
from fedgpu_operator.placement.registry import Filter, Guard
from fedgpu_operator.placement.table import OfferTable, moved

Misses = dict[tuple[int, int], dict[str, int]]
"""Histograms by the identity of the gates and of the mask that they leave, which classes of one pass share."""
MOST_CARRIED: Final = 64
"""Verdicts of one class that the next pass takes over at most; of one that was read in full, none is."""
Part = tuple[str, IntVector]
NOWHERE: Final[frozenset[int]] = frozenset()


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
        self.left = left
        self._made: dict[int, Verdict] = {}
        self._cut: dict[tuple[int | None, int | None, int | None], tuple[Verdict, ...]] = {}

    def follow(self, before: Verdicts, drift: Drift) -> None:
        """Take over the verdicts of the pass before that would be the same now; `drift` is from its offers to ours."""
        old, new = before.judged, self.judged
        if len(before._made) > MOST_CARRIED or before.left != self.left or not old.is_judged_as(new):
            return
        refused, priced = drift.of_gates(old.gates, new.gates), drift.of_parts(old.parts, new.parts)
        if refused is None or priced is None:
            return
        reordered = drift.between(old.eligible, new.eligible) or drift.between(old.price, new.price)
        if not reordered and "_order" in before.__dict__:
            self._order = before._order
        changed = drift.touched.union(refused, priced, reordered)
        scored = not reordered or before._best == self._best
        self._made = {
            offer: verdict
            for offer, verdict in before._made.items()
            # What a third party's plugin failed to say is asked again.
            if offer not in changed
            and verdict.reason != Reason.PLUGIN_FAILED
            and (scored or verdict.reason is not None)
        }

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
            f"the account has {format_usd(self.left or 0)} USD left",
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


class Drift:
    """Where the offers of two passes, and what was computed over them, differ; each pair is compared once.

    Both passes have offers of the same names.
    """

    def __init__(self, old: OfferTable, new: OfferTable) -> None:
        self.touched = frozenset(moved(old.offers, new.offers))
        self._rows: dict[tuple[int, int], frozenset[int]] = {}
        self._tuples: dict[tuple[int, int], frozenset[int] | None] = {}

    def between(self, old: NDArray[np.generic], new: NDArray[np.generic]) -> frozenset[int]:
        """The offers for which two rows differ."""
        if old is new:
            return NOWHERE
        name = id(old), id(new)
        known = self._rows.get(name)
        if known is None:
            known = self._rows[name] = frozenset(np.flatnonzero(old != new).tolist())
        return known

    def of_gates(self, old: Sequence[Gate], new: Sequence[Gate]) -> frozenset[int] | None:
        """The offers on which the filters differ; None where it is not the same filters that have something to say."""
        name = id(old), id(new)
        if name not in self._tuples:
            same = [(each.plugin, each.broken) for each in old] == [(each.plugin, each.broken) for each in new]
            rows = zip(old, new, strict=False)
            found = NOWHERE.union(*(self.between(one.mask, two.mask) for one, two in rows))
            self._tuples[name] = found if same else None
        return self._tuples[name]

    def of_parts(self, old: Sequence[Part], new: Sequence[Part]) -> frozenset[int] | None:
        """The offers to whose price something else is added; None where it is not the same parts that are."""
        name = id(old), id(new)
        if name not in self._tuples:
            same = [part for part, _ in old] == [part for part, _ in new]
            rows = zip(old, new, strict=False)
            self._tuples[name] = NOWHERE.union(*(self.between(a, b) for (_, a), (_, b) in rows)) if same else None
        return self._tuples[name]


class Spoken:
    """The verdicts of one pass; those of classes that are still judged alike go on from the pass before."""

    def __init__(self, table: OfferTable, before: Spoken | None) -> None:
        self.table = table
        self.verdicts: dict[tuple[str, int | None], Verdicts] = {}
        """By the uid of the job that stands for the class, and what it could still commit."""
        self._before: Mapping[tuple[str, int | None], Verdicts] = MappingProxyType({})
        if before is not None and before.table.names == table.names:
            self._before, self._drift = before.verdicts, Drift(before.table, table)

    def add(self, verdicts: Verdicts) -> Verdicts:
        """The same verdicts, with what is known of them."""
        name = verdicts.judged.ctx.job.uid, verdicts.left
        before = self._before.get(name)
        if before is not None:
            verdicts.follow(before, self._drift)
        self.verdicts[name] = verdicts
        return verdicts

    def forget(self) -> None:
        """Let go of the pass before, once this one is done."""
        self._before = MappingProxyType({})


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
