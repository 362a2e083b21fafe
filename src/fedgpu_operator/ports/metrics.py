"""What the loops count, whoever shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from fedgpu_operator.domain.market import PricePoint
from fedgpu_operator.domain.money import MicroUSD

if TYPE_CHECKING:
    # Not at run time: every verb of the command imports this module, and that one brings numpy along.
    from fedgpu_operator.placement.problem import Solution
    from fedgpu_operator.settlement.funding import Purse


class Metrics(Protocol):
    """What the loops count; labels are bounded sets only."""

    def decided(self, placed: int, refused: dict[str, int], seconds: float) -> None:
        """One admission attempt: jobs that a place was found for, jobs newly refused by reason, duration."""
        ...

    def admitted(self, namespace: str, waited: float) -> None:
        """A job got its lease so many seconds after it was created, or after its attempt before this one ended."""
        ...

    def pending(self, jobs: Mapping[tuple[str, str], int]) -> None:
        """How many jobs wait, by namespace and the reason in their status; what was said before is gone."""
        ...

    def evicted(self, reason: str) -> None:
        """The hub stops an attempt that has not ended, for that reason."""
        ...

    def providers(self, connected: Mapping[str, bool]) -> None:
        """Whether each provider's member answers; providers of earlier calls are gone."""
        ...

    def epoch_due(self, at: datetime | None) -> None:
        """By when the next settlement epoch must be begun, whatever it costs; None without work to settle."""
        ...

    def loop_failed(self, loop: str, reason: str) -> None:
        """A pass of a loop, or its work on one object, ended with an error."""
        ...

    def loop_passed(self, loop: str, seconds: float, *, succeeded: bool) -> None:
        """A pass of a loop has ended after so many seconds."""
        ...

    def ledger_gaps(self, count: int) -> None:
        """How many things hub and chain show that the ledger does not hold."""
        ...

    def billed(self, provider: str, gpu_seconds: int) -> None:
        """Newly billed usage of one provider."""
        ...

    def moved(self, reason: str) -> None:
        """One running job was told to go, for that reason."""
        ...

    def jobs(self, by_state: dict[str, int]) -> None:
        """How many jobs there are in each state."""
        ...

    def paid(self, micro_usd: MicroUSD) -> None:
        """Paid on chain, seen at finalized."""
        ...

    def solved(self, solution: Solution) -> None:
        """One solve: how far it can be from the best, whether that is proven, and how many rounds it took."""
        ...

    def market(self, prices: Sequence[PricePoint]) -> None:
        """What GPUs cost now, by product and region; those of earlier calls are gone."""
        ...

    def settler(self, purse: Purse) -> None:
        """The settler's coins, what they are spent at, and for how long they last."""
        ...

    def obstacles(self, present: Mapping[str, bool]) -> None:
        """What can keep settlement from working as configured, by name, and whether it does now."""
        ...
