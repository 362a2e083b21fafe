"""The provider loop: gives each provider its namespace, judges what its agent reports, writes its status."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median, quantiles
from typing import Final, Literal

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computelease import PROVIDER_LABEL
from fedgpu_operator.api.conditions import Finding, find, is_true, merge
from fedgpu_operator.api.gpuprovider import Acceptance, GPUProvider, GPUProviderStatus, Inventory, LatencyStatus
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.domain.money import parse_usd
from fedgpu_operator.errors import AlreadyExistsError, InvalidResourceError, LedgerUnreachableError
from fedgpu_operator.hub.acceptance import (
    Mode,
    SecretKey,
    judge_acceptance,
    keeps_agent,
    kept_acceptance,
    secret_owners,
    secret_taken,
)
from fedgpu_operator.hub.attempts import wants_agent
from fedgpu_operator.hub.chainsigners import RECEIPTS_VALID, WARNED, SignerBook
from fedgpu_operator.hub.inventory import inventory
from fedgpu_operator.hub.locations import LOCATION_CHANGED, audit_lost, location_finding
from fedgpu_operator.hub.proofs import ProofBook, ProofVerdict
from fedgpu_operator.hub.render import provider_namespace
from fedgpu_operator.hub.signatures import UsageVerifier, usage_signed
from fedgpu_operator.hub.store import HubState, load, load_heartbeats
from fedgpu_operator.hub.write import emit, one_of_many, write_status
from fedgpu_operator.ports import NAMESPACES, Clock, Kube, Ledger, ResourceType

log = logging.getLogger(__name__)

AWAITING_REPORT: Final = "AwaitingReport"
"""The agent has been asked but has not answered yet: neither good nor bad news."""
NOT_ACCEPTED: Final = "NotAccepted"
"""Nothing is dialled: the acceptance was withdrawn, or the spec names another connection, and no work is left."""
PROVIDERS: Final = ResourceType.of(GPUProvider.info)
FINALIZER: Final = "fedgpu.dev/provider"
MAX_GPUS: Final = 10_000_000
"""As many as a status can show."""


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """All that a provider's status is derived from."""

    provider: GPUProvider
    report: ProviderReport | None
    heartbeat: datetime | None
    refusal: InvalidResourceError | None
    namespace: str
    stock: list[Inventory]
    leases: int
    lingering: bool = False
    """Whether its agent is still needed for a lease: to meter it, to stop it, or to clear away what it left."""
    unstopped: int = 0
    """Leases that have not ended and were not told to stop."""
    taken: str = ""
    """Why its Secrets cannot be its own; empty if they can."""
    running: int = 0
    """Attempts that the ledger holds open; those without a lease yet count as well."""
    proof: ProofVerdict | None = None
    """Whether the payout wallet agreed; None where nothing is settled on chain."""
    signed: Finding | None = None
    """Whether its usage carries its signature; None where that means nothing."""
    receipts: Finding | None = None
    """Whether its receipts count on chain; None where nothing is settled there."""


