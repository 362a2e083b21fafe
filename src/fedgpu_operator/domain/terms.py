"""What a deployment of the escrow fixed for good, and the roles that it gives, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["SETTLER", "METER", "ARBITER", "GUARDIAN"]
"""A role of the escrow that an account can hold."""


@dataclass(frozen=True, slots=True)
class EscrowPeriods:
    """The contract's periods, in seconds.

    `challenge` from an epoch's posting to its activation, `ruling` for the arbiter after that, `exit_after` from the
    end of a receipt's period until a provider may leave with it, `notice` from the announcement of a withdrawal or a
    lower limit to its effect, `longest_epoch` the longest time that an epoch is meant to cover.
    """

    challenge: int
    notice: int
    ruling: int
    exit_after: int
    longest_epoch: int


@dataclass(frozen=True, slots=True)
class EscrowTerms:
    """The token, with `scale` of its base units to one µUSD, who gets lost bonds, and the periods."""

    token: str
    symbol: str
    decimals: int
    scale: int
    reserve: str
    periods: EscrowPeriods
