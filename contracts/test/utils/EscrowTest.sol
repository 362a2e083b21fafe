// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IComputeEscrow} from "../../src/interfaces/IComputeEscrow.sol";
import {OddToken} from "../mocks/Tokens.sol";
import {Leaves} from "./Leaves.sol";
import {Test} from "./Test.sol";

/// @dev What the contract answers beside its interface.
interface IEscrow is IComputeEscrow, IAccessControl {
    function TOKEN() external view returns (address);
    function SCALE() external view returns (uint256);
    function SETTLER() external view returns (bytes32);
    function GUARDIAN() external view returns (bytes32);
}

/// @dev One escrow with two tenants and two providers; the words in which the tests speak.
abstract contract EscrowTest is Test {
    uint40 internal constant CHALLENGE = 1 hours;
    uint40 internal constant NOTICE = 3 days;
    uint40 internal constant START = 1_700_000_000;

    address internal settler = named("settler");
    address internal guardian = named("guardian");
    address internal admin = named("admin");
    address internal alice = named("alice");
    address internal bob = named("bob");
    address internal p = named("provider p");
    address internal q = named("provider q");

    OddToken internal token;
    IEscrow internal escrow;

    function start(uint8 decimals) internal {
        vm.warp(START);
        token = new OddToken(decimals);
        escrow = deploy(token, admin, CHALLENGE, NOTICE);
    }

    /// @dev The escrow is taken as compiled for shipping, by the IR pipeline; a refusal comes through unchanged.
    function deploy(OddToken coin, address chief, uint40 challenge, uint40 notice)
        internal
        returns (IEscrow made)
    {
        bytes memory code = abi.encodePacked(
            vm.getCode("ComputeEscrow.sol:ComputeEscrow"),
            abi.encode(coin, chief, settler, guardian, challenge, notice)
        );
        assembly {
            made := create(0, add(code, 32), mload(code))
            if iszero(made) {
                returndatacopy(0, 0, returndatasize())
                revert(0, returndatasize())
            }
        }
    }

    function fund(address tenant, uint64 units, uint48 limit) internal {
        uint256 amount = units * escrow.SCALE();
        token.mint(tenant, amount);
        vm.startPrank(tenant);
        token.approve(address(escrow), amount);
        escrow.deposit(tenant, units);
        escrow.setSpendLimit(limit);
        vm.stopPrank();
    }

    function debit(address tenant, uint48 amount)
        internal
        pure
        returns (IComputeEscrow.Debit[] memory debits)
    {
        debits = new IComputeEscrow.Debit[](1);
        debits[0] = IComputeEscrow.Debit(tenant, amount);
    }

    function headRoot() internal view returns (bytes32) {
        return escrow.epochOf(escrow.state().head).root;
    }

    function post(bytes32 root, IComputeEscrow.Debit[] memory debits) internal returns (uint32) {
        uint40 seq = escrow.state().seq;
        bytes32 prev = headRoot();
        vm.prank(settler);
        return escrow.postEpoch(seq, prev, root, keccak256("manifest"), START, debits);
    }

    /// @dev Posts one line of one tenant and provider; the credits to claim it come back.
    function postLine(address tenant, address provider, uint64 cumulative, uint48 amount)
        internal
        returns (uint32 epoch, IComputeEscrow.Credit[] memory credits)
    {
        IComputeEscrow.Line[] memory lines = Leaves.line(tenant, cumulative);
        epoch = post(Leaves.leaf(provider, lines), debit(tenant, amount));
        credits = Leaves.one(provider, lines);
    }

    function pass(uint256 span) internal {
        vm.warp(block.timestamp + span);
    }

    function holds(address tenant, uint64 balance, uint64 allocated, uint48 pending) internal view {
        IComputeEscrow.Account memory account = escrow.accountOf(tenant);
        eq(account.balance, balance, "balance");
        eq(account.allocated, allocated, "allocated");
        eq(account.pending, pending, "pending");
    }

    function paidOf(address tenant, address provider) internal view returns (uint64) {
        address[] memory tenants = new address[](1);
        address[] memory providers = new address[](1);
        (tenants[0], providers[0]) = (tenant, provider);
        return escrow.pairsOf(tenants, providers)[0].paid;
    }
}
