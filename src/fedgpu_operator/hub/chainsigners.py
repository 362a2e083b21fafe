"""Whether a provider's receipts count on chain: asks the escrow's own rule about signer and receipts; bills nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from fedgpu_operator.api.conditions import Finding
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.domain.ledger import SignedReceipt
from fedgpu_operator.errors import ChainError
from fedgpu_operator.hub.receiptrule import ReceiptRules, ReceiptVerdict, judge_receipt
from fedgpu_operator.hub.signatures import accepted_signer
from fedgpu_operator.hub.wallets import checksummed
from fedgpu_operator.ports import Clock, Ledger

log = logging.getLogger(__name__)

RECEIPTS_VALID: Final = "ReceiptsValid"
SIGNER_NOT_ON_CHAIN: Final = "SignerNotOnChain"
SIGNER_HAS_CODE: Final = "SignerHasCode"
SIGNATURES_REFUSED: Final = "SignaturesRefused"
METER_REFUSED: Final = "MeterRefused"
WARNED: Final = frozenset({SIGNER_NOT_ON_CHAIN, SIGNER_HAS_CODE, SIGNATURES_REFUSED, METER_REFUSED})
"""Reasons that are shown as a Warning too: receipts that were signed count nowhere."""
RECHECK: Final = timedelta(minutes=1)
"""A payout wallet may name another signer at any time; so often the escrow is asked, silent or not."""
ASKED_AT_ONCE: Final = 16
PATIENCE_SECONDS: Final = 5.0
"""How long a pass over providers waits for the chain at most: their heartbeats are judged in it as well."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the escrow said and when it was asked; `signer` is None if it was silent.

    `coded` is whether the signer's account has code, `newest` its verdict on the newest receipt of the wallet; None
    while there is no receipt.
    """

    asked: datetime
    signer: str | None = None
    coded: bool = False
    newest: ReceiptVerdict | None = None


class SignerBook:
    """The condition ReceiptsValid of every provider. It stops no work: a receipt that counts nowhere is the
    provider's own risk, but one that it must know of.
    """

    def __init__(self, rules: ReceiptRules, ledger: Ledger, clock: Clock) -> None:
        self._rules = rules
        self._ledger = ledger
        self._clock = clock
        self._answers: dict[str, _Answer] = {}

    async def findings(self, providers: Iterable[GPUProvider]) -> dict[str, Finding]:
        """By name of the provider."""
        asked = {provider.metadata.name: _named(provider) for provider in providers}
        await self._refresh({wallet for wallet, signer in asked.values() if signer})
        return {name: self._finding(wallet, signer) for name, (wallet, signer) in asked.items()}

    async def _refresh(self, wallets: set[str]) -> None:
        """Ask of every wallet whose answer is old, and forget those that no provider names any more."""
        now = self._clock.now()
        self._answers = {wallet: known for wallet, known in self._answers.items() if wallet in wallets}
        known = self._answers
        due = [each for each in wallets if each not in known or now - known[each].asked >= RECHECK]
        if not due:
            return
        # Those that got no answer the last time come first, so that the end of the patience is not always theirs.
        due.sort(key=lambda each: (each in known and known[each].signer is not None, each))
        # Silent until it says otherwise; what a chain said a minute ago may have changed.
        self._answers |= {wallet: _Answer(now) for wallet in due}
        newest = _newest(await self._ledger.receipts())
        turns = asyncio.Semaphore(ASKED_AT_ONCE)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
                for wallet in due:
                    group.create_task(self._ask(wallet, newest.get(wallet), now, turns))
        except TimeoutError:
            log.warning("the escrow does not say in time which keys sign receipts; asking again in a minute")

    async def _ask(self, wallet: str, newest: SignedReceipt | None, now: datetime, turns: asyncio.Semaphore) -> None:
        async with turns:
            try:
                signer = checksummed(await self._rules.signer_of(wallet))
                verdict = await judge_receipt(self._rules, newest) if newest is not None else None
                coded = verdict.coded if verdict is not None else await self._rules.has_code(signer)
            except ChainError as error:
                log.debug("the escrow does not answer about the receipts of %s: %s", wallet, error)
            else:
                self._answers[wallet] = _Answer(now, signer, coded, verdict)

    def _finding(self, wallet: str, signer: str) -> Finding:
        if not signer:
            text = "set spec.payout.signer: without receipts the provider can neither answer a dispute nor leave alone"
            return Finding(RECEIPTS_VALID, "False", "NoSigner", text)
        answer = self._answers[wallet]
        known = answer.signer
        if known is None:
            text = f"the chain does not say whose key signs the receipts of {wallet}"
            return Finding(RECEIPTS_VALID, "Unknown", "ChainUnreachable", text)
        if known != signer:
            text = (
                f"{signer} signs the receipts, but the escrow takes only those that {known} signs for {wallet}: they "
                f"answer no dispute and open no exit; with the key of {wallet} run: fedgpu provider keys --signer "
                f"{signer} (and --payee, where another account is paid)"
            )
            return Finding(RECEIPTS_VALID, "False", SIGNER_NOT_ON_CHAIN, text)
        if answer.newest is not None and not answer.newest.accepted:
            return Finding(RECEIPTS_VALID, "False", answer.newest.word, _refused(wallet, signer, answer.newest))
        if answer.newest is None and answer.coded:
            text = f"the account of {signer} has code: its first receipt will show whether that code accepts it"
            return Finding(RECEIPTS_VALID, "Unknown", SIGNER_HAS_CODE, text)
        return Finding(RECEIPTS_VALID, "True", "SignerOnChain", f"the escrow takes receipts of {wallet} by {signer}")


def _newest(receipts: Iterable[SignedReceipt]) -> dict[str, SignedReceipt]:
    """By payout wallet, the receipt that the hub took last."""
    found: dict[str, SignedReceipt] = {}
    for kept in receipts:
        wallet = checksummed(kept.receipt.provider)
        if wallet not in found or kept.at >= found[wallet].at:
            found[wallet] = kept
    return found


def _refused(wallet: str, signer: str, verdict: ReceiptVerdict) -> str:
    """Why the escrow refuses the newest receipt, and what to do about it."""
    effect = f"the escrow refuses the receipts of {wallet}, which answer no dispute and open no exit"
    if verdict.word == METER_REFUSED:
        return f"{effect}: {verdict.why}; the operator of this hub has to mend that, the provider cannot"
    if verdict.word == SIGNER_HAS_CODE:
        cure = (
            "undo the delegation (EIP-7702: authorize the zero address), or name another key in spec.payout.signer and "
            f"with the key of {wallet} run: fedgpu provider keys --signer ADDRESS"
        )
        return f"{effect}: {verdict.why}; {cure}"
    return (
        f"the escrow refuses the newest receipt of {wallet}, since {signer} did not sign it: a receipt of an earlier "
        f"key counts only while the escrow names that key; the next one that {signer} signs will count"
    )


def _named(provider: GPUProvider) -> tuple[str, str]:
    """(payout wallet, receipt signer) as they were accepted, both EIP-55; the signer is empty if either is missing."""
    known = provider.status.acceptance
    if known is None or not known.payout:
        return "", ""
    return checksummed(known.payout), accepted_signer(provider)
