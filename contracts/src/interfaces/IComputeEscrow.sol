// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";

/// @title Escrow between tenants that buy GPU time and providers that sell it
/// @notice All amounts are in 10^-6 of the token's unit (1 = 1 micro-dollar of a USD stablecoin), whatever decimals
/// the token has. A tenant's money passes balance -> pending (an epoch in its challenge window) -> allocated -> paid.
/// A Merkle root proves no sum, so a payment never exceeds what its own tenant has allocated. A time on the settlement
/// clock is a Unix time less all the seconds that the contract was paused; every other time is a plain Unix time.
interface IComputeEscrow {
    // ------------------------------------------------------------------ what is kept and taken

    /// @notice What a deployment fixes for good, and the first holders of the roles
    /// @param token the one ERC-20 that is held, with 6 to 18 decimals
    /// @param admin who appoints roles, meant to be a TimelockController
    /// @param settler posts epochs
    /// @param meter signs receipts beside the provider; never the settler's key
    /// @param arbiter may lower what a dispute leaves payable
    /// @param guardian cancels epochs in their window and pauses
    /// @param reserve owed the lost bonds of disputes that name no provider
    /// @param challenge seconds of the settlement clock from an epoch's posting to its activation
    /// @param notice seconds from the announcement of a withdrawal or lower limit to its effect
    /// @param ruling seconds of the settlement clock that the arbiter has after activation
    /// @param exitAfter seconds from the end of a receipt's period until its provider may exit with it
    /// @param longestEpoch the longest period an epoch is meant to cover, in seconds
    struct Config {
        IERC20Metadata token;
        address admin;
        address settler;
        address meter;
        address arbiter;
        address guardian;
        address reserve;
        uint40 challenge;
        uint40 notice;
        uint40 ruling;
        uint40 exitAfter;
        uint40 longestEpoch;
    }

    /// @notice What a tenant holds, with the outcome of its last epoch already applied when it is read
    /// @param balance free money, withdrawable after notice
    /// @param allocated money of active epochs that only providers can receive
    /// @param pending the debit of the epoch in its challenge window, less what is disputed of it
    /// @param limit the most that one epoch may debit, and the most that exits may draw from the balance per CHALLENGE
    /// @param epoch the newest epoch that debited this tenant or skipped it, and that `pending` belongs to; 0 once
    /// that is decided
    struct Account {
        uint64 balance;
        uint64 allocated;
        uint48 pending;
        uint48 limit;
        uint32 epoch;
    }

    /// @notice A tenant's announcements that take effect after the notice period, and the pace of exits
    /// @param withdrawUnits the most that a withdrawal may take
    /// @param withdrawAt when it may be taken; 0 for none
    /// @param newLimit the lower spend limit
    /// @param limitAt when it may be applied; 0 for none
    /// @param exitFrom when, on the settlement clock, an exit may next draw from the balance
    struct Side {
        uint64 withdrawUnits;
        uint40 withdrawAt;
        uint48 newLimit;
        uint40 limitAt;
        uint40 exitFrom;
    }

    /// @notice The books of one (tenant, provider) pair; what a line shows beyond the sum of the three is due
    /// @param paid what went to the provider, in all
    /// @param deducted what the arbiter sent back to the tenant although receipts covered it, in all
    /// @param reserved what open disputes and exits hold
    /// @param dead lines of this pair in roots up to this epoch pay nothing any more, since they count on money that
    /// went back to the tenant
    struct Pair {
        uint64 paid;
        uint64 deducted;
        uint64 reserved;
        uint32 dead;
    }

    /// @notice One settlement epoch
    /// @param root Merkle root of all unpaid pairs
    /// @param activeAt when claims may begin, on the settlement clock
    /// @param periodEnd end of the metered period, as the settler states it
    /// @param total sum of the debits that were taken; below the manifest's sum when some were skipped
    /// @param prev the epoch it was built on, 0 for the first
    /// @param cancelled whether the guardian stopped it in its window
    struct Epoch {
        bytes32 root;
        uint40 activeAt;
        uint40 periodEnd;
        uint64 total;
        uint32 prev;
        bool cancelled;
    }

