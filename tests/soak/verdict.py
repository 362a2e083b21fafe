"""Whether a soak stayed flat: the slope of the second half of each figure, per hour, against a stated bound; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.soak.sampling import Sample

HOUR: Final = 3600
BOUNDS: Final[dict[str, float]] = {
    "operator.rssMiB": 12,
    "operator.files": 12,
    "operator.sockets": 12,
    "operator.threads": 2,
    "operator.tasks": 6,
    "hub.computejobs": 40,
    "hub.computeleases": 40,
    "hub.settlementepochs": 6,
    "hub.configmaps": 6,
    "hub.secrets": 1,
    "hub.namespaces": 1,
    **{f"{member}.{kind}": 40 for member in ("alpha", "beta") for kind in ("jobs", "pods")},
    **{f"{member}.{kind}": 1 for member in ("alpha", "beta") for kind in ("configmaps", "secrets", "namespaces")},
}
"""The most that a figure may rise per hour. What comes and goes by chance (jobs, connections) has room for a slope by
chance: 40 objects are a thirtieth of the jobs of an hour."""
CEILINGS: Final[dict[str, float]] = {
    "operator.sockets": 130,
    "operator.files": 150,
    "hub.settlementepochs": 116,
    "hub.configmaps": 120,
}
"""Below which a figure may rise. Connections to the hub are kept until the client's pool is full, which holds 100; the
chain, two members and the ledger have theirs in addition. The archive keeps the newest hundred epochs whole, and so
does the hub; a dozen more come between two runs of it."""
READINGS: Final = frozenset({"rows.usage_records", "rows.receipts", "rows.postings"})
"""What is written again and again while one attempt runs, and archived."""
READING_ROWS: Final = 300
"""The most by which those may rise per hour beside one per attempt: readings of running leases and the newest receipt
of a pair stay, and of every lease its newest checkpoint, to which its live row is held (decision 23)."""
ROWS_PER_ATTEMPT: Final = 4.0
"""Rows that an attempt may leave in the live ledger in all, since a receipt's root is over every lease that its pair
ever had: its terms, its live row, its newest checkpoint, and how far an epoch covers it."""
ROWS_PER_EPOCH: Final = 5.5
"""Rows that an epoch may leave beside its covers: itself, its transactions and what they were sent for, post and claim,
and its part of the archived segments."""
BYTES_PER_ATTEMPT: Final = 3072
UNJUDGED: Final = {
    "hub.events": "the API server's own hour",
    "rows.market_prices": "prices of the past, kept for two days by the minute and dropped after that",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure: its slope per hour in the second half, and the most that it may be."""

    figure: str
    slope: float
    bound: float
    last: float

    @property
    def flat(self) -> bool:
        """Whether it rises no faster than it may, or stays below the height at which it must stop."""
        return self.slope <= self.bound or self.last <= CEILINGS.get(self.figure, -1.0)


def judge(samples: Sequence[Sample]) -> list[Finding]:
    """Every figure that has a bound, of the second half of the time."""
    if len(samples) < 4:
        return []
    middle = samples[-1]["seconds"] / 2
    half = [_derived(sample) for sample in samples if sample["seconds"] >= middle]
    attempts = max(0.0, slope(half, "jobs.created"))
    bounds = {
        **BOUNDS,
        "rows of readings": READING_ROWS + attempts,
        "rows": ROWS_PER_ATTEMPT * attempts + ROWS_PER_EPOCH * max(0.0, slope(half, "rows.epochs")),
        "ledger.MiB": BYTES_PER_ATTEMPT * attempts / 2**20,
    }
    return list(_findings(half, bounds))


def slope(samples: Sequence[Sample], figure: str) -> float:
    """Least squares over the samples that have the figure, per hour; 0 with fewer than two."""
    points = [(sample["seconds"], sample[figure]) for sample in samples if figure in sample]
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return HOUR * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def rows(sample: Sample) -> float:
    """Rows of all tables that are judged."""
    return sum(value for name, value in sample.items() if name.startswith("rows.") and name not in UNJUDGED)


def _derived(sample: Sample) -> Sample:
    if not any(name.startswith("rows.") for name in sample):
        return sample
    return sample | {"rows": rows(sample), "rows of readings": sum(sample.get(name, 0) for name in READINGS)}


def _findings(half: Sequence[Sample], bounds: dict[str, float]) -> Iterator[Finding]:
    for figure, bound in bounds.items():
        values = [sample[figure] for sample in half if figure in sample]
        if values:
            yield Finding(figure, round(slope(half, figure), 2), round(bound, 2), values[-1])
