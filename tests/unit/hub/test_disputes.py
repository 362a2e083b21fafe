"""The hub shows what backs a disputed amount, once, and closes what can be closed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eth_account import Account
from eth_utils.address import to_checksum_address
from tests.unit.hub.bank import OWNER, PAIR, TENANT, USED, Bank
from tests.unit.hub.chain import stamp

from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import DisputeState, Receipt
from fedgpu_operator.domain.transactions import Call
from fedgpu_operator.errors import ChainUnreachableError
from fedgpu_operator.hub.disputes import DisputeKeeper
from fedgpu_operator.settlement.typeddata import NO_ADDRESS, escrow_domain, receipt

METER = Account.from_key("0x" + "77" * 32)
WHOLE = 1_250_000


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


async def receipt_of(bank: Bank, cumulative: int, *, provider: str = OWNER) -> None:
    made = Receipt(TENANT, provider, MicroUSD(cumulative), 1_767_268_800, "0x" + "11" * 32)
    digest = receipt(escrow_domain(bank.escrow.chain_id, bank.escrow.escrow), made).digest
    signature = bytes(METER.unsafe_sign_hash(digest).signature)
    await bank.ledger.append_receipt(made, stamp(provider, digest), signature, bank.world.clock.now())


async def errand(bank: Bank) -> str:
    urgent, waiting = await DisputeKeeper(bank.ledger, bank.escrow).errands()
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
    keeper = DisputeKeeper(bank.ledger, bank.escrow)

    async def silent(_call: Call) -> int:
        raise ChainUnreachableError("no answer")

    with monkeypatch.context() as away:
        away.setattr(bank.escrow, "simulate", silent)
        with pytest.raises(ChainUnreachableError):
            await keeper.errands()
    urgent, _ = await keeper.errands()
    assert urgent is not None
