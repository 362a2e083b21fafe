"""What one provider got out of the escrow, and still can: by the contract's books and log alone, at finalized."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from eth_typing import ChecksumAddress, HexStr
from eth_utils.address import to_checksum_address

from fedgpu_operator.adapters.chain import calls
from fedgpu_operator.adapters.chain.chainview import block_at, first_block_since
from fedgpu_operator.adapters.chain.logreader import LogReader
from fedgpu_operator.adapters.chain.receipts import events_of
from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import ChainUnreachableError

TRIES: Final = 5
"""How often the log is asked for at one block when no answer comes."""
PAUSE_S: Final = 1.0
"""Between two of these: public endpoints count requests by the second."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a provider is paid to, whose signature its receipts need, and what waits to be collected by it."""

    provider: str
    payee: str
    signer: str
    owed: MicroUSD


async def standing_of(rpc: Rpc, escrow: str, provider: str) -> Standing:
    """Read at the newest block; both addresses are the provider's own where it never named others."""
    contract, who = calls.contract_at(rpc, to_checksum_address(escrow)), to_checksum_address(provider)

    async def read(name: str) -> Any:
        with rpc.speaking(name):
            return await contract.functions[name](who).call()

    payee, signer, owed = await asyncio.gather(read("payeeOf"), read("signerOf"), read("owed"))
    return Standing(who, str(payee), str(signer), MicroUSD(owed))


async def tenants_of(
    rpc: Rpc, escrow: str, provider: str, from_block: int | None = None, *, pause: float = PAUSE_S
) -> tuple[str, ...]:
    """The tenants from whom the provider was ever paid through finalized blocks, by address.

    `from_block` None begins where the escrow's first epoch was posted. Where no answer comes it goes on where it
    stopped after `pause` seconds, up to TRIES times without a step.
    """
    contract, who = calls.contract_at(rpc, to_checksum_address(escrow)), to_checksum_address(provider)
    final = (await block_at(rpc, "finalized")).number
    start = await _first(rpc, contract, final) if from_block is None else from_block
    found: set[str] = set()
    # In both events the provider is the second indexed value.
    topics: list[Any] = [[contract.events[name]().topic for name in ("LinePaid", "ExitFinished")], None, _word(who)]
    reader, silent = LogReader(rpc, contract.address), 0
    while start <= final:
        try:
            async for last, logs in reader.pieces(start, final, topics):
                for name in ("LinePaid", "ExitFinished"):
                    found |= {str(values["tenant"]) for values in events_of(name, logs, contract)}
                start, silent = last + 1, 0
        except ChainUnreachableError:
            silent += 1
            if silent == TRIES:
                raise
            await asyncio.sleep(pause)
    return tuple(sorted(found, key=str.lower))


async def _first(rpc: Rpc, contract: Any, final: int) -> int:
    """The block of the first post, or one before it; past the end where nothing was posted."""
    with rpc.speaking("reading the first epoch"):
        epoch, challenge = await asyncio.gather(
            contract.functions.epochOf(1).call(block_identifier=final), contract.functions.CHALLENGE().call()
        )
    if epoch.activeAt == 0:
        return final + 1
    # The settlement clock is never ahead of the real one.
    return await first_block_since(rpc, epoch.activeAt - challenge, 0, final)


def _word(address: ChecksumAddress) -> HexStr:
    return HexStr("0x" + address[2:].lower().rjust(64, "0"))
