"""What to do about one lease, from the lease and what the member shows of it, and the conditions that say so; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from fedgpu_operator.agent import pods as podlib
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.api.base import READY, Condition, Finding, JSONObject, find, is_true, merge, standing
from fedgpu_operator.api.computelease import ComputeLease, LeaseState, lease_state
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.faults import (
    LEASE_FENCED,
    MEMBER_REJECTED,
    RUN_LIMIT_EXCEEDED,
    START_TIMEOUT,
    SUCCEEDED,
    SUSPENDED_BY_MEMBER,
    WORKLOAD_EVICTED,
    WORKLOAD_LOST,
    WORKLOAD_VANISHED,
)
from fedgpu_operator.domain.usage import UsageReading
from fedgpu_operator.supply.pods import terminal

MAX_MESSAGE: Final = 1024


@dataclass(frozen=True, slots=True)
class ConditionState:
    """What one condition should say."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


ConditionStates = Mapping[str, ConditionState]
"""By condition type; types that are not named stay as they are."""


def update(
    conditions: Sequence[Condition], verdicts: ConditionStates, *, now: datetime, generation: int
) -> list[Condition]:
    """The conditions with these verdicts, by type; the transition time moves only with the status."""
    findings = [Finding(kind, each.status, each.reason, each.message[:MAX_MESSAGE]) for kind, each in verdicts.items()]
    return sorted(merge(conditions, findings, generation=generation, now=now), key=lambda condition: condition.type)


def with_readiness(conditions: Sequence[Condition], *, now: datetime, generation: int) -> list[Condition]:
    """The conditions of a lease with what follows from them: `Ready`, and `Reconciling` or `Stalled`."""
    state = lease_state(conditions)
    known = (find(conditions, kind) for kind in _SAID_BY[state])
    says = next((each for each in known if each is not None), None)
    reason, message = (says.reason, says.message) if says is not None else (ConditionReason.WAITING, "")
    ready = Finding(READY, "True" if state in ("Running", "Succeeded", "Stopped") else "False", reason)
    found = standing(ready, message, stalled=state == "Failed")
    return sorted(merge(conditions, found, generation=generation, now=now), key=lambda condition: condition.type)


_SAID_BY: Final[Mapping[LeaseState, tuple[str, ...]]] = {
    "Pending": ("Running", "Accepted"),
    "Running": ("Running",),
    "Suspended": ("Suspended",),
    "Stopping": ("Running",),
    "Succeeded": ("Complete",),
    "Failed": ("Failed",),
    "Stopped": ("Running",),
}
"""The condition that `Ready` of a lease in that state takes its reason from; the first that is there."""


@dataclass(frozen=True, slots=True)
class View:
    """One lease and what the member shows of it.

    `job` is the lease's own Job (None when absent), `pods` are present, `gone` were seen ending and are no longer
    there. `newest_fencing_epoch` is the highest among the leases of the same job. `events` is what the member says
    about pods that it does not create, or about an image that does not come. `ever` is whether a Job of the lease was
    ever seen there.
    """

    lease: ComputeLease
    job: JSONObject | None
    pods: tuple[JSONObject, ...]
    gone: tuple[JSONObject, ...]
    reading: UsageReading
    now: datetime
    newest_fencing_epoch: int = 0
    events: str = ""
    ever: bool = False

    @property
    def all_pods(self) -> tuple[JSONObject, ...]:
        """Present pods and those that were seen ending."""
        return self.pods + self.gone

    @property
    def live_pods(self) -> tuple[JSONObject, ...]:
        """Pods of which something may still run."""
        return tuple(pod for pod in self.pods if not terminal(pod))


@dataclass(frozen=True, slots=True)
class LeaseDecision:
    """What to write and then to do; `due` is in how many seconds to look again at the latest, None for whenever."""

    create: bool = False
    remove: bool = False
    verdicts: ConditionStates = field(default_factory=dict)
    exit_message: str | None = None
    due: float | None = None


def decide(view: View, settings: AgentSettings) -> LeaseDecision:
    """The next step of one lease."""
    lease = view.lease
    if lease.status.ended:
        return _clean_up(view)
    stopping = _stopping(lease)
    if view.job is not None and not stopping:
        ended = podlib.outcome(view.job, view.all_pods)
        if ended is not None and not view.live_pods:
            return _ended_by_itself(_within_limit(view, ended))
    if stopping or lease.spec.desired == "Stop":
        return _stop(view, _recorded_failure(lease))
    if view.job is None:
        return _without_job(view)
    overdue = _overdue(view)
    if overdue >= 0:
        why = f"the run limit of {lease.spec.run_limit_seconds} s is over"
        return _stop(view, ConditionState("False", RUN_LIMIT_EXCEEDED, why))
    if podlib.suspended(view.job):
        return _suspended(view, overdue, settings)
    hindered = _hindered(view, settings)
    if hindered is not None:
        return hindered
    return _go_on(view, due=_next_look(view, overdue, settings))


