"""Signs what the agent says of a lease's usage with the provider's receipt key; holds no key and decides no amount."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

from fedgpu_operator.api.computelease import ComputeLease, LeaseUsage
from fedgpu_operator.domain.usage import UsageReading
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.ports import TypedSigner
from fedgpu_operator.settlement.evidence import usage_statement
from fedgpu_operator.settlement.typeddata import SigningDomain, TypedData, escrow_domain, hub_domain, signed_by

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Signing:
    """With what a provider signs: its key, its payout wallet, and the escrow that both are meant for."""

    signer: TypedSigner
    payout: str
    chain_id: int
    escrow: str

    @property
    def usage_domain(self) -> SigningDomain:
        """Of usage records."""
        return hub_domain(self.chain_id, self.escrow)

    @property
    def receipt_domain(self) -> SigningDomain:
        """Of receipts."""
        return escrow_domain(self.chain_id, self.escrow)


def shown(usage: LeaseUsage) -> UsageReading | None:
    """The reading that a lease shows; None where it shows none, or one that nobody can have taken.

    Whatever stands in a status: its workload can still be stopped.
    """
    try:
        return usage.to_domain()
    except InvalidResourceError as error:
        log.warning("a reading is left out: %s", error)
        return None


class UsageSigner:
    """Signs usage, and knows which leases carry a signature of this very key already."""

    def __init__(self, signing: Signing) -> None:
        self._signing = signing
        self._sound: dict[str, str] = {}
        """Version by lease UID that was found to be signed: a look at a quiet lease costs no arithmetic."""

    async def signed(self, lease: ComputeLease, usage: LeaseUsage) -> LeaseUsage:
        """The usage with this key's signature; as it is before the first reading."""
        statement = self._statement(lease, usage)
        if statement is None:
            return usage
        signature = await self._signing.signer.sign_typed(statement)
        return usage.model_copy(update={"signature": "0x" + signature.hex()})

    def lacks(self, lease: ComputeLease) -> bool:
        """Whether the usage that the lease shows has no signature of this key: it had none, or it was another."""
        meta = lease.metadata
        if self._sound.get(meta.uid) == meta.resource_version:
            return False
        statement, signature = self._statement(lease, lease.status.usage), lease.status.usage.signature
        if statement is None:
            return False
        if not signature or not signed_by(self._signing.signer.address, statement.digest, signature):
            return True
        self._sound[meta.uid] = meta.resource_version
        return False

    def forget(self, keep: Collection[str]) -> None:
        """Drop what is known of all leases but those with these UIDs."""
        self._sound = {uid: version for uid, version in self._sound.items() if uid in keep}

    def _statement(self, lease: ComputeLease, usage: LeaseUsage) -> TypedData | None:
        reading = shown(usage)
        if reading is None:
            return None
        sequence = lease.spec.sequence_base + reading.sequence
        return usage_statement(self._signing.usage_domain, lease.metadata.name, sequence, reading)
