"""What a plugin is given and what it answers; plugins know nothing else of placement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.job import Job, Policy

MAX_COMPONENT: Final = 10**15
"""What one price component is cut at (µUSD per GPU-hour, a billion USD): no exchange rate overflows 64 bits."""


@dataclass(frozen=True, slots=True)
class Context:
    """One job, the policies that bind its namespace (sorted by name), and the instant of the pass."""

    job: Job
    policies: tuple[Policy, ...]
    default_deny: bool
    now: datetime


class Refusal(NamedTuple):
    """Why an offer does not serve the job: the word, and a sentence that names the facts on both sides."""

    reason: Reason
    message: str
