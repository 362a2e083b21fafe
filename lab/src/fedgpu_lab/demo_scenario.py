"""What the demo plays: the files in examples/ as parsed objects, and what they ask of the lab; starts nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from fedgpu_lab.gpus import CATALOGUE, DESCRIBED, GpuNodes, describes
from fedgpu_lab.world import MemberSpec
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.placementpolicy import PlacementPolicy
from fedgpu_operator.domain.money import MicroUSD, parse_usd
from fedgpu_operator.errors import LabError

NODES: Final = "lab.fedgpu.dev/nodes"
DEPOSIT: Final = "lab.fedgpu.dev/deposit"
EXPECT: Final = "lab.fedgpu.dev/expect"
DURATION: Final = "lab.fedgpu.dev/duration"
TIER: Final = "fedgpu.dev/tier"
CENTRAL_TIERS: Final = ("gpu-cloud", "hyperscaler")
"""What the report compares with: the same jobs, if only clouds of that tier existed."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A namespace with its wallet and what the demo deposits for it."""

    namespace: str
    wallet: str
    deposit: MicroUSD


@dataclass(frozen=True, slots=True)
class Scenario:
    """All examples; `raw` keeps the documents as their authors wrote them, for judges that believe no model."""

    folder: Path
    providers: tuple[GPUProvider, ...]
    jobs: tuple[ComputeJob, ...]
    policies: tuple[PlacementPolicy, ...]
    tenants: tuple[Tenant, ...]
    namespaces: Mapping[str, Mapping[str, str]]
    raw: tuple[JSONObject, ...]

    @property
    def members(self) -> tuple[MemberSpec, ...]:
        """One member cluster for each provider, with the nodes that its annotation names."""
        return tuple(MemberSpec(each.metadata.name, nodes_of(each)) for each in self.providers)

    def policies_of(self, namespace: str) -> tuple[PlacementPolicy, ...]:
        """The policies whose selector matches the labels of that namespace."""
        labels = dict(self.namespaces.get(namespace, {}))
        return tuple(policy for policy in self.policies if policy.binds(labels))


APART: Final = frozenset({"first", "latency", "owners", "residency", "traces"})
"""Folders of examples that show one matter each and are no part of the demo's story."""


def find_examples() -> Path:
    """The examples of the checkout; LabError where the package runs without one."""
    folder = Path(__file__).resolve().parents[3] / "examples"
    if not (folder / "jobs").is_dir():
        raise LabError("the demo needs a checkout of the project: it applies the files in examples/")
    return folder


def load(folder: Path) -> Scenario:
    """Parse every example that the demo plays.

    Raises LabError for a file that is no YAML, InvalidResourceError for a bad object.
    """
    raw = tuple(_documents(folder))
    return Scenario(
        folder=folder,
        providers=tuple(GPUProvider.parse(each) for each in raw if each["kind"] == "GPUProvider"),
        jobs=tuple(ComputeJob.parse(each) for each in raw if each["kind"] == "ComputeJob"),
        policies=tuple(PlacementPolicy.parse(each) for each in raw if each["kind"] == "PlacementPolicy"),
        tenants=tuple(_tenant(ComputeAccount.parse(each)) for each in raw if each["kind"] == "ComputeAccount"),
        namespaces={
            each["metadata"]["name"]: each["metadata"].get("labels", {}) for each in raw if each["kind"] == "Namespace"
        },
        raw=raw,
    )


def nodes_of(provider: GPUProvider) -> tuple[GpuNodes, ...]:
    """The lab's nodes behind an offer, from an annotation such as ``h100=2x8/gke,l4=1x4`` (product=nodes x GPUs).

    What is behind a slash says whose labels name the GPUs.
    """
    text = provider.metadata.annotations.get(NODES, "")
    location = provider.spec.location
    groups = []
    for part in text.split(","):
        model, _, shape = part.strip().partition("=")
        shape, _, described = shape.partition("/")
        nodes, _, gpus = shape.partition("x")
        described = described or "discovery"
        shaped = nodes.isdecimal() and gpus.isdecimal()
        if model not in CATALOGUE or not shaped or not describes(described, model):
            raise LabError(
                f"GPUProvider {provider.metadata.name}: annotation {NODES} must read like 'h100=2x8/gke,l4=1x4' with "
                f"products among {', '.join(CATALOGUE)} and labels of {', '.join(DESCRIBED)}; {part!r} does not"
            )
        region = location.region or ""
        groups.append(
            GpuNodes.of(
                model,
                nodes=int(nodes),
                count_per_node=int(gpus),
                region=region,
                zone=f"{region}-a",
                described=described,
            )
        )
    return tuple(groups)


def expectation(job: ComputeJob) -> str:
    """How the demo expects the job to end: ``Succeeded``, ``DryRun``, or the reason of its refusal."""
    return job.metadata.annotations.get(EXPECT, "Succeeded")


def duration_of(job: ComputeJob) -> int:
    """Seconds that one replica runs in the lab."""
    return int(job.spec.template.metadata.annotations[DURATION].removesuffix("s"))


def _tenant(account: ComputeAccount) -> Tenant:
    deposit = account.metadata.annotations.get(DEPOSIT, "100")
    return Tenant(account.metadata.namespace, account.spec.wallet, parse_usd(deposit))


def _documents(folder: Path) -> Iterator[JSONObject]:
    for path in sorted(folder.rglob("*.yaml")):
        if path.relative_to(folder).parts[0] in APART:
            continue
        try:
            yield from (each for each in yaml.safe_load_all(path.read_text()) if each)
        except yaml.YAMLError as error:
            raise LabError(f"{path}: {error}") from error
