"""The crash sweep: the process is killed at every write of the settlement path, and everybody is paid exactly once."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

import pytest
from tests.chaos.faults import ESCROW, KUBE, LEDGER, SWEPT, Fault, Mode
from tests.chaos.field import Range

pytestmark = pytest.mark.chains("anvil")

UNDISTURBED = {
    "ledger.store_epoch",
    "ledger.open_intent:post",
    "ledger.open_intent:claim",
    "ledger.store_tx:post",
    "ledger.store_tx:claim",
    "ledger.mark_tx:Broadcast",
    "ledger.mark_tx:Finalized",
    "ledger.close_intent:Done",
    "ledger.mark_epoch:Posted",
    "ledger.mark_epoch:Finalized",
    "ledger.mark_epoch:Paid",
    "ledger.post",
    "kube.create:ConfigMap",
    "kube.create:SettlementEpoch",
    "kube.patch_status:Finalized",
    "kube.patch_status:Paid",
    "escrow.sign:post",
    "escrow.sign:claim",
    "escrow.broadcast",
    "escrow.receipt",
}
"""Points of a run without faults; each is shot at as often as such a run reaches it, up to `MOST`. `make
chaos-settlement` shoots at all of them, many at a time."""
MOST = 1


@pytest.fixture(scope="session")
def points(ranges: tuple[Range, Range]) -> dict[str, int]:
    """What a run without faults reaches, and how often; it must itself be right."""
    ranges[0].restore()
    killed, reached = ranges[0].shoot()
    assert not killed
    ranges[0].judge()
    return reached


def test_every_kind_of_write_is_a_point_of_the_sweep(points: dict[str, int]) -> None:
    assert set(points) >= UNDISTURBED
    wired = {
        f"{port}.{name}" for port, names in (("ledger", LEDGER), ("kube", KUBE), ("escrow", ESCROW)) for name in names
    }
    assert {point.partition(":")[0] for point in points} == wired


@pytest.mark.parametrize("mode", SWEPT)
def test_a_death_or_a_lost_reply_at_any_point_loses_and_doubles_nothing(
    ranges: tuple[Range, Range], points: dict[str, int], mode: Mode
) -> None:
    shots = [Fault(point, mode, nth) for point, times in points.items() for nth in range(1, min(times, MOST) + 1)]
    sweep(ranges, shots)


def sweep(ranges: Iterable[Range], shots: Iterable[Fault]) -> None:
    """Take every shot at one of the ranges; all ranges shoot at once."""
    queue: SimpleQueue[Fault] = SimpleQueue()
    for shot in shots:
        queue.put(shot)

    def work(field: Range) -> None:
        while True:
            try:
                fault = queue.get_nowait()
            except Empty:
                return
            take(field, fault)

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(work, each) for each in ranges]:
            done.result()


def take(field: Range, fault: Fault) -> None:
    """One shot, the life after it, and the verdict."""
    field.restore()
    killed, _ = field.shoot(fault)
    try:
        assert killed is (fault.mode is not Mode.LOST)
        if killed:
            assert not field.shoot()[0]
        field.judge()
    except AssertionError as error:
        raise AssertionError(f"after {fault}: {error}") from error
