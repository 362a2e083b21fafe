"""From apply to paid: where a job goes, what it costs, what the contract pays, against a clock and sums of our own."""

from __future__ import annotations

import time

from tests.integration.operator.federation import (
    API,
    PRICES,
    SECONDS_PER_HOUR,
    Federation,
    Tenant,
    eventually,
    micro,
)


def test_from_apply_to_paid_to_the_unit(running: Federation, tenant: Tenant) -> None:
    names = {"cheap": "beta", "european": "alpha", "gang": "alpha"}
    tenant.apply(
        tenant.job("cheap", run="3s"),
        tenant.job("european", run="5s", gpu={"count": 3}, placement={"groups": ["EU"]}),
        tenant.job("gang", run="4s", gpu={"count": 8}, replicas=2),
    )
    for name, provider in names.items():
        status = tenant.until_state(name, "Succeeded")
        assert status["placement"]["provider"] == provider
        assert status["placement"]["price"] == PRICES[provider]
        assert tenant.condition(name, "Complete")["status"] == "True"
    running.until_settled((tenant, name) for name in names)
    numerators = dict.fromkeys(PRICES, 0)
    for name, provider in names.items():
        usage = tenant.status(name)["usage"]
        numerator = micro(PRICES[provider]) * usage["gpuSeconds"]
        assert micro(usage["cost"]) == numerator // SECONDS_PER_HOUR
        assert usage["gpuSeconds"] > 0
        numerators[provider] += numerator
    owed = {provider: numerator // SECONDS_PER_HOUR for provider, numerator in numerators.items()}
    assert {provider: running.paid(tenant.wallet, provider) for provider in PRICES} == owed
    eventually("the account to show it", lambda: micro(tenant.account()["settled"]) == sum(owed.values()))
    account = tenant.account()
    assert micro(account["balance"]) == 200_000_000 - sum(owed.values())
    settlement = tenant.status("gang")["settlement"]
    path = f"{API}/settlementepochs/epoch-{settlement['epoch']}"
    eventually("the epoch to show it", lambda: running.hub.api.get(path)["status"]["state"] == "Paid")
    epoch = running.hub.api.get(path)
    assert settlement["claimTransaction"] == epoch["status"]["transactions"]["claim"]
    receipt = running.chain.rpc("eth_getTransactionReceipt", settlement["claimTransaction"])
    assert isinstance(receipt, dict)
    assert receipt["status"] == "0x1"
    told = {"Placed", "Running", "Complete", "Settled"}
    eventually("the Events, which go out after what they tell of", lambda: told <= tenant.events("cheap"))


def test_metering_agrees_with_a_clock_outside(tenant: Tenant) -> None:
    """Each run is timed by watching the member itself; pod instants are whole seconds, hence the two of slack."""
    runs = {"blink": "300ms", "one": "1s", "three": "3s", "six": "6s", "nine": "9s"}
    german = {"countries": ["DE"]}
    tenant.apply(*(tenant.job(name, run=run, placement=german) for name, run in runs.items()))
    uids = {tenant.get(name)["metadata"]["uid"]: name for name in runs}
    began: dict[str, float] = {}
    ended: dict[str, float] = {}
    deadline = time.monotonic() + 60
    while len(ended) < len(runs):
        assert time.monotonic() < deadline, f"began {began}, ended {ended}"
        now = time.monotonic()
        for pod in tenant.pods("alpha"):
            name = uids[pod["metadata"]["labels"]["fedgpu.dev/job-uid"]]
            phase = pod["status"].get("phase")
            if phase in ("Running", "Succeeded"):
                began.setdefault(name, now)
            if phase == "Succeeded":
                ended.setdefault(name, now)
        time.sleep(0.05)
    for name in runs:
        usage = tenant.until_state(name, "Succeeded")["usage"]
        assert usage["gpuSeconds"] >= 1, f"{name} is not free"
        outside = ended[name] - began[name]
        assert abs(usage["gpuSeconds"] - outside) <= 2, f"{name}: billed {usage['gpuSeconds']}, took {outside:.1f} s"


def test_the_meter_runs_while_the_job_does(tenant: Tenant) -> None:
    tenant.apply(tenant.job("long", run="", gpu={"count": 2}))
    tenant.until_state("long", "Running")

    def billed() -> int:
        return int((tenant.status("long").get("usage") or {}).get("gpuSeconds", 0))

    first = eventually("the first GPU-seconds", billed)
    eventually("more of them", lambda: billed() > first)
