"""A hostile member that keeps to the law of HTTP: big, slow, odd of words. What it costs us, and others, has bounds."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest
from tests.unit.hub.fakes import FakeClock, FakeKube

from fedgpu_lab.kubeconfig import render
from fedgpu_lab.pki import new_server_identity
from fedgpu_operator.adapters.clock import SystemClock
from fedgpu_operator.adapters.kube.client import Allowance, Budget, KubeClient
from fedgpu_operator.adapters.kube.kubeconfig import member_client
from fedgpu_operator.agent import KEPT, Agent, AgentSettings
from fedgpu_operator.api.base import Condition, find
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.providerreport import AGENT_LEASE, ProviderReport
from fedgpu_operator.domain.text import is_clean
from fedgpu_operator.ports import COORDINATION_LEASES, ResourceType

ROOT = Path(__file__).resolve().parents[3]
LEASES = ResourceType.of(ComputeLease.info)
REPORTS = ResourceType.of(ProviderReport.info)
MEMORY = 256 * 2**20
"""More than the operator has without the hostile member, at any moment."""
STALL = 2.0
"""Seconds for which nothing else of the operator runs: half of it would be one parsing of the largest object."""
PASSES = 20


@dataclass(frozen=True)
class Members:
    """The servers of `members.py`."""

    port: int
    ca_pem: str

    def kubeconfig(self, which: str) -> str:
        server = f"https://127.0.0.1:{self.port}/{which}"
        return render(name=which, server=server, ca_pem=self.ca_pem, token="x")


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    identity = new_server_identity(tmp_path)
    command = [sys.executable, "-m", "tests.unit.agent.members", str(identity.cert_file), str(identity.key_file)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        yield Members(int(process.stdout.readline()), identity.ca_pem)
        process.kill()


@dataclass
class Site:
    """The operator's side of one member: an agent and the hub that it reports to."""

    agent: Agent
    client: KubeClient
    hub: FakeKube
    pings: list[float] = field(default_factory=list)

    @property
    def reachable(self) -> Condition | None:
        """What the report says of the member."""
        found = self.hub.objects.get((REPORTS.plural, "ns", self.agent.provider))
        return find(ProviderReport.parse(found).status.conditions, "Reachable") if found else None


@asynccontextmanager
async def site(
    members: Members, which: str, allowance: Allowance | None = None, *, patience: float = 15.0
) -> AsyncIterator[Site]:
    budget = Budget(allowance or Allowance(), time.monotonic())
    client = KubeClient.of_member(member_client(members.kubeconfig(which)), KEPT, budget)
    client._timeout = patience
    hub = FakeKube(FakeClock(datetime(2026, 1, 1, tzinfo=UTC)))
    settings = AgentSettings(
        "ns",
        "hub",
        resync=0.05,
        inventory_interval=0.05,
        renew_interval=0.05,
        backoff_most=0.2,
        answer_timeout=patience,
    )
    agent = Agent(which, hub, client, settings, SystemClock())
    made = Site(agent, client, hub)
    ask = client.server_version

    async def noted() -> str:
        answer = await ask()
        made.pings.append(time.monotonic())
        return answer

    client.server_version = noted  # type: ignore[method-assign]  # what a pass begins with
    run = asyncio.create_task(agent.run())
    try:
        yield made
        assert not run.done(), "its loop goes on whatever it is sent"
    finally:
        await agent.aclose()
        await asyncio.gather(run, return_exceptions=True)
        await client.close()


async def until(what: Callable[[], Any], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110  # it is another program that it waits for
            await asyncio.sleep(0.01)


class Strain:
    """The longest stall of the event loop, and by how much the process grew at its largest."""

    async def __aenter__(self) -> Self:
        self.stall = 0.0
        self._before = reset_peak()
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        self.growth = peak() - self._before

    async def _tick(self) -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.01)
            self.stall = max(self.stall, time.monotonic() - begun)


