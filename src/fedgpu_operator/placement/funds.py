"""Funds: what each namespace can still commit is reserved before the solve; no money moves here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from heapq import merge

import numpy as np

from fedgpu_operator.domain.money import MicroUSD, charge
from fedgpu_operator.placement.judge import JudgedClass
from fedgpu_operator.placement.plugins.budget import dearest
from fedgpu_operator.placement.table import MAX_PRICE, OfferTable, Uids

Lefts = dict[str, int]
"""By job uid, what of its namespace's funds it could still commit (µUSD), where that refused it an offer."""


def affordable(judged: JudgedClass, table: OfferTable, left: int | None) -> JudgedClass:
    """The class without the offers whose run limit costs more than `left` µUSD (None: no limit)."""
    limit = None if left is None else dearest(left, judged.seconds)
    if limit is None or not (judged.eligible & ~table.within(limit)).any():
        return judged
    return _limited(judged, table, limit)


def reserve(
    classes: Sequence[JudgedClass], table: OfferTable, funds: Mapping[str, MicroUSD | None]
) -> tuple[list[JudgedClass], Lefts]:
    """The classes after each job, by priority and then uid, has reserved the dearest eligible offer it can pay.

    So whatever the solve assigns, the placed jobs of a namespace never cost more than its funds. A namespace that
    `funds` does not name has none. Where the funds cover everybody, nothing is counted job by job; else jobs of one
    class that can pay for different offers part.
    """
    result: list[JudgedClass] = []
    bound: dict[str, list[_Purse]] = {}
    for judged in classes:
        if judged.payer is None:
            result.append(judged)
        else:
            bound.setdefault(judged.payer, []).append(_Purse(judged, table))
    lefts: Lefts = {}
    for payer, purses in sorted(bound.items()):
        have = funds.get(payer) or 0
        if sum(len(purse.judged.members) * purse.worst for purse in purses) <= have:
            result += [purse.judged for purse in purses]
        else:
            result += _one_by_one(purses, table, have, lefts)
    return sorted(result, key=lambda each: (-each.ctx.job.priority, each.members.first)), lefts


class _Purse:
    """A class of jobs and the distinct prices it may have to pay."""

    def __init__(self, judged: JudgedClass, table: OfferTable) -> None:
        self.judged = judged
        self._table = table
        self.worst = self._cost(_dearest_price(judged, table))
        self._costs: list[int] | None = None

    def reserved(self, left: int) -> int | None:
        """The cost (µUSD) of the dearest eligible offer that `left` pays; None if it pays none."""
        if self._costs is None:
            payable = self.judged.eligible & (self._table.price < MAX_PRICE)
            prices = np.unique(self._table.price[payable]).tolist()
            self._costs = [self._cost(price) for price in prices]
        number = bisect_right(self._costs, left)
        return self._costs[number - 1] if number else None

    def _cost(self, price: int) -> int:
        return charge(MicroUSD(price), self.judged.seconds)


def _dearest_price(judged: JudgedClass, table: OfferTable) -> int:
    if not judged.eligible.any():
        return 0
    price = int(table.price[judged.eligible].max())
    return price if price < MAX_PRICE else max(table.offers[i].price for i in np.flatnonzero(judged.eligible))


def _one_by_one(purses: Sequence[_Purse], table: OfferTable, left: int, lefts: Lefts) -> list[JudgedClass]:
    """The classes of one namespace, parted by the dearest offer that each job could reserve."""
    parted: dict[tuple[int, int | None], list[str]] = {}
    queues = [
        [(-purse.judged.ctx.job.priority, uid, i) for uid in purse.judged.members] for i, purse in enumerate(purses)
    ]
    for _, uid, i in merge(*queues):
        purse = purses[i]
        cost = purse.worst if purse.worst <= left else purse.reserved(left)
        if cost != purse.worst:
            lefts[uid] = left
        parted.setdefault((i, cost), []).append(uid)
        left -= cost or 0
    return [_part(purses[i], table, cost, uids) for (i, cost), uids in parted.items()]


def _part(purse: _Purse, table: OfferTable, cost: int | None, members: list[str]) -> JudgedClass:
    part = replace(purse.judged, members=Uids(members))
    if cost == purse.worst:
        return part
    return _limited(part, table, -1 if cost is None else dearest(cost, part.seconds))


def _limited(judged: JudgedClass, table: OfferTable, limit: int | None) -> JudgedClass:
    if limit is None:
        return judged
    eligible = judged.eligible & table.within(limit)
    eligible.flags.writeable = False
    return replace(judged, eligible=eligible)
