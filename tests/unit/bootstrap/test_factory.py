"""The composition root: one of each service, shared by whoever asks, and no loop that could not do its work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedgpu_operator.bootstrap.factory import Factory
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.hub.services.recovery import EscrowAddress
from fedgpu_operator.settings import Settings

NOTHING: Any = None


def factory(settings: dict[str, str], **given: Any) -> Factory:
    return Factory(
        Settings.from_env({f"FEDGPU_{name}": text for name, text in settings.items()}), NOTHING, NOTHING, **given
    )


def test_without_a_chain_there_is_no_loop_that_settles(tmp_path: Path) -> None:
    made = factory({"LEDGER": str(tmp_path / "ledger.db")})
    assert set(made.loops()) == {"agents", "providers", "jobs", "vantages", "market", "retention", "health"}
    assert made.thresholds().lag == float("inf"), "announced withdrawals count as gone"


def test_a_service_is_made_once_and_shared() -> None:
    made = factory({})
    for name in (
        "plugins",
        "verifier",
        "costs",
        "check",
        "supervisor",
        "health",
        "memory",
        "placer",
        "keeper",
        "biller",
    ):
        assert getattr(made, name) is getattr(made, name), name
    loops = made.loops()
    assert loops["agents"]._pass_once == made.supervisor.pass_once
    assert loops["health"]._pass_once == made.health.pass_once
    jobs = made.job_loop()
    assert (jobs._placer, jobs._keeper, jobs._mover) == (made.placer, made.keeper, made.mover)
    assert made.placer._keeper is made.mover._keeper is made.keeper
    assert made.keeper._biller is made.reconciler()._biller


def test_usage_is_verified_for_the_escrow_that_was_named_though_there_is_no_access_to_it() -> None:
    place = EscrowAddress(31337, "0x" + "11" * 20)
    assert factory({}, place=place).place == place
    assert factory({}).place is None


def test_a_rule_that_is_not_installed_is_refused_when_it_is_first_needed() -> None:
    made = factory({"PLUGINS": "absent"})
    with pytest.raises(ConfigurationError, match="FEDGPU_PLUGINS"):
        made.loops()
