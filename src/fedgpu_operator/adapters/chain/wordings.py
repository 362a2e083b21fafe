"""The one table of what nodes and gateways mean by their errors, in their own words; pure, it only matches text.

Clients refuse in words of their own and mostly under one code, so a row is a client's words, not a code. Nothing else
in the project compares the text of a node's error: it asks for the `Meaning`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Meaning(StrEnum):
    """What an error answer means; each meaning has one treatment."""

    WAIT = "wait"
    """No answer now. It counts as no vote; ChainUnreachableError with the provider's words; the request is sent again
    later. For a transaction: unknown whether it is on its way."""
    DENIED = "denied"
    """The endpoint does not know its caller, or lets it do nothing. As WAIT, and the request is not repeated before the
    next pass or command: its owner must act."""
    KNOWN = "known"
    """The node has these very bytes already: the same as success."""
    ABSENT = "absent"
    """There is no such transaction or receipt, answered as an error: the same as the result `null`."""
    UNDERPRICED = "underpriced"
    """NotTakenError: the fee must rise before any node takes it."""
    TOO_LARGE = "too large"
    """NotTakenError: more gas or bytes than a transaction or a block may have; a smaller call, at the same nonce."""
    GAS_TOO_LOW = "gas too low"
    """NotTakenError: a gas limit below what the node asks at least; estimate again, at the same nonce."""
    FEE_CAPPED = "fee capped"
    """NotTakenError: the node's own limit on gas times fee; the fee is never raised for it, less or smaller is sent."""
    POOR = "insufficient funds"
    """NotTakenError: the sender cannot pay for its gas; it must be funded, the fee is never raised for it."""
    NONCE_USED = "nonce used"
    """NotTakenError: a transaction of that nonce is in a block; the chain is read to see which one."""
    REVERTED = "reverted"
    """RevertedError with the decoded reason: the call fails. Endpoints agree on it by the bytes of the revert."""
    PRUNED = "pruned"
    """StatePrunedError: the node does not keep what was asked for; another node is needed. Waiting does not help."""
    RANGE = "range"
    """Too many blocks or logs for one request: the log reader asks for fewer blocks; ChainError for a single block."""
    UNSUPPORTED = "unsupported"
    """The method is unknown there: another method where there is one, else ChainError."""
    REFUSED = "refused"
    """Any other error: ChainError with the provider's own words, NotTakenError (Other) for a transaction."""


SEND: Final = "eth_sendRawTransaction"
ESTIMATE: Final = "eth_estimateGas"
LOGS: Final = "eth_getLogs"
SENDS: Final = frozenset({SEND})
PRICED: Final = frozenset({SEND, ESTIMATE})
CALLS: Final = frozenset({"eth_call", ESTIMATE, SEND})
LOOKUPS: Final = frozenset({"eth_getTransactionReceipt", "eth_getTransactionByHash"})
ESTIMATES: Final = frozenset({ESTIMATE})
EXECUTES: Final = frozenset({"eth_call"})
RANGES: Final = frozenset({LOGS})
ANY: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Row:
    """One way to say something: `words` is a regular expression that the lower-case message matches somewhere.

    `who` names the clients with the version that was read or run, `source` the place in the first of them. `code` None
    stands for any code; `methods` empty for every method. `example` is a message of one of them.
    """

    meaning: Meaning
    who: str
    source: str
    words: str
    example: str
    methods: frozenset[str] = ANY
    code: int | None = None

    def matches(self, method: str, code: object, words: str) -> bool:
        """Whether an error in these words, in lower case, is this row's."""
        fits = (not self.methods or method in self.methods) and (self.code is None or self.code == code)
        return fits and re.search(self.words, words) is not None


GETH: Final = "geth 1.17.10"
FAMILY: Final = "geth 1.17.10, bor 2.2.11, op-geth 1.101702.3, nitro 6dce8d1"
RETH: Final = "reth 2.5.1"
ERIGON: Final = "Erigon 3"
NETHERMIND: Final = "Nethermind 1.3x to 2.0"
OLD_NETHERMIND: Final = "Nethermind before 1.3x"
PARITY: Final = "OpenEthereum 3"
BESU: Final = "Besu 3fd224e (2026-03)"
ANVIL: Final = "anvil 1.7.1"
HARDHAT: Final = "Hardhat 2.29.1"
PROXYD: Final = "proxyd 2026 (Base, OP Mainnet)"
DOCS: Final = "its error reference, 2026"
LISTS: Final = "eRPC 2f9ecef and ponder 9ad4a44, lists of providers' words"
POOL: Final = "core/txpool/errors.go"
STATE: Final = "core/error.go"

