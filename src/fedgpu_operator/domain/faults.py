"""How attempts end: whose fault it was, which retries it uses, and who keeps away from the place; pure.

Two tables. `OUTCOMES` has a row for each way in which an attempt ends, as the ledger keeps it. `REASONS` gives the way
for each word that a kubelet, a container runtime or a control plane says; a few words mean two things, and the message
that comes with them tells which. What decides is whether the tenant's container ever ran, and who could have helped it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

SUCCEEDED: Final = "Succeeded"
FAILED: Final = "Failed"
"""The attempt failed and nobody can say how."""

MEMBER_REJECTED: Final = "MemberRejected"
NODE_REJECTED: Final = "NodeRejected"
START_FAILED: Final = "StartFailed"
REQUIREMENT_UNMET: Final = "RequirementUnmet"
START_TIMEOUT: Final = "StartTimeout"
ENTRYPOINT_FAILED: Final = "EntrypointFailed"
IMAGE_PULL_FAILED: Final = "ImagePullFailed"
IMAGE_UNAVAILABLE: Final = "ImageUnavailable"
WORKLOAD_FAILED: Final = "WorkloadFailed"
WORKLOAD_EVICTED: Final = "WorkloadEvicted"
WORKLOAD_VANISHED: Final = "WorkloadVanished"
WORKLOAD_LOST: Final = "WorkloadLost"
NODE_PRESSURE: Final = "NodePressure"
NODE_LOST: Final = "NodeLost"
SUSPENDED_BY_MEMBER: Final = "SuspendedByMember"
OUT_OF_MEMORY: Final = "OutOfMemory"
STORAGE_EXCEEDED: Final = "StorageExceeded"
RUN_LIMIT_EXCEEDED: Final = "RunLimitExceeded"
LEASE_FENCED: Final = "LeaseFenced"


class Fault(StrEnum):
    """Who could have helped it."""

    OWNER = "Owner"
    TENANT = "Tenant"
    NOBODY = "Nobody"


class Retry(StrEnum):
    """The classes of retries, by their names in `spec.retries`."""

    OWNER_FAULTS = "ownerFaults"
    """Nothing ran and nothing was billed."""
    INFRASTRUCTURE = "infrastructure"
    """What ran was interrupted, or something between tenant and owner failed."""
    OUT_OF_MEMORY = "outOfMemory"
    ERRORS = "errors"


class Cools(StrEnum):
    """Who is not placed there again for a while."""

    NOBODY = "Nobody"
    JOB = "Job"
    """This job only: others have no reason to keep away, or a tenant could bring it about on purpose."""
    TENANT = "Tenant"
    """The jobs of its tenant, and all others when a second tenant meets the same: quotas are set for a namespace."""
    ALL = "All"
    """Every job: the place itself is broken."""


@dataclass(frozen=True, slots=True)
class OutcomeRule:
    """What follows when an attempt ends so.

    `retry` is the class whose budget another try uses, None for none: then the job is placed again however often it
    happens, unless it is `final`. What is the hub's own word (`hub`) is not believed when a member says it.
    """

    fault: Fault
    retry: Retry | None = None
    cools: Cools = Cools.NOBODY
    final: bool = False
    hub: bool = False


_OWNER, _TENANT, _NOBODY = Fault.OWNER, Fault.TENANT, Fault.NOBODY

OUTCOMES: Final[Mapping[str, OutcomeRule]] = MappingProxyType(
    {
        # The end, and stops that the hub ordered.
        SUCCEEDED: OutcomeRule(_NOBODY, final=True, hub=True),
        "Suspended": OutcomeRule(_TENANT, hub=True),
        "Unfunded": OutcomeRule(_TENANT, hub=True),
        "Preempted": OutcomeRule(_NOBODY, hub=True),
        "Rebalanced": OutcomeRule(_NOBODY, hub=True),
        # The job changed or the process died between the decision and the lease: nothing ran.
        "Superseded": OutcomeRule(_NOBODY, hub=True),
        # The hub could not write; whoever gives up after how many of them bounds it.
        "WriteRefused": OutcomeRule(_NOBODY, cools=Cools.JOB, hub=True),
        # The lease was made again, and the member had no workload of it. Mostly none was ever started.
        WORKLOAD_LOST: OutcomeRule(_NOBODY, Retry.OWNER_FAULTS),
        "Deleted": OutcomeRule(_TENANT, final=True, hub=True),
        "DeadlineExceeded": OutcomeRule(_TENANT, final=True, hub=True),
        "JobGone": OutcomeRule(_TENANT, final=True, hub=True),
        # Nothing of the tenant's ever ran, and it is the owner's doing.
        MEMBER_REJECTED: OutcomeRule(_OWNER, Retry.OWNER_FAULTS, Cools.TENANT),
        NODE_REJECTED: OutcomeRule(_OWNER, Retry.OWNER_FAULTS, Cools.ALL),
        # A tenant could bring it about by a mount or a variable that no runtime takes.
        START_FAILED: OutcomeRule(_OWNER, Retry.OWNER_FAULTS, Cools.TENANT),
        # The driver is older than the image asks for: an image can ask for anything.
        REQUIREMENT_UNMET: OutcomeRule(_OWNER, Retry.OWNER_FAULTS, Cools.JOB),
        # A stop that nobody ordered.
        "Stopped": OutcomeRule(_OWNER, Retry.OWNER_FAULTS, Cools.JOB),
        # It ran, and the member took it away.
        WORKLOAD_EVICTED: OutcomeRule(_OWNER, Retry.INFRASTRUCTURE, Cools.JOB),
        WORKLOAD_VANISHED: OutcomeRule(_OWNER, Retry.INFRASTRUCTURE, Cools.JOB),
        SUSPENDED_BY_MEMBER: OutcomeRule(_OWNER, Retry.INFRASTRUCTURE, Cools.JOB),
        # And this by using up memory or disk that it set itself no limit for.
        NODE_PRESSURE: OutcomeRule(_OWNER, Retry.INFRASTRUCTURE, Cools.TENANT),
        NODE_LOST: OutcomeRule(_OWNER, Retry.INFRASTRUCTURE, Cools.ALL),
        # A registry that is silent or counts pulls: a tenant names the registry, so nobody else keeps away.
        IMAGE_UNAVAILABLE: OutcomeRule(_NOBODY, Retry.INFRASTRUCTURE, Cools.JOB),
        LEASE_FENCED: OutcomeRule(_NOBODY, Retry.INFRASTRUCTURE),
        # The tenant's own.
        IMAGE_PULL_FAILED: OutcomeRule(_TENANT, Retry.ERRORS),
        ENTRYPOINT_FAILED: OutcomeRule(_TENANT, Retry.ERRORS),
        START_TIMEOUT: OutcomeRule(_TENANT, Retry.ERRORS),
        WORKLOAD_FAILED: OutcomeRule(_TENANT, Retry.ERRORS),
        STORAGE_EXCEEDED: OutcomeRule(_TENANT, Retry.ERRORS),
        OUT_OF_MEMORY: OutcomeRule(_TENANT, Retry.OUT_OF_MEMORY),
        RUN_LIMIT_EXCEEDED: OutcomeRule(_TENANT, final=True),
        FAILED: OutcomeRule(_TENANT, Retry.ERRORS),
    }
)


def outcome_row(outcome: str) -> OutcomeRule:
    """The row of that outcome; a word that is in no row is a failure that nobody can explain."""
    return OUTCOMES.get(outcome, OUTCOMES[FAILED])


INTERRUPTIONS: Final = frozenset(
    word for word, row in OUTCOMES.items() if (row.fault, row.retry) == (Fault.OWNER, Retry.INFRASTRUCTURE)
)
"""Outcomes in which work ran and its member took it away."""
COOLING: Final = frozenset(word for word, row in OUTCOMES.items() if row.cools in (Cools.TENANT, Cools.ALL))
"""Outcomes after which other jobs are not placed there for a while either."""


def credible(claimed: str) -> str:
    """The outcome of a failure as a member claims it: the hub's own words are not its to say."""
    return FAILED if outcome_row(claimed).hub else claimed


