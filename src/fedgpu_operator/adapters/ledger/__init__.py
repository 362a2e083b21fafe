"""The ledger on SQLAlchemy: attempts, usage, epochs and transactions that outlive every cluster object."""

from __future__ import annotations

from fedgpu_operator.adapters.ledger.calls import LIMIT_SECONDS
from fedgpu_operator.adapters.ledger.ledger import SqlLedger
from fedgpu_operator.adapters.ledger.schema import SCHEMA_VERSION

__all__ = ["LIMIT_SECONDS", "SCHEMA_VERSION", "SqlLedger"]