class ProviderLoop:
    """Load → judge → write.

    `refusals` says why an agent could not be started, `audits` whether confirmations of locations count, `enforced`
    whether acceptances do.
    """

    def __init__(
        self,
        kube: Kube,
        ledger: Ledger,
        clock: Clock,
        *,
        proofs: ProofBook | None,
        acceptance: Mode,
        enforced: bool = False,
        audits: bool = False,
        heartbeat_timeout: float,
        refusals: Mapping[str, InvalidResourceError],
        verifier: UsageVerifier | None = None,
        signers: SignerBook | None = None,
    ) -> None:
        self._kube = kube
        self._ledger = ledger
        self._clock = clock
        self._proofs = proofs
        self._acceptance = acceptance
        self._enforced = enforced
        self._audits = audits
        self._timeout = timedelta(seconds=heartbeat_timeout)
        self._refusals = refusals
        self._verifier = verifier or UsageVerifier(None)
        self._signers = signers
        self._owned: dict[SecretKey, GPUProvider] = {}

    async def pass_once(self) -> float | None:
        """One pass over all providers; asks for the next within a third of the heartbeat timeout."""
        state = await load(self._kube)
        heartbeats = await load_heartbeats(self._kube)
        running = await self._running(state)
        proofs = await self._proofs.providers(state.providers.values(), refresh=True) if self._proofs else {}
        receipts = await self._signers.findings(state.providers.values()) if self._signers else {}
        owners = self._owners(state.providers)
        lingering = {lease.spec.provider for lease in state.leases.values() if wants_agent(lease)}
        # One after another, the oldest first: who is accepted with a Secret owns it before the next is judged.
        for provider in sorted(state.providers.values(), key=_age):
            with one_of_many(provider):
                name = provider.metadata.name
                leases = state.leases_of(name)
                await self._judge(
                    ProviderFacts(
                        provider=provider,
                        report=state.reports.get(name),
                        heartbeat=heartbeats.get(provider_namespace(name)),
                        refusal=await self._ensure_namespace(provider, state) or self._refusals.get(name),
                        namespace=provider_namespace(name),
                        stock=inventory(provider, state.reports[name], leases) if name in state.reports else [],
                        leases=len(leases),
                        unstopped=sum(1 for lease in leases if lease.spec.desired == "Run"),
                        lingering=name in lingering,
                        taken=secret_taken(provider, owners),
                        running=running.get(name, 0),
                        proof=proofs.get(name),
                        signed=usage_signed(provider, state.placed_at.get(name, ()), self._verifier),
                        receipts=receipts.get(name),
                    ),
                    owners,
                )
        return self._timeout.total_seconds() / 3

    def _owners(self, providers: Mapping[str, GPUProvider]) -> dict[SecretKey, str]:
        """Who owns which Secret, also while a status that was accepted has been wiped: nobody gets in between."""
        owners = secret_owners(providers.values())
        for key, owner in self._owned.items():
            now = providers.get(owner.metadata.name)
            if now is not None and now.metadata.uid == owner.metadata.uid and now.status.acceptance is None:
                owners.setdefault(key, owner.metadata.name)
        self._owned = {key: providers[name] for key, name in owners.items()}
        return owners

    async def _judge(self, facts: ProviderFacts, owners: dict[SecretKey, str]) -> None:
        if await self._hold_or_release(facts):
            return
        now, provider = self._clock.now(), facts.provider
        status = provider_status(
            facts, now, acceptance=self._acceptance, enforced=self._enforced, timeout=self._timeout, audits=self._audits
        )
        # Before the write, whose answer may get lost; what it no longer names is free from the next pass on.
        for ref in status.acceptance.secret_keys() if status.acceptance is not None else ():
            owners.setdefault((ref.name, ref.key), provider.metadata.name)
        if await write_status(self._kube, provider, provider.status, status):
            await self._tell(provider, status, now)

    async def _running(self, state: HubState) -> Mapping[str, int]:
        """Attempts that the ledger holds open, by provider; while it does not answer nobody is taken to be idle."""
        try:
            return Counter(entry.attempt.terms.provider for entry in await self._ledger.open_attempts())
        except LedgerUnreachableError as error:
            log.warning("the providers' open attempts are not known now: %s", error)
            return dict.fromkeys(state.providers, 1)

    async def _hold_or_release(self, facts: ProviderFacts) -> bool:
        """Keep a finalizer on the provider while anything runs there; True where the object changed now."""
        meta = facts.provider.metadata
        held = FINALIZER in meta.finalizers
        if meta.deletion_timestamp is None:
            if held:
                return False
            finalizers = [*meta.finalizers, FINALIZER]
        else:
            # What was stopped and has ended in the ledger is only to be cleared away, perhaps by nobody any more.
            if not held or facts.unstopped or facts.running:
                return False
            finalizers = [name for name in meta.finalizers if name != FINALIZER]
        patch: JSONObject = {"metadata": {**meta.guard(), "finalizers": finalizers}}
        await self._kube.patch(PROVIDERS, meta.name, "", patch)
        return True

    async def _ensure_namespace(self, provider: GPUProvider, state: HubState) -> InvalidResourceError | None:
        name = provider_namespace(provider.metadata.name)
        wanted = provider.metadata.name
        if name not in state.namespaces:
            if provider.metadata.deletion_timestamp is not None:
                return None
            try:
                await self._kube.create(NAMESPACES, {"metadata": {"name": name, "labels": {PROVIDER_LABEL: wanted}}})
            except AlreadyExistsError:
                log.debug("namespace %s was made meanwhile; next pass judges it", name)
            return None
        if state.namespaces[name].get(PROVIDER_LABEL) != wanted:
            return InvalidResourceError(
                "NamespaceTaken",
                f"namespace {name} exists and was not made by fedgpu: remove it, or label it {PROVIDER_LABEL}={wanted}",
            )
        return None

    async def _tell(self, provider: GPUProvider, status: GPUProviderStatus, now: datetime) -> None:
        known, receipts = (find(each.conditions, RECEIPTS_VALID) for each in (provider.status, status))
        if receipts is not None and receipts.status == "False" and receipts.reason in WARNED and receipts != known:
            await emit(self._kube, provider, "Warning", receipts.reason, receipts.message, now=now)
        if lost := audit_lost(provider.status, status):
            await emit(self._kube, provider, "Warning", LOCATION_CHANGED, lost, now=now)
        before, after = find(provider.status.conditions, "Ready"), find(status.conditions, "Ready")
        if after is not None and after.reason == AWAITING_REPORT:
            return
        if after is not None and (before is None or (before.status, before.reason) != (after.status, after.reason)):
            event_type: Literal["Normal", "Warning"] = "Normal" if after.status == "True" else "Warning"
            text = after.message or f"provider is {status.state}"
            await emit(self._kube, provider, event_type, after.reason, text, now=now)