def asks_about(view: View, settings: AgentSettings) -> JSONObject | None:
    """What the member is to be asked about, now that time is up: a Job without its pods, or a pod without its image."""
    lease = view.lease
    if view.job is None or lease.status.ended or podlib.suspended(view.job):
        return None
    if lease.spec.desired == "Stop" or _stopping(lease):
        return None
    waited = _waited(view)
    if len(view.reading.pods) < view.lease.spec.replicas:
        return view.job if waited >= settings.reject_after else None
    return podlib.pull_without_cause(view.pods) if waited >= settings.image_after else None


def refused(why: str, message: str) -> LeaseDecision:
    """The member, or the agent for its owner, does not take the lease at all."""
    return LeaseDecision(
        verdicts={
            "Accepted": ConditionState("False", why, message),
            "Running": ConditionState("False", ConditionReason.ENDED),
            "Failed": ConditionState("True", MEMBER_REJECTED, f"{why}: {message}"),
        },
        exit_message=message,
    )


def _clean_up(view: View) -> LeaseDecision:
    """An ended lease keeps its finished Job for the owner to look at until the hub says Stop; a live one never."""
    unwanted = view.job is not None and (view.lease.spec.desired == "Stop" or not podlib.finished(view.job))
    return LeaseDecision(remove=unwanted or (view.job is None and bool(view.live_pods)))


def _within_limit(view: View, ended: podlib.PodsEnd) -> podlib.PodsEnd:
    """The run limit ends a job for good: a member that says so long before has only taken the workload away."""
    if ended.reason != RUN_LIMIT_EXCEEDED or _overdue(view) >= 0:
        return ended
    why = f"the member ended the workload before its run limit of {view.lease.spec.run_limit_seconds} s"
    return podlib.PodsEnd("Failed", WORKLOAD_EVICTED, why)


def _ended_by_itself(ended: podlib.PodsEnd) -> LeaseDecision:
    kind = "Complete" if ended.kind == "Succeeded" else "Failed"
    return LeaseDecision(
        verdicts={
            "Accepted": ConditionState("True", ConditionReason.ACCEPTED),
            "Running": ConditionState("False", ConditionReason.ENDED),
            kind: ConditionState("True", ended.reason, ended.message),
        },
        exit_message=ended.message,
    )


def _stop(view: View, failure: ConditionState | None) -> LeaseDecision:
    """Take the workload away; the reason is written first, so that a new agent goes on with the same one."""
    if view.job is not None or view.live_pods:
        why = failure.message if failure else view.lease.spec.stop_reason
        running: ConditionStates = {"Running": ConditionState(_running_status(view), ConditionReason.STOPPING, why)}
        return LeaseDecision(remove=True, verdicts=running if failure is None else {**running, "Failed": failure})
    if podlib.all_succeeded(view.all_pods, view.lease.spec.replicas):
        return _ended_by_itself(podlib.PodsEnd("Succeeded", SUCCEEDED, "all replicas succeeded before the stop"))
    if failure is not None:
        return LeaseDecision(
            verdicts={
                "Running": ConditionState("False", ConditionReason.ENDED),
                "Failed": ConditionState("True", failure.reason, failure.message),
            },
            exit_message=failure.message,
        )
    why = view.lease.spec.stop_reason or "the hub asked for it"
    return LeaseDecision(
        verdicts={"Running": ConditionState("False", ConditionReason.STOPPED, why)}, exit_message=f"stopped: {why}"
    )


def _without_job(view: View) -> LeaseDecision:
    lease = view.lease
    if lease.status.workload_uid or view.all_pods or view.ever:
        # Seen once and gone: creating it again would be a second run of the same attempt.
        return _stop(view, ConditionState("False", WORKLOAD_VANISHED, "the workload was deleted on the member"))
    if lease.spec.fencing_epoch < view.newest_fencing_epoch:
        return LeaseDecision(
            verdicts={
                "Accepted": ConditionState("False", LEASE_FENCED),
                "Running": ConditionState("False", ConditionReason.ENDED),
                "Failed": ConditionState(
                    "True", LEASE_FENCED, f"a lease with fencing epoch {view.newest_fencing_epoch} exists"
                ),
            },
            exit_message="a newer lease of the job exists",
        )
    return LeaseDecision(create=True) if lease.spec.workload else lost()


def lost() -> LeaseDecision:
    """The member has no workload of the lease, and it is not known whether one was started: it is not started now."""
    why = "the lease was made again, or its agent started anew, and the member has no workload of it"
    return LeaseDecision(
        verdicts={
            "Running": ConditionState("False", ConditionReason.ENDED),
            "Failed": ConditionState("True", WORKLOAD_LOST, why),
        },
        exit_message=why,
    )


