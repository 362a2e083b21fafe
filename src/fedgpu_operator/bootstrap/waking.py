"""Which loops a change of an object wakes; what only the operator itself cares to show wakes nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fedgpu_operator.api.base import Resource, find
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.hub.loops.retention import deleted_at
from fedgpu_operator.hub.services.attempts import is_cleared

WAKES: Final[Mapping[str, tuple[str, ...]]] = {
    "computejobs": ("jobs",),
    "computeleases": ("jobs", "providers"),
    "gpuproviders": ("agents", "providers", "jobs"),
    "providerreports": ("providers", "jobs", "receipts", "vantages"),
    "computeaccounts": ("accounts", "jobs"),
    "placementpolicies": ("jobs",),
    "settlementepochs": ("jobs",),
    "namespaces": ("jobs", "providers"),
}
"""Which loops a change of a kind wakes."""


def woken(plural: str, before: Resource | None, after: Resource | None) -> tuple[str, ...]:
    """The loops that have something to do after this change."""
    names = WAKES.get(plural, ())
    if before is None and isinstance(after, ComputeLease):
        # The job loop made it.
        return ("providers",)
    if before is None or after is None or before.metadata.uid != after.metadata.uid:
        return names
    if isinstance(before, ComputeJob) and isinstance(after, ComputeJob):
        moved = before.status != after.status and deleted_at(before) != deleted_at(after)
        ended = ("retention",) if moved else ()
        # A job's status is the job loop's own work.
        return ended if _said(before) == _said(after) else (*names, *ended)
    if isinstance(before, ComputeLease) and isinstance(after, ComputeLease) and _was_cleared(before, after):
        return (*names, "retention")
    if isinstance(before, ComputeAccount) and _said(before) == _said(after):
        # Its status is the account loop's own work, and what jobs are reserved against.
        return ("jobs",)
    if isinstance(before, GPUProvider) and isinstance(after, GPUProvider) and _offered(before) == _offered(after):
        return ()
    return names


def _was_cleared(before: ComputeLease, after: ComputeLease) -> bool:
    """Whether the agent has just said that nothing of a stopped lease is left on its member."""
    acted = after.status.observed_generation > before.status.observed_generation
    return acted and after.spec.desired == "Stop" and is_cleared(after)


def wakes_agent(before: Resource | None, after: Resource | None) -> bool:
    """Whether a change of a lease or a report is one that its agent did not make itself: the status is its own."""
    return before is None or after is None or _said(before) != _said(after)


def _said(obj: Resource) -> tuple[object, ...]:
    """What people, or a deletion, changed; not the status."""
    meta = obj.metadata
    return meta.generation, meta.deletion_timestamp, meta.labels, meta.annotations


def _offered(provider: GPUProvider) -> tuple[object, ...]:
    """What of a provider others go by: how many of its GPUs are free is only shown there."""
    ready = find(provider.status.conditions, "Ready")
    verdict = (ready.status, ready.reason) if ready is not None else None
    status, finalizers = provider.status, provider.metadata.finalizers
    judged = status.observed_generation, status.location_audited
    return (*_said(provider), finalizers, status.acceptance, verdict, *judged)
