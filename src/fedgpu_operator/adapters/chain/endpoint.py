"""One JSON-RPC endpoint over HTTP: what it says, or that it says nothing; nothing is repeated or believed here."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from fedgpu_operator.adapters.chain.votes import Answer, Vote, fingerprint, quantity
from fedgpu_operator.errors import ConfigurationError

SILENCE = (httpx.HTTPError, OSError, ValueError, RecursionError)
"""What means "no usable answer": unknown, and nothing more. TimeoutError is an OSError, bad JSON a ValueError, and
JSON nested without end a RecursionError."""

LARGEST_ANSWER: Final = 64 * 2**20
"""Bytes of one answer that are read: ten times a block full of logs, and no way to fill our memory."""


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
        self._timeout = timeout
        self._chain_id = chain_id
        self._right_chain = chain_id is None
        # No proxies and no netrc from the environment: the endpoint is the one that was configured.
        self._client = httpx.AsyncClient(timeout=timeout, trust_env=False, verify=trust or authorities())

    def __repr__(self) -> str:
        return f"Endpoint({self.host})"

    async def vote(self, method: str, params: Sequence[object], height: int) -> Vote:
        """Its answer to one request, never repeated.

        A `null` counts only from an endpoint that has got to block `height`: one that lags has not seen what it is
        asked for.
        """
        try:
            if not self._right_chain and method != "eth_chainId":
                serves = quantity((await self._ask("eth_chainId", [])).get("result"))
                if serves is not None and serves != self._chain_id:
                    return Vote(self.host, None, f"serves chain {serves}, not {self._chain_id}", wrong_chain=serves)
                self._right_chain = serves is not None
            answer = await self._ask(method, params)
            if answer.get("result") is None and answer.get("error") is None and height:
                head = quantity((await self._ask("eth_blockNumber", [])).get("result"))
                if head is None or head < height:
                    return Vote(self.host, None, f"has not got to block {height}")
                answer = await self._ask(method, params)
            return Vote(self.host, answer, mark=fingerprint(method, answer))
        except SILENCE as error:
            # Who comes back may be somebody else.
            self._right_chain = self._chain_id is None
            return Vote(self.host, None, f"gives no answer ({why_silent(error)})")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, method: str, params: Sequence[object]) -> Answer:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer: object = json.loads(await self._post(json.dumps(request).encode()))
        if not isinstance(answer, Mapping) or not ("result" in answer or answer.get("error") is not None):
            raise ValueError("the answer is not a JSON-RPC object")
        return answer

    async def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        # httpx limits the wait for each piece alone: an endpoint that drips would hold us for ever.
        async with (
            asyncio.timeout(self._timeout),
            self._client.stream("POST", self._url, content=body, headers=headers) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise httpx.HTTPStatusError(
                    f"status {response.status_code}", request=response.request, response=response
                )
            answer = bytearray()
            async for piece in response.aiter_bytes():
                answer += piece
                if len(answer) > LARGEST_ANSWER:
                    raise ValueError("the answer is too long")
        return bytes(answer)


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
    """The kind of silence in two words, without the address."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    return "not JSON-RPC" if isinstance(error, ValueError) else type(error).__name__
