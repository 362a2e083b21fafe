"""Creates jobs as fast as one client can, and sees by watches when each has its batch/v1 Job on a member."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import yaml
from benchmarks.e2e.world import API, Bare, World

CONNECTIONS = 8
JOB_UID = "fedgpu.dev/job-uid"


@dataclass
class Client:
    """One API server, over as few layers as possible: what it costs is not to be measured."""

    session: aiohttp.ClientSession
    server: str

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self.session.post(self.server + path, json=body) as answer:
            said: dict[str, Any] = await answer.json()
            if answer.status != 201:
                raise RuntimeError(f"POST {path}: {said}")
            return said


@dataclass
class Watcher:
    """When which job was created, and when its workload came; by the job's uid, in seconds of one monotonic clock."""

    created: dict[str, float] = field(default_factory=dict)
    placed: dict[str, float] = field(default_factory=dict)
    doubled: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, client: Client, ready: asyncio.Event) -> None:
        """Note every new Job of a member until cancelled."""
        path = f"{client.server}/apis/batch/v1/jobs"
        async with client.session.get(path, params={"limit": "1"}) as listed:
            version = (await listed.json())["metadata"]["resourceVersion"]
        ready.set()
        while True:
            query = {"watch": "1", "resourceVersion": version}
            async with client.session.get(path, params=query, timeout=aiohttp.ClientTimeout(total=None)) as stream:
                async for line in stream.content:
                    seen = time.monotonic()
                    event = json.loads(line)
                    version = event["object"]["metadata"].get("resourceVersion", version)
                    if event["type"] == "ADDED":
                        uid = event["object"]["metadata"]["labels"][JOB_UID]
                        self.doubled += uid in self.placed
                        self.placed.setdefault(uid, seen)
                        self.news.set()

    async def until(self, uids: Iterable[str], patience: float) -> None:
        """Wait until all of these have a workload."""
        waiting = set(uids)
        async with asyncio.timeout(patience):
            while waiting := waiting - self.placed.keys():
                self.news.clear()
                await self.news.wait()


@dataclass
class Load:
    """What a phase of the benchmark does to the world."""

    hub: Client
    watcher: Watcher

    async def create(self, names: Iterable[str], connections: int = CONNECTIONS) -> list[str]:
        """Create these jobs as fast as that many connections can; their uids."""
        queue = iter(names)
        uids: list[str] = []

        async def work() -> None:
            for name in queue:
                begun = time.monotonic()
                made = await self.hub.create(f"{API}/namespaces/team/computejobs", job(name))
                uids.append(made["metadata"]["uid"])
                self.watcher.created[uids[-1]] = begun

        await asyncio.gather(*(work() for _ in range(connections)))
        return uids

    def latencies(self, uids: Iterable[str]) -> list[float]:
        """Seconds from the request to create a job to the sight of its workload on a member, sorted."""
        return sorted(self.watcher.placed[uid] - self.watcher.created[uid] for uid in uids)


@asynccontextmanager
async def load(world: World) -> AsyncIterator[Load]:
    """A client of the hub and watches of all members."""
    async with _client(world.hub) as hub:
        watcher = Watcher()
        members = [_client(member) for member in world.members]
        clients = [await member.__aenter__() for member in members]
        readies = [asyncio.Event() for _ in clients]
        tasks = [asyncio.create_task(watcher.follow(c, ready)) for c, ready in zip(clients, readies, strict=True)]
        await asyncio.gather(*(ready.wait() for ready in readies))
        try:
            yield Load(hub, watcher)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for member in members:
                await member.__aexit__(None, None, None)


def job(name: str) -> dict[str, Any]:
    """One GPU for an hour, of the shape of the README's first job."""
    pod = {"containers": [{"name": "main", "image": "example.com/train:1", "command": ["python", "train.py"]}]}
    spec = {"runLimitSeconds": 3600, "gpu": {"count": 1}, "template": {"spec": pod}}
    meta = {"name": name, "namespace": "team"}
    return {"apiVersion": "fedgpu.dev/v1alpha1", "kind": "ComputeJob", "metadata": meta, "spec": spec}


@asynccontextmanager
async def _client(cluster: Bare) -> AsyncIterator[Client]:
    token = yaml.safe_load(cluster.kubeconfig_text())["users"][0]["user"]["token"]
    context = ssl.create_default_context(cadata=cluster.ca_pem)
    connector = aiohttp.TCPConnector(ssl=context, limit=32)
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers, read_bufsize=2**21) as session:
        yield Client(session, cluster.server)
