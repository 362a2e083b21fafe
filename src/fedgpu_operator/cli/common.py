"""Shared by all commands: options, connections to the hub and to an escrow, and output; holds no command."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, get_type_hints
from urllib.parse import urlsplit

import typer

from fedgpu_operator.errors import ChainMismatchError, ConfigurationError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.adapters.chain.endpoint import Patience
    from fedgpu_operator.adapters.chain.rpc import Addresses, Endpoints
    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.base import JSONObject

T = TypeVar("T")
Command = Callable[..., None]

OPERATOR_NAMESPACE: Final = "fedgpu-system"
LEDGER: Final = "/var/lib/fedgpu/ledger.db"


class Output(StrEnum):
    """Output format."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Output format.")]
ContextOption = Annotated[
    str | None, typer.Option("--context", help="Name of the kubeconfig context; default: the current one.")
]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace; default: that of the kubeconfig context.")
]
AllOption = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Show all namespaces.")]
OperatorNamespaceOption = Annotated[
    str,
    typer.Option("--operator-namespace", envvar="FEDGPU_NAMESPACE", help="Namespace of the operator on the hub."),
]

KeyFileOption = Annotated[Path | None, typer.Option("--key-file", help="File with your private key in hex.")]
KeystoreOption = Annotated[Path | None, typer.Option("--keystore", help="File with your keystore (JSON, as of geth).")]
PasswordFileOption = Annotated[Path | None, typer.Option("--password-file", help="File with the keystore's password.")]
SignerURLOption = Annotated[str, typer.Option("--signer-url", help="URL of a remote signer (web3signer's HTTP API).")]
SignerAddressOption = Annotated[str, typer.Option("--signer-address", help="Account that the remote signer signs for.")]

RpcOption = Annotated[
    str,
    typer.Option(
        "--rpc",
        envvar="FEDGPU_CHAIN_RPC_URL",
        help="URL of a JSON-RPC endpoint of the chain; separate several with commas.",
    ),
]
RpcCAOption = Annotated[
    Path | None,
    typer.Option(
        "--rpc-ca",
        envvar="FEDGPU_CHAIN_CA_FILE",
        help="PEM file of certificate authorities to trust for the endpoints, in addition to the public ones.",
    ),
]
ChainIDOption = Annotated[
    int | None, typer.Option("--chain-id", envvar="FEDGPU_CHAIN_ID", min=1, help="Id of the chain; refuse any other.")
]
EscrowOption = Annotated[
    str,
    typer.Option(
        "--escrow",
        envvar="FEDGPU_ESCROW_ADDRESS",
        help="Address of the ComputeEscrow contract; default: the one that the hub publishes.",
    ),
]
ManifestOption = Annotated[
    str,
    typer.Option("--manifest", help="File or URL of the epoch's manifest; default: the one that the hub publishes."),
]
NoWaitOption = Annotated[
    bool, typer.Option("--no-wait", help="Return when the transaction is sent; do not wait until it is final.")
]
LedgerOption = Annotated[
    str,
    typer.Option("--ledger", envvar="FEDGPU_LEDGER", help="Path, sqlite:/// or postgresql:// URL of the ledger."),
]

_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """One way to sign: a key file, a keystore with its password's file, or a remote signer with its account."""

    key_file: KeyFileOption = None
    keystore: KeystoreOption = None
    password_file: PasswordFileOption = None
    signer_url: SignerURLOption = ""
    signer_address: SignerAddressOption = ""

    @property
    def given(self) -> bool:
        """Whether any of them is given."""
        return any(getattr(self, each.name) for each in dataclasses.fields(self))

    def check(self) -> None:
        """ConfigurationError unless exactly one way is given, and given in full."""
        if sum(map(bool, (self.key_file, self.keystore, self.signer_url or self.signer_address))) != 1:
            raise ConfigurationError(
                "no single signer given: give exactly one of --key-file, --keystore and --signer-url"
            )
        if bool(self.keystore) != bool(self.password_file):
            raise ConfigurationError("incomplete keystore: give both --keystore and --password-file")
        if bool(self.signer_url) != bool(self.signer_address):
            raise ConfigurationError("incomplete remote signer: give both --signer-url and --signer-address")


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """Which escrow on which chain, and the hub that publishes it."""

    rpc: RpcOption = ""
    escrow: EscrowOption = ""
    chain_id: ChainIDOption = None
    operator_namespace: OperatorNamespaceOption = OPERATOR_NAMESPACE
    context: ContextOption = None
    rpc_ca: RpcCAOption = None


