"""Whose fault an attempt's end was and what follows: each row, the budgets, and where nobody goes for a while."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.domain.faults import (
    COOLING,
    INTERRUPTIONS,
    OUTCOMES,
    REASONS,
    SEVERITY,
    Cools,
    Ended,
    Ending,
    Fault,
    Retries,
    Retry,
    avoided,
    cause,
    cooldown,
    cooling,
    credible,
    meaning,
    next_step,
    outcome_row,
)
from fedgpu_operator.domain.running import MoveReason

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
BASE = timedelta(minutes=5)
OWNER, TENANT, NOBODY = Fault.OWNER, Fault.TENANT, Fault.NOBODY
AGAIN, END = "again", "end"

ROWS = [
    # outcome, fault, budget of retries (or what always follows), who keeps away, whether only the hub says it
    ("Succeeded", NOBODY, END, Cools.NOBODY, True),
    ("Suspended", TENANT, AGAIN, Cools.NOBODY, True),
    ("Unfunded", TENANT, AGAIN, Cools.NOBODY, True),
    ("Preempted", NOBODY, AGAIN, Cools.NOBODY, True),
    ("Rebalanced", NOBODY, AGAIN, Cools.NOBODY, True),
    ("Superseded", NOBODY, AGAIN, Cools.NOBODY, True),
    ("WriteRefused", NOBODY, AGAIN, Cools.JOB, True),
    ("WorkloadLost", NOBODY, Retry.OWNER_FAULTS, Cools.NOBODY, False),
    ("Deleted", TENANT, END, Cools.NOBODY, True),
    ("DeadlineExceeded", TENANT, END, Cools.NOBODY, True),
    ("JobGone", TENANT, END, Cools.NOBODY, True),
    ("MemberRejected", OWNER, Retry.OWNER_FAULTS, Cools.TENANT, False),
    ("NodeRejected", OWNER, Retry.OWNER_FAULTS, Cools.ALL, False),
    ("StartFailed", OWNER, Retry.OWNER_FAULTS, Cools.TENANT, False),
    ("RequirementUnmet", OWNER, Retry.OWNER_FAULTS, Cools.JOB, False),
    ("Stopped", OWNER, Retry.OWNER_FAULTS, Cools.JOB, False),
    ("WorkloadEvicted", OWNER, Retry.INFRASTRUCTURE, Cools.JOB, False),
    ("WorkloadVanished", OWNER, Retry.INFRASTRUCTURE, Cools.JOB, False),
    ("SuspendedByMember", OWNER, Retry.INFRASTRUCTURE, Cools.JOB, False),
    ("NodePressure", OWNER, Retry.INFRASTRUCTURE, Cools.TENANT, False),
    ("NodeLost", OWNER, Retry.INFRASTRUCTURE, Cools.ALL, False),
    ("ImageUnavailable", NOBODY, Retry.INFRASTRUCTURE, Cools.JOB, False),
    ("LeaseFenced", NOBODY, Retry.INFRASTRUCTURE, Cools.NOBODY, False),
    ("ImagePullFailed", TENANT, Retry.ERRORS, Cools.NOBODY, False),
    ("EntrypointFailed", TENANT, Retry.ERRORS, Cools.NOBODY, False),
    ("StartTimeout", TENANT, Retry.ERRORS, Cools.NOBODY, False),
    ("WorkloadFailed", TENANT, Retry.ERRORS, Cools.NOBODY, False),
    ("StorageExceeded", TENANT, Retry.ERRORS, Cools.NOBODY, False),
    ("OutOfMemory", TENANT, Retry.OUT_OF_MEMORY, Cools.NOBODY, False),
    ("RunLimitExceeded", TENANT, END, Cools.NOBODY, False),
    ("Failed", TENANT, Retry.ERRORS, Cools.NOBODY, False),
    ("SomethingOfTomorrow", TENANT, Retry.ERRORS, Cools.NOBODY, False),
]


@pytest.mark.parametrize(("outcome", "fault", "follows", "cools", "hub"), ROWS)
def test_each_outcome(outcome: str, fault: Fault, follows: Retry | str, cools: Cools, hub: bool) -> None:
    row = outcome_row(outcome)
    assert (row.fault, row.cools) == (fault, cools)
    assert credible(outcome) == ("Failed" if hub else outcome), "the hub's words are not a member's to say"
    none, plenty = Retries(0, 0, 0, 0), Retries(1, 1, 1, 1)
    # It ran a while, but for what says that it never did.
    ended = Ended(outcome, 0 if follows is Retry.OWNER_FAULTS else 7)
    if isinstance(follows, Retry):
        assert not next_step([ended], none).again
        step = next_step([ended], plenty)
        assert (step.again, step.retry, step.used, step.limit) == (True, follows, 1, 1)
        assert not next_step([ended] * 2, plenty).again
    else:
        assert next_step([Ended(outcome)] * 50, none).again is (follows == AGAIN)


@pytest.mark.parametrize("outcome", sorted(INTERRUPTIONS))
def test_what_was_taken_away_before_it_ran_costs_time_only(outcome: str) -> None:
    assert next_step([Ended(outcome)] * 20, Retries()).retry is Retry.OWNER_FAULTS
    assert next_step([Ended(outcome)] * 20, Retries()).again


def test_no_row_is_without_its_test() -> None:
    assert {outcome for outcome, *_ in ROWS} == {*OUTCOMES, "SomethingOfTomorrow"}
    assert {reason.value for reason in MoveReason} <= set(OUTCOMES)
    assert {"WorkloadEvicted", "WorkloadVanished", "SuspendedByMember", "NodePressure", "NodeLost"} == INTERRUPTIONS
    assert {"MemberRejected", "NodeRejected", "StartFailed", "NodePressure", "NodeLost"} == COOLING


RUNC = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
INIT = RUNC + "unable to start container process: error during container init: "
PULL = 'failed to pull and unpack image "docker.io/team/work:1": failed to resolve reference "docker.io/team/work:1": '
WORDS = [
    # word, message, outcome
    ("UnexpectedAdmissionError", "Pod was rejected: Allocate failed due to no healthy devices present", "NodeRejected"),
    ("OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu", "NodeRejected"),
    ("OutOfmemory", "", "NodeRejected"),
    ("OutOfpods", "", "NodeRejected"),
    ("OutOfephemeral-storage", "", "NodeRejected"),
    ("OutOfnvidia.com/gpu", "", "NodeRejected"),
    ("OutOfexample.com/nic", "", "NodeRejected"),
    ("NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed", "NodeRejected"),
    ("NodeName", "", "NodeRejected"),
    ("NodePorts", "", "NodeRejected"),
    ("NodeUnschedulable", "", "NodeRejected"),
    ("TaintToleration", "", "NodeRejected"),
    ("TopologyAffinityError", "Resources cannot be allocated with Topology locality", "NodeRejected"),
    ("SMTAlignmentError", "", "NodeRejected"),
    ("AppArmor", "", "NodeRejected"),
    ("SysctlForbidden", "", "NodeRejected"),
    ("Forbidden", "", "NodeRejected"),
    ("InvalidNodeInfo", "Kubelet cannot get node info.", "NodeRejected"),
    ("PodOSNotSupported", "", "NodeRejected"),
    ("PodOSSelectorNodeLabelDoesNotMatch", "", "NodeRejected"),
    ("InitContainerRestartPolicyForbidden", "", "NodeRejected"),
    ("SupplementalGroupsPolicyNotSupported", "", "NodeRejected"),
    ("PodFeatureUnsupported", "", "NodeRejected"),
    ("UnknownReason", "", "NodeRejected"),
    ("UnexpectedPredicateFailureType", "", "NodeRejected"),
    ("VolumeAttachmentLimitExceeded", "", "NodeRejected"),
    ("NodeShutdown", "Pod was rejected as the node is shutting down.", "NodeRejected"),
    ("Evicted", "Pod was rejected: The node had condition: [DiskPressure]. ", "NodeRejected"),
    ("Evicted", "The node was low on resource: memory. Threshold quantity: 100Mi, available: 41Mi. ", "NodePressure"),
    ("Evicted", "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ", "StorageExceeded"),
    ("Evicted", 'Container main exceeded its local ephemeral storage limit "1Gi". ', "StorageExceeded"),
    ("Evicted", 'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". ', "StorageExceeded"),
    ("Preempting", "Preempted in order to admit critical pod", "WorkloadEvicted"),
    ("Terminated", "Pod was terminated in response to imminent node shutdown.", "WorkloadEvicted"),
    ("Shutdown", "", "WorkloadEvicted"),
    ("PreemptionByScheduler", "", "WorkloadEvicted"),
    ("PreemptionByKubeScheduler", "", "WorkloadEvicted"),
    ("EvictionByEvictionAPI", "Eviction API: evicting", "WorkloadEvicted"),
    ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", "WorkloadEvicted"),
    ("DeletionByPodGC", "PodGC: node no longer exists", "NodeLost"),
    ("TerminationByKubelet", "The node was low on resource: memory.", "NodePressure"),
    ("NodeLost", "Node n1 which was running pod x is unresponsive", "NodeLost"),
    ("ContainerStatusUnknown", "The container could not be located when the pod was terminated", "NodeLost"),
    ("StartError", INIT + 'exec: "trian": executable file not found in $PATH: unknown', "EntrypointFailed"),
    ("StartError", INIT + 'exec: "/run.sh": stat /run.sh: no such file or directory: unknown', "EntrypointFailed"),
    ("StartError", INIT + 'exec: "/run.sh": permission denied: unknown', "EntrypointFailed"),
    ("StartError", INIT + 'chdir to cwd ("/work") set in config.json failed: permission denied', "EntrypointFailed"),
    ("StartError", RUNC + "exec /run: exec format error", "EntrypointFailed"),
    ("StartError", "crun: executable file `trian` not found in $PATH: No such file or directory", "EntrypointFailed"),
    (
        "StartError",
        INIT + "error running prestart hook #0: exit status 1, stdout: , stderr: Auto-detected mode as "
        "'legacy'\nnvidia-container-cli: initialization error: nvml error: driver not loaded: unknown",
        "StartFailed",
    ),
    (
        "StartError",
        INIT + 'error running hook #0: exec: "/usr/bin/nvidia-ctk": no such file or directory',
        "StartFailed",
    ),
    (
        "StartError",
        INIT + "error running hook #0: nvidia-container-cli: requirement error: unsatisfied condition: "
        "cuda>=12.9, please update your driver to a newer version",
        "RequirementUnmet",
    ),
    (
        "StartError",
        RUNC + "unable to apply cgroup configuration: failed to write 1: no space left on device",
        "StartFailed",
    ),
    (
        "StartError",
        "failed to create containerd task: failed to start shim: fork/exec: no such file or directory",
        "StartFailed",
    ),
    (
        "StartError",
        'fork/exec /usr/bin/nvidia-container-runtime: exec: "runc": executable file not found in $PATH',
        "StartFailed",
    ),
    (
        "ContainerCannotRun",
        (
            "OCI runtime create failed: container_linux.go:380: starting container process caused: "
            'exec: "trian": executable file not found in $PATH: unknown'
        ),
        "EntrypointFailed",
    ),
    ("ContainerCannotRun", "could not select device driver", "StartFailed"),
    ("RunContainerError", "context deadline exceeded", "StartFailed"),
    ("CreateContainerError", "failed to generate container spec: no command specified", "EntrypointFailed"),
    ("CreateContainerError", "failed to reserve container name: name is reserved", "StartFailed"),
    ("CreateContainerError", "unresolvable CDI devices nvidia.com/gpu=0", "StartFailed"),
    ("CreateContainerConfigError", "container has runAsNonRoot and image will run as root", "EntrypointFailed"),
    ("CreateContainerConfigError", "failed to sync configmap cache: timed out", "StartFailed"),
    ("PreCreateHookError", "", "StartFailed"),
    ("PreStartHookError", "", "StartFailed"),
    ("CreatePodSandboxError", "", "StartFailed"),
    ("ConfigPodSandboxError", "", "StartFailed"),
    ("SetupNetworkError", "", "StartFailed"),
    ("ErrImagePull", PULL + "docker.io/team/work:1: not found", "ImagePullFailed"),
    (
        "ErrImagePull",
        PULL + "pull access denied, repository does not exist or may require authorization",
        "ImagePullFailed",
    ),
    ("ErrImagePull", 'failed to resolve reference "evil.example/toomanyrequests:503": not found', "ImagePullFailed"),
    (
        "ErrImagePull",
        "unexpected status from GET request to https://ghcr.io/rate/limit/503: 404 Not Found",
        "ImagePullFailed",
    ),
    (
        "ErrImagePull",
        PULL + "unexpected status code https://registry-1.docker.io/v2/x: 429 Too Many Requests - Server "
        "message: toomanyrequests: You have reached your pull rate limit",
        "ImageUnavailable",
    ),
    (
        "ErrImagePull",
        PULL + "failed to do request: Head: dial tcp: lookup registry.example: no such host",
        "ImageUnavailable",
    ),
    ("ErrImagePull", PULL + "dial tcp 10.0.0.1:443: i/o timeout", "ImageUnavailable"),
    ("ErrImagePull", "pull QPS exceeded", "ImageUnavailable"),
    ("ErrImagePull", "failed to extract layer: write: no space left on device", "ImageUnavailable"),
    ("ImagePullBackOff", 'Back-off pulling image "work:1"', "ImagePullFailed"),
    (
        "ImagePullBackOff",
        'Back-off pulling image "work:1": ErrImagePull: received unexpected HTTP status: 503 Service Unavailable',
        "ImageUnavailable",
    ),
    ("InvalidImageName", "couldn't parse image name", "ImagePullFailed"),
    ("RegistryUnavailable", "", "ImageUnavailable"),
    ("SignatureValidationFailed", "", "ImageUnavailable"),
    ("ErrImageNeverPull", "", "StartFailed"),
    ("ImageInspectError", "", "StartFailed"),
    ("OOMKilled", "", "OutOfMemory"),
    ("Error", "", "WorkloadFailed"),
    ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline", "RunLimitExceeded"),
]


@pytest.mark.parametrize(("word", "message", "outcome"), WORDS)
def test_each_word_of_a_member(word: str, message: str, outcome: str) -> None:
    assert meaning(word, message) == outcome
    assert outcome in OUTCOMES


def test_no_word_is_without_its_test_and_an_unknown_one_means_nothing() -> None:
    assert {word for word, *_ in WORDS} - {"OutOfexample.com/nic"} == set(REASONS)
    assert meaning("ContainerCreating") is None
    assert meaning("OutOf") is None


@given(st.text(max_size=40))
def test_a_command_cannot_make_its_own_failure_the_owners(command: str) -> None:
    quoted = command.replace("\\", "\\\\").replace('"', '\\"')
    assert meaning("StartError", f'{INIT}exec: "{quoted}": executable file not found in $PATH') == "EntrypointFailed"


def test_the_cause_among_several_pods_is_the_one_that_explains_the_others() -> None:
    assert cause(["WorkloadFailed", "NodeLost"]) == "NodeLost"
    assert cause(["WorkloadFailed", "OutOfMemory"]) == "OutOfMemory"
    assert cause(["WorkloadFailed", "WorkloadEvicted"]) == "WorkloadEvicted"
    assert cause([]) == "Failed"
    assert set(SEVERITY) <= set(OUTCOMES)


# ---- budgets


def test_each_class_has_its_own_budget() -> None:
    retries = Retries(owner_faults=2, infrastructure=1, out_of_memory=0, errors=1)
    past = [Ended("NodeRejected"), Ended("WorkloadEvicted", 9), Ended("Suspended", 9), Ended("WorkloadFailed", 9)]
    assert next_step(past, retries).again
    assert next_step([*past, Ended("StartFailed")], retries).again
    assert not next_step([*past, Ended("StartFailed"), Ended("MemberRejected")], retries).again
    assert not next_step([*past, Ended("NodePressure", 1)], retries).again
    assert not next_step([*past, Ended("OutOfMemory", 1)], retries).again
    assert not next_step([*past, Ended("WorkloadFailed", 1)], retries).again
    assert next_step([*past, Ended("Superseded")], retries).again


def test_a_member_that_bills_for_what_never_ran_uses_the_budget_of_what_ran() -> None:
    retries = Retries(owner_faults=1000, infrastructure=1)
    assert next_step([Ended("NodeRejected")] * 900, retries).again
    assert not next_step([Ended("NodeRejected", 1)] * 2, retries).again


def test_an_interruption_after_a_checkpoint_uses_no_budget_and_before_it_does() -> None:
    none = Retries(infrastructure=0)
    assert next_step([Ended("WorkloadEvicted", 600)], none, checkpoint=600).again
    assert not next_step([Ended("WorkloadEvicted", 599)], none, checkpoint=600).again
    assert not next_step([Ended("WorkloadEvicted", 600)], none).again
    assert not next_step([Ended("WorkloadFailed", 600)], none, checkpoint=600).again


paid = st.builds(Ended, st.sampled_from(sorted(OUTCOMES)), st.integers(0, 599))


@given(
    st.lists(paid, min_size=1, max_size=60),
    st.builds(Retries, *[st.integers(0, 3)] * 4),
    st.sampled_from([None, 600]),
)
def test_whatever_a_member_claims_the_runs_that_are_paid_twice_are_bounded(
    claims: list[Ended], retries: Retries, checkpoint: int | None
) -> None:
    """A job that goes on for as long as it may, with a member that chooses every end, among its own words."""
    past: list[Ended] = []
    for claim in claims:
        past.append(Ended(credible(claim.outcome), claim.seconds))
        if not next_step(past, retries, checkpoint).again:
            break
    billed = sum(1 for each in past if each.seconds)
    assert billed <= 1 + retries.infrastructure + retries.out_of_memory + retries.errors
    assert len(past) <= billed + 1 + retries.owner_faults + retries.infrastructure + retries.errors + 3


# ---- where nobody goes for a while


def ending(outcome: str, ago: float, *, tenant: str = "a", offer: str = "x/H100", lasted: float = 1) -> Ending:
    """An attempt that ended so many minutes ago."""
    ended = NOW - timedelta(minutes=ago)
    return Ending(offer, tenant, outcome, ended - timedelta(minutes=lasted), ended)


def until(endings: list[Ending], tenant: str = "a") -> float:
    """Minutes from the newest end until that tenant is placed there again, to the minute."""
    newest = max(each.ended for each in endings)
    minutes = range(400)
    return next(m for m in minutes if not cooling(endings, tenant, newest + timedelta(minutes=m), BASE))


def test_the_first_fault_of_a_broken_node_cools_the_offer_down_for_everybody() -> None:
    seen = [ending("NodeRejected", 0)]
    assert set(cooling(seen, "a", NOW, BASE)) == set(cooling(seen, "b", NOW, BASE)) == {"x/H100"}
    assert until(seen, "a") == until(seen, "b") == 5
    assert cooling(seen, "b", NOW, BASE)["x/H100"] == (
        "NodeRejected at 2026-01-01T12:00:00Z; cooling down until 2026-01-01T12:05:00Z"
    )


def test_what_others_have_no_part_in_does_not_cool_down_for_them() -> None:
    assert cooling([ending("ImageUnavailable", 0)], "a", NOW, BASE) == {}
    assert cooling([ending("RequirementUnmet", 0)], "a", NOW, BASE) == {}
    quota = [ending("MemberRejected", 0)]
    assert set(cooling(quota, "a", NOW, BASE)) == {"x/H100"}
    assert cooling(quota, "b", NOW, BASE) == {}
    assert set(cooling([*quota, ending("MemberRejected", 1, tenant="b")], "c", NOW, BASE)) == {"x/H100"}


def test_the_wait_doubles_with_each_fault_up_to_a_cap() -> None:
    rows = [ending("StartFailed", 60 - 10 * n) for n in range(4)]
    assert [until(rows[: n + 1]) for n in range(4)] == [5, 10, 20, 40]
    assert cooldown(BASE, 99) == cooldown(BASE, 6) == 32 * BASE
    assert "4 failures in a row" in cooling(rows, "a", NOW - timedelta(minutes=29), BASE)["x/H100"]


def test_one_tenant_alone_makes_others_wait_no_longer_than_the_first_cooldown() -> None:
    rows = [ending("NodeRejected", 60 - 10 * n, tenant="evil") for n in range(5)]
    assert (until(rows, "evil"), until(rows, "b")) == (80, 5)
    assert until([*rows, ending("NodeRejected", 21, tenant="c")], "b") == 10


@pytest.mark.parametrize("outcome", ["MemberRejected", "StartFailed", "NodePressure"])
def test_what_a_tenant_can_bring_about_keeps_nobody_else_away_before_a_second_one_meets_it(outcome: str) -> None:
    rows = [ending(outcome, 60 - 10 * n, tenant="evil") for n in range(5)]
    assert (until(rows, "evil"), until(rows, "b")) == (80, 0)
    assert until([*rows, ending(outcome, 21, tenant="c")], "b") == 10


def test_one_lost_workload_keeps_nobody_away_and_a_second_one_there_does() -> None:
    lost = [ending("WorkloadLost", 2), ending("WorkloadLost", 1)]
    assert avoided(lost[:1], NOW, BASE) == {}
    assert list(avoided(lost, NOW, BASE)) == ["x/H100"]


def test_faults_of_attempts_that_were_placed_together_count_once() -> None:
    together = [ending("NodeRejected", 10 - n / 10, lasted=5) for n in range(5)]
    assert until(together) == 5


def test_a_success_that_began_later_is_a_new_start() -> None:
    rows = [ending("StartFailed", 40), ending("StartFailed", 30)]
    old = ending("Succeeded", 1, lasted=60)
    assert until([*rows, ending("StartFailed", 2), old]) > 10, "it ran elsewhere in that cluster when the node broke"
    assert until([*rows, ending("Succeeded", 5, lasted=10), ending("StartFailed", 2)]) == 5
    assert cooling([ending("StartFailed", 1), ending("Succeeded", 0, lasted=0.5)], "a", NOW, BASE) == {}


def test_a_job_keeps_away_from_where_its_own_attempts_failed() -> None:
    own = [ending("WorkloadEvicted", 8), ending("WorkloadEvicted", 1), ending("WorkloadFailed", 0, offer="y/H100")]
    assert avoided(own, NOW, BASE) == {
        "x/H100": "WorkloadEvicted at 2026-01-01T11:59:00Z, 2 failures of this job; "
        "cooling down until 2026-01-01T12:09:00Z"
    }
    assert avoided(own, NOW + timedelta(minutes=9), BASE) == {}