_M = Meaning

REVERTS: Final = (
    Row(
        _M.REVERTED,
        f"{FAMILY}, {RETH}, {ERIGON}, {NETHERMIND}, {BESU}, {ANVIL}",
        "code 3; internal/ethapi/errors.go and its like",
        r"execution reverted|^(err: |error: )?always failing transaction",
        "execution reverted: FiatToken: account is blacklisted",
        CALLS,
    ),
    Row(
        _M.REVERTED,
        HARDHAT,
        "code -32603, bytes in error.data.data; seen",
        r"vm exception while processing transaction: (reverted|invalid opcode)|^(error: )?transaction reverted",
        "Error: VM Exception while processing transaction: reverted with reason string 'paused'",
        CALLS,
    ),
    Row(
        _M.REVERTED,
        f"{OLD_NETHERMIND}, {PARITY}",
        "code -32015, data `Reverted 0x…`, `Bad instruction fe`",
        r"^(vm execution error|transaction execution (error|fails))|^revert(ed)?\b"
        r"|execution failed due to an exception",
        "VM execution error.",
        CALLS,
    ),
    Row(
        _M.REVERTED,
        f"{FAMILY}, {RETH}, {ERIGON}, {NETHERMIND}, {BESU}, {ANVIL}",
        "core/vm/errors.go and its like",
        r"invalid ?opcode|stack ?underflow|stack limit reached|invalid ?jump|return data out of bounds"
        r"|gas uint64 overflow|write protection|invalidfeopcode|opcodenotfound|badinstruction|bad instruction|bad jump"
        r"|processing could not be completed due to an exception",
        "invalid opcode: INVALID",
        CALLS,
    ),
    Row(
        _M.REVERTED,
        f"{FAMILY}, {RETH}, {ERIGON}, {NETHERMIND}, {ANVIL}, {HARDHAT}",
        "core/vm/errors.go and its like; the gas is the caller's own limit",
        r"^((err|error|evm error):? )*out ?of ?gas|transaction ran out of gas",
        "out of gas",
        EXECUTES,
    ),
)
"""First of all: a contract chooses part of these words, which must not pass for anything else."""

