"""What the money verbs compute and show: payable sums, times, values for the chart; no chain is asked."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime

import pytest
import typer
import yaml
from eth_utils.crypto import keccak

from fedgpu_operator.adapters.chain import Periods
from fedgpu_operator.adapters.chain.history import Earnings
from fedgpu_operator.cli.chain import PeriodOptions, RoleOptions, helm_values, period, periods_of, roles_of
from fedgpu_operator.cli.common import duration_text, usd
from fedgpu_operator.cli.disputes import ZERO, OpenCases, cases_document
from fedgpu_operator.cli.ledger import judge_anchor
from fedgpu_operator.cli.payouts import ProviderBooks, due_leaves, payout_row
from fedgpu_operator.cli.settle import EscrowView, chain_of, rows_of
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import (
    AccountState,
    ChainSnapshot,
    DisputeState,
    Epoch,
    EpochDraft,
    EpochStage,
    EpochState,
    ExitState,
    PairState,
)
from fedgpu_operator.domain.terms import EscrowPeriods, EscrowTerms
from fedgpu_operator.domain.transactions import PostedEpoch
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.settlement import build_epoch

ROOT, NONE = "0x" + "12" * 32, MicroUSD(0)
A, B, P, Q = (f"0x{number:040x}" for number in (1, 2, 3, 4))
PERIODS = EscrowPeriods(challenge=3600, notice=9, ruling=7200, exit_after=3600, longest_epoch=3600)
TERMS = EscrowTerms(A, "tUSD", 6, 1, A, PERIODS)
CHAIN = ChainSnapshot(
    chain_id=1,
    escrow=Q,
    block_number=7,
    block_hash=ROOT,
    timestamp=1_700_000_000,
    seq=5,
    last_epoch=3,
    head_epoch=3,
    head_root=ROOT,
    active_epoch=2,
    active_at=1_600_001_000,
    accounts={A: AccountState(NONE, MicroUSD(5_000_000), NONE, NONE), B: AccountState(NONE, NONE, NONE, NONE)},
    books={
        (A, P): PairState(paid=MicroUSD(1_000_000), reserved=MicroUSD(500_000)),
        (B, P): PairState(paid=MicroUSD(4_000_000), deducted=MicroUSD(250_000)),
    },
    clock=1_600_000_000,
)
"""A contract that was once paused for 100 million seconds: its clock is that much behind."""


def payout(
    active: dict[tuple[str, str], int] | None, newest: dict[tuple[str, str], int] | None
) -> dict[str, str | None]:
    def money(lines: dict[tuple[str, str], int] | None) -> dict[tuple[str, str], MicroUSD] | None:
        return None if lines is None else {pair: MicroUSD(total) for pair, total in lines.items()}

    standing = Earnings(P, P, Q, MicroUSD(30_000))
    row = payout_row(ProviderBooks("owner", standing, CHAIN, money(active), money(newest)))
    return {name: row[name] for name in ("paid", "payable", "inWindow", "reserved", "deducted", "owed")}


def test_payouts_count_what_a_claim_would_pay_and_no_more() -> None:
    row = payout({(A, P): 3_000_000, (B, P): 9_000_000}, {(A, P): 3_500_000, (B, P): 9_000_000, (A, Q): 10**9})
    assert row == {
        "paid": "5.00",
        "payable": "1.50",  # 1.50 of A; of B nothing, since nothing of its money is set aside
        "inWindow": "0.50",
        "reserved": "0.50",
        "deducted": "0.25",
        "owed": "0.03",
    }


def test_a_claim_is_capped_by_the_tenants_money_that_is_set_aside() -> None:
    assert payout({(A, P): 90_000_000}, {})["payable"] == "5.00"
    assert payout({(A, P): 1_200_000}, {})["payable"] == "0.00", "less than what is paid or held already"


def test_without_a_manifest_what_waits_is_unknown_and_not_nothing() -> None:
    row = payout(None, None)
    assert (row["payable"], row["inWindow"], row["paid"]) == (None, None, "5.00")


def test_only_leaves_that_pay_are_claimed() -> None:
    plan = build_epoch(
        chain_id=1,
        escrow=Q,
        seq=0,
        prev_root=ROOT,
        period_end=0,
        pairs={(A, P): MicroUSD(3_000_000), (B, P): MicroUSD(5_000_000), (A, Q): MicroUSD(7)},
        debits={},
    )
    books = {**CHAIN.books, (A, Q): PairState(paid=MicroUSD(7))}
    chain = dataclasses.replace(CHAIN, books=books)
    assert [leaf.provider for leaf in due_leaves(plan, chain, set())] == [P]
    assert due_leaves(plan, chain, {Q}) == []


def dispute(clock: int, *, ruled: bool = False) -> dict[str, object]:
    open_one = DisputeState(3, A, ZERO, MicroUSD(10), MicroUSD(1), NONE, deadline=1_600_010_000, ruled=ruled)
    chain = dataclasses.replace(CHAIN, clock=clock)
    found: dict[str, object] = cases_document(OpenCases(chain, TERMS, (open_one,), ()))["disputes"][0]
    return found


def test_a_dispute_tells_what_can_happen_until_when_in_real_time() -> None:
    early = dispute(1_600_000_000)
    assert (early["provider"], early["deadline"]) == (None, "2023-11-15T01:00:00Z")
    assert early["next"] == "answer until 2023-11-15T00:00:00Z", "half the ruling time before the deadline"
    assert dispute(1_600_006_400)["next"] == "ruling"
    assert dispute(1_600_010_000)["next"] == "close"
    assert dispute(1_600_000_000, ruled=True)["next"] == "close"


def test_an_exit_tells_when_it_is_due() -> None:
    def leaving(clock: int, *, disputed: bool, ruled: bool = False) -> tuple[str, str]:
        exits = (ExitState(A, P, MicroUSD(10), 1_600_001_000, disputed, ruled),)
        found = cases_document(OpenCases(dataclasses.replace(CHAIN, clock=clock), TERMS, (), exits))["exits"][0]
        return found["next"], found["due"]

    assert leaving(1_600_000_000, disputed=False) == ("wait, or dispute", "2023-11-14T22:30:00Z")
    assert leaving(1_600_001_000, disputed=False)[0] == "finish"
    assert leaving(1_600_001_000, disputed=True) == ("ruling", "2023-11-15T00:13:20Z")
    assert leaving(1_600_001_000, disputed=True, ruled=True)[0] == "finish"


def test_status_places_each_epoch_and_ends_the_window_in_real_time() -> None:
    epochs = tuple(EpochState(n, f"0x{n:064x}", 0, 1_700_000_000, MicroUSD(n), n - 1, n == 1) for n in (1, 2, 3))
    sighted = EscrowView(dataclasses.replace(CHAIN, head_root=epochs[2].root), epochs, (), ())
    assert [(row["epoch"], row["onChain"]) for row in rows_of([], sighted)] == [
        (1, "Cancelled"),
        (2, "Active"),
        (3, "InWindow"),
    ]
    assert chain_of(sighted)["windowEnds"] == "2023-11-14T22:30:00Z"
    paused = dataclasses.replace(sighted, chain=dataclasses.replace(CHAIN, paused=True))
    assert chain_of(paused)["windowEnds"] is None, "while the clock stands still nobody knows"
    newer = dataclasses.replace(sighted, chain=dataclasses.replace(CHAIN, active_epoch=3))
    assert [row["onChain"] for row in rows_of([], newer)] == ["Cancelled", "Superseded", "Active"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (3600, "1h"), (90_061, "1d 1h"), (360_000, "4d 4h"), (60, "1m")]
)
def test_lengths_of_time_are_told_in_their_two_largest_units(seconds: int, text: str) -> None:
    assert duration_text(seconds) == text


def test_lengths_of_time_and_money_are_read_strictly() -> None:
    assert [period(text) for text in ("90s", "1h30m", "7d", "1d12h")] == [90, 5400, 604_800, 129_600]
    for wrong in ("", "5", "1h1d", "-1s", "1.5h", "0s", "400d", " 1h", "1 h", "١h"):
        with pytest.raises(typer.BadParameter):
            period(wrong)
    assert usd("12.5") == 12_500_000
    for wrong in ("", "-1", "1,5", "1e3", "0.0000001", "$5"):
        with pytest.raises(typer.BadParameter):
            usd(wrong)


def roles(**changes: str) -> RoleOptions:
    settler, meter, arbiter, guardian = (
        changes.get(name, f"0x{number:040x}")
        for number, name in enumerate(("settler", "meter", "arbiter", "guardian"), 1)
    )
    return RoleOptions(settler, meter, arbiter, guardian)


def test_roles_default_to_the_deployer_as_owner_and_the_owner_as_reserve() -> None:
    found = roles_of(roles(), Q)
    assert (found.owners, found.reserve) == ((Q,), Q)
    named = roles_of(dataclasses.replace(roles(), owner=[A, B]), Q)
    assert (named.owners, named.reserve) == ((A, B), A)


@pytest.mark.parametrize(
    ("one", "other"), [("settler", "meter"), ("settler", "arbiter"), ("settler", "guardian"), ("meter", "arbiter")]
)
def test_one_key_cannot_hold_roles_that_watch_each_other(one: str, other: str) -> None:
    same = "0x" + "ab" * 20
    with pytest.raises(ConfigurationError, match=f"--{one} and --{other}"):
        roles_of(roles(**{one: same, other: same}), Q)


def test_periods_are_as_given_and_never_below_what_is_safe() -> None:
    assert periods_of(PeriodOptions()) == Periods()
    assert periods_of(PeriodOptions(challenge=60, timelock_delay=70)) == Periods(challenge=60, timelock=70)
    least = Periods().least_notice
    assert periods_of(PeriodOptions(notice=least)).notice == least
    with pytest.raises(ConfigurationError, match="--notice"):
        periods_of(PeriodOptions(notice=least - 1))
    with pytest.raises(ConfigurationError, match="--unbonding"):
        periods_of(PeriodOptions(unbonding=Periods().least_unbonding - 1))


@pytest.mark.parametrize(
    ("rpc", "secret"),
    [
        ("https://rpc.example.com", False),
        ("https://rpc.example.com/,http://10.0.0.1:8545", False),
        ("https://rpc.example.com/v3/abc", True),
        ("https://user:word@rpc.example.com", True),
        ("https://a.example.com,https://b.example.com/?key=abc", True),
    ],
)
def test_values_for_the_chart_hold_no_key(rpc: str, secret: bool) -> None:
    document = {
        "chainID": 1,
        "block": 17,
        "contracts": {"escrow": Q, "batch": P},
        "periods": {"longest_epoch": 1800},
        "roles": {"settler": A, "meter": B},
    }
    text = helm_values(document, rpc)
    chain = yaml.safe_load(text)["chain"]
    assert ("rpcURLSecret" in chain, "rpcURL" in chain) == (secret, not secret)
    assert (chain["epochSeconds"], chain["maxEpochSeconds"]) == (1800, 1800)
    assert chain["firstBlock"] == 17, "nothing of the escrow is looked for before"
    assert chain["batchAddress"] == P
    assert not any(word in text for word in ("abc", "word")) if secret else chain["rpcURL"] == rpc


def anchor(manifest: bytes, head: str, posted_hash: str | None) -> bool | None:
    draft = EpochDraft(0, ROOT, ROOT, manifest, ROOT, datetime(2026, 1, 1, tzinfo=UTC), NONE, (), (), head)
    epoch = Epoch(9, draft, EpochStage.PAID, draft.period_end, chain_epoch=4)
    if posted_hash is None:
        return judge_anchor(epoch, None).holds
    posted = PostedEpoch(4, ROOT, posted_hash, 0, ROOT, 0, 0, NONE, {}, (), ROOT, 7)
    return judge_anchor(epoch, posted).holds


def test_the_books_are_held_to_the_manifest_that_was_posted() -> None:
    head = "receipts:0:" + "ab" * 32
    manifest = json.dumps({"ledger": head}).encode()
    right = "0x" + keccak(manifest).hex()
    assert anchor(manifest, head, right) is True
    assert anchor(manifest, head, None) is False
    assert anchor(manifest, head, ROOT) is False
    assert anchor(manifest, "receipts:1:" + "ab" * 32, right) is False
    for other, verdict in ((b"{}", False), (b"no JSON", False), (b'{"ledger":""}', None)):
        assert anchor(other, "", "0x" + keccak(other).hex()) is verdict
