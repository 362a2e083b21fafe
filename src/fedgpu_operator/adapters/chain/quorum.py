"""JSON-RPC over M endpoints of which N must agree: what one of them says is only a vote; no contract is known here.

One endpoint with a quorum of one is the same code. Tags such as `finalized` are turned into the newest block that N
endpoints have with the same hash, and state is read at that number.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, cast

from eth_utils.crypto import keccak
from web3.providers.async_base import AsyncJSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from fedgpu_operator.adapters.chain.endpoint import Endpoint, Patience
from fedgpu_operator.adapters.chain.errors import AnswerError, ErrorAnswer
from fedgpu_operator.adapters.chain.votes import (
    Answer,
    Result,
    Vote,
    agreed,
    choice,
    fingerprint,
    height_of,
    quantities,
    refusal,
    refuses,
    shrinks,
    takes,
)
from fedgpu_operator.adapters.chain.wordings import SEND
from fedgpu_operator.errors import ChainError, ChainMismatchError, ChainUnreachableError, ConfigurationError

log = logging.getLogger(__name__)

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


class EndpointLog:
    """The faults of the endpoints of one connection, by host and method."""

    def __init__(self) -> None:
        self._faults: dict[tuple[str, str], str] = {}

    def note(self, host: str, method: str, fault: str) -> None:
        """`fault` is what the endpoint did this time, empty if it was in step with the others.

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


GRACE_S: Final = 0.3
"""How long further answers are waited for once enough have come: the more there are, the better the choice."""

TAGS: Final = frozenset({"latest", "safe", "finalized"})
STATE_AT: Final[Mapping[str, int]] = {
    "eth_call": 1,
    "eth_getBalance": 1,
    "eth_getCode": 1,
    "eth_getTransactionCount": 1,
    "eth_getStorageAt": 2,
}
"""Where each of these methods takes its block."""
BLOCK: Final = "eth_getBlockByNumber"
RECEIPT: Final = "eth_getTransactionReceipt"


