"""How far an archive may go: by its options, and by the contract's clock with few readings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fedgpu_operator.cli.ledger_maintenance import archive_text, newest_over, wish_of
from fedgpu_operator.domain.ledger import Archived
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import EpochState
from fedgpu_operator.errors import ConfigurationError

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def test_an_age_or_an_epoch_and_thirty_days_unless_asked() -> None:
    assert wish_of(None, None, NOW).until == NOW - timedelta(days=30)
    assert wish_of(None, "36h", NOW).until == NOW - timedelta(hours=36)
    assert (wish_of(7, None, NOW).before, wish_of(7, None, NOW).until) == (7, None)
    for wrong in ("", "30", "d", "-1d", "1w", "²d", "1000000d"):
        with pytest.raises(ConfigurationError, match="--older-than"):
            wish_of(None, wrong or "x", NOW)
    with pytest.raises(ConfigurationError, match="--before and --older-than exclude each other"):
        wish_of(7, "30d", NOW)


@pytest.mark.parametrize("over", [0, 1, 499, 500])
async def test_the_newest_epoch_that_is_over_is_found_in_few_readings(over: int) -> None:
    known = [2 * number for number in range(1, 501)]
    readings = 0

    async def read(number: int) -> EpochState:
        nonlocal readings
        readings += 1
        return EpochState(number, "0x", 1000 + number, 0, MicroUSD(0), 0, False)

    assert await newest_over(known, read, 1000 + 2 * over) == 2 * over
    assert readings <= 9


async def test_an_epoch_that_is_not_there_is_not_over() -> None:
    async def read(number: int) -> EpochState:
        return EpochState(number, "0x", 0, 0, MicroUSD(0), 0, False)

    assert await newest_over([1, 2], read, 10**9) == 0
    assert await newest_over([], read, 10**9) == 0


def test_what_holds_the_rest_back_is_told() -> None:
    done = Archived((), {}, {}, "epoch 3 is Finalized: it is not paid yet")
    assert archive_text(done, dry_run=False) == [
        "Nothing to archive.",
        "- no further: epoch 3 is Finalized: it is not paid yet",
    ]
