"""A hub's API server as far as a watch of ComputeJobs needs one: discovery, a list in pages, events on demand.

    python -m benchmarks.watches.server JOBS    serves so many jobs on a loopback port, which it prints

`POST /change` sends one MODIFIED event for each job to every open watch. Nothing is checked and nobody is refused.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Final

from aiohttp import web

VERSION: Final = "fedgpu.dev/v1alpha1"
PAGE: Final = 500
EVENTS_PER_SECOND: Final = 1000
NAMESPACES: Final = 20
VERBS: Final = ["create", "delete", "get", "list", "patch", "update", "watch"]


def job(number: int, version: int) -> dict[str, Any]:
    """A placed job as an API server stores it, with field owners: about 4 kB."""
    owned: dict[str, Any] = {
        f"f:{word}": {f"f:part-{part}": {} for part in range(8)} for word in ("gpu", "template", "runLimitSeconds")
    }
    fields = {
        "operation": "Apply",
        "apiVersion": VERSION,
        "time": "2026-11-30T05:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": owned},
    }
    place = {"provider": f"provider-{number % 50}", "product": "NVIDIA-H100-80GB-HBM3", "priority": 0, "attempt": 1}
    condition = {"status": "True", "message": "", "lastTransitionTime": "2026-11-30T05:00:00Z", "observedGeneration": 1}
    uid = f"00000000-0000-0000-0000-{number:012d}"
    status = {
        "observedGeneration": 1,
        "state": "Running",
        "placement": {
            **place,
            "lease": f"{uid}-1",
            "price": "1.25",
            "effectivePrice": "1.25",
            "placedAt": "2026-11-30T05:00:00Z",
        },
        "usage": {"gpuSeconds": version, "cost": "0"},
        "conditions": [{"type": each, "reason": each, **condition} for each in ("Admitted", "Placed", "Running")],
    }
    command = ["python", "train.py"]
    template = {"containers": [{"name": "main", "image": "example.com/train:1", "command": command}]}
    return {
        "apiVersion": VERSION,
        "kind": "ComputeJob",
        "metadata": {
            "name": f"job-{number}",
            "namespace": f"team-{number % NAMESPACES}",
            "uid": uid,
            "resourceVersion": str(version),
            "generation": 1,
            "creationTimestamp": "2026-11-30T05:00:00Z",
            "finalizers": ["fedgpu.dev/lease"],
            "managedFields": [{"manager": each, **fields} for each in ("kubectl", "fedgpu", "fedgpu-status")],
        },
        "spec": {"runLimitSeconds": 3600, "gpu": {"count": 1}, "template": template},
        "status": status,
    }


class Server:
    """One kind with `jobs` objects."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._sent = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api", _answer({"versions": ["v1"]}))
        app.router.add_get("/api/v1", _answer(_resources("v1", ("namespaces", "Namespace"), ("events", "Event"))))
        versions = {"groupVersion": VERSION, "version": "v1alpha1"}
        group = {"name": "fedgpu.dev", "versions": [versions], "preferredVersion": versions}
        app.router.add_get("/apis", _answer({"groups": [group]}))
        app.router.add_get(f"/apis/{VERSION}", _answer(_resources(VERSION, ("computejobs", "ComputeJob"))))
        app.router.add_get(f"/apis/{VERSION}/computejobs", self._jobs_of)
        app.router.add_get("/api/v1/namespaces", self._nothing)
        app.router.add_post("/change", self._change)
        return app

    async def _change(self, _: web.Request) -> web.Response:
        self._sent.set()
        return web.json_response({})

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.json_response(_list("v1", "NamespaceList", []))
        return await self._follow(request, 0)

    async def _jobs_of(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await self._follow(request, self._jobs)
        first = int(request.query.get("continue") or 0)
        after = min(self._jobs, first + PAGE)
        items = [job(number, number + 1) for number in range(first, after)]
        return web.json_response(_list(VERSION, "ComputeJobList", items, after if after < self._jobs else None))

    async def _follow(self, request: web.Request, jobs: int) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        await self._sent.wait()
        for number in range(jobs):
            event = {"type": "MODIFIED", "object": job(number, 10_000_000 + number)}
            await stream.write(json.dumps(event).encode() + b"\n")
            await asyncio.sleep(1 / EVENTS_PER_SECOND)
        await asyncio.Event().wait()
        return stream


def _answer(body: dict[str, Any]) -> Any:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body)

    return answer


def _resources(version: str, *kinds: tuple[str, str]) -> dict[str, Any]:
    found = [
        {"name": plural, "kind": kind, "singularName": kind.lower(), "namespaced": True, "verbs": VERBS}
        for plural, kind in kinds
    ]
    return {"groupVersion": version, "resources": found}


def _list(version: str, kind: str, items: list[dict[str, Any]], after: int | None = None) -> dict[str, Any]:
    meta = {"resourceVersion": "1000000", **({"continue": str(after)} if after else {})}
    return {"apiVersion": version, "kind": kind, "metadata": meta, "items": items}


async def _serve(jobs: int) -> None:
    runner = web.AppRunner(Server(jobs).app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
