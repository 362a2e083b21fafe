"""A month of a federation as values, made from a seed: nothing here knows a database or an API server.

Every hour an epoch settles what was recorded by then. An attempt that has ended has two usage records: one at the last
hour that it ran across, which that hour's epoch covers, and its last one, which the next epoch covers. What runs has
one at the last epoch and one of now. A real ledger of an earlier release holds a record for each reading of 15 seconds;
what those weigh is measured apart (`day.py`), so the month flatters such a release.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final, NamedTuple
from uuid import UUID

from eth_utils.address import to_checksum_address

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
HOUR: Final = 3600
AFTER: Final = 1800
"""Seconds from the last epoch to the end of the month, which is now."""
CHAIN_ID: Final = 31337
ESCROW: Final = str(to_checksum_address("0x" + "e5" * 20))
SETTLER: Final = str(to_checksum_address("0x" + "5e" * 20))
PRODUCTS: Final = ("NVIDIA-H100-80GB-HBM3", "NVIDIA-A100-SXM4-80GB", "NVIDIA-L40S", "NVIDIA-L4")
PRICES: Final = (2_400_000, 1_300_000, 900_000, 400_000)
"""µUSD per GPU-hour of a product, before an owner's own factor."""
OUTCOMES: Final = ("Succeeded",) * 46 + ("Failed", "Failed", "RunLimit", "WorkloadLost")
NODE_GPUS: Final = 8


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything; `manifests` of the newest epochs hold their lines, those of older ones are cut short."""

    providers: int = 1_000
    tenants: int = 100
    finished: int = 200_000
    epochs: int = 720
    running: int = 2_000
    waiting: int = 2_000
    manifests: int = 100
    seed: int = 1

    def __post_init__(self) -> None:
        if self.providers % 7 == 0 or self.tenants > 2 * self.providers:
            raise ValueError("the number of providers must not be a multiple of 7, and at least half of the tenants'")

    @classmethod
    def small(cls, seed: int = 1) -> Size:
        """A thousandth: made and loaded in well under a second."""
        return cls(providers=8, tenants=4, finished=200, epochs=24, running=10, waiting=10, manifests=4, seed=seed)


class Pair(NamedTuple):
    """A tenant at a provider: indexes, names and wallets."""

    tenant: int
    provider: int
    tenant_wallet: str
    provider_wallet: str

    @property
    def names(self) -> tuple[str, str]:
        """(namespace, GPUProvider)."""
        return tenant_name(self.tenant), provider_name(self.provider)


class Attempt(NamedTuple):
    """One attempt; instants are seconds since START, `price` is µUSD per GPU-hour, `ended` is None while it runs."""

    uid: str
    pair: Pair
    product: str
    price: int
    gpus: int
    created: int
    ended: int | None
    outcome: str

    @property
    def lease(self) -> str:
        """Name of its lease: all attempts here are the first of their jobs."""
        return f"{self.uid}-1"

    @property
    def job(self) -> str:
        return f"train-{self.uid[:8]}"

    def used(self, until: int) -> int:
        """GPU-seconds from its beginning to then."""
        return self.gpus * max(0, until - self.created)


class Record(NamedTuple):
    """Usage of an attempt as of `at` (seconds since START), and the epoch that covers it, None if none does yet."""

    at: int
    lease: str
    sequence: int
    gpu_seconds: int
    epoch: int | None
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Month:
    """All of it; attempts by their beginning, records by their instant."""

    size: Size
    pairs: tuple[Pair, ...]
    attempts: tuple[Attempt, ...]
    records: tuple[Record, ...]

    @property
    def now(self) -> datetime:
        """The end of the month."""
        return START + timedelta(seconds=self.end)

    @property
    def end(self) -> int:
        """The same in seconds since START."""
        return self.size.epochs * HOUR + AFTER

    @property
    def running(self) -> list[Attempt]:
        """The attempts that have not ended."""
        return [attempt for attempt in self.attempts if attempt.ended is None]

    def covers(self) -> dict[int, list[Record]]:
        """Records by the epoch that covers them."""
        found: dict[int, list[Record]] = defaultdict(list)
        for record in self.records:
            if record.epoch is not None:
                found[record.epoch].append(record)
        return found

    def numerators(self) -> Iterator[tuple[int, dict[Pair, int]]]:
        """After each epoch, by its number: what each pair was charged since the beginning, in µUSD·s/h.

        The dictionary is one and the same all the time, and grows.
        """
        covers, totals, before = self.covers(), defaultdict[Pair, int](int), dict[str, int]()
        for number in range(1, self.size.epochs + 1):
            for record in covers.get(number, ()):
                attempt = record.attempt
                totals[attempt.pair] += attempt.price * (record.gpu_seconds - before.pop(record.lease, 0))
                if attempt.ended is None or record.at < attempt.ended:
                    before[record.lease] = record.gpu_seconds
            yield number, totals


def make(size: Size) -> Month:
    """The month of that size and seed: the same values on every machine."""
    order = random.Random(size.seed)
    pairs = _pairs(size)
    attempts = sorted([*_finished(size, pairs, order), *_running(size, pairs, order)], key=_beginning)
    records = [record for attempt in attempts for record in _records(attempt, size)]
    records.sort(key=lambda record: (record.at, record.lease))
    return Month(size, pairs, tuple(attempts), tuple(records))


def tenant_name(index: int) -> str:
    return f"team-{index:03}"


def provider_name(index: int) -> str:
    return f"gpu-{index:04}"


def wallet(kind: str, index: int) -> str:
    """An address that nobody has the key of, as a checksummed one."""
    return str(to_checksum_address("0x" + sha256(f"{kind} {index}".encode()).hexdigest()[:40]))


def offer_of(provider: int) -> tuple[str, int]:
    """(product, µUSD per GPU-hour) of a provider's one offer."""
    kind = provider % len(PRODUCTS)
    return PRODUCTS[kind], PRICES[kind] * (70 + provider * 37 % 111) // 100


