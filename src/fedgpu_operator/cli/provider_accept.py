"""``fedgpu provider accept``: show, accept or withdraw what a provider binds itself to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.common import ContextOption, with_hub
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from fedgpu_operator.adapters.kube.client import KubeClient
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
    if confirm and withdraw:
        raise ConfigurationError("--confirm and --withdraw contradict each other")

    async def work(hub: KubeClient) -> GPUProvider:
        from fedgpu_operator.api.gpuprovider import ACCEPT_ANNOTATION, WITHDRAWN, GPUProvider
        from fedgpu_operator.ports import ResourceType

        kind = ResourceType.of(GPUProvider.info)
        provider = GPUProvider.parse(await hub.get(kind, name))
        if not confirm and not withdraw:
            return provider
        # Guarded: what is accepted is the spec that was read here, whatever its owner writes meanwhile.
        value = provider.spec.acceptance_hash() if confirm else WITHDRAWN
        meta = {**provider.metadata.guard(), "annotations": {ACCEPT_ANNOTATION: value}}
        return GPUProvider.parse(await hub.patch(kind, name, "", {"metadata": meta}))

    sys.stdout.write(described(with_hub(work, context)))


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
    from fedgpu_operator.api.conditions import find
    from fedgpu_operator.api.gpuprovider import ACCEPT_ANNOTATION, WITHDRAWN
    from fedgpu_operator.hub.acceptance import NOT_ENFORCED, TAKEN

    name, known = provider.metadata.name, provider.status.acceptance
    noted, digest = provider.metadata.annotations.get(ACCEPT_ANNOTATION), provider.spec.acceptance_hash()
    said = find(provider.status.conditions, "Accepted")
    fix = f"to accept   fedgpu provider accept {name} --confirm"
    if noted == WITHDRAWN:
        return ["acceptance  withdrawn: no new work; leases that are left are metered to their end", fix]
    if provider.accepted and known is not None:
        return [f"acceptance  accepted on {known.accepted_at:%Y-%m-%d %H:%M} UTC: exactly this"]
    if said is not None and said.reason in (NOT_ENFORCED, TAKEN):
        return [f"acceptance  refused: {said.message}"]
    if noted == digest:
        return ["acceptance  given: exactly this; the operator takes it with its next pass"]
    if known is not None:
        return ["acceptance  of an earlier spec, which alone is in force: this one waits and has no effect", fix]
    return ["acceptance  none: nothing is dialled and nothing is placed there", fix]


def _secret(ref: SecretKeyRef) -> str:
    return f"Secret {ref.name} key {ref.key}"
