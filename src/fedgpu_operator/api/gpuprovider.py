"""GPUProvider: an owner's offer to the federation, and what the hub knows of it."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedgpu_operator.api.base import (
    READY_COLUMN,
    SET_LIST,
    Column,
    Conditions,
    CountryCode,
    DecimalUSD,
    KindInfo,
    Latitude,
    Longitude,
    Model,
    ObservedGeneration,
    Resource,
    Rule,
    WalletAddress,
    WalletOrNone,
    WalletProof,
    Word,
    cel,
    hint,
    map_list,
)
from fedgpu_operator.api.inventory import InventorySpec
from fedgpu_operator.domain.devices import MAX_NODES
from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.inventory import NO_RULES, InventoryRules

HalfHash = Annotated[
    str,
    Field(
        max_length=32,
        pattern=r"^[0-9a-f]{32}$",
        json_schema_extra=hint("must be a hash as `fedgpu provider accept` or `audit` shows it: 32 hex digits"),
    ),
]


class ProviderLocation(Model):
    """Where the GPUs physically stand."""

    country: CountryCode = Field(description="Country (ISO 3166-1 alpha-2) in which the GPUs stand, e.g. DE.")
    region: Word | None = Field(default=None, description="The owner's name of the region, e.g. eu-central-1.")
    latitude: Latitude | None = None
    longitude: Longitude | None = None

    model_config = Model.model_config | {
        "json_schema_extra": cel(
            Rule(
                "has(self.latitude) == has(self.longitude)",
                "latitude and longitude belong together: set both or neither",
            )
        )
    }

    def to_domain(self) -> Location:
        """The same as a domain value."""
        north, east = (None if each is None else float(each) for each in (self.latitude, self.longitude))
        return Location(self.country, self.region or "", north, east)

    def audit_hash(self) -> str:
        """Half a SHA-256, in hex: what an audit binds. Any change of the location makes another one."""
        return hashlib.sha256(json.dumps({"location": self.to_wire()}, sort_keys=True).encode()).hexdigest()[:32]


class SecretKeyRef(Model):
    """A key of a Secret in the operator's own namespace; another namespace cannot be named."""

    name: str = Field(
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        description="Name of the Secret in the operator's namespace.",
        json_schema_extra=hint(
            "must be a Secret's name: lower-case letters, digits, '-' and '.', e.g. acme-kubeconfig"
        ),
    )
    key: str = Field(
        default="kubeconfig",
        min_length=1,
        max_length=253,
        pattern=r"^[-._a-zA-Z0-9]+$",
        description="Key within the Secret.",
        json_schema_extra=hint("must be a key of a Secret: letters, digits, '-', '_' and '.', e.g. kubeconfig"),
    )


class ConnectionTLS(Model):
    """How the certificate of the member's API server is checked."""

    x509_strict: bool = Field(
        default=True,
        description="Whether certificates must keep to the form of RFC 5280 (OpenSSL's X509_STRICT). false takes a "
        "CA without key identifiers, as old EKS and microk8s made them; the signature, the name and the "
        "dates are verified all the same.",
    )


class Connection(Model):
    """How the hub reaches the member cluster."""

    mode: Literal["Push"] = Field(
        default="Push", description="Push: the agent runs inside the operator and uses the kubeconfig below."
    )
    kubeconfig_secret_ref: SecretKeyRef = Field(
        description="Kubeconfig of the member cluster. Credentials are inline (token or client certificate) "
        "and TLS verified: exec, auth-provider, file paths, proxies and insecure TLS are refused."
    )
    tls: ConnectionTLS = Field(
        default_factory=ConnectionTLS, description="How the certificate of the member's API server is checked."
    )


class GPUOffer(Model):
    """One GPU product at one price."""

    product: Word = Field(description="GPU product as `fedgpu provider check` names it, e.g. NVIDIA-H100-80GB-HBM3.")
    price_per_gpu_hour: DecimalUSD = Field(description="Price of one GPU for one hour, USD as a decimal string.")
    max_gpus: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="The owner's limit: at most this many GPUs are let at once.",
    )
    watts: int | None = Field(
        default=None,
        ge=1,
        le=5000,
        description="Power drawn by one GPU under load, in watts; used by Greenest.",
    )


