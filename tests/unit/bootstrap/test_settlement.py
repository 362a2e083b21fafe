"""What is read from the chain at the start: any reply may be lost, and the right terms are there in the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from tests.unit.hub.chain import WINDOW, FakeEscrow
from tests.unit.hub.fakes import FakeClock, FakeMetrics

from fedgpu_operator.bootstrap import settlement
from fedgpu_operator.bootstrap.factory import Factory
from fedgpu_operator.bootstrap.settlement import EscrowAccess, SettlementPass, await_terms
from fedgpu_operator.domain.terms import EscrowPeriods, Role
from fedgpu_operator.errors import (
    ChainError,
    ChainMismatchError,
    ChainUnreachableError,
    ConfigurationError,
    StatePrunedError,
)
from fedgpu_operator.hub.loops.settlement import SettlementLoop
from fedgpu_operator.hub.services.escrow import Obstacle, TermsSource
from fedgpu_operator.hub.services.settler import SettlerWatch
from fedgpu_operator.ports import Escrow
from fedgpu_operator.settings import Settings
from fedgpu_operator.settlement import lag_of

SETTLER, METER = "0x" + "aa" * 20, "0x" + "bb" * 20
LAG = lag_of(WINDOW, WINDOW)
READS = 6
"""Verification, periods, state at finalized, two roles, the signer."""


class Line:
    """The way to the chain and to the signer: `lost` are the requests, counted from 1, whose reply is lost."""

    def __init__(self, lost: range | tuple[int, ...] = (), error: ChainError | None = None) -> None:
        self.escrow, self.lost, self.count = FakeEscrow(), lost, 0
        self.error = error or ChainUnreachableError("no answer")
        self.signer_holds = True

    def __getattr__(self, name: str) -> object:
        found = getattr(self.escrow, name)
        if name not in {"verify", "periods", "check_state", "holds_role"}:
            return found

        async def asked(*given: object) -> object:
            self._pass()
            return await cast("Callable[..., Awaitable[object]]", found)(*given)

        return asked

    async def check_signer(self) -> None:
        self._pass()
        if not self.signer_holds:
            raise ConfigurationError("the signer does not hold it")

    def _pass(self) -> None:
        self.count += 1
        if self.count in self.lost:
            raise self.error


def source(line: Line, clock: FakeClock | None = None, every: float = 60) -> TermsSource:
    holders: dict[Role, str] = {"SETTLER": SETTLER, "METER": METER}
    return TermsSource(
        cast("Escrow", line),
        clock or FakeClock(datetime(2026, 11, 30, tzinfo=UTC)),
        every=every,
        at_most=604_800,
        holders=holders,
        check_signer=line.check_signer,
    )


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "FIRST_PAUSE_SECONDS", 0.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "PATIENCE_SECONDS", -1.0)


ERRORS = [ChainUnreachableError("no answer"), ChainError("answers rate limited"), StatePrunedError("missing trie node")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("nth", range(1, READS + 2))
async def test_whichever_reply_is_lost_at_the_start_the_terms_are_known_when_it_is_over(
    nth: int, error: ChainError
) -> None:
    line = Line((nth,), error)
    terms = source(line)
    await await_terms(terms)
    assert (terms.longest, terms.lag, terms.obstacles) == (WINDOW, LAG, {})
    assert line.count <= READS + 2, "what was answered is not read again, but for the role beside a lost one"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("lost", [range(nth, nth + span) for nth in range(1, READS + 1) for span in (1, 5)])
async def test_a_chain_that_comes_back_after_the_start_is_read_then(lost: range) -> None:
    line, metrics, began = Line(lost), FakeMetrics(), list[float]()
    terms = source(line)
    await await_terms(terms)

    class Loop:
        pruned = ""

        async def pass_once(self) -> float:
            began.append(terms.longest)
            return 1.0

    coins = cast("SettlerWatch", Coins())
    settles = SettlementPass(terms, coins, metrics, lambda: cast("SettlementLoop", Loop()))
    nothing: Any = None
    limits = Factory(Settings.from_env({}), nothing, nothing, access=cast("EscrowAccess", settled(terms))).thresholds
    for _ in range(6):
        known = terms.known
        try:
            await settles.pass_once()
        except ChainUnreachableError:
            assert metrics.in_the_way == {"TermsUnknown"}
            assert not known
            assert not began, "nothing is settled before the terms are known"
    assert set(began) == {WINDOW}
    assert limits().lag == LAG, "who took it at the start has it as well"
    assert (terms.complete, metrics.in_the_way) == (True, set())


class Coins:
    """Nobody looks at them here."""

    async def look(self) -> None:
        return


def settled(terms: TermsSource) -> object:
    return type("Opened", (), {"terms": terms, "escrow": FakeEscrow()})()


@pytest.mark.usefixtures("impatient")
async def test_until_the_periods_are_known_announced_money_counts_as_gone() -> None:
    terms = source(Line(range(1, 100)))
    await await_terms(terms)
    assert (terms.known, terms.lag) == (False, float("inf"))


@pytest.mark.usefixtures("impatient")
async def test_a_chain_that_answers_slowly_does_not_hold_up_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "LONGEST_READ_SECONDS", 0.01)
    line = Line()
    answered = asyncio.Event()

    async def slow() -> EscrowPeriods:
        await answered.wait()
        return await line.escrow.periods()

    monkeypatch.setattr(line, "periods", slow, raising=False)
    terms = source(line)
    await await_terms(terms)
    assert not terms.known
    answered.set()
    await terms.read()
    assert (terms.known, terms.lag) == (True, LAG)


async def test_another_escrow_stops_the_start() -> None:
    with pytest.raises(ChainMismatchError):
        await await_terms(source(Line((1,), ChainMismatchError("the endpoint serves chain 5"))))


async def test_a_longer_epoch_than_the_contracts_stops_the_start_and_is_cut_when_found_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        ConfigurationError, match="FEDGPU_EPOCH_SECONDS: the escrow is made for epochs of at most 600 s"
    ):
        await await_terms(source(Line(), every=WINDOW + 1))
    monkeypatch.setattr(settlement, "PATIENCE_SECONDS", -1.0)
    terms = source(Line((1,)), every=WINDOW + 1)
    await await_terms(terms)
    caplog.clear()
    for _ in range(3):
        await terms.read()
    assert (terms.every, terms.known, set(terms.obstacles)) == (WINDOW, True, {Obstacle.EPOCH_TOO_LONG})
    assert [record.levelno for record in caplog.records if "EpochTooLong" in record.message] == [logging.WARNING]


async def test_a_signer_without_the_account_stops_the_start_and_is_an_obstacle_when_found_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line()
    line.signer_holds = False
    with pytest.raises(ConfigurationError, match="does not hold it"):
        await await_terms(source(line))
    monkeypatch.setattr(settlement, "PATIENCE_SECONDS", -1.0)
    line.lost = (line.count + READS,)
    terms = source(line)
    await await_terms(terms)
    await terms.read()
    assert terms.obstacles == {Obstacle.SIGNER_REFUSED: "the signer does not hold it"}
    line.signer_holds = True
    await terms.read()
    assert terms.obstacles == {}


async def test_a_missing_role_is_said_once_and_looked_for_until_it_is_granted(caplog: pytest.LogCaptureFixture) -> None:
    line, clock = Line(), FakeClock(datetime(2026, 11, 30, tzinfo=UTC))
    line.escrow.stripped = {("METER", METER)}
    terms = source(line, clock)
    await await_terms(terms)
    for _ in range(3):
        await terms.read()
        clock.forward(90)
    (said,) = [record.message for record in caplog.records if "does not hold the role" in record.message]
    assert f"{METER} does not hold the role METER" in said
    assert SETTLER not in said
    line.escrow.stripped = set()
    await terms.read()
    assert terms.obstacles == {}
    read = line.count
    clock.forward(540)
    await terms.read()
    assert line.count == read, "what is known is not read again soon"


async def test_a_role_that_is_revoked_is_an_obstacle_until_it_is_given_back() -> None:
    line, clock = Line(), FakeClock(datetime(2026, 11, 30, tzinfo=UTC))
    terms = source(line, clock)
    await await_terms(terms)
    read = line.count
    line.escrow.stripped = {("SETTLER", SETTLER)}
    line.lost = (read + 1,)
    clock.forward(601)
    await terms.read()
    assert terms.obstacles == {}, "no answer is no revocation"
    await terms.read()
    assert SETTLER in terms.obstacles[Obstacle.ROLE_MISSING]
    line.escrow.stripped = set()
    clock.forward(61)
    await terms.read()
    assert terms.obstacles == {}
    assert line.count == read + 5, "nothing but the roles"


@pytest.mark.usefixtures("impatient")
async def test_a_node_without_the_finalized_state_stops_the_start_with_the_setting_and_the_nodes_words() -> None:
    line = Line(range(3, 100), StatePrunedError("missing trie node"))
    with pytest.raises(ConfigurationError, match=r"FEDGPU_CHAIN_RPC_URL: missing trie node"):
        await await_terms(source(line))


async def test_state_that_is_lost_while_running_is_shown_until_it_is_back() -> None:
    terms, metrics, script = source(Line()), FakeMetrics(), list[Exception | None]([StatePrunedError("x"), None])

    class Loop:
        pruned = ""

        async def pass_once(self) -> float:
            error = script.pop(0)
            if error is not None:
                raise error
            return 1.0

    made: Any = Loop()
    settles = SettlementPass(terms, cast("SettlerWatch", Coins()), metrics, lambda: made)
    with pytest.raises(StatePrunedError):
        await settles.pass_once()
    assert metrics.in_the_way == {"StatePruned"}
    assert await settles.pass_once() == 1.0
    assert metrics.in_the_way == set()


async def test_state_that_disputes_lack_is_shown_though_epochs_go_on() -> None:
    terms, metrics = source(Line()), FakeMetrics()

    class Loop:
        pruned = "missing trie node"

        async def pass_once(self) -> float:
            return 1.0

    made: Any = Loop()
    settles = SettlementPass(terms, cast("SettlerWatch", Coins()), metrics, lambda: made)
    assert await settles.pass_once() == 1.0
    assert metrics.in_the_way == {"StatePruned"}
    made.pruned = ""
    await settles.pass_once()
    assert metrics.in_the_way == set()
