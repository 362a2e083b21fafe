"""``fedgpu provider accept``: show, accept or withdraw what a provider binds itself to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.common import ContextOption, show_noted

if TYPE_CHECKING:
    from fedgpu_operator.api.gpuprovider import GPUProvider, SecretKeyRef


def accept(
    name: Annotated[str, typer.Argument(help="Name of the GPUProvider.")],
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Accept exactly the location, claims, payout and connection shown.")
    ] = False,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Withdraw the acceptance: no new work; what runs there ends as usual.")
    ] = False,
    context: ContextOption = None,
) -> None:
    """Show what a provider binds itself to and whether it is accepted; accept exactly what is shown, or withdraw."""
    from fedgpu_operator.api.gpuprovider import ACCEPT_ANNOTATION, WITHDRAWN

    show_noted(
        name,
        ACCEPT_ANNOTATION,
        confirm=confirm,
        withdraw=withdraw,
        confirmed=lambda provider: provider.spec.acceptance_hash(),
        withdrawn=WITHDRAWN,
        described=described,
        context=context,
    )


def described(provider: GPUProvider) -> str:
    """What an acceptance binds of the provider, and what the hub holds of it, for people."""
    spec, payout = provider.spec, provider.spec.payout
    place = f"{spec.location.country}, {spec.location.region}" if spec.location.region else spec.location.country
    lines = [
        f"provider    {provider.metadata.name}",
        f"location    {place}",
        f"compliance  {', '.join(spec.compliance) or 'none'}",
        f"connection  {_secret(spec.connection.kubeconfig_secret_ref)}",
        f"payout      {payout.address if payout is not None else 'none'}",
    ]
    if payout is not None and payout.signer is not None:
        ref = payout.signer_key_secret_ref
        lines.append(f"signer      {payout.signer}{f', {_secret(ref)}' if ref is not None else ''}")
    lines += [f"hash        {spec.acceptance_hash()}", *_standing(provider)]
    return "\n".join(lines) + "\n"


def _standing(provider: GPUProvider) -> list[str]:
    from fedgpu_operator.api.base import find
    from fedgpu_operator.api.gpuprovider import ACCEPT_ANNOTATION, WITHDRAWN
    from fedgpu_operator.hub.services.acceptance import ACCEPTANCE_NOT_ENFORCED, TAKEN

    name, known = provider.metadata.name, provider.status.acceptance
    noted, digest = provider.metadata.annotations.get(ACCEPT_ANNOTATION), provider.spec.acceptance_hash()
    said = find(provider.status.conditions, "Accepted")
    fix = f"to accept   fedgpu provider accept {name} --confirm"
    if noted == WITHDRAWN:
        return ["acceptance  withdrawn: no new work; leases that are left are metered to their end", fix]
    if provider.accepted and known is not None:
        return [f"acceptance  accepted on {known.accepted_at:%Y-%m-%d %H:%M} UTC: exactly this"]
    if said is not None and said.reason in (ACCEPTANCE_NOT_ENFORCED, TAKEN):
        return [f"acceptance  refused: {said.message}"]
    if noted == digest:
        return ["acceptance  given: exactly this; the operator takes it with its next pass"]
    if known is not None:
        return ["acceptance  of an earlier spec, which alone is in force: this one waits and has no effect", fix]
    return ["acceptance  none: nothing is dialled and nothing is placed there", fix]


def _secret(ref: SecretKeyRef) -> str:
    return f"Secret {ref.name} key {ref.key}"