class Energy(Model):
    """Where the power comes from."""

    carbon_intensity: int = Field(ge=0, le=3000, description="Carbon intensity of the power in g CO2e per kWh.")


class Network(Model):
    """How data comes in and what it costs to take it out."""

    egress_price_per_gi_b: DecimalUSD | None = Field(
        default=None, alias="egressPricePerGiB", description="What the owner charges for one GiB that leaves, USD."
    )
    ingress_mbps: int | None = Field(
        default=None, ge=1, le=1_000_000, description="How fast data comes in, in Mbit/s; for deadlines."
    )


class ProviderLimits(Model):
    """What the owner allows."""

    max_leases: int = Field(default=100, ge=1, le=100_000, description="At most this many leases at once.")


class Payout(Model):
    """Where earnings go."""

    address: WalletAddress = Field(description="The provider's account on the chain; claims are paid to it.")
    proof: WalletProof | None = Field(
        default=None,
        description="The payout wallet's own signature that this provider of this hub may name it; nothing is let "
        "for pay before it is there. Made by `fedgpu provider prove`.",
    )
    signer: WalletAddress | None = Field(
        default=None,
        description="The account whose key signs usage and receipts; never the payout wallet itself.",
    )
    signer_key_secret_ref: SecretKeyRef | None = Field(
        default=None, description="Private key of `signer`, for an agent that runs inside the operator (Push)."
    )

    model_config = Model.model_config | {
        "json_schema_extra": cel(
            Rule(
                "!has(self.signer) || self.signer.lowerAscii() != self.address.lowerAscii()",
                "signer: must be another account than the payout address, so that a lost receipt key costs no money",
            ),
            Rule(
                "has(self.signer) || !has(self.signerKeySecretRef)",
                "signerKeySecretRef: needs signer, the address that the key belongs to",
            ),
        )
    }

    def bound(self, *, keys: bool = True) -> list[str]:
        """What an acceptance binds: payout wallet, receipt signer and, with `keys`, where the signer's key lies."""
        ref = self.signer_key_secret_ref if keys else None
        key = [ref.name, ref.key] if ref is not None else []
        return [self.address.lower(), (self.signer or "").lower(), *key]


class AcceptanceRequest(Model):
    """What the platform says of the offer. Only who may `update` `gpuproviders/accept` writes `hash` and `withdrawn`,
    or takes `awaited` back.
    """

    awaited: bool = Field(
        default=False,
        description="Set by who creates a provider, or changes what an acceptance binds, without the right to accept "
        "it: so it is not accepted by being created.",
    )
    hash: HalfHash | None = Field(
        default=None,
        description="Hash of the location, compliance, payout and connection that are accepted; "
        "`fedgpu provider accept` writes it.",
    )
    withdrawn: bool = Field(
        default=False, description="Takes the acceptance back: no new work; what runs is metered to its end."
    )


class LocationAudit(Model):
    """Which location a platform admin has confirmed; only who may `update` `gpuproviders/audit` writes it."""

    hash: HalfHash | None = Field(
        default=None, description="Hash of the confirmed location; `fedgpu provider audit` writes it."
    )


