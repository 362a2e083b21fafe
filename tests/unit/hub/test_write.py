"""Guarded writes: the patch that is sent makes of the old what was wanted, and nothing goes out without need."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hub.fakes import FakeMetrics
from tests.unit.hub.world import COMPUTE_JOBS, Crash, World

from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.errors import ConflictError, InvalidResourceError
from fedgpu_operator.hub.loops.loop import Loop
from fedgpu_operator.hub.services.writes import (
    PROVIDER_FINALIZER,
    ProviderWriter,
    emit,
    merge_diff,
    one_of_many,
    write_status,
)

Json = dict[str, Any]
VALUES = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=3),
    lambda inner: st.dictionaries(st.text("abc", max_size=2), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text("abc", max_size=2), VALUES, max_size=4)


def applied(target: object, patch: object) -> object:
    """MergePatch of RFC 7396, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = applied(result.get(name), value)
    return result


@given(OBJECTS, OBJECTS)
def test_the_patch_makes_the_new_of_the_old(old: Json, new: Json) -> None:
    assert applied(old, merge_diff(old, new)) == new


@given(OBJECTS)
def test_equal_objects_need_no_patch(old: Json) -> None:
    assert merge_diff(old, old) == {}


async def test_a_status_goes_out_once_and_only_onto_the_version_that_was_read(world: World) -> None:
    job = await world.job()
    wanted = job.status.model_copy(update={"state": "Placed"})
    assert await write_status(world.kube, job, job.status, wanted)
    assert world.see().status.state == "Placed"
    assert not await write_status(world.kube, job, wanted, wanted)
    with pytest.raises(ConflictError):
        await write_status(world.kube, job, job.status, job.status.model_copy(update={"state": "Running"}))
    assert world.see().status.state == "Placed"


async def test_a_status_is_never_written_onto_another_object_of_that_name(world: World) -> None:
    old = await world.job()
    await world.kube.delete(COMPUTE_JOBS, "train", "team-a")
    await world.job()
    with pytest.raises(ConflictError):
        await write_status(world.kube, old, old.status, old.status.model_copy(update={"state": "Running"}))


async def test_a_repeated_event_counts_up_with_its_newest_words(world: World) -> None:
    job = await world.job()
    began = world.clock.now()
    for message in ("first", "first", "second"):
        world.clock.forward(60)
        await emit(world.kube, job, "Warning", "Unfunded", message, now=world.clock.now())
    (event,) = [obj for (plural, *_), obj in world.kube.objects.items() if plural == "events"]
    assert event["involvedObject"]["uid"] == job.metadata.uid
    assert event["metadata"]["namespace"] == "team-a"
    assert (event["count"], event["message"]) == (3, "second")
    stamps = [datetime.fromisoformat(event[name]) - began for name in ("firstTimestamp", "lastTimestamp")]
    assert stamps == [timedelta(seconds=60), timedelta(seconds=180)]


async def test_another_reason_type_or_object_is_another_event(world: World) -> None:
    job, other = await world.job(), await world.job("other")
    await world.delete("train")
    again = await world.job()
    now = world.clock.now()
    for about in (job, other, again):
        await emit(world.kube, about, "Warning", "Unfunded", "no money", now=now)
    await emit(world.kube, again, "Normal", "Unfunded", "no money", now=now)
    await emit(world.kube, again, "Warning", "Placed", "no money", now=now)
    events = [obj for (plural, *_), obj in world.kube.objects.items() if plural == "events"]
    assert [event["count"] for event in events] == [1] * 5


async def test_a_long_message_is_cut_to_what_an_event_holds(world: World) -> None:
    job = await world.job("n" * 253)
    await emit(world.kube, job, "Normal", "Placed", "x" * 5000, now=world.clock.now())
    (event,) = [obj for (plural, *_), obj in world.kube.objects.items() if plural == "events"]
    assert len(event["message"]) == 1024
    assert len(event["metadata"]["name"]) <= 253


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (OverflowError("date value out of range"), {"InternalError": 1}),
        (InvalidResourceError("BadReading", "no clock shows it"), {"InvalidResource": 1}),
        (ConflictError("changed"), {}),
    ],
)
async def test_what_goes_wrong_with_one_object_leaves_the_others_and_is_counted(
    world: World, error: Exception, counted: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    job, metrics, reached = await world.job(), FakeMetrics(), []

    async def pass_once() -> None:
        for each in (job, job, None):
            with one_of_many(each):
                reached.append(each)
                if len(reached) == 1:
                    raise error

    loop = Loop("jobs", pass_once, resync=60, metrics=metrics)
    assert await loop._guarded_pass() == 60
    assert len(reached) == 3
    assert metrics.failed == {("jobs", reason): count for reason, count in counted.items()}
    assert any(record.exc_info for record in caplog.records) == isinstance(error, OverflowError), (
        "a bug has a traceback"
    )


async def test_nothing_holds_back_a_process_that_is_told_to_end(world: World) -> None:
    with pytest.raises(Crash), one_of_many(await world.job()):
        raise Crash


async def test_a_finalizer_is_written_only_if_it_must_come_or_go_wherever_it_stands_among_others(world: World) -> None:
    writer = ProviderWriter(world.kube, world.clock)
    await world.provider("berlin")
    held = world.kube.objects["gpuproviders", "", "berlin"]

    def seen(*finalizers: str) -> GPUProvider:
        held["metadata"]["finalizers"] = list(finalizers)
        return GPUProvider.parse(held)

    ours, foreign = PROVIDER_FINALIZER, "foregroundDeletion"
    version = held["metadata"]["resourceVersion"]
    assert not await writer.set_finalizer(seen(ours, foreign), held=True), "to reorder them is no need to write"
    assert not await writer.set_finalizer(seen(foreign), held=False)
    assert held["metadata"]["resourceVersion"] == version
    assert await writer.set_finalizer(seen(foreign), held=True)
    assert held["metadata"]["finalizers"] == [foreign, ours]
    assert await writer.set_finalizer(seen(ours, foreign), held=False)
    assert held["metadata"]["finalizers"] == [foreign]
