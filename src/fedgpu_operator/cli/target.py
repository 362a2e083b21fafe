"""Which escrow on which chain a verb works on: what was given, else what the hub's operator says; decides nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from fedgpu_operator.errors import ChainMismatchError, ConfigurationError

if TYPE_CHECKING:
    from fedgpu_operator.adapters.chain.endpoint import Patience
    from fedgpu_operator.adapters.chain.rpc import Addresses, Endpoints
    from fedgpu_operator.cli.options import TargetOptions

_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Target:
    """An escrow, its chain, and the endpoints by which it is reached."""

    rpc: Endpoints
    escrow: str
    chain_id: int


def endpoints(rpc: str) -> tuple[str, ...]:
    """The endpoints of ``--rpc``; ConfigurationError where there is none, or one is no http(s) URL."""
    urls = tuple(url for url in (part.strip() for part in rpc.split(",")) if url)
    if not urls:
        raise ConfigurationError("name the chain's endpoint with --rpc, or in FEDGPU_CHAIN_RPC_URL")
    for url in urls:
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
            raise ConfigurationError("--rpc must be an http or https URL")
    return urls


def address(name: str, text: str) -> str:
    """The address in its one spelling; ConfigurationError that names the option for anything else."""
    from eth_utils.address import to_checksum_address

    if not _ADDRESS.fullmatch(text):
        raise ConfigurationError(f"{name}: {text!r} is not an address: write 0x and 40 hex digits")
    spelt = str(to_checksum_address(text))
    # Capitals are a checksum (EIP-55): where they stand and are wrong, a digit was mistyped.
    if text[2:] not in (text[2:].lower(), text[2:].upper(), spelt[2:]):
        raise ConfigurationError(f"{name}: the checksum of {text} is wrong: a digit may be mistyped")
    return spelt


async def find_target(given: TargetOptions, patience: Patience | None = None) -> Target:
    """Complete what was given: the escrow by the hub, the chain by the hub or else by the endpoint's own word.

    Raises ConfigurationError with the option to give where that fails, ChainMismatchError where the hub settles on
    another chain than was asked for.
    """
    from fedgpu_operator.adapters.chain.rpc import Endpoints

    rpc = Endpoints(endpoints(given.rpc), given.rpc_ca)
    if given.escrow:
        return Target(rpc, address("--escrow", given.escrow), given.chain_id or await served_chain(rpc, patience))
    escrow, chain_id = await _published(given)
    if given.chain_id not in (None, chain_id):
        raise ChainMismatchError(f"the hub settles on chain {chain_id}, asked for is {given.chain_id}")
    return Target(rpc, escrow, chain_id)


async def served_chain(rpc: Addresses, patience: Patience | None = None) -> int:
    """The id of the chain that the endpoints serve."""
    from fedgpu_operator.adapters.chain.rpc import Rpc

    async with Rpc(rpc, patience=patience) as connection:
        with connection.speaking("asking for the chain's id"):
            return int(await connection.w3.eth.chain_id)


async def _published(given: TargetOptions) -> tuple[str, int]:
    """Escrow and chain as the operator on the hub has published them for everybody."""
    from fedgpu_operator.adapters.kube.connect import connect
    from fedgpu_operator.errors import InvalidResourceError, KubeError
    from fedgpu_operator.hub.services.escrow import published

    try:
        hub = await connect(given.context)
        try:
            found = await published(hub, given.operator_namespace)
        finally:
            await hub.close()
    except (ConfigurationError, InvalidResourceError, KubeError) as error:
        raise ConfigurationError(f"name the escrow with --escrow, or let the hub say it: {error}") from error
    return address("the hub's escrow", found.escrow), found.chain_id
