"""A placement decision with every reason in it: the same value feeds status, Events, `explain` and the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from fedgpu_operator.domain.money import MicroUSD


class Reason(StrEnum):
    """Why an offer does not serve a job, or why a job waits: the CamelCase word that users see."""

    RESIDENCY_DENIED = "ResidencyDenied"
    COMPLIANCE_MISSING = "ComplianceMissing"
    SELECTOR_MISMATCH = "SelectorMismatch"
    POLICY_DENIED = "PolicyDenied"
    HARDWARE_MISMATCH = "HardwareMismatch"
    INSUFFICIENT_GPUS = "InsufficientGPUs"
    PRICE_ABOVE_LIMIT = "PriceAboveLimit"
    LATENCY_TOO_HIGH = "LatencyTooHigh"
    LATENCY_UNMEASURED = "LatencyUnmeasured"
    OVER_BUDGET = "OverBudget"
    UNFUNDED = "Unfunded"
    DEADLINE_TOO_NEAR = "DeadlineTooNear"
    PROVIDER_NOT_READY = "ProviderNotReady"
    PROVIDER_FULL = "ProviderFull"
    COOLING_DOWN = "CoolingDown"
    PLUGIN_FAILED = "PluginFailed"
    """A third party's rule raised or answered nonsense: what it does not allow is refused."""
    NO_ELIGIBLE_PROVIDER = "NoEligibleProvider"
    OUTBID = "Outbid"
    """The offer serves the job, but this pass gave its capacity to jobs that gain more from it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One offer judged for one job.

    `reason` is None if the offer is eligible; else a Reason, or the word of a third party's plugin. `price` and
    `effective_price` are µUSD per GPU-hour; `components` names what was added to the price (e.g.
    ``{"latency": 12000, "carbon": 3100}``, µUSD per GPU-hour).
    `latency_ms` is the estimate or measurement used, with `latency_source` ``estimate`` or ``measured`` (then
    `latency_measured_at` says when).
    `score` is 0–100 for people, 100 for the least effective price among the eligible; 0 for the refused.
    `cost` is the price of the whole run limit in µUSD, an upper bound.
    """

    provider: str
    product: str
    reason: str | None
    message: str
    price: MicroUSD
    effective_price: MicroUSD
    cost: MicroUSD
    components: Mapping[str, int]
    latency_ms: float | None = None
    latency_source: str = ""
    latency_measured_at: datetime | None = None
    score: int = 0

    @property
    def offer(self) -> str:
        """Name of the offer that was judged."""
        return f"{self.provider}/{self.product}"

    @property
    def eligible(self) -> bool:
        """Whether the offer may lawfully and practically serve the job."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class Decision:
    """What one pass decided for one job.

    `chosen` is None when nothing was assigned; then `reason` and `message` say why, the message in the form
    ``0/5 providers fit: 3 ResidencyDenied, 2 InsufficientGPUs``. `verdicts` holds every offer's verdict, the
    eligible ones first by effective price, then name; each is made when somebody looks at it. `policies` names each
    policy applied as ``name@generation``. `fits` of `total` providers have an eligible offer.
    """

    job_uid: str
    chosen: Verdict | None
    verdicts: Sequence[Verdict]
    reason: str | None = None
    message: str = ""
    policies: tuple[str, ...] = ()
    fits: int = 0
    total: int = 0
