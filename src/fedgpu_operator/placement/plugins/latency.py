"""Round trips between a job's users and an offer: measured where somebody did, else the bound of light in fibre."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.geo import EARTH_RADIUS_KM, Location, great_circle_km, point_of, round_trip_floor_ms
from fedgpu_operator.domain.job import LatencyRule
from fedgpu_operator.domain.offer import Offer, Probe
from fedgpu_operator.domain.vantage import NEAR_KM
from fedgpu_operator.placement.context import MAX_COMPONENT, BoolVector, Context, IntVector, OfferRefusal
from fedgpu_operator.placement.table import OfferTable

FARTHEST_MS: Final = round_trip_floor_ms(EARTH_RADIUS_KM * np.pi)
"""What an offer of unknown place is priced at: the antipodes, about 200 ms; nowhere on Earth is farther."""

SKEW: Final = timedelta(minutes=1)
"""How far ahead of ours a provider's clock may be: a measurement from beyond that is none."""

MOST_WORDS: Final = 300
"""Characters that a message spends on measurements that do not count: there may be many vantages."""

LEAST_SAMPLES: Final = 5
"""Round trips that a measurement is made of at least, as many as the prober takes in one round."""

REASONS: Final = (Reason.LATENCY_UNMEASURED, Reason.LATENCY_TOO_HIGH)


class RoundTrip(NamedTuple):
    """The round trip that counts for one job at one offer: ms, `measured` or `estimate`, and when it was measured."""

    ms: float
    source: str
    measured_at: datetime | None = None


class Reach(NamedTuple):
    """What of an offer latency depends on: where it stands, and what was measured from there, by vantage name."""

    location: Location
    probes: tuple[tuple[str, Probe], ...]


def reach(offer: Offer) -> Reach:
    """The offer's part in a round trip."""
    return Reach(offer.location, tuple(sorted(offer.probes.items())))


def seen(ctx: Context, offer: Offer) -> RoundTrip | None:
    """The median of the measurement that counts, else the estimate; None if there is neither."""
    return _seen(ctx, reach(offer))


def key(ctx: Context) -> Hashable:
    """The bound and, where measurements could meet it, the instant that their age is counted to."""
    rule = ctx.job.latency
    if rule is None or rule.max_ms is None:
        return None
    return rule, ctx.now if rule.vantages else None


def refusal(ctx: Context, offer: Offer) -> OfferRefusal | None:
    """Refuses an offer beyond the bound, and one that only an estimate says is within it unless that is allowed."""
    return _refusal(ctx, reach(offer))


def allowed(ctx: Context, table: OfferTable) -> BoolVector:
    """Which offers are within the bound; shape (offers,)."""
    return table.kinds(reach).where(lambda each: _refusal(ctx, each) is None)


def reason_index(ctx: Context, table: OfferTable) -> IntVector:
    """Index into `REASONS` of each refusal; shape (offers,)."""

    def index(each: Reach) -> int:
        refused = _refusal(ctx, each)
        return 0 if refused is None else [str(reason) for reason in REASONS].index(refused.reason)

    return table.kinds(reach).map(index)


def price_key(ctx: Context) -> Hashable:
    """The origin, what a millisecond is worth, and the instant where measurements count."""
    rule = ctx.job.latency
    if rule is None or not ctx.job.rates.per_ms:
        return None
    return rule.origin, rule.vantages, rule.max_age, ctx.job.rates.per_ms, ctx.now if rule.vantages else None


def known_price(ctx: Context, table: OfferTable) -> IntVector:
    """µUSD per GPU-hour for the measured median, else for the estimate; 0 if there is neither. Shape (offers,)."""

    def price(each: Reach) -> int:
        known = _seen(ctx, each)
        return 0 if known is None else _price(ctx, known.ms)

    return table.kinds(reach).map(price)


def assumed_price(ctx: Context, table: OfferTable) -> IntVector:
    """µUSD per GPU-hour for `FARTHEST_MS` where nothing is known of the latency, else 0. Shape (offers,)."""
    worst = 0 if ctx.job.latency is None else _price(ctx, FARTHEST_MS)
    return table.kinds(reach).map(lambda each: worst if _seen(ctx, each) is None else 0)


def _seen(ctx: Context, there: Reach) -> RoundTrip | None:
    probe = _measured(ctx, there)
    if probe is not None:
        return RoundTrip(probe.p50_us / 1000, "measured", probe.measured_at)
    floor = _estimate_ms(ctx, there)
    return None if floor is None else RoundTrip(floor, "estimate")


