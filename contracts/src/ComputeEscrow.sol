// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {IComputeEscrow} from "./interfaces/IComputeEscrow.sol";

/// @title Escrow of one ERC-20 between tenants and GPU providers
/// @notice token balance = SCALE * sum(balance + allocated + pending + owed), always
contract ComputeEscrow is IComputeEscrow, AccessControl, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    bytes32 public constant SETTLER = keccak256("SETTLER");
    bytes32 public constant GUARDIAN = keccak256("GUARDIAN");
    uint256 public constant MAX_DEBITS = 500;
    uint256 public constant MAX_LINES = 64;

    IERC20 public immutable TOKEN;
    /// @notice Token base units per unit of account
    uint256 public immutable SCALE;
    /// @notice Seconds between the posting of an epoch and its activation
    uint40 public immutable CHALLENGE;
    /// @notice Seconds between the announcement of a withdrawal or lower limit and its effect
    uint40 public immutable NOTICE;

    State private _state;
    mapping(address tenant => Account) private _accounts;
    mapping(address tenant => Side) private _sides;
    mapping(address tenant => mapping(address provider => Pair)) private _pairs;
    mapping(uint32 number => Epoch) private _epochs;
    mapping(address provider => uint64) public owed;
    mapping(address provider => address) private _payees;

    constructor(
        IERC20Metadata token,
        address admin,
        address settler,
        address guardian,
        uint40 challenge,
        uint40 notice
    ) {
        if (admin == address(0) || settler == address(0) || guardian == address(0)) {
            revert ZeroAddress();
        }
        // A tenant's notice must outlast an epoch that was posted just before it and the re-post after a cancel,
        // or money for work already done could leave first.
        if (challenge == 0 || notice < 2 * uint256(challenge) + 1 days) revert BadPeriods(challenge, notice);
        uint8 decimals = token.decimals();
        if (decimals < 6 || decimals > 18) revert UnsupportedDecimals(decimals);
        TOKEN = token;
        SCALE = 10 ** (decimals - 6);
        CHALLENGE = challenge;
        NOTICE = notice;
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        _grantRole(SETTLER, settler);
        _grantRole(GUARDIAN, guardian);
    }

    // ------------------------------------------------------------------ tenants

    /// @inheritdoc IComputeEscrow
    function deposit(address tenant, uint64 units) external nonReentrant {
        if (tenant == address(0)) revert ZeroAddress();
        if (units == 0) revert ZeroAmount();
        uint256 amount = units * SCALE;
        uint256 before = TOKEN.balanceOf(address(this));
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = TOKEN.balanceOf(address(this)) - before;
        if (received != amount) revert FeeOnTransfer(amount, received);
        _accounts[tenant].balance += units;
        emit Deposited(tenant, msg.sender, units);
    }

    /// @inheritdoc IComputeEscrow
    function setSpendLimit(uint48 limit) external {
        Account storage account = _accounts[msg.sender];
        Side storage side = _sides[msg.sender];
        if (limit >= account.limit) {
            account.limit = limit;
            (side.newLimit, side.limitAt) = (0, 0);
            emit SpendLimitSet(msg.sender, limit);
        } else {
            uint40 at = _afterNotice();
            (side.newLimit, side.limitAt) = (limit, at);
            emit SpendLimitAnnounced(msg.sender, limit, at);
        }
    }

    /// @inheritdoc IComputeEscrow
    function applySpendLimit() external {
        Side storage side = _sides[msg.sender];
        (uint48 limit, uint40 at) = (side.newLimit, side.limitAt);
        if (at == 0 || block.timestamp < at) revert NoticeRunning(at);
        (side.newLimit, side.limitAt) = (0, 0);
        _accounts[msg.sender].limit = limit;
        emit SpendLimitSet(msg.sender, limit);
    }

    /// @inheritdoc IComputeEscrow
    function requestWithdraw(uint64 units) external {
        Side storage side = _sides[msg.sender];
        uint40 at = units == 0 ? 0 : _afterNotice();
        (side.withdrawUnits, side.withdrawAt) = (units, at);
        emit WithdrawRequested(msg.sender, units, at);
    }

    /// @inheritdoc IComputeEscrow
    function withdraw(address to) external nonReentrant returns (uint64 units) {
        _mayReceive(to);
        Side storage side = _sides[msg.sender];
        (uint64 wanted, uint40 at) = (side.withdrawUnits, side.withdrawAt);
        if (at == 0 || block.timestamp < at) revert NoticeRunning(at);
        Account memory account = _settled(msg.sender);
        units = wanted < account.balance ? wanted : account.balance;
        if (units == 0) revert ZeroAmount();
        (side.withdrawUnits, side.withdrawAt) = (0, 0);
        account.balance -= units;
        _accounts[msg.sender] = account;
        emit Withdrawn(msg.sender, to, units);
        TOKEN.safeTransfer(to, units * SCALE);
    }

    // ------------------------------------------------------------------ epochs

    /// @inheritdoc IComputeEscrow
    function postEpoch(
        uint40 seq,
        bytes32 prevRoot,
        bytes32 root,
        bytes32 manifestHash,
        uint40 periodEnd,
        Debit[] calldata debits
    ) external onlyRole(SETTLER) returns (uint32 epoch) {
        State memory s = _state;
        Epoch storage head = _epochs[s.head];
        if (seq != s.seq || prevRoot != head.root) revert StaleState(s.seq, head.root);
        if (block.timestamp < head.activeAt) revert WindowOpen(s.head, head.activeAt);
        if (root == 0) revert ZeroRoot();
        if (debits.length > MAX_DEBITS) revert TooManyDebits(debits.length);
        epoch = s.last + 1;
        uint40 activeAt = uint40(block.timestamp) + CHALLENGE;
        // Stored before the debits: an account marked with this epoch is then seen as in its window, never as new.
        _epochs[epoch] = Epoch(root, activeAt, periodEnd, 0, s.head, false);
        _state = State(epoch, epoch, seq + 1);
        uint64 total = _debit(epoch, debits);
        _epochs[epoch].total = total;
        emit EpochPosted(epoch, root, manifestHash, seq, prevRoot, periodEnd, activeAt, total);
    }

    /// @inheritdoc IComputeEscrow
    function cancelEpoch(uint32 epoch) external onlyRole(GUARDIAN) {
        State memory s = _state;
        Epoch storage head = _epochs[epoch];
        if (epoch == 0 || epoch != s.head || block.timestamp >= head.activeAt) revert NotInWindow(epoch);
        head.cancelled = true;
        _state = State(s.last, head.prev, s.seq + 1);
        emit EpochCancelled(epoch, s.seq + 1);
    }

    // ------------------------------------------------------------------ providers

    /// @inheritdoc IComputeEscrow
    function claim(uint32 epoch, Credit[] calldata credits) external nonReentrant {
        uint32 active = activeEpoch();
        if (epoch == 0 || epoch != active) revert NotActive(epoch, active);
        bytes32 root = _epochs[epoch].root;
        for (uint256 i = 0; i < credits.length; ++i) {
            Credit calldata credit = credits[i];
            if (
                credit.lines.length > MAX_LINES
                    || !MerkleProof.verifyCalldata(credit.proof, root, _leaf(credit.provider, credit.lines))
            ) {
                emit CreditSkipped(epoch, credit.provider, i);
                continue;
            }
            uint64 amount = 0;
            for (uint256 j = 0; j < credit.lines.length; ++j) {
                amount += _payLine(epoch, credit.provider, credit.lines[j]);
            }
            if (amount != 0) _transfer(epoch, credit.provider, amount);
        }
    }

    /// @inheritdoc IComputeEscrow
    function setProvider(address payee) external {
        if (payee != address(0)) _mayReceive(payee);
        _payees[msg.sender] = payee;
        emit ProviderSet(msg.sender, payee);
    }

    /// @inheritdoc IComputeEscrow
    function collect(address to) external nonReentrant returns (uint64 units) {
        _mayReceive(to);
        units = owed[msg.sender];
        if (units == 0) revert ZeroAmount();
        owed[msg.sender] = 0;
        emit Collected(msg.sender, to, units);
        TOKEN.safeTransfer(to, units * SCALE);
    }

    // ------------------------------------------------------------------ views

    /// @inheritdoc IComputeEscrow
    function accountOf(address tenant) external view returns (Account memory) {
        return _settled(tenant);
    }

    /// @inheritdoc IComputeEscrow
    function accountsOf(address[] calldata tenants) external view returns (Account[] memory accounts) {
        accounts = new Account[](tenants.length);
        for (uint256 i = 0; i < tenants.length; ++i) {
            accounts[i] = _settled(tenants[i]);
        }
    }

    /// @inheritdoc IComputeEscrow
    function sidesOf(address[] calldata tenants) external view returns (Side[] memory sides) {
        sides = new Side[](tenants.length);
        for (uint256 i = 0; i < tenants.length; ++i) {
            sides[i] = _sides[tenants[i]];
        }
    }

    /// @inheritdoc IComputeEscrow
    function pairsOf(address[] calldata tenants, address[] calldata providers)
        external
        view
        returns (Pair[] memory pairs)
    {
        if (tenants.length != providers.length) revert LengthMismatch();
        pairs = new Pair[](tenants.length);
        for (uint256 i = 0; i < tenants.length; ++i) {
            pairs[i] = _pairs[tenants[i]][providers[i]];
        }
    }

    /// @inheritdoc IComputeEscrow
    function epochOf(uint32 epoch) external view returns (Epoch memory) {
        return _epochs[epoch];
    }

    /// @inheritdoc IComputeEscrow
    function state() external view returns (State memory) {
        return _state;
    }

    /// @inheritdoc IComputeEscrow
    function activeEpoch() public view returns (uint32) {
        uint32 head = _state.head;
        return block.timestamp < _epochs[head].activeAt ? _epochs[head].prev : head;
    }

    /// @inheritdoc IComputeEscrow
    function payeeOf(address provider) public view returns (address) {
        address payee = _payees[provider];
        return payee == address(0) ? provider : payee;
    }

    // ------------------------------------------------------------------ inside

    /// @dev The account with its pending money moved to where its epoch's outcome puts it.
    function _settled(address tenant) private view returns (Account memory account) {
        account = _accounts[tenant];
        if (account.epoch == 0) return account;
        Epoch storage epoch = _epochs[account.epoch];
        if (epoch.cancelled) {
            account.balance += account.pending;
        } else if (block.timestamp >= epoch.activeAt) {
            account.allocated += account.pending;
        } else {
            return account;
        }
        (account.pending, account.epoch) = (0, 0);
    }

    function _debit(uint32 epoch, Debit[] calldata debits) private returns (uint64 total) {
        for (uint256 i = 0; i < debits.length; ++i) {
            (address tenant, uint48 amount) = (debits[i].tenant, debits[i].amount);
            Account memory account = _settled(tenant);
            if (account.epoch == epoch) revert DuplicateTenant(tenant);
            if (amount == 0) revert ZeroAmount();
            uint64 available = account.limit < account.balance ? account.limit : account.balance;
            // Its own tenant can make a debit too large at any moment; reverting would hand it everybody's epoch.
            if (amount > available) {
                emit DebitSkipped(epoch, tenant, amount, available);
            } else {
                account.balance -= amount;
                account.pending = amount;
                total += amount;
            }
            // A skipped tenant is marked as well, so that naming it twice is refused whatever became of the first.
            account.epoch = epoch;
            _accounts[tenant] = account;
        }
    }

    function _payLine(uint32 epoch, address provider, Line calldata line) private returns (uint64 due) {
        Pair storage pair = _pairs[line.tenant][provider];
        uint64 paid = pair.paid;
        if (line.cumulative <= paid) return 0;
        due = line.cumulative - paid;
        Account memory account = _settled(line.tenant);
        if (due > account.allocated) due = account.allocated;
        if (due == 0) return 0;
        account.allocated -= due;
        _accounts[line.tenant] = account;
        pair.paid = paid + due;
        emit LinePaid(epoch, provider, line.tenant, due, paid + due);
    }

    /// @dev One payee that cannot receive must not hold up the others of the same batch.
    function _transfer(uint32 epoch, address provider, uint64 amount) private {
        address payee = payeeOf(provider);
        if (!_swallows(payee) && TOKEN.trySafeTransfer(payee, amount * SCALE)) {
            emit CreditPaid(epoch, provider, payee, amount);
        } else {
            owed[provider] += amount;
            emit CreditOwed(epoch, provider, payee, amount);
        }
    }

    function _mayReceive(address to) private view {
        if (to == address(0)) revert ZeroAddress();
        if (_swallows(to)) revert BadRecipient(to);
    }

    /// @dev Sent to itself, money would leave the books and stay in the contract; the token gives none back either.
    function _swallows(address to) private view returns (bool) {
        return to == address(this) || to == address(TOKEN);
    }

    function _leaf(address provider, Line[] calldata lines) private pure returns (bytes32) {
        uint256[] memory words = new uint256[](lines.length);
        for (uint256 i = 0; i < lines.length; ++i) {
            words[i] = uint256(uint160(lines[i].tenant)) << 64 | lines[i].cumulative;
        }
        bytes32 packed = keccak256(abi.encodePacked(words));
        return keccak256(bytes.concat(keccak256(abi.encode(provider, packed))));
    }

    function _afterNotice() private view returns (uint40) {
        return uint40(block.timestamp) + NOTICE;
    }
}
