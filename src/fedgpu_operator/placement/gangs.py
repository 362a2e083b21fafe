"""Jobs of several GPUs: greedy by regret, then repair; a heuristic with stated limits, lawful and never oversold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedgpu_operator.placement.asks import Ask
from fedgpu_operator.placement.book import Book
from fedgpu_operator.placement.judge import Option

MAX_TRIALS: Final = 5_000
"""Moves that one repair tries at most (some tenths of a second), so that a pass ends in bounded time."""


def place_gangs(asks: Sequence[Ask], book: Book) -> dict[str, int]:
    """Offer index by job uid for one priority level, and the GPUs sold in `book`.

    First the job that would lose most by not getting its best offer (one that has no second offer before all
    others), until none fits; then each job left out may push one placed job to another offer.
    """
    by_uid = {ask.uid: ask for ask in asks}
    cheapest_first = {
        ask.uid: tuple(sorted(ask.options, key=lambda option: (option.cost, option.offer))) for ask in asks
    }
    placed = _greedy(by_uid, cheapest_first, book)
    _Repair(by_uid, cheapest_first, book, placed).run()
    return placed


Options = dict[str, tuple[Option, ...]]


def _greedy(asks: dict[str, Ask], options: Options, book: Book) -> dict[str, int]:
    placed: dict[str, int] = {}
    waiting = sorted(asks)
    # Capacity only shrinks here, so a job's two best offers stand until their provider sells something.
    best_two = {uid: _best_two(asks[uid], options[uid], book) for uid in waiting}
    while waiting := [uid for uid in waiting if best_two[uid]]:
        uid = min(waiting, key=lambda each: _urgency(asks[each], best_two[each]))
        offer = best_two[uid][0].offer
        book.add(offer, asks[uid].load)
        placed[uid] = offer
        waiting.remove(uid)
        touched = book.provider[offer]
        for each in waiting:
            if any(book.provider[option.offer] == touched for option in best_two[each]):
                best_two[each] = _best_two(asks[each], options[each], book)
    return placed


def _best_two(ask: Ask, options: tuple[Option, ...], book: Book) -> list[Option]:
    found: list[Option] = []
    for option in options:
        if book.fits(option.offer, ask.load):
            found.append(option)
            if len(found) == 2:
                break
    return found


def _urgency(ask: Ask, best_two: list[Option]) -> tuple[bool, int, int, str]:
    """Sorts the most urgent first: no second offer, then the largest regret, then the largest job, then uid."""
    regret = best_two[1].cost - best_two[0].cost if len(best_two) == 2 else 0
    return len(best_two) == 2, -regret, -ask.load.gpus * ask.load.replicas, ask.uid


class _Repair:
    """Local moves on the book of one priority level."""

    def __init__(self, asks: dict[str, Ask], options: Options, book: Book, placed: dict[str, int]) -> None:
        self._asks = asks
        self._options = options
        self._book = book
        self._placed = placed
        self._trials = MAX_TRIALS

    def run(self) -> None:
        """Place more jobs, each at its cheapest offer that can be made to hold it."""
        for uid in sorted(self._asks):
            if uid not in self._placed:
                self._insert(uid)

    def _insert(self, uid: str) -> None:
        for option in self._options[uid]:
            if self._book.add(option.offer, self._asks[uid].load, rearrange=True):
                self._placed[uid] = option.offer
                return
        for option in self._options[uid]:
            if any(self._push(uid, option.offer, other) for other in self._neighbours(option.offer)):
                return

    def _neighbours(self, offer: int) -> list[str]:
        """The placed jobs that could make room: those at the offer, or at its provider where slots are short."""
        short = self._book.slots_left(offer) == 0
        home = self._book.provider[offer]
        return [
            uid
            for uid, there in sorted(self._placed.items())
            if there == offer or (short and self._book.provider[there] == home)
        ]

    def _push(self, uid: str, offer: int, other: str) -> bool:
        """Place `uid` at `offer` by moving `other` to another of its offers; all or nothing."""
        mark, there = self._book.mark(), self._placed[other]
        if self._trials <= 0 or not self._book.remove(there, other):
            return False
        if self._book.add(offer, self._asks[uid].load, rearrange=True):
            for option in self._options[other]:
                self._trials -= 1
                if option.offer != there and self._book.add(option.offer, self._asks[other].load, rearrange=True):
                    self._placed[uid], self._placed[other] = offer, option.offer
                    return True
        self._trials -= 1
        self._book.reset(mark)
        return False
