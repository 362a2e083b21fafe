"""The market loop: prices follow demand and offers, are kept where they change, and are published for everybody."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.ledgers import open_attempt
from tests.unit.hub.world import H100, World

from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.market import PricePoint
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.vantage import Vantage
from fedgpu_operator.errors import InvalidResourceError, NotFoundError
from fedgpu_operator.hub.loops import market as module
from fedgpu_operator.hub.loops.market import MarketLoop
from fedgpu_operator.hub.services import market as marketdoc
from fedgpu_operator.hub.services.market import MarketDocument, packed, published_market, unpacked
from fedgpu_operator.placement import Plugins, Snapshot
from fedgpu_operator.placement.market import MarketView, survey_snapshot
from fedgpu_operator.ports import CONFIG_MAPS

SPACE = "fedgpu-system"


def loop_of(world: World) -> MarketLoop:
    return world.factory(namespace=SPACE).market_loop(settle=timedelta(0))


async def read(world: World) -> MarketDocument:
    return await published_market(world.kube, SPACE)


def prices(points: tuple[PricePoint, ...], region: str) -> tuple[int, int | None, int, int, int]:
    point = next(each for each in points if each.region == region)
    return point.low, point.high, point.free, point.wanted, point.unmet


async def test_prices_follow_demand_and_are_published_with_the_offers(world: World) -> None:
    await world.provider("berlin", price="1.25", free={2: 1})
    await world.provider("paris", price="2.50", country="FR", free={8: 1})
    loop = loop_of(world)
    await loop.pass_once()
    assert prices(world.metrics.prices, "EU") == (1_250_000, 1_250_000, 10, 0, 0)
    await world.job("one", gpu={"count": 2})
    await world.job("two", gpu={"count": 9}, placement={"countries": ["FR"]})
    await world.job("held", suspend=True)
    await world.job("asked", dryRun=True)
    await loop.pass_once()
    assert prices(world.metrics.prices, "DE") == (1_250_000, None, 2, 2, 0)
    assert prices(world.metrics.prices, "FR") == (2_500_000, None, 8, 11, 1)
    found = await read(world)
    assert (found.waiting_jobs, found.waiting_gpus, found.certified) == (2, 11, True)
    assert found.offers is not None
    assert [(each.offer.name, dict(each.offer.free)) for each in found.offers] == [
        (f"berlin/{H100}", {2: 1}),
        (f"paris/{H100}", {8: 1}),
    ]
    assert [each.point for each in found.markets] == [
        replace(each, at=found.markets[0].point.at) for each in world.metrics.prices
    ]


async def test_a_point_is_kept_where_something_changed_and_once_an_hour(world: World) -> None:
    await world.provider("berlin", free={2: 1})
    loop, begin = loop_of(world), world.clock.now()

    async def kept() -> int:
        return len(await world.ledger.price_history(begin, span=60, region="DE"))

    for _ in range(3):
        await loop.pass_once()
        world.clock.forward(60)
    assert await kept() == 1
    await world.provider("bonn", price="1.00")
    await loop.pass_once()
    assert await kept() == 2
    world.clock.forward(3600)
    await loop.pass_once()
    assert await kept() == 3
    (hour, _) = [
        each for each in (await read(world)).history or () if each.seconds == 3600 and each.last.region == "DE"
    ]
    assert (hour.least, hour.greatest, hour.last.low) == (1_000_000, 1_250_000, 1_000_000)


async def test_nothing_is_solved_or_written_again_where_nothing_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.provider("berlin")
    solves: list[Snapshot] = []

    def counted(snapshot: Snapshot, plugins: Plugins) -> MarketView:
        solves.append(snapshot)
        return survey_snapshot(snapshot, plugins)

    monkeypatch.setattr(module, "survey_snapshot", counted)
    loop = loop_of(world)
    await loop.pass_once()
    written = world.kube.objects[CONFIG_MAPS.plural, SPACE, marketdoc.NAME]["metadata"]["resourceVersion"]
    world.clock.forward(60)
    await loop.pass_once()
    assert len(solves) == 1
    assert world.kube.objects[CONFIG_MAPS.plural, SPACE, marketdoc.NAME]["metadata"]["resourceVersion"] == written
    world.clock.forward(600)
    await loop.pass_once()
    assert (await read(world)).at == world.clock.now(), "its age tells whether the operator lives"
    await world.job()
    await loop.pass_once()
    assert len(solves) == 2


async def test_a_new_process_waits_for_reports_before_its_first_look(world: World) -> None:
    loop = world.factory(namespace=SPACE).market_loop()
    world.clock.forward(4)
    assert await loop.pass_once() == 6.0
    with pytest.raises(NotFoundError):
        await read(world)
    world.clock.forward(6)
    assert await loop.pass_once() is None
    assert (await read(world)).markets == ()


async def test_gpus_that_came_free_are_counted_by_offer(world: World) -> None:
    await world.provider("berlin")
    now = world.clock.now()
    for job, ago in (("a", 1), ("b", 23), ("c", 30)):
        terms = AttemptRequest(job, "r", "team", job, "berlin", H100, MicroUSD(1), 4, 3600)
        await open_attempt(world.ledger, terms, now - timedelta(hours=ago + 1))
        await world.ledger.end_attempt(f"{job}-1", "Succeeded", now - timedelta(hours=ago))
    await loop_of(world).pass_once()
    (offer,) = (await read(world)).offers or ()
    assert offer.freed == 8


async def test_a_job_that_waits_for_its_retry_is_demand_whatever_ended_its_attempt(world: World) -> None:
    await world.provider("berlin", free={2: 1})
    for outcome in ("SuspendedByMember", "NodeLost"):
        await world.job(outcome.lower())
        await world.pass_once()
        (lease,) = (each for each in world.leases if each.spec.job.name == outcome.lower())
        await world.runs(lease, 8)
        await world.ends(lease, "Failed", outcome, gpu_seconds=8)
        await world.pass_once()
    await loop_of(world).pass_once()
    assert (await read(world)).waiting_jobs == 2


async def test_work_whose_law_cannot_be_met_is_no_demand(world: World) -> None:
    await world.provider("berlin", free={2: 1})
    await world.job("elsewhere", placement={"countries": ["US"]})
    await loop_of(world).pass_once()
    assert prices(world.metrics.prices, "DE") == (1_250_000, 1_250_000, 2, 0, 0)
    assert (await read(world)).waiting_jobs == 1


async def test_the_document_survives_its_way_and_sheds_what_is_too_large(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        await world.provider(f"p{number}", labels_of(number))
    await loop_of(world).pass_once()
    whole = await read(world)
    assert unpacked(packed(whole)) == whole
    assert len(whole.offers or ()) == 30
    monkeypatch.setattr(marketdoc, "MOST_BYTES", len(packed(replace(whole, history=None))))
    assert unpacked(packed(whole)) == replace(whole, history=None)
    monkeypatch.setattr(marketdoc, "MOST_BYTES", len(packed(replace(whole, history=None, offers=None))))
    assert unpacked(packed(whole)) == replace(whole, history=None, offers=None)


async def test_of_vantages_only_name_and_place_are_published(world: World) -> None:
    await loop_of(world).pass_once()
    vantage = Vantage("main", "https://inside.example/", Location("DE"))
    (seen,) = unpacked(packed(replace(await read(world), vantages=(vantage,)))).vantages
    assert (seen.name, seen.location, seen.url) == ("main", Location("DE"), "")


def labels_of(number: int) -> str:
    return f"{1 + number / 8:.3f}"


async def test_what_is_missing_or_no_market_is_said(world: World) -> None:
    with pytest.raises(NotFoundError, match="--operator-namespace"):
        await read(world)
    for data in ("", "AAAA", "%"):
        await world.kube.apply(
            CONFIG_MAPS, {"metadata": {"name": marketdoc.NAME, "namespace": SPACE}, "binaryData": {marketdoc.KEY: data}}
        )
        with pytest.raises(InvalidResourceError, match="market"):
            await read(world)
