"""Keeps a job's status below its limit of bytes: what is only advice goes first; pure."""

from __future__ import annotations

from typing import Final

from fedgpu_operator.api.base import Model
from fedgpu_operator.api.computejobstatus import ComputeJobStatus
from fedgpu_operator.api.weight import JOB_STATUS_BYTES, stored_bytes

MAX_MESSAGE: Final = 768
"""Bytes of a condition's message as it is stored: conditions and the longest list of policies fit together."""


def cut(message: str, most: int = MAX_MESSAGE) -> str:
    """The longest beginning of the message that is stored in at most `most` bytes."""
    kept = message[:most]
    while (size := stored_bytes(kept) - len('""')) > most:
        # A letter takes six bytes at most, so never too much is cut at once.
        kept = kept[: len(kept) - max(1, (size - most) // 6)]
    return kept


def fitted(status: ComputeJobStatus) -> ComputeJobStatus:
    """The status in at most JOB_STATUS_BYTES: candidates are left out from the worst-judged on until it fits.

    What was decided by (policies, law, conditions) always stays.
    """
    if _at_most(status) <= JOB_STATUS_BYTES:
        return status
    left = JOB_STATUS_BYTES - _size(status.model_copy(update={"candidates": []}))
    kept = []
    for candidate in status.candidates:
        # And the comma behind it.
        left -= _size(candidate) + 1
        if left < 0:
            break
        kept.append(candidate)
    return status.model_copy(update={"candidates": kept})


def _size(model: Model) -> int:
    return stored_bytes(model.to_wire())


def _at_most(status: ComputeJobStatus) -> int:
    """An upper bound of the size that costs nothing to find: 6 bytes a letter, as an escaped one has, and the rest."""
    placement = status.placement
    policies = sum(len(each) + 3 for each in placement.policies) if placement is not None else 0
    candidates = sum(6 * len(each.message) + 64 * len(each.components) + 700 for each in status.candidates)
    conditions = sum(6 * len(each.message) + 300 for each in status.conditions)
    return policies + candidates + conditions + 2000
