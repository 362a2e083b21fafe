"""How far the member's claim and the hub's own reading may lie apart before the rest is a dispute; pure."""

from __future__ import annotations

from typing import Final

SECONDS: Final = 2
"""Per GPU. Kubernetes writes whole seconds, so either end of a run may be off by one, at the member and at the hub."""
PARTS: Final = 100
"""One part in this many of the claim: clocks that are kept by NTP drift far less, a wrong meter far more."""


def tolerance(claimed: int, gpus: int) -> int:
    """GPU-seconds by which two honest readings of `claimed` GPU-seconds on `gpus` GPUs may differ, rounded down."""
    return max(SECONDS * gpus, claimed // PARTS)


def disputed(claimed: int, payable: int, gpus: int) -> int:
    """GPU-seconds of the claim that are in dispute beside what is `payable`: all of the difference, or none of it.

    Within the tolerance the smaller figure stands and nobody is bothered; beyond it the smaller one is paid and the
    whole rest waits for a ruling.
    """
    difference = max(0, claimed - payable)
    return difference if difference > tolerance(claimed, gpus) else 0
