"""Counts what a member supplies, page by page, so that nothing of a large member is held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from typing import Final, TypeAlias, cast

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.domain.inventory import NO_RULES, InventoryRules
from fedgpu_operator.ports import NODES, PODS, Kube
from fedgpu_operator.supply import LIVE_PODS, Supply, Tally, live_pods_of

Listed: TypeAlias = tuple[list[JSONObject], str]

MOST_ASKED_NODES: Final = 128
"""Nodes with GPUs of which each may be asked for its pods; of more, all pods of the member are gone through."""
FEW_PODS: Final = 1000
"""So many pods are read at once rather than by requests for single nodes."""
NODES_AT_ONCE: Final = 4
ASSUMED: Final = 100
"""Counts for which a member that had more pods than a few is taken to have them still."""


class MemberCount:
    """Counts one member, again and again.

    `lease_of` says from a pod's labels which lease of ours it belongs to, empty for a foreign one; `rules` is what the
    owner says of its nodes.
    """

    def __init__(
        self, member: Kube, lease_of: Callable[[Mapping[str, str]], str], rules: InventoryRules = NO_RULES
    ) -> None:
        self._member = member
        self._lease_of = lease_of
        self._rules = rules
        self._many = 0
        """For how many counts more the member is taken to have many pods."""

    async def look(self) -> Supply:
        """What it supplies now. Raises the KubeError tree, ListTooLargeError among it."""
        tally = Tally(self._lease_of, self._rules)
        async for nodes, _ in self._member.pages(NODES):
            tally.nodes(nodes)
        if len(tally.names) > MOST_ASKED_NODES:
            await self._pods(tally, LIVE_PODS)
        elif len(tally.names) <= NODES_AT_ONCE or not await self._few(tally):
            gate = asyncio.Semaphore(NODES_AT_ONCE)

            async def one(node: str) -> None:
                async with gate:
                    await self._pods(tally, live_pods_of(node))

            await _all_or_first(one(node) for node in tally.names)
        return tally.supply()

    async def _few(self, tally: Tally) -> bool:
        """Count all pods of the member if they are few; whether they are."""
        self._many -= 1
        if self._many > 0:
            return False
        found: list[JSONObject] = []
        pages = cast("AsyncGenerator[Listed, None]", self._member.pages(PODS, fields=LIVE_PODS))
        async with aclosing(pages):
            async for pods, _ in pages:
                found += pods
                if len(found) > FEW_PODS:
                    self._many = ASSUMED
                    return False
        tally.pods(found)
        return True

    async def _pods(self, tally: Tally, fields: str) -> None:
        async for pods, _ in self._member.pages(PODS, fields=fields):
            tally.pods(pods)


async def _all_or_first(work: Iterable[Coroutine[None, None, None]]) -> None:
    """Wait for all of it; the first trouble ends the rest and is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
