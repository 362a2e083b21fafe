"""The one error tree; nothing here imports anything of the project.

    FedGPUError
    ├── ConfigurationError      wrong setting, file or command line: the process ends with one line, "what: why; fix"
    ├── InvalidResourceError    an object is well-formed but cannot be honoured; carries a reason for its condition
    ├── KubeError               an API server answered with an error
    │   ├── NotFoundError
    │   ├── ConflictError       resourceVersion or uid did not match: load again, decide again
    │   ├── AlreadyExistsError
    │   ├── ForbiddenError
    │   ├── RejectedError       422 or an admission denial: the object itself must change
    │   │   └── TooLargeError   the object, or the request, is larger than the server stores
    │   ├── GoneError           a watch's resourceVersion is too old: list again
    │   └── UnreachableError    no answer at all; never means "failed"
    │       ├── AnswerTooLargeError     more than such an answer may be: the rest was not read
    │       │   └── ListTooLargeError   more objects than may be gone through, or held, of one server
    │       ├── BudgetExceededError     refused here: the member has used up its bytes or seconds of this minute
    │       └── CertificateRefusedError the server's certificate was not accepted: TLS verification failed
    ├── ChainError              the chain or its RPC endpoint
    │   ├── ChainUnreachableError   no answer: unknown, never unpaid
    │   ├── ChainMismatchError      wrong chain id, code or decimals: refuse to go on
    │   ├── StatePrunedError        the node no longer keeps the state of the block asked for: another node is needed
    │   ├── NotTakenError           no node takes this transaction; carries why, and its bytes may count all the same
    │   ├── PendingError            sent, or possibly sent, and not final within the patience: look again, do not repeat
    │   ├── ReplacedError           another transaction of the same nonce is final: this one can never count
    │   └── RevertedError           the contract refused the call; carries the decoded reason
    ├── LedgerError             the ledger refuses an append that contradicts what it holds
    │   └── LedgerUnreachableError  the database does not answer; what was asked may have been done all the same
    ├── NotLeaderError          another replica may lead by now: nothing was sent, and the process ends
    ├── PassExpiredError        a pass of a loop exceeded its time limit, and was cancelled
    └── LabError                the lab could not build or start one of its parts

``permanent`` says whether trying again without a change can help: the operator layer turns it into Kopf's
PermanentError or TemporaryError. ``reason`` is the CamelCase word that a user sees in a condition or Event.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Refusal(StrEnum):
    """Why no node takes a transaction; each class has one treatment."""

    UNDERPRICED = "Underpriced"
    """It offers too little, or too little more than the one it would replace: raise the fee."""
    TOO_LARGE = "TooLarge"
    """Its gas limit or its size is beyond what a transaction or a block may have: a smaller call, at the same nonce."""
    FEE_CAPPED = "FeeCapped"
    """The node's own limit on gas times fee: never raise the fee; a smaller call, or another setting of the node."""
    POOR = "InsufficientFunds"
    """The sender cannot pay for its gas: fund it; never raise the fee."""
    GAS_TOO_LOW = "GasTooLow"
    """Its gas limit is below what the node asks at least: estimate again, and sign at the same nonce."""
    NONCE_USED = "NonceUsed"
    """A transaction of that nonce is in a block: the chain says which one."""
    OTHER = "Other"
    """A refusal that the table of answers does not have: wait, and show the node's own words."""


class FedGPUError(Exception):
    """Base of everything the project raises on purpose."""

    reason: ClassVar[str] = "InternalError"
    permanent: ClassVar[bool] = False


class ConfigurationError(FedGPUError):
    """The process cannot start as configured."""

    reason = "InvalidConfiguration"
    permanent = True


class InvalidResourceError(FedGPUError):
    """An object passed its schema but cannot be honoured; `why` is the condition's CamelCase reason."""

    reason = "InvalidResource"
    permanent = True

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


class KubeError(FedGPUError):
    """An API server answered with an error; `status` is the HTTP code, 0 where there was none."""

    reason = "KubernetesError"

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def undone(self) -> bool:
        """Whether what was asked was certainly not done; otherwise it may have been done, or be done yet."""
        return 400 <= self.status < 500 and self.status != 408


class NotFoundError(KubeError):
    reason = "NotFound"


class ConflictError(KubeError):
    reason = "Conflict"


class AlreadyExistsError(KubeError):
    reason = "AlreadyExists"


class ForbiddenError(KubeError):
    reason = "Forbidden"


class RejectedError(KubeError):
    reason = "Rejected"
    permanent = True


class TooLargeError(RejectedError):
    reason = "TooLarge"


class GoneError(KubeError):
    reason = "Gone"


class UnreachableError(KubeError):
    """`sent` is whether the request may have reached the server."""

    reason = "Unreachable"

    def __init__(self, message: str, *, status: int = 0, sent: bool = True) -> None:
        super().__init__(message, status=status)
        self.sent = sent

    @property
    def undone(self) -> bool:
        return not self.sent or super().undone


class AnswerTooLargeError(UnreachableError):
    reason = "AnswerTooLarge"


class ListTooLargeError(AnswerTooLargeError):
    reason = "ListTooLarge"


class BudgetExceededError(UnreachableError):
    reason = "BudgetExceeded"


class CertificateRefusedError(UnreachableError):
    reason = "CertificateRefused"


class ChainError(FedGPUError):
    reason = "ChainError"


class ChainUnreachableError(ChainError):
    reason = "ChainUnreachable"


class ChainMismatchError(ChainError):
    reason = "ChainMismatch"
    permanent = True


class StatePrunedError(ChainError):
    reason = "StatePruned"
    permanent = True


class NotTakenError(ChainError):
    """So many nodes as must agree refuse the transaction, which may be mined all the same; `why` decides what helps.

    `certain` is whether every node that was asked refused it. If not, one that did not answer may have it, or one has
    it: another version at the same nonce is safe to send, the same thing at another nonce is not.
    """

    reason = "TransactionNotTaken"

    def __init__(self, message: str, why: Refusal, *, certain: bool = True) -> None:
        super().__init__(message)
        self.why = why
        self.certain = certain


class PendingError(ChainError):
    """A transaction was signed and may count; its hash is in the message. Never means that it failed."""

    reason = "TransactionPending"


class ReplacedError(ChainError):
    reason = "TransactionReplaced"
    permanent = True


class RevertedError(ChainError):
    reason = "TransactionReverted"


class LedgerError(FedGPUError):
    reason = "LedgerError"


class LedgerUnreachableError(LedgerError):
    reason = "LedgerUnreachable"


class NotLeaderError(FedGPUError):
    reason = "NotLeader"


class PassExpiredError(FedGPUError):
    reason = "PassExpired"


class LabError(FedGPUError):
    reason = "LabError"
