"""``fedgpu chain deploy``: the contracts for a settlement of your own, and the chart's values for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli import wallets
from fedgpu_operator.cli.chain_terms import PeriodOptions, RoleOptions, periods_of, roles_of
from fedgpu_operator.cli.common import Output, OutputOption, plain_table, print_data
from fedgpu_operator.cli.journal import Entry, Journal, Mark, TxOutcome, canonical
from fedgpu_operator.cli.options import ChainIDOption, KeyOptions, RpcCAOption, RpcOption
from fedgpu_operator.cli.orders import Order, Orders, Outgoing
from fedgpu_operator.cli.wallets import first_block, instant, lasting, patience, say
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.chain import Periods, Roles, Signer
    from fedgpu_operator.adapters.chain.rpc import Addresses, Rpc
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.artifacts import ContractName
    from fedgpu_operator.domain.settlement import Deployment, SignedTx, TxReceipt
    from fedgpu_operator.domain.transactions import Call, Nonces

VERB: Final = "chain deploy"
GAS: Final = 12_000_000
"""More than the contracts take together, measured on anvil: refuse before the first of them is paid for."""
LEAST_DECIMALS, MOST_DECIMALS = 6, 18


def deploy(
    roles: RoleOptions,
    periods: PeriodOptions,
    keys: KeyOptions,
    rpc: RpcOption = "",
    rpc_ca: RpcCAOption = None,
    chain_id: ChainIDOption = None,
    token: Annotated[str, typer.Option("--token", help="The ERC-20 stablecoin that money is held in.")] = "",
    test_token: Annotated[
        bool, typer.Option("--test-token", help="Deploy a token that anybody can mint: for trials only.")
    ] = False,
    values: Annotated[Path | None, typer.Option("--values", help="Write the chart's values to this new file.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin another deployment, whatever was deployed or begun before.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Deploy escrow, stake and the timelock that alone may change their roles; a deployment cannot be changed later.

    Repeated with the same key, roles and periods, it goes on where it stopped and pays for no contract twice.
    """
    keys.check()
    if bool(token) == test_token:
        raise ConfigurationError("say what money is held in: --token, or --test-token for a trial")
    if values is not None and values.exists():
        raise ConfigurationError(f"--values: {values} is there already, and is not overwritten")
    document = asyncio.run(_deployed(roles, periods, keys, (rpc, rpc_ca), chain_id, token, fresh=fresh))
    if values is not None:
        values.write_text(helm_values(document, rpc), encoding="utf-8")
        say(f"values for the chart are in {values}")
    print_data(output, document, lambda: text_of(document))


async def _deployed(
    given: RoleOptions,
    periods: PeriodOptions,
    keys: KeyOptions,
    rpc: tuple[str, Path | None],
    chain_id: int | None,
    token: str,
    *,
    fresh: bool,
) -> JSONObject:
    from fedgpu_operator.adapters.chain import Deployer
    from fedgpu_operator.adapters.chain.rpc import Endpoints
    from fedgpu_operator.cli.keys import signer_from
    from fedgpu_operator.cli.target import address, endpoints, served_chain

    urls = Endpoints(endpoints(rpc[0]), rpc[1])
    signer = await signer_from(keys)
    roles, when = roles_of(given, str(signer.address)), periods_of(periods)
    served = await served_chain(urls, patience())
    if chain_id not in (None, served):
        raise ConfigurationError(f"--rpc serves chain {served}, asked for is {chain_id}")
    coin = address("--token", token) if token else None
    makes = Makes(Journal(served, str(signer.address)), say, order_of(roles, when, coin))
    async with (
        Deployer(
            urls, signer, chain_id=served, making=makes, patience=patience(), progress=say, poll=wallets.POLL_S
        ) as deployer,
        makes.journal.locked(say),
    ):
        makes.journal.open(await first_block(deployer))
        if fresh:
            makes.journal.drop(VERB)
        orders = Orders(deployer, makes, None)
        await orders.look_back()
        # What is done on a copy of this chain is not done here.
        await orders.set_adrift(each for each in makes.so_far() if each.outcome is not None)
        makes.refuse_another()
        if makes.so_far():
            say(f"going on with the deployment to chain {served} from {signer.address}")
        else:
            await _affordable(urls, signer, served, coin)
            say(f"deploying to chain {served} from {signer.address}")
        makes.since = makes.begun_at() or await deployer.newest()
        try:
            with orders.judged():
                found = await deployer.deploy(roles, when, token=coin, since=makes.since)
            await _check(urls, found)
        except BaseException:
            # A key that was pressed, too: what is paid for must not be lost from sight.
            makes.tell_so_far()
            raise
        makes.journal.finish(VERB, makes.order)
    return document_of(found, roles, when)


