"""The sender: one nonce per intent, fees that rise under a cap, and no doubt about what became of it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.hub.chain import FakeEscrow
from tests.unit.hub.world import World

from fedgpu_operator.domain.books import TxState
from fedgpu_operator.domain.ledger import Intent, IntentState
from fedgpu_operator.domain.transactions import Call, Fees, Nonces
from fedgpu_operator.errors import LedgerError, RevertedError
from fedgpu_operator.hub.sending import PATIENCE, Fate, IntentSender

CAP = 1_000


class Desk:
    """A sender with its chain; `again` is the same sender after a restart."""

    def __init__(self, world: World) -> None:
        self.world, self.escrow, self.ledger = world, FakeEscrow(), world.ledger
        self.call = self.escrow._call("errand", lambda _books: None)
        self.sender = self.again()

    def again(self) -> IntentSender:
        return IntentSender(self.ledger, self.escrow, self.world.clock, fee_cap=CAP)

    async def begin(self, call: Call | None = None) -> Intent:
        return await self.sender.begin("errand:1", "errand", None, call or self.call)

    @property
    def mined(self) -> int:
        return len(self.escrow.latest.receipts)

    async def fees(self, intent: Intent) -> list[int]:
        return [tx.max_fee for tx in await self.ledger.transactions(intent=intent.id)]

    async def states(self, intent: Intent) -> list[TxState]:
        return [tx.state for tx in await self.ledger.transactions(intent=intent.id)]


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


async def test_an_intent_is_done_when_a_finalized_block_holds_it_and_not_before(desk: Desk) -> None:
    intent = await desk.begin()
    assert (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT
    desk.escrow.mine()
    assert (await desk.sender.drive(intent)).fate is Fate.MINED
    assert await desk.sender.open_intent() == intent
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE
    assert await desk.sender.open_intent() is None
    assert await desk.states(intent) == [TxState.FINALIZED]


async def test_only_one_intent_is_open_at_a_time(desk: Desk) -> None:
    await desk.begin()
    with pytest.raises(LedgerError, match="errand:1"):
        await desk.sender.begin("errand:2", "errand", None, desk.call)
    assert (await desk.begin()).key == "errand:1", "the same again is the same intent"


async def test_a_base_fee_that_rose_two_hundredfold_is_followed_up_to_the_cap_and_no_further(desk: Desk) -> None:
    intent = await desk.begin()
    await desk.sender.drive(intent)
    desk.escrow.base_fee = 2 * CAP
    for _ in range(60):
        assert (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT
        desk.escrow.mine()
    fees = await desk.fees(intent)
    assert fees == sorted(fees)
    assert 1 < len(fees) < 60, "at the cap the same bytes are sent again"
    assert max(fees) <= CAP
    desk.escrow.base_fee = 900
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE
    assert desk.mined == 1
    assert (await desk.states(intent)).count(TxState.FINALIZED) == 1
    assert set(await desk.states(intent)) == {TxState.FINALIZED, TxState.REPLACED}


async def test_an_older_version_that_is_mined_ends_the_newer_ones(desk: Desk) -> None:
    intent = await desk.begin()
    await desk.sender.drive(intent)
    waiting = dict(desk.escrow._pool)
    desk.escrow.base_fee = 30
    await desk.sender.drive(intent)
    assert len(await desk.fees(intent)) == 2
    desk.escrow._pool, desk.escrow.base_fee = waiting, 10
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE
    assert await desk.states(intent) == [TxState.FINALIZED, TxState.REPLACED]


async def test_a_nonce_that_another_transaction_used_is_lost_only_when_that_is_final(desk: Desk) -> None:
    intent = await desk.begin()
    await desk.sender.drive(intent)
    desk.escrow.take_nonce()
    assert (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT, "a block that may be undone decides nothing"
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.LOST
    assert (await desk.ledger.intents())[0].state is IntentState.DEAD
    anew = await desk.begin()
    assert (anew.id != intent.id, anew.nonce) == (True, intent.nonce + 1)


async def test_somebody_elses_dearer_transaction_of_the_nonce_is_outbid(desk: Desk) -> None:
    intent = await desk.begin()
    other = desk.escrow._call("other", lambda _books: None)
    await desk.escrow.broadcast(await desk.escrow.sign(other, intent.nonce, Fees(40, 1)))
    for _ in range(8):
        await desk.sender.drive(intent)
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE
    assert desk.mined == 1


async def test_what_waits_too_long_pays_more_even_where_its_fee_is_fair(desk: Desk) -> None:
    intent = await desk.begin()
    await desk.sender.drive(intent)
    await desk.sender.drive(intent)
    assert len(await desk.fees(intent)) == 1
    desk.world.clock.forward(int(PATIENCE / timedelta(seconds=1)) + 1)
    await desk.sender.drive(intent)
    first, second = await desk.fees(intent)
    assert second * 8 >= first * 9


async def test_a_reorg_puts_the_transaction_back_on_its_way(desk: Desk) -> None:
    intent = await desk.begin()
    await desk.sender.drive(intent)
    desk.escrow.mine()
    assert (await desk.sender.drive(intent)).fate is Fate.MINED
    desk.escrow.reorg()
    assert (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT
    assert await desk.states(intent) == [TxState.BROADCAST]
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE


async def test_what_would_revert_is_never_signed(desk: Desk) -> None:
    def refuse(_books: object) -> None:
        raise RevertedError("Paused(until=1)")

    intent = await desk.begin(desk.escrow._call("refused", refuse))
    progress = await desk.sender.drive(intent)
    assert (progress.fate, progress.why) == (Fate.REFUSED, "Paused(until=1)")
    assert desk.escrow.sent == []
    assert await desk.sender.open_intent() is None


async def test_a_new_key_begins_the_same_and_the_old_keys_intent_ends_by_what_the_chain_says(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old key is gone with its intent open: nothing is signed for it, and it holds nobody up."""
    old = await desk.begin()
    await desk.sender.drive(old)
    desk.escrow.drop()
    used = {old.sender: Nonces(old.nonce, old.nonce, old.nonce + 1)}
    of_the_new_key = desk.escrow.nonces

    async def nonces(sender: str) -> Nonces:
        return used[sender] if sender in used else await of_the_new_key(sender)

    monkeypatch.setattr(desk.escrow, "nonces", nonces)
    desk.escrow.address, desk.escrow.base_fee = "0xNew", 30
    assert await desk.sender.open_intent() is None
    new = await desk.begin()
    assert (new.key, new.sender, new.id != old.id) == (old.key, "0xNew", True)
    await desk.sender.drive(new)
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(new)).fate is Fate.DONE
    await desk.sender.watch_others()
    assert await desk.ledger.intents(open_only=True) == (old,), "its bytes may still be mined"
    assert len(await desk.fees(old)) == 1
    used[old.sender] = Nonces(old.nonce + 1, old.nonce + 1, old.nonce + 1)
    await desk.sender.watch_others()
    assert await desk.ledger.intents(open_only=True) == ()
    assert (await desk.states(old), await desk.states(new)) == ([TxState.REPLACED], [TxState.FINALIZED])
