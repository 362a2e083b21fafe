"""What a soak calls flat: the second half alone is judged, per hour, against a bound for each figure."""

from __future__ import annotations

from collections.abc import Callable

from tests.soak.sampling import Sample
from tests.soak.verdict import judge, slope

Shape = Callable[[float], float]


def hour(**shapes: Shape) -> list[Sample]:
    """An hour of samples, one each ten seconds, with 20 jobs a minute; figures by name, with __ for the dot."""
    found = []
    for seconds in range(0, 3601, 10):
        sample: Sample = {"seconds": seconds, "jobs.created": seconds / 3}
        found.append(sample | {name.replace("__", "."): shape(seconds) for name, shape in shapes.items()})
    return found


def missed(samples: list[Sample]) -> set[str]:
    return {finding.figure for finding in judge(samples) if not finding.flat}


def test_what_levels_off_is_flat_however_it_began() -> None:
    samples = hour(operator__rssMiB=lambda s: 150 + min(s, 1500) / 10, hub__computejobs=lambda s: min(s / 3, 40))
    assert missed(samples) == set()
    assert {finding.figure for finding in judge(samples)} == {"operator.rssMiB", "hub.computejobs"}


def test_a_leak_is_missed_by_its_own_name() -> None:
    assert missed(hour(operator__rssMiB=lambda s: 150 + s / 60, operator__files=lambda _: 60)) == {"operator.rssMiB"}
    assert missed(hour(operator__files=lambda s: 130 + s // 120)) == {"operator.files"}
    assert missed(hour(alpha__pods=lambda s: s / 6)) == {"alpha.pods"}


def test_what_something_holds_to_a_ceiling_may_rise_below_it() -> None:
    assert missed(hour(operator__files=lambda s: 60 + s // 120)) == set(), "the pool of connections fills"
    assert missed(hour(hub__settlementepochs=lambda s: s / 36)) == set()
    assert missed(hour(hub__settlementepochs=lambda s: s / 30)) == {"hub.settlementepochs"}


def test_a_sawtooth_of_archiving_is_flat_and_rows_that_stay_are_not() -> None:
    sawtooth = hour(rows__usage_records=lambda s: 500 + s % 180 * 2)
    assert missed(sawtooth) == set()
    assert missed(hour(rows__usage_records=lambda s: s)) == {"rows of readings"}


def test_the_final_total_of_each_lease_may_stay() -> None:
    tables = ("attempts", "lease_usage", "usage_records", "epoch_leases")
    stays = {f"rows__{table}": lambda s: s / 3 for table in tables}
    assert missed(hour(**stays, rows__epochs=lambda s: s / 60)) == set()
    assert missed(hour(**stays, rows__epoch_lines=lambda s: s)) == {"rows"}


def test_prices_and_events_end_by_themselves_and_are_not_judged() -> None:
    assert missed(hour(rows__market_prices=lambda s: s, hub__events=lambda s: s)) == set()


def test_a_figure_that_could_not_be_read_now_and_then_is_judged_by_the_rest() -> None:
    samples = hour(operator__rssMiB=lambda s: 150 + s / 60)
    for sample in samples[::3]:
        del sample["operator.rssMiB"]
    assert round(slope(samples, "operator.rssMiB")) == 60


def test_a_soak_too_short_to_have_halves_says_nothing() -> None:
    assert judge(hour(operator__rssMiB=lambda s: s)[:3]) == []
