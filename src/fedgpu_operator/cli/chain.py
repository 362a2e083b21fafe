"""``fedgpu chain``: deploy the contracts of a settlement, and check deployed ones."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli import wallets
from fedgpu_operator.cli.common import (
    ChainIDOption,
    KeyOptions,
    Output,
    OutputOption,
    RpcCAOption,
    RpcOption,
    TargetOptions,
    address,
    duration_text,
    endpoints,
    instant,
    mark,
    open_escrow,
    plain_table,
    print_data,
    register,
    say,
    served_chain,
)
from fedgpu_operator.cli.journal import Entry, Journal, Mark, TxOutcome, canonical
from fedgpu_operator.cli.orders import Order, Orders, Outgoing
from fedgpu_operator.cli.wallets import first_block, patience, signer_from
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.chain import Periods, Roles, Signer
    from fedgpu_operator.adapters.chain.rpc import Addresses, Rpc
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.artifacts import ContractName
    from fedgpu_operator.domain.settlement import ChainSnapshot, Deployment, SignedTx, TxReceipt
    from fedgpu_operator.domain.terms import EscrowTerms, Role
    from fedgpu_operator.domain.transactions import Call, Nonces


VERB: Final = "chain deploy"
GAS: Final = 12_000_000
"""More than the contracts take together, measured on anvil: checked before the first of them is paid for."""
LEAST_DECIMALS, MOST_DECIMALS = 6, 18
_DURATION: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_LONGEST: Final = 366 * 86_400

app = typer.Typer(no_args_is_help=True, help="Deploy and check the contracts of a settlement.")


def period(text: str) -> int:
    """A duration on the command line, in seconds: days, hours, minutes and seconds in that order."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise typer.BadParameter(f"{text!r} is not a duration: give days, hours, minutes and seconds, such as 1d12h")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not 0 < total <= _LONGEST:
        raise typer.BadParameter(f"{text!r} is out of range: give more than 0s and at most a year")
    return total


@dataclass(frozen=True, slots=True)
class RoleOptions:
    """Who may do what at the new escrow; addresses."""

    settler: Annotated[str, typer.Option("--settler", help="Account that posts epochs: the operator's.")]
    meter: Annotated[str, typer.Option("--meter", help="Account that signs receipts for the hub; not the settler.")]
    arbiter: Annotated[
        str, typer.Option("--arbiter", help="Account that rules on disputes, only in the tenant's favour.")
    ]
    guardian: Annotated[
        str, typer.Option("--guardian", help="Account that cancels epochs in their window and can pause settlement.")
    ]
    owner: Annotated[
        list[str] | None,
        typer.Option("--owner", help="Account that changes roles through the timelock; repeatable; default: yours."),
    ] = None
    reserve: Annotated[
        str,
        typer.Option("--reserve", help="Account that receives lost bonds and slashed stake; default: the first owner."),
    ] = ""


@dataclass(frozen=True, slots=True)
class PeriodOptions:
    """The periods, which cannot be changed later."""

    challenge: Annotated[
        int | None, typer.Option(parser=period, metavar="TIME", help="Challenge window of an epoch; default: 1d.")
    ] = None
    ruling: Annotated[
        int | None,
        typer.Option(parser=period, metavar="TIME", help="Time for the arbiter to rule on a dispute; default: 3d."),
    ] = None
    exit_after: Annotated[
        int | None,
        typer.Option(
            parser=period, metavar="TIME", help="Time without a settler until providers can exit; default: 7d."
        ),
    ] = None
    longest_epoch: Annotated[
        int | None,
        typer.Option(parser=period, metavar="TIME", help="Longest period that an epoch covers; default: 7d."),
    ] = None
    notice: Annotated[
        int | None,
        typer.Option(
            parser=period, metavar="TIME", help="Notice period of withdrawals; default: the shortest that is safe."
        ),
    ] = None
    unbonding: Annotated[
        int | None,
        typer.Option(
            parser=period, metavar="TIME", help="Unbonding period of stake; default: the shortest that is safe."
        ),
    ] = None
    timelock_delay: Annotated[
        int | None,
        typer.Option(parser=period, metavar="TIME", help="Delay before a change of roles takes effect; default: 2d."),
    ] = None


def roles_of(given: RoleOptions, deployer: str) -> Roles:
    """The roles in full; ConfigurationError for a wrong address, or for roles of one account that must be apart."""
    from fedgpu_operator.adapters.chain import Roles

    owners = tuple(address("--owner", each) for each in given.owner or [deployer])
    named = {name: address(f"--{name}", getattr(given, name)) for name in ("settler", "meter", "arbiter", "guardian")}
    for one, other, why in (
        ("settler", "meter", "or one stolen key can post false usage and sign the receipts for it"),
        ("settler", "arbiter", "or the settler rules on disputes of its own epochs"),
        ("settler", "guardian", "or nobody can stop a stolen settler key"),
        ("meter", "arbiter", "or the arbiter rules on receipts that it signed"),
    ):
        if named[one] == named[other]:
            raise ConfigurationError(f"--{one} and --{other} must be different accounts, {why}")
    return Roles(**named, reserve=address("--reserve", given.reserve) if given.reserve else owners[0], owners=owners)


