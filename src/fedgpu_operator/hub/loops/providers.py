"""The provider loop: gives each provider its namespace, judges what its agent reports, writes its status."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta

from fedgpu_operator.api.base import find
from fedgpu_operator.api.computelease import PROVIDER_LABEL
from fedgpu_operator.api.gpuprovider import GPUProvider, GPUProviderStatus
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.errors import AlreadyExistsError, InvalidResourceError, LedgerUnreachableError
from fedgpu_operator.hub.services.attempts import wants_agent
from fedgpu_operator.hub.services.hubstate import HubState, inventory, load, load_heartbeats
from fedgpu_operator.hub.services.signatures import RECEIPTS_VALID, WARNED, SignerBook, UsageVerifier, usage_signed
from fedgpu_operator.hub.services.wallets import ProofBook
from fedgpu_operator.hub.services.workloads import provider_namespace
from fedgpu_operator.hub.services.writes import PROVIDER_FINALIZER, Writers, one_of_many
from fedgpu_operator.hub.views.providers import ProviderFacts, provider_status
from fedgpu_operator.hub.views.trust import Mode, SecretKey, audit_lost, secret_owners, secret_taken
from fedgpu_operator.ports import AttemptBook, Clock, Kube

log = logging.getLogger(__name__)


class ProviderLoop:
    """Load → judge → write.

    `refusals` says why an agent could not be started, `audits` whether confirmations of locations count, `enforced`
    whether acceptances do.
    """

    def __init__(
        self,
        kube: Kube,
        writers: Writers,
        ledger: AttemptBook,
        clock: Clock,
        *,
        proofs: ProofBook | None,
        acceptance: Mode,
        enforced: bool,
        audits: bool,
        heartbeat_timeout: float,
        refusals: Mapping[str, InvalidResourceError],
        verifier: UsageVerifier,
        signers: SignerBook | None,
    ) -> None:
        self._kube = kube
        self._writer = writers.providers
        self._ledger = ledger
        self._clock = clock
        self._proofs = proofs
        self._acceptance = acceptance
        self._enforced = enforced
        self._audits = audits
        self._timeout = timedelta(seconds=heartbeat_timeout)
        self._refusals = refusals
        self._verifier = verifier
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
        oldest_first = sorted(
            state.providers.values(), key=lambda each: (str(each.metadata.creation_timestamp), each.metadata.name)
        )
        for provider in oldest_first:
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
        if await self._writer.write_status(provider, status):
            await self._tell(provider, status)

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
        # What was stopped and has ended in the ledger is only to be cleared away, perhaps by nobody any more.
        wanted = meta.deletion_timestamp is None or bool(facts.unstopped or facts.running)
        if wanted and meta.deletion_timestamp is not None and PROVIDER_FINALIZER not in meta.finalizers:
            return False
        return await self._writer.set_finalizer(facts.provider, held=wanted)

    async def _ensure_namespace(self, provider: GPUProvider, state: HubState) -> InvalidResourceError | None:
        name = provider_namespace(provider.metadata.name)
        wanted = provider.metadata.name
        if name not in state.namespaces:
            if provider.metadata.deletion_timestamp is not None:
                return None
            try:
                await self._writer.create_namespace(provider, name)
            except AlreadyExistsError:
                log.debug("namespace %s was made meanwhile; next pass judges it", name)
            return None
        if state.namespaces[name].get(PROVIDER_LABEL) != wanted:
            return InvalidResourceError(
                ConditionReason.NAMESPACE_TAKEN,
                f"namespace {name} exists and was not made by fedgpu: remove it, or label it {PROVIDER_LABEL}={wanted}",
            )
        return None

    async def _tell(self, provider: GPUProvider, status: GPUProviderStatus) -> None:
        known, receipts = (find(each.conditions, RECEIPTS_VALID) for each in (provider.status, status))
        if receipts is not None and receipts.status == "False" and receipts.reason in WARNED and receipts != known:
            await self._writer.event(provider, "Warning", receipts.reason, receipts.message)
        if lost := audit_lost(provider.status, status):
            await self._writer.event(provider, "Warning", ConditionReason.LOCATION_CHANGED, lost)
        before, after = find(provider.status.conditions, "Ready"), find(status.conditions, "Ready")
        if after is not None and after.reason == ConditionReason.AWAITING_REPORT:
            return
        if after is not None and (before is None or (before.status, before.reason) != (after.status, after.reason)):
            text = after.message or f"provider is {status.state}"
            await self._writer.event(provider, "Normal" if after.status == "True" else "Warning", after.reason, text)
