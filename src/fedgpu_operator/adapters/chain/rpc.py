"""The connection to a chain and the translation of everything that can go wrong on it; no contract is known here.

An endpoint's address often carries an API key in its path, so messages name the host alone and drop the causes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from web3 import AsyncWeb3
from web3.exceptions import (
    BadFunctionCallOutput,
    BadResponseFormat,
    ContractLogicError,
    RequestTimedOut,
    TooManyRequests,
    Web3Exception,
    Web3RPCError,
)

from fedgpu_operator.adapters.chain.endpoint import SILENCE, authorities, why_silent
from fedgpu_operator.adapters.chain.quorum import QuorumProvider
from fedgpu_operator.adapters.chain.reverts import explain
from fedgpu_operator.errors import ChainError, ChainMismatchError, ChainUnreachableError, RevertedError


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


POOR: Final = "insufficient funds"
"""What a ChainError says where the account cannot pay for its gas, whichever client answered."""

_POOR_WORDS: Final = (POOR, "insufficientfunds", "upfront cost exceeds", "up-front cost")
"""How geth, Erigon, reth and anvil say it; Nethermind; Besu in two ways."""


class Rpc:
    """A connection to one endpoint or several; `timeout` is seconds per request, and no request is repeated.

    `quorum` is how many must agree, by default more than half; ConfigurationError for less. With `chain_id` an
    endpoint that serves another chain does not count.
    """

    def __init__(
        self, rpc: Addresses, *, quorum: int | None = None, timeout: float = 10.0, chain_id: int | None = None
    ) -> None:
        given = Endpoints.of(rpc)
        self._provider = QuorumProvider(given.urls, quorum, timeout, chain_id, authorities(given.ca_file))
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

        ChainUnreachableError where nothing usable came back or too few agree, RevertedError where the contract
        refused, ChainMismatchError where the endpoints serve another chain, ChainError for any other answer, with POOR
        in its words where the account cannot pay.
        """
        name = self._provider.name
        try:
            yield
        except (ChainUnreachableError, ChainMismatchError) as error:
            raise type(error)(f"{what}: {error}") from None
        except (BadResponseFormat, RequestTimedOut, TooManyRequests) as error:
            raise ChainUnreachableError(f"{what}: {name} gives no usable answer ({type(error).__name__})") from None
        except ContractLogicError as error:
            raise RevertedError(f"{what}: {explain(error)}") from None
        except BadFunctionCallOutput:
            raise ChainError(f"{what}: there is no such contract at that block on {name}") from None
        except Web3RPCError as error:
            raise ChainError(f"{what}: {name} answers {_rpc_message(error)}") from None
        except Web3Exception as error:
            raise ChainError(f"{what}: {type(error).__name__}") from None
        except (*SILENCE, TypeError, LookupError, AttributeError) as error:
            # An answer that is JSON-RPC, and yet nothing that web3 or we can read: endpoints send whatever they like.
            raise ChainUnreachableError(f"{what}: {name} gives no usable answer ({why_silent(error)})") from None


def _rpc_message(error: Web3RPCError) -> str:
    response = error.rpc_response
    detail = response.get("error") if response else None
    said = str(detail.get("message", detail) if isinstance(detail, dict) else error)[:300]
    words = said.lower()
    return f"{POOR} ({said})" if POOR not in words and any(each in words for each in _POOR_WORDS) else said
