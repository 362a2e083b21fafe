"""What the agent does to a member for one lease: namespace, Job, requests to it, their end, and its marks on them."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Final

from fedgpu_operator.agent import pods as podlib
from fedgpu_operator.agent.guard import check_workload
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computelease import JOB_UID_LABEL, LEASE_LABEL, PROVIDER_LABEL, TENANT_LABEL, ComputeLease
from fedgpu_operator.api.jobspec import CHECKPOINT_ANNOTATION
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.inventory import NO_RULES, InventoryRules
from fedgpu_operator.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    InvalidResourceError,
    KubeError,
    NotFoundError,
    RejectedError,
)
from fedgpu_operator.ports import BATCH_JOBS, EVENTS, NAMESPACES, PODS, Kube, ResourceType
from fedgpu_operator.supply.pods import terminal

log = logging.getLogger(__name__)

HUB_LABEL: Final = "fedgpu.dev/hub"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose objects: one member may serve several hubs, and one hub may list it under several providers."""

    hub_uid: str
    provider: str

    @property
    def selector(self) -> str:
        """Label selector of everything that belongs to leases of ours."""
        return f"{LEASE_LABEL},{HUB_LABEL}={self.hub_uid},{PROVIDER_LABEL}={self.provider}"

    def selector_of(self, lease: str) -> str:
        """Label selector of what belongs to one lease of ours."""
        return f"{LEASE_LABEL}={lease},{HUB_LABEL}={self.hub_uid},{PROVIDER_LABEL}={self.provider}"

    def ours(self, labels: Mapping[str, str]) -> bool:
        """Whether labels say the same as `selector`."""
        return (
            LEASE_LABEL in labels
            and labels.get(HUB_LABEL) == self.hub_uid
            and labels.get(PROVIDER_LABEL) == self.provider
        )

    def lease_of(self, labels: Mapping[str, str]) -> str:
        """The lease of ours that these are the labels of, empty if there is none."""
        return labels[LEASE_LABEL] if self.ours(labels) else ""

    def stamp(self, lease: ComputeLease) -> JSONObject:
        """The lease's workload with our labels, and no others, on the Job and its pods; it passed the guard."""
        labels = {
            HUB_LABEL: self.hub_uid,
            LEASE_LABEL: lease.metadata.name,
            PROVIDER_LABEL: self.provider,
            TENANT_LABEL: lease.spec.job.namespace,
            JOB_UID_LABEL: lease.spec.job.uid,
        }
        workload = copy.deepcopy(lease.spec.workload or {})
        workload["metadata"]["labels"] = dict(labels)
        workload["spec"]["template"].setdefault("metadata", {})["labels"] = dict(labels)
        return workload


def labels_of(obj: JSONObject) -> dict[str, str]:
    """The labels of any object."""
    labels = obj.get("metadata", {}).get("labels")
    return labels if isinstance(labels, dict) else {}


def lease_of(obj: JSONObject) -> str:
    """Name of the lease that a Job or pod of ours belongs to."""
    return labels_of(obj).get(LEASE_LABEL, "")


NAMESPACE_SECONDS: Final = 30.0
"""So long a tenant's namespace counts as looked at; its labels are the owner's to change at any time."""
MOST_NOTED: Final = 10_000
"""Refused requests that are remembered; beyond, some are said again."""
RESTRICTED: Final = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}


