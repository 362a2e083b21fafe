"""A hub that answers from a list of objects, and the command run in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from fedgpu_operator.adapters.kube import connect as connecting
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.cli import main
from fedgpu_operator.errors import KubeError, NotFoundError
from fedgpu_operator.ports import ResourceType

Listed = tuple[list[JSONObject], str]
Run = Callable[..., tuple[int, str, str]]


@dataclass
class FakeHub:
    """`objects` as an API server would send them; `error` is raised instead where it is set.

    `refusal` is raised for what a dry run would create, `defaults` are put into its spec; `may` answers the question
    what the asker's rights are.
    """

    objects: list[JSONObject] = field(default_factory=list)
    patches: list[JSONObject] = field(default_factory=list)
    error: KubeError | None = None
    refusal: KubeError | None = None
    defaults: JSONObject = field(default_factory=dict)
    may: bool | KubeError = True
    asked: list[JSONObject] = field(default_factory=list)
    closed: bool = False
    context: str | None = None
    file: Path | None = None

    async def get(self, kind: ResourceType, name: str, namespace: str = "") -> JSONObject:
        for each in (await self.list(kind, namespace))[0]:
            if each["metadata"]["name"] == name:
                return each
        raise NotFoundError(f'{kind.plural} "{name}" not found', status=404)

    async def list(self, kind: ResourceType, namespace: str = "", *, labels: str = "") -> tuple[list[JSONObject], str]:
        if self.error is not None:
            raise self.error
        found = [each for each in self.objects if each["kind"] == kind.kind and carries(each, labels)]
        return [each for each in found if namespace in ("", each["metadata"].get("namespace", ""))], "1"

    async def pages(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listed]:
        found, version = await self.list(kind, namespace, labels=labels)
        node = dict(each.split("=", 1) for each in fields.split(",") if each).get("spec.nodeName")
        yield [each for each in found if node is None or each["spec"].get("nodeName") == node], version

    async def try_create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        if self.error or self.refusal:
            raise self.error or self.refusal or AssertionError
        return {**obj, "spec": self.defaults | obj["spec"]}

    async def create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        """Answers a SelfSubjectAccessReview; remembers what was asked."""
        assert kind.kind == "SelfSubjectAccessReview"
        self.asked.append(obj["spec"]["resourceAttributes"])
        if isinstance(self.may, KubeError):
            raise self.may
        return {**obj, "status": {"allowed": self.may}}

    async def patch(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        """Merges into the spec alone; remembers what was asked."""
        found = await self.get(kind, name, namespace)
        self.patches.append(patch)
        found["spec"] = merged(found["spec"], patch["spec"])
        return found

    async def close(self) -> None:
        self.closed = True


def merged(value: JSONObject, patch: JSONObject) -> JSONObject:
    """As RFC 7386 has it."""
    result = dict(value)
    for key, change in patch.items():
        if change is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key) or {}, change) if isinstance(change, dict) else change
    return result


def carries(obj: JSONObject, selector: str) -> bool:
    """Whether the object has the one label asked for: ``name=value`` or ``name``; everything where none is."""
    name, _, value = selector.partition("=")
    labels = obj["metadata"].get("labels", {})
    return not selector or (name in labels and value in ("", labels[name]))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    """What the verbs connect to; the kubeconfig names the namespace `acme`."""
    fake = FakeHub()

    async def connect(context: str | None = None, *, file: Path | None = None) -> FakeHub:
        fake.context, fake.file = context, file
        return fake

    monkeypatch.setattr(connecting, "connect", connect)
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path, "https://127.0.0.1:1")))
    return fake


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a kubeconfig for a server and returns its path."""
    return lambda server: write_kubeconfig(tmp_path, server)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("offers", "-o", "json")`` → exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return run


def write_kubeconfig(folder: Path, server: str) -> Path:
    path = folder / "kubeconfig.yaml"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "contexts": [{"name": "main", "context": {"cluster": "hub", "user": "me", "namespace": "acme"}}],
        "clusters": [{"name": "hub", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": {"token": "none"}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path
