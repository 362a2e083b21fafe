"""Two replicas on one hub with one PostgreSQL ledger: whichever way the leader goes, the other one takes over within
20 s, and the job that runs meanwhile is neither started nor billed twice.

One story, in the order of its tests.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from tests.integration.operator.federation import (
    API,
    ARGV,
    MEMBERS,
    Json,
    Operator,
    environment,
    eventually,
    manifest,
    offer,
)
from tests.ledgers import attempts_of

from fedgpu_lab import Lab, toolchain
from fedgpu_lab import chart as lab_chart
from fedgpu_lab.api import ClusterApi
from fedgpu_lab.chart import NAMESPACE
from fedgpu_lab.postgres import Postgres, running
from fedgpu_lab.process import free_ports
from fedgpu_lab.progress import progress_for
from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.bootstrap.election import LEASE
from fedgpu_operator.domain.election import ElectionTimes
from fedgpu_operator.errors import ForbiddenError, RejectedError
from fedgpu_operator.operator.main import LOST

HANDOVER_SECONDS: Final = 20.0
LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
WRITES: Final = re.compile(
    r'apiserver_request_total\{(?=[^}]*group="fedgpu\.dev")(?=[^}]*verb="(?:POST|PUT|PATCH|APPLY|DELETE)")[^}]*\} (\S+)'
)


UNDYING = """
import os, sys
from fedgpu_operator.operator import main
from fedgpu_operator.settings import Settings

main._end_if_lost = lambda keeping: None
sys.exit(main.run(Settings.from_env(os.environ)))
"""
"""A replica that does not end when it has lost its Lease."""


class Replica:
    """One `fedgpu operator` that takes part in the election."""

    def __init__(self, name: str, common: dict[str, str], folder: Path, argv: Sequence[str] = ARGV) -> None:
        self.name = name
        self.health, self.metrics = free_ports(2)
        ports = {"FEDGPU_HEALTH_PORT": str(self.health), "FEDGPU_METRICS_PORT": str(self.metrics)}
        self.operator = Operator(common | ports, folder / f"{name}.log", argv)

    def readiness(self) -> tuple[int, Json]:
        """(0, {}) while nothing answers."""
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.health}/readyz", timeout=1, trust_env=False)
        except httpx.HTTPError:
            return 0, {}
        return answer.status_code, answer.json()

    def stands_by(self) -> bool:
        code, said = self.readiness()
        return code == 200 and said["leader"] is False

    def leads(self) -> bool:
        """It does the operator's work: hub, watches and ledger answer it."""
        code, said = self.readiness()
        return code == 200 and said["leader"] is True

    def gauge(self) -> str:
        text = httpx.get(f"http://127.0.0.1:{self.metrics}/metrics", timeout=5, trust_env=False).text
        return next(line for line in text.splitlines() if line.startswith("fedgpu_leader "))

    def signal(self, number: signal.Signals) -> None:
        assert self.operator.process is not None
        self.operator.process.send_signal(number)


