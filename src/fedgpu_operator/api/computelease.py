"""ComputeLease: one attempt of one job at one provider, written by the hub and carried out by the agent."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from fedgpu_operator.api.base import (
    ATOMIC_MAP,
    MAX_RUN_SECONDS,
    READY_COLUMN,
    Column,
    Condition,
    Conditions,
    DecimalUSD,
    Instant,
    JSONObject,
    KindInfo,
    Model,
    ObjectName,
    ObservedGeneration,
    Resource,
    Rule,
    WalletOrNone,
    Word,
    ZonedInstant,
    is_true,
)
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.running import MoveReason
from fedgpu_operator.domain.usage import PodUsage, UsageReading
from fedgpu_operator.errors import InvalidResourceError

LeaseState = Literal["Pending", "Running", "Suspended", "Stopping", "Succeeded", "Failed", "Stopped"]

LEASE_LABEL = "fedgpu.dev/lease"
PROVIDER_LABEL = "fedgpu.dev/provider"
TENANT_LABEL = "fedgpu.dev/tenant"
JOB_UID_LABEL = "fedgpu.dev/job-uid"
RUNNING: Final = "Running"
EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""Between them lies every instant that a reading may hold: sums with it stay far from the ends of the calendar."""


MAX_REPLICAS: Final = 64
MAX_GPUS_PER_REPLICA: Final = 16
MAX_WHY: Final = 1024


def plausible(at: datetime | None) -> datetime | None:
    """The instant itself; raises InvalidResourceError where it has no zone or lies outside of the years 2000 to 2199.

    A provider writes these: the schema holds new objects to it, and this also what was there before the schema.
    """
    if at is not None and (at.tzinfo is None or not EARLIEST <= at < LATEST):
        text = f"usage holds the instant {at.isoformat()}: it must have a zone and lie in the years 2000 to 2199"
        raise InvalidResourceError(ConditionReason.BAD_READING, text)
    return at


class JobRef(Model):
    """The job that this lease is an attempt of."""

    namespace: str = Field(min_length=1, max_length=63, description="Namespace of the job; also the tenant.")
    name: ObjectName = Field(description="Name of the job.")
    uid: str = Field(min_length=36, max_length=36, description="UID of the job.")


class LeaseMove(Model):
    """An announced move: the attempt is stopped at `stopAt` and the job placed again, unless it is called off."""

    reason: MoveReason = Field(description="Preempted or Rebalanced.")
    to: str = Field(
        default="", max_length=320, description="Offer whose capacity is held, provider/product; empty: none."
    )
    serves: str = Field(default="", max_length=64, description="UID of the job that it makes room for.")
    stop_at: ZonedInstant = Field(description="When the workload is stopped.")
    held_until: ZonedInstant = Field(description="Until when capacity is held for the move.")
    priority: int = Field(ge=-(2**31), le=2**31 - 1, description="Priority of the moved job.")
    why: str = Field(max_length=MAX_WHY, description="Why, in words.")


class ComputeLeaseSpec(Model):
    """What was agreed; only the stop, the request for a checkpoint and an announced move change afterwards."""

    model_config = ConfigDict(json_schema_extra=ATOMIC_MAP)

    job: JobRef = Field(description="The job that this lease is an attempt of.")
    attempt: int = Field(ge=1, le=1_000_000, description="Which attempt of the job.")
    fencing_epoch: int = Field(ge=1, le=2**53, description="Rises with every lease of the job; older ones are dead.")
    provider: ObjectName = Field(description="GPUProvider that runs it.")
    product: Word = Field(description="GPU product.")
    replicas: int = Field(ge=1, le=MAX_REPLICAS, description="Replicas.")
    gpus_per_replica: int = Field(
        alias="gpusPerReplica", ge=1, le=MAX_GPUS_PER_REPLICA, description="GPUs of one replica."
    )
    price_per_gpu_hour: DecimalUSD = Field(description="Frozen price, USD per GPU-hour.")
    run_limit_seconds: int = Field(ge=1, le=MAX_RUN_SECONDS, description="Longest run in seconds.")
    grace_seconds: int = Field(
        default=30,
        ge=0,
        le=3600,
        description="Termination grace of the pods: payable after a stop, since they hold their GPUs.",
    )
    sequence_base: int = Field(
        default=0,
        ge=0,
        le=2**53,
        description="Added to the agent's reading sequence in the ledger; above 0 where the object was made again.",
    )
    member_namespace: str = Field(min_length=1, max_length=63, description="The tenant's namespace on the member.")
    tenant_wallet: WalletOrNone = Field(default="", description="Whose escrow pays; empty where nothing is settled.")
    provider_wallet: WalletOrNone = Field(default="", description="Who is paid; empty where nothing is settled.")
    desired: Literal["Run", "Stop"] = Field(
        default="Run",
        description="Stop is the tombstone: only it ends the workload, a missing lease never does.",
    )
    stop_requested_at: datetime | None = Field(
        default=None, description="When Stop was set, by the hub's clock; usage long after it is not payable."
    )
    stop_reason: str = Field(default="", max_length=64, description="Why it is to stop, in one word.")
    checkpoint_requested_at: datetime | None = Field(
        default=None,
        description="When the workload was asked to save its work, because the money for it runs out.",
    )
    move: LeaseMove | None = Field(default=None, description="An announced move; gone once it is called off.")
    workload: JSONObject | None = Field(
        default=None,
        description="The batch/v1 Job that this lease starts. Absent where the object was made again, or has stopped: "
        "then the agent adopts what runs, and starts nothing.",
        json_schema_extra={
            "x-kubernetes-embedded-resource": True,
            "x-kubernetes-preserve-unknown-fields": True,
            "x-kubernetes-map-type": "atomic",
        },
    )

    @property
    def gpus(self) -> int:
        """GPUs over all replicas."""
        return self.replicas * self.gpus_per_replica


