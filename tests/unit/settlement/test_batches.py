"""Claims are divided so that each fits a transaction and a block, whatever lines and proofs they have."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.adapters.chain import calls
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Claim, Line
from fedgpu_operator.settlement.fees import (
    AIM,
    MAX_DATA,
    MAX_TX_GAS,
    Room,
    batches,
    claim_limit,
    data_size,
    fewer,
    first_batch,
    gas_cap,
    share_that_fits,
)

ESCROW = "0x" + "e5" * 20


def leaf(lines: int = 1, depth: int = 0, number: int = 1) -> Claim:
    tenants = tuple(Line(f"0x{count:040x}", MicroUSD(1)) for count in range(1, lines + 1))
    return Claim(f"0x{number:040x}", tenants, ("0x" + "ab" * 32,) * depth)


LEAVES = st.lists(st.builds(leaf, st.integers(1, 64), st.integers(0, 20)), max_size=60)


def test_no_transaction_has_more_than_eip_7825_allows_nor_more_than_half_a_block() -> None:
    assert gas_cap(60_000_000) == MAX_TX_GAS == 16_777_216
    assert gas_cap(2**50) == MAX_TX_GAS, "Arbitrum names a limit that no block reaches"
    assert gas_cap(30_000_000) == 15_000_000


@given(LEAVES, st.integers(100_000, 20_000_000), st.fractions(Fraction(1, 4), 3))
def test_every_leaf_is_in_one_batch_in_order_and_batches_of_several_fit(
    leaves: list[Claim], gas: int, scale: Fraction
) -> None:
    room = Room(gas, scale=scale)
    made = list(batches(leaves, room))
    assert [each for batch in made for each in batch] == leaves
    for batch in made:
        assert len(batch) == 1 or claim_limit(batch) * scale <= gas * AIM + 1
        assert len(batch) == 1 or data_size(calls.claim(ESCROW, 1, batch)) <= MAX_DATA


@pytest.mark.parametrize(("count", "depth", "transactions"), [(210, 8, 2), (1_000, 10, 7), (5_000, 13, 38)])
def test_the_lines_of_many_providers_go_into_few_claims(count: int, depth: int, transactions: int) -> None:
    leaves = [leaf(1, depth, number) for number in range(count)]
    made = list(batches(leaves, Room(MAX_TX_GAS)))
    assert len(made) == transactions
    assert max(claim_limit(batch) for batch in made) < MAX_TX_GAS


def test_one_leaf_of_as_many_lines_as_there_may_be_always_fits() -> None:
    fullest = leaf(64, 32)
    assert claim_limit([fullest]) < gas_cap(8_000_000)
    assert data_size(calls.claim(ESCROW, 1, [fullest])) < MAX_DATA
    assert first_batch([fullest, fullest], Room(1)) == [fullest], "it is sent, and not kept back for ever"


def test_what_was_learnt_of_a_claim_sizes_the_next_one() -> None:
    leaves = [leaf(number=number) for number in range(400)]
    cheap, dear = (len(first_batch(leaves, Room(5_000_000, scale=Fraction(*scale)))) for scale in ((1, 2), (2, 1)))
    assert dear * 3 < cheap


@given(st.integers(0, 200), st.integers(1, 10**9), st.integers(21_000, 10**8))
def test_fewer_is_less_and_ends(count: int, gas: int, cap: int) -> None:
    less = fewer(range(count), share_that_fits(gas, Room(cap)))
    assert less == list(range(len(less)))
    assert len(less) < max(1, count)
    assert bool(less) == (count > 1)


def test_a_call_that_is_too_large_by_its_gas_is_cut_in_proportion() -> None:
    assert share_that_fits(2_000_000, Room(1_000_000)) == AIM / 2
    assert share_that_fits(None, Room(1_000_000)) == Fraction(1, 2), "no node could tell its gas"
    assert share_that_fits(500_000, Room(1_000_000)) == Fraction(1, 2), "something else stands against it"
