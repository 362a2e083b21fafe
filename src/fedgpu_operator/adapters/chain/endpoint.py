"""One JSON-RPC endpoint over HTTP: what it says, or that it says nothing; nothing is believed here."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx

from fedgpu_operator.adapters.chain.answers import fault_of
from fedgpu_operator.adapters.chain.votes import Answer, Result, Vote, fingerprint, quantity
from fedgpu_operator.adapters.chain.wordings import SEND, Meaning
from fedgpu_operator.adapters.requests import rpc_request
from fedgpu_operator.domain.text import clean_line
from fedgpu_operator.errors import ConfigurationError

SILENCE = (httpx.HTTPError, OSError, ValueError, RecursionError)
"""What means "no usable answer": unknown, and nothing more. TimeoutError is an OSError, bad JSON a ValueError, and
JSON nested without end a RecursionError."""

LARGEST_ANSWER: Final = 64 * 2**20
"""Bytes of one answer that are read: ten times a block full of logs, and no way to fill our memory."""

LONGEST_EXCUSE: Final = 200
"""Characters that are shown of an answer that is not JSON-RPC."""
TURNED_AWAY_S: Final = (0.25, 1.0)
"""Seconds to wait before a reading that was turned away is repeated: gateways count requests by the second, and a pass
that starts from its first reading after every one of them turned away would end at none."""
SHORTEST_SECRET: Final = 8
"""Characters; no provider's key is shorter, and a word like `rpc` in a path is none."""


class StatusError(OSError):
    """A response that is not HTTP 200 and holds no JSON-RPC error; its text is its status and its own words."""


class NotNowError(StatusError):
    """A JSON-RPC error that means WAIT; its text is the provider's words."""


class Endpoint:
    """One address; messages name its host alone, because the path often carries an API key.

    `chain_id` is the chain it must serve, None where that is not known yet; `trust` who may sign its certificate, by
    default the usual authorities. web3's own HTTP provider guards its
    sessions with thread locks, which a cancelled request can leave held for good (seen: every later request hangs),
    and opens a new connection for each request.
    """

    def __init__(self, url: str, timeout: float, chain_id: int | None, trust: ssl.SSLContext | None = None) -> None:
        self.host = urlsplit(url).netloc.rpartition("@")[2]
        self._url = url
        self._secrets = _secrets(url)
        self._timeout = timeout
        self._chain_id = chain_id
        self._right_chain = chain_id is None
        # No proxies and no netrc from the environment: the endpoint is the one that was configured.
        self._client = httpx.AsyncClient(timeout=timeout, trust_env=False, verify=trust or authorities())

    def __repr__(self) -> str:
        return f"Endpoint({self.host})"

    async def vote(self, method: str, params: Sequence[object], height: int) -> Vote:
        """Its answer to one request. A reading is repeated if it was turned away, what is sent goes out once.

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
                head = quantity(_value(await self._ask("eth_blockNumber", [])))
                if head is None or head < height:
                    return Vote(self.host, None, f"has not got to block {height}")
                answer = await self._ask(method, params)
        except NotNowError as error:
            return Vote(self.host, None, f"gives no answer now ({error})")
        except SILENCE as error:
            # Who comes back may be somebody else.
            self._right_chain = self._chain_id is None
            return Vote(self.host, None, f"gives no answer ({why_silent(error)})")
        return Vote(self.host, answer, mark=fingerprint(method, answer))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, method: str, params: Sequence[object]) -> Answer:
        """As `_once`, but a reading that was turned away is repeated after each of TURNED_AWAY_S."""
        if method != SEND:
            for pause in TURNED_AWAY_S:
                try:
                    return await self._once(method, params)
                except StatusError:
                    await asyncio.sleep(pause)
        return await self._once(method, params)

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
        """The answer that is in a response of any HTTP status; one of SILENCE where there is none."""
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
            return Result(None) if fault.meaning is Meaning.ABSENT else fault
        if status != httpx.codes.OK:
            raise StatusError(f"HTTP {status}{self._excuse(answer, body)}")
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