    /// @notice Where the chain of epochs and the settlement clock stand
    /// @param last number of the newest epoch, cancelled or not
    /// @param head number of the newest epoch that is not cancelled, 0 for none
    /// @param seq rises on every post, cancel and exit
    /// @param pausedAt when the newest pause began
    /// @param pausedUntil when it ends or ended; in the future while paused
    /// @param pausedTotal seconds of all pauses before the newest
    struct State {
        uint32 last;
        uint32 head;
        uint40 seq;
        uint40 pausedAt;
        uint40 pausedUntil;
        uint40 pausedTotal;
    }

    /// @notice An open dispute of one tenant's debit in one epoch
    /// @param amount what is held
    /// @param bond what the tenant put up for it
    /// @param shown how much of `amount` is payable as things stand
    /// @param floor for a named provider, the cumulative from which the disputed part of its line begins
    /// @param deadline when, on the settlement clock, it can be closed without a ruling
    /// @param ruled whether the arbiter has spoken, which is final
    /// @param forfeited for a named provider, how much of what receipts had shown the arbiter took back
    struct Dispute {
        uint64 amount;
        uint64 bond;
        uint64 shown;
        uint64 floor;
        uint40 deadline;
        bool ruled;
        uint64 forfeited;
    }

    /// @notice A provider's open exit with a receipt of one tenant
    /// @param amount what is held for it
    /// @param bond what the tenant put up to dispute it
    /// @param refund how much of `amount` goes back to the tenant as things stand
    /// @param activeAt when, on the settlement clock, it can be finished unless it is disputed
    /// @param disputed whether the tenant asked for a ruling, until `activeAt` + RULING
    /// @param ruled whether the arbiter has spoken, which is final
    struct Exit {
        uint64 amount;
        uint64 bond;
        uint64 refund;
        uint40 activeAt;
        bool disputed;
        bool ruled;
    }

    /// @notice What a tenant owes a provider since the beginning, as meter and provider sign it (EIP-712)
    /// @param tenant who owes
    /// @param provider who earned it
    /// @param cumulative how much, in all
    /// @param periodEnd end of the metered period, Unix time
    /// @param usageRoot hash over the usage records behind it
    struct Receipt {
        address tenant;
        address provider;
        uint64 cumulative;
        uint40 periodEnd;
        bytes32 usageRoot;
    }

    /// @notice Both signatures of a receipt
    /// @param meter who signed for the meter; must hold the METER role now
    /// @param meterSig its signature: 65 bytes of a key, or what an ERC-1271 contract accepts
    /// @param providerSig the same of `signerOf(provider)`
    struct Signatures {
        address meter;
        bytes meterSig;
        bytes providerSig;
    }

    /// @notice A receipt shown in answer to a dispute
    /// @param provider whose receipt it is
    /// @param lines the lines of the leaf that holds the tenant's line; may be empty where the dispute names a provider
    /// @param i place of the tenant's line in `lines`
    /// @param proof of the leaf in the disputed epoch's root
    /// @param receipt what was earned
    /// @param sigs both signatures
    struct Answer {
        address provider;
        Line[] lines;
        uint256 i;
        bytes32[] proof;
        Receipt receipt;
        Signatures sigs;
    }

    /// @notice What an epoch takes from one tenant
    struct Debit {
        address tenant;
        uint48 amount;
    }

    /// @notice What a tenant owes a provider in all, since the beginning
    struct Line {
        address tenant;
        uint64 cumulative;
    }

    /// @notice One leaf of an epoch's tree, with its proof
    /// @dev leaf = keccak(keccak(abi.encode(provider, keccak(packed lines)))), where a line is packed into one word:
    /// tenant << 64 | cumulative. At most MAX_LINES lines; a provider may have several leaves.
    struct Credit {
        address provider;
        Line[] lines;
        bytes32[] proof;
    }

    // ------------------------------------------------------------------ what is reported

