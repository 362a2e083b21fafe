"""Every reason of a condition or an Event that the operator writes, with what it means; clients may compare with them.

Two kinds of words are not here: what a third party's placement plugin calls its own refusals, and what an API server,
a kubelet or a node said that is passed on as a message.
"""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Final, Self

from fedgpu_operator.domain import faults
from fedgpu_operator.domain.decision import Reason as Refused
from fedgpu_operator.domain.running import MoveReason


@unique
class ConditionReason(StrEnum):
    """The reason of a condition or an Event; `meaning` is one sentence for people."""

    meaning: str

    def __new__(cls, word: str, meaning: str) -> Self:
        made = str.__new__(cls, word)
        made._value_ = word
        made.meaning = meaning
        return made

    # ---- ComputeJob: admission and placement

    ADMITTED = "Admitted", "The job may be placed."
    QUEUED = "Queued", "The job waits for the next placement pass."
    PLACED = "Placed", "An offer was chosen and the job has an attempt there."
    NOT_PLACED = "NotPlaced", "The job does not run: no offer was chosen yet."
    DRY_RUN = "DryRun", "The job was only judged; nothing is reserved and nothing runs."
    SUSPENDED = "Suspended", "`spec.suspend` is set: nothing runs and nothing is metered."
    LEDGER_BEHIND = "LedgerBehind", "The ledger is older than the hub; nothing is placed before it is reconciled."
    START_REFUSED = "StartRefused", "Attempts could not be started; the next one is tried later."
    STATUS_REFUSED = "StatusRefused", "The API server refused the job's status; what is shown is not up to date."
    WRITE_REFUSED = "WriteRefused", "The API server refused the job's status or the lease of an attempt: nothing ran."
    TOO_LARGE = "TooLarge", "The job, or the lease that it needs, is larger than one object may be."
    INVALID_SPEC = "InvalidSpec", "The spec cannot be read by this version of the operator."
    INVALID_POLICY = "InvalidPolicy", "A PlacementPolicy that binds the namespace cannot be read."
    TEMPLATE_REFUSED = "TemplateRefused", "The template reaches for GPUs or node features past its lease."
    TERMS_CHANGED = "TermsChanged", "The job is not the one that the attempt was agreed for."
    UNKNOWN_PLACE = "UnknownPlace", "The spec names a place or vantage that this hub does not know."
    UNKNOWN_PROVIDER = "UnknownProvider", "The spec names a provider that this hub does not have."
    UNKNOWN_PRIORITY_CLASS = "UnknownPriorityClass", "The spec names a PriorityClass that cannot be found."
    RESERVED_PRIORITY_CLASS = "ReservedPriorityClass", "The spec names a PriorityClass of Kubernetes itself."
    RESIDENCY_CONFLICT = "ResidencyConflict", "The residencies of job and data leave no common place."
    CHECKPOINT_OUTSIDE_RESIDENCY = "CheckpointOutsideResidency", "Checkpoints lie outside the residency of the data."

    RESIDENCY_DENIED = Refused.RESIDENCY_DENIED.value, "The place is outside the residency that the job asks for."
    COMPLIANCE_MISSING = Refused.COMPLIANCE_MISSING.value, "The provider lacks a compliance claim that is required."
    SELECTOR_MISMATCH = Refused.SELECTOR_MISMATCH.value, "The provider's labels do not match the selector."
    POLICY_DENIED = Refused.POLICY_DENIED.value, "A PlacementPolicy forbids the offer."
    HARDWARE_MISMATCH = Refused.HARDWARE_MISMATCH.value, "The GPU is not one that the job can use."
    INSUFFICIENT_GPUS = Refused.INSUFFICIENT_GPUS.value, "Too few GPUs are free."
    PRICE_ABOVE_LIMIT = Refused.PRICE_ABOVE_LIMIT.value, "The price is above the job's limit."
    LATENCY_TOO_HIGH = Refused.LATENCY_TOO_HIGH.value, "The round trip is longer than the job allows."
    LATENCY_UNMEASURED = Refused.LATENCY_UNMEASURED.value, "The job asks for a measured round trip and there is none."
    OVER_BUDGET = Refused.OVER_BUDGET.value, "The run at its limit costs more than what is left of the budget."
    UNFUNDED = Refused.UNFUNDED.value, "The account cannot pay for the run at its limit, or its money ended."
    DEADLINE_TOO_NEAR = Refused.DEADLINE_TOO_NEAR.value, "The run cannot end before the deadline."
    PROVIDER_NOT_READY = Refused.PROVIDER_NOT_READY.value, "The provider is not Ready."
    PROVIDER_FULL = Refused.PROVIDER_FULL.value, "The provider takes no more leases."
    COOLING_DOWN = Refused.COOLING_DOWN.value, "An attempt failed there a short time ago."
    PLUGIN_FAILED = Refused.PLUGIN_FAILED.value, "A third party's plugin raised an error or gave no valid answer."
    NO_ELIGIBLE_PROVIDER = Refused.NO_ELIGIBLE_PROVIDER.value, "No offer serves the job."
    OUTBID = Refused.OUTBID.value, "The capacity went to jobs that gain more from it."

    # ---- ComputeJob and ComputeLease: running, and how attempts end

    ACCEPTED = "Accepted", "Of a lease: the member took the workload. Of a provider: it was accepted."
    DISPATCHING = "Dispatching", "The workload was handed to the member and has not started."
    WAITING = "Waiting", "The member has the workload, and no container has started."
    RUNNING = "Running", "A container of the workload has started."
    RESUMED = "Resumed", "The member no longer suspends the workload."
    STOPPING = "Stopping", "The workload is being stopped."
    STOPPED = "Stopped", "The workload was stopped."
    ENDED = "Ended", "The workload has ended."
    DELETING = "Deleting", "The job is being deleted; its workload is being stopped."
    CREATE_REFUSED = "CreateRefused", "The member's API server refused the workload."
    WORKLOAD_REFUSED = "WorkloadRefused", "The agent refused the workload for its owner."
    NAME_TAKEN = "NameTaken", "The member has a Job of that name that is not ours."
    NAMESPACE_TERMINATING = "NamespaceTerminating", "The tenant's namespace on the member is being deleted."
    NO_PODS = "NoPods", "The member does not create the pods of the workload."
    UNSCHEDULABLE = "Unschedulable", "The member's scheduler finds no node for a pod."
    IMAGE_PULL = "ImagePull", "An image does not come."
    NOT_STARTED = "NotStarted", "A pod waits on its node and does not start."

    SUCCEEDED = faults.SUCCEEDED, "Every replica succeeded."
    FAILED = faults.FAILED, "The attempt failed, and it is not known how."
    DELETED = "Deleted", "The job was deleted."
    DEADLINE_EXCEEDED = "DeadlineExceeded", "The deadline passed before the job could finish."
    JOB_GONE = "JobGone", "The job object no longer exists."
    SUPERSEDED = "Superseded", "The attempt ended before it had a lease: nothing ran."
    RETENTION_OVER = "RetentionOver", "The ended attempt was kept for long enough; its member is cleared."
    PREEMPTED = MoveReason.PREEMPTED.value, "Moved to make room for work of higher priority."
    REBALANCED = MoveReason.REBALANCED.value, "Moved to a better place, or off a draining provider."
    MEMBER_REJECTED = faults.MEMBER_REJECTED, "The member did not take the workload."
    NODE_REJECTED = faults.NODE_REJECTED, "A node did not take a pod."
    START_FAILED = faults.START_FAILED, "A container could not be started on its node."
    REQUIREMENT_UNMET = faults.REQUIREMENT_UNMET, "The image needs a newer driver or another GPU than the node has."
    START_TIMEOUT = faults.START_TIMEOUT, "The workload did not start in time."
    ENTRYPOINT_FAILED = faults.ENTRYPOINT_FAILED, "The entrypoint of a container cannot be run."
    IMAGE_PULL_FAILED = faults.IMAGE_PULL_FAILED, "An image cannot be pulled."
    IMAGE_UNAVAILABLE = faults.IMAGE_UNAVAILABLE, "The registry of an image does not answer, or limits pulls."
    WORKLOAD_FAILED = faults.WORKLOAD_FAILED, "A container ended with an error."
    WORKLOAD_EVICTED = faults.WORKLOAD_EVICTED, "The member took the running workload away."
    WORKLOAD_VANISHED = faults.WORKLOAD_VANISHED, "The running workload was deleted on the member."
    WORKLOAD_LOST = faults.WORKLOAD_LOST, "The member has no workload of a lease that was made again."
    NODE_PRESSURE = faults.NODE_PRESSURE, "A node evicted a pod for want of memory or disk."
    NODE_LOST = faults.NODE_LOST, "A node was lost."
    SUSPENDED_BY_MEMBER = faults.SUSPENDED_BY_MEMBER, "The member suspended the workload."
    OUT_OF_MEMORY = faults.OUT_OF_MEMORY, "A container was killed for its use of memory."
    STORAGE_EXCEEDED = faults.STORAGE_EXCEEDED, "A container used more local storage than its limit."
    RUN_LIMIT_EXCEEDED = faults.RUN_LIMIT_EXCEEDED, "The run limit is over."
    LEASE_FENCED = faults.LEASE_FENCED, "A newer lease of the job exists."

    # ---- ComputeJob: Events

    CHECKPOINT_REQUESTED = "CheckpointRequested", "The workload was asked to save its work: the money for it ends."
    MOVE_ANNOUNCED = "MoveAnnounced", "The attempt will be stopped and the job placed again."
    MOVE_CALLED_OFF = "MoveCalledOff", "An announced move does not take place."
    USAGE_DISPUTED = "UsageDisputed", "The member claims more usage than is payable."
    DELETION_FORBIDDEN = "DeletionForbidden", "The operator may not delete a job that is past its TTL."

    # ---- ComputeJob and SettlementEpoch: settlement

    SETTLEMENT_DISABLED = "SettlementDisabled", "This hub meters and does not pay on chain."
    NOT_FINISHED = "NotFinished", "An attempt is open, or there was none."
    NOTHING_TO_PAY = "NothingToPay", "What was used costs nothing."
    AWAITING_EPOCH = "AwaitingEpoch", "The charge is in the ledger and waits for the next epoch."
    AWAITING_FINALITY = "AwaitingFinality", "The epoch is not in a finalized block."
    AWAITING_PAYMENT = "AwaitingPayment", "The epoch is final; its challenge window or the claim is open."
    AWAITING_CLAIM = "AwaitingClaim", "The epoch is final and can be claimed."
    CHALLENGE_WINDOW = "ChallengeWindow", "The epoch is final; its challenge window is open."
    NOT_SENT = "NotSent", "The epoch's transaction was not sent."
    BROADCAST = "Broadcast", "The epoch's transaction was sent."
    FINALIZED = "Finalized", "The finalized chain shows the epoch's root."
    PAID = "Paid", "Every line is paid, read back at finalized."
    PAID_IN_PART = "PaidInPart", "Some debits did not fit; the rest is settled by a later epoch."
    NOT_ACCEPTED = "NotAccepted", "Of an epoch: the chain did not take it. Of a connection: it is not in force."
    CANCELLED_BY_GUARDIAN = "CancelledByGuardian", "The guardian cancelled the epoch in its window."
    SUPERSEDED_BY_ANOTHER_SETTLER = "SupersededByAnotherSettler", "Another settler's epoch took its place."
    REFUSED = "Refused", "The contract refuses the epoch's transaction."
    NOT_TAKEN = "NotTaken", "No node takes the epoch's transaction."
    UNDERPRICED = "Underpriced", "No node takes the epoch's transaction at its fee."
    FEE_CAPPED = "FeeCapped", "The epoch's transaction costs more than the node's own limit."
    INSUFFICIENT_FUNDS = "InsufficientFunds", "The settler cannot pay for the gas of the epoch's transaction."
    GAS_TOO_LOW = "GasTooLow", "The gas limit of the epoch's transaction is too low."
    NONCE_USED = "NonceUsed", "A transaction of that nonce is in a block."
    SETTLER_LOW = "SettlerLow", "The settler's coins last for a short time only."
    SETTLER_EMPTY = "SettlerEmpty", "The settler cannot pay for its next transaction."

    # ---- ComputeAccount

    FUNDED = "Funded", "There is money for new work; of the settler: for its gas."
    FUNDING_LOW = "FundingLow", "What runs is not paid for to its end."
    EXHAUSTED = "Exhausted", "The money for what runs has ended."
    NO_SPEND_LIMIT = "NoSpendLimit", "The wallet has set no spend limit on the escrow."
    NO_BALANCE = "NoBalance", "Nothing of the escrow is left for new work."
    WALLET_TAKEN = "WalletTaken", "The wallet belongs to the account of another namespace."
    WALLET_UNPROVEN = "WalletUnproven", "The wallet has not agreed to be used."
    CHAIN_UNREACHABLE = "ChainUnreachable", "The chain does not answer."

    # ---- GPUProvider

    READY = "Ready", "New work may be placed there."
    ANSWERING = "Answering", "The member cluster answers."
    AWAITING_REPORT = "AwaitingReport", "The agent has not reported yet."
    MEMBER_SILENT = "MemberSilent", "Nothing was heard of the member for longer than the heartbeat timeout."
    UNREACHABLE = "Unreachable", "The member's API server does not answer."
    UNAUTHORIZED = "Unauthorized", "The member refuses the credentials of the kubeconfig."
    FORBIDDEN = "Forbidden", "The member does not allow what the agent needs."
    ANSWER_TOO_LARGE = "AnswerTooLarge", "The member sent a larger answer than may be read."
    BUDGET_EXCEEDED = "BudgetExceeded", "The member has used up its budget of bytes and parsing time."
    MEMBER_TOO_LARGE = "MemberTooLarge", "The member has more objects than may be held of one member."
    TERMINATING = "Terminating", "The provider is being deleted and takes no new work."
    DRAINING = "Draining", "Nothing new goes there, and what may be moved leaves."
    DRAINED = "Drained", "The provider that was to be emptied holds no work any more."
    NO_GPUS = "NoGPUs", "No schedulable node has a GPU of an offered product."
    NO_PAYOUT = "NoPayout", "The hub pays on chain and the provider names no payout wallet."
    NOT_PROBED = "NotProbed", "The GPUs themselves have not been probed."
    SECRET_TAKEN = "SecretTaken", "A Secret of the spec belongs to another provider."
    ACCEPTANCE_NOT_ENFORCED = "AcceptanceNotEnforced", "Nothing on this hub restricts who may accept a provider."
    OFFER_CHANGED = "OfferChanged", "What acceptance binds has changed, and the change was not accepted."
    AWAITING_ACCEPTANCE = "AwaitingAcceptance", "The provider has not been accepted."
    WITHDRAWN = "Withdrawn", "A platform admin withdrew the acceptance."
    AUDITED = "Audited", "A platform admin has confirmed the location."
    SELF_DECLARED = "SelfDeclared", "The location is the owner's word."
    LOCATION_CHANGED = "LocationChanged", "The location is not the one that was confirmed."
    AUDIT_NOT_ENFORCED = "AuditNotEnforced", "Nothing on this hub restricts who may confirm a location."
    NAMESPACE_TAKEN = "NamespaceTaken", "A namespace of the needed name exists and is not ours."
    AGENT_NOT_STARTED = "AgentNotStarted", "The provider's agent could not be started."
    SECRET_NOT_FOUND = "SecretNotFound", "A Secret that the spec names does not exist."
    SECRET_REFUSED = "SecretRefused", "A Secret that the spec names has no readable content."
    KUBECONFIG_REFUSED = "KubeconfigRefused", "The kubeconfig asks for something that is not allowed."
    CERTIFICATE_REFUSED = "CertificateRefused", "The member's certificate cannot be verified."
    NO_SIGNER_KEY = "NoSignerKey", "The spec names a receipt signer and no key of it."
    SIGNER_KEY_REFUSED = "SignerKeyRefused", "The receipt signer's key cannot be read."
    SIGNER_MISMATCH = "SignerMismatch", "The key is not that of the receipt signer."
    SIGNER_REFUSED = "SignerRefused", "The receipt signer is a key of the operator itself."

    # ---- GPUProvider: usage and receipts

    SIGNED = "Signed", "What is billed is signed by the receipt signer."
    NO_SIGNER = "NoSigner", "The provider has no accepted receipt signer."
    NOT_SIGNED = "NotSigned", "A usage reading lacks its signature."
    BAD_SIGNATURE = "BadSignature", "The signature under a usage reading is not valid."
    BAD_READING = "BadReading", "A usage reading cannot be read."
    TOO_MANY_PODS = "TooManyPods", "The member shows more pods for one lease than can be metered."
    SIGNER_ON_CHAIN = "SignerOnChain", "The escrow takes receipts by the signer."
    SIGNER_NOT_ON_CHAIN = "SignerNotOnChain", "The payout wallet has not named the signer on the escrow."
    SIGNER_HAS_CODE = "SignerHasCode", "The signer's account has code: it may refuse what its key signs."
    SIGNATURES_REFUSED = "SignaturesRefused", "The escrow refuses what the signer signs."
    METER_REFUSED = "MeterRefused", "The escrow refuses what the hub's meter signs."