def provider_status(
    facts: ProviderFacts,
    now: datetime,
    *,
    acceptance: Mode,
    timeout: timedelta,
    enforced: bool = False,
    audits: bool = False,
) -> GPUProviderStatus:
    """The provider's status from the facts; pure.

    `enforced` is whether this hub restricts who may accept a provider, `audits` who may confirm a location.
    """
    provider = facts.provider
    accepted, record = _accepted(facts, now, acceptance, enforced=enforced)
    connected = _connected(facts, record, now, timeout)
    verified = Finding("Verified", "Unknown", "NotProbed", "the GPUs themselves have not been probed")
    ready = _ready(accepted, connected, facts)
    located = location_finding(provider, audits=audits)
    found = (accepted, connected, verified, ready, located, facts.signed, facts.receipts)
    conditions = merge(
        provider.status.conditions,
        [each for each in found if each is not None],
        generation=provider.metadata.generation,
        now=now,
    )
    fresh = connected.status == "True"
    return GPUProviderStatus(
        observed_generation=provider.metadata.generation,
        state=_state(accepted, connected, ready),
        namespace=facts.namespace,
        acceptance=record,
        location_audited=located.status == "True",
        inventory=facts.stock,
        products=_products(provider),
        price=_price(provider),
        total_gpus=min(MAX_GPUS, sum(entry.total for entry in facts.stock)),
        free_gpus=min(MAX_GPUS, sum(entry.free for entry in facts.stock)) if fresh else 0,
        leases=facts.leases,
        latency=_latency(facts.report) or provider.status.latency,
        conditions=conditions,
    )


def _accepted(facts: ProviderFacts, now: datetime, mode: Mode, *, enforced: bool) -> tuple[Finding, Acceptance | None]:
    if facts.refusal is not None and facts.refusal.why == "NamespaceTaken":
        finding = Finding("Accepted", "False", facts.refusal.why, str(facts.refusal))
        return finding, kept_acceptance(facts.provider, now)
    return judge_acceptance(facts.provider, now, mode=mode, enforced=enforced, taken=facts.taken)


