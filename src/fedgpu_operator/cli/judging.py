"""Has the API server judge a job as if it were applied, by a server-side dry run that stores nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from fedgpu_operator.errors import AlreadyExistsError, ForbiddenError, InvalidResourceError, KubeError, NotFoundError

if TYPE_CHECKING:
    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.computejob import ComputeJob
    from fedgpu_operator.cli.jobfiles import Asked
    from fedgpu_operator.ports import ResourceType

TOOK: Final = "by the API server, which would take it"
NOT_ALLOWED: Final = (
    "by this command alone: you may not create ComputeJobs in {namespace}, so the API server did not judge it; "
    "its rules between fields, and admission, speak when the job is applied"
)
NO_DRY_RUNS: Final = (
    "by this command alone: an admission webhook of this hub takes no dry runs; "
    "the API server's rules between fields, and admission, speak when the job is applied"
)
TAKEN: Final = (
    "by the API server as a new job, but {namespace} has one of this name already: "
    "whether that one may be changed so is judged when it is applied"
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A job as the API server would store it; `checked` says by whom it was judged and what was left out.

    `by_server` is whether the API server was among them.
    """

    job: ComputeJob
    checked: str
    by_server: bool = True


async def judge(hub: KubeClient, asked: Asked) -> Judged:
    """The job, judged by the API server as far as the asker may have it judged, then by this command.

    Raises InvalidResourceError that names file and object, with the words of who refused it: the schema and its rules,
    admission, or a quota. The rest of the KubeError tree is raised where the server could not judge.
    """
    from fedgpu_operator.api.computejob import ComputeJob
    from fedgpu_operator.ports import ResourceType

    kind = ResourceType.of(ComputeJob.info)
    try:
        stored = await hub.try_create(kind, asked.document)
    except AlreadyExistsError:
        # A create is validated and admitted before the name is looked up.
        return Judged(asked.job(), TAKEN.format(namespace=asked.namespace))
    except KubeError as error:
        why = await _not_judged(hub, kind, asked, error)
        return Judged(asked.job(), why, by_server=False)
    # Defaults and what admission changed are part of what would be placed.
    return Judged(replace(asked, stored=stored.get("spec")).job(), TOOK)


async def _not_judged(hub: KubeClient, kind: ResourceType, asked: Asked, error: KubeError) -> str:
    """Why the server gave no verdict; raises InvalidResourceError where it gave one, and `error` where it is broken."""
    if isinstance(error, ForbiddenError) and error.status == 403 and not await _may_create(hub, kind, asked.namespace):
        return NOT_ALLOWED.format(namespace=asked.namespace)
    if error.status == 400 and "does not support dry run" in str(error):
        return NO_DRY_RUNS
    missing = isinstance(error, NotFoundError) and f'namespaces "{asked.namespace}" not found' not in str(error)
    # A conflict is one of writers, such as of a quota that changed meanwhile: the next try may be told otherwise.
    if not 400 <= error.status < 500 or error.status in (401, 409, 429) or missing:
        raise error
    told = str(error).split(f": {error.status}: ", 1)[-1]
    raise InvalidResourceError("InvalidSpec", f"{asked.what}: the API server refuses it: {told}") from error


async def _may_create(hub: KubeClient, kind: ResourceType, namespace: str) -> bool:
    """Whether a 403 was the word of admission or a quota, and not of the asker's rights."""
    from fedgpu_operator.ports import ResourceType

    reviews = ResourceType(
        "authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False
    )
    wanted = {"namespace": namespace, "verb": "create", "group": kind.group, "resource": kind.plural}
    review = {
        "apiVersion": reviews.api_version,
        "kind": reviews.kind,
        "metadata": {},
        "spec": {"resourceAttributes": wanted},
    }
    try:
        answer = await hub.create(reviews, review)
    except ForbiddenError:
        return False
    return (answer.get("status") or {}).get("allowed") is True
