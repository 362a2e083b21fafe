"""A key of ours or of a service that signs typed data; what is signed is made in settlement/."""

from __future__ import annotations

from typing import Protocol

from fedgpu_operator.settlement.typeddata import TypedData


class TypedSigner(Protocol):
    """A key that signs EIP-712 typed data; its address is public, the key never leaves it."""

    @property
    def address(self) -> str:
        """EIP-55 address of the key."""
        ...

    async def sign_typed(self, data: TypedData) -> bytes:
        """65 bytes r, s, v with v 27 or 28; raises ChainError if a remote signer refuses or is silent."""
        ...
