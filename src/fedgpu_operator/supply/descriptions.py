"""What one source says of a node's GPUs. A source is a function from a node to its descriptions, one module each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from fedgpu_operator.domain.devices import Labels
from fedgpu_operator.supply.node import NodeFacts


@dataclass(frozen=True, slots=True)
class Description:
    """What a source says of the devices that a node has under one resource name; what it does not know is empty.

    `source` is its name for people, e.g. ``GPU feature discovery``. `product` is this project's name of the product
    and `selector` the labels by which a pod is kept to nodes with it. `memory_mib` is what a device shows, in MiB,
    and `card_mib` what a list says of such a card, which may be a little more. `count` is how many devices the
    source says that there are. `shared` says how several pods share each device, which then is not sold, and
    `invalid` why the devices cannot be sold for another reason; both are half-sentences such as ``time-slicing, 4
    clients per GPU``.
    """

    source: str
    resource: str
    product: str = ""
    selector: Labels = ()
    architecture: str = ""
    memory_mib: int = 0
    card_mib: int = 0
    count: int | None = None
    shared: str = ""
    invalid: str = ""


Source: TypeAlias = Callable[[NodeFacts], Iterable[Description]]