class _UndecidedError(Exception):
    """The endpoints do not decide a request; `may_change` if enough of them answer, so that they may agree soon."""

    def __init__(self, error: ChainError, *, may_change: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.may_change = may_change


class QuorumProvider(AsyncJSONBaseProvider):
    """A web3 provider over several endpoints; ConfigurationError unless `quorum` is a majority of them.

    `chain_id` is the chain that every endpoint must serve; None if it is not known yet, then only answers count.
    `trust` is who may sign the endpoints' certificates, by default the usual authorities. With `patience` endpoints
    that do not answer, or do not agree, are asked again.
    Requests raise ChainUnreachableError if too few agree, ChainMismatchError if a quorum serves another chain,
    AnswerError if a quorum answers an error alike, so that web3 never reads one: it makes exceptions of its own of
    some codes and words, and follows what a contract's revert tells it to fetch (EIP-3668).
    """

    def __init__(
        self,
        urls: Sequence[str],
        quorum: int | None,
        timeout: float,
        chain_id: int | None,
        trust: ssl.SSLContext | None = None,
        patience: Patience | None = None,
    ) -> None:
        super().__init__()
        self.quorum = quorum if quorum is not None else len(urls) // 2 + 1
        if not len(urls) < 2 * self.quorum <= 2 * len(urls):
            raise ConfigurationError(
                f"{self.quorum} of {len(urls)} endpoints is not a quorum: set more than half of them, at most all"
            )
        self._endpoints = [Endpoint(url, timeout, chain_id, trust, patience) for url in urls]
        self._patience = patience
        self._running: set[asyncio.Task[Vote]] = set()
        self._endpoint_log = EndpointLog()
        self._late: set[str] = set()
        """Who did not answer within the grace when it was last given: nobody waits for them again."""
        self._finalized = 0
        """The highest block that a quorum called finalized: only who has got there can say that a transaction is in
        no block, and nothing is read below it by that tag again."""
        self._final_mark: Hashable = None
        """That block's fingerprint."""

    @property
    def name(self) -> str:
        """Who is asked, without secrets."""
        hosts = [endpoint.host for endpoint in self._endpoints]
        return hosts[0] if len(hosts) == 1 else f"{self.quorum} of {', '.join(hosts)}"

    async def make_request(self, method: RPCEndpoint, params: object) -> RPCResponse:
        """One request to all endpoints, decided by what they agree on.

        With patience it is repeated while enough endpoints answer and do not agree; each of them repeats by itself what
        it does not answer.
        """
        given: list[object] = json.loads(self.encode_rpc_request(method, params))["params"]
        try:
            return await self._decided(method, given)
        except _UndecidedError as undecided:
            if self._patience is None or method == SEND or not undecided.may_change:
                raise undecided.error from None
            return await self._decided_with(self._patience, method, given, undecided)

    async def _decided_with(
        self, patience: Patience, method: str, given: list[object], undecided: _UndecidedError
    ) -> RPCResponse:
        loop, pauses = asyncio.get_running_loop(), patience.pauses()
        until = loop.time() + patience.reading
        patience.tell(f"{undecided.error}; trying again")
        while True:
            await asyncio.sleep(pauses.failed())
            try:
                return await self._decided(method, given)
            except _UndecidedError as again:
                if loop.time() > until or not again.may_change:
                    raise again.error from None

    async def _decided(self, method: str, given: list[object]) -> RPCResponse:
        if method == SEND:
            answer = await self._send(given)
        elif method == BLOCK and given[0] in TAGS:
            answer = await self._newest(str(given[0]), given[1:])
        elif (choose := choice(method, given, self.quorum)) is not None:
            answer = await self._figure(method, given, choose)
        else:
            answer = await self._state(method, given)
        if isinstance(answer, ErrorAnswer):
            raise AnswerError(method, answer)
        return cast("RPCResponse", {"jsonrpc": "2.0", "id": 1, "result": answer.value})

    async def disconnect(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for endpoint in self._endpoints:
            await endpoint.aclose()

    # ---------------------------------------------------------------- ways to decide

    async def _same(self, method: str, params: Sequence[object]) -> Answer:
        """The answer that a quorum gives, as soon as there is one."""
        inquiry = self._ask(method, params)
        while await inquiry.more():
            if (answer := agreed(inquiry.votes, self.quorum)) is not None:
                inquiry.conclude(partial(self._compare, method, fingerprint(method, answer)))
                return answer
        if (fault := shrinks(method, inquiry.votes)) is not None:
            return fault
        raise self._undecided(inquiry.votes)

    async def _figure(self, method: str, params: Sequence[object], choose: Callable[[Sequence[int]], int]) -> Answer:
        """One of the figures of at least a quorum; an error if a quorum refuses alike."""
        votes = await self._most(method, params)
        figures = quantities(votes)
        if len(figures) >= self.quorum:
            return Result(hex(choose(figures)))
        fault = agreed((vote for vote in votes if vote.fault is not None), self.quorum) or shrinks(method, votes)
        if fault is None:
            raise self._undecided(votes)
        return fault

    async def _newest(self, tag: str, rest: Sequence[object]) -> Answer:
        """The newest block that a quorum has under that tag, or on the way to it, with the same hash."""
        votes = await self._most(BLOCK, [tag, *rest])
        heights = sorted({height for vote in votes if (height := height_of(vote)) is not None}, reverse=True)
        for height in heights:
            block = await self._block_at(height, votes, rest)
            if block is not None:
                return await self._never_back(height, block, rest) if tag == "finalized" else block
        other = agreed((vote for vote in votes if height_of(vote) is None), self.quorum)
        if other is None:
            raise self._undecided(votes)
        return other

    async def _never_back(self, height: int, block: Answer, rest: Sequence[object]) -> Answer:
        """The block, or the one that a quorum called finalized before, if that is higher and a quorum still has it.

        Finality does not go back; who tells of it does, when the endpoint that was ahead fails, or a balancer asks a
        node that is behind. What somebody has read by that block would be undone for them: an open dispute forgotten.
        """
        newest, mark = self._finalized, self._final_mark
        if height >= newest:
            self._finalized, self._final_mark = height, fingerprint(BLOCK, block)
            return block
        held = await self._same(BLOCK, [hex(newest), *rest])
        if fingerprint(BLOCK, held) != mark:
            behind = (
                f"{self.name} fell behind: block {newest} was finalized there, now {height} is, and {newest} is not "
                "there, or another"
            )
            raise _UndecidedError(ChainUnreachableError(behind), may_change=True)
        return held

    async def _block_at(self, height: int, votes: Sequence[Vote], rest: Sequence[object]) -> Answer | None:
        """The block of that height that a quorum has among those whose tag has got so far."""
        there = [vote for vote in votes if height_of(vote) == height]
        beyond = {vote.host for vote in votes if (height_of(vote) or 0) > height}
        if len(there) + len(beyond) < self.quorum:
            return None
        inquiry = self._ask(BLOCK, [hex(height), *rest], [each for each in self._endpoints if each.host in beyond])
        seen = there
        while (block := agreed(seen, self.quorum)) is None:
            if not await inquiry.more():
                return None
            seen = [*there, *inquiry.votes]
        compare = partial(self._compare, BLOCK, fingerprint(BLOCK, block))
        for vote in there:
            compare(vote)
        inquiry.conclude(compare)
        return block

    async def _send(self, params: Sequence[object]) -> Answer:
        """To all; a quorum's refusal counts, else success if any takes the bytes or has them, else it is unknown.

        AnswerError for the refusal (`votes.refusal`), with what the others do: at one nonce it is safe to act upon,
        since whether the bytes are mined all the same is read from the chain.
        """
        tx_hash = "0x" + keccak(hexstr=str(params[0])).hex()
        inquiry = self._ask(SEND, params)
        votes: list[Vote] = []
        while await inquiry.more():
            # Whoever answers with another hash has taken something else.
            votes = [
                replace(vote, answer=None, why="takes something else")
                if isinstance(vote.answer, Result) and vote.answer.value != tx_hash
                else vote
                for vote in inquiry.votes
            ]
            still = len(self._endpoints) - len(votes)
            if any(map(takes, votes)) and sum(map(refuses, votes)) + still < self.quorum:
                inquiry.conclude(partial(self._heard, SEND))
                return Result(tx_hash)
        refused = refusal(votes, self.quorum)
        if refused is not None:
            inquiry.conclude(partial(self._heard, SEND))
            raise AnswerError(SEND, refused, _others(votes))
        if any(map(takes, votes)):
            inquiry.conclude(partial(self._heard, SEND))
            return Result(tx_hash)
        raise self._undecided(votes)

    async def _state(self, method: str, params: Sequence[object]) -> Answer:
        """What a quorum says, where a tag is asked for at the number of the block that a quorum has."""
        place = STATE_AT.get(method)
        if place is None or len(params) <= place or params[place] not in TAGS:
            return await self._same(method, params)
        block = await self._newest(str(params[place]), [False])
        if isinstance(block, ErrorAnswer):
            return block
        found = block.value
        if not isinstance(found, Mapping):
            absent = ChainUnreachableError(f"{self.name}: no {params[place]} block yet")
            raise _UndecidedError(absent, may_change=True)
        return await self._same(method, [*params[:place], found["number"], *params[place + 1 :]])

    # ---------------------------------------------------------------- asking and judging

    def _ask(self, method: str, params: Sequence[object], among: Sequence[Endpoint] | None = None) -> Inquiry:
        height = self._finalized if method == RECEIPT else 0
        asked = self._endpoints if among is None else among
        return Inquiry((endpoint.vote(method, params, height) for endpoint in asked), self._running)

    async def _most(self, method: str, params: Sequence[object]) -> Sequence[Vote]:
        """A quorum of answers, and those of the others that come within the grace."""
        inquiry = self._ask(method, params)
        prompt = [each for each in self._endpoints if each.host not in self._late]
        grace = GRACE_S if len(prompt) > self.quorum else 0.0
        votes = tuple(await inquiry.enough(self.quorum, grace))
        inquiry.conclude(partial(self._heard, method))
        came = {vote.host for vote in votes if vote.answer is not None}
        self._late -= came
        if grace:
            self._late |= {each.host for each in self._endpoints} - came
        return votes

    def _compare(self, method: str, decided: Hashable, vote: Vote) -> None:
        same = vote.answer is not None and vote.mark == decided
        self._note(method, vote, "" if same else vote.why or "answers otherwise")

    def _heard(self, method: str, vote: Vote) -> None:
        self._note(method, vote, vote.why)

    def _note(self, method: str, vote: Vote, fault: str) -> None:
        """An endpoint that is alone is named by the error that its silence becomes."""
        if len(self._endpoints) > 1:
            self._endpoint_log.note(vote.host, method, fault)

    def _undecided(self, votes: Sequence[Vote]) -> _UndecidedError:
        strangers = [vote for vote in votes if vote.wrong_chain is not None]
        if len(strangers) >= self.quorum:
            other = ChainMismatchError(f"the endpoint {strangers[0].host} {strangers[0].why}")
            return _UndecidedError(other, may_change=False)
        said = ", ".join(f"{vote.host} {vote.why or _brief(vote)}" for vote in votes)
        text = said if len(self._endpoints) == 1 else f"{self.name} do not agree: {said}"
        answers = sum(vote.answer is not None for vote in votes)
        return _UndecidedError(ChainUnreachableError(text), may_change=answers >= self.quorum)


def _others(votes: Sequence[Vote]) -> str:
    """What those do that do not refuse, the same words for the same state of things."""
    rest = sorted(
        f"{vote.host} {'takes it' if takes(vote) else 'gives no answer'}" for vote in votes if not refuses(vote)
    )
    return ", ".join(rest)


def _brief(vote: Vote) -> str:
    return "answers otherwise" if vote.fault is None else f"refuses ({vote.fault.words})"[:200]
