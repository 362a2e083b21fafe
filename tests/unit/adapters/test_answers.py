"""The table of answers: every row is judged as it says, none contradicts another, and no contract speaks for a node."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.adapters.chain.errors import LONGEST_WORDS, AnswerError, fault_of, judge
from fedgpu_operator.adapters.chain.rpc import NOT_TAKEN, Rpc
from fedgpu_operator.adapters.chain.votes import Vote, agreed, fingerprint, refusal
from fedgpu_operator.adapters.chain.wordings import ESTIMATE, LOGS, SEND, TABLE, Meaning, Row, table
from fedgpu_operator.errors import (
    ChainError,
    ChainUnreachableError,
    NotTakenError,
    Refusal,
    RevertedError,
    StatePrunedError,
)

METHODS = ("eth_call", ESTIMATE, SEND, LOGS, "eth_getTransactionReceipt", "eth_getBlockByNumber", "eth_getBalance")


def of(row: Row) -> dict[str, object]:
    return {"code": row.code if row.code is not None else -32000, "message": row.example}


def methods_of(row: Row) -> list[str]:
    return [method for method in METHODS if not row.methods or method in row.methods]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.meaning} {row.example[:40]}")
def test_every_row_is_judged_as_it_says(row: Row) -> None:
    for method in methods_of(row):
        assert judge(of(row), 200, method) is row.meaning, method
        assert judge(of(row) | {"message": row.example.upper()}, 400, method) is row.meaning, "in capitals"


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.meaning} {row.example[:40]}")
def test_no_row_of_the_same_reach_contradicts_another(row: Row) -> None:
    """Rows for some methods stand before those for all, so only rows for the same methods can contradict."""
    for other in TABLE:
        if other.methods == row.methods and other.meaning is not row.meaning:
            assert not other.matches(METHODS[0] if not row.methods else min(row.methods), None, row.example.lower()), (
                other
            )


def test_rows_for_some_methods_stand_before_those_for_all() -> None:
    reach = [bool(row.methods) for row in TABLE]
    assert reach == sorted(reach, reverse=True)


# What was read or seen of each client, beyond the one example in its row.
ANSWERS: list[tuple[str, object, Meaning]] = [
    (SEND, "ALREADY_EXISTS: already known", Meaning.KNOWN),
    (SEND, "Transaction with the same hash was already imported.", Meaning.KNOWN),
    (SEND, "AlreadyKnown", Meaning.KNOWN),
    (SEND, "NONCE_TOO_LOW: nonce too low", Meaning.NONCE_USED),
    (SEND, "Nonce too low. Expected nonce to be 2 but got 1.", Meaning.NONCE_USED),
    (SEND, "Nonce too high. Expected nonce to be 1 but got 4. Note that transactions can't be queued", Meaning.WAIT),
    (SEND, "FeeTooLowToCompete", Meaning.UNDERPRICED),
    (SEND, "transaction underpriced: gas tip cap 1, minimum needed 25000000000", Meaning.UNDERPRICED),
    (SEND, "tx fee (1200000000000000000 wei) exceeds the configured cap (1000000000000000000 wei)", Meaning.FEE_CAPPED),
    (SEND, "Invalid, TxGasLimitCapExceeded: Gas limit 17400000 exceeded cap of 16777216.", Meaning.TOO_LARGE),
    (SEND, "exceeds maximum per-transaction gas limit: transaction gas 3, limit 2", Meaning.TOO_LARGE),
    (SEND, "Transaction gas limit is 99000000 and exceeds block gas limit of 60000000", Meaning.TOO_LARGE),
    (ESTIMATE, "Out of gas: gas required exceeds allowance: 30000000", Meaning.TOO_LARGE),
    (ESTIMATE, "gas required exceeds allowance (0)", Meaning.POOR),
    ("eth_call", "err: out of gas (supplied gas 2000000)", Meaning.REVERTED),
    ("eth_call", "EVM error OutOfGas", Meaning.REVERTED),
    ("eth_call", "header not found", Meaning.WAIT),
    ("eth_call", "block not found: finalized", Meaning.WAIT),
    ("eth_call", "BlockOutOfRangeError: block height is 4 but requested was 9", Meaning.WAIT),
    ("eth_call", "no State available for block 0xabc", Meaning.PRUNED),
    ("eth_call", "historical state 7d3f is not available", Meaning.PRUNED),
    ("eth_call", "required historical state unavailable (reexec=128)", Meaning.PRUNED),
    ("eth_call", "state histories haven't been fully indexed yet", Meaning.WAIT),
    ("eth_call", "Archive, Debug and Trace requests are not available on your current plan.", Meaning.PRUNED),
    ("eth_getBlockByNumber", "finalized block not found", Meaning.WAIT),
    ("eth_getBlockByNumber", "Unknown block", Meaning.WAIT),
    ("eth_getTransactionReceipt", "transaction indexing is in progress", Meaning.WAIT),
    (LOGS, "query exceeds max results 20000, retry with the range 1-500", Meaning.RANGE),
    (LOGS, "invalid eth_getLogs request. 'fromBlock'-'toBlock' range too large. Max range: 800", Meaning.RANGE),
    (LOGS, "Requested range exceeds maximum RPC range limit", Meaning.RANGE),
    (LOGS, "ranges over 10000 blocks are not supported on freetier", Meaning.RANGE),
    (LOGS, "Under the Free tier plan, you can make eth_getLogs requests with up to a 10 block range.", Meaning.RANGE),
    (LOGS, "eth_getLogs is limited to 0 - 50 blocks range", Meaning.RANGE),
    (LOGS, "block range greater than 500 max", Meaning.RANGE),
    (LOGS, "Too many logs requested. Max logs per response is 20000.", Meaning.RANGE),
    (LOGS, "block range extends beyond current head block", Meaning.WAIT),
    (LOGS, "query block range exceeds server limit, narrow your filter: 1000", Meaning.RANGE),
    (LOGS, "query returns too many logs, narrow your filter: 20000", Meaning.RANGE),
    (LOGS, "range 1000000 exceeds limit of 10000", Meaning.RANGE),
    (LOGS, "receipt not available for from block 14319330.", Meaning.PRUNED),
    (LOGS, "old data not available due to pruning: from tx: 4, min tx: 9", Meaning.PRUNED),
    (SEND, "request body too large", Meaning.TOO_LARGE),
    ("eth_call", "pending state is not available", Meaning.WAIT),
    (LOGS, "over rate limit", Meaning.WAIT),
    (LOGS, {"code": -32005, "message": "project ID request rate exceeded"}, Meaning.WAIT),
    ("eth_call", {"code": 429, "message": "has exceeded its throughput"}, Meaning.WAIT),
    ("eth_call", {"code": -32603, "message": "Internal error"}, Meaning.WAIT),
    ("eth_call", {"code": -32602, "message": "invalid argument 0: hex string without 0x prefix"}, Meaning.REFUSED),
    ("eth_call", "Too Many Requests", Meaning.WAIT),
    (SEND, "intrinsic gas too low", Meaning.GAS_TOO_LOW),
    (SEND, "insufficient gas for floor data gas cost: gas 21000, minimum needed 24000", Meaning.GAS_TOO_LOW),
    (SEND, "IntrinsicGas", Meaning.GAS_TOO_LOW),
    (SEND, "intrinsic gas cost 53000 exceeds gas limit 21000", Meaning.GAS_TOO_LOW),
    (SEND, "call gas cost (53000) exceeds the gas limit (21000)", Meaning.GAS_TOO_LOW),
    (SEND, "gas floor (24000) exceeds the gas limit (21000)", Meaning.GAS_TOO_LOW),
    (SEND, "Transaction gas is too low. There is not enough gas to cover minimal cost of it", Meaning.GAS_TOO_LOW),
    (SEND, "a transaction with this nonce already exists", Meaning.UNDERPRICED),
    (SEND, "Transaction with the same nonce already exists in mempool", Meaning.UNDERPRICED),
    (SEND, "nonce already in mempool", Meaning.UNDERPRICED),
    (SEND, "Transaction already exists", Meaning.KNOWN),
    (SEND, "existing tx with same hash", Meaning.KNOWN),
    (SEND, "transaction gas limit exceeded", Meaning.TOO_LARGE),
    (ESTIMATE, "block gas limit exceeded", Meaning.TOO_LARGE),
    (SEND, "tx gas limit 17000000 exceeds per-tx maximum", Meaning.TOO_LARGE),
    (SEND, "tx gas limit is over the cap", Meaning.TOO_LARGE),
    (SEND, "rlp too long", Meaning.TOO_LARGE),
    ("eth_call", "daily limit exceeded", Meaning.WAIT),
    ("eth_syncing", "the method eth_syncing does not exist/is not available", Meaning.UNSUPPORTED),
    (SEND, "invalid sender", Meaning.REFUSED),
]


@pytest.mark.parametrize(("method", "error", "meaning"), ANSWERS, ids=lambda value: str(value)[:50])
def test_what_clients_and_gateways_answer(method: str, error: object, meaning: Meaning) -> None:
    if isinstance(error, str):
        assert judge({"code": -32000, "message": error}, 200, method) is meaning
    assert judge(error, 200, method) is meaning


@pytest.mark.parametrize("status", [402, 403, 408, 429, 500, 502, 503, 504, 522])
def test_a_status_of_somebody_in_between_means_wait(status: int) -> None:
    assert judge({"code": -32000, "message": "what nobody has heard"}, status, "eth_call") is Meaning.WAIT
    assert judge({"code": 3, "message": "execution reverted", "data": "0x"}, status, "eth_call") is Meaning.REVERTED


def test_a_status_that_nobody_may_pass_means_denied() -> None:
    assert judge({"code": -32000, "message": "what nobody has heard"}, 401, "eth_call") is Meaning.DENIED
    assert judge({"code": 429, "message": "rate limited"}, 401, "eth_call") is Meaning.WAIT, "words decide"


def test_a_transaction_that_hardhat_mined_and_that_failed_was_taken() -> None:
    failed = {
        "code": -32603,
        "message": "Error: VM Exception while processing transaction: reverted with reason string",
    }
    assert (
        judge(failed | {"data": {"message": "m", "txHash": "0x5e", "data": "0x08c379a0"}}, 200, SEND) is Meaning.KNOWN
    )
    assert judge(failed | {"data": {"message": "m", "data": "0x08c379a0"}}, 200, SEND) is Meaning.REVERTED


@given(
    st.sampled_from([row for row in TABLE if row.meaning is not Meaning.REVERTED]),
    st.sampled_from(["eth_call", ESTIMATE]),
)
def test_a_contract_cannot_speak_for_a_node(row: Row, method: str) -> None:
    """The text of a revert is the contract's own: "insufficient funds" there says nothing of our account."""
    for message in (
        f"execution reverted: {row.example}",
        f"Error: VM Exception while processing transaction: reverted with reason string '{row.example}'",
        f"failed with 50000000 gas: execution reverted: {row.example}",
        f"always failing transaction (execution reverted) {row.example}",
        f"The execution failed due to an exception. Reverted {row.example}",
    ):
        assert judge({"code": -32000, "message": message}, 200, method) is Meaning.REVERTED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.fixed_dictionaries({}, optional={"code": JSON, "message": JSON, "data": JSON}) | JSON,
    st.integers(100, 599),
    st.sampled_from(METHODS),
)
def test_whatever_an_error_holds_it_means_something_in_words_that_can_be_shown(
    error: Any, status: int, method: str
) -> None:
    fault = fault_of(error, status, method)
    assert fault.meaning in Meaning
    assert 0 < len(fault.words) <= LONGEST_WORDS
    assert "\n" not in fault.words
    fingerprint(method, fault)


