"""Whether a platform admin has confirmed where a provider stands; pure, no IO."""

from __future__ import annotations

from typing import Final

from fedgpu_operator.api.conditions import Finding, find
from fedgpu_operator.api.gpuprovider import AUDIT_ANNOTATION, GPUProvider, GPUProviderStatus

LOCATION_AUDITED: Final = "LocationAudited"
AUDITED: Final = "Audited"
SELF_DECLARED: Final = "SelfDeclared"
LOCATION_CHANGED: Final = "LocationChanged"
NOT_ENFORCED: Final = "AuditNotEnforced"


def location_finding(provider: GPUProvider, *, audits: bool) -> Finding:
    """Condition `LocationAudited`: True only while the location is the one that was confirmed.

    `audits` is whether this hub holds who may confirm one; where it does not, an owner could, and nothing is audited.
    """
    name, location = provider.metadata.name, provider.spec.location
    place = f"{location.country}, {location.region}" if location.region else location.country
    if provider.location_audited and not audits:
        text = (
            f"{place} counts as the owner's word: nothing on this hub keeps owners from confirming it themselves; "
            "install the chart with rbac.confineByAdmission, or see FEDGPU_LOCATION_AUDIT in docs/configuration.md"
        )
        return Finding(LOCATION_AUDITED, "False", NOT_ENFORCED, text)
    if provider.location_audited:
        return Finding(LOCATION_AUDITED, "True", AUDITED, f"a platform admin has confirmed that it stands in {place}")
    fix = f"a platform admin confirms it with: fedgpu provider audit {name} --confirm"
    if AUDIT_ANNOTATION in provider.metadata.annotations:
        text = f"the location is not the one that was confirmed; {fix}"
        return Finding(LOCATION_AUDITED, "False", LOCATION_CHANGED, text)
    return Finding(LOCATION_AUDITED, "False", SELF_DECLARED, f"{place} is the owner's word; {fix}")


def audit_lost(before: GPUProviderStatus, after: GPUProviderStatus) -> str:
    """What to tell people where an audit has just ended; empty where none has."""
    was, now = (find(status.conditions, LOCATION_AUDITED) for status in (before, after))
    if was is None or now is None or was.status != "True" or now.status == "True":
        return ""
    return now.message
