"""A receipt whose makers die at any point of it: in the end there is one, signed by both, and an honest ledger."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.hub.office import Office, uses
from tests.unit.hub.signing import funded
from tests.unit.hub.world import REPORTS, Crash, World


@pytest.mark.parametrize("point", ["propose", "agent", "append", "append-lost", "take-away"])
async def test_a_death_at_any_point_gives_one_receipt(
    world: World, office: Office, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await funded(world)
    await uses(world, 100, 100, final=True)
    steps = [office.hub, office.agent, office.hub]
    dies_in = {"propose": 0, "agent": 1}.get(point, 2)
    for index, step in enumerate(steps):
        if index == dies_in:
            with monkeypatch.context() as dying:
                _kill(dying, world, point)
                with pytest.raises(Crash):
                    await step()
            world.kube.before = lambda *_: None
            world.clock.forward(7)
        await step()
    (kept,) = await office.kept()
    assert kept.receipt.cumulative == 100_000
    assert office.report.spec.receipts == []
    audit = await world.ledger.verify()
    assert audit.sound, audit.faults


def _kill(dying: pytest.MonkeyPatch, world: World, point: str) -> None:
    def before(verb: str, plural: str, _: str) -> None:
        if plural == REPORTS.plural and point in ("propose", "agent", "take-away"):
            raise Crash(verb)

    append = world.ledger.append_receipt

    async def dead(*arguments: Any) -> bool:
        if point == "append-lost":
            await append(*arguments)
        raise Crash(point)

    world.kube.before = before
    if point.startswith("append"):
        dying.setattr(world.ledger, "append_receipt", dead)