    /// @notice Money came in for a tenant
    event Deposited(address indexed tenant, address indexed from, uint64 units);
    /// @notice A tenant announced a withdrawal; 0 units take the announcement back
    event WithdrawRequested(address indexed tenant, uint64 units, uint40 at);
    /// @notice Money went back out to a tenant
    event Withdrawn(address indexed tenant, address indexed to, uint64 units);
    /// @notice A spend limit is in force from now on
    event SpendLimitSet(address indexed tenant, uint48 limit);
    /// @notice A lower spend limit may be applied from `at` on
    event SpendLimitAnnounced(address indexed tenant, uint48 limit, uint40 at);
    /// @notice A settlement epoch entered its challenge window
    event EpochPosted(
        uint32 indexed epoch,
        bytes32 indexed root,
        bytes32 indexed manifestHash,
        uint40 seq,
        bytes32 prevRoot,
        uint40 periodEnd,
        uint40 activeAt,
        uint64 total
    );
    /// @notice A debit exceeded `available` = min(limit, balance) and was passed over; nothing of it was taken
    event DebitSkipped(uint32 indexed epoch, address indexed tenant, uint48 amount, uint64 available);
    /// @notice An epoch was stopped in its window; its debits return to the tenants
    event EpochCancelled(uint32 indexed epoch, uint40 seq);
    /// @notice A tenant's allocated money went to a provider; `paid` is the pair's new total
    event LinePaid(
        uint32 indexed epoch, address indexed provider, address indexed tenant, uint64 amount, uint64 paid
    );
    /// @notice One transfer for one leaf, or for a finished exit (epoch 0)
    event CreditPaid(uint32 indexed epoch, address indexed provider, address indexed payee, uint64 amount);
    /// @notice The token refused the transfer, or the payee is this contract or the token; the amount waits for
    /// `collect`
    event CreditOwed(uint32 indexed epoch, address indexed provider, address indexed payee, uint64 amount);
    /// @notice A leaf that is not in the root, or is too long, was passed over
    event CreditSkipped(uint32 indexed epoch, address indexed provider, uint256 index);
    /// @notice Somebody fetched what was owed
    event Collected(address indexed who, address indexed to, uint64 units);
    /// @notice A provider named its payout wallet and its receipt signer; 0 stands for its own address
    event ProviderSet(address indexed provider, address indexed payee, address indexed signer);
    /// @notice Settlement stands still until `until` at the latest
    event PauseStarted(uint40 until);
    /// @notice The guardian ended the pause before its time
    event PauseEnded(uint40 at);
    /// @notice A tenant disputed part of its debit; the provider is 0 where no line explains it
    event Disputed(
        uint32 indexed epoch,
        address indexed tenant,
        address indexed provider,
        uint64 amount,
        uint64 bond,
        uint64 floor,
        uint40 deadline,
        bytes32 evidence
    );
    /// @notice Receipts were shown; `shown` is what they make payable so far
    event Answered(
        uint32 indexed epoch, address indexed tenant, address indexed provider, uint64 shown, address by
    );
    /// @notice The arbiter decided; `shown` is what stays payable
    event Ruled(
        uint32 indexed epoch, address indexed tenant, address indexed provider, uint64 refund, uint64 shown
    );
    /// @notice A dispute ended: `refunded` to the tenant's balance, `released` to its allocated, `deducted` from the
    /// pair, of the bond `bondBack` to the tenant
    event Closed(
        uint32 indexed epoch,
        address indexed tenant,
        address indexed provider,
        uint64 refunded,
        uint64 released,
        uint64 deducted,
        uint64 bondBack
    );
    /// @notice A provider began to leave with a receipt; `fromBalance` of the amount came from the tenant's balance
    event ExitStarted(
        address indexed tenant,
        address indexed provider,
        uint64 amount,
        uint64 fromBalance,
        uint40 activeAt,
        uint40 seq,
        bytes32 usageRoot
    );
    /// @notice The tenant asked for a ruling on an exit
    event ExitDisputed(address indexed tenant, address indexed provider, uint64 bond, bytes32 evidence);
    /// @notice The arbiter decided how much of an exit goes back
    event ExitRuled(address indexed tenant, address indexed provider, uint64 refund);
    /// @notice An exit ended: `amount` for the provider, `refunded` for the tenant, of the bond `bondBack` to the tenant
    event ExitFinished(
        address indexed tenant, address indexed provider, uint64 amount, uint64 refunded, uint64 bondBack
    );

    // ------------------------------------------------------------------ why a call is refused