SENT: Final = (
    Row(
        _M.KNOWN,
        f"{FAMILY}, {RETH}, {ERIGON}, {NETHERMIND}",
        POOL,
        r"already ?known|ownnoncealreadyused",
        "already known",
        SENDS,
    ),
    Row(_M.KNOWN, f"{ANVIL}, {PARITY}", "seen", r"already imported", "transaction already imported", SENDS),
    Row(
        _M.KNOWN,
        f"{BESU}, {HARDHAT}",
        "ETH_SEND_TX_ALREADY_KNOWN; edr mem_pool",
        r"^known transaction",
        "Known transaction: 0x5e1d",
        SENDS,
    ),
    Row(
        _M.KNOWN,
        f"{ERIGON}, gateways",
        f"txpoolcfg.go; {LISTS}",
        r"existing (txn?|transaction) with (the )?same hash"
        r"|^(?!.*\bnonce).*(already in (the )?mempool|already exists|already have transaction)",
        "existing txn with same hash",
        SENDS,
    ),
    Row(
        _M.NONCE_USED,
        f"{FAMILY}, {RETH}, {ERIGON}, {NETHERMIND}, {BESU}, {ANVIL}, {HARDHAT}",
        f"{STATE}; answered for the same bytes too once they are mined",
        r"nonce (is )?too low|nonce_too_low|invalid transaction nonce",
        "nonce too low: next nonce 7, tx nonce 5",
        SENDS,
    ),
    Row(_M.NONCE_USED, OLD_NETHERMIND, "AcceptTxResult.cs", r"oldnonce", "OldNonce, Current nonce: 7", SENDS),
    Row(_M.NONCE_USED, ERIGON, "txpoolcfg.go", r"^(mined: )?mined$", "mined", SENDS),
    Row(
        _M.UNDERPRICED,
        f"{FAMILY}, {RETH}, {ERIGON}, {NETHERMIND}, {BESU}, {ANVIL}, {HARDHAT}",
        f"{POOL}; a replacement must offer 10 % more of both fees",
        r"underpriced",
        "replacement transaction underpriced",
        SENDS,
    ),
    Row(
        _M.UNDERPRICED,
        "gateways and pools",
        "another transaction of that nonce waits there: only one that offers more takes its place",
        r"\bnonce\b.*\balready (exists|in (the )?(mem)?pool)|\bnonce (already )?(exists|in (the )?(mem)?pool)",
        "a transaction with this nonce already exists",
        SENDS,
    ),
    Row(
        _M.UNDERPRICED,
        f"{FAMILY}, {RETH}",
        f"{POOL}; the tip is below the pool's own (geth 1 wei, bor 25 gwei)",
        r"gas price below minimum|priority fee below minimum|future transaction tries to replace pending",
        "transaction gas price below minimum: gas tip cap 0, minimum needed 1",
        SENDS,
    ),
    Row(
        _M.UNDERPRICED,
        f"{FAMILY}, {RETH}, {ANVIL}",
        f"{STATE}; nitro tx_pre_checker",
        r"(max fee per gas|fee ?cap) less than block base fee",
        "max fee per gas less than block base fee: address 0x00, maxFeePerGas: 1, baseFee: 7",
        SENDS,
    ),
    Row(
        _M.UNDERPRICED,
        HARDHAT,
        "edr, provider errors; seen",
        r"too low for the next block|below the minimum of",
        "Transaction maxFeePerGas (1) is too low for the next block, which has a baseFeePerGas of 875000000",
        SENDS,
    ),
    Row(
        _M.UNDERPRICED,
        f"{ERIGON}, {OLD_NETHERMIND}, {PARITY}",
        "txpoolcfg.go, AcceptTxResult.cs",
        r"fee too low|feetoolow|replacementnotallowed|could not replace existing tx"
        r"|replaced by transaction with higher tip|gas price (is )?too low|another transaction with same nonce",
        "FEE_TOO_LOW: fee too low",
        SENDS,
    ),
    Row(
        _M.UNDERPRICED,
        BESU,
        "code -32009, RpcErrorType.java",
        r"gas price below (configured minimum gas price|current base fee)",
        "Gas price below configured minimum gas price",
        SENDS,
    ),
    Row(
        _M.FEE_CAPPED,
        f"{FAMILY}, {RETH}, {ERIGON}",
        "internal/ethapi/api.go; the flag --rpc.txfeecap, 1 ether by default",
        r"exceeds the configured cap",
        "tx fee (1.20 ether) exceeds the configured cap (1.00 ether)",
        SENDS,
    ),
    Row(
        _M.FEE_CAPPED,
        BESU,
        "TX_FEECAP_EXCEEDED; the flag --rpc-tx-feecap, 1 ether by default",
        r"fee cap exceeded",
        "Transaction fee cap exceeded",
        SENDS,
    ),
    Row(
        _M.POOR,
        f"{FAMILY}, {RETH}, {ERIGON}, {NETHERMIND}, {ANVIL}, {PARITY}",
        f"{STATE}; OP chains count the L1 data fee",
        r"insufficient (funds|balance)|insufficient_funds|not enough funds for gas",
        "insufficient funds for gas * price + value: address 0x00 have 1 want 42000",
        PRICED,
    ),
    Row(
        _M.POOR,
        OLD_NETHERMIND,
        "AcceptTxResult.cs",
        r"insufficientfunds",
        "InsufficientFunds, Account balance: 1, cumulative cost: 42000",
        PRICED,
    ),
    Row(
        _M.POOR,
        BESU,
        "code -32004, RpcErrorType.java",
        r"up-?front cost",
        "Upfront cost exceeds account balance",
        PRICED,
    ),
    Row(
        _M.POOR,
        HARDHAT,
        "edr, transaction pool; seen",
        r"doesn't have enough funds",
        "Sender doesn't have enough funds to send tx. The max upfront cost is: 42000 and the sender's balance is: 1.",
        PRICED,
    ),
    Row(
        _M.POOR,
        f"{FAMILY}, {ERIGON}",
        "eth/gasestimator; the allowance is what the balance pays for",
        r"gas required exceeds allowance:? \(?0\)?$",
        "gas required exceeds allowance (0)",
        PRICED,
    ),
    Row(
        _M.TOO_LARGE,
        f"{FAMILY}, {RETH}, {ERIGON}",
        f"EIP-7825; {STATE}; the cap of bor 2.5 is 33554432",
        r"gas limit (is )?too high",
        "transaction gas limit too high (cap: 16777216, tx: 17400000)",
        PRICED,
    ),
    Row(
        _M.TOO_LARGE,
        f"{RETH}, op-geth 1.101702.3",
        "EIP-7825; RpcPoolError; a sequencer's own cap",
        r"exceeds (the )?max(imum)? (per-)?(transaction|tx) gas"
        r"|gas limit\b.* (exceeds|over) (the )?(per-tx )?(cap|max)",
        "exceeds max transaction gas limit",
        PRICED,
    ),
    Row(
        _M.TOO_LARGE,
        HARDHAT,
        "EIP-7825; edr, transaction pool; seen",
        r"exceeds transaction gas cap",
        "Transaction gas limit is 17400000 and exceeds transaction gas cap of 16777216",
        PRICED,
    ),
    Row(
        _M.TOO_LARGE,
        f"{NETHERMIND}, {BESU}",
        "EIP-7825; TxErrorMessages.cs; code -32005, EXCEEDS_TRANSACTION_GAS_LIMIT",
        r"txgaslimitcapexceeded|gas limit cap exceeded",
        "Transaction gas limit cap exceeded",
        PRICED,
    ),
    Row(
        _M.TOO_LARGE,
        f"{FAMILY}, {RETH}, {BESU}, {HARDHAT}",
        POOL,
        r"exceeds block gas limit",
        "exceeds block gas limit",
        PRICED,
    ),
    Row(
        _M.TOO_LARGE,
        f"{NETHERMIND}, {ANVIL}, {RETH}, {PARITY}",
        "AcceptTxResult.cs; seen",
        r"gas limit reached|gas ?limit ?exceeded|intrinsic gas too high|exceeds current gas limit",
        "intrinsic gas too high -- tx.gas_limit > env.block.gas_limit",
        PRICED,
    ),
    Row(
        _M.TOO_LARGE,
        f"{FAMILY}, {RETH}, {ERIGON}, {NETHERMIND}, {PARITY}",
        f"{POOL}; 131072 bytes of transaction, 49152 of a contract's code",
        r"oversized data|request (body|entity) too large|content length too large|rlp ?(is )?too ?(long|large)"
        r"|init ?code (size exceeded|too large)|max initcode size|maxtxsizeexceeded"
        r"|transaction (is )?too (large|big)|l2message too long",
        "oversized data: transaction size 131200, limit 131072",
        PRICED,
    ),
    Row(
        _M.TOO_LARGE,
        f"{FAMILY}, {RETH}, {ERIGON}, {NETHERMIND}, {ANVIL}",
        "eth/gasestimator; the allowance is --rpc.gascap or the block's limit",
        r"gas required exceeds( allowance)?(:? \(?[1-9]\d*\)?)?$|gas spent exceeded transaction and block gas limit",
        "gas required exceeds allowance (16777216)",
        ESTIMATES,
    ),
    Row(
        _M.GAS_TOO_LOW,
        f"{FAMILY}, {RETH}, {ERIGON}, {NETHERMIND}, {ANVIL}",
        f"{STATE}; EIP-7623 for the second form; Arbitrum counts the L1 data fee",
        r"intrinsic ?gas( is)? ?too ?low|^intrinsic ?gas$|insufficient gas for floor|floor (data )?gas\b",
        "intrinsic gas too low: gas 100000, minimum needed 120000",
        SENDS,
    ),
    Row(
        _M.GAS_TOO_LOW,
        f"{BESU}, revm",
        "code -32003, INTRINSIC_GAS_EXCEEDS_LIMIT",
        r"intrinsic gas (cost )?\S* ?exceeds (the )?gas limit|(call gas cost|gas floor) .*exceeds (the )?gas limit",
        "Intrinsic gas exceeds gas limit",
        SENDS,
    ),
    Row(
        _M.GAS_TOO_LOW,
        f"{HARDHAT}, {PARITY}",
        "edr, transaction pool",
        r"transaction requires at least \d+ gas|not enough gas to cover minimal cost|transaction gas is too low",
        "Transaction requires at least 120000 gas but got 100000",
        SENDS,
    ),
    Row(
        _M.TOO_LARGE,
        f"{HARDHAT}, {FAMILY}, {NETHERMIND}",
        "an estimate without a limit of its own",
        r"^((err|error|evm error):? )*out ?of ?gas$|transaction ran out of gas",
        "Transaction ran out of gas",
        ESTIMATES,
    ),
    Row(
        _M.WAIT,
        f"{FAMILY}, {RETH}, {ERIGON}",
        POOL,
        r"pool (is )?full|pool is overflowing|queue full|out of capacity|account limit exceeded|spammer"
        r"|too many transactions in the queue",
        "txpool is full",
        SENDS,
    ),
    Row(
        _M.WAIT,
        f"{FAMILY}, {RETH}, {NETHERMIND}, {BESU}, {HARDHAT}",
        f"{POOL}; a nonce ahead of its turn, an account with code of its own (EIP-7702)",
        r"nonce too (high|far)|nonce ?gap|gapped-nonce|in-flight transaction limit"
        r"|too distant from current sender nonce|invalid transaction with a lower nonce|address already reserved",
        "in-flight transaction limit reached for delegated accounts",
        SENDS,
    ),
    Row(
        _M.WAIT,
        "nitro 6dce8d1, op-geth 1.101702.3",
        "sequencer.go, api_backend.go",
        r"sequencer|forwarding targets|expected surplus|failsafe",
        "sequencer temporarily not available",
        SENDS,
    ),
)

