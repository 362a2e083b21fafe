"""ProviderReport: what the owner's side says of its cluster; the agent alone writes it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal

from eth_utils.address import to_checksum_address
from pydantic import Field

from fedgpu_operator.api.base import (
    READY_COLUMN,
    SET_LIST,
    Column,
    Conditions,
    DecimalUSD,
    HexBytes32,
    HexSignature,
    KindInfo,
    Model,
    ObjectName,
    ObservedGeneration,
    Resource,
    WalletAddress,
    Word,
    hint,
    map_list,
)
from fedgpu_operator.api.inventory import RuntimeClassName, TolerationSpec
from fedgpu_operator.domain.devices import MAX_AVOIDED, MAX_NODES, NVIDIA_RESOURCE, DeviceRequest
from fedgpu_operator.domain.money import parse_usd
from fedgpu_operator.domain.settlement import Receipt
from fedgpu_operator.domain.vantage import MAX_VANTAGES

AGENT_LEASE: Final = "fedgpu-agent"
"""The one coordination Lease that an agent renews beside its report: the hub's sign of life of the member."""


MAX_SELECTORS: Final = 16


class NodeBucket(Model):
    """Nodes of equal free capacity."""

    free: int = Field(ge=0, le=1024, description="GPUs on each of these nodes that no foreign pod holds.")
    nodes: int = Field(ge=1, le=MAX_NODES, description="How many such nodes.")


NodeLabel = Annotated[str, Field(max_length=63)]


class NodeSelector(Model):
    """Labels that nodes with a product have, all of them."""

    match_labels: dict[str, NodeLabel] = Field(min_length=1, max_length=4, description="Keys and values of labels.")


class ReportedProduct(Model):
    """One GPU product as the member's nodes show it; pods of our own leases are left out of `gpusInUseByOthers`."""

    product: Word = Field(
        description="Name of the product: the value of nvidia.com/gpu.product on nodes that have it, else this "
        "project's name for what the node's other labels say."
    )
    form: Literal["Card", "Slice"] = Field(
        default="Card", description="Card, or Slice for a part of one with memory of its own (MIG)."
    )
    architecture: str = Field(default="", max_length=63, description="GPU architecture, e.g. hopper.")
    memory_mi_b: int = Field(
        default=0,
        alias="memoryMiB",
        ge=0,
        le=10_000_000,
        description="Memory of one GPU or slice in MiB; 0 if unknown.",
    )
    resource: Annotated[str, Field(max_length=316)] = Field(
        default=NVIDIA_RESOURCE, description="Extended resource that a pod asks for, e.g. nvidia.com/mig-1g.10gb."
    )
    node_selectors: list[NodeSelector] = Field(
        default_factory=list, max_length=MAX_SELECTORS, description="What nodes with it have, any of these."
    )
    excluded_hostnames: list[NodeLabel] = Field(
        default_factory=list,
        max_length=MAX_AVOIDED,
        description="Nodes that one of nodeSelectors matches and whose devices are left out.",
        json_schema_extra=SET_LIST,
    )
    tolerations: list[TolerationSpec] = Field(
        default_factory=list, max_length=16, description="Taints of these nodes (NoSchedule) that our pods tolerate."
    )
    runtime_class_name: RuntimeClassName = Field(
        default="", description="RuntimeClass that pods with GPUs name; empty for none."
    )
    total: int = Field(ge=0, le=10_000_000, description="Allocatable GPUs on schedulable nodes.")
    gpus_in_use_by_others: int = Field(ge=0, le=10_000_000, description="GPUs held by pods that are not ours.")
    free_gpu_histogram: list[NodeBucket] = Field(
        default_factory=list,
        max_length=64,
        description="How many nodes have how many GPUs free: allocatable minus those in use by others.",
    )

    @property
    def request(self) -> DeviceRequest:
        """How a pod asks for it; a report of an older agent does not say, and its nodes have discovery's label."""
        if not self.node_selectors:
            return DeviceRequest.by_discovery(self.product)
        selectors = (tuple(sorted(each.match_labels.items())) for each in self.node_selectors)
        return DeviceRequest(
            self.resource,
            tuple(selectors),
            tuple(self.excluded_hostnames),
            tuple(each.to_domain() for each in self.tolerations),
            self.runtime_class_name,
        )


class UncountedNodes(Model):
    """Nodes with GPUs that do not count, for one and the same reason."""

    reason: Word = Field(description="Why, in one word, e.g. ContradictingFigures.")
    message: str = Field(max_length=512, description="The same as a sentence, with what the owner can look at.")
    nodes: int = Field(ge=1, le=MAX_NODES, description="How many nodes.")
    gpus: int = Field(ge=0, le=MAX_NODES * 1024, description="How many devices the kubelets of these nodes show.")
    examples: list[Annotated[str, Field(max_length=253)]] = Field(
        default_factory=list, max_length=3, description="Names of some of these nodes."
    )


class AsideLease(Model):
    """Pods of a lease on nodes that do not count now: a node was cordoned, say, while they ran."""

    lease: Annotated[str, Field(max_length=253)] = Field(description="Name of the ComputeLease.")
    pods: int = Field(ge=1, le=1024, description="How many of its pods.")


MAX_RECEIPTS: Final = 64
"""Receipts that wait for a signature at once; the others follow when these are signed."""


