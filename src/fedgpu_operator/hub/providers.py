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
from fedgpu_operator.errors import AlreadyExistsError, InvalidResourceError
from fedgpu_operator.hub.chainsigners import RECEIPTS_VALID, SIGNER_NOT_ON_CHAIN, SignerBook
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
PROVIDERS: Final = ResourceType.of(GPUProvider.info)
FINALIZER: Final = "fedgpu.dev/provider"
MAX_GPUS: Final = 10_000_000
"""As many as a status can show."""
ACCEPT_ANNOTATION: Final = "fedgpu.dev/accept"
"""Put the acceptance hash here to accept a provider whose location, claims, wallet or endpoint changed."""


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
    running: int = 0
    """Attempts that the ledger holds open; those without a lease yet count as well."""
    proof: ProofVerdict | None = None
    """Whether the payout wallet agreed; None where nothing is settled on chain."""
    signed: Finding | None = None
    """Whether its usage carries its signature; None where that means nothing."""
    receipts: Finding | None = None
    """Whether its receipts count on chain; None where nothing is settled there."""


class ProviderLoop:
    """Load → judge → write. `refusals` says why an agent could not be started, `audits` whether confirmations count."""

    def __init__(
        self,
        kube: Kube,
        ledger: Ledger,
        clock: Clock,
        *,
        proofs: ProofBook | None,
        acceptance: Literal["OnCreate", "Manual"],
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
        self._audits = audits
        self._timeout = timedelta(seconds=heartbeat_timeout)
        self._refusals = refusals
        self._verifier = verifier or UsageVerifier(None)
        self._signers = signers

    async def pass_once(self) -> float | None:
        """One pass over all providers; asks for the next within a third of the heartbeat timeout."""
        state = await load(self._kube)
        heartbeats = await load_heartbeats(self._kube)
        running = Counter(entry.attempt.terms.provider for entry in await self._ledger.open_attempts())
        proofs = await self._proofs.providers(state.providers.values(), refresh=True) if self._proofs else {}
        receipts = await self._signers.findings(state.providers.values()) if self._signers else {}
        for provider in state.providers.values():
            with one_of_many(provider):
                name = provider.metadata.name
                beat = heartbeats.get(provider_namespace(name))
                await self._judge(provider, state, beat, running, proofs.get(name), receipts.get(name))
        return self._timeout.total_seconds() / 3

    async def _judge(
        self,
        provider: GPUProvider,
        state: HubState,
        heartbeat: datetime | None,
        running: Mapping[str, int],
        proof: ProofVerdict | None,
        receipts: Finding | None,
    ) -> None:
        name = provider.metadata.name
        refusal = await self._ensure_namespace(provider, state) or self._refusals.get(name)
        report = state.reports.get(name)
        leases = state.leases_of(name)
        facts = ProviderFacts(
            provider=provider,
            report=report,
            heartbeat=heartbeat,
            refusal=refusal,
            namespace=provider_namespace(name),
            stock=inventory(provider, report, leases) if report else [],
            leases=len(leases),
            running=running.get(name, 0),
            proof=proof,
            signed=usage_signed(provider, state.leases.values(), self._verifier),
            receipts=receipts,
        )
        if await self._hold_or_release(facts):
            return
        now = self._clock.now()
        status = provider_status(facts, now, acceptance=self._acceptance, timeout=self._timeout, audits=self._audits)
        if await write_status(self._kube, provider, provider.status, status):
            await self._tell(provider, status, now)

    async def _hold_or_release(self, facts: ProviderFacts) -> bool:
        """Keep a finalizer on the provider while anything runs there; True where the object changed now."""
        meta = facts.provider.metadata
        held = FINALIZER in meta.finalizers
        if meta.deletion_timestamp is None:
            if held:
                return False
            finalizers = [*meta.finalizers, FINALIZER]
        else:
            if not held or facts.leases or facts.running:
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
        if receipts is not None and receipts.reason == SIGNER_NOT_ON_CHAIN and receipts != known:
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
    acceptance: Literal["OnCreate", "Manual"],
    timeout: timedelta,
    audits: bool = False,
) -> GPUProviderStatus:
    """The provider's status from the facts; pure. `audits` is whether this hub holds who may confirm a location."""
    provider = facts.provider
    accepted, record = _accepted(provider, facts.refusal, now, acceptance)
    connected = _connected(facts, now, timeout)
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


def _accepted(
    provider: GPUProvider, refusal: InvalidResourceError | None, now: datetime, mode: Literal["OnCreate", "Manual"]
) -> tuple[Finding, Acceptance | None]:
    known, digest = provider.status.acceptance, provider.spec.acceptance_hash()
    if refusal is not None and refusal.why == "NamespaceTaken":
        return Finding("Accepted", "False", refusal.why, str(refusal)), known
    asked = provider.metadata.annotations.get(ACCEPT_ANNOTATION) == digest
    payout = provider.spec.payout
    signer = (payout.signer or "") if payout is not None else ""
    if known is not None and known.hash == digest:
        return Finding("Accepted", "True", "Accepted", f"accepted as {digest}"), known.model_copy(
            update={"signer": signer}
        )
    if asked or (known is None and mode == "OnCreate"):
        return (
            Finding("Accepted", "True", "Accepted", f"accepted as {digest}"),
            Acceptance(hash=digest, accepted_at=now.replace(microsecond=0), signer=signer),
        )
    reason = "AwaitingAcceptance" if known is None else "OfferChanged"
    why = "has not been accepted" if known is None else "location, compliance, payout wallet or endpoint changed"
    fix = f"kubectl annotate gpup {provider.metadata.name} {ACCEPT_ANNOTATION}={digest} --overwrite"
    return Finding("Accepted", "False", reason, f"{why}; to accept it: {fix}"), known


def _connected(facts: ProviderFacts, now: datetime, timeout: timedelta) -> Finding:
    if facts.refusal is not None:
        return Finding("Connected", "False", facts.refusal.why, str(facts.refusal))
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
    accepted = provider.status.acceptance
    return (
        is_true(provider.status.conditions, "Ready")
        and provider.metadata.deletion_timestamp is None
        and provider.status.observed_generation == provider.metadata.generation
        and accepted is not None
        and accepted.hash == provider.spec.acceptance_hash()
    )
