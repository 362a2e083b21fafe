"""What an agent reports of a member that does not answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.kstatus.rules import kstatus
from tests.unit.hub.fakes import FakeClock, FakeKube

from fedgpu_operator.agent.decide import ConditionState
from fedgpu_operator.agent.report import REPORTS, Reporter
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.api.base import find
from fedgpu_operator.api.providerreport import ProviderReport

SPACE = "fedgpu-provider-berlin"
SILENT = ConditionState("Unknown", "Unreachable", "no answer")
REFUSED = ConditionState("False", "Forbidden", "GET nodes: 403")
VANTAGES = {"spec": {"vantages": [{"name": "paris", "url": "https://paris.example.com/"}]}}


class Desk:
    """A reporter and the hub that it writes to."""

    def __init__(self) -> None:
        clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.kube = FakeKube(clock)
        self.reporter = Reporter("berlin", self.kube, AgentSettings(SPACE, "hub"), clock)

    @property
    def shown(self) -> dict[str, Any]:
        return self.kube.objects[REPORTS.plural, SPACE, "berlin"]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize(("why", "word"), [(SILENT, "InProgress"), (REFUSED, "Failed")])
async def test_a_change_of_the_spec_is_seen_while_the_member_does_not_answer(
    desk: Desk, why: ConditionState, word: str
) -> None:
    await desk.reporter.silent(why)
    await desk.kube.patch(REPORTS, "berlin", SPACE, VANTAGES)
    await desk.reporter.silent(why)
    report = ProviderReport.parse(desk.shown)
    assert report.metadata.generation == 2
    assert report.status.observed_generation == 2
    assert {each.observed_generation for each in report.status.conditions} == {2}
    assert kstatus(desk.shown) == word


async def test_the_same_is_written_once(desk: Desk) -> None:
    for _ in range(3):
        await desk.reporter.silent(SILENT)
    assert len([verb for verb, *_ in desk.kube.writes if verb == "status"]) == 1
    await desk.reporter.silent(REFUSED)
    ready = find(ProviderReport.parse(desk.shown).status.conditions, "Ready")
    assert ready is not None
    assert ready.reason == "Forbidden"
