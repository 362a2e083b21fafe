"""Uids in order, against a sorted list."""

from __future__ import annotations

import pytest

from fedgpu_operator.placement.table import Uids


def test_they_are_in_order_whenever_somebody_reads_them() -> None:
    names = ["c", "a", "d", "b"]
    uids = Uids(list(names))
    assert (len(uids), uids.first) == (4, "a"), "the first is known before they are sorted"
    assert list(uids) == sorted(names)
    assert (uids[1], uids[2:], uids.first) == ("b", ["c", "d"], "a")


def test_of_none_there_is_no_first() -> None:
    with pytest.raises(ValueError, match="empty"):
        _ = Uids([]).first
