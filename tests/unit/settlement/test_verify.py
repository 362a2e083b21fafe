"""An epoch is judged by its manifest and the chain alone: everything that can be changed in either is found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import AccountState, ChainSnapshot, EpochPlan, EpochState, PairState
from fedgpu_operator.domain.transactions import PostedEpoch
from fedgpu_operator.settlement import build_epoch
from fedgpu_operator.settlement.verify import EpochCheck, EpochOnChain, judge, sound

Address = Callable[[int], str]
Changes = dict[str, Any]
"""Fields of a dataclass by name."""
ESCROW = str(to_checksum_address("0x" + "ee" * 20))
PREV = "0x" + "12" * 32
OTHER = "0x" + "34" * 32
TX = "0x" + "ab" * 32
NOTHING = MicroUSD(0)


@pytest.fixture
def plan(address: Address) -> EpochPlan:
    """Two tenants, two providers: 3.00 and 2.00 owed by the first, 4.00 by the second, of which 1.00 is paid."""
    a, b, p, q = (address(number) for number in (1, 2, 11, 12))
    return build_epoch(
        chain_id=31337,
        escrow=ESCROW,
        seq=4,
        prev_root=PREV,
        period_end=1_700_000_000,
        pairs={(a, p): MicroUSD(3_000_000), (a, q): MicroUSD(2_000_000), (b, p): MicroUSD(4_000_000)},
        debits={a: MicroUSD(5_000_000), b: MicroUSD(3_000_000)},
    )


@pytest.fixture
def books(plan: EpochPlan, address: Address) -> ChainSnapshot:
    """The block of the post: both debits pending, 1.00 of the last pair paid before."""
    a, b, p = address(1), address(2), address(11)

    def account(pending: int) -> AccountState:
        return AccountState(MicroUSD(50), NOTHING, MicroUSD(pending), MicroUSD(10**9))

    return ChainSnapshot(
        chain_id=31337,
        escrow=ESCROW,
        block_number=7,
        block_hash=OTHER,
        timestamp=1_700_000_100,
        seq=5,
        last_epoch=3,
        head_epoch=3,
        head_root=plan.root,
        active_epoch=2,
        active_at=1_700_003_700,
        accounts={a: account(5_000_000), b: account(3_000_000)},
        books={pair: PairState(paid=MicroUSD(1_000_000 if pair == (b, p) else 0)) for pair in plan.pairs},
    )


@pytest.fixture
def shown(plan: EpochPlan, books: ChainSnapshot) -> EpochOnChain:
    """The chain as it looks after an honest post of the plan."""
    state = EpochState(3, plan.root, 1_700_003_700, plan.period_end, plan.total, 2, False)
    posted = PostedEpoch(
        number=3,
        root=plan.root,
        manifest_hash=plan.manifest_hash,
        seq=plan.seq,
        prev_root=plan.prev_root,
        period_end=plan.period_end,
        active_at=1_700_003_700,
        total=plan.total,
        debits=plan.debits,
        skipped=(),
        tx_hash=TX,
        block_number=7,
    )
    return EpochOnChain(31337, ESCROW, posted, state, books)


def failed(verdicts: tuple[EpochCheck, ...]) -> list[str]:
    return [verdict.what for verdict in verdicts if verdict.holds is False]


def text(verdicts: tuple[EpochCheck, ...], what: str) -> str:
    return next(verdict.text for verdict in verdicts if verdict.what == what)


def posted(shown: EpochOnChain, **changes: Any) -> EpochOnChain:
    return dataclasses.replace(shown, posted=dataclasses.replace(shown.posted, **changes))


def test_an_honest_epoch_holds_in_everything(plan: EpochPlan, shown: EpochOnChain) -> None:
    verdicts = judge(plan.manifest, shown)
    assert sound(verdicts)
    assert all(verdict.holds for verdict in verdicts)
    assert {verdict.what for verdict in verdicts} >= {"manifest", "manifest hash", "root", "seq", "debits", "backing"}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"manifest_hash": OTHER}, "manifest hash"),
        ({"seq": 5}, "seq"),
        ({"prev_root": OTHER}, "previous root"),
        ({"root": OTHER}, "root"),
        ({"period_end": 1_700_000_001}, "period end"),
        ({"total": MicroUSD(7_999_999)}, "taken"),
    ],
)
def test_each_thing_that_the_post_says_otherwise_is_found(
    plan: EpochPlan, shown: EpochOnChain, changes: Changes, found: str
) -> None:
    verdicts = judge(plan.manifest, posted(shown, **changes))
    assert failed(verdicts) == [found]
    assert not sound(verdicts)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"root": OTHER}, "root"),
        ({"period_end": 1_700_000_001}, "period end"),
        ({"total": MicroUSD(8_000_001)}, "taken"),
    ],
)
def test_each_thing_that_the_contract_keeps_otherwise_is_found(
    plan: EpochPlan, shown: EpochOnChain, changes: Changes, found: str
) -> None:
    state = dataclasses.replace(shown.state, **changes)
    assert failed(judge(plan.manifest, dataclasses.replace(shown, state=state))) == [found]


@pytest.mark.parametrize("change", [{"chain_id": 1}, {"escrow": "0x" + "Ee" * 20}])
def test_a_manifest_of_another_place_is_found(plan: EpochPlan, shown: EpochOnChain, change: Changes) -> None:
    assert failed(judge(plan.manifest, dataclasses.replace(shown, **change))) == ["place"]


def test_every_difference_in_the_debits_is_named(plan: EpochPlan, shown: EpochOnChain, address: Address) -> None:
    asked = {address(1): MicroUSD(6_000_000), address(3): MicroUSD(1)}
    verdicts = judge(plan.manifest, posted(shown, debits=asked))
    assert failed(verdicts) == ["debits"]
    said = text(verdicts, "debits")
    assert f"{address(1)}: the manifest gives 5.00 USD, the post asked for 6.00 USD".lower() in said.lower()
    assert f"{address(2)}: the manifest gives 3.00 USD, the post asked for none".lower() in said.lower()
    assert f"{address(3)}: the manifest gives none, the post asked for 0.000001 USD".lower() in said.lower()


def test_debits_that_cannot_be_seen_are_not_judged(plan: EpochPlan, shown: EpochOnChain) -> None:
    verdicts = judge(plan.manifest, posted(shown, debits=None))
    assert sound(verdicts)
    assert [verdict.what for verdict in verdicts if verdict.holds is None] == ["debits"]


def test_a_skipped_debit_is_not_taken_and_not_held_against_the_root(
    plan: EpochPlan, shown: EpochOnChain, address: Address
) -> None:
    assert shown.books is not None
    accounts = dict(shown.books.accounts) | {address(2): AccountState(NOTHING, NOTHING, NOTHING, NOTHING)}
    state = dataclasses.replace(shown.state, total=MicroUSD(5_000_000))
    skipping = dataclasses.replace(shown, state=state, books=dataclasses.replace(shown.books, accounts=accounts))
    told = posted(skipping, total=MicroUSD(5_000_000), skipped=(address(2),))
    verdicts = judge(plan.manifest, told)
    assert sound(verdicts)
    assert "1 debits did not fit" in text(verdicts, "taken")
    assert failed(judge(plan.manifest, posted(told, skipped=()))) == ["taken", "backing"]


def test_a_root_that_promises_more_than_is_set_aside_is_found(
    plan: EpochPlan, shown: EpochOnChain, address: Address
) -> None:
    assert shown.books is not None
    light = dataclasses.replace(shown.books.accounts[address(1)], pending=MicroUSD(4_999_999))
    accounts = dict(shown.books.accounts) | {address(1): light}
    over = dataclasses.replace(shown, books=dataclasses.replace(shown.books, accounts=accounts))
    verdicts = judge(plan.manifest, over)
    assert failed(verdicts) == ["backing"]
    assert "5.00 USD promised, 4.999999 USD set aside" in text(verdicts, "backing")
    held = dataclasses.replace(light, held=MicroUSD(1))
    accounts[address(1)] = held
    assert sound(
        judge(plan.manifest, dataclasses.replace(over, books=dataclasses.replace(shown.books, accounts=accounts)))
    )


def test_a_line_that_is_paid_beyond_itself_lends_nothing_to_another(
    plan: EpochPlan, shown: EpochOnChain, address: Address
) -> None:
    assert shown.books is not None
    a, q = address(1), address(12)
    account = dataclasses.replace(shown.books.accounts[a], pending=MicroUSD(2_999_999))
    books = dataclasses.replace(
        shown.books,
        accounts=dict(shown.books.accounts) | {a: account},
        books=dict(shown.books.books) | {(a, q): PairState(paid=MicroUSD(3_000_000))},
    )
    verdicts = judge(plan.manifest, dataclasses.replace(shown, books=books))
    assert failed(verdicts) == ["backing"]
    assert "3.00 USD promised, 2.999999 USD set aside" in text(verdicts, "backing")


def test_without_the_state_of_that_block_the_backing_is_not_judged(plan: EpochPlan, shown: EpochOnChain) -> None:
    verdicts = judge(plan.manifest, dataclasses.replace(shown, books=None))
    assert sound(verdicts)
    assert [verdict.what for verdict in verdicts if verdict.holds is None] == ["backing"]


@pytest.mark.parametrize(
    "change",
    [
        (b'"3000000"', b'"3000001"'),
        (b'"seq":4', b'"seq": 4'),
        (b'"seq":4', b'"seq":5'),
        (b'"chainId":31337', b'"chainId":"31337"'),
        (b'"periodEnd":1700000000', b'"periodEnd":"1700000000"'),
        (b'"periodEnd":1700000000', b'"periodEnd":1700000000.0'),
        (b'"seq":4', b'"seq":true'),
    ],
)
def test_a_manifest_changed_in_any_place_is_found(
    plan: EpochPlan, shown: EpochOnChain, change: tuple[bytes, bytes]
) -> None:
    changed = plan.manifest.replace(*change, 1)
    assert changed != plan.manifest
    assert "manifest hash" in failed(judge(changed, shown))


@pytest.mark.parametrize("noise", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"chainId":1}', b"1" * 10_000])
def test_what_is_no_manifest_is_refused_in_words(plan: EpochPlan, shown: EpochOnChain, noise: bytes) -> None:
    """Even where its hash is the posted one: then the settler published something that pays nobody provably."""
    told = posted(shown, manifest_hash="0x" + keccak(noise).hex())
    verdicts = judge(noise, told)
    assert failed(verdicts) == ["manifest"]
    assert [verdict.what for verdict in verdicts] == ["manifest", "manifest hash"]
