"""Fees stay under the cap whatever the chain asks, and a replacement is always one that nodes take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.domain.transactions import Fees, FeeView
from fedgpu_operator.errors import Refusal
from fedgpu_operator.settlement.fees import (
    NonceAction,
    NonceState,
    bumped,
    cost_bound,
    first_fees,
    lowered,
    next_action,
    underpriced,
)

GWEI = 10**9
WEI = st.integers(0, 10**15)
CAPS = st.integers(1, 10**15)
VIEWS = st.builds(FeeView, WEI, WEI)
OFFERS = st.builds(lambda max_fee, share: Fees(max_fee, max_fee * share // 100), WEI, st.integers(0, 100))


def replaces(new: Fees, old: Fees) -> bool:
    """geth's rule: both strictly higher, and both by at least a tenth."""
    return all(
        after > before and after * 10 >= before * 11
        for after, before in ((new.max_fee, old.max_fee), (new.tip, old.tip))
    )


def test_the_first_offer_survives_full_blocks() -> None:
    assert first_fees(FeeView(10 * GWEI, 2 * GWEI), 500 * GWEI) == Fees(22 * GWEI, 2 * GWEI)


def test_a_cap_below_the_base_fee_is_offered_and_waits() -> None:
    view = FeeView(1000 * GWEI, 2 * GWEI)
    fees = first_fees(view, 500 * GWEI)
    assert fees == Fees(500 * GWEI, 2 * GWEI)
    assert underpriced(fees, view)
    assert bumped(fees, view, 500 * GWEI) is None


def test_a_base_fee_that_rises_a_hundredfold_is_followed_up_to_the_cap() -> None:
    cap = 300 * GWEI
    fees = first_fees(FeeView(GWEI, GWEI), cap)
    risen = FeeView(100 * GWEI, GWEI)
    assert underpriced(fees, risen)
    again = bumped(fees, risen, cap)
    assert again == Fees(201 * GWEI, 1_125_000_000)
    assert not underpriced(again, risen)


def test_a_bump_is_an_eighth_where_the_chain_asks_no_more() -> None:
    assert bumped(Fees(800, 80), FeeView(1, 1), 10_000) == Fees(900, 90)
    assert bumped(Fees(900, 80), FeeView(1, 1), 1_013) == Fees(1_013, 90)
    assert bumped(Fees(900, 80), FeeView(1, 1), 1_012) is None


def test_a_tip_that_alone_is_too_low_does_not_make_an_offer_underpriced() -> None:
    assert not underpriced(Fees(100, 1), FeeView(90, 50))
    assert underpriced(Fees(100, 50), FeeView(90, 50))
    assert not underpriced(Fees(100, 50), FeeView(90, 5)), "nobody asks for its whole tip"


def test_a_cap_of_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="less than 1 wei"):
        first_fees(FeeView(1, 1), 0)


def test_the_cost_bound_is_the_whole_gas_at_the_highest_price() -> None:
    assert cost_bound(100_000, Fees(30 * GWEI, GWEI)) == 3 * 10**15


@given(VIEWS, CAPS)
def test_no_first_offer_passes_the_cap(view: FeeView, cap: int) -> None:
    fees = first_fees(view, cap)
    assert 0 <= fees.tip <= fees.max_fee <= cap


