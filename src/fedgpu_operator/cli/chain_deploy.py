"""``fedgpu chain deploy``: the contracts for a settlement of your own, and the chart's values for them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.chain_terms import PeriodOptions, RoleOptions, periods_of, roles_of
from fedgpu_operator.cli.common import Output, OutputOption, plain_table, print_data
from fedgpu_operator.cli.options import ChainIDOption, KeyOptions, RpcOption
from fedgpu_operator.cli.wallets import lasting, say
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.chain import Periods, Roles, Signer
    from fedgpu_operator.adapters.chain.rpc import Rpc
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.domain.settlement import Deployment

GAS: Final = 12_000_000
"""More than the contracts take together, measured on anvil: refuse before the first of them is paid for."""
LEAST_DECIMALS, MOST_DECIMALS = 6, 18


def deploy(
    roles: RoleOptions,
    periods: PeriodOptions,
    keys: KeyOptions,
    rpc: RpcOption = "",
    chain_id: ChainIDOption = None,
    token: Annotated[str, typer.Option("--token", help="The ERC-20 stablecoin that money is held in.")] = "",
    test_token: Annotated[
        bool, typer.Option("--test-token", help="Deploy a token that anybody can mint: for trials only.")
    ] = False,
    values: Annotated[Path | None, typer.Option("--values", help="Write the chart's values to this new file.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Deploy escrow, stake and the timelock that alone may change their roles; a deployment cannot be changed later."""
    keys.check()
    if bool(token) == test_token:
        raise ConfigurationError("say what money is held in: --token, or --test-token for a trial")
    if values is not None and values.exists():
        raise ConfigurationError(f"--values: {values} is there already, and is not overwritten")
    document = asyncio.run(_deployed(roles, periods, keys, rpc, chain_id, token))
    if values is not None:
        values.write_text(helm_values(document, rpc), encoding="utf-8")
        say(f"values for the chart are in {values}")
    print_data(output, document, lambda: text_of(document))


async def _deployed(
    given: RoleOptions, periods: PeriodOptions, keys: KeyOptions, rpc: str, chain_id: int | None, token: str
) -> JSONObject:
    from fedgpu_operator.adapters.chain import deploy as deploy_contracts
    from fedgpu_operator.cli.keys import signer_from
    from fedgpu_operator.cli.target import address, endpoints, served_chain

    urls = endpoints(rpc)
    signer = await signer_from(keys)
    try:
        roles, when = roles_of(given, str(signer.address)), periods_of(periods)
        served = await served_chain(urls)
        if chain_id not in (None, served):
            raise ConfigurationError(f"--rpc serves chain {served}, asked for is {chain_id}")
        coin = address("--token", token) if token else None
        await _affordable(urls, signer, served, coin)
        say(f"deploying to chain {served} from {signer.address}")
        found = await deploy_contracts(urls, signer, roles, when, token=coin, progress=say, chain_id=served)
    finally:
        await signer.aclose()
    await _check(urls, found)
    return document_of(found, roles, when)


async def _affordable(urls: tuple[str, ...], signer: Signer, chain_id: int, token: str | None) -> None:
    """Refuse, before anything is paid for, what a deployment would fail on: no coins, or no token."""
    from fedgpu_operator.adapters.chain.chainview import fees_asked
    from fedgpu_operator.adapters.chain.rpc import Rpc

    async with Rpc(urls, chain_id=chain_id) as rpc:
        view = await fees_asked(rpc)
        with rpc.speaking("reading a balance"):
            coins = await rpc.w3.eth.get_balance(signer.address)
        needed = GAS * (view.base_fee + view.tip)
        if coins < needed:
            has = f"{coins / 10**18:.6f} coins of chain {chain_id}"
            raise ConfigurationError(f"{signer.address} has {has}; deploying takes up to {needed / 10**18:.6f}")
        if token is not None:
            await _usable(rpc, token, chain_id)


