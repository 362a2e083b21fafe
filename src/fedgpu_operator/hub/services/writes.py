"""Every write of the hub to its own kinds: one writer per kind, guarded so that it never lands on another object."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from pydantic import ValidationError

from fedgpu_operator.api.base import GROUP, Condition, JSONObject, Meta, Model, Resource, stored_bytes
from fedgpu_operator.api.computeaccount import ComputeAccount, ComputeAccountStatus
from fedgpu_operator.api.computejob import ComputeJob, ComputeJobStatus
from fedgpu_operator.api.computelease import PROVIDER_LABEL, ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider, GPUProviderStatus
from fedgpu_operator.api.providerreport import ProposedReceipt, ProviderReport, VantageRef
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.api.settlementepoch import SettlementEpoch
from fedgpu_operator.domain.attempts import Stop
from fedgpu_operator.errors import (
    AlreadyExistsError,
    ConflictError,
    FedGPUError,
    NotFoundError,
    RejectedError,
    TooLargeError,
)
from fedgpu_operator.hub.views.epochs import EpochFacts, epoch_object, epoch_status, names_of
from fedgpu_operator.hub.views.jobfacts import JobEvent, JobFacts, Notice, job_events
from fedgpu_operator.hub.views.jobs import job_status
from fedgpu_operator.logs import about, bound
from fedgpu_operator.ports import EVENTS, NAMESPACES, Clock, Kube, ResourceType, read_back

log = logging.getLogger(__name__)


T = TypeVar("T")
X = TypeVar("X")
K = TypeVar("K", bound=Resource)
EventType: TypeAlias = Literal["Normal", "Warning"]

IN_FLIGHT: Final = 24
"""Chains of writes that are under way at once: enough to keep two cores of an API server busy, no burst for it."""
JOB_FINALIZER: Final = "fedgpu.dev/lease"
PROVIDER_FINALIZER: Final = "fedgpu.dev/provider"
UNSIGNED_SINCE: Final = "fedgpu.dev/unsigned-since"
"""Annotation of a lease: since when, by the hub's clock, it is seen to have ended without a reading that can be billed.
It lives with the lease, so that a restart does not begin anew, and out of the provider's reach: an agent may write a
status only. No instant of the provider has a part in it."""
REFUSED_KEPT: Final = 10_000
"""Refused statuses that are remembered; beyond, some are sent again."""

_failed: Final[ContextVar[Counter[str] | None]] = ContextVar("failed_objects", default=None)


def merge_diff(old: JSONObject, new: JSONObject) -> JSONObject:
    """The JSON merge patch (RFC 7396) that turns `old` into `new`; empty where they are equal."""
    patch: JSONObject = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            if inner := merge_diff(before, value):
                patch[key] = inner
        elif before != value or key not in old:
            patch[key] = value
    return patch


async def for_each(work: Callable[[X], Awaitable[T]], items: Iterable[X], *, at_once: int = IN_FLIGHT) -> list[T]:
    """`work` for each of them, a bounded number at a time, the results in their order.

    The first that raises ends the others and is raised, as in a loop; work on one object of many goes into
    `one_of_many`.
    """
    gate = asyncio.Semaphore(at_once)

    async def one(item: X) -> T:
        async with gate:
            return await work(item)

    tasks = [asyncio.create_task(one(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


@contextmanager
def one_of_many(obj: Resource | None) -> Iterator[None]:
    """Around the work on one object of a pass: what goes wrong with it must not keep the pass from the others.

    A conflict or a vanished object is no news, since the next pass loads again; anything else is logged and counted.
    What people and providers write may find an error of ours: it costs that object, never the pass. Every line that is
    logged meanwhile says which object it is about.
    """
    name = "an object that is gone" if obj is None else f"{obj.info.kind} {obj.key}"
    with bound(**about(obj)):
        try:
            yield
        except (ConflictError, NotFoundError) as error:
            log.debug("%s: %s; next pass", name, error)
        except FedGPUError as error:
            log.warning("%s: %s", name, error)
            _count(error.reason)
        except ValidationError as error:
            log.warning("%s: %s", name, error)
            _count("ValidationError")
        except Exception:
            log.exception("%s: work on it failed", name)
            _count("InternalError")


@contextmanager
def counting_failures() -> Iterator[Counter[str]]:
    """Around a pass: the counter receives, by reason, every object whose work failed inside `one_of_many`."""
    found: Counter[str] = Counter()
    token = _failed.set(found)
    try:
        yield found
    finally:
        _failed.reset(token)


def _count(reason: str) -> None:
    if (found := _failed.get()) is not None:
        found[reason] += 1


async def write_status(kube: Kube, obj: Resource, old: Model, new: Model) -> JSONObject | None:
    """Patch the status where it changed; the object as it is then, None where nothing had to be written."""
    patch = merge_diff(old.to_wire(), new.to_wire())
    if not patch:
        return None
    body = {"metadata": obj.metadata.guard(), "status": patch}
    return await kube.patch_status(ResourceType.of(obj.info), obj.metadata.name, obj.metadata.namespace, body)


async def patch_to_fit(kube: Kube, kind: ResourceType, meta: Meta, patch: JSONObject) -> JSONObject:
    """Patch an object of ours; where it has become too large for that, once more without what others put on it.

    What goes then are labels and annotations that are not of our domain. The record of who owns which field needs no
    care: an API server leaves that out by itself where an object does not fit otherwise.
    Raises as `Kube.patch` does.
    """
    try:
        return await kube.patch(kind, meta.name, meta.namespace, patch)
    except TooLargeError:
        log.warning("%s %s is too large to be written: what others put on it is removed", kind.kind, meta.name)
        relieved = {**patch, "metadata": {**patch["metadata"], **_relief(meta)}}
        return await kube.patch(kind, meta.name, meta.namespace, relieved)


async def relieve(kube: Kube, kind: ResourceType, meta: Meta) -> JSONObject:
    """Take off an object of ours what others put on it, so that its status can be written."""
    log.warning("%s %s: %d bytes of others are removed from it", kind.kind, meta.name, foreign_bytes(meta))
    return await kube.patch(kind, meta.name, meta.namespace, {"metadata": {**meta.guard(), **_relief(meta)}})


def foreign_bytes(meta: Meta) -> int:
    """What labels and annotations of other domains weigh."""
    parts = ({key: value for key, value in held.items() if not _ours(key)} for held in (meta.labels, meta.annotations))
    return sum(stored_bytes(part) for part in parts if part)


def _relief(meta: Meta) -> JSONObject:
    return {
        "labels": {key: None for key in meta.labels if not _ours(key)},
        "annotations": {key: None for key in meta.annotations if not _ours(key)},
    }


def _ours(key: str) -> bool:
    return key.partition("/")[0] == GROUP


async def emit(
    kube: Kube,
    obj: Resource,
    event_type: EventType,
    reason: str,
    message: str,
    *,
    now: datetime,
    namespace: str = "default",
) -> None:
    """Record an Event; a repeat for the same object, type and reason counts up the one that is there.

    As events.k8s.io/v1 does it, what distinguishes Events is whom they are about and why, not their words: the one that
    is there gets the newest ones. Its name is made from those, so a restart makes no second one. The API server removes
    an Event an hour after its last repeat. Events of cluster-scoped objects go to `namespace`, as kubectl expects them
    in `default`.
    """
    digest = sha256(f"{obj.metadata.uid}/{event_type}/{reason}".encode()).hexdigest()[:16]
    name, where = f"{obj.metadata.name[:200]}.{digest}", obj.metadata.namespace or namespace
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    body: JSONObject = {
        "metadata": {"name": name, "namespace": where},
        "involvedObject": {
            "apiVersion": ResourceType.of(obj.info).api_version,
            "kind": obj.info.kind,
            "name": obj.metadata.name,
            "namespace": obj.metadata.namespace,
            "uid": obj.metadata.uid,
        },
        "type": event_type,
        "reason": reason,
        "message": message[:1024],
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
        "source": {"component": "fedgpu-operator"},
        "reportingComponent": "fedgpu-operator",
        "reportingInstance": "hub",
    }
    try:
        await kube.create(EVENTS, body)
    except AlreadyExistsError:
        # Of two repeats at the same time one is lost, as is one of an Event that expires meanwhile.
        with suppress(ConflictError, NotFoundError):
            known = await kube.get(EVENTS, name, where)
            guard = {key: known["metadata"][key] for key in ("uid", "resourceVersion")}
            count = int(known.get("count") or 1) + 1
            repeat = {"metadata": guard, "count": count, "lastTimestamp": stamp, "message": body["message"]}
            await kube.patch(EVENTS, name, where, repeat)


class Writer(Generic[K]):
    """What the writers share. Each kind has one: nothing else in the hub writes its objects, or Events about them."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    async def _patch(self, obj: K, *, metadata: JSONObject | None = None, spec: JSONObject | None = None) -> K:
        """Merge-patch the object, guarded; the object as it is then."""
        patch = _guarded(obj, metadata, spec)
        meta = obj.metadata
        written = await self._kube.patch(ResourceType.of(obj.info), meta.name, meta.namespace, patch)
        return read_back(self._kube, type(obj), written)

    async def _patch_to_fit(self, obj: K, *, metadata: JSONObject | None = None, spec: JSONObject | None = None) -> K:
        """As `_patch`, for a write that must succeed on an object that has become too large."""
        patch = _guarded(obj, metadata, spec)
        return read_back(
            self._kube, type(obj), await patch_to_fit(self._kube, ResourceType.of(obj.info), obj.metadata, patch)
        )

    async def _delete(self, obj: K) -> None:
        """Delete the very version that was read."""
        meta = obj.metadata
        kind = ResourceType.of(obj.info)
        await self._kube.delete(kind, meta.name, meta.namespace, uid=meta.uid, resource_version=meta.resource_version)


