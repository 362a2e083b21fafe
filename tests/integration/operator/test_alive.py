"""An operator whose loop, database or member hangs: what its probes say, and that it recovers by itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.integration.operator.federation import API, MEMBERS, Json, Operator, environment, eventually, manifest, offer

from fedgpu_lab import Lab, toolchain
from fedgpu_lab import chart as lab_chart
from fedgpu_lab.chart import NAMESPACE
from fedgpu_lab.postgres import Postgres, running
from fedgpu_lab.process import free_ports
from fedgpu_lab.progress import progress_for

HANGING = """
import asyncio, os, sys
from fedgpu_operator import pulse
from fedgpu_operator.hub.loops import loop
from fedgpu_operator.hub.loops import reports

async def hang(self):
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue

pulse.CANCEL_SECONDS, loop.PASS_SECONDS = 2.0, 5.0
reports.VantageLoop.pass_once = hang
from fedgpu_operator.operator.main import run
from fedgpu_operator.settings import Settings
sys.exit(run(Settings.from_env(os.environ)))
"""
"""An operator of which one loop hangs and takes no notice of being cancelled."""


class Hub:
    """One hub with one member, and operators over one PostgreSQL ledger."""

    def __init__(self, lab: Lab, server: Postgres, folder: Path) -> None:
        self.lab, self.server, self.folder = lab, server, folder
        self.member = lab.members["alpha"]
        kubeconfig = folder / "kubeconfig.yaml"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(lab_chart.install(lab))
        self.health, metrics = free_ports(2)
        settings = {
            "LEDGER": server.create(),
            "BIND_ADDRESS": "127.0.0.1",
            "HEALTH_PORT": str(self.health),
            "METRICS_PORT": str(metrics),
            "RESYNC_SECONDS": "2",
            "ACCEPTANCE_ENFORCED": "true",
            "HEARTBEAT_TIMEOUT_SECONDS": "10",
            "USAGE_INTERVAL_SECONDS": "1",
        }
        self.environment = environment(settings, {"KUBECONFIG": str(kubeconfig), "HOME": str(folder)})
        self.operator = Operator(self.environment, folder / "operator.log")

    def probe(self, path: str) -> tuple[int, Any]:
        """The code and the answer of a probe, (0, "") where nothing answers in a kubelet's time."""
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.health}{path}", timeout=5, trust_env=False)
        except httpx.HTTPError:
            return 0, ""
        return answer.status_code, answer.json()

    def until(self, path: str, code: int, what: str = "", timeout: float = 90.0) -> None:
        def said() -> bool:
            found, answer = self.probe(path)
            return found == code and what in str(answer)

        try:
            eventually(f"{path} to say {code} {what}", said, timeout)
        except AssertionError as error:
            logs = "\n".join(log.read_text()[-4000:] for log in sorted(self.folder.glob("*.log")))
            text = f"{error}; {self.probe(path)}\n{logs}"
            raise AssertionError(text) from None

    def connected(self) -> str:
        status = self.lab.hub.api.get(f"{API}/gpuproviders/alpha").get("status") or {}
        return next((one["status"] for one in status.get("conditions", []) if one["type"] == "Connected"), "")

    def apply(self, name: str, run: str) -> None:
        template = {
            "metadata": {"annotations": {"lab.fedgpu.dev/duration": run}},
            "spec": {"containers": [{"name": "main", "image": "example.com/work:1"}]},
        }
        self.lab.hub.apply([manifest("ComputeJob", name, {"runLimitSeconds": 600, "template": template}, "team")])

    def job(self, name: str) -> Json:
        return dict(self.lab.hub.api.get(f"{API}/namespaces/team/computejobs/{name}").get("status") or {})

    def until_job(self, name: str, state: str) -> None:
        eventually(f"{name} to be {state}", lambda: self.job(name).get("state") == state, 90)


@pytest.fixture(scope="module")
def hub(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        toolchain.ensure([*toolchain.CLUSTER_BINARIES, "helm"], progress_for())
    with Lab(MEMBERS[:1]) as lab, running() as server:
        made = Hub(lab, server, tmp_path_factory.mktemp("alive"))
        lab.hub.create_namespace("team")
        secret = {"metadata": {"name": "alpha"}, "stringData": {"kubeconfig": made.member.kubeconfig_text()}}
        lab.hub.api.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", secret)
        made.operator.start()
        try:
            lab.hub.apply([manifest("GPUProvider", "alpha", offer("DE", "alpha", "1.25"))])
            made.until("/readyz", 200)
            yield made
        finally:
            if made.operator.alive():
                made.operator.end()


def test_a_postgres_that_hangs_is_not_ready_and_alive_and_nothing_is_lost(hub: Hub) -> None:
    hub.apply("work", "25s")
    hub.until_job("work", "Running")
    hub.server.pause()
    try:
        hub.until("/readyz", 503, "ledger")
        hub.apply("meanwhile", "1s")
        assert hub.probe("/healthz")[0] == 200
        assert hub.connected() == "True", "what needs no database goes on"
    finally:
        hub.server.resume()
    hub.until("/readyz", 200)
    for name in ("work", "meanwhile"):
        hub.until_job(name, "Succeeded")
    assert hub.job("work")["placement"]["attempt"] == 1
    assert 22 <= hub.job("work")["usage"]["gpuSeconds"] <= 28
    assert hub.probe("/healthz")[0] == 200


def test_a_member_that_hangs_is_a_condition_of_its_provider_and_no_probe_minds(hub: Hub) -> None:
    hub.member.pause()
    try:
        eventually("Connected=Unknown", lambda: hub.connected() == "Unknown")
        assert hub.probe("/readyz")[0] == 200
        assert hub.probe("/healthz")[0] == 200
    finally:
        hub.member.resume()
    eventually("Connected=True", lambda: hub.connected() == "True")


def test_a_loop_that_hangs_is_not_alive_within_its_stated_time(hub: Hub) -> None:
    hub.operator.end()
    script = hub.folder / "hanging.py"
    script.write_text(HANGING)
    broken = Operator(hub.environment, hub.folder / "hanging.log", [sys.executable, str(script)])
    broken.start()
    try:
        hub.until("/readyz", 200)
        hub.until("/healthz", 500, "vantages", timeout=15)
        assert set(hub.probe("/healthz")[1]["loops"]) == {"vantages"}
        words = "vantages: a pass was cancelled and does not end"
        eventually("the log", lambda: words in broken.log.read_text())
    finally:
        broken.kill()
    hub.operator.start()
    hub.until("/readyz", 200)
    assert hub.probe("/healthz")[0] == 200
