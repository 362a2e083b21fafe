"""``fedgpu market`` and ``fedgpu offers``: prices and free GPUs now, with list prices of clouds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.common import (
    OPERATOR_NAMESPACE,
    ContextOption,
    OperatorNamespaceOption,
    Output,
    OutputOption,
    hours_or_days,
    instant,
    plain_table,
    print_data,
    with_hub,
)
from fedgpu_operator.domain.text import counted
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.api.gpuprovider import GPUProvider
    from fedgpu_operator.domain.market import Market, PriceBucket
    from fedgpu_operator.hub.services.market import MarketDocument


GPU_CLOUD: Final = "GPUCloud"
HYPERSCALER: Final = "Hyperscaler"
STEPS: Final = 3
"""Steps of the offers' depth that a table shows."""
WIDTH: Final = 48
"""Longest line of history in a table."""
HOUR, DAY = 3600, 86400
COMMON: Final = ("GLOBAL", "EU")
"""Regions that a table shows first."""
HEIGHTS: Final = "▁▂▃▄▅▆▇█"
MARKET_FIGURES: Final = ("FREE", "WANTED", "UNMET", "CLEARING", "VS GPU CLOUD", "VS HYPERSCALER")


@dataclass(frozen=True, slots=True)
class CloudPrice:
    """What a cloud lists for one GPU of a product: `usd` per GPU-hour as a decimal string, read on the day `as_of`."""

    kind: str
    usd: str
    name: str
    as_of: str
    source: str


_MISSION: Final = "the project's reference prices, as in its demo"
_RUNPOD: Final = "https://www.runpod.io/pricing"
_LAMBDA: Final = "https://lambda.ai/pricing"
_NEBIUS: Final = "https://nebius.com/prices"
_AWS: Final = "https://aws.amazon.com/ec2/pricing/on-demand/"

PRICES: Final[dict[str, tuple[CloudPrice, ...]]] = {
    "NVIDIA-H100-80GB-HBM3": (
        CloudPrice(GPU_CLOUD, "2.49", "reference GPU cloud", "2026-11-23", _MISSION),
        CloudPrice(HYPERSCALER, "6.04", "reference hyperscaler", "2026-11-23", _MISSION),
    ),
    "NVIDIA-H100-PCIe": (CloudPrice(GPU_CLOUD, "3.29", "Lambda 1x H100 PCIe", "2026-09-25", _LAMBDA),),
    "NVIDIA-H100-NVL": (CloudPrice(GPU_CLOUD, "3.19", "RunPod Secure H100 NVL", "2026-09-25", _RUNPOD),),
    "NVIDIA-H200": (CloudPrice(GPU_CLOUD, "4.50", "Nebius HGX H200", "2026-09-25", _NEBIUS),),
    "NVIDIA-B200": (CloudPrice(GPU_CLOUD, "6.99", "Lambda 1x B200 SXM6", "2026-09-25", _LAMBDA),),
    "NVIDIA-A100-SXM4-80GB": (
        CloudPrice(GPU_CLOUD, "1.59", "RunPod Secure A100 SXM", "2026-09-25", _RUNPOD),
        CloudPrice(HYPERSCALER, "3.4309", "AWS p4de.24xlarge, us-east-1", "2026-11-09", _AWS),
    ),
    "NVIDIA-A100-SXM4-40GB": (
        CloudPrice(GPU_CLOUD, "1.99", "Lambda 1x A100 SXM 40GB", "2026-09-25", _LAMBDA),
        CloudPrice(HYPERSCALER, "2.7447", "AWS p4d.24xlarge, us-east-1", "2026-11-09", _AWS),
    ),
    "NVIDIA-A100-80GB-PCIe": (CloudPrice(GPU_CLOUD, "1.59", "RunPod Secure A100 PCIe", "2026-09-25", _RUNPOD),),
    "NVIDIA-L40S": (CloudPrice(GPU_CLOUD, "1.55", "Nebius L40S", "2026-09-25", _NEBIUS),),
    "NVIDIA-A10": (CloudPrice(GPU_CLOUD, "1.29", "Lambda 1x A10", "2026-09-25", _LAMBDA),),
    "NVIDIA-GeForce-RTX-4090": (CloudPrice(GPU_CLOUD, "0.74", "RunPod Secure RTX 4090", "2026-09-25", _RUNPOD),),
}
"""By the value of `nvidia.com/gpu.product`."""