class EventWriter(Writer[K]):
    """A writer of a kind that Events are about."""

    def __init__(self, kube: Kube, clock: Clock) -> None:
        super().__init__(kube)
        self._clock = clock

    async def event(self, obj: K, event_type: EventType, reason: str, message: str) -> None:
        """Record an Event about the object, as `emit` does."""
        await emit(self._kube, obj, event_type, reason, message, now=self._clock.now())


def _guarded(obj: Resource, metadata: JSONObject | None, spec: JSONObject | None) -> JSONObject:
    patch: JSONObject = {"metadata": {**obj.metadata.guard(), **(metadata or {})}}
    return patch if spec is None else {**patch, "spec": spec}


class LeaseWriter(EventWriter[ComputeLease]):
    """Writes ComputeLeases; their status is the provider's agent's."""

    async def create(self, obj: JSONObject) -> ComputeLease:
        """The lease of an attempt; an existing object of that name is adopted."""
        kind, meta = ResourceType.of(ComputeLease.info), obj["metadata"]
        try:
            written = await self._kube.create(kind, obj)
        except AlreadyExistsError:
            written = await self._kube.get(kind, meta["name"], meta["namespace"])
        return read_back(self._kube, ComputeLease, written)

    async def stop(self, lease: ComputeLease, stop: Stop) -> ComputeLease:
        """Set the tombstone; the agent ends the workload and, after its end, clears it away.

        It always fits: an object that became too large loses what nobody needs any more, the workload first.
        """
        spec = {"desired": "Stop", "stopReason": stop.reason, "stopRequestedAt": _stamp(stop.at), "workload": None}
        written = await self._patch_to_fit(lease, spec=spec)
        log.info("lease %s of %s stops: %s", lease.metadata.name, lease.spec.job.name, stop.reason)
        return written

    async def remove_workload(self, lease: ComputeLease) -> ComputeLease:
        """Take the workload off a lease whose attempt has ended."""
        return await self._patch(lease, spec={"workload": None})

    async def relieve(self, lease: ComputeLease) -> ComputeLease:
        """Take labels and annotations of others off a lease, so that its agent can write its status."""
        return read_back(
            self._kube, ComputeLease, await relieve(self._kube, ResourceType.of(lease.info), lease.metadata)
        )

    async def request_checkpoint(self, lease: ComputeLease) -> ComputeLease:
        """Ask the workload to save its work."""
        written = await self._patch(lease, spec={"checkpointRequestedAt": _stamp(self._clock.now())})
        log.info("lease %s of %s: checkpoint requested", lease.metadata.name, lease.spec.job.name)
        return written

    async def announce_move(self, lease: ComputeLease, notice: Notice, *, checkpoint: bool) -> ComputeLease:
        """Announce a move, or change what was announced; `checkpoint` is whether the workload is to save its work."""
        asked: JSONObject = {"checkpointRequestedAt": _stamp(self._clock.now())} if checkpoint else {}
        log.info("lease %s: %s is announced for %s", lease.metadata.name, notice.move.reason, notice.stop_at)
        return await self._patch(lease, spec={"move": notice.to_wire(), **asked})

    async def cancel_move(self, lease: ComputeLease) -> ComputeLease:
        """Remove the announcement of a move."""
        return await self._patch(lease, spec={"move": None})

    async def note_unsigned(self, lease: ComputeLease) -> None:
        """Note on a lease that ended that its last reading cannot be billed, and since when.

        Guarded by the uid alone: an agent that writes its status without end cannot keep this from being noted.
        """
        meta, since = lease.metadata, self._clock.now().isoformat(timespec="microseconds")
        patch: JSONObject = {"metadata": {"uid": meta.uid, "annotations": {UNSIGNED_SINCE: since}}}
        await self._kube.patch(ResourceType.of(lease.info), meta.name, meta.namespace, patch)

    async def delete(self, lease: ComputeLease) -> None:
        """Delete a lease that nobody needs any more: its member is cleared, or its provider is gone."""
        await self._delete(lease)
        log.info("lease %s of %s deleted", lease.metadata.name, lease.spec.job.name)


