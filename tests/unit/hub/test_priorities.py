"""PriorityClasses of the hub: which value a job gets, when it is fixed, and what an unknown class does."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.hub.world import World

from fedgpu_operator.errors import ForbiddenError, KubeError, UnreachableError
from fedgpu_operator.hub.services.priorities import PRIORITY_CLASSES, Priority, priorities_of
from fedgpu_operator.ports import ResourceType


def _class(name: str, value: int, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "value": value, **more}


def test_the_lowest_of_several_global_defaults_counts() -> None:
    found = priorities_of([_class("a", 7, globalDefault=True), _class("b", 5, globalDefault=True), _class("c", 1)])
    assert found.default == Priority(5)
    assert priorities_of([]).default == Priority(0)


def test_a_class_may_keep_its_jobs_from_stopping_others() -> None:
    found = priorities_of([_class("polite", 9, preemptionPolicy="Never"), _class("rude", 9)])
    assert (found.classes["polite"].preempts, found.classes["rude"].preempts) == (False, True)


async def test_the_value_of_the_first_placement_stays(world: World) -> None:
    await world.kube.create(PRIORITY_CLASSES, _class("gold", 50))
    await world.provider("berlin")
    await world.job(priorityClassName="gold")
    await world.pass_once()
    placed = world.see().status.placement
    assert placed is not None
    assert placed.priority == 50
    await world.kube.delete(PRIORITY_CLASSES, "gold")
    await world.change("train", suspend=True)
    await world.pass_once()
    await world.ends(world.lease, "Stopped")
    await world.pass_once()
    await world.kube.create(PRIORITY_CLASSES, _class("gold", 90))
    await world.change("train", suspend=False)
    await world.pass_once()
    placed = world.see().status.placement
    assert placed is not None
    assert (placed.attempt, placed.priority) == (2, 50)
    assert priorities_of([_class("gold", 90)]).of(world.see()) == Priority(50)
    assert priorities_of([]).of(world.see()) == Priority(50, preempts=False), "a class that is gone gives no right"


async def test_the_higher_class_gets_the_last_place(world: World) -> None:
    await world.kube.create(PRIORITY_CLASSES, _class("gold", 50))
    await world.provider("berlin", free={1: 1})
    await world.job("a-plain")
    await world.job("b-gold", priorityClassName="gold")
    await world.pass_once()
    assert [lease.spec.job.name for lease in world.leases] == ["b-gold"]


@pytest.mark.parametrize(
    ("name", "reason"), [("nobody", "UnknownPriorityClass"), ("system-node-critical", "ReservedPriorityClass")]
)
async def test_a_class_that_is_not_for_it_is_said_and_nothing_is_lost(world: World, name: str, reason: str) -> None:
    await world.kube.create(PRIORITY_CLASSES, _class("system-node-critical", 2_000_001_000))
    await world.provider("berlin")
    await world.job(priorityClassName=name)
    await world.job("other")
    await world.pass_once()
    assert world.says("Placed") == ("False", reason)
    assert name in world.message("Placed")
    assert world.lease.spec.job.name == "other", "it holds nobody up"
    if reason == "UnknownPriorityClass":
        await world.kube.create(PRIORITY_CLASSES, _class("nobody", 1))
        await world.pass_once()
        assert world.says("Placed") == ("True", "Placed")
        assert world.says("Failed")[0] in ("", "False")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ForbiddenError('403: User "system:serviceaccount:x:y" cannot list', status=403),
            "may not list priorityclasses of scheduling.k8s.io, which a cluster admin can allow; the job waits",
        ),
        (UnreachableError("GET https://10.0.0.1: no answer"), "cannot be read: Unreachable; the job waits"),
    ],
)
async def test_classes_that_cannot_be_read_are_said_with_the_fix(
    world: World, monkeypatch: pytest.MonkeyPatch, error: KubeError, said: str
) -> None:
    reading = world.kube.list

    async def blind(kind: ResourceType, *rest: Any, **more: Any) -> Any:
        if kind == PRIORITY_CLASSES:
            raise error
        return await reading(kind, *rest, **more)

    monkeypatch.setattr(world.kube, "list", blind)
    await world.provider("berlin")
    await world.job(priorityClassName="gold")
    await world.job("other")
    await world.pass_once()
    assert world.says("Placed") == ("False", "UnknownPriorityClass")
    assert said in world.message("Placed")
    assert world.lease.spec.job.name == "other", "it holds nobody up"
    monkeypatch.undo()
    await world.kube.create(PRIORITY_CLASSES, _class("gold", 1))
    world.clock.forward(5)
    await world.pass_once()
    assert world.says("Placed") == ("True", "Placed")
