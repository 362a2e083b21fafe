"""Keeps a job's status below its limit of bytes: what is only advice goes first; pure."""

from __future__ import annotations

import json
from typing import Final

from fedgpu_operator.api.base import Model
from fedgpu_operator.api.computejobstatus import ComputeJobStatus

MOST_BYTES: Final = 32 * 1024
"""Of a status as JSON in UTF-8: a hub holds many jobs, and every change of one is sent to all who watch."""
MAX_MESSAGE: Final = 768
"""Bytes of a condition's message: conditions and the longest list of policies fit together."""


def cut(message: str, most: int = MAX_MESSAGE) -> str:
    """The message, at most `most` bytes of it in UTF-8, no letter split."""
    return message.encode()[:most].decode(errors="ignore")


def fitted(status: ComputeJobStatus) -> ComputeJobStatus:
    """The status in at most MOST_BYTES: candidates are left out from the worst-judged on until it fits.

    What was decided by (policies, law, conditions) always stays.
    """
    if _at_most(status) <= MOST_BYTES:
        return status
    left = MOST_BYTES - _size(status.model_copy(update={"candidates": []}))
    kept = []
    for candidate in status.candidates:
        # And the comma behind it.
        left -= _size(candidate) + 1
        if left < 0:
            break
        kept.append(candidate)
    return status.model_copy(update={"candidates": kept})


def _size(model: Model) -> int:
    return len(json.dumps(model.to_wire(), ensure_ascii=False, separators=(",", ":")).encode())


def _at_most(status: ComputeJobStatus) -> int:
    """An upper bound of the size that costs nothing to find: 6 bytes a letter, as an escaped one has, and the rest."""
    placement = status.placement
    policies = sum(len(each) + 3 for each in placement.policies) if placement is not None else 0
    candidates = sum(6 * len(each.message) + 64 * len(each.components) + 700 for each in status.candidates)
    conditions = sum(6 * len(each.message) + 300 for each in status.conditions)
    return policies + candidates + conditions + 2000
