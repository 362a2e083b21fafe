"""Holds the ledger's hash chains to the newest epoch that the chain has: what was posted, nobody can take back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedgpu_operator.adapters.ledger import SqlLedger
    from fedgpu_operator.cli.options import TargetOptions
    from fedgpu_operator.domain.books import Epoch
    from fedgpu_operator.domain.transactions import PostedEpoch
    from fedgpu_operator.settlement.verify import EpochCheck


async def anchored(books: SqlLedger, given: TargetOptions) -> EpochCheck:
    """Whether the newest epoch's manifest is the posted one and names the heads that the ledger keeps for it.

    The audit of the ledger itself shows that those heads are where its chains passed. Raises the ChainError tree.
    """
    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.cli.target import find_target
    from fedgpu_operator.domain.books import EpochStage
    from fedgpu_operator.settlement.verify import EpochCheck

    stood = (EpochStage.FINALIZED, EpochStage.PAID)
    newest = next((each for each in await books.epochs() if each.chain_epoch and each.stage in stood), None)
    if newest is None or newest.chain_epoch is None:
        return EpochCheck("anchor", None, "no epoch of this ledger is on the chain yet")
    target = await find_target(given)
    async with EscrowClient(target.rpc, target.escrow, target.chain_id) as escrow:
        await escrow.verify()
        posted = await escrow.posted(newest.chain_epoch)
    return judge(newest, posted)


def judge(epoch: Epoch, posted: PostedEpoch | None) -> EpochCheck:
    """Compare the ledger's row of an epoch with its post; pure."""
    from eth_utils.crypto import keccak

    from fedgpu_operator.settlement.verify import EpochCheck

    number, manifest = epoch.chain_epoch, epoch.draft.manifest
    if posted is None:
        return EpochCheck(
            "anchor", False, f"the ledger says that epoch {number} was posted, the chain has no such epoch"
        )
    said = "0x" + keccak(manifest).hex()
    if said != posted.manifest_hash:
        return EpochCheck(
            "anchor",
            False,
            f"epoch {number}: the ledger's manifest has the hash {said}, posted was {posted.manifest_hash}",
        )
    try:
        head = json.loads(manifest)["ledger"]
    except (ValueError, KeyError, TypeError):
        return EpochCheck("anchor", False, f"epoch {number}: its manifest, though posted, cannot be read")
    if head != epoch.draft.ledger_head:
        return EpochCheck(
            "anchor", False, f"epoch {number}: the ledger keeps other heads for it than its manifest names"
        )
    if not head:
        return EpochCheck("anchor", None, f"epoch {number} names no heads: it is from before there were any")
    return EpochCheck(
        "anchor", True, f"epoch {number} pins all rows up to {_counted(head)}, posted by {posted.tx_hash}"
    )


def _counted(head: str) -> str:
    """``usage_records 5, receipts 2`` of the text of a ledger's heads."""
    from fedgpu_operator.domain.ledger import LedgerHead

    return ", ".join(f"{name} {each.length}" for name, each in sorted(LedgerHead.parse(head).chains.items()))