def order_of(roles: Roles, periods: Periods, token: str | None) -> JSONObject:
    """What makes two deployments the same."""
    return {"roles": {**asdict(roles), "owners": list(roles.owners)}, "periods": asdict(periods), "token": token}


class Makes(Outgoing):
    """What was signed for one deployment, contract by contract; `since` is a block before the first."""

    def __init__(self, journal: Journal, tell: Callable[[str], None], order: JSONObject) -> None:
        super().__init__(journal, tell)
        self.order = order
        self.since = 0
        self._next = Order(VERB, {}, "deploy")

    def earlier(self, step: ContractName, data: str) -> SignedTx | None:
        from eth_utils.crypto import keccak

        arguments = {**self.order, "step": step, "code": keccak(hexstr=data).hex()}
        self._next = Order(VERB, arguments, f"deploy {step}", details={"since": self.since})
        mine = [each for each in self.journal.of(VERB, arguments) if _counts(each)]
        self.kept = mine[-1] if mine else None
        return self.kept.signed if self.kept is not None else None

    def next_nonce(self, nonces: Nonces, source: str) -> int:
        with self.doing(self._next):
            return super().next_nonce(nonces, source)

    async def keep(self, call: Call, signed: SignedTx, number: int, block_hash: str) -> None:
        with self.doing(self._next):
            await super().keep(call, signed, number, block_hash)

    def seen(self, receipt: TxReceipt) -> None:
        self.journal.seen(receipt.tx_hash, Mark(receipt.block_number, receipt.block_hash))

    def so_far(self) -> list[Entry]:
        """What counts of this deployment, or may yet, in order."""
        return [each for each in self.journal.entries.values() if each.verb == VERB and self._mine(each)]

    def begun_at(self) -> int:
        """The block after which it began; 0 where it has not."""
        return min((int(each.details["since"]) for each in self.so_far()), default=0)

    def refuse_another(self) -> None:
        """ConfigurationError where a deployment of another kind was begun by this account and not finished."""
        finished = [canonical(each["arguments"]) for each in self.journal.finished if each["verb"] == VERB]
        others = [
            each
            for each in self.journal.entries.values()
            if each.verb == VERB and _counts(each) and not self._mine(each) and _order(each) not in finished
        ]
        if others:
            raise ConfigurationError(
                f"a deployment with other roles, periods or token was begun on {instant(others[0].at)} and is not "
                f"finished ({_contracts(others)}): repeat that command to go on with it, or begin another with --fresh"
            )

    def tell_so_far(self) -> None:
        """What exists and what may, for who must go on with it."""
        if found := self.so_far():
            self.tell(f"so far: {_contracts(found)}")
            self.tell("run the same command again to go on; contracts that are paid for are not paid for again")

    def _mine(self, entry: Entry) -> bool:
        return _counts(entry) and _order(entry) == canonical(self.order)


def _counts(entry: Entry) -> bool:
    gone = entry.dropped or entry.refused or entry.adrift
    return not gone and entry.outcome in (None, TxOutcome.SUCCEEDED)


def _order(entry: Entry) -> str:
    return canonical({name: value for name, value in entry.arguments.items() if name not in {"step", "code"}})


def _contracts(entries: Sequence[Entry]) -> str:
    from fedgpu_operator.adapters.chain.deploy import created_at

    return ", ".join(f"{each.arguments['step']} at {created_at(each.signed)} by {each.tx_hash}" for each in entries)


async def _affordable(urls: Addresses, signer: Signer, chain_id: int, token: str | None) -> None:
    """Refuse, before anything is paid for, what a deployment would fail on: no coins, or no token."""
    from fedgpu_operator.adapters.chain.rpc import Rpc, fees_asked

    async with Rpc(urls, chain_id=chain_id, patience=patience()) as rpc:
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


async def _check(urls: Addresses, found: Deployment) -> None:
    from fedgpu_operator.adapters.chain import EscrowClient

    async with EscrowClient(urls, found.escrow, found.chain_id, patience=patience()) as escrow:
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
        "firstBlock": document["block"],
        "batchAddress": document["contracts"]["batch"],
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
