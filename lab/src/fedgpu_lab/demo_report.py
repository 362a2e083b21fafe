"""The demo's report as values, tables and one JSON object; it computes from what it is given and reads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fedgpu_lab.audit import Audit
from fedgpu_lab.demo_compare import Alternative
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.domain.money import format_usd

TIER_NAMES: Final[Mapping[str, str]] = {
    "decentralized": "decentralized owner",
    "gpu-cloud": "GPU cloud",
    "hyperscaler": "hyperscaler",
}
REFUSALS: Final[Mapping[str, str]] = {
    "ResidencyDenied": "unlawful",
    "PolicyDenied": "unlawful",
    "ComplianceMissing": "unlawful",
    "HardwareMismatch": "no such GPU",
    "InsufficientGPUs": "no room",
    "LatencyTooHigh": "too far",
}
"""Why a central cloud may not have a job, in a word for people."""
WIDE: Final = 132
"""Columns from which every figure of a job gets one of its own."""
PIPED_WIDTH: Final = 150
"""Columns where there is no terminal that would say how many it has."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """One job at the end; money in µUSD, `alternatives` by tier for what ran."""

    name: str
    namespace: str
    state: str
    provider: str | None
    product: str | None
    reason: str
    why: str
    effective_price: str | None
    gpu_seconds: int
    cost: int
    settled: bool
    transaction: str
    alternatives: Mapping[str, Alternative]


@dataclass(frozen=True, slots=True)
class ProviderResult:
    """One owner at the end; `earned` follows from the metered GPU-seconds, `paid` is what the chain shows, µUSD."""

    name: str
    tier: str
    country: str
    gpu_seconds: int
    earned: int
    paid: int
    wallet: str


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold; `detail` says what was compared, or what is wrong."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """All of it; `seconds` is the wall clock of the whole demo, `jumps` what the chain's clock was moved by."""

    jobs: Sequence[JobResult]
    providers: Sequence[ProviderResult]
    audit: Audit
    checks: Sequence[Check]
    jumps: Sequence[int]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether the demo succeeded."""
        return all(check.ok for check in self.checks)


def document(report: Report) -> JSONObject:
    """The JSON object of ``fedgpu demo -o json``; escrow amounts are base units (10^-6 USD), prices decimal strings."""
    audit = report.audit
    return {
        "providers": [_provider(each) for each in report.providers],
        "jobs": [_job(each) for each in report.jobs],
        "escrow": {
            "deposited": audit.deposited,
            "paid": audit.paid,
            "withdrawn": audit.withdrawn,
            "balances": audit.balances,
            "allocated": audit.allocated,
            "pending": audit.pending,
            "held": audit.held,
            "block": audit.block,
        },
        "conserved": audit.conserved,
        "checks": [{"name": each.name, "ok": each.ok, "detail": each.detail} for each in report.checks],
        "clockJumps": list(report.jumps),
        "seconds": round(report.seconds, 1),
    }


def _job(job: JobResult) -> JSONObject:
    return {
        "name": job.name,
        "namespace": job.namespace,
        "state": job.state,
        "provider": job.provider,
        "product": job.product,
        "reason": job.reason,
        "why": job.why,
        "effectivePrice": job.effective_price,
        "gpuSeconds": job.gpu_seconds,
        "cost": format_usd(job.cost),
        "settled": job.settled,
        "transaction": job.transaction or None,
        "elsewhere": {
            tier: {
                "provider": each.provider,
                "cost": None if each.cost is None else format_usd(each.cost),
                "refused": each.reason or None,
            }
            for tier, each in job.alternatives.items()
        },
    }


def _provider(provider: ProviderResult) -> JSONObject:
    return {
        "name": provider.name,
        "tier": provider.tier,
        "country": provider.country,
        "gpuSeconds": provider.gpu_seconds,
        "gpuHours": round(provider.gpu_seconds / 3600, 6),
        "earned": format_usd(provider.earned),
        "paid": format_usd(provider.paid),
        "wallet": provider.wallet,
    }


def show(report: Report, console: Console) -> None:
    """Both tables, the conservation line and the checks."""
    for part in render(report, wide=console.width >= WIDE):
        console.print(part)


def render(report: Report, *, wide: bool) -> list[RenderableType]:
    """The parts from top to bottom; `wide` gives every figure of a job a column of its own."""
    jobs = _jobs_wide(report.jobs) if wide else _jobs_narrow(report.jobs)
    return ["", jobs, "", _providers_table(report.providers, wide=wide), "", _verdict(report)]


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", header_style="bold", pad_edge=False, box=SIMPLE_HEAD
    )


def _jobs_wide(jobs: Sequence[JobResult]) -> Table:
    central, table = _central(jobs), _table("Jobs")
    table.add_column("Job", no_wrap=True)
    table.add_column("Where", no_wrap=True)
    table.add_column("Why there")
    table.add_column("Effective\nUSD/GPU-h", justify="right", no_wrap=True)
    table.add_column("Cost\nUSD", justify="right", no_wrap=True)
    for tier in central:
        table.add_column(f"Saved against\n{TIER_NAMES.get(tier, tier)}", justify="right", no_wrap=True)
    table.add_column("Paid by\ntransaction", no_wrap=True)
    for job in jobs:
        table.add_row(job.name, _where(job), Text(job.why), *_figures(job, central), short(job.transaction))
    table.add_section()
    table.add_row("Total", "", "", "", format_usd(sum(job.cost for job in jobs)), *_sums(jobs, central), "")
    return table


def _jobs_narrow(jobs: Sequence[JobResult]) -> Table:
    """The same in 80 columns: what is said of a job stands in its first cell."""
    central, table = _central(jobs), _table("Jobs")
    table.add_column("Job → where, why there, paid by")
    table.add_column("Effective\nUSD/GPU-h", justify="right", no_wrap=True)
    table.add_column("Cost\nUSD", justify="right", no_wrap=True)
    for tier in central:
        table.add_column(f"Saved vs\n{TIER_NAMES.get(tier, tier)}", justify="right", no_wrap=True)
    for job in jobs:
        told = Text.assemble((job.name, "bold"), " → ", _where(job), "\n", (job.why, "dim"))
        if job.transaction:
            told.append(f"\n{short(job.transaction)}", "dim")
        table.add_row(told, *_figures(job, central))
    table.add_section()
    table.add_row("Total", "", format_usd(sum(job.cost for job in jobs)), *_sums(jobs, central))
    return table


def _central(jobs: Sequence[JobResult]) -> list[str]:
    return list(dict.fromkeys(tier for job in jobs for tier in job.alternatives))


def _where(job: JobResult) -> Text:
    return Text(job.provider) if job.provider else Text(job.reason, style="yellow")


def _figures(job: JobResult, central: Sequence[str]) -> list[RenderableType]:
    cost = format_usd(job.cost) if job.provider else "–"
    return [job.effective_price or "–", cost, *(_saved(job, tier) for tier in central)]


def _saved(job: JobResult, tier: str) -> Text:
    """How much less than at that tier, for the same GPU-seconds; or why the tier may not have it at all."""
    other = job.alternatives.get(tier)
    if other is None:
        return Text("–")
    if other.cost is None:
        return Text(REFUSALS.get(other.reason, other.reason), style="dim")
    if other.provider == job.provider:
        return Text("runs there")
    return Text(percent(job.cost, other.cost), style="green" if job.cost <= other.cost else "red")


def _sums(jobs: Sequence[JobResult], central: Sequence[str]) -> list[Text]:
    """Per tier over the jobs that it could have had; the others have no price there."""
    found = []
    for tier in central:
        both = [(job.cost, each.cost) for job in jobs if (each := job.alternatives.get(tier)) and each.cost is not None]
        paid, list_price = sum(cost for cost, _ in both), sum(cost for _, cost in both)
        found.append(Text(f"{percent(paid, list_price)}\nof {len(both)} jobs", style="bold"))
    return found


def percent(paid: int, list_price: int) -> str:
    """The share of the list price that was saved; a whole number, so that it claims no more than it knows."""
    return f"{(list_price - paid) * 100 / list_price:.0f} %" if list_price else "–"


def short(transaction: str) -> str:
    """The ends of a hash or address, enough to tell it from the others; the JSON object carries all of it."""
    return f"{transaction[:8]}…{transaction[-4:]}" if transaction else "–"


def _providers_table(providers: Sequence[ProviderResult], *, wide: bool) -> Table:
    table = _table("Providers")
    for column in ("Provider", "Where"):
        table.add_column(column, no_wrap=True)
    table.add_column("Who")
    for column in ("GPU-hours", "Earned\nUSD", "Paid on\nchain USD"):
        table.add_column(column, justify="right", no_wrap=True)
    if wide:
        table.add_column("Account", no_wrap=True)
    for each in providers:
        who = TIER_NAMES.get(each.tier, each.tier)
        figures = (f"{each.gpu_seconds / 3600:.4f}", format_usd(each.earned), format_usd(each.paid))
        table.add_row(each.name, each.country, who, *figures, *([short(each.wallet)] if wide else []))
    table.add_section()
    sums = (
        f"{sum(each.gpu_seconds for each in providers) / 3600:.4f}",
        format_usd(sum(each.earned for each in providers)),
        format_usd(sum(each.paid for each in providers)),
    )
    table.add_row("Total", "", "", *sums)
    return table


def conservation(audit: Audit) -> str:
    """The identity in base units, as the independent audit read it."""
    sign = "=" if audit.conserved else "≠"
    unasked = f" + {audit.unsolicited} sent unasked" if audit.unsolicited else ""
    left = f"{audit.deposited} in − {audit.paid} paid − {audit.withdrawn} withdrawn{unasked}"
    accounts = f"{audit.balances} balances + {audit.allocated} allocated + {audit.pending} pending"
    owed = f" + {audit.owed} owed" if audit.owed else ""
    return f"{left} {sign} {audit.held} held {sign} {accounts}{owed}{unasked}"


def _verdict(report: Report) -> RenderableType:
    lines = [
        Text.assemble(
            ("Conservation  ", "bold"), f"{conservation(report.audit)}  (10⁻⁶ USD, block {report.audit.block})"
        )
    ]
    if report.jumps:
        jumped = " and ".join(f"{seconds} s" for seconds in report.jumps)
        lines.append(
            Text(f"The chain's clock was moved {jumped}, over the challenge window; every run is in real time.")
        )
    if sum(job.cost for job in report.jobs) != sum(each.earned for each in report.providers):
        lines.append(Text("A charge rounds down once for each tenant and owner, a job's cost once more for people."))
    for check in report.checks:
        mark = ("✓ ", "green") if check.ok else ("✗ ", "bold red")
        lines.append(Text.assemble(mark, f"{check.name}: {check.detail}"))
    last = f"Everything holds, in {report.seconds:.0f} s." if report.holds else "Something does not hold; see above."
    lines.append(Text(last, style="bold green" if report.holds else "bold red"))
    return Panel(Group(*lines), border_style="green" if report.holds else "red")
