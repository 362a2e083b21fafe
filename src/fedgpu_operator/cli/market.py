"""``fedgpu market``: what a GPU-hour costs now by product and region, how deep offers are, and beside the clouds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.common import ContextOption, Output, OutputOption, plain_table, print_data, with_hub
from fedgpu_operator.cli.options import OperatorNamespaceOption

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.domain.market import Market, PriceBucket
    from fedgpu_operator.hub.services.market import MarketDocument

NAME: Final = "market"
STEPS: Final = 3
"""Steps of the offers' depth that a table shows."""
WIDTH: Final = 48
"""Longest line of history in a table."""
HOUR, DAY = 3600, 86400
COMMON: Final = ("GLOBAL", "EU")
"""Regions that a table shows first."""
FIGURES: Final = ("FREE", "WANTED", "UNMET", "CLEARING", "VS GPU CLOUD", "VS HYPERSCALER")


def command(
    product: Annotated[str, typer.Option("--product", help="Only products whose name contains this.")] = "",
    region: Annotated[
        str, typer.Option("--region", help="Only this region: GLOBAL, EU, EEA, a country, or an owner's region.")
    ] = "",
    history: Annotated[
        str, typer.Option("--history", help="How far back: up to 48h by the hour, up to 30d by the day.")
    ] = "24h",
    output: OutputOption = Output.TABLE,
    operator_namespace: OperatorNamespaceOption = "fedgpu-system",
    context: ContextOption = None,
) -> None:
    """Show the market: free GPUs by price, clearing prices, spread to central clouds, history."""
    back = duration_of(history)

    async def fetch(hub: KubeClient) -> MarketDocument:
        from fedgpu_operator.hub.services.market import published_market

        return await published_market(hub, operator_namespace)

    document = shown(with_hub(fetch, context), product, region, back)
    print_data(output, document, lambda: render(document))


def duration_of(text: str) -> timedelta:
    """``36h`` or ``7d``; ConfigurationError that names the option for anything else, or more than 30 days."""
    from fedgpu_operator.errors import ConfigurationError

    number, unit = text[:-1], text[-1:]
    if number.isascii() and number.isdigit() and unit in ("h", "d") and int(number) > 0:
        back = timedelta(hours=int(number)) if unit == "h" else timedelta(days=int(number))
        if back <= timedelta(days=30):
            return back
    raise ConfigurationError(f"--history: must be hours or days up to 30d, such as 24h or 7d, not {text!r}")


def shown(found: MarketDocument, product: str, region: str, back: timedelta) -> JSONObject:
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
        "markets": [market_of(market, found, back, step) for market in chosen],
    }


def market_of(market: Market, found: MarketDocument, back: timedelta, step: int) -> JSONObject:
    """One market; `high` is None where the clearing price has no upper end."""
    from fedgpu_operator.cli.clouds import PRICES
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
    """Hours or days of one market, oldest first; None where the hub published no history."""
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
    from dataclasses import replace

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


def instant(at: datetime) -> str:
    """RFC 3339 in UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def render(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    rows = [row for row in document["markets"] if document["regionAsked"] or is_common(row["region"])]
    rows.sort(key=lambda row: (row["product"], COMMON.index(row["region"]) if row["region"] in COMMON else len(COMMON)))
    if not document["markets"]:
        return ["No such market: no provider offers that product there. Leave --product and --region out to see all."]
    unit = "h" if document["historyStepSeconds"] == HOUR else "d"
    longest = max((len(row["history"] or ()) for row in rows), default=0)
    past = f"LAST {min(longest, WIDTH)}{unit}"
    table = plain_table("PRODUCT", "REGION", *FIGURES, "FREE GPUS @ USD", past, right=FIGURES)
    for row in rows:
        table.add_row(
            row["product"],
            row["region"],
            str(row["free"]),
            str(row["wanted"]),
            str(row["unmet"]),
            interval(row["clearing"]),
            _versus(row, "GPUCloud"),
            _versus(row, "Hyperscaler"),
            _depth(row["depth"]),
            _line(row["history"]),
        )
    return [table, "", *_notes(document, rows)]


def is_common(region: str) -> bool:
    """Whether a table shows the region unasked: all, groups and countries; owners' own names fill a screen."""
    from fedgpu_operator.domain.geo import is_country

    return region in COMMON or is_country(region)


def interval(clearing: JSONObject) -> str:
    """``2.00``, ``2.00-2.50``, or ``2.50+`` where there is no upper end."""
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
    return (f"{steps}, {more} dearer" if more else steps) or "none"


def _line(history: list[JSONObject] | None) -> str:
    from fedgpu_operator.cli.sparkline import sparkline

    if not history:
        return "-"
    return sparkline([float(each["high"] or each["low"]) for each in history[-WIDTH:]])


def counted(number: int, what: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _notes(document: JSONObject, rows: list[JSONObject]) -> list[Table | str]:
    proof = "proven optimal" if document["proven"] else "a bound, not proven"
    waiting = document["waiting"]
    demand = f"{counted(waiting['jobs'], 'job')} for {counted(waiting['gpus'], 'GPU')}"
    lines: list[Table | str] = [
        f"As of {document['at']}. Waiting: {demand}. Prices {proof}.",
        "CLEARING is what one more GPU-hour costs now, in USD: + means that some waiting work would then go without.",
    ]
    clouds = {f"{each['name']} {each['price']} ({each['asOf']})": None for row in rows for each in row["clouds"]}
    if clouds:
        lines.append(f"Cloud list prices: {', '.join(clouds)}; sources with -o json.")
    if any(row["history"] is None for row in rows):
        lines.append("The hub's history is too large to publish; it is in the ledger.")
    return lines
