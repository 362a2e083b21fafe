"""A key in a file, a keystore and a signing service: the same signatures, and nothing of a key in any text."""

from __future__ import annotations

import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from eth_account import Account
from eth_account.messages import encode_typed_data

from fedgpu_operator.adapters.chain import LocalSigner, RemoteSigner, Signer, load_key
from fedgpu_operator.errors import ChainError, ChainUnreachableError, ConfigurationError, FedGPUError
from fedgpu_operator.settlement.typeddata import account_proof, hub_domain, recover, signed_by

KEY = "0x" + "a7" * 32
OTHER = "0x" + "b8" * 32
PASSWORD = "correct horse"
TOKEN = "s3cr3t-token"
ADDRESS = LocalSigner(KEY).address
TO = "0x" + "1e" * 20
STATEMENT = account_proof(hub_domain(31337, TO), hub="uid", namespace="team", wallet=TO, issued_at=1_767_268_800)
TRANSACTION: Any = {
    "type": 2,
    "chainId": 31337,
    "nonce": 7,
    "gas": 90_000,
    "maxFeePerGas": 30 * 10**9,
    "maxPriorityFeePerGas": 10**9,
    "value": 0,
    "data": "0xdeadbeef",
    "to": LocalSigner("0x" + "01" * 32).address,
}
Twist = Callable[[str, list[Any]], Any]


class Service:
    """web3signer's eth1 JSON-RPC, with `twist` in what it is asked, and `answers` in the place of a signature."""

    def __init__(self) -> None:
        self.keys = {Account.from_key(key).address.lower(): key for key in (KEY, OTHER)}
        self.twist: Callable[[dict[str, Any]], dict[str, Any]] = lambda wanted: wanted
        self.signs_as: str | None = None
        self.answers: dict[str, Any] | None = None
        self.status = 200
        self.asked: list[dict[str, Any]] = []

    async def handle(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.asked.append(asked)
        body = self.answers if self.answers is not None else {"result": self.answer(asked["method"], asked["params"])}
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], **body}, status=self.status)

    def answer(self, method: str, params: list[Any]) -> Any:
        if method == "eth_accounts":
            return list(self.keys)
        key = self.signs_as or self.keys[str(params[0] if isinstance(params[0], str) else params[0]["from"]).lower()]
        if method == "eth_signTypedData":
            wanted = self.twist(json.loads(params[1]))
            return "0x" + bytes(Account.sign_message(encode_typed_data(full_message=wanted), key).signature).hex()
        assert method == "eth_signTransaction"
        wanted = {name: value for name, value in self.twist(params[0]).items() if name != "from"}
        numbers = {"type", "chainId", "nonce", "gas", "maxFeePerGas", "maxPriorityFeePerGas", "value"}
        wanted = {name: int(value, 16) if name in numbers else value for name, value in wanted.items()}
        return "0x" + bytes(Account.sign_transaction(wanted, key).raw_transaction).hex()


@asynccontextmanager
async def remote(service: Service, address: str = ADDRESS) -> AsyncIterator[RemoteSigner]:
    app = web.Application()
    app.router.add_post("/{token}", service.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        signer = RemoteSigner(f"http://127.0.0.1:{runner.addresses[0][1]}/{TOKEN}", address)
        yield signer
        await signer.aclose()
    finally:
        await runner.cleanup()


async def refusal(pending: Awaitable[object]) -> FedGPUError:
    """The error, of which no text holds a secret."""
    with pytest.raises(FedGPUError) as caught:
        await pending
    text = "".join(traceback.format_exception(caught.value))
    for secret in (KEY[2:], OTHER[2:], PASSWORD, TOKEN):
        assert secret not in text
    return caught.value


@pytest.fixture
def keystore(tmp_path: Path) -> tuple[Path, Path]:
    """A go-ethereum keystore, cheap to open, and the file of its password."""
    made, password = tmp_path / "keystore.json", tmp_path / "password"
    made.write_text(json.dumps(Account.encrypt(bytes.fromhex(KEY[2:]), PASSWORD, kdf="pbkdf2", iterations=10)))
    password.write_text(PASSWORD + "\n")
    return made, password


async def test_all_kinds_of_signer_give_the_same_signatures(tmp_path: Path, keystore: tuple[Path, Path]) -> None:
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    service = Service()
    async with remote(service) as over_http:
        await over_http.check()
        signers: list[Signer] = [LocalSigner(KEY), await load_key(path), await load_key(*keystore), over_http]
        transactions = {await signer.sign_transaction(TRANSACTION) for signer in signers}
        statements = {await signer.sign_typed(STATEMENT) for signer in signers}
        assert {signer.address for signer in signers} == {ADDRESS}
    assert len(transactions) == len(statements) == 1
    assert Account.recover_transaction(transactions.pop()) == ADDRESS
    signature = statements.pop()
    assert signed_by(ADDRESS, STATEMENT.digest, signature)
    assert recover(STATEMENT.digest, signature) == ADDRESS
    for signer in signers:
        for shown in (repr(signer), repr(vars(signer)) if not isinstance(signer, RemoteSigner) else ""):
            assert KEY[2:] not in shown
            assert TOKEN not in shown


async def test_a_contract_is_created_through_a_service_too() -> None:
    creation = {name: value for name, value in TRANSACTION.items() if name != "to"}
    service = Service()
    async with remote(service) as signer:
        assert await signer.sign_transaction(creation) == await LocalSigner(KEY).sign_transaction(creation)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("to", "0x" + "66" * 20),
        ("data", "0x"),
        ("value", "0x1"),
        ("nonce", "0x8"),
        ("gas", "0x1"),
        ("maxFeePerGas", "0xffffffffffff"),
        ("maxPriorityFeePerGas", "0x0"),
        ("chainId", "0x1"),
        ("accessList", [{"address": "0x" + "66" * 20, "storageKeys": []}]),
    ],
)
async def test_a_service_that_signs_another_transaction_is_found_out(field: str, value: Any) -> None:
    service = Service()
    service.twist = lambda wanted: wanted | {field: value}
    async with remote(service) as signer:
        error = await refusal(signer.sign_transaction(TRANSACTION))
    assert f"changed `{field}`" in str(error)


