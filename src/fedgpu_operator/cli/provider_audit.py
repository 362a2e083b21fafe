"""``fedgpu provider audit``: show, confirm or withdraw what a platform admin knows of where a provider stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.common import ContextOption, show_noted

if TYPE_CHECKING:
    from fedgpu_operator.api.gpuprovider import GPUProvider


def audit(
    name: Annotated[str, typer.Argument(help="Name of the GPUProvider.")],
    confirm: Annotated[
        bool, typer.Option("--confirm", help="You have seen proof that the GPUs stand where the location says.")
    ] = False,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take a confirmation back.")] = False,
    context: ContextOption = None,
) -> None:
    """Say whether a provider's location is audited or the owner's word; confirm exactly the location that is shown."""
    from fedgpu_operator.api.gpuprovider import AUDIT_ANNOTATION

    show_noted(
        name,
        AUDIT_ANNOTATION,
        confirm=confirm,
        withdraw=withdraw,
        confirmed=lambda provider: provider.spec.location.audit_hash(),
        withdrawn=None,
        described=described,
        context=context,
    )


def described(provider: GPUProvider) -> str:
    """What the hub holds of the location, for people."""
    from fedgpu_operator.api.base import find
    from fedgpu_operator.api.gpuprovider import AUDIT_ANNOTATION
    from fedgpu_operator.hub.services.acceptance import AUDIT_NOT_ENFORCED, LOCATION_AUDITED

    location, said = provider.spec.location, find(provider.status.conditions, LOCATION_AUDITED)
    lines = [f"provider    {provider.metadata.name}", f"country     {location.country}"]
    if location.region is not None:
        lines.append(f"region      {location.region}")
    if location.latitude is not None and location.longitude is not None:
        lines.append(f"coordinates {location.latitude:g} north, {location.longitude:g} east")
    lines.append(f"hash        {location.audit_hash()}")
    if provider.location_audited and said is not None and said.reason == AUDIT_NOT_ENFORCED:
        lines.append(f"location    self-declared: {said.message}")
    elif provider.location_audited:
        lines.append("location    audited: a platform admin has confirmed exactly this")
    else:
        changed = AUDIT_ANNOTATION in provider.metadata.annotations
        why = "it changed after it was confirmed" if changed else "nobody has confirmed it"
        lines.append(f"location    self-declared: {why}")
        lines.append(f"to confirm  fedgpu provider audit {provider.metadata.name} --confirm")
    return "\n".join(lines) + "\n"
