"""From what people call a tenant or a provider to its wallet: an address as it is, a name by the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from fedgpu_operator.api.gpuprovider import GPUProvider


async def provider_wallet(named: str, context: str | None) -> str:
    """The payout wallet of a provider that is named by its address, or by its GPUProvider on the hub.

    Raises ConfigurationError for a provider without a payout wallet or a mistyped address, the KubeError tree.
    """
    from fedgpu_operator.cli.target import address

    if named.startswith("0x"):
        return address("--provider", named)
    wallets = await payout_wallets(context, named)
    if named not in wallets:
        raise ConfigurationError(f"GPUProvider {named} names no payout wallet")
    return wallets[named]


async def payout_wallets(context: str | None, named: str = "") -> dict[str, str]:
    """The payout wallets of the hub's GPUProviders by their names, or of the one that is named."""
    from fedgpu_operator.adapters.kube.connect import connect
    from fedgpu_operator.api.gpuprovider import GPUProvider
    from fedgpu_operator.cli.target import address
    from fedgpu_operator.ports import ResourceType

    kind = ResourceType.of(GPUProvider.info)
    hub = await connect(context)
    try:
        objects = [await hub.get(kind, named)] if named else (await hub.list(kind))[0]
    finally:
        await hub.close()
    providers: list[GPUProvider] = [GPUProvider.parse(each) for each in objects]
    return {
        each.metadata.name: address("the provider's payout wallet", each.spec.payout.address)
        for each in providers
        if each.spec.payout is not None
    }


async def account_wallet(namespace: str | None, context: str | None) -> str:
    """The wallet that the namespace's ComputeAccount on the hub names; raises the KubeError tree."""
    from fedgpu_operator.adapters.kube.connect import connect
    from fedgpu_operator.api.computeaccount import ComputeAccount
    from fedgpu_operator.cli.common import namespace_of
    from fedgpu_operator.cli.target import address
    from fedgpu_operator.ports import ResourceType

    space = namespace_of(context, namespace)
    hub = await connect(context)
    try:
        found = await hub.get(ResourceType.of(ComputeAccount.info), "default", space)
    finally:
        await hub.close()
    return address("the account's wallet", ComputeAccount.parse(found).spec.wallet)