class PodReading(Model):
    """Usage of one pod."""

    name: ObjectName = Field(description="Name of the pod on the member.")
    uid: str = Field(default="", max_length=64, description="UID of the pod.")
    index: int = Field(default=0, ge=0, le=1023, description="Completion index.")
    gpus: int = Field(ge=0, le=64, description="GPUs the pod holds.")
    started_at: Instant | None = Field(default=None, description="Start of the first container, member clock.")
    finished_at: Instant | None = Field(default=None, description="End of the last container, member clock.")
    seconds: int = Field(default=0, ge=0, le=2**53 - 1, description="Allocated seconds so far.")

    def to_domain(self) -> PodUsage:
        """The same as a domain value; raises InvalidResourceError for an instant that no clock of a member shows."""
        return PodUsage(
            uid=self.uid,
            name=self.name,
            index=self.index,
            gpus=self.gpus,
            seconds=self.seconds,
            started_at=plausible(self.started_at),
            finished_at=plausible(self.finished_at),
        )

    @classmethod
    def from_domain(cls, pod: PodUsage) -> PodReading:
        """As it is written into the lease's status."""
        return cls(
            name=pod.name,
            uid=pod.uid,
            index=pod.index,
            gpus=pod.gpus,
            seconds=pod.seconds,
            started_at=pod.started_at,
            finished_at=pod.finished_at,
        )


class LeaseUsage(Model):
    """Latest cumulative usage, as read on the member; readings never fall."""

    model_config = ConfigDict(json_schema_extra=ATOMIC_MAP)

    sequence: int = Field(default=0, ge=0, le=2**53, description="Rises with every reading that changes anything.")
    gpu_seconds: int = Field(default=0, alias="gpuSeconds", ge=0, le=2**53, description="Cumulative GPU-seconds.")
    folded_gpu_seconds: int = Field(
        default=0,
        ge=0,
        le=2**53 - 1,
        description="Part of it from pods no longer listed.",
    )
    started_at: Instant | None = Field(default=None, description="When the first container started.")
    finished_at: Instant | None = Field(default=None, description="When the last container ended.")
    observed_at: Instant | None = Field(default=None, description="When it was read.")
    signature: str = Field(
        default="",
        max_length=2050,
        description="The provider's EIP-712 signature over sequence, GPU-seconds and the hash of the detail, in hex.",
    )
    final: bool = Field(default=False, description="Whether the workload has ended and this is the last reading.")
    pods: list[PodReading] = Field(default_factory=list, max_length=128, description="By pod.")

    def to_domain(self) -> UsageReading | None:
        """The reading as a domain value; None before the first one.

        Raises InvalidResourceError with reason ``BadReading`` for an instant that no clock of a member shows.
        """
        if (observed_at := plausible(self.observed_at)) is None:
            return None
        return UsageReading(
            sequence=self.sequence,
            gpu_seconds=self.gpu_seconds,
            started_at=plausible(self.started_at),
            finished_at=plausible(self.finished_at),
            observed_at=observed_at,
            pods=tuple(pod.to_domain() for pod in self.pods),
            folded_gpu_seconds=self.folded_gpu_seconds,
        )

    @classmethod
    def from_domain(cls, reading: UsageReading, *, final: bool) -> LeaseUsage:
        """As it is written into the lease's status."""
        return cls(
            sequence=reading.sequence,
            gpu_seconds=reading.gpu_seconds,
            folded_gpu_seconds=reading.folded_gpu_seconds,
            started_at=reading.started_at,
            finished_at=reading.finished_at,
            observed_at=reading.observed_at,
            final=final,
            pods=[PodReading.from_domain(pod) for pod in reading.pods],
        )


