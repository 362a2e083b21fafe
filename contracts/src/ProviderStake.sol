// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IProviderStake} from "./interfaces/IProviderStake.sol";

/// @dev What the stake reads of its escrow once, at construction.
interface IEscrowPeriods {
    function TOKEN() external view returns (IERC20);
    function SCALE() external view returns (uint256);
    function CHALLENGE() external view returns (uint40);
    function RULING() external view returns (uint40);
    function LONGEST_EPOCH() external view returns (uint40);
}

/// @title Stake of providers, beside a ComputeEscrow
/// @notice token balance = SCALE * (sum(bonded + unbonding) + taken), always
contract ProviderStake is IProviderStake, AccessControl, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    bytes32 public constant SLASHER = keccak256("SLASHER");
    bytes32 public constant ARBITER = keccak256("ARBITER");
    uint40 public constant LONGEST_LOCK = 30 days;

    IERC20 public immutable TOKEN;
    /// @notice Token base units per unit of account
    uint256 public immutable SCALE;
    /// @notice Seconds from `unbond` to `withdraw`
    uint40 public immutable DELAY;
    /// @notice The longest that disputes can hold a withdrawal up, in seconds
    uint40 public immutable LOCK;
    /// @notice Receives what is taken, and nobody else ever does
    address public immutable RESERVE;

    /// @inheritdoc IProviderStake
    uint64 public taken;
    mapping(address provider => Stake) private _stakes;
    mapping(address provider => mapping(bytes32 disputeId => bool)) private _locked;

    constructor(Config memory config) {
        if (
            config.admin == address(0) || config.slasher == address(0) || config.arbiter == address(0)
                || config.reserve == address(0)
        ) revert ZeroAddress();
        IEscrowPeriods escrow = IEscrowPeriods(address(config.escrow));
        // Whoever takes its stake out as its last epoch begins must still be in reach when that epoch's disputes end.
        uint256 least = uint256(escrow.LONGEST_EPOCH()) + escrow.CHALLENGE() + escrow.RULING() + 2 days;
        if (config.delay < least || config.lock == 0 || config.lock > LONGEST_LOCK) {
            revert BadPeriods(least, LONGEST_LOCK);
        }
        (TOKEN, SCALE) = (escrow.TOKEN(), escrow.SCALE());
        (DELAY, LOCK, RESERVE) = (config.delay, config.lock, config.reserve);
        _mayReceive(config.reserve);
        _grantRole(DEFAULT_ADMIN_ROLE, config.admin);
        _grantRole(SLASHER, config.slasher);
        _grantRole(ARBITER, config.arbiter);
    }

    /// @inheritdoc IProviderStake
    function bond(address provider, uint64 units) external nonReentrant {
        if (provider == address(0)) revert ZeroAddress();
        if (units == 0) revert ZeroAmount();
        uint256 amount = units * SCALE;
        uint256 before = TOKEN.balanceOf(address(this));
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = TOKEN.balanceOf(address(this)) - before;
        if (received != amount) revert FeeOnTransfer(amount, received);
        _stakes[provider].bonded += units;
        emit Bonded(provider, msg.sender, units);
    }

    /// @inheritdoc IProviderStake
    function unbond(uint64 units) external {
        if (units == 0) revert ZeroAmount();
        Stake storage stake = _stakes[msg.sender];
        if (units > stake.bonded) revert TooMuch(units, stake.bonded);
        uint40 at = uint40(block.timestamp) + DELAY;
        stake.bonded -= units;
        stake.unbonding += units;
        stake.unbondAt = at;
        emit Unbonding(msg.sender, units, at);
    }

    /// @inheritdoc IProviderStake
    function rebond() external {
        Stake storage stake = _stakes[msg.sender];
        uint64 units = stake.unbonding;
        if (units == 0) revert ZeroAmount();
        stake.bonded += units;
        (stake.unbonding, stake.unbondAt) = (0, 0);
        emit Rebonded(msg.sender, units);
    }

    /// @inheritdoc IProviderStake
    function withdraw(address to) external nonReentrant returns (uint64 units) {
        _mayReceive(to);
        uint256 at = withdrawableAt(msg.sender);
        // Zero stands for nothing to withdraw; what is compared with the time is compared by order.
        // slither-disable-next-line incorrect-equality
        if (at == 0 || block.timestamp < at) revert NotYet(at);
        Stake storage stake = _stakes[msg.sender];
        units = stake.unbonding;
        (stake.unbonding, stake.unbondAt) = (0, 0);
        emit Withdrawn(msg.sender, to, units);
        TOKEN.safeTransfer(to, units * SCALE);
    }

    /// @inheritdoc IProviderStake
    function slash(address provider, uint64 units, bytes32 reason)
        external
        onlyRole(SLASHER)
        returns (uint64 there)
    {
        Stake memory stake = _stakes[provider];
        uint64 first = units < stake.bonded ? units : stake.bonded;
        uint64 rest = units - first < stake.unbonding ? units - first : stake.unbonding;
        stake.bonded -= first;
        stake.unbonding -= rest;
        if (stake.unbonding == 0) stake.unbondAt = 0;
        _stakes[provider] = stake;
        there = first + rest;
        taken += there;
        emit Slashed(provider, units, there, reason);
    }

    /// @inheritdoc IProviderStake
    function lock(address provider, bytes32 disputeId) external {
        if (!hasRole(SLASHER, msg.sender)) _checkRole(ARBITER);
        if (_locked[provider][disputeId]) revert LockedBefore(disputeId);
        _locked[provider][disputeId] = true;
        uint40 until = uint40(block.timestamp) + LOCK;
        _stakes[provider].lockedUntil = until;
        emit Locked(provider, disputeId, until);
    }

    /// @inheritdoc IProviderStake
    function sweep() external nonReentrant returns (uint64 units) {
        units = taken;
        if (units == 0) revert ZeroAmount();
        taken = 0;
        emit Swept(units);
        TOKEN.safeTransfer(RESERVE, units * SCALE);
    }

    /// @inheritdoc IProviderStake
    function stakeOf(address provider) external view returns (Stake memory) {
        return _stakes[provider];
    }

    /// @inheritdoc IProviderStake
    function stakesOf(address[] calldata providers) external view returns (Stake[] memory stakes) {
        stakes = new Stake[](providers.length);
        for (uint256 i = 0; i < providers.length; ++i) {
            stakes[i] = _stakes[providers[i]];
        }
    }

    /// @inheritdoc IProviderStake
    function withdrawableAt(address provider) public view returns (uint256 at) {
        Stake memory stake = _stakes[provider];
        // An amount of the books: nobody can make it miss zero by sending something here.
        // slither-disable-next-line incorrect-equality
        if (stake.unbonding == 0) return 0;
        at = stake.unbondAt;
        uint256 longest = at + LOCK;
        if (stake.lockedUntil > at) at = stake.lockedUntil < longest ? stake.lockedUntil : longest;
    }

    function _mayReceive(address to) private view {
        if (to == address(0)) revert ZeroAddress();
        if (to == address(this) || to == address(TOKEN)) revert BadRecipient(to);
    }
}
