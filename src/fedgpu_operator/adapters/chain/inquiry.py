"""One question to several endpoints at once: collects the votes as they come, and waits no longer than is useful."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable

from fedgpu_operator.adapters.chain.votes import Vote

Judge = Callable[[Vote], None]


class Inquiry:
    """`votes` are those that came so far. A request on its way when the caller has enough goes on by itself.

    It ends by its own time limit, and `conclude` says who looks at what it brings then.
    """

    def __init__(self, asked: Iterable[Coroutine[object, object, Vote]], running: set[asyncio.Task[Vote]]) -> None:
        self.votes: list[Vote] = []
        self._waiting = {asyncio.create_task(each) for each in asked}
        running |= self._waiting
        for task in self._waiting:
            task.add_done_callback(running.discard)

    async def more(self, within: float | None = None) -> bool:
        """Wait for at least one more vote; False when all have voted or `within` seconds have passed."""
        if not self._waiting:
            return False
        done, self._waiting = await asyncio.wait(self._waiting, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        self.votes += [task.result() for task in done]
        return bool(done)

    async def enough(self, count: int, grace: float) -> list[Vote]:
        """`count` answers or all votes, and whoever else votes within `grace` seconds after that."""
        while sum(vote.answer is not None for vote in self.votes) < count:
            if not await self.more():
                return self.votes
        loop = asyncio.get_running_loop()
        until = loop.time() + grace
        while await self.more(max(0.0, until - loop.time())):
            pass
        return self.votes

    def conclude(self, judge: Judge) -> None:
        """Show `judge` each vote that came, and those to come when they do."""
        for vote in self.votes:
            judge(vote)
        for task in self._waiting:
            task.add_done_callback(lambda done: None if done.cancelled() else judge(done.result()))
