"""ComputeJob: what a person asks for, and all that became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from fedgpu_operator.api.base import (
    ATOMIC_MAP,
    MAX_RUN_SECONDS,
    READY,
    READY_COLUMN,
    SET_LIST,
    Column,
    Condition,
    Conditions,
    DecimalUSD,
    KindInfo,
    Model,
    ObjectName,
    ObservedGeneration,
    Resource,
    Rule,
    Word,
    ZonedInstant,
    cel,
    find,
    is_true,
)
from fedgpu_operator.api.jobspec import CHECKPOINT_RULES, Checkpoint, DataSpec, LatencySpec, PodTemplate, check_law
from fedgpu_operator.api.placementpolicy import PlacementSpec
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.faults import Retries
from fedgpu_operator.domain.job import ExchangeRates, Job
from fedgpu_operator.domain.money import MicroUSD, parse_usd
from fedgpu_operator.domain.offer import GpuNeed
from fedgpu_operator.domain.running import MAX_NOTICE

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


JobState = Literal["Pending", "Placed", "Running", "Suspended", "Succeeded", "Failed", "DryRun"]

DRY_RUN: Final = ConditionReason.DRY_RUN
"""Reason of `Ready` of a job that only asks what it would cost."""
SUSPENSIONS: Final = frozenset({ConditionReason.SUSPENDED, ConditionReason.UNFUNDED})
"""Reasons of `Running` of a job that has no place and is given none before its spec or its account changes."""
WINDING_DOWN: Final = frozenset({ConditionReason.STOPPING, ConditionReason.DELETING})
"""Reasons of `Running` of a job whose workload is being stopped: in its grace it still runs."""


def job_state(conditions: Iterable[Condition]) -> JobState:
    """The one word for people of a job with these conditions."""
    known = tuple(conditions)
    if is_true(known, "Complete"):
        return "Succeeded"
    if is_true(known, "Failed"):
        return "Failed"
    if _is_dry_run(known):
        return "DryRun"
    if _is_suspended(known):
        return "Suspended"
    if _is_running(known):
        return "Running"
    return "Placed" if is_true(known, "Placed") else "Pending"


def _is_dry_run(conditions: Iterable[Condition]) -> bool:
    ready = find(conditions, READY)
    return ready is not None and ready.reason == DRY_RUN


def _is_suspended(conditions: Sequence[Condition]) -> bool:
    """Whether it does not run and goes on later: where it is, or once its spec or its account changes."""
    running = find(conditions, "Running")
    if running is None or running.status != "False":
        return False
    # Without a place the member's suspension is how the last attempt ended, and the next one is waited for.
    by_member = running.reason == ConditionReason.SUSPENDED_BY_MEMBER and is_true(conditions, "Placed")
    return by_member or running.reason in SUSPENSIONS


def _is_running(conditions: Sequence[Condition]) -> bool:
    running = find(conditions, "Running")
    if running is None:
        return False
    stops = running.reason in WINDING_DOWN and is_true(conditions, "Placed")
    return running.status != "False" or stops


class ComputeJobStatus(Model):
    """What became of the job; written by the hub alone."""

    observed_generation: ObservedGeneration = -1
    state: JobState = Field(default="Pending", description="One word for people, derived from the conditions.")
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

    @property
    def ended(self) -> bool:
        """Whether the job has succeeded, or failed and will not be tried again unless its spec changes."""
        return is_true(self.conditions, "Complete") or is_true(self.conditions, "Failed")

    @property
    def decided(self) -> bool:
        """Whether it has a place or has ended; one that waits is decided again, its answer compared with the last."""
        return is_true(self.conditions, "Placed") or self.ended

    @property
    def waits(self) -> bool:
        """Whether it waits for a place: nothing of it runs, and neither its spec nor its account holds it back."""
        known = self.conditions
        return not (self.decided or _is_dry_run(known) or _is_suspended(known) or _is_running(known))


PRESETS: Final[Mapping[str, ExchangeRates]] = {
    "Cheapest": ExchangeRates(),
    "Fastest": ExchangeRates(per_ms=100_000),
    "Greenest": ExchangeRates(per_kg_co2e=10_000_000),
    "Balanced": ExchangeRates(per_ms=2_000, per_kg_co2e=500_000),
}
"""µUSD per ms and per kg CO2e, each per GPU-hour. Balanced prices carbon at 500 USD/t, above the EPA's social
cost of 190 USD/t (2023) so that it shows on a GPU's 0.2 kg/h; Greenest and Fastest let the wish outweigh the
price."""


class GPURequest(Model):
    """What GPUs each replica needs; all that is set must hold."""

    products: list[Word] = Field(
        default_factory=list,
        max_length=16,
        description="Acceptable GPU products, e.g. NVIDIA-L4; empty for any whole card. A slice (MIG) must be named.",
        json_schema_extra=SET_LIST,
    )
    min_memory_mi_b: int | None = Field(
        default=None, alias="minMemoryMiB", ge=1, le=10_000_000, description="Least memory of one GPU in MiB."
    )
    architectures: list[Word] = Field(
        default_factory=list,
        max_length=16,
        description="Acceptable architectures, e.g. hopper; empty for any.",
        json_schema_extra=SET_LIST,
    )
    count: int = Field(default=1, ge=1, le=16, description="GPUs of one replica; they lie on one node.")

    def to_domain(self) -> GpuNeed:
        """The same as a domain value."""
        return GpuNeed(
            count=self.count,
            products=frozenset(self.products),
            min_memory_mib=self.min_memory_mi_b or 0,
            architectures=frozenset(self.architectures),
        )


class Rates(Model):
    """What the job pays, per GPU-hour, to avoid latency or carbon."""

    usd_per_ms: DecimalUSD = Field(default="0", description="USD per ms of round trip and GPU-hour.")
    usd_per_kg_co2e: DecimalUSD = Field(default="0", alias="usdPerKgCO2e", description="USD per kg of CO2e.")


class Disruption(Model):
    """How far the job may be moved while it runs."""

    reclaimable: bool = Field(
        default=False, description="Whether it may be moved for work of higher priority, or where moving saves money."
    )
    max_moves: int = Field(default=1, ge=0, le=100, description="At most this often over the job's life.")
    notice_seconds: int = Field(
        default=60, ge=0, le=MAX_NOTICE, description="Seconds between the announcement of a move and the stop."
    )


class Strategy(Model):
    """What is optimized: a preset, or exchange rates of your own."""

    preset: Literal["Cheapest", "Fastest", "Greenest", "Balanced"] | None = Field(
        default=None, description="Cheapest counts the price alone; the others add latency and carbon."
    )
    rates: Rates | None = Field(default=None, description="Exchange rates instead of a preset.")

    model_config = Model.model_config | {
        "json_schema_extra": cel(
            Rule("has(self.preset) != has(self.rates)", "strategy: set either preset or rates, not both")
        )
    }

    def to_domain(self) -> ExchangeRates:
        """Exchange rates in µUSD."""
        if self.rates is not None:
            return ExchangeRates(parse_usd(self.rates.usd_per_ms), parse_usd(self.rates.usd_per_kg_co2e))
        return PRESETS[self.preset or "Cheapest"]


class Failover(Model):
    """What happens when the member cluster falls silent."""

    policy: Literal["KeepRunning"] = Field(
        default="KeepRunning", description="KeepRunning: never moved because of silence alone."
    )


class RetriesSpec(Model):
    """How often the job is tried again after a failure, by class; the first try is none of them."""

    owner_faults: int = Field(
        default=20,
        ge=0,
        le=1000,
        description="After a failure in which nothing ran and nothing was billed: the member or its node refused the "
        "workload, or could not start it.",
    )
    infrastructure: int = Field(
        default=3,
        ge=0,
        le=100,
        description="After an interruption (eviction, lost node, suspension by the member) or a registry that does not "
        "answer. What ran is paid, and runs again. An interruption after a full checkpoint interval uses none.",
    )
    out_of_memory: int = Field(
        default=0, ge=0, le=100, description="After a container passed its own memory limit. What ran is paid."
    )
    errors: int = Field(
        default=0,
        ge=0,
        le=100,
        description="After an exit code other than 0, or anything else in the workload itself. What ran is paid.",
    )

    def to_domain(self) -> Retries:
        """The same as a domain value."""
        return Retries(self.owner_faults, self.infrastructure, self.out_of_memory, self.errors)


class ComputeJobSpec(Model):
    """What is to run, where it may, and what it may cost."""

    gpu: GPURequest = Field(default_factory=GPURequest, description="What GPUs each replica needs.")
    replicas: int = Field(default=1, ge=1, le=64, description="How many replicas run side by side, at one provider.")
    template: PodTemplate = Field(description="What one replica runs.")
    priority_class_name: ObjectName | None = Field(
        default=None,
        description="PriorityClass of the hub whose value orders this job among the others; empty for the default.",
    )
    placement: PlacementSpec = Field(default_factory=PlacementSpec, description="Where the work may lawfully run.")
    latency: LatencySpec | None = Field(default=None, description="How far from its users the work may run.")
    data: DataSpec | None = Field(default=None, description="The data that the job reads and writes.")
    checkpoint: Checkpoint | None = Field(default=None, description="How the job saves its work; unset: not at all.")
    disruption: Disruption = Field(
        default_factory=Disruption, description="How far the job may be moved while it runs."
    )
    retries: RetriesSpec = Field(
        default_factory=RetriesSpec, description="How often the job is tried again after a failure, by class."
    )
    strategy: Strategy = Field(default_factory=lambda: Strategy(preset="Cheapest"), description="What is optimized.")
    max_price_per_gpu_hour: DecimalUSD | None = Field(
        default=None, description="Highest price of one GPU for one hour, USD as a decimal string."
    )
    budget: DecimalUSD | None = Field(
        default=None,
        description="Most that the job may cost over all attempts, USD. An offer that would cost more "
        "for runLimitSeconds and the termination grace is refused, so the job never starts what it cannot pay.",
    )
    run_limit_seconds: int = Field(
        ge=1,
        le=MAX_RUN_SECONDS,
        description="Longest run of one attempt in seconds, e.g. 5400; the workload is stopped then.",
    )
    deadline: ZonedInstant | None = Field(default=None, description="Instant at which the job is stopped for good.")
    failover: Failover = Field(default_factory=Failover, description="What happens when the member falls silent.")
    suspend: bool = Field(default=False, description="Stop the workload and the meter; false lets it be placed again.")
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="Seconds after which a job that has finished is deleted, as in batch/v1: 0 for immediately, unset "
        "for never; may change at any time. With settlement they count from the later of its end and Settled=True.",
    )
    dry_run: bool = Field(default=False, description="Answer with offers, cost and verdicts; reserve and run nothing.")

    model_config = Model.model_config | {"json_schema_extra": cel(*CHECKPOINT_RULES)}


_FROZEN = (
    "dryRun",
    "gpu",
    "replicas",
    "template",
    "placement",
    "latency",
    "data",
    "checkpoint",
    "disruption",
    "retries",
    "priorityClassName",
    "strategy",
    "maxPricePerGPUHour",
    "runLimitSeconds",
    "failover",
)


def _unchanged(field: str) -> str:
    new, old = f"self.spec.{field}", f"oldSelf.spec.{field}"
    return f"has({new}) == has({old}) && (!has({new}) || {new} == {old})"


class ComputeJob(Resource):
    """GPU work to be placed on the cheapest lawful member cluster, run there, metered and paid."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="ComputeJob",
        plural="computejobs",
        singular="computejob",
        short_name="cjob",
        namespaced=True,
        selectable=(".status.state", ".status.placement.provider", ".spec.priorityClassName"),
        columns=(
            Column("State", ".status.state"),
            READY_COLUMN,
            Column("Provider", ".status.placement.provider"),
            Column("Product", ".status.placement.product"),
            Column("Eff-Price", ".status.placement.effectivePrice", description="USD per GPU-hour"),
            Column("Cost", ".status.usage.cost", description="USD metered so far"),
            Column("Settled", ".status.conditions[?(@.type=='Settled')].status"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Attempt", ".status.placement.attempt", "integer", wide=True),
            Column("GPU-Seconds", ".status.usage.gpuSeconds", "integer", wide=True),
            Column("Reason", ".status.reason", description="Why it is in that state", wide=True),
            Column("Placed", ".status.conditions[?(@.type=='Placed')].message", wide=True),
        ),
        rules=tuple(
            Rule(
                f"!(has(oldSelf.status) && has(oldSelf.status.placement)) || ({_unchanged(field)})",
                f"spec.{field}: cannot change after placement; only suspend, deadline, budget and "
                "ttlSecondsAfterFinished can. Delete the job and create a new one",
                f".spec.{field}",
            )
            for field in _FROZEN
        ),
    )
    spec: ComputeJobSpec = Field(description="What is to run, where it may, and what it may cost.")
    status: ComputeJobStatus = Field(
        default_factory=lambda: ComputeJobStatus(conditions=[]), description="What became of the job."
    )

    @property
    def gpus(self) -> int:
        """GPUs over all replicas."""
        return self.spec.gpu.count * self.spec.replicas

    @property
    def run_limit(self) -> int:
        """Seconds after which an attempt is told to stop."""
        return self.spec.run_limit_seconds

    @property
    def billable_limit(self) -> int:
        """The most seconds of one attempt that can be billed: a pod may hold its GPUs through its grace period."""
        return self.run_limit + self.spec.template.spec.termination_grace_period_seconds

    def to_domain(self, *, spent: MicroUSD, avoid: Mapping[str, str], priority: int = 0, preempts: bool = False) -> Job:
        """The job as placement sees it.

        `spent` is what earlier attempts cost (µUSD), `avoid` maps offers to why it is not placed there now; `priority`
        and `preempts` are those of its PriorityClass.
        Raises InvalidResourceError: `UnknownPlace` for a country or origin that is not known, `ResidencyConflict` where
        its data leaves no country, `CheckpointOutsideResidency` where its work would be saved outside of the data's.
        """
        spec = self.spec
        rules, data = spec.placement.to_domain(), spec.data.to_domain() if spec.data else ()
        check_law(rules, data, spec.checkpoint)
        budget = parse_usd(spec.budget) if spec.budget is not None else None
        return Job(
            uid=self.metadata.uid,
            namespace=self.metadata.namespace,
            name=self.metadata.name,
            gpu=spec.gpu.to_domain(),
            replicas=spec.replicas,
            run_limit=self.billable_limit,
            rules=rules,
            latency=spec.latency.to_domain() if spec.latency else None,
            max_price=parse_usd(spec.max_price_per_gpu_hour) if spec.max_price_per_gpu_hour else None,
            budget_left=MicroUSD(max(0, budget - spent)) if budget is not None else None,
            deadline=spec.deadline,
            rates=spec.strategy.to_domain(),
            avoid=avoid,
            data=data,
            output_mib=spec.data.output_gi_b * 1024 if spec.data else 0,
            checkpoint_seconds=spec.checkpoint.interval_seconds if spec.checkpoint else None,
            checkpoint_country=(spec.checkpoint.country or "") if spec.checkpoint else "",
            priority=priority,
            preempts=preempts,
        )
