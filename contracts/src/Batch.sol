// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title Several calls in one transaction, each of which may fail alone
/// @notice For calls that are open to anybody, such as ComputeEscrow's `answer` and `close`: whoever is called sees this
/// contract as its caller. It has no owner, no storage and no rights, and takes no money, so there is nothing in it to
/// be had. `aggregate3` has the ABI of Multicall3, which serves the same purpose on the chains where it is deployed.
contract Batch {
    struct Call3 {
        address target;
        bool allowFailure;
        bytes callData;
    }

    struct Result {
        bool success;
        bytes returnData;
    }

    /// @notice A call failed that must not; `reason` is what it reverted with
    error CallFailed(uint256 index, bytes reason);

    /// @notice Make the calls in their order
    /// @return results Of each call in the same order: whether it succeeded, and what it returned or reverted with
    function aggregate3(Call3[] calldata calls) external returns (Result[] memory results) {
        results = new Result[](calls.length);
        for (uint256 i = 0; i < calls.length; ++i) {
            Call3 calldata each = calls[i];
            // What a call does is its target's affair; with nothing of its own, this contract has nothing to protect.
            // slither-disable-next-line low-level-calls,calls-loop
            (bool success, bytes memory answer) = each.target.call(each.callData);
            if (!success && !each.allowFailure) revert CallFailed(i, answer);
            results[i] = Result(success, answer);
        }
    }
}
