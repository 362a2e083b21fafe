"""Runs agents over members of the benchmark in this process and prints what they cost; works with older builds as well.

    python -m benchmarks.member.agents PORT CA MEMBER AGENTS COUNTS

Prints JSON: resident MiB before, at the most and at the end, and CPU seconds, over so many counts of each agent.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgpu_lab.kubeconfig import render
from fedgpu_operator import agent as package
from fedgpu_operator.adapters.clock import SystemClock
from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.adapters.kube.kubeconfig import member_client
from fedgpu_operator.agent import Agent, AgentSettings
from fedgpu_operator.errors import NotFoundError
from fedgpu_operator.ports import Listed, ResourceType

MIB = 2**20
PATIENCE = 240.0
IDLE_SECONDS = 30.0


class Hub:
    """No leases, and one report that remembers its status."""

    def __init__(self) -> None:
        self.report: dict[str, Any] = {}

    async def get(self, _: ResourceType, name: str, __: str = "") -> dict[str, Any]:
        if not self.report:
            raise NotFoundError(name)
        return self.report

    async def list(self, *_: Any, **__: Any) -> Listed:
        return [], "1"

    async def create(self, _: ResourceType, obj: dict[str, Any]) -> dict[str, Any]:
        self.report = obj
        return obj

    async def apply(self, _: ResourceType, obj: dict[str, Any], **__: Any) -> dict[str, Any]:
        return obj

    async def patch_status(self, _: ResourceType, __: str, ___: str, patch: dict[str, Any]) -> dict[str, Any]:
        self.report = {**self.report, "status": {**self.report.get("status", {}), **patch["status"]}}
        return self.report

    @property
    def condition(self) -> dict[str, Any]:
        found = self.report.get("status", {}).get("conditions", [{}])
        return found[0] if found else {}


def resident(field: str) -> int:
    """Bytes: VmRSS of now, or VmHWM, the most since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def reset_most() -> int:
    """Bytes resident now, from which VmHWM counts."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def sockets() -> int:
    """Sockets that this process has open."""
    return sum(1 for fd in Path("/proc/self/fd").iterdir() if fd.is_socket())


def client(port: int, ca: str, member: str) -> KubeClient:
    """As the operator makes it for a member."""
    server = f"https://127.0.0.1:{port}/{member}"
    api = member_client(render(name=member, server=server, ca_pem=ca, token="x"))  # noqa: S106  # nobody asks for it
    return KubeClient.of_member(api, package.KEPT) if hasattr(KubeClient, "of_member") else KubeClient(api)


@dataclass
class Run:
    """One agent with what it talks to; `counted` is how often it has counted its member, or tried to."""

    agent: Agent
    kube: KubeClient
    hub: Hub
    counted: int = 0


def made(number: int, kube: KubeClient, interval: float) -> Run:
    """An agent that notes each of its counts."""
    hub = Hub()
    settings = AgentSettings(f"ns-{number}", "hub", inventory_interval=interval)
    agent = Agent(f"prov-{number}", hub, kube, settings, SystemClock())  # type: ignore[arg-type]
    found, count = Run(agent, kube, hub), agent._inventory  # noqa: SLF001  # the one place where every build counts

    async def noted() -> Any:
        try:
            products = await count()
        except Exception:
            found.counted += 1
            raise
        found.counted += products is not None
        return products

    agent._inventory = noted  # type: ignore[method-assign]  # noqa: SLF001
    return found


async def run(port: int, ca: str, member: str, agents: int, counts: int) -> dict[str, Any]:
    """What so many agents cost until each has counted its member so often, or has given up on it."""
    gc.collect()
    before, cpu = reset_most(), time.process_time()
    runs = [made(number, client(port, ca, member), 1.0 if agents == 1 else 10.0) for number in range(agents)]
    tasks = [asyncio.create_task(each.agent.run()) for each in runs]
    begun = time.monotonic()
    while any(each.counted < counts for each in runs) and time.monotonic() - begun < PATIENCE:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    seconds = time.monotonic() - begun
    await asyncio.sleep(1.0)
    spent, idle = time.process_time() - cpu, {}
    if agents > 1:
        begun, idle_cpu = time.monotonic(), time.process_time()
        await asyncio.sleep(IDLE_SECONDS)
        idle_cpu = (time.process_time() - idle_cpu) / (time.monotonic() - begun)
        gc.collect()
        idle = {
            "kibPerAgent": round((resident("VmRSS") - before) / agents / 1024, 1),
            "tasksPerAgent": round(len(asyncio.all_tasks()) / agents, 2),
            "socketsPerAgent": round(sockets() / agents, 2),
            "idleMilliCpuPerAgent": round(1000 * idle_cpu / agents, 3),
        }
    gc.collect()
    found = {
        "residentBeforeMiB": round(before / MIB, 1),
        "residentMostMiB": round(resident("VmHWM") / MIB, 1),
        "residentAfterMiB": round(resident("VmRSS") / MIB, 1),
        "cpuSeconds": round(spent, 2),
        "seconds": round(seconds, 2),
        "counts": min(each.counted for each in runs),
        "condition": {key: runs[0].hub.condition.get(key) for key in ("status", "reason", "message")},
        **idle,
    }
    await asyncio.gather(*(each.agent.aclose() for each in runs))
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*(each.kube.close() for each in runs))
    return found


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    port, ca, member, agents, counts = sys.argv[1:]
    print(json.dumps(asyncio.run(run(int(port), Path(ca).read_text(), member, int(agents), int(counts)))))
