"""A JSON-RPC endpoint before a real chain that fails on command: it lags, lies, is silent or serves another chain."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self

import httpx
from aiohttp import web

from fedgpu_operator.adapters.chain.endpoint import authorities

Lie = Callable[[Any], object]
"""From the true result to the one that is told."""
Error = dict[str, object]
"""A JSON-RPC error object."""

STATE_AT: Final = {
    "eth_call": 1,
    "eth_getBalance": 1,
    "eth_getCode": 1,
    "eth_getTransactionCount": 1,
    "eth_getStorageAt": 2,
    "eth_getBlockByNumber": 0,
}
"""Where each of these methods takes its block."""
TAGS: Final = frozenset({"latest", "pending", "safe", "finalized"})
UPSTREAM_TIMEOUT_S: Final = 30.0


class FaultyEndpoint:
    """`async with FaultyEndpoint(rpc_url) as endpoint:` serves at `endpoint.url` what the real one at `rpc_url` says.

    Faults, to be set and taken back at any time:

    - `silent`: methods that are neither forwarded nor answered; ``"*"`` stands for all.
    - `swallowed`: methods that are forwarded and then never answered, as by a gateway that times out.
    - `refused`: methods answered with HTTP 503.
    - `errors`: by method, the JSON-RPC error that is answered and nothing forwarded; or what makes one of the
      request's parameters, None to forward them.
    - `lies`: by method, what becomes of the true result.
    - `finality`: how many blocks `safe` and `finalized` are behind the newest, None for what the real one says.
    - `lag`: how many blocks it is behind: tags name older blocks, newer ones and their receipts are unknown.
    - `chain_id`: the chain it says it serves, None for the truth.
    - `deaf`: takes transactions with their right hash, and forwards none.

    `calls` counts requests by method.
    """

    def __init__(self, rpc_url: str) -> None:
        self.silent: set[str] = set()
        self.swallowed: set[str] = set()
        self.refused: set[str] = set()
        self.errors: dict[str, Error | Callable[[list[Any]], Error | None]] = {}
        self.lies: dict[str, Lie] = {}
        self.finality: int | None = None
        self.lag = 0
        self.chain_id: int | None = None
        self.deaf = False
        self.calls: Counter[str] = Counter()
        self.url = ""
        self._upstream = httpx.AsyncClient(
            base_url=rpc_url, timeout=UPSTREAM_TIMEOUT_S, trust_env=False, verify=authorities()
        )
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self._upstream.aclose()

    def heal(self) -> None:
        """Be honest, prompt and up to date again."""
        for faults in (self.silent, self.swallowed, self.refused):
            faults.clear()
        self.errors.clear()
        self.lies.clear()
        self.lag, self.chain_id, self.deaf = 0, None, False

    async def _handle(self, request: web.Request) -> web.Response:
        asked = await request.json()
        method = str(asked["method"])
        self.calls[method] += 1
        if method in self.refused:
            return web.Response(status=503, text="no")
        if self.silent & {method, "*"}:
            await _for_ever()
        answer = await self._respond(asked["id"], method, asked.get("params") or [])
        if method in self.swallowed:
            await _for_ever()
        return answer

    async def _respond(self, number: object, method: str, params: list[Any]) -> web.Response:
        """The whole answer over HTTP to the request of this id."""
        answer = await self._answer(method, params)
        return web.json_response({"jsonrpc": "2.0", "id": number, **answer})

    async def _answer(self, method: str, params: list[Any]) -> dict[str, Any]:
        error = self.errors.get(method)
        if (refusal := error(params) if callable(error) else error) is not None:
            return {"error": refusal}
        if method == "eth_chainId" and self.chain_id is not None:
            return {"result": hex(self.chain_id)}
        if method == "eth_sendRawTransaction" and self.deaf:
            return {"result": await self._result("web3_sha3", params[0])}
        behind = self.lag or self.finality is not None
        answer = await (self._behind(method, params) if behind else self._forward(method, params))
        if method in self.lies and "result" in answer:
            answer["result"] = self.lies[method](answer["result"])
        return answer

    async def _behind(self, method: str, params: list[Any]) -> dict[str, Any]:
        """What it would have said `lag` blocks ago."""
        place = STATE_AT.get(method)
        if not self.lag and (place is None or params[place : place + 1] not in (["safe"], ["finalized"])):
            return await self._forward(method, params)
        head = int(str(await self._result("eth_blockNumber")), 16) - self.lag
        if method == "eth_blockNumber":
            return {"result": hex(head)}
        if place is not None and len(params) > place:
            block = await self._older(params[place])
            if block > head:
                unknown = {"code": -32000, "message": "header not found"}
                return {"result": None} if method == "eth_getBlockByNumber" else {"error": unknown}
            params = [*params[:place], hex(block), *params[place + 1 :]]
        answer = await self._forward(method, params)
        if method == "eth_getTransactionReceipt" and (mined := answer.get("result")):
            answer["result"] = mined if int(mined["blockNumber"], 16) <= head else None
        return answer

    async def _older(self, block: str) -> int:
        """The number that a block's name stood for `lag` blocks ago."""
        if block not in TAGS:
            return int(block, 16)
        final = block in ("safe", "finalized")
        back = self.finality if final and self.finality is not None else 0
        tag = "latest" if block == "pending" or (final and self.finality is not None) else block
        named = await self._result("eth_getBlockByNumber", tag, False)
        return max(0, int(named["number"], 16) - back - self.lag)

    async def _result(self, method: str, *params: object) -> Any:
        return (await self._forward(method, list(params)))["result"]

    async def _forward(self, method: str, params: list[Any]) -> dict[str, Any]:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer: dict[str, Any] = (await self._upstream.post("/", json=request)).json()
        return {key: answer[key] for key in ("result", "error") if key in answer}


class FrontDoor:
    """Serves an endpoint in a thread with an event loop of its own, for chains that outlive a test's.

    The endpoint's faults may be set from any thread.
    """

    def __init__(self, endpoint: FaultyEndpoint) -> None:
        self.endpoint = endpoint
        self.url = ""
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None

    def open(self) -> None:
        """Serve at `url`, the same as long as it is not closed."""
        if self._thread is not None:
            return
        ready: Future[str] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        self.url = ready.result(UPSTREAM_TIMEOUT_S)

    def close(self) -> None:
        if self._thread is None or self._loop is None or self._over is None:
            return
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(UPSTREAM_TIMEOUT_S)
        self._thread = None

    async def _serve(self, ready: Future[str]) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with self.endpoint as endpoint:
            ready.set_result(endpoint.url)
            await self._over.wait()


async def _for_ever() -> None:
    await asyncio.Event().wait()