def has_ended(conditions: Iterable[Condition]) -> bool:
    """Whether a lease with these conditions has succeeded, failed or been stopped."""
    return any(
        each.status == "True"
        if each.type in ("Complete", "Failed")
        else (each.type, each.reason) == (RUNNING, ConditionReason.STOPPED)
        for each in conditions
    )


def lease_state(conditions: Iterable[Condition]) -> LeaseState:
    """The one word for people of a lease with these conditions."""
    by_type = {condition.type: condition for condition in conditions}
    if is_true(by_type.values(), "Complete"):
        return "Succeeded"
    if is_true(by_type.values(), "Failed"):
        return "Failed"
    running = by_type.get(RUNNING)
    if running is not None and running.reason == ConditionReason.STOPPED:
        return "Stopped"
    if running is not None and running.reason == ConditionReason.STOPPING:
        return "Stopping"
    if is_true(by_type.values(), "Suspended"):
        return "Suspended"
    return "Running" if running is not None and running.status == "True" else "Pending"


class ComputeLeaseStatus(Model):
    """How it goes on the member; written by the agent alone."""

    observed_generation: ObservedGeneration = -1
    state: LeaseState = Field(default="Pending", description="One word for people, derived from the conditions.")
    workload_uid: str = Field(default="", max_length=64, description="UID of the Job on the member.")
    exit_message: str = Field(default="", max_length=1024, description="How the workload ended, in words.")
    usage: LeaseUsage = Field(default_factory=LeaseUsage, description="Latest cumulative usage.")
    conditions: Conditions

    @property
    def ended(self) -> bool:
        """Whether the workload is gone or done and will use nothing more."""
        return has_ended(self.conditions)

    @property
    def suspended(self) -> bool:
        """Whether the member keeps the workload from running, and nothing stops it."""
        return lease_state(self.conditions) == "Suspended"


_FROZEN = (
    "job",
    "attempt",
    "fencingEpoch",
    "provider",
    "product",
    "replicas",
    "gpusPerReplica",
    "pricePerGPUHour",
    "runLimitSeconds",
    "graceSeconds",
    "sequenceBase",
    "memberNamespace",
    "tenantWallet",
    "providerWallet",
)


class ComputeLease(Resource):
    """One attempt of one job at one provider: frozen price, fencing epoch, rendered workload, usage."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="ComputeLease",
        plural="computeleases",
        singular="computelease",
        short_name="clease",
        namespaced=True,
        selectable=(".status.state", ".spec.desired", ".spec.provider", ".spec.job.namespace", ".spec.job.name"),
        columns=(
            Column("State", ".status.state"),
            READY_COLUMN,
            Column("Job", ".spec.job.name"),
            Column("Tenant", ".spec.job.namespace"),
            Column("Provider", ".spec.provider"),
            Column("Price", ".spec.pricePerGPUHour", description="USD per GPU-hour"),
            Column("GPU-Seconds", ".status.usage.gpuSeconds", "integer"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Desired", ".spec.desired", wide=True),
            Column("Product", ".spec.product", wide=True),
            Column("Started", ".status.usage.startedAt", "date", wide=True),
            Column("Finished", ".status.usage.finishedAt", "date", wide=True),
        ),
        rules=(
            Rule(
                "oldSelf.spec.desired == 'Run' || self.spec.desired == 'Stop'",
                "spec.desired: a stopped lease never runs again; the job gets a new attempt instead",
            ),
            Rule(
                "!has(self.spec.workload) || has(oldSelf.spec.workload)",
                "spec.workload: a lease that was made without a workload cannot be given one, or its attempt could run "
                "twice; the job gets a new attempt instead",
            ),
            Rule(
                " && ".join(f"self.spec.{field} == oldSelf.spec.{field}" for field in _FROZEN),
                f"spec: {', '.join(_FROZEN)} are frozen for the life of a lease; "
                "a new attempt of the job gets a new lease",
            ),
        ),
    )
    spec: ComputeLeaseSpec = Field(description="What was agreed.")
    status: ComputeLeaseStatus = Field(
        default_factory=lambda: ComputeLeaseStatus(conditions=[]), description="How it goes on the member."
    )
