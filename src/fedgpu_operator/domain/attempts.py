"""Attempts and their billed usage, as the ledger keeps them; values only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fedgpu_operator.domain.money import SECONDS_PER_HOUR, MicroUSD, accrue, charge


def lease_name(job_uid: str, attempt: int) -> str:
    """The name of everything that belongs to one attempt: `<jobUID>-<attempt>`."""
    return f"{job_uid}-{attempt}"


@dataclass(frozen=True, slots=True)
class AttemptRequest:
    """The terms under which a job asks for one more attempt.

    `request_id` names the decision that asks (any string the caller can repeat after a crash). `tenant` is the job's
    namespace, `provider` the GPUProvider's name. `price` is µUSD per GPU-hour, frozen here; `gpus` counts all
    replicas; `run_limit` is the most seconds that can be billed. The wallets are those of the moment: what was earned
    under them stays theirs, whatever account or provider objects say later; empty if nothing is settled on chain.
    """

    job_uid: str
    request_id: str
    tenant: str
    job_name: str
    provider: str
    product: str
    price: MicroUSD
    gpus: int
    run_limit: int
    tenant_wallet: str = ""
    provider_wallet: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """The hub's decision to stop an attempt: why, in one word, and when by the hub's clock."""

    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt as the ledger holds it: the terms never change; the stop, `ended_at` and `outcome` are set once."""

    terms: AttemptRequest
    attempt: int
    created_at: datetime
    ended_at: datetime | None = None
    outcome: str = ""
    stop: Stop | None = None

    @property
    def lease_name(self) -> str:
        """The lease and the member workload of this attempt."""
        return lease_name(self.terms.job_uid, self.attempt)

    @property
    def is_open(self) -> bool:
        """Whether the attempt may still run somewhere."""
        return self.ended_at is None


@dataclass(frozen=True, slots=True)
class SignedUsage:
    """What the provider's key signed of a reading: its own figure, which the hub may have clipped since.

    `sequence` is the agent's own count, `observed_at` Unix seconds, `usage_hash` a ``0x…`` hash of the detail, `signer`
    an EIP-55 address: with the lease's name all that the signature was made over, so anyone can check it again.
    """

    sequence: int
    gpu_seconds: int
    observed_at: int
    usage_hash: str
    signer: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """`gpu_seconds` is the cumulative billed usage of the lease at that sequence: its newest, or a usage checkpoint."""

    lease_name: str
    sequence: int
    gpu_seconds: int
    observed_at: datetime
    signed: SignedUsage | None = None


@dataclass(frozen=True, slots=True)
class AttemptUsage:
    """An attempt with its newest billed usage; sequence 0 if nothing was recorded yet."""

    attempt: Attempt
    gpu_seconds: int
    sequence: int

    @property
    def numerator(self) -> int:
        """Accrued µUSD·s/h, exact."""
        return accrue(self.attempt.terms.price, self.gpu_seconds)

    @property
    def cost(self) -> MicroUSD:
        """What this lease costs alone; money moves by pair, where rounding happens once for all its leases."""
        return charge(self.attempt.terms.price, self.gpu_seconds)


@dataclass(frozen=True, slots=True)
class PairTotal:
    """All that one tenant owes one provider between two wallets, ever: `numerator` in µUSD·s/h, exact."""

    tenant: str
    provider: str
    gpu_seconds: int
    numerator: int
    open_attempts: int
    ended_attempts: int
    tenant_wallet: str = ""
    provider_wallet: str = ""

    @property
    def cumulative(self) -> MicroUSD:
        """The figure of a receipt: rounded down once for the whole pair."""
        return MicroUSD(self.numerator // SECONDS_PER_HOUR)


@dataclass(frozen=True, slots=True)
class PairLease:
    """One lease of a pair of wallets with its newest record; without one it used nothing and was never observed.

    `price` is µUSD per GPU-hour, `open` whether its attempt may still run.
    """

    lease_name: str
    price: MicroUSD
    gpu_seconds: int
    observed_at: datetime | None
    open: bool


@dataclass(frozen=True, slots=True)
class UncoveredLease:
    """A lease whose billed usage is beyond what the live epochs cover, oldest first in a snapshot."""

    lease_name: str
    tenant: str
    provider: str
    price: MicroUSD
    gpu_seconds: int
    covered_gpu_seconds: int
    tenant_wallet: str = ""
    provider_wallet: str = ""
