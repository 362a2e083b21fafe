"""Two settlers with one key and copies of one ledger, one of them suspended for an hour: who wakes up late loses."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.chaos.faults import Fault, Mode
from tests.chaos.field import PATIENCE_S, Range

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.settlement import EpochStage

pytestmark = pytest.mark.chains("anvil")


async def stages(location: str) -> Sequence[EpochStage]:
    async with await SqlLedger.open(location) as ledger:
        verdict = await ledger.verify()
        assert verdict.sound, verdict.faults
        assert not any((await ledger.balances()).values())
        assert not await ledger.intents(open_only=True)
        return [epoch.stage for epoch in await ledger.epochs()]


@pytest.mark.parametrize(
    ("point", "late", "outcome"),
    [
        # The same root at the same time: whoever wakes up finds its own epoch on chain, and adopts it.
        ("escrow.broadcast", 0, EpochStage.PAID),
        ("escrow.sign:post", 0, EpochStage.PAID),
        # Another root: the nonce is gone and the post is stale.
        ("escrow.broadcast", 7, EpochStage.ABANDONED),
        ("ledger.store_epoch", 7, EpochStage.ABANDONED),
        ("escrow.sign:claim", 0, EpochStage.PAID),
    ],
)
def test_of_two_settlers_one_settles_and_the_other_follows(
    ranges: tuple[Range, Range], point: str, late: int, outcome: EpochStage
) -> None:
    field, other = ranges
    field.restore()
    other.restore()
    twin = replace(field.site, ledger=str(Path(field.site.ledger).with_name("ledger.db.twin")))
    twin = replace(twin, kubeconfig=other.site.kubeconfig)
    shutil.copy(field.site.ledger, twin.ledger)

    pid = field.zygote.start(field.site, (Fault(point, Mode.PAUSE),))
    assert field.zygote.wait(pid, PATIENCE_S) == -signal.SIGSTOP
    if late:
        field.chain.jump(late)
    assert field.zygote.wait(field.zygote.start(twin), PATIENCE_S) == 0
    paid = paid_now(field)
    os.kill(pid, signal.SIGCONT)
    assert field.zygote.wait(pid, PATIENCE_S) == 0

    field.judge(epochs=1 if outcome is EpochStage.PAID else 0)
    assert paid_now(field) == paid == sum(field.bill.owed.values())
    assert asyncio.run(stages(field.site.ledger)) == [outcome]
    assert asyncio.run(stages(twin.ledger)) == [EpochStage.PAID]


def paid_now(field: Range) -> int:
    """What all providers together hold, in µUSD."""
    token, total = field.deployment.token, 0
    for provider in {provider for _, provider in field.bill.owed}:
        answer = field.chain.rpc("eth_call", {"to": token, "data": balance_of(provider)}, "latest")
        total += int(str(answer), 16)
    return total


def balance_of(address: str) -> str:
    return "0x70a08231" + address[2:].lower().rjust(64, "0")
