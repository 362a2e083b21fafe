"""The announced move of a lease: as it is kept on the lease, and in words; pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.domain.running import Announced, MoveReason

MOVE_ANNOTATION: Final = "fedgpu.dev/move"
"""On a ComputeLease: the move that was announced, as JSON; the hub alone writes it and reads it."""


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

    def to_text(self) -> str:
        """As the annotation holds it."""
        times = {"stopAt": self.stop_at.isoformat(), "heldUntil": self.held_until.isoformat()}
        return json.dumps({**asdict(self.move), **times, "priority": self.priority, "why": self.why}, sort_keys=True)


def notice_of(lease: ComputeLease) -> Notice | None:
    """The announced move of a lease; None where there is none, or where the annotation is not the hub's."""
    text = lease.metadata.annotations.get(MOVE_ANNOTATION, "")
    if not text:
        return None
    try:
        said = json.loads(text)
        move = Announced(MoveReason(said["reason"]), str(said["to"]), str(said["serves"]))
        stop_at, held_until = (datetime.fromisoformat(said[name]) for name in ("stopAt", "heldUntil"))
        if stop_at.tzinfo is None or held_until.tzinfo is None:
            return None
        return Notice(move, stop_at, held_until, int(said["priority"]), str(said["why"]))
    except (KeyError, TypeError, ValueError):
        return None


def words(lease: ComputeLease) -> str:
    """What a person should know of the announced move of a lease that still runs; empty where there is none."""
    notice = notice_of(lease)
    if notice is None or lease.status.ended:
        return ""
    return f"is stopped at {notice.stop_at:%Y-%m-%dT%H:%M:%SZ} and placed again: {notice.why}"
