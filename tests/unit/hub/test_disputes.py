"""The hub shows what backs a disputed amount, once, and closes what can be closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from eth_account import Account
from eth_utils.address import to_checksum_address
from tests.unit.hub.bank import OWNER, PAIR, TENANT, USED, Bank
from tests.unit.hub.chain import WINDOW, stamp

from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import (
    Answer,
    ChainSnapshot,
    DisputeState,
    EpochState,
    Pair,
    Receipt,
    SignedTx,
)
from fedgpu_operator.domain.transactions import Call
from fedgpu_operator.errors import (
    ChainError,
    ChainUnreachableError,
    NotTakenError,
    Refusal,
    RevertedError,
    StatePrunedError,
)
from fedgpu_operator.hub.services.dispute_answers import CALL_GAS, REFUSED, UNREAD, DisputeKeeper
from fedgpu_operator.settlement import Room
from fedgpu_operator.settlement.typeddata import NO_ADDRESS, escrow_domain, receipt

METER = Account.from_key("0x" + "77" * 32)
WHOLE = 1_250_000
ROOM = Room(12_000_000)


async def room() -> Room:
    return ROOM


async def posted(bank: Bank) -> None:
    """Epoch 1 stands and is in its window."""
    for _ in range(3):
        await bank.step()
    assert await bank.stages() == ["Finalized"]


def dispute(bank: Bank, amount: int = WHOLE, *, provider: str = OWNER, ruled: bool = False) -> DisputeState:
    deadline = bank.escrow.final.timestamp + 1_000
    made = DisputeState(1, TENANT, provider, MicroUSD(amount), MicroUSD(0), MicroUSD(0), deadline, ruled=ruled)
    bank.escrow.disputed = [made]
    return made


async def receipt_of(bank: Bank, cumulative: int, *, provider: str = OWNER, tenant: str = TENANT) -> None:
    made = Receipt(tenant, provider, MicroUSD(cumulative), 1_767_268_800, "0x" + "11" * 32)
    digest = receipt(escrow_domain(bank.escrow.chain_id, bank.escrow.escrow), made).digest
    signature = bytes(METER.unsafe_sign_hash(digest).signature)
    await bank.ledger.append_receipt(made, stamp(provider, digest), signature, bank.world.clock.now())


def keeper_of(bank: Bank) -> DisputeKeeper:
    return DisputeKeeper(bank.ledger, bank.escrow, bank.world.clock)


async def errand(bank: Bank) -> str:
    urgent, waiting = await keeper_of(bank).errands(room)
    found = urgent or waiting
    return found.key if found is not None else ""


async def test_a_receipt_that_backs_the_amount_is_shown_with_the_meters_name(bank: Bank) -> None:
    await posted(bank)
    await receipt_of(bank, WHOLE)
    dispute(bank)
    await bank.step()
    (shown,) = bank.escrow.answered[-1]
    assert (shown.receipt.cumulative, shown.provider, shown.meter) == (WHOLE, OWNER, METER.address)


@pytest.mark.parametrize(("cumulative", "key"), [(WHOLE - 1, f"answer:1:{TENANT}:{OWNER}:{WHOLE - 1}"), (0, "")])
async def test_a_receipt_backs_what_it_covers_of_the_disputed_top(bank: Bank, cumulative: int, key: str) -> None:
    await posted(bank)
    if cumulative:
        await receipt_of(bank, cumulative)
    dispute(bank)
    assert await errand(bank) == key


async def test_what_was_shown_already_is_not_shown_again(bank: Bank) -> None:
    await posted(bank)
    await receipt_of(bank, WHOLE)
    made = dispute(bank)
    bank.escrow.disputed = [replace(made, shown=made.amount)]
    assert await errand(bank) == ""


async def test_a_dispute_that_names_no_provider_is_answered_with_every_line_of_the_tenant(bank: Bank) -> None:
    await posted(bank)
    await receipt_of(bank, WHOLE)
    account = bank.escrow.final.accounts[TENANT]
    assert account.pending == WHOLE
    bank.escrow.jump(600)
    bank.escrow.latest.accounts[TENANT] = type(account)(account.balance, MicroUSD(0), MicroUSD(0), account.limit)
    bank.escrow.finalize()
    dispute(bank, provider=NO_ADDRESS)
    assert await errand(bank) == f"answer:1:{TENANT}:{NO_ADDRESS}:{WHOLE}"
    await bank.step()
    (shown,) = bank.escrow.answered[-1]
    assert shown.lines[shown.index].cumulative == WHOLE


async def test_it_is_closed_when_its_time_is_over_or_the_arbiter_has_ruled_and_not_before(bank: Bank) -> None:
    await posted(bank)
    dispute(bank)
    assert await errand(bank) == ""
    dispute(bank, ruled=True)
    assert await errand(bank) == f"close:1:{TENANT}:{OWNER}"
    dispute(bank)
    bank.escrow.jump(1_000)
    assert await errand(bank) == f"close:1:{TENANT}:{OWNER}"


async def test_a_dispute_of_a_cancelled_epoch_is_closed_before_the_next_epoch_begins(bank: Bank) -> None:
    await posted(bank)
    dispute(bank)
    bank.escrow.cancel(1)
    bank.world.clock.forward(60)
    await bank.step(mine=False)
    assert [tx.kind for tx in await bank.ledger.transactions(pending_only=True)] == ["close"]
    assert await bank.stages() == ["Cancelled"]
    bank.escrow.mine()
    await bank.to_the_end()
    assert await bank.stages() == ["Cancelled", "Paid"]
    assert bank.escrow.latest.paid[PAIR] == WHOLE


async def test_many_disputes_that_can_be_closed_do_not_put_off_the_next_epoch(bank: Bank) -> None:
    await bank.to_the_end()
    made = dispute(bank, ruled=True)
    bank.escrow.disputed = [replace(made, tenant=f"0x{number:040x}") for number in range(9)]
    await bank.used(1800, "second")
    bank.world.clock.forward(60)
    await bank.step()
    assert await bank.stages() == ["Paid", "Posted"]


async def test_a_receipt_whose_signer_was_exchanged_is_left_out_and_the_others_are_shown(bank: Bank) -> None:
    other = str(to_checksum_address("0x" + "dd" * 20))
    await bank.used(USED, "theirs", wallets=(TENANT, other))
    await posted(bank)
    await receipt_of(bank, WHOLE)
    await receipt_of(bank, WHOLE, provider=other)
    bank.escrow.signers[other] = TENANT
    account = bank.escrow.final.accounts[TENANT]
    bank.escrow.jump(600)
    bank.escrow.latest.accounts[TENANT] = replace(account, allocated=MicroUSD(0), pending=MicroUSD(0))
    bank.escrow.finalize()
    dispute(bank, 2 * WHOLE, provider=NO_ADDRESS)
    await bank.step()
    (shown,) = bank.escrow.answered[-1]
    assert shown.provider == OWNER


async def test_an_answer_that_a_silent_chain_swallowed_is_shown_again(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    await posted(bank)
    await receipt_of(bank, WHOLE)
    dispute(bank)
    keeper = keeper_of(bank)

    async def silent(_call: Call) -> int:
        raise ChainUnreachableError("no answer")

    with monkeypatch.context() as away:
        away.setattr(bank.escrow, "simulate", silent)
        assert await keeper.errands(room) == (None, None)
    bank.world.clock.forward(UNREAD.first.total_seconds())
    urgent, _ = await keeper.errands(room)
    assert urgent is not None


async def three_lines(bank: Bank) -> list[str]:
    """Three providers with a line and a receipt each, and the tenant's dispute of the whole debit."""
    others = [str(to_checksum_address("0x" + byte * 20)) for byte in ("cc", "dd")]
    for number, other in enumerate(others):
        await bank.used(USED, f"theirs-{number}", wallets=(TENANT, other))
    await posted(bank)
    bank.escrow.jump(600)
    account = bank.escrow.latest.accounts[TENANT]
    bank.escrow.latest.accounts[TENANT] = replace(account, allocated=MicroUSD(0), pending=MicroUSD(0))
    bank.escrow.finalize()
    for provider in (OWNER, *others):
        await receipt_of(bank, WHOLE, provider=provider)
    dispute(bank, 3 * WHOLE, provider=NO_ADDRESS)
    return [OWNER, *others]


