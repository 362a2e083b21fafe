"""An endpoint that is asked again while it does not answer, for a person who waits; the hub has its passes instead."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from fedgpu_operator.adapters.chain.endpoint import SILENCE, Endpoint, why_silent
from fedgpu_operator.adapters.chain.votes import Answer, Vote
from fedgpu_operator.adapters.chain.wordings import SEND
from fedgpu_operator.errors import ChainUnreachableError

T = TypeVar("T")
READING_S: Final = 300.0
"""How long one endpoint may be silent while something is read: public gateways lift a rate limit within minutes."""
SENDING_S: Final = 1800.0
"""How long signed bytes are sent again while nobody knows whether they arrived: as long as finality may take."""
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 15.0
QUIET_S: Final = 2.0
"""How long a silence may last before it is reported: of a busy gateway most are over at the next try."""
REPEATED_S: Final = 30.0
"""How often the same silence is reported."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long silence is borne while reading and while sending, in seconds, and who is told of it.

    What is told names hosts, never the path of an address.
    """

    reading: float = READING_S
    sending: float = SENDING_S
    tell: Callable[[str], None] = lambda _: None

    async def until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` answers, once it does; ChainUnreachableError if it does not when the patience ends.

        Each endpoint has told of its own silence: what is left to tell of is that several do not agree.
        """
        loop, pauses = asyncio.get_running_loop(), pause_lengths()
        until, told = loop.time() + self.reading, False
        while True:
            try:
                return await ask()
            except ChainUnreachableError as error:
                if loop.time() > until:
                    raise
                if not told:
                    self.tell(f"{error}; trying again")
                told = True
            await asyncio.sleep(next(pauses))


class PatientEndpoint(Endpoint):
    """As an Endpoint, but every request except that to send is repeated until it is answered, or patience ends.

    Each request is repeated by itself: a reading of several requests would never end at an endpoint that loses every
    second reply. What is sent goes out once: a repetition may be answered otherwise, and its sender judges that.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        chain_id: int | None,
        patience: Patience,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(url, timeout, chain_id, trust)
        self._patience = patience
        self._silent_since: float | None = None
        self._reported_at = 0.0

    async def vote(self, method: str, params: Sequence[object], height: int) -> Vote:
        """As an Endpoint; also repeated while the answer is one that does not count, such as a rate limit."""
        pauses = pause_lengths()
        while True:
            vote = await super().vote(method, params, height)
            if vote.answer is not None:
                self._silent_since = None
                return vote
            if method == SEND or vote.wrong_chain is not None or not self._bears(vote.why):
                return vote
            await asyncio.sleep(next(pauses))

    async def _ask(self, method: str, params: Sequence[object]) -> Answer:
        pauses = pause_lengths()
        while True:
            try:
                return await super()._ask(method, params)
            except SILENCE as error:
                if method == SEND or not self._bears(f"gives no answer ({why_silent(error)})"):
                    raise
            await asyncio.sleep(next(pauses))

    def _bears(self, why: str) -> bool:
        """Whether to ask once more; says so now and then."""
        now = asyncio.get_running_loop().time()
        if self._silent_since is None:
            self._silent_since, self._reported_at = now, now + QUIET_S - REPEATED_S
        elif now - self._silent_since > self._patience.reading:
            return False
        elif now - self._reported_at > REPEATED_S:
            self._reported_at = now
            self._patience.tell(f"{self.host} {why}, for {now - self._silent_since:.0f} s; trying again")
        return True


def pause_lengths(first: float | None = None) -> Iterator[float]:
    """Seconds to wait before each repetition: twice as long each time, up to LONGEST_PAUSE_S."""
    pause = FIRST_PAUSE_S if first is None else first
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_S)