NEEDS_CHANGE: Final = frozenset(
    {
        ConditionReason.ACCEPTANCE_NOT_ENFORCED,
        ConditionReason.CERTIFICATE_REFUSED,
        ConditionReason.FORBIDDEN,
        ConditionReason.KUBECONFIG_REFUSED,
        ConditionReason.MEMBER_TOO_LARGE,
        ConditionReason.NAMESPACE_TAKEN,
        ConditionReason.NO_PAYOUT,
        ConditionReason.NO_SIGNER_KEY,
        ConditionReason.SECRET_REFUSED,
        ConditionReason.SECRET_TAKEN,
        ConditionReason.SIGNER_KEY_REFUSED,
        ConditionReason.SIGNER_MISMATCH,
        ConditionReason.SIGNER_REFUSED,
        ConditionReason.UNAUTHORIZED,
        ConditionReason.WALLET_TAKEN,
        ConditionReason.WALLET_UNPROVEN,
        ConditionReason.WITHDRAWN,
    }
)
"""Why a provider, its report or an account is not ready and waiting does not help: people have to change something.

What may pass by itself is not here: an agent that could not be started, or a Secret that is applied after its provider.
"""


PAYS_NOTHING: Final = frozenset(
    {
        ConditionReason.CANCELLED_BY_GUARDIAN,
        ConditionReason.NOT_ACCEPTED,
        ConditionReason.SUPERSEDED_BY_ANOTHER_SETTLER,
    }
)
"""Why an epoch is not posted and never will be; the chart's admission rules name them too."""


def table() -> str:
    """All reasons as a Markdown table, in alphabetical order."""
    rows = [f"| `{reason}` | {reason.meaning} |\n" for reason in sorted(ConditionReason)]
    return "".join(["| reason | meaning |\n", "|---|---|\n", *rows])