    /// @notice An address that must not be zero is
    error ZeroAddress();
    /// @notice Money sent to this contract itself or to the token would be nobody's
    error BadRecipient(address to);
    /// @notice An amount that must not be zero is
    error ZeroAmount();
    /// @notice The token has fewer than 6 or more than 18 decimals
    error UnsupportedDecimals(uint8 decimals);
    /// @notice A period is zero, or the notice is shorter than `least`
    error BadPeriods(uint40 notice, uint256 least);
    /// @notice One key would hold two roles, or be both payout wallet and receipt signer, that must be apart
    error SameKey(address key);
    /// @notice The token delivered another amount than was sent
    error FeeOnTransfer(uint256 expected, uint256 received);
    /// @notice No withdrawal or lower limit was announced, or its notice runs until `at`
    error NoticeRunning(uint40 at);
    /// @notice Settlement stands still until `until`, unless the guardian ends the pause before
    error Paused(uint40 until);
    /// @notice There is no pause to end
    error NotPaused();
    /// @notice The next pause is possible from `from` on
    error PauseCooldown(uint256 from);
    /// @notice The caller decided on an older state; `seq` and `prevRoot` are the present ones
    error StaleState(uint40 seq, bytes32 prevRoot);
    /// @notice The head is still in its challenge window
    error WindowOpen(uint32 epoch, uint40 activeAt);
    /// @notice Only the head can be cancelled or disputed, and only in its window
    error NotInWindow(uint32 epoch);
    /// @notice The zero root is kept for "no epoch"
    error ZeroRoot();
    /// @notice More debits than MAX_DEBITS
    error TooManyDebits(uint256 count);
    /// @notice A tenant stands twice in the debits
    error DuplicateTenant(address tenant);
    /// @notice Claims go against the active root only; `active` is its epoch, 0 for none
    error NotActive(uint32 epoch, uint32 active);
    /// @notice Two lists that belong together differ in length
    error LengthMismatch();
    /// @notice The shown line is not the tenant's, or its leaf is not in the epoch's root
    error NotInRoot(uint32 epoch, address provider);
    /// @notice More than can be disputed or refunded; `most` is what can
    error TooMuch(uint256 amount, uint256 most);
    /// @notice This (epoch, tenant, provider) was disputed before and is still open
    error AlreadyDisputed();
    /// @notice There is no such open dispute
    error NoDispute();
    /// @notice The arbiter has spoken already
    error AlreadyRuled();
    /// @notice Receipts are no longer taken; they were until `until` on the settlement clock
    error TooLateToAnswer(uint40 until);
    /// @notice A ruling is possible from `from` until before `until`, on the settlement clock
    error NotRulingTime(uint40 from, uint40 until);
    /// @notice Possible from `at` on: on the settlement clock to close or finish, in Unix time to begin an exit
    error TooEarly(uint256 at);
    /// @notice The answers' providers must rise strictly and fit their receipts
    error BadAnswer(uint256 index);
    /// @notice This address does not hold the METER role
    error NotMeter(address meter);
    /// @notice The receipt is not signed by `signer`
    error BadSignature(address signer);
    /// @notice Only the receipt's provider may exit with it
    error NotProvider(address provider);
    /// @notice A pair can have one open exit
    error ExitOpen();
    /// @notice There is no such open exit
    error NoExit();
    /// @notice The exit cannot be disputed (any more)
    error NotDisputable();
    /// @notice The exit was not disputed, so there is nothing to rule on
    error NotDisputed();

    // ------------------------------------------------------------------ calls

    /// @notice Puts money on a tenant's account
    /// @param tenant whose account
    /// @param units how much; the caller must have approved units * SCALE of the token
    function deposit(address tenant, uint64 units) external;

