"""GPU products: one name for each, whatever an ecosystem calls it, and whether it is a whole card or a slice of one.

The tables are package data in domain/data, each with its source and its date.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from fedgpu_operator.domain.tables import rows


class Form(StrEnum):
    """What one unit of a product is."""

    CARD = "Card"
    SLICE = "Slice"
    """A part of a card with memory of its own: a MIG instance, or a partition of an AMD card."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU product as its vendor makes it.

    `product` is its one name here: the value that NVIDIA's GPU feature discovery gives `nvidia.com/gpu.product`, or
    the vendor's name in the same spelling. `memory_mib` is the memory of one card in MiB, 0 if unknown.
    """

    product: str
    vendor: str
    architecture: str
    memory_mib: int


MAX_NODES: Final = 100_000
"""Nodes of one member that are spoken of."""
MAX_AVOIDED: Final = 256
"""Nodes that the pods of one product are kept off by name; with more of them it is not let."""
HOSTNAME_LABEL: Final = "kubernetes.io/hostname"
NVIDIA_RESOURCE: Final = "nvidia.com/gpu"
NVIDIA_PRODUCT_LABEL: Final = "nvidia.com/gpu.product"
"""The label by which NVIDIA's GPU feature discovery names a node's product."""

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Label keys and values, all of which a node must have."""


class Toleration(NamedTuple):
    """A taint of effect NoSchedule that work runs in spite of; an empty value stands for any."""

    key: str
    value: str = ""

    def covers(self, key: str, value: str) -> bool:
        """Whether it tolerates that taint."""
        return key == self.key and self.value in {"", value}


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """How a pod on one member asks for devices of one product.

    It asks for so many of the extended resource `resource`, on a node that has all labels of one of `selectors` and
    whose hostname is not among `avoid`: nodes with those labels whose devices are something else. It tolerates the
    taints `tolerations` (effect NoSchedule), and names `runtime_class` if that is not empty.
    """

    resource: str
    selectors: tuple[Labels, ...]
    avoid: tuple[str, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    runtime_class: str = ""

    @classmethod
    def by_discovery(cls, product: str) -> DeviceRequest:
        """As nodes with NVIDIA's GPU feature discovery are asked."""
        tolerated = Toleration(NVIDIA_RESOURCE)
        return cls(NVIDIA_RESOURCE, (((NVIDIA_PRODUCT_LABEL, product),),), tolerations=(tolerated,))


class Instance(NamedTuple):
    """What a cloud's instance type carries: so many GPUs of that product."""

    product: str
    gpus: int


DEVICES: Final[Mapping[str, Device]] = MappingProxyType(
    {
        row["product"]: Device(row["product"], row["vendor"], row["architecture"], int(row["memory_mib"]))
        for row in rows("devices.csv")
    }
)
"""By product."""

INSTANCES: Final[Mapping[str, Instance]] = MappingProxyType(
    {row["type"].lower(): Instance(row["product"], int(row["count"])) for row in rows("instancetypes.csv")}
)
"""By instance type, in lower case."""

_ALIASES: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {(row["ecosystem"], row["name"].lower()): row["product"] for row in rows("devicealiases.csv")}
)
_SLICE: Final = re.compile(r"-MIG-\d+g\.\d+gb([-.+][-.+A-Za-z0-9]*)?$|-(DPX|QPX|CPX)-NPS\d+$")


def named(ecosystem: str, name: str) -> str:
    """The product that an ecosystem calls so, in whatever case; empty if it is not known."""
    return _ALIASES.get((ecosystem, name.lower()), "")


def form_of(product: str) -> Form:
    """Whether a unit of that product is a whole card; a slice's product says which slice of which card it is.

    NVIDIA's discovery ends a MIG instance's product in ``-MIG-<profile>``; a partition of an AMD card ends in
    ``-<compute partition>-<memory partition>`` here.
    """
    return Form.SLICE if _SLICE.search(product) else Form.CARD
