"""What of the escrow's log is missing is named with its cause, and only that is read again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from fedgpu_operator.adapters.chain import history
from fedgpu_operator.adapters.chain.history import Blocks, History
from fedgpu_operator.errors import StatePrunedError

FINAL = 600
POSTS = {100: 1, 200: 2, 300: 3, 400: 4, 500: 5}
DISPUTED = {150: 1, 250: 2, 450: 4}
"""The block in which an epoch was disputed."""


class Log:
    """Pieces of ten blocks; what is in `dropped` blocks is not shown."""

    def __init__(self) -> None:
        self.asked: list[Blocks] = []
        self.dropped: Callable[[int], bool] = lambda block: False

    async def pieces(self, start: int, end: int, _: object) -> AsyncIterator[tuple[int, Sequence[int]]]:
        while start <= end:
            last = min(end, start + 9)
            self.asked.append((start, last))
            there = [block for block in {**POSTS, **DISPUTED} if start <= block <= last and not self.dropped(block)]
            yield last, sorted(there)
            start = last + 1


class Reader:
    async def epoch(self, number: int, at: int) -> Any:
        return SimpleNamespace(active_at=min(POSTS))

    async def read(self, name: str, at: int) -> Any:
        return 0 if name == "CHALLENGE" else SimpleNamespace(last=len(POSTS))

    async def dispute(self, epoch: int, tenant: str, provider: str, at: int) -> Any:
        return epoch


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    async def block_at(rpc: object, name: object) -> Any:
        number = name if isinstance(name, int) else FINAL
        return SimpleNamespace(number=number, timestamp=number)

    async def first_block_since(rpc: object, timestamp: int, low: int, high: int) -> int:
        return max(low, timestamp)

    def events_of(event: str, logs: Sequence[int], contract: object) -> list[dict[str, Any]]:
        found = {"EpochPosted": POSTS, "Disputed": DISPUTED}.get(event, {})
        return [{"epoch": found[block], "tenant": "t", "provider": "p"} for block in logs if block in found]

    for each in (block_at, first_block_since, events_of):
        monkeypatch.setattr(history, each.__name__, each)
    monkeypatch.setattr(History, "_topic", lambda self, event: event)
    return Log()


def reading(log: Log, from_block: int | None) -> History:
    made = History("rpc.example.org", SimpleNamespace(address="0x" + "11" * 20), Reader(), from_block)  # type: ignore[arg-type]
    made._log = log  # type: ignore[assignment]
    return made


async def test_a_first_block_that_is_too_late_is_named_with_its_cure(log: Log) -> None:
    with pytest.raises(StatePrunedError, match=r"4 of the 5 epochs.*FEDGPU_FIRST_BLOCK=150 .* was created"):
        await reading(log, 150).disputes()


@pytest.mark.parametrize("from_block", [None, 50])
async def test_logs_that_are_dropped_in_between_are_no_settings_fault(log: Log, from_block: int | None) -> None:
    log.dropped = lambda block: 250 < block < 350
    with pytest.raises(StatePrunedError, match="it drops old logs") as caught:
        await reading(log, from_block).disputes()
    assert "FIRST_BLOCK" not in str(caught.value)


async def test_what_was_read_is_not_read_again_at_each_pass(log: Log) -> None:
    it = reading(log, 150)
    requests = []
    for _ in range(5):
        before = len(log.asked)
        with pytest.raises(StatePrunedError):
            await it.disputes()
        requests.append(len(log.asked) - before)
    whole, again, *later = requests
    assert whole == 46
    assert again <= 7, "only where the first epoch can be"
    assert later == [0, 0, 0], "and then with a pause"
    assert all(last <= 209 for _, last in log.asked[whole:])


@pytest.mark.parametrize("dropped", [range(160), range(160, 260), range(240, 460), range(440, 601), range(601)])
async def test_what_was_missing_is_found_once_it_is_shown_whichever_part_it_was(
    log: Log, monkeypatch: pytest.MonkeyPatch, dropped: range
) -> None:
    monkeypatch.setattr(history, "AGAIN_S", 0.0)
    log.dropped = dropped.__contains__
    it = reading(log, 50)
    for _ in range(3):
        with pytest.raises(StatePrunedError):
            await it.disputes()
    log.dropped = lambda block: False
    found: list[Any] = list(await it.disputes())
    assert found == [1, 2, 4], "oldest first"
    before = len(log.asked)
    assert list(await it.disputes()) == found
    assert len(log.asked) == before
