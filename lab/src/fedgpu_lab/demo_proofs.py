"""Signs for the demo's wallets what `fedgpu account prove` and `fedgpu provider prove` sign for their owners."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from eth_account import Account
from eth_typing import Hash32

from fedgpu_lab.chain import Chain
from fedgpu_lab.demo_scenario import Scenario
from fedgpu_lab.world import Lab
from fedgpu_operator.domain.settlement import Deployment
from fedgpu_operator.errors import LabError
from fedgpu_operator.settlement.typeddata import TypedData, account_proof, hub_domain, provider_proof

GROUP_PATH: Final = "/apis/fedgpu.dev/v1alpha1"


def prove_wallets(lab: Lab, chain: Chain, deployment: Deployment, scenario: Scenario) -> int:
    """Every tenant's and owner's wallet agrees to what the examples use it for; how many did. Raises LabError."""
    hub = str(lab.hub.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"])
    domain, now = hub_domain(chain.chain_id, deployment.escrow), int(time.time())
    keys = keys_of(chain)
    for tenant in scenario.tenants:
        data = account_proof(domain, hub=hub, namespace=tenant.namespace, wallet=tenant.wallet, issued_at=now)
        path = f"{GROUP_PATH}/namespaces/{tenant.namespace}/computeaccounts/default"
        lab.hub.api.patch(path, {"spec": {"proof": _proof(data, keys, tenant.wallet, now)}})
    owners = [(provider.metadata.name, payout) for provider in scenario.providers if (payout := provider.spec.payout)]
    for name, payout in owners:
        data = provider_proof(
            domain, hub=hub, provider=name, payout=payout.address, signer=payout.signer, issued_at=now
        )
        proof = _proof(data, keys, payout.address, now)
        lab.hub.api.patch(f"{GROUP_PATH}/gpuproviders/{name}", {"spec": {"payout": {"proof": proof}}})
    return len(scenario.tenants) + len(owners)


def keys_of(chain: Chain) -> dict[str, str]:
    """Private keys of the lab's accounts by address in small letters."""
    return {account.address.lower(): account.private_key for account in chain.accounts}


def key_of(keys: Mapping[str, str], wallet: str) -> str:
    """The key of one wallet; LabError where the lab has none."""
    key = keys.get(wallet.lower())
    if key is None:
        raise LabError(f"the lab's chain holds no key for wallet {wallet}")
    return key


def _proof(data: TypedData, keys: Mapping[str, str], wallet: str, now: int) -> dict[str, object]:
    signed = Account.unsafe_sign_hash(Hash32(data.digest), key_of(keys, wallet))
    return {"signature": "0x" + bytes(signed.signature).hex(), "issuedAt": now}
