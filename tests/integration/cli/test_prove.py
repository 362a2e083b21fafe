"""`fedgpu account prove` and `fedgpu provider prove` on a real hub: what they store is what the operator believes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_typing import ChecksumAddress, HexStr
from eth_utils.address import to_checksum_address

from fedgpu_lab.cluster import Cluster
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.cli import main
from fedgpu_operator.hub.services.wallets import ProofBook

KEY = "0x" + "42" * 32
WALLET = str(Account.from_key(KEY).address)
SIGNER = "0x" + "51" * 20
ESCROW = to_checksum_address("0x" + "e5" * 20)
API = "/apis/fedgpu.dev/v1alpha1"
Json = dict[str, Any]


class Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class NoContracts:
    """A chain without contract wallets: only a key's own signature is believed."""

    escrow: ChecksumAddress = ESCROW
    chain_id = 31337

    async def is_valid_signature(self, address: str, digest: bytes, signature: bytes) -> bool:
        return False


@dataclass
class Desk:
    """A namespace with an account, a provider, and an operator's ConfigMap; commands run in this process."""

    hub: Cluster
    name: str
    folder: Path
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--operator-namespace", self.name])
        out, err = self.capsys.readouterr()
        assert KEY[2:] not in out + err
        return code, out, err

    def account(self, *arguments: str) -> tuple[int, str, str]:
        return self.run("account", "prove", "-n", self.name, *arguments)

    def provider(self, *arguments: str) -> tuple[int, str, str]:
        return self.run("provider", "prove", self.name, *arguments)

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    @property
    def key_file(self) -> str:
        return self.file("key", KEY + "\n")

    @property
    def uid(self) -> str:
        return str(self.hub.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"])

    def stored(self) -> Json:
        """The account as it stands."""
        return self.hub.api.get(f"{API}/namespaces/{self.name}/computeaccounts/default")

    def believed(self) -> tuple[bool, bool]:
        """Whether the operator takes the account's wallet as proven, and the provider's."""
        account = ComputeAccount.parse(self.stored())
        provider = GPUProvider.parse(self.hub.api.get(f"{API}/gpuproviders/{self.name}"))

        async def judge() -> tuple[bool, bool]:
            book = ProofBook(NoContracts(), Clock(), hub=self.uid)
            mine, theirs = await book.accounts([account]), await book.providers([provider])
            return mine[self.name].proven, theirs[self.name].proven

        return asyncio.run(judge())


@pytest.fixture
def desk(
    kinds: Cluster,
    unique_name: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    monkeypatch.setenv("KUBECONFIG", str(kinds.kubeconfig))
    made, api = Desk(kinds, unique_name("prove"), tmp_path, capsys), kinds.api
    said = {"hub": made.uid, "chainID": "31337", "escrow": ESCROW}
    offer = {
        "location": {"country": "DE"},
        "connection": {"kubeconfigSecretRef": {"name": "none"}},
        "offers": [{"product": "NVIDIA-L4", "pricePerGPUHour": "1"}],
        "payout": {"address": WALLET, "signer": SIGNER},
    }
    objects: dict[str, tuple[str, Json]] = {
        "/api/v1/namespaces": (made.name, {}),
        f"/api/v1/namespaces/{made.name}/configmaps": ("fedgpu-settlement", {"data": said}),
        f"{API}/namespaces/{made.name}/computeaccounts": ("default", {"spec": {"wallet": WALLET.lower()}}),
        f"{API}/gpuproviders": (made.name, {"spec": offer}),
    }
    for path, (name, body) in objects.items():
        kind = {"computeaccounts": "ComputeAccount", "gpuproviders": "GPUProvider"}.get(path.rsplit("/", 1)[1])
        header = {"apiVersion": "fedgpu.dev/v1alpha1", "kind": kind} if kind else {}
        api.create(path, {**header, "metadata": {"name": name}, **body})
    yield made
    api.delete(f"{API}/gpuproviders/{made.name}")


def test_a_key_file_proves_an_account_and_nothing_else(desk: Desk) -> None:
    code, out, err = desk.account("--key-file", desk.key_file)
    assert (code, err) == (0, "")
    for word in (WALLET, desk.name, desk.uid, ESCROW, "chain 31337"):
        assert word in out
    assert desk.believed() == (True, False)


def test_a_keystore_proves_a_provider_together_with_its_signer(desk: Desk) -> None:
    keystore = desk.file(
        "keystore", json.dumps(Account.encrypt(HexStr(KEY), "secret word", kdf="pbkdf2", iterations=2))
    )
    password = desk.file("password", "secret word\n")
    code, out, _ = desk.provider("--keystore", keystore, "--password-file", password)
    assert code == 0
    assert "secret word" not in out
    assert desk.believed() == (False, True)
    moved = {"spec": {"payout": {"signer": "0x" + "52" * 20}}}
    desk.hub.api.patch(f"{API}/gpuproviders/{desk.name}", moved)
    assert desk.believed() == (False, False), "another receipt signer needs the wallet's word again"


def test_a_wallet_elsewhere_signs_what_was_printed(desk: Desk) -> None:
    code, out, err = desk.account("--print-typed-data")
    assert code == 0
    document = json.loads(out)
    issued = str(document["message"]["issuedAt"])
    assert f"--issued-at {issued}" in err
    raw = bytes(Account.sign_typed_data(KEY, full_message=document).signature)
    hardware = "0x" + (raw[:64] + bytes([raw[64] - 27])).hex().upper()
    assert desk.account("--signature", hardware, "--issued-at", issued)[0] == 0
    assert desk.believed() == (True, False)
    assert desk.stored()["spec"]["proof"] == {"signature": "0x" + raw.hex(), "issuedAt": int(issued)}


def test_a_dry_run_prints_a_patch_that_somebody_else_may_apply(desk: Desk) -> None:
    code, out, _ = desk.provider("--key-file", desk.key_file, "--dry-run")
    assert code == 0
    assert desk.believed() == (False, False)
    desk.hub.kubectl("patch", "gpup", desk.name, "--type=merge", "-p", out)
    assert desk.believed() == (False, True)


def test_a_contract_wallets_signature_is_stored_for_the_chain_to_judge(desk: Desk) -> None:
    code, _, _ = desk.account("--signature", "0x0102", "--issued-at", "7", "--contract-wallet")
    assert code == 0
    assert desk.stored()["spec"]["proof"] == {"signature": "0x0102", "issuedAt": 7}


def other_signature(desk: Desk) -> Sequence[str]:
    """A good signature of the wallet, of another date than it is given out for."""
    document = json.loads(desk.account("--print-typed-data")[1])
    signature = bytes(Account.sign_typed_data(KEY, full_message=document).signature).hex()
    return ["--signature", signature, "--issued-at", str(document["message"]["issuedAt"] + 1)]


def foreign_key(desk: Desk) -> Sequence[str]:
    return ["--key-file", desk.file("other", "0x" + "43" * 32)]


def pinned(*arguments: str) -> Callable[[Desk], Sequence[str]]:
    return lambda desk: ["--key-file", desk.key_file, *arguments]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda _: [], ("--key-file", "--print-typed-data")),
        (lambda desk: ["--key-file", desk.key_file, "--print-typed-data"], ("no single way to sign given",)),
        (lambda _: ["--signature", "0x01"], ("--issued-at",)),
        (lambda _: ["--signature", "zz", "--issued-at", "1"], ("hex",)),
        (lambda _: ["--signature", "0x01", "--issued-at", "1"], ("65 bytes", "--contract-wallet")),
        (foreign_key, (WALLET.lower(), str(Account.from_key("0x" + "43" * 32).address))),
        (other_signature, ("--signature: not by wallet", "--print-typed-data")),
        (pinned("--contract-wallet"), ("--signature",)),
        (pinned("--escrow", "0x" + "e6" * 20), ("--escrow", "the hub publishes")),
        (pinned("--chain-id", "1"), ("--chain-id", "the hub publishes")),
        (pinned("--hub", "another"), ("--hub", "the hub publishes")),
    ],
)
def test_what_would_prove_nothing_is_refused_and_not_stored(
    desk: Desk, arguments: Callable[[Desk], Sequence[str]], words: tuple[str, ...]
) -> None:
    given = list(arguments(desk))
    desk.capsys.readouterr()
    code, out, err = desk.account(*given)
    assert (code, out) == (2, "")
    for word in words:
        assert word in err
    assert len(err.strip().splitlines()) == 1
    assert "proof" not in desk.stored()["spec"]


