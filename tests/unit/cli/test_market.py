"""What `fedgpu market` says of a published market: figures as data, a table for people, and plain errors."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import yaml

from fedgpu_operator.cli.market import history_option, spans, sparkline
from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.market import Market, Premium, PriceBucket, PricePoint
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, Offer
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.hub.services.market import KEY, NAME, MarketDocument, QuotedOffer, packed

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import FakeHub

    Run = Callable[..., tuple[int, str, str]]

NOW = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)
H100 = "NVIDIA-H100-80GB-HBM3"
USD = 10**6


def point(region: str, low: float, high: float | None, *, product: str = H100, free: int = 8) -> PricePoint:
    return PricePoint(
        at=NOW,
        product=product,
        region=region,
        low=MicroUSD(round(low * USD)),
        high=None if high is None else MicroUSD(round(high * USD)),
        cheapest=MicroUSD(2 * USD),
        dearest=MicroUSD(6 * USD),
        free=free,
        wanted=5,
        unmet=0 if high is not None else 2,
    )


def bucket(start: datetime, low: float, *, seconds: int = 3600) -> PriceBucket:
    last = replace(point("DE", low, low), at=start + timedelta(minutes=1))
    return PriceBucket(start, seconds, last, last.low, MicroUSD(last.low + USD))


def document() -> MarketDocument:
    depth = ((MicroUSD(2 * USD), 3), (MicroUSD(2_500_000), 2), (MicroUSD(4 * USD), 1), (MicroUSD(5 * USD), 4))
    offer = Offer("berlin", GpuModel(H100, 81_559, "hopper"), MicroUSD(2 * USD), Location("DE"), {8: 1})
    return MarketDocument(
        at=NOW,
        certified=True,
        markets=(
            Market(point("DE", 2, 2.49), 2, depth),
            Market(point("GLOBAL", 2, None), 3, depth),
            Market(point("eu-central-1", 2, 2), 1, ()),
            Market(point("DE", 0.9, 0.9, product="NVIDIA-L4", free=0), 1, ()),
        ),
        offers=(QuotedOffer(offer, Premium(MicroUSD(0), MicroUSD(0)), 0),),
        history=(bucket(NOW.replace(hour=9, minute=0), 1), bucket(NOW.replace(hour=11, minute=0), 4)),
        window=24,
        waiting_jobs=2,
        waiting_gpus=7,
        default_deny=False,
        vantages=(),
    )


@pytest.fixture
def market(hub: FakeHub) -> FakeHub:
    data = base64.b64encode(packed(document())).decode()
    meta = {"name": NAME, "namespace": "fedgpu-system"}
    hub.objects.append({"kind": "ConfigMap", "metadata": meta, "binaryData": {KEY: data}})
    return hub


def test_every_figure_is_there_as_data(market: FakeHub, run: Run) -> None:
    code, out, err = run("market", "-o", "json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["at"], found["proven"], found["waiting"]) == ("2026-11-01T12:30:00Z", True, {"jobs": 2, "gpus": 7})
    assert len(found["markets"]) == 4
    row = found["markets"][0]
    assert (row["product"], row["region"], row["free"], row["wanted"], row["unmet"]) == (H100, "DE", 8, 5, 0)
    assert row["clearing"] == {"low": "2.00", "high": "2.49"}
    assert row["list"] == {"low": "2.00", "high": "6.00"}
    assert row["depth"][1] == {"price": "2.50", "gpus": 2, "cumulative": 5}
    spreads = {each["kind"]: (each["price"], each["spreadPercent"], each["asOf"]) for each in row["clouds"]}
    assert spreads["GPUCloud"][:2] == ("2.49", 0.0)
    assert spreads["Hyperscaler"][:2] == ("6.04", -58.8)
    assert all(as_of.startswith("2026-") for *_, as_of in spreads.values())
    assert [(each["start"], each["low"], each["greatest"]) for each in row["history"]] == [
        ("2026-11-01T09:00:00Z", "1.00", "2.00"),
        ("2026-11-01T10:00:00Z", "1.00", "1.00"),
        ("2026-11-01T11:00:00Z", "4.00", "5.00"),
        ("2026-11-01T12:00:00Z", "4.00", "4.00"),
    ]
    assert yaml.safe_load(run("market", "-o", "yaml")[1]) == found


def test_people_get_a_table_with_depth_spread_and_a_line_of_history(market: FakeHub, run: Run) -> None:
    code, out, _ = run("market")
    assert code == 0
    header, everywhere, german, small, *notes = out.splitlines()
    assert header.split("   ")[0] == "PRODUCT"
    assert "LAST 4h" in header
    for said in ("2.00-2.49", "+0 %", "-59 %", "3 @ 2.00, 2 @ 2.50, 1 @ 4.00, 4 at higher prices", "▁▁██"):
        assert said in german
    assert "GLOBAL" in everywhere
    assert "2.00+" in everywhere
    assert "NVIDIA-L4" in small
    assert "none" in small
    assert "eu-central-1" not in out
    text = " ".join(notes)
    assert "Waiting: 2 jobs for 7 GPUs. Prices proven optimal." in text
    assert "reference hyperscaler 6.04 (2026-11-23)" in text


def test_a_product_and_a_region_may_be_asked_for(market: FakeHub, run: Run) -> None:
    out = run("market", "--product", "h100", "--region", "eu-central-1")[1]
    assert "eu-central-1" in out
    assert "NVIDIA-L4" not in out
    assert "GLOBAL" not in out
    found = json.loads(run("market", "--product", "l4", "-o", "json")[1])
    assert [each["region"] for each in found["markets"]] == ["DE"]
    assert found["markets"][0]["clouds"] == []
    assert "No market found" in run("market", "--region", "ZZ")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--history", "soon"), 2, "--history: 'soon' is not a number of hours or days: give one such as 36h or 7d"),
        (("--history", "31d"), 2, "--history: '31d' is out of range: give 1h to 30d"),
        (("--operator-namespace", "elsewhere"), 1, "no operator has published a market in namespace elsewhere"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(
    market: FakeHub, run: Run, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended, out, err = run("market", *arguments)
    assert (ended, out) == (code, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_history_that_was_not_published_is_said(market: FakeHub, run: Run) -> None:
    bare = base64.b64encode(packed(replace(document(), history=None))).decode()
    market.objects[0]["binaryData"] = {KEY: bare}
    assert "it is in the ledger" in run("market")[1]
    assert json.loads(run("market", "-o", "json")[1])["markets"][0]["history"] is None


def test_history_goes_back_by_hours_or_days() -> None:
    assert history_option("36h") == timedelta(hours=36)
    assert history_option("30d") == timedelta(days=30)
    for bad in ("", "h", "0h", "-1h", "1w", "1.5h", "800h"):
        with pytest.raises(ConfigurationError, match="--history"):
            history_option(bad)


def test_a_span_before_the_asked_one_still_says_what_held(market: FakeHub) -> None:
    old = bucket(NOW - timedelta(hours=30, minutes=30), 7)
    found = spans([old], NOW, timedelta(hours=2))
    assert [(each.start.hour, each.last.low) for each in found] == [(11, 7 * USD), (12, 7 * USD)]
    assert spans([], NOW, timedelta(hours=2)) == []


def test_a_line_of_figures() -> None:
    assert sparkline([]) == ""
    assert sparkline([5, 5]) == "▁▁"
    assert sparkline([0, 7, 3]) == "▁█▄"