class GPUProviderSpec(Model):
    """The owner's offer, and what owner and platform ask of the hub with it."""

    display_name: str | None = Field(default=None, max_length=128, description="Name for people.")
    location: ProviderLocation = Field(
        description="Where the GPUs stand; the owner's word until a platform admin confirms it."
    )
    connection: Connection = Field(description="How the hub reaches the member cluster.")
    offers: list[GPUOffer] = Field(
        min_length=1,
        max_length=32,
        description="What is for rent, one entry per GPU product.",
        json_schema_extra=map_list("product"),
    )
    compliance: list[Word] = Field(
        default_factory=list,
        max_length=32,
        description="Claims the owner makes, e.g. HIPAA, ISO27001, SOC2; self-declared.",
        json_schema_extra=SET_LIST,
    )
    inventory: InventorySpec | None = Field(
        default=None, description="How the member's nodes are counted, where their labels do not say enough."
    )
    energy: Energy | None = Field(default=None, description="Where the power comes from.")
    network: Network | None = Field(default=None, description="How data comes in and what it costs to take it out.")
    limits: ProviderLimits = Field(default_factory=ProviderLimits, description="What the owner allows.")
    payout: Payout | None = Field(default=None, description="Where earnings go; needed to be paid on chain.")
    drain: bool = Field(default=False, description="Nothing new goes to the provider, and what may be moved leaves it.")
    acceptance: AcceptanceRequest = Field(
        default_factory=AcceptanceRequest,
        description="The platform's word on the offer; needs a right of its own.",
    )
    location_audit: LocationAudit = Field(
        default_factory=LocationAudit, description="The confirmed location; needs a right of its own."
    )

    @property
    def inventory_rules(self) -> InventoryRules:
        """What the owner says of its nodes."""
        return self.inventory.to_domain() if self.inventory is not None else NO_RULES

    def acceptance_hash(self, *, keys: bool = True) -> str:
        """Half a SHA-256, in hex, over what acceptance binds: location, compliance, payout and its keys, connection.

        A field that was added later takes part only where it is set, so that a hash stays what it was. Without `keys`
        it is that of the releases before the Secret of the signer's key was bound.
        """
        connection = self.connection.to_wire()
        if self.connection.tls == ConnectionTLS():
            del connection["tls"]
        bound = {
            "location": self.location.to_wire(),
            "compliance": sorted(self.compliance),
            "payout": self.payout.bound(keys=keys) if self.payout else None,
            "connection": connection,
        }
        return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()[:32]


class Inventory(Model):
    """What the member has of one GPU product."""

    product: Word = Field(description="GPU product.")
    architecture: str = Field(default="", max_length=63, description="GPU architecture, e.g. hopper.")
    memory_mi_b: int = Field(default=0, alias="memoryMiB", ge=0, le=10_000_000, description="Memory of one GPU, MiB.")
    nodes: int = Field(ge=0, le=MAX_NODES, description="Schedulable nodes with this product.")
    total: int = Field(ge=0, le=10_000_000, description="Allocatable GPUs.")
    free: int = Field(ge=0, le=10_000_000, description="GPUs that can be let now.")


class LatencyStatus(Model):
    """Round trips between hub and member API server, as the agent measured them."""

    p50_ms: float = Field(ge=0, le=1e6, description="Median round trip in ms.")
    p95_ms: float = Field(ge=0, le=1e6, description="95th percentile in ms.")
    measured_at: datetime = Field(description="When the newest sample was taken.")


class Acceptance(Model):
    """What the hub accepted. It stays in force for what runs while a changed spec waits for its own acceptance."""

    hash: str = Field(max_length=64, description="Hash over location, compliance, payout, its keys and the connection.")
    accepted_at: datetime = Field(description="When it was accepted.")
    withdrawn_at: datetime | None = Field(
        default=None, description="When a platform admin withdrew it; what still runs is metered and stopped on it."
    )
    kubeconfig_secret_ref: SecretKeyRef | None = Field(
        default=None, description="Kubeconfig that was accepted: the only connection that the agent uses."
    )
    x509_strict: bool = Field(
        default=True, alias="x509Strict", description="Whether certificates must keep to RFC 5280, as it was accepted."
    )
    payout: WalletOrNone = Field(default="", description="Payout wallet that was accepted; empty if there was none.")
    signer: WalletOrNone = Field(default="", description="Receipt signer that was accepted; empty if there was none.")
    signer_key_secret_ref: SecretKeyRef | None = Field(
        default=None, description="Private key of the receipt signer that was accepted."
    )

    @classmethod
    def of(cls, spec: GPUProviderSpec, at: datetime) -> Acceptance:
        """All that accepting this spec accepts."""
        payout = spec.payout
        return cls(
            hash=spec.acceptance_hash(),
            accepted_at=at,
            kubeconfig_secret_ref=spec.connection.kubeconfig_secret_ref,
            x509_strict=spec.connection.tls.x509_strict,
            payout=payout.address if payout is not None else "",
            signer=(payout.signer or "") if payout is not None else "",
            signer_key_secret_ref=payout.signer_key_secret_ref if payout is not None else None,
        )

    def secret_keys(self) -> list[SecretKeyRef]:
        """Every key of a Secret that was accepted."""
        return [ref for ref in (self.kubeconfig_secret_ref, self.signer_key_secret_ref) if ref is not None]


