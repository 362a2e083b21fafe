"""The federation, started once for this folder."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.integration.operator.federation import (
    CHALLENGE,
    COUNTRIES,
    MEMBERS,
    PAYOUT_KEYS,
    PRICES,
    SIGNER_KEYS,
    Federation,
    Operator,
    Tenant,
    environment,
    eventually,
    offer,
)

from fedgpu_lab import Lab, toolchain
from fedgpu_lab import chart as lab_chart
from fedgpu_lab.process import free_ports
from fedgpu_lab.progress import progress_for
from fedgpu_operator.adapters.chain import Periods, deploy


@pytest.fixture(scope="session")
def federation(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Providers alpha (Germany, 16 H100, 1.25 USD) and beta (United States, 8 H100, 1.10 USD), both Ready."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        toolchain.ensure([*toolchain.CLUSTER_BINARIES, "anvil", "helm"], progress_for())
    folder = tmp_path_factory.mktemp("operator")
    with Lab(MEMBERS, chain=True) as lab:
        made = _prepare(lab, folder)
        made.operator.start()
        try:
            for name in SIGNER_KEYS:
                made.lend_key(name)
            for name in PRICES:
                spec = offer(COUNTRIES[name], name, PRICES[name], made.payout(name, PAYOUT_KEYS[name]))
                made.add_provider(name, spec, lab.members[name].kubeconfig_text())
            for name in PRICES:
                made.until_provider(name, "Ready", "True")
            yield made
        except AssertionError as error:
            raise AssertionError(f"{error}\n{made.operator.log.read_text()[-5000:]}") from None
        finally:
            if made.operator.alive():
                made.operator.end()


def _prepare(lab: Lab, folder: Path) -> Federation:
    """Chart and escrow are there, the operator is not started yet; it gets the chart's own identity."""
    chain = lab.chain
    assert chain is not None
    admin, settler = chain.accounts[:2]
    periods = Periods(challenge=CHALLENGE, ruling=CHALLENGE, exit_after=CHALLENGE, longest_epoch=CHALLENGE)
    deployment = asyncio.run(deploy(chain.rpc_url, admin.private_key, chain.roles, periods))
    identity = lab_chart.install(lab)
    kubeconfig, key, meter = folder / "kubeconfig.yaml", folder / "settler.key", folder / "meter.key"
    metering = next(account for account in chain.accounts if account.address == chain.roles.meter)
    for path, text in ((kubeconfig, identity), (key, settler.private_key), (meter, metering.private_key)):
        path.touch(mode=0o600)
        path.write_text(text)
    health, metrics = free_ports(2)
    settings = {
        "LEDGER": str(folder / "ledger.db"),
        "BIND_ADDRESS": "127.0.0.1",
        "HEALTH_PORT": str(health),
        "METRICS_PORT": str(metrics),
        "RESYNC_SECONDS": "2",
        "LOCATION_AUDIT": "true",
        "ACCEPTANCE_ENFORCED": "true",
        "HEARTBEAT_TIMEOUT_SECONDS": "15",
        "REJECT_AFTER_SECONDS": "3",
        # Short, so that one test's failures do not steer the next one's jobs.
        "COOLDOWN_SECONDS": "15",
        "USAGE_INTERVAL_SECONDS": "1",
        # Rare, so that a test can take GPUs between two counts.
        "INVENTORY_INTERVAL_SECONDS": "10",
        "CHAIN_RPC_URL": chain.rpc_url,
        "CHAIN_ID": str(chain.chain_id),
        "ESCROW_ADDRESS": deployment.escrow,
        "SETTLER_KEY_FILE": str(key),
        "METER_KEY_FILE": str(meter),
        "EPOCH_SECONDS": "1",
        "MARKET_SECONDS": "1",
        "REBALANCE_RESIDENCE_SECONDS": "3",
        "LOG_LEVEL": "DEBUG",
    }
    variables = environment(settings, {"KUBECONFIG": str(kubeconfig), "HOME": str(folder)})
    tokens = [yaml.safe_load(text)["users"][0]["user"]["token"] for text in _kubeconfigs(lab, identity)]
    keys = (settler.private_key, metering.private_key, *SIGNER_KEYS.values())
    secrets = [*tokens, *(each.removeprefix("0x") for each in keys)]
    operator = Operator(variables, folder / "operator.log")
    return Federation(lab, chain, deployment, operator, variables, secrets)


def _kubeconfigs(lab: Lab, identity: str) -> list[str]:
    return [identity, *(member.kubeconfig_text() for member in lab.members.values())]


@pytest.fixture
def running(federation: Federation) -> Iterator[Federation]:
    """The federation with its operator alive before and after the test, and both members Ready."""
    if not federation.operator.alive():
        federation.operator.start()
    for name in PRICES:
        federation.until_provider(name, "Ready", "True")
    yield federation
    assert federation.operator.alive(), federation.operator.log.read_text()[-5000:]


@pytest.fixture
def tenant(running: Federation) -> Iterator[Tenant]:
    """A namespace with an account of 200 USD; its jobs are deleted afterwards, so that the GPUs are free again."""
    made = running.tenant(usd=200)
    yield made
    clear(made)


def clear(tenant: Tenant) -> None:
    """Delete all jobs of a tenant and wait until they are gone."""
    items = tenant.federation.hub.kubectl("delete", "cjob", "--all", "-n", tenant.namespace, "--wait=false")
    assert items.returncode == 0
    jobs = f"/apis/fedgpu.dev/v1alpha1/namespaces/{tenant.namespace}/computejobs"
    eventually("all jobs to be gone", lambda: not tenant.federation.hub.api.get(jobs)["items"])
