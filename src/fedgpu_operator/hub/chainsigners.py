"""Whether a provider's receipts count on chain: compares the signer of its spec with the escrow's; bills nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from eth_utils.address import to_checksum_address

from fedgpu_operator.api.conditions import Finding
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.errors import ChainError
from fedgpu_operator.hub.signatures import accepted_signer
from fedgpu_operator.ports import Clock

log = logging.getLogger(__name__)

RECEIPTS_VALID: Final = "ReceiptsValid"
SIGNER_NOT_ON_CHAIN: Final = "SignerNotOnChain"
RECHECK: Final = timedelta(minutes=1)
"""A payout wallet may name another signer at any time; so often the escrow is asked, silent or not."""
ASKED_AT_ONCE: Final = 16
PATIENCE_SECONDS: Final = 5.0
"""How long a pass over providers waits for the chain at most: their heartbeats are judged in it as well."""


class SignerReader(Protocol):
    """The part of ports.Escrow that is needed here."""

    async def signer_of(self, provider: str) -> str: ...


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the escrow said and when it was asked; `signer` is None where it was silent."""

    asked: datetime
    signer: str | None


class SignerBook:
    """The condition ReceiptsValid of every provider. It stops no work: a receipt that counts nowhere is the
    provider's own risk, but one that it must know of.
    """

    def __init__(self, reader: SignerReader, clock: Clock) -> None:
        self._reader = reader
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
        due = sorted(each for each in wallets if each not in known or now - known[each].asked >= RECHECK)
        if not due:
            return
        # Silent until it says otherwise; what a chain said a minute ago may have changed.
        self._answers |= {wallet: _Answer(now, None) for wallet in due}
        turns = asyncio.Semaphore(ASKED_AT_ONCE)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
                for wallet in due:
                    group.create_task(self._ask(wallet, now, turns))
        except TimeoutError:
            log.warning("the escrow does not say in time which keys sign receipts; asking again in a minute")

    async def _ask(self, wallet: str, now: datetime, turns: asyncio.Semaphore) -> None:
        async with turns:
            try:
                self._answers[wallet] = _Answer(now, to_checksum_address(await self._reader.signer_of(wallet)))
            except ChainError as error:
                log.debug("the escrow does not say who signs the receipts of %s: %s", wallet, error)

    def _finding(self, wallet: str, signer: str) -> Finding:
        if not signer:
            text = "set spec.payout.signer: without receipts the provider can neither answer a dispute nor leave alone"
            return Finding(RECEIPTS_VALID, "False", "NoSigner", text)
        known = self._answers[wallet].signer
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
        return Finding(RECEIPTS_VALID, "True", "SignerOnChain", f"the escrow takes receipts of {wallet} by {signer}")


def _named(provider: GPUProvider) -> tuple[str, str]:
    """(payout wallet, receipt signer) as they were accepted, both EIP-55; the signer is empty if either is missing."""
    known = provider.status.acceptance
    if known is None or not known.payout:
        return "", ""
    return str(to_checksum_address(known.payout)), accepted_signer(provider)
