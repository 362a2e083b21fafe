"""The operator's life: what can never work is one line and exit code 2; what may pass is tried again."""

from __future__ import annotations

import getpass
import itertools
import logging
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import kopf
import pytest

from fedgpu_lab.process import free_ports
from fedgpu_operator import errors
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.backoff import SPREAD
from fedgpu_operator.bootstrap import system
from fedgpu_operator.bootstrap.system import System
from fedgpu_operator.domain.text import is_clean
from fedgpu_operator.errors import (
    ChainMismatchError,
    ConfigurationError,
    FedGPUError,
    ForbiddenError,
    InvalidResourceError,
    LedgerUnreachableError,
    NotFoundError,
    NotTakenError,
    Refusal,
    UnreachableError,
)
from fedgpu_operator.hub.services.priorities import PRIORITY_CLASSES
from fedgpu_operator.operator import lifecycle, main, outcomes
from fedgpu_operator.ports import Kube
from fedgpu_operator.settings import Settings

FATAL = (ConfigurationError, ChainMismatchError)
ACTIVITIES: Any = lifecycle
"""Called with what they use; Kopf gives them more."""


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
    """What may pass is tried again; any other error ends the process as it is."""
    errors = [make(kind), ConfigurationError("the second try")]

    async def build(*_: object, **__: object) -> System:
        raise errors.pop(0)

    monkeypatch.setattr(lifecycle, "build", build)
    monkeypatch.setattr(outcomes, "RETRY_SECONDS", 0.0)
    if kind.permanent and not issubclass(kind, FATAL):
        with pytest.raises(kind):
            main.run(settings)
        return
    assert main.run(settings) == 2
    written = capsys.readouterr().err.splitlines()[-1]
    assert written == ("error: no such thing" if issubclass(kind, FATAL) else "error: the second try")
    assert len(errors) == (1 if issubclass(kind, FATAL) else 0)


@pytest.mark.parametrize("kind", every(FedGPUError), ids=lambda kind: kind.__name__)
async def test_every_error_has_an_outcome_that_kopf_knows(kind: type[FedGPUError]) -> None:
    @outcomes.mapped
    async def handler() -> None:
        raise make(kind)

    with pytest.raises((kopf.PermanentError, kopf.TemporaryError)) as raised:
        await handler()
    assert isinstance(raised.value, kopf.PermanentError) is kind.permanent
    assert str(raised.value).startswith(f"{kind.reason}: no")
    assert isinstance(raised.value.__cause__, kind)


async def test_a_bug_is_no_outcome() -> None:
    @outcomes.mapped
    async def handler() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await handler()


