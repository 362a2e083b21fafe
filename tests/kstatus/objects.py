"""An object of every kind in every state, made by the code that writes its status, and the word kstatus should have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from tests.kstatus.rules import Word
from tests.unit.hub import test_epochstatus as epochs
from tests.unit.hub import test_jobstatus as jobs
from tests.unit.hub import test_providers as providers
from tests.unit.hub.world import condition

from fedgpu_operator.agent.decide import ConditionState, update, with_readiness
from fedgpu_operator.agent.report import ANSWERING, conditions_of
from fedgpu_operator.api.base import API_VERSION, Condition, Finding, JSONObject, Model, merge
from fedgpu_operator.domain.settlement import EpochStage
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.views.accounts import FUNDED, ProofVerdict, readiness
from fedgpu_operator.hub.views.epochs import epoch_status
from fedgpu_operator.hub.views.jobfacts import JobFacts
from fedgpu_operator.hub.views.jobs import job_status
from fedgpu_operator.hub.views.providers import provider_status

NOW: Final = jobs.NOW
GENERATION: Final = 3
CREATED: Final = "just created"
CHANGED: Final = "spec changed, not judged yet"
DELETED: Final = "being deleted"


@dataclass(frozen=True, slots=True)
class Case:
    """One object; `text` is its state in the words of the table in docs/conditions.md."""

    kind: str
    text: str
    word: Word
    status: JSONObject | None
    generation: int = GENERATION
    deleted: bool = False

    @property
    def object(self) -> JSONObject:
        """As an API server returns it."""
        meta: JSONObject = {"name": "it", "uid": "0" * 36, "generation": self.generation}
        if self.deleted:
            meta |= {"deletionTimestamp": "2026-01-01T11:00:00Z", "finalizers": ["fedgpu.dev/lease"]}
        found: JSONObject = {"apiVersion": API_VERSION, "kind": self.kind, "metadata": meta, "spec": {}}
        return found if self.status is None else {**found, "status": self.status}


def every_case() -> tuple[Case, ...]:
    """By kind, in the order of the table."""
    return tuple(
        case for kind in (_jobs, _providers, _reports, _leases, _accounts, _epochs, _policies) for case in kind()
    )


def _of(kind: str, text: str, word: Word, conditions: Sequence[Condition], **more: Any) -> Case:
    status = {"observedGeneration": GENERATION, "conditions": [each.to_wire() for each in conditions]}
    return Case(kind, text, word, status, **more)


def _changes(last: Case) -> Iterator[Case]:
    """What may happen to an object of any kind whatever state it is in, here the last one of its kind."""
    yield replace(last, text=CREATED, word="InProgress", status={"observedGeneration": -1}, generation=1)
    yield replace(last, text=CHANGED, word="InProgress", generation=GENERATION + 1)
    yield replace(last, text=DELETED, word="Terminating", deleted=True)


def _jobs() -> Iterator[Case]:
    def case(text: str, word: Word, facts: JobFacts) -> Case:
        known = facts.job.model_copy(update={"metadata": facts.job.metadata.model_copy(update={"generation": 3})})
        return Case("ComputeJob", text, word, _wire(job_status(replace(facts, job=known), NOW, {})))

    job, usage, lease = jobs.job, jobs.usage, jobs.lease
    refused = InvalidResourceError("UnknownPlace", "spec.latency.from: no")
    taken_away = lease("Suspended", "False", "SuspendedByMember")
    status = taken_away.status.model_copy(update={"conditions": _suspended()})
    taken_away = taken_away.model_copy(update={"status": status})
    stopping = lease("Stopping", "True", "Stopping", desired="Stop")
    yield case("waits for a place", "InProgress", JobFacts(job(), decision=jobs.FULL))
    yield case("waits for funds", "InProgress", JobFacts(job(), decision=jobs.BROKE))
    yield case("an attempt failed, another follows", "InProgress", JobFacts(job(), (usage("WorkloadEvicted", 5),)))
    yield case("stopped for want of money", "InProgress", JobFacts(job(), (usage("Unfunded", 5),), decision=jobs.BROKE))
    yield case("placed, not running yet", "InProgress", JobFacts(job(), (usage(),), decision=jobs.CHOSEN))
    yield case("suspended by the member", "InProgress", JobFacts(job(), (usage(),), taken_away))
    yield case("runs", "Current", JobFacts(job(), (usage(),), lease("Running", "True")))
    yield case("its workload is being stopped", "InProgress", JobFacts(job(suspend=True), (usage(),), stopping))
    yield case("moved away", "InProgress", JobFacts(job(), (usage("Rebalanced", 5),)))
    yield case("suspended by its spec", "Current", JobFacts(job(suspend=True)))
    yield case("dry run, not answered yet", "InProgress", JobFacts(job(dryRun=True)))
    yield case("dry run, answered", "Current", JobFacts(job(dryRun=True), decision=jobs.CHOSEN))
    yield case("dry run, answered: fits nowhere", "Current", JobFacts(job(dryRun=True), decision=jobs.FULL))
    yield case("refused", "Failed", JobFacts(job(), invalid=refused))
    yield case("past its deadline", "Failed", JobFacts(job(deadline="2020-01-01T00:00:00Z")))
    yield case("failed", "Failed", JobFacts(job(), (usage("ExitCode", 60),), lease("Failed")))
    last = case("succeeded", "Current", JobFacts(job(), (usage("Succeeded", 60),), lease("Succeeded")))
    yield last
    yield from _changes(last)


def _suspended() -> list[Condition]:
    return [
        Condition.model_validate(condition(kind, status, "SuspendedByMember", NOW))
        for kind, status in (("Running", "False"), ("Suspended", "True"))
    ]


def _providers() -> Iterator[Case]:
    def case(text: str, word: Word, facts: Any = providers.WELL, after: int = 0, **more: Any) -> Case:
        given = {"acceptance": "OnCreate", "enforced": True, "timeout": providers.TIMEOUT, **more}
        status = provider_status(facts, NOW + timedelta(seconds=after), **given)
        return Case("GPUProvider", text, word, _wire(status) | {"observedGeneration": GENERATION})

    well, made = providers.WELL, providers.provider
    paid = replace(well, provider=made(payout=providers.PAID))
    withdrawn = made(well_status(), acceptance={"withdrawn": True})
    yield case("awaits acceptance", "InProgress", acceptance="Manual")
    yield case("acceptance is not enforced", "Failed", enforced=False)
    yield case("acceptance withdrawn", "Failed", replace(well, provider=withdrawn))
    yield case("a Secret of another provider", "Failed", replace(well, taken="Secret a belongs to provider b"))
    yield case("its namespace is taken", "Failed", replace(well, refusal=providers.TAKEN))
    yield case("kubeconfig refused", "Failed", replace(well, refusal=providers.REFUSED))
    yield case("its Secret does not exist yet", "InProgress", replace(well, refusal=providers.NO_SECRET))
    yield case("its agent could not be started", "InProgress", replace(well, refusal=providers.HINDERED))
    yield case("member refuses the agent", "Failed", replace(well, report=providers.report("False", "Forbidden")))
    yield case("awaits its first report", "InProgress", replace(well, report=None))
    yield case("member is silent", "InProgress", after=31)
    yield case("no GPUs", "InProgress", replace(well, stock=[]))
    yield case("no payout", "Failed", replace(well, proof=ProofVerdict("False", "set spec.payout")))
    yield case("payout wallet unproven", "Failed", replace(paid, proof=ProofVerdict("False", "prove it")))
    yield case("chain does not answer", "InProgress", replace(paid, proof=ProofVerdict("Unknown", "no answer")))
    last = case("ready", "Current")
    yield last
    yield from _changes(last)


def well_status() -> Any:
    """The status of a provider that is accepted and ready."""
    return provider_status(providers.WELL, NOW, acceptance="OnCreate", enforced=True, timeout=providers.TIMEOUT)


def _reports() -> Iterator[Case]:
    def case(text: str, word: Word, why: ConditionState) -> Case:
        return _of("ProviderReport", text, word, conditions_of([], why, now=NOW, generation=GENERATION))

    yield case("member does not answer", "InProgress", ConditionState("Unknown", "Timeout", "no answer"))
    yield case("member refuses the agent", "Failed", ConditionState("False", "Forbidden", "no"))
    last = case("member answers", "Current", ANSWERING)
    yield last
    yield from _changes(last)


def _leases() -> Iterator[Case]:
    def case(text: str, word: Word, **verdicts: str) -> Case:
        found = {kind: ConditionState(said.split()[0], said.split()[1], "in words") for kind, said in verdicts.items()}  # type: ignore[arg-type]
        conditions = update([], found, now=NOW, generation=GENERATION)
        return _of("ComputeLease", text, word, with_readiness(conditions, now=NOW, generation=GENERATION))

    yield case("being handed to the member", "InProgress", Accepted="Unknown Dispatching")
    yield case("taken, nothing has started", "InProgress", Accepted="True Accepted", Running="False Waiting")
    yield case(
        "suspended by the member", "InProgress", Running="False SuspendedByMember", Suspended="True SuspendedByMember"
    )
    yield case("stopping", "InProgress", Running="True Stopping")
    yield case("runs", "Current", Accepted="True Accepted", Running="True Running")
    yield case("stopped as asked", "Current", Running="False Stopped")
    yield case("failed", "Failed", Running="False Ended", Failed="True ExitCode")
    last = case("succeeded", "Current", Running="False Ended", Complete="True Succeeded")
    yield last
    yield from _changes(last)


def _accounts() -> Iterator[Case]:
    def case(text: str, word: Word, status: Any, reason: str) -> Case:
        funded = Finding(FUNDED, status, reason, "in words")
        conditions = merge([], (funded, *readiness(funded)), generation=GENERATION, now=NOW)
        return _of("ComputeAccount", text, word, conditions)

    yield case("chain does not answer", "InProgress", "Unknown", "ChainUnreachable")
    yield case("no spend limit", "InProgress", "False", "NoSpendLimit")
    yield case("no balance", "InProgress", "False", "NoBalance")
    yield case("money for running work ended", "InProgress", "False", "Exhausted")
    yield case("wallet unproven", "Failed", "False", "WalletUnproven")
    yield case("wallet of another namespace", "Failed", "False", "WalletTaken")
    yield case("money ends soon", "Current", "True", "FundingLow")
    last = case("funded", "Current", "True", "Funded")
    yield last
    yield from _changes(last)


def _epochs() -> Iterator[Case]:
    def case(text: str, word: Word, stage: EpochStage, **more: Any) -> Case:
        status = epoch_status(epochs.known(), epochs.facts(stage, **more), NOW)
        return Case("SettlementEpoch", text, word, _wire(status) | {"observedGeneration": GENERATION})

    yield case("not posted yet", "InProgress", EpochStage.PREPARED)
    yield case("posted", "InProgress", EpochStage.POSTED)
    yield case("in its challenge window", "InProgress", EpochStage.FINALIZED)
    yield case("cancelled by the guardian", "Failed", EpochStage.CANCELLED)
    yield case("superseded by another settler", "Failed", EpochStage.SUPERSEDED)
    last = case("paid", "Current", EpochStage.PAID, paid=9_000_000, chain_time=epochs.OPENS)
    yield last
    yield from _changes(last)


def _policies() -> Iterator[Case]:
    yield Case("PlacementPolicy", "no status: it holds from the next pass on", "Current", None)


def _wire(status: Model) -> JSONObject:
    return status.to_wire()
