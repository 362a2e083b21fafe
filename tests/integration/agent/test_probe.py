"""``fedgpu provider probe`` against a real hub and real endpoints, by the identity that examples/latency gives it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fedgpu_lab.cluster import Cluster
from fedgpu_lab.process import free_ports
from fedgpu_operator.adapters.clock import SystemClock
from fedgpu_operator.adapters.kube.connect import connect
from fedgpu_operator.agent import AgentSettings
from fedgpu_operator.agent.report import Reporter
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.cli import main
from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.vantage import Vantage
from fedgpu_operator.hub.loops.reports import VantageLoop
from fedgpu_operator.hub.services.writes import Writers
from fedgpu_operator.supply import Supply

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "latency" / "prober-on-hub.yaml"
DELAY_S = 0.03


class Slow(BaseHTTPRequestHandler):
    """Answers a HEAD after a while, with a status that is no success: that is a round trip all the same."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        time.sleep(DELAY_S)
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/none"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def provider(kinds: None, hub: Cluster, unique_name: Callable[[str], str]) -> str:
    """A provider's namespace with its report, and the prober's identity as the example has it."""
    name = unique_name("owner")
    namespace = f"fedgpu-provider-{name}"
    hub.create_namespace(namespace)
    report = {
        "apiVersion": "fedgpu.dev/v1alpha1",
        "kind": "ProviderReport",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"provider": name},
    }
    hub.apply([report])
    hub.kubectl("apply", "-f", "-", input=EXAMPLE.read_text().replace("alpha", name))
    return name


def report_of(hub: Cluster, provider: str) -> ProviderReport:
    text = hub.kubectl("get", "providerreport", provider, "-n", f"fedgpu-provider-{provider}", "-o", "json")
    return ProviderReport.parse(json.loads(text.stdout))


def probe(provider: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """One round by the command, with whatever identity KUBECONFIG names."""
    code = main(["provider", "probe", provider, "--once", "-o", "json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    return list(json.loads(said.out)["probes"])


async def ask(vantages: tuple[Vantage, ...]) -> None:
    hub = await connect()
    try:
        await VantageLoop(hub, Writers(hub, SystemClock()), vantages).pass_once()
    finally:
        await hub.close()


async def report_inventory(provider: str) -> None:
    hub = await connect()
    settings = AgentSettings(namespace=f"fedgpu-provider-{provider}", hub_uid="uid")
    try:
        await Reporter(provider, hub, settings, SystemClock()).report(Supply((), (), {}), "v1.34.0")
    finally:
        await hub.close()


def test_the_owner_measures_what_the_hub_lists_and_agent_and_prober_leave_each_other_alone(
    hub: Cluster,
    provider: str,
    endpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = Location("DE", "eu-central-1")
    mute = Vantage("mute", f"http://127.0.0.1:{free_ports(1)[0]}/", place)
    monkeypatch.setenv("KUBECONFIG", str(hub.kubeconfig))
    asyncio.run(ask((Vantage("near", endpoint, place), mute)))
    assert [each.name for each in report_of(hub, provider).spec.vantages] == ["mute", "near"]

    owner = tmp_path / "owner.yaml"
    owner.write_text(hub.kubeconfig_for_service_account(f"fedgpu-provider-{provider}", "prober"))
    monkeypatch.setenv("KUBECONFIG", str(owner))
    (measured,) = probe(provider, capsys)
    assert measured["vantage"] == "near"
    assert 1000 * DELAY_S <= measured["p50Ms"] <= measured["p95Ms"]
    assert measured["samples"] == 5

    monkeypatch.setenv("KUBECONFIG", str(hub.kubeconfig))
    asyncio.run(report_inventory(provider))
    report = report_of(hub, provider)
    assert report.status.kubernetes_version == "v1.34.0"
    assert [each.to_wire() for each in report.status.probes] == [measured]

    # A vantage that is gone takes its figures with it; what the agent reported stays.
    asyncio.run(ask((mute,)))
    monkeypatch.setenv("KUBECONFIG", str(owner))
    assert probe(provider, capsys) == []
    report = report_of(hub, provider)
    assert (report.status.probes, report.status.kubernetes_version) == ([], "v1.34.0")


def test_the_prober_of_one_owner_may_not_write_for_another(
    hub: Cluster, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = tmp_path / "owner.yaml"
    owner.write_text(hub.kubeconfig_for_service_account(f"fedgpu-provider-{provider}", "prober"))
    monkeypatch.setenv("KUBECONFIG", str(owner))
    assert main(["provider", "probe", "alpha", "--once"]) == 1
    assert "permission denied" in capsys.readouterr().err