def _measured(ctx: Context, there: Reach) -> Probe | None:
    """The slowest (by p95) of the measurements to the vantages of the origin, where there is one that counts to each.

    Owners measure themselves, and choose what they report: what is left out is not better than what is bad. A round
    trip that light could not have made is a lie or an error, and where that cannot be told nothing was measured.
    """
    rule = ctx.job.latency
    if rule is None or not rule.vantages:
        return None
    probes = [_probe(there, name) for name in rule.vantages]
    if any(_fault(ctx, rule, there, probe) for probe in probes):
        return None
    return max((probe for probe in probes if probe is not None), key=lambda probe: probe.p95_us)


def _probe(there: Reach, vantage: str) -> Probe | None:
    return next((probe for name, probe in there.probes if name == vantage), None)


def _fault(ctx: Context, rule: LatencyRule, there: Reach, probe: Probe | None) -> str:
    """Why a measurement does not count, in words; nothing if it does."""
    floor = _estimate_ms(ctx, there)
    if probe is None:
        return "not measured"
    if floor is None:
        return "measurements count only if both coordinates are known: set coordinates"
    at = f"measured at {probe.measured_at:%Y-%m-%dT%H:%M:%SZ}"
    if ctx.now - probe.measured_at > timedelta(seconds=rule.max_age):
        return f"{at}, older than {rule.max_age} s"
    if probe.measured_at - ctx.now > SKEW:
        return f"{at}, in the future"
    if probe.samples < LEAST_SAMPLES:
        return f"{probe.samples} samples, at least {LEAST_SAMPLES} required"
    # The vantage may stand nearer to the offer than the origin for which it stands.
    if probe.p50_us <= 0 or probe.p50_us < 1000 * (floor - round_trip_floor_ms(NEAR_KM)):
        return f"measured {probe.p50_us / 1000:.1f} ms, faster than light in fibre"
    return ""


def _estimate_ms(ctx: Context, there: Reach) -> float | None:
    """The least round trip over fibre from the job's origin, in whole µs given as ms; None if a place is unknown.

    Rounded down to a microsecond, so it stays a lower bound and prices are whole numbers everywhere alike.
    """
    rule = ctx.job.latency
    if rule is None:
        return None
    return _floor_ms(rule.origin, there.location)


@lru_cache(maxsize=65_536)
def _floor_ms(origin: Location, place: Location) -> float | None:
    """Kept, for every job from one origin asks the same of the same places."""
    here, there = point_of(origin), point_of(place)
    if here is None or there is None:
        return None
    return int(round_trip_floor_ms(great_circle_km(*here, *there)) * 1000) / 1000


def _refusal(ctx: Context, there: Reach) -> OfferRefusal | None:
    rule = ctx.job.latency
    if rule is None or rule.max_ms is None:
        return None
    probe = _measured(ctx, there)
    if probe is not None:
        return _too_slow(probe.p95_us / 1000, rule.max_ms, "measured, 95th percentile")
    floor = _estimate_ms(ctx, there)
    if floor is None:
        return OfferRefusal(
            Reason.LATENCY_UNMEASURED,
            "latency cannot be measured or estimated without coordinates: set coordinates or a known cloud region",
        )
    if floor > rule.max_ms:
        return _too_slow(floor, rule.max_ms, "lower bound at the speed of light in fibre")
    if not rule.allow_estimate:
        why = _why_unmeasured(ctx, there)
        return OfferRefusal(
            Reason.LATENCY_UNMEASURED,
            f"{why}; estimated {floor:.1f} ms, but the job does not allow estimates",
        )
    return None


def _too_slow(milliseconds: float, bound: int, how: str) -> OfferRefusal | None:
    if milliseconds <= bound:
        return None
    return OfferRefusal(
        Reason.LATENCY_TOO_HIGH, f"round trip of {milliseconds:.1f} ms ({how}) exceeds the limit of {bound} ms"
    )


def _why_unmeasured(ctx: Context, there: Reach) -> str:
    rule = ctx.job.latency
    if rule is None or not rule.vantages:
        return "not measured: no vantage of this hub is near the origin"
    faults = ((name, _fault(ctx, rule, there, _probe(there, name))) for name in sorted(rule.vantages))
    return "; ".join(f"{name}: {fault}" for name, fault in faults if fault)[:MOST_WORDS]


def _price(ctx: Context, milliseconds: float) -> int:
    return min(MAX_COMPONENT, (ctx.job.rates.per_ms * round(milliseconds * 1000) + 500) // 1000)
