"""The ProviderReport: what the member shows, whether it answers, and the receipts that the provider signs."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from fedgpu_operator.agent import inventory
from fedgpu_operator.agent.decide import ConditionState
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.api.base import MAX_MESSAGE, READY, Condition, Finding, find, merge, standing
from fedgpu_operator.api.providerreport import (
    ProposedReceipt,
    ProviderReport,
    ReportStatus,
    SignedReceipt,
)
from fedgpu_operator.api.reasons import NEEDS_CHANGE, ConditionReason
from fedgpu_operator.errors import (
    CertificateRefusedError,
    KubeError,
    ListTooLargeError,
    NotFoundError,
    UnreachableError,
)
from fedgpu_operator.ports import Clock, Kube, ResourceType
from fedgpu_operator.supply import Supply

log = logging.getLogger(__name__)

REPORTS: Final = ResourceType.of(ProviderReport.info)
ROUND_TRIPS: Final = 16
ANSWERING: Final = ConditionState("True", ConditionReason.ANSWERING)


def unreachable(error: KubeError) -> ConditionState:
    """Why the member cannot be read: no answer is Unknown, a refusal or too large a member is a fact."""
    if error.status == 401:
        return ConditionState(
            "False", ConditionReason.UNAUTHORIZED, "the member refuses the credentials of the kubeconfig"
        )
    if error.status == 403:
        return ConditionState("False", ConditionReason.FORBIDDEN, str(error))
    if isinstance(error, ListTooLargeError):
        text = f"{error}: nothing new is placed here; the leases that it has are metered and stopped one by one"
        return ConditionState("False", ConditionReason.MEMBER_TOO_LARGE, text)
    if isinstance(error, CertificateRefusedError):
        return ConditionState("False", error.reason, str(error))
    return ConditionState(
        "Unknown", error.reason if isinstance(error, UnreachableError) else ConditionReason.UNREACHABLE, str(error)
    )


def conditions_of(
    known: Sequence[Condition], why: ConditionState, *, now: datetime, generation: int
) -> list[Condition]:
    """`Reachable`, and `Ready` with what goes with it: what the member refuses stays refused until people act."""
    message = why.message[:MAX_MESSAGE]
    reachable = Finding("Reachable", why.status, why.reason, message)
    ready = standing(Finding(READY, why.status, why.reason), message, stalled=why.reason in NEEDS_CHANGE)
    return merge(known, (reachable, *ready), generation=generation, now=now)


class Reporter:
    """The one writer of one ProviderReport; named after its provider."""

    def __init__(self, provider: str, hub: Kube, settings: AgentSettings, clock: Clock) -> None:
        self._provider = provider
        self._hub = hub
        self._settings = settings
        self._clock = clock
        self._round_trips: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._written: ReportStatus | None = None
        self._generation = 0
        """Of the report as it was read or written last."""

    def measured(self, seconds: float) -> None:
        """Note one round trip to the member's API server."""
        self._round_trips.append(round(1000 * seconds, 3))

    async def report(self, supply: Supply, version: str) -> None:
        """Write what the member shows, if it differs from what is written or that is old."""
        now = self._clock.now()
        before = await self._before()
        status = ReportStatus(
            observed_generation=self._generation,
            observed_at=now,
            agent_version=self._settings.version,
            kubernetes_version=version[:64],
            products=inventory.products(supply),
            uncounted=inventory.uncounted(supply),
            aside=inventory.aside(supply),
            round_trips_ms=list(self._round_trips),
            receipts=before.receipts,
            conditions=conditions_of(before.conditions, ANSWERING, now=now, generation=self._generation),
        )
        if not self._current(before, status, now):
            await self._write(status)

    async def silent(self, why: ConditionState) -> None:
        """Write that the member cannot be read; what was read before stays, with its age."""
        # Read each time: its spec may have changed since, and nothing else looks at it while the member is silent.
        before = (await self._read()).status
        reachable = find(before.conditions, "Reachable")
        told = reachable is not None and (reachable.status, reachable.reason) == (why.status, why.reason)
        if told and before.observed_generation == self._generation:
            return
        conditions = conditions_of(before.conditions, why, now=self._clock.now(), generation=self._generation)
        update = {"observed_generation": self._generation, "conditions": conditions}
        await self._write(before.model_copy(update=update))

    async def proposals(self) -> list[ProposedReceipt]:
        """The receipts that the hub asks to be signed now."""
        return (await self._read()).spec.receipts

    async def sign(self, receipts: list[SignedReceipt]) -> None:
        """Write these signatures in place of the ones before, if they differ."""
        before = await self._before()
        if before.receipts != receipts:
            await self._write(before.model_copy(update={"receipts": receipts}))

    def _current(self, before: ReportStatus, after: ReportStatus, now: datetime) -> bool:
        """Whether the report on the hub says the same and is young enough."""
        young = before.observed_at is not None and (
            (now - before.observed_at).total_seconds() < self._settings.report_interval
        )
        ignored: dict[str, object] = {"observed_at": None, "round_trips_ms": [], "probes": []}
        return young and before.model_copy(update=ignored) == after.model_copy(update=ignored)

    async def _before(self) -> ReportStatus:
        return (await self._read()).status if self._written is None else self._written

    async def _read(self) -> ProviderReport:
        """The report on the hub, made if it is not there; what is written next goes by it."""
        report = await self._load()
        self._written, self._generation = report.status, report.metadata.generation
        return report

    async def _load(self) -> ProviderReport:
        name, namespace = self._provider, self._settings.namespace
        try:
            found = await self._hub.get(REPORTS, name, namespace)
        except NotFoundError:
            found = await self._hub.create(
                REPORTS,
                {
                    "apiVersion": REPORTS.api_version,
                    "kind": REPORTS.kind,
                    "metadata": {"name": name, "namespace": namespace},
                    "spec": {"provider": name},
                },
            )
        return ProviderReport.parse(found)

    async def _write(self, status: ReportStatus) -> None:
        # The probes are written by whoever measures in the owner's cluster: a merge patch leaves them alone.
        patch = {"status": {key: value for key, value in status.to_wire().items() if key != "probes"}}
        try:
            answer = await self._hub.patch_status(REPORTS, self._provider, self._settings.namespace, patch)
        except NotFoundError:
            # Somebody deleted it: the next pass makes it again.
            self._written = None
            raise
        report = ProviderReport.parse(answer)
        self._written, self._generation = report.status, report.metadata.generation