def test_a_hub_without_settlement_is_told_apart(desk: Desk) -> None:
    desk.hub.api.delete(f"/api/v1/namespaces/{desk.name}/configmaps/fedgpu-settlement")
    code, _, err = desk.account("--key-file", desk.key_file)
    assert code == 1
    assert f"no operator that settles on a chain runs in namespace {desk.name}" in err
    pins = ["--hub", desk.uid, "--chain-id", "31337", "--escrow", ESCROW]
    assert desk.account("--key-file", desk.key_file, *pins)[0] == 0, "who knows all of it needs no ConfigMap"
    assert desk.believed() == (True, False)


def test_a_provider_without_a_payout_wallet_has_nothing_to_prove(desk: Desk) -> None:
    desk.hub.api.patch(f"{API}/gpuproviders/{desk.name}", {"spec": {"payout": None}})
    code, _, err = desk.provider("--key-file", desk.key_file)
    assert code == 2
    assert "set spec.payout.address first" in err


def test_who_may_only_read_is_told_how_to_hand_the_proof_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    api, rbac = desk.hub.api, f"/apis/rbac.authorization.k8s.io/v1/namespaces/{desk.name}"
    api.create(f"/api/v1/namespaces/{desk.name}/serviceaccounts", {"metadata": {"name": "reader"}})
    rules = [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
        {"apiGroups": ["fedgpu.dev"], "resources": ["computeaccounts"], "verbs": ["get"]},
    ]
    api.create(f"{rbac}/roles", {"metadata": {"name": "reader"}, "rules": rules})
    binding = {
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": desk.name}],
    }
    api.create(f"{rbac}/rolebindings", binding)
    identity = desk.file("kubeconfig", desk.hub.kubeconfig_for_service_account(desk.name, "reader"))
    monkeypatch.setenv("KUBECONFIG", identity)
    code, out, err = desk.account("--key-file", desk.key_file)
    assert (code, out) == (1, "")
    assert "--dry-run" in err
    assert desk.account("--key-file", desk.key_file, "--dry-run")[0] == 0
