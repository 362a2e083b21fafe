"""The settlement loop against an escrow in memory: drops, reverts, reorgs, cancels and crashes pay everybody once."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from eth_utils.address import to_checksum_address
from tests.ledgers import coverage_of, open_attempt, readings_of
from tests.unit.hub.bank import OWNER, PAIR, TENANT, USED, Bank
from tests.unit.hub.chain import WINDOW
from tests.unit.hub.world import PROVIDERS, TEAM, Crash, World

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.ledger import LedgerHead
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import DisputeState, EpochStage, TxReceipt
from fedgpu_operator.domain.transactions import TxState
from fedgpu_operator.errors import ChainUnreachableError, StatePrunedError, UnreachableError
from fedgpu_operator.ports import ResourceType


async def test_one_step_a_pass_from_the_ledger_to_paid(bank: Bank) -> None:
    await bank.step(mine=False, final=False)
    assert await bank.stages() == ["Posted"]
    assert bank.says("Posted") == ("True", "Broadcast")
    assert bank.says("Finalized") == ("False", "AwaitingFinality")
    bank.escrow.mine()
    await bank.step(mine=False, final=False)
    assert await bank.stages() == ["Posted"], "a receipt alone is no finality"
    bank.escrow.finalize()
    await bank.step()
    assert await bank.stages() == ["Finalized"]
    assert bank.says("Paid") == ("False", "ChallengeWindow")
    assert bank.paid == 0
    bank.escrow.jump(WINDOW)
    await bank.step(final=False)
    assert bank.paid == 1_250_000
    await bank.step(final=False)
    assert await bank.stages() == ["Finalized"], "paid is what the finalized chain shows"
    bank.escrow.finalize()
    await bank.step()
    assert await bank.stages() == ["Paid"]
    assert bank.says("Paid") == ("True", "Paid")
    status = bank.object().status
    assert (status.state, status.paid) == ("Paid", "1.25")
    assert status.transactions.post.startswith("0x")
    assert status.transactions.claim.startswith("0x")
    assert bank.world.metrics.paid_total == 1_250_000
    covered = await coverage_of(bank.ledger, "job-1")
    assert (covered.complete, covered.stage) == (True, EpochStage.PAID)


async def test_the_first_epoch_of_all_is_due_one_interval_after_the_first_work_however_often_it_restarts(
    world: World,
) -> None:
    bank = Bank(world)
    world.clock.forward(3600)
    await bank.step()
    await bank.used(USED)
    bank.escrow.fund(TENANT, 100)
    for _ in range(60):
        await bank.step()
        assert await bank.stages() == []
    await bank.step()
    assert await bank.stages() == ["Posted"]


async def test_nothing_owed_posts_nothing(bank: Bank) -> None:
    await bank.to_the_end()
    sent = len(bank.escrow.sent)
    bank.world.clock.forward(120)
    await bank.to_the_end()
    assert len(bank.escrow.sent) == sent
    assert await bank.stages() == ["Paid"]


async def test_what_the_hub_did_not_take_of_an_ended_epoch_is_shown_when_it_does(bank: Bank) -> None:
    def refuses(verb: str, plural: str, name: str) -> None:
        if plural == "settlementepochs" and bank.paid:
            raise UnreachableError(f"{verb} {name}: the hub is away")

    bank.world.kube.before, loop = refuses, bank.loop()
    await bank.to_the_end()
    for _ in range(3):
        await bank.step(loop=loop)
    assert await bank.stages() == ["Paid"]
    assert bank.object(1).status.state != "Paid"
    bank.world.kube.before = lambda verb, plural, name: None
    await bank.step(loop=loop)
    assert bank.object(1).status.state == "Paid"


async def test_the_next_epoch_waits_for_its_time_and_pays_only_what_is_new(bank: Bank) -> None:
    await bank.to_the_end()
    await bank.used(1800, "second")
    bank.world.clock.forward(120)
    await bank.to_the_end()
    assert await bank.stages() == ["Paid", "Paid"]
    assert bank.paid == 1_875_000
    second = bank.object(2)
    assert (second.spec.total, second.status.paid) == ("0.625", "0.625")
    assert bank.world.metrics.paid_total == 1_875_000


async def test_a_dropped_post_is_sent_again_with_the_same_bytes(bank: Bank) -> None:
    bank.escrow.loses = True
    await bank.step()
    await bank.step()
    bank.escrow.loses = False
    await bank.to_the_end()
    assert sum(raw.startswith(b"post") for raw in bank.escrow.sent) >= 3
    assert len(bank.posts()) == 1
    assert await bank.stages() == ["Paid"]
    assert bank.paid == 1_250_000


@pytest.mark.parametrize("kind", [b"claim", b"post"])
async def test_a_transaction_whose_nonce_another_one_took_is_signed_anew(bank: Bank, kind: bytes) -> None:
    while not any(raw.startswith(kind) for raw in bank.escrow.sent):
        bank.escrow.jump(WINDOW + 1)
        await bank.step(mine=False)
        if not bank.escrow.sent[-1].startswith(kind):
            bank.escrow.mine()
            bank.escrow.finalize()
    bank.escrow.take_nonce()
    bank.escrow.finalize()
    await bank.to_the_end()
    assert len({raw for raw in bank.escrow.sent if raw.startswith(kind)}) == 2
    assert bank.paid == 1_250_000
    assert await bank.stages() == ["Paid"]


async def test_a_post_that_a_reorg_took_away_is_sent_again_with_the_same_bytes(bank: Bank) -> None:
    await bank.step(final=False)
    await bank.step(mine=False, final=False)
    bank.escrow.reorg()
    await bank.to_the_end()
    assert len(bank.posts()) == 1
    assert bank.paid == 1_250_000
    assert await bank.stages() == ["Paid"]


async def test_a_post_the_contract_refused_is_given_up_and_its_usage_settled_anew(bank: Bank) -> None:
    await bank.step(mine=False)
    bank.escrow.latest.seq += 1
    bank.escrow.mine()
    await bank.step(mine=False, final=False)
    assert await bank.stages() == ["Posted"], "a receipt that is not final abandons nothing"
    bank.escrow.finalize()
    await bank.step()
    bank.world.clock.forward(60)
    await bank.to_the_end()
    assert await bank.stages() == ["Abandoned", "Paid"]
    assert bank.paid == 1_250_000
    assert bank.says("Posted") == ("False", "NotAccepted")
    first = (await bank.ledger.transactions(epoch=1))[0]
    assert first.state is TxState.REVERTED


async def test_a_post_that_would_revert_is_never_sent(bank: Bank) -> None:
    bank.escrow.refuses = "StaleState"
    await bank.step()
    assert bank.escrow.sent == []
    assert await bank.stages() == [], "what the contract would refuse is not even an epoch"
    bank.escrow.refuses = ""
    await bank.to_the_end()
    assert (await bank.stages())[-1] == "Paid"
    assert bank.paid == 1_250_000


async def test_what_an_epoch_pays_is_in_the_chain_that_its_manifest_names(bank: Bank) -> None:
    now = bank.world.clock.now()
    terms = AttemptRequest("long", "1", TEAM, "long", "berlin", "H100", MicroUSD(1_250_000), 1, 86_400, *PAIR)
    running = (await open_attempt(bank.ledger, terms, now)).lease_name
    for sequence in range(1, 9):
        await bank.ledger.record_usage(running, sequence, 450 * sequence, now + timedelta(seconds=sequence))
    before = (await bank.ledger.head()).chains["usage_records"].length
    bank.escrow.refuses = "StaleState"
    for _ in range(3):
        bank.world.clock.forward(120)
        await bank.step()
    assert (await bank.ledger.head()).chains["usage_records"].length == before, "an epoch that is put off seals nothing"
    bank.escrow.refuses = ""
    bank.world.clock.forward(120)
    await bank.step()
    (epoch,) = await bank.ledger.epochs()
    assert {cover.lease_name: cover.gpu_seconds for cover in epoch.draft.covers} == {"job-1": USED, running: 3600}
    named = LedgerHead.parse(epoch.draft.ledger_head).chains["usage_records"]
    assert named.length == before + 1
    assert json.loads(epoch.draft.manifest)["ledger"] == epoch.draft.ledger_head
    assert (await readings_of(bank.ledger, running))[-1].gpu_seconds == 3600
    assert (await bank.ledger.verify()).sound


async def test_a_debit_that_no_longer_fits_holds_up_nobody_and_is_settled_later(bank: Bank) -> None:
    other = str(to_checksum_address("0x" + "cc" * 20))
    bank.escrow.fund(other, 100)
    await bank.used(USED, "theirs", tenant="others", wallets=(other, OWNER))
    await bank.step(mine=False)
    held = bank.escrow.latest.accounts[TENANT]
    bank.escrow.latest.accounts[TENANT] = replace(held, balance=MicroUSD(0))
    await bank.to_the_end()
    assert bank.escrow.latest.paid == {(other, OWNER): 1_250_000, PAIR: 0}
    assert await bank.stages() == ["Paid"]
    assert bank.says("Paid") == ("True", "PaidInPart")
    assert not (await coverage_of(bank.ledger, "job-1")).complete, "what was not taken waits for the next epoch"
    assert (await coverage_of(bank.ledger, "theirs-1")).stage is EpochStage.PAID
    bank.escrow.latest.accounts[TENANT] = held
    bank.escrow.finalize()
    bank.world.clock.forward(60)
    await bank.to_the_end()
    assert bank.paid == 1_250_000
    assert (await coverage_of(bank.ledger, "job-1")).stage is EpochStage.PAID


async def test_a_cancelled_epoch_is_settled_anew_and_nothing_is_paid_twice(bank: Bank) -> None:
    for _ in range(3):
        await bank.step()
    assert await bank.stages() == ["Finalized"]
    bank.escrow.cancel(1)
    await bank.step()
    assert bank.says("Paid") == ("False", "CancelledByGuardian")
    bank.world.clock.forward(60)
    await bank.to_the_end()
    assert await bank.stages() == ["Cancelled", "Paid"]
    assert bank.paid == 1_250_000
    assert bank.escrow.latest.accounts[TENANT].balance == 98_750_000


async def test_a_lost_claim_is_sent_again_and_a_refused_one_is_made_anew(bank: Bank) -> None:
    for _ in range(3):
        await bank.step()
    bank.escrow.jump(WINDOW)
    bank.escrow.loses = True
    await bank.step()
    await bank.step()
    claims = [raw for raw in bank.escrow.sent if raw.startswith(b"claim")]
    assert len(claims) == 2
    assert len(set(claims)) == 1
    bank.escrow.loses = False
    for _ in range(3):
        await bank.step()
    assert await bank.stages() == ["Paid"]
    assert bank.paid == 1_250_000


async def live_and_die(bank: Bank, monkeypatch: pytest.MonkeyPatch, method: str, *, after: bool, passes: int) -> None:
    """So many passes, in which every other write of that kind ends the process, before or after it; it must happen."""
    real, deaths = getattr(bank.ledger, method), [0]

    async def dying(*args: object, **kwargs: object) -> object:
        deaths[0] += 1
        if deaths[0] % 2:
            if after:
                await real(*args, **kwargs)
            raise Crash(method)
        return await real(*args, **kwargs)

    monkeypatch.setattr(bank.ledger, method, dying)
    for round_ in range(passes):
        try:
            await bank.step()
        except Crash:
            bank.escrow.mine()
            bank.escrow.finalize()
        if round_ == 12:
            bank.escrow.jump(WINDOW)
    assert deaths[0]


@pytest.mark.parametrize(
    "method", ["store_epoch", "open_intent", "store_tx", "mark_tx", "close_intent", "mark_epoch", "post"]
)
@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_around_any_write_of_the_ledger_pays_once(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, method: str, after: bool
) -> None:
    """The process dies right before or after each kind of write, again and again; no money moves twice."""
    await live_and_die(bank, monkeypatch, method, after=after, passes=24)
    assert (await bank.stages())[-1] == "Paid"
    assert bank.paid == 1_250_000
    assert bank.escrow.latest.accounts[TENANT].balance == 98_750_000
    assert len(bank.posts()) == 1, "the bytes that were kept are the bytes that are sent"


async def test_a_silent_chain_ends_the_pass_and_changes_no_stage(bank: Bank) -> None:
    await bank.step()
    before = await bank.stages()
    bank.escrow.silent = True
    with pytest.raises(ChainUnreachableError):
        await bank.step()
    assert await bank.stages() == before
    bank.escrow.silent = False
    await bank.to_the_end()
    assert bank.paid == 1_250_000


async def test_what_the_escrow_cannot_carry_is_paid_in_part_and_stays_owed(bank: Bank) -> None:
    await bank.used(3600 * 99, "long")
    await bank.to_the_end()
    assert bank.paid == 100_000_000
    first, long = await coverage_of(bank.ledger, "job-1"), await coverage_of(bank.ledger, "long-1")
    assert first.complete
    assert not long.complete, "a lease that is paid in part is not settled"
    bank.escrow.fund(TENANT, 25)
    bank.world.clock.forward(120)
    await bank.to_the_end()
    assert bank.paid == 125_000_000
    assert (await coverage_of(bank.ledger, "long-1")).complete


async def test_work_without_wallets_is_never_settled_whatever_is_named_later(world: World) -> None:
    bank = Bank(world)
    await bank.used(USED, wallets=("", ""))
    await world.provider("berlin", payout={"address": OWNER})
    await world.account(TENANT)
    bank.escrow.fund(TENANT, 100)
    await bank.to_the_end()
    assert await bank.stages() == []


async def test_another_payout_wallet_earns_from_then_on_and_gets_nothing_of_the_past(bank: Bank) -> None:
    await bank.to_the_end()
    later = str(to_checksum_address("0x" + "66" * 20))
    await bank.world.kube.patch(PROVIDERS, "berlin", "", {"spec": {"payout": {"address": later}}})
    bank.world.clock.forward(60)
    await bank.to_the_end()
    assert await bank.stages() == ["Paid"], "no epoch for what was paid already"
    await bank.used(1800, "second", wallets=(TENANT, later))
    await bank.to_the_end()
    assert bank.escrow.latest.paid == {PAIR: 1_250_000, (TENANT, later): 625_000}
    assert bank.escrow.latest.accounts[TENANT].balance == 98_125_000


async def test_a_wallet_that_moved_to_another_namespace_still_pays_for_what_it_uses(bank: Bank) -> None:
    await bank.to_the_end()
    await bank.world.kube.delete(ResourceType.of(ComputeAccount.info), "default", TEAM)
    await bank.world.account(TENANT, namespace="elsewhere")
    await bank.used(1800, "second", tenant="elsewhere")
    bank.world.clock.forward(60)
    await bank.to_the_end()
    assert bank.paid == 1_875_000


async def test_somebody_else_may_claim(bank: Bank) -> None:
    bank.auto_claim = False
    for _ in range(3):
        await bank.step()
    bank.escrow.jump(WINDOW)
    await bank.step()
    assert bank.says("Paid") == ("False", "AwaitingClaim")
    bank.escrow.latest.paid[PAIR] = 1_250_000
    bank.escrow.finalize()
    await bank.step()
    assert bank.says("Paid") == ("True", "Paid")
    assert not [raw for raw in bank.escrow.sent if raw.startswith(b"claim")]


async def test_the_epochs_object_is_made_again_when_somebody_deleted_it(bank: Bank) -> None:
    await bank.to_the_end()
    before = bank.object()
    del bank.world.kube.objects["settlementepochs", "", "epoch-1"]
    await bank.step()
    again = bank.object()
    assert again.spec == before.spec
    assert again.status.state == "Paid"


async def test_finality_in_the_middle_of_a_pass_leaves_no_intent_behind(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key's nonce is read first and the books later: a block that is final in between ends an epoch early."""
    receipt = bank.escrow.receipt

    async def final_by_now(tx_hash: str) -> TxReceipt | None:
        found = await receipt(tx_hash)
        bank.escrow.finalize()
        return found

    monkeypatch.setattr(bank.escrow, "receipt", final_by_now)
    for second in ("", "second", "third"):
        if second:
            await bank.used(1800, second)
            bank.world.clock.forward(120)
        for _ in range(8):
            bank.escrow.latest.timestamp += WINDOW + 1
            bank.escrow.latest.settle_head()
            await bank.step(final=False)
    assert await bank.stages() == ["Paid", "Paid", "Paid"]
    assert bank.paid == 2_500_000


