"""What the loops need from the outside world, as Protocols; adapters/ implements them, tests may replace them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from eth_typing import ChecksumAddress

from fedgpu_operator.api.base import GROUP, VERSION, JSONObject, KindInfo
from fedgpu_operator.domain.books import (
    Attempt,
    AttemptRequest,
    ChainTx,
    Coverage,
    Epoch,
    EpochDraft,
    EpochStage,
    LeaseUsage,
    PairTotal,
    SettlementSnapshot,
    TxState,
    UsageRecord,
)
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import (
    ChainSnapshot,
    Claim,
    EpochPlan,
    EpochState,
    Pair,
    SignedTx,
    TxReceipt,
)


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
EVENTS = ResourceType("", "v1", "Event", "events", namespaced=True)
JOBS = ResourceType("batch", "v1", "Job", "jobs", namespaced=True)
COORDINATION_LEASES = ResourceType("coordination.k8s.io", "v1", "Lease", "leases", namespaced=True)
CRDS = ResourceType(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event of a watch; `object` is as the API server sent it."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: JSONObject


class Kube(Protocol):
    """One API server. Every method raises the KubeError tree and nothing else; UnreachableError means no answer."""

    async def get(self, kind: ResourceType, name: str, namespace: str = "") -> JSONObject:
        """The object; raises NotFoundError."""
        ...

    async def list(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> tuple[list[JSONObject], str]:
        """All objects (pages joined) and the resourceVersion of the list; no namespace means all namespaces."""
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

    async def delete(self, kind: ResourceType, name: str, namespace: str = "", *, uid: str = "") -> None:
        """Ask for deletion (foreground); an absent object is success; another uid raises ConflictError."""
        ...

    async def server_version(self) -> str:
        """`gitVersion` of the API server."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class Clock(Protocol):
    """Where the loops take the time from."""

    def now(self) -> datetime:
        """The present, timezone-aware UTC."""
        ...


class Ledger(Protocol):
    """The books. Every method raises LedgerError on a contradiction and nothing else; all appends are idempotent."""

    async def open_attempt(self, request: AttemptRequest, at: datetime) -> Attempt:
        """Hand out the next attempt, or the stored one for the same request; its terms are to be followed."""
        ...

    async def attempts(self, job_uid: str) -> tuple[Attempt, ...]:
        """All attempts of the job, oldest first."""
        ...

    async def open_attempts(self) -> tuple[LeaseUsage, ...]:
        """Every attempt that has not ended, with its newest billed usage."""
        ...

    async def end_attempt(self, lease_name: str, outcome: str, at: datetime) -> Attempt:
        """Close the attempt for good."""
        ...

    async def record_usage(self, lease_name: str, sequence: int, gpu_seconds: int, observed_at: datetime) -> bool:
        """Append cumulative billed usage; False where it was there already."""
        ...

    async def last_usage(self, lease_name: str) -> UsageRecord | None:
        """The newest record of the lease."""
        ...

    async def history(
        self, *, tenant: str | None = None, job_uid: str | None = None, limit: int = 100
    ) -> tuple[LeaseUsage, ...]:
        """Attempts with their newest billed usage, newest first."""
        ...

    async def pair_totals(self, tenant: str | None = None) -> tuple[PairTotal, ...]:
        """What each tenant owes each provider since the beginning."""
        ...

    async def settlement_snapshot(self) -> SettlementSnapshot:
        """One consistent read of all pairs and of the leases no live epoch covers to the end."""
        ...

    async def coverage(self, lease_name: str) -> Coverage:
        """How far the lease is settled."""
        ...

    async def store_epoch(self, draft: EpochDraft, at: datetime) -> Epoch:
        """Keep an epoch before it is posted."""
        ...

    async def epochs(self, limit: int = 100) -> tuple[Epoch, ...]:
        """Newest first."""
        ...

    async def mark_epoch(
        self,
        number: int,
        stage: EpochStage,
        *,
        chain_epoch: int | None = None,
        post_tx: str | None = None,
        skipped: Collection[str] = (),
    ) -> Epoch:
        """Move an epoch along its stages; leases of `skipped` tenant wallets are no longer covered by it."""
        ...

    async def store_tx(self, tx: ChainTx, at: datetime) -> None:
        """Keep signed bytes before they are broadcast."""
        ...

    async def mark_tx(self, tx_hash: str, state: TxState, block_number: int | None = None) -> None:
        """Note where a transaction stands."""
        ...

    async def transactions(self, *, epoch: int | None = None, pending_only: bool = False) -> tuple[ChainTx, ...]:
        """Oldest first."""
        ...

    async def close(self) -> None:
        """Close the database."""
        ...


class Escrow(Protocol):
    """The escrow on its chain. Every method returns at once and raises the ChainError tree and nothing else."""

    escrow: ChecksumAddress
    """Address of the contract."""
    chain_id: int
    """EIP-155 chain id."""

    async def verify(self) -> None:
        """Raises ChainMismatchError unless chain, code and decimals are the expected ones."""
        ...

    async def snapshot(self, tenants: Sequence[str], pairs: Sequence[Pair]) -> ChainSnapshot:
        """Accounts and books at the newest finalized block."""
        ...

    async def finalized_epoch(self, number: int) -> EpochState:
        """One epoch at the newest finalized block; all zero where it does not exist there."""
        ...

    async def prepare_post(self, plan: EpochPlan) -> SignedTx:
        """Simulate and sign an epoch without sending it."""
        ...

    async def prepare_claim(self, epoch: int, claims: Sequence[Claim]) -> SignedTx:
        """Simulate and sign a claim without sending it."""
        ...

    async def broadcast(self, signed: SignedTx) -> str:
        """Send signed bytes, or the same again."""
        ...

    async def finalized_nonce(self, sender: str) -> int:
        """How many transactions of that account are in finalized blocks: nonces below are used up for good."""
        ...

    async def receipt(self, tx_hash: str) -> TxReceipt | None:
        """What became of a transaction; None while it is in no block."""
        ...

    async def aclose(self) -> None:
        """Close the connection."""
        ...


class Metrics(Protocol):
    """What the loops count; labels are bounded sets only."""

    def decided(self, placed: int, refused: dict[str, int], seconds: float) -> None:
        """One placement pass: jobs placed, jobs refused by reason, duration."""
        ...

    def loop_failed(self, loop: str, reason: str) -> None:
        """A pass of a loop ended with an error."""
        ...

    def billed(self, provider: str, gpu_seconds: int) -> None:
        """Newly billed usage of one provider."""
        ...

    def jobs(self, by_state: dict[str, int]) -> None:
        """How many jobs there are in each state."""
        ...

    def paid(self, micro_usd: MicroUSD) -> None:
        """Paid on chain, seen at finalized."""
        ...
