"""One federation for this folder: hub, two members, a chain, and the operator as a process with the chart's account."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

from eth_abi.abi import encode
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from fedgpu_lab import GpuNodes, Lab, MemberSpec
from fedgpu_lab.chain import Chain
from fedgpu_lab.chart import NAMESPACE
from fedgpu_lab.cluster import Cluster
from fedgpu_lab.process import free_ports
from fedgpu_operator.adapters.chain import TenantWallet
from fedgpu_operator.domain.settlement import Deployment
from fedgpu_operator.errors import NotFoundError

Json = dict[str, Any]
T = TypeVar("T")

API: Final = "/apis/fedgpu.dev/v1alpha1"
ARGV: Final = (sys.executable, "-m", "fedgpu_operator", "operator")
CHALLENGE: Final = 600
SECONDS_PER_HOUR: Final = 3600
PRICES: Final = {"alpha": "1.25", "beta": "1.10"}
COUNTRIES: Final = {"alpha": "DE", "beta": "US"}
PAYOUT_KEYS: Final = {"alpha": "0x" + "a1" * 32, "beta": "0x" + "be" * 32}
SIGNER_KEYS: Final = {"alpha": "0x" + "c7" * 32}
"""Alpha signs its usage, beta is believed as it is."""
PAYOUT: Final = {name: str(Account.from_key(key).address) for name, key in PAYOUT_KEYS.items()}
MEMBERS: Final = (
    MemberSpec("alpha", (GpuNodes.of("h100", nodes=2, count_per_node=8, region="eu-central-1", zone="a"),)),
    MemberSpec("beta", (GpuNodes.of("h100", nodes=1, count_per_node=8, region="us-east-1", zone="a"),)),
)
# Not the shared members of the other folders: an operator takes whatever jobs it finds on its hub, their policies
# bind it, and here members and chain are frozen under its feet.


def eventually(what: str, check: Callable[[], T | None], timeout: float = 60.0) -> T:
    """The first true answer of `check`; AssertionError with what was waited for and what was last seen."""
    deadline = time.monotonic() + timeout
    seen = check()
    while not seen:
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {what}, last saw {seen!r}"
        time.sleep(0.1)
        seen = check()
    return seen


def manifest(kind: str, name: str, spec: Json, namespace: str = "") -> Json:
    meta = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": "fedgpu.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": spec}


def micro(usd: str) -> int:
    """µUSD of a decimal string, by hand: nothing of the operator judges itself here."""
    whole, _, fraction = usd.partition(".")
    return int(whole) * 10**6 + int(fraction.ljust(6, "0"))


class Operator:
    """`fedgpu operator` as a process; it can be killed and started again over the same ledger."""

    def __init__(self, environment: Mapping[str, str], log: Path, argv: Sequence[str] = ARGV) -> None:
        self._environment, self.log, self._argv = dict(environment), log, list(argv)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self._argv,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """As when its node loses power."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Ask it to end; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def again(self, **changes: str) -> None:
        """End it, and start it with these variables changed; without ``FEDGPU_``."""
        self.end()
        self._environment |= {f"FEDGPU_{name}": value for name, value in changes.items()}
        self.start()

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass
class Tenant:
    """A namespace with jobs, and the wallet it pays from (empty without an account)."""

    federation: Federation
    namespace: str
    wallet: str = ""
    applied: list[str] = field(default_factory=list)

    def apply(self, *jobs: Json) -> None:
        self.federation.hub.apply(jobs)

    def job(self, name: str, *, run: str = "2s", annotations: Mapping[str, str] | None = None, **spec: Any) -> Json:
        """A job of one GPU for `run` seconds, anywhere; `run=""` runs until it is stopped."""
        notes = dict(annotations or {}) | ({"lab.fedgpu.dev/duration": run} if run else {})
        template = {
            "metadata": {"annotations": notes},
            "spec": {
                "terminationGracePeriodSeconds": 5,
                "containers": [{"name": "main", "image": "example.com/work:1"}],
            },
        }
        return manifest("ComputeJob", name, {"runLimitSeconds": 600, "template": template, **spec}, self.namespace)

    def path(self, name: str) -> str:
        return f"{API}/namespaces/{self.namespace}/computejobs/{name}"

    def get(self, name: str) -> Json:
        return self.federation.hub.api.get(self.path(name))

    def status(self, name: str) -> Json:
        return dict(self.get(name).get("status") or {})

    def patch(self, name: str, **spec: Any) -> None:
        self.federation.hub.api.patch(self.path(name), {"spec": spec})

    def delete(self, name: str) -> None:
        self.federation.hub.api.delete(self.path(name))

    def gone(self, name: str) -> bool:
        try:
            self.get(name)
        except NotFoundError:
            return True
        return False

    def condition(self, name: str, kind: str) -> Json:
        conditions = self.status(name).get("conditions", [])
        return next((one for one in conditions if one["type"] == kind), {})

    def until_state(self, name: str, *wanted: str, timeout: float = 60.0) -> Json:
        """The status once its state is one of those."""

        def reached() -> Json | None:
            status = self.status(name)
            return status if status.get("state") in wanted else None

        return eventually(f"{self.namespace}/{name} to be {wanted}", reached, timeout)

    def until(self, name: str, kind: str, status: str, reason: str = "", timeout: float = 60.0) -> Json:
        """The condition once it says that."""

        def said() -> Json | None:
            found = self.condition(name, kind)
            right = found.get("status") == status and reason in ("", found.get("reason"))
            return found if right else None

        what = f"{self.namespace}/{name} to say {kind}={status} {reason}"
        try:
            return eventually(what, said, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; status: {json.dumps(self.status(name), indent=1)}") from None

    def leases(self, name: str = "") -> list[Json]:
        """All leases of the namespace, or of one job, by attempt."""
        items = self.federation.hub.api.get(f"{API}/computeleases")["items"]
        mine = [
            lease
            for lease in items
            if lease["spec"]["job"]["namespace"] == self.namespace and name in ("", lease["spec"]["job"]["name"])
        ]
        return sorted(mine, key=lambda lease: (lease["spec"]["job"]["name"], lease["spec"]["attempt"]))

    def remove(self, lease: Json) -> None:
        """Delete a lease as a cluster admin might."""
        meta = lease["metadata"]
        self.federation.hub.api.delete(f"{API}/namespaces/{meta['namespace']}/computeleases/{meta['name']}")

    def workloads(self, member: str) -> list[Json]:
        """Jobs of this tenant on a member."""
        return self._on(member, "/apis/batch/v1/jobs")

    def pods(self, member: str) -> list[Json]:
        """Pods of this tenant on a member."""
        return self._on(member, "/api/v1/pods")

    def _on(self, member: str, path: str) -> list[Json]:
        selector = f"fedgpu.dev/tenant={self.namespace}"
        return list(self.federation.lab.members[member].api.get(path, labelSelector=selector)["items"])

    def events(self, name: str) -> set[str]:
        """Reasons of the Events about a job."""
        items = self.federation.hub.api.get(f"/api/v1/namespaces/{self.namespace}/events")["items"]
        return {event["reason"] for event in items if event["involvedObject"]["name"] == name}

    def account(self) -> Json:
        path = f"{API}/namespaces/{self.namespace}/computeaccounts/default"
        return dict(self.federation.hub.api.get(path).get("status") or {})


@dataclass
class Federation:
    """Everything that runs, and what tests do to it."""

    lab: Lab
    chain: Chain
    deployment: Deployment
    operator: Operator
    environment: dict[str, str]
    secrets: list[str]
    """Every credential that the operator holds; none may ever be written down."""

    @property
    def hub(self) -> Cluster:
        return self.lab.hub

    def tenant(self, *, usd: int = 0, labels: Mapping[str, str] | None = None) -> Tenant:
        """A namespace of its own; with `usd` it has an account with that much in escrow, final on chain."""
        name = f"team-{uuid4().hex[:8]}"
        self.hub.create_namespace(name)
        if labels:
            self.hub.api.patch(f"/api/v1/namespaces/{name}", {"metadata": {"labels": dict(labels)}})
        tenant = Tenant(self, name)
        if usd:
            self.fund(tenant, usd)
        return tenant

    def fund(self, tenant: Tenant, usd: int, key: str = "") -> None:
        """Give a tenant an account with that much in escrow, of the wallet of `key` or else of a new one."""
        owner = Account.from_key(key) if key else Account.create()
        tenant.wallet = asyncio.run(self._deposit(owner, usd * 10**6))
        self.name_wallet(tenant, tenant.wallet, self.account_proof(owner.key, tenant.namespace))
        eventually("a funded account", lambda: tenant.account().get("state") == "Funded")

    def name_wallet(self, tenant: Tenant, wallet: str, proof: Json) -> None:
        """Apply the tenant's account as it would write it: who names a wallet need not own it."""
        spec = {"wallet": wallet, "proof": proof}
        self.hub.apply([manifest("ComputeAccount", "default", spec, tenant.namespace)])

    def account_proof(self, key: str | bytes, namespace: str) -> Json:
        """The wallet's word that this namespace may spend from it, spelled out by hand."""
        types = {"hub": "string", "namespace": "string", "wallet": "address", "issuedAt": "uint64"}
        said = {"namespace": namespace, "wallet": Account.from_key(key).address}
        return self._signed(key, "AccountProof", types, said)

    def payout(self, provider: str, key: str) -> Json:
        """spec.payout of that provider with the wallet of `key`, proven, and its signer where it has one."""
        types = {"hub": "string", "provider": "string", "payout": "address", "signer": "address", "issuedAt": "uint64"}
        address = Account.from_key(key).address
        signs = SIGNER_KEYS.get(provider)
        signer = Account.from_key(signs).address if signs else "0x" + "00" * 20
        said = {"provider": provider, "payout": address, "signer": signer}
        payout = {"address": address, "proof": self._signed(key, "ProviderProof", types, said)}
        if not signs:
            return payout
        return payout | {"signer": signer, "signerKeySecretRef": {"name": f"{provider}-signer", "key": "key"}}

    def _signed(self, key: str | bytes, primary: str, types: Mapping[str, str], said: Json) -> Json:
        hub = self.hub.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
        domain = {
            "name": "fedgpu",
            "version": "1",
            "chainId": self.chain.chain_id,
            "verifyingContract": self.deployment.escrow,
        }
        fields = {primary: [{"name": name, "type": kind} for name, kind in types.items()]}
        issued = int(time.time())
        signed = Account.sign_typed_data(key, domain, fields, {"hub": hub, "issuedAt": issued, **said})
        return {"signature": "0x" + bytes(signed.signature).hex(), "issuedAt": issued}

    async def _deposit(self, key: LocalAccount, units: int) -> str:
        self.chain.rpc("anvil_setBalance", key.address, hex(10**21))
        token, escrow = self.deployment.token, self.deployment.escrow
        async with TenantWallet(self.chain.rpc_url, "0x" + key.key.hex().removeprefix("0x")) as wallet:
            await wallet.mint(token, units)
            await wallet.approve(token, escrow, units)
            self.chain.mine()
            await wallet.deposit(escrow, units)
            await wallet.set_spend_limit(escrow, units)
            self.chain.mine(3)
            return wallet.address

    def add_provider(self, name: str, spec: Json, kubeconfig: str | None) -> None:
        if kubeconfig is not None:
            secret = {"metadata": {"name": name}, "stringData": {"kubeconfig": kubeconfig}}
            self.hub.api.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", secret)
        self.hub.apply([manifest("GPUProvider", name, spec)])

    def lend_key(self, provider: str) -> None:
        """Put the key of a provider's signer where its agent in the operator reads it."""
        secret = {"metadata": {"name": f"{provider}-signer"}, "stringData": {"key": SIGNER_KEYS[provider]}}
        self.hub.api.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", secret)

    def provider(self, name: str) -> Json:
        return dict(self.hub.api.get(f"{API}/gpuproviders/{name}").get("status") or {})

    def provider_says(self, name: str, kind: str) -> Json:
        conditions = self.provider(name).get("conditions", [])
        return next((one for one in conditions if one["type"] == kind), {})

    def until_provider(self, name: str, kind: str, status: str, timeout: float = 60.0) -> Json:
        def said() -> Json | None:
            assert self.operator.alive(), f"the operator ended: {self.operator.log.read_text()[-3000:]}"
            found = self.provider_says(name, kind)
            return found if found.get("status") == status else None

        return eventually(f"provider {name} to say {kind}={status}", said, timeout)

    def until_settled(self, jobs: Iterable[tuple[Tenant, str]], timeout: float = 90.0) -> None:
        """Wait until all are settled; the chain's clock jumps over each challenge window."""
        waiting = list(jobs)

        def settled() -> bool:
            self.jump_over_windows()
            waiting[:] = [(t, name) for t, name in waiting if t.condition(name, "Settled").get("status") != "True"]
            return not waiting

        try:
            eventually("every job to be settled", settled, timeout)
        except AssertionError as error:
            said = {name: t.condition(name, "Settled") for t, name in waiting}
            raise AssertionError(f"{error}: {json.dumps(said, indent=1)}") from None

    def jump_over_windows(self) -> None:
        for epoch in self.hub.api.get(f"{API}/settlementepochs")["items"]:
            conditions = epoch.get("status", {}).get("conditions", [])
            if any(one["reason"] == "ChallengeWindow" for one in conditions):
                self.chain.jump(CHALLENGE + 1)
                return

    def paid(self, tenant: str, provider: str) -> int:
        """µUSD that the contract has paid this provider for this tenant, by a raw call."""
        arguments = encode(["address[]", "address[]"], [[tenant], [PAYOUT[provider]]]).hex()
        data = "0x" + keccak(text="pairsOf(address[],address[])")[:4].hex() + arguments
        answer = str(self.chain.rpc("eth_call", {"to": self.deployment.escrow, "data": data}, "latest"))[2:]
        words = [int(answer[i : i + 64], 16) for i in range(0, len(answer), 64)]
        assert words[:2] == [32, 1]
        return words[2]

    def run_operator(self, **changes: str) -> subprocess.CompletedProcess[str]:
        """Another operator with some variables changed, which is expected to end by itself."""
        health, metrics = free_ports(2)
        ports = {"FEDGPU_HEALTH_PORT": str(health), "FEDGPU_METRICS_PORT": str(metrics)}
        return subprocess.run(
            [sys.executable, "-m", "fedgpu_operator", "operator"],
            env=self.environment | ports | changes,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )


def offer(country: str, secret: str, price: str, payout: Json | None = None) -> Json:
    """A GPUProvider's spec."""
    spec: Json = {
        "location": {"country": country},
        "connection": {"kubeconfigSecretRef": {"name": secret}},
        "offers": [{"product": "NVIDIA-H100-80GB-HBM3", "pricePerGPUHour": price}],
    }
    return spec | ({"payout": payout} if payout else {})


def environment(settings: Mapping[str, str], extra: Mapping[str, str], unset: Sequence[str] = ()) -> dict[str, str]:
    """Variables of an operator: nothing of ours but what is said here."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FEDGPU_") and k not in unset}
    return kept | {f"FEDGPU_{name}": value for name, value in settings.items()} | dict(extra)