def reset_peak() -> int:
    """Bytes that the process has resident now, from which its largest size counts."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Bytes of the largest resident size since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize(
    ("which", "reasons"),
    [
        ("version", {"AnswerTooLarge"}),
        ("pages", {"MemberTooLarge", "BudgetExceeded"}),
        ("dense", {"MemberTooLarge", "BudgetExceeded"}),
        ("crumbs", {"MemberTooLarge", "BudgetExceeded"}),
        ("flood", {"MemberTooLarge", "BudgetExceeded"}),
    ],
)
async def test_what_is_big_costs_the_operator_little_and_a_job_elsewhere_nothing(
    members: Members, which: str, reasons: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedgpu_operator.reflector.SYNC_PATIENCE_SECONDS", 1.0)
    allowance = Allowance(received=64 * 2**20, seconds=3.0)
    async with site(members, "honest") as honest, Strain() as strain:
        await until(lambda: len(honest.pings) > 2)
        async with site(members, which, allowance) as hostile:
            await until(lambda: hostile.reachable is not None and hostile.reachable.reason in reasons)
            before = len(honest.pings)
            await until(lambda: len(honest.pings) >= before + PASSES)
            assert hostile.reachable is not None
            # Too large is known; what cannot be read to its end is not.
            assert hostile.reachable.status == ("False" if hostile.reachable.reason == "MemberTooLarge" else "Unknown")
        assert honest.reachable is not None
        assert honest.reachable.status == "True"
        assert honest.agent.reachable
    assert strain.growth < MEMORY
    assert strain.stall < STALL


async def shrink(members: Members) -> None:
    """Let the members that can shrink do so."""
    client = KubeClient.of_member(member_client(members.kubeconfig("shrink")), KEPT)
    await client.server_version()
    await client.close()


async def test_a_member_that_grows_without_end_is_refused_until_it_shrinks(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its count is given up at the bound; its watches, its heartbeat and its leases go on."""
    monkeypatch.setattr("fedgpu_operator.supply.tally.MAX_PODS", 1000)
    async with site(members, "crowd") as large:
        await until(lambda: large.reachable is not None)
        assert large.reachable is not None
        assert (large.reachable.status, large.reachable.reason) == ("False", "MemberTooLarge")
        assert "more than 1000 pods" in large.reachable.message
        renewed = [heartbeat(large)]
        await until(lambda: heartbeat(large) != renewed[0])
        await shrink(members)
        await until(lambda: large.reachable is not None and large.reachable.status == "True")


def heartbeat(made: Site) -> Any:
    """When the agent last showed that its member answers."""
    found = made.hub.objects.get((COORDINATION_LEASES.plural, "ns", AGENT_LEASE), {})
    return found.get("spec", {}).get("renewTime")


async def test_a_member_with_more_of_ours_than_may_be_held_has_its_leases_followed_one_by_one(
    members: Members, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedgpu_operator.agent.watch.PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("fedgpu_operator.agent.watch.MOST_HELD", 2**20)
    async with site(members, "swollen") as large:
        lease = make.lease(workload_uid="job-uid").to_wire()
        lease["metadata"]["namespace"], lease["spec"]["provider"] = "ns", "swollen"
        await large.hub.create(LEASES, lease)
        await until(lambda: large.reachable is not None)
        assert large.reachable is not None
        assert (large.reachable.status, large.reachable.reason) == ("False", "MemberTooLarge")
        assert re.search(r"\d+ pods to be followed take more than 1 MiB of memory", large.reachable.message)
        kept = large.hub.objects[LEASES.plural, "ns", make.lease_name]
        await until(lambda: kept["status"]["state"] == "Failed")
        await until(lambda: heartbeat(large) is not None)
        await shrink(members)
        await until(lambda: large.reachable is not None and large.reachable.status == "True")


async def test_what_is_slow_ends_with_its_call(members: Members) -> None:
    async with site(members, "drip", patience=0.5) as slow:
        await until(lambda: slow.reachable is not None)
        assert slow.reachable is not None
        assert (slow.reachable.status, slow.reachable.reason) == ("Unknown", "Unreachable")


async def test_odd_texts_are_clean_before_they_reach_a_status_or_the_log(
    members: Members, caplog: pytest.LogCaptureFixture, make: Any
) -> None:
    async with site(members, "texts") as odd:
        lease = make.lease(workload_uid="job-uid").to_wire()
        lease["metadata"]["namespace"], lease["spec"]["provider"] = "ns", "texts"
        await odd.hub.create(LEASES, lease)
        kept = odd.hub.objects[LEASES.plural, "ns", make.lease_name]
        await until(lambda: odd.reachable is not None and kept["status"]["state"] == "Failed")
        assert odd.reachable is not None
        assert (odd.reachable.status, odd.reachable.reason) == ("False", "Forbidden")
        assert "owned" in odd.reachable.message
        assert kept["status"]["exitMessage"].startswith("it broke \ufffd")
        assert is_clean(json.dumps(list(odd.hub.objects.values()), ensure_ascii=False))
    assert "owned" in caplog.text
    assert is_clean(caplog.text)