# ---- what a member's own words mean

Meaning = str | Callable[[str], str]
"""An outcome, or what tells the outcome from the message."""

_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"|https?://\S+')
_OWN_STORAGE: Final = re.compile(
    r"exceeded its local ephemeral storage limit|local storage usage exceeds|Usage of EmptyDir volume", re.IGNORECASE
)
_NEVER_ADMITTED: Final = re.compile(r"The node had condition", re.IGNORECASE)
_TENANTS_START: Final = re.compile(
    r"(?:unable to start|starting) container process(?: caused)?[\s:\"\\]*(?:error during container init: )?exec: "
    r"|chdir to cwd \(|crun: (?:open executable|executable file|cannot find executable|chdir|exec)"
    r"|exec format error|no command specified|argument list too long"
    r"|error mounting|unsupported capabilities"
    r"|unable to find user|no matching entries in (?:passwd|group) file|non-numeric user|runAsNonRoot|run as root",
)
_REQUIREMENT: Final = re.compile(r"nvidia-container-cli: requirement error|unsatisfied condition: \w+ ?[<>=]")
_REGISTRY_TROUBLE: Final = re.compile(
    r"toomanyrequests|too many requests|rate limit|QPS exceeded|timeout|timed out|deadline exceeded"
    r"|connection (?:refused|reset)|no such host|no route to host|network is unreachable|server misbehaving"
    r"|unexpected EOF|no space left on device|RegistryUnavailable"
    r"|\b(?:429|500|502|503|504)\b|context canceled",
    re.IGNORECASE,
)