async def test_every_meaning_has_one_treatment() -> None:
    kinds: dict[Meaning, type[ChainError]] = {
        Meaning.WAIT: ChainUnreachableError,
        Meaning.DENIED: ChainUnreachableError,
        Meaning.REVERTED: RevertedError,
        Meaning.PRUNED: StatePrunedError,
        **dict.fromkeys(NOT_TAKEN, NotTakenError),
    }
    async with Rpc("http://127.0.0.1:1") as rpc:
        for row in TABLE:
            for method in methods_of(row):
                with pytest.raises(ChainError) as caught, rpc.speaking("asking"):
                    raise AnswerError(method, fault_of(of(row), 200, method))
                if method != SEND or row.meaning in {Meaning.WAIT, Meaning.DENIED}:
                    assert type(caught.value) is kinds.get(row.meaning, ChainError), row
                elif isinstance(caught.value, NotTakenError):
                    assert caught.value.why is NOT_TAKEN.get(row.meaning, Refusal.OTHER)
                else:
                    raise AssertionError(row)
                assert "asking: " in str(caught.value)


def vote(host: str, message: str, method: str = SEND, **more: object) -> Vote:
    answer = fault_of({"code": -32000, "message": message, **more}, 200, method)
    return Vote(host, answer, mark=fingerprint(method, answer))


