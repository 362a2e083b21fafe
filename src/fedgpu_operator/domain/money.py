"""Money as integers: one base unit is one micro-dollar (10⁻⁶ USD); exact text, exact charges, no floats anywhere."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NewType

MicroUSD = NewType("MicroUSD", int)
"""An amount of money in 10⁻⁶ USD."""

DECIMALS = 6
ONE_USD = MicroUSD(10**DECIMALS)
NOTHING = MicroUSD(0)
SECONDS_PER_HOUR = 3600

MAX_MICRO_USD = 2**64 - 1
"""The largest amount the escrow's books can hold (uint64), about 18.4 trillion USD."""

_DECIMAL = re.compile(r"([0-9]+)(?:\.([0-9]+))?", re.ASCII)


@lru_cache(maxsize=16_384)
def parse_usd(text: str) -> MicroUSD:
    """Read a decimal string such as ``"1.25"`` exactly; the figures of objects that did not change are remembered.

    Digits, at most one point, at most six decimals; no sign, exponent, separators or spaces. Raises ValueError with
    the way to write it instead.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError(f'{text!r} is not an amount in USD: write digits with an optional point, such as "1.25"')
    whole, fraction = match.group(1), match.group(2) or ""
    if len(fraction) > DECIMALS:
        raise ValueError(f"{text!r} has more than {DECIMALS} decimals: the smallest unit is 0.000001 USD")
    if len(whole) > 20:  # keeps int() from being handed a novel
        raise ValueError(f"{text[:24]!r}… is beyond what can be held: the most is {format_usd(MAX_MICRO_USD)}")
    amount = int(whole) * ONE_USD + int(fraction.ljust(DECIMALS, "0"))
    if amount > MAX_MICRO_USD:
        raise ValueError(f"{text!r} is beyond what can be held: the most is {format_usd(MAX_MICRO_USD)}")
    return MicroUSD(amount)


def format_usd(amount: int) -> str:
    """Write an amount exactly, with two to six decimals: ``1250000`` is ``"1.25"``, ``1`` is ``"0.000001"``."""
    sign = "-" if amount < 0 else ""
    whole, fraction = divmod(abs(amount), ONE_USD)
    digits = f"{fraction:0{DECIMALS}d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{digits}"


def accrue(rate: MicroUSD, gpu_seconds: int) -> int:
    """Exact accrual in µUSD·s/h of `gpu_seconds` at `rate` µUSD per GPU-hour; sums of it lose nothing."""
    if rate < 0 or gpu_seconds < 0:
        raise ValueError("a rate and a usage are never negative")
    return rate * gpu_seconds


def charge(rate: MicroUSD, gpu_seconds: int) -> MicroUSD:
    """What `gpu_seconds` at `rate` µUSD per GPU-hour cost: rounded once, down, in the tenant's favour.

    To charge several leases together, add up `accrue` and divide by 3600 at the end.
    """
    return MicroUSD(accrue(rate, gpu_seconds) // SECONDS_PER_HOUR)
