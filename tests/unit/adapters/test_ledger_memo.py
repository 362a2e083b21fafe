"""What the ledger remembers is bounded by what is asked, and nothing that is past is held."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from eth_utils.crypto import keccak

from fedgpu_operator.adapters.ledger import SqlLedger, calls
from fedgpu_operator.adapters.ledger.calls import Memo
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import EpochDraft, EpochStage

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def test_manifests_that_were_read_one_by_one_are_not_held(tmp_path: Path) -> None:
    """As a pass does after each epoch: without this an operator held every manifest of its life."""
    async with await SqlLedger.open(tmp_path / "ledger.db") as ledger:
        for number in range(1, 4):
            manifest, at = f"manifest {number}".encode(), NOW + timedelta(hours=number)
            hash_ = "0x" + keccak(manifest).hex()
            draft = EpochDraft(number, "0x0", f"0x{number}", manifest, hash_, at, MicroUSD(1), (), (), "")
            await ledger.store_epoch(draft, at)
            for stage in (EpochStage.POSTED, EpochStage.FINALIZED, EpochStage.PAID):
                await ledger.mark_epoch(number, stage, chain_epoch=number, post_tx="0x1")
            assert await ledger.epoch(number) == await ledger.epoch_with_manifest(hash_)
        assert ledger._memo.held == (0, 0)


def test_an_answer_that_is_past_is_dropped_when_that_is_found() -> None:
    held = Memo()
    held.put("a", 1, {"epochs": 0}, ("x",) * 9)
    held.put("b", 1, {"epochs": 0}, "y")
    assert held.held == (2, 10)
    held.written(["UPDATE epochs SET stage = 'Paid'"])
    assert held.get("a", 1) == (False, None)
    assert held.held == (1, 1)
    assert held.get("b", 2) == (False, None)
    assert held.held == (0, 0)


def test_answers_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_ITEMS", 10)
    held = Memo()
    for number in range(5):
        held.put(number, 1, {}, tuple(range(4)))
        held.put(number, 1, {}, tuple(range(4)))  # again takes no more room
    assert held.held == (2, 8)
    assert [held.get(number, 1)[0] for number in range(5)] == [False, False, False, True, True]
    held.put("large", 1, {}, tuple(range(50)))
    assert held.held == (1, 50)
    held.put("small", 1, {}, ())
    assert held.held == (1, 1)


def test_answers_that_a_write_made_untrue_go_even_if_nobody_asks_for_them_again() -> None:
    """What is asked about each job once would otherwise stay until thousands of others push it out."""
    held = Memo()
    held.put("kept", 1, {"epochs": 0}, ())
    for number in range(3 * calls.SWEEP):
        held.put(("history of job", number), 1, {"attempts": number}, tuple(range(100)))
        held.written(["UPDATE attempts SET ended_at = NULL"])
    assert held.held[0] <= calls.SWEEP + 1
    assert held.get("kept", 1) == (True, ())