def wallet(number: int) -> str:
    return str(to_checksum_address(f"0x{number:040x}"))


async def crowd(bank: Bank, tenants: int, providers: int) -> None:
    """That many tenants owe that many providers a dollar and more each, one line for each provider."""
    for number in range(max(tenants, providers)):
        pair = (wallet(1_000 + number % tenants), wallet(2_000_000 + number % providers))
        bank.escrow.fund(pair[0], 1_000_000)
        await bank.used(USED, f"job-{number}", tenant=f"team-{number % tenants}", wallets=pair)
    bank.world.clock.forward(60)


async def test_an_epoch_with_more_providers_than_one_transaction_can_pay_is_claimed_in_several(world: World) -> None:
    """210 lines of one provider each made one claim of 17.4 M gas, which no node takes."""
    bank = Bank(world)
    await crowd(bank, 1, 210)
    bank.escrow.line_gas = 83_000
    await bank.to_the_end()
    for _ in range(4):
        await bank.step()
    assert await bank.stages() == ["Paid"]
    assert sorted(bank.escrow.latest.paid.values()) == [1_250_000] * 210
    claims = [tx for tx in await bank.ledger.transactions(epoch=1) if tx.kind == "claim"]
    assert [tx.state for tx in claims] == [TxState.FINALIZED] * 2, "as few as fit, and none that had to be replaced"


