// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The one call of EIP-3009 that the escrow makes, in both forms that tokens have
/// @notice Only the recipient may send it, so nobody can take an authorization for the escrow past its books.
interface IReceiveWithAuthorization {
    /// @notice As the standard writes it
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;

    /// @notice With a signature of any length, for wallets that are contracts
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;
}
