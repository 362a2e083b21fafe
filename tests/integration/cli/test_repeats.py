"""Commands that are repeated because nobody knows what became of them: money moves once, and the hash is known."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from eth_account import Account as Keys

from fedgpu_lab.chain import Account
from fedgpu_operator.adapters.chain.sender import Sender
from fedgpu_operator.adapters.chain.wallet import offered
from fedgpu_operator.cli import main, wallets
from fedgpu_operator.cli.journal import Journal, Lock
from fedgpu_operator.domain.settlement import SignedTx

if TYPE_CHECKING:
    from .conftest import Cli, Done, LossyEndpoint

SEND = "eth_sendRawTransaction"


@pytest.fixture
def tenant(cli: Cli) -> Account:
    """An account that no other test uses, with 100 dollars in its wallet."""
    made = Keys.create()
    account = Account(made.address, made.key.to_0x_hex())
    cli.chain.rpc("anvil_setBalance", account.address, hex(10**18))
    cli.mint(account, 100)
    return account


def balance(cli: Cli, tenant: Account) -> str:
    shown = cli("account", "limits", "show", "--wallet", tenant.address, "-o", "json")
    return str(shown.data["balance"])


def sent(cli: Cli, tenant: Account) -> int:
    return int(str(cli.chain.rpc("eth_getTransactionCount", tenant.address, "latest")), 16)


def hashes(done: Done) -> list[str]:
    return re.findall(r"deposit: signed as (0x[0-9a-f]{64})", done.err)


def record(tmp_path: Path) -> list[dict[str, Any]]:
    (path,) = (tmp_path / "state" / "fedgpu" / "transactions").glob("*.jsonl")
    assert path.stat().st_mode & 0o777 == 0o600
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_ten_deposits_through_an_endpoint_that_loses_every_second_reply_pay_once(
    cli: Cli, tenant: Account, gateway: LossyEndpoint
) -> None:
    gateway.every_second()
    deposit = ("account", "deposit", "10", "--approve", *cli.key(tenant), "-o", "json")
    first, *rest = (cli(*deposit, rpc=gateway.url) for _ in range(10))
    assert first.code == 0, first.err
    assert first.data["after"]["balance"] == "10.00"
    assert first.data["transaction"] == hashes(first)[0], "it was shown before it was sent"
    for done in rest:
        assert done.code == 2, "a person must say that it is to be paid again"
        assert first.data["transaction"] in done.err
        assert "--again" in done.err
    assert balance(cli, tenant) == "10.00"
    assert sent(cli, tenant) == 1 + 2, "one mint, one approval, one deposit"
    again = cli(*deposit, "--again", rpc=gateway.url)
    assert again.data["after"]["balance"] == "20.00"


def test_a_deposit_whose_reply_is_lost_for_good_is_found_by_repeating_it(
    cli: Cli, tenant: Account, gateway: LossyEndpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(wallets, "PATIENCE_S", 0.5)
    gateway.loses = lambda method: method in {SEND, "eth_getTransactionReceipt"}
    monkeypatch.setattr(wallets, "READING_S", 0.1)
    deposit = ("account", "deposit", "10", *cli.key(tenant), "-o", "json")
    cli.wallet(tenant, lambda wallet: wallet.approve(cli.deployment.token, cli.deployment.escrow, 20_000_000))
    unclear = cli(*deposit, rpc=gateway.url)
    assert unclear.code == 3, unclear.err
    (tx_hash,) = hashes(unclear)
    assert f"error: {tx_hash} may be on its way" in unclear.err
    assert "run the same command again" in unclear.err
    monkeypatch.setattr(wallets, "PATIENCE_S", 60)
    found = cli(*deposit)
    assert found.code == 0, found.err
    assert hashes(found) == [], "nothing more was signed"
    assert found.data["transaction"] == tx_hash
    assert (found.data["before"]["balance"], found.data["after"]["balance"]) == ("0.00", "10.00")
    assert cli(*deposit).code == 2
    assert balance(cli, tenant) == "10.00"
    assert [line["type"] for line in record(tmp_path)] == ["signed", "seen", "ended"]


def test_a_command_that_is_killed_before_it_sends_sends_the_same_bytes_when_repeated(
    cli: Cli, tenant: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    deposit = ("account", "deposit", "10", "--authorize", *cli.key(tenant), "-o", "json")
    with monkeypatch.context() as patch:

        async def killed(*_: object) -> str:
            raise KeyboardInterrupt

        patch.setattr(Sender, "broadcast", killed)
        stopped = cli(*deposit)
    assert stopped.code == 130
    assert sent(cli, tenant) == 1
    repeated = cli(*deposit)
    assert repeated.data["transaction"] == hashes(stopped)[0]
    assert balance(cli, tenant) == "10.00"


def test_an_authorization_is_signed_with_its_first_nonce_when_its_transaction_can_never_count(
    cli: Cli, tenant: Account, gateway: LossyEndpoint, tmp_path: Path
) -> None:
    deposit = ("account", "deposit", "10", "--authorize", *cli.key(tenant), "-o", "json")
    gateway.deaf = True
    assert cli(*deposit, "--no-wait", rpc=gateway.url).code == 0
    cli.mint(tenant, 1)
    while int(str(cli.chain.rpc("eth_getTransactionCount", tenant.address, "finalized")), 16) < 2:
        cli.chain.mine()
    repeated = cli(*deposit)
    assert repeated.code == 0, repeated.err
    assert "was replaced" in repeated.err
    one, other = [line for line in record(tmp_path) if line["type"] == "signed"]
    assert one["hash"] != other["hash"]
    assert one["details"]["authorization"] == other["details"]["authorization"], "whoever sends it, it counts once"
    assert balance(cli, tenant) == "10.00"


def test_an_authorization_that_somebody_else_sent_is_that_deposit(
    cli: Cli, tenant: Account, gateway: LossyEndpoint, tmp_path: Path
) -> None:
    deposit = ("account", "deposit", "10", "--authorize", *cli.key(tenant), "-o", "json")
    gateway.deaf = True
    assert cli(*deposit, "--no-wait", rpc=gateway.url).code == 0
    (signed,) = record(tmp_path)
    call = offered(SignedTx(signed["hash"], bytes.fromhex(signed["raw"][2:]), tenant.address, signed["nonce"]))[0]
    somebody = cli.chain.accounts[3].address
    cli.chain.rpc("eth_sendTransaction", {"from": somebody, "to": call.to, "data": call.data, "gas": hex(call.gas)})
    cli.mint(tenant, 1)
    while int(str(cli.chain.rpc("eth_getTransactionCount", tenant.address, "finalized")), 16) < 2:
        cli.chain.mine()
    assert balance(cli, tenant) == "10.00"
    (path,) = (tmp_path / "state" / "fedgpu" / "transactions").glob("*.jsonl")
    days_ago = signed["at"] - 3 * 86_400
    path.write_text(path.read_text().replace(f'"at": {signed["at"]}', f'"at": {days_ago}'))
    for _ in range(2):
        repeated = cli(*deposit)
        assert repeated.code == 2, "however long ago it was signed: nobody was told"
        assert "already deposited" in repeated.err
    assert record(tmp_path)[-1]["type"] == "used"
    assert cli(*deposit, "--again").data["after"]["balance"] == "20.00"


def test_two_commands_of_one_account_send_one_after_the_other(cli: Cli, tenant: Account) -> None:
    deposit = ("account", "deposit", "10", "--authorize", *cli.key(tenant))
    lock = Lock(Journal(cli.chain.chain_id, tenant.address).path.with_suffix(".lock"))
    assert lock.take()
    done: list[int] = []
    other = threading.Thread(target=lambda: done.append(main([*deposit, *cli.target])))
    other.start()
    other.join(1)
    assert other.is_alive()
    assert sent(cli, tenant) == 1
    lock.release()
    other.join(60)
    assert done == [0]
    assert balance(cli, tenant) == "10.00"


def test_a_transaction_that_another_machine_sent_is_not_paid_beside(
    cli: Cli, tenant: Account, awake: threading.Event, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deposit = ("account", "deposit", "10", "--authorize", *cli.key(tenant))
    awake.clear()
    cli.chain.rpc("evm_setAutomine", False)
    try:
        assert cli(*deposit, "--no-wait").code == 0
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
        refused = cli(*deposit, "--no-wait")
    finally:
        cli.chain.rpc("evm_setAutomine", True)
        awake.set()
    assert refused.code == 2
    assert f"a transaction of {tenant.address} sent from elsewhere (nonce 1)" in refused.err
    assert sent(cli, tenant) <= 2


def test_what_is_not_waited_for_is_known_by_its_block_if_it_is_in_one(
    cli: Cli, tenant: Account, tmp_path: Path
) -> None:
    deposit = ("account", "deposit", "10", "--authorize", *cli.key(tenant), "--no-wait")
    assert cli(*deposit).code == 0
    if len(record(tmp_path)) == 1:
        # The node had it in no block yet when it was looked for: the same command looks again.
        assert cli(*deposit).code == 0
    signed, seen = record(tmp_path)
    assert (signed["type"], seen["type"], seen["hash"]) == ("signed", "seen", signed["hash"])
    assert seen["mark"]["number"] > signed["mark"]["number"]


def test_without_a_place_for_the_record_nothing_is_sent(
    cli: Cli, tenant: Account, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    done = cli("account", "deposit", "10", "--authorize", *cli.key(tenant))
    assert done.code == 2
    assert "XDG_STATE_HOME" in done.err
    assert sent(cli, tenant) == 1
