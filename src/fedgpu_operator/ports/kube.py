"""What is asked of one API server, how it serves a kind, and what a client that follows it holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from fedgpu_operator.api.base import GROUP, VERSION, JSONObject, KindInfo, Resource
from fedgpu_operator.api.computelease import ComputeLease


@dataclass(frozen=True, slots=True)
class ResourceType:
    """How an API server serves one kind."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool

    @classmethod
    def of(cls, info: KindInfo) -> ResourceType:
        """The type of one of our own kinds."""
        return cls(GROUP, VERSION, info.kind, info.plural, info.namespaced)

    @property
    def api_version(self) -> str:
        """``group/version``, or ``version`` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version


NAMESPACES = ResourceType("", "v1", "Namespace", "namespaces", namespaced=False)
NODES = ResourceType("", "v1", "Node", "nodes", namespaced=False)
PODS = ResourceType("", "v1", "Pod", "pods", namespaced=True)
SECRETS = ResourceType("", "v1", "Secret", "secrets", namespaced=True)
CONFIG_MAPS = ResourceType("", "v1", "ConfigMap", "configmaps", namespaced=True)
EVENTS = ResourceType("", "v1", "Event", "events", namespaced=True)
BATCH_JOBS = ResourceType("batch", "v1", "Job", "jobs", namespaced=True)
LEASES = ResourceType.of(ComputeLease.info)
COORDINATION_LEASES = ResourceType("coordination.k8s.io", "v1", "Lease", "leases", namespaced=True)
CRDS = ResourceType(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event of a watch; `object` is as the API server sent it."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: JSONObject


Listed: TypeAlias = tuple[list[JSONObject], str]
"""Objects, and the resourceVersion of the list that they are of."""


class Kube(Protocol):
    """One API server. Every method raises the KubeError tree and nothing else; UnreachableError means no answer."""

    async def get(self, kind: ResourceType, name: str, namespace: str = "") -> JSONObject:
        """The object; raises NotFoundError."""
        ...

    async def list(self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = "") -> Listed:
        """All objects (pages joined) and the resourceVersion of the list; no namespace means all namespaces."""
        ...

    def pages(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listed]:
        """What `list` returns, in pieces as it arrives: whoever keeps less than was sent never holds the whole.

        The last piece has the resourceVersion of the list; earlier ones may have an empty one.
        """
        ...

    def watch(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", resource_version: str
    ) -> AsyncIterator[WatchEvent]:
        """Events after that resourceVersion until the server ends the watch; raises GoneError when it is too old."""
        ...

    async def create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        """Create; raises AlreadyExistsError."""
        ...

    async def apply(self, kind: ResourceType, obj: JSONObject, *, force: bool = True) -> JSONObject:
        """Server-side apply as our field manager."""
        ...

    async def patch(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        """JSON merge patch of the object; put uid and resourceVersion into `metadata` to guard it (ConflictError)."""
        ...

    async def patch_status(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        """JSON merge patch of the status subresource; guarded in the same way."""
        ...

    async def delete(
        self, kind: ResourceType, name: str, namespace: str = "", *, uid: str = "", resource_version: str = ""
    ) -> None:
        """Ask for deletion (foreground); an absent object is success.

        Another uid or resourceVersion than the given one raises ConflictError.
        """
        ...

    async def server_version(self) -> str:
        """`gitVersion` of the API server."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class Reading(Generic[R]):
    """Objects of one kind at one moment, and the names of those that cannot be read."""

    objects: tuple[R, ...]
    unreadable: tuple[str, ...] = ()


@runtime_checkable
class Holding(Protocol):
    """What a client of an API server can do beside `Kube` where it follows our kinds by watches.

    An object that did not change is the very same one in every reading. A write through the same client is in the next
    reading; what others wrote may come late, so that only a guarded write or a `get` shows that nothing is newer.
    """

    async def reading(self, kind: type[R], namespace: str = "") -> Reading[R]:
        """All objects of a kind; raises a KubeError where none is known yet, or what is known is too old."""
        ...

    async def labels(self) -> dict[str, dict[str, str]]:
        """The labels of every namespace, by name; raises as `reading` does."""
        ...

    def read(self, kind: type[R], obj: JSONObject) -> R:
        """The answer to a request as an object, parsed only where it is not held; raises InvalidResourceError."""
        ...

    def answered(self, obj: Resource) -> float:
        """Seconds since the server answered us with this very object; infinite where only a watch told of it."""
        ...

    def claim(self, obj: Resource) -> bool:
        """Whether this very process made that ComputeLease and nobody has claimed it yet: True once, then False.

        Raises ConflictError while its creation is under way, when that cannot be said.
        """
        ...


def read_back(kube: Kube, kind: type[R], obj: JSONObject) -> R:
    """What a request of ours was answered, as the object that the next reading holds; raises InvalidResourceError."""
    return kube.read(kind, obj) if isinstance(kube, Holding) else kind.parse(obj)
