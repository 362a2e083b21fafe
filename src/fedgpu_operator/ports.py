"""What the loops need from the outside world, as Protocols; adapters/ implements them, tests may replace them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar, runtime_checkable

from eth_typing import ChecksumAddress

from fedgpu_operator.api.base import GROUP, VERSION, JSONObject, KindInfo, Resource
from fedgpu_operator.domain.books import (
    Attempt,
    AttemptRequest,
    ChainTx,
    Coverage,
    Epoch,
    EpochDraft,
    EpochStage,
    LeaseUsage,
    PairLease,
    PairTotal,
    SettlementSnapshot,
    SignedUsage,
    TxState,
    UsageRecord,
)
from fedgpu_operator.domain.ledger import (
    BulkResult,
    Intent,
    IntentState,
    LedgerAudit,
    LedgerHead,
    Position,
    Posting,
    SignedReceipt,
    TrialBalance,
    UsageDispute,
    UsageDisputeState,
)
from fedgpu_operator.domain.market import PriceBucket, PricePoint, ProviderRecord
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import (
    Answer,
    ChainSnapshot,
    Claim,
    DisputeState,
    EpochPlan,
    EpochState,
    ExitState,
    Pair,
    Receipt,
    SignedTx,
    TxReceipt,
)
from fedgpu_operator.domain.terms import EscrowPeriods, Role
from fedgpu_operator.domain.transactions import Call, Fees, FeeView, Nonces, PostedEpoch
from fedgpu_operator.errors import LedgerError
from fedgpu_operator.settlement.typeddata import TypedData

if TYPE_CHECKING:
    # Not at run time: every verb of the command imports this module, and that one brings numpy along.
    from fedgpu_operator.placement.problem import Solution


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


class RoundTrips(Protocol):
    """Measures round trips to endpoints."""

    async def measure(self, url: str) -> float:
        """Seconds of one round trip on an open connection; raises UnreachableError."""
        ...


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


def read_back(kube: Kube, kind: type[R], obj: JSONObject) -> R:
    """What a request of ours was answered, as the object that the next reading holds; raises InvalidResourceError."""
    return kube.read(kind, obj) if isinstance(kube, Holding) else kind.parse(obj)


class TypedSigner(Protocol):
    """A key that signs EIP-712 typed data; its address is public, the key never leaves it."""

    @property
    def address(self) -> str:
        """EIP-55 address of the key."""
        ...

    async def sign_typed(self, data: TypedData) -> bytes:
        """65 bytes r, s, v with v 27 or 28; raises ChainError where a remote signer refuses or is silent."""
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

    async def open_many(self, requests: Sequence[AttemptRequest], at: datetime) -> tuple[Attempt | LedgerError, ...]:
        """`open_attempt` for each, in this order and in one transaction; an error where one alone would raise it."""
        ...

    async def histories(self, job_uids: Sequence[str]) -> dict[str, tuple[LeaseUsage, ...]]:
        """Every attempt of these jobs with its newest billed usage, oldest first; jobs without any are left out."""
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

    async def record_usage(
        self,
        lease_name: str,
        sequence: int,
        gpu_seconds: int,
        observed_at: datetime,
        *,
        signed: SignedUsage | None = None,
    ) -> bool:
        """Append cumulative billed usage; False where it was there already. The newest sequence is what counts."""
        ...

    async def record_many(self, records: Iterable[UsageRecord]) -> BulkResult:
        """Append many records in any order, all in one transaction; contradicting ones are reported, not lost."""
        ...

    async def dispute_usage(self, dispute: UsageDispute) -> bool:
        """Keep the disputed rest of a reading; False where it is held already."""
        ...

    async def rule_usage_dispute(
        self, lease_name: str, sequence: int, state: UsageDisputeState, note: str, at: datetime
    ) -> UsageDispute:
        """Close an open dispute of a reading."""
        ...

    async def usage_disputes(
        self, *, lease_name: str | None = None, tenant: str | None = None, open_only: bool = False
    ) -> tuple[UsageDispute, ...]:
        """Oldest first; `tenant` is a namespace."""
        ...

    async def append_receipt(
        self, receipt: Receipt, provider_signature: bytes, meter_signature: bytes, at: datetime
    ) -> bool:
        """Append a receipt; False where it is held already. Neither cumulative nor period end of a pair falls."""
        ...

    async def receipts(
        self, *, tenant: str | None = None, provider: str | None = None, newest_only: bool = True
    ) -> tuple[SignedReceipt, ...]:
        """Receipts by pair of wallets, the newest of each or all of them."""
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

    async def pair_leases(self, pair: Pair) -> tuple[PairLease, ...]:
        """Every lease between these two wallets, by name: what a receipt of the pair is made of."""
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

    async def transactions(
        self, *, epoch: int | None = None, intent: int | None = None, pending_only: bool = False
    ) -> tuple[ChainTx, ...]:
        """Oldest first."""
        ...

    async def open_intent(
        self,
        key: str,
        kind: str,
        epoch: int | None,
        sender: str,
        nonce: int,
        to: str,
        data: bytes,
        at: datetime,
    ) -> Intent:
        """Write down what is to be done before it is signed; the sender's open intent of that key stands as it is."""
        ...

    async def close_intent(self, intent: int, state: IntentState) -> Intent:
        """Done where a version is finalized; Dead only where every version is final and none is."""
        ...

    async def intents(self, *, sender: str | None = None, open_only: bool = False) -> tuple[Intent, ...]:
        """Oldest first."""
        ...

    async def post(
        self, positions: Iterable[Position], at: datetime, *, block: int | None = None
    ) -> tuple[Posting, ...]:
        """Append what changed since the last positions as double entries; those of an older block change nothing."""
        ...

    async def trial_balance(self) -> TrialBalance:
        """Whether all that was ever posted sums to zero."""
        ...

    async def balances(self) -> dict[str, int]:
        """The balance of each account, in µUSD."""
        ...

    async def postings(self, *, account: str | None = None, limit: int = 100) -> tuple[Posting, ...]:
        """Newest first."""
        ...

    async def record_prices(self, points: Iterable[PricePoint]) -> int:
        """Keep market prices, rolled up by minute, hour and day; how many there were."""
        ...

    async def forget_prices(self, now: datetime) -> int:
        """Drop prices that are older than their kind is kept; how many."""
        ...

    async def price_history(
        self, since: datetime, *, span: int = 3600, product: str | None = None, region: str | None = None
    ) -> tuple[PriceBucket, ...]:
        """Prices by product, region and time, in buckets of 60, 3,600 or 86,400 seconds."""
        ...

    async def provider_records(self, since: datetime | None = None) -> tuple[ProviderRecord, ...]:
        """How attempts ended, by provider, product and outcome: all, or those that ended since then."""
        ...

    async def head(self) -> LedgerHead:
        """The ends of the hash chains now: kept with an epoch, they bind everything before it."""
        ...

    async def verify(self) -> LedgerAudit:
        """Read everything and find any row that was altered, removed, put in or moved."""
        ...

    async def close(self) -> None:
        """Close the database."""
        ...


