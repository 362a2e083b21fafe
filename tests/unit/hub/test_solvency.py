"""When the money for running work ends: told in time, asked to save itself, stopped, and run again when it is there."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from eth_utils.address import to_checksum_address
from tests.ledgers import whole_history
from tests.unit.hub.chain import FakeEscrow
from tests.unit.hub.fakes import FakeClock
from tests.unit.hub.world import TEAM, World

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.api.base import find
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import AccountState
from fedgpu_operator.hub.services.solvency import REACTION
from fedgpu_operator.settlement import Thresholds

WALLET = str(to_checksum_address("0x" + "aa" * 20))
OTHER = str(to_checksum_address("0x" + "dd" * 20))
PAYOUT = str(to_checksum_address("0x" + "cc" * 20))
THRESHOLDS = Thresholds(warn=3600, checkpoint=600, lag=1000)
DOLLAR = 1_000_000
GRACE = 30


class Money(World):
    """A tenant with 10 USD whose jobs cost 1 USD per GPU-hour, and a chain that both loops read."""

    def __init__(self, ledger: SqlLedger, clock: FakeClock) -> None:
        super().__init__(ledger, clock)
        self.escrow = FakeEscrow()
        self.settlement, self.thresholds = True, THRESHOLDS

    async def begin(self) -> None:
        await self.namespace(TEAM)
        await self.provider("berlin", "1.00", payout={"address": PAYOUT})
        self.escrow.fund(WALLET, 10)
        await self.account(WALLET)
        await self.look()

    async def look(self) -> ComputeAccount:
        """One pass of the account loop, on a chain whose clock is ours."""
        self.escrow.final.timestamp = int(self.clock.now().timestamp())
        self.escrow.final.block += 1
        await self.factory().account_loop(self.escrow, self.proofs, poll=3).pass_once()
        return self.seen()

    def seen(self) -> ComputeAccount:
        return ComputeAccount.parse(self.kube.objects["computeaccounts", TEAM, "default"])

    def funded(self) -> str:
        found = find(self.seen().status.conditions, "Funded")
        return f"{found.status} {found.reason}" if found else ""

    def announce(self, usd: int, seconds: int) -> None:
        """A withdrawal that may leave in so many seconds."""
        at = int(self.clock.now().timestamp()) + seconds if usd else 0
        self.chain = replace(self.chain, withdraw_units=MicroUSD(usd * DOLLAR), withdraw_at=at)

    @property
    def chain(self) -> AccountState:
        """The account at the finalized block."""
        return self.escrow.final.accounts[WALLET]

    @chain.setter
    def chain(self, state: AccountState) -> None:
        self.escrow.final.accounts[WALLET] = state

    async def start(self, name: str = "train", run: int = 18_000, gpus: int = 1, grace: int = GRACE) -> None:
        """A job that runs; its worst case is its run limit and its grace."""
        containers = [{"name": "main", "image": "example.com/work:1"}]
        template = {"spec": {"containers": containers, "terminationGracePeriodSeconds": grace}}
        await self.job(name, runLimitSeconds=run, gpu={"count": gpus}, template=template)
        await self.pass_once()
        assert self.says("Placed", name) == ("True", "Placed")
        await self.runs(next(lease for lease in self.leases if lease.spec.job.name == name))
        await self.pass_once()

    async def forward(self, seconds: float) -> float | None:
        """Time passes; both loops look. Members report what was used."""
        self.clock.forward(seconds)
        for lease in self.leases:
            if lease.status.state == "Running":
                elapsed = self.clock.now() - (lease.status.usage.started_at or self.clock.now())
                await self.runs(lease, max(1, lease.spec.gpus * int(elapsed.total_seconds())))
        await self.look()
        return await self.pass_once()

    def desired(self) -> list[tuple[str, str, str]]:
        return [(lease.spec.job.name, lease.spec.desired, lease.spec.stop_reason) for lease in self.leases]


@pytest.fixture
async def money(ledger: SqlLedger, clock: FakeClock) -> Money:
    made = Money(ledger, clock)
    await made.begin()
    return made


async def test_what_is_reserved_to_its_end_is_told_nothing(money: Money) -> None:
    await money.start()
    await money.forward(60)
    status = money.seen().status
    assert (status.burn_per_hour, status.funded_until) == ("1.00", None)
    assert money.funded() == "True Funded"
    assert "CheckpointRequested" not in dict(money.events()).values()


async def test_from_the_announcement_to_the_stop_and_back(money: Money) -> None:
    await money.start()
    began = money.clock.now()
    money.announce(10, 8 * 3600 + 1000)
    await money.forward(0)
    assert money.seen().status.funded_until is None, "it will have ended long before the money can leave"
    money.announce(10, 4 * 3600 + 1000)
    await money.forward(0)
    status = money.seen().status
    assert status.funded_until == began + timedelta(hours=4), "until the notice ends, less the lag"
    assert (money.funded(), status.available) == ("True Funded", "0.00")
    await money.forward(3 * 3600 + 1)
    assert money.funded() == "True FundingLow"
    (event,) = [o for (kind, *_), o in money.kube.objects.items() if kind == "events" and o["reason"] == "FundingLow"]
    assert event["type"] == "Warning"
    assert "2026-01-01T16:00:00Z" in event["message"]
    assert "deposit 5.008334 USD, or take back the withdrawal of 10.00 USD" in event["message"]
    due = await money.forward(60) or 0
    assert money.events().count(("Warning", "FundingLow")) == 1, "once"
    assert due == pytest.approx(3600 - 61 - 600 - GRACE - REACTION), "the job loop looks again when it matters"
    assert money.lease.spec.checkpoint_requested_at is None
    await money.forward(due)
    asked = money.lease.spec.checkpoint_requested_at
    assert asked == money.clock.now().replace(microsecond=0)
    assert ("Warning", "CheckpointRequested") in money.events()
    due = await money.forward(1) or 0
    assert money.lease.spec.checkpoint_requested_at == asked, "asked once"
    assert money.desired() == [("train", "Run", "")]
    await money.forward(due)
    assert money.desired() == [("train", "Stop", "Unfunded")]
    assert money.clock.now() + timedelta(seconds=GRACE) <= began + timedelta(hours=4), "its grace is paid for, too"
    await money.ends(money.lease, "Stopped", gpu_seconds=4 * 3600 - 45)
    await money.forward(1)
    for kind in ("Admitted", "Placed", "Running"):
        assert money.says(kind) == ("False", "Unfunded")
    assert money.see().status.state == "Suspended"
    assert [entry.gpu_seconds for entry in await whole_history(money.ledger)] == [4 * 3600 - 45], "all of it is billed"
    assert "after a deposit" in money.message("Placed")
    await money.forward(3600)
    assert money.funded() == "False NoBalance"
    assert [lease.spec.attempt for lease in money.leases] == [1], "nothing runs while nothing is paid in"
    money.escrow.fund(WALLET, 8)
    await money.forward(1)
    assert money.see().status.state == "Suspended", "4 USD are owed: 4 are too few for 5 hours"
    money.escrow.fund(WALLET, 10)
    await money.forward(1)
    assert [lease.spec.attempt for lease in money.leases] == [1, 2]
    assert money.says("Placed") == ("True", "Placed")
    assert money.funded() == "True Funded"


async def test_a_deposit_in_time_ends_the_alarm_and_a_later_shortage_is_another(money: Money) -> None:
    await money.start()
    money.announce(10, 4 * 3600 + 1000)
    await money.forward(4 * 3600 - 600)
    asked = money.lease.spec.checkpoint_requested_at
    assert asked is not None
    money.announce(0, 0)
    await money.forward(1)
    assert (money.funded(), money.seen().status.funded_until) == ("True Funded", None)
    await money.forward(1200)
    assert money.desired() == [("train", "Run", "")]
    money.announce(10, 1000 + 300)
    await money.forward(1)
    again = money.lease.spec.checkpoint_requested_at
    assert again is not None
    assert again > asked


async def test_a_lower_limit_is_a_rate_and_epochs_that_run_make_room_again(money: Money) -> None:
    await money.start()
    at = int(money.clock.now().timestamp()) + 2000
    money.chain = replace(money.chain, new_limit=MicroUSD(DOLLAR // 2), limit_at=at)
    await money.forward(1000)
    began = money.clock.now() - timedelta(seconds=1000)
    assert money.seen().status.funded_until == began + timedelta(hours=1), "two epochs of half a dollar"
    assert "raise the spend limit to 2.504167 USD" in money.seen().status.conditions[0].message
    await money.forward(1400)
    debited = MicroUSD(DOLLAR // 2)
    money.chain = replace(money.chain, balance=MicroUSD(money.chain.balance - debited), pending=debited)
    await money.forward(1)
    assert money.seen().status.funded_until == began + timedelta(hours=1.5), "an epoch took half a dollar off the debt"
    assert money.lease.spec.desired == "Run"


async def test_the_youngest_stops_in_time_for_the_oldest_to_finish(money: Money) -> None:
    await money.start("old", 7200, gpus=1)
    money.clock.forward(1)
    await money.start("young", 3600, gpus=7)
    money.announce(7, 1)
    due = await money.forward(60) or 0
    assert money.desired() == [("old", "Run", ""), ("young", "Run", "")]
    await money.forward(due)
    assert [lease.spec.checkpoint_requested_at is not None for lease in money.leases] == [False, True]
    due = await money.forward(1) or 0
    await money.forward(due)
    assert money.desired() == [("old", "Run", ""), ("young", "Stop", "Unfunded")]
    young = money.leases[1]
    assert young.spec.stop_requested_at is not None
    assert young.metadata.creation_timestamp is not None
    used = 7 * int((young.spec.stop_requested_at - young.metadata.creation_timestamp).total_seconds() + GRACE)
    await money.ends(young, "Stopped", gpu_seconds=used)
    await money.forward(1)
    assert (used + 7230) / 3600 == pytest.approx(3, abs=8 * REACTION / 3600), "all that the old one may still need"
    assert money.see("young").status.state == "Suspended"
    await money.job("other", runLimitSeconds=300)
    for _ in range(7):
        await money.forward(1000)
        assert money.desired()[0] == ("old", "Run", "")
    assert money.says("Placed", "other") == ("False", "Unfunded"), "what is left is the old one's"
    assert money.leases[0].spec.checkpoint_requested_at is None


async def test_what_has_ended_costs_nothing_more_and_is_asked_nothing(money: Money) -> None:
    await money.start("old", 7200)
    money.clock.forward(1)
    await money.start("young", 3600, gpus=7)
    await money.ends(money.leases[1], gpu_seconds=7, final=False)
    money.announce(7, 1)
    await money.forward(1)
    assert [lease.spec.checkpoint_requested_at for lease in money.leases] == [None, None]


async def test_what_is_stopping_costs_money_until_its_grace_is_over(money: Money) -> None:
    await money.start("old", 3600)
    money.clock.forward(1)
    await money.start("young", 1800, gpus=7, grace=1800)
    await money.change("young", suspend=True)
    await money.pass_once()
    money.announce(8, 1)
    await money.forward(1)
    assert money.desired()[0] == ("old", "Stop", "Unfunded"), "the young one may use all that is left"


async def test_by_the_last_reading_while_the_chain_is_silent(money: Money) -> None:
    await money.start()
    money.announce(10, 2 * 3600 + 1000)
    await money.forward(10)
    money.escrow.silent = True
    await money.forward(7200 - 100)
    assert money.funded() == "Unknown ChainUnreachable"
    assert money.lease.spec.checkpoint_requested_at is not None
    await money.forward(60)
    assert money.desired() == [("train", "Stop", "Unfunded")]


async def test_a_silent_member_counts_as_running(money: Money) -> None:
    await money.start()
    money.announce(9, 1)
    money.clock.forward(3600 - GRACE - REACTION)
    await money.look()
    await money.pass_once()
    assert money.desired() == [("train", "Stop", "Unfunded")], "it may bill all of that hour later"


async def test_without_its_account_nothing_runs_on(money: Money) -> None:
    """Nobody would see a withdrawal from its wallet."""
    await money.start()
    key = ("computeaccounts", TEAM, "default")
    kept = money.kube.objects[key]
    money.kube.objects[key] = kept | {"spec": {"wallet": "a shape of tomorrow"}}
    await money.pass_once()
    assert money.desired() == [("train", "Run", "")], "what cannot be read is not gone"
    del money.kube.objects[key]
    await money.pass_once()
    assert money.desired() == [("train", "Stop", "Unfunded")]
    await money.ends(money.lease, "Stopped", gpu_seconds=5)
    await money.pass_once()
    assert money.see().status.state == "Suspended"
    money.kube.objects[key] = kept
    await money.look()
    await money.pass_once()
    assert money.says("Placed") == ("True", "Placed")


async def test_an_account_of_another_wallet_does_not_pay(money: Money) -> None:
    await money.start()
    del money.kube.objects["computeaccounts", TEAM, "default"]
    await money.account(OTHER)
    await money.pass_once()
    assert money.desired() == [("train", "Stop", "Unfunded")]


async def test_a_proof_taken_back_takes_no_new_work_and_the_wallet_is_still_watched(money: Money) -> None:
    await money.start()
    money.announce(10, 2 * 3600 + 1000)
    del money.kube.objects["computeaccounts", TEAM, "default"]["spec"]["proof"]
    await money.forward(10)
    status = money.seen().status
    assert money.funded() == "False WalletUnproven"
    assert status.funded_until is not None
    assert money.desired() == [("train", "Run", "")]
    await money.forward(7200 - 10 - GRACE - REACTION)
    assert money.desired() == [("train", "Stop", "Unfunded")]
    await money.ends(money.lease, "Stopped", gpu_seconds=7000)
    await money.forward(1)
    await money.forward(1)
    assert money.seen().status.observed_block == 0, "no figures once nothing runs: nothing may be reserved against them"


async def test_a_job_nobody_can_read_is_stopped_as_well(money: Money) -> None:
    await money.start()
    money.kube.objects["computejobs", TEAM, "train"]["spec"]["runLimitSeconds"] = "a shape of tomorrow"
    money.announce(10, 1)
    await money.forward(1)
    assert money.desired() == [("train", "Stop", "Unfunded")]


async def test_without_settlement_money_ends_nothing(money: Money) -> None:
    money.settlement = False
    await money.start()
    del money.kube.objects["computeaccounts", TEAM, "default"]
    await money.pass_once()
    assert money.desired() == [("train", "Run", "")]


async def test_a_hub_that_pays_no_more_stops_nothing_for_money(money: Money) -> None:
    await money.start()
    money.announce(10, 1)
    await money.look()
    money.settlement = False
    await money.pass_once()
    assert money.desired() == [("train", "Run", "")]


async def test_a_warning_stays_until_there_is_clearly_enough(money: Money) -> None:
    await money.start()
    money.announce(10, 3500 + 1000)
    await money.forward(1)
    assert money.funded() == "True FundingLow"
    for seconds, said in ((4000, "True FundingLow"), (4600, "True Funded"), (4000, "True Funded")):
        money.announce(10, seconds + 1000)
        await money.forward(1)
        assert money.funded() == said
    assert money.events().count(("Warning", "FundingLow")) == 1


async def test_an_end_that_moves_by_a_second_is_no_news(money: Money) -> None:
    """A chain whose clock is ahead stands still between its blocks, ours does not."""
    await money.start()
    money.announce(10, 4 * 3600)
    money.escrow.final.timestamp += 100
    loop = money.factory().account_loop(money.escrow, money.proofs, poll=3)
    await loop.pass_once()
    known, writes = money.seen().status, len(money.kube.writes)
    for _ in range(5):
        money.clock.forward(3)
        await loop.pass_once()
    assert (money.seen().status, len(money.kube.writes)) == (known, writes)
    money.clock.forward(20)
    await loop.pass_once()
    assert money.seen().status.funded_until != known.funded_until, "but it is never off by much"


async def test_suspending_by_hand_comes_first(money: Money) -> None:
    await money.start()
    money.announce(10, 1)
    await money.change("train", suspend=True)
    await money.forward(1)
    assert money.desired() == [("train", "Stop", "Suspended")]


async def test_a_job_that_was_stopped_waits_for_gpus_as_any_other(money: Money) -> None:
    await money.start(gpus=2, run=7200)
    money.announce(10, 1)
    await money.forward(1)
    await money.ends(money.lease, "Stopped", gpu_seconds=2)
    await money.forward(1)
    assert money.see().status.state == "Suspended"
    await money.ready("berlin", "False", "Cordoned")
    money.escrow.fund(WALLET, 10)
    await money.forward(1)
    assert money.see().status.state == "Pending", "money is there, GPUs are not"
    assert money.says("Placed") == ("False", "ProviderNotReady")