def flat(command: Command) -> Command:
    """The command with the fields of its option groups as options of its own, after those that it declares itself.

    A parameter is a group if its annotation is a dataclass; typer knows no such thing.
    """
    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters.values()
    groups = {each.name: hints[each.name] for each in own if dataclasses.is_dataclass(hints[each.name])}
    plain = [each.replace(annotation=hints[each.name]) for each in own if each.name not in groups]
    members = {name: [field.name for field in dataclasses.fields(group)] for name, group in groups.items()}

    def flattened(**given: object) -> None:
        parts = {
            name: groups[name](**{field: given.pop(field) for field in fields}) for name, fields in members.items()
        }
        command(**given, **parts)

    flattened.__name__, flattened.__doc__ = command.__name__, command.__doc__
    # typer asks inspect for the parameters, which asks this attribute first; a function type declares no such thing.
    added = [parameter for group in groups.values() for parameter in _parameters(group)]
    flattened.__dict__["__signature__"] = inspect.Signature([*plain, *added])
    flattened.__annotations__ = {}
    return flattened


def _parameters(group: type) -> list[inspect.Parameter]:
    hints, empty = get_type_hints(group, include_extras=True), inspect.Parameter.empty
    defaults = {
        field.name: empty if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(group)
    }
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
        for name, default in defaults.items()
    ]


def register(app: typer.Typer, name: str) -> Callable[[Command], Command]:
    """Decorator: make a function a command of `app`, with the options of its groups; see `flat`."""

    def added(command: Command) -> Command:
        app.command(name)(flat(command))
        return command

    return added


def usd(text: str) -> int:
    """An amount of money on the command line, in µUSD; typer.BadParameter if it is none."""
    from fedgpu_operator.domain.money import parse_usd

    try:
        return parse_usd(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def hours_or_days(option: str, text: str) -> timedelta:
    """``36h`` or ``7d``; ConfigurationError that names the option for anything else."""
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and unit in ("h", "d") and len(number) < 6):
        raise ConfigurationError(f"{option}: {text!r} is not a number of hours or days: give one such as 36h or 7d")
    return timedelta(hours=int(number)) if unit == "h" else timedelta(days=int(number))


def address(name: str, text: str) -> str:
    """The address with its checksum; ConfigurationError that names the option for anything else."""
    from eth_utils.address import to_checksum_address

    if not _ADDRESS.fullmatch(text):
        raise ConfigurationError(f"{name}: {text!r} is not an address: give 0x and 40 hex digits")
    spelt = str(to_checksum_address(text))
    # Mixed capitals are a checksum (EIP-55): if it is wrong, a digit was mistyped.
    if text[2:] not in (text[2:].lower(), text[2:].upper(), spelt[2:]):
        raise ConfigurationError(f"{name}: wrong checksum in address {text}: look for a mistyped digit")
    return spelt


def endpoints(rpc: str) -> tuple[str, ...]:
    """The endpoints of ``--rpc``; ConfigurationError if there is none, or one is not an http(s) URL."""
    urls = tuple(url for url in (part.strip() for part in rpc.split(",")) if url)
    if not urls:
        raise ConfigurationError("no chain endpoint given: name one with --rpc or FEDGPU_CHAIN_RPC_URL")
    for url in urls:
        # Its path may be a key, so it is not shown.
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
            raise ConfigurationError("--rpc: not a URL: give one such as https://HOST, several separated by commas")
    return urls


@dataclass(frozen=True, slots=True)
class Target:
    """An escrow, its chain, and the endpoints by which it is reached."""

    rpc: Endpoints
    escrow: str
    chain_id: int


async def find_target(given: TargetOptions, patience: Patience | None = None) -> Target:
    """Complete what was given: the escrow from the hub, the chain from the hub or else from the endpoint.

    Raises ConfigurationError that names the option to give if that fails, ChainMismatchError if the hub settles on
    another chain than the one given.
    """
    from fedgpu_operator.adapters.chain.rpc import Endpoints

    rpc = Endpoints(endpoints(given.rpc), given.rpc_ca)
    if given.escrow:
        return Target(rpc, address("--escrow", given.escrow), given.chain_id or await served_chain(rpc, patience))
    escrow, chain_id = await _published_escrow(given)
    if given.chain_id not in (None, chain_id):
        raise ChainMismatchError(f"--chain-id is {given.chain_id}, but the hub settles on chain {chain_id}")
    return Target(rpc, escrow, chain_id)


async def served_chain(rpc: Addresses, patience: Patience | None = None) -> int:
    """The id of the chain that the endpoints serve."""
    from fedgpu_operator.adapters.chain.rpc import Rpc

    async with Rpc(rpc, patience=patience) as connection:
        with connection.speaking("asking for the chain's id"):
            return int(await connection.w3.eth.chain_id)


async def _published_escrow(given: TargetOptions) -> tuple[str, int]:
    """Escrow and chain id as the operator on the hub publishes them for everybody."""
    from fedgpu_operator.errors import InvalidResourceError, KubeError
    from fedgpu_operator.hub.services.escrow import published

    try:
        async with open_hub(given.context) as hub:
            found = await published(hub, given.operator_namespace)
    except (ConfigurationError, InvalidResourceError, KubeError) as error:
        raise ConfigurationError(f"escrow not found on the hub: {error}; name it with --escrow") from error
    return address("the hub's escrow", found.escrow), found.chain_id


