"""Adds up what a member supplies, from pages of its nodes and then of its pods, none of which is held; pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fedgpu_operator.domain.devices import MAX_AVOIDED, MAX_NODES, DeviceRequest, Form, Labels
from fedgpu_operator.domain.inventory import NO_RULES, InventoryRules
from fedgpu_operator.errors import ListTooLargeError
from fedgpu_operator.supply.judge import PASSING, LeftOut, NodeReading, Pool, Why, read_node
from fedgpu_operator.supply.node import mapping, node_facts
from fedgpu_operator.supply.pods import devices_of, terminal

MAX_PODS: Final = 60_000
"""Pods that one count goes through: twice an ordinary large cluster, and about half of a member's budget."""
EXAMPLES: Final = 3
LIVE_PODS: Final = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
"""Field selector of the pods that can hold a GPU."""


def live_pods_of(node: str) -> str:
    """Field selector of the pods on that node that can hold a GPU."""
    return LIVE_PODS.replace("spec.nodeName!=", f"spec.nodeName={node}")


@dataclass(frozen=True, slots=True)
class ProductSupply:
    """One product on the nodes that could take our work now.

    `request` is how a pod asks for it, kept off nodes that have its labels and are left out. `others` are the devices
    that foreign pods hold, and `free` maps the devices that they leave on a node to how many such nodes there are.
    """

    product: str
    architecture: str
    memory_mib: int
    form: Form
    request: DeviceRequest
    total: int
    others: int
    free: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class LeftOutNodes:
    """Nodes of which devices do not count for one and the same reason; `examples` are the first few by name."""

    why: Why
    message: str
    nodes: int
    devices: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Supply:
    """What a member supplies, by product, and what is left out.

    `aside` counts, by lease of ours, the pods on devices that are left out now: their node was cordoned, say, while
    they ran. They take nothing from what is free.
    """

    products: tuple[ProductSupply, ...]
    left_out: tuple[LeftOutNodes, ...]
    aside: Mapping[str, int]


