"""Watches our Jobs and pods on a member: wakes the loop, and remembers how pods ended that are gone before it looks."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable

from fedgpu_operator.agent import pods as podlib
from fedgpu_operator.agent.identity import Identity, lease_of
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.errors import GoneError, KubeError
from fedgpu_operator.ports import JOBS, PODS, Kube, ResourceType

log = logging.getLogger(__name__)

SHORTEST_PAUSE = 1.0


class MemberWatch:
    """List-and-watch of one member; only the lists of a pass decide anything, except how a vanished pod ended."""

    def __init__(self, member: Kube, identity: Identity, wake: Callable[[], None], *, longest_pause: float) -> None:
        self._member = member
        self._identity = identity
        self._wake = wake
        self._longest_pause = longest_pause
        self._seen: defaultdict[str, dict[str, JSONObject]] = defaultdict(dict)

    async def run(self) -> None:
        """Watch until cancelled; a member that does not answer is asked again, ever more slowly."""
        async with asyncio.TaskGroup() as group:
            for kind in (JOBS, PODS):
                group.create_task(self._follow(kind))

    def gone(self, present: set[str]) -> dict[str, tuple[JSONObject, ...]]:
        """By lease: pods that are not among the present UIDs and whose last sight bounds their end."""
        return {
            lease: found
            for lease, pods in self._seen.items()
            if (found := tuple(pod for uid, pod in pods.items() if uid not in present and podlib.settled(pod)))
        }

    def forget(self, keep: set[str]) -> None:
        """Drop what is known of the pods of all leases but these."""
        for lease in set(self._seen) - keep:
            del self._seen[lease]

    async def _follow(self, kind: ResourceType) -> None:
        pause = SHORTEST_PAUSE
        while True:
            try:
                items, version = await self._member.list(kind, labels=self._identity.selector)
                for item in items:
                    self._notice(kind, item)
                pause = SHORTEST_PAUSE
                await self._stream(kind, version)
            except GoneError:
                continue
            except KubeError as error:
                log.debug("watch of %s on %s: %s", kind.plural, self._identity.provider, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, self._longest_pause)

    async def _stream(self, kind: ResourceType, version: str) -> None:
        """Follow one watch after another while each goes on where the last one ended."""
        while True:
            async for event in self._member.watch(kind, labels=self._identity.selector, resource_version=version):
                version = str(event.object["metadata"]["resourceVersion"])
                if event.type != "BOOKMARK":
                    self._notice(kind, event.object)

    def _notice(self, kind: ResourceType, obj: JSONObject) -> None:
        if kind is PODS:
            self._seen[lease_of(obj)][str(obj["metadata"]["uid"])] = obj
        self._wake()