def _suspended(view: View, overdue: float, settings: AgentSettings) -> LeaseDecision:
    """The member keeps the workload from running: for a while it may, then the attempt ends, and its Job goes first.

    Once its pods are gone it does not run: that time is neither metered nor part of the run limit.
    """
    known = find(view.lease.status.conditions, "Suspended")
    since = known.last_transition_time if known is not None and known.status == "True" else view.now
    left = settings.suspended_after - (view.now - since).total_seconds()
    why = f"the member suspended the workload; its attempt ends after {settings.suspended_after:g} s of that"
    if left <= 0:
        return _stop(view, ConditionState("False", SUSPENDED_BY_MEMBER, why))
    running: Literal["True", "False"] = "True" if view.live_pods and _running_status(view) == "True" else "False"
    verdicts = {
        "Accepted": ConditionState("True", ConditionReason.ACCEPTED),
        "Running": ConditionState(running, SUSPENDED_BY_MEMBER, why),
        "Suspended": ConditionState("True", SUSPENDED_BY_MEMBER, why),
    }
    return LeaseDecision(verdicts=verdicts, due=min(left, -overdue) if running == "True" else left)


def _hindered(view: View, settings: AgentSettings) -> LeaseDecision | None:
    waited = _waited(view)
    if waited < settings.reject_after:
        return None
    found = podlib.hindrance(
        view.pods, replicas=view.lease.spec.replicas, ever=len(view.reading.pods), events=view.events
    )
    if found is None or waited < _patience(found, settings):
        return None
    why = found.message
    if found.outcome == START_TIMEOUT:
        why += f" within {settings.start_after:g} s: use a smaller image, or a registry nearer to the member"
    step = _stop(view, ConditionState("False", found.outcome, why))
    if found.outcome != MEMBER_REJECTED:
        return step
    accepted = ConditionState("False", found.kind, found.message)
    return LeaseDecision(remove=step.remove, verdicts={**step.verdicts, "Accepted": accepted}, due=step.due)


def _patience(found: podlib.Hindrance, settings: AgentSettings) -> float:
    """Seconds of waiting for which that hindrance may still pass by itself."""
    return {
        ConditionReason.IMAGE_PULL: settings.image_after,
        ConditionReason.START_FAILED: settings.image_after,
        ConditionReason.NOT_STARTED: settings.start_after,
    }.get(found.kind, settings.reject_after)


def _go_on(view: View, *, due: float | None) -> LeaseDecision:
    known = view.lease.status.conditions
    resumed = find(known, "Suspended") is not None
    status = _running_status(view)
    if resumed and not is_true(known, "Running") and not any(map(podlib.ever_started, view.pods)):
        status = "False"
    verdicts = {
        "Accepted": ConditionState("True", ConditionReason.ACCEPTED),
        "Running": ConditionState(status, ConditionReason.RUNNING if status == "True" else ConditionReason.WAITING),
    }
    if resumed:
        verdicts["Suspended"] = ConditionState("False", ConditionReason.RESUMED)
    return LeaseDecision(verdicts=verdicts, due=due)


def _running_status(view: View) -> Literal["True", "False"]:
    """True from the first start of a container until the end of the lease."""
    return "True" if view.reading.started_at is not None else "False"


def _stopping(lease: ComputeLease) -> bool:
    running = find(lease.status.conditions, "Running")
    return running is not None and running.reason == ConditionReason.STOPPING


def _recorded_failure(lease: ComputeLease) -> ConditionState | None:
    """Why a stop that the agent began by itself was begun."""
    failed = find(lease.status.conditions, "Failed")
    return ConditionState("False", failed.reason, failed.message) if failed is not None else None


def _waited(view: View) -> float:
    """Seconds since the member took the workload, or resumed it, by the agent's own clock."""
    conditions = view.lease.status.conditions
    accepted, suspended = find(conditions, "Accepted"), find(conditions, "Suspended")
    if accepted is None or accepted.status != "True":
        return 0.0
    since = accepted.last_transition_time
    if suspended is not None:
        # While it was suspended nothing could start; the change to what it is now began the wait again.
        since = max(since, suspended.last_transition_time if suspended.status == "False" else view.now)
    return (view.now - since).total_seconds()


def _overdue(view: View) -> float:
    """Seconds past the run limit, negative before it.

    The pods of a replica add up: a member that suspends a Job and resumes it makes new ones, and starts its own
    deadline again. Their seconds are bounded by the agent's own clock, and so is the time since it saw one run: a
    member's skewed clock neither shortens nor lengthens a run.
    """
    by_index: Counter[int] = Counter()
    for pod in view.reading.pods:
        by_index[pod.index] += pod.seconds
    elapsed = float(max(by_index.values(), default=0))
    running = find(view.lease.status.conditions, "Running")
    if running is not None and running.status == "True":
        elapsed = max(elapsed, (view.now - running.last_transition_time).total_seconds())
    return elapsed - view.lease.spec.run_limit_seconds


def _next_look(view: View, overdue: float, settings: AgentSettings) -> float | None:
    if view.reading.started_at is not None:
        return -overdue
    left = settings.reject_after - _waited(view)
    return left if left > 0 else None