class Tally:
    """Counts from pages of nodes and then of pods.

    `lease_of` says from a pod's labels which lease of ours it belongs to; a pod with an empty answer is foreign. Our
    own pods are not subtracted from what is free: the hub knows its leases, and sooner.
    """

    def __init__(self, lease_of: Callable[[Mapping[str, str]], str], rules: InventoryRules = NO_RULES) -> None:
        self._lease_of = lease_of
        self._rules = rules
        self._nodes: dict[str, NodeReading] = {}
        self._foreign: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._ours: defaultdict[str, list[tuple[str, Counter[str]]]] = defaultdict(list)
        self._gone_through = 0

    @property
    def names(self) -> list[str]:
        """The nodes with GPUs, whose pods are to be counted."""
        return list(self._nodes)

    def nodes(self, nodes: Iterable[Mapping[str, Any]]) -> None:
        """Count these nodes; raises ListTooLargeError for more than a report can speak of."""
        for node in nodes:
            read = read_node(node_facts(node), self._rules)
            if read.name and (read.pools or read.left_out):
                self._nodes[read.name] = read
        if len(self._nodes) > MAX_NODES:
            raise ListTooLargeError(f"the member shows more than {MAX_NODES} nodes with GPUs")

    def pods(self, pods: Iterable[Mapping[str, Any]]) -> None:
        """Count these pods, of nodes that were counted before; raises ListTooLargeError for more than MAX_PODS."""
        for pod in pods:
            self._gone_through += 1
            if self._gone_through > MAX_PODS:
                raise ListTooLargeError(f"the member shows more than {MAX_PODS} pods that may hold GPUs")
            node = mapping(pod.get("spec")).get("nodeName")
            if not isinstance(node, str) or node not in self._nodes or terminal(pod):
                continue
            lease = self._lease_of(mapping(mapping(pod.get("metadata")).get("labels")))
            if lease:
                self._ours[node].append((lease, devices_of(pod)))
            else:
                self._foreign[node] += devices_of(pod)

    def supply(self) -> Supply:
        """All that was counted; products and reasons in the order of their names."""
        pools: defaultdict[str, defaultdict[str, list[tuple[NodeReading, Pool]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for reading in self._nodes.values():
            for pool in reading.pools:
                pools[pool.product].setdefault(pool.resource, []).append((reading, pool))
        alike = self._alike()
        products: list[ProductSupply] = []
        reasons = [(reading.name, left.why, left.message, left.devices) for reading, left in self._left_out()]
        for name in sorted(pools):
            # A pod asks for one resource: of a product under two names the larger part is let.
            resource = max(pools[name], key=lambda each: (sum(pool.count for _, pool in pools[name][each]), each))
            found = self._product(pools[name].pop(resource), alike)
            for other, rest in pools[name].items():
                text = f"{name} is {other} here and {resource} on other nodes; one of them can be let"
                reasons += [(reading.name, Why.OTHER_RESOURCE, text, pool.count) for reading, pool in rest]
            if len(found.request.avoid) > MAX_AVOIDED:
                text = f"more than {MAX_AVOIDED} nodes that are left out have the labels of {name}"
                reasons.append((found.request.avoid[0], Why.CONTRADICTING_FIGURES, text, found.total))
                continue
            products.append(found)
        return Supply(tuple(products), _grouped(reasons), self._aside())

    def _product(self, parts: list[tuple[NodeReading, Pool]], alike: Mapping[Labels, set[str]]) -> ProductSupply:
        first = min(parts, key=lambda each: each[0].name)[1]
        selectors = sorted({pool.selector for _, pool in parts})
        avoid = set().union(*(alike.get(each, set()) for each in selectors))
        free: Counter[int] = Counter()
        others = 0
        for reading, pool in parts:
            foreign = min(pool.count, self._foreign[reading.name][pool.resource])
            others += foreign
            free[0 if self._broken(reading.name, pool) else pool.count - foreign] += 1
        return ProductSupply(
            product=first.product,
            architecture=min((pool.architecture for _, pool in parts if pool.architecture), default=""),
            # A node of unknown memory says nothing of the others.
            memory_mib=min((pool.memory_mib for _, pool in parts if pool.memory_mib), default=0),
            form=first.form,
            request=DeviceRequest(
                first.resource,
                tuple(selectors),
                avoid=tuple(sorted(avoid)),
                tolerations=tuple(sorted({each for reading, _ in parts for each in reading.tolerations})),
                runtime_class=self._rules.runtime_class,
            ),
            total=sum(pool.count for _, pool in parts),
            others=others,
            free=free,
        )

    def _broken(self, node: str, pool: Pool) -> bool:
        """Whether more is held than there is: a device fell off while a pod ran, and none of the rest is free."""
        ours = sum(devices[pool.resource] for _, devices in self._ours.get(node, ()))
        return ours > 0 and ours + self._foreign[node][pool.resource] > pool.count

    def _aside(self) -> dict[str, int]:
        """By lease of ours, its pods that hold nothing of what is counted as free."""
        found: Counter[str] = Counter()
        for name, pods in self._ours.items():
            counted = {p.resource for p in self._nodes[name].pools if not self._broken(name, p)}
            found.update(lease for lease, devices in pods if devices and not counted & devices.keys())
        return dict(found)

    def _left_out(self) -> Iterator[tuple[NodeReading, LeftOut]]:
        return ((reading, left) for reading in self._nodes.values() for left in reading.left_out)

    def _alike(self) -> dict[Labels, set[str]]:
        """By selector, the hostnames of nodes that are left out and that the member's scheduler would choose by it."""
        found: defaultdict[Labels, set[str]] = defaultdict(set)
        for reading, left in self._left_out():
            if left.why not in PASSING and left.devices:
                for selector in left.selectors:
                    found[selector].add(reading.hostname)
        return found


def _grouped(reasons: Iterable[tuple[str, Why, str, int]]) -> tuple[LeftOutNodes, ...]:
    """(node, why, message, devices) put together by why and message."""
    groups: defaultdict[tuple[Why, str], list[tuple[str, int]]] = defaultdict(list)
    for node, why, message, devices in reasons:
        groups[why, message].append((node, devices))
    return tuple(
        LeftOutNodes(
            why,
            message,
            nodes=len(found),
            devices=sum(devices for _, devices in found),
            examples=tuple(sorted(node for node, _ in found)[:EXAMPLES]),
        )
        for (why, message), found in sorted(groups.items())
    )
