"""The connection to a chain and the translation of everything that can go wrong on it; no contract is known here.

An endpoint's address often carries an API key in its path, so messages name the host alone and drop the causes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from web3 import AsyncWeb3
from web3.exceptions import BadFunctionCallOutput, BadResponseFormat, BlockNotFound, Web3Exception

from fedgpu_operator.adapters.chain.answers import AnswerError
from fedgpu_operator.adapters.chain.endpoint import SILENCE, authorities, why_silent
from fedgpu_operator.adapters.chain.patience import Patience
from fedgpu_operator.adapters.chain.quorum import QuorumProvider
from fedgpu_operator.adapters.chain.reverts import explain
from fedgpu_operator.adapters.chain.wordings import SEND, Meaning
from fedgpu_operator.errors import (
    ChainError,
    ChainMismatchError,
    ChainUnreachableError,
    NotTakenError,
    Refusal,
    RevertedError,
    StatePrunedError,
)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """URLs of endpoints, and a PEM file of authorities that may sign their certificates beside the usual ones."""

    urls: tuple[str, ...] = field(repr=False)
    ca_file: Path | None = None

    @classmethod
    def of(cls, addresses: Addresses) -> Endpoints:
        """Whatever way they were written."""
        if isinstance(addresses, Endpoints):
            return addresses
        return cls((addresses,) if isinstance(addresses, str) else tuple(addresses))


Addresses = str | Sequence[str] | Endpoints
"""One endpoint's URL, or several of which a quorum must agree."""


NOT_TAKEN: Final[Mapping[Meaning, Refusal]] = {
    Meaning.UNDERPRICED: Refusal.UNDERPRICED,
    Meaning.TOO_LARGE: Refusal.TOO_LARGE,
    Meaning.FEE_CAPPED: Refusal.FEE_CAPPED,
    Meaning.POOR: Refusal.POOR,
    Meaning.GAS_TOO_LOW: Refusal.GAS_TOO_LOW,
    Meaning.NONCE_USED: Refusal.NONCE_USED,
}
"""Why a transaction is not taken, or would not be, by what the node means; any other error to a send is OTHER."""

ARCHIVE: Final = (
    "an archive node (geth: --gcmode=archive --history.state=90000), or a provider that keeps old state and logs, is "
    "needed (docs/chains.md)"
)


class Rpc:
    """A connection to one endpoint or several; `timeout` is seconds per request.

    A reading that was turned away is repeated twice, with `patience` until it is answered; what is sent goes out once.

    `quorum` is how many must agree, by default more than half; ConfigurationError for less. With `chain_id` an
    endpoint that serves another chain does not count.
    """

    def __init__(
        self,
        rpc: Addresses,
        *,
        quorum: int | None = None,
        timeout: float = 10.0,
        chain_id: int | None = None,
        patience: Patience | None = None,
    ) -> None:
        given = Endpoints.of(rpc)
        trust = authorities(given.ca_file)
        self._provider = QuorumProvider(given.urls, quorum, timeout, chain_id, trust, patience)
        self.w3: AsyncWeb3[QuorumProvider] = AsyncWeb3(self._provider)
        # It asks for the chain id before every call, and refuses the blocks of proof-of-authority chains.
        self.w3.middleware_onion.remove("validation")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._provider.name})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._provider.disconnect()

    @contextmanager
    def speaking(self, what: str) -> Iterator[None]:
        """Translate what goes wrong while doing `what` into the error tree.

        ChainUnreachableError where nothing usable came back, not now, or too few agree; RevertedError where the
        contract refused; NotTakenError where a quorum refuses a transaction, or would refuse one as large as the call
        that was estimated, or the sender cannot pay; StatePrunedError where the node does not keep what was asked for;
        ChainMismatchError where the endpoints serve another chain; ChainError for any other answer. Messages carry the
        provider's own words.
        """
        name = self._provider.name
        try:
            yield
        except (ChainUnreachableError, ChainMismatchError) as error:
            raise type(error)(f"{what}: {error}") from None
        except AnswerError as error:
            raise _translated(what, name, error) from None
        except BadResponseFormat as error:
            raise ChainUnreachableError(f"{what}: {name} gives no usable answer ({type(error).__name__})") from None
        except BlockNotFound:
            raise ChainUnreachableError(f"{what}: {name} has no such block now") from None
        except BadFunctionCallOutput:
            raise ChainError(f"{what}: there is no such contract at that block on {name}") from None
        except Web3Exception as error:
            raise ChainError(f"{what}: {type(error).__name__}") from None
        except (*SILENCE, TypeError, LookupError, AttributeError) as error:
            # An answer that is JSON-RPC, and yet nothing that web3 or we can read: endpoints send whatever they like.
            raise ChainUnreachableError(f"{what}: {name} gives no usable answer ({why_silent(error)})") from None


def _translated(what: str, name: str, error: AnswerError) -> ChainError:
    """The error tree's own for an error that the endpoints answer alike."""
    fault, meaning = error.fault, error.fault.meaning
    said = f"{what}: {name} answers {fault.words}"
    if meaning is Meaning.WAIT:
        return ChainUnreachableError(said)
    if meaning in NOT_TAKEN or error.method == SEND:
        text = f"{said} ({error.others})" if error.others else said
        return NotTakenError(text, NOT_TAKEN.get(meaning, Refusal.OTHER), certain=not error.others)
    if meaning is Meaning.REVERTED:
        return RevertedError(f"{what}: {explain(fault.revert, fault.words)}")
    if meaning is Meaning.PRUNED:
        return StatePrunedError(f"{said}: it no longer keeps what was read; {ARCHIVE}")
    return ChainError(said)
