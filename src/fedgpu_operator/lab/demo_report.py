"""The demo's report as values, tables and one JSON object; it computes from what it is given and reads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.domain.money import format_usd
from fedgpu_operator.lab.audit import Audit
from fedgpu_operator.lab.demo_compare import Alternative

TIER_NAMES: Final[Mapping[str, str]] = {
    "decentralized": "decentralized owner",
    "gpu-cloud": "GPU cloud",
    "hyperscaler": "hyperscaler",
}


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

    @property
    def settled_or_idle(self) -> bool:
        """Whether nothing of it is left to pay."""
        return self.settled or self.gpu_seconds == 0


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
    # Piped or narrow, the tables still want room for their sentences.
    width = max(console.width, 150) if not console.is_terminal else None
    for part in render(report):
        console.print(part, width=width)


def render(report: Report) -> list[RenderableType]:
    """The parts from top to bottom."""
    return ["", _jobs_table(report.jobs), "", _providers_table(report.providers), "", _verdict(report)]


def _jobs_table(jobs: Sequence[JobResult]) -> Table:
    central = list(dict.fromkeys(tier for job in jobs for tier in job.alternatives))
    table = Table(title="Jobs", title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
    table.add_column("Job", no_wrap=True)
    table.add_column("Where", no_wrap=True)
    table.add_column("Why there", ratio=1)
    table.add_column("Effective\nUSD/GPU-h", justify="right", no_wrap=True)
    table.add_column("Cost\nUSD", justify="right", no_wrap=True)
    for tier in central:
        table.add_column(f"Saved against\n{TIER_NAMES.get(tier, tier)}", justify="right")
    table.add_column("Paid by\ntransaction", no_wrap=True)
    for job in jobs:
        table.add_row(
            job.name,
            job.provider or Text(job.reason, style="yellow"),
            Text(job.why),
            job.effective_price or "–",
            format_usd(job.cost) if job.provider else "–",
            *(_saved(job, tier) for tier in central),
            short(job.transaction) if job.transaction else "–",
        )
    table.add_section()
    total = sum(job.cost for job in jobs)
    table.add_row("Total", "", "", "", format_usd(total), *(_saved_in_all(jobs, tier) for tier in central), "")
    return table


def _saved(job: JobResult, tier: str) -> Text:
    """How much less than at that tier, for the same GPU-seconds; or why the tier may not have it at all."""
    other = job.alternatives.get(tier)
    if other is None:
        return Text("–")
    if other.cost is None:
        return Text(f"none: {other.reason}", style="dim")
    if other.provider == job.provider:
        return Text("runs there")
    return Text(percent(job.cost, other.cost), style="green" if job.cost <= other.cost else "red")


def _saved_in_all(jobs: Sequence[JobResult], tier: str) -> Text:
    """Over the jobs that the tier could have had; the others have no price there."""
    both = [(job.cost, each.cost) for job in jobs if (each := job.alternatives.get(tier)) and each.cost is not None]
    paid, list_price = sum(cost for cost, _ in both), sum(cost for _, cost in both)
    if not list_price:
        return Text("–")
    return Text(f"{percent(paid, list_price)}\nof {format_usd(list_price)} for {len(both)} jobs", style="bold")


def percent(paid: int, list_price: int) -> str:
    """The share of the list price that was saved; a whole number, so that it claims no more than it knows."""
    return f"{(list_price - paid) * 100 / list_price:.0f} %" if list_price else "–"


def short(transaction: str) -> str:
    """The ends of a hash, enough to tell it from the others; the JSON object carries all of it."""
    return f"{transaction[:8]}…{transaction[-4:]}"


def _providers_table(providers: Sequence[ProviderResult]) -> Table:
    table = Table(title="Providers", title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
    for column in ("Provider", "Who", "Country"):
        table.add_column(column, no_wrap=True)
    for column in ("GPU-hours", "Earned USD", "Paid on chain USD"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("Account", no_wrap=True)
    for each in providers:
        who = TIER_NAMES.get(each.tier, each.tier)
        figures = (f"{each.gpu_seconds / 3600:.4f}", format_usd(each.earned), format_usd(each.paid))
        table.add_row(each.name, who, each.country, *figures, short(each.wallet))
    table.add_section()
    sums = (
        f"{sum(each.gpu_seconds for each in providers) / 3600:.4f}",
        format_usd(sum(each.earned for each in providers)),
        format_usd(sum(each.paid for each in providers)),
    )
    table.add_row("Total", "", "", *sums, "")
    return table


def conservation(audit: Audit) -> str:
    """The identity in base units, as the independent audit read it."""
    sign = "=" if audit.conserved else "≠"
    left = f"{audit.deposited} in − {audit.paid} paid − {audit.withdrawn} withdrawn"
    accounts = f"{audit.balances} balances + {audit.allocated} allocated + {audit.pending} pending"
    owed = f" + {audit.owed} owed" if audit.owed else ""
    return f"{left} {sign} {audit.held} held {sign} {accounts}{owed}"


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
    for check in report.checks:
        mark = ("✓ ", "green") if check.ok else ("✗ ", "bold red")
        lines.append(Text.assemble(mark, f"{check.name}: {check.detail}"))
    last = f"Everything holds, in {report.seconds:.0f} s." if report.holds else "Something does not hold; see above."
    lines.append(Text(last, style="bold green" if report.holds else "bold red"))
    return Panel(Group(*lines), border_style="green" if report.holds else "red")