async def test_a_post_that_fits_no_transaction_takes_fewer_tenants_and_the_next_epoch_the_rest(world: World) -> None:
    bank = Bank(world)
    await crowd(bank, 8, 8)
    bank.escrow.debit_gas = 3_000_000
    await bank.to_the_end()
    assert bank.object(1).spec.tenants == 4
    bank.world.clock.forward(60)
    await bank.to_the_end()
    assert await bank.stages() == ["Paid", "Paid"]
    assert sorted(bank.escrow.latest.paid.values()) == [1_250_000] * 8


async def test_a_post_that_every_node_calls_too_large_is_given_up_and_settled_by_smaller_ones(world: World) -> None:
    """The chain's own limits would allow it, so only the nodes' answer shows it; the loop restarts at every pass."""
    bank = Bank(world)
    await crowd(bank, 8, 8)
    bank.escrow.debit_gas, bank.escrow.most_gas = 1_000_000, 2_500_000
    await bank.step()
    assert await bank.stages() == ["Prepared"], "what no node takes is not posted"
    assert bank.says("Posted") == ("False", "TooLarge")
    assert "gas limit too high" in bank.message("Posted")
    for _ in range(4):
        await bank.step()
    assert (await bank.stages())[0] == "Abandoned"
    for _ in range(100):
        await bank.step()
        bank.world.clock.forward(10)
        bank.escrow.jump(WINDOW)
        if len(bank.escrow.latest.paid) == 8:
            break
    assert sorted(bank.escrow.latest.paid.values()) == [1_250_000] * 8, "never both, and nobody twice"
    posted = [len(each.debits or {}) for each in bank.escrow.latest.posted.values()]
    assert (sum(posted), max(posted)) == (8, 2)


