"""Writes the ProviderReport: what the member shows, whether it answers at all, and which receipts are signed."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import Final

from fedgpu_operator.agent.conditions import Verdict, update
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.api.conditions import find
from fedgpu_operator.api.providerreport import (
    ProposedReceipt,
    ProviderReport,
    ReportedProduct,
    ReportStatus,
    SignedReceipt,
)
from fedgpu_operator.errors import (
    CertificateRefusedError,
    KubeError,
    ListTooLargeError,
    NotFoundError,
    UnreachableError,
)
from fedgpu_operator.ports import Clock, Kube, ResourceType

REPORTS: Final = ResourceType.of(ProviderReport.info)
ROUND_TRIPS: Final = 16
MEMBER_TOO_LARGE: Final = "MemberTooLarge"
"""The member shows more than one member may make the hub go through or hold."""
ANSWERING: Final = Verdict("True", "Answering")


def unreachable(error: KubeError) -> Verdict:
    """Why the member cannot be read: no answer is Unknown, a refusal or too large a member is a fact."""
    if error.status == 401:
        return Verdict("False", "Unauthorized", "the member refuses the credentials of the kubeconfig")
    if error.status == 403:
        return Verdict("False", "Forbidden", str(error))
    if isinstance(error, ListTooLargeError):
        text = f"{error}: nothing new is placed here; the leases that it has are metered and stopped one by one"
        return Verdict("False", MEMBER_TOO_LARGE, text)
    if isinstance(error, CertificateRefusedError):
        return Verdict("False", error.reason, str(error))
    return Verdict("Unknown", error.reason if isinstance(error, UnreachableError) else "Unreachable", str(error))


class Reporter:
    """The one writer of one ProviderReport; named after its provider."""

    def __init__(self, provider: str, hub: Kube, settings: AgentSettings, clock: Clock) -> None:
        self._provider = provider
        self._hub = hub
        self._settings = settings
        self._clock = clock
        self._round_trips: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._written: ReportStatus | None = None

    def measured(self, seconds: float) -> None:
        """Note one round trip to the member's API server."""
        self._round_trips.append(round(1000 * seconds, 3))

    async def report(self, products: list[ReportedProduct], version: str) -> None:
        """Write what the member shows, if it differs from what is written or that is old."""
        now = self._clock.now()
        before = await self._before()
        status = ReportStatus(
            observed_at=now,
            agent_version=self._settings.version,
            kubernetes_version=version[:64],
            products=products,
            round_trips_ms=list(self._round_trips),
            receipts=before.receipts,
            conditions=update(before.conditions, {"Reachable": ANSWERING}, now=now, generation=0),
        )
        if not self._current(before, status, now):
            await self._write(status)

    async def silent(self, why: Verdict) -> None:
        """Write that the member cannot be read; what was read before stays, with its age."""
        before = await self._before()
        reachable = find(before.conditions, "Reachable")
        if reachable is not None and (reachable.status, reachable.reason) == (why.status, why.reason):
            return
        conditions = update(before.conditions, {"Reachable": why}, now=self._clock.now(), generation=0)
        await self._write(before.model_copy(update={"conditions": conditions}))

    async def proposals(self) -> list[ProposedReceipt]:
        """The receipts that the hub asks to be signed now."""
        report = await self._load()
        self._written = report.status
        return report.spec.receipts

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
        if self._written is None:
            self._written = (await self._load()).status
        return self._written

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
        self._written = ProviderReport.parse(answer).status
