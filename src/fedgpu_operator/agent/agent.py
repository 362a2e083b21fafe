"""The agent's loop for one provider: look at both sides, reconcile every lease, report; holds no decision itself."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC
from itertools import count
from typing import Final

from fedgpu_operator.agent.counting import MemberCount
from fedgpu_operator.agent.lease import LeaseReconciler, Rests, Seen, Sight, Step
from fedgpu_operator.agent.report import Reporter, unreachable
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.agent.signing import ReceiptDesk, Signing, UsageSigner
from fedgpu_operator.agent.watch import MemberWatch
from fedgpu_operator.agent.workload import Identity, Workloads
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.providerreport import AGENT_LEASE
from fedgpu_operator.backoff import Backoff
from fedgpu_operator.errors import (
    ConflictError,
    FedGPUError,
    InvalidResourceError,
    KubeError,
    ListTooLargeError,
    UnreachableError,
)
from fedgpu_operator.logs import about, alone, bind, bound
from fedgpu_operator.ports import COORDINATION_LEASES, LEASES, Clock, Holding, Kube
from fedgpu_operator.pulse import CANCEL_SECONDS, Pulse, limited
from fedgpu_operator.supply import Supply

log = logging.getLogger(__name__)

LEASE_DURATION_SECONDS: Final = 40
"""As long as a kubelet's node lease: a reader may call the agent silent after this."""
SHORTEST_PAUSE: Final = 1.0
PASS_SECONDS: Final = 600.0
"""Time limit of a pass: a member that answers each call at the last moment is slow, and no reason to end a pass."""
COUNT_SHARE: Final = 10
"""The nodes and pods of a member are counted for at most one part in so many of the time."""