class JobWriter(EventWriter[ComputeJob]):
    """Writes ComputeJobs: finalizer, status, Events, and the deletion after the TTL.

    Events of a pass are collected by `note` and go out with `send_events`, after everything that matters.
    `settlement` is whether this hub pays on chain.
    """

    def __init__(self, kube: Kube, clock: Clock, *, settlement: bool = False) -> None:
        super().__init__(kube, clock)
        self._settlement = settlement
        self._unsent: list[tuple[ComputeJob, JobEvent]] = []
        self._refused: dict[str, str] = {}

    async def add_finalizer(self, job: ComputeJob) -> JSONObject:
        """The guarded write that every chain of writes begins with; the whole object as it is stored."""
        finalizers = sorted({*job.metadata.finalizers, JOB_FINALIZER})
        patch = _guarded(job, {"finalizers": finalizers}, None)
        return await self._kube.patch(ResourceType.of(job.info), job.metadata.name, job.metadata.namespace, patch)

    async def remove_finalizer(self, job: ComputeJob) -> None:
        """Let a deleted job go."""
        if JOB_FINALIZER in job.metadata.finalizers:
            kept = [name for name in job.metadata.finalizers if name != JOB_FINALIZER]
            await self._patch_to_fit(job, metadata={"finalizers": kept})

    async def delete(self, job: ComputeJob) -> None:
        """Delete the very version that was judged: a TTL that was changed or removed meanwhile is obeyed."""
        await self._delete(job)

    async def write(self, facts: JobFacts, transactions: Mapping[int, tuple[str, str]]) -> JobFacts:
        """Write the status that follows from the facts; the facts with the job as it is then. Raises ConflictError."""
        job = facts.job
        status = job_status(facts, self._clock.now(), transactions, settlement=self._settlement)
        written = await self.write_status(job, status)
        if written is None:
            return facts
        self._unsent += [(job, event) for event in job_events(job.status, status)]
        return replace(facts, job=written)

    async def write_status(self, job: ComputeJob, status: ComputeJobStatus) -> ComputeJob | None:
        """Write the status if it changed; the job as it is then, None if it was not written."""
        written = await write_status(self._kube, job, job.status, status)
        return None if written is None else read_back(self._kube, ComputeJob, written)

    async def show(self, facts: JobFacts, transactions: Mapping[int, tuple[str, str]]) -> JobFacts:
        """As `write`, for a status that nothing depends on: a refusal by the API server is reported by an Event.

        It is not sent again before the job is another version.
        """
        job = facts.job
        meta = job.metadata
        if self._refused.get(meta.uid) == meta.resource_version:
            return facts
        self._refused.pop(meta.uid, None)
        try:
            return await self.write(facts, transactions)
        except RejectedError as error:
            if len(self._refused) >= REFUSED_KEPT:
                self._refused.clear()
            self._refused[meta.uid] = meta.resource_version
            log.warning("the status of job %s is not up to date: %s", job.key, error)
            self.note(
                job, JobEvent("Warning", ConditionReason.STATUS_REFUSED, f"the status shown is not up to date: {error}")
            )
            return facts

    def note(self, job: ComputeJob, event: JobEvent) -> None:
        """An Event that no change of the status brings about; it goes out with the others."""
        self._unsent.append((job, event))

    async def send_events(self) -> None:
        """Send the Events of what was written; one that cannot be sent is lost, as is one of a process that dies."""
        events, self._unsent = self._unsent, []

        async def send(each: tuple[ComputeJob, JobEvent]) -> None:
            job, event = each
            with one_of_many(job):
                await self.event(job, event.type, event.reason, event.message)

        await for_each(send, events)