class GPUProviderStatus(Model):
    """What the hub knows of the provider; written by the hub alone."""

    observed_generation: ObservedGeneration = -1
    state: Literal["Pending", "Ready", "Draining", "NotReady", "Unreachable"] = Field(
        default="Pending", description="One word for people, derived from the conditions."
    )
    namespace: str = Field(default="", max_length=63, description="The provider's namespace on the hub.")
    acceptance: Acceptance | None = Field(default=None, description="What was accepted last.")
    location_audited: bool = Field(
        default=False, description="Whether a platform admin has confirmed exactly the location that is stated now."
    )
    inventory: list[Inventory] = Field(
        default_factory=list,
        max_length=64,
        description="GPUs by product.",
        json_schema_extra=map_list("product"),
    )
    products: str = Field(
        default="", max_length=80, description="The first product offered, and how many more there are; for people."
    )
    price: str = Field(
        default="", max_length=48, description="USD per GPU-hour from the cheapest to the dearest product; for people."
    )
    total_gpus: int = Field(default=0, alias="totalGPUs", ge=0, le=10_000_000, description="Allocatable GPUs.")
    free_gpus: int = Field(default=0, alias="freeGPUs", ge=0, le=10_000_000, description="GPUs that can be let now.")
    leases: int = Field(default=0, ge=0, le=1_000_000, description="Leases that have not ended.")
    latency: LatencyStatus | None = Field(default=None, description="Round trips hub to member.")
    conditions: Conditions


class GPUProvider(Resource):
    """An owner's offer of GPUs: who, where, how reached, at what price."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="GPUProvider",
        plural="gpuproviders",
        singular="gpuprovider",
        short_name="gpup",
        namespaced=False,
        selectable=(".status.state", ".spec.location.country", ".spec.location.region"),
        columns=(
            Column("State", ".status.state", description="Pending, Ready, Draining, NotReady or Unreachable"),
            READY_COLUMN,
            Column("Country", ".spec.location.country"),
            Column("Products", ".status.products", description="First product offered, and how many more"),
            Column("Price", ".status.price", description="USD per GPU-hour, from the cheapest to the dearest product"),
            Column("Free", ".status.freeGPUs", "integer"),
            Column("Total", ".status.totalGPUs", "integer"),
            Column("Leases", ".status.leases", "integer"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Region", ".spec.location.region", wide=True),
            Column(
                "Location",
                ".status.conditions[?(@.type=='LocationAudited')].reason",
                description="Audited by a platform admin, SelfDeclared, or LocationChanged since",
                wide=True,
            ),
            Column("Compliance", ".spec.compliance", wide=True),
            Column("RTT-ms", ".status.latency.p50Ms", "number", wide=True),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason", description="Why (not) ready", wide=True),
        ),
        rules=(
            Rule(
                "size(self.metadata.name) <= 40",
                "metadata.name: at most 40 characters, since namespaces are named after the provider",
            ),
        ),
    )
    spec: GPUProviderSpec = Field(description="The owner's offer.")
    status: GPUProviderStatus = Field(
        default_factory=lambda: GPUProviderStatus(conditions=[]),
        description="What the hub knows of the provider.",
    )

    @property
    def location_audited(self) -> bool:
        """Whether a platform admin has confirmed exactly the location that is stated now."""
        return self.spec.location_audit.hash == self.spec.location.audit_hash()

    @property
    def accepted(self) -> bool:
        """Whether the spec of this moment is the one that was accepted, and the acceptance was not withdrawn."""
        known = self.status.acceptance
        return known is not None and known.withdrawn_at is None and known.hash == self.spec.acceptance_hash()
