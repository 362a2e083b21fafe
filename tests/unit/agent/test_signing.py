"""The agent signs every reading that it writes, and signs the last one again when its key is another."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.unit.agent.test_lease import RUNNING, Bench

from fedgpu_operator.adapters.chain.signers import LocalSigner
from fedgpu_operator.agent.decide import ConditionState
from fedgpu_operator.agent.lease import LeaseReconciler
from fedgpu_operator.agent.signing import Signing, UsageSigner
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.domain.usage import UsageReading
from fedgpu_operator.settlement.evidence import usage_statement
from fedgpu_operator.settlement.typeddata import hub_domain, recover, signed_by

CHAIN, ESCROW, PAYOUT = 31337, "0x" + "11" * 20, "0x" + "22" * 20
KEY, OTHER = LocalSigner("0x" + "c3" * 32), LocalSigner("0x" + "d4" * 32)


class CountingSigner:
    """A key that counts what it signs."""

    def __init__(self, key: LocalSigner) -> None:
        self.key, self.signed = key, 0

    @property
    def address(self) -> str:
        return self.key.address

    async def sign_typed(self, data: Any) -> bytes:
        self.signed += 1
        return await self.key.sign_typed(data)


def bench(make: Any, lease: ComputeLease, key: Any = KEY) -> Bench:
    made = Bench(make, lease)
    take(made, key)
    return made


def take(made: Bench, key: Any) -> None:
    """As an agent that was started anew with that key."""
    old = made.reconciler
    signer = UsageSigner(Signing(key, PAYOUT, CHAIN, ESCROW)) if key is not None else None
    made.reconciler = LeaseReconciler(made.kube, old._workloads, old._settings, made.clock, signer)


def who_signed(lease: ComputeLease) -> str:
    """Recovered as the hub does it, from nothing but the object."""
    reading = lease.status.usage.to_domain()
    assert reading is not None
    sequence = lease.spec.sequence_base + reading.sequence
    data = usage_statement(hub_domain(CHAIN, ESCROW), lease.metadata.name, sequence, reading)
    return recover(data.digest, lease.status.usage.signature)


async def test_every_reading_that_is_written_is_signed(make: Any) -> None:
    made = bench(make, make.lease(verdicts=RUNNING, workload_uid="job-uid"))
    for _ in range(3):
        assert await made.step(job=make.member_job(), pods=(make.pod(ago=10),)) == ["status"]
        assert who_signed(made.lease) == KEY.address
        made.clock.at += timedelta(seconds=15.25)


async def test_a_dispatch_is_signed_too(make: Any) -> None:
    made = bench(make, make.lease())
    await made.step()
    assert who_signed(made.lease) == KEY.address


async def test_without_a_key_nothing_is_signed_and_no_old_signature_stays(make: Any) -> None:
    made = bench(make, make.lease(verdicts=RUNNING, workload_uid="job-uid"))
    await made.step(job=make.member_job(), pods=(make.pod(ago=10),))
    take(made, None)
    made.clock.at += timedelta(seconds=15)
    await made.step(job=make.member_job(), pods=(make.pod(ago=10),))
    assert made.lease.status.usage.signature == ""


@pytest.mark.parametrize("before", [OTHER, None])
async def test_an_ended_lease_is_signed_again_after_a_rotation_and_then_left_alone(
    make: Any, before: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []

    def noted(address: str, digest: bytes, signature: bytes | str) -> bool:
        checked.append(address)
        return signed_by(address, digest, signature)

    monkeypatch.setattr("fedgpu_operator.agent.signing.signed_by", noted)
    made = bench(make, make.lease(verdicts=RUNNING, workload_uid="job-uid"), before)
    job, pods = make.member_job(("Complete", "")), (make.pod(phase="Succeeded", exit_code=0),)
    await made.step(job=job, pods=pods)
    assert made.lease.status.state == "Succeeded"
    usage = made.lease.status.usage
    key = CountingSigner(KEY)
    take(made, key)
    assert await made.step(job=job, pods=pods) == ["status"]
    assert who_signed(made.lease) == KEY.address
    assert made.lease.status.usage.model_copy(update={"signature": usage.signature}) == usage, "no figure moves"
    for _ in range(3):
        assert await made.step(job=job, pods=pods) == []
    assert key.signed == 1
    assert len(checked) == (2 if before else 1), "once per version of the lease"


async def test_a_lease_made_again_signs_on_from_the_ledgers_sequence(make: Any) -> None:
    lease = make.lease(verdicts=RUNNING, workload_uid="job-uid")
    again = lease.model_copy(update={"spec": lease.spec.model_copy(update={"sequence_base": 40})})
    made = bench(make, again)
    await made.step(job=make.member_job(), pods=(make.pod(ago=10),))
    reading = made.lease.status.usage.to_domain()
    assert reading is not None
    data = usage_statement(hub_domain(CHAIN, ESCROW), lease.metadata.name, 41, reading)
    assert recover(data.digest, made.lease.status.usage.signature) == KEY.address


async def test_what_is_forgotten_is_looked_at_again(make: Any) -> None:
    """An end is checked once per version of its object, and a bounded memory holds only leases that exist."""
    made = bench(make, make.lease(verdicts={"Complete": ConditionState("True", "Succeeded")}))
    signer = made.reconciler._signer
    assert signer is not None
    await made.step()
    signer.forget({"lease-uid"})
    signer.forget(set())
    assert signer._sound == {}


async def test_a_reading_that_nobody_can_have_taken_keeps_no_workload_from_its_stop(make: Any) -> None:
    far = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    running = UsageReading(1, 5, make.now, None, far)
    shown = make.lease(desired="Stop", verdicts=RUNNING, usage=running, workload_uid="job-uid")
    made = bench(make, shown)
    await made.step()
    assert made.reason("Running") != "Running"
    assert made.lease.status.usage.observed_at == make.now
    assert who_signed(made.lease) == KEY.address


async def test_a_running_lease_is_signed_again_at_once_after_a_rotation(make: Any) -> None:
    """The hub bills nothing that the key before has signed, and an old lease's next reading may be minutes away."""
    made = bench(make, make.lease(verdicts=RUNNING, workload_uid="job-uid"), OTHER)
    job, pods = make.member_job(), (make.pod(ago=10),)
    await made.step(job=job, pods=pods)
    assert await made.step(job=job, pods=pods) == []
    key = CountingSigner(KEY)
    take(made, key)
    made.clock.at += timedelta(seconds=1)
    assert await made.step(job=job, pods=pods) == ["status"]
    assert who_signed(made.lease) == KEY.address
    made.clock.at += timedelta(seconds=1)
    assert await made.step(job=job, pods=pods) == []
    assert key.signed == 1
