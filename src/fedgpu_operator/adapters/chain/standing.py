"""Remembers which endpoint stood apart at what, and says so in the log when that changes, not each time."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class Standing:
    """The faults of the endpoints of one connection, by host and method."""

    def __init__(self) -> None:
        self._faults: dict[tuple[str, str], str] = {}

    def note(self, host: str, method: str, fault: str) -> None:
        """`fault` is what the endpoint did this time, empty where it was in step with the others."""
        before = self._faults.get((host, method), "")
        if fault == before:
            return
        if fault:
            self._faults[host, method] = fault
            log.warning("the endpoint %s %s on %s; the others decide", host, fault, method)
        else:
            del self._faults[host, method]
            log.info("the endpoint %s is back in step on %s", host, method)
