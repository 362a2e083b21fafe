"""Proofs that wallets agreed to be used, judged by their signatures and, for contract wallets, by the chain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from eth_typing import ChecksumAddress

from fedgpu_operator.api.base import WalletProof
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.gpuprovider import GPUProvider, Payout
from fedgpu_operator.errors import ChainError
from fedgpu_operator.hub.services.changes import ChangeDetector
from fedgpu_operator.hub.views.accounts import ProofVerdict, Wallets, payout_wallets, tenant_wallets
from fedgpu_operator.ports import Clock
from fedgpu_operator.settlement.typeddata import TypedData, account_proof, hub_domain, provider_proof, signed_by

log = logging.getLogger(__name__)


NO_PAYOUT: Final = "set spec.payout.address: this hub pays on chain"
SKEW_SECONDS: Final = 300
"""How far a signer's clock may be ahead of ours."""
RECHECK: Final = timedelta(minutes=1)
"""A contract wallet may change its mind, and a payout wallet name another signer: so often the chain is asked again,
silent or not."""
ASKED_AT_ONCE: Final = 16
"""Contracts; many namespaces with proofs that are nobody's must not hold up those of the others."""
MOST_KEPT: Final = 50_000
"""Answers held in memory; a wallet beyond them is only verified once more."""


class SignatureChecker(Protocol):
    """The part of ports.Escrow that proofs need."""

    @property
    def escrow(self) -> ChecksumAddress: ...

    @property
    def chain_id(self) -> int: ...

    async def is_valid_signature(self, address: str, digest: bytes, signature: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Question:
    """One proof to judge; `whose` and `command` are for the message."""

    wallet: str
    whose: str
    command: str
    proof: WalletProof | None
    key: tuple[bytes, str]
    """Digest and signature, under which an answer is kept: the digest holds all that the verdict depends on."""
    signer: str = ""
    """The receipt signer that a provider's wallet agrees to as well."""


@dataclass(frozen=True, slots=True)
class _Payout:
    """A provider's payout wallet, empty where it may not be used, and what that follows from."""

    provider: GPUProvider
    proven: bool
    wallet: str


@dataclass(frozen=True, slots=True)
class _Answer:
    """Whether the wallet signed; `asked` is when its contract said so, None where a key's signature said it."""

    valid: bool
    asked: datetime | None = None


class ProofBook:
    """Verdicts over proofs. An ordinary account's signature is verified once; a contract wallet is asked (ERC-1271).

    One book serves all loops of a process. Only a loop that says `refresh` asks a contract again that answered
    before, so that placing jobs never waits for the chain twice.
    """

    def __init__(self, checker: SignatureChecker, clock: Clock, *, hub: str) -> None:
        self._checker = checker
        self._clock = clock
        self._hub = hub
        self._domain = hub_domain(checker.chain_id, checker.escrow)
        self._answers: dict[tuple[bytes, str], _Answer] = {}
        self._silence: tuple[datetime, str] | None = None
        self._questions: dict[tuple[str, str], _Question] = {}
        self._turn = asyncio.Lock()
        self._accounts, self._providers = ChangeDetector(), ChangeDetector()
        self._tenants: dict[str, str] = {}
        self._payouts: dict[str, _Payout] = {}
        self._wallets = Wallets({}, {})

    async def wallets(self, accounts: Iterable[ComputeAccount], providers: Iterable[GPUProvider]) -> Wallets:
        """Every wallet that may be used now: proven, and for payouts accepted as well.

        The very same object as long as no object and no answer changed, and every proof has one.
        """
        accounts, providers = list(accounts), list(providers)
        # Several loops ask: none may take what another is about to replace for the answer to its own objects.
        async with self._turn:
            if self._accounts.changed(accounts):
                with _forgetting(self._accounts):
                    judged = await self.accounts(accounts)
                self._tenants = tenant_wallets(each for each in accounts if judged[each.metadata.namespace].proven)
                if any(each.passing for each in judged.values()):
                    self._accounts.forget()
            found = Wallets(self._tenants, await self._paid(providers))
            if found != self._wallets:
                self._wallets = found
            return self._wallets

    async def payouts(self, providers: Sequence[GPUProvider]) -> dict[str, str]:
        """Every payout wallet that may be used now, by provider."""
        async with self._turn:
            return await self._paid(providers)

    async def _paid(self, providers: Sequence[GPUProvider]) -> dict[str, str]:
        if self._providers.changed(providers):
            with _forgetting(self._providers):
                judged = await self.providers(providers)
            self._payouts = {
                each.metadata.name: self._payout(each, proven=judged[each.metadata.name].proven) for each in providers
            }
            if any(each.passing for each in judged.values()):
                self._providers.forget()
        return {name: known.wallet for name, known in self._payouts.items() if known.wallet}

    def _payout(self, provider: GPUProvider, *, proven: bool) -> _Payout:
        """The provider's payout wallet if it may be used; worked out once per object, since acceptance is a hash."""
        known = self._payouts.get(provider.metadata.name)
        if known is not None and known.provider is provider and known.proven is proven:
            return known
        wallet = payout_wallets([provider]).get(provider.metadata.name, "") if proven else ""
        return _Payout(provider, proven, wallet)

    async def accounts(self, accounts: Iterable[ComputeAccount], *, refresh: bool = False) -> dict[str, ProofVerdict]:
        """Verdicts by namespace."""
        asked = {account.metadata.namespace: self._of_account(account) for account in accounts}
        return dict(zip(asked, await self._judge(list(asked.values()), refresh=refresh), strict=True))

    async def providers(self, providers: Iterable[GPUProvider], *, refresh: bool = False) -> dict[str, ProofVerdict]:
        """Verdicts by name; a provider without a payout wallet has none to prove."""
        payouts = {each.metadata.name: each.spec.payout for each in providers}
        verdicts = {name: ProofVerdict("False", NO_PAYOUT) for name, payout in payouts.items() if payout is None}
        asked = {name: self._of_payout(name, payout) for name, payout in payouts.items() if payout is not None}
        return verdicts | dict(zip(asked, await self._judge(list(asked.values()), refresh=refresh), strict=True))

    def _of_account(self, account: ComputeAccount) -> _Question:
        namespace, proof, wallet = account.metadata.namespace, account.spec.proof, account.spec.wallet
        known = self._questions.get(("account", namespace))
        if known is not None and (known.wallet, known.proof) == (wallet, proof):
            return known
        issued = proof.issued_at if proof is not None else 0
        data = account_proof(self._domain, hub=self._hub, namespace=namespace, wallet=wallet, issued_at=issued)
        command = f"fedgpu account prove -n {namespace}"
        made = _Question(wallet, f"namespace {namespace}", command, proof, _key(data, proof))
        return self._remember(("account", namespace), made)

    def _of_payout(self, provider: str, payout: Payout) -> _Question:
        name, signer = ("provider", provider), payout.signer or ""
        known = self._questions.get(name)
        if known is not None and (known.wallet, known.signer, known.proof) == (payout.address, signer, payout.proof):
            return known
        data = provider_proof(
            self._domain,
            hub=self._hub,
            provider=provider,
            payout=payout.address,
            signer=payout.signer,
            issued_at=payout.proof.issued_at if payout.proof is not None else 0,
        )
        command = f"fedgpu provider prove {provider}"
        key = _key(data, payout.proof)
        made = _Question(payout.address, f"provider {provider}", command, payout.proof, key, signer)
        return self._remember(name, made)

    def _remember(self, name: tuple[str, str], question: _Question) -> _Question:
        """Hashing what is signed takes a tenth of a millisecond: once per proof is enough."""
        if len(self._questions) >= MOST_KEPT:
            self._questions.clear()
        self._questions[name] = question
        return question

    async def _judge(self, questions: Sequence[_Question], *, refresh: bool) -> list[ProofVerdict]:
        now = self._clock.now()
        await self._verify_keys(
            [each for each in questions if each.proof is not None and each.key not in self._answers]
        )
        await self._ask([each for each in questions if self._is_due(each, now, refresh=refresh)], now)
        return [self._verdict(each, now) for each in questions]

    async def _verify_keys(self, fresh: list[_Question]) -> None:
        """Signatures of ordinary accounts; milliseconds each, so off the loop."""

        def verify() -> list[bool]:
            return [signed_by(each.wallet, *each.key) for each in fresh]

        if fresh:
            for each, valid in zip(fresh, await asyncio.to_thread(verify), strict=True):
                if valid:
                    self._keep(each, _Answer(valid=True))

    def _is_due(self, question: _Question, now: datetime, *, refresh: bool) -> bool:
        if question.proof is None:
            return False
        known = self._answers.get(question.key)
        if known is None:
            return True
        return refresh and known.asked is not None and now - known.asked >= RECHECK

    async def _ask(self, due: Sequence[_Question], now: datetime) -> None:
        """The contracts themselves; after the first silence no other is asked for a while."""
        turns = asyncio.Semaphore(ASKED_AT_ONCE)

        async def ask(question: _Question) -> None:
            digest, signature = question.key
            async with turns:
                if self._silence is not None and now - self._silence[0] < RECHECK:
                    return
                try:
                    raw = bytes.fromhex(signature.removeprefix("0x"))
                    valid = await self._checker.is_valid_signature(question.wallet, digest, raw)
                except ChainError as error:
                    if self._silence is None or self._silence[0] != now:
                        log.warning("contract wallets cannot be asked about their proofs: %s", error)
                    self._silence = now, str(error)
                    return
            self._silence = None
            self._keep(question, _Answer(valid, now))

        await asyncio.gather(*(ask(question) for question in due))

    def _keep(self, question: _Question, answer: _Answer) -> None:
        before = self._answers.pop(question.key, None)
        if before is None or before.valid != answer.valid:
            self._accounts.forget()
            self._providers.forget()
        if len(self._answers) >= MOST_KEPT:
            self._answers.pop(next(iter(self._answers)))
        self._answers[question.key] = answer

    def _verdict(self, question: _Question, now: datetime) -> ProofVerdict:
        proof, wallet, command = question.proof, question.wallet, question.command
        if proof is None:
            return ProofVerdict(
                "False", f"wallet {wallet} has not agreed to be used by {question.whose}: run {command}"
            )
        if proof.issued_at > now.timestamp() + SKEW_SECONDS:
            text = (
                f"the proof of wallet {wallet} is dated {proof.issued_at}, later than now: set the clock, run {command}"
            )
            return ProofVerdict("False", text, passing=True)
        known = self._answers.get(question.key)
        if known is None:
            silent = self._silence[1] if self._silence is not None else "not asked yet"
            text = (
                f"the proof is by no key of wallet {wallet}, and the chain does not say if it is a contract: {silent}"
            )
            return ProofVerdict("Unknown", text, passing=True)
        if not known.valid:
            text = (
                f"the proof is no signature of wallet {wallet} over {question.whose} of hub {self._hub}, "
                f"chain {self._domain.chain_id} and escrow {self._domain.contract}: run {command}"
            )
            return ProofVerdict("False", text)
        return ProofVerdict("True", f"wallet {wallet} has agreed to be used by {question.whose}")


@contextmanager
def _forgetting(watched: ChangeDetector) -> Iterator[None]:
    """What could not be judged is looked at again."""
    try:
        yield
    except BaseException:
        watched.forget()
        raise


def _key(data: TypedData, proof: WalletProof | None) -> tuple[bytes, str]:
    return data.digest, "" if proof is None else proof.signature