class Agent:
    """Carries out the ComputeLeases of one provider on its member cluster; see the package's docstring.

    `run` returns after `aclose`. Neither client is closed here: who made them closes them. Without `signing`, usage
    goes out unsigned and no receipt is signed.
    """

    def __init__(
        self,
        provider: str,
        hub: Kube,
        member: Kube,
        settings: AgentSettings,
        clock: Clock,
        signing: Signing | None = None,
    ) -> None:
        self.provider = provider
        self.reachable = False
        self.pulse = Pulse(f"agent-{provider}")
        self._hub = hub
        self._member = member
        self._settings = settings
        self._clock = clock
        self._identity = Identity(settings.hub_uid, provider)
        self._awake = asyncio.Event()
        self._closing = asyncio.Event()
        self._done = asyncio.Event()
        self._done.set()
        self._work: asyncio.Task[None] | None = None
        self._watch = MemberWatch(member, self._identity, self.wake, longest_pause=settings.backoff_most)
        self._supply = MemberCount(member, self._identity.lease_of, settings.rules)
        self._reporter = Reporter(provider, hub, settings, clock)
        self._signer = UsageSigner(signing) if signing is not None else None
        self._receipts = ReceiptDesk(provider, self._reporter, signing, clock) if signing is not None else None
        workloads = Workloads(member, self._identity, self._watch.took, settings.rules)
        self._leases = LeaseReconciler(hub, workloads, settings, clock, self._signer)
        self._rests = Rests(settings)
        self._looked: dict[str, tuple[ComputeLease, float]] = {}
        self._orphans: frozenset[str] = frozenset()
        self._version = ""
        self._pinged = self._renewed = self._count_at = float("-inf")

    @property
    def orphans(self) -> int:
        """Jobs of ours on the member whose lease the hub does not have; they are left alone."""
        return len(self._orphans)

    def wake(self) -> None:
        """Something changed: look soon. To be called in the agent's own event loop."""
        self._awake.set()

    async def run(self) -> None:
        """Work until `aclose` or cancellation; an unreachable hub or member is waited for."""
        self._done.clear()
        try:
            # Not about the pass that started it.
            with alone(provider=self.provider):
                async with asyncio.TaskGroup() as group:
                    watch = group.create_task(self._watch.run(), name=f"watch-{self.provider}")
                    self._work = group.create_task(self._loop(), name=f"loop-{self.provider}")
                    await asyncio.wait({self._work})
                    watch.cancel()
        finally:
            self._done.set()

    async def aclose(self) -> None:
        """End `run`, a pass that hangs on its member in the middle of it; the workloads go on."""
        self._closing.set()
        self.wake()
        try:
            async with asyncio.timeout(self._settings.close_within):
                await self._done.wait()
        except TimeoutError:
            log.warning("agent of %s: a pass still waits for an answer: cancelled", self.provider)
            if self._work is not None:
                self._work.cancel()
            await self._done.wait()

    async def _loop(self) -> None:
        backoff = Backoff(SHORTEST_PAUSE, self._settings.backoff_most)
        passes = count(1)
        while not self._closing.is_set():
            self._awake.clear()
            bind(loop="agent", **{"pass": next(passes)})
            try:
                due = await limited(self._pass(), PASS_SECONDS, self.pulse)
            except FedGPUError as error:
                pause = backoff.failed()
                log.warning("agent of %s: %s: %s; again in %.0f s", self.provider, error.reason, error, pause)
                self.pulse.beat(pause + CANCEL_SECONDS)
                await self._sleep(pause)
                continue
            backoff.reset()
            self.pulse.beat(due + CANCEL_SECONDS)
            await self._rest(due)

    async def _rest(self, due: float) -> None:
        """Until something wakes the agent, or `due` seconds; bursts of events become one pass."""
        try:
            async with asyncio.timeout(max(due, self._settings.debounce)):
                await self._awake.wait()
        except TimeoutError:
            return
        await self._sleep(self._settings.debounce)

    async def _sleep(self, seconds: float) -> None:
        """That long, or until `aclose`."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return

    async def _pass(self) -> float:
        """Load, reconcile, report; returns the seconds until the next look."""
        leases, names = await self._load_leases()
        self._watch.expect(leases)
        try:
            await self._ping()
            sight = await self._watch.sight()
        except ListTooLargeError as error:
            return await self._pass_one_by_one(leases, error)
        except KubeError as error:
            self.reachable = False
            await self._reporter.silent(unreachable(error))
            await self._write_remembered(leases)
            raise
        # Leases come first: what runs is metered and stopped even where the nodes may not be read.
        self._count_orphans(sight, names)
        due = await self._reconcile(leases, sight)
        self._forget(leases)
        await self._tell_inventory()
        await self._renew()
        if self._receipts is not None:
            await self._receipts.serve(leases)
        return max(0.0, min(self._settings.resync, self._settings.inventory_interval, due))

    async def _pass_one_by_one(self, leases: list[ComputeLease], error: ListTooLargeError) -> float:
        """The pass over a member that shows more of ours than may be held: each lease is asked for by its name."""
        self.reachable = True
        self._count_at = float("-inf")
        await self._reporter.silent(unreachable(error))
        now, known = time.monotonic(), self._looked
        # What its watches tell must not set the pace: it is a member that tells too much.
        self._looked = {
            lease.metadata.uid: known[lease.metadata.uid]
            for lease in leases
            if known.get(lease.metadata.uid, (None, 0.0))[0] is lease
            and now - known[lease.metadata.uid][1] < self._settings.usage_interval
        }
        newest = _newest_fencing_epochs(leases)
        for lease in leases:
            if lease.metadata.uid in self._looked:
                continue
            try:
                sight = await self._watch.look(lease.metadata.name)
                epoch = newest[lease.spec.job.uid]
                step = await self._leases.reconcile(lease, sight, newest_fencing_epoch=epoch, look=self._watch.look)
                self._looked[lease.metadata.uid] = (step.lease, now)
            except FedGPUError as trouble:
                self._looked[lease.metadata.uid] = (lease, now)
                self._complain(lease, trouble)
        self._forget(leases)
        await self._renew()
        if self._receipts is not None:
            await self._receipts.serve(leases)
        return min(self._settings.resync, self._settings.usage_interval)

    async def _tell_inventory(self) -> None:
        try:
            supply = await self._inventory()
        except ListTooLargeError as error:
            # It answers: its leases go on as before, and it is counted again as seldom as any large member.
            self.reachable = True
            await self._reporter.silent(unreachable(error))
            return
        except KubeError as error:
            self.reachable = False
            await self._reporter.silent(unreachable(error))
            raise
        self.reachable = True
        if supply is not None:
            await self._reporter.report(supply, self._version)

    async def _load_leases(self) -> tuple[list[ComputeLease], set[str]]:
        """Leases of this provider, and the names of all there are: one that cannot be read still has its workload."""
        if isinstance(self._hub, Holding):
            found = await self._hub.reading(ComputeLease, self._settings.namespace)
            names = {lease.metadata.name for lease in found.objects}.union(found.unreadable)
            return [lease for lease in found.objects if lease.spec.provider == self.provider], names
        objects, _ = await self._hub.list(LEASES, self._settings.namespace)
        leases = []
        for obj in objects:
            try:
                lease = ComputeLease.parse(obj)
            except InvalidResourceError as error:
                log.warning("lease %s of %s cannot be read: %s", obj["metadata"]["name"], self.provider, error)
                continue
            if lease.spec.provider == self.provider:
                leases.append(lease)
        return leases, {str(obj["metadata"]["name"]) for obj in objects}

    async def _ping(self) -> None:
        """Ask the member for its version: the round trip is measured, and a member that hangs is noticed soon."""
        begun = time.monotonic()
        if self.reachable and begun - self._pinged < self._settings.renew_interval:
            return
        try:
            async with asyncio.timeout(self._settings.answer_timeout):
                self._version = await self._member.server_version()
        except TimeoutError as error:
            raise UnreachableError(f"no answer within {self._settings.answer_timeout:g} s") from error
        self._pinged = time.monotonic()
        self._reporter.measured(self._pinged - begun)

    async def _inventory(self) -> Supply | None:
        """The member's GPUs, None while the last count is young: counting a large member must not be all that we do."""
        begun = time.monotonic()
        if self.reachable and begun < self._count_at:
            return None
        try:
            return await self._supply.look()
        finally:
            took = time.monotonic() - begun
            self._count_at = begun + max(self._settings.inventory_interval, COUNT_SHARE * took)

    async def _renew(self) -> None:
        """The sign of life: one coordination Lease per provider, renewed only while the member answers."""
        now = time.monotonic()
        if now - self._renewed < self._settings.renew_interval:
            return
        renewed = self._clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            "holderIdentity": self._settings.identity,
            "leaseDurationSeconds": LEASE_DURATION_SECONDS,
            "renewTime": renewed,
        }
        metadata = {"name": AGENT_LEASE, "namespace": self._settings.namespace}
        await self._hub.apply(COORDINATION_LEASES, {"metadata": metadata, "spec": spec})
        self._renewed = now

    async def _reconcile(self, leases: list[ComputeLease], sight: Sight) -> float:
        """Every lease that changed or is due, a bounded number at a time; the trouble of one never stops another."""
        newest = _newest_fencing_epochs(leases)
        seen = self._rests.restless(leases, sight)
        gate, silence = asyncio.Semaphore(self._settings.concurrency), self._watch.silence()

        async def one(each: Seen) -> Step:
            async with gate:
                bind(**about(each.lease))
                epoch = newest[each.lease.spec.job.uid]
                return await self._leases.reconcile(
                    each.lease, each.sight, newest_fencing_epoch=epoch, look=self._watch.look, silence=silence
                )

        results = await asyncio.gather(*map(one, seen), return_exceptions=True)
        for each, result in zip(seen, results, strict=True):
            if isinstance(result, BaseException):
                self._complain(each.lease, result)
            else:
                self._rests.keep(each, result)
        return self._rests.due()

    async def _write_remembered(self, leases: list[ComputeLease]) -> None:
        """What was read of a member that has fallen silent since, a bounded number of leases at a time."""
        gate = asyncio.Semaphore(self._settings.concurrency)

        async def one(lease: ComputeLease) -> None:
            async with gate:
                bind(**about(lease))
                await self._leases.write_remembered(lease)

        results = await asyncio.gather(*map(one, leases), return_exceptions=True)
        for lease, result in zip(leases, results, strict=True):
            if isinstance(result, BaseException):
                self._complain(lease, result)

    def _complain(self, lease: ComputeLease, error: BaseException) -> None:
        with bound(**about(lease)):
            if isinstance(error, ConflictError):
                log.debug("lease %s of %s changed meanwhile", lease.key, self.provider)
                self.wake()
            elif isinstance(error, FedGPUError):
                log.warning("lease %s of %s: %s: %s", lease.key, self.provider, error.reason, error)
            elif isinstance(error, Exception):
                log.error("lease %s of %s", lease.key, self.provider, exc_info=error)
            else:
                raise error

    def _count_orphans(self, sight: Sight, names: set[str]) -> None:
        orphans = frozenset(sight.jobs) - names
        for name in orphans - self._orphans:
            log.warning("job %s on the member of %s has no lease on the hub: left alone", name, self.provider)
        self._orphans = orphans

    def _forget(self, leases: Iterable[ComputeLease]) -> None:
        live = [lease.metadata for lease in leases if not lease.status.ended]
        self._leases.forget({meta.uid for meta in live})
        self._rests.only({lease.metadata.uid for lease in leases})
        if self._signer is not None:
            self._signer.forget({lease.metadata.uid for lease in leases})
        self._watch.forget({meta.name for meta in live})


def _newest_fencing_epochs(leases: Iterable[ComputeLease]) -> defaultdict[str, int]:
    """By job uid, the highest fencing epoch of its leases."""
    newest: defaultdict[str, int] = defaultdict(int)
    for lease in leases:
        newest[lease.spec.job.uid] = max(newest[lease.spec.job.uid], lease.spec.fencing_epoch)
    return newest