@pytest.mark.parametrize("method", ["amend_intent", "store_tx", "mark_tx", "close_intent", "mark_epoch"])
@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_around_any_write_that_makes_a_claim_smaller_pays_once(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str, after: bool
) -> None:
    bank = Bank(world)
    await crowd(bank, 1, 8)
    bank.escrow.line_gas, bank.escrow.most_gas = 500_000, 3_000_000
    await live_and_die(bank, monkeypatch, method, after=after, passes=40)
    assert await bank.stages() == ["Paid"]
    assert sorted(bank.escrow.latest.paid.values()) == [1_250_000] * 8
    calls = [await bank.ledger.intent_calls(intent.id) for intent in await bank.ledger.intents()]
    assert max(map(len, calls)) > 1, "a claim was made smaller"


async def test_a_post_that_was_mined_after_all_is_not_given_up(bank: Bank) -> None:
    """A node had it while the others called it too large, and the self-transfer that frees its nonce comes too late."""
    bank.escrow.most_gas = 50_000
    await bank.step()
    (post,) = await bank.ledger.transactions(epoch=1)
    await bank.step(mine=False, final=False)
    assert [tx.kind for tx in await bank.ledger.transactions(epoch=1)] == ["post", "free"]
    bank.escrow._pool = {post.nonce or 0: post.tx_hash}
    bank.escrow.mine()
    bank.escrow.finalize()
    bank.escrow.most_gas = 2**24
    await bank.to_the_end()
    assert await bank.stages() == ["Paid"]
    assert bank.paid == 1_250_000
    assert [tx.state for tx in (await bank.ledger.transactions(epoch=1))[:2]] == [TxState.FINALIZED, TxState.REPLACED]


