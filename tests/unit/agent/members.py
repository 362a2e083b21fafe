"""Member API servers that keep to the law of HTTP, in a process of their own: an honest one, and some that mean ill.

``python -m tests.unit.agent.members CERT KEY`` serves all of them over TLS on a loopback port, which it prints. The
first segment of a path says which: ``/honest``, ``/version``, ``/pages``, ``/dense``, ``/crumbs``, ``/flood``,
``/drip``, ``/texts``, ``/swollen``, ``/crowd``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any
from uuid import UUID

from fedgpu_lab.loopback import Query, serve

MIB = 2**20
ODD = "\ud800 \x1b]0;owned\x07\x1b[31m \x9b2J \u202egnp \x00"
"""A lone surrogate, a title and a colour for a terminal, a C1 escape, a change of direction, a zero byte."""

LEASE = f"{UUID(int=7)}-1"
"""The lease whose Job the member of odd texts shows."""


def node(name: str) -> dict[str, Any]:
    status = {"allocatable": {"nvidia.com/gpu": "8"}, "conditions": [{"type": "Ready", "status": "True"}]}
    labels = {"nvidia.com/gpu.product": "NVIDIA-L4"}
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "7", "labels": labels},
        "status": status,
    }


def listed(items: list[Any], **meta: str) -> bytes:
    return json.dumps({"kind": "List", "metadata": {"resourceVersion": "7", **meta}, "items": items}).encode()


def pod(number: int, labels: dict[str, str], **status: Any) -> dict[str, Any]:
    meta = {"name": f"p-{number}", "namespace": "ns", "uid": f"uid-{number}", "resourceVersion": str(number)}
    return {"metadata": {**meta, "labels": labels}, "spec": {"nodeName": "n"}, "status": {"phase": "Running", **status}}


def failed_job(labels: dict[str, str]) -> dict[str, Any]:
    meta = {"name": LEASE, "namespace": "fedgpu-tenant-team", "uid": "job-uid", "resourceVersion": "7"}
    condition = {"type": "Failed", "status": "True", "reason": ODD, "message": f"it broke {ODD}"}
    return {"metadata": {**meta, "labels": labels}, "status": {"conditions": [condition]}}


def labels_of(query: Query) -> dict[str, str]:
    """Such labels as the selector wants."""
    words = query.get("labelSelector", [""])[0].split(",")
    found = dict(word.split("=") for word in words if "=" in word)
    return {"fedgpu.dev/lease": "some-lease", **found}


async def honest(path: str, query: Query) -> AsyncIterator[bytes]:
    """A small cluster with one node; its watches live and say so."""
    if "watch" in query:
        for version in count(8):
            event = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}
            yield json.dumps(event).encode() + b"\n"
            await asyncio.sleep(0.2)
    elif path == "/version":
        yield b'{"gitVersion": "v1.35.0"}'
    else:
        yield listed([node("n")] if path.endswith("/nodes") else [])


async def version(path: str, query: Query) -> AsyncIterator[bytes]:
    """63 MiB where kilobytes would do."""
    if path != "/version":
        async for part in honest(path, query):
            yield part
        return
    yield b'{"gitVersion": "v1.35.0", "junk": [1'
    for _ in range(63):
        yield b",[]" * (MIB // 3)
    yield b"]}"


def heavy(filling: str, size: int) -> Iterator[bytes]:
    """One object of about that size, most of it in a field that nobody reads."""
    yield b'{"metadata": {"name": "x", "uid": "u", "resourceVersion": "7"}, "junk": [1'
    yield (filling * (size // len(filling))).encode()
    yield b"]}"


async def pages(path: str, query: Query) -> AsyncIterator[bytes]:
    """Lists without end, in pages of ten megabytes of small objects."""
    if path == "/version" or "watch" in query:
        async for part in honest(path, query):
            yield part
        return
    at = int(query.get("continue", ["0"])[0])
    more = 4000
    labels = labels_of(query)
    padding = {"x": "y" * 2300}
    found = [pod(number, labels, padding=padding) for number in range(at * more + 1, at * more + more)]
    yield listed(found, **{"continue": str(at + 1)})


async def dense(path: str, query: Query) -> AsyncIterator[bytes]:
    """Pages of objects that take twenty times their size in memory once they are parsed."""
    if path == "/version" or "watch" in query:
        async for part in honest(path, query):
            yield part
        return
    yield b'{"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [{"metadata": {"name": "a"}}'
    for size in [19 * MIB // 10] * 7 if path.endswith("/jobs") else [15 * MIB]:
        yield b","
        for part in heavy(",[]", size):
            yield part
    yield b"]}"


async def crumbs(path: str, query: Query) -> AsyncIterator[bytes]:
    """Pages of pods in which all that is kept is made of empty braces: twenty times their size once it is kept."""
    if path == "/version" or "watch" in query or path.endswith("/nodes"):
        async for part in honest(path, query):
            yield part
        return
    crumb = "{}," * 127 + "{}"
    fields = ("conditions", "containerStatuses", "initContainerStatuses")
    status = ",".join(f'"{field}":[{crumb}]' for field in fields)
    head = '{"metadata":{"name":"a"},"spec":{"nodeName":"n","containers":[%s],"initContainers":[%s]},"status":{%s}}'
    one = (head % (crumb, crumb, status)).encode()
    yield b'{"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [' + one
    for _ in range(15 * MIB // len(one)):
        yield b"," + one
    yield b"]}"


async def flood(path: str, query: Query) -> AsyncIterator[bytes]:
    """Watches that tell of new pods and their ends, as fast as they are read; each more than a minute's allowance.

    It ends, since this process serves the honest member as well and must not be kept from it by a reader that is gone.
    """
    if "watch" not in query:
        async for part in honest(path, query):
            yield part
        return
    labels = labels_of(query)
    for number in range(8, 400_008, 1000):
        await asyncio.sleep(0)
        events = [
            {"type": kind, "object": pod(each, labels, phase=phase)}
            for each in range(number, number + 1000, 2)
            for kind, phase in (("ADDED", "Running"), ("DELETED", "Succeeded"))
        ]
        yield "".join(json.dumps(event) + "\n" for event in events).encode()


async def drip(path: str, query: Query) -> AsyncIterator[bytes]:
    """One byte after the other, for ever."""
    yield b"{"
    while True:
        yield b" "
        await asyncio.sleep(0.05)


async def texts(path: str, query: Query) -> AsyncIterator[bytes]:
    """Nothing is large; the words are odd, and the pods of all namespaces may not be read."""
    if path.endswith("/nodes"):
        odd = node("n")
        odd["metadata"]["labels"]["nvidia.com/gpu.family"] = ODD
        yield listed([odd])
        return
    if "fieldSelector" in query:
        raise PermissionError(ODD)
    if path.endswith("/jobs") and "watch" not in query:
        yield listed([failed_job(labels_of(query) | {"fedgpu.dev/lease": LEASE})])
        return
    async for part in honest(path, query):
        yield part


SHRUNK = False
"""Whether the members that can shrink have done so: asked for with the path ``/shrink``."""


async def crowd(path: str, query: Query) -> AsyncIterator[bytes]:
    """Pods that never end, on a node that exists, until it shrinks."""
    if path.endswith("/pods") and "labelSelector" not in query and not SHRUNK:
        at = int(query.get("continue", ["0"])[0])
        yield listed([pod(number, {}) for number in range(at * 250, at * 250 + 250)], **{"continue": str(at + 1)})
        return
    async for part in honest(path, query):
        yield part


async def swollen(path: str, query: Query) -> AsyncIterator[bytes]:
    """Of our own pods more than may be followed, until it shrinks; of each lease only its own Job, and no pod."""
    labels = labels_of(query)
    if path.endswith("/pods") and labels["fedgpu.dev/lease"] == "some-lease" and not SHRUNK and "watch" not in query:
        state = [{"name": "x" * 2000, "image": "y" * 2000}] * 20
        found = [pod(number, labels, containerStatuses=state) for number in range(1, 201)]
        yield listed(found)
        return
    if path.endswith("/jobs") and "watch" not in query and labels["fedgpu.dev/lease"] == LEASE:
        yield listed([failed_job(labels)])
        return
    async for part in honest(path, query):
        yield part


async def shrink(path: str, query: Query) -> AsyncIterator[bytes]:
    """Those that can shrink do."""
    global SHRUNK  # the state of this process
    SHRUNK = True
    yield b'{"gitVersion": "v1.35.0"}'


SERVED = (honest, version, pages, dense, crumbs, flood, drip, texts, swollen, crowd, shrink)
MEMBERS = {each.__name__: each for each in SERVED}


def answer(member: str, path: str, query: Query) -> AsyncIterator[bytes]:
    return MEMBERS[member](path, query)


if __name__ == "__main__":
    asyncio.run(serve(answer, *sys.argv[1:]))