class Pair:
    """A hub with one member, a database, and two replicas."""

    def __init__(self, lab: Lab, server: Postgres, folder: Path) -> None:
        self.lab, self.hub, self.folder = lab, lab.hub, folder
        self.member = lab.members["alpha"]
        self.ledger = server.create()
        values = {"replicas": 2, "ledger": {"urlSecret": {"name": "database"}}}
        self.identity = lab_chart.install(lab, values)
        kubeconfig = folder / "kubeconfig.yaml"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(self.identity)
        settings = {
            "LEADER_ELECTION": "true",
            "LEDGER": self.ledger,
            "BIND_ADDRESS": "127.0.0.1",
            "RESYNC_SECONDS": "2",
            "ACCEPTANCE_ENFORCED": "true",
            "USAGE_INTERVAL_SECONDS": "1",
        }
        self.common = environment(settings, {"KUBECONFIG": str(kubeconfig), "HOME": str(folder)})
        self.replicas = [Replica(name, self.common, folder) for name in ("one", "two")]

    def until(self, what: str, check: Any, timeout: float = 60.0) -> None:
        try:
            eventually(what, check, timeout)
        except AssertionError as error:
            seen = {each.name: (each.readiness(), each.operator.alive()) for each in self.replicas}
            logs = "\n".join(f"{log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.folder.glob("*.log")))
            text = f"{error}; {seen}\n{logs}"
            raise AssertionError(text) from None

    def roles(self) -> tuple[Replica, Replica]:
        """The leader and the standby, once there are both."""
        found: list[Replica] = []

        def settled() -> bool:
            found[:] = sorted(self.replicas, key=lambda each: not each.leads())
            return found[0].leads() and found[1].stands_by()

        self.until("a leader and a standby", settled)
        return found[0], found[1]

    def apply(self, name: str, run: str) -> None:
        template = {
            "metadata": {"annotations": {"lab.fedgpu.dev/duration": run}},
            "spec": {"containers": [{"name": "main", "image": "example.com/work:1"}]},
        }
        self.hub.apply([manifest("ComputeJob", name, {"runLimitSeconds": 600, "template": template}, "team")])

    def job(self, name: str) -> Json:
        return dict(self.hub.api.get(f"{API}/namespaces/team/computejobs/{name}").get("status") or {})

    def until_job(self, name: str, state: str, timeout: float = 90.0) -> None:
        self.until(f"{name} to be {state}", lambda: self.job(name).get("state") == state, timeout)

    def workloads(self, name: str) -> list[Json]:
        """Jobs on the member that were started for this one, whatever became of them."""
        uid = self.hub.api.get(f"{API}/namespaces/team/computejobs/{name}")["metadata"]["uid"]
        items = self.member.api.get("/apis/batch/v1/jobs")["items"]
        return [each for each in items if each["metadata"]["name"].startswith(uid)]

    def writes(self) -> int:
        """Of our kinds on the hub, by whomever, since its API server began."""
        return sum(int(float(count)) for count in WRITES.findall(self.hub.api.text("/metrics", timeout=20)))

    def check_once(self, name: str, seconds: int) -> None:
        """It ran once, for about that long, and the ledger has it once."""
        self.until_job(name, "Succeeded")
        status = self.job(name)
        assert status["placement"]["attempt"] == 1
        assert len(self.workloads(name)) == 1
        assert seconds - 3 <= status["usage"]["gpuSeconds"] <= seconds + 4
        uid = self.hub.api.get(f"{API}/namespaces/team/computejobs/{name}")["metadata"]["uid"]
        asyncio.run(self._check_books(uid, status["usage"]["gpuSeconds"]))

    async def _check_books(self, uid: str, gpu_seconds: int) -> None:
        async with await SqlLedger.open(self.ledger, read_only=True) as ledger:
            attempts = await attempts_of(ledger, uid)
            assert [each.outcome for each in attempts] == ["Succeeded"]
            usage = await ledger.last_usage(f"{uid}-1")
            assert usage is not None
            assert usage.gpu_seconds == gpu_seconds
            audit = await ledger.verify()
            assert audit.sound


@pytest.fixture(scope="module")
def pair(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        toolchain.ensure([*toolchain.CLUSTER_BINARIES, "helm"], progress_for())
    with Lab(MEMBERS[:1]) as lab, running() as server:
        made = Pair(lab, server, tmp_path_factory.mktemp("replicas"))
        lab.hub.create_namespace("team")
        secret = {"metadata": {"name": "alpha"}, "stringData": {"kubeconfig": made.member.kubeconfig_text()}}
        lab.hub.api.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", secret)
        lab.hub.apply([manifest("GPUProvider", "alpha", offer("DE", "alpha", "1.25"))])
        try:
            for each in made.replicas:
                each.operator.start()
            yield made
        finally:
            for each in made.replicas:
                if each.operator.alive():
                    each.operator.kill()


@pytest.fixture
def show(pytestconfig: pytest.Config) -> Any:
    """Print a figure, also of a test that passes."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def printed(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{text}")  # noqa: T201 - a measurement is to be seen

    return printed


def took(pair: Pair, next_one: Replica, begun: float) -> float:
    """Seconds since then until the next leader works."""
    pair.until(f"{next_one.name} to lead", next_one.leads)
    return time.monotonic() - begun


def test_one_works_and_the_other_stands_by(pair: Pair) -> None:
    leader, standby = pair.roles()
    assert (leader.gauge(), standby.gauge()) == ("fedgpu_leader 1.0", "fedgpu_leader 0.0")
    lease = pair.hub.api.get(f"{LEASES}/{LEASE}")["spec"]
    assert lease["leaseDurationSeconds"] == ElectionTimes().lease
    assert f"holds the Lease {LEASE} as {lease['holderIdentity']}" in leader.operator.log.read_text()
    assert "started; loops" not in standby.operator.log.read_text()
    pair.apply("first", "2s")
    pair.check_once("first", 2)


def test_the_chart_gives_the_account_that_one_lease_and_no_other(pair: Pair) -> None:
    token = yaml.safe_load(pair.identity)["users"][0]["user"]["token"]
    account = ClusterApi(pair.hub.server, pair.hub.ca_pem, token)
    try:
        with pytest.raises((ForbiddenError, RejectedError), match="writes only into the namespaces of providers"):
            account.create(LEASES, {"metadata": {"name": "another"}})
        with pytest.raises(ForbiddenError):
            account.get(LEASES)
        with pytest.raises(ForbiddenError):
            account.delete(f"{LEASES}/{LEASE}")
    finally:
        account.close()


def test_a_leader_that_is_asked_to_end_hands_over_in_seconds(pair: Pair, show: Any) -> None:
    leader, standby = pair.roles()
    pair.apply("ended", "20s")
    pair.until_job("ended", "Running")
    begun = time.monotonic()
    leader.signal(signal.SIGTERM)
    seconds = took(pair, standby, begun)
    show(f"hand-over after SIGTERM: {seconds:.1f} s")
    assert leader.operator.end() == 0
    assert f"gave the Lease {LEASE} back" in leader.operator.log.read_text()
    assert seconds < ElectionTimes().lease, "nobody waited for the Lease to expire"
    leader.operator.start()
    pair.check_once("ended", 20)


def test_a_leader_that_is_killed_is_replaced_within_its_time(pair: Pair, show: Any) -> None:
    leader, standby = pair.roles()
    pair.apply("killed", "30s")
    pair.until_job("killed", "Running")
    begun = time.monotonic()
    leader.operator.kill()
    pair.apply("meanwhile", "1s")
    seconds = took(pair, standby, begun)
    pair.until_job("meanwhile", "Succeeded")
    placed = time.monotonic() - begun
    show(f"hand-over after SIGKILL: {seconds:.1f} s; a job handed in meanwhile succeeded after {placed:.1f} s")
    assert seconds < HANDOVER_SECONDS
    leader.operator.start()
    pair.check_once("killed", 30)
    pair.check_once("meanwhile", 1)


def test_a_leader_that_was_stopped_is_fenced_when_it_wakes(pair: Pair, show: Any) -> None:
    old, new = pair.roles()
    pair.apply("stopped", "40s")
    pair.until_job("stopped", "Running")
    begun = time.monotonic()
    old.signal(signal.SIGSTOP)
    seconds = took(pair, new, begun)
    show(f"hand-over after SIGSTOP: {seconds:.1f} s")
    assert seconds < HANDOVER_SECONDS
    pair.apply("while-stopped", "1s")
    pair.until_job("while-stopped", "Succeeded")

    # With the new leader stopped for a moment, whatever is written now is written by the old one.
    new.signal(signal.SIGSTOP)
    try:
        time.sleep(0.5)
        before, woken = pair.writes(), time.monotonic()
        assert before > 0
        old.signal(signal.SIGCONT)
        assert old.operator.process is not None
        code = old.operator.process.wait(timeout=4)
        show(f"the old leader ended {time.monotonic() - woken:.2f} s after SIGCONT")
        assert pair.writes() == before, "nothing left the process between its waking and its end"
    finally:
        new.signal(signal.SIGCONT)
    assert code == LOST
    assert "the Lease is lost, the process ends: it was last renewed" in old.operator.log.read_text()
    assert new.leads(), "it has lost neither the Lease nor the ledger"

    old.operator.start()
    leader, standby = pair.roles()
    assert (leader, standby) == (new, old)
    pair.check_once("stopped", 40)
    pair.check_once("while-stopped", 1)


def test_a_leader_that_wakes_and_goes_on_changes_nothing(pair: Pair) -> None:
    """What holds it back is the check before each change, and not that it ends so soon."""
    leader, standby = pair.roles()
    assert standby.operator.end() == 0
    script = pair.folder / "undying.py"
    script.write_text(UNDYING)
    undying = Replica("undying", pair.common, pair.folder, [sys.executable, str(script)])
    undying.operator.start()
    try:
        pair.until("the third to stand by", undying.stands_by)
        leader.signal(signal.SIGTERM)
        took(pair, undying, time.monotonic())
        assert leader.operator.end() == 0
        leader.operator.start()
        pair.until("a standby", leader.stands_by)
        pair.apply("undying", "30s")
        pair.until_job("undying", "Running")
        undying.signal(signal.SIGSTOP)
        took(pair, leader, time.monotonic())
        leader.signal(signal.SIGSTOP)
        try:
            before = pair.writes()
            undying.signal(signal.SIGCONT)
            # Its loops look at everything every two seconds, and its agent reads usage every second.
            time.sleep(4)
            assert pair.writes() == before
        finally:
            leader.signal(signal.SIGCONT)
        assert undying.readiness()[1]["leader"] is False
        words = f"NotLeader: the Lease {LEASE} was not renewed"
        assert words in undying.operator.log.read_text()
        assert leader.leads()
    finally:
        undying.operator.kill()
    standby.operator.start()
    pair.check_once("undying", 30)


def test_both_end_when_they_are_asked_to(pair: Pair) -> None:
    leader, standby = pair.roles()
    assert standby.operator.end() == 0
    assert leader.operator.end() == 0
    for each in pair.replicas:
        assert "Traceback" not in each.operator.log.read_text()
