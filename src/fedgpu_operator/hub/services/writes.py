"""Guarded writes: a status goes out once per object and pass, only where it differs, never onto another object."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from hashlib import sha256
from typing import Final, Literal, TypeVar

from pydantic import ValidationError

from fedgpu_operator.api.base import GROUP, JSONObject, Meta, Model, Resource, stored_bytes
from fedgpu_operator.errors import AlreadyExistsError, ConflictError, FedGPUError, NotFoundError, TooLargeError
from fedgpu_operator.logs import about, bound
from fedgpu_operator.ports import EVENTS, Kube, ResourceType

log = logging.getLogger(__name__)


T = TypeVar("T")
X = TypeVar("X")

IN_FLIGHT: Final = 24
"""Chains of writes that are under way at once: enough to keep two cores of an API server busy, no burst for it."""

_failed: Final[ContextVar[Counter[str] | None]] = ContextVar("failed_objects", default=None)


def merge_diff(old: JSONObject, new: JSONObject) -> JSONObject:
    """The JSON merge patch (RFC 7396) that turns `old` into `new`; empty where they are equal."""
    patch: JSONObject = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            if inner := merge_diff(before, value):
                patch[key] = inner
        elif before != value or key not in old:
            patch[key] = value
    return patch


async def for_each(work: Callable[[X], Awaitable[T]], items: Iterable[X], *, at_once: int = IN_FLIGHT) -> list[T]:
    """`work` for each of them, a bounded number at a time, the results in their order.

    The first that raises ends the others and is raised, as in a loop; work on one object of many goes into
    `one_of_many`.
    """
    gate = asyncio.Semaphore(at_once)

    async def one(item: X) -> T:
        async with gate:
            return await work(item)

    tasks = [asyncio.create_task(one(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


@contextmanager
def one_of_many(obj: Resource | None) -> Iterator[None]:
    """Around the work on one object of a pass: what goes wrong with it must not keep the pass from the others.

    A conflict or a vanished object is no news, since the next pass loads again; anything else is logged and counted.
    What people and providers write may find an error of ours: it costs that object, never the pass. Every line that is
    logged meanwhile says which object it is about.
    """
    name = "an object that is gone" if obj is None else f"{obj.info.kind} {obj.key}"
    with bound(**about(obj)):
        try:
            yield
        except (ConflictError, NotFoundError) as error:
            log.debug("%s: %s; next pass", name, error)
        except FedGPUError as error:
            log.warning("%s: %s", name, error)
            _count(error.reason)
        except ValidationError as error:
            log.warning("%s: %s", name, error)
            _count("ValidationError")
        except Exception:
            log.exception("%s: work on it failed", name)
            _count("InternalError")


@contextmanager
def counting_failures() -> Iterator[Counter[str]]:
    """Around a pass: the counter receives, by reason, every object whose work failed inside `one_of_many`."""
    found: Counter[str] = Counter()
    token = _failed.set(found)
    try:
        yield found
    finally:
        _failed.reset(token)


def _count(reason: str) -> None:
    if (found := _failed.get()) is not None:
        found[reason] += 1


async def write_status(kube: Kube, obj: Resource, old: Model, new: Model) -> JSONObject | None:
    """Patch the status where it changed; the object as it is then, None where nothing had to be written."""
    patch = merge_diff(old.to_wire(), new.to_wire())
    if not patch:
        return None
    body = {"metadata": obj.metadata.guard(), "status": patch}
    return await kube.patch_status(ResourceType.of(obj.info), obj.metadata.name, obj.metadata.namespace, body)


async def patch_to_fit(kube: Kube, kind: ResourceType, meta: Meta, patch: JSONObject) -> JSONObject:
    """Patch an object of ours; where it has become too large for that, once more without what others put on it.

    What goes then are labels and annotations that are not of our domain. The record of who owns which field needs no
    care: an API server leaves that out by itself where an object does not fit otherwise.
    Raises as `Kube.patch` does.
    """
    try:
        return await kube.patch(kind, meta.name, meta.namespace, patch)
    except TooLargeError:
        log.warning("%s %s is too large to be written: what others put on it is removed", kind.kind, meta.name)
        relieved = {**patch, "metadata": {**patch["metadata"], **_relief(meta)}}
        return await kube.patch(kind, meta.name, meta.namespace, relieved)


async def relieve(kube: Kube, kind: ResourceType, meta: Meta) -> JSONObject:
    """Take off an object of ours what others put on it, so that its status can be written."""
    log.warning("%s %s: %d bytes of others are removed from it", kind.kind, meta.name, foreign_bytes(meta))
    return await kube.patch(kind, meta.name, meta.namespace, {"metadata": {**meta.guard(), **_relief(meta)}})


def foreign_bytes(meta: Meta) -> int:
    """What labels and annotations of other domains weigh."""
    parts = ({key: value for key, value in held.items() if not _ours(key)} for held in (meta.labels, meta.annotations))
    return sum(stored_bytes(part) for part in parts if part)


def _relief(meta: Meta) -> JSONObject:
    return {
        "labels": {key: None for key in meta.labels if not _ours(key)},
        "annotations": {key: None for key in meta.annotations if not _ours(key)},
    }


def _ours(key: str) -> bool:
    return key.partition("/")[0] == GROUP


async def emit(
    kube: Kube,
    obj: Resource,
    event_type: Literal["Normal", "Warning"],
    reason: str,
    message: str,
    *,
    now: datetime,
    namespace: str = "default",
) -> None:
    """Record an Event; a repeat for the same object, type and reason counts up the one that is there.

    As events.k8s.io/v1 does it, what distinguishes Events is whom they are about and why, not their words: the one that
    is there gets the newest ones. Its name is made from those, so a restart makes no second one. The API server removes
    an Event an hour after its last repeat. Events of cluster-scoped objects go to `namespace`, as kubectl expects them
    in `default`.
    """
    digest = sha256(f"{obj.metadata.uid}/{event_type}/{reason}".encode()).hexdigest()[:16]
    name, where = f"{obj.metadata.name[:200]}.{digest}", obj.metadata.namespace or namespace
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    body: JSONObject = {
        "metadata": {"name": name, "namespace": where},
        "involvedObject": {
            "apiVersion": ResourceType.of(obj.info).api_version,
            "kind": obj.info.kind,
            "name": obj.metadata.name,
            "namespace": obj.metadata.namespace,
            "uid": obj.metadata.uid,
        },
        "type": event_type,
        "reason": reason,
        "message": message[:1024],
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
        "source": {"component": "fedgpu-operator"},
        "reportingComponent": "fedgpu-operator",
        "reportingInstance": "hub",
    }
    try:
        await kube.create(EVENTS, body)
    except AlreadyExistsError:
        # Of two repeats at the same time one is lost, as is one of an Event that expires meanwhile.
        with suppress(ConflictError, NotFoundError):
            known = await kube.get(EVENTS, name, where)
            guard = {key: known["metadata"][key] for key in ("uid", "resourceVersion")}
            count = int(known.get("count") or 1) + 1
            repeat = {"metadata": guard, "count": count, "lastTimestamp": stamp, "message": body["message"]}
            await kube.patch(EVENTS, name, where, repeat)
