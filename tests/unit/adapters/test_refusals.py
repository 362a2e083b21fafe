"""A transaction sent to several endpoints: what their answers come to, and what a wallet makes of a part of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from eth_account import Account
from eth_utils.crypto import keccak

from fedgpu_operator.adapters.chain.endpoint import LONGEST_EXCUSE, Endpoint, NotNowError, Patience, StatusError
from fedgpu_operator.adapters.chain.errors import LONGEST_WORDS, fault_of
from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.adapters.chain.votes import Result, Vote, fingerprint
from fedgpu_operator.adapters.chain.wallet import Wallet
from fedgpu_operator.adapters.chain.wordings import SEND
from fedgpu_operator.domain.settlement import SignedTx
from fedgpu_operator.errors import ChainUnreachableError, NotTakenError, PendingError, Refusal

RAW = "0x02f8"
TAKEN, SILENT = "taken", ""
LARGE = "transaction gas limit too high (cap: 16777216, tx: 17400000)"
LOW = "max fee per gas less than block base fee"
CAPPED = "tx fee (1.20 ether) exceeds the configured cap (1.00 ether)"
POOR = "insufficient funds for gas"
STRANGE = "tx rejected by policy"


@contextmanager
def saying(monkeypatch: pytest.MonkeyPatch, *answers: str) -> Iterator[list[str]]:
    """Endpoints `e0`, `e1`, … that answer so to a transaction; the URLs of them. Nothing is in any block."""

    async def vote(self: Endpoint, method: str, params: Sequence[object], height: int) -> Vote:
        said = answers[int(self.host[1:])]
        answer: Any = Result("0x0" if method == "eth_getTransactionCount" else None)
        if method == "eth_getBlockByNumber":
            answer = Result({"number": "0x5", "hash": "0x" + "11" * 32, "timestamp": "0x5"})
        if method == SEND and said == SILENT:
            return Vote(self.host, None, "gives no answer (ConnectError)")
        if method == SEND:
            tx_hash = "0x" + keccak(hexstr=str(params[0])).hex()
            answer = Result(tx_hash) if said == TAKEN else fault_of({"code": -32000, "message": said}, 200, method)
        return Vote(self.host, answer, mark=fingerprint(method, answer))

    with monkeypatch.context() as patched:
        patched.setattr(Endpoint, "vote", vote)
        yield [f"http://e{index}/" for index in range(len(answers))]


async def send(urls: Sequence[str]) -> None:
    async with Rpc(urls, chain_id=1) as rpc:
        with rpc.speaking("sending"):
            await rpc.w3.eth.send_raw_transaction(bytes.fromhex(RAW[2:]))


@pytest.mark.parametrize(
    ("answers", "why", "certain"),
    [
        ((LARGE, LARGE, SILENT), Refusal.TOO_LARGE, False),
        ((SILENT, LARGE, LARGE, LARGE, LARGE), Refusal.TOO_LARGE, False),
        ((LOW, SILENT, LOW), Refusal.UNDERPRICED, False),
        ((CAPPED, LARGE, SILENT), Refusal.TOO_LARGE, False),
        ((CAPPED, CAPPED, TAKEN), Refusal.FEE_CAPPED, False),
        ((POOR, "already known", POOR), Refusal.POOR, False),
        ((POOR, POOR, "a transaction with this nonce already exists"), Refusal.POOR, True),
        ((STRANGE, STRANGE, LARGE), Refusal.OTHER, True),
        ((STRANGE, STRANGE, LOW), Refusal.OTHER, True),
        ((STRANGE, LARGE), Refusal.TOO_LARGE, True),
        ((LARGE, LARGE, LARGE), Refusal.TOO_LARGE, True),
        (("intrinsic gas too low",), Refusal.GAS_TOO_LOW, True),
    ],
)
async def test_what_a_quorum_refuses_is_refused(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[str, ...], why: Refusal, certain: bool
) -> None:
    with saying(monkeypatch, *answers) as urls, pytest.raises(NotTakenError) as caught:
        await send(urls)
    assert (caught.value.why, caught.value.certain) == (why, certain)
    for index, answer in enumerate(answers):
        assert (f"e{index} gives no answer" in str(caught.value)) is (answer == SILENT)


@pytest.mark.parametrize(
    "answers",
    [
        (TAKEN, SILENT, SILENT),
        (TAKEN, CAPPED, SILENT),
        (TAKEN, CAPPED, LARGE),
        (TAKEN, TAKEN, CAPPED),
        (STRANGE, "already known", STRANGE),
    ],
)
async def test_one_taker_is_enough_unless_a_quorum_refuses_for_one_known_reason(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[str, ...]
) -> None:
    with saying(monkeypatch, *answers) as urls:
        await send(urls)


@pytest.mark.parametrize("answers", [(LARGE, SILENT), (LARGE, SILENT, SILENT), (SILENT,)])
async def test_fewer_refusals_than_a_quorum_leave_it_unknown(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[str, ...]
) -> None:
    with saying(monkeypatch, *answers) as urls, pytest.raises(ChainUnreachableError):
        await send(urls)


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ((POOR, POOR, POOR), NotTakenError),
        ((POOR, POOR, SILENT), PendingError),
        ((POOR, POOR, TAKEN), PendingError),
    ],
)
@pytest.mark.parametrize("patience", [None, 0.2])
async def test_a_wallet_calls_unsent_only_what_every_endpoint_refused(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[str, ...], error: type[Exception], patience: float | None
) -> None:
    """A silent endpoint may have taken the bytes: who pays again at another nonce would pay twice."""
    key = "0x" + "11" * 32
    signed = SignedTx("0x" + keccak(hexstr=RAW).hex(), bytes.fromhex(RAW[2:]), Account.from_key(key).address, 0)
    bears = Patience(patience, patience) if patience is not None else None
    with saying(monkeypatch, *answers) as urls:
        async with Wallet(urls, key, chain_id=1, patience=bears) as wallet:
            with pytest.raises(error) as caught:
                await wallet.deliver(signed)
    assert POOR in str(caught.value)


KEY = "k3y" + "A1b2C3d4" * 3


@pytest.mark.parametrize("before", range(0, LONGEST_WORDS + 60, 7))
async def test_no_part_of_a_key_is_shown_wherever_the_words_are_cut(
    monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    endpoint = Endpoint(f"https://rpc.example.org/v2/{KEY}", 5, None)
    text = "y" * before + " /v2/" + KEY + " failed " + " " * 2000 + KEY

    bodies: list[bytes] = []

    async def answer(_: bytes) -> tuple[int, bytes]:
        return 500, bodies[-1]

    monkeypatch.setattr(endpoint, "_post", answer)
    try:
        for body, error in (
            (text.encode(), StatusError),
            (b'{"error": {"code": -32005, "message": "rate limit ' + text.encode() + b'"}}', NotNowError),
        ):
            bodies.append(body)
            with pytest.raises(error) as caught:
                await endpoint._ask("eth_call", [])
            assert KEY[:4] not in str(caught.value)
            assert len(str(caught.value)) <= max(LONGEST_WORDS, LONGEST_EXCUSE) + len("HTTP 500: ")
    finally:
        await endpoint.aclose()