def _started_not(message: str) -> str:
    """Why a runtime did not start a container: its entrypoint is the tenant's, all else is the owner's."""
    if _TENANTS_START.search(message):
        return ENTRYPOINT_FAILED
    return REQUIREMENT_UNMET if _REQUIREMENT.search(message) else START_FAILED


def _pulled_not(message: str) -> str:
    """Why an image did not come; what the tenant named itself, in quotes or in a URL, proves nothing."""
    return IMAGE_UNAVAILABLE if _REGISTRY_TROUBLE.search(_QUOTED.sub("", message)) else IMAGE_PULL_FAILED


def _evicted(message: str) -> str:
    if _OWN_STORAGE.search(message):
        return STORAGE_EXCEEDED
    return NODE_REJECTED if _NEVER_ADMITTED.search(message) else NODE_PRESSURE


REASONS: Final[Mapping[str, Meaning]] = MappingProxyType(
    {
        # A kubelet refuses the pod: nothing of it ever ran on the node.
        "UnexpectedAdmissionError": NODE_REJECTED,
        "OutOfcpu": NODE_REJECTED,
        "OutOfmemory": NODE_REJECTED,
        "OutOfpods": NODE_REJECTED,
        "OutOfephemeral-storage": NODE_REJECTED,
        "OutOfnvidia.com/gpu": NODE_REJECTED,
        "NodeAffinity": NODE_REJECTED,
        "NodeName": NODE_REJECTED,
        "NodePorts": NODE_REJECTED,
        "NodeUnschedulable": NODE_REJECTED,
        "TaintToleration": NODE_REJECTED,
        "TopologyAffinityError": NODE_REJECTED,
        "SMTAlignmentError": NODE_REJECTED,
        "AppArmor": NODE_REJECTED,
        "SysctlForbidden": NODE_REJECTED,
        "Forbidden": NODE_REJECTED,
        "InvalidNodeInfo": NODE_REJECTED,
        "PodOSNotSupported": NODE_REJECTED,
        "PodOSSelectorNodeLabelDoesNotMatch": NODE_REJECTED,
        "InitContainerRestartPolicyForbidden": NODE_REJECTED,
        "SupplementalGroupsPolicyNotSupported": NODE_REJECTED,
        "PodFeatureUnsupported": NODE_REJECTED,
        "UnknownReason": NODE_REJECTED,
        "UnexpectedPredicateFailureType": NODE_REJECTED,
        "VolumeAttachmentLimitExceeded": NODE_REJECTED,
        "NodeShutdown": NODE_REJECTED,
        # A kubelet or a control plane takes the pod away.
        "Evicted": _evicted,
        "Preempting": WORKLOAD_EVICTED,
        "Terminated": WORKLOAD_EVICTED,
        "Shutdown": WORKLOAD_EVICTED,
        "PreemptionByScheduler": WORKLOAD_EVICTED,
        "PreemptionByKubeScheduler": WORKLOAD_EVICTED,
        "EvictionByEvictionAPI": WORKLOAD_EVICTED,
        "DeletionByTaintManager": WORKLOAD_EVICTED,
        "DeletionByPodGC": NODE_LOST,
        "TerminationByKubelet": NODE_PRESSURE,
        "NodeLost": NODE_LOST,
        "ContainerStatusUnknown": NODE_LOST,
        # A container runtime does not start the container.
        "StartError": _started_not,
        "ContainerCannotRun": _started_not,
        "RunContainerError": _started_not,
        "CreateContainerError": _started_not,
        "CreateContainerConfigError": _started_not,
        "PreCreateHookError": START_FAILED,
        "PreStartHookError": START_FAILED,
        "CreatePodSandboxError": START_FAILED,
        "ConfigPodSandboxError": START_FAILED,
        "SetupNetworkError": START_FAILED,
        # The image does not come.
        "ErrImagePull": _pulled_not,
        "ImagePullBackOff": _pulled_not,
        "InvalidImageName": IMAGE_PULL_FAILED,
        "RegistryUnavailable": IMAGE_UNAVAILABLE,
        "SignatureValidationFailed": IMAGE_UNAVAILABLE,
        "ErrImageNeverPull": START_FAILED,
        "ImageInspectError": START_FAILED,
        # The container ran.
        "OOMKilled": OUT_OF_MEMORY,
        "Error": WORKLOAD_FAILED,
        "DeadlineExceeded": RUN_LIMIT_EXCEEDED,
    }
)


