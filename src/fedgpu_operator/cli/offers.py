"""``fedgpu offers``: what can be rented now, one row per provider and GPU product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedgpu_operator.cli.common import ContextOption, Output, OutputOption, plain_table, print_data, with_hub

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.api.gpuprovider import GPUProvider

NAME: Final = "offers"


def command(output: OutputOption = Output.TABLE, context: ContextOption = None) -> None:
    """List live offers: provider, product, country and whether it is audited, price, free GPUs, state, claims."""

    async def fetch(hub: KubeClient) -> list[GPUProvider]:
        from fedgpu_operator.api.gpuprovider import GPUProvider
        from fedgpu_operator.ports import ResourceType

        objects, _ = await hub.list(ResourceType.of(GPUProvider.info))
        return [GPUProvider.parse(each) for each in objects]

    rows = [row for provider in with_hub(fetch, context) for row in offers_of(provider)]
    rows.sort(key=lambda row: (row["product"], float(row["pricePerGPUHour"]), row["provider"]))
    print_data(output, {"offers": rows}, lambda: [table(rows)])


def offers_of(provider: GPUProvider) -> list[JSONObject]:
    """One row per product; `free` and `total` are None where the member has not reported that product yet."""
    inventory = {each.product: each for each in provider.status.inventory}
    location = provider.spec.location
    # Where the hub has said so of the location as it is now, and it alone knows whether its word is worth something.
    audited = provider.status.location_audited and provider.location_audited
    rows = []
    for offer in provider.spec.offers:
        seen = inventory.get(offer.product)
        rows.append(
            {
                "provider": provider.metadata.name,
                "product": offer.product,
                "country": location.country,
                "region": location.region or "",
                "location": "audited" if audited else "self-declared",
                "pricePerGPUHour": offer.price_per_gpu_hour,
                "free": seen.free if seen else None,
                "total": seen.total if seen else None,
                "maxGPUs": offer.max_gpus,
                "state": provider.status.state,
                "compliance": list(provider.spec.compliance),
            }
        )
    return rows


def table(rows: list[JSONObject]) -> Table | str:
    """The same for people."""
    if not rows:
        return "No offers: no GPUProvider has been applied yet."
    result = plain_table(
        "PROVIDER",
        "PRODUCT",
        "COUNTRY",
        "REGION",
        "LOCATION",
        "USD/GPU-HOUR",
        "FREE/TOTAL",
        "STATE",
        "CLAIMS",
        right=("USD/GPU-HOUR", "FREE/TOTAL"),
    )
    for row in rows:
        known = "?" if row["total"] is None else f"{row['free']}/{row['total']}"
        result.add_row(
            row["provider"],
            row["product"],
            row["country"],
            row["region"] or "-",
            row["location"],
            row["pricePerGPUHour"],
            known,
            row["state"],
            ", ".join(row["compliance"]) or "-",
        )
    return result
