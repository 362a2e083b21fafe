"""What the loops need from the outside world, as Protocols; adapters/ implements them, tests may replace them.

One file per neighbour; callers import from here.
"""

from __future__ import annotations

from fedgpu_operator.ports.clock import Clock
from fedgpu_operator.ports.escrow import Escrow
from fedgpu_operator.ports.kube import (
    BATCH_JOBS,
    CONFIG_MAPS,
    COORDINATION_LEASES,
    CRDS,
    EVENTS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    Holding,
    Kube,
    Listed,
    R,
    Reading,
    ResourceType,
    WatchEvent,
    read_back,
)
from fedgpu_operator.ports.leadership import LeaderCheck, always
from fedgpu_operator.ports.ledger import (
    AttemptBook,
    EpochBook,
    Ledger,
    PriceHistory,
    ReceiptBook,
    TransactionBook,
    UsageBook,
)
from fedgpu_operator.ports.metrics import Metrics
from fedgpu_operator.ports.roundtrips import RoundTrips
from fedgpu_operator.ports.signer import TypedSigner

__all__ = [
    "BATCH_JOBS",
    "CONFIG_MAPS",
    "COORDINATION_LEASES",
    "CRDS",
    "EVENTS",
    "LEASES",
    "NAMESPACES",
    "NODES",
    "PODS",
    "SECRETS",
    "AttemptBook",
    "Clock",
    "EpochBook",
    "Escrow",
    "Holding",
    "Kube",
    "LeaderCheck",
    "Ledger",
    "Listed",
    "Metrics",
    "PriceHistory",
    "R",
    "Reading",
    "ReceiptBook",
    "ResourceType",
    "RoundTrips",
    "TransactionBook",
    "TypedSigner",
    "UsageBook",
    "WatchEvent",
    "always",
    "read_back",
]