def market(
    product: Annotated[str, typer.Option("--product", help="Show only products whose name contains this.")] = "",
    region: Annotated[
        str, typer.Option("--region", help="Show only this region: GLOBAL, EU, EEA, a country, or an owner's region.")
    ] = "",
    history: Annotated[
        str, typer.Option("--history", help="Length of the history: up to 48h by the hour, up to 30d by the day.")
    ] = "24h",
    output: OutputOption = Output.TABLE,
    operator_namespace: OperatorNamespaceOption = OPERATOR_NAMESPACE,
    context: ContextOption = None,
) -> None:
    """Show prices and free GPUs by product and region.

    Compares clearing prices with list prices of clouds and with the past.
    """
    back = history_option(history)

    async def fetch(hub: KubeClient) -> MarketDocument:
        from fedgpu_operator.hub.services.market import published_market

        return await published_market(hub, operator_namespace)

    document = market_document(with_hub(fetch, context), product, region, back)
    print_data(output, document, lambda: market_text(document))


def history_option(text: str) -> timedelta:
    """``36h`` or ``7d``; ConfigurationError that names the option for anything else, nothing, or more than 30 days."""
    back = hours_or_days("--history", text)
    if not timedelta(0) < back <= timedelta(days=30):
        raise ConfigurationError(f"--history: {text!r} is out of range: give 1h to 30d")
    return back


def market_document(found: MarketDocument, product: str, region: str, back: timedelta) -> JSONObject:
    """The markets asked for, as data: money in decimal strings of USD per GPU-hour, instants in UTC."""
    chosen = [
        market
        for market in found.markets
        if product.lower() in market.point.product.lower() and region in ("", market.point.region)
    ]
    step = HOUR if back <= timedelta(hours=48) else DAY
    return {
        "at": instant(found.at),
        "proven": found.certified,
        "waiting": {"jobs": found.waiting_jobs, "gpus": found.waiting_gpus},
        "historyStepSeconds": step,
        "regionAsked": region or None,
        "markets": [market_row(market, found, back, step) for market in chosen],
    }


def market_row(market: Market, found: MarketDocument, back: timedelta, step: int) -> JSONObject:
    """One market; `high` is None if the clearing price has no upper end."""
    from fedgpu_operator.domain.money import format_usd, parse_usd

    point = market.point
    reached, depth = 0, []
    for price, gpus in market.depth:
        reached += gpus
        depth.append({"price": format_usd(price), "gpus": gpus, "cumulative": reached})
    now = point.high
    return {
        "product": point.product,
        "region": point.region,
        "offers": market.offers,
        "free": point.free,
        "wanted": point.wanted,
        "unmet": point.unmet,
        "list": {"low": format_usd(point.cheapest), "high": format_usd(point.dearest)},
        "clearing": {"low": format_usd(point.low), "high": None if now is None else format_usd(now)},
        "depth": depth,
        "clouds": [
            {
                "kind": cloud.kind,
                "name": cloud.name,
                "price": cloud.usd,
                "asOf": cloud.as_of,
                "source": cloud.source,
                "spreadPercent": None if now is None else spread(now, parse_usd(cloud.usd)),
            }
            for cloud in PRICES.get(point.product, ())
        ],
        "history": history_of(point.market, found, back, step),
    }


def spread(price: int, cloud: int) -> float:
    """How much dearer than the cloud, in percent of the cloud's price: negative is cheaper."""
    return round(100 * (price - cloud) / cloud, 1)


def history_of(key: tuple[str, str], found: MarketDocument, back: timedelta, step: int) -> list[JSONObject] | None:
    """Hours or days of one market, oldest first; None if the hub published no history."""
    from fedgpu_operator.domain.money import format_usd

    if found.history is None:
        return None
    mine = [each for each in found.history if each.seconds == step and each.last.market == key]
    return [
        {
            "start": instant(each.start),
            "low": format_usd(each.last.low),
            "high": None if each.last.high is None else format_usd(each.last.high),
            "least": format_usd(each.least),
            "greatest": format_usd(each.greatest),
            "free": each.last.free,
            "unmet": each.last.unmet,
        }
        for each in spans(mine, found.at, back)
    ]


