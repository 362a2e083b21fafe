"""The account's status: finalized figures, one wallet for one namespace, honest words when nothing answers."""

from __future__ import annotations

from dataclasses import replace

from eth_utils.address import to_checksum_address
from tests.unit.hub.chain import FakeEscrow
from tests.unit.hub.world import TEAM, World

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.hub.services.hubstate import load
from fedgpu_operator.hub.services.snapshot import funds_by_namespace
from fedgpu_operator.hub.services.solvency import Obligations
from fedgpu_operator.hub.views.accounts import tenant_wallets

WALLET = str(to_checksum_address("0x" + "aa" * 20))
OTHER = str(to_checksum_address("0x" + "cc" * 20))


async def read(world: World, escrow: FakeEscrow, namespace: str = TEAM) -> ComputeAccount:
    await world.factory().account_loop(escrow, world.proofs, poll=3).pass_once()
    return ComputeAccount.parse(world.kube.objects["computeaccounts", namespace, "default"])


def reason(account: ComputeAccount) -> str:
    funded, ready, *_ = account.status.conditions
    assert (funded.type, ready.type, ready.status, ready.reason) == ("Funded", "Ready", funded.status, funded.reason)
    return f"{funded.status} {funded.reason}"


async def test_what_is_reserved_accrued_and_available(world: World) -> None:
    escrow = FakeEscrow()
    escrow.fund(WALLET, 10)
    await world.account(WALLET)
    assert reason(await read(world, escrow)) == "True Funded"
    world.settlement = True
    await world.provider("berlin", "1.25", payout={"address": OTHER})
    pod = {"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": "example.com/work:1"}]}
    await world.job(gpu={"count": 4}, template={"spec": pod})
    await world.pass_once()
    assert world.says("Placed") == ("True", "Placed")
    status = (await read(world, escrow)).status
    assert (status.balance, status.committed, status.accrued, status.available) == ("10.00", "5.00", "0.00", "5.00")
    world.clock.forward(360)
    await world.runs(world.lease, 1440)
    await world.pass_once()
    status = (await read(world, escrow)).status
    assert (status.balance, status.committed, status.accrued, status.available) == ("10.00", "4.50", "0.50", "5.00")
    await world.ends(world.lease, gpu_seconds=1440)
    await world.pass_once()
    status = (await read(world, escrow)).status
    assert (status.committed, status.accrued, status.available) == ("0.00", "0.50", "9.50")


async def test_two_jobs_in_one_pass_share_what_there_is(world: World) -> None:
    escrow = FakeEscrow()
    escrow.fund(WALLET, 2)
    await world.account(WALLET)
    await read(world, escrow)
    world.settlement = True
    await world.provider("berlin", "1.25", payout={"address": OTHER})
    await world.job("one")
    await world.job("two")
    await world.pass_once()
    words = sorted(world.says("Placed", name) for name in ("one", "two"))
    assert words == [("False", "Unfunded"), ("True", "Placed")]
    await world.pass_once()
    assert len(world.leases) == 1, "the next pass knows of the first"


async def test_without_limit_or_balance_it_says_what_to_do(world: World) -> None:
    escrow = FakeEscrow()
    await world.account(WALLET)
    account = await read(world, escrow)
    assert (account.status.state, reason(account)) == ("Unfunded", "False NoSpendLimit")
    assert "setSpendLimit" in account.status.conditions[0].message
    escrow.fund(WALLET, 0, limit=5)
    assert reason(await read(world, escrow)) == "False NoBalance"


async def test_a_chain_that_does_not_answer_is_unknown_and_the_last_figures_stay(world: World) -> None:
    escrow = FakeEscrow()
    escrow.fund(WALLET, 10)
    await world.account(WALLET)
    await read(world, escrow)
    escrow.silent = True
    account = await read(world, escrow)
    assert (account.status.state, reason(account)) == ("Unknown", "Unknown ChainUnreachable")
    assert (account.status.balance, account.status.observed_block) == ("10.00", 100)
    funds = funds_by_namespace(await load(world.kube, world.proofs), [TEAM], Obligations())
    assert funds == {TEAM: 10_000_000}, "computing goes on by the last finalized figures"


async def test_a_wallet_that_agreed_twice_belongs_to_the_older_account_alone(world: World) -> None:
    escrow = FakeEscrow()
    escrow.fund(WALLET, 10)
    await world.account(WALLET)
    world.clock.forward(1)
    await world.account(WALLET.lower(), "aaa-second")
    account = await read(world, escrow, "aaa-second")
    assert (account.status.state, reason(account)) == ("Unfunded", "False WalletTaken")
    assert reason(await read(world, escrow)) == "True Funded"
    funds = funds_by_namespace(await load(world.kube, world.proofs), ["aaa-second", TEAM], Obligations())
    assert funds == {"aaa-second": 0, TEAM: 10_000_000}
    accounts = (await load(world.kube)).accounts.values()
    assert tenant_wallets(accounts) == tenant_wallets(reversed(list(accounts))) == {TEAM: WALLET}


async def test_a_block_alone_is_no_news(world: World) -> None:
    escrow = FakeEscrow()
    escrow.fund(WALLET, 10)
    await world.account(WALLET)
    await read(world, escrow)
    writes = len(world.kube.writes)
    escrow.jump(12)
    world.clock.forward(12)
    await read(world, escrow)
    assert len(world.kube.writes) == writes
    world.clock.forward(60)
    assert (await read(world, escrow)).status.observed_block == 101


async def test_an_announced_withdrawal_is_not_counted_on(world: World) -> None:
    escrow = FakeEscrow()
    escrow.fund(WALLET, 10)
    leaving = replace(escrow.final.accounts[WALLET], withdraw_units=MicroUSD(9_000_000), withdraw_at=1)
    escrow.final.accounts[WALLET] = leaving
    await world.account(WALLET)
    assert (await read(world, escrow)).status.available == "1.00"


async def test_without_settlement_money_is_no_limit(world: World) -> None:
    assert funds_by_namespace(await load(world.kube), [TEAM], Obligations()) == {TEAM: None}
