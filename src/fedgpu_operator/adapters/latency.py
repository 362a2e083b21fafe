"""Measures round trips over HTTP: on a connection that is already open, so that no handshake is counted."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

import httpx

from fedgpu_operator.errors import UnreachableError

TIMEOUT_SECONDS: Final = 5.0


class HttpRoundTrips:
    """The `RoundTrips` port over httpx: one connection per host, kept open; no redirects, no proxy, no cookies."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False)
        self._warm: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def measure(self, url: str) -> float:
        """Seconds between a HEAD request and its answer, of whatever status; raises UnreachableError."""
        try:
            if url not in self._warm:
                await self._client.head(url)
                self._warm.add(url)
            begun = time.perf_counter()
            await self._client.head(url)
            return time.perf_counter() - begun
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._warm.discard(url)
            raise UnreachableError(f"{type(error).__name__}: no answer to HEAD {httpx.URL(url).host}") from error
