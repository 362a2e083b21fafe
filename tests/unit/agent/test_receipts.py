"""What a provider's agent accepts to sign: nothing below its own readings of what ended by then."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from fedgpu_operator.agent.decide import ConditionState
from fedgpu_operator.agent.signing import AHEAD_SECONDS, objection
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.providerreport import ProposedReceipt
from fedgpu_operator.domain.usage import UsageReading

TENANT, PAYOUT = "0x" + "Aa" * 20, "0x" + "bB" * 20


def ended(make: Any, gpu_seconds: int, *, ago: float = 0, final: bool = True, **wallets: str) -> ComputeLease:
    """A lease at 3.60 USD per GPU-hour that ended `ago` seconds before NOW."""
    at = make.now - timedelta(seconds=ago)
    lease = make.lease(verdicts={"Complete": ConditionState("True", "Succeeded")})
    usage = lease.status.usage.from_domain(UsageReading(1, gpu_seconds, at, at, at), final=final)
    charged = {"tenant_wallet": TENANT, "provider_wallet": PAYOUT} | wallets
    spec = lease.spec.model_copy(update={"price_per_gpu_hour": "3.60", **charged})
    return ComputeLease.model_validate(
        lease.model_copy(update={"spec": spec, "status": lease.status.model_copy(update={"usage": usage})})
    )


def proposal(make: Any, cumulative: str, *, end: float = 0, disputed: str = "0.00", **other: str) -> ProposedReceipt:
    said = {"tenant": TENANT.lower(), "provider": PAYOUT.lower()} | other
    return ProposedReceipt(
        cumulative=cumulative,
        period_end=int(make.now.timestamp() + end),
        usage_root="0x" + "00" * 32,
        disputed=disputed,
        **said,
    )


def why(make: Any, said: ProposedReceipt, *leases: ComputeLease) -> str:
    return objection(said, leases, payout=PAYOUT, now=make.now)


# 1000 GPU-seconds at 3.60 USD per GPU-hour are one dollar, and ten GPU-seconds of them may differ.
@pytest.mark.parametrize(
    ("cumulative", "disputed", "signs"),
    [
        ("1.00", "0.00", True),
        ("0.99", "0.00", True),
        ("0.989999", "0.00", False),
        ("0.50", "0.49", True),
        ("0.50", "0.48", False),
        ("5.00", "0.00", True),
    ],
)
def test_no_less_than_its_own_readings(make: Any, cumulative: str, disputed: str, signs: bool) -> None:
    said = proposal(make, cumulative, disputed=disputed)
    assert (why(make, said, ended(make, 1000)) == "") == signs


def test_all_leases_of_the_pair_add_up(make: Any) -> None:
    leases = (ended(make, 1000), ended(make, 500), ended(make, 500))
    assert why(make, proposal(make, "1.98"), *leases) == ""
    assert "our own readings" in why(make, proposal(make, "1.97"), *leases)


@pytest.mark.parametrize(
    "other",
    [
        {"ago": -5.0},  # read after the receipt's end
        {"final": False},
        {"tenant_wallet": PAYOUT},
        {"provider_wallet": TENANT},
        {"tenant_wallet": ""},
    ],
)
def test_what_the_receipt_need_not_hold_is_not_held_against_it(make: Any, other: dict[str, Any]) -> None:
    assert why(make, proposal(make, "0.10"), ended(make, 1000, **other)) == ""


def test_only_for_its_own_wallet(make: Any) -> None:
    assert "payout wallet" in why(make, proposal(make, "1.00", provider=TENANT))


def test_an_end_in_the_future_is_refused_beyond_the_skew_of_clocks(make: Any) -> None:
    assert why(make, proposal(make, "1.00", end=AHEAD_SECONDS)) == ""
    assert "future" in why(make, proposal(make, "1.00", end=AHEAD_SECONDS + 1))
