"""`fedgpu chain`: a deployment holds what was asked for, the chart takes its values, and nonsense costs nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from eth_account import Account as Keys

from fedgpu_lab.chain import Account
from fedgpu_lab.chart import Helm
from fedgpu_operator.adapters.chain import Deployer
from fedgpu_operator.cli import wallets

if TYPE_CHECKING:
    from .conftest import Cli, LossyEndpoint


@pytest.fixture
def roles(cli: Cli) -> list[str]:
    held = cli.chain.roles
    named = {"settler": held.settler, "meter": held.meter, "arbiter": held.arbiter, "guardian": held.guardian}
    return [word for name, address in named.items() for word in (f"--{name}", address)]


def deployed(cli: Cli, *arguments: str) -> tuple[int, str, str]:
    done = cli("chain", "deploy", *arguments, *cli.key(cli.chain.accounts[0]), escrow=False)
    return done.code, done.out, done.err


def test_a_deployment_is_what_was_asked_for_and_the_chart_takes_its_values(
    cli: Cli, roles: list[str], helm: Helm, tmp_path: Path
) -> None:
    values = tmp_path / "chain.yaml"
    periods = ["--challenge", "2h", "--ruling", "1h30m", "--longest-epoch", "1d", "--timelock-delay", "90s"]
    code, out, err = deployed(cli, *roles, *periods, "--test-token", "--values", str(values), "-o", "yaml")
    assert code == 0, err
    document = yaml.safe_load(out)
    assert document["periods"]["challenge"] == 7200
    assert document["periods"]["ruling"] == 5400
    assert document["periods"]["timelock"] == 90
    assert document["roles"]["owners"] == [cli.chain.accounts[0].address]
    assert "ComputeEscrow is at" in err

    escrow = document["contracts"]["escrow"]
    held = ["--settler", document["roles"]["settler"], "--meter", document["roles"]["meter"]]
    checked = cli("chain", "check", "--escrow", escrow, *held, "-o", "json", escrow=False)
    assert checked.code == 0, checked.err
    assert checked.data["periods"]["challenge"] == 7200
    assert checked.data["token"] == {
        "address": document["contracts"]["token"],
        "symbol": "tUSD",
        "decimals": 6,
    }
    given = yaml.safe_load(values.read_text())
    deployment = next(each for each in helm.template(given) if each["kind"] == "Deployment")
    env = {each["name"]: each.get("value") for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert given["chain"]["firstBlock"] == document["block"]
    assert cli.chain.rpc("eth_getCode", escrow, hex(document["block"])) == "0x", "nothing of it is older"
    assert env["FEDGPU_ESCROW_ADDRESS"] == escrow
    assert env["FEDGPU_CHAIN_ID"] == "31337"
    assert env["FEDGPU_MAX_EPOCH_SECONDS"] == "86400"
    assert env["FEDGPU_METER_KEY_FILE"]


CONTRACTS = 5


@pytest.fixture
def deployer(cli: Cli) -> Account:
    """An account that has sent nothing."""
    made = Keys.create()
    cli.chain.rpc("anvil_setBalance", made.address, hex(10**18))
    return Account(made.address, made.key.to_0x_hex())


def transactions(cli: Cli, account: Account) -> int:
    return int(str(cli.chain.rpc("eth_getTransactionCount", account.address, "latest")), 16)


def test_a_deployment_that_ends_after_each_of_its_transactions_is_gone_on_with_and_paid_once(
    cli: Cli, roles: list[str], deployer: Account, gateway: LossyEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("chain", "deploy", *roles, "--test-token", *cli.key(deployer), "-o", "yaml")
    seen: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(wallets, "READING_S", 0.1)
        patch.setattr(wallets, "PATIENCE_S", 0.3)
        for step in range(1, CONTRACTS + 1):
            gone: list[str] = []

            def lost(method: str, gone: list[str] = gone) -> bool:
                # The reply to what it sends is lost, and the chain is away from then on.
                gone += [method] if method == "eth_sendRawTransaction" else []
                return bool(gone)

            gateway.loses = lost
            ended = cli(*command, escrow=False, rpc=gateway.url)
            assert ended.code == 3, ended.err
            assert transactions(cli, deployer) == step
            seen.append(re.findall(r"which will be at (0x\w{40})", ended.err)[-1])
            so_far = next(line for line in ended.err.splitlines() if line.startswith("so far: "))
            assert all(address in so_far for address in seen)
    done = cli(*command, escrow=False)
    assert done.code == 0, done.err
    assert transactions(cli, deployer) == CONTRACTS
    contracts = yaml.safe_load(done.out)["contracts"]
    assert seen == [contracts[name] for name in ("token", "timelock", "escrow", "stake", "batch")]
    repeated = cli(*command, escrow=False)
    assert yaml.safe_load(repeated.out) == yaml.safe_load(done.out), "it is there already"
    assert transactions(cli, deployer) == CONTRACTS


def test_a_deployment_on_a_copy_of_the_chain_is_none_on_the_chain(
    cli: Cli, roles: list[str], deployer: Account
) -> None:
    command = ("chain", "deploy", *roles, "--test-token", *cli.key(deployer), "-o", "yaml")
    here = cli.chain.snapshot()
    assert cli(*command, escrow=False).code == 0
    cli.chain.revert(here)
    assert transactions(cli, deployer) == 0
    done = cli(*command, escrow=False)
    assert done.code == 0, done.err
    assert f"deploying to chain {cli.chain.chain_id}" in done.err, "it begins again and checks what it can pay"
    assert done.err.count(": signed as 0x") == CONTRACTS, "nothing of the copy is sent here"
    assert transactions(cli, deployer) == CONTRACTS


def test_another_deployment_is_not_begun_beside_one_that_is_unfinished(
    cli: Cli, roles: list[str], deployer: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("chain", "deploy", *roles, "--test-token", *cli.key(deployer))
    with monkeypatch.context() as patch:

        async def stopped(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(Deployer, "wait", stopped)
        assert cli(*command, escrow=False).code == 130
    refused = cli(*command, "--challenge", "2h", escrow=False)
    assert refused.code == 2
    assert "--fresh" in refused.err
    assert "TestUSD at 0x" in refused.err
    assert transactions(cli, deployer) == 1
    assert cli(*command, "--challenge", "2h", "--fresh", escrow=False).code == 0
    assert transactions(cli, deployer) == 1 + CONTRACTS


def test_a_deployment_asks_about_once_a_block_whether_it_is_there(
    cli: Cli, roles: list[str], deployer: Account, gateway: LossyEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wallets, "POLL_S", 0.3)
    assert cli("chain", "deploy", *roles, "--test-token", *cli.key(deployer), escrow=False, rpc=gateway.url).code == 0
    assert gateway.calls["eth_getTransactionReceipt"] <= 4 * CONTRACTS


def test_a_key_in_the_endpoints_url_stays_out_of_the_values(cli: Cli, roles: list[str], tmp_path: Path) -> None:
    values, secret = tmp_path / "chain.yaml", f"{cli.chain.rpc_url}/?key=topsecret"
    options = ["--test-token", "--values", str(values), *cli.key(cli.chain.accounts[0]), "--rpc", secret]
    done = cli("chain", "deploy", *roles, *options, escrow=False, rpc=False)
    assert done.code == 0, done.err
    assert yaml.safe_load(values.read_text())["chain"]["rpcURLSecret"] == {"name": "fedgpu-rpc"}
    assert "topsecret" not in values.read_text() + done.out + done.err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--meter", "SETTLER"], "--settler and --meter must be different"),
        (["--arbiter", "SETTLER"], "--settler and --arbiter must be different"),
        (["--guardian", "SETTLER"], "--settler and --guardian must be different"),
        (["--settler", "0x12"], "--settler: '0x12' is not an address"),
        (["--notice", "1d"], "--notice: 1d is too short"),
        (["--unbonding", "1h"], "--unbonding: 1h is too short"),
        (["--challenge", "soon"], "is not a duration"),
        (["--challenge", "0s"], "is out of range: give more than 0s"),
        (["--chain-id", "5"], "--chain-id is 5, but --rpc serves chain 31337"),
        (["--token", "SETTLER"], "is not an ERC-20 token"),
        (["--token", "none"], "is not an address"),
    ],
)
def test_nonsense_is_refused_before_gas_is_spent(cli: Cli, roles: list[str], changes: list[str], words: str) -> None:
    payer = cli.chain.accounts[0].address
    before = cli.chain.rpc("eth_getTransactionCount", payer, "latest")
    filled = [cli.chain.roles.settler if word == "SETTLER" else word for word in changes]
    money = [] if "--token" in changes else ["--test-token"]
    code, _, err = deployed(cli, *roles, *money, *filled)
    assert code in (1, 2)
    assert words in err
    assert cli.chain.rpc("eth_getTransactionCount", payer, "latest") == before


def test_money_and_payer_are_needed(cli: Cli, roles: list[str], tmp_path: Path) -> None:
    assert "no single token given: give --token, or --test-token" in deployed(cli, *roles)[2]
    key, there = tmp_path / "poor", tmp_path / "there.yaml"
    key.write_text(Keys.create().key.hex())
    there.touch()
    poor = cli("chain", "deploy", *roles, "--test-token", "--key-file", str(key), escrow=False)
    assert poor.code == 2
    assert "0.000000 coins of chain 31337, deploying takes up to" in poor.err
    assert "is not overwritten" in deployed(cli, *roles, "--test-token", "--values", str(there))[2]


def test_a_check_finds_what_is_wrong(cli: Cli) -> None:
    assert cli("chain", "check").code == 0
    wrong_chain = cli("chain", "check", "--chain-id", "5")
    assert wrong_chain.code == 1
    assert "31337" in wrong_chain.err
    elsewhere = cli("chain", "check", "--escrow", cli.deployment.token, escrow=False)
    assert elsewhere.code == 1
    assert "not this ComputeEscrow" in elsewhere.err
    nobody = cli("chain", "check", "--settler", cli.chain.accounts[9].address)
    assert nobody.code == 1
    assert "✗" in nobody.out