class Escrow(Protocol):
    """The escrow on its chain. Every method returns at once and raises the ChainError tree and nothing else.

    ChainUnreachableError means unknown: no answer, or endpoints that do not agree. It never means "not done".
    """

    escrow: ChecksumAddress
    """Address of the contract."""
    chain_id: int
    """EIP-155 chain id."""

    @property
    def address(self) -> str | None:
        """Whose signatures it sends; None for a reader."""
        ...

    async def verify(self) -> None:
        """Raises ChainMismatchError unless chain, code and decimals are the expected ones."""
        ...

    async def snapshot(self, tenants: Sequence[str], pairs: Sequence[Pair]) -> ChainSnapshot:
        """Accounts and books at the newest finalized block."""
        ...

    async def finalized_epoch(self, number: int) -> EpochState:
        """One epoch at the newest finalized block; all zero where it does not exist there."""
        ...

    async def periods(self) -> EscrowPeriods:
        """The contract's periods, which never change."""
        ...

    async def holds_role(self, role: Role, account: str) -> bool:
        """Whether an account holds a role of the escrow at the newest finalized block."""
        ...

    async def signer_of(self, provider: str) -> str:
        """Whose signature a provider's receipts need at the newest finalized block; itself where it named nobody."""
        ...

    async def posted(self, number: int) -> PostedEpoch | None:
        """How an epoch was posted, by finalized blocks alone; None where it does not exist there."""
        ...

    async def disputes(self) -> tuple[DisputeState, ...]:
        """The disputes that are open at the newest finalized block, oldest first."""
        ...

    async def exits(self) -> tuple[ExitState, ...]:
        """The exits that are open at the newest finalized block, oldest first."""
        ...

    async def is_valid_signature(self, address: str, digest: bytes, signature: bytes) -> bool:
        """Whether a contract at that address calls the signature its own (ERC-1271); False where no contract is."""
        ...

    def call_post(self, plan: EpochPlan) -> Call:
        """Post a plan as the settler; encoding needs no connection, here and below."""
        ...

    def call_claim(self, epoch: int, claims: Sequence[Claim]) -> Call:
        """Have the active epoch's leaves paid to their providers."""
        ...

    def call_close(self, epoch: int, tenant: str, provider: str) -> Call:
        """End a dispute that is decided; the provider is the zero address where none was named."""
        ...

    def call_answer(self, epoch: int, tenant: str, provider: str, answers: Sequence[Answer]) -> Call:
        """Show the receipts that back a disputed amount."""
        ...

    async def simulate(self, call: Call) -> int:
        """The gas limit to give a call; RevertedError where the contract would refuse it now."""
        ...

    async def sign(self, call: Call, nonce: int, fees: Fees) -> SignedTx:
        """Sign a call whose gas is set; sends nothing."""
        ...

    async def self_transfer(self, nonce: int, fees: Fees) -> SignedTx:
        """Sign nothing to oneself, which frees a nonce that something else holds; sends nothing."""
        ...

    async def broadcast(self, signed: SignedTx) -> str:
        """Send signed bytes, or the same again; ChainError where every endpoint refuses them."""
        ...

    async def nonces(self, account: str) -> Nonces:
        """The next nonce of an account, by finalized blocks, by all blocks, and by what waits in pools."""
        ...

    async def suggest_fees(self) -> FeeView:
        """What the chain asks now."""
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
        """A pass of a loop, or its work on one object, ended with an error."""
        ...

    def billed(self, provider: str, gpu_seconds: int) -> None:
        """Newly billed usage of one provider."""
        ...

    def moved(self, reason: str) -> None:
        """One running job was told to go, for that reason."""
        ...

    def jobs(self, by_state: dict[str, int]) -> None:
        """How many jobs there are in each state."""
        ...

    def paid(self, micro_usd: MicroUSD) -> None:
        """Paid on chain, seen at finalized."""
        ...

    def solved(self, solution: Solution) -> None:
        """One solve: how far it can be from the best, whether that is proven, and how many rounds it took."""
        ...

    def market(self, prices: Sequence[PricePoint]) -> None:
        """What GPUs cost now, by product and region; those of earlier calls are gone."""
        ...
