"""Parts of a market that share no class, offer or provider's slots, to be solved one by one; nothing is solved here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedgpu_operator.placement.problem import BoolVector, IntVector


class Shard(NamedTuple):
    """Indices of classes and offers, ascending."""

    rows: IntVector
    offers: IntVector


def split(eligible: Sequence[BoolVector], tied: IntVector, least: int) -> list[Shard]:
    """Connected components of classes and offers, small ones together until a shard has `least` pairs.

    `tied` (O,) names what offers share besides classes: those of one provider whose slots bind have equal numbers.
    Offers that no class may use are in no shard, classes without an offer neither.
    """
    label, of_row = _labels(eligible, tied), parts(eligible, tied)
    counts = {key: int(np.count_nonzero(each)) for key, each in _distinct(eligible).items()}
    pairs: dict[int, int] = {}
    for part, each in zip(of_row.tolist(), eligible, strict=True):
        if part >= 0:
            pairs[part] = pairs.get(part, 0) + counts[id(each)]
    return [
        Shard(np.flatnonzero(np.isin(of_row, inside)), np.flatnonzero(np.isin(label, inside)))
        for inside in _bundles(pairs, least)
    ]


def parts(eligible: Sequence[BoolVector], tied: IntVector) -> IntVector:
    """The component of each class, (C,), -1 for one without an offer."""
    label = _labels(eligible, tied)
    home = {key: int(label[each.argmax()]) if each.any() else -1 for key, each in _distinct(eligible).items()}
    return np.array([home[id(each)] for each in eligible], dtype=np.int64)


def _labels(eligible: Sequence[BoolVector], tied: IntVector) -> IntVector:
    """The component of each offer, (O,), named by its least number."""
    label = tied.copy()
    merged = np.arange(int(tied.max(initial=0)) + 1)
    for mask in _distinct(eligible).values():
        inside = label[mask]
        if len(inside) and inside.min() != inside.max():
            merged[:] = np.arange(len(merged))
            merged[inside] = inside.min()
            label = merged[label]
    return label


def _bundles(pairs: dict[int, int], least: int) -> list[list[int]]:
    bundles: list[list[int]] = [[]]
    held = 0
    for part, count in sorted(pairs.items()):
        if held >= least:
            bundles.append([])
            held = 0
        bundles[-1].append(part)
        held += count
    return bundles


def _distinct(eligible: Sequence[BoolVector]) -> dict[int, BoolVector]:
    return {id(each): each for each in eligible}
