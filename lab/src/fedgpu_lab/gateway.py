"""A JSON-RPC endpoint that answers as public gateways and rented nodes do: refusals, limits and lost replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from fedgpu_lab.faultychain import STATE_AT, FaultyEndpoint

SEND: Final = "eth_sendRawTransaction"
LOGS: Final = "eth_getLogs"
LOOKUPS: Final = frozenset({"eth_getTransactionReceipt", "eth_getTransactionByHash"})
FINAL: Final = frozenset({"safe", "finalized"})
ETHER: Final = 10**18


@dataclass(frozen=True, slots=True)
class Words:
    """An answer as somebody words it: an HTTP status with a JSON-RPC error, or with a body that is none.

    `to` are the methods that get it, empty for all; `tag` stands for requests at a block's name `finalized` or `safe`.
    """

    who: str
    status: int = 200
    code: int = 0
    message: str = ""
    body: str | None = None
    to: frozenset[str] = frozenset()
    tag: bool = False


NOT_NOW: Final = (
    Words("a balancer", 429, body=""),
    Words("Alchemy", 429, 429, "Your app has exceeded its compute units per second capacity."),
    Words("Infura", 200, -32005, "daily request count exceeded, request rate limited"),
    Words("Base", 200, -32016, "over rate limit"),
    Words("QuickNode", 200, -32007, "50/second request limit reached"),
    Words("a balancer", 503, body="<html><body>503 Service Temporarily Unavailable</body></html>"),
    Words("geth", 200, -32000, "header not found", to=frozenset(STATE_AT)),
    Words("geth", 200, -32000, "transaction indexing is in progress", to=LOOKUPS),
    Words("geth", 200, -39001, "finalized block not found", tag=True),
    Words("an OP chain's", 200, -32011, "no backend is currently healthy to serve traffic"),
)
"""What means "not now", taken in turn."""

RANGES: Final = {
    "alchemy": Words("Alchemy", 400, -32600, "You can make eth_getLogs requests with up to a {most} block range."),
    "infura": Words(
        "Infura", 200, -32005, "query returned more than 10000 results. Try with this block range [{low}, {high}]."
    ),
    "quicknode": Words("QuickNode", 413, -32614, "eth_getLogs is limited to a {most} range"),
    "ankr": Words("Ankr", 200, -32600, "block range is too wide"),
    "public": Words("public nodes", 200, -32701, "exceed maximum block range: {most}"),
    "cloudflare": Words(
        "Cloudflare", 200, -32047, "Invalid eth_getLogs request. 'fromBlock'-'toBlock' range too large."
    ),
}
"""How a range of blocks is refused; some say which would be taken."""

PRUNED: Final = {
    "geth by hash": Words("geth", 200, -32000, "missing trie node {hash} (path ) state 0x{hash} is not available"),
    "geth": Words("geth", 200, -32000, "historical state {hash} is not available"),
    "reth": Words("reth", 200, -32603, "state at block #{block} is pruned"),
    "besu": Words("Besu", 200, -32000, "World state unavailable"),
    "nethermind": Words("Nethermind", 200, -32002, "No state available for block {hash}"),
    "a gateway": Words("PublicNode", 403, -32602, "Archive requests require a personal token."),
}
"""How a node says that it no longer has a block's state."""


