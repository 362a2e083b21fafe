// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {IComputeEscrow} from "../interfaces/IComputeEscrow.sol";

/// @title What every part of ComputeEscrow shares: the books, the settlement clock, transfers and receipts
abstract contract EscrowBase is IComputeEscrow, AccessControl, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    bytes32 public constant SETTLER = keccak256("SETTLER");
    bytes32 public constant METER = keccak256("METER");
    bytes32 public constant ARBITER = keccak256("ARBITER");
    bytes32 public constant GUARDIAN = keccak256("GUARDIAN");
    uint256 public constant MAX_DEBITS = 500;
    uint256 public constant MAX_LINES = 64;
    uint40 public constant MAX_PAUSE = 3 days;
    uint40 public constant PAUSE_COOLDOWN = 30 days;
    uint64 public constant MIN_BOND = 1_000_000;
    uint64 public constant BOND_DIVISOR = 20;
    bytes32 private constant RECEIPT = keccak256(
        "Receipt(address tenant,address provider,uint64 cumulative,uint40 periodEnd,bytes32 usageRoot)"
    );

    bytes32 private constant DOMAIN =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    IERC20 public immutable TOKEN;
    /// @notice Token base units per unit of account
    uint256 public immutable SCALE;
    /// @notice Seconds of the settlement clock between the posting of an epoch and its activation
    uint40 public immutable CHALLENGE;
    /// @notice Seconds between the announcement of a withdrawal or lower limit and its effect
    uint40 public immutable NOTICE;
    /// @notice Seconds of the settlement clock after activation in which the arbiter may rule
    uint40 public immutable RULING;
    /// @notice Seconds after the end of a receipt's period from which its provider may exit
    uint40 public immutable EXIT_AFTER;
    /// @notice The longest period an epoch is meant to cover, in seconds
    uint40 public immutable LONGEST_EPOCH;
    /// @notice Owed the lost bonds of disputes that named no provider
    address public immutable RESERVE;

    /// @dev A dispute as it is stored: bond and deadline follow from the amount and from the epoch.
    struct Case {
        uint64 floor;
        uint48 amount;
        uint48 shown;
        uint48 forfeited;
        bool ruled;
    }

    /// @dev Of a tenant's open disputes that name no provider: what they hold, and what is shown of that so far.
    struct Held {
        uint64 amount;
        uint64 shown;
    }

    State internal _state;
    mapping(address tenant => Account) internal _accounts;
    mapping(address tenant => Side) internal _sides;
    mapping(address tenant => mapping(address provider => Pair)) internal _pairs;
    mapping(uint32 number => Epoch) internal _epochs;
    mapping(uint32 number => mapping(address tenant => mapping(address provider => Case))) internal _cases;
    mapping(address tenant => mapping(address provider => Exit)) internal _exits;
    mapping(address tenant => Held) internal _held;
    mapping(address provider => address) internal _payees;
    mapping(address provider => address) internal _signers;
    /// @inheritdoc IComputeEscrow
    mapping(address who => uint64) public owed;

    constructor(Config memory config) {
        if (
            config.admin == address(0) || config.settler == address(0) || config.meter == address(0)
                || config.arbiter == address(0) || config.guardian == address(0)
                || config.reserve == address(0)
        ) revert ZeroAddress();
        uint256 last = config.exitAfter > config.ruling ? config.exitAfter : config.ruling;
        // A tenant's notice must outlast the longest epoch with a re-post after a cancel and what can follow it, or
        // money for work already done could leave first.
        uint256 least =
            uint256(config.longestEpoch) + 2 * uint256(config.challenge) + last + MAX_PAUSE + 1 days;
        if (
            config.challenge == 0 || config.ruling == 0 || config.exitAfter == 0 || config.longestEpoch == 0
                || config.notice < least
        ) revert BadPeriods(config.notice, least);
        uint8 decimals = config.token.decimals();
        if (decimals < 6 || decimals > 18) revert UnsupportedDecimals(decimals);
        TOKEN = config.token;
        SCALE = 10 ** (decimals - 6);
        CHALLENGE = config.challenge;
        NOTICE = config.notice;
        RULING = config.ruling;
        EXIT_AFTER = config.exitAfter;
        LONGEST_EPOCH = config.longestEpoch;
        RESERVE = config.reserve;
        _grantRole(DEFAULT_ADMIN_ROLE, config.admin);
        _grantRole(SETTLER, config.settler);
        _grantRole(METER, config.meter);
        _grantRole(ARBITER, config.arbiter);
        _grantRole(GUARDIAN, config.guardian);
    }

    modifier whenRunning() {
        _requireRunning();
        _;
    }

    /// @inheritdoc IComputeEscrow
    function clock() public view returns (uint40) {
        return _clock(_state);
    }

    /// @inheritdoc IComputeEscrow
    function paused() public view returns (bool) {
        return block.timestamp < _state.pausedUntil;
    }

    /// @inheritdoc IComputeEscrow
    function activeEpoch() public view returns (uint32) {
        State memory s = _state;
        return _clock(s) < _epochs[s.head].activeAt ? _epochs[s.head].prev : s.head;
    }

    /// @inheritdoc IComputeEscrow
    function payeeOf(address provider) public view returns (address) {
        address payee = _payees[provider];
        return payee == address(0) ? provider : payee;
    }

    /// @inheritdoc IComputeEscrow
    function signerOf(address provider) public view returns (address) {
        address signer = _signers[provider];
        return signer == address(0) ? provider : signer;
    }

    /// @inheritdoc IComputeEscrow
    function receiptDigest(Receipt calldata receipt) public view returns (bytes32) {
        // Every member is of one word, so the struct's calldata is its EIP-712 encoding.
        bytes32 content = keccak256(abi.encode(RECEIPT, receipt));
        // Made anew each time: after a fork of the chain a receipt counts on the side it was signed for.
        bytes32 domain = keccak256(
            abi.encode(
                DOMAIN, keccak256("fedgpu ComputeEscrow"), keccak256("1"), block.chainid, address(this)
            )
        );
        return MessageHashUtils.toTypedDataHash(domain, content);
    }

    /// @inheritdoc IComputeEscrow
    function bondFor(uint64 amount) public pure returns (uint64) {
        uint64 share = amount / BOND_DIVISOR;
        return share < MIN_BOND ? MIN_BOND : share;
    }

    /// @dev One key must not both say what was used and what is settled.
    function _grantRole(bytes32 role, address account) internal override returns (bool) {
        if (role == METER && hasRole(SETTLER, account) || role == SETTLER && hasRole(METER, account)) {
            revert SameKey(account);
        }
        return super._grantRole(role, account);
    }

    function _requireRunning() internal view {
        uint40 until = _state.pausedUntil;
        if (block.timestamp < until) revert Paused(until);
    }

    /// @dev Unix time less all pauses; a running pause counts up to now, so the clock stands still in it.
    function _clock(State memory s) internal view returns (uint40) {
        uint256 end = block.timestamp < s.pausedUntil ? block.timestamp : s.pausedUntil;
        return uint40(block.timestamp - s.pausedTotal - (end - s.pausedAt));
    }

    /// @dev The account with its pending money moved to where its epoch's outcome puts it.
    function _settled(address tenant, uint40 time) internal view returns (Account memory) {
        // Declared here and not as the result, for which the compiler would set aside memory of its own.
        Account memory account = _accounts[tenant];
        if (account.epoch == 0) return account;
        Epoch storage epoch = _epochs[account.epoch];
        if (epoch.cancelled) {
            account.balance += account.pending;
        } else if (time >= epoch.activeAt) {
            account.allocated += account.pending;
        } else {
            return account;
        }
        (account.pending, account.epoch) = (0, 0);
        return account;
    }

    /// @dev As `_accounts[tenant] = account`, for which the compiler would load and store the slot once per member.
    function _save(address tenant, Account memory account) internal {
        Account storage kept = _accounts[tenant];
        uint256 word = uint256(account.epoch) << 224 | uint256(account.limit) << 176
            | uint256(account.pending) << 128 | uint256(account.allocated) << 64 | account.balance;
        assembly ("memory-safe") {
            sstore(kept.slot, word)
        }
    }

    /// @dev Until when the arbiter may rule on an epoch's disputes, and from when they can be closed without it.
    function _deadline(uint32 epoch) internal view returns (uint40) {
        return _epochs[epoch].activeAt + RULING;
    }

    /// @dev What a cumulative amount shows as due from the pair; 0 when it shows less than is decided already.
    function _due(Pair memory pair, uint64 cumulative) internal pure returns (uint64) {
        uint256 base = uint256(pair.paid) + pair.deducted + pair.reserved;
        return cumulative > base ? uint64(cumulative - base) : 0;
    }

    /// @dev Takes tokens that the sender approved; what does not arrive in full is refused.
    function _take(address from, uint64 units) internal {
        uint256 before = TOKEN.balanceOf(address(this));
        TOKEN.safeTransferFrom(from, address(this), units * SCALE);
        _requireReceived(before, units * SCALE);
    }

    function _requireReceived(uint256 before, uint256 amount) internal view {
        uint256 received = TOKEN.balanceOf(address(this)) - before;
        if (received != amount) revert FeeOnTransfer(amount, received);
    }

    /// @dev One payee that cannot receive must not hold up the others of the same batch.
    function _pay(uint32 epoch, address provider, uint64 units) internal {
        address payee = payeeOf(provider);
        if (!_swallows(payee) && TOKEN.trySafeTransfer(payee, units * SCALE)) {
            emit CreditPaid(epoch, provider, payee, units);
        } else {
            owed[provider] += units;
            emit CreditOwed(epoch, provider, payee, units);
        }
    }

    /// @dev The tenant's part of a bond is that of the amount which went back to it, rounded up; all is pulled, since
    /// a transfer that fails must not keep a dispute open.
    function _splitBond(address tenant, address other, uint64 part, uint64 amount)
        internal
        returns (uint64 back)
    {
        uint64 bond = bondFor(amount);
        back = uint64((uint256(bond) * part + amount - 1) / amount);
        owed[tenant] += back;
        owed[other] += bond - back;
    }

    function _mayReceive(address to) internal view {
        if (to == address(0)) revert ZeroAddress();
        if (_swallows(to)) revert BadRecipient(to);
    }

    /// @dev Sent to itself, money would leave the books and stay in the contract; the token gives none back either.
    function _swallows(address to) internal view returns (bool) {
        return to == address(this) || to == address(TOKEN);
    }

    function _inRoot(bytes32 root, address provider, Line[] calldata lines, bytes32[] calldata proof)
        internal
        pure
        returns (bool)
    {
        return lines.length <= MAX_LINES && MerkleProof.verifyCalldata(proof, root, _leaf(provider, lines));
    }

    function _leaf(address provider, Line[] calldata lines) private pure returns (bytes32) {
        uint256[] memory words = new uint256[](lines.length);
        for (uint256 i = 0; i < lines.length; ++i) {
            words[i] = uint256(uint160(lines[i].tenant)) << 64 | lines[i].cumulative;
        }
        bytes32 packed = keccak256(abi.encodePacked(words));
        return keccak256(bytes.concat(keccak256(abi.encode(provider, packed))));
    }

    /// @dev The tenant's line in an epoch's root.
    function _line(
        uint32 epoch,
        address tenant,
        address provider,
        Line[] calldata lines,
        uint256 i,
        bytes32[] calldata proof
    ) internal view returns (uint64) {
        if (
            i >= lines.length || lines[i].tenant != tenant
                || !_inRoot(_epochs[epoch].root, provider, lines, proof)
        ) revert NotInRoot(epoch, provider);
        return lines[i].cumulative;
    }

    /// @dev Both signatures as of now: a meter that lost its role, or a signer that was replaced, counts no more.
    function _verify(Receipt calldata receipt, Signatures calldata sigs) internal view {
        if (!hasRole(METER, sigs.meter)) revert NotMeter(sigs.meter);
        bytes32 digest = receiptDigest(receipt);
        _requireSigned(sigs.meter, digest, sigs.meterSig);
        _requireSigned(signerOf(receipt.provider), digest, sigs.providerSig);
    }

    function _requireSigned(address signer, bytes32 digest, bytes calldata signature) private view {
        if (!SignatureChecker.isValidSignatureNowCalldata(signer, digest, signature)) {
            revert BadSignature(signer);
        }
    }
}
