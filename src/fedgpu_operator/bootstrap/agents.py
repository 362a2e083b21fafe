"""Keeps one Push agent running for each accepted provider, over the kubeconfig that its Secret holds now."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedgpu_operator import __version__
from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.adapters.kube.kubeconfig import member_client
from fedgpu_operator.agent import Agent, AgentSettings
from fedgpu_operator.api.gpuprovider import GPUProvider, SecretKeyRef
from fedgpu_operator.errors import FedGPUError, InvalidResourceError, NotFoundError
from fedgpu_operator.hub.render import provider_namespace
from fedgpu_operator.hub.store import load_all, load_namespaces
from fedgpu_operator.ports import SECRETS, Clock, Kube
from fedgpu_operator.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """An agent with what it was started from."""

    agent: Agent
    member: KubeClient
    task: asyncio.Task[None]
    secret_version: str


class AgentSupervisor:
    """Starts, restarts and ends agents; `refusals` says why a provider has none, for its status."""

    def __init__(self, hub: Kube, clock: Clock, settings: Settings, hub_uid: str) -> None:
        self._hub = hub
        self._clock = clock
        self._settings = settings
        self._hub_uid = hub_uid
        self._running: dict[str, Running] = {}
        self.refusals: dict[str, InvalidResourceError] = {}

    def wake(self, namespace: str) -> None:
        """A lease changed in this provider namespace."""
        for provider, running in self._running.items():
            if provider_namespace(provider) == namespace:
                running.agent.wake()

    async def pass_once(self) -> float | None:
        """One pass over all providers."""
        providers = {provider.metadata.name: provider for provider in await load_all(self._hub, GPUProvider)}
        namespaces = await load_namespaces(self._hub)
        await asyncio.gather(*(self._end(name) for name in set(self._running) - set(providers)))
        for name in set(self.refusals) - set(providers):
            del self.refusals[name]
        owners = _secret_owners(providers.values())
        for name, provider in providers.items():
            if _accepted(provider) and provider_namespace(name) in namespaces:
                ref = provider.spec.connection.kubeconfig_secret_ref
                await self._keep_apart(name, ref, owners[ref.name, ref.key])
        return None

    async def aclose(self) -> None:
        """End every agent; workloads go on."""
        await asyncio.gather(*(self._end(name) for name in list(self._running)))

    async def _keep_apart(self, name: str, ref: SecretKeyRef, owner: str) -> None:
        """`_keep`, with whatever goes wrong in it told of this provider and kept from all others."""
        try:
            await self._keep(name, ref, owner)
        except InvalidResourceError as error:
            self._refuse(name, error)
            await self._end(name)
        except FedGPUError as error:
            self._hinder(name, f"{error.reason}: {error}")
        except Exception as error:
            log.exception("provider %s: its agent could not be kept", name)
            self._hinder(name, f"unexpected {type(error).__name__}; the operator's log has more")

    def _hinder(self, name: str, why: str) -> None:
        """Trouble that says nothing about the provider's spec: an agent that runs goes on, and speaks for itself."""
        if name not in self._running:
            self._refuse(name, InvalidResourceError("AgentNotStarted", why))

    def _refuse(self, name: str, error: InvalidResourceError) -> None:
        if str(self.refusals.get(name)) != str(error):
            log.warning("provider %s: %s: %s", name, error.why, error)
        self.refusals[name] = error

    async def _keep(self, name: str, ref: SecretKeyRef, owner: str) -> None:
        if owner != name:
            raise InvalidResourceError("SecretTaken", f"Secret {ref.name} key {ref.key} is named by provider {owner}")
        text, version = await self._kubeconfig(ref)
        running = self._running.get(name)
        if running is not None and running.secret_version == version and not running.task.done():
            return
        member = KubeClient(member_client(text))
        self.refusals.pop(name, None)
        await self._end(name)
        self._start(name, member, version)

    async def _kubeconfig(self, ref: SecretKeyRef) -> tuple[str, str]:
        where = f"Secret {self._settings.namespace}/{ref.name}"
        try:
            secret: Mapping[str, Any] = await self._hub.get(SECRETS, ref.name, self._settings.namespace)
        except NotFoundError as error:
            raise InvalidResourceError("SecretNotFound", f"{where} does not exist") from error
        encoded = (secret.get("data") or {}).get(ref.key)
        if encoded is None:
            raise InvalidResourceError("SecretNotFound", f"{where} has no key {ref.key}")
        try:
            text = base64.b64decode(encoded).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InvalidResourceError("KubeconfigRefused", f"{where} key {ref.key} is not text") from error
        return text, f"{ref.name}/{ref.key}@{secret['metadata']['resourceVersion']}"

    def _start(self, name: str, member: KubeClient, version: str) -> None:
        settings = AgentSettings(
            namespace=provider_namespace(name),
            hub_uid=self._hub_uid,
            inventory_interval=self._settings.inventory_interval_seconds,
            usage_interval=self._settings.usage_interval_seconds,
            reject_after=self._settings.reject_after_seconds,
            version=__version__,
        )
        agent = Agent(name, self._hub, member, settings, self._clock)
        self._running[name] = Running(agent, member, asyncio.create_task(agent.run(), name=f"agent-{name}"), version)
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


def _secret_owners(providers: Iterable[GPUProvider]) -> dict[tuple[str, str], str]:
    """Which provider a Secret's key belongs to: the oldest that names it, or one owner could sell another's cluster."""
    owners: dict[tuple[str, str], str] = {}
    for provider in sorted(providers, key=lambda p: (str(p.metadata.creation_timestamp), p.metadata.name)):
        ref = provider.spec.connection.kubeconfig_secret_ref
        owners.setdefault((ref.name, ref.key), provider.metadata.name)
    return owners


def _accepted(provider: GPUProvider) -> bool:
    """Whether what the provider binds itself to is what was accepted: nothing is dialled before that."""
    known = provider.status.acceptance
    return known is not None and known.hash == provider.spec.acceptance_hash()
