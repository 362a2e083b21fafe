"""The probes' site: what each path answers before the start, in work, and when something hangs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from fedgpu_lab.process import free_ports
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.operator.lifecycle import Process
from fedgpu_operator.operator.probes import ProbeSite
from fedgpu_operator.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    given = {"FEDGPU_HEALTH_PORT": str(free_ports(1)[0]), "FEDGPU_BIND_ADDRESS": "127.0.0.1"}
    return Settings.from_env(given | {"FEDGPU_LEDGER": str(tmp_path / "ledger.db")})


@pytest.fixture
def process(settings: Settings) -> Process:
    return Process(settings)


@pytest.fixture
async def site(process: Process) -> AsyncIterator[ProbeSite]:
    made = ProbeSite(process)
    await made.serve()
    yield made
    await made.close()


async def ask(settings: Settings, path: str) -> tuple[int, Any]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{settings.health_port}{path}")
    return answer.status_code, answer.json()


@pytest.mark.usefixtures("site")
async def test_an_operator_that_starts_is_alive_and_not_ready(settings: Settings) -> None:
    assert await ask(settings, "/healthz") == (200, {"alive": True, "loops": {}})
    assert await ask(settings, "/readyz") == (
        503,
        {"ready": False, "leader": False, "parts": {"start": "the operator is starting"}},
    )


@pytest.mark.usefixtures("site")
async def test_each_path_says_what_is_wrong_and_only_of_its_own_matters(process: Process, settings: Settings) -> None:
    hung: dict[str, str] = {}
    unready = {"ledger": "no answer\x1b[2J"}
    system: Any = SimpleNamespace(hung=lambda: hung, unready=lambda: unready)
    process.system = system
    assert (await ask(settings, "/healthz"))[0] == 200, "what is outside is no reason to restart"
    code, said = await ask(settings, "/readyz")
    assert (code, said["ready"]) == (503, False)
    assert said["parts"]["ledger"].startswith("no answer")
    assert "\x1b" not in said["parts"]["ledger"]
    unready.clear()
    hung["jobs"] = "no sign of life, late by 3 s"
    assert await ask(settings, "/readyz") == (200, {"ready": True, "leader": True, "parts": {}})
    assert await ask(settings, "/healthz") == (500, {"alive": False, "loops": hung})


@pytest.mark.usefixtures("site")
async def test_a_port_that_is_taken_is_a_wrong_configuration(process: Process, settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=f"FEDGPU_HEALTH_PORT: cannot listen on {settings.health_port}"):
        await ProbeSite(process).serve()
