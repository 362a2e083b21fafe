"""Leader election on one coordination Lease: takes it, renews it, gives it back; says whether this process may act.

`kubernetes.aio.leaderelection` is not used: it measures by the wall clock, ends with the first refused connection,
has no limit on a request, and neither gives the Lease back nor ends its task when it is cancelled (decision 35).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import Final

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.domain.election import Action, Contender, ElectionTimes, LeaseState
from fedgpu_operator.domain.text import clean_line
from fedgpu_operator.errors import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    ForbiddenError,
    KubeError,
    NotFoundError,
    NotLeaderError,
)
from fedgpu_operator.ports import COORDINATION_LEASES, Clock, Kube

log = logging.getLogger(__name__)

LEASE: Final = "fedgpu-leader"
"""The name of the Lease; the chart's role and its admission policy name it too."""
REQUEST_SECONDS: Final = 4.0
"""Limit of one request: a leader tries at least twice within the time that it has for a renewal."""
BLIND_SECONDS: Final = 15.0
"""A standby that could not read the Lease for so long is not ready: it could not take over either."""
RACE_SECONDS: Final = 0.1
RACES = (ConflictError, AlreadyExistsError, NotFoundError)
"""Somebody else wrote first: read again, decide again."""


class Elector:
    """One contender for one Lease. `seconds` counts while the process is stopped; `clock` only fills in timestamps.

    Its client must be its own, without the check of leadership that all else goes through.
    """

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        identity: str,
        *,
        seconds: Callable[[], float],
        clock: Clock,
        times: ElectionTimes | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.identity = identity
        self.times = times or ElectionTimes()
        self._kube, self._namespace = kube, namespace
        self._seconds, self._clock, self._sleep = seconds, clock, sleep
        self._contender = Contender(identity, self.times)
        self._known: JSONObject | None = None
        """The Lease as it was answered last, if it may be written without reading it again."""
        self._renewed = float("-inf")
        """When the request of the last renewal that succeeded was begun."""
        self._looked = float("-inf")

    @property
    def leads(self) -> bool:
        """Whether this process may act now."""
        return self._left() > 0

    def check(self) -> None:
        """Raises NotLeaderError unless this process leads (ports.LeaderCheck)."""
        if not self.leads:
            raise NotLeaderError(f"the Lease {LEASE} was not renewed within {self.times.renew:g} s: nothing is sent")

    def trouble(self) -> str:
        """Why this process could not take over now; empty if it could."""
        blind = self._seconds() - self._looked
        return f"the Lease {LEASE} could not be read for {BLIND_SECONDS:g} s" if blind > BLIND_SECONDS else ""

    async def acquire(self) -> None:
        """Wait until this process holds the Lease; raises ConfigurationError if it may not."""
        while True:
            pause = self.times.retry
            try:
                pause = await self._campaign()
            except ForbiddenError as error:
                raise ConfigurationError(
                    f"leader election: {error}; docs/rbac.md has the right that it needs"
                ) from error
            except RACES as error:
                log.debug("another replica wrote the Lease first: %s", error)
            except (KubeError, TimeoutError) as error:
                log.warning("the Lease %s cannot be read or taken: %s", LEASE, _words(error))
            if self.leads:
                log.info("holds the Lease %s as %s", LEASE, self.identity)
                return
            await self._sleep(min(pause, self.times.retry))

    async def keep(self) -> str:
        """Renew until the Lease is lost; why it was."""
        while True:
            await self._sleep(self.times.retry)
            while not (lost := self._lost()):
                try:
                    await self._campaign()
                    lost = self._lost()
                    break
                except RACES as error:
                    log.debug("the Lease was written by somebody else: %s", error)
                    await self._sleep(RACE_SECONDS)
                except (KubeError, TimeoutError) as error:
                    log.warning("the Lease %s could not be renewed: %s", LEASE, _words(error))
                    await self._sleep(min(self.times.retry / 2, max(0.0, self._left())))
            if lost:
                self._renewed = float("-inf")
                return lost

    async def release(self) -> None:
        """Give the Lease back, if it is held, so that the next leader need not wait for its end."""
        mine, self._renewed = self.leads, float("-inf")
        if not mine:
            return
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                known = self._known or await self._kube.get(COORDINATION_LEASES, LEASE, self._namespace)
                if _state(known).holder == self.identity:
                    await self._patch(known, {"holderIdentity": "", "leaseDurationSeconds": 1})
                    log.info("gave the Lease %s back", LEASE)
        except (KubeError, TimeoutError) as error:
            log.warning("the Lease %s could not be given back, it ends by itself: %s", LEASE, _words(error))

    def _left(self) -> float:
        return self._renewed + self.times.renew - self._seconds()

    def _lost(self) -> str:
        left = self._left()
        if left <= 0:
            return f"it was last renewed {self.times.renew - left:.0f} s ago"
        if self._known is not None and (holder := _state(self._known).holder) != self.identity:
            return f"it is held by {clean_line(holder) or 'nobody'}"
        return ""

    async def _campaign(self) -> float:
        """One try to take or renew the Lease; how many seconds it is another's. Raises KubeError and TimeoutError."""
        began, known, self._known = self._seconds(), self._known, None
        async with asyncio.timeout(REQUEST_SECONDS):
            if known is None:
                known = await self._read()
                self._looked = self._seconds()
            action, left = self._contender.observe(None if known is None else _state(known), self._seconds())
            if action is Action.WAIT or (self.leads and action is Action.TAKE):
                # A leader that finds another's name, or none, has lost: `_lost` reads it from here.
                self._known = known if self.leads else None
                return left
            self._known = await self._write(known, action)
        self._renewed = began
        return 0.0

    async def _read(self) -> JSONObject | None:
        try:
            return await self._kube.get(COORDINATION_LEASES, LEASE, self._namespace)
        except NotFoundError:
            return None

    async def _write(self, known: JSONObject | None, action: Action) -> JSONObject:
        now = self._clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: JSONObject = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": round(self.times.lease),
            "renewTime": now,
        }
        if known is None:
            taken = spec | {"acquireTime": now, "leaseTransitions": 0}
            meta = {"name": LEASE, "namespace": self._namespace}
            lease = {"apiVersion": COORDINATION_LEASES.api_version, "kind": "Lease", "metadata": meta, "spec": taken}
            return await self._kube.create(COORDINATION_LEASES, lease)
        if action is Action.TAKE:
            spec |= {"acquireTime": now, "leaseTransitions": _state(known).transitions + 1}
        return await self._patch(known, spec)

    async def _patch(self, known: JSONObject, spec: JSONObject) -> JSONObject:
        version = {"resourceVersion": known["metadata"]["resourceVersion"]}
        return await self._kube.patch(COORDINATION_LEASES, LEASE, self._namespace, {"metadata": version, "spec": spec})


def _state(lease: JSONObject) -> LeaseState:
    spec = lease.get("spec") or {}
    return LeaseState(
        holder=str(spec.get("holderIdentity") or ""),
        duration=float(spec.get("leaseDurationSeconds") or 0),
        acquired=str(spec.get("acquireTime") or ""),
        renewed=str(spec.get("renewTime") or ""),
        transitions=int(spec.get("leaseTransitions") or 0),
    )


def _words(error: Exception) -> str:
    return str(error) or f"no answer within {REQUEST_SECONDS:g} s"