LIMITS: Final = (
    Row(
        _M.RANGE,
        "Infura, Alchemy, thirdweb",
        f"code -32005, -32602; {DOCS}",
        r"query returned more than|too many (results|logs)|limit the query to|try paginating|block range should work",
        "query returned more than 10000 results. Try with this block range [0x1, 0x3d].",
        RANGES,
    ),
    Row(
        _M.RANGE,
        f"Alchemy, {PROXYD}, {RETH}, {GETH}, 1rpc",
        f"code -32602, -32020, -32008, -32003; {DOCS}",
        r"response (size|is too (big|large)|too (big|large))",
        "Log response size exceeded.",
        RANGES,
    ),
    Row(
        _M.RANGE,
        "QuickNode, 1rpc, Alchemy, sepolia.base.org",
        f"code -32614 (HTTP 413), -32600; {DOCS}",
        r"limited to (an? )?(0 - )?[\d,]+k? ?(blocks?)?( range)?|up to an? [\d,]+k? block range",
        "eth_getLogs is limited to a 10,000 range",
        RANGES,
    ),
    Row(
        _M.RANGE,
        f"{GETH}, {RETH}, {BESU}, Erigon 3.5 (1,000 blocks), Infura, publicnode, drpc, llamarpc, Cloudflare",
        "eth/filters/api.go (--rpc.rangelimit); EthGetLogs.java (--rpc-max-logs-range, 5000)",
        r"exceeds? max(imum)? (block )?range|exceeds? max (block|results)|exceeds maximum (rpc )?range"
        r"|max(imum)? (block )?range|ranges over \d+ blocks|exceeds the range|range (\d+ )?exceeds|narrow your filter",
        "exceed maximum block range: 5000",
        RANGES,
    ),
    Row(
        _M.RANGE,
        "Ankr, Chainstack, Cloudflare, mainnet.base.org, OP Mainnet",
        f"code -32600, -32062, -32047; {LISTS}",
        r"range (is )?too (large|wide|big)|range (limit|threshold) exceeded|range greater than",
        "block range is too wide",
        RANGES,
    ),
    Row(
        _M.RANGE,
        f"{NETHERMIND}, nitro 6dce8d1, Avalanche, thirdweb",
        "JsonRpc.MaxLogsPerResponse; eth/filters",
        r"too many logs|logs matched by query exceeds|requested too many blocks|number of requested blocks is"
        r"|blocks distance|smaller than size|exceeded max(imum)? (limit|allowed)",
        "logs matched by query exceeds limit of 10000",
        RANGES,
    ),
    Row(
        _M.RANGE,
        "Alchemy, drpc, gateways",
        f"code -32000 (HTTP 400), 30 (HTTP 408); {DOCS}",
        r"query timeout|request timed? ?out|request timeout",
        "query timeout exceeded. Consider reducing your block range",
        RANGES,
    ),
    Row(
        _M.ABSENT,
        "gateways",
        "web3.py 8, which knows the first",
        r"^(transaction|receipt|transaction receipt) not found",
        "transaction not found",
        LOOKUPS,
    ),
)