def providers_of(answers: Sequence[Answer]) -> list[str]:
    return [each.provider for each in answers]


@pytest.mark.parametrize("seen", ["finalized", "newest block"])
async def test_a_signer_that_got_code_is_left_out_alone_and_shown_when_that_is_undone(bank: Bank, seen: str) -> None:
    _, culprit, _ = owners = await three_lines(bank)
    refusing = bank.escrow.deaf if seen == "finalized" else bank.escrow.moody
    refusing.add(culprit)
    keeper = keeper_of(bank)
    urgent, _ = await keeper.errands(room)
    assert urgent is not None
    assert urgent.key.endswith(f":{2 * WHOLE}")
    await bank.run(urgent.call)
    assert providers_of(bank.escrow.answered[-1]) == [each for each in owners if each != culprit]
    assert await keeper.errands(room) == (None, None), "nothing more can be shown while it has code"
    refusing.clear()
    bank.escrow.jump(1)
    bank.world.clock.forward(REFUSED.first.total_seconds())
    urgent, _ = await keeper.errands(room)
    assert urgent is not None
    await bank.run(urgent.call)
    assert providers_of(bank.escrow.answered[-1]) == owners
    assert (await bank.escrow.disputes())[0].shown == 3 * WHOLE


async def test_what_the_contract_refuses_is_tried_again_with_growing_pauses_and_after_a_new_final_block(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    await posted(bank)
    await receipt_of(bank, WHOLE)
    made = dispute(bank)
    bank.escrow.disputed = [replace(made, deadline=made.deadline + 86_400)]
    bank.escrow.moody.add(OWNER)
    keeper, tries = keeper_of(bank), 0
    simulate = bank.escrow.simulate

    async def counted(call: Call) -> int:
        nonlocal tries
        tries += 1
        return await simulate(call)

    monkeypatch.setattr(bank.escrow, "simulate", counted)
    for _ in range(60):
        await keeper.errands(room)
        bank.world.clock.forward(60)
        bank.escrow.jump(1)
    assert tries == 7, "at 0, 1, 3, 7, 15, 31 and 47 minutes"
    bank.world.clock.forward(3600)
    await keeper.errands(room)
    before = tries
    bank.world.clock.forward(3600)
    await keeper.errands(room)
    assert tries == before, "no block became final since"
    bank.escrow.moody.clear()
    bank.escrow.jump(1)
    urgent, _ = await keeper.errands(room)
    assert urgent is not None


async def test_a_dispute_that_cannot_be_read_holds_up_no_other(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    await posted(bank)
    await receipt_of(bank, WHOLE)
    made = dispute(bank)
    first = replace(made, tenant=str(to_checksum_address("0x" + "99" * 20)), deadline=made.deadline - 1)
    bank.escrow.disputed = [first, made]
    snapshot = bank.escrow.snapshot

    async def broken(tenants: Sequence[str], pairs: Sequence[Pair]) -> ChainSnapshot:
        if first.tenant in tenants:
            raise ChainUnreachableError("header not found")
        return await snapshot(tenants, pairs)

    monkeypatch.setattr(bank.escrow, "snapshot", broken)
    assert await errand(bank) == f"answer:1:{TENANT}:{OWNER}:{WHOLE}"


async def test_no_answer_is_tried_in_the_arbiters_half(bank: Bank) -> None:
    await posted(bank)
    await receipt_of(bank, WHOLE)
    made = dispute(bank)
    bank.escrow.jump(1_000 - WINDOW // 2 - 1)
    assert await errand(bank)
    bank.escrow.jump(1)
    assert await errand(bank) == ""
    assert made.deadline > bank.escrow.final.timestamp


BATCH = str(to_checksum_address("0x" + "ba" * 20))


async def many_lines(bank: Bank, count: int, *, batch: str | None = BATCH) -> list[DisputeState]:
    """As many tenants' disputes of their lines, with a receipt for each and deadlines one second apart."""
    await posted(bank)
    bank.escrow.batch_at = batch
    made = dispute(bank)
    found = []
    for number in range(count):
        tenant = str(to_checksum_address(f"0x{number + 1:040x}"))
        bank.escrow.fund(tenant, 100)
        await receipt_of(bank, WHOLE, tenant=tenant)
        found.append(replace(made, tenant=tenant, deadline=made.deadline + count - number))
    bank.escrow.disputed = found
    return found


def bundled(bank: Bank, call: Call) -> list[str]:
    """What a bundle holds, by the tenants' addresses."""
    return [bank.escrow.words[each.data].split()[2] for each in bank.escrow.bundled[call.data]]


async def test_answers_are_bundled_by_deadline_up_to_the_gas_of_a_transaction(bank: Bank) -> None:
    found = await many_lines(bank, 40)
    bank.escrow.gas = 500_000
    keeper = keeper_of(bank)
    urgent, _ = await keeper.errands(room)
    assert urgent is not None
    soonest = [each.tenant for each in reversed(found)]
    fit = (ROOM.gas - CALL_GAS) // (500_000 - CALL_GAS)
    assert bundled(bank, urgent.call) == soonest[:fit]
    assert (urgent.kind, urgent.key.split(":")[:2]) == ("answer", ["answer", "bundle"])
    assert (await keeper_of(bank).errands(room))[0] == urgent, "the same content has the same key after a restart"
    await bank.run(urgent.call)
    urgent, _ = await keeper.errands(room)
    assert urgent is not None
    assert bundled(bank, urgent.call) == soonest[fit:]
    await bank.run(urgent.call)
    assert {each.shown for each in await bank.escrow.disputes()} == {WHOLE}
    assert await keeper.errands(room) == (None, None)


async def test_a_bundle_that_no_node_takes_is_made_smaller_at_the_same_nonce(bank: Bank) -> None:
    await many_lines(bank, 40)
    bank.escrow.gas, bank.escrow.most_gas = 500_000, 4_000_000
    before = (await bank.escrow.nonces(bank.escrow.address)).latest
    for _ in range(30):
        await bank.step()
    assert {each.shown for each in await bank.escrow.disputes()} == {WHOLE}
    answers = [each for each in await bank.ledger.intents() if each.kind == "answer"]
    assert len({each.nonce for each in answers}) == len(answers), "one nonce each, whatever it took"
    assert 40 / 8 <= len(answers) <= 12
    sent = (await bank.escrow.nonces(bank.escrow.address)).latest - before
    assert sent == len(answers), "no nonce was used up for nothing"


async def test_without_a_batch_contract_there_is_one_answer_per_transaction(bank: Bank) -> None:
    found = await many_lines(bank, 3, batch=None)
    urgent, _ = await keeper_of(bank).errands(room)
    assert urgent is not None
    assert urgent.key == f"answer:1:{found[-1].tenant}:{OWNER}:{WHOLE}"


@pytest.mark.parametrize("error", [RevertedError("no"), NotTakenError("block gas limit", Refusal.TOO_LARGE)])
async def test_a_batch_contract_that_serves_for_nothing_holds_up_no_answer(
    bank: Bank, error: ChainError, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await many_lines(bank, 3)
    simulate = bank.escrow.simulate

    async def refused(call: Call) -> int:
        if call.data in bank.escrow.bundled:
            raise error
        return await simulate(call)

    monkeypatch.setattr(bank.escrow, "simulate", refused)
    assert await errand(bank) == f"answer:1:{found[-1].tenant}:{OWNER}:{WHOLE}"


async def test_what_somebody_else_did_first_does_not_void_the_bundle(bank: Bank) -> None:
    first, second, third = await many_lines(bank, 3)
    keeper = keeper_of(bank)
    urgent, _ = await keeper.errands(room)
    assert urgent is not None
    bank.escrow.latest.closed.add((1, second.tenant, OWNER))
    await bank.run(urgent.call)
    assert {each.tenant: each.shown for each in await bank.escrow.disputes()} == {
        first.tenant: WHOLE,
        third.tenant: WHOLE,
    }


async def test_answers_and_closings_are_bundled_apart(bank: Bank) -> None:
    found = await many_lines(bank, 4)
    bank.escrow.disputed = [replace(each, ruled=number < 2) for number, each in enumerate(found)]
    urgent, waiting = await keeper_of(bank).errands(room)
    assert urgent is not None
    assert waiting is not None
    assert bundled(bank, urgent.call) == [found[3].tenant, found[2].tenant]
    assert (waiting.kind, bundled(bank, waiting.call)) == ("close", [found[1].tenant, found[0].tenant])
    await bank.run(waiting.call)
    assert [each.tenant for each in await bank.escrow.disputes()] == [found[2].tenant, found[3].tenant]


async def test_a_cancelled_epochs_closing_and_an_answer_do_not_share_a_bundle(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await many_lines(bank, 4)
    cancelled = [replace(each, epoch=2, deadline=each.deadline - 100) for each in found[:2]]
    bank.escrow.disputed = [*cancelled, *found[2:]]
    finalized_epoch = bank.escrow.finalized_epoch

    async def second_is_cancelled(number: int) -> EpochState:
        state = await finalized_epoch(1)
        return replace(state, number=number, cancelled=number == 2)

    monkeypatch.setattr(bank.escrow, "finalized_epoch", second_is_cancelled)
    urgent, waiting = await keeper_of(bank).errands(room)
    assert urgent is not None
    assert (urgent.kind, bundled(bank, urgent.call), waiting) == ("close", [each.tenant for each in found[1::-1]], None)


async def test_an_account_with_code_is_asked_last_and_once_per_transaction(bank: Bank) -> None:
    first, second, third = await many_lines(bank, 3)
    other = str(to_checksum_address("0x" + "c0" * 20))
    bank.escrow.coded.add(other)
    for each in (third, second):
        await receipt_of(bank, WHOLE, provider=other, tenant=each.tenant)
    bank.escrow.disputed = [first, *(replace(each, provider=other) for each in (second, third))]
    urgent, _ = await keeper_of(bank).errands(room)
    assert urgent is not None
    assert bundled(bank, urgent.call) == [first.tenant, third.tenant], "what it burns is nobody else's"


@pytest.mark.parametrize("how", ["moved", "coded"])
async def test_who_may_have_voided_an_answer_is_left_out_of_the_next(bank: Bank, how: str) -> None:
    """A delegation right before the answer, undone right after: finalized and newest block show nothing of it."""
    _, culprit, _ = owners = await three_lines(bank)
    if how == "coded":
        bank.escrow.coded.add(culprit)
    keeper = keeper_of(bank)
    urgent, _ = await keeper.errands(room)
    assert urgent is not None
    assert urgent.key.endswith(f":{3 * WHOLE}")
    if how == "moved":
        bank.escrow.sent_by[culprit] = 2
    bank.escrow.jump(1)
    urgent, _ = await keeper.errands(room)
    assert urgent is not None
    assert urgent.key.endswith(f":{2 * WHOLE}")
    await bank.run(urgent.call)
    assert providers_of(bank.escrow.answered[-1]) == [each for each in owners if each != culprit]
    bank.escrow.jump(1)
    bank.world.clock.forward(REFUSED.first.total_seconds())
    urgent, _ = await keeper.errands(room)
    assert urgent is not None, "and it is taken in again later"
    assert urgent.key.endswith(f":{3 * WHOLE}")


@pytest.mark.parametrize("how", ["estimated", "refused by nodes"])
async def test_an_answer_that_no_transaction_can_hold_shows_what_backs_the_most(
    bank: Bank, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = await three_lines(bank)

    async def simulate(call: Call) -> int:
        count = sum(bank.escrow.words[call.data].count(each) for each in owners)
        if how != "estimated" and count > 2:
            raise NotTakenError("transaction gas limit too high", Refusal.TOO_LARGE)
        return 5_000_000 * count

    monkeypatch.setattr(bank.escrow, "simulate", simulate)
    # Half of the second line is paid already, so that its receipt backs the least.
    bank.escrow.latest.paid[TENANT, owners[1]] = bank.escrow.final.paid[TENANT, owners[1]] = WHOLE // 2
    urgent, _ = await keeper_of(bank).errands(room)
    assert urgent is not None
    await bank.run(urgent.call)
    shown = providers_of(bank.escrow.answered[-1])
    assert shown == ([owners[0], owners[2]] if how == "estimated" else [owners[0]])


async def test_the_loop_sends_a_bundle_as_one_transaction(bank: Bank) -> None:
    await many_lines(bank, 5)
    for _ in range(3):
        await bank.step()
    intents = [intent for intent in await bank.ledger.intents() if intent.kind == "answer"]
    assert len(intents) == 1
    assert {each.shown for each in await bank.escrow.disputes()} == {WHOLE}


def refuse(bank: Bank, monkeypatch: pytest.MonkeyPatch, kind: str, why: Refusal = Refusal.OTHER) -> None:
    """No node takes a transaction of that kind."""
    broadcast = bank.escrow.broadcast

    async def picky(signed: SignedTx) -> str:
        if signed.raw.startswith(kind.encode()):
            raise NotTakenError("the words of a gateway", why)
        return await broadcast(signed)

    monkeypatch.setattr(bank.escrow, "broadcast", picky)


async def minutes(bank: Bank, count: int) -> None:
    for _ in range(count):
        bank.escrow.jump(60)
        bank.world.clock.forward(60)
        await bank.step()


@pytest.mark.parametrize("why", [Refusal.OTHER, Refusal.POOR, Refusal.FEE_CAPPED])
async def test_a_claim_that_no_node_takes_gives_way_to_an_answer(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, why: Refusal
) -> None:
    await posted(bank)
    await receipt_of(bank, WHOLE)
    bank.escrow.jump(WINDOW)
    with monkeypatch.context() as patched:
        refuse(bank, patched, "claim", why)
        await bank.step()
        made = dispute(bank)
        await minutes(bank, 4)
        assert {tx.kind for tx in await bank.ledger.transactions(epoch=1)} == {"post", "claim"}, "not at once"
        await minutes(bank, 4)
    assert bank.escrow.answered
    assert bank.escrow.final.timestamp < made.deadline
    await minutes(bank, 3)
    assert (bank.paid, await bank.stages()) == (WHOLE, ["Paid"]), "claimed again after that, once"


async def test_a_claim_that_no_node_takes_keeps_its_nonce_while_nothing_urgent_waits(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    await posted(bank)
    bank.escrow.jump(WINDOW)
    refuse(bank, monkeypatch, "claim")
    await minutes(bank, 10)
    assert {tx.kind for tx in await bank.ledger.transactions(epoch=1)} == {"post", "claim"}


async def test_a_post_that_no_node_takes_gives_way_and_its_usage_is_settled_by_the_next(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    await posted(bank)
    await receipt_of(bank, WHOLE)
    bank.escrow.jump(WINDOW)
    for _ in range(4):
        await bank.step()
    assert await bank.stages() == ["Paid"]
    bank.world.clock.forward(120)
    await bank.used(USED, "second")
    with monkeypatch.context() as patched:
        refuse(bank, patched, "post")
        await bank.step()
        dispute(bank)
        await minutes(bank, 4)
        assert "Abandoned" not in await bank.stages()
        assert bank.says("Posted", 2) == ("False", "NotTaken")
        await minutes(bank, 4)
        assert bank.escrow.answered
        assert (await bank.stages())[1] == "Abandoned"
    await minutes(bank, 30)
    assert bank.paid == 2 * WHOLE


async def test_claims_one_after_the_other_do_not_put_off_an_answer(bank: Bank) -> None:
    """Whatever ends makes room for what is urgent, and not for the next claim of the same epoch."""
    await posted(bank)
    await receipt_of(bank, WHOLE)
    dispute(bank)
    bank.escrow.latest.timestamp = bank.escrow.final.timestamp = bank.escrow.latest.epochs[0].active_at
    bank.escrow.latest.settle_head()
    bank.escrow.finalize()
    await bank.step()
    assert [bool(bank.escrow.answered), bank.paid] == [True, 0]
    for _ in range(3):
        await bank.step()
    assert bank.paid == WHOLE


async def pruned(*_: object) -> ChainSnapshot:
    raise StatePrunedError("it drops old logs")


async def test_logs_that_disputes_need_and_no_node_has_are_an_obstacle_until_they_are_back(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    await posted(bank)
    loop = bank.loop()
    with monkeypatch.context() as patched:
        patched.setattr(bank.escrow, "disputes", pruned)
        await bank.step(loop=loop)
        assert loop.pruned == "it drops old logs"
    await bank.step(loop=loop)
    assert loop.pruned == ""


async def test_state_that_one_dispute_needs_is_an_obstacle_until_it_was_read(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    await posted(bank)
    dispute(bank)
    keeper = keeper_of(bank)
    with monkeypatch.context() as patched:
        patched.setattr(bank.escrow, "snapshot", pruned)
        await keeper.errands(room)
    await keeper.errands(room)
    assert keeper.pruned == "it drops old logs", "it rests, and was not read since"
    bank.world.clock.forward(60)
    await keeper.errands(room)
    assert keeper.pruned == ""


async def test_what_is_over_is_shown_though_the_rest_of_every_pass_fails(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bank.to_the_end()
    del bank.world.kube.objects["settlementepochs", "", "epoch-1"]

    async def silent(*_: object) -> int:
        raise ChainUnreachableError("over rate limit")

    loop = bank.loop()
    monkeypatch.setattr(loop, "_idle", silent)
    with pytest.raises(ChainUnreachableError):
        await bank.step(loop=loop)
    assert bank.says("Paid") == ("True", "Paid")