@given(OFFERS, VIEWS, CAPS)
def test_a_bump_replaces_and_never_passes_the_cap(fees: Fees, view: FeeView, cap: int) -> None:
    new = bumped(fees, view, cap)
    if new is None:
        assert -(-fees.max_fee * 9 // 8) > cap or fees.max_fee + 1 > cap, "the least bump was affordable"
        return
    assert replaces(new, fees)
    assert new.tip <= new.max_fee <= cap


@given(VIEWS, CAPS)
def test_bumps_end(view: FeeView, cap: int) -> None:
    fees: Fees | None = first_fees(view, cap)
    for _ in range(400):
        assert fees is not None
        fees = bumped(fees, view, cap)
        if fees is None:
            return
    raise AssertionError("an offer was raised for ever")


@given(OFFERS, st.none() | OFFERS, VIEWS)
def test_a_lower_offer_suits_the_block_and_replaces_what_a_node_has(
    fees: Fees, taken: Fees | None, view: FeeView
) -> None:
    lower = lowered(fees, taken, view)
    if lower is not None:
        assert lower.tip <= lower.max_fee < fees.max_fee
        assert not underpriced(lower, view)
        assert taken is None or replaces(lower, taken)


@given(OFFERS, st.none() | OFFERS, VIEWS, CAPS, st.integers(1, 10**15))
def test_a_nodes_limit_is_gone_under_wherever_an_offer_below_it_would_be_mined(
    fees: Fees, taken: Fees | None, view: FeeView, cap: int, limit: int
) -> None:
    """Offers above `limit` are refused for it; a replacement and the present block's due bound it from below."""
    move = NonceAction.REPRICE
    for _ in range(4):
        if fees.max_fee <= limit:
            return
        move, offer = next_action(NonceState(fees, Refusal.FEE_CAPPED, taken), view, cap)
        if move is not NonceAction.REPRICE:
            break
        assert taken is None or replaces(offer, taken)
        assert not underpriced(offer, view)
        fees = offer
    assert move is NonceAction.SHRINK, "at most three offers"
    tip = fees.tip if taken is None else max(fees.tip, -(-taken.tip * 9 // 8), taken.tip + 1)
    least = view.base_fee + min(tip, view.tip)
    if taken is not None:
        least = max(least, -(-taken.max_fee * 9 // 8), taken.max_fee + 1)
    assert limit < least or fees.max_fee - limit <= view.base_fee / 32, "nothing that could be mined was left out"


def test_a_raise_above_a_nodes_limit_comes_down_to_what_replaces_and_is_mined() -> None:
    """In a pool at 55, base fee 60, and the node takes at most 1 ether for 8 M gas: 125 a gas; then for 9 M: 111."""
    view, taken = FeeView(60 * GWEI, GWEI), Fees(55 * GWEI, GWEI)
    move, raised = next_action(NonceState(taken, taken=taken), view, 500 * GWEI)
    assert (move, raised.max_fee) == (NonceAction.REPRICE, 121 * GWEI)
    move, lower = next_action(NonceState(raised, Refusal.FEE_CAPPED, taken), view, 500 * GWEI)
    assert (move, lower) == (NonceAction.REPRICE, Fees(68_500_000_000, 1_125_000_000))
    move, least = next_action(NonceState(lower, Refusal.FEE_CAPPED, taken), view, 500 * GWEI)
    assert (move, least) == (NonceAction.REPRICE, Fees(61_875_000_000, 1_125_000_000)), "9/8 of what the node has"
    assert next_action(NonceState(least, Refusal.FEE_CAPPED, taken), view, 500 * GWEI)[0] is NonceAction.SHRINK


@given(OFFERS, VIEWS, CAPS, st.none() | st.integers(1, 10**15))
def test_an_offer_that_nodes_call_too_low_rises_to_the_cap_and_stops(
    fees: Fees, view: FeeView, cap: int, capped: int | None
) -> None:
    fees = Fees(min(fees.max_fee, cap), min(fees.tip, cap))
    if capped is not None and fees.max_fee >= capped:
        return
    for _ in range(600):
        move, offer = next_action(NonceState(fees, Refusal.UNDERPRICED, capped=capped), view, cap)
        if move is NonceAction.KEEP:
            break
        assert fees.max_fee <= offer.max_fee <= cap
        assert (offer.max_fee, offer.tip) > (fees.max_fee, fees.tip)
        assert offer.tip <= offer.max_fee
        assert capped is None or offer.max_fee < capped
        fees = offer
    assert move is NonceAction.KEEP
    assert capped is not None or fees == Fees(cap, cap)


def test_a_node_that_wants_a_tip_and_suggests_none_gets_one_and_the_maximum_stays() -> None:
    fees, view, wanted = Fees(20 * GWEI, 0), FeeView(10 * GWEI, 0), 2 * GWEI
    for _ in range(10):
        move, fees = next_action(NonceState(fees, Refusal.UNDERPRICED), view, 500 * GWEI)
        assert move is NonceAction.REPRICE
        if fees.tip >= wanted:
            break
    assert (fees.max_fee, wanted <= fees.tip < 2 * wanted) == (20 * GWEI, True)


@pytest.mark.parametrize("taken", [None, Fees(20 * GWEI, GWEI)])
def test_more_gas_is_offered_as_much_as_before_unless_a_node_has_a_version(taken: Fees | None) -> None:
    fees, view = Fees(21 * GWEI, GWEI), FeeView(10 * GWEI, GWEI)
    move, offer = next_action(NonceState(fees, Refusal.GAS_TOO_LOW, taken), view, 500 * GWEI)
    assert move is NonceAction.RESIZE
    assert offer == fees if taken is None else replaces(offer, taken)


DEAF = [why for why in Refusal if why is not Refusal.UNDERPRICED]


@given(OFFERS, st.none() | OFFERS, VIEWS, CAPS, st.sampled_from(DEAF), st.booleans())
def test_no_call_pays_more_for_a_refusal_that_a_higher_fee_cannot_end(
    fees: Fees, taken: Fees | None, view: FeeView, cap: int, why: Refusal, waited: bool
) -> None:
    move, offer = next_action(NonceState(fees, why, taken, waited), view, cap)
    assert move is not NonceAction.REPRICE or offer.max_fee < fees.max_fee
    assert move is not NonceAction.RESIZE or taken is not None or offer == fees
    assert (move is NonceAction.SHRINK) <= (why in (Refusal.FEE_CAPPED, Refusal.TOO_LARGE))


@given(OFFERS, st.none() | OFFERS, VIEWS, CAPS, st.none() | st.sampled_from(list(Refusal)), st.booleans())
def test_no_next_offer_passes_the_cap(
    fees: Fees, taken: Fees | None, view: FeeView, cap: int, why: Refusal | None, waited: bool
) -> None:
    move, offer = next_action(NonceState(fees, why, taken, waited), view, cap)
    assert move is NonceAction.KEEP or offer.max_fee <= max(cap, fees.max_fee)
    assert move is NonceAction.KEEP or offer.tip <= offer.max_fee


def test_a_fee_rises_where_nothing_but_inclusion_is_missing() -> None:
    fees, view = Fees(22 * GWEI, GWEI), FeeView(10 * GWEI, GWEI)
    raised = (NonceAction.REPRICE, Fees(24_750_000_000, 1_125_000_000))
    assert next_action(NonceState(fees, taken=fees), view, 100 * GWEI) == (NonceAction.KEEP, fees)
    assert next_action(NonceState(fees, taken=fees, waited=True), view, 100 * GWEI) == raised
    tipped = (NonceAction.REPRICE, Fees(22 * GWEI, 2 * GWEI))
    assert next_action(NonceState(fees, Refusal.UNDERPRICED), view, 100 * GWEI) == tipped, "covers twice the base fee"
    risen = FeeView(30 * GWEI, GWEI)
    assert next_action(NonceState(fees, taken=fees), risen, 100 * GWEI) == (
        NonceAction.REPRICE,
        Fees(61 * GWEI, 1_125_000_000),
    )
    assert next_action(NonceState(fees, Refusal.POOR), risen, 100 * GWEI) == (NonceAction.KEEP, fees)


def test_a_smaller_call_offers_more_only_than_what_a_node_has() -> None:
    view = FeeView(10 * GWEI, GWEI)
    stuck = NonceState(Fees(500 * GWEI, GWEI), Refusal.TOO_LARGE)
    assert next_action(stuck, view, 500 * GWEI) == (NonceAction.SHRINK, Fees(21 * GWEI, GWEI))
    held = NonceState(Fees(40 * GWEI, GWEI), Refusal.TOO_LARGE, taken=Fees(40 * GWEI, GWEI))
    assert next_action(held, view, 500 * GWEI) == (NonceAction.SHRINK, Fees(45 * GWEI, 1_125_000_000))
