"""Reconciles one lease: what the pass loaded is decided on, written back guarded, and applied."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from fedgpu_operator.agent import pods as podlib
from fedgpu_operator.agent.decide import (
    ConditionState,
    LeaseDecision,
    View,
    asks_about,
    decide,
    lost,
    refused,
    update,
    with_readiness,
)
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.agent.signing import UsageSigner, shown
from fedgpu_operator.agent.workload import Workloads
from fedgpu_operator.api.base import JSONObject, find
from fedgpu_operator.api.computelease import ComputeLease, ComputeLeaseStatus, LeaseUsage, has_ended, lease_state
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.usage import UsageReading
from fedgpu_operator.errors import ConflictError, InvalidResourceError, KubeError
from fedgpu_operator.metering import measure, worth_writing
from fedgpu_operator.ports import LEASES, Clock, Holding, Kube, read_back

log = logging.getLogger(__name__)


REFUSALS: Final = frozenset({400, 403, 404, 413, 422})
"""Answers to the creation of a workload that will be the same the next time."""
LOST_ANSWER_SECONDS: Final = 20.0
"""A request whose answer was lost is done by then or never: a client gives up after 15 seconds, a server soon after."""
FRESH_SECONDS: Final = 2.0
"""An answer of the hub that is younger than this is as good as asking again: either may be overtaken at once."""
METERED_SILENCE_SECONDS: Final = 15.0
"""A pod that the member last showed running is metered this far past the last word of the member, and no further."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What the member shows in one pass, by lease name.

    `gone` are pods that ended and vanished since, `ever` the leases of which a Job was ever seen.
    """

    jobs: Mapping[str, JSONObject] = field(default_factory=dict)
    pods: Mapping[str, tuple[JSONObject, ...]] = field(default_factory=dict)
    gone: Mapping[str, tuple[JSONObject, ...]] = field(default_factory=dict)
    ever: Collection[str] = frozenset()


Look: TypeAlias = Callable[[str], Awaitable[Sight]]
"""What the member shows now of the lease of that name."""


@dataclass(frozen=True, slots=True)
class Step:
    """A lease after one step.

    In `due` seconds it wants to be looked at again, None for whenever; `busy` while something is being removed, `live`
    while something of it may run; `created` is the Job that the step made.
    """

    lease: ComputeLease
    due: float | None = None
    busy: bool = False
    live: bool = False
    created: JSONObject | None = None


class LeaseReconciler:
    """Carries out leases of one provider; keeps the newest reading of each, which bounds the next one."""

    def __init__(
        self,
        hub: Kube,
        workloads: Workloads,
        settings: AgentSettings,
        clock: Clock,
        signer: UsageSigner | None = None,
    ) -> None:
        self._hub = hub
        self._workloads = workloads
        self._settings = settings
        self._clock = clock
        self._signer = signer
        self._readings: dict[str, UsageReading] = {}
        self._starting: set[str] = set()
        self._lost_answers: dict[str, datetime] = {}

    def forget(self, keep: set[str]) -> None:
        """Drop what is remembered of all leases but those with these UIDs."""
        self._starting &= keep
        self._lost_answers = {uid: since for uid, since in self._lost_answers.items() if uid in keep}
        self._readings = {uid: reading for uid, reading in self._readings.items() if uid in keep}

    async def reconcile(
        self,
        lease: ComputeLease,
        sight: Sight,
        *,
        newest_fencing_epoch: int,
        look: Look | None = None,
        silence: float = 0.0,
    ) -> Step:
        """One step, and the lease after it.

        `sight` may be some moments old: before a lease ends, or is told to have left nothing behind, `look` asks the
        member. `silence` is how many seconds ago the member last told of its pods. Raises the KubeError tree:
        ConflictError means that the next pass decides again on what is then true.
        """
        view = await self._view(lease, sight, newest_fencing_epoch, silence)
        decision = decide(view, self._settings)
        if look is not None and (_cleared(view) or self._ends(lease, decision)):
            view = await self._view(lease, await look(lease.metadata.name), newest_fencing_epoch)
            decision = decide(view, self._settings)
        if decision.create:
            return await self._start(lease, view, newest_fencing_epoch, look)
        return await self._carry_out(lease, view, decision)

    async def _start(self, lease: ComputeLease, view: View, newest_fencing_epoch: int, look: Look | None) -> Step:
        """Start the workload, or find out why it may not be: adopt what there is, or end the lease as lost."""
        left = self._unsure(lease)
        if left > 0:
            return Step(lease, left)
        if self._may_start(lease):
            return await self._dispatch(lease, view.reading)
        if look is not None:
            view = await self._view(lease, await look(lease.metadata.name), newest_fencing_epoch)
        decision = decide(view, self._settings)
        return await self._carry_out(lease, view, lost() if decision.create else decision)

    async def _carry_out(self, lease: ComputeLease, view: View, decision: LeaseDecision) -> Step:
        """Write what was decided, then do it."""
        if not lease.status.ended:
            uid = str(view.job["metadata"]["uid"]) if view.job is not None else ""
            lease = await self._write(lease, decision, view.reading, workload_uid=uid)
        elif self._signer is not None and self._signer.lacks(lease):
            lease = await self._sign_again(lease, self._signer)
        if decision.remove:
            await self._workloads.remove(view.job, view.pods)
        elif view.job is not None and not lease.status.ended:
            await self._workloads.ask_checkpoint(lease, view.job, view.pods)
        elif _cleared(view) and lease.status.observed_generation < lease.metadata.generation:
            lease = await self._acknowledge(lease)
        return Step(lease, decision.due, busy=decision.remove, live=bool(view.live_pods))

    def _unsure(self, lease: ComputeLease) -> float:
        """Seconds until it is certain what became of a start whose answer was lost: until then nothing is done."""
        since = self._lost_answers.get(lease.metadata.uid)
        return 0.0 if since is None else LOST_ANSWER_SECONDS - (self._clock.now() - since).total_seconds()

    def _may_start(self, lease: ComputeLease) -> bool:
        """Whether no other life of this agent can have started the workload of this lease; asked before each start.

        An agent that died right after it had created the Job has told nobody, and the member's owner may have deleted
        that Job since. So a lease is started only by the process that made it, once, or, where the hub is elsewhere,
        after a guarded write that says so.
        """
        uid = lease.metadata.uid
        if uid in self._starting:
            return True
        if isinstance(self._hub, Holding):
            first = self._hub.claim(lease)
        else:
            first = find(lease.status.conditions, "Accepted") is None
        if first:
            self._starting.add(uid)
        return first

    def _ends(self, lease: ComputeLease, decision: LeaseDecision) -> bool:
        """Whether that decision is the end of a lease that has not ended."""
        if lease.status.ended or decision.create:
            return False
        now = self._clock.now()
        conditions = update(lease.status.conditions, decision.verdicts, now=now, generation=lease.metadata.generation)
        return has_ended(conditions)

    async def _acknowledge(self, lease: ComputeLease) -> ComputeLease:
        """Tell the hub that nothing of an ended lease is left here, so that its object may go."""
        meta = lease.metadata
        patch = {"metadata": meta.guard(), "status": {"observedGeneration": meta.generation}}
        return await self._patch(lease, patch)

    async def _patch(self, lease: ComputeLease, patch: JSONObject) -> ComputeLease:
        meta = lease.metadata
        return read_back(
            self._hub, ComputeLease, await self._hub.patch_status(LEASES, meta.name, meta.namespace, patch)
        )

    async def _sign_again(self, lease: ComputeLease, signer: UsageSigner) -> ComputeLease:
        """The last reading of an ended lease under the key of now: after a rotation the hub takes no other."""
        usage, meta = await signer.signed(lease, lease.status.usage), lease.metadata
        patch = {"metadata": meta.guard(), "status": {"usage": {"signature": usage.signature}}}
        return await self._patch(lease, patch)

    async def _view(self, lease: ComputeLease, sight: Sight, newest_fencing_epoch: int, silence: float = 0.0) -> View:
        name, uid = lease.metadata.name, lease.metadata.uid
        now = self._clock.now()
        job = _own_job(lease, sight)
        pods, gone = sight.pods.get(name, ()), sight.gone.get(name, ())
        previous = _newest(self._readings.get(uid), shown(lease.status.usage))
        until = _metered_until(now, silence, previous)
        reading = measure([podlib.pod_facts(pod) for pod in pods + gone], until, previous)
        self._readings[uid] = reading
        view = View(
            lease=lease,
            job=job,
            pods=pods,
            gone=gone,
            reading=reading,
            now=now,
            newest_fencing_epoch=newest_fencing_epoch,
            ever=name in sight.ever,
        )
        about = asks_about(view, self._settings)
        return view if about is None else replace(view, events=await self._complaints(about))

    async def _complaints(self, about: JSONObject) -> str:
        """The member's words about an object; one that does not show its Events is metered and stopped all the same."""
        try:
            return await self._workloads.complaints(about)
        except KubeError as error:
            log.debug("the Events about %s cannot be read: %s", about["metadata"].get("name"), error)
            return ""

    async def _dispatch(self, lease: ComputeLease, reading: UsageReading) -> Step:
        """Start the workload, after the hub was asked once more: nothing starts for a lease that is gone or changed."""
        lease = await self._confirmed(lease)
        if not isinstance(self._hub, Holding):
            begun = LeaseDecision(verdicts={"Accepted": ConditionState("Unknown", ConditionReason.DISPATCHING)})
            lease = await self._write(lease, begun, reading)
        try:
            job = await self._workloads.create(lease)
        except InvalidResourceError as error:
            return Step(await self._write(lease, refused(error.why, str(error)), reading))
        except KubeError as error:
            if not error.undone:
                # It may have been started, and be deleted again before anybody sees it: it is not started twice.
                self._starting.discard(lease.metadata.uid)
                self._lost_answers[lease.metadata.uid] = self._clock.now()
            if error.status not in REFUSALS:
                raise
            return Step(await self._write(lease, refused(ConditionReason.CREATE_REFUSED, str(error)), reading))
        accepted = LeaseDecision(
            verdicts={
                "Accepted": ConditionState("True", ConditionReason.ACCEPTED),
                "Running": ConditionState("False", ConditionReason.WAITING),
            },
        )
        lease = await self._write(lease, accepted, reading, workload_uid=str(job["metadata"]["uid"]))
        return Step(lease, self._settings.reject_after, created=job)

    async def _confirmed(self, lease: ComputeLease) -> ComputeLease:
        """The lease, unchanged, as the hub answered it a moment ago: to its creation, in this process, or else now."""
        if isinstance(self._hub, Holding) and self._hub.answered(lease) < FRESH_SECONDS:
            return lease
        meta = lease.metadata
        now = read_back(self._hub, ComputeLease, await self._hub.get(LEASES, meta.name, meta.namespace))
        if (now.metadata.uid, now.spec, now.status) != (meta.uid, lease.spec, lease.status):
            raise ConflictError(f"lease {lease.key} is another by now")
        return now

    async def _write(
        self, lease: ComputeLease, decision: LeaseDecision, reading: UsageReading, *, workload_uid: str = ""
    ) -> ComputeLease:
        """The lease with its new status; written only if something is worth it, and only onto what was read.

        A reading is also written when the one on the hub is not signed with the key of now: after a rotation the hub
        bills nothing that the key before has signed.
        """
        status = self._status(lease, decision, reading, workload_uid)
        unsigned = self._signer is not None and self._signer.lacks(lease)
        if not unsigned and not self._news(lease, status, reading):
            return lease
        return await self._send(lease, status)

    async def write_remembered(self, lease: ComputeLease) -> None:
        """Write the newest reading of a lease whose member has fallen silent: it may be all there will ever be."""
        reading, usage = self._readings.get(lease.metadata.uid), lease.status.usage
        if reading is None or lease.status.ended or reading.sequence <= usage.sequence:
            return
        status = lease.status.model_copy(update={"usage": LeaseUsage.from_domain(reading, final=usage.final)})
        await self._send(lease, status)

    async def _send(self, lease: ComputeLease, status: ComputeLeaseStatus) -> ComputeLease:
        if self._signer is not None:
            status = status.model_copy(update={"usage": await self._signer.signed(lease, status.usage)})
        return await self._patch(lease, {"metadata": lease.metadata.guard(), "status": _wire(status)})

    def _news(self, lease: ComputeLease, after: ComputeLeaseStatus, reading: UsageReading) -> bool:
        """Whether the status is worth a write: more than usage has changed, or the reading is worth one."""
        before = lease.status
        if before.model_copy(update={"usage": after.usage}) != after or before.usage.final != after.usage.final:
            return True
        since = lease.metadata.creation_timestamp or reading.started_at or reading.observed_at
        shortest = timedelta(seconds=self._settings.usage_interval)
        return worth_writing(shown(before.usage), reading, age=reading.observed_at - since, shortest=shortest)

    def _status(
        self, lease: ComputeLease, decision: LeaseDecision, reading: UsageReading, workload_uid: str
    ) -> ComputeLeaseStatus:
        before, generation = lease.status, lease.metadata.generation
        now = self._clock.now()
        conditions = update(before.conditions, decision.verdicts, now=now, generation=generation)
        draft = ComputeLeaseStatus(
            observed_generation=generation,
            state=lease_state(conditions),
            workload_uid=workload_uid or before.workload_uid,
            exit_message=(before.exit_message if decision.exit_message is None else decision.exit_message)[:1024],
            conditions=with_readiness(conditions, now=now, generation=generation),
        )
        if draft.ended and lease.spec.desired == "Stop" and workload_uid:
            # It came to its end while the stop was on its way: its Job is still to be cleared away.
            observed = min(before.observed_generation, generation - 1)
            draft = draft.model_copy(update={"observed_generation": observed})
        return draft.model_copy(update={"usage": LeaseUsage.from_domain(reading, final=draft.ended)})


