"""The sender: one nonce per intent, fees that rise under a cap, and no doubt about what became of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from tests.contract.ledger.older import ledger_of_schema, stuck_intent
from tests.unit.hub.chain import CALL_GAS, FakeEscrow
from tests.unit.hub.world import World

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.money import NOTHING, MicroUSD
from fedgpu_operator.domain.settlement import AccountState, Claim, Line, SignedTx
from fedgpu_operator.domain.transactions import Call, ChainTx, Fees, Intent, IntentState, Nonces, TxState
from fedgpu_operator.errors import ChainUnreachableError, LedgerError, NotTakenError, Refusal, RevertedError
from fedgpu_operator.hub.services.transactions import FREE, PATIENCE, Fate, IntentSender
from fedgpu_operator.settlement import MAX_TX_GAS, fewer

CAP = 1_000
TENANT = "0x" + "aa" * 20


class Desk:
    """A sender with its chain; `again` is the same sender after a restart."""

    def __init__(self, world: World) -> None:
        self.world, self.escrow, self.ledger = world, FakeEscrow(), world.ledger
        self.call = self.escrow._call("errand", lambda _books: None)
        self.sender = self.again()

    def again(self) -> IntentSender:
        return IntentSender(self.ledger, self.escrow, self.world.clock, fee_cap=CAP, smaller={"claim": self.fewer})

    def fewer(self, call: Call, share: Fraction) -> Call | None:
        epoch, leaves = self.escrow.claimed(call)
        less = fewer(leaves, share)
        return self.escrow.call_claim(epoch, less) if less else None

    async def begin_claim(self, leaves: int) -> Intent:
        """A claim of so many one-line leaves, 70,000 gas each."""
        self.escrow.line_gas = 70_000
        self.escrow.latest.accounts[TENANT] = AccountState(*[NOTHING] * 4)
        claims = [Claim(f"0x{number:040x}", (Line(TENANT, MicroUSD(1)),), ()) for number in range(leaves)]
        return await self.sender.begin("claim:1", "claim", None, self.escrow.call_claim(1, claims))

    async def sizes(self, intent: Intent) -> list[int]:
        """Leaves of the calls that the intent had, one after the other; 0 for one that frees its nonce."""
        calls = await self.ledger.intent_calls(intent.id)
        found = [self.escrow._claims.get("0x" + call.data.hex(), (0, []))[1] for call in calls]
        return [len(leaves) for leaves in found]

    async def sign_as_before(self, intent: Intent, *, fees: Fees, state: TxState = TxState.SIGNED) -> None:
        """A version as earlier releases signed it: the whole call, whatever its gas."""
        call = Call(intent.to, "0x" + intent.data.hex(), what=intent.kind)
        gas = await self.escrow.simulate(call)
        signed = await self.escrow.sign(replace(call, gas=gas), intent.nonce, fees)
        await self.ledger.store_tx(
            ChainTx(
                signed.tx_hash,
                intent.kind,
                None,
                None,
                signed.sender,
                signed.nonce,
                signed.raw,
                state,
                intent=intent.id,
                max_fee=fees.max_fee,
                tip=fees.tip,
            ),
            self.world.clock.now(),
        )

    def refuse(self, why: Refusal) -> None:
        """Every node refuses, always."""

        async def broadcast(_signed: SignedTx) -> str:
            raise NotTakenError(f"the node says {why}", why)

        self.escrow.broadcast = broadcast  # type: ignore[method-assign, assignment]

    async def begin(self, call: Call | None = None) -> Intent:
        return await self.sender.begin("errand:1", "errand", None, call or self.call)

    def past_patience(self) -> None:
        self.world.clock.forward(int(PATIENCE / timedelta(seconds=1)) + 1)

    def blocks_go_by(self) -> None:
        """Blocks that leave out what waits, whatever it pays."""
        self.escrow.latest.block += 1

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
    for _ in range(16):
        await desk.sender.drive(intent)
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE
    assert desk.mined == 1


async def test_what_waits_too_long_while_blocks_go_by_pays_more_even_where_its_fee_is_fair(desk: Desk) -> None:
    intent = await desk.begin()
    await desk.sender.drive(intent)
    await desk.sender.drive(intent)
    assert len(await desk.fees(intent)) == 1
    desk.past_patience()
    await desk.sender.drive(intent)
    assert len(await desk.fees(intent)) == 1, "a chain that makes no blocks needs no dearer transaction"
    desk.blocks_go_by()
    await desk.sender.drive(intent)
    first, second = await desk.fees(intent)
    assert second * 8 >= first * 9


async def test_a_sender_that_restarts_at_every_pass_loses_its_patience_all_the_same(desk: Desk) -> None:
    intent = await desk.begin()
    for _ in range(10):
        desk.sender = desk.again()
        await desk.sender.drive(intent)
        desk.world.clock.forward(int(PATIENCE / timedelta(seconds=8)))
        desk.escrow.latest.block += 1
    assert len(await desk.fees(intent)) == 1
    desk.sender = desk.again()
    await desk.sender.drive(intent)
    desk.blocks_go_by()
    await desk.sender.drive(intent)
    assert len(await desk.fees(intent)) == 2


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


@pytest.mark.parametrize(
    "why", [Refusal.FEE_CAPPED, Refusal.POOR, Refusal.TOO_LARGE, Refusal.OTHER, Refusal.NONCE_USED]
)
async def test_no_fee_rises_for_a_refusal_that_a_higher_fee_cannot_end(desk: Desk, why: Refusal) -> None:
    """Not even where the base fee rises beyond the offer, and however long it lasts."""
    intent = await desk.begin()
    desk.refuse(why)
    await desk.sender.drive(intent)
    (first, *_) = await desk.fees(intent)
    for base_fee in (10, 100, 10, 100):
        desk.escrow.base_fee = base_fee
        desk.past_patience()
        desk.blocks_go_by()
        progress = await desk.sender.drive(intent)
        assert (progress.fate, progress.refusal) == (Fate.NOT_TAKEN, why)
        assert str(why) in progress.why
    work = [tx.max_fee for tx in await desk.ledger.transactions(intent=intent.id) if tx.kind != FREE]
    assert max(work) == first


async def test_what_no_node_took_is_not_in_flight(desk: Desk) -> None:
    intent = await desk.begin()
    desk.escrow.purse = 0
    progress = await desk.sender.drive(intent)
    assert (progress.fate, progress.refusal, progress.why) == (Fate.NOT_TAKEN, Refusal.POOR, "insufficient funds")
    desk.escrow.purse = 10**30
    assert (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT
    desk.escrow.purse = 0
    assert (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT, "a node has it, and may still mine it"
    assert len(await desk.fees(intent)) == 1


async def test_a_call_that_fits_no_transaction_is_replaced_before_it_is_signed(desk: Desk) -> None:
    intent = await desk.begin_claim(300)
    assert (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT
    whole, less = await desk.sizes(intent)
    assert (whole, 0 < less < 300) == (300, True)
    (tx,) = await desk.ledger.transactions(intent=intent.id)
    assert (tx.call, tx.nonce) == (1, intent.nonce)
    assert desk.escrow._signed[tx.tx_hash][2] <= MAX_TX_GAS


async def test_a_transaction_reserves_no_more_than_half_a_block(desk: Desk) -> None:
    desk.escrow.block_gas = 8_000_000
    intent = await desk.begin_claim(100)
    await desk.sender.drive(intent)
    (tx,) = await desk.ledger.transactions(intent=intent.id)
    assert desk.escrow._signed[tx.tx_hash][2] <= 4_000_000


async def test_bytes_that_every_node_calls_too_large_are_replaced_at_their_nonce_and_one_counts(desk: Desk) -> None:
    """As an earlier release left it: 17.4 M gas, no node takes it, the fee was raised up to the cap."""
    intent = await desk.begin_claim(248)
    for fee in (20, 500, CAP):
        await desk.sign_as_before(intent, fees=Fees(fee, 1))
    assert (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT
    whole, less = await desk.sizes(intent)
    assert (whole, 100 < less < 248) == (248, True)
    newest = (await desk.ledger.transactions(intent=intent.id))[-1]
    assert (newest.nonce, newest.call, newest.max_fee < 500) == (intent.nonce, 1, True), "nothing has to be outbid"
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE
    assert (await desk.states(intent)).count(TxState.FINALIZED) == 1
    assert len(desk.escrow.latest.paid) == less


async def test_a_large_version_that_a_node_has_all_the_same_may_be_the_one_that_counts(desk: Desk) -> None:
    intent = await desk.begin_claim(248)
    desk.escrow.most_gas = 10**9
    await desk.sign_as_before(intent, fees=Fees(40, 4))
    assert (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT
    waiting = dict(desk.escrow._pool)
    desk.past_patience()
    desk.blocks_go_by()
    await desk.sender.drive(intent)
    large, small = await desk.ledger.transactions(intent=intent.id)
    assert (large.call, small.call, small.max_fee * 8 >= large.max_fee * 9) == (0, 1, True)
    desk.escrow._pool = waiting
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE
    assert await desk.states(intent) == [TxState.FINALIZED, TxState.REPLACED]
    assert len(desk.escrow.latest.paid) == 248


async def test_nodes_that_are_stricter_than_their_chain_get_smaller_and_smaller_calls(desk: Desk) -> None:
    desk.escrow.most_gas = 1_000_000
    intent = await desk.begin_claim(100)
    for _ in range(8):
        if (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT:
            break
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE
    again = await desk.sender.begin("claim:2", "claim", None, desk.escrow.call_claim(1, _leaves(desk, intent)))
    assert (await desk.sender.drive(again)).fate is Fate.IN_FLIGHT, "what was learnt is used for the next one"


def _leaves(desk: Desk, intent: Intent) -> list[Claim]:
    return desk.escrow._claims["0x" + intent.data.hex()][1]


async def test_a_call_that_cannot_be_smaller_frees_its_nonce_for_the_next_intent(desk: Desk) -> None:
    desk.escrow.most_gas = 90_000
    intent = await desk.begin()
    assert (await desk.sender.drive(intent)).fate is Fate.NOT_TAKEN
    progress = await desk.sender.drive(intent)
    assert (progress.fate, progress.refusal) == (Fate.NOT_TAKEN, Refusal.TOO_LARGE), "nothing of it is on its way"
    desk.escrow.mine()
    assert (await desk.sender.drive(intent)).fate is Fate.NOT_TAKEN
    desk.escrow.finalize()
    done = await desk.sender.drive(intent)
    assert (done.fate, "gas limit too high" in done.why) == (Fate.FREED, True)
    assert [tx.kind for tx in await desk.ledger.transactions(intent=intent.id)] == ["errand", FREE]
    assert await desk.states(intent) == [TxState.REPLACED, TxState.FINALIZED]
    assert await desk.sender.open_intent() is None
    desk.escrow.most_gas = 2**24
    assert (await desk.begin()).nonce == intent.nonce + 1


async def test_a_nonce_is_freed_of_a_claim_that_is_too_large_and_would_fail_by_now(desk: Desk) -> None:
    intent = await desk.begin_claim(248)
    await desk.sign_as_before(intent, fees=Fees(20, 1))

    async def simulate(call: Call) -> int:
        if call.what == "claim":
            raise RevertedError("NotActive(epoch=1, active=2)")
        return 26_250

    desk.escrow.simulate = simulate  # type: ignore[method-assign]
    await desk.sender.drive(intent)
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.FREED


async def test_a_node_that_limits_what_a_transaction_may_cost_gets_a_lower_offer_and_then_a_smaller_call(
    desk: Desk,
) -> None:
    intent = await desk.begin_claim(100)
    gas = 100_000 + 100 * 70_000
    desk.escrow.most_cost = gas * 15
    assert (await desk.sender.drive(intent)).refusal is Refusal.FEE_CAPPED
    assert (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT
    assert (await desk.fees(intent), await desk.sizes(intent)) == ([21, 13], [100])
    desk.escrow.drop()
    desk.escrow.most_cost = gas * 7
    second = await desk.begin_claim(100)
    assert second == intent, "the same key is the same intent"
    await desk.sender.drive(intent)
    await desk.sender.drive(intent)
    assert (await desk.sizes(intent))[-1] < 100
    assert desk.escrow._pool, "less gas at the same price costs less"
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE


async def test_what_costs_more_than_a_node_allows_and_cannot_be_less_waits_for_a_lower_base_fee(desk: Desk) -> None:
    desk.escrow.base_fee, desk.escrow.most_cost = 100, 100_000 * 50
    intent = await desk.begin()
    for _ in range(5):
        progress = await desk.sender.drive(intent)
        assert (progress.fate, progress.refusal) == (Fate.NOT_TAKEN, Refusal.FEE_CAPPED)
    assert len(await desk.fees(intent)) <= 3, "as first, for the next block, and for this one"
    desk.escrow.base_fee = 30
    await desk.sender.drive(intent)
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE
    assert FREE not in {tx.kind for tx in await desk.ledger.transactions(intent=intent.id)}


async def test_a_process_that_died_before_it_signed_the_smaller_call_signs_that_one(desk: Desk) -> None:
    intent = await desk.begin_claim(248)
    await desk.sign_as_before(intent, fees=Fees(20, 1))
    call = desk.fewer(Call(intent.to, "0x" + intent.data.hex()), Fraction(1, 3))
    assert call is not None
    await desk.ledger.amend_intent(
        intent.id, intent.to, bytes.fromhex(call.data[2:]), "too large", desk.world.clock.now()
    )
    assert (await desk.again().drive(intent)).fate is Fate.IN_FLIGHT
    assert await desk.sizes(intent) == [248, 82]


async def test_an_upgrade_cures_a_claim_that_the_release_before_could_never_send(desk: Desk, tmp_path: Path) -> None:
    """As schema 4 kept it: 17.4 M gas, refused at every pass, and its fee raised up to the cap."""
    path = tmp_path / "schema4.db"
    ledger_of_schema(4, path)
    intent = await desk.begin_claim(248)
    call, versions = Call(intent.to, "0x" + intent.data.hex(), what="claim"), []
    gas = await desk.escrow.simulate(call)
    assert gas > MAX_TX_GAS
    for fee in (21, 400, CAP):
        signed = await desk.escrow.sign(replace(call, gas=gas), 0, Fees(fee, 1))
        versions.append((signed.tx_hash, signed.raw, "Signed", fee))
    stuck_intent(path, "claim", desk.escrow.address, (intent.to, intent.data), versions, 1_767_268_800_000_000)
    async with await SqlLedger.open(path) as ledger:
        desk.ledger = ledger
        (stuck,) = await ledger.intents(open_only=True)
        for _ in range(4):
            await desk.again().drive(stuck)
            desk.escrow.mine()
            desk.escrow.finalize()
        (closed,) = await ledger.intents()
        assert closed.state is IntentState.DONE
        txs = await ledger.transactions(intent=stuck.id)
        assert [tx.state for tx in txs] == [*[TxState.REPLACED] * 3, TxState.FINALIZED]
        assert {tx.nonce for tx in txs} == {0}
        assert len(desk.escrow.latest.paid) == (await desk.sizes(stuck))[-1] < 248
        assert max(tx.max_fee for tx in txs[3:]) < 400


async def test_a_raise_that_passes_a_nodes_limit_comes_down_to_what_is_mined(desk: Desk) -> None:
    """At 140 wei per gas at most, base fee 105, and the version in the pool offers 21: anything from 106 is mined."""
    intent = await desk.begin()
    await desk.sender.drive(intent)
    desk.escrow.most_cost, desk.escrow.base_fee = CALL_GAS * 140, 105
    for _ in range(4):
        assert (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE
    assert await desk.fees(intent) == [21, 211, 120]


async def test_what_a_node_wants_more_for_is_not_raised_above_that_nodes_limit_again(desk: Desk) -> None:
    """Somebody else's transaction of the nonce offers 150, and the node allows 200: no turn of up and down."""
    intent = await desk.begin()
    other = replace(desk.escrow._call("other", lambda _books: None), gas=CALL_GAS)
    await desk.escrow.broadcast(await desk.escrow.sign(other, intent.nonce, Fees(150, 1)))
    desk.escrow.base_fee, desk.escrow.most_cost = 105, CALL_GAS * 200
    for _ in range(40):
        await desk.sender.drive(intent)
    first, lower, *more = await desk.fees(intent)
    assert (first, lower < 200, more == sorted(more)) == (211, True, True)
    assert 165 <= more[-1] <= 200
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE


