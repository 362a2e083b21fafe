"""The announced move of a lease: as it is kept on the lease, and in words; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computelease import MAX_WHY, ComputeLease, LeaseMove
from fedgpu_operator.domain.running import Announced, MoveReason


@dataclass(frozen=True, slots=True)
class Notice:
    """An announced move: what it is, when the workload is stopped, until when its capacity is held, and why.

    `priority` is that of the mover.
    """

    move: Announced
    stop_at: datetime
    held_until: datetime
    priority: int
    why: str

    def to_wire(self) -> JSONObject:
        """As the lease's spec holds it."""
        told = LeaseMove(
            reason=self.move.reason,
            to=self.move.to,
            serves=self.move.serves,
            stop_at=self.stop_at,
            held_until=self.held_until,
            priority=self.priority,
            why=self.why[:MAX_WHY],
        )
        return told.to_wire()


def notice_of(lease: ComputeLease) -> Notice | None:
    """The announced move of a lease; None where there is none."""
    said = lease.spec.move
    if said is None:
        return None
    move = Announced(said.reason, said.to, said.serves)
    return Notice(move, said.stop_at, said.held_until, said.priority, said.why)


def words(lease: ComputeLease) -> str:
    """What a person should know of the announced move of a lease that still runs; empty where there is none."""
    notice = notice_of(lease)
    if notice is None or lease.status.ended:
        return ""
    return f"will be stopped at {notice.stop_at:%Y-%m-%dT%H:%M:%SZ} and placed again: {notice.why}"


def move_reason(outcome: str, announced: LeaseMove | None) -> str:
    """Why a lease with that outcome was moved, as it was announced; empty if the outcome is not that of a move."""
    if outcome not in _UNANNOUNCED:
        return ""
    return announced.why if announced is not None and announced.why else _UNANNOUNCED[MoveReason(outcome)]


_UNANNOUNCED: Final[Mapping[MoveReason, str]] = {
    MoveReason.PREEMPTED: "work of higher priority needs its GPUs",
    MoveReason.REBALANCED: "a better place was found",
}
"""By kind of move, its reason if the announcement is gone."""
