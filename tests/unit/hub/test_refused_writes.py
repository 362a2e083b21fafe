"""Objects that cannot be written: nothing starts that could not be stopped, and nothing is tried without end."""

from __future__ import annotations

import copy
from datetime import timedelta
from itertools import pairwise

import pytest
from tests.ledgers import attempts_of
from tests.unit.hub.world import COMPUTE_JOBS, LEASES, TEAM, World

from fedgpu_operator.api.base import HEADROOM, JOB_STATUS_BYTES, MOST_STORED, JSONObject, stored_bytes
from fedgpu_operator.errors import ConflictError, ForbiddenError, RejectedError, TooLargeError, UnreachableError
from fedgpu_operator.hub.views.jobfacts import MOST_REFUSED, WRITE_REFUSED


def _job(world: World) -> JSONObject:
    return world.kube.objects[COMPUTE_JOBS.plural, TEAM, "train"]


def _desired(world: World) -> str:
    return world.lease.spec.desired


def _fill(obj: JSONObject, size: int) -> None:
    """Put labels on the object until it weighs `size` bytes."""
    meta = obj["metadata"]
    meta["labels"] = {"filler": ""}
    meta["labels"]["filler"] = "x" * (size - stored_bytes(obj))
    assert stored_bytes(obj) == size


@pytest.mark.parametrize(("left", "fits"), [(0, True), (1, False)])
async def test_a_job_is_placed_only_if_its_status_and_head_room_fit_beside_it(
    world: World, left: int, fits: bool
) -> None:
    await world.provider("berlin")
    job = await world.job()
    held = _job(world)
    held["metadata"]["finalizers"] = ["fedgpu.dev/lease"]
    _fill(held, MOST_STORED - HEADROOM - JOB_STATUS_BYTES + left)
    await world.pass_once()
    attempts = await attempts_of(world.ledger, job.metadata.uid)
    assert (len(world.leases), len(attempts)) == ((1, 1) if fits else (0, 0))
    if not fits:
        assert world.says("Placed") == ("False", "TooLarge")
        assert "1 bytes too large" in world.message("Placed")
        held["metadata"]["labels"]["filler"] = ""
        world.clock.forward(31)
        await world.pass_once()
        assert len(world.leases) == 1, "it is placed as soon as it fits"


async def test_a_full_job_is_told_of_once_and_opens_no_attempt(world: World) -> None:
    await world.provider("berlin")
    job = await world.job()
    tried: list[str] = []

    def full(verb: str, plural: str, name: str) -> None:
        if plural == COMPUTE_JOBS.plural:
            tried.append(verb)
            raise TooLargeError("etcdserver: request is too large", status=413)

    world.kube.before = full
    loop = world.loop()
    for _ in range(20):
        await loop.pass_once()
        world.clock.forward(31)
    assert await attempts_of(world.ledger, job.metadata.uid) == ()
    assert tried.count("status") == 1, "the same status is not sent again to the same version"
    assert world.events() == [("Warning", "StatusRefused")]


@pytest.mark.parametrize("plural", [COMPUTE_JOBS.plural, LEASES.plural])
@pytest.mark.parametrize("error", [TooLargeError("too large", status=413), ForbiddenError("quota", status=403)])
async def test_refused_writes_end_in_a_bounded_number_of_attempts_and_a_condition(
    world: World, plural: str, error: RejectedError
) -> None:
    await world.provider("berlin")
    job = await world.job()
    began = world.clock.now()

    def refuse(verb: str, written: str, name: str) -> None:
        dispatch = (
            verb == "create"
            or world.kube.objects[COMPUTE_JOBS.plural, TEAM, "train"].get("status", {}).get("placement") is None
        )
        if (
            (written, verb) in ((LEASES.plural, "create"), (COMPUTE_JOBS.plural, "status"))
            and written == plural
            and dispatch
        ):
            raise copy.copy(error)

    world.kube.before = refuse
    for _ in range(300):
        await world.pass_once()
        world.clock.forward(75)
    attempts = await attempts_of(world.ledger, job.metadata.uid)
    assert [each.outcome for each in attempts] == [WRITE_REFUSED] * MOST_REFUSED
    pauses = [b.created_at - (a.ended_at or a.created_at) for a, b in pairwise(attempts)]
    assert pauses == sorted(pauses), "ever more slowly"
    assert pauses[-1] >= timedelta(minutes=60)
    assert attempts[-1].created_at - began < timedelta(hours=6)
    world.kube.before = lambda *_: None
    await world.pass_once()
    assert world.see().status.state == "Failed"
    assert world.says("Failed") == ("True", WRITE_REFUSED)
    assert ("Warning", WRITE_REFUSED) in world.events()
    assert world.leases == []


