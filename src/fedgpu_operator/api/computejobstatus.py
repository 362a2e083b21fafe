"""What became of a ComputeJob: placement, candidates, usage, settlement and conditions, as its status holds them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from fedgpu_operator.api.base import ATOMIC_MAP, Conditions, DecimalUSD, Model, ObjectName, Word

ComponentName = Annotated[str, Field(min_length=1, max_length=32)]


class Candidate(Model):
    """One offer as it was judged for this job."""

    provider: ObjectName = Field(description="GPUProvider.")
    product: Word = Field(description="GPU product.")
    eligible: bool = Field(description="Whether the offer may serve the job.")
    reason: str = Field(default="", max_length=64, description="Why not, in one word.")
    message: str = Field(default="", max_length=256, description="Why not, in words.")
    price: DecimalUSD = Field(description="USD per GPU-hour.")
    effective_price: DecimalUSD = Field(description="Price with every component below.")
    components: dict[ComponentName, DecimalUSD] = Field(
        default_factory=dict,
        max_length=16,
        description="What was added to the price, USD per GPU-hour by name: latency, carbon, egress, rerun, gas.",
    )
    cost: DecimalUSD = Field(description="USD for the whole run limit: an upper bound.")
    latency_ms: float | None = Field(default=None, ge=0, le=1e6, description="Round trip used, ms.")
    latency_source: str = Field(default="", max_length=16, description="estimate or measured.")
    latency_measured_at: datetime | None = Field(default=None, description="When it was measured.")
    score: int = Field(default=0, ge=0, le=100, description="100 for the best; 0 for what was refused.")


class PlacementStatus(Model):
    """Where the job is, or was last."""

    model_config = ConfigDict(json_schema_extra=ATOMIC_MAP)

    provider: ObjectName = Field(description="GPUProvider that holds the lease.")
    product: Word = Field(description="GPU product.")
    lease: ObjectName = Field(description="Name of the ComputeLease in the provider's namespace.")
    attempt: int = Field(ge=1, le=1_000_000, description="Which attempt this is.")
    price: DecimalUSD = Field(description="Frozen price, USD per GPU-hour.")
    effective_price: DecimalUSD = Field(description="Effective price at placement, USD per GPU-hour.")
    placed_at: datetime = Field(description="When it was decided.")
    priority: int | None = Field(
        default=None,
        ge=-(2**31),
        le=2**31 - 1,
        description="Value of its PriorityClass when it was first placed; later changes of the class do not matter.",
    )
    policies: list[Annotated[str, Field(max_length=320)]] = Field(
        default_factory=list,
        max_length=64,
        description="PlacementPolicies that were applied, as name@generation.",
    )
    law: str = Field(
        default="", max_length=32, description="Day of the tables of country groups (EU, EEA, …) that were applied."
    )


class UsageStatus(Model):
    """What was metered over all attempts."""

    model_config = ConfigDict(json_schema_extra=ATOMIC_MAP)

    gpu_seconds: int = Field(default=0, alias="gpuSeconds", ge=0, le=2**53, description="Billed GPU-seconds.")
    cost: DecimalUSD = Field(default="0", description="USD for them, rounded down once.")


class SettlementStatus(Model):
    """How the charge was settled on chain."""

    model_config = ConfigDict(json_schema_extra=ATOMIC_MAP)

    epoch: int = Field(ge=1, le=2**53, description="Number of the SettlementEpoch that covers the whole charge.")
    post_transaction: str = Field(default="", max_length=66, description="Transaction that posted the epoch.")
    claim_transaction: str = Field(default="", max_length=66, description="Transaction that paid the provider.")


class ComputeJobStatus(Model):
    """What became of the job; written by the hub alone."""

    observed_generation: int = Field(default=0, ge=0, le=2**53, description="Generation that this status judges.")
    state: Literal["Pending", "Placed", "Running", "Suspended", "Succeeded", "Failed", "DryRun"] = Field(
        default="Pending", description="One word for people, derived from the conditions."
    )
    reason: str = Field(
        default="", max_length=64, description="Why it is in that state: the reason of the condition that says so."
    )
    placement: PlacementStatus | None = Field(default=None, description="Where the job is, or was last.")
    candidates: list[Candidate] = Field(
        default_factory=list,
        max_length=10,
        description="The ten best-judged offers of the newest decision.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    start_time: datetime | None = Field(default=None, description="When the first container started.")
    completion_time: datetime | None = Field(default=None, description="When the last container ended.")
    usage: UsageStatus | None = Field(default=None, description="What was metered.")
    settlement: SettlementStatus | None = Field(default=None, description="How the charge was settled.")
    conditions: Conditions
