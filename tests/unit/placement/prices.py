"""What a job at an offer costs, from raw resources and by Fractions; imports nothing of the project."""

from __future__ import annotations

from fractions import Fraction
from math import floor

from tests.unit.placement.distance import ANTIPODES_US, probe_that_counts, round_trip_us
from tests.unit.placement.oracle import Raw, gpus_of, moved_sets, price_of

DEAREST_EGRESS = Fraction(12, 100)
"""USD per GiB where the owner states none."""


def effective_cost(world: Raw, job: Raw, provider: Raw, product: str) -> int:
    """Effective price × GPUs × run limit in µUSD·s per hour."""
    gpus, replicas = gpus_of(job)
    return effective_price(world, job, provider, product) * gpus * replicas * int(job["spec"]["runLimitSeconds"])


def effective_price(world: Raw, job: Raw, provider: Raw, product: str) -> int:
    """µUSD per GPU-hour; every component is rounded by itself, half a unit up."""
    parts = (
        price_of(provider, product),
        _latency(world, job, provider),
        _carbon(job, provider, product),
        _egress(job, provider, stated=True),
        _egress(job, provider, stated=False),
        _rerun(job, provider, product),
        Fraction(provider["status"].get("gasShare", "0")) / _gpu_hours(job),
    )
    return sum(floor(part * 1_000_000 + Fraction(1, 2)) for part in parts)


def _gpu_hours(job: Raw) -> Fraction:
    gpus, replicas = gpus_of(job)
    return Fraction(gpus * replicas * int(job["spec"]["runLimitSeconds"]), 3600)


def _rate(job: Raw, name: str) -> Fraction:
    return Fraction(job["spec"].get("strategy", {}).get("rates", {}).get(name, "0"))


def _latency(world: Raw, job: Raw, provider: Raw) -> Fraction:
    if "latency" not in job["spec"]:
        return Fraction(0)
    probe = probe_that_counts(world, job, provider)
    estimate = round_trip_us(job["spec"]["latency"]["from"], provider["spec"]["location"])
    microseconds = probe["p50us"] if probe is not None else ANTIPODES_US if estimate is None else estimate
    return _rate(job, "usdPerMs") * Fraction(microseconds, 1000)


def _carbon(job: Raw, provider: Raw, product: str) -> Fraction:
    offer = next(each for each in provider["spec"]["offers"] if each["product"] == product)
    grams = provider["spec"].get("energy", {}).get("carbonIntensity", 820)
    return _rate(job, "usdPerKgCO2e") * Fraction(offer.get("watts", 1400), 1000) * Fraction(grams, 1000)


def _egress(job: Raw, provider: Raw, *, stated: bool) -> Fraction:
    """What hosts charge for the data to come, and the owner for the results to leave, spread over the run."""
    price = provider["spec"].get("network", {}).get("egressPricePerGiB")
    output = Fraction(job["spec"].get("data", {}).get("outputGiB", 0))
    if not stated:
        return output * DEAREST_EGRESS / _gpu_hours(job) if price is None else Fraction(0)
    sets = sum(
        (each.get("sizeGiB", 0) * Fraction(each.get("egressPricePerGiB", "0")) for each in moved_sets(job, provider)),
        start=Fraction(0),
    )
    return (sets + output * Fraction(price or "0")) / _gpu_hours(job)


def _rerun(job: Raw, provider: Raw, product: str) -> Fraction:
    """Half of what lies between two checkpoints, as often as work was interrupted there."""
    if "checkpoint" not in job["spec"]:
        return Fraction(0)
    at_stake = min(job["spec"]["checkpoint"]["intervalSeconds"], job["spec"]["runLimitSeconds"])
    per_hour = Fraction(provider["status"].get("interruptionsPerMh", 1000), 1_000_000)
    return price_of(provider, product) * per_hour * Fraction(at_stake, 2 * 3600)
