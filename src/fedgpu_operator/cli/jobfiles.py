"""ComputeJobs from files, as kubectl reads them, validated by a dry run of the API server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedgpu_operator.errors import (
    AlreadyExistsError,
    ConfigurationError,
    ForbiddenError,
    InvalidResourceError,
    KubeError,
    NotFoundError,
)

if TYPE_CHECKING:
    from pydantic import ValidationError

    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.base import JSONObject, Resource
    from fedgpu_operator.api.computejob import ComputeJob
    from fedgpu_operator.ports import ResourceType


SUFFIXES: Final = (".yaml", ".yml", ".json")
MOST_DOCUMENTS: Final = 1000
TOOK: Final = "by the API server, which would accept it"
NOT_ALLOWED: Final = (
    "by this command only: you may not create ComputeJobs in {namespace}, so the API server did not validate it; "
    "its rules between fields and admission apply when the job is created"
)
NO_DRY_RUNS: Final = (
    "by this command only: an admission webhook of this hub does not support dry runs; "
    "the API server's rules between fields and admission apply when the job is created"
)
TAKEN: Final = (
    "by the API server as a new job, but {namespace} already has one of this name: "
    "whether that one may be changed so is decided when the job is applied"
)


@dataclass(frozen=True, slots=True)
class JobFile:
    """One ComputeJob of a file: `document` as sent to an API server, with its namespace; `what` names it in errors."""

    what: str
    document: JSONObject
    stored: JSONObject | None = None
    """Its spec as the server would store it: with defaults, and maybe fields that this version does not know."""

    @property
    def namespace(self) -> str:
        return str(self.document["metadata"]["namespace"])

    def job(self) -> ComputeJob:
        """The job, without a status. Raises InvalidResourceError that names file, object and field."""
        from pydantic import ValidationError

        from fedgpu_operator.api.computejob import ComputeJob

        meta = self.document["metadata"]
        named = {**meta, "name": meta.get("name") or meta["generateName"]}
        try:
            spec = {} if self.stored is None else {"spec": self.stored}
            job = ComputeJob.model_validate({**self.document, **spec, "metadata": named, "status": {}})
        except ValidationError as error:
            raise _invalid(f"{self.what}: {_refusal(ComputeJob, error)}") from error
        known = job.spec.model_dump(mode="json", by_alias=True)
        if unknown := next(_unknown_fields(self.document.get("spec"), known), None):
            raise _invalid(f"{self.what}: unknown field spec.{unknown}")
        return job


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The jobs of some files, each with its namespace, and the number of documents of other kinds."""

    jobs: tuple[JobFile, ...]
    others: int


def read_jobs(files: Sequence[str], given: str | None, own: str) -> JobFiles:
    """Every ComputeJob of the files, in their order; ``-`` is standard input, a folder means the files in it.

    `given` is the namespace of the command line, `own` the one for documents that name none. Raises ConfigurationError
    if a file cannot be read, is not YAML, or names another namespace than the command line; InvalidResourceError that
    names file, object and field if a job has no name, or not our apiVersion.
    """
    from fedgpu_operator.api.computejob import ComputeJob

    jobs, others = [], 0
    for name, document in _documents(files):
        if document.get("kind") != ComputeJob.info.kind:
            others += 1
            continue
        jobs.append(_job_file(name, document, given, own))
    if not jobs:
        raise ConfigurationError(f"--file: no ComputeJob found in {', '.join(files)}")
    return JobFiles(tuple(jobs), others)


def _documents(files: Iterable[str]) -> Iterator[tuple[str, Mapping[str, object]]]:
    count = 0
    for name, text in _texts(files):
        for document in _loaded(name, text):
            for each in _members(document):
                if not isinstance(each, dict):
                    raise ConfigurationError(f"{name}: a document is not an object with apiVersion and kind")
                count += 1
                if count > MOST_DOCUMENTS:
                    raise ConfigurationError(f"{name}: more than {MOST_DOCUMENTS} objects; quote them in parts")
                yield name, each


def _texts(files: Iterable[str]) -> Iterator[tuple[str, str]]:
    for file in files:
        if file == "-":
            yield "standard input", _standard_input()
            continue
        path = Path(file)
        try:
            inside = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES) if path.is_dir() else [path]
            for each in inside:
                yield str(each), each.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigurationError(f"--file: {file} cannot be read: {reason}") from error


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeError as error:
        raise ConfigurationError("--file: standard input cannot be read: not UTF-8 text") from error


def _loaded(name: str, text: str) -> list[object]:
    import yaml

    class KubeLoader(yaml.SafeLoader):
        """For API servers: what looks like a date stays the text that is written, since JSON has no dates."""

    KubeLoader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    try:
        return [each for each in yaml.load_all(text, KubeLoader) if each is not None]
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        # A tag such as !!int on text that is not a number.
        raise ConfigurationError(f"{name}: value cannot be read: {error}; put it in quotes") from error
    except RecursionError as error:
        raise ConfigurationError(f"{name}: nested too deeply") from error


def _invalid(text: str) -> InvalidResourceError:
    from fedgpu_operator.api.reasons import ConditionReason

    return InvalidResourceError(ConditionReason.INVALID_SPEC, text)


def _members(document: object) -> Iterable[object]:
    if isinstance(document, dict) and document.get("kind") == "List" and isinstance(document.get("items"), list):
        members: list[object] = document["items"]
        return members
    return [document]