def periods_of(given: PeriodOptions) -> Periods:
    """The periods, with the contracts' defaults for those not given; ConfigurationError for one that is too short."""
    from fedgpu_operator.adapters.chain import Periods

    names = {"timelock_delay": "timelock"}
    fields = ("challenge", "ruling", "exit_after", "longest_epoch", "notice", "unbonding", "timelock_delay")
    chosen = {names.get(name, name): getattr(given, name) for name in fields if getattr(given, name) is not None}
    periods = Periods(**chosen)
    for name, least in (("notice", periods.least_notice), ("unbonding", periods.least_unbonding)):
        chosen_period = getattr(given, name)
        if chosen_period is not None and chosen_period < least:
            raise ConfigurationError(
                f"--{name}: {duration_text(chosen_period)} is too short for the other periods: "
                f"give at least {duration_text(least)}"
            )
    return periods


@register(app, "deploy")
def deploy(
    roles: RoleOptions,
    periods: PeriodOptions,
    keys: KeyOptions,
    rpc: RpcOption = "",
    rpc_ca: RpcCAOption = None,
    chain_id: ChainIDOption = None,
    token: Annotated[str, typer.Option("--token", help="Address of the ERC-20 stablecoin that money is held in.")] = "",
    test_token: Annotated[
        bool, typer.Option("--test-token", help="Deploy a token that anybody can mint, for trials only.")
    ] = False,
    values: Annotated[
        Path | None, typer.Option("--values", help="Write the Helm values for this deployment to a new file.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin a new deployment; do not resume an earlier one.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Deploy the contracts of a settlement.

    Escrow, stake, and the timelock that alone can change their roles; nothing else can be changed later. Run again with
    the same key, roles and periods, the command resumes and pays for no contract twice.
    """
    keys.check()
    if bool(token) == test_token:
        raise ConfigurationError("no single token given: give --token, or --test-token for a trial")
    if values is not None and values.exists():
        raise ConfigurationError(f"--values: file {values} exists and is not overwritten: name a new file")
    document = asyncio.run(_deployed(roles, periods, keys, (rpc, rpc_ca), chain_id, token, fresh=fresh))
    if values is not None:
        values.write_text(helm_values(document, rpc), encoding="utf-8")
        say(f"Helm values written to {values}")
    print_data(output, document, lambda: deployment_text(document))


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

    urls = Endpoints(endpoints(rpc[0]), rpc[1])
    signer = await signer_from(keys)
    roles, when = roles_of(given, str(signer.address)), periods_of(periods)
    served = await served_chain(urls, patience())
    if chain_id not in (None, served):
        raise ConfigurationError(f"--chain-id is {chain_id}, but --rpc serves chain {served}")
    coin = address("--token", token) if token else None
    makes = DeploymentOutbox(Journal(served, str(signer.address)), say, order_of(roles, when, coin))
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
        # What was deployed on a copy of this chain is not deployed here.
        await orders.set_adrift(each for each in makes.so_far() if each.outcome is not None)
        makes.refuse_another()
        if makes.so_far():
            say(f"resuming the deployment to chain {served} from {signer.address}")
        else:
            await _affordable(urls, signer, served, coin)
            say(f"deploying to chain {served} from {signer.address}")
        makes.since = makes.begun_at() or await deployer.newest()
        try:
            with orders.judged():
                found = await deployer.deploy(roles, when, token=coin, since=makes.since)
            await _verify(urls, found)
        except BaseException:
            # Ctrl-C as well: what is paid for must not be lost from sight.
            makes.tell_so_far()
            raise
        makes.journal.finish(VERB, makes.order)
    return deployment_document(found, roles, when)


def order_of(roles: Roles, periods: Periods, token: str | None) -> JSONObject:
    """What makes two deployments the same."""
    return {"roles": {**asdict(roles), "owners": list(roles.owners)}, "periods": asdict(periods), "token": token}


class DeploymentOutbox(Outgoing):
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
        """The block after which it began; 0 if it has not."""
        return min((int(each.details["since"]) for each in self.so_far()), default=0)

    def refuse_another(self) -> None:
        """ConfigurationError if this account began another deployment and did not finish it."""
        finished = [canonical(each["arguments"]) for each in self.journal.finished if each["verb"] == VERB]
        others = [
            each
            for each in self.journal.entries.values()
            if each.verb == VERB and _counts(each) and not self._mine(each) and _order(each) not in finished
        ]
        if others:
            raise ConfigurationError(
                f"unfinished deployment with other roles, periods or token, begun on {instant(others[0].at)} "
                f"({_contracts(others)}): run that command again to resume it, or begin a new one with --fresh"
            )

    def tell_so_far(self) -> None:
        """Report the contracts that exist or may exist, for whoever resumes the deployment."""
        if found := self.so_far():
            self.tell(f"so far: {_contracts(found)}")
            self.tell("run the same command again to resume; no contract is paid for twice")

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
    """ConfigurationError, before anything is paid for, if the account has too few coins or the token is unusable."""
    from fedgpu_operator.adapters.chain.rpc import Rpc, fees_asked

    async with Rpc(urls, chain_id=chain_id, patience=patience()) as rpc:
        view = await fees_asked(rpc)
        with rpc.speaking("reading a balance"):
            coins = await rpc.w3.eth.get_balance(signer.address)
        needed = GAS * (view.base_fee + view.tip)
        if coins < needed:
            has = f"{coins / 10**18:.6f} coins of chain {chain_id}"
            raise ConfigurationError(
                f"insufficient gas: {signer.address} has {has}, deploying takes up to {needed / 10**18:.6f}; "
                "send it some"
            )
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
        raise ConfigurationError(f"--token: {token} on chain {chain_id} is not an ERC-20 token: {error}") from error
    if not LEAST_DECIMALS <= decimals <= MOST_DECIMALS:
        raise ConfigurationError(
            f"--token: {token} has {decimals} decimals; use a token with {LEAST_DECIMALS} to {MOST_DECIMALS}"
        )


async def _verify(urls: Addresses, found: Deployment) -> None:
    from fedgpu_operator.adapters.chain import EscrowClient

    async with EscrowClient(urls, found.escrow, found.chain_id, patience=patience()) as escrow:
        await escrow.verify()


def deployment_document(found: Deployment, roles: Roles, periods: Periods) -> JSONObject:
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


def deployment_text(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    contracts = plain_table("CONTRACT", "ADDRESS")
    for name, at in document["contracts"].items():
        contracts.add_row(name, at)
    roles = plain_table("ROLE", "HELD BY")
    for name, who in document["roles"].items():
        roles.add_row(name, ", ".join(who) if isinstance(who, list) else who)
    periods = plain_table("PERIOD", "LENGTH")
    for name, seconds in document["periods"].items():
        periods.add_row(name.replace("_", " "), duration_text(seconds))
    head = f"deployed to chain {document['chainID']} after block {document['block']}"
    return [head, "", contracts, "", roles, "", periods]


def helm_values(document: JSONObject, rpc: str) -> str:
    """The Helm values for this deployment as YAML; an endpoint with a key in its URL stays out of it."""
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
        needed.append(
            "# Secret fedgpu-rpc: the endpoint under `url`; its URL may hold a key, so it is not written here."
        )
    head = [f"# Written by `fedgpu chain deploy` for chain {document['chainID']}. Needed in the release's namespace:"]
    return "\n".join([*head, *needed]) + "\n" + yaml.safe_dump({"chain": chain}, sort_keys=False)


@register(app, "check")
def check(
    target: TargetOptions,
    settler: Annotated[str, typer.Option("--settler", help="Check that this account is a settler.")] = "",
    meter: Annotated[str, typer.Option("--meter", help="Check that this account is a meter.")] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Check a deployed escrow. Exit 1 if its code, chain id, token or roles are not what is expected."""
    holders: dict[Role, str] = {"SETTLER": settler, "METER": meter}
    document = asyncio.run(_checked(target, holders))
    print_data(output, document, lambda: check_text(document))
    if not all(document["roles"].values()):
        raise typer.Exit(1)


async def _checked(given: TargetOptions, holders: dict[Role, str]) -> JSONObject:

    named = {role: address(f"--{role.lower()}", who) for role, who in holders.items() if who}
    async with open_escrow(given, verify=True) as escrow:
        chain = await escrow.snapshot([], [])
        held = {f"{who} is {role}": await escrow.holds_role(role, who) for role, who in named.items()}
        return check_document(chain, await escrow.terms(), held)


def check_document(chain: ChainSnapshot, terms: EscrowTerms, held: dict[str, bool]) -> JSONObject:
    """What was found, as data; periods in seconds."""
    return {
        "chainID": chain.chain_id,
        "escrow": chain.escrow,
        "block": chain.block_number,
        "code": "this version's ComputeEscrow",
        "token": {"address": terms.token, "symbol": terms.symbol, "decimals": terms.decimals},
        "reserve": terms.reserve,
        "periods": asdict(terms.periods),
        "headEpoch": chain.head_epoch,
        "paused": chain.paused,
        "roles": held,
    }


def check_text(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    token = document["token"]
    lines: list[Table | str] = [
        f"✓ chain {document['chainID']}, block {document['block']}, final",
        f"✓ {document['escrow']} holds {document['code']}",
        f"✓ token {token['symbol']} ({token['address']}) with {token['decimals']} decimals, as the escrow counts",
    ]
    lines += [f"{mark(holds)} {claim}" for claim, holds in document["roles"].items()]
    lines.append(f"newest epoch {document['headEpoch'] or 'none'}{', paused' if document['paused'] else ''}")
    table = plain_table("PERIOD", "LENGTH")
    for name, seconds in document["periods"].items():
        table.add_row(name.replace("_", " "), duration_text(seconds))
    return [*lines, "", table]