@pytest.mark.parametrize(
    ("attribute", "reason"), [("purse", "InsufficientFunds"), ("most_cost", "FeeCapped"), ("most_gas", "TooLarge")]
)
async def test_an_epoch_is_not_called_posted_while_no_node_takes_its_transaction(
    bank: Bank, attribute: str, reason: str
) -> None:
    usual = getattr(bank.escrow, attribute)
    setattr(bank.escrow, attribute, 0)
    await bank.step()
    assert await bank.stages() == ["Prepared"]
    assert bank.says("Posted") == ("False", reason)
    assert "no node takes the transaction" in bank.message("Posted")
    assert bank.object().status.state == "Pending"
    setattr(bank.escrow, attribute, usual)
    await bank.step(mine=False)
    assert await bank.stages() == ["Posted"]
    assert bank.says("Posted") == ("True", "Broadcast")
    await bank.to_the_end()
    assert bank.paid == 1_250_000


async def test_a_claim_that_no_node_takes_says_so(bank: Bank) -> None:
    for _ in range(3):
        await bank.step()
    bank.escrow.jump(WINDOW)
    bank.escrow.purse = 0
    await bank.step()
    assert bank.says("Paid") == ("False", "InsufficientFunds")
    assert "insufficient funds" in bank.message("Paid")
    bank.escrow.purse = 10**30
    for _ in range(3):
        await bank.step()
    assert bank.says("Paid") == ("True", "Paid")


async def test_disputes_that_cannot_be_read_do_not_stop_the_next_epoch(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def disputes() -> tuple[DisputeState, ...]:
        raise StatePrunedError("eth_getLogs: block range is too large")

    monkeypatch.setattr(bank.escrow, "disputes", disputes)
    loop = bank.loop()
    for _ in range(8):
        await bank.step(loop=loop)
    bank.escrow.jump(WINDOW)
    for _ in range(4):
        await bank.step(loop=loop)
    assert await bank.stages() == ["Paid"]
    assert sum("disputes cannot be read" in each.message for each in caplog.records) == 1, "once, not at every pass"
