"""The ComputeLease objects of attempts, made from identity and the ledger's terms alone; pure.

An attempt starts its workload at most once. Only the first lease object of an attempt, made by the pass that opened
it, carries the workload. Every later object under the same name was made again: it carries none, so the agent can
adopt what the first one started, meter it and stop it, but has nothing to start.
"""

from __future__ import annotations

from typing import Any, Final

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import (
    JOB_UID_LABEL,
    LEASE_LABEL,
    MAX_GPUS_PER_REPLICA,
    MAX_REPLICAS,
    MAX_RUN_SECONDS,
    PROVIDER_LABEL,
    TENANT_LABEL,
    ComputeLease,
    ComputeLeaseSpec,
    JobRef,
)
from fedgpu_operator.domain.books import Attempt
from fedgpu_operator.domain.money import format_usd
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.render import member_namespace, provider_namespace, render_workload
from fedgpu_operator.ports import ResourceType

LEASES: Final = ResourceType.of(ComputeLease.info)
USUAL_GRACE_SECONDS: Final = 30
"""Kubernetes' own default of `terminationGracePeriodSeconds`."""


def first_lease(job: ComputeJob, attempt: Attempt) -> JSONObject:
    """The lease that starts the attempt's workload.

    Raises InvalidResourceError: `TermsChanged` for a job that is not the one that the attempt was agreed for,
    `TemplateRefused` for one that cannot be rendered.
    """
    terms = attempt.terms
    if (job.gpus, job.billable_limit) != (terms.gpus, terms.run_limit):
        text = f"the job asks for {job.gpus} GPUs and {job.billable_limit} s, attempt {attempt.attempt} was agreed for "
        raise InvalidResourceError("TermsChanged", f"{text}{terms.gpus} GPUs and {terms.run_limit} s")
    workload = render_workload(
        job,
        lease_name=attempt.lease_name,
        member_namespace=member_namespace(terms.tenant),
        provider=terms.provider,
        product=terms.product,
        run_limit_seconds=job.run_limit,
    )
    return _lease(attempt, {**_shape_of(job), "workload": workload})


def remade_lease(attempt: Attempt, job: ComputeJob | None, *, sequence_base: int) -> JSONObject:
    """The lease object of an open attempt, made again after it was lost; it carries the attempt's stop, if any.

    `sequence_base` is the newest sequence of the attempt that is in the ledger. Without the job its shape is
    the one that the terms allow: the same number of GPUs and seconds.
    """
    terms = attempt.terms
    matches = job is not None and (job.gpus, job.billable_limit) == (terms.gpus, terms.run_limit)
    shape = _shape_of(job) if job is not None and matches else _shape_from_terms(attempt)
    stop: dict[str, Any] = {}
    if attempt.stop is not None:
        stop = {"desired": "Stop", "stop_reason": attempt.stop.reason, "stop_requested_at": attempt.stop.at}
    return _lease(attempt, {**shape, **stop, "sequence_base": sequence_base})


def _shape_of(job: ComputeJob) -> dict[str, Any]:
    return {
        "replicas": job.spec.replicas,
        "gpus_per_replica": job.spec.gpu.count,
        "run_limit_seconds": job.run_limit,
        "grace_seconds": job.spec.template.termination_grace_period_seconds,
    }


def _shape_from_terms(attempt: Attempt) -> dict[str, Any]:
    gpus, seconds = attempt.terms.gpus, attempt.terms.run_limit
    # How much of the seconds is grace is not in the terms; their sum must be what was agreed.
    grace = max(min(USUAL_GRACE_SECONDS, seconds - 1), seconds - MAX_RUN_SECONDS)
    per_replica = next(each for each in range(MAX_GPUS_PER_REPLICA, 0, -1) if gpus % each == 0)
    return {
        "replicas": min(gpus // per_replica, MAX_REPLICAS),
        "gpus_per_replica": per_replica,
        "run_limit_seconds": seconds - grace,
        "grace_seconds": grace,
    }


def _lease(attempt: Attempt, fields: dict[str, Any]) -> JSONObject:
    terms = attempt.terms
    spec = ComputeLeaseSpec(
        job=JobRef(namespace=terms.tenant, name=terms.job_name, uid=terms.job_uid),
        attempt=attempt.attempt,
        fencing_epoch=attempt.attempt,
        provider=terms.provider,
        product=terms.product,
        price_per_gpu_hour=format_usd(terms.price),
        member_namespace=member_namespace(terms.tenant),
        tenant_wallet=terms.tenant_wallet,
        provider_wallet=terms.provider_wallet,
        **fields,
    )
    return {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": {
            "name": attempt.lease_name,
            "namespace": provider_namespace(terms.provider),
            "labels": {
                LEASE_LABEL: attempt.lease_name,
                PROVIDER_LABEL: terms.provider,
                TENANT_LABEL: terms.tenant,
                JOB_UID_LABEL: terms.job_uid,
            },
        },
        "spec": spec.to_wire(),
    }