class Workloads:
    """Creates and removes the workloads of leases on one member cluster."""

    def __init__(
        self,
        member: Kube,
        identity: Identity,
        took: Callable[[JSONObject], JSONObject] = lambda job: job,
        rules: InventoryRules = NO_RULES,
    ) -> None:
        self._rules = rules
        self._member = member
        self._took = took
        self._identity = identity
        self._refused: set[str] = set()
        self._namespaces: dict[str, float] = {}

    async def create(self, lease: ComputeLease) -> JSONObject:
        """The Job of that lease, created or adopted.

        Raises InvalidResourceError (`WorkloadRefused`, `NamespaceTaken`, `NamespaceTerminating`, `NameTaken`), and the
        KubeError tree as the member answers.
        """
        check_workload(lease, self._rules)
        namespace, tenant = lease.spec.member_namespace, lease.spec.job.namespace
        stamped = self._identity.stamp(lease)
        known = time.monotonic() - self._namespaces.get(namespace, float("-inf")) < NAMESPACE_SECONDS
        if not known:
            await self._ensure_namespace(namespace, tenant)
        try:
            return self._took(await self._member.create(BATCH_JOBS, stamped))
        except AlreadyExistsError:
            job = await self._member.get(BATCH_JOBS, lease.metadata.name, namespace)
        except (ForbiddenError, NotFoundError):
            # The namespace may have gone, or be going, since it was looked at.
            if not known:
                raise
            self._namespaces.pop(namespace, None)
            return await self.create(lease)
        if not self._identity.ours(labels_of(job)) or lease_of(job) != lease.metadata.name:
            raise InvalidResourceError(
                ConditionReason.NAME_TAKEN, f"a Job named {lease.metadata.name} exists that is not ours"
            )
        return job

    async def remove(self, job: JSONObject | None, pods: Sequence[JSONObject]) -> None:
        """Ask for the end of a Job with its pods, or of pods that lost their Job; what is ending already is left so."""
        if job is not None:
            await self._delete(BATCH_JOBS, job)
            return
        for pod in pods:
            if not terminal(pod):
                await self._delete(PODS, pod)

    async def ask_checkpoint(self, lease: ComputeLease, job: JSONObject, pods: Sequence[JSONObject]) -> None:
        """Annotate a Job and its live pods with the checkpoint that the lease asks for; what says so is left alone.

        A downward-API volume shows it to the workload. It is a request and no more: a member that lets nobody annotate
        is noted once in the log, and the lease goes on.
        """
        asked = lease.spec.checkpoint_requested_at
        if asked is None:
            return
        stamp = asked.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for kind, obj in ((BATCH_JOBS, job), *((PODS, pod) for pod in pods if not terminal(pod))):
            meta = obj["metadata"]
            if (meta.get("annotations") or {}).get(CHECKPOINT_ANNOTATION) == stamp or meta.get("deletionTimestamp"):
                continue
            patch: JSONObject = {"metadata": {"uid": meta["uid"], "annotations": {CHECKPOINT_ANNOTATION: stamp}}}
            try:
                await self._member.patch(kind, str(meta["name"]), str(meta["namespace"]), patch)
            except (ConflictError, NotFoundError):
                # It is another object by now, or none: there is nothing left to save.
                continue
            except (ForbiddenError, RejectedError) as error:
                self._note_refusal(f"{kind.kind} {meta['name']}", f"{meta['uid']} {stamp}", error)

    def _note_refusal(self, what: str, request: str, error: KubeError) -> None:
        """Said once per request, though it is tried in each pass."""
        if request in self._refused:
            return
        log.warning("%s cannot be asked for a checkpoint: %s", what, error)
        if len(self._refused) >= MOST_NOTED:
            self._refused.clear()
        self._refused.add(request)

    async def complaints(self, about: JSONObject) -> str:
        """The newest warning Event about a Job or pod that gives a cause; empty if there is none."""
        meta = about["metadata"]
        fields = f"involvedObject.uid={meta['uid']},type=Warning"
        events, _ = await self._member.list(EVENTS, str(meta["namespace"]), fields=fields)
        newest = max(events, key=_weight, default={})
        return str(newest.get("message", ""))[: podlib.MAX_MESSAGE]

    async def _delete(self, kind: ResourceType, obj: JSONObject) -> None:
        meta = obj["metadata"]
        if meta.get("deletionTimestamp"):
            return
        try:
            await self._member.delete(kind, str(meta["name"]), str(meta["namespace"]), uid=str(meta["uid"]))
        except ConflictError:
            # Another object has the name by now: ours is gone.
            return

    async def _ensure_namespace(self, name: str, tenant: str) -> None:
        ours = {HUB_LABEL: self._identity.hub_uid, TENANT_LABEL: tenant}
        try:
            found = await self._member.get(NAMESPACES, name)
        except NotFoundError:
            try:
                found = await self._member.create(
                    NAMESPACES, {"metadata": {"name": name, "labels": {**ours, **RESTRICTED}}}
                )
            except AlreadyExistsError:
                found = await self._member.get(NAMESPACES, name)
        labels, meta = labels_of(found), found["metadata"]
        if any(labels.get(key) != value for key, value in ours.items()):
            raise InvalidResourceError(
                ConditionReason.NAMESPACE_TAKEN,
                f"namespace {name} on the member is not ours; its owner may label it "
                + " and ".join(f"{key}={value}" for key, value in ours.items()),
            )
        if meta.get("deletionTimestamp"):
            raise InvalidResourceError(
                ConditionReason.NAMESPACE_TERMINATING, f"namespace {name} on the member is being deleted"
            )
        if any(labels.get(key) != value for key, value in RESTRICTED.items()):
            guard = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
            await self._member.patch(NAMESPACES, name, "", {"metadata": {**guard, "labels": RESTRICTED}})
        self._namespaces[name] = time.monotonic()


def _weight(event: JSONObject) -> tuple[bool, str]:
    """The newest Event weighs most; one that only repeats a state, as in ``Error: ImagePullBackOff``, weighs least."""
    return not str(event.get("message", "")).startswith("Error: "), str(event.get("lastTimestamp") or "")
