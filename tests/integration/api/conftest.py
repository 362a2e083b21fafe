"""Fixtures for the kinds on a real API server: definitions installed, a namespace per test, objects to vary."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from fedgpu_lab import Cluster
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.crd import all_crds

OBJECTS = Path(__file__).with_name("objects")


@pytest.fixture(scope="session")
def installed(hub: Cluster) -> Cluster:
    """The hub with our kinds, installed as people are told to: by server-side apply."""
    documents = all_crds()
    hub.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(documents))
    names = [f"crd/{document['metadata']['name']}" for document in documents]
    hub.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    return hub


@dataclass(frozen=True)
class Desk:
    """A namespace of the hub, used as a person with kubectl would."""

    hub: Cluster
    namespace: str
    made: list[JSONObject] = field(default_factory=list)

    def kubectl(
        self, *args: str, document: Mapping[str, object] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        text = json.dumps(document) if document is not None else None
        return self.hub.kubectl("-n", self.namespace, *args, input=text, check=check)

    def create(self, document: Mapping[str, object], *options: str) -> JSONObject:
        """Create the object and answer what is stored then."""
        stored: JSONObject = json.loads(
            self.kubectl("create", "-o", "json", "-f", "-", *options, document=document).stdout
        )
        self.made.append(stored)
        return stored

    def clear(self) -> None:
        """Take away what was created: a provider or policy left behind would bind the jobs of other tests."""
        names = [f"{one['kind'].lower()}.fedgpu.dev/{one['metadata']['name']}" for one in self.made]
        if names:
            self.kubectl("delete", "--ignore-not-found", "--wait=false", *names)

    def refusal(self, document: Mapping[str, object]) -> str:
        """What a person reads whose object is refused; fails where it is taken."""
        answer = self.kubectl("create", "--dry-run=server", "-f", "-", document=document, check=False)
        assert answer.returncode != 0, f"accepted: {json.dumps(document)}"
        return answer.stderr

    def patch(self, stored: JSONObject, change: JSONObject, *options: str) -> subprocess.CompletedProcess[str]:
        """Merge `change` into the object; the answer may be a refusal."""
        target = f"{stored['kind'].lower()}.fedgpu.dev/{stored['metadata']['name']}"
        return self.kubectl("patch", target, "--type=merge", "-p", json.dumps(change), *options, check=False)

    def read(self, stored: JSONObject) -> JSONObject:
        """The object as it is stored now."""
        target = f"{stored['kind'].lower()}.fedgpu.dev/{stored['metadata']['name']}"
        found: JSONObject = json.loads(self.kubectl("get", target, "-o", "json").stdout)
        return found


@pytest.fixture
def desk(installed: Cluster, unique_name: Callable[[str], str]) -> Iterator[Desk]:
    namespace = unique_name("kinds")
    installed.create_namespace(namespace)
    own = Desk(installed, namespace)
    yield own
    own.clear()


@pytest.fixture(scope="session")
def counter(installed: Cluster) -> Desk:
    """Where objects are only judged, by dry runs that store nothing: it needs no namespace of its own."""
    return Desk(installed, "default")


@pytest.fixture
def sample(unique_name: Callable[[str], str]) -> Callable[[str, str], JSONObject]:
    """``sample("minimal", "ComputeJob")``: that object with a name of its own, free to be changed."""

    def load(size: str, kind: str) -> JSONObject:
        path = OBJECTS / size / f"{kind.lower()}.yaml"
        document: JSONObject = copy.deepcopy(yaml.safe_load(path.read_text(encoding="utf-8")))
        if document["metadata"]["name"] != "default":
            document["metadata"]["name"] = unique_name(kind.lower())
        return document

    return load
