"""Counts what a member supplies, page by page, so that nothing of a large member is held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Final

from fedgpu_operator.domain.inventory import NO_RULES, InventoryRules
from fedgpu_operator.ports import NODES, PODS, Kube
from fedgpu_operator.supply import LIVE_PODS, Tally, live_pods_of

MOST_ASKED_NODES: Final = 32
"""Nodes with GPUs of which each is asked for its pods; of more, all pods of the member are gone through."""
NODES_AT_ONCE: Final = 4


async def count(member: Kube, lease_of: Callable[[Mapping[str, str]], str], rules: InventoryRules = NO_RULES) -> Tally:
    """Of few nodes with GPUs each one's pods, else the pods of all nodes.

    `lease_of` says from a pod's labels which lease of ours it belongs to, empty for a foreign one; `rules` is what the
    owner says of its nodes. Raises the KubeError
    tree, ListTooLargeError among it.
    """
    tally = Tally(lease_of, rules)
    async for nodes, _ in member.pages(NODES):
        tally.nodes(nodes)
    if len(tally.names) > MOST_ASKED_NODES:
        await _count_pods(member, tally, LIVE_PODS)
        return tally
    gate = asyncio.Semaphore(NODES_AT_ONCE)

    async def one(node: str) -> None:
        async with gate:
            await _count_pods(member, tally, live_pods_of(node))

    await _all_or_first(one(node) for node in tally.names)
    return tally


async def _count_pods(member: Kube, tally: Tally, fields: str) -> None:
    async for pods, _ in member.pages(PODS, fields=fields):
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