ELSEWHERE: Final = (
    Row(
        _M.PRUNED,
        f"{FAMILY}, state kept by hash",
        "trie/errors.go",
        r"missing trie node",
        "missing trie node 5f1a (path ) state 0x5f1a is not available, not found",
    ),
    Row(
        _M.PRUNED,
        f"{GETH}, state kept by path; geth 1.14 to 1.16",
        "triedb/pathdb/reader.go, eth/state_accessor.go",
        r"historical state\b.*\b(not available|unavailable)|state (0x)?[0-9a-f]+ is not (available|canonical)"
        r"|(?<!pending )state is not available",
        "historical state 0x5f1a is not available",
    ),
    Row(
        _M.PRUNED,
        f"{RETH}, op-reth",
        "code -32603, crates/storage/errors/src/provider.rs",
        r"state at block #?\w+ is pruned",
        "state at block #49871645 is pruned",
    ),
    Row(
        _M.PRUNED,
        f"{GETH}, {RETH}, {NETHERMIND}, {BESU}",
        "code 4444 (EIP-4444); core/history",
        r"pruned history unavailable|(history|receipts?)\b.* (expired|pruned|unavailable)",
        "pruned history unavailable",
    ),
    Row(
        _M.PRUNED,
        ERIGON,
        "the flag --prune.mode",
        r"due to pruning|(history is|blocks are) available from block",
        "old data not available due to pruning",
    ),
    Row(
        _M.PRUNED,
        NETHERMIND,
        "code -32002, -32000; of logs up to 1.39",
        r"no state available for block|receipt not available for",
        "No state available for block 0x5f1a",
    ),
    Row(
        _M.PRUNED,
        BESU,
        "RpcErrorType.WORLD_STATE_UNAVAILABLE",
        r"world ?state (is )?(unavailable|not available)",
        "World state unavailable",
    ),
    Row(
        _M.PRUNED,
        "nitro 6dce8d1, op-geth 1.101702.3",
        "code -32000, -32801",
        r"state recreation l2 gas depth limit|no historical rpc is available",
        "state recreation l2 gas depth limit exceeded",
    ),
    Row(
        _M.PRUNED,
        "PublicNode, Chainstack, Infura, Ankr, other gateways",
        f"HTTP 403, code -32602, -32002, -32061; {DOCS}",
        r"\barchive\b|requested data is not available|only serves recent blocks",
        "Archive requests require a personal token.",
    ),
    Row(
        _M.WAIT,
        "Alchemy, Infura, QuickNode, drpc, other gateways",
        f"HTTP 429; code 429, -32005, -32007, -32016, -32029; {DOCS}",
        r"rate.?limit|rate exceeded|too many (requests|concurrent|connections)|request limit|requests? per second"
        r"|/second|compute units|over capacity|throttl|requests limited|under too much load"
        r"|(?<!depth )(?<!gas )limit exceeded",
        "daily request count exceeded, request rate limited",
    ),
    Row(
        _M.DENIED,
        "Alchemy, Ankr, Infura, QuickNode, drpc, other gateways",
        f"HTTP 401, 403; {DOCS}; its owner must act",
        r"unauthorized|authenticat|api key|key is inactive|authorization required|project id",
        "Must be authenticated!",
    ),
    Row(
        _M.WAIT,
        "Alchemy, Ankr, Infura, QuickNode, drpc, other gateways",
        f"HTTP 402, 403; {DOCS}; its owner must act, or a time must pass",
        r"monthly capacity|quota|current plan|free (plan|tier)|upgrade (your|to)|credits|billing|request blocked",
        "Monthly capacity limit exceeded. Visit the dashboard to upgrade your scaling policy.",
    ),
    Row(
        _M.WAIT,
        f"{FAMILY}, {BESU}, {NETHERMIND}",
        "internal/ethapi, eth/api_backend.go; code -39001; a node that is behind, or has no finalized block yet",
        r"(header|block|headers|body|block range|parent)( for hash| range)?( <?[\w#]*>?)? not (be )?found|unknown block"
        r"|no finalized block|could not be found|blockhash cannot be found|block not found",
        "header not found",
    ),
    Row(
        _M.WAIT,
        f"{GETH}, {RETH}, {ANVIL}, {HARDHAT}, nitro 6dce8d1, {PROXYD}",
        "code -32602, -32019 (HTTP 400); a block that is still to come",
        r"beyond (the )?(current )?head block|block ?out ?of ?range|block is out of range|ahead of current block"
        r"|received invalid block tag|not currently canonical|(pending state(/block)?|head block) is not available"
        r"|^resource not found",
        "block range extends beyond current head block",
    ),
    Row(
        _M.WAIT,
        f"{GETH}, {ERIGON}",
        "internal/ethapi/errors.go",
        r"indexing is (in progress|not yet complete)|haven't been fully indexed",
        "transaction indexing is in progress",
    ),
    Row(
        _M.WAIT,
        f"{BESU}, {NETHERMIND}, {RETH}, {PROXYD}, Ankr, Chainstack",
        "code -32008, -32002, -32009, -32010 to -32018; HTTP 503",
        r"(?<!eth_)sync(ing|hroni[sz]ing| is still in progress)|not yet in sync|no backend"
        r"|backend (offline|is|returned)|no nodes available|no server available"
        r"|no response from node|server is (busy|overloaded)|service unavailable"
        r"|temporarily|try again|cannot fulfill request",
        "no backend is currently healthy to serve traffic",
    ),
    Row(
        _M.WAIT,
        f"{GETH}, {BESU}, {NETHERMIND}, {PROXYD}",
        "code -32002, -32015, -32016; time limits of nodes and gateways",
        r"timed? ?out|timeout|deadline exceeded|context canceled",
        "execution aborted (timeout = 5s)",
    ),
    Row(
        _M.UNSUPPORTED,
        "every client",
        "JSON-RPC 2.0",
        r"",
        "the method eth_maxPriorityFeePerGas does not exist/is not available",
        code=-32601,
    ),
    Row(
        _M.UNSUPPORTED,
        f"{HARDHAT}, {NETHERMIND}, {BESU}, {PROXYD}, other gateways",
        f"code -32004, -32600, -32604; {LISTS}",
        r"method\b.*\b(not (found|supported|available|allowed|enabled|whitelisted)|does not exist|disabled)"
        r"|unsupported method|not implemented|not supported by this endpoint",
        "Method eth_maxPriorityFeePerGas is not supported",
    ),
)

