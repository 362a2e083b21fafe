"""An outsider verifies an epoch, a tenant disputes it, anybody claims it: a real escrow, and no operator."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from eth_account import Account as Keys

from fedgpu_lab.chain import Account

if TYPE_CHECKING:
    from .conftest import Cli

P, Q = str(Keys.from_key("0x" + "61" * 32).address), str(Keys.from_key("0x" + "62" * 32).address)
HOUR = 3600


@pytest.fixture
def tenant(own_cli: Cli) -> Account:
    """50 dollars at the escrow, all of which one epoch may take, and 50 more in the wallet."""
    account = own_cli.chain.accounts[7]
    own_cli.fund(account, 50, 50)
    own_cli.mint(account, 50)
    return account


def posted(cli: Cli, tenant: Account, tmp_path: Path) -> str:
    """Epoch 1: 3 dollars for P and 2 for Q; the options that name its manifest."""
    plan = cli.post({(tenant.address, P): 3, (tenant.address, Q): 2}, {tenant.address: 5})
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(plan.manifest)
    return str(manifest)


def test_an_epoch_is_verified_by_its_manifest_and_the_chain_alone(
    own_cli: Cli, tenant: Account, tmp_path: Path
) -> None:
    manifest = posted(own_cli, tenant, tmp_path)
    found = own_cli("settle", "verify", "1", "--manifest", manifest)
    assert found.code == 0, found.err
    assert "✗" not in found.out
    assert found.out.count("✓") == 10
    assert "The manifest and the chain agree." in found.out

    packed = tmp_path / "manifest.json.gz"
    packed.write_bytes(gzip.compress(Path(manifest).read_bytes()))
    document = own_cli("settle", "verify", "1", "--manifest", str(packed), "-o", "json").data
    assert document["sound"] is True
    assert {each["result"] for each in document["verdicts"]} == {"holds"}

    Path(manifest).write_bytes(Path(manifest).read_bytes().replace(b'"3000000"', b'"3000001"'))
    altered = own_cli("settle", "verify", "1", "--manifest", manifest)
    assert altered.code == 1
    assert "✗ manifest hash" in altered.out
    assert "The manifest and the chain do not agree." in altered.out


def test_a_dishonest_post_is_found_although_its_hash_and_root_are_right(
    own_cli: Cli, tenant: Account, tmp_path: Path
) -> None:
    """The settler promises providers more than it took: what outsiders see is that the root is not backed."""
    plan = own_cli.post({(tenant.address, P): 9}, {tenant.address: 5})
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(plan.manifest)
    found = own_cli("settle", "verify", "1", "--manifest", str(manifest))
    assert found.code == 1
    assert [line[:9] for line in found.out.splitlines() if line.startswith("✗")] == ["✗ backing"]
    assert "9.00 USD promised, 5.00 USD set aside" in found.out


def test_status_tells_what_the_chain_shows(own_cli: Cli, tenant: Account, tmp_path: Path) -> None:
    assert "No epochs posted yet." in own_cli("settle", "status").out
    posted(own_cli, tenant, tmp_path)
    document = own_cli("settle", "status", "-o", "json").data
    assert (document["chain"]["headEpoch"], document["chain"]["activeEpoch"]) == (1, 0)
    row = document["epochs"][0]
    assert (row["epoch"], row["onChain"], row["debited"], row["state"]) == (1, "InWindow", "5.00", None)
    assert f"can be disputed until {document['chain']['windowEnds']}" in own_cli("settle", "status").out
    own_cli.chain.jump(HOUR)
    own_cli.chain.mine(2)
    assert own_cli("settle", "status", "1", "-o", "json").data["epochs"][0]["onChain"] == "Active"
    missing = own_cli("settle", "status", "7")
    assert missing.code == 1
    assert "epoch 7 not found" in missing.err
    never = own_cli("settle", "verify", "7", "--manifest", str(tmp_path / "manifest.json"))
    assert never.code == 1
    assert "epoch 7 not found: " in never.err


def test_a_tenant_disputes_a_line_and_gets_it_back_when_nobody_answers(
    own_cli: Cli, tenant: Account, tmp_path: Path
) -> None:
    manifest, keys = posted(own_cli, tenant, tmp_path), own_cli.key(tenant)
    line = ("settle", "dispute", "open", "--provider", P, "--manifest", manifest, *keys)
    assert (
        "wrong amount: up to 3.00 USD can be disputed, not 3.01 USD"
        in own_cli(*line, "--amount", "3.01", "--approve").err
    )
    assert "--approve" in own_cli(*line, "--amount", "2").err
    evidence = tmp_path / "evidence.txt"
    evidence.write_text("my job did not run")
    opened = own_cli(*line, "--amount", "2", "--approve", "--evidence", str(evidence), "-o", "json")
    assert opened.code == 0, opened.err
    assert (opened.data["epoch"], opened.data["bond"]) == (1, "1.00")
    assert (opened.data["before"]["pending"], opened.data["after"]["pending"]) == ("5.00", "3.00")
    assert "already disputed in epoch 1" in own_cli(*line, "--amount", "1", "--approve").err

    rest = own_cli("settle", "dispute", "open", "--unexplained", "--amount", "1", "--approve", *keys, "-o", "json")
    assert rest.data["after"]["held"] == "1.00"
    listed = own_cli("settle", "dispute", "list", "-o", "json").data["disputes"]
    assert [(each["provider"], each["amount"], each["shown"]) for each in listed] == [
        (P, "2.00", "0.00"),
        (None, "1.00", "0.00"),
    ]
    assert all(each["next"].startswith("answer until") for each in listed)
    assert "unexplained" in own_cli("settle", "dispute", "list").out

    close = ("settle", "dispute", "close", "--epoch", "1", "--provider", P, *keys)
    early = own_cli(*close)
    assert early.code == 1
    assert "dispute not ruled yet: close it after the ruling, or after" in early.err
    own_cli.chain.jump(2 * HOUR)
    own_cli.chain.mine(2)
    assert own_cli("settle", "dispute", "list", "-o", "json").data["disputes"][0]["next"] == "close"
    assert own_cli(*close).code == 0
    after = own_cli("account", "limits", "show", "--wallet", tenant.address, "-o", "json").data
    assert after["balance"] == "47.00", "45 were left, and 2 came back"
    assert "dispute not found" in own_cli(*close).err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["open"], 2, "no single debit to dispute given: give --provider or --unexplained"),
        (
            ["open", "--provider", P, "--unexplained"],
            2,
            "no single debit to dispute given: give --provider or --unexplained",
        ),
        (["open", "--unexplained"], 1, "nothing to dispute: no epoch is in its challenge window"),
        (
            ["open", "--unexplained", "--evidence", "nowhere"],
            2,
            "--evidence: nowhere is neither a hash nor a file: No such file or directory",
        ),
        (["close", "--epoch", "1"], 2, "no single dispute given: give --provider or --unexplained"),
        (["close", "--epoch", "1", "--unexplained"], 1, "dispute not found"),
        (["close", "--epoch", "1", "--unexplained", "--tenant", "0x1"], 2, "is not an address"),
    ],
)
def test_a_dispute_that_cannot_be_is_refused_in_words(cli: Cli, arguments: list[str], code: int, words: str) -> None:
    done = cli("settle", "dispute", *arguments, *cli.key(cli.chain.accounts[3]))
    assert done.code == code
    assert words in done.err


def test_anybody_claims_and_nobody_else_is_paid(own_cli: Cli, tenant: Account, tmp_path: Path) -> None:
    manifest, keys = posted(own_cli, tenant, tmp_path), own_cli.key(own_cli.chain.accounts[8])
    claim = ("payouts", "claim", "--manifest", manifest, *keys)
    assert "no epoch is active yet" in own_cli(*claim).err
    waiting = own_cli("payouts", "--wallet", P, "--manifest", manifest, "-o", "json").data["providers"][0]
    assert (waiting["paid"], waiting["payable"], waiting["inWindow"]) == ("0.00", "0.00", "3.00")
    own_cli.chain.jump(HOUR)
    own_cli.chain.mine(2)
    waiting = own_cli("payouts", "--wallet", P, "--manifest", manifest, "-o", "json").data["providers"][0]
    assert (waiting["paid"], waiting["payable"], waiting["inWindow"]) == ("0.00", "3.00", "0.00")

    one = own_cli(*claim, "--provider", P, "-o", "json")
    assert one.code == 0, one.err
    assert [(each["provider"], each["paid"]) for each in one.data["lines"]] == [(P, "3.00")]
    rest = own_cli(*claim, "-o", "json")
    assert [(each["provider"], each["paid"]) for each in rest.data["lines"]] == [(Q, "2.00")]
    assert rest.data["total"] == "2.00"
    assert "nothing to claim: epoch 1 has nothing payable" in own_cli(*claim).err

    paid = own_cli("payouts", "--wallet", P, "-o", "json").data["providers"][0]
    assert (paid["paid"], paid["payable"], paid["owed"]) == ("3.00", None, "0.00"), "no manifest, and yet what was paid"
    assert "? manifest of the epoch not available" in own_cli("payouts", "--wallet", P).out


def test_a_provider_names_its_keys_and_collects(own_cli: Cli, tenant: Account, tmp_path: Path) -> None:
    provider, signer = own_cli.chain.accounts[9], own_cli.chain.accounts[10]
    keys = own_cli.key(provider)
    alone = own_cli("provider", "keys", *keys)
    assert alone.code == 2
    assert "--signer or --payee" in alone.err
    assert own_cli("provider", "keys", "--signer", signer.address, *keys).code == 0
    row = own_cli("payouts", "--wallet", provider.address, "-o", "json").data["providers"][0]
    assert (row["payee"], row["receiptSigner"]) == (provider.address, signer.address)
    nothing = own_cli("payouts", "collect", *keys)
    assert nothing.code == 1
    assert f"nothing to collect for {provider.address}" in nothing.err
