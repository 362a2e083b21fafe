"""What a run costs beside its price: owners' records from the ledger, gas from the chain, kept for ten minutes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.ledgers import open_attempt
from tests.unit.hub.fakes import FakeClock

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.market import ProviderRecord
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Epoch, EpochDraft, EpochLine, EpochStage, LeaseCover
from fedgpu_operator.domain.transactions import FeeView
from fedgpu_operator.errors import ChainUnreachableError
from fedgpu_operator.hub.services.costs import REFRESH, WINDOW, CostBook, extent_of, interruptions
from fedgpu_operator.settlement.fees import LONELY, Extent

HOUR = 3600
GWEI = 10**9
COIN = MicroUSD(3_000_000_000)


def record(outcome: str, attempts: int, hours: int, provider: str = "berlin", product: str = "H100") -> ProviderRecord:
    return ProviderRecord(provider, product, outcome, attempts, attempts, hours * HOUR)


@pytest.mark.parametrize(
    ("records", "per_mh"),
    [
        ([record("Succeeded", 1, 0)], 1_000),
        ([record("Succeeded", 10, 1_000)], 500),
        ([record("Succeeded", 10, 9_000), record("WorkloadEvicted", 4, 0)], 500),
        ([record("WorkloadVanished", 1, 500), record("WorkloadEvicted", 1, 500, product="L4")], 1_500),
        ([record("WorkloadFailed", 50, 1_000)], 500),
        ([record("MemberRejected", 50, 0)], 1_000),
        ([record("Succeeded", 1, 2_000_000)], 0),
    ],
)
def test_an_owner_is_judged_by_what_it_cut_off_in_the_hours_it_ran(records: list[ProviderRecord], per_mh: int) -> None:
    assert interruptions(records) == {"berlin": per_mh}


def test_owners_are_judged_apart_and_strangers_not_at_all() -> None:
    seen = interruptions([record("WorkloadEvicted", 9, 0, "oslo"), record("Succeeded", 1, 1_000)])
    assert seen == {"oslo": 10_000, "berlin": 500}


def epoch(pairs: list[tuple[str, str]], runs: int, stage: EpochStage = EpochStage.PAID) -> Epoch:
    lines = tuple(EpochLine(tenant, provider, "0x1", "0x2", MicroUSD(1)) for tenant, provider in pairs)
    covers = tuple(LeaseCover(f"lease-{i}", 60) for i in range(runs))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    draft = EpochDraft(1, "0x", "0x", b"", "0x", now, MicroUSD(1), lines, covers)
    return Epoch(1, draft, stage, now)


def test_the_extent_of_epochs_is_that_of_those_that_stood() -> None:
    pairs = [("a", "berlin"), ("b", "berlin"), ("a", "oslo")]
    epochs = [epoch(pairs, 40), epoch(pairs[:1], 10), epoch(pairs, 99, EpochStage.CANCELLED)]
    assert extent_of(epochs) == Extent(epochs=2, tenants=3, providers=3, lines=4, runs=50)
    assert extent_of([]) == Extent(0, 0, 0, 0, 0)


class Chain:
    """Says what gas costs, or nothing."""

    def __init__(self, gwei: int | None) -> None:
        self.gwei, self.asked = gwei, 0

    async def suggest_fees(self) -> FeeView:
        self.asked += 1
        if self.gwei is None:
            raise ChainUnreachableError("nobody answers")
        return FeeView(self.gwei * GWEI, 0)


async def test_gas_is_that_of_an_epoch_to_itself_until_there_was_one(ledger: SqlLedger, clock: FakeClock) -> None:
    share = (await CostBook(ledger, clock, Chain(10), COIN).look()).gas_share
    assert share == LONELY.gas * 10 * COIN // 10**9
    assert (await CostBook(ledger, clock, Chain(10), None).look()).gas_share == 0, "no price of the coin"
    assert (await CostBook(ledger, clock).look()).gas_share == 0, "no settlement"


async def test_a_silent_chain_leaves_the_last_figure_and_stops_nothing(ledger: SqlLedger, clock: FakeClock) -> None:
    chain = Chain(10)
    book = CostBook(ledger, clock, chain, COIN)
    known = await book.look()
    chain.gwei = None
    clock.forward(REFRESH.total_seconds())
    assert await book.look() == known
    assert chain.asked == 2
    assert (await CostBook(ledger, clock, Chain(None), COIN).look()).gas_share == 0


async def attempt(ledger: SqlLedger, uid: str, outcome: str, begun: datetime, hours: int) -> None:
    terms = AttemptRequest(uid, "r", "team-a", "train", "berlin", "H100", MicroUSD(1), 1, 10 * HOUR)
    opened = await open_attempt(ledger, terms, begun)
    await ledger.end_attempt(opened.lease_name, outcome, begun + timedelta(hours=hours))


async def test_records_are_read_again_after_ten_minutes_and_forgotten_after_the_window(
    ledger: SqlLedger, clock: FakeClock
) -> None:
    book = CostBook(ledger, clock)
    assert (await book.look()).interruptions_per_mh == {}
    await attempt(ledger, "0" * 36, "WorkloadEvicted", clock.now() - timedelta(hours=5), 4)
    assert (await book.look()).interruptions_per_mh == {}, "what is known is kept for a while"
    clock.forward(REFRESH.total_seconds())
    assert (await book.look()).interruptions_per_mh == {"berlin": 1_992}, "2 in 1,004 hours"
    clock.forward(WINDOW.total_seconds())
    assert (await book.look()).interruptions_per_mh == {}
