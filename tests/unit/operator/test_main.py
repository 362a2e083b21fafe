"""The operator's entry: what can never work is one line and exit code 2; a change wakes whom it concerns."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedgpu_operator import errors
from fedgpu_operator.api.base import Meta, Resource
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.bootstrap import system
from fedgpu_operator.bootstrap.system import System
from fedgpu_operator.bootstrap.waking import WAKES
from fedgpu_operator.errors import (
    ChainMismatchError,
    ConfigurationError,
    FedGPUError,
    ForbiddenError,
    InvalidResourceError,
    NotFoundError,
    NotTakenError,
    Refusal,
    UnreachableError,
)
from fedgpu_operator.hub.services.priorities import PRIORITY_CLASSES
from fedgpu_operator.lab.process import free_ports
from fedgpu_operator.operator import main
from fedgpu_operator.ports import Kube
from fedgpu_operator.settings import Settings

FATAL = (ConfigurationError, ChainMismatchError)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """`run` configures the process's logging; the tests' own comes back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    given = {"LEDGER": str(tmp_path / "ledger.db"), "METRICS_PORT": "0", "BIND_ADDRESS": "127.0.0.1"}
    given["HEALTH_PORT"] = str(free_ports(1)[0])
    return Settings.from_env({f"FEDGPU_{name}": value for name, value in given.items()})


def every(kind: type[FedGPUError]) -> list[type[FedGPUError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in every(child))]


def make(kind: type[FedGPUError]) -> FedGPUError:
    if kind is InvalidResourceError:
        return InvalidResourceError("UnknownPlace", "no")
    return NotTakenError("no such thing", Refusal.OTHER) if kind is NotTakenError else kind("no such thing")


@pytest.mark.parametrize("kind", every(FedGPUError), ids=lambda kind: kind.__name__)
def test_every_error_has_a_reason_that_a_condition_may_carry(kind: type[FedGPUError]) -> None:
    assert kind.__module__ == errors.__name__
    assert kind.reason[:1].isupper()
    assert kind.reason.isalnum()
    assert len(kind.reason) <= 64
    assert kind is FedGPUError or kind.reason != FedGPUError.reason


def test_the_tree_is_drawn_as_it_is() -> None:
    drawn = {word for word in (errors.__doc__ or "").split() if word.endswith("Error")}
    assert {kind.__name__ for kind in every(FedGPUError)} <= drawn


