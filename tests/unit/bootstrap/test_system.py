"""Starting the operator: books of one escrow are never settled in another, and nothing is published before that."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.api.base import Finding, merge
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.bootstrap import system
from fedgpu_operator.domain.ledger import BoundEscrow
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.settings import ChainSettings, Settings

OLD, NEW = "0x000000000000000000000000000000000000dEaD", "0x000000000000000000000000000000000000bEEF"
KEY = "0x" + "11" * 32
OBJECTS = Path(__file__).resolve().parents[2] / "integration" / "api" / "objects" / "minimal"


class Wiring:
    """What `build` would connect to; `published` is what the hub was told of the escrow."""

    def __init__(self, escrow: str) -> None:
        self.escrow, self.published, self.closed = escrow, list[object](), 0

    async def close(self) -> None:
        self.closed += 1

    async def connect(self) -> Wiring:
        return self

    async def hub(self, _kube: object) -> str:
        return "the-hub"

    async def settling(self, _chain: ChainSettings, _clock: object) -> SimpleNamespace:
        return SimpleNamespace(escrow=SimpleNamespace(chain_id=31337, escrow=self.escrow), aclose=self.close)

    async def publish(self, _kube: object, _namespace: str, known: object) -> None:
        self.published.append(known)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "key").write_text(KEY)
    given = {
        "FEDGPU_LEDGER": str(tmp_path / "ledger.db"),
        "FEDGPU_CHAIN_RPC_URL": "http://127.0.0.1:1",
        "FEDGPU_CHAIN_ID": "31337",
        "FEDGPU_ESCROW_ADDRESS": OLD,
        "FEDGPU_SETTLER_KEY_FILE": str(tmp_path / "key"),
    }
    return Settings.from_env(given)


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch) -> Wiring:
    wiring = Wiring(OLD)
    for name, double in {
        "connect": wiring.connect,
        "_check_hub": wiring.hub,
        "open_settling": wiring.settling,
        "_publish": wiring.publish,
        "_assemble": lambda *given: SimpleNamespace(ledger=given[3]),
    }.items():
        monkeypatch.setattr(system, name, double)
    return wiring


async def test_a_ledger_is_bound_at_the_first_start_and_refused_to_a_new_escrow(
    settings: Settings, wired: Wiring
) -> None:
    running = await system.build(settings)
    now = datetime(2025, 6, 1, tzinfo=UTC)
    await running.ledger.open_intent("post:1", "post", None, "0xS", 0, OLD, b"", now)
    await running.ledger.close()
    assert (len(wired.published), wired.closed) == (1, 0)
    wired.escrow = NEW
    with pytest.raises(ConfigurationError, match=f"books of escrow {OLD} on chain 31337"):
        await system.build(settings)
    assert len(wired.published) == 1, "no agent hears of an escrow that is refused"
    assert wired.closed == 2
    async with await SqlLedger.open(settings.ledger, read_only=True) as books:
        assert (await books.verify()).bound == BoundEscrow(31337, OLD)


class Ears:
    """A loop, or a supervisor, that notes that it was woken."""

    def __init__(self, winding_down: str = "") -> None:
        self.woken, self._winding_down = 0, winding_down

    def wake(self, namespace: str = "") -> None:
        self.woken += 1

    def winds_down(self, namespace: str) -> bool:
        return namespace == self._winding_down


@pytest.mark.parametrize(("namespace", "gone", "woken"), [("a", True, 1), ("a", False, 0), ("b", True, 0)])
def test_the_end_of_a_lease_wakes_who_waits_for_it_to_end_an_agent(namespace: str, gone: bool, woken: int) -> None:
    nothing: Any = None
    agents: Any = Ears()
    supervisor: Any = Ears(winding_down="a")
    made = system.System(nothing, nothing, None, supervisor, nothing, {"agents": agents}, nothing, nothing)
    body = yaml.safe_load((OBJECTS / "computelease.yaml").read_text())
    body["metadata"] |= {"uid": "one", "namespace": namespace}
    lease = ComputeLease.parse(body)
    made.changed("computeleases", namespace, lease, None if gone else lease)
    assert agents.woken == woken
    end = merge([], [Finding("Failed", "True", "WorkloadFailed")], generation=1, now=datetime.now(UTC))
    ended = lease.model_copy(update={"status": lease.status.model_copy(update={"conditions": end})})
    made.changed("computeleases", namespace, ended, None)
    assert agents.woken == woken, "it had let its agent go before"
