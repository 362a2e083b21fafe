"""One JSON-RPC endpoint over HTTP: its answer as a vote, and how often it is asked; nothing is believed here."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx

from fedgpu_operator.adapters.chain.errors import UNAUTHORIZED, fault_of
from fedgpu_operator.adapters.chain.votes import Answer, Result, Vote, fingerprint, quantity
from fedgpu_operator.adapters.chain.wordings import SEND, Meaning
from fedgpu_operator.adapters.requests import rpc_request
from fedgpu_operator.backoff import Backoff
from fedgpu_operator.domain.text import clean_line
from fedgpu_operator.errors import ConfigurationError

SILENCE = (httpx.HTTPError, OSError, ValueError, RecursionError)
"""What means "no usable answer": unknown, and nothing more. TimeoutError is an OSError, bad JSON a ValueError, and
JSON nested without end a RecursionError."""

LARGEST_ANSWER: Final = 64 * 2**20
"""Bytes of one answer that are read: ten times a block full of logs, and no way to fill our memory."""

LONGEST_EXCUSE: Final = 200
"""Characters that are shown of an answer that is not JSON-RPC."""
TURNED_AWAY: Final = 2
"""How often a reading that was turned away is repeated without patience: gateways count requests by the second, and a
pass that starts from its first reading after every one of them turned away would never end."""
TURNED_AWAY_S: Final = (0.25, 1.0)
"""The first and the longest pause before these, in seconds."""
SHORTEST_SECRET: Final = 8
"""Characters; no provider's key is shorter, and a word like `rpc` in a path is none."""

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

    For a person who waits; the hub has its passes instead. What is told names hosts, never the path of an address.
    """

    reading: float = READING_S
    sending: float = SENDING_S
    tell: Callable[[str], None] = lambda _: None

    def pauses(self) -> Backoff:
        """The pauses between repetitions."""
        return Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)


class StatusError(OSError):
    """A response that is not HTTP 200 and holds no JSON-RPC error; its text is its status and its own words."""


class NotNowError(StatusError):
    """A JSON-RPC error that means WAIT; its text is the provider's words."""


class DeniedError(StatusError):
    """The endpoint does not know its caller (HTTP 401, DENIED): until its owner acts, asking again is no use."""