@pytest.mark.parametrize("kind", every(FedGPUError), ids=lambda kind: kind.__name__)
def test_only_what_can_never_work_is_one_line_and_code_2(
    kind: type[FedGPUError], settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def build(_: Settings) -> System:
        raise make(kind)

    monkeypatch.setattr(main, "build", build)
    if not issubclass(kind, FATAL):
        with pytest.raises(kind):
            main.run(settings)
        return
    assert main.run(settings) == 2
    written = capsys.readouterr().err
    assert written == "error: no such thing\n"


def test_a_port_that_is_taken_is_a_wrong_configuration(settings: Settings) -> None:
    def serve(port: int, address: str) -> None:
        raise OSError("Address already in use")

    taken = cast("System", SimpleNamespace(metrics=SimpleNamespace(serve=serve)))
    with pytest.raises(ConfigurationError, match=r"FEDGPU_METRICS_PORT: cannot listen on 0: Address already in use"):
        main._serve_metrics(taken, settings)


class Hub:
    """Answers every question with one error, until it is told to answer."""

    def __init__(self, *script: Exception) -> None:
        self.script = list(script)

    async def list(self, *_: object, **__: object) -> tuple[list[object], str]:
        if self.script:
            raise self.script.pop(0)
        return [], ""

    async def get(self, *_: object) -> dict[str, object]:
        return {"metadata": {"uid": "the-hub"}}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NotFoundError("404", status=404), r"fedgpu crds \| kubectl apply"),
        (ForbiddenError("403: computejobs", status=403), "may not do its work on the hub: 403: computejobs"),
    ],
)
async def test_a_hub_that_cannot_be_worked_on_is_said_at_once(error: Exception, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        await system._check_hub(cast("Kube", Hub(error)))


async def test_a_right_that_is_missing_is_named_at_the_start_and_not_by_a_job_that_waits() -> None:
    class Blind(Hub):
        async def list(self, *asked: object, **_: object) -> tuple[list[object], str]:
            if PRIORITY_CLASSES in asked:
                raise ForbiddenError("403: priorityclasses.scheduling.k8s.io is forbidden", status=403)
            return [], ""

    told = r"403: priorityclasses\.scheduling\.k8s\.io is forbidden; give it the rights of the chart's ClusterRole"
    with pytest.raises(ConfigurationError, match=told):
        await system._check_hub(cast("Kube", Blind()))


async def test_a_hub_that_is_starting_is_waited_for_and_one_that_never_answers_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(system, "HUB_PATIENCE_SECONDS", 5.0)
    assert await system._check_hub(cast("Kube", Hub(UnreachableError("refused")))) == "the-hub"
    monkeypatch.setattr(system, "HUB_PATIENCE_SECONDS", -1.0)
    with pytest.raises(ConfigurationError, match="does not answer: refused"):
        await system._check_hub(cast("Kube", Hub(UnreachableError("refused"))))


def test_every_kind_wakes_a_loop_or_is_written_by_nobody_else() -> None:
    silent = {kind.info.plural for kind in KINDS} - set(WAKES)
    assert silent == set()
    assert {name for names in WAKES.values() for name in names} == {
        "jobs",
        "providers",
        "agents",
        "accounts",
        "receipts",
        "vantages",
    }


class Counting:
    """A loop or a supervisor that notes who was woken."""

    def __init__(self, name: str, woken: list[str]) -> None:
        self.name, self.woken = name, woken

    def wake(self, *rest: str) -> None:
        self.woken.append(" ".join((self.name, *rest)))

    def winds_down(self, namespace: str) -> bool:
        return False


def changes(plural: str, namespace: str, before: Resource | None = None, after: Resource | None = None) -> list[str]:
    """Who is woken by a change, where there is no chain."""
    woken: list[str] = []
    loops = {name: Counting(name, woken) for name in ("jobs", "providers", "agents")}
    made = SimpleNamespace(loops=loops, supervisor=Counting("supervisor", woken))
    System.changed(cast("System", made), plural, namespace, before, after)
    return woken


def lease(generation: int, version: str) -> ComputeLease:
    meta = Meta(name="a", uid="u", generation=generation, resource_version=version)
    fields: dict[str, Any] = {"metadata": meta}
    return ComputeLease.model_construct(**fields)


def job(generation: int, version: str, uid: str = "u") -> ComputeJob:
    meta = Meta(name="a", uid=uid, generation=generation, resource_version=version)
    fields: dict[str, Any] = {"metadata": meta}
    return ComputeJob.model_construct(**fields)


def test_a_change_wakes_the_loops_of_its_kind() -> None:
    assert changes("computeaccounts", "team-a") == ["jobs"], "there is no account loop without a chain"
    assert changes("placementpolicies", "") == ["jobs"]
    assert changes("pods", "team-a") == []


def test_a_lease_wakes_its_agent_but_for_what_the_agent_wrote_itself() -> None:
    space = "fedgpu-provider-berlin"
    new = lease(1, "1")
    told = lease(1, "2")
    stopped = lease(2, "3")
    agent = f"supervisor {space}"
    assert changes("computeleases", space, None, new) == ["providers", agent], "the job loop made it"
    assert changes("computeleases", space, new, told) == ["jobs", "providers"]
    assert changes("computeleases", space, told, stopped) == ["jobs", "providers", agent]
    assert changes("computeleases", space, stopped, None) == ["jobs", "providers", agent]


def test_the_status_of_a_job_wakes_nobody_and_its_spec_does() -> None:
    new = job(1, "1")
    shown = job(1, "2")
    suspended = job(2, "3")
    another = job(1, "4", uid="v")
    assert changes("computejobs", "team", None, new) == ["jobs"]
    assert changes("computejobs", "team", new, shown) == []
    assert changes("computejobs", "team", shown, suspended) == ["jobs"]
    assert changes("computejobs", "team", shown, another) == ["jobs"]
