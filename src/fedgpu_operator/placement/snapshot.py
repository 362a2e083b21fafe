"""What one pass decides on: the values it sees and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from fedgpu_operator.domain.job import Job, Policy
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import Offer


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