async def test_what_is_refused_at_one_provider_is_tried_at_another(world: World) -> None:
    """Its namespace may be going; a refusal that is the hub's own passes, and costs some attempts and no job."""
    for name, price in (("near", "1.00"), ("far", "2.00"), ("farther", "3.00")):
        await world.provider(name, price)
    await world.job()
    left = [2]

    def refuse(verb: str, plural: str, name: str) -> None:
        if (verb, plural) == ("create", LEASES.plural) and left[0]:
            left[0] -= 1
            raise ForbiddenError("the namespace is being terminated", status=403)

    world.kube.before = refuse
    await world.pass_once()
    await world.pass_once()
    await world.pass_once()
    assert world.says("Placed") == ("False", "StartRefused")
    assert world.see().status.state == "Pending"
    world.clock.forward(31)
    await world.pass_once()
    assert (world.lease.spec.attempt, world.lease.spec.provider) == (3, "farther")


@pytest.mark.parametrize("status", [409, 429, 503])
async def test_a_server_that_is_busy_fails_no_job(world: World, status: int) -> None:
    await world.provider("berlin")
    await world.job()

    def busy(verb: str, plural: str, name: str) -> None:
        if (verb, plural) == ("create", LEASES.plural):
            raise (ConflictError if status == 409 else UnreachableError)("busy", status=status)

    world.kube.before = busy
    for _ in range(12):
        await world.pass_once()
        world.clock.forward(1000)
    world.kube.before = lambda *_: None
    for _ in range(3):
        await world.pass_once()
        world.clock.forward(1000)
    assert len(world.leases) == 1


async def test_a_lease_that_others_filled_is_stopped_and_billed_all_the_same(world: World) -> None:
    await world.provider("berlin")
    await world.job()
    await world.pass_once()
    lease = world.lease
    await world.runs(lease, 1)
    held = world.kube.objects[LEASES.plural, lease.metadata.namespace, lease.metadata.name]
    held["metadata"]["labels"]["example.com/filler"] = "x" * HEADROOM

    def limit(verb: str, plural: str, name: str) -> None:
        if plural == LEASES.plural and verb == "status" and "example.com/filler" in held["metadata"]["labels"]:
            raise TooLargeError("etcdserver: request is too large", status=413)

    world.kube.before = limit
    await world.change("train", suspend=True)
    await world.pass_once()
    assert "example.com/filler" not in world.lease.metadata.labels, "what others put on it is taken off"
    assert world.lease.metadata.labels["fedgpu.dev/lease"] == lease.metadata.name
    assert (world.lease.spec.desired, world.lease.spec.workload) == ("Stop", None)
    world.clock.forward(3)
    await world.ends(world.lease, "Stopped", gpu_seconds=3)
    await world.pass_once()
    status = world.see().status
    assert (status.state, status.usage.gpu_seconds if status.usage else 0) == ("Suspended", 3)


async def test_the_stop_is_in_the_books_though_the_lease_cannot_be_written(world: World) -> None:
    """And it bounds what is billed from that moment on."""
    await world.provider("berlin")
    job = await world.job()
    await world.pass_once()
    await world.runs(world.lease, 1)
    await world.change("train", suspend=True)

    def refuse(verb: str, plural: str, name: str) -> None:
        if (verb, plural) == ("patch", LEASES.plural):
            raise TooLargeError("etcdserver: request is too large", status=413)

    world.kube.before = refuse
    world.clock.forward(10)
    await world.pass_once()
    (attempt,) = await attempts_of(world.ledger, job.metadata.uid)
    assert attempt.stop is not None
    assert (attempt.stop.reason, attempt.stop.at) == ("Suspended", world.clock.now())
    assert _desired(world) == "Run"
    world.clock.forward(3600)
    await world.runs(world.lease, 3611)
    await world.pass_once()
    usage = await world.ledger.lease_usage(attempt.lease_name)
    assert usage is not None
    assert usage.gpu_seconds == 10 + 30, "until the stop, and the termination grace after it"
    world.kube.before = lambda *_: None
    await world.change("train", suspend=False)
    await world.pass_once()
    assert _desired(world) == "Stop", "a stop that is in the books is carried out"
    assert world.lease.spec.stop_requested_at == attempt.stop.at