async def test_a_service_that_signs_as_somebody_else_is_found_out() -> None:
    service = Service()
    service.signs_as = OTHER
    async with remote(service) as signer:
        assert "not as" in str(await refusal(signer.sign_transaction(TRANSACTION)))
        assert "something or somebody else" in str(await refusal(signer.sign_typed(STATEMENT)))


async def test_a_service_that_signs_another_statement_is_found_out() -> None:
    service = Service()
    service.twist = lambda wanted: wanted | {"message": wanted["message"] | {"namespace": "other"}}
    async with remote(service) as signer:
        assert "something or somebody else" in str(await refusal(signer.sign_typed(STATEMENT)))


@pytest.mark.parametrize("answer", ["0x", "0x02", "0x" + "02" * 40, None, 7, {"raw": "0x"}, "not hex"])
async def test_rubbish_is_no_signature(answer: Any) -> None:
    service = Service()
    service.answers = {"result": answer}
    async with remote(service) as signer:
        for pending in (signer.sign_transaction(TRANSACTION), signer.sign_typed(STATEMENT)):
            assert type(await refusal(pending)) is ChainError


async def test_a_refusal_and_silence_are_told_apart() -> None:
    service = Service()
    service.answers = {"error": {"code": -32000, "message": "Signer is locked"}}
    async with remote(service) as signer:
        error = await refusal(signer.sign_typed(STATEMENT))
        assert type(error) is ChainError
        assert "refuses eth_signTypedData: Signer is locked" in str(error)
        service.answers, service.status = None, 502
        assert isinstance(await refusal(signer.sign_transaction(TRANSACTION)), ChainUnreachableError)
        service.answers, service.status = {"result": "0x" + "0" * 2**21}, 200
        assert isinstance(await refusal(signer.sign_transaction(TRANSACTION)), ChainUnreachableError)
    assert isinstance(await refusal(signer_at_nobody().sign_typed(STATEMENT)), ChainUnreachableError)


async def test_a_service_without_the_account_is_refused_at_the_start() -> None:
    stranger = LocalSigner("0x" + "c9" * 32).address
    async with remote(Service(), stranger) as signer:
        error = await refusal(signer.check())
    assert isinstance(error, ConfigurationError)
    assert f"does not hold {stranger}" in str(error)
    with pytest.raises(ConfigurationError, match="is not an address"):
        RemoteSigner("http://127.0.0.1:1", "0x12")


async def test_each_wrong_file_is_named_and_none_is_shown(tmp_path: Path, keystore: tuple[Path, Path]) -> None:
    made, password = keystore
    wrong, binary, large, text = (tmp_path / name for name in ("wrong", "binary", "large", "text"))
    wrong.write_text("another password")
    binary.write_bytes(b"\xff\xfe\x00")
    large.write_text(" " * 100_000 + KEY)
    text.write_text(KEY[:-1])
    missing = tmp_path / "missing"
    cases: list[tuple[tuple[Path, ...], str]] = [
        ((made,), "is a keystore: the file of its password is needed"),
        ((made, wrong), "cannot be opened with the password given"),
        ((text, password), "is not a keystore: it holds no JSON"),
        ((missing,), f"the key file {missing} cannot be read: No such file"),
        ((made, missing), f"the password file {missing} cannot be read"),
        ((binary,), f"invalid key file {binary}: not text"),
        ((large,), f"invalid key file {large}: more than 65536 bytes"),
        ((text,), "not a private key of 32 bytes"),
        ((tmp_path,), "cannot be read"),
    ]
    for files, words in cases:
        error = await refusal(load_key(*files))
        assert isinstance(error, ConfigurationError), files
        assert words in str(error)
    made.write_text("{}")
    assert "it has no part `crypto`" in str(await refusal(load_key(made, password)))


def signer_at_nobody() -> RemoteSigner:
    return RemoteSigner(f"http://127.0.0.1:1/{TOKEN}", ADDRESS)