@asynccontextmanager
async def open_escrow(given: TargetOptions, *, verify: bool = False) -> AsyncIterator[EscrowClient]:
    """A reader of the escrow that was given, or that the hub publishes; with `verify` its code is checked first."""
    from fedgpu_operator.adapters.chain import EscrowClient

    target = await find_target(given)
    async with EscrowClient(target.rpc, target.escrow, target.chain_id) as escrow:
        if verify:
            await escrow.verify()
        yield escrow


@asynccontextmanager
async def open_hub(context: str | None, kubeconfig: Path | None = None) -> AsyncIterator[KubeClient]:
    """A connection with the user's own kubeconfig, or the one in that file. Raises ConfigurationError without one."""
    from fedgpu_operator.adapters.kube.connect import connect

    hub = await connect(context, file=kubeconfig)
    try:
        yield hub
    finally:
        await hub.close()


def with_hub(work: Callable[[KubeClient], Awaitable[T]], context: str | None, kubeconfig: Path | None = None) -> T:
    """Connect to the hub, or the cluster of that kubeconfig; do the work, disconnect. Raises the KubeError tree."""

    async def connected() -> T:
        async with open_hub(context, kubeconfig) as hub:
            return await work(hub)

    return asyncio.run(connected())


def namespace_of(context: str | None, given: str | None) -> str:
    """The namespace given, else that of the kubeconfig's context, else ``default``, as kubectl does.

    Raises ConfigurationError if the kubeconfig has no such context.
    """
    if given:
        return given
    from kubernetes.aio import config
    from kubernetes.aio.config.config_exception import ConfigException

    try:
        contexts, current = config.list_kube_config_contexts(config_file=os.environ.get("KUBECONFIG"))
    except (ConfigException, OSError) as error:
        raise ConfigurationError(f"kubeconfig cannot be loaded: {error}; set KUBECONFIG") from error
    chosen = [each for each in contexts if each["name"] == context] if context else [current]
    if not chosen:
        raise ConfigurationError(
            f"context {context!r} not found in your kubeconfig; `kubectl config get-contexts` lists them"
        )
    return str(chosen[0]["context"].get("namespace") or "default")


def print_data(output: Output, document: JSONObject, tables: Callable[[], Sequence[Table | str]]) -> None:
    """Print the document as JSON or YAML, or the tables that show the same to people.

    No text in it can steer the terminal, whoever wrote it: data escapes what could, tables replace it.
    """
    if output is Output.JSON:
        sys.stdout.write(_harmless(lambda plain: json.dumps(document, indent=2, ensure_ascii=not plain)) + "\n")
    elif output is Output.YAML:
        import yaml

        sys.stdout.write(_harmless(lambda plain: yaml.safe_dump(document, sort_keys=False, allow_unicode=plain)))
    else:
        from rich.console import Console

        # Without a terminal, a width that wraps nothing: what is piped is meant to be cut and searched.
        console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=220)
        from fedgpu_operator.domain.text import clean

        for each in tables():
            console.print(clean(each) if isinstance(each, str) else each, markup=False)


def _harmless(dump: Callable[[bool], str]) -> str:
    """The data with its characters as they are, or escaped if one of them is not safe to print."""
    from fedgpu_operator.domain.text import is_clean

    text = dump(True)
    return text if is_clean(text) else dump(False)


def say(text: str) -> None:
    """Report progress to the person, on standard error: standard output is for data."""
    from fedgpu_operator.domain.text import clean

    sys.stderr.write(clean(text) + "\n")
    sys.stderr.flush()


def plain_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table in kubectl's manner: capitals, no lines; `right` names the columns of figures.

    It cleans the texts of its cells.
    """
    from rich.table import Table

    from fedgpu_operator.domain.text import clean

    class CleanTable(Table):
        def add_row(self, *cells: RenderableType | None, **how: Any) -> None:
            super().add_row(*(clean(each) if isinstance(each, str) else each for each in cells), **how)

    table = CleanTable(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column in right)
    return table


def conditions_table(conditions: Sequence[JSONObject]) -> Table:
    """The conditions of an object's status."""
    table = plain_table("CONDITION", "STATUS", "REASON", "MESSAGE")
    for each in conditions:
        table.add_row(each["type"], each["status"], each["reason"], each.get("message") or "-")
    return table


def mark(holds: bool | None) -> str:
    """A sign in front of a finding; None if it could not be checked."""
    return "-" if holds is None else "✓" if holds else "✗"


def instant(at: datetime | int) -> str:
    """A date with time zone, or a Unix time, in UTC as of RFC 3339, to the second."""
    when = datetime.fromtimestamp(at, UTC) if isinstance(at, int) else at.astimezone(UTC)
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"


def duration_text(seconds: int) -> str:
    """A length of time in its two largest units, such as ``19d 4h``."""
    units = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
    parts = []
    for name, size in units:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{name}")
    return " ".join(parts[:2]) or "0s"
