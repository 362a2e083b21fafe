"""What a plugin is given and what it answers; plugins know nothing else of placement but the offers' table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.domain.job import Job, Policy

IntVector = NDArray[np.int64]
BoolVector = NDArray[np.bool_]

MAX_COMPONENT: Final = 10**15
"""What one price component is cut at (µUSD per GPU-hour, a billion USD): no exchange rate overflows 64 bits."""


class Guards(tuple[Policy, ...]):  # noqa: SLOT001 - the hash is kept in the instance
    """The policies that bind a namespace, sorted by name; hashed once, for every class of its jobs asks for them."""

    def __hash__(self) -> int:
        known = self.__dict__.get("hash")
        if known is None:
            known = self.__dict__["hash"] = super().__hash__()
        return int(known)


@dataclass(frozen=True, slots=True)
class Context:
    """One job, the policies that bind its namespace (sorted by name), and the instant of the pass.

    `job` stands for all jobs with the same key: a plugin never looks at its uid or name.
    """

    job: Job
    policies: tuple[Policy, ...]
    default_deny: bool
    now: datetime


class OfferRefusal(NamedTuple):
    """Why an offer does not serve the job: the CamelCase word, and a sentence that names the facts on both sides."""

    reason: str
    message: str