class ProposedReceipt(Model):
    """What the hub holds that a tenant owes this provider since the beginning; the provider signs it if it agrees."""

    tenant: WalletAddress = Field(description="The tenant's wallet.")
    provider: WalletAddress = Field(description="The provider's payout wallet.")
    cumulative: DecimalUSD = Field(description="All that is owed since the beginning, USD.")
    period_end: int = Field(ge=0, le=2**40, description="Usage up to this Unix second is counted.")
    usage_root: HexBytes32 = Field(description="Hash over the leases that are counted.")
    disputed: DecimalUSD = Field(
        default="0.00", description="What the provider claims beyond it and the hub holds in dispute, USD; not signed."
    )

    def to_domain(self) -> Receipt:
        """What is to be signed."""
        return Receipt(
            tenant=str(to_checksum_address(self.tenant)),
            provider=str(to_checksum_address(self.provider)),
            cumulative=parse_usd(self.cumulative),
            period_end=self.period_end,
            usage_root=self.usage_root,
        )


class SignedReceipt(Model):
    """The provider's signature under a proposed receipt."""

    tenant: WalletAddress = Field(description="The tenant's wallet.")
    provider: WalletAddress = Field(description="The provider's payout wallet.")
    digest: HexBytes32 = Field(description="EIP-712 digest that was signed.")
    signature: HexSignature = Field(description="Signature of the provider's receipt signer, in hex.")


class VantageRef(Model):
    """A measuring point that the hub asks the agent to probe."""

    name: Word = Field(description="Name of the vantage.")
    url: str = Field(
        min_length=8,
        max_length=512,
        pattern=r"^https?://",
        description="Endpoint to measure a round trip to.",
        json_schema_extra=hint("must be an http or https URL, e.g. https://vantage.example.eu/healthz"),
    )


class ProbeResult(Model):
    """Round trips to one vantage, as the agent measured them."""

    vantage: Word = Field(description="Name of the vantage.")
    p50_ms: float = Field(ge=0, le=1e6, description="Median round trip in ms.")
    p95_ms: float = Field(ge=0, le=1e6, description="95th percentile in ms.")
    samples: int = Field(ge=1, le=1_000, description="How many round trips these figures are made of.")
    measured_at: datetime = Field(description="When the newest sample was taken.")


class ReportStatus(Model):
    """The newest reading of the member cluster."""

    observed_generation: ObservedGeneration = -1
    observed_at: datetime | None = Field(default=None, description="When the member was last read.")
    agent_version: str = Field(default="", max_length=64, description="Version of the agent.")
    kubernetes_version: str = Field(default="", max_length=64, description="Version of the member's API server.")
    products: list[ReportedProduct] = Field(
        default_factory=list,
        max_length=64,
        description="GPUs by product.",
        json_schema_extra=map_list("product"),
    )
    uncounted: list[UncountedNodes] = Field(
        default_factory=list, max_length=32, description="Nodes with GPUs that do not count, by reason."
    )
    aside: list[AsideLease] = Field(
        default_factory=list,
        max_length=256,
        description="Pods of our leases on nodes that do not count; they take nothing from what is free.",
        json_schema_extra=map_list("lease"),
    )
    round_trips_ms: list[Annotated[float, Field(ge=0, le=1e6)]] = Field(
        default_factory=list, max_length=16, description="Newest round trips to the member's API server, ms."
    )
    probes: list[ProbeResult] = Field(
        default_factory=list,
        max_length=MAX_VANTAGES,
        description="Round trips to the vantages of the spec.",
        json_schema_extra=map_list("vantage"),
    )
    receipts: list[SignedReceipt] = Field(
        default_factory=list, max_length=MAX_RECEIPTS, description="Signatures under the receipts of the spec."
    )
    conditions: Conditions


class ReportSpec(Model):
    """Whose report this is, and what the hub asks its agent to sign."""

    provider: ObjectName = Field(description="Name of the GPUProvider.")
    vantages: list[VantageRef] = Field(
        default_factory=list,
        max_length=MAX_VANTAGES,
        description="Measuring points that the agent probes; written by the hub.",
        json_schema_extra=map_list("name"),
    )
    receipts: list[ProposedReceipt] = Field(
        default_factory=list,
        max_length=MAX_RECEIPTS,
        description="Receipts that wait for the provider's signature; written by the hub.",
    )


class ProviderReport(Resource):
    """Inventory and free capacity of a member cluster as its agent reports them."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="ProviderReport",
        plural="providerreports",
        singular="providerreport",
        short_name="gpur",
        namespaced=True,
        selectable=(".spec.provider",),
        columns=(
            Column("Provider", ".spec.provider"),
            READY_COLUMN,
            Column("Kubernetes", ".status.kubernetesVersion"),
            Column("Observed", ".status.observedAt", "date"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Agent", ".status.agentVersion", wide=True),
        ),
    )
    spec: ReportSpec = Field(description="Whose report this is.")
    status: ReportStatus = Field(
        default_factory=lambda: ReportStatus(conditions=[]),
        description="The newest reading of the member cluster.",
    )

    @property
    def aside(self) -> dict[str, int]:
        """By lease, how many of its pods are on nodes that do not count."""
        return {each.lease: each.pods for each in self.status.aside}
