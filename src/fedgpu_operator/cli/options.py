"""Options that several verbs share and that stand together, as dataclasses; no verb and no connection lives here."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_type_hints

import typer

from fedgpu_operator.errors import ConfigurationError

Command = Callable[..., None]

KeyFileOption = Annotated[Path | None, typer.Option("--key-file", help="File with your private key in hex.")]
KeystoreOption = Annotated[Path | None, typer.Option("--keystore", help="Your keystore (JSON), as geth writes it.")]
PasswordFileOption = Annotated[Path | None, typer.Option("--password-file", help="File with the keystore's password.")]
SignerURLOption = Annotated[str, typer.Option("--signer-url", help="A signer that speaks web3signer's HTTP.")]
SignerAddressOption = Annotated[str, typer.Option("--signer-address", help="The account that this signer signs for.")]

RpcOption = Annotated[
    str,
    typer.Option(
        "--rpc", envvar="FEDGPU_CHAIN_RPC_URL", help="JSON-RPC endpoint of the chain; several with commas between."
    ),
]
RpcCAOption = Annotated[
    Path | None,
    typer.Option(
        "--rpc-ca",
        envvar="FEDGPU_CHAIN_CA_FILE",
        help="PEM file of authorities that may sign for the endpoints, in addition to the usual ones.",
    ),
]
ChainIDOption = Annotated[
    int | None, typer.Option("--chain-id", envvar="FEDGPU_CHAIN_ID", min=1, help="Refuse any other chain.")
]
EscrowOption = Annotated[
    str,
    typer.Option(
        "--escrow", envvar="FEDGPU_ESCROW_ADDRESS", help="The ComputeEscrow contract; the hub's unless given."
    ),
]
OperatorNamespaceOption = Annotated[
    str,
    typer.Option("--operator-namespace", envvar="FEDGPU_NAMESPACE", help="Where the operator runs on the hub."),
]
ManifestOption = Annotated[
    str, typer.Option("--manifest", help="File or URL of the epoch's manifest; the hub's unless given.")
]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Return when it is sent, before it is final.")]


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """One way to sign: a key file, a keystore with its password's file, or a signer with its account."""

    key_file: KeyFileOption = None
    keystore: KeystoreOption = None
    password_file: PasswordFileOption = None
    signer_url: SignerURLOption = ""
    signer_address: SignerAddressOption = ""

    @property
    def given(self) -> bool:
        """Whether any of them is there."""
        return any(getattr(self, each.name) for each in dataclasses.fields(self))

    def check(self) -> None:
        """ConfigurationError unless exactly one way is given, and given in full."""
        if sum(map(bool, (self.key_file, self.keystore, self.signer_url or self.signer_address))) != 1:
            raise ConfigurationError("say who signs with exactly one of --key-file, --keystore and --signer-url")
        if bool(self.keystore) != bool(self.password_file):
            raise ConfigurationError("--keystore and --password-file belong together: give both")
        if bool(self.signer_url) != bool(self.signer_address):
            raise ConfigurationError("--signer-url and --signer-address belong together: give both")


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """Which escrow on which chain, and where the hub says so."""

    rpc: RpcOption = ""
    escrow: EscrowOption = ""
    chain_id: ChainIDOption = None
    operator_namespace: OperatorNamespaceOption = "fedgpu-system"
    context: Annotated[str | None, typer.Option("--context", help="Context of your kubeconfig; its current one.")] = (
        None
    )
    rpc_ca: RpcCAOption = None


def flat(command: Command) -> Command:
    """The command with the fields of its option groups as options of its own, after those that it declares itself.

    A parameter is a group where its annotation is a dataclass; typer knows nothing of such.
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
