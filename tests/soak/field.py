"""The lab that soaks: hub, two members, a chain, three funded tenants, and an operator that settles each minute."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.integration.operator.federation import (
    COUNTRIES,
    MEMBERS,
    PAYOUT_KEYS,
    PRICES,
    SIGNER_KEYS,
    Federation,
    Operator,
    Tenant,
    environment,
    offer,
)

from fedgpu_lab import Lab
from fedgpu_lab import chart as lab_chart
from fedgpu_lab.process import free_ports
from fedgpu_operator.adapters.chain import Periods, deploy
from fedgpu_operator.errors import ConfigurationError, KubeError
from fedgpu_operator.settings import Settings

TENANTS: Final = 3
DEPOSIT_USD: Final = 10_000
EPOCH_S: Final = 15
CHALLENGE_S: Final = 6
"""So short that an epoch is claimed before the next one is due."""
TTL_S: Final = 60
RUN_S: Final = (20, 60)
ARCHIVE_S: Final = 180
SHORT: Final = {
    "RESYNC_SECONDS": "5",
    "USAGE_INTERVAL_SECONDS": "2",
    "INVENTORY_INTERVAL_SECONDS": "10",
    "EPOCH_SECONDS": str(EPOCH_S),
    "MARKET_SECONDS": "60",
}
RETENTION: Final = {"WORKLOAD_RETENTION_SECONDS": "30", "EPOCH_RETENTION_SECONDS": "60"}
"""Of releases that know them: how long what has ended stays."""


@dataclass
class Soaking:
    """Everything that runs; `features` is what this build can do against growth, by name."""

    federation: Federation
    tenants: list[Tenant]
    ledger: Path
    metrics_url: str
    features: dict[str, bool]
    created: int = 0
    refused: int = 0
    notes: list[str] = field(default_factory=list)


@contextmanager
def soaking(folder: Path) -> Iterator[Soaking]:
    """A lab with an operator at work; all of it is gone at the end, also when this process is killed."""
    with Lab(MEMBERS, chain=True) as lab:
        made = _prepare(lab, folder)
        operator = made.federation.operator
        operator.start()
        try:
            _populate(made)
            yield made
        finally:
            if operator.alive():
                operator.end()


def _prepare(lab: Lab, folder: Path) -> Soaking:
    chain = lab.chain
    if chain is None:
        raise ConfigurationError("the soak needs the lab's chain")
    admin, settler = chain.accounts[:2]
    periods = Periods(challenge=CHALLENGE_S, ruling=CHALLENGE_S, exit_after=CHALLENGE_S, longest_epoch=3600)
    deployment = asyncio.run(deploy(chain.rpc_url, admin.private_key, chain.roles, periods))
    identity = lab_chart.install(lab)
    kubeconfig, key, meter = folder / "kubeconfig.yaml", folder / "settler.key", folder / "meter.key"
    metering = next(account for account in chain.accounts if account.address == chain.roles.meter)
    for path, text in ((kubeconfig, identity), (key, settler.private_key), (meter, metering.private_key)):
        path.touch(mode=0o600)
        path.write_text(text)
    health, metrics = free_ports(2)
    ledger = folder / "ledger.db"
    settings = {
        "LEDGER": str(ledger),
        "BIND_ADDRESS": "127.0.0.1",
        "HEALTH_PORT": str(health),
        "METRICS_PORT": str(metrics),
        "ACCEPTANCE_ENFORCED": "true",
        "CHAIN_RPC_URL": chain.rpc_url,
        "CHAIN_ID": str(chain.chain_id),
        "ESCROW_ADDRESS": deployment.escrow,
        "SETTLER_KEY_FILE": str(key),
        "METER_KEY_FILE": str(meter),
        **SHORT,
        **{name: value for name, value in RETENTION.items() if _known(name, value)},
    }
    variables = environment(settings, {"KUBECONFIG": str(kubeconfig), "HOME": str(folder)})
    operator = Operator(variables, folder / "operator.log")
    federation = Federation(lab, chain, deployment, operator, variables, [])
    features = {"ttlSecondsAfterFinished": _has_ttl(federation), "archive": _can_archive()}
    return Soaking(federation, [], ledger, f"http://127.0.0.1:{metrics}/metrics", features)


def _populate(made: Soaking) -> None:
    federation = made.federation
    for name in SIGNER_KEYS:
        federation.lend_key(name)
    for name in PRICES:
        spec = offer(COUNTRIES[name], name, PRICES[name], federation.payout(name, PAYOUT_KEYS[name]))
        federation.add_provider(name, spec, federation.lab.members[name].kubeconfig_text())
    for name in PRICES:
        federation.until_provider(name, "Ready", "True")
    made.tenants += [federation.tenant(usd=DEPOSIT_USD) for _ in range(TENANTS)]


def _known(name: str, value: str) -> bool:
    try:
        Settings.from_env({f"FEDGPU_{name}": value})
    except ConfigurationError:
        return False
    return True


def _has_ttl(federation: Federation) -> bool:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/computejobs.fedgpu.dev"
    return '"ttlSecondsAfterFinished"' in json.dumps(federation.hub.api.get(path)["spec"])


def _can_archive() -> bool:
    argv = [sys.executable, "-m", "fedgpu_operator", "ledger", "archive", "--help"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


class Traffic(threading.Thread):
    """Creates jobs at a steady rate until it is stopped; each runs for some seconds and asks for one GPU."""

    def __init__(self, made: Soaking, per_minute: float, seed: int = 1) -> None:
        super().__init__(name="traffic", daemon=True)
        self._made, self._pause = made, 60 / per_minute
        self._order = random.Random(seed)
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(self._pause * self._order.uniform(0.5, 1.5)):
            made = self._made
            tenant = self._order.choice(made.tenants)
            ttl = {"ttlSecondsAfterFinished": TTL_S} if made.features["ttlSecondsAfterFinished"] else {}
            job = tenant.job(f"soak-{made.created}", run=f"{self._order.randint(*RUN_S)}s")
            job["spec"] |= ttl
            try:
                path = f"/apis/fedgpu.dev/v1alpha1/namespaces/{tenant.namespace}/computejobs"
                made.federation.hub.api.create(path, job)
            except KubeError as error:
                made.refused += 1
                made.notes.append(f"job {made.created}: {error}"[:300])
            made.created += 1

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=30)


class Archivist(threading.Thread):
    """Runs `fedgpu ledger archive` beside the operator, as a CronJob of people would."""

    def __init__(self, made: Soaking, folder: Path) -> None:
        super().__init__(name="archivist", daemon=True)
        self._made, self._folder = made, folder
        self._stopped = threading.Event()
        self.runs = self.failed = 0

    def run(self) -> None:
        while not self._stopped.wait(ARCHIVE_S):
            self.once()

    def once(self) -> None:
        """One run; what it says when it fails is noted."""
        self._folder.mkdir(exist_ok=True)
        argv = [sys.executable, "-m", "fedgpu_operator", "ledger", "archive", str(self._folder), "--older-than", "0h"]
        # The chain, which says what can still be challenged, is named by the operator's own variables.
        done = subprocess.run(
            [*argv, "--ledger", str(self._made.ledger)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=self._made.federation.environment,
        )
        self.runs += 1
        if done.returncode:
            self.failed += 1
            self._made.notes.append(f"archive: {(done.stderr or done.stdout)[-300:]}")

    def stop(self) -> None:
        self._stopped.set()
        if self.is_alive():
            self.join(timeout=130)
