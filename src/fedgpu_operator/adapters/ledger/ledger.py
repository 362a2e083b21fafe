"""The ledger as the operator and its commands see it: all the books of one database, and the audit over them."""

from __future__ import annotations

from fedgpu_operator.adapters.ledger import archives, audit, epochs, journal
from fedgpu_operator.adapters.ledger.attempts import SqlAttempts
from fedgpu_operator.adapters.ledger.calls import from_database, from_memory
from fedgpu_operator.adapters.ledger.epochs import SqlEpochs
from fedgpu_operator.adapters.ledger.prices import SqlPrices
from fedgpu_operator.adapters.ledger.receipts import SqlReceipts
from fedgpu_operator.adapters.ledger.transactions import SqlTransactions
from fedgpu_operator.adapters.ledger.usage import SqlUsage
from fedgpu_operator.domain.ledger import BoundEscrow
from fedgpu_operator.errors import ConfigurationError


class SqlLedger(SqlAttempts, SqlUsage, SqlReceipts, SqlEpochs, SqlTransactions, SqlPrices):
    """The books of one hub, in an SQLite file or a PostgreSQL database (ports.Ledger).

    A write that returned is kept for good. Every method raises LedgerError if the append contradicts what is held or
    the database fails; instants must carry a time zone. A cancelled call may still have written: all writes may be
    repeated.
    """

    trial_balance = from_database(journal.trial_balance)
    balances = from_memory(journal.balances)
    verify = from_database(audit.verify)
    segments = from_database(archives.archived)
    bound = from_database(epochs.bound)

    async def bind(self, chain_id: int, escrow: str) -> None:
        """Tie the books to one escrow, by its EIP-55 address, before anything is settled; the same again is no change.

        All figures count from the first epoch in one contract: another one would be made to pay all work again.
        Raises ConfigurationError if the books are those of another escrow.
        """
        wanted = BoundEscrow(chain_id, escrow)
        held = await self._write(epochs.bind, wanted)
        if held != wanted:
            raise ConfigurationError(
                f"the ledger holds the books of {held}, but configured is {wanted}, which would be made to pay all "
                "work again: set FEDGPU_CHAIN_ID and FEDGPU_ESCROW_ADDRESS back, or, once all epochs there are paid, "
                "name a new ledger with FEDGPU_LEDGER; books cannot be moved from one escrow to another yet"
            )