class ProviderWriter(EventWriter[GPUProvider]):
    """Writes GPUProviders: finalizer, status, Events, and the namespace on the hub that each one has."""

    async def write_status(self, provider: GPUProvider, status: GPUProviderStatus) -> bool:
        """Write the status if it changed; whether it did."""
        return await write_status(self._kube, provider, provider.status, status) is not None

    async def set_finalizer(self, provider: GPUProvider, *, held: bool) -> bool:
        """Add or remove the hub's finalizer; whether the object changed."""
        if (PROVIDER_FINALIZER in provider.metadata.finalizers) == held:
            return False
        finalizers = [name for name in provider.metadata.finalizers if name != PROVIDER_FINALIZER]
        finalizers += [PROVIDER_FINALIZER] if held else []
        await self._patch(provider, metadata={"finalizers": finalizers})
        return True

    async def create_namespace(self, provider: GPUProvider, name: str) -> None:
        """Create the provider's namespace; raises AlreadyExistsError."""
        labels = {PROVIDER_LABEL: provider.metadata.name}
        await self._kube.create(NAMESPACES, {"metadata": {"name": name, "labels": labels}})


class AccountWriter(EventWriter[ComputeAccount]):
    """Writes the status of ComputeAccounts, and Events about them."""

    async def write_status(self, account: ComputeAccount, status: ComputeAccountStatus) -> None:
        """Write the status if it changed."""
        await write_status(self._kube, account, account.status, status)


