"""A few offers for all classes at once, against the same asked row by row."""

from __future__ import annotations

import numpy as np
import pytest

from fedgpu_operator.placement.flow import block
from fedgpu_operator.placement.flow.costs import NEVER, Costs
from fedgpu_operator.placement.flow.market import Pricing
from fedgpu_operator.placement.flow.session import Block


@pytest.mark.parametrize("seed", range(40))
def test_it_says_what_pricing_says_of_these_offers(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "CELLS", 50)
    rng = np.random.default_rng(seed)
    classes, offers = int(rng.integers(1, 30)), int(rng.integers(1, 60))
    # Few distinct prices make ties, more than are taken.
    rows = [rng.integers(0, rng.choice((3, 1000)), offers) for _ in range(classes)]
    masks = [rng.random(offers) < rng.choice((0.05, 0.9)) for _ in range(3)]
    costs = Costs(
        rng.integers(1, 5, classes).tolist(),
        [rows[i // 2] for i in range(classes)],
        [masks[i % 3] for i in range(classes)],
    )
    few = np.flatnonzero(rng.random(offers) < rng.choice((0.0, 0.2, 1.0)))
    everyone = np.arange(classes)
    slow = Pricing(costs.among(everyone, few), everyone, np.ones(len(few), dtype=np.bool_))
    fast = Block(costs, few)
    assert fast.highest == max((int(row[few].max(initial=0)) for row in costs.price), default=0)
    best = np.where(rng.random(classes) < 0.2, NEVER, rng.integers(0, 2000, classes))
    assert fast.bids(best).tolist() == slow.bids(best).tolist()
    asking, prices = np.flatnonzero(rng.random(classes) < 0.7), rng.integers(0, 100, len(few))
    some = Pricing(slow.costs, asking, slow.open)
    found = fast.nearest(asking, prices, 4)
    known = some.below(prices, np.full(classes, NEVER), np.full(classes, 4))
    assert (found.rows.tolist(), found.offers.tolist()) == (known.rows.tolist(), few[known.offers].tolist())
