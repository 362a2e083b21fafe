"""What the operator asks of the hub for a job, by the API server's own counts: few requests, and nothing is listed."""

from __future__ import annotations

from collections import Counter

from tests.integration.operator.federation import Federation, Tenant


def counted(federation: Federation) -> Counter[str]:
    """Requests to the hub since its start, by ``VERB resource/subresource``."""
    found: Counter[str] = Counter()
    for line in federation.hub.api.text("/metrics", timeout=20).splitlines():
        if line.startswith("apiserver_request_total{"):
            inside, _, value = line.partition("} ")
            labels = dict(part.split("=", 1) for part in inside.partition("{")[2].split(","))
            verb, resource, part = (labels[name].strip('"') for name in ("verb", "resource", "subresource"))
            found[f"{verb} {resource}{'/' if part else ''}{part}"] += int(float(value))
    return found


def test_a_job_costs_one_finalizer_one_lease_and_no_list(running: Federation, tenant: Tenant) -> None:
    before = counted(running)
    names = [f"counted-{index}" for index in range(5)]
    tenant.apply(*(tenant.job(name, run="") for name in names))
    for name in names:
        tenant.until_state(name, "Running")
    made = counted(running) - before
    assert made["PATCH computejobs"] == len(names)
    assert made["POST computeleases"] == len(names)
    assert made["GET computeleases"] <= len(names)
    assert not [name for name in made if name.startswith("LIST") and name.split()[1].startswith("compute")], made