class ReportWriter(Writer[ProviderReport]):
    """Writes the spec of ProviderReports, what their agents are asked for; the status is theirs."""

    async def propose_receipts(self, report: ProviderReport, receipts: Sequence[ProposedReceipt]) -> None:
        """Set the receipts to sign, if they changed."""
        if list(receipts) != report.spec.receipts:
            await self._patch(report, spec={"receipts": [each.to_wire() for each in receipts]})

    async def set_vantages(self, report: ProviderReport, vantages: Sequence[VantageRef]) -> bool:
        """Set the measuring points to probe, if they changed; whether they did."""
        if list(vantages) == report.spec.vantages:
            return False
        await self._patch(report, spec={"vantages": [each.to_wire() for each in vantages]})
        return True


class EpochWriter(EventWriter[SettlementEpoch]):
    """Writes SettlementEpochs: the object of each epoch of the ledger, its status, Events, and its deletion."""

    async def publish(self, facts: EpochFacts) -> None:
        """Create the object if it is missing, and write its status if it changed."""
        for name in names_of(facts.epoch):
            known = await self._found_or_created(name, facts)
            if known.spec.manifest_hash == facts.plan.manifest_hash:
                break
        await write_status(self._kube, known, known.status, epoch_status(known, facts, self._clock.now()))

    async def _found_or_created(self, name: str, facts: EpochFacts) -> SettlementEpoch:
        kind = ResourceType.of(SettlementEpoch.info)
        try:
            return SettlementEpoch.parse(await self._kube.create(kind, epoch_object(name, facts)))
        except AlreadyExistsError:
            return SettlementEpoch.parse(await self._kube.get(kind, name))

    async def set_conditions(self, epoch: SettlementEpoch, conditions: list[Condition]) -> None:
        """Write these conditions if they changed."""
        status = epoch.status.model_copy(update={"conditions": conditions})
        await write_status(self._kube, epoch, epoch.status, status)

    async def delete(self, epoch: SettlementEpoch) -> None:
        """Delete the very version that was judged."""
        await self._delete(epoch)


class Writers:
    """The writer of each kind, over one hub; made once and shared, since what one remembers counts for all its users.

    `settlement` is whether this hub pays on chain.
    """

    def __init__(self, kube: Kube, clock: Clock, *, settlement: bool = False) -> None:
        self.jobs = JobWriter(kube, clock, settlement=settlement)
        self.leases = LeaseWriter(kube, clock)
        self.providers = ProviderWriter(kube, clock)
        self.accounts = AccountWriter(kube, clock)
        self.reports = ReportWriter(kube)
        self.epochs = EpochWriter(kube, clock)


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
