"""``fedgpu provider``: accept and audit a provider, name its keys, measure its round trips."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.common import (
    ContextOption,
    KeyOptions,
    NoWaitOption,
    Output,
    OutputOption,
    TargetOptions,
    address,
    instant,
    plain_table,
    print_data,
    register,
    say,
    with_hub,
)
from fedgpu_operator.cli.prove import prove_provider
from fedgpu_operator.cli.supply import provider_check, provider_nodes
from fedgpu_operator.cli.wallets import session
from fedgpu_operator.domain.text import clean, counted
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from fedgpu_operator.adapters.chain import ProviderWallet
    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.api.gpuprovider import GPUProvider, SecretKeyRef
    from fedgpu_operator.api.providerreport import ProbeResult
    from fedgpu_operator.cli.wallets import WalletSession

app = typer.Typer(no_args_is_help=True, help="Accept and audit providers; manage your own.")


@register(app, "accept")
def accept(
    name: Annotated[str, typer.Argument(help="Name of the GPUProvider.")],
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Accept exactly the location, claims, payout and connection shown.")
    ] = False,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Withdraw the acceptance: no new work; running work ends as usual.")
    ] = False,
    context: ContextOption = None,
) -> None:
    """Show or accept what a provider commits to.

    Without an option nothing is changed; --confirm accepts exactly what is shown.
    """
    _show_confirmed(
        name,
        confirm=confirm,
        withdraw=withdraw,
        confirmed=lambda provider: {"acceptance": {"hash": provider.spec.acceptance_hash(), "withdrawn": None}},
        # A hash that stayed here would accept again as soon as `withdrawn` is taken away.
        withdrawn={"acceptance": {"hash": None, "withdrawn": True}},
        described=_acceptance,
        context=context,
    )


def _acceptance(provider: GPUProvider) -> str:
    """What an acceptance covers of the provider, and whether it is accepted, for people."""
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
    from fedgpu_operator.api.reasons import ConditionReason

    name, known = provider.metadata.name, provider.status.acceptance
    asked = provider.spec.acceptance
    said = find(provider.status.conditions, "Accepted")
    fix = f"to accept   fedgpu provider accept {name} --confirm"
    if asked.withdrawn:
        return ["acceptance  withdrawn: no new work; remaining leases are metered to their end", fix]
    if provider.accepted and known is not None:
        return [f"acceptance  accepted as shown on {instant(known.accepted_at)}"]
    if said is not None and said.reason in (ConditionReason.ACCEPTANCE_NOT_ENFORCED, ConditionReason.SECRET_TAKEN):
        return [f"acceptance  refused: {said.message}"]
    if asked.hash == provider.spec.acceptance_hash():
        return ["acceptance  given as shown; the operator applies it with its next pass"]
    if known is not None:
        return [
            "acceptance  of an earlier spec, which stays in force until this one is accepted",
            fix,
        ]
    return ["acceptance  none: the operator does not connect to the provider and places nothing there", fix]


def _secret(ref: SecretKeyRef) -> str:
    return f"Secret {ref.name} key {ref.key}"


@register(app, "audit")
def audit(
    name: Annotated[str, typer.Argument(help="Name of the GPUProvider.")],
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Confirm the location shown, after proof that the GPUs are there.")
    ] = False,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Withdraw the confirmation.")] = False,
    context: ContextOption = None,
) -> None:
    """Show or confirm where a provider's GPUs are.

    Without an option nothing is changed; --confirm confirms exactly the location shown.
    """
    _show_confirmed(
        name,
        confirm=confirm,
        withdraw=withdraw,
        confirmed=lambda provider: {"locationAudit": {"hash": provider.spec.location.audit_hash()}},
        withdrawn={"locationAudit": None},
        described=_audit,
        context=context,
    )


def _audit(provider: GPUProvider) -> str:
    """What the hub holds of the location, for people."""
    from fedgpu_operator.api.base import find
    from fedgpu_operator.api.reasons import ConditionReason
    from fedgpu_operator.hub.views.trust import LOCATION_AUDITED

    location, said = provider.spec.location, find(provider.status.conditions, LOCATION_AUDITED)
    lines = [f"provider    {provider.metadata.name}", f"country     {location.country}"]
    if location.region is not None:
        lines.append(f"region      {location.region}")
    if location.latitude is not None and location.longitude is not None:
        lines.append(f"coordinates {location.latitude} north, {location.longitude} east")
    lines.append(f"hash        {location.audit_hash()}")
    if provider.location_audited and said is not None and said.reason == ConditionReason.AUDIT_NOT_ENFORCED:
        lines.append(f"location    self-declared: {said.message}")
    elif provider.location_audited:
        lines.append("location    audited: confirmed as shown by a platform admin")
    else:
        changed = provider.spec.location_audit.hash is not None
        why = "changed after it was confirmed" if changed else "not confirmed"
        lines.append(f"location    self-declared: {why}")
        lines.append(f"to confirm  fedgpu provider audit {provider.metadata.name} --confirm")
    return "\n".join(lines) + "\n"


def _show_confirmed(
    name: str,
    *,
    confirm: bool,
    withdraw: bool,
    confirmed: Callable[[GPUProvider], JSONObject],
    withdrawn: JSONObject,
    described: Callable[[GPUProvider], str],
    context: str | None,
) -> None:
    """Print a GPUProvider as `described`, after its spec was patched if `confirm` or `withdraw` is given.

    To `confirm` writes `confirmed` of the provider, to `withdraw` writes `withdrawn`; both are merged into the spec.
    Raises ConfigurationError if both are given, and the KubeError tree.
    """
    if confirm and withdraw:
        raise ConfigurationError("--confirm and --withdraw exclude each other: give one of them")

    async def work(hub: KubeClient) -> GPUProvider:
        from fedgpu_operator.api.gpuprovider import GPUProvider
        from fedgpu_operator.ports import ResourceType

        kind = ResourceType.of(GPUProvider.info)
        provider = GPUProvider.parse(await hub.get(kind, name))
        if not confirm and not withdraw:
            return provider
        # Guarded: what is confirmed is what was read here, whatever its owner writes meanwhile.
        spec = confirmed(provider) if confirm else withdrawn
        return GPUProvider.parse(await hub.patch(kind, name, "", {"metadata": provider.metadata.guard(), "spec": spec}))

    sys.stdout.write(clean(described(with_hub(work, context))))


@register(app, "drain")
def drain(
    name: Annotated[str, typer.Argument(help="Name of the GPUProvider.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let the provider be given work again.")] = False,
    context: ContextOption = None,
) -> None:
    """Place nothing new on a provider, and empty it.

    Work that may be moved leaves; other work stays to its end. The condition Draining says how much is left.
    """

    async def work(hub: KubeClient) -> GPUProvider:
        from fedgpu_operator.api.gpuprovider import GPUProvider
        from fedgpu_operator.ports import ResourceType

        kind = ResourceType.of(GPUProvider.info)
        return GPUProvider.parse(await hub.patch(kind, name, "", {"spec": {"drain": None if undo else True}}))

    leases = counted(with_hub(work, context).status.leases, "lease")
    what = "no longer drained" if undo else f"draining; {leases} there now"
    sys.stdout.write(f"gpuprovider/{name} {what}\n")


register(app, "prove")(prove_provider)
register(app, "nodes")(provider_nodes)
register(app, "check")(provider_check)


@register(app, "keys")
def set_keys(
    target: TargetOptions,
    keys: KeyOptions,
    signer: Annotated[
        str, typer.Option("--signer", help="Account whose key signs receipts, as of the agent; default: yours.")
    ] = "",
    payee: Annotated[str, typer.Option("--payee", help="Account that is paid; default: yours.")] = "",
    no_wait: NoWaitOption = False,
) -> None:
    """Set the payee and the receipt signer of a provider.

    Signed by the payout wallet's own key; payee and signer must differ.
    """
    asyncio.run(_named(target, keys, payee, signer, wait=not no_wait))


async def _named(given: TargetOptions, keys: KeyOptions, payee: str, signer: str, *, wait: bool) -> None:
    from fedgpu_operator.adapters.chain import ProviderWallet

    keys.check()
    paid = address("--payee", payee) if payee else ""
    signs = address("--signer", signer) if signer else ""
    async with session(ProviderWallet, given, keys) as at:
        me = str(at.wallet.address)
        if (paid or me) == (signs or me):
            raise ConfigurationError(
                f"payee and receipt signer are both {signs or me}, so a stolen receipt key could take the money: name "
                "another account with --signer or --payee"
            )
        await _send(at, paid or None, signs or None, wait=wait)


async def _send(at: WalletSession[ProviderWallet], payee: str | None, signer: str | None, *, wait: bool) -> None:
    me = at.wallet.address

    async def act() -> str:
        await at.require_gas()
        say(f"keys: {payee or me} is paid what {me} earns; {signer or me} signs its receipts")
        return await at.wallet.set_provider(at.escrow.escrow, payee, signer)

    order = at.order("provider keys", "keys", {"payee": payee, "signer": signer}, state="keys")
    await at.final("keys", await at.once(order, act), wait=wait)


@register(app, "probe")
def probe(
    provider: Annotated[str, typer.Argument(help="Name of your GPUProvider.")],
    every: Annotated[float, typer.Option("--every", min=5, max=3600, help="Seconds between rounds.")] = 60,
    once: Annotated[bool, typer.Option("--once", help="Measure one round, then print it.")] = False,
    output: OutputOption = Output.TABLE,
    context: ContextOption = None,
) -> None:
    """Measure round trips to the hub's vantages.

    Run it in the cluster that offers the GPUs, with an identity on the hub that may get the ProviderReport and patch
    the report's status. Only outbound connections are made. Without --once it repeats until it is stopped.
    """

    async def measure(hub: KubeClient) -> list[ProbeResult]:
        from fedgpu_operator.adapters.clock import SystemClock
        from fedgpu_operator.adapters.latency import HttpRoundTrips
        from fedgpu_operator.agent.prober import Prober
        from fedgpu_operator.errors import KubeError
        from fedgpu_operator.hub.services.workloads import provider_namespace

        async with HttpRoundTrips() as trips:
            prober = Prober(provider, provider_namespace(provider), hub, trips, SystemClock())
            results = await prober.round_once()
            while not once:
                await asyncio.sleep(every)
                try:
                    await prober.round_once()
                except KubeError as error:
                    say(f"warning: {error}; next round in {every:g} s")
            return results

    results = with_hub(measure, context)
    print_data(output, {"probes": [each.to_wire() for each in results]}, lambda: [_probe_table(results)])


def _probe_table(results: list[ProbeResult]) -> Table | str:
    """The same for people."""
    if not results:
        return "Nothing measured: the hub lists no vantages, or none of them responded."
    columns = ("P50 MS", "P95 MS", "SAMPLES")
    result = plain_table("VANTAGE", *columns, "MEASURED AT", right=columns)
    for each in results:
        figures = (f"{each.p50_ms:.1f}", f"{each.p95_ms:.1f}", str(each.samples))
        result.add_row(each.vantage, *figures, instant(each.measured_at))
    return result