def meaning(reason: str, message: str = "") -> str | None:
    """The outcome that a word of a kubelet, a runtime or a control plane stands for; None for an unknown word."""
    found = REASONS.get(reason)
    if found is None:
        # A kubelet names the extended resource that it lacks: OutOf<resource>.
        return NODE_REJECTED if reason.startswith("OutOf") and len(reason) > len("OutOf") else None
    return found if isinstance(found, str) else found(message)


SEVERITY: Final = (
    NODE_REJECTED,
    START_FAILED,
    REQUIREMENT_UNMET,
    NODE_LOST,
    NODE_PRESSURE,
    STORAGE_EXCEEDED,
    OUT_OF_MEMORY,
    ENTRYPOINT_FAILED,
    WORKLOAD_EVICTED,
    WORKLOAD_FAILED,
)
"""Which of several pods' ends is the cause: when a node is lost or memory ends, the other replicas fail with errors."""


def cause(outcomes: Iterable[str]) -> str:
    """The one among the ends of several pods that explains the others; `Failed` for none."""
    found = set(outcomes)
    return next((word for word in SEVERITY if word in found), next(iter(sorted(found)), FAILED))


# ---- what comes after


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a job is tried again, by class. A first try is none of them."""

    owner_faults: int = 20
    infrastructure: int = 3
    out_of_memory: int = 0
    errors: int = 0

    def of(self, retry: Retry) -> int:
        """The budget of that class."""
        return {
            Retry.OWNER_FAULTS: self.owner_faults,
            Retry.INFRASTRUCTURE: self.infrastructure,
            Retry.OUT_OF_MEMORY: self.out_of_memory,
            Retry.ERRORS: self.errors,
        }[retry]


@dataclass(frozen=True, slots=True)
class Ended:
    """How one attempt of a job ended: `seconds` is what was billed of it per GPU, 0 when nothing was."""

    outcome: str
    seconds: int = 0


def retry_class(ended: Ended, checkpoint: int | None = None) -> Retry | None:
    """The class whose budget another try after this end uses; None for no budget at all.

    A member that bills a tenant for what it says never ran is not believed: that uses the smaller budget of what ran.
    `checkpoint` is the seconds between two checkpoints of the job, None for a job that saves nothing: an interruption
    that let it run from one to the next has lost only what its price carried already.
    """
    row = outcome_row(ended.outcome)
    if ended.outcome in INTERRUPTIONS and checkpoint is not None and ended.seconds >= checkpoint:
        return None
    if row.retry is Retry.OWNER_FAULTS and ended.seconds:
        return Retry.INFRASTRUCTURE
    if ended.outcome in INTERRUPTIONS and not ended.seconds:
        # It was taken away before it ran: nothing is lost but time.
        return Retry.OWNER_FAULTS
    return row.retry


@dataclass(frozen=True, slots=True)
class NextStep:
    """What comes after the newest attempt: another one (`again`), or none.

    None comes after what is final, or when the retries of its class are used up: then `used` equals `limit`.
    """

    again: bool
    retry: Retry | None = None
    used: int = 0
    limit: int = 0


def next_step(ended: Sequence[Ended], retries: Retries, checkpoint: int | None = None) -> NextStep:
    """What comes after these ends, oldest first; there must be one."""
    newest = ended[-1]
    if outcome_row(newest.outcome).final:
        return NextStep(again=False)
    retry = retry_class(newest, checkpoint)
    if retry is None:
        return NextStep(again=True)
    failures = sum(1 for each in ended if retry_class(each, checkpoint) is retry)
    limit = retries.of(retry)
    return NextStep(failures <= limit, retry, min(failures, limit), limit)


# ---- where not to go for a while

MOST_DOUBLINGS: Final = 5
"""A cool-down grows to 32 times the first one and no further."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How one attempt of any job ended at an offer (`provider`/`product`); `tenant` is the job's namespace."""

    offer: str
    tenant: str
    outcome: str
    began: datetime
    ended: datetime


