"""What a change of an object of each kind causes, kind by kind.

Scheduling, billing and settlement look at the whole hub at once, so a handler does not act on its one object: it wakes
the loops that go by what changed (docs/architecture.md has their table), and leaves out who made the change itself. A
change that no handler was called for is seen at the next resync.
"""

from __future__ import annotations

from fedgpu_operator.api.base import Resource, find
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.placementpolicy import PlacementPolicy
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.api.settlementepoch import SettlementEpoch
from fedgpu_operator.bootstrap import System
from fedgpu_operator.hub.loops.retention import deleted_at
from fedgpu_operator.hub.services.attempts import is_cleared, wants_agent
from fedgpu_operator.operator.changes import ObjectChange, by_kopf, by_watch
from fedgpu_operator.ports import NAMESPACES


@by_kopf(GPUProvider)
def gpuprovider(system: System, change: ObjectChange[GPUProvider]) -> None:
    """An owner offers, drains or leaves, an admin accepts or audits, or the providers loop has judged it.

    How many of its GPUs are free is only shown in its status: that wakes nobody.
    """
    before, after = change.before, change.after
    if before is None or after is None or change.edited or _standing_of(before) != _standing_of(after):
        system.wake("agents", "providers", "jobs")


@by_kopf(PlacementPolicy)
def placementpolicy(system: System, _: ObjectChange[PlacementPolicy]) -> None:
    """The law changed: what waits is judged again."""
    system.wake("jobs")


@by_watch(ComputeAccount)
def computeaccount(system: System, change: ObjectChange[ComputeAccount]) -> None:
    """A tenant names its wallet; its status, which jobs are reserved against, is the accounts loop's own work."""
    if change.edited:
        system.wake("accounts")
    system.wake("jobs")


@by_watch(ComputeJob)
def computejob(system: System, change: ObjectChange[ComputeJob]) -> None:
    """A user submits, changes or deletes a job; its status is the jobs loop's own work, and its end starts its TTL."""
    if change.edited:
        system.wake("jobs")
    before, after = change.before, change.after
    if before is None or after is None or change.replaced:
        return
    if before.status != after.status and deleted_at(before) != deleted_at(after):
        system.wake("retention")


@by_watch(ComputeLease)
def computelease(system: System, change: ObjectChange[ComputeLease]) -> None:
    """The jobs loop opens or stops an attempt, or the agent reports on it in the status."""
    before, after = change.before, change.after
    # The jobs loop itself made what is new.
    system.wake("providers") if before is None else system.wake("jobs", "providers")
    if before is not None and after is not None and not change.replaced and _was_cleared(before, after):
        system.wake("retention")
    if change.edited:
        system.supervisor.wake(change.namespace)
    lets_go = before is not None and wants_agent(before) and not (after is not None and wants_agent(after))
    if lets_go and system.supervisor.winds_down(change.namespace):
        system.wake("agents")


@by_watch(ProviderReport)
def providerreport(system: System, change: ObjectChange[ProviderReport]) -> None:
    """The agent reports its inventory, or receipts to sign and points to measure were put into the spec."""
    system.wake("providers", "jobs", "receipts", "vantages")
    if change.edited:
        system.supervisor.wake(change.namespace)


@by_watch(SettlementEpoch)
def settlementepoch(system: System, _: ObjectChange[SettlementEpoch]) -> None:
    """An epoch came a step further: the jobs in it show their settlement."""
    system.wake("jobs")


@by_watch(NAMESPACES.plural)
def namespace(system: System, _: ObjectChange[Resource]) -> None:
    """A namespace came, went or changed its labels, by which policies select."""
    system.wake("jobs", "providers")


def _was_cleared(before: ComputeLease, after: ComputeLease) -> bool:
    """Whether the agent has just reported that nothing of a stopped lease is left on its member."""
    acted = after.status.observed_generation > before.status.observed_generation
    return acted and after.spec.desired == "Stop" and is_cleared(after)


def _standing_of(provider: GPUProvider) -> tuple[object, ...]:
    """What others go by of what the providers loop wrote."""
    ready = find(provider.status.conditions, "Ready")
    verdict = (ready.status, ready.reason) if ready is not None else None
    status = provider.status
    judged = status.observed_generation, status.location_audited
    return provider.metadata.finalizers, status.acceptance, verdict, *judged
