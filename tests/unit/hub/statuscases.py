"""The input files of cases/: what is known of one job or provider, read into the facts that its status follows from.

Kubernetes objects are written as `kubectl get -o yaml` prints them; what the hub knows from its ledger, its placement
pass and its agents has the small models below. Unknown fields are refused, so that a typo does not drop a fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from fedgpu_operator.api.base import Finding, JSONObject, Resource, Status, wire_name
from fedgpu_operator.api.computejob import ComputeJob, ComputeJobStatus
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider, GPUProviderStatus
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.domain.attempts import Attempt, AttemptRequest, AttemptUsage
from fedgpu_operator.domain.decision import Decision, Reason, Verdict
from fedgpu_operator.domain.money import parse_usd
from fedgpu_operator.domain.settlement import Coverage, EpochStage
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.services.attempts import wants_agent
from fedgpu_operator.hub.services.hubstate import inventory
from fedgpu_operator.hub.services.workloads import provider_namespace
from fedgpu_operator.hub.views.accounts import ProofVerdict
from fedgpu_operator.hub.views.jobfacts import JobFacts
from fedgpu_operator.hub.views.jobs import job_status
from fedgpu_operator.hub.views.providers import ProviderFacts, provider_status
from fedgpu_operator.hub.views.trust import Mode, secret_owners, secret_taken

CASES: Final = Path(__file__).with_name("cases")
INPUT: Final = ".input.yaml"
OUTPUT: Final = ".output.yaml"
Kind = Literal["jobs", "providers"]
KINDS: Final[tuple[Kind, ...]] = ("jobs", "providers")
R = TypeVar("R", bound=Resource)


class Given(BaseModel):
    """Base of everything in an input file: camelCase there, snake_case here."""

    model_config = ConfigDict(alias_generator=wire_name, populate_by_name=True, extra="forbid", frozen=True)


class GivenAttempt(Given):
    """One attempt as the ledger holds it, with its newest billed usage. The prices are USD."""

    provider: str
    product: str
    price: str
    gpus: int
    run_limit: int
    created_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    outcome: str = ""
    gpu_seconds: int = Field(default=0, alias="gpuSeconds")
    sequence: int = 0

    def to_domain(self, job: ComputeJob, number: int) -> AttemptUsage:
        meta = job.metadata
        terms = AttemptRequest(
            job_uid=meta.uid,
            request_id=f"{meta.uid}-{number}",
            tenant=meta.namespace,
            job_name=meta.name,
            provider=self.provider,
            product=self.product,
            price=parse_usd(self.price),
            gpus=self.gpus,
            run_limit=self.run_limit,
        )
        attempt = Attempt(terms, number, self.created_at, self.ended_at, self.outcome)
        return AttemptUsage(attempt, self.gpu_seconds, self.sequence)


class GivenVerdict(Given):
    """One offer as the placement pass judged it; `reason` is empty if it fits. The amounts are USD."""

    provider: str
    product: str
    reason: Reason | None = None
    message: str = ""
    price: str
    effective_price: str | None = None
    cost: str
    components: dict[str, str] = Field(default_factory=dict)
    score: int = 0

    def to_domain(self) -> Verdict:
        return Verdict(
            provider=self.provider,
            product=self.product,
            reason=self.reason,
            message=self.message,
            price=parse_usd(self.price),
            effective_price=parse_usd(self.effective_price or self.price),
            cost=parse_usd(self.cost),
            components={name: int(parse_usd(amount)) for name, amount in self.components.items()},
            score=self.score,
        )


class GivenDecision(Given):
    """What the placement pass decided; `chosen` is the provider, if one was found."""

    chosen: str | None = None
    reason: Reason | None = None
    message: str = ""
    verdicts: list[GivenVerdict]
    policies: list[str] = Field(default_factory=list)

    def to_domain(self, job: ComputeJob) -> Decision:
        verdicts = tuple(each.to_domain() for each in self.verdicts)
        chosen = None if self.chosen is None else next(each for each in verdicts if each.provider == self.chosen)
        return Decision(
            job_uid=job.metadata.uid,
            chosen=chosen,
            verdicts=verdicts,
            reason=self.reason,
            message=self.message,
            policies=tuple(self.policies),
            fits=len({each.provider for each in verdicts if each.eligible}),
            total=len({each.provider for each in verdicts}),
        )


class GivenError(Given):
    """Why an object cannot be honoured, or an agent not be started."""

    reason: str
    message: str

    def to_domain(self) -> InvalidResourceError:
        return InvalidResourceError(self.reason, self.message)


class GivenCoverage(Given):
    """How far one attempt is settled."""

    attempt: int
    gpu_seconds: int = Field(alias="gpuSeconds")
    covered_gpu_seconds: int = Field(default=0, alias="coveredGPUSeconds")
    epoch: int | None = None
    stage: EpochStage | None = None

    def to_domain(self, job: ComputeJob) -> Coverage:
        name = f"{job.metadata.uid}-{self.attempt}"
        return Coverage(name, self.gpu_seconds, self.covered_gpu_seconds, self.epoch, self.stage)


class GivenTransactions(Given):
    """Hashes of the transactions that posted an epoch and paid it."""

    post: str = ""
    claim: str = ""


class JobInput(Given):
    """What is known of one job at `now`.

    `before` names the case whose status the job has now; otherwise it was just created. `invalid` says why the job
    cannot be honoured.
    """

    about: str
    now: AwareDatetime
    before: str = ""
    job: JSONObject
    attempts: list[GivenAttempt] = Field(default_factory=list)
    lease: JSONObject | None = None
    decision: GivenDecision | None = None
    invalid: GivenError | None = None
    coverage: list[GivenCoverage] = Field(default_factory=list)
    transactions: dict[int, GivenTransactions] = Field(default_factory=dict)
    priority: int | None = None
    settlement: bool = True

    def status(self) -> ComputeJobStatus:
        job = parsed(ComputeJob, self.job)
        if self.before:
            job = job.model_copy(update={"status": job_input(self.before).status()})
        facts = JobFacts(
            job=job,
            usage=tuple(each.to_domain(job, number) for number, each in enumerate(self.attempts, 1)),
            lease=None if self.lease is None else parsed(ComputeLease, self.lease),
            decision=None if self.decision is None else self.decision.to_domain(job),
            invalid=None if self.invalid is None else self.invalid.to_domain(),
            coverage=tuple(each.to_domain(job) for each in self.coverage),
            priority=self.priority,
        )
        hashes = {number: (each.post, each.claim) for number, each in self.transactions.items()}
        return job_status(facts, self.now, hashes, settlement=self.settlement)


class GivenProof(Given):
    """What the proof of a payout wallet is worth."""

    status: Literal["True", "False", "Unknown"]
    message: str = ""


class GivenFinding(Given):
    """A condition that others found."""

    status: Status
    reason: str
    message: str = ""

    def to_domain(self, kind: str) -> Finding:
        return Finding(kind, self.status, self.reason, self.message)


class ProviderInput(Given):
    """What is known of one provider at `now`.

    `before` names the case whose status the provider has now; otherwise it was just created. `others` are the other
    providers of the hub, with what they were accepted with. `leases` are those on it that have not ended. The stock is
    counted from the report. `acceptance`, `enforced`, `audits` and `heartbeatTimeout` (seconds) are the hub's settings.
    """

    about: str
    now: AwareDatetime
    before: str = ""
    provider: JSONObject
    report: JSONObject | None = None
    heartbeat: AwareDatetime | None = None
    others: list[JSONObject] = Field(default_factory=list)
    leases: list[JSONObject] = Field(default_factory=list)
    refusal: GivenError | None = None
    proof: GivenProof | None = None
    usage_signed: GivenFinding | None = None
    receipts_valid: GivenFinding | None = None
    acceptance: Mode = "OnCreate"
    enforced: bool = True
    audits: bool = True
    heartbeat_timeout: int = 30

    def status(self) -> GPUProviderStatus:
        provider = parsed(GPUProvider, self.provider)
        if self.before:
            provider = provider.model_copy(update={"status": provider_input(self.before).status()})
        report = None if self.report is None else parsed(ProviderReport, self.report)
        leases = [parsed(ComputeLease, each) for each in self.leases]
        owners = secret_owners([provider, *(parsed(GPUProvider, each) for each in self.others)])
        facts = ProviderFacts(
            provider=provider,
            report=report,
            heartbeat=self.heartbeat,
            refusal=None if self.refusal is None else self.refusal.to_domain(),
            namespace=provider_namespace(provider.metadata.name),
            stock=[] if report is None else inventory(provider, report, leases),
            leases=len(leases),
            lingering=any(wants_agent(each) for each in leases),
            unstopped=sum(1 for each in leases if each.spec.desired == "Run"),
            taken=secret_taken(provider, owners),
            running=len(leases),
            proof=None if self.proof is None else ProofVerdict(self.proof.status, self.proof.message),
            signed=None if self.usage_signed is None else self.usage_signed.to_domain("UsageSigned"),
            receipts=None if self.receipts_valid is None else self.receipts_valid.to_domain("ReceiptsValid"),
        )
        return provider_status(
            facts,
            self.now,
            acceptance=self.acceptance,
            timeout=timedelta(seconds=self.heartbeat_timeout),
            enforced=self.enforced,
            audits=self.audits,
        )


def parsed(kind: type[R], body: JSONObject) -> R:
    """The object; refuses what its API server would have pruned."""
    found = kind.parse(body)
    for part in ("spec", "status"):
        known = getattr(found, part).to_wire()
        if lost := _unknown(body.get(part, {}), known, part):
            raise ValueError(f"{kind.info.kind}: unknown field {lost}")
    return found


def _unknown(given: object, known: object, path: str) -> str:
    """The path of the first field that is given and not known; empty if there is none."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            here = f"{path}.{name}"
            if lost := here if name not in known else _unknown(value, known[name], here):
                return lost
    if isinstance(given, list) and isinstance(known, list):
        for index, (one, other) in enumerate(zip(given, known, strict=True)):
            if lost := _unknown(one, other, f"{path}[{index}]"):
                return lost
    return ""


def names(kind: Kind) -> list[str]:
    """The names of all cases of that kind, also of those of which a half is missing."""
    files = [each.name for each in (CASES / kind).iterdir()]
    return sorted({name.removesuffix(INPUT).removesuffix(OUTPUT) for name in files})


def job_input(name: str) -> JobInput:
    """The input of one job case."""
    return JobInput.model_validate(_loaded("jobs", name))


def provider_input(name: str) -> ProviderInput:
    """The input of one provider case."""
    return ProviderInput.model_validate(_loaded("providers", name))


def output_file(kind: Kind, name: str) -> Path:
    """Where the status that a case is to have stands."""
    return CASES / kind / f"{name}{OUTPUT}"


def _loaded(kind: Kind, name: str) -> Mapping[str, Any]:
    text = (CASES / kind / f"{name}{INPUT}").read_text(encoding="utf-8")
    found: Mapping[str, Any] = yaml.load(text, _Loader)
    return found


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as Kubernetes reads it: an instant stays a string."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def to_yaml(status: ComputeJobStatus | GPUProviderStatus) -> str:
    """A status as the API server holds it, in the order of its fields."""
    return yaml.safe_dump(status.to_wire(), sort_keys=False, allow_unicode=True, width=120)
