"""Remembers which endpoint stood apart at what, and says so in the log when that changes, not each time."""

from __future__ import annotations

import logging
import re

log = logging.getLogger(__name__)


class Standing:
    """The faults of the endpoints of one connection, by host and method."""

    def __init__(self) -> None:
        self._faults: dict[tuple[str, str], str] = {}

    def note(self, host: str, method: str, fault: str) -> None:
        """`fault` is what the endpoint did this time, empty where it was in step with the others.

        Numbers and what stands in parentheses are told and make no difference: they change from one time to the next.
        """
        kind = re.sub(r"\d+", "#", fault.partition(" (")[0])
        if kind == self._faults.get((host, method), ""):
            return
        if fault:
            self._faults[host, method] = kind
            log.warning("the endpoint %s %s on %s; the others decide", host, fault, method)
        else:
            del self._faults[host, method]
            log.info("the endpoint %s is back in step on %s", host, method)
