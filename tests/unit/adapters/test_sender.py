"""What a signer sends: nothing unless its process leads."""

from __future__ import annotations

from typing import cast

import pytest

from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.adapters.chain.sender import TRANSFER_GAS, Sender
from fedgpu_operator.adapters.chain.signers import LocalSigner
from fedgpu_operator.domain.settlement import SignedTx
from fedgpu_operator.domain.transactions import Call, Fees
from fedgpu_operator.errors import NotLeaderError

KEY = "0x" + "11" * 32


async def test_without_the_lease_nothing_is_signed_or_sent() -> None:
    def lost() -> None:
        raise NotLeaderError("no")

    # Without a connection: what would ask for one fails with another error.
    sender = Sender(cast("Rpc", None), LocalSigner(KEY), 1, lost)
    with pytest.raises(NotLeaderError):
        await sender.sign(Call(sender.address, "0x", TRANSFER_GAS, "a transfer"), 0, Fees(max_fee=1, tip=1))
    signed = SignedTx(tx_hash="0x00", raw=b"", sender=sender.address, nonce=0, max_fee=1, tip=1)
    with pytest.raises(NotLeaderError):
        await sender.broadcast(signed)