def _pairs(size: Size) -> tuple[Pair, ...]:
    """Two tenants for each provider."""
    many = 2 * size.providers
    found = [(index * size.tenants // many, 7 * index % size.providers) for index in range(many)]
    return tuple(Pair(t, p, wallet("tenant", t), wallet("provider", p)) for t, p in found)


def _finished(size: Size, pairs: Sequence[Pair], order: random.Random) -> Iterator[Attempt]:
    end = size.epochs * HOUR
    for _ in range(size.finished):
        # A median of four hours, a mean of about seven.
        lasted = min(int(order.lognormvariate(9.6, 1.0)) + 30, end - 60)
        created = order.randrange(end - lasted)
        yield _attempt(order, order.choice(pairs), created, created + lasted, order.choice(OUTCOMES))


def _running(size: Size, pairs: Sequence[Pair], order: random.Random) -> Iterator[Attempt]:
    end = size.epochs * HOUR + AFTER
    for index in range(size.running):
        created = end - order.randrange(600, min(12 * HOUR, end))
        yield _attempt(order, pairs[index % len(pairs)], created, None, "")


def _attempt(order: random.Random, pair: Pair, created: int, ended: int | None, outcome: str) -> Attempt:
    product, price = offer_of(pair.provider)
    uid = str(UUID(int=order.getrandbits(128), version=4))
    return Attempt(uid, pair, product, price, order.choice((1, 1, 2, 4, 8)), created, ended, outcome)


def _records(attempt: Attempt, size: Size) -> Iterator[Record]:
    end = attempt.ended if attempt.ended is not None else size.epochs * HOUR + AFTER
    hour, sequence = (end - 1) // HOUR, 1
    if hour * HOUR > attempt.created:
        yield Record(hour * HOUR, attempt.lease, sequence, attempt.used(hour * HOUR), hour, attempt)
        sequence += 1
    epoch = hour + 1 if attempt.ended is not None else None
    yield Record(end, attempt.lease, sequence, attempt.used(end), epoch, attempt)


def _beginning(attempt: Attempt) -> tuple[int, str]:
    return attempt.created, attempt.uid
