"""How the agent marks what is its own on a member, and knows it again; pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computelease import (
    JOB_UID_LABEL,
    LEASE_LABEL,
    PROVIDER_LABEL,
    TENANT_LABEL,
    ComputeLease,
)

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