def _connected(facts: ProviderFacts, record: Acceptance | None, now: datetime, timeout: timedelta) -> Finding:
    if facts.refusal is not None:
        return Finding("Connected", "False", facts.refusal.why, str(facts.refusal))
    if record is not None and not keeps_agent(facts.provider, record) and not facts.lingering:
        text = "no agent runs: the accepted connection is not in force and no lease is left on it"
        return Finding("Connected", "Unknown", NOT_ACCEPTED, text)
    reachable = find(facts.report.status.conditions, "Reachable") if facts.report else None
    if reachable is not None and reachable.status != "True":
        return Finding("Connected", reachable.status, reachable.reason, reachable.message)
    if facts.heartbeat is None or reachable is None:
        return Finding("Connected", "Unknown", AWAITING_REPORT, "the agent has not reported yet")
    silent = now - facts.heartbeat
    if silent > timeout:
        message = f"nothing heard of the member since {facts.heartbeat:%Y-%m-%dT%H:%M:%SZ}; its jobs are left alone"
        return Finding("Connected", "Unknown", "MemberSilent", message)
    return Finding("Connected", "True", "Answering", "the member cluster answers")


def _ready(accepted: Finding, connected: Finding, facts: ProviderFacts) -> Finding:
    if facts.provider.metadata.deletion_timestamp is not None:
        text = f"takes no new work; {max(facts.leases, facts.running)} leases still run"
        return Finding("Ready", "False", "Terminating", text)
    for finding in (accepted, connected):
        if finding.status != "True":
            return Finding("Ready", finding.status, finding.reason, finding.message)
    if facts.proof is not None and not facts.proof.proven:
        return Finding("Ready", facts.proof.status, _unpaid(facts), facts.proof.message)
    if not any(entry.total for entry in facts.stock):
        offered = ", ".join(offer.product for offer in facts.provider.spec.offers)
        return Finding("Ready", "False", "NoGPUs", f"no schedulable node carries nvidia.com/gpu.product of {offered}")
    return Finding("Ready", "True", "Ready", "")


def _products(provider: GPUProvider) -> str:
    """E.g. ``NVIDIA-H100-80GB-HBM3 +2``."""
    first, *others = (offer.product for offer in provider.spec.offers)
    return f"{first} +{len(others)}" if others else first


def _price(provider: GPUProvider) -> str:
    """E.g. ``0.40-1.25``, as the owner wrote them."""
    prices = sorted((offer.price_per_gpu_hour for offer in provider.spec.offers), key=parse_usd)
    return prices[0] if parse_usd(prices[0]) == parse_usd(prices[-1]) else f"{prices[0]}-{prices[-1]}"


def _unpaid(facts: ProviderFacts) -> str:
    if facts.provider.spec.payout is None:
        return "NoPayout"
    return "ChainUnreachable" if facts.proof is not None and facts.proof.status == "Unknown" else "WalletUnproven"


def _state(
    accepted: Finding, connected: Finding, ready: Finding
) -> Literal["Pending", "Ready", "NotReady", "Unreachable"]:
    if ready.status == "True":
        return "Ready"
    if accepted.status != "True" or connected.status == "False":
        return "NotReady"
    if connected.status == "Unknown":
        return "Pending" if connected.reason == AWAITING_REPORT else "Unreachable"
    return "NotReady"


def _latency(report: ProviderReport | None) -> LatencyStatus | None:
    if report is None or not report.status.round_trips_ms or report.status.observed_at is None:
        return None
    samples = report.status.round_trips_ms
    p95 = quantiles(samples, n=20, method="inclusive")[-1] if len(samples) > 1 else samples[0]
    return LatencyStatus(p50_ms=round(median(samples), 2), p95_ms=round(p95, 2), measured_at=report.status.observed_at)


def awaits_report(provider: GPUProvider) -> bool:
    """Whether it is not known yet if new work may be placed there."""
    ready = find(provider.status.conditions, "Ready")
    return ready is None or ready.reason == AWAITING_REPORT


def is_ready(provider: GPUProvider) -> bool:
    """Whether new work may be placed there: judged Ready, on exactly the spec that is there now and was accepted."""
    return (
        is_true(provider.status.conditions, "Ready")
        and provider.metadata.deletion_timestamp is None
        and provider.status.observed_generation == provider.metadata.generation
        and provider.accepted
    )


def _age(provider: GPUProvider) -> tuple[str, str]:
    return str(provider.metadata.creation_timestamp), provider.metadata.name
