"""Whether a provider and its location are accepted, by whose word, and which Secrets that makes its own; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, Literal

from fedgpu_operator.api.base import Finding, find
from fedgpu_operator.api.gpuprovider import (
    Acceptance,
    GPUProvider,
    GPUProviderSpec,
    GPUProviderStatus,
    SecretKeyRef,
)
from fedgpu_operator.api.reasons import ConditionReason

ACCEPTED: Final = "Accepted"

Mode = Literal["OnCreate", "Manual"]
SecretKey = tuple[str, str]
"""(Secret, key)."""


def secret_owners(providers: Iterable[GPUProvider]) -> dict[SecretKey, str]:
    """Which provider each key of a Secret belongs to: the one that was accepted with it first.

    What an unaccepted spec names owns nothing. A withdrawn acceptance owns until its provider is deleted or accepted
    with other Secrets, since work may still run on it.
    """
    owners: dict[SecretKey, str] = {}
    for _, provider, known in sorted(
        (
            ((known.accepted_at, str(provider.metadata.creation_timestamp), provider.metadata.name), provider, known)
            for provider in providers
            if (known := provider.status.acceptance) is not None
        ),
        key=lambda each: each[0],
    ):
        for ref in known.secret_keys():
            owners.setdefault((ref.name, ref.key), provider.metadata.name)
    return owners


def named_secrets(spec: GPUProviderSpec) -> list[SecretKeyRef]:
    """Every key of a Secret that a spec names."""
    signer = spec.payout.signer_key_secret_ref if spec.payout is not None else None
    return [spec.connection.kubeconfig_secret_ref, *([signer] if signer is not None else [])]


def secret_taken(provider: GPUProvider, owners: Mapping[SecretKey, str]) -> str:
    """Why the spec cannot be accepted: it names a key of a Secret that belongs to another; empty if it names none."""
    for ref in named_secrets(provider.spec):
        owner = owners.get((ref.name, ref.key), provider.metadata.name)
        if owner != provider.metadata.name:
            return f"Secret {ref.name} key {ref.key} belongs to provider {owner}, which was accepted with it first"
    return ""


def keeps_agent(provider: GPUProvider, known: Acceptance | None) -> bool:
    """Whether the connection that was accepted is in force: not withdrawn, and still the one that the spec names.

    Otherwise an agent runs, on that connection, only as long as leases of the provider are left.
    """
    return (
        known is not None
        and known.withdrawn_at is None
        and known.kubeconfig_secret_ref == provider.spec.connection.kubeconfig_secret_ref
    )


def kept_acceptance(provider: GPUProvider, now: datetime) -> Acceptance | None:
    """What was accepted before, marked as withdrawn if the spec asks for that."""
    known = provider.status.acceptance
    if known is None or known.withdrawn_at is not None or not provider.spec.acceptance.withdrawn:
        return known
    return known.model_copy(update={"withdrawn_at": now.replace(microsecond=0)})


def judge_acceptance(
    provider: GPUProvider, now: datetime, *, mode: Mode, enforced: bool, taken: str
) -> tuple[Finding, Acceptance | None]:
    """Condition `Accepted`, and the record of what was accepted as the status is to hold it from now on.

    `enforced` is whether this hub restricts who may accept; otherwise owners could, and nothing new is accepted.
    `taken` says why the Secrets of the spec cannot be its own.
    """
    known, digest = kept_acceptance(provider, now), provider.spec.acceptance_hash()
    withdrawn = known is not None and known.withdrawn_at is not None
    if known is not None and not withdrawn and known.hash in (digest, _of_an_older_record(provider, known)):
        return _finding("True", ConditionReason.ACCEPTED, f"accepted as {digest}"), Acceptance.of(
            provider.spec, known.accepted_at
        )
    if taken:
        return _finding("False", ConditionReason.SECRET_TAKEN, f"{taken}; name another Secret"), known
    asked = provider.spec.acceptance
    as_created = known is None and mode == "OnCreate" and _as_created(provider)
    if as_created or (asked.hash == digest and not asked.withdrawn):
        if enforced:
            record = Acceptance.of(provider.spec, now.replace(microsecond=0))
            return _finding("True", ConditionReason.ACCEPTED, f"accepted as {digest}"), record
        text = (
            "nothing on this hub restricts who may accept a provider, so owners could accept themselves; install the "
            "chart with rbac.confineByAdmission, or see FEDGPU_ACCEPTANCE_ENFORCED in docs/configuration.md"
        )
        return _finding("False", ConditionReason.ACCEPTANCE_NOT_ENFORCED, text), known
    fix = (
        f"who may update gpuproviders/accept accepts {digest} with: "
        f"fedgpu provider accept {provider.metadata.name} --confirm"
    )
    if withdrawn or asked.withdrawn:
        return _finding("False", ConditionReason.WITHDRAWN, f"a platform admin withdrew the acceptance; {fix}"), known
    if known is not None:
        why = "location, compliance, payout or connection changed, and the change has not been accepted"
        return _finding("False", ConditionReason.OFFER_CHANGED, f"{why}; {fix}"), known
    return _finding("False", ConditionReason.AWAITING_ACCEPTANCE, f"has not been accepted; {fix}"), None


def _of_an_older_record(provider: GPUProvider, known: Acceptance) -> str:
    """The hash as a release made it that recorded the hash alone, so that what it accepted stays so; else empty."""
    return "" if known.kubeconfig_secret_ref is not None else provider.spec.acceptance_hash(keys=False)


def _finding(status: Literal["True", "False"], reason: ConditionReason, message: str) -> Finding:
    return Finding(ACCEPTED, status, reason, message)


def _as_created(provider: GPUProvider) -> bool:
    """Whether all that an acceptance binds was written by people with the right to accept it.

    The chart's policy lets nobody else create a provider, or change what is bound, without `acceptance.awaited`; and
    nobody else takes that back.
    """
    asked = provider.spec.acceptance
    return not asked.awaited and not asked.withdrawn and asked.hash is None


LOCATION_AUDITED: Final = "LocationAudited"


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
        return Finding(LOCATION_AUDITED, "False", ConditionReason.AUDIT_NOT_ENFORCED, text)
    if provider.location_audited:
        return Finding(
            LOCATION_AUDITED,
            "True",
            ConditionReason.AUDITED,
            f"a platform admin has confirmed that it stands in {place}",
        )
    fix = f"a platform admin confirms it with: fedgpu provider audit {name} --confirm"
    if provider.spec.location_audit.hash is not None:
        text = f"the location is not the one that was confirmed; {fix}"
        return Finding(LOCATION_AUDITED, "False", ConditionReason.LOCATION_CHANGED, text)
    return Finding(LOCATION_AUDITED, "False", ConditionReason.SELF_DECLARED, f"{place} is the owner's word; {fix}")


def audit_lost(before: GPUProviderStatus, after: GPUProviderStatus) -> str:
    """What to tell people where an audit has just ended; empty where none has."""
    was, now = (find(status.conditions, LOCATION_AUDITED) for status in (before, after))
    if was is None or now is None or was.status != "True" or now.status == "True":
        return ""
    return now.message
