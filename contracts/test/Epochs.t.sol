// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";
import {Leaves} from "./utils/Leaves.sol";

contract EpochsTest is EscrowTest {
    bytes32 internal constant ROOT = keccak256("root");

    function setUp() public {
        start(6);
    }

    function expectPostRevert(bytes32 root, I.Debit[] memory debits, bytes memory reason) internal {
        uint40 seq = escrow.state().seq;
        bytes32 prev = headRoot();
        vm.prank(settler);
        vm.expectRevert(reason);
        escrow.postEpoch(seq, prev, root, 0, START, debits);
    }

    function test_post_moves_balance_to_pending_then_allocated() public {
        fund(alice, 100, 60);
        vm.expectEmit(address(escrow));
        emit I.EpochPosted(1, ROOT, keccak256("manifest"), 0, 0, START, START + CHALLENGE, 60);
        post(ROOT, debit(alice, 60));
        holds(alice, 40, 0, 60);
        eq(escrow.activeEpoch(), 0, "not active yet");
        pass(CHALLENGE - 1);
        holds(alice, 40, 0, 60);
        pass(1);
        holds(alice, 40, 60, 0);
        eq(escrow.activeEpoch(), 1, "active");
        I.State memory s = escrow.state();
        eq(s.seq, 1, "seq");
        eq(s.head, 1, "head");
        eq(escrow.epochOf(1).total, 60, "total");
    }

    function test_only_the_roles_post_and_cancel() public {
        (bytes32 settling, bytes32 guarding) = (escrow.SETTLER(), escrow.GUARDIAN());
        vm.prank(alice);
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, alice, settling)
        );
        escrow.postEpoch(0, 0, ROOT, 0, START, new I.Debit[](0));
        post(ROOT, new I.Debit[](0));
        vm.prank(settler);
        vm.expectRevert(
            abi.encodeWithSelector(
                IAccessControl.AccessControlUnauthorizedAccount.selector, settler, guarding
            )
        );
        escrow.cancelEpoch(1);
    }

    function test_post_on_older_state_is_refused() public {
        fund(alice, 100, 60);
        post(ROOT, debit(alice, 10));
        pass(CHALLENGE);
        vm.startPrank(settler);
        vm.expectRevert(abi.encodeWithSelector(I.StaleState.selector, 1, ROOT));
        escrow.postEpoch(0, 0, keccak256("other"), 0, START, debit(alice, 10));
        vm.expectRevert(abi.encodeWithSelector(I.StaleState.selector, 1, ROOT));
        escrow.postEpoch(1, keccak256("wrong"), keccak256("other"), 0, START, debit(alice, 10));
        vm.stopPrank();
        holds(alice, 90, 10, 0);
    }

    function test_post_stale_after_cancel_although_the_root_came_back() public {
        fund(alice, 100, 60);
        (uint32 n,) = postLine(alice, p, 10, 10);
        vm.prank(guardian);
        escrow.cancelEpoch(n);
        vm.prank(settler);
        vm.expectRevert(abi.encodeWithSelector(I.StaleState.selector, 2, bytes32(0)));
        escrow.postEpoch(0, 0, ROOT, 0, START, debit(alice, 10));
    }

    function test_post_waits_for_the_window() public {
        fund(alice, 100, 60);
        post(ROOT, debit(alice, 10));
        bytes memory open = abi.encodeWithSelector(I.WindowOpen.selector, 1, START + CHALLENGE);
        expectPostRevert(keccak256("two"), debit(alice, 10), open);
        pass(CHALLENGE);
        post(keccak256("two"), debit(alice, 20));
        holds(alice, 70, 10, 20);
    }

    function test_debits_hold_within_limit_and_balance_or_not_at_all() public {
        fund(alice, 100, 60);
        fund(bob, 30, 60);
        bytes memory reason = abi.encodeWithSelector(I.DebitRefused.selector, alice, 100, 60, 61);
        expectPostRevert(ROOT, debit(alice, 61), reason);
        reason = abi.encodeWithSelector(I.DebitRefused.selector, bob, 30, 60, 31);
        I.Debit[] memory both = new I.Debit[](2);
        (both[0], both[1]) = (I.Debit(alice, 10), I.Debit(bob, 31));
        expectPostRevert(ROOT, both, reason);
        holds(alice, 100, 0, 0);
        expectPostRevert(
            ROOT, debit(alice, 0), abi.encodeWithSelector(I.DebitRefused.selector, alice, 100, 60, 0)
        );
        both[1] = I.Debit(alice, 10);
        expectPostRevert(ROOT, both, abi.encodeWithSelector(I.DuplicateTenant.selector, alice));
        expectPostRevert(0, debit(alice, 1), abi.encodeWithSelector(I.ZeroRoot.selector));
    }

    function test_500_debits_pass_and_501_do_not() public {
        I.Debit[] memory debits = new I.Debit[](500);
        for (uint160 i = 0; i < 500; ++i) {
            debits[i] = I.Debit(address(i + 1), 1);
            fund(address(i + 1), 1, 1);
        }
        expectPostRevert(ROOT, new I.Debit[](501), abi.encodeWithSelector(I.TooManyDebits.selector, 501));
        post(ROOT, debits);
        eq(escrow.epochOf(1).total, 500, "total");
    }

    function test_cancel_returns_the_money_and_opens_the_way() public {
        fund(alice, 100, 60);
        post(ROOT, debit(alice, 10));
        pass(CHALLENGE);
        post(keccak256("bad"), debit(alice, 60));
        holds(alice, 30, 10, 60);
        vm.prank(guardian);
        escrow.cancelEpoch(2);
        holds(alice, 90, 10, 0);
        eq(escrow.activeEpoch(), 1, "the older one is active again");
        I.State memory s = escrow.state();
        eq(s.seq, 3, "seq");
        eq(s.head, 1, "head");
        post(keccak256("good"), debit(alice, 20));
        holds(alice, 70, 10, 20);
        eq(escrow.epochOf(3).prev, 1, "built on the active one");
    }

    function test_two_cancels_in_a_row() public {
        fund(alice, 100, 60);
        for (uint32 n = 1; n <= 2; ++n) {
            post(ROOT, debit(alice, 60));
            vm.prank(guardian);
            escrow.cancelEpoch(n);
        }
        holds(alice, 100, 0, 0);
        eq(escrow.state().seq, 4, "seq");
        eq(escrow.state().head, 0, "head");
        eq(escrow.activeEpoch(), 0, "active");
    }

    function test_cancel_is_over_with_the_window() public {
        bytes memory reason = abi.encodeWithSelector(I.NotInWindow.selector, 0);
        vm.startPrank(guardian);
        vm.expectRevert(reason);
        escrow.cancelEpoch(0);
        vm.stopPrank();
        post(ROOT, new I.Debit[](0));
        pass(CHALLENGE);
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(I.NotInWindow.selector, 1));
        escrow.cancelEpoch(1);
        post(keccak256("two"), new I.Debit[](0));
        vm.startPrank(guardian);
        escrow.cancelEpoch(2);
        vm.expectRevert(abi.encodeWithSelector(I.NotInWindow.selector, 2));
        escrow.cancelEpoch(2);
        vm.stopPrank();
    }

    function testFuzz_a_debit_never_exceeds_limit_or_balance(uint48 balance, uint48 limit, uint48 amount)
        public
    {
        balance = uint48(bound(balance, 1, type(uint48).max));
        fund(alice, balance, limit);
        bool fits = amount != 0 && amount <= limit && amount <= balance;
        if (fits) {
            post(ROOT, debit(alice, amount));
            holds(alice, balance - amount, 0, amount);
        } else {
            expectPostRevert(
                ROOT,
                debit(alice, amount),
                abi.encodeWithSelector(I.DebitRefused.selector, alice, balance, limit, amount)
            );
            holds(alice, balance, 0, 0);
        }
    }
}