    /// @notice Deposits with an EIP-3009 authorization to this contract; whoever sends it, `from` is credited
    /// @param from who signed, and whose account is credited
    /// @param units how much; the authorization is over units * SCALE
    /// @param validAfter as signed
    /// @param validBefore as signed
    /// @param nonce as signed
    /// @param signature r, s, v in 65 bytes go to the token as v, r, s; any other length goes to it as bytes
    function depositWithAuthorization(
        address from,
        uint64 units,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;

    /// @notice Sets the most that one epoch may debit from the caller: a higher one at once, a lower one after NOTICE
    /// @param limit the new limit
    function setSpendLimit(uint48 limit) external;

    /// @notice Puts the caller's lower limit into force once its notice is over
    function applySpendLimit() external;

    /// @notice Announces a withdrawal; a new announcement replaces the older one and its notice starts again
    /// @param units the most that will be taken; 0 takes the announcement back
    function requestWithdraw(uint64 units) external;

    /// @notice Takes out the announced amount, or what is left of the balance, once the notice is over; no pause and
    /// no role can hold it up
    /// @param to who receives it; neither this contract nor the token
    /// @return units what was taken
    function withdraw(address to) external returns (uint64 units);

    /// @notice Posts a settlement epoch on the state it was computed from
    /// @dev A debit that does not fit (any more) is skipped with DebitSkipped and the others hold: no tenant can stop
    /// the epoch of the others by withdrawing or lowering its limit in front of it. The root may then show more for
    /// the skipped tenant than is allocated; a claim pays what is there, as ever. A zero amount or a tenant named twice
    /// still refuses the whole call, since only the settler can be the cause of those.
    /// @param seq the present `state().seq`
    /// @param prevRoot root of the present head, 0 when there is none
    /// @param root Merkle root of all unpaid pairs
    /// @param manifestHash keccak of the canonical manifest, from which anybody can rebuild root and debits
    /// @param periodEnd end of the metered period
    /// @param debits what each tenant sets aside; amount > 0, no tenant twice, taken if <= min(limit, balance)
    /// @return epoch the number of the new epoch
    function postEpoch(
        uint40 seq,
        bytes32 prevRoot,
        bytes32 root,
        bytes32 manifestHash,
        uint40 periodEnd,
        Debit[] calldata debits
    ) external returns (uint32 epoch);

    /// @notice Stops the head in its window; pending money flows back to the tenants as they are next touched
    /// @param epoch the head's number
    function cancelEpoch(uint32 epoch) external;

    /// @notice Stops the settlement clock for at most MAX_PAUSE; then PAUSE_COOLDOWN must pass before the next time
    function pause() external;

    /// @notice Ends a pause before its time
    function unpause() external;

    /// @notice Pays what leaves of the active root show as due, each from its own tenant's allocated money
    /// @dev due = cumulative - paid - deducted - reserved, or nothing where the pair is dead in this epoch. A leaf that
    /// does not verify is skipped; claiming again pays nothing.
    /// @param epoch the active epoch
    /// @param credits the leaves, with proofs
    function claim(uint32 epoch, Credit[] calldata credits) external;

    /// @notice Names the calling provider's payout wallet and the key that signs its receipts; they must differ
    /// @param payee the wallet, neither this contract nor the token; 0 for the provider's own address
    /// @param signer a key or an ERC-1271 contract; 0 for the provider's own address
    function setProvider(address payee, address signer) external;

    /// @notice Fetches what the caller is owed: a refused transfer, or its share of a dispute's bond
    /// @param to who receives it; neither this contract nor the token
    /// @return units what was fetched
    function collect(address to) external returns (uint64 units);

    /// @notice Holds back part of the caller's debit of the head, in its window; takes bondFor(amount) from its wallet
    /// @dev One dispute per (epoch, tenant, provider). For a provider its line must be shown, and no more than what is
    /// unpaid on it can be disputed. Without one (0) `lines`, `i` and `proof` are not read: a debit that no published
    /// manifest explains needs no proof.
    /// @param provider whose line is disputed, 0 for the debit itself
    /// @param amount how much, at most the caller's pending
    /// @param evidence hash of what the tenant has to say, for the arbiter
    /// @param lines the leaf's lines
    /// @param i place of the caller's line in them
    /// @param proof of the leaf in the head's root
    function dispute(
        address provider,
        uint64 amount,
        bytes32 evidence,
        Line[] calldata lines,
        uint256 i,
        bytes32[] calldata proof
    ) external;

    /// @notice Shows receipts that back a disputed amount, until half of RULING has passed since activation
    /// @dev For a named provider exactly one answer, of which only receipt and signatures count: what the receipt
    /// covers beyond the dispute's floor becomes payable. Without one, all that matter must come in one call with
    /// strictly rising providers: what receipts and root agree on beyond what pairs and account hold already, and beyond
    /// what the tenant's other open disputes of that kind were shown for, becomes payable. Never lowers what was shown.
    /// @param epoch the disputed epoch
    /// @param tenant who disputes
    /// @param provider as disputed, 0 for none
    /// @param answers the receipts
    function answer(uint32 epoch, address tenant, address provider, Answer[] calldata answers) external;

    /// @notice Lets the arbiter lower what is payable to `amount - refund` at most; final
    /// @param epoch the disputed epoch
    /// @param tenant who disputes
    /// @param provider as disputed, 0 for none
    /// @param refund how much of the disputed amount goes back to the tenant at least
    function rule(uint32 epoch, address tenant, address provider, uint64 refund) external;

    /// @notice Ends a dispute that is ruled, past its deadline, or of a cancelled epoch
    /// @dev Of a cancelled epoch everything goes back. Else what was shown becomes allocated, the rest goes to the
    /// tenant's balance, and so does the same share of the bond, rounded up, by `collect`; the rest of the bond is
    /// owed to the provider, or to RESERVE where none was named. Of the pair only what the arbiter took from receipts
    /// is deducted for good. What no receipt covered is no debt that was forgiven: it makes the pair's lines in all
    /// roots so far dead instead, and what is earned can be billed by the next root.
    /// @param epoch the disputed epoch
    /// @param tenant who disputed
    /// @param provider as disputed, 0 for none
    function close(uint32 epoch, address tenant, address provider) external;

    /// @notice Lets the calling provider take what a receipt shows without any settler, EXIT_AFTER its period's end
    /// @dev Taken from the tenant's allocated first, then from its balance up to its limit, that once per CHALLENGE.
    /// Money of an epoch in its window is not touched. What could not be taken can be tried again later.
    /// @param receipt what was earned
    /// @param sigs both signatures
    function exit(Receipt calldata receipt, Signatures calldata sigs) external;

    /// @notice Asks for a ruling on an exit before it becomes active; takes bondFor(its amount) from the caller's wallet
    /// @param provider who exits with a receipt of the caller
    /// @param evidence hash of what the tenant has to say, for the arbiter
    function disputeExit(address provider, bytes32 evidence) external;

    /// @notice Lets the arbiter send part of a disputed exit back to the tenant; final
    /// @param tenant who disputed
    /// @param provider who exits
    /// @param refund how much goes back
    function ruleExit(address tenant, address provider, uint64 refund) external;

    /// @notice Pays an exit out: after CHALLENGE, or if disputed when ruled or RULING later; unruled pays in full
    /// @param tenant whose receipt it is
    /// @param provider who exits
    function finishExit(address tenant, address provider) external;

    /// @notice A tenant's account with its last epoch's outcome applied
    function accountOf(address tenant) external view returns (Account memory);

    /// @notice The same for many tenants
    function accountsOf(address[] calldata tenants) external view returns (Account[] memory);

    /// @notice A tenant's announcements, for many tenants
    function sidesOf(address[] calldata tenants) external view returns (Side[] memory);

    /// @notice The books of pairs, named by two lists of the same length
    function pairsOf(address[] calldata tenants, address[] calldata providers)
        external
        view
        returns (Pair[] memory);

    /// @notice What each tenant's open disputes without a provider hold
    function heldOf(address[] calldata tenants) external view returns (uint64[] memory);

    /// @notice An open dispute; all zero when there is none (any more)
    function disputeOf(uint32 epoch, address tenant, address provider) external view returns (Dispute memory);

    /// @notice An open exit; all zero when there is none (any more)
    function exitOf(address tenant, address provider) external view returns (Exit memory);

    /// @notice An epoch by its number; all zero when there is none
    function epochOf(uint32 epoch) external view returns (Epoch memory);

    /// @notice Where the chain of epochs and the settlement clock stand
    function state() external view returns (State memory);

    /// @notice The settlement clock: Unix time less all the seconds that the contract was paused
    function clock() external view returns (uint40);

    /// @notice Whether settlement stands still now
    function paused() external view returns (bool);

    /// @notice The epoch that claims go against now, 0 for none
    function activeEpoch() external view returns (uint32);

    /// @notice What somebody may collect
    function owed(address who) external view returns (uint64);

    /// @notice The wallet a provider is paid to
    function payeeOf(address provider) external view returns (address);

    /// @notice Who signs a provider's receipts
    function signerOf(address provider) external view returns (address);

    /// @notice What meter and provider sign: the receipt's EIP-712 digest
    function receiptDigest(Receipt calldata receipt) external view returns (bytes32);

    /// @notice The bond that disputing an amount takes
    function bondFor(uint64 amount) external pure returns (uint64);
}
