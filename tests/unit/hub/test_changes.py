"""What is remembered of objects that did not change counts as if all were looked at."""

from __future__ import annotations

from collections import Counter
from random import Random

from fedgpu_operator.hub.services.changes import ObjectCounts


class Thing:
    """Equal to every other: only its identity says which one it is."""

    def __init__(self, colour: str) -> None:
        self.colour = colour

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing)

    def __hash__(self) -> int:
        return 0


def test_a_tally_counts_all_and_asks_only_those_that_it_does_not_know() -> None:
    asked: list[Thing] = []

    def says(thing: Thing) -> str:
        asked.append(thing)
        return thing.colour

    tally, chance, things = ObjectCounts(says), Random(1), list[Thing]()
    for _ in range(50):
        things = [each for each in things if chance.random() < 0.8]
        new = [Thing(chance.choice(["red", "green", "blue"])) for _ in range(chance.randint(0, 3))]
        things += new
        chance.shuffle(things)
        asked.clear()
        assert tally.look(things) == Counter(each.colour for each in things)
        assert {id(each) for each in asked} == {id(each) for each in new}
    assert tally.look([]) == {}, "no count of nothing is left behind"
