// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow} from "../../src/interfaces/IComputeEscrow.sol";

/// @dev The tree as a settler builds it, written apart from the contract so that both can be wrong alone.
library Leaves {
    function leaf(address provider, IComputeEscrow.Line[] memory lines) internal pure returns (bytes32) {
        bytes memory packed;
        for (uint256 i = 0; i < lines.length; ++i) {
            packed = abi.encodePacked(packed, uint32(0), lines[i].tenant, lines[i].cumulative);
        }
        return keccak256(abi.encodePacked(keccak256(abi.encode(provider, keccak256(packed)))));
    }

    function node(bytes32 a, bytes32 b) internal pure returns (bytes32) {
        return a < b ? keccak256(abi.encodePacked(a, b)) : keccak256(abi.encodePacked(b, a));
    }

    function line(address tenant, uint64 cumulative)
        internal
        pure
        returns (IComputeEscrow.Line[] memory lines)
    {
        lines = new IComputeEscrow.Line[](1);
        lines[0] = IComputeEscrow.Line(tenant, cumulative);
    }

    function one(address provider, IComputeEscrow.Line[] memory lines)
        internal
        pure
        returns (IComputeEscrow.Credit[] memory credits)
    {
        credits = new IComputeEscrow.Credit[](1);
        credits[0] = IComputeEscrow.Credit(provider, lines, new bytes32[](0));
    }

    function two(address p, IComputeEscrow.Line[] memory l, address q, IComputeEscrow.Line[] memory m)
        internal
        pure
        returns (bytes32 root, IComputeEscrow.Credit[] memory credits)
    {
        (bytes32 a, bytes32 b) = (leaf(p, l), leaf(q, m));
        root = node(a, b);
        credits = new IComputeEscrow.Credit[](2);
        credits[0] = IComputeEscrow.Credit(p, l, new bytes32[](1));
        credits[1] = IComputeEscrow.Credit(q, m, new bytes32[](1));
        (credits[0].proof[0], credits[1].proof[0]) = (b, a);
    }
}
