"""``fedgpu account prove`` and ``fedgpu provider prove``: a wallet signs who may use it; the hub stores that."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.common import (
    OPERATOR_NAMESPACE,
    ChainIDOption,
    ContextOption,
    EscrowOption,
    KeyOptions,
    NamespaceOption,
    OperatorNamespaceOption,
    address,
    namespace_of,
    with_hub,
)
from fedgpu_operator.cli.wallets import signer_from
from fedgpu_operator.errors import ConfigurationError, ForbiddenError

if TYPE_CHECKING:
    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.hub.services.escrow import Published
    from fedgpu_operator.ports import ResourceType
    from fedgpu_operator.settlement.typeddata import TypedData


@dataclass(frozen=True, slots=True)
class ProofOptions:
    """What to do with the signature, and what it is for if that cannot be read from the hub."""

    print_typed_data: Annotated[
        bool, typer.Option("--print-typed-data", help="Print what to sign as JSON, for a wallet elsewhere.")
    ] = False
    signature: Annotated[str, typer.Option("--signature", help="Store this signature, made elsewhere (0x…).")] = ""
    issued_at: Annotated[
        int | None, typer.Option("--issued-at", help="Date of --signature in Unix seconds, as printed with the data.")
    ] = None
    contract_wallet: Annotated[
        bool, typer.Option("--contract-wallet", help="Store --signature unchecked, for a contract wallet (ERC-1271).")
    ] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the proof; store nothing.")] = False
    hub: Annotated[str, typer.Option("--hub", help="UID of the hub; refuse any other.")] = ""
    chain_id: ChainIDOption = None
    escrow: EscrowOption = ""
    operator_namespace: OperatorNamespaceOption = OPERATOR_NAMESPACE

    def check(self, keys: KeyOptions) -> None:
        """ConfigurationError unless exactly one way to sign is given, and given in full."""
        if sum((self.print_typed_data, bool(self.signature), keys.given)) != 1:
            raise ConfigurationError(
                "no single way to sign given: give a key (--key-file, --keystore or --signer-url), or "
                "--print-typed-data for a wallet elsewhere and then --signature with what it signed"
            )
        if self.signature and self.issued_at is None:
            raise ConfigurationError("--signature without --issued-at: give the date that was printed with the data")
        if self.contract_wallet and not self.signature:
            raise ConfigurationError("--contract-wallet without --signature: a contract has no key to sign with")


@dataclass(frozen=True, slots=True)
class ProofSubject:
    """Whose wallet it is: the object that names it, what its proof says at a time, and the patch that stores one."""

    resource: ResourceType
    name: str
    namespace: str
    wallet: str
    guard: JSONObject
    data: Callable[[int], TypedData]
    store: Callable[[JSONObject], JSONObject]

    def __str__(self) -> str:
        return f"{self.resource.kind} {self.namespace + '/' if self.namespace else ''}{self.name}"


def prove_account(
    keys: KeyOptions, proof: ProofOptions, namespace: NamespaceOption = None, context: ContextOption = None
) -> None:
    """Prove that a namespace may spend from its wallet.

    The wallet is that of its ComputeAccount; without the proof nothing is funded.
    """
    proof.check(keys)

    async def work(hub: KubeClient) -> list[str]:
        return await prove(hub, await account_subject(hub, space, await _settlement(hub, proof)), keys, proof)

    space = namespace_of(context, namespace)
    sys.stdout.write("\n".join(with_hub(work, context)) + "\n")


def prove_provider(
    name: Annotated[str, typer.Argument(help="Name of the GPUProvider.")],
    keys: KeyOptions,
    proof: ProofOptions,
    context: ContextOption = None,
) -> None:
    """Prove that a provider may be paid to its wallet. Without the proof no paid work is placed there."""
    proof.check(keys)

    async def work(hub: KubeClient) -> list[str]:
        return await prove(hub, await provider_subject(hub, name, await _settlement(hub, proof)), keys, proof)

    sys.stdout.write("\n".join(with_hub(work, context)) + "\n")


async def account_subject(hub: KubeClient, namespace: str, where: Published) -> ProofSubject:
    """The account of a namespace; NotFoundError if it has none."""
    from fedgpu_operator.api.computeaccount import ComputeAccount
    from fedgpu_operator.ports import ResourceType
    from fedgpu_operator.settlement.typeddata import account_proof, hub_domain

    kind = ResourceType.of(ComputeAccount.info)
    account = ComputeAccount.parse(await hub.get(kind, "default", namespace))
    domain, wallet = hub_domain(where.chain_id, where.escrow), account.spec.wallet
    return ProofSubject(
        resource=kind,
        name="default",
        namespace=namespace,
        wallet=wallet,
        guard=account.metadata.guard(),
        data=lambda at: account_proof(domain, hub=where.hub, namespace=namespace, wallet=wallet, issued_at=at),
        store=lambda proof: {"proof": proof},
    )


async def provider_subject(hub: KubeClient, name: str, where: Published) -> ProofSubject:
    """A provider with its payout wallet; ConfigurationError if it has none, NotFoundError if there is no provider."""
    from fedgpu_operator.api.gpuprovider import GPUProvider
    from fedgpu_operator.ports import ResourceType
    from fedgpu_operator.settlement.typeddata import hub_domain, provider_proof

    kind = ResourceType.of(GPUProvider.info)
    provider = GPUProvider.parse(await hub.get(kind, name))
    payout = provider.spec.payout
    if payout is None:
        raise ConfigurationError(f"GPUProvider {name} has no payout wallet: set spec.payout.address first")
    domain, wallet, signer = hub_domain(where.chain_id, where.escrow), payout.address, payout.signer
    return ProofSubject(
        resource=kind,
        name=name,
        namespace="",
        wallet=wallet,
        guard=provider.metadata.guard(),
        data=lambda at: provider_proof(
            domain, hub=where.hub, provider=name, payout=wallet, signer=signer, issued_at=at
        ),
        store=lambda proof: {"payout": {"proof": proof}},
    )


async def prove(hub: KubeClient, subject: ProofSubject, keys: KeyOptions, proof: ProofOptions) -> list[str]:
    """Sign or take what was signed, check that the operator will believe it, store it; the lines to print.

    Raises ConfigurationError for a signature that proves nothing, the KubeError and ChainError trees.
    """
    issued_at = int(time.time()) if proof.issued_at is None else proof.issued_at
    data = subject.data(issued_at)
    if proof.print_typed_data:
        sys.stderr.write(
            f"Sign this with wallet {subject.wallet} as EIP-712 typed data (eth_signTypedData_v4), then run the "
            f"command again with --issued-at {issued_at} --signature 0x…\n"
        )
        return [json.dumps(data.payload, indent=2)]
    signature = await _signature(data, subject, keys, proof)
    patch: JSONObject = {"spec": subject.store({"signature": signature, "issuedAt": issued_at})}
    if proof.dry_run:
        return [json.dumps(patch)]
    try:
        await hub.patch(subject.resource, subject.name, subject.namespace, {"metadata": subject.guard, **patch})
    except ForbiddenError as error:
        text = f"{error}; --dry-run prints the proof as a patch for somebody who may write {subject}"
        raise ForbiddenError(text, status=error.status) from error
    return [f"{subject}: {_statement(data)}"]


async def _signature(data: TypedData, subject: ProofSubject, keys: KeyOptions, proof: ProofOptions) -> str:
    from fedgpu_operator.settlement.typeddata import normal_signature, recover

    if proof.contract_wallet:
        return _readable(proof.signature)
    signature = _readable(proof.signature) if proof.signature else normal_signature(await _sign(data, subject, keys))
    try:
        signer = recover(data.digest, signature)
    except ValueError as error:
        raise ConfigurationError(f"--signature: {error}; if the wallet is a contract, add --contract-wallet") from error
    if signer.lower() != subject.wallet.lower():
        raise ConfigurationError(
            f"--signature: not by wallet {subject.wallet} over {_statement(data)!r}: sign what --print-typed-data "
            "prints with that wallet, and give its --issued-at; if the wallet is a contract, add --contract-wallet"
        )
    return signature


async def _sign(data: TypedData, subject: ProofSubject, keys: KeyOptions) -> bytes:

    signer = await signer_from(keys)
    try:
        if signer.address.lower() != subject.wallet.lower():
            raise ConfigurationError(
                f"wrong key: {subject} names wallet {subject.wallet}, the key is that of {signer.address}"
            )
        return await signer.sign_typed(data)
    finally:
        await signer.aclose()


def _readable(signature: str) -> str:
    from fedgpu_operator.settlement.typeddata import normal_signature

    try:
        return normal_signature(signature)
    except ValueError as error:
        raise ConfigurationError(f"--signature: {error}") from error


async def _settlement(hub: KubeClient, proof: ProofOptions) -> Published:
    """Hub, chain and escrow that are signed for: as given, or as the hub publishes them and no option contradicts."""
    from fedgpu_operator.hub.services.escrow import Published, published

    escrow = address("--escrow", proof.escrow) if proof.escrow else ""
    if proof.hub and proof.chain_id is not None and escrow:
        return Published(proof.hub, proof.chain_id, escrow)
    known = await published(hub, proof.operator_namespace)
    pinned = {
        "--hub": (proof.hub, known.hub),
        "--chain-id": (proof.chain_id, known.chain_id),
        "--escrow": (escrow, known.escrow),
    }
    for option, (given, found) in pinned.items():
        if given and str(given).lower() != str(found).lower():
            raise ConfigurationError(f"{option} is {given}, but the hub publishes {found}: it would refuse the proof")
    return known


def _statement(data: TypedData) -> str:
    """What is signed, in words."""
    message, domain = data.message, data.domain
    place = f"of hub {message['hub']}, escrow {domain.contract} on chain {domain.chain_id}"
    if "namespace" in message:
        return f"wallet {message['wallet']} lets namespace {message['namespace']} {place} spend from it"
    return f"wallet {message['payout']} is paid what provider {message['provider']} {place} earns"
