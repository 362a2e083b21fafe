"""Who leads: what a contender makes of the coordination Lease as it read it, by its own clock and nobody else's.

As in client-go's leader election, no timestamp in the Lease is compared with anything: clocks of two replicas may
differ by any amount. A Lease has expired for a contender that saw it unchanged for as long as its holder promised.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class ElectionTimes:
    """In seconds. Between `renew` and `lease` lies the time for what a leader sent last to arrive."""

    lease: float = 12.0
    """For how long nobody else takes the Lease after a renewal."""
    renew: float = 8.0
    """For how long a leader acts after its last renewal."""
    retry: float = 2.0
    """Between two renewals, and between two looks of a standby."""


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What a Lease says; `renewed` is only ever compared with itself."""

    holder: str
    duration: float
    acquired: str
    renewed: str
    transitions: int


class Action(Enum):
    """What a contender does next."""

    CREATE = auto()
    TAKE = auto()
    RENEW = auto()
    WAIT = auto()


class Contender:
    """One process's view of the Lease; each `now` is seconds of one clock of this process that never goes back."""

    def __init__(self, identity: str, times: ElectionTimes) -> None:
        self.identity = identity
        self._times = times
        self._seen: LeaseState | None = None
        self._since = 0.0

    def observe(self, found: LeaseState | None, now: float) -> tuple[Action, float]:
        """What to do about the Lease that was just read, None if there is none; and seconds until it expires."""
        if found is not None and found != self._seen:
            self._seen, self._since = found, now
        # One that was deleted by hand still binds: its holder acts on it for a while.
        held = self._seen
        if held is not None and held.holder not in ("", self.identity):
            left = self._since + (held.duration or self._times.lease) - now
            if left > 0:
                return Action.WAIT, left
        if found is None:
            return Action.CREATE, 0.0
        return (Action.RENEW if found.holder == self.identity else Action.TAKE), 0.0