def _cleared(view: View) -> bool:
    """Whether an ended lease was asked away and nothing of it is on the member any more."""
    return view.lease.status.ended and view.lease.spec.desired == "Stop" and view.job is None and not view.pods


def _own_job(lease: ComputeLease, sight: Sight) -> JSONObject | None:
    """The Job of that lease: the one it started, or before that is recorded, any of that name with our labels."""
    job = sight.jobs.get(lease.metadata.name)
    if job is None or job["metadata"].get("namespace") != lease.spec.member_namespace:
        return None
    known = lease.status.workload_uid
    return job if not known or job["metadata"].get("uid") == known else None


def _newest(remembered: UsageReading | None, written: UsageReading | None) -> UsageReading | None:
    if remembered is None or (written is not None and written.sequence > remembered.sequence):
        return written
    return remembered


def _metered_until(now: datetime, silence: float, previous: UsageReading | None) -> datetime:
    """To when pods that were last seen running are metered: usage never falls again, so none is taken on trust.

    What ran on meanwhile is added as soon as the member, or its watch by a bookmark, says that nothing changed.
    """
    if silence <= METERED_SILENCE_SECONDS:
        return now
    until = now - timedelta(seconds=silence - METERED_SILENCE_SECONDS)
    known = previous.observed_at if previous is not None else None
    return until if known is None else min(now, max(until, known))


