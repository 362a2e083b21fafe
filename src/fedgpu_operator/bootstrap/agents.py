"""Keeps one Push agent running per accepted provider, on what was accepted and what those Secrets hold now."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from eth_utils.address import to_checksum_address

from fedgpu_operator import __version__
from fedgpu_operator.adapters.chain.signers import LocalSigner
from fedgpu_operator.adapters.kube.client import Allowance, Budget, KubeClient
from fedgpu_operator.adapters.kube.kubeconfig import member_client
from fedgpu_operator.agent import Agent, AgentSettings, Signing, kept
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import Acceptance, GPUProvider, SecretKeyRef
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.errors import ConfigurationError, FedGPUError, InvalidResourceError, NotFoundError
from fedgpu_operator.hub.services.attempts import wants_agent
from fedgpu_operator.hub.services.hubstate import load_all, load_namespaces, load_reading
from fedgpu_operator.hub.services.workloads import provider_namespace
from fedgpu_operator.hub.views.trust import SecretKey, keeps_agent, secret_owners
from fedgpu_operator.ports import SECRETS, Clock, Kube, LeaderCheck, always
from fedgpu_operator.pulse import Pulse
from fedgpu_operator.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PushAgent:
    """An agent with what it was started from."""

    agent: Agent
    member: KubeClient
    task: asyncio.Task[None]
    made_of: str
    uid: str
    """Of the GPUProvider: another object of the same name has no claim on it."""


class AgentSupervisor:
    """Starts, restarts and ends agents; `refusals` says why a provider has none, for its status.

    `reserved` are the addresses of the operator's own keys: a provider that could have one sign for it would have
    both signatures of a receipt from one hand. Nothing changes on a member unless `leads` lets it.
    """

    def __init__(
        self,
        hub: Kube,
        clock: Clock,
        settings: Settings,
        hub_uid: str,
        reserved: Collection[str] = (),
        leads: LeaderCheck = always,
    ) -> None:
        self._hub = hub
        self._clock = clock
        self._settings = settings
        self._hub_uid = hub_uid
        self._reserved = frozenset(address.lower() for address in reserved)
        self._leads = leads
        self._running: dict[str, PushAgent] = {}
        self._winding_down: set[str] = set()
        self._budgets: dict[str, Budget] = {}
        self.refusals: dict[str, InvalidResourceError] = {}

    def wake(self, namespace: str) -> None:
        """A lease changed in this provider namespace."""
        for provider, running in self._running.items():
            if provider_namespace(provider) == namespace:
                running.agent.wake()

    def pulses(self) -> list[Pulse]:
        """Of the agents that run; one that has ended is started again by the next pass."""
        return [running.agent.pulse for running in self._running.values() if not running.task.done()]

    def winds_down(self, namespace: str) -> bool:
        """Whether the agent of this provider namespace runs only until it has nothing left to do for any lease."""
        return namespace in self._winding_down

    async def pass_once(self) -> float | None:
        """One pass over all providers."""
        providers = {provider.metadata.name: provider for provider in await load_all(self._hub, GPUProvider)}
        namespaces = await load_namespaces(self._hub)
        gone = [
            name
            for name, running in self._running.items()
            if name not in providers or providers[name].metadata.uid != running.uid
        ]
        await asyncio.gather(*(self._end(name) for name in gone))
        for name in set(self.refusals) - set(providers):
            del self.refusals[name]
        for name in set(self._budgets) - set(providers):
            del self._budgets[name]
        self._winding_down.intersection_update(map(provider_namespace, providers))
        owners = secret_owners(providers.values())
        for name, provider in providers.items():
            if provider_namespace(name) in namespaces:
                await self._keep_apart(provider, owners)
        return None

    async def aclose(self) -> None:
        """End every agent; workloads go on."""
        await asyncio.gather(*(self._end(name) for name in list(self._running)))

    async def _keep_apart(self, provider: GPUProvider, owners: Mapping[SecretKey, str]) -> None:
        """`_follow`; whatever fails in it is reported on this provider and stops no other."""
        name = provider.metadata.name
        try:
            await self._follow(provider, owners)
        except InvalidResourceError as error:
            self._refuse(name, error)
            await self._end(name)
        except FedGPUError as error:
            self._hinder(name, f"{error.reason}: {error}")
        except Exception as error:
            log.exception("provider %s: its agent could not be kept", name)
            self._hinder(name, f"unexpected {type(error).__name__}; the operator's log has more")

    def _hinder(self, name: str, why: str) -> None:
        """A failure that is not the spec's: an agent that runs goes on, and reports for itself."""
        if name not in self._running:
            self._refuse(name, InvalidResourceError(ConditionReason.AGENT_NOT_STARTED, why))

    def _refuse(self, name: str, error: InvalidResourceError) -> None:
        if str(self.refusals.get(name)) != str(error):
            log.warning("provider %s: %s: %s", name, error.why, error)
        self.refusals[name] = error

    async def _follow(self, provider: GPUProvider, owners: Mapping[SecretKey, str]) -> None:
        """Keep the agent while its connection is in force, or leases are left to meter and stop; else end it."""
        name, known = provider.metadata.name, provider.status.acceptance
        namespace = provider_namespace(name)
        if keeps_agent(provider, known):
            self._winding_down.discard(namespace)
        elif any(map(wants_agent, (await load_reading(self._hub, ComputeLease, namespace)).objects)):
            self._winding_down.add(namespace)
        else:
            self._winding_down.discard(namespace)
            self.refusals.pop(name, None)
            await self._end(name)
            return
        # Without a record nothing new is started; what runs goes on, since it was started from one.
        if known is not None and known.kubeconfig_secret_ref is not None:
            await self._keep(provider, known, known.kubeconfig_secret_ref, owners)

    async def _keep(
        self, provider: GPUProvider, known: Acceptance, kubeconfig: SecretKeyRef, owners: Mapping[SecretKey, str]
    ) -> None:
        name, running = provider.metadata.name, self._running.get(provider.metadata.name)
        text, version = await self._secret(provider, kubeconfig, owners)
        try:
            signing, key_version = await self._signing(provider, known, owners)
        except InvalidResourceError as error:
            if running is None or running.task.done():
                raise
            # Work that runs must not get out of hand over a key: it goes on, unbilled, and nothing new is placed.
            self._refuse(name, error)
            return
        strict = known.x509_strict
        rules = provider.spec.inventory_rules
        made_of = f"{version} {key_version} {strict} {rules}"
        if running is not None and running.made_of == made_of and not running.task.done():
            self.refusals.pop(name, None)
            return
        client = member_client(text, x509_strict=strict)
        member = KubeClient.of_member(client, kept(rules), self._budget(name), self._leads)
        self.refusals.pop(name, None)
        await self._end(name)
        self._start(provider, member, signing, made_of)

    def _budget(self, name: str) -> Budget:
        """The provider's one budget: an agent that is started again goes on with what is left of it."""
        if name not in self._budgets:
            self._budgets[name] = Budget(Allowance(), time.monotonic())
        return self._budgets[name]

    async def _signing(
        self, provider: GPUProvider, known: Acceptance, owners: Mapping[SecretKey, str]
    ) -> tuple[Signing | None, str]:
        """With what the provider's agent signs, and which version of it that is; None if nothing is to be signed."""
        chain = self._settings.chain
        if chain is None or not known.payout or not known.signer:
            return None, ""
        payout, signer = str(to_checksum_address(known.payout)), str(to_checksum_address(known.signer))
        if signer.lower() in self._reserved:
            raise InvalidResourceError(
                ConditionReason.SIGNER_REFUSED, f"spec.payout.signer {signer} is a key of this operator"
            )
        ref = known.signer_key_secret_ref
        if ref is None:
            fix = "the agent runs in the operator and cannot sign its usage otherwise"
            raise InvalidResourceError(ConditionReason.NO_SIGNER_KEY, f"set spec.payout.signerKeySecretRef: {fix}")
        text, version = await self._secret(provider, ref, owners)
        try:
            key = LocalSigner(text.strip())
        except ConfigurationError as error:
            where = f"Secret {self._settings.namespace}/{ref.name} key {ref.key}"
            raise InvalidResourceError(ConditionReason.SIGNER_KEY_REFUSED, f"{where}: {error}") from None
        if key.address != signer:
            text = f"the key in Secret {ref.name} is that of {key.address}, spec.payout.signer says {signer}"
            raise InvalidResourceError(ConditionReason.SIGNER_MISMATCH, text)
        made_of = f"{version} {payout} {signer}"
        return Signing(key, payout, chain.chain_id, chain.escrow), made_of

    async def _secret(
        self, provider: GPUProvider, ref: SecretKeyRef, owners: Mapping[SecretKey, str]
    ) -> tuple[str, str]:
        """What a key of a Secret holds, and its version; InvalidResourceError if another provider owns it."""
        where, owner = f"Secret {self._settings.namespace}/{ref.name}", owners[ref.name, ref.key]
        if owner != provider.metadata.name:
            text = f"Secret {ref.name} key {ref.key} belongs to provider {owner}, which was accepted with it first"
            raise InvalidResourceError(ConditionReason.SECRET_TAKEN, text)
        try:
            secret: Mapping[str, Any] = await self._hub.get(SECRETS, ref.name, self._settings.namespace)
        except NotFoundError as error:
            raise InvalidResourceError(ConditionReason.SECRET_NOT_FOUND, f"{where} does not exist") from error
        encoded = (secret.get("data") or {}).get(ref.key)
        if encoded is None:
            raise InvalidResourceError(ConditionReason.SECRET_NOT_FOUND, f"{where} has no key {ref.key}")
        try:
            text = base64.b64decode(encoded).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidResourceError(ConditionReason.SECRET_REFUSED, f"{where} key {ref.key} is not text") from None
        return text, f"{ref.name}/{ref.key}@{secret['metadata']['resourceVersion']}"

    def _start(self, provider: GPUProvider, member: KubeClient, signing: Signing | None, made_of: str) -> None:
        name = provider.metadata.name
        settings = AgentSettings(
            namespace=provider_namespace(name),
            hub_uid=self._hub_uid,
            inventory_interval=self._settings.inventory_interval_seconds,
            usage_interval=self._settings.usage_interval_seconds,
            reject_after=self._settings.reject_after_seconds,
            version=__version__,
            rules=provider.spec.inventory_rules,
        )
        agent = Agent(name, self._hub, member, settings, self._clock, signing)
        task = asyncio.create_task(agent.run(), name=f"agent-{name}")
        self._running[name] = PushAgent(agent, member, task, made_of, provider.metadata.uid)
        log.info("agent of provider %s started", name)

    async def _end(self, name: str) -> None:
        running = self._running.pop(name, None)
        if running is None:
            return
        await running.agent.aclose()
        (outcome,) = await asyncio.gather(running.task, return_exceptions=True)
        if isinstance(outcome, Exception):
            log.error("agent of provider %s broke off", name, exc_info=outcome)
        await running.member.close()
        log.info("agent of provider %s ended", name)