@pytest.mark.parametrize(
    ("messages", "meaning", "words"),
    [
        (["what is this", "nonce too low", "no"], Meaning.REFUSED, "what is this"),
        (["what is this", "replacement transaction underpriced"], Meaning.UNDERPRICED, "replacement"),
        (
            ["replacement transaction underpriced", "exceeds block gas limit", "oversized data"],
            Meaning.TOO_LARGE,
            "exc",
        ),
        (["insufficient funds", "nonce too low"], Meaning.NONCE_USED, "nonce too low"),
        (["what is this", "no"], Meaning.REFUSED, "what is this"),
    ],
)
def test_which_refusal_stands_for_all(messages: list[str], meaning: Meaning, words: str) -> None:
    votes = [vote(f"host-{index}", message) for index, message in enumerate(messages)]
    for order in (votes, votes[::-1]):
        found = refusal(order, len(votes) // 2 + 1)
        assert found is not None
        assert found.meaning is meaning
        assert found.words.startswith(words)


def test_two_clients_agree_on_a_revert_in_different_words() -> None:
    data = "0x08c379a0" + f"{32:064x}" + f"{6:064x}" + b"paused".hex().ljust(64, "0")
    said = [
        vote("geth", "execution reverted: paused", "eth_call", data=data),
        vote("old", "VM execution error.", "eth_call", data=f"Reverted {data.upper().replace('0X', '0x')}"),
        vote("hardhat", "Error: VM Exception", "eth_call", data={"message": "Error", "data": data}),
        vote("wallet", "Internal error", "eth_call", data={"originalError": {"code": 3, "data": data}}),
        vote("words", "execution reverted: paused", "eth_call"),
        vote("quoted", "VM Exception while processing transaction: reverted with reason string 'paused'", "eth_call"),
    ]
    assert len({each.mark for each in said}) == 1
    found = agreed(said, len(said))
    assert found is not None


def test_a_revert_without_its_bytes_counts_for_one_with_them() -> None:
    spoken, mute = (
        vote("a", "execution reverted", "eth_call", data="0x59baef2a"),
        vote("b", "execution reverted", "eth_call"),
    )
    for order in ([spoken, mute], [mute, spoken]):
        assert agreed(order, 2) == spoken.answer
    other = vote("c", "execution reverted", "eth_call", data="0xdeadbeef")
    assert agreed([spoken, other], 2) is None, "they tell of different reverts"
    assert agreed([mute, vote("d", "header not found", "eth_call")], 2) is None


def test_the_table_is_shown_whole() -> None:
    lines = table().splitlines()
    assert len(lines) == len(TABLE) + 2
    assert all(line.count(" | ") == 4 for line in lines[2:]), "five columns"
    assert {meaning.value for meaning in Meaning} - {"refused"} == {line.split(" | ")[0][2:] for line in lines[2:]}