class Endpoint:
    """One address; messages name its host alone, because the path often carries an API key.

    `chain_id` is the chain it must serve, None while that is not known; `trust` who may sign its certificate, by
    default the usual authorities. With `patience` every reading is repeated until it is answered or the patience ends;
    each by itself, since a task of several would never end at an endpoint that loses every second reply. Without, it
    is repeated TURNED_AWAY times if it was turned away. What is sent goes out once: a repetition may be answered
    otherwise, and its sender judges that.

    web3's own HTTP provider guards its sessions with thread locks, which a cancelled request can leave held for good
    (seen: every later request hangs), and opens a new connection for each request.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        chain_id: int | None,
        trust: ssl.SSLContext | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.host = urlsplit(url).netloc.rpartition("@")[2]
        self._url = url
        self._secrets = _secrets(url)
        self._timeout = timeout
        self._chain_id = chain_id
        self._right_chain = chain_id is None
        # No proxies and no netrc from the environment: the endpoint is the one that was configured.
        self._client = httpx.AsyncClient(timeout=timeout, trust_env=False, verify=trust or authorities())
        self._patience = patience
        self._silent_since: float | None = None
        self._reported_at = 0.0

    def __repr__(self) -> str:
        return f"Endpoint({self.host})"

    async def vote(self, method: str, params: Sequence[object], height: int) -> Vote:
        """Its answer to one request; repeated as the class says.

        A `null` counts only from an endpoint that has got to block `height`: one that lags has not seen what it is
        asked for.
        """
        try:
            if not self._right_chain and method != "eth_chainId":
                serves = quantity(_value(await self._ask("eth_chainId", [])))
                if serves is not None and serves != self._chain_id:
                    return Vote(self.host, None, f"serves chain {serves}, not {self._chain_id}", wrong_chain=serves)
                self._right_chain = serves is not None
            answer = await self._ask(method, params)
            if height and answer == Result(None):
                if not await self._reaches(height):
                    return Vote(self.host, None, _behind(height))
                answer = await self._ask(method, params)
        except DeniedError as error:
            return Vote(self.host, None, f"denies access ({error})")
        except NotNowError as error:
            return Vote(self.host, None, f"gives no answer now ({error})")
        except SILENCE as error:
            # Who comes back may be somebody else.
            self._right_chain = self._chain_id is None
            return Vote(self.host, None, f"gives no answer ({why_silent(error)})")
        self._silent_since = None
        return Vote(self.host, answer, mark=fingerprint(method, answer))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, method: str, params: Sequence[object]) -> Answer:
        """As `_once`, but a reading is repeated as the class says; the only place in which one is."""
        pauses = Backoff(*TURNED_AWAY_S) if self._patience is None else self._patience.pauses()
        tries = 0
        while True:
            try:
                return await self._once(method, params)
            except DeniedError:
                raise
            except SILENCE as error:
                tries += 1
                if method == SEND or not self._repeats(error, tries):
                    raise
            await asyncio.sleep(pauses.failed())

    def _repeats(self, error: Exception, tries: int) -> bool:
        """Whether a reading that got no answer for so many times is made again."""
        if self._patience is None:
            return isinstance(error, StatusError) and tries <= TURNED_AWAY
        return self._bears(self._patience, f"gives no answer ({why_silent(error)})")

    async def _reaches(self, height: int) -> bool:
        """Whether it has got to that block, or gets there while the patience lasts."""
        pauses = None if self._patience is None else self._patience.pauses()
        while True:
            head = quantity(_value(await self._ask("eth_blockNumber", [])))
            if head is not None and head >= height:
                return True
            if self._patience is None or pauses is None or not self._bears(self._patience, _behind(height)):
                return False
            await asyncio.sleep(pauses.failed())

    def _bears(self, patience: Patience, why: str) -> bool:
        """Whether the patience with it lasts; reports now and then what is waited for."""
        now = asyncio.get_running_loop().time()
        if self._silent_since is None:
            self._silent_since, self._reported_at = now, now + QUIET_S - REPEATED_S
        elif now - self._silent_since > patience.reading:
            return False
        elif now - self._reported_at > REPEATED_S:
            self._reported_at = now
            patience.tell(f"{self.host} {why}, for {now - self._silent_since:.0f} s; trying again")
        return True

    async def _once(self, method: str, params: Sequence[object]) -> Answer:
        """As `_exchange`, counted by its outcome."""
        with rpc_request(method) as request:
            try:
                answer = await self._exchange(method, params)
            except StatusError:
                request.outcome = "turned_away"
                raise
            request.outcome = "ok" if isinstance(answer, Result) else "error"
        return answer

    async def _exchange(self, method: str, params: Sequence[object]) -> Answer:
        """The answer that is in a response of any HTTP status; one of SILENCE if there is none."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        status, body = await self._post(json.dumps(request).encode())
        try:
            answer: object = json.loads(body)
        except (ValueError, RecursionError):
            if status == httpx.codes.OK:
                raise
            answer = None
        if (error := _error_in(answer)) is not None:
            fault = fault_of(error, status, method, self._without_secrets)
            if fault.meaning is Meaning.WAIT:
                raise NotNowError(fault.words)
            if fault.meaning is Meaning.DENIED:
                raise DeniedError(fault.words)
            return Result(None) if fault.meaning is Meaning.ABSENT else fault
        if status != httpx.codes.OK:
            kind = DeniedError if status == UNAUTHORIZED else StatusError
            raise kind(f"HTTP {status}{self._excuse(answer, body)}")
        if not isinstance(answer, Mapping) or "result" not in answer:
            raise ValueError("the answer is not a JSON-RPC object")
        return Result(answer["result"])

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        # httpx limits the wait for each piece alone: an endpoint that drips would hold us for ever.
        async with (
            asyncio.timeout(self._timeout),
            self._client.stream("POST", self._url, content=body, headers=headers) as response,
        ):
            answer = bytearray()
            async for piece in response.aiter_bytes():
                answer += piece
                if len(answer) > LARGEST_ANSWER:
                    raise ValueError("the answer is too long")
        return response.status_code, bytes(answer)

    def _excuse(self, answer: object, body: bytes) -> str:
        """What a response that is not JSON-RPC says in its own words; empty for a page of HTML and for nothing."""
        said = answer.get("message") if isinstance(answer, Mapping) else None
        text = self._without_secrets(said if isinstance(said, str) else body.decode(errors="replace"))
        words = clean_line(text[: 4 * LONGEST_EXCUSE])[:LONGEST_EXCUSE]
        return "" if not words or words.startswith("<") else f": {words}"

    def _without_secrets(self, words: str) -> str:
        """The words without any part of the address that may be a key: some providers repeat it."""
        for secret in self._secrets:
            words = words.replace(secret, "…")
        return words


def _error_in(answer: object) -> object:
    """The error of a JSON-RPC answer; QuickNode and drpc give some of theirs without the member `error`."""
    if not isinstance(answer, Mapping):
        return None
    if (error := answer.get("error")) is not None:
        return error
    return answer if "result" not in answer and {"code", "message"} <= answer.keys() else None


def _behind(height: int) -> str:
    return f"has not got to block {height}"


def _value(answer: Answer) -> object:
    return answer.value if isinstance(answer, Result) else None


def _secrets(url: str) -> tuple[str, ...]:
    """The parts of an address that may be a key, longest first: the user, its password, path and query."""
    parts = urlsplit(url)
    found = {parts.username or "", parts.password or "", *re.split(r"[/&=;]", f"{parts.path}/{parts.query}")}
    known = {each for part in found for each in (part, unquote(part))}
    return tuple(sorted((each for each in known if len(each) >= SHORTEST_SECRET), key=len, reverse=True))


def authorities(ca_file: Path | None = None) -> ssl.SSLContext:
    """The usual certificate authorities, and those of a PEM file; read once: that takes longer than a hundred requests.

    In addition and not instead, because private and public endpoints may be asked side by side.
    Raises ConfigurationError with the file's name if it holds no certificate.
    """
    return _authorities(ca_file)


@cache
def _authorities(ca_file: Path | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else ""
            raise ConfigurationError(
                f"the CA file {ca_file} holds no certificate in PEM form{f' ({why})' if why else ''}"
            ) from None
    return context


def why_silent(error: BaseException) -> str:
    """The kind of silence in a few words, without the address."""
    if isinstance(error, StatusError):
        return str(error)
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    return "not JSON-RPC" if isinstance(error, ValueError) else type(error).__name__
