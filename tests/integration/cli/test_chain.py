"""`fedgpu chain`: a deployment holds what was asked for, the chart takes its values, and nonsense costs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from eth_account import Account as Keys

from fedgpu_operator.lab.chart import Helm

if TYPE_CHECKING:
    from .conftest import Cli


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
    assert env["FEDGPU_ESCROW_ADDRESS"] == escrow
    assert env["FEDGPU_CHAIN_ID"] == "31337"
    assert env["FEDGPU_MAX_EPOCH_SECONDS"] == "86400"
    assert env["FEDGPU_METER_KEY_FILE"]


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
        (["--challenge", "soon"], "is not a length of time"),
        (["--challenge", "0s"], "more than nothing"),
        (["--chain-id", "5"], "serves chain 31337, asked for is 5"),
        (["--token", "SETTLER"], "is no ERC-20 token"),
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
    assert "--token, or --test-token" in deployed(cli, *roles)[2]
    key, there = tmp_path / "poor", tmp_path / "there.yaml"
    key.write_text(Keys.create().key.hex())
    there.touch()
    poor = cli("chain", "deploy", *roles, "--test-token", "--key-file", str(key), escrow=False)
    assert poor.code == 2
    assert "0.000000 coins of chain 31337; deploying takes up to" in poor.err
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