async def test_a_gas_limit_that_nodes_call_too_low_is_estimated_again_at_its_nonce(desk: Desk) -> None:
    intent = await desk.begin()
    desk.escrow.least_gas = CALL_GAS + 1
    assert (await desk.sender.drive(intent)).refusal is Refusal.GAS_TOO_LOW
    desk.escrow.gas = desk.escrow.least_gas = CALL_GAS * 2
    assert (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT
    txs = await desk.ledger.transactions(intent=intent.id)
    assert [(tx.gas, tx.max_fee, tx.nonce) for tx in txs] == [(CALL_GAS, 21, 0), (2 * CALL_GAS, 21, 0)]
    desk.escrow.gas = CALL_GAS
    desk.past_patience()
    await desk.sender.drive(intent)
    desk.blocks_go_by()
    await desk.sender.drive(intent)
    newest = (await desk.ledger.transactions(intent=intent.id))[-1]
    assert (newest.max_fee > 21, newest.gas) == (True, 2 * CALL_GAS), "a higher fee keeps the limit that was taken"


async def test_a_node_that_wants_more_gas_than_its_estimate_gets_more_up_to_the_most_and_no_endless_versions(
    desk: Desk,
) -> None:
    intent = await desk.begin()
    desk.escrow.least_gas = 10**9
    for _ in range(40):
        progress = await desk.sender.drive(intent)
        assert (progress.fate, progress.refusal) == (Fate.NOT_TAKEN, Refusal.GAS_TOO_LOW)
    txs = await desk.ledger.transactions(intent=intent.id)
    assert (len(txs) < 16, txs[-1].gas, {tx.max_fee for tx in txs}) == (True, MAX_TX_GAS, {21})
    desk.escrow.least_gas = 0
    assert (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT


@pytest.mark.parametrize("leaves", [0, 100])
async def test_a_call_that_a_node_takes_after_all_is_not_replaced_by_the_one_that_gives_it_up(
    desk: Desk, leaves: int
) -> None:
    """The smaller or freeing call was written down, the signer was silent, and then a node took the earlier version."""
    intent = await (desk.begin_claim(leaves) if leaves else desk.begin())
    desk.escrow.most_gas = 90_000
    assert (await desk.sender.drive(intent)).refusal is Refusal.TOO_LARGE
    sign = desk.escrow.sign

    async def silent(*_: object) -> SignedTx:
        raise ChainUnreachableError("the signer gives no answer")

    desk.escrow.sign = silent  # type: ignore[method-assign, assignment]
    with pytest.raises(ChainUnreachableError):
        await desk.sender.drive(intent)
    desk.escrow.sign = sign  # type: ignore[method-assign]
    assert len(await desk.ledger.intent_calls(intent.id)) > 1
    desk.escrow.most_gas = MAX_TX_GAS
    assert (await desk.sender.drive(intent)).fate is Fate.IN_FLIGHT
    for _ in range(2):
        desk.past_patience()
        desk.blocks_go_by()
        await desk.sender.drive(intent)
    txs = await desk.ledger.transactions(intent=intent.id)
    assert len(txs) > 1
    assert {tx.kind for tx in txs} == {intent.kind}
    assert leaves or {tx.call for tx in txs} == {0}
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE


async def test_a_node_that_wants_a_tip_and_suggests_none_gets_one(desk: Desk) -> None:
    desk.escrow.tip, desk.escrow.least_tip = 0, 7
    intent = await desk.begin()
    for _ in range(5):
        await desk.sender.drive(intent)
    txs = await desk.ledger.transactions(intent=intent.id)
    assert {tx.max_fee for tx in txs} == {20}, "what the base fee may ask is paid for already"
    assert 7 <= txs[-1].tip < 14
    desk.escrow.mine()
    desk.escrow.finalize()
    assert (await desk.sender.drive(intent)).fate is Fate.DONE
