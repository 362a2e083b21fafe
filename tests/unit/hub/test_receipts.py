"""Receipts from proposal to ledger: the hub's loop and the agent's desk over one API server, killed anywhere."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.ledgers import readings_of
from tests.unit.hub.chain import stamp
from tests.unit.hub.office import INTERVAL, NAMESPACE, Office, uses
from tests.unit.hub.signing import METER, NEXT_SIGNER, PAYOUT, SIGNER, TENANT, funded
from tests.unit.hub.world import REPORTS, World

from fedgpu_operator.adapters.chain.signers import LocalSigner
from fedgpu_operator.agent.report import Reporter
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.domain.attempts import PairLease
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Receipt
from fedgpu_operator.hub.loops.reports import draft
from fedgpu_operator.settlement.evidence import usage_root
from fedgpu_operator.settlement.typeddata import receipt, recover
from fedgpu_operator.supply import Supply

START = datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_receipt_ends_with_both_signatures_over_what_the_ledger_holds(world: World, office: Office) -> None:
    lease = await funded(world)
    await uses(world, 1000, 1000, final=True)
    await office.hub()
    await office.agent()
    await office.hub()
    (kept,) = await office.kept()
    said = kept.receipt
    # 3.60 USD per GPU-hour is 1000 µUSD per GPU-second.
    assert (said.tenant, said.provider, said.cumulative) == (TENANT, PAYOUT, 1_000_000)
    assert said.usage_root == usage_root([(lease.metadata.name, 1000)])
    assert said.period_end == int(world.clock.now().timestamp())
    digest = receipt(office.domain, said).digest
    assert recover(digest, kept.provider_signature) == SIGNER.address
    assert recover(digest, kept.meter_signature) == METER.address
    assert office.report.spec.receipts == []
    await office.agent()
    assert office.report.status.receipts == []


async def test_while_work_runs_there_is_one_receipt_per_epoch(world: World, office: Office) -> None:
    await funded(world)
    await uses(world, 100, 100)
    for _ in range(2):
        await office.hub()
        await office.agent()
    await uses(world, int(INTERVAL) - 1, 600)
    await office.hub()
    assert len(await office.kept()) == 1
    assert office.report.spec.receipts == []
    await uses(world, 1, 700)
    await office.hub()
    assert [each.cumulative for each in office.report.spec.receipts] == ["0.70"]


async def test_the_figures_of_a_receipt_are_evidence_from_its_draft_on(world: World, office: Office) -> None:
    lease = await funded(world)
    await uses(world, 100, 100)
    assert (await world.ledger.head()).chains["usage_records"].length == 0
    await office.hub()
    await uses(world, 100, 200)
    await office.agent()
    await office.hub()
    (kept,) = await office.kept()
    first, newest = await readings_of(world.ledger, lease.metadata.name)
    assert (first.gpu_seconds, newest.gpu_seconds) == (100, 200)
    assert kept.receipt.usage_root == usage_root([(lease.metadata.name, first.gpu_seconds)])
    assert (await world.ledger.head()).chains["usage_records"].length == 1


async def test_where_nothing_runs_any_more_no_epoch_is_waited_for(world: World, office: Office) -> None:
    await funded(world)
    await uses(world, 100, 100)
    for step in (office.hub, office.agent, office.hub):
        await step()
    await uses(world, 1, 101, final=True)
    await office.hub()
    assert [each.cumulative for each in office.report.spec.receipts] == ["0.101"]


async def test_a_proposal_stays_until_it_is_signed_or_an_epoch_old(world: World, office: Office) -> None:
    await funded(world)
    await uses(world, 100, 100)
    await office.hub()
    (first,) = office.report.spec.receipts
    writes = len(world.kube.writes)
    await uses(world, 100, 200)
    written = [write for write in world.kube.writes[writes:] if write[1] == REPORTS.plural]
    await office.hub()
    assert (office.report.spec.receipts, written) == ([first], [])
    await uses(world, int(INTERVAL), 800)
    await office.hub()
    (second,) = office.report.spec.receipts
    assert second.cumulative == "0.80"
    await office.agent()
    await office.hub()
    assert [kept.receipt.cumulative for kept in await office.kept()] == [800_000]


async def test_the_period_ends_where_the_oldest_of_what_runs_was_read(world: World, office: Office) -> None:
    await funded(world)
    await uses(world, 100, 100)
    read = int(world.clock.now().timestamp())
    world.clock.forward(50)
    await office.hub()
    (proposal,) = office.report.spec.receipts
    assert proposal.period_end == read


def test_the_period_ends_before_anything_that_may_be_missing() -> None:
    def lease(name: str, seen: int | None, *, running: bool) -> PairLease:
        return PairLease(
            name, MicroUSD(3_600_000), 60, None if seen is None else START + timedelta(seconds=seen), running
        )

    done, late = lease("a", 500, running=False), lease("b", 700, running=False)
    slow, fast = lease("c", 300, running=True), lease("d", 650, running=True)
    new = lease("e", None, running=True)
    began = int(START.timestamp())
    for leases, end in (
        ([done, late], 700),
        ([done, late, fast], 650),
        ([done, slow, fast, late, new], 300),
        ([done, new], 500),
    ):
        made = draft((TENANT, PAYOUT), leases, (), None)
        assert made is not None
        assert made.period_end == began + end
    last = Receipt(TENANT, PAYOUT, MicroUSD(1), began + 900, "0x" + "00" * 32)
    again = draft((TENANT, PAYOUT), [done], (), last)
    assert again is not None
    assert again.period_end == began + 900, "it never falls"


async def test_an_old_receipt_put_back_stops_nothing(world: World, office: Office) -> None:
    await funded(world)
    await uses(world, 100, 100)
    await office.hub()
    old = copy.deepcopy(office.world.kube.objects[REPORTS.plural, NAMESPACE, "berlin"]["spec"]["receipts"])
    for step in (office.agent, office.hub):
        await step()
    await uses(world, int(INTERVAL), 700, final=True)
    for step in (office.hub, office.agent, office.hub):
        await step()
    await world.kube.patch(REPORTS, "berlin", NAMESPACE, {"spec": {"receipts": old}})
    await office.desk().serve([])
    assert len(office.report.status.receipts) == 1
    await office.hub()
    assert [kept.receipt.cumulative for kept in await office.kept()] == [100_000, 700_000]
    assert office.report.spec.receipts == []


@pytest.mark.parametrize("key", [NEXT_SIGNER, METER])
async def test_a_receipt_that_another_key_signed_is_not_kept(world: World, office: Office, key: LocalSigner) -> None:
    await funded(world)
    await uses(world, 100, 100, final=True)
    await office.hub()
    await office.agent(key)
    await office.hub()
    assert await office.kept() == ()
    assert len(office.report.spec.receipts) == 1, "it waits for the right one"
    await office.agent()
    await office.hub()
    assert len(await office.kept()) == 1


async def test_a_signature_under_other_figures_is_not_kept(world: World, office: Office) -> None:
    """Whoever may write the status puts an old signature, or one of another pair, beside the proposal."""
    await funded(world)
    await uses(world, 100, 100, final=True)
    await office.hub()
    (proposal,) = office.report.spec.receipts
    other = receipt(office.domain, proposal.model_copy(update={"cumulative": "99.00"}).to_domain())
    true = receipt(office.domain, proposal.to_domain())
    stolen = {
        "tenant": TENANT,
        "provider": PAYOUT,
        "digest": "0x" + true.digest.hex(),
        "signature": "0x" + (await SIGNER.sign_typed(other)).hex(),
    }
    await world.kube.patch_status(REPORTS, "berlin", NAMESPACE, {"status": {"receipts": [stolen]}})
    await office.hub()
    assert await office.kept() == ()


async def test_a_provider_without_signer_or_proven_wallet_is_asked_for_nothing(world: World, office: Office) -> None:
    await funded(world, signer=None)
    await uses(world, 100, 100, final=True)
    await office.hub()
    assert office.report.spec.receipts == []


async def test_a_report_in_a_foreign_namespace_gets_no_proposal(world: World, office: Office) -> None:
    await funded(world)
    meta = {"name": "berlin", "namespace": "aaa-elsewhere"}
    await world.kube.create(REPORTS, {"metadata": meta, "spec": {"provider": "berlin"}})
    await uses(world, 100, 100, final=True)
    await office.hub()
    fake = ProviderReport.parse(world.kube.objects[REPORTS.plural, "aaa-elsewhere", "berlin"])
    assert fake.spec.receipts == []
    assert len(office.report.spec.receipts) == 1


# ---- what the agent does not sign


def _lower(proposal: JSONObject) -> None:
    proposal["cumulative"] = "0.08"


def _foreign(proposal: JSONObject) -> None:
    proposal["provider"] = TENANT


def _late(proposal: JSONObject) -> None:
    proposal["periodEnd"] += 3600


@pytest.mark.parametrize("change", [_lower, _foreign, _late])
async def test_the_agent_does_not_sign_what_harms_its_owner(world: World, office: Office, change: Any) -> None:
    await funded(world)
    await uses(world, 100, 100, final=True)
    await office.hub()
    spec = world.kube.objects[REPORTS.plural, NAMESPACE, "berlin"]["spec"]
    change(spec["receipts"][0])
    await office.agent()
    assert office.report.status.receipts == []


async def test_the_agent_signs_nothing_lower_than_before_even_of_work_it_sees_no_more(
    world: World, office: Office
) -> None:
    await funded(world)
    await uses(world, 100, 100, final=True)
    await office.hub()
    desk = office.desk()
    await desk.serve([])
    assert len(office.report.status.receipts) == 1
    spec = world.kube.objects[REPORTS.plural, NAMESPACE, "berlin"]["spec"]
    spec["receipts"][0]["cumulative"] = "0.09"
    await desk.serve([])
    assert office.report.status.receipts == []


async def test_what_is_in_dispute_is_admitted_and_the_rest_is_signed(world: World, office: Office) -> None:
    await funded(world)
    await uses(world, 100, 5000, final=True)
    await office.hub()
    (proposal,) = office.report.spec.receipts
    assert (proposal.cumulative, proposal.disputed) == ("0.10", "4.90")
    await office.agent()
    await office.hub()
    assert [kept.receipt.cumulative for kept in await office.kept()] == [100_000]


async def test_a_signature_is_made_once_and_stays_over_other_reports(world: World, office: Office) -> None:
    await funded(world)
    await uses(world, 100, 100, final=True)
    await office.hub()
    desk = office.desk()
    await desk.serve(world.leases)
    writes = len(world.kube.writes)
    await desk.serve(world.leases)
    assert world.kube.writes[writes:] == []
    reporter = Reporter("berlin", world.kube, AgentSettings(NAMESPACE, "hub"), world.clock)
    await reporter.report(Supply((), (), {}), "v1.36.3")
    assert len(office.report.status.receipts) == 1, "inventory is written beside it, not over it"


async def test_a_receipt_that_the_escrow_refuses_now_is_kept_for_when_that_is_undone(
    world: World, office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    """An EIP-7702 delegation can be undone; a signature that was not taken cannot be had later."""
    world.wallets.deaf |= {SIGNER.address, METER.address}
    await funded(world)
    await uses(world, 1000, 1000, final=True)
    for step in (office.hub, office.agent, office.hub):
        await step()
    (kept,) = await office.kept()
    assert recover(receipt(office.domain, kept.receipt).digest, kept.provider_signature) == SIGNER.address
    assert "the escrow refuses what the meter" in caplog.text


async def test_what_only_the_signers_code_accepts_is_taken_and_anything_else_is_not(
    world: World, office: Office
) -> None:
    """The accepted signer has no key here: its code says what it signed, as the escrow will ask it."""
    await funded(world)
    await uses(world, 1000, 1000, final=True)
    await office.hub()
    (proposal,) = office.report.spec.receipts
    digest = receipt(office.domain, proposal.to_domain()).digest
    for signature, taken in ((b"\x01" * 65, 0), (stamp(SIGNER.address, digest), 1)):
        signed = [
            {"tenant": TENANT, "provider": PAYOUT, "digest": "0x" + digest.hex(), "signature": "0x" + signature.hex()}
        ]
        await world.kube.patch_status(REPORTS, "berlin", NAMESPACE, {"status": {"receipts": signed}})
        await office.hub()
        assert len(await office.kept()) == taken