def _job_file(file: str, document: Mapping[str, object], given: str | None, own: str) -> JobFile:
    from fedgpu_operator.api.base import GROUP, VERSION

    meta = document.get("metadata")
    named = dict(meta) if isinstance(meta, dict) else {}
    name = named.get("name") or named.get("generateName")
    what = f"{file}: ComputeJob {name or '(no name)'}"
    if document.get("apiVersion") != f"{GROUP}/{VERSION}":
        raise _invalid(f"{what}: apiVersion: must be {GROUP}/{VERSION}")
    if not isinstance(name, str):
        raise _invalid(f"{what}: metadata.name: must be set")
    where = str(named.get("namespace") or given or own)
    if given and where != given:
        raise ConfigurationError(f"{what}: its namespace is {where}, but -n is {given}: leave one of them out")
    whole = {**document, "metadata": {**named, "namespace": where}}
    try:
        json.dumps(whole, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{what}: holds a value that JSON cannot represent: {error}") from error
    return JobFile(what, whole)


def _unknown_fields(given: object, known: object) -> Iterator[str]:
    """Paths of the fields in `given` that `known`, the same after parsing, does not have."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            if name not in known:
                yield str(name)
            else:
                yield from (f"{name}{_joined(path)}" for path in _unknown_fields(value, known[name]))
    elif isinstance(given, list) and isinstance(known, list):
        for index, (one, other) in enumerate(zip(given, known, strict=False)):
            yield from (f"[{index}]{_joined(path)}" for path in _unknown_fields(one, other))


def _joined(path: str) -> str:
    return path if path.startswith("[") else f".{path}"


@dataclass(frozen=True, slots=True)
class CheckedJob:
    """A job as the API server would store it; `checked` says by whom it was validated and what was left out.

    `by_server` is whether the API server was among them.
    """

    job: ComputeJob
    checked: str
    by_server: bool = True


async def check_job(hub: KubeClient, file: JobFile) -> CheckedJob:
    """The job, validated by the API server as far as the user's rights allow, then by this command.

    Raises InvalidResourceError that names file and object, with the words of what refused it: the schema and its rules,
    admission, or a quota. The rest of the KubeError tree is raised if the server could not validate it.
    """
    from fedgpu_operator.api.computejob import ComputeJob
    from fedgpu_operator.ports import ResourceType

    kind = ResourceType.of(ComputeJob.info)
    try:
        stored = await hub.try_create(kind, file.document)
    except AlreadyExistsError:
        # A create is validated and admitted before the name is looked up.
        return CheckedJob(file.job(), TAKEN.format(namespace=file.namespace))
    except KubeError as error:
        why = await _not_judged(hub, kind, file, error)
        return CheckedJob(file.job(), why, by_server=False)
    # Defaults and what admission changed are part of what would be placed.
    return CheckedJob(replace(file, stored=stored.get("spec")).job(), TOOK)


async def _not_judged(hub: KubeClient, kind: ResourceType, file: JobFile, error: KubeError) -> str:
    """Why the server gave no verdict; raises InvalidResourceError if it gave one, and `error` if it failed."""
    if isinstance(error, ForbiddenError) and error.status == 403 and not await _may_create(hub, kind, file.namespace):
        return NOT_ALLOWED.format(namespace=file.namespace)
    if error.status == 400 and "does not support dry run" in str(error):
        return NO_DRY_RUNS
    missing = isinstance(error, NotFoundError) and f'namespaces "{file.namespace}" not found' not in str(error)
    # A conflict is one of writers, such as of a quota that changed meanwhile: the next try may succeed.
    if not 400 <= error.status < 500 or error.status in (401, 409, 429) or missing:
        raise error
    text = str(error).split(f": {error.status}: ", 1)[-1]
    raise _invalid(f"{file.what}: rejected by the API server: {text}") from error


async def _may_create(hub: KubeClient, kind: ResourceType, namespace: str) -> bool:
    """Whether the user may create it, so that a 403 came from admission or a quota."""
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


def _refusal(kind: type[Resource], error: ValidationError) -> str:
    """``field: what to write`` of the first error; a pattern is put into the words that its field has for it."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    text = str(first["msg"])
    if first["type"] == "string_pattern_mismatch":
        schema = kind.model_json_schema(by_alias=True)
        text = next(_hints(schema, [schema], list(first["loc"])), text)
    return f"{path}: {text}, not {str(first['input'])[:64]!r}" if isinstance(first["input"], str) else f"{path}: {text}"


def _hints(root: JSONObject, nodes: Sequence[JSONObject], path: Sequence[int | str]) -> Iterator[str]:
    """The hints at the end of the path, through references, alternatives and lists."""
    from fedgpu_operator.api.base import HINT

    nodes = [each for node in nodes for each in _resolved(root, node)]
    if not path:
        yield from (str(node[HINT]) for node in nodes if HINT in node)
        return
    step, rest = path[0], path[1:]
    inner = [
        node["items"] if isinstance(step, int) else node["properties"][step]
        for node in nodes
        if ("items" in node if isinstance(step, int) else step in node.get("properties", {}))
    ]
    if inner:
        yield from _hints(root, inner, rest)


def _resolved(root: JSONObject, node: JSONObject) -> Iterator[JSONObject]:
    """The node, or what it refers to, or all of its alternatives."""
    if "$ref" in node:
        yield from _resolved(root, root["$defs"][node["$ref"].rsplit("/", 1)[-1]])
    elif "anyOf" in node:
        for each in node["anyOf"]:
            yield from _resolved(root, each)
    else:
        yield node
