"""One JSON-RPC connection and the translation of everything that can go wrong on it; no contract is known here.

An endpoint's address often carries an API key in its path, so messages name the host alone and drop the causes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx
from web3 import AsyncWeb3
from web3.exceptions import (
    BadFunctionCallOutput,
    BadResponseFormat,
    ContractLogicError,
    RequestTimedOut,
    TooManyRequests,
    Web3Exception,
    Web3RPCError,
)
from web3.providers.async_base import AsyncJSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from fedgpu_operator.adapters.chain.reverts import explain
from fedgpu_operator.errors import ChainError, ChainUnreachableError, RevertedError

SILENCE = (httpx.HTTPError, OSError, RequestTimedOut, TooManyRequests, BadResponseFormat, UnicodeDecodeError)
"""What means "no usable answer": unknown, and nothing more. TimeoutError is an OSError."""


class HttpProvider(AsyncJSONBaseProvider):
    """JSON-RPC over one httpx client.

    web3's own HTTP provider guards its sessions with thread locks, which a cancelled request can leave held for good
    (seen: every later request hangs), and opens a new connection for each request.
    """

    def __init__(self, rpc_url: str, timeout: float) -> None:
        super().__init__()
        self._url = rpc_url
        # No proxies and no netrc from the environment: the endpoint is the one that was configured.
        self._client = httpx.AsyncClient(timeout=timeout, trust_env=False)

    async def make_request(self, method: RPCEndpoint, params: object) -> RPCResponse:
        """One request, never repeated; httpx.HTTPError for anything but a JSON-RPC answer with status 200."""
        body = self.encode_rpc_request(method, params)
        response = await self._client.post(self._url, content=body, headers={"Content-Type": "application/json"})
        if response.status_code != httpx.codes.OK:
            raise httpx.HTTPStatusError(f"status {response.status_code}", request=response.request, response=response)
        answer = self.decode_rpc_response(response.content)
        if not isinstance(answer, dict):
            raise BadResponseFormat("the answer is not a JSON-RPC object")
        return answer

    async def disconnect(self) -> None:
        await self._client.aclose()


class Rpc:
    """A connection to one endpoint; `timeout` is seconds per request, and no request is repeated on its own."""

    def __init__(self, rpc_url: str, *, timeout: float = 10.0) -> None:
        self._host = urlsplit(rpc_url).netloc.rpartition("@")[2]
        self._provider = HttpProvider(rpc_url, timeout)
        self.w3: AsyncWeb3[HttpProvider] = AsyncWeb3(self._provider)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._host})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._provider.disconnect()

    @contextmanager
    def speaking(self, what: str) -> Iterator[None]:
        """Translate what goes wrong while doing `what` into the error tree.

        ChainUnreachableError where nothing usable came back, RevertedError where the contract refused, ChainError
        for any other answer.
        """
        try:
            yield
        except SILENCE as error:
            raise ChainUnreachableError(f"{what}: {self._host} gives no answer ({_short(error)})") from None
        except ContractLogicError as error:
            raise RevertedError(f"{what}: {explain(error)}") from None
        except BadFunctionCallOutput:
            raise ChainError(f"{what}: there is no such contract at that block on {self._host}") from None
        except Web3RPCError as error:
            raise ChainError(f"{what}: {self._host} answers {_rpc_message(error)}") from None
        except Web3Exception as error:
            raise ChainError(f"{what}: {_short(error)}") from None
        except ValueError as error:  # a body that is not JSON
            raise ChainUnreachableError(f"{what}: {self._host} gives no usable answer ({_short(error)})") from None


def _short(error: BaseException) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    return type(error).__name__


def _rpc_message(error: Web3RPCError) -> str:
    response = error.rpc_response
    detail = response.get("error") if response else None
    return str(detail.get("message", detail) if isinstance(detail, dict) else error)[:300]
