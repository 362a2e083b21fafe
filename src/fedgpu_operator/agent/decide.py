"""What to do about one lease, from the lease and what the member shows of it; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from fedgpu_operator.agent import pods as podlib
from fedgpu_operator.agent.conditions import (
    ACCEPTED,
    ENDED,
    IMAGE_PULL_FAILED,
    LEASE_FENCED,
    MEMBER_REJECTED,
    RUN_LIMIT_EXCEEDED,
    RUNNING,
    START_TIMEOUT,
    STOPPED,
    STOPPING,
    SUCCEEDED,
    WAITING,
    WORKLOAD_LOST,
    WORKLOAD_VANISHED,
    Verdict,
    Verdicts,
)
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.conditions import find
from fedgpu_operator.domain.usage import UsageReading

_HINDRANCES: Final[Mapping[str, str]] = {
    "NoPods": MEMBER_REJECTED,
    "Unschedulable": MEMBER_REJECTED,
    "ImagePull": IMAGE_PULL_FAILED,
    "NotStarted": START_TIMEOUT,
}


@dataclass(frozen=True, slots=True)
class View:
    """One lease and what the member shows of it.

    `job` is the lease's own Job (None when absent), `pods` are present, `gone` were seen ending and are no longer
    there. `newest_epoch` is the highest fencing epoch among the leases of the same job. `events` is what the member
    says about pods that it does not create. `ever` is whether a Job of the lease was ever seen there.
    """

    lease: ComputeLease
    job: JSONObject | None
    pods: tuple[JSONObject, ...]
    gone: tuple[JSONObject, ...]
    reading: UsageReading
    now: datetime
    newest_epoch: int = 0
    events: str = ""
    ever: bool = False

    @property
    def all_pods(self) -> tuple[JSONObject, ...]:
        """Present pods and those that were seen ending."""
        return self.pods + self.gone

    @property
    def live_pods(self) -> tuple[JSONObject, ...]:
        """Pods of which something may still run."""
        return tuple(pod for pod in self.pods if not podlib.terminal(pod))


@dataclass(frozen=True, slots=True)
class Decision:
    """What to write and then to do; `due` is in how many seconds to look again at the latest, None for whenever."""

    create: bool = False
    remove: bool = False
    verdicts: Verdicts = field(default_factory=dict)
    exit_message: str | None = None
    due: float | None = None


def decide(view: View, settings: AgentSettings) -> Decision:
    """The next step of one lease."""
    lease = view.lease
    if lease.status.ended:
        return _clean_up(view)
    stopping = _stopping(lease)
    if view.job is not None and not stopping:
        ended = podlib.outcome(view.job, view.all_pods)
        if ended is not None and not view.live_pods:
            return _ended_by_itself(ended)
    if stopping or lease.spec.desired == "Stop":
        return _stop(view, _recorded_failure(lease))
    if view.job is None:
        return _without_job(view)
    overdue = _overdue(view)
    if overdue >= 0:
        why = f"the run limit of {lease.spec.run_limit_seconds} s is over"
        return _stop(view, Verdict("False", RUN_LIMIT_EXCEEDED, why))
    hindered = _hindered(view, settings)
    if hindered is not None:
        return hindered
    return _go_on(view, due=_next_look(view, overdue, settings))


def waits_for_pods(view: View, settings: AgentSettings) -> bool:
    """Whether it is time to ask the member why it creates no pods."""
    return (
        view.job is not None
        and not view.lease.status.ended
        and len(view.reading.pods) < view.lease.spec.replicas
        and _since_accepted(view) >= settings.reject_after
    )


def refused(why: str, message: str) -> Decision:
    """The member, or the agent for its owner, does not take the lease at all."""
    return Decision(
        verdicts={
            "Accepted": Verdict("False", why, message),
            "Running": Verdict("False", ENDED),
            "Failed": Verdict("True", MEMBER_REJECTED, f"{why}: {message}"),
        },
        exit_message=message,
    )


def _clean_up(view: View) -> Decision:
    """An ended lease keeps its finished Job for the owner to look at until the hub says Stop; a live one never."""
    unwanted = view.job is not None and (view.lease.spec.desired == "Stop" or not podlib.finished(view.job))
    return Decision(remove=unwanted or (view.job is None and bool(view.live_pods)))


def _ended_by_itself(ended: podlib.Outcome) -> Decision:
    kind = "Complete" if ended.kind == "Succeeded" else "Failed"
    return Decision(
        verdicts={
            "Accepted": Verdict("True", ACCEPTED),
            "Running": Verdict("False", ENDED),
            kind: Verdict("True", ended.reason, ended.message),
        },
        exit_message=ended.message,
    )


def _stop(view: View, failure: Verdict | None) -> Decision:
    """Take the workload away; the reason is written first, so that a new agent goes on with the same one."""
    if view.job is not None or view.live_pods:
        why = failure.message if failure else view.lease.spec.stop_reason
        running: Verdicts = {"Running": Verdict(_running_status(view), STOPPING, why)}
        return Decision(remove=True, verdicts=running if failure is None else {**running, "Failed": failure})
    if podlib.all_succeeded(view.all_pods, view.lease.spec.replicas):
        return _ended_by_itself(podlib.Outcome("Succeeded", SUCCEEDED, "all replicas succeeded before the stop"))
    if failure is not None:
        return Decision(
            verdicts={
                "Running": Verdict("False", ENDED),
                "Failed": Verdict("True", failure.reason, failure.message),
            },
            exit_message=failure.message,
        )
    why = view.lease.spec.stop_reason or "the hub asked for it"
    return Decision(verdicts={"Running": Verdict("False", STOPPED, why)}, exit_message=f"stopped: {why}")


def _without_job(view: View) -> Decision:
    lease = view.lease
    if lease.status.workload_uid or view.all_pods or view.ever:
        # Seen once and gone: creating it again would be a second run of the same attempt.
        return _stop(view, Verdict("False", WORKLOAD_VANISHED, "the workload was deleted on the member"))
    if lease.spec.fencing_epoch < view.newest_epoch:
        return Decision(
            verdicts={
                "Accepted": Verdict("False", LEASE_FENCED),
                "Running": Verdict("False", ENDED),
                "Failed": Verdict("True", LEASE_FENCED, f"a lease with fencing epoch {view.newest_epoch} exists"),
            },
            exit_message="a newer lease of the job exists",
        )
    return Decision(create=True) if lease.spec.workload else lost()


def lost() -> Decision:
    """The member has no workload of the lease, and it is not known whether one was started: it is not started now."""
    why = "the lease was made again, or its agent started anew, and the member has no workload of it"
    return Decision(
        verdicts={"Running": Verdict("False", ENDED), "Failed": Verdict("True", WORKLOAD_LOST, why)},
        exit_message=why,
    )


def _hindered(view: View, settings: AgentSettings) -> Decision | None:
    waited = _since_accepted(view)
    if waited < settings.reject_after:
        return None
    found = podlib.hindrance(
        view.pods, replicas=view.lease.spec.replicas, ever=len(view.reading.pods), events=view.events
    )
    if found is None or waited < _patience(found, settings):
        return None
    reason, why = _HINDRANCES[found.kind], found.message
    if reason == START_TIMEOUT:
        why += f" within {settings.start_after:g} s: use a smaller image, or a registry nearer to the member"
    step = _stop(view, Verdict("False", reason, why))
    if reason != MEMBER_REJECTED:
        return step
    accepted = Verdict("False", found.kind, found.message)
    return Decision(remove=step.remove, verdicts={**step.verdicts, "Accepted": accepted}, due=step.due)


def _patience(found: podlib.Hindrance, settings: AgentSettings) -> float:
    """Seconds from acceptance for which that hindrance may still pass by itself."""
    return {"ImagePull": settings.image_after, "NotStarted": settings.start_after}.get(
        found.kind, settings.reject_after
    )


def _go_on(view: View, *, due: float | None) -> Decision:
    status = _running_status(view)
    running = Verdict(status, RUNNING if status == "True" else WAITING)
    return Decision(verdicts={"Accepted": Verdict("True", ACCEPTED), "Running": running}, due=due)


def _running_status(view: View) -> Literal["True", "False"]:
    """True from the first start of a container until the end of the lease."""
    return "True" if view.reading.started_at is not None else "False"


def _stopping(lease: ComputeLease) -> bool:
    running = find(lease.status.conditions, "Running")
    return running is not None and running.reason == STOPPING


def _recorded_failure(lease: ComputeLease) -> Verdict | None:
    """Why a stop that the agent began by itself was begun."""
    failed = find(lease.status.conditions, "Failed")
    return Verdict("False", failed.reason, failed.message) if failed is not None else None


def _since_accepted(view: View) -> float:
    """Seconds since the member took the workload, by the agent's own clock."""
    accepted = find(view.lease.status.conditions, "Accepted")
    if accepted is None or accepted.status != "True":
        return 0.0
    return (view.now - accepted.last_transition_time).total_seconds()


def _overdue(view: View) -> float:
    """Seconds past the run limit, negative before it.

    Pods' seconds are bounded by the agent's own clock, and so is the time since it first saw one run: a member's
    skewed clock neither shortens nor lengthens a run.
    """
    elapsed = float(max((pod.seconds for pod in view.reading.pods), default=0))
    running = find(view.lease.status.conditions, "Running")
    if running is not None and running.status == "True":
        elapsed = max(elapsed, (view.now - running.last_transition_time).total_seconds())
    return elapsed - view.lease.spec.run_limit_seconds


def _next_look(view: View, overdue: float, settings: AgentSettings) -> float | None:
    if view.reading.started_at is not None:
        return -overdue
    left = settings.reject_after - _since_accepted(view)
    return left if left > 0 else None
