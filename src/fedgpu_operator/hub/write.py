"""Guarded writes: a status goes out once per object and pass, only where it differs, never onto another object."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Literal

from fedgpu_operator.api.base import JSONObject, Meta, Model, Resource
from fedgpu_operator.errors import AlreadyExistsError
from fedgpu_operator.ports import EVENTS, Kube, ResourceType


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


def guard(meta: Meta) -> JSONObject:
    """Metadata that makes a patch fail with ConflictError on any other version of the object or another object."""
    return {"uid": meta.uid, "resourceVersion": meta.resource_version}


async def write_status(kube: Kube, obj: Resource, old: Model, new: Model) -> bool:
    """Patch the status where it changed; True when something was written."""
    patch = merge_diff(old.to_wire(), new.to_wire())
    if not patch:
        return False
    body = {"metadata": guard(obj.metadata), "status": patch}
    await kube.patch_status(ResourceType.of(obj.info), obj.metadata.name, obj.metadata.namespace, body)
    return True


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
    """Record an Event once per (object, reason, message): its name is made from them, so a repeat is no news.

    Events of cluster-scoped objects go to `namespace`, as kubectl expects them in `default`.
    """
    digest = sha256(f"{obj.metadata.uid}/{reason}/{message}".encode()).hexdigest()[:16]
    where = obj.metadata.namespace or namespace
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    body: JSONObject = {
        "metadata": {"name": f"{obj.metadata.name[:200]}.{digest}", "namespace": where},
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
        return