def spans(buckets: Sequence[PriceBucket], now: datetime, back: timedelta) -> list[PriceBucket]:
    """One per hour or day from `back` before `now`: one without news has the figures of the one before it."""
    if not buckets:
        return []
    ordered = sorted(buckets, key=lambda each: each.start)
    step = timedelta(seconds=ordered[0].seconds)
    by_start = {each.start: each for each in ordered}
    result, start, known = [], ordered[0].start, ordered[0]
    while start <= now:
        held = by_start.get(start)
        # Without news the last point of the span before is all there was.
        known = held or replace(known, start=start, least=known.last.low, greatest=known.last.low)
        if start + step > now - back:
            result.append(known)
        start += step
    return result[-(back // step) or -1 :]


def market_text(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    rows = [row for row in document["markets"] if document["regionAsked"] or is_common(row["region"])]
    rows.sort(key=lambda row: (row["product"], COMMON.index(row["region"]) if row["region"] in COMMON else len(COMMON)))
    if not document["markets"]:
        return ["No market found: no provider offers this product there. Omit --product and --region to show all."]
    unit = "h" if document["historyStepSeconds"] == HOUR else "d"
    longest = max((len(row["history"] or ()) for row in rows), default=0)
    past = f"LAST {min(longest, WIDTH)}{unit}"
    table = plain_table("PRODUCT", "REGION", *MARKET_FIGURES, "FREE GPUS @ USD", past, right=MARKET_FIGURES)
    for row in rows:
        table.add_row(
            row["product"],
            row["region"],
            str(row["free"]),
            str(row["wanted"]),
            str(row["unmet"]),
            interval(row["clearing"]),
            _versus(row, GPU_CLOUD),
            _versus(row, HYPERSCALER),
            _depth(row["depth"]),
            _history_line(row["history"]),
        )
    return [table, "", *_notes(document, rows)]


def is_common(region: str) -> bool:
    """Whether a table shows the region by default: all, groups and countries; owners' own names fill a screen."""
    from fedgpu_operator.domain.geo import is_country

    return region in COMMON or is_country(region)


def interval(clearing: JSONObject) -> str:
    """``2.00``, ``2.00-2.50``, or ``2.50+`` if there is no upper end."""
    low, high = clearing["low"], clearing["high"]
    if high is None:
        return f"{low}+"
    return str(low) if low == high else f"{low}-{high}"


def _versus(row: JSONObject, kind: str) -> str:
    cloud = next((each for each in row["clouds"] if each["kind"] == kind), None)
    if cloud is None or cloud["spreadPercent"] is None:
        return "-"
    return f"{cloud['spreadPercent']:+.0f} %"


def _depth(depth: list[JSONObject]) -> str:
    steps = ", ".join(f"{each['gpus']} @ {each['price']}" for each in depth[:STEPS])
    more = sum(each["gpus"] for each in depth[STEPS:])
    return (f"{steps}, {more} at higher prices" if more else steps) or "none"


def sparkline(values: Sequence[float]) -> str:
    """One character of eight heights per value, from the least to the greatest; a level series stays at the bottom."""
    least, span = min(values, default=0), max(values, default=0) - min(values, default=0)
    return "".join(HEIGHTS[round((value - least) / span * (len(HEIGHTS) - 1)) if span else 0] for value in values)


def _history_line(history: list[JSONObject] | None) -> str:

    if not history:
        return "-"
    return sparkline([float(each["high"] or each["low"]) for each in history[-WIDTH:]])


def _notes(document: JSONObject, rows: list[JSONObject]) -> list[Table | str]:
    proof = "proven optimal" if document["proven"] else "an upper bound, not proven optimal"
    waiting = document["waiting"]
    demand = f"{counted(waiting['jobs'], 'job')} for {counted(waiting['gpus'], 'GPU')}"
    lines: list[Table | str] = [
        f"As of {document['at']}. Waiting: {demand}. Prices {proof}.",
        "CLEARING is what one more GPU-hour costs now, in USD; + means that some waiting work could not run then.",
    ]
    clouds = {f"{each['name']} {each['price']} ({each['asOf']})": None for row in rows for each in row["clouds"]}
    if clouds:
        lines.append(f"Cloud list prices: {', '.join(clouds)}; sources with -o json.")
    if any(row["history"] is None for row in rows):
        lines.append("History not published by the hub because of its size; it is in the ledger.")
    return lines


def offers(output: OutputOption = Output.TABLE, context: ContextOption = None) -> None:
    """List offers with price, free GPUs and location.

    Each with its state, its compliance claims, and whether its location is audited.
    """

    async def fetch(hub: KubeClient) -> list[GPUProvider]:
        from fedgpu_operator.api.gpuprovider import GPUProvider
        from fedgpu_operator.ports import ResourceType

        objects, _ = await hub.list(ResourceType.of(GPUProvider.info))
        return [GPUProvider.parse(each) for each in objects]

    rows = [row for provider in with_hub(fetch, context) for row in offer_rows(provider)]
    rows.sort(key=lambda row: (row["product"], float(row["pricePerGPUHour"]), row["provider"]))
    print_data(output, {"offers": rows}, lambda: [offers_table(rows)])


def offer_rows(provider: GPUProvider) -> list[JSONObject]:
    """One row per product; `free` and `total` are None if the member has not reported that product yet."""
    inventory = {each.product: each for each in provider.status.inventory}
    location = provider.spec.location
    # Confirmed for the location as it is now, by the hub, which alone knows whether audits are enforced.
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


def offers_table(rows: list[JSONObject]) -> Table | str:
    """The same for people."""
    if not rows:
        return "No offers found: no GPUProvider has been applied yet."
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
