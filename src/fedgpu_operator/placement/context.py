"""What a pass decides on, what a plugin is given of it, and what a plugin answers; values only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.domain.job import Job, Policy
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import Offer

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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one pass may know; the order of `jobs`, `offers` and policies never changes the answer.

    `now` is timezone-aware. `policies` holds, per namespace, the policies whose selector matched it. `funds` is
    what each namespace may still commit (µUSD); None means "not limited", a namespace that is not named has
    nothing. `default_deny` refuses jobs of namespaces without any policy.
    Raises ValueError when two jobs share a uid or two offers share a name: nothing could tell them apart.
    """

    now: datetime
    jobs: tuple[Job, ...]
    offers: tuple[Offer, ...]
    policies: Mapping[str, tuple[Policy, ...]] = field(default_factory=dict)
    funds: Mapping[str, MicroUSD | None] = field(default_factory=dict)
    default_deny: bool = False

    def __post_init__(self) -> None:
        _refuse_twins("job uid", [job.uid for job in self.jobs])
        _refuse_twins("offer", [offer.name for offer in self.offers])


def _refuse_twins(what: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        twins = sorted(name for name, times in Counter(names).items() if times > 1)
        raise ValueError(f"{what} {twins[0]!r} appears twice in one snapshot")
