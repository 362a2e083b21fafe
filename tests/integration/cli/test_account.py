"""A tenant's money by its own hand: what the command says is what the chain holds, before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from eth_account import Account as Keys

from fedgpu_lab.chain import Account

if TYPE_CHECKING:
    from .conftest import Cli

NOTICE_S = 10 * 86_400


@pytest.fixture
def tenant(cli: Cli, request: pytest.FixtureRequest) -> Account:
    """An account that no other test of this file uses, with 100 dollars in its wallet."""
    names = sorted(item.name for item in request.session.items if item.fspath == request.node.fspath)
    account = cli.chain.accounts[4 + names.index(request.node.name)]
    cli.mint(account, 100)
    return account


def test_a_deposit_needs_leave_and_then_moves_exactly_that(cli: Cli, tenant: Account) -> None:
    refused = cli("account", "deposit", "40.25", *cli.key(tenant))
    assert refused.code == 2
    assert "insufficient allowance: " in refused.err
    assert "--approve" in refused.err
    done = cli("account", "deposit", "40.25", "--approve", *cli.key(tenant), "-o", "json")
    assert done.code == 0
    before, after = done.data["before"], done.data["after"]
    assert (before["walletTokens"], before["balance"]) == ("100.00", "0.00")
    assert (after["walletTokens"], after["balance"]) == ("59.75", "40.25")
    assert "deposit: done, in block" in done.err
    assert "spend limit is 0.00 USD" in done.err
    again = cli("account", "deposit", "1", *cli.key(tenant))
    assert again.code == 2, "the leave was for that amount and no more"


def test_a_deposit_can_be_signed_instead_of_allowed(cli: Cli, tenant: Account) -> None:
    done = cli("account", "deposit", "10", "--authorize", *cli.key(tenant), "-o", "json")
    assert done.code == 0, done.err
    assert done.data["after"]["balance"] == "10.00"
    assert "approve" not in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["deposit", "0.000001", "--approve"], "insufficient tokens: wallet "),
        (["deposit", "0", "--approve"], "nothing to deposit: give more than 0 USD"),
        (["deposit", "1e3"], "not an amount in USD"),
        (["deposit", "-5"], "error: no such option: -5"),
        (["deposit", "1.0000001"], "more than 6 decimals"),
        (["deposit", "1", "--approve", "--authorize"], "--approve and --authorize exclude each other"),
        (["withdraw", "request"], "no single amount to withdraw: give USD or --all"),
        (["withdraw", "request", "5", "--all"], "no single amount to withdraw: give USD or --all"),
        (["withdraw", "execute"], "no withdrawal was requested"),
        (["withdraw", "cancel"], "nothing to cancel: no withdrawal was requested"),
        (["limits", "apply"], "no lower limit was announced"),
        (["limits", "set", "0"], "nothing to change: this limit is already set"),
        (["limits", "set", "281474977"], "limit too high: the contract stores limits up to"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(cli: Cli, arguments: list[str], words: str) -> None:
    account = cli.chain.accounts[3]
    sent = cli.chain.rpc("eth_getTransactionCount", account.address, "latest")
    done = cli("account", *arguments, *cli.key(account))
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err
    assert cli.chain.rpc("eth_getTransactionCount", account.address, "latest") == sent


def test_a_withdrawal_waits_for_its_notice(cli: Cli, tenant: Account) -> None:
    cli("account", "deposit", "30", "--approve", *cli.key(tenant), "--no-wait")
    asked = cli("account", "withdraw", "request", "--all", *cli.key(tenant), "-o", "json")
    assert asked.code == 0, asked.err
    assert asked.data["after"]["withdrawal"]["amount"] == "30.00"
    assert asked.data["after"]["balance"] == "30.00"
    early = cli("account", "withdraw", "execute", *cli.key(tenant))
    assert early.code == 2
    assert f"notice period not over: it ends at {asked.data['after']['withdrawal']['from']}" in early.err
    taken_back = cli("account", "withdraw", "cancel", *cli.key(tenant), "-o", "json")
    assert taken_back.data["after"]["withdrawal"] is None

    cli("account", "withdraw", "request", "12", *cli.key(tenant))
    cli.chain.jump(NOTICE_S)
    other = Keys.create().address
    done = cli("account", "withdraw", "execute", "--to", other, *cli.key(tenant), "-o", "json")
    assert done.code == 0, done.err
    assert (done.data["before"]["balance"], done.data["after"]["balance"]) == ("30.00", "18.00")
    assert done.data["after"]["walletTokens"] == "70.00", "the money went elsewhere"
    assert done.data["after"]["withdrawal"] is None


def test_a_limit_rises_at_once_and_falls_after_notice(cli: Cli, tenant: Account) -> None:
    up = cli("account", "limits", "set", "50", *cli.key(tenant), "-o", "json")
    assert up.data["after"]["limit"] == "50.00"
    down = cli("account", "limits", "set", "20", *cli.key(tenant), "-o", "json")
    assert (down.data["after"]["limit"], down.data["after"]["lowerLimit"]["limit"]) == ("50.00", "20.00")
    assert cli("account", "limits", "apply", *cli.key(tenant)).code == 2
    cli.chain.jump(NOTICE_S)
    assert cli("account", "limits", "apply", *cli.key(tenant)).code == 0
    shown = cli("account", "limits", "show", "--wallet", tenant.address, "-o", "json").data
    assert (shown["wallet"], shown["limit"], shown["lowerLimit"]) == (tenant.address, "20.00", None)
    text = cli("account", "limits", "show", "--wallet", tenant.address).out
    assert "spend limit per epoch" in text
    assert "20.00" in text


def test_a_keystore_signs_with_its_password_only(cli: Cli, tenant: Account, tmp_path: Path) -> None:
    keystore, password = tmp_path / "keystore.json", tmp_path / "password"
    keystore.write_text(
        json.dumps(Keys.encrypt(bytes.fromhex(tenant.private_key[2:]), "open sesame", kdf="pbkdf2", iterations=1000))
    )
    password.write_text("open sesame\n")
    keys = ("--keystore", str(keystore), "--password-file", str(password))
    assert cli("account", "limits", "set", "5", *keys).code == 0
    password.write_text("open barley\n")
    wrong = cli("account", "limits", "set", "6", *keys)
    assert wrong.code == 2
    assert "cannot be opened with the password given" in wrong.err
    assert "barley" not in wrong.err


def test_a_wallet_without_coins_is_told_so(cli: Cli, tmp_path: Path) -> None:
    fresh = Keys.create()
    key = tmp_path / "fresh"
    key.write_text(fresh.key.hex())
    done = cli("account", "limits", "set", "5", "--key-file", str(key))
    assert done.code == 2
    assert f"no gas: wallet {fresh.address} has no coins" in done.err
    key.write_text("not a key")
    assert "not a private key" in cli("account", "limits", "set", "5", "--key-file", str(key)).err
    assert "exactly one of" in cli("account", "limits", "set", "5").err
