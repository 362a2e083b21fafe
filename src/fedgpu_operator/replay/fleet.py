"""Who sells what in a replay: nodes dealt out to providers with prices, and what is free of them as time goes by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.money import MicroUSD, parse_usd
from fedgpu_operator.domain.offer import GpuModel, Offer
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.replay.trace import Node, Task

PRICES: Final = {
    "T4": "0.35",
    "P100": "1.46",
    "V100M16": "2.48",
    "V100M32": "2.98",
    "A10": "0.75",
    "G1": "0.60",
    "G2": "1.00",
    "G3": "3.00",
}
"""USD per GPU-hour. T4, P100 and V100 of 16 GB: Google Cloud's list prices for GPUs on demand in Iowa, 2025. The others
are assumptions of ours: V100M32 20 % above the smaller one, A10 as small clouds asked in 2025, G1 to G3 because their
owner does not say what they are."""

NODE_GPUS: Final = 8
SLACK: Final = 0.9


@dataclass(frozen=True, slots=True)
class Fleet:
    """Offers in name order, and for each node its offer's index and its GPUs."""

    offers: tuple[Offer, ...]
    owner: tuple[int, ...]
    gpus: tuple[int, ...]

    @property
    def total(self) -> int:
        """All GPUs."""
        return sum(self.gpus)


def deal(nodes: Sequence[Node], prices: Mapping[str, str], providers: int, spread: float) -> Fleet:
    """The nodes of each model dealt out in turn; providers ask the model's price, from less to more by `spread`.

    The first provider asks (1 − spread) times the price, the last (1 + spread) times. Raises ConfigurationError for a
    model without price or a price that is none.
    """
    dealt: dict[tuple[str, str], list[Node]] = {}
    turns: Counter[str] = Counter()
    for node in nodes:
        dealt.setdefault((f"provider-{turns[node.model] % providers:03d}", node.model), []).append(node)
        turns[node.model] += 1
    offers, owner, gpus = [], list[int](), list[int]()
    for index, ((provider, model), owned) in enumerate(sorted(dealt.items())):
        share = int(provider[-3:]) / (providers - 1) if providers > 1 else 0.5
        price = MicroUSD(round(_price(prices, model) * (1 + spread * (2 * share - 1))))
        free = Counter(node.gpus for node in owned)
        offers.append(Offer(provider, GpuModel(model, 0, ""), price, Location(""), free))
        owner += [index] * len(owned)
        gpus += [node.gpus for node in owned]
    return Fleet(tuple(offers), tuple(owner), tuple(gpus))


def enough_for(tasks: Iterable[Task]) -> tuple[Node, ...]:
    """Nodes of eight that together hold 90 % of the most GPUs which the tasks used at once, for a trace without nodes.

    A task that names models counts for the first of them by name, any other for all models that are named in turn.
    """
    tasks = list(tasks)
    known = sorted({min(task.models) for task in tasks if task.models}) or ["T4"]
    weights: Counter[str] = Counter(dict.fromkeys(known, 1))
    for task in tasks:
        for model in [min(task.models)] if task.models else known:
            weights[model] += task.gpus * task.seconds // (1 if task.models else len(known))
    peak, now = 0, 0
    changes = [(task.created, task.gpus) for task in tasks] + [(t.created + t.seconds, -t.gpus) for t in tasks]
    for _, change in sorted(changes):
        now += change
        peak = max(peak, now)
    nodes = []
    for model in known:
        wanted = peak * SLACK * weights[model] / weights.total() / NODE_GPUS
        nodes += [Node(f"node-{model}-{i:04d}", model, NODE_GPUS) for i in range(max(1, round(wanted)))]
    return tuple(nodes)


def _price(prices: Mapping[str, str], model: str) -> int:
    if model not in prices:
        raise ConfigurationError(f"no price for model {model!r}: name it in the table that --prices reads")
    try:
        return parse_usd(prices[model])
    except ValueError as error:
        raise ConfigurationError(f"the price of model {model!r}: {error}") from error


class State:
    """Free GPUs node by node while the replay runs."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.free = list(fleet.gpus)
        self.nodes: list[list[int]] = [[] for _ in fleet.offers]
        for node, offer in enumerate(fleet.owner):
            self.nodes[offer].append(node)

    def histogram(self, offer: int) -> dict[int, int]:
        """Free GPUs → nodes, of one offer."""
        return Counter(free for node in self.nodes[offer] if (free := self.free[node]))

    def fullest(self, offer: int, gpus: int) -> int | None:
        """The offer's node with the fewest free GPUs that still holds so many; None where there is none."""
        return min(
            (node for node in self.nodes[offer] if self.free[node] >= gpus),
            key=lambda node: (self.free[node], node),
            default=None,
        )

    def take(self, node: int, gpus: int) -> None:
        """Occupy GPUs; a negative number gives them back."""
        self.free[node] -= gpus