async def _usable(rpc: Rpc, token: str, chain_id: int) -> None:
    from eth_utils.address import to_checksum_address

    from fedgpu_operator.adapters.chain.calls import contract_at
    from fedgpu_operator.errors import ChainError, ChainUnreachableError

    coin = contract_at(rpc, to_checksum_address(token), "TestUSD")
    try:
        with rpc.speaking("reading the token"):
            decimals = await coin.functions.decimals().call()
    except ChainUnreachableError:
        raise
    except ChainError as error:
        raise ConfigurationError(f"--token: {token} on chain {chain_id} is no ERC-20 token: {error}") from error
    if not LEAST_DECIMALS <= decimals <= MOST_DECIMALS:
        raise ConfigurationError(
            f"--token: {token} has {decimals} decimals; the escrow takes {LEAST_DECIMALS} to {MOST_DECIMALS}"
        )


async def _check(urls: tuple[str, ...], found: Deployment) -> None:
    from fedgpu_operator.adapters.chain import EscrowClient

    async with EscrowClient(urls, found.escrow, found.chain_id) as escrow:
        await escrow.verify()


def document_of(found: Deployment, roles: Roles, periods: Periods) -> JSONObject:
    """A deployment as data; periods in seconds."""
    least = {"notice": periods.least_notice, "unbonding": periods.least_unbonding}
    names = ("challenge", "ruling", "exit_after", "longest_epoch", "notice", "unbonding", "lock", "timelock")
    return {
        "chainID": found.chain_id,
        "block": found.block,
        "contracts": {
            "escrow": found.escrow,
            "stake": found.stake,
            "timelock": found.timelock,
            "batch": found.batch,
            "token": found.token,
        },
        "roles": {
            "settler": roles.settler,
            "meter": roles.meter,
            "arbiter": roles.arbiter,
            "guardian": roles.guardian,
            "reserve": roles.reserve,
            "owners": list(roles.owners),
        },
        "periods": {name: least[name] if getattr(periods, name) is None else getattr(periods, name) for name in names},
    }


def text_of(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    contracts = plain_table("CONTRACT", "ADDRESS")
    for name, at in document["contracts"].items():
        contracts.add_row(name, at)
    roles = plain_table("ROLE", "HELD BY")
    for name, who in document["roles"].items():
        roles.add_row(name, ", ".join(who) if isinstance(who, list) else who)
    periods = plain_table("PERIOD", "LENGTH")
    for name, seconds in document["periods"].items():
        periods.add_row(name.replace("_", " "), lasting(seconds))
    head = f"deployed to chain {document['chainID']} after block {document['block']}"
    return [head, "", contracts, "", roles, "", periods]


def helm_values(document: JSONObject, rpc: str) -> str:
    """The chart's values for this deployment as YAML; an endpoint with a key in its URL stays out of it."""
    from urllib.parse import urlsplit

    import yaml

    parts = [urlsplit(url.strip()) for url in rpc.split(",") if url.strip()]
    secret = any(part.username or part.password or part.query or part.path.strip("/") for part in parts)
    settler, longest = {"keySecret": {"name": "fedgpu-settler"}}, document["periods"]["longest_epoch"]
    chain: JSONObject = {
        "enabled": True,
        **({"rpcURLSecret": {"name": "fedgpu-rpc"}} if secret else {"rpcURL": rpc}),
        "chainID": document["chainID"],
        "escrowAddress": document["contracts"]["escrow"],
        "epochSeconds": min(3600, longest),
        "maxEpochSeconds": longest,
        "settler": settler,
        "meterKeySecret": {"name": "fedgpu-meter"},
    }
    needed = [f"# Secret fedgpu-settler: key of {document['roles']['settler']} under `key`."]
    needed.append(f"# Secret fedgpu-meter: key of {document['roles']['meter']} under `key`.")
    if secret:
        needed.append("# Secret fedgpu-rpc: the endpoint under `url`; its address may carry a key, so it is not here.")
    head = [f"# Written by `fedgpu chain deploy` for chain {document['chainID']}. Needs in the release's namespace:"]
    return "\n".join([*head, *needed]) + "\n" + yaml.safe_dump({"chain": chain}, sort_keys=False)
