"""GPUs as values: what a card is and what a job needs of it; names follow GPU feature discovery."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuModel:
    """One GPU product as its nodes label it.

    `product` is the value of `nvidia.com/gpu.product` (e.g. ``NVIDIA-H100-80GB-HBM3``), `memory_mib` of
    `nvidia.com/gpu.memory` (MiB per card), `architecture` of `nvidia.com/gpu.family` (e.g. ``hopper``).
    """

    product: str
    memory_mib: int
    architecture: str


@dataclass(frozen=True, slots=True)
class GpuNeed:
    """What one replica asks for; an empty set or a zero means "any"."""

    count: int = 1
    products: frozenset[str] = frozenset()
    min_memory_mib: int = 0
    architectures: frozenset[str] = frozenset()
