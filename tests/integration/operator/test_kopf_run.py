"""`kopf run -m fedgpu_operator.operator`, as users of Kopf start an operator, with settings from the environment.

One story, in the order of its tests.
"""

from __future__ import annotations

import signal
import subprocess
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
from fedgpu_lab.process import free_ports
from fedgpu_lab.progress import progress_for

pytestmark = pytest.mark.story

KOPF = [sys.executable, "-m", "kopf", "run", "-m", "fedgpu_operator.operator", "--standalone"]


class KopfRun:
    """One hub with one member, and the operator under `kopf run` with the rights of the chart's account."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.hub = lab, lab.hub
        kubeconfig = folder / "kubeconfig.yaml"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(lab_chart.install(lab))
        self.liveness = f"http://127.0.0.1:{free_ports(1)[0]}/healthz"
        settings = {
            "LEDGER": str(folder / "ledger.db"),
            "METRICS_PORT": "0",
            "ACCEPTANCE_ENFORCED": "true",
            # So rare that what happens within the test was caused by an event.
            "RESYNC_SECONDS": "3600",
        }
        self.environment = environment(settings, {"KUBECONFIG": str(kubeconfig), "HOME": str(folder)})
        argv = [*KOPF, "--all-namespaces", f"--liveness={self.liveness}"]
        self.operator = Operator(self.environment, folder / "kopf.log", argv)

    def probe(self) -> tuple[int, Any]:
        """Code and answer of Kopf's endpoint, (0, "") while it does not answer."""
        try:
            answer = httpx.get(self.liveness, timeout=5, trust_env=False)
        except httpx.HTTPError:
            return 0, ""
        return answer.status_code, answer.json()

    def until(self, what: str, check: Any, timeout: float = 60.0) -> None:
        try:
            eventually(what, check, timeout)
        except AssertionError as error:
            text = f"{error}\n{self.operator.log.read_text()[-4000:]}"
            raise AssertionError(text) from None

    def provider(self) -> Json:
        return self.hub.api.get(f"{API}/gpuproviders/alpha")

    def lists(self, plural: str) -> int:
        """Lists of that kind since the API server began."""
        lines = self.hub.api.text("/metrics", timeout=20).splitlines()
        mine = [
            line for line in lines if line.startswith("apiserver_request_total{") and f'resource="{plural}"' in line
        ]
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in mine if 'verb="LIST"' in line)


@pytest.fixture(scope="module")
def run(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KopfRun]:
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        toolchain.ensure([*toolchain.CLUSTER_BINARIES, "helm"], progress_for())
    with Lab(MEMBERS[:1]) as lab:
        made = KopfRun(lab, tmp_path_factory.mktemp("kopf"))
        lab.hub.create_namespace("team")
        secret = {"metadata": {"name": "alpha"}, "stringData": {"kubeconfig": lab.members["alpha"].kubeconfig_text()}}
        lab.hub.api.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", secret)
        made.operator.start()
        try:
            made.until("Kopf's endpoint", lambda: made.probe()[0] == 200, 180)
            yield made
        finally:
            if made.operator.alive():
                made.operator.kill()


def test_a_provider_and_a_job_are_served_and_nothing_of_kopf_is_left_on_them(run: KopfRun) -> None:
    run.hub.apply([manifest("GPUProvider", "alpha", offer("DE", "alpha", "1.25"))])
    template = {
        "metadata": {"annotations": {"lab.fedgpu.dev/duration": "1s"}},
        "spec": {"containers": [{"name": "main", "image": "example.com/work:1"}]},
    }
    run.hub.apply([manifest("ComputeJob", "work", {"runLimitSeconds": 600, "template": template}, "team")])
    job = f"{API}/namespaces/team/computejobs/work"
    run.until("the job's success", lambda: run.hub.api.get(job).get("status", {}).get("state") == "Succeeded", 90)
    for path in (job, f"{API}/gpuproviders/alpha"):
        meta = run.hub.api.get(path)["metadata"]
        assert "kopf" not in str({name: meta.get(name) for name in ("finalizers", "annotations", "labels")}).lower()


def test_what_an_owner_changes_is_acted_on_by_kopfs_event_and_not_by_the_next_list(run: KopfRun) -> None:
    seen = run.lists("gpuproviders")
    run.until("a list, so that the next is half a minute away", lambda: run.lists("gpuproviders") > seen)
    seen = run.lists("gpuproviders")
    run.hub.api.patch(f"{API}/gpuproviders/alpha", {"spec": offer("DE", "alpha", "1.50")})
    generation = run.provider()["metadata"]["generation"]
    run.until("the new price", lambda: run.provider()["status"].get("observedGeneration") == generation, 20)
    assert run.lists("gpuproviders") == seen


def test_kopfs_endpoint_shows_what_the_probes_show(run: KopfRun) -> None:
    # Kopf asks its probes every ten seconds at most.
    run.until("readiness", lambda: run.probe() == (200, {"loops": {}, "parts": {}}))


def test_it_ends_when_it_is_asked_to(run: KopfRun) -> None:
    assert run.operator.end() == 0
    log = run.operator.log.read_text()
    assert "agent of provider alpha ended" in log
    assert "Traceback" not in log
    run.operator.start()
    run.until("Kopf's endpoint", lambda: run.probe()[0] == 200, 180)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--namespace=team"], "--namespace: the operator serves a whole hub"),
        (["--all-namespaces", "--peering=default"], "--peering: `kopf run` runs this operator as one replica"),
    ],
)
def test_an_option_that_it_cannot_honour_ends_it_with_the_reason(run: KopfRun, options: list[str], words: str) -> None:
    argv = [each for each in KOPF if each != "--standalone"]
    ended = subprocess.run(
        [*argv, *options], env=run.environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert ended.returncode not in (0, -signal.SIGKILL)
    assert words in ended.stderr