def test_a_port_that_is_taken_is_a_wrong_configuration(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(port: int, address: str) -> None:
        raise OSError("Address already in use")

    process = lifecycle.Process(settings.model_copy(update={"metrics_port": 9090}))
    monkeypatch.setattr(process.metrics, "serve", serve)
    with pytest.raises(ConfigurationError, match=r"FEDGPU_METRICS_PORT: cannot listen on 9090: Address already in use"):
        process.serve_metrics()


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


async def test_a_hub_that_is_starting_is_waited_for_and_one_that_stays_away_is_a_cause_that_may_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(system, "HUB_PATIENCE_SECONDS", 5.0)
    assert await system._check_hub(cast("Kube", Hub(UnreachableError("refused")))) == "the-hub"
    monkeypatch.setattr(system, "HUB_PATIENCE_SECONDS", -1.0)
    with pytest.raises(UnreachableError, match="refused") as away:
        await system._check_hub(cast("Kube", Hub(UnreachableError("refused"))))
    assert isinstance(outcomes.outcome(away.value), kopf.TemporaryError)


class Built:
    """A system that is up as soon as it is built."""

    def __init__(self) -> None:
        self.loops = ["jobs"]
        self.calls: list[str] = []
        self.hanging: dict[str, str] = {}

    def start(self) -> None:
        self.calls.append("start")

    async def close(self) -> None:
        self.calls.append("close")

    def hung(self) -> dict[str, str]:
        return self.hanging

    def unready(self) -> dict[str, str]:
        return {"ledger": "no answer\x1b[2J"}


def configured(**peering: Any) -> kopf.OperatorSettings:
    """Kopf's settings as they are when the start-up handlers run."""
    made = kopf.OperatorSettings()
    made.peering.clusterwide = True
    for name, value in peering.items():
        setattr(made.peering, name, value)
    return made


async def test_a_start_that_fails_is_tried_again_and_readiness_has_the_reason(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, errors = Built(), [LedgerUnreachableError("no answer")]

    async def build(*_: object, **__: object) -> Built:
        if errors:
            raise errors.pop()
        return built

    monkeypatch.setattr(lifecycle, "build", build)
    memo = kopf.Memo(process=lifecycle.Process(settings))
    assert memo.process.unready() == {"start": "the operator is starting"}
    with pytest.raises(kopf.TemporaryError, match="LedgerUnreachable: no answer"):
        await ACTIVITIES.start(settings=configured(), memo=memo)
    assert memo.process.unready() == {"start": "the operator cannot start: LedgerUnreachable: no answer"}
    assert await ACTIVITIES.alive(memo=memo) == {}, "a restart would not help"
    await ACTIVITIES.start(settings=configured(), memo=memo)
    await ACTIVITIES.end(memo=memo)
    assert built.calls == ["start", "close"]


async def test_kopf_run_takes_its_settings_from_the_environment_and_its_probes_show_the_same_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Built()

    async def build(found: Settings, *_: object, **__: object) -> Built:
        assert found.namespace == "elsewhere"
        return built

    monkeypatch.setattr(lifecycle, "build", build)
    monkeypatch.setenv("FEDGPU_NAMESPACE", "elsewhere")
    monkeypatch.setenv("FEDGPU_METRICS_PORT", "0")
    memo = kopf.Memo()
    await ACTIVITIES.start(settings=configured(), memo=memo)
    assert await ACTIVITIES.alive(memo=memo) == {}
    parts = await ACTIVITIES.ready(memo=memo)
    assert parts["ledger"].startswith("no answer")
    assert is_clean(parts["ledger"])
    built.hanging["jobs"] = "no sign of life, late by 3 s"
    with pytest.raises(kopf.PermanentError, match="jobs: no sign of life, late by 3 s"):
        await ACTIVITIES.alive(memo=memo)


def test_a_request_of_kopf_is_tried_without_end_by_the_one_rule_with_its_jitter() -> None:
    made = configured()
    lifecycle._configure(made)
    backoffs = cast("Iterable[float]", made.networking.error_backoffs)
    for _ in range(2):
        pauses = list(itertools.islice(backoffs, 40))
        for pause, least in zip(pauses, [1.0, 2.0, 4.0, 8.0, 16.0, *[20.0] * 35], strict=True):
            assert least <= pause <= least * (1 + SPREAD)
        assert len(set(pauses[5:])) > 1, "many who lost one server do not return together"


async def test_an_option_of_kopf_run_that_cannot_be_honoured_is_refused(settings: Settings) -> None:
    memo = kopf.Memo(process=lifecycle.Process(settings))
    with pytest.raises(kopf.PermanentError, match=r"--namespace: .* use --all-namespaces"):
        await ACTIVITIES.start(settings=configured(clusterwide=False), memo=memo)
    with pytest.raises(kopf.PermanentError, match=r"--peering: .* use --standalone"):
        await ACTIVITIES.start(settings=configured(mandatory=True), memo=memo)


async def test_an_event_of_kopf_is_held_before_its_handler_wakes_anybody(settings: Settings) -> None:
    """What Kopf delivers goes into what is held; that calls the handler, so no pass reads what is older."""
    heard: list[tuple[object, ...]] = []
    kube = SimpleNamespace(deliver=lambda kind, obj, *, deleted: heard.append((kind, obj["metadata"]["name"], deleted)))
    process = lifecycle.Process(settings)
    memo = kopf.Memo(process=process)
    event: Any = {"type": "DELETED", "object": {"metadata": {"name": "berlin"}}}
    takes = {str(each.id): each.fn for each in kopf.get_default_registry()._watching.get_all_handlers()}
    take: Any = takes["fedgpu_operator.operator.handlers.gpuprovider"]
    await take(event=event, memo=memo)
    process.system = cast("System", SimpleNamespace(kube=kube))
    await take(event=event, memo=memo)
    assert heard == [(GPUProvider, "berlin", True)], "and before there is a system, its first list shows it"


async def test_what_is_held_changes_before_there_is_a_system_without_harm(settings: Settings) -> None:
    lifecycle.Process(settings)._changed("computejobs", "team", None, None)


async def test_it_starts_under_a_user_id_without_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kopf asks for the user's name unless it is given an identity, and a pod's user has none."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    started = []

    async def operator(*, identity: str | None = None, **more: Any) -> None:
        del more
        started.append(identity or getpass.getuser())

    async def begun(_process: lifecycle.Process) -> None: ...

    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.setattr(kopf, "operator", operator)
    monkeypatch.setattr(lifecycle.Process, "start", begun)
    await main._operate(lifecycle.Process(Settings()))
    assert started == [platform.node()]
