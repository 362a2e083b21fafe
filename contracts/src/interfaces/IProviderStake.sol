// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow} from "./IComputeEscrow.sol";

/// @title What providers put at stake for their word
/// @notice Of the escrow's token, in its units of 10^-6. Stake can be taken while it is bonded and while it is on its
/// way out, and only to one address that is fixed for good.
interface IProviderStake {
    /// @notice What a deployment fixes for good, and the first holders of the roles
    /// @param escrow whose token and periods hold here too
    /// @param admin who appoints roles, meant to be a TimelockController
    /// @param slasher takes stake, and locks it
    /// @param arbiter locks it for a dispute
    /// @param reserve receives what is taken
    /// @param delay seconds from `unbond` to `withdraw`
    /// @param lock the longest that disputes can hold a withdrawal up, all together, in seconds
    struct Config {
        IComputeEscrow escrow;
        address admin;
        address slasher;
        address arbiter;
        address reserve;
        uint40 delay;
        uint40 lock;
    }

    /// @notice A provider's stake
    /// @param bonded what stands for its word
    /// @param unbonding what is on its way out; it can be taken as well
    /// @param unbondAt when that may be withdrawn, 0 for none on its way
    /// @param lockedUntil until when disputes ask to hold it
    struct Stake {
        uint64 bonded;
        uint64 unbonding;
        uint40 unbondAt;
        uint40 lockedUntil;
    }

    /// @notice A provider's stake grew
    event Bonded(address indexed provider, address indexed from, uint64 units);
    /// @notice Stake is on its way out and may be withdrawn from `at` on
    event Unbonding(address indexed provider, uint64 units, uint40 at);
    /// @notice Stake on its way out was bonded again
    event Rebonded(address indexed provider, uint64 units);
    /// @notice Stake left
    event Withdrawn(address indexed provider, address indexed to, uint64 units);
    /// @notice Stake was taken; `units` is what there was of the `wanted`
    event Slashed(address indexed provider, uint64 wanted, uint64 units, bytes32 reason);
    /// @notice A dispute asks to hold the provider's withdrawals until `until`
    event Locked(address indexed provider, bytes32 indexed disputeId, uint40 until);
    /// @notice What was taken went to the reserve
    event Swept(uint64 units);

    /// @notice An address that must not be zero is
    error ZeroAddress();
    /// @notice An amount that must not be zero is
    error ZeroAmount();
    /// @notice Money sent to this contract itself or to the token would be nobody's
    error BadRecipient(address to);
    /// @notice The delay is shorter than `least`, or the lock is zero or longer than `longestLock`
    error BadPeriods(uint256 least, uint256 longestLock);
    /// @notice The token delivered another amount than was sent
    error FeeOnTransfer(uint256 expected, uint256 received);
    /// @notice More than what is there
    error TooMuch(uint64 units, uint64 most);
    /// @notice Nothing is on its way out, or it may be withdrawn from `at` on
    error NotYet(uint256 at);
    /// @notice A dispute locks a provider once
    error LockedBefore(bytes32 disputeId);

    /// @notice Adds to a provider's stake
    /// @param provider whose stake
    /// @param units how much; the caller must have approved units * SCALE of the token
    function bond(address provider, uint64 units) external;

    /// @notice Starts taking stake out; the delay begins anew for all that is on its way
    /// @param units how much
    function unbond(uint64 units) external;

    /// @notice Bonds what is on its way out again
    function rebond() external;

    /// @notice Takes out what was on its way, once delay and locks are over
    /// @param to who receives it; neither this contract nor the token
    /// @return units how much
    function withdraw(address to) external returns (uint64 units);

    /// @notice Takes stake for the reserve, at most what is there: what is bonded first, then what is on its way out
    /// @param provider whose stake
    /// @param units how much
    /// @param reason hash of what it did
    /// @return taken how much was there
    function slash(address provider, uint64 units, bytes32 reason) external returns (uint64 taken);

    /// @notice Holds a provider's withdrawals for LOCK from now, once per dispute
    /// @dev Whatever the number of disputes, a withdrawal waits no longer than LOCK past its own time.
    /// @param provider whose withdrawals
    /// @param disputeId names the dispute
    function lock(address provider, bytes32 disputeId) external;

    /// @notice Sends the reserve what was taken; anybody may ask for it
    /// @return units how much
    function sweep() external returns (uint64 units);

    /// @notice A provider's stake
    function stakeOf(address provider) external view returns (Stake memory);

    /// @notice The same for many providers
    function stakesOf(address[] calldata providers) external view returns (Stake[] memory);

    /// @notice When a provider may withdraw what is on its way out, 0 for nothing on its way
    function withdrawableAt(address provider) external view returns (uint256);

    /// @notice What was taken and has not been sent to the reserve
    function taken() external view returns (uint64);
}