def cooldown(base: timedelta, failures: int) -> timedelta:
    """How long to keep away after so many failures in a row, at least one: doubled with each, up to a cap."""
    return base * (1 << min(max(failures, 1) - 1, MOST_DOUBLINGS))


def memory_of(base: timedelta) -> timedelta:
    """How far back failures count: twice the longest cool-down."""
    return 2 * cooldown(base, MOST_DOUBLINGS + 1)


def in_a_row(faults: Iterable[Ending]) -> int:
    """How many faults one after the other: those of attempts that began before the fault before was known are one."""
    count, known = 0, None
    for each in sorted(faults, key=lambda fault: fault.ended):
        if known is None or each.began >= known:
            count, known = count + 1, each.ended
    return count


def cooling(endings: Iterable[Ending], tenant: str, now: datetime, base: timedelta) -> dict[str, str]:
    """Offers at which no job of that tenant is placed now, and why, from how attempts ended there.

    A fault that is followed by an attempt that began later and succeeded is forgotten. Each tenant waits longer with
    each of its own faults in a row there, and with each further tenant that had one: one tenant alone can make the
    others wait no longer than the first cool-down.
    """
    by_offer: dict[str, list[Ending]] = {}
    for each in endings:
        by_offer.setdefault(each.offer, []).append(each)
    found = {}
    for offer, seen in by_offer.items():
        worked = max((each.began for each in seen if each.outcome == SUCCEEDED), default=None)
        oldest = now - memory_of(base)
        faults = [
            each
            for each in seen
            if each.outcome in COOLING and each.ended > oldest and (worked is None or each.ended >= worked)
        ]
        until = max(_until(faults, tenant, base), default=None)
        if until is not None and until[0] > now:
            found[offer] = until[1]
    return found


def _until(faults: Sequence[Ending], tenant: str, base: timedelta) -> Iterable[tuple[datetime, str]]:
    own = [each for each in faults if each.tenant == tenant]
    tenants = len({each.tenant for each in faults})
    common = faults if tenants > 1 else [each for each in faults if outcome_row(each.outcome).cools is Cools.ALL]
    for some, failures in ((own, in_a_row(own)), (common, tenants)):
        if some:
            last = max(some, key=lambda fault: fault.ended)
            until = last.ended + cooldown(base, failures)
            times = f", {failures} failures in a row" if failures > 1 else ""
            yield until, f"{last.outcome} at {_stamp(last.ended)}{times}; cooling down until {_stamp(until)}"


def avoided(endings: Iterable[Ending], now: datetime, base: timedelta) -> dict[str, str]:
    """Offers at which a job is not placed again now, and why, from how its own attempts ended."""
    by_offer: dict[str, list[Ending]] = {}
    oldest = now - memory_of(base)
    for each in endings:
        if each.ended > oldest and (
            outcome_row(each.outcome).cools is not Cools.NOBODY or each.outcome == WORKLOAD_LOST
        ):
            by_offer.setdefault(each.offer, []).append(each)
    # One lost workload is an operator that started anew; a second one at the same place is the place.
    by_offer = {offer: seen for offer, seen in by_offer.items() if [each.outcome for each in seen] != [WORKLOAD_LOST]}
    found = {}
    for offer, seen in by_offer.items():
        last = max(seen, key=lambda ending: ending.ended)
        until = last.ended + cooldown(base, len(seen))
        if until > now:
            times = f", {len(seen)} failures of this job" if len(seen) > 1 else ""
            found[offer] = f"{last.outcome} at {_stamp(last.ended)}{times}; cooling down until {_stamp(until)}"
    return found


def _stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
