"""One of several replicas: it stands by, operates once it is elected, gives the Lease back, or loses it and ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import kopf
import pytest

from fedgpu_lab.process import free_ports
from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.bootstrap import Elector
from fedgpu_operator.errors import ConfigurationError, NotLeaderError
from fedgpu_operator.operator import lifecycle, main
from fedgpu_operator.operator.lifecycle import Process
from fedgpu_operator.settings import Settings

ACTIVITIES: Any = lifecycle


class Election:
    """An elector that a test decides for, and what it was asked for, in order."""

    def __init__(self) -> None:
        self.identity = "me"
        self.leads, self.why = False, ""
        self.won, self.lost = asyncio.Event(), asyncio.Event()
        self.calls: list[str] = []
        self.refuses: Exception | None = None

    def check(self) -> None:
        if not self.leads:
            raise NotLeaderError("no")

    def trouble(self) -> str:
        return self.why

    async def acquire(self) -> None:
        if self.refuses is not None:
            raise self.refuses
        await self.won.wait()
        self.leads = True
        self.calls.append("acquire")

    async def keep(self) -> str:
        await self.lost.wait()
        self.leads = False
        return "it is held by two"

    async def release(self) -> None:
        self.calls.append(f"release, led: {self.leads}")
        self.leads = False


class Client:
    async def close(self) -> None:
        return


class Running:
    """A system that does nothing."""

    def __init__(self, election: Election) -> None:
        self.loops: list[str] = []
        self._election = election

    def start(self) -> None:
        self._election.calls.append("start")

    async def close(self) -> None:
        self._election.calls.append(f"close, leads: {self._election.leads}")

    def hung(self) -> dict[str, str]:
        return {}

    def unready(self) -> dict[str, str]:
        return {}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def settings() -> Settings:
    health, metrics = free_ports(2)
    given = {"LEDGER": "postgresql://lab@127.0.0.1/ledger", "BIND_ADDRESS": "127.0.0.1", "LEADER_ELECTION": "true"}
    given |= {"HEALTH_PORT": str(health), "METRICS_PORT": str(metrics)}
    return Settings.from_env({f"FEDGPU_{name}": value for name, value in given.items()})


@pytest.fixture
async def election(monkeypatch: pytest.MonkeyPatch) -> Election:
    """With everything that it decides over replaced; Kopf runs until the test sends SIGTERM."""
    made = Election()

    async def connect(**_: object) -> Client:
        return Client()

    async def build(*_: object, leads: Any, **__: object) -> Running:
        assert leads == made.check
        return Running(made)

    async def operator(**_: object) -> None:
        made.calls.append("kopf")
        asked = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
        await asked.wait()

    monkeypatch.setattr(main, "connect", connect)
    monkeypatch.setattr(main, "Elector", lambda *_, **__: made)
    monkeypatch.setattr(lifecycle, "build", build)
    monkeypatch.setattr(kopf, "operator", operator)
    return made


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for knows nothing of events
            await asyncio.sleep(0.01)


async def ask(port: int, path: str) -> tuple[int, str]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{port}{path}")
    return answer.status_code, answer.text


async def test_a_standby_is_alive_and_ready_and_shows_that_it_does_not_lead(
    settings: Settings, election: Election
) -> None:
    task = asyncio.create_task(main._elected(settings))
    await asyncio.sleep(0.3)
    assert (await ask(settings.health_port, "/healthz"))[0] == 200
    assert await ask(settings.health_port, "/readyz") == (200, '{"ready": true, "leader": false, "parts": {}}')
    assert "fedgpu_leader 0.0" in (await ask(settings.metrics_port, "/metrics"))[1]
    election.why = "the Lease cannot be read"
    code, said = await ask(settings.health_port, "/readyz")
    assert code == 503
    assert '"election": "the Lease cannot be read"' in said
    election.won.set()
    await until(lambda: "kopf" in election.calls)
    assert await ask(settings.health_port, "/readyz") == (200, '{"ready": true, "leader": true, "parts": {}}')
    assert "fedgpu_leader 1.0" in (await ask(settings.metrics_port, "/metrics"))[1]
    os.kill(os.getpid(), signal.SIGTERM)
    await task
    assert election.calls == ["acquire", "start", "kopf", "close, leads: True", "release, led: True"]


async def test_a_standby_that_is_asked_to_end_ends(settings: Settings, election: Election) -> None:
    task = asyncio.create_task(main._elected(settings))
    await asyncio.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
    await task
    assert election.calls == ["release, led: False"]


async def test_a_leader_that_is_asked_to_end_while_it_starts_gives_the_lease_back(
    settings: Settings, election: Election, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def build(*_: object, **__: object) -> None:
        election.calls.append("build")
        await asyncio.Event().wait()

    monkeypatch.setattr(lifecycle, "build", build)
    election.won.set()
    task = asyncio.create_task(main._elected(settings))
    await until(lambda: "build" in election.calls)
    os.kill(os.getpid(), signal.SIGTERM)
    await task
    assert election.calls == ["acquire", "build", "release, led: True"]


class EndedError(Exception):
    pass


async def test_a_leader_that_lost_its_lease_ends_there_and_then(
    settings: Settings, election: Election, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    election.won.set()
    task = asyncio.create_task(main._elected(settings))
    await until(lambda: "kopf" in election.calls)
    election.lost.set()
    await until(lambda: ended)
    assert ended == [main.LOST]
    assert "start" in election.calls
    assert not [each for each in election.calls if each.startswith("close")], "nothing is closed before"
    assert "the Lease is lost, the process ends: it is held by two" in caplog.text
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_start_that_can_never_work_gives_the_lease_back(
    settings: Settings, election: Election, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def build(*_: object, **__: object) -> None:
        raise ConfigurationError("the ledger is newer")

    monkeypatch.setattr(lifecycle, "build", build)
    election.won.set()
    with pytest.raises(ConfigurationError, match="the ledger is newer"):
        await main._elected(settings)
    assert election.calls == ["acquire", "release, led: True"]


def test_a_right_that_is_missing_is_one_line_and_code_2(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def connect(**_: object) -> Client:
        return Client()

    def refused(*_: object, **__: object) -> Election:
        made = Election()
        made.refuses = ConfigurationError("leader election: 403")
        return made

    monkeypatch.setattr(main, "connect", connect)
    monkeypatch.setattr(main, "Elector", refused)
    assert main.run(settings) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: leader election: 403"


async def test_kopf_run_takes_part_in_no_election(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDGPU_LEADER_ELECTION", "true")
    monkeypatch.setenv("FEDGPU_LEDGER", "postgresql://lab@127.0.0.1/ledger")
    made = kopf.OperatorSettings()
    made.peering.clusterwide = True
    with pytest.raises(kopf.PermanentError, match="only `fedgpu operator` takes part in an election"):
        await ACTIVITIES.start(settings=made, memo=kopf.Memo())


def test_without_an_election_the_one_operator_leads_as_soon_as_it_runs(settings: Settings) -> None:
    process = Process(settings)
    assert not process.leads
    process.system = cast("Any", Running(cast("Any", None)))
    assert process.leads


def test_the_real_elector_and_ledger_take_what_they_are_given() -> None:
    """The doubles above stand for these."""
    for name in ("acquire", "keep", "release", "check", "trouble", "leads"):
        assert hasattr(Elector, name)
    assert "leads" in (SqlLedger.open.__kwdefaults__ or {})


@pytest.mark.parametrize("ledger", ["/var/lib/fedgpu/ledger.db", "sqlite:////ledger.db", "postgres-data/ledger.db"])
def test_a_ledger_in_a_file_has_one_replica(tmp_path: Path, ledger: str) -> None:
    given = {"FEDGPU_LEADER_ELECTION": "true", "FEDGPU_LEDGER": ledger}
    with pytest.raises(ConfigurationError, match="FEDGPU_LEADER_ELECTION: needs a PostgreSQL ledger in FEDGPU_LEDGER"):
        Settings.from_env(given)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_ledger_on_a_server_may_have_several(scheme: str) -> None:
    given = {"FEDGPU_LEADER_ELECTION": "true", "FEDGPU_LEDGER": f"{scheme}://user:secret@host/ledger"}
    assert Settings.from_env(given).leader_election
