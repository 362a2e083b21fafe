"""Starting the operator: books of one escrow are never settled in another, and nothing is published before that."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.bootstrap import system
from fedgpu_operator.domain.ledger import BoundEscrow
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.settings import ChainSettings, Settings

OLD, NEW = "0x000000000000000000000000000000000000dEaD", "0x000000000000000000000000000000000000bEEF"
KEY = "0x" + "11" * 32


class Wiring:
    """What `build` would connect to; `published` is what the hub was told of the escrow."""

    def __init__(self, escrow: str) -> None:
        self.escrow, self.published, self.closed = escrow, list[object](), 0

    async def close(self) -> None:
        self.closed += 1

    async def connect(self, **_: object) -> Wiring:
        return self

    async def hub(self, _kube: object) -> str:
        return "the-hub"

    async def opened(self, chain: ChainSettings, *_: object) -> SimpleNamespace:
        escrow = SimpleNamespace(chain_id=31337, escrow=self.escrow)
        return SimpleNamespace(chain=chain, escrow=escrow, meter=None, terms=None, own_addresses=[], aclose=self.close)

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
        "open_escrow": wiring.opened,
        "_publish": wiring.publish,
    }.items():
        monkeypatch.setattr(system, name, double)
    return wiring


def unheard(*_: object) -> None:
    return


async def test_a_ledger_is_bound_at_the_first_start_and_refused_to_a_new_escrow(
    settings: Settings, wired: Wiring
) -> None:
    running = await system.build(settings, unheard)
    now = datetime(2025, 6, 1, tzinfo=UTC)
    await running.ledger.open_intent("post:1", "post", None, "0xS", 0, OLD, b"", now)
    await running.ledger.close()
    assert (len(wired.published), wired.closed) == (1, 0)
    assert {"jobs", "accounts", "settlement"} <= set(running.loops)
    assert "receipts" not in running.loops, "there is no meter"
    wired.escrow = NEW
    with pytest.raises(ConfigurationError, match=f"books of escrow {OLD} on chain 31337"):
        await system.build(settings, unheard)
    assert len(wired.published) == 1, "no agent hears of an escrow that is refused"
    assert wired.closed == 2
    async with await SqlLedger.open(settings.ledger.get_secret_value(), read_only=True) as books:
        assert (await books.verify()).bound == BoundEscrow(31337, OLD)
