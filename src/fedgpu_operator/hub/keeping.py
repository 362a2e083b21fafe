"""Watches what runs against its tenant's money: says what must end, and asks for checkpoints while there is time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.errors import NotFoundError
from fedgpu_operator.hub.obligations import ObligationBook
from fedgpu_operator.hub.solvency import Payer, Upkeep, payers_of, unpaid, upkeep
from fedgpu_operator.hub.store import HubState
from fedgpu_operator.hub.watched import Watched
from fedgpu_operator.hub.write import emit, one_of_many
from fedgpu_operator.ports import Clock, Kube, ResourceType
from fedgpu_operator.settlement import Thresholds

log = logging.getLogger(__name__)

LEASES = ResourceType.of(ComputeLease.info)
ACCOUNTS = ResourceType.of(ComputeAccount.info)


class MoneyWatch:
    """Looks once per pass. It stops nothing itself: that is the attempts' keeper's."""

    def __init__(self, kube: Kube, owed: ObligationBook, clock: Clock, thresholds: Callable[[], Thresholds]) -> None:
        self._kube = kube
        self._owed = owed
        self._clock = clock
        self._thresholds = thresholds
        self._watched = Watched()
        self._payers: dict[str, Payer] = {}
        self._missing: dict[str, str] = {}
        self._tight = False

    async def look(self, state: HubState) -> Upkeep:
        """The upkeep of all open attempts; empty where nothing is settled on chain."""
        if state.wallets is None:
            return Upkeep()
        found = await self._upkeep(state, exact=self._tight)
        if found.tight and not self._tight:
            found = await self._upkeep(state, exact=True)
        self._tight = found.tight
        if not self._missing:
            return found
        return replace(found, stop={**found.stop, **await self._without_account(state, self._missing)})

    async def _upkeep(self, state: HubState, *, exact: bool) -> Upkeep:
        owed = await self._owed.look(exact=exact)
        if self._watched.changed((owed, *state.accounts.values())):
            self._payers, self._missing = payers_of(state.accounts, owed), unpaid(state.accounts, owed)
        return upkeep(self._payers, state.leases, owed, self._thresholds(), self._clock.now())

    async def ask(self, state: HubState, wanted: Mapping[str, datetime]) -> None:
        """Ask these leases' workloads to save their work, each once, and tell their jobs; put what is written back."""
        jobs = {job.metadata.uid: job for job in state.jobs}
        for name, end in wanted.items():
            lease = state.leases[name]
            with one_of_many(lease):
                # First the word, which may be repeated: what is asked already is not told again.
                job = jobs.get(lease.spec.job.uid)
                if job is not None:
                    await self._tell(job, end)
                state.took(await self._request(lease))

    async def _request(self, lease: ComputeLease) -> ComputeLease:
        stamp = self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        patch: JSONObject = {"metadata": lease.metadata.guard(), "spec": {"checkpointRequestedAt": stamp}}
        written = await self._kube.patch(LEASES, lease.metadata.name, lease.metadata.namespace, patch)
        log.info("lease %s of %s is asked for a checkpoint", lease.metadata.name, lease.spec.job.name)
        return ComputeLease.parse(written)

    async def _tell(self, job: ComputeJob, end: datetime) -> None:
        text = (
            f"the account's money for what runs ends at {end:%Y-%m-%dT%H:%M:%SZ}: the workload was asked to save its "
            "work and is stopped shortly before, unless the account is funded again"
        )
        await emit(self._kube, job, "Warning", "CheckpointRequested", text, now=self._clock.now())

    async def _without_account(self, state: HubState, missing: Mapping[str, str]) -> dict[str, str]:
        """Leases to stop because no account of their namespace names their wallet any more; why, by lease name."""
        gone = {}
        for namespace in sorted(set(missing.values())):
            if namespace in state.accounts or await self._is_gone(namespace):
                gone[namespace] = f"the account of namespace {namespace} that paid for it is gone"
        return {lease: gone[namespace] for lease, namespace in missing.items() if namespace in gone}

    async def _is_gone(self, namespace: str) -> bool:
        """Asked by name: an account that merely could not be read must not look like one that is gone."""
        try:
            await self._kube.get(ACCOUNTS, "default", namespace)
        except NotFoundError:
            return True
        return False