def _wire(status: ComputeLeaseStatus) -> JSONObject:
    """As a merge patch: an instant that is unknown again is removed, not left as it was."""
    wire = status.to_wire()
    for name in ("startedAt", "finishedAt", "observedAt"):
        wire["usage"].setdefault(name, None)
    return wire


NOTHING: tuple[JSONObject, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """A lease and what the member showed of it at one moment: what a step is decided on."""

    lease: ComputeLease
    job: JSONObject | None
    pods: tuple[JSONObject, ...]
    gone: tuple[JSONObject, ...]
    ever: bool = False

    @property
    def sight(self) -> Sight:
        """As a reconciler takes it."""
        name = self.lease.metadata.name
        jobs = {} if self.job is None else {name: self.job}
        return Sight(jobs, {name: self.pods}, {name: self.gone}, {name} if self.ever else frozenset())


class Rests:
    """By lease uid. What did not change is the very same object; a hub that is listed anew rests never."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._rests: dict[str, tuple[Seen, float]] = {}

    def restless(self, leases: Iterable[ComputeLease], sight: Sight) -> list[Seen]:
        """The leases to look at, with what is seen of them now; they are forgotten until `keep`."""
        now, found = time.monotonic(), []
        for lease in leases:
            name, uid = lease.metadata.name, lease.metadata.uid
            job, pods, gone = sight.jobs.get(name), sight.pods.get(name, NOTHING), sight.gone.get(name, NOTHING)
            known = self._rests.get(uid)
            if known is not None and now < known[1]:
                rest = known[0]
                if rest.lease is lease and rest.job is job and rest.pods is pods and rest.gone is gone:
                    continue
            self._rests.pop(uid, None)
            found.append(Seen(lease, job, pods, gone, name in sight.ever))
        return found

    def keep(self, seen: Seen, step: Step) -> None:
        """Look at it again when something changes, when it wants to be, or in a while."""
        due = self._settings.resync
        if step.lease.status.ended and not step.busy:
            due = self._settings.report_interval
        elif step.due is not None:
            due = max(0.0, min(step.due, self._settings.usage_interval) if step.live else step.due)
        after = Seen(step.lease, step.created or seen.job, seen.pods, seen.gone)
        self._rests[seen.lease.metadata.uid] = (after, time.monotonic() + due)

    def only(self, keep: set[str]) -> None:
        """Drop all but the leases of these uids."""
        for uid in set(self._rests) - keep:
            del self._rests[uid]

    def due(self) -> float:
        """Seconds until the first of them is due."""
        return min((until for _, until in self._rests.values()), default=float("inf")) - time.monotonic()