class Gateway(FaultyEndpoint):
    """A FaultyEndpoint with the habits of gateways, to be set and taken back at any time; without, it is honest.

    - `busy_every`: each so-manieth request is turned away with the next of NOT_NOW that fits it; 0 for never.
    - `lost_every`: each so-manieth transaction is forwarded and its reply lost (HTTP 504); 0 for never.
    - `log_range`: the most blocks that a request for logs may span, refused as `range_words` of RANGES; None for any.
    - `state_of`: how many of the newest blocks have their state; older is refused as `pruned_words` of PRUNED.
    - `tips`: whether it has eth_maxPriorityFeePerGas.
    - `fee_limit`: the most wei that a transaction may cost, geth's --rpc.txfeecap; None for any.
    - `error_status`: the HTTP status under which JSON-RPC errors come, reverts too.

    Everything is counted, nothing is random: the same requests get the same answers.
    """

    def __init__(self, rpc_url: str) -> None:
        super().__init__(rpc_url)
        self._requests = self._turned_away = self._sent = 0
        self.heal()

    def heal(self) -> None:
        super().heal()
        self.busy_every = self.lost_every = 0
        self.log_range: int | None = None
        self.range_words = "alchemy"
        self.state_of: int | None = None
        self.pruned_words = "geth"
        self.tips = True
        self.fee_limit: int | None = None
        self.error_status = 200

    def as_public_ones(self) -> None:
        """The habits of all of them at once, as far as work can go on with them."""
        self.busy_every, self.lost_every = 5, 2
        self.log_range, self.tips, self.error_status = 100, False, 400

    async def _respond(self, number: object, method: str, params: list[Any]) -> web.Response:
        self._requests += 1
        if self.busy_every and self._requests % self.busy_every == 0:
            return _say(number, self._next_refusal(method, params))
        if (words := await self._refusal(method, params)) is not None:
            return _say(number, words)
        answer = await self._answer(method, params)
        if method == SEND:
            self._sent += 1
            if self.lost_every and self._sent % self.lost_every == 0:
                return web.Response(status=504, text="upstream timed out")
        status = self.error_status if "error" in answer else 200
        return web.json_response({"jsonrpc": "2.0", "id": number, **answer}, status=status)

    def _next_refusal(self, method: str, params: list[Any]) -> Words:
        for _ in NOT_NOW:
            words = NOT_NOW[self._turned_away % len(NOT_NOW)]
            self._turned_away += 1
            if (not words.to or method in words.to) and (
                not words.tag or FINAL & {p for p in params if type(p) is str}
            ):
                return words
        return NOT_NOW[0]

    async def _refusal(self, method: str, params: list[Any]) -> Words | None:
        """The refusal of a request that the node behind it would have taken, if it is refused."""
        if method == "eth_maxPriorityFeePerGas" and not self.tips:
            return Words("a node", 200, -32601, f"the method {method} does not exist/is not available")
        if method == LOGS and self.log_range is not None:
            return await self._too_wide(params[0], self.log_range)
        if method == SEND and self.fee_limit is not None:
            return _too_dear(str(params[0]), self.fee_limit)
        if self.state_of is not None and method in STATE_AT and method != "eth_getBlockByNumber":
            return await self._without_state(method, params, self.state_of)
        return None

    async def _too_wide(self, asked: dict[str, Any], most: int) -> Words | None:
        low, high = [await self._older(str(asked.get(end, "latest"))) for end in ("fromBlock", "toBlock")]
        if high - low < most:
            return None
        return _filled(RANGES[self.range_words], most=most, low=hex(low), high=hex(low + most - 1))

    async def _without_state(self, method: str, params: list[Any], kept: int) -> Words | None:
        place = STATE_AT[method]
        asked = params[place] if len(params) > place else "latest"
        block = await self._older(asked) if isinstance(asked, str) else None
        head = int(str(await self._result("eth_blockNumber")), 16)
        if block is None or block > head - kept:
            return None
        known = await self._result("eth_getBlockByNumber", hex(block), False)
        return _filled(PRUNED[self.pruned_words], hash=str(known["stateRoot"])[2:], block=block)


def _too_dear(raw: str, limit: int) -> Words | None:
    fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    most = fields["gas"] * fields["maxFeePerGas"]
    if most <= limit:
        return None
    message = f"tx fee ({most / ETHER:.2f} ether) exceeds the configured cap ({limit / ETHER:.2f} ether)"
    return Words("geth", 200, -32000, message)


def _filled(words: Words, **values: object) -> Words:
    return Words(words.who, words.status, words.code, words.message.format(**values))


def _say(number: object, words: Words) -> web.Response:
    if words.body is not None:
        return web.Response(status=words.status, text=words.body)
    error = {"code": words.code, "message": words.message}
    return web.json_response({"jsonrpc": "2.0", "id": number, "error": error}, status=words.status)
