"""Who gets which offer: exact for single-GPU jobs, a heuristic around them for gangs; no rule and no reason here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final, NamedTuple

from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.asks import Ask
from fedgpu_operator.placement.book import Book
from fedgpu_operator.placement.flow import place_singles
from fedgpu_operator.placement.gangs import place_gangs

MAX_MIXED: Final = 300
"""Jobs of one priority level up to which gangs are also tried in one greedy order with the level's singles."""


def assign(asks: Sequence[Ask], offers: Sequence[Offer]) -> dict[str, int]:
    """Offer index by uid, for asks sorted by descending priority.

    A priority level that holds gangs begins a block: its gangs first, then the singles of this level and of those
    below it down to the next level that holds gangs. Without gangs all is one block, and the optimum exact.
    """
    book = Book(offers)
    assigned: dict[str, int] = {}
    singles: list[Ask] = []
    for _, level in groupby(asks, key=lambda ask: ask.priority):
        members = list(level)
        peers = [ask for ask in members if ask.is_single]
        gangs = [ask for ask in members if not ask.is_single]
        if gangs:
            assigned |= place_singles(singles, book)
            singles = []
            plan = _best_plan(gangs, peers, book)
            assigned |= plan.placed
            book = plan.book
        singles += peers
    return assigned | place_singles(singles, book)


class _Plan(NamedTuple):
    """Where the gangs of a level go, the book after them, and what that means for the whole level."""

    left_out: int
    cost: int
    placed: dict[str, int]
    book: Book


def _best_plan(gangs: Sequence[Ask], peers: Sequence[Ask], book: Book) -> _Plan:
    """Gangs on their own or in one order with the singles of their level, whichever serves the level better."""
    plans = [_plan(gangs, peers, (), book)]
    if peers and len(gangs) + len(peers) <= MAX_MIXED:
        plans.append(_plan(gangs, peers, peers, book))
    return min(plans, key=lambda plan: (plan.left_out, plan.cost))


def _plan(gangs: Sequence[Ask], peers: Sequence[Ask], beside: Sequence[Ask], book: Book) -> _Plan:
    """Place the gangs while `beside` compete with them; those are taken out again, for flow places them better."""
    mine = book.copy()
    found = place_gangs([*gangs, *beside], mine)
    placed = {ask.uid: found[ask.uid] for ask in gangs if ask.uid in found}
    for ask in beside:
        if ask.uid in found:
            mine.remove(found[ask.uid], ask.uid)
    mine.seal()
    whole = placed | place_singles(peers, mine.copy())
    members = [ask for ask in (*gangs, *peers) if ask.uid in whole]
    cost = sum(dict(ask.options)[whole[ask.uid]] for ask in members)
    return _Plan(len(gangs) + len(peers) - len(members), cost, placed, mine)
