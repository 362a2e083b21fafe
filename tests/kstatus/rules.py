"""What kstatus (fluxcd/cli-utils, pkg/kstatus) reads from a custom resource, restated from its documentation.

`make test-kstatus` holds this against the real one, over the same objects.
"""

from __future__ import annotations

from typing import Literal

from fedgpu_operator.api.base import JSONObject

Word = Literal["InProgress", "Failed", "Current", "Terminating"]


def kstatus(obj: JSONObject) -> Word:
    """The word for an object of a kind that kstatus has no rules of its own for."""
    meta, status = obj["metadata"], obj.get("status", {})
    if meta.get("deletionTimestamp"):
        return "Terminating"
    observed = status.get("observedGeneration")
    if meta.get("generation") and observed is not None and observed != meta["generation"]:
        return "InProgress"
    for condition in status.get("conditions", []):
        if condition["status"] == "True" and condition["type"] == "Reconciling":
            return "InProgress"
        if condition["status"] == "True" and condition["type"] == "Stalled":
            return "Failed"
    ready = [condition["status"] for condition in status.get("conditions", []) if condition["type"] == "Ready"]
    return "Current" if not ready or ready[0] == "True" else "InProgress"
