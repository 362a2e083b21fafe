"""1,000 providers and 10,000 jobs in one epoch: posted, and claimed to the last line, in chunks that fit a block."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

from benchmarks.gas import prices
from benchmarks.gas.cases import LIMIT, Row
from benchmarks.gas.escrow import CHALLENGE, Stage, party
from benchmarks.gas.prices import Work

from fedgpu_operator.domain.settlement import Claim, EpochPlan, Pair
from fedgpu_operator.settlement import claims

PROVIDERS, JOBS, TENANTS = 1_000, 10_000, 200
LEAVES_PER_CALL = 25
SEED = 4


def scale(stage: Stage, *, providers: int = PROVIDERS, jobs: int = JOBS, tenants: int = TENANTS) -> list[Row]:
    """The first epoch, in which every pair is new, and a second one of the same jobs."""
    names = [party(f"scale provider {index}") for index in range(providers)]
    payers = [party(f"scale tenant {index}") for index in range(tenants)]
    for name in names:
        stage.mint(name, 1)
    for payer in payers:
        stage.fund(payer, 10**9, LIMIT)
    dice = random.Random(SEED)
    owed: Counter[Pair] = Counter()
    for job in range(jobs):
        # Every provider gets its share of jobs, from tenants that are drawn.
        owed[dice.choice(payers), names[job % providers]] += dice.randrange(1_000, 100_000)
    rows = []
    for word in ("new pairs", "steady"):
        rows += _epoch(stage, owed, word, providers, jobs)
    return rows


def _epoch(stage: Stage, owed: Counter[Pair], word: str, providers: int, jobs: int) -> list[Row]:
    debits: Counter[str] = Counter()
    for (tenant, _), units in owed.items():
        debits[tenant] += units
    plan = stage.plan(owed, debits)
    posted = stage.post(plan)
    stage.evm.warp(CHALLENGE)
    gas, least = posted.gas, prices.floor(posted.data, prices.POST + prices.POST_TENANT * len(debits))
    for chunk in _chunks(claims(plan)):
        mined = stage.claim(plan, chunk)
        gas += mined.gas
        least += prices.floor(mined.data, claim_work(chunk, new=word == "new pairs"))
    require_paid(stage, plan)
    name = f"{jobs} jobs, {providers} providers, {len(owed)} pairs, {word}"
    return [
        Row(f"{name}: per provider", gas, providers, "provider", least),
        Row(f"{name}: per job", gas, jobs, "job", least),
    ]


def claim_work(chunk: Sequence[Claim], *, new: bool) -> Work:
    """A tenant's account is paid for once in a transaction, however many of its lines are in it."""
    lines = sum(len(claim.lines) for claim in chunk)
    accounts = len({line.tenant for claim in chunk for line in claim.lines})
    pairs = Work(filled=lines) if new else Work(changed=lines)
    return prices.CLAIM + prices.CLAIM_LEAF * len(chunk) + pairs + Work(changed=accounts, logs=((4, 2),) * lines)


def _chunks(all_: Sequence[Claim]) -> Iterator[Sequence[Claim]]:
    for start in range(0, len(all_), LEAVES_PER_CALL):
        yield all_[start : start + LEAVES_PER_CALL]


def require_paid(stage: Stage, plan: EpochPlan) -> None:
    """Every line is paid to the unit, or the figures would be of something else."""
    for start in range(0, len(plan.pairs), 500):
        some = list(plan.pairs.items())[start : start + 500]
        paid = stage.paid([pair for pair, _ in some])
        wrong = [pair for (pair, total), there in zip(some, paid, strict=True) if total != there]
        if wrong:
            raise RuntimeError(f"{len(wrong)} pairs are not paid in full, the first is {wrong[0]}")
