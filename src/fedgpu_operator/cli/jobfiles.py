"""ComputeJobs out of files as kubectl takes them: several documents, lists, folders, standard input; asks no server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedgpu_operator.errors import ConfigurationError, InvalidResourceError

if TYPE_CHECKING:
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.api.computejob import ComputeJob

SUFFIXES: Final = (".yaml", ".yml", ".json")
MOST_DOCUMENTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Asked:
    """One ComputeJob of a file: `document` is what an API server is sent, with its namespace; `what` names it."""

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
        from fedgpu_operator.cli.schemahints import refusal

        meta = self.document["metadata"]
        named = {**meta, "name": meta.get("name") or meta["generateName"]}
        try:
            spec = {} if self.stored is None else {"spec": self.stored}
            job = ComputeJob.model_validate({**self.document, **spec, "metadata": named, "status": {}})
        except ValidationError as error:
            raise InvalidResourceError("InvalidSpec", f"{self.what}: {refusal(ComputeJob, error)}") from error
        known = job.spec.model_dump(mode="json", by_alias=True)
        if unknown := next(unknown_fields(self.document.get("spec"), known), None):
            raise InvalidResourceError("InvalidSpec", f"{self.what}: spec.{unknown}: is no field of a ComputeJob")
        return job


@dataclass(frozen=True, slots=True)
class Found:
    """The jobs of some files, each with its namespace, and how many documents of other kinds stood beside them."""

    jobs: tuple[Asked, ...]
    others: int


def read_jobs(files: Sequence[str], given: str | None, own: str) -> Found:
    """Every ComputeJob of the files, in their order; ``-`` is standard input, a folder means the files in it.

    `given` is the namespace that was asked for, `own` the one for documents that name none. Raises ConfigurationError
    where a file cannot be read, is no YAML, or names another namespace than was asked for; InvalidResourceError that
    names file, object and field where a job has no name, or not our apiVersion.
    """
    from fedgpu_operator.api.computejob import ComputeJob

    jobs, others = [], 0
    for name, document in _documents(files):
        if document.get("kind") != ComputeJob.info.kind:
            others += 1
            continue
        jobs.append(_asked(name, document, given, own))
    if not jobs:
        raise ConfigurationError(f"no ComputeJob stands in {', '.join(files)}")
    return Found(tuple(jobs), others)


def _documents(files: Iterable[str]) -> Iterator[tuple[str, Mapping[str, object]]]:
    count = 0
    for name, text in _texts(files):
        for document in _loaded(name, text):
            for each in _members(document):
                if not isinstance(each, dict):
                    raise ConfigurationError(f"{name}: a document is no object with apiVersion and kind")
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
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigurationError(f"--file: {file} cannot be read: {reason}") from error


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeError as error:
        raise ConfigurationError("standard input is no text") from error


def _loaded(name: str, text: str) -> list[object]:
    import yaml

    from fedgpu_operator.cli.kubeyaml import KubeLoader

    try:
        return [each for each in yaml.load_all(text, KubeLoader) if each is not None]
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{name}: is not valid YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        # A tag such as !!int asks for a number of text that is none.
        raise ConfigurationError(f"{name}: holds a value that cannot be read: {error}; quote it") from error
    except RecursionError as error:
        raise ConfigurationError(f"{name}: is nested too deeply to be read") from error


def _members(document: object) -> Iterable[object]:
    if isinstance(document, dict) and document.get("kind") == "List" and isinstance(document.get("items"), list):
        members: list[object] = document["items"]
        return members
    return [document]


def _asked(file: str, document: Mapping[str, object], given: str | None, own: str) -> Asked:
    from fedgpu_operator.api.base import GROUP, VERSION

    meta = document.get("metadata")
    named = dict(meta) if isinstance(meta, dict) else {}
    name = named.get("name") or named.get("generateName")
    what = f"{file}: ComputeJob {name or '(no name)'}"
    if document.get("apiVersion") != f"{GROUP}/{VERSION}":
        raise InvalidResourceError("InvalidSpec", f"{what}: apiVersion: must be {GROUP}/{VERSION}")
    if not isinstance(name, str):
        raise InvalidResourceError("InvalidSpec", f"{what}: metadata.name: must be set")
    where = str(named.get("namespace") or given or own)
    if given and where != given:
        raise ConfigurationError(f"{what} names the namespace {where}, but -n asks for {given}: leave one of them out")
    whole = {**document, "metadata": {**named, "namespace": where}}
    try:
        json.dumps(whole, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{what} holds a value that JSON, and so an API server, has no form for") from error
    return Asked(what, whole)


def unknown_fields(given: object, known: object) -> Iterator[str]:
    """Paths of the fields in `given` that `known`, the same read and written again, does not have."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            if name not in known:
                yield str(name)
            else:
                yield from (f"{name}{_joined(path)}" for path in unknown_fields(value, known[name]))
    elif isinstance(given, list) and isinstance(known, list):
        for index, (one, other) in enumerate(zip(given, known, strict=False)):
            yield from (f"[{index}]{_joined(path)}" for path in unknown_fields(one, other))


def _joined(path: str) -> str:
    return path if path.startswith("[") else f".{path}"