TABLE: Final = (*REVERTS, *SENT, *LIMITS, *ELSEWHERE)
"""In order: the first row that matches decides."""

_RANGE: Final = re.compile(r"\[\s*(0x[0-9a-f]{1,16})\s*,\s*(0x[0-9a-f]{1,16})\s*\]|\brange (\d{1,18})-(\d{1,18})\b")
_COUNT: Final = re.compile(
    r"(?:limited to (?:an? )?(?:0 - )?|up to an? |(?:at most|max|maximum)(?: block)?(?: range)?:? |ranges? over "
    r"|range (?:exceeds|greater than) |exceeds? max(?:imum)? (?:block )?range:? |distance: |narrow your filter: "
    r"|range \d{1,18} exceeds limit of )(\d{1,18})(k?)\b"
)


def blocks_suggested(words: str, first: int) -> int | None:
    """How many blocks from `first` on a refusal of a range says that it would take; None if it says nothing."""
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", words.lower())
    if (found := _RANGE.search(plain)) is not None:
        low, high = (int(each, 0) for each in found.groups() if each is not None)
        return high - first + 1 if low <= first <= high else None
    if (count := _COUNT.search(plain)) is not None:
        return int(count[1]) * (1_000 if count[2] else 1) or None
    return None


def table() -> str:
    """The table in Markdown, for docs/chains.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "| meaning | who, version | source | for instance | in answers to |"
    yield "|---|---|---|---|---|"
    order = list(Meaning)
    for row in sorted(TABLE, key=lambda row: order.index(row.meaning)):
        code = f" (code {row.code})" if row.code is not None else ""
        asked = ", ".join(f"`{method}`" for method in sorted(row.methods)) or "anything"
        example = row.example.replace("|", "\\|")
        yield f"| {row.meaning} | {row.who} | {row.source} | `{example}`{code} | {asked} |"
