// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title Escrow between tenants that buy GPU time and providers that sell it
/// @notice All amounts are in 10^-6 of the token's unit (1 = 1 micro-dollar of a USD stablecoin), whatever decimals
/// the token has. A tenant's money passes balance -> pending (an epoch in its challenge window) -> allocated -> paid.
/// A Merkle root proves no sum, so a payment never exceeds what its own tenant has allocated.
interface IComputeEscrow {
    /// @notice What a tenant holds, with the outcome of its last epoch already applied when it is read
    /// @param balance free money, withdrawable after notice
    /// @param allocated money of active epochs that only providers can receive
    /// @param pending the debit of the epoch that is in its challenge window
    /// @param limit the most that one epoch may debit
    /// @param epoch the newest epoch that debited this tenant or skipped it, and that `pending` belongs to; 0 once
    /// that is decided
    struct Account {
        uint64 balance;
        uint64 allocated;
        uint48 pending;
        uint48 limit;
        uint32 epoch;
    }

    /// @notice A tenant's announcements that take effect after the notice period
    /// @param withdrawUnits the most that a withdrawal may take
    /// @param withdrawAt when it may be taken; 0 for none
    /// @param newLimit the lower spend limit
    /// @param limitAt when it may be applied; 0 for none
    struct Side {
        uint64 withdrawUnits;
        uint40 withdrawAt;
        uint48 newLimit;
        uint40 limitAt;
    }

    /// @notice The books of one (tenant, provider) pair
    /// @param paid what the tenant has paid this provider in all
    struct Pair {
        uint64 paid;
    }

    /// @notice One settlement epoch
    /// @param root Merkle root of all unpaid pairs
    /// @param activeAt when claims may begin
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

    /// @notice Where the chain of epochs stands
    /// @param last number of the newest epoch, cancelled or not
    /// @param head number of the newest epoch that is not cancelled, 0 for none
    /// @param seq rises whenever `head` moves, also when it moves back
    struct State {
        uint32 last;
        uint32 head;
        uint40 seq;
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
    /// @notice One transfer for one leaf
    event CreditPaid(uint32 indexed epoch, address indexed provider, address indexed payee, uint64 amount);
    /// @notice The token refused the transfer, or the payee is this contract or the token; the amount waits for
    /// `collect`
    event CreditOwed(uint32 indexed epoch, address indexed provider, address indexed payee, uint64 amount);
    /// @notice A leaf that is not in the root, or is too long, was passed over
    event CreditSkipped(uint32 indexed epoch, address indexed provider, uint256 index);
    /// @notice A provider fetched what it was owed
    event Collected(address indexed provider, address indexed to, uint64 units);
    /// @notice A provider named the wallet it is paid to; 0 stands for its own address
    event ProviderSet(address indexed provider, address indexed payee);

    /// @notice An address that must not be zero is
    error ZeroAddress();
    /// @notice Money sent to this contract itself or to the token would be nobody's
    error BadRecipient(address to);
    /// @notice An amount that must not be zero is
    error ZeroAmount();
    /// @notice The token has fewer than 6 or more than 18 decimals
    error UnsupportedDecimals(uint8 decimals);
    /// @notice The window is zero, or the notice does not outlast two windows and a day
    error BadPeriods(uint40 challenge, uint40 notice);
    /// @notice The token delivered another amount than was sent
    error FeeOnTransfer(uint256 expected, uint256 received);
    /// @notice No withdrawal or lower limit was announced, or its notice runs until `at`
    error NoticeRunning(uint40 at);
    /// @notice The caller decided on an older state; `seq` and `prevRoot` are the present ones
    error StaleState(uint40 seq, bytes32 prevRoot);
    /// @notice The head is still in its challenge window
    error WindowOpen(uint32 epoch, uint40 activeAt);
    /// @notice Only the head can be cancelled, and only in its window
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

    /// @notice Puts money on a tenant's account
    /// @param tenant whose account
    /// @param units how much; the caller must have approved units * SCALE of the token
    function deposit(address tenant, uint64 units) external;

    /// @notice Sets the most that one epoch may debit from the caller: a higher one at once, a lower one after NOTICE
    /// @param limit the new limit
    function setSpendLimit(uint48 limit) external;

    /// @notice Puts the caller's lower limit into force once its notice is over
    function applySpendLimit() external;

    /// @notice Announces a withdrawal; a new announcement replaces the older one and its notice starts again
    /// @param units the most that will be taken; 0 takes the announcement back
    function requestWithdraw(uint64 units) external;

    /// @notice Takes out the announced amount, or what is left of the balance, once the notice is over
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

    /// @notice Pays what leaves of the active root show as due, each from its own tenant's allocated money
    /// @dev A leaf that does not verify is skipped; claiming again pays nothing.
    /// @param epoch the active epoch
    /// @param credits the leaves, with proofs
    function claim(uint32 epoch, Credit[] calldata credits) external;

    /// @notice Names the wallet that the calling provider is paid to
    /// @param payee the wallet, neither this contract nor the token; 0 for the provider's own address
    function setProvider(address payee) external;

    /// @notice Fetches what the calling provider is owed after a refused transfer
    /// @param to who receives it; neither this contract nor the token
    /// @return units what was fetched
    function collect(address to) external returns (uint64 units);

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

    /// @notice An epoch by its number; all zero when there is none
    function epochOf(uint32 epoch) external view returns (Epoch memory);

    /// @notice Where the chain of epochs stands
    function state() external view returns (State memory);

    /// @notice The epoch that claims go against now, 0 for none
    function activeEpoch() external view returns (uint32);

    /// @notice What a provider may collect after a refused transfer
    function owed(address provider) external view returns (uint64);

    /// @notice The wallet a provider is paid to
    function payeeOf(address provider) external view returns (address);
}
