"""What a receipt is made of: every lease between two wallets with its newest record, and no other."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from tests.ledgers import open_attempt

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.attempts import AttemptRequest, PairLease
from fedgpu_operator.domain.money import MicroUSD

TENANT, PROVIDER, OTHER = ("0x" + digit * 40 for digit in "123")


async def test_every_lease_of_the_pair_by_name_with_its_newest_record(
    held: SqlLedger, ask: Callable[..., AttemptRequest], now: datetime
) -> None:
    later = now + timedelta(seconds=9)
    mine = {"tenant_wallet": TENANT, "provider_wallet": PROVIDER}
    await open_attempt(held, ask(job_uid="b", tenant="team-b", provider="paris", price=MicroUSD(7), **mine), now)
    await open_attempt(held, ask(job_uid="a", **mine), now)
    await open_attempt(held, ask(job_uid="c", **mine), now)
    await open_attempt(held, ask(job_uid="d", **(mine | {"tenant_wallet": OTHER})), now)
    await open_attempt(held, ask(job_uid="e", **(mine | {"provider_wallet": OTHER})), now)
    for lease in ("a-1", "d-1", "e-1"):
        await held.record_usage(lease, 3, 30, later)
        await held.record_usage(lease, 1, 10, now)
    await held.record_usage("c-1", 1, 5, now)
    await held.end_attempt("c-1", "Succeeded", later)

    price = MicroUSD(1_250_000)
    assert await held.seal_pair((TENANT, PROVIDER)) == (
        PairLease("a-1", price, 30, later, open=True),
        PairLease("b-1", MicroUSD(7), 0, None, open=True),
        PairLease("c-1", price, 5, now, open=False),
    )
    assert await held.seal_pair((PROVIDER, TENANT)) == ()
