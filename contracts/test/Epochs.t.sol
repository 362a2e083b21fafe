// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";
import {Leaves} from "./utils/Leaves.sol";

contract PostEpochTest is EscrowTest {
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

    function test_WhenItFits_MoneyMovesFromBalanceToPendingToAllocated() public {
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

    function test_WhenNotTheSettler_ItRefuses() public {
        bytes32 settling = escrow.SETTLER();
        vm.prank(guardian);
        vm.expectRevert(missing(guardian, settling));
        escrow.postEpoch(0, 0, ROOT, 0, START, new I.Debit[](0));
    }

    function test_WhenPaused_ItRefuses() public {
        pause();
        expectPostRevert(ROOT, debit(alice, 1), abi.encodeWithSelector(I.Paused.selector, START + MAX_PAUSE));
        pass(MAX_PAUSE);
        post(ROOT, new I.Debit[](0));
    }

    function test_WhenTwoSettlersPost_OneEpochIsThereAndTheOtherReverts() public conserves {
        address second = named("second settler");
        bytes32 settling = escrow.SETTLER();
        vm.prank(admin);
        escrow.grantRole(settling, second);
        fund(alice, 100, 60);
        post(ROOT, debit(alice, 10));
        vm.prank(second);
        vm.expectRevert(abi.encodeWithSelector(I.StaleState.selector, 1, ROOT));
        escrow.postEpoch(0, 0, ROOT, 0, START, debit(alice, 10));
        holds(alice, 90, 0, 10);
        eq(escrow.state().last, 1, "one epoch");
    }

    function test_WhenDecidedOnOlderState_ItRefuses() public {
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

    function test_WhenTheRootCameBackByACancel_ItIsStaleAllTheSame() public {
        fund(alice, 100, 60);
        (uint32 n,) = postLine(alice, p, 10, 10);
        vm.prank(guardian);
        escrow.cancelEpoch(n);
        vm.prank(settler);
        vm.expectRevert(abi.encodeWithSelector(I.StaleState.selector, 2, bytes32(0)));
        escrow.postEpoch(0, 0, ROOT, 0, START, debit(alice, 10));
    }

    function test_WhenTheWindowIsOpen_ItRefuses() public {
        fund(alice, 100, 60);
        post(ROOT, debit(alice, 10));
        bytes memory open = abi.encodeWithSelector(I.WindowOpen.selector, 1, START + CHALLENGE);
        expectPostRevert(keccak256("two"), debit(alice, 10), open);
        pass(CHALLENGE);
        post(keccak256("two"), debit(alice, 20));
        holds(alice, 70, 10, 20);
    }

    function test_WhenADebitIsZeroOrTwiceOrTheRootIsZero_ItRefusesTheWhole() public {
        fund(alice, 100, 60);
        fund(bob, 30, 60);
        expectPostRevert(ROOT, debit(bob, 10, alice, 0), abi.encodeWithSelector(I.ZeroAmount.selector));
        bytes memory twice = abi.encodeWithSelector(I.DuplicateTenant.selector, alice);
        expectPostRevert(ROOT, debit(alice, 10, alice, 10), twice);
        expectPostRevert(0, debit(alice, 1), abi.encodeWithSelector(I.ZeroRoot.selector));
        holds(alice, 100, 0, 0);
        holds(bob, 30, 0, 0);
    }

    function test_WhenASkippedTenantIsNamedAgain_ItIsADuplicateToo() public {
        fund(alice, 100, 60);
        bytes memory twice = abi.encodeWithSelector(I.DuplicateTenant.selector, alice);
        expectPostRevert(ROOT, debit(alice, 61, alice, 10), twice);
        expectPostRevert(ROOT, debit(alice, 61, alice, 62), twice);
    }

    function test_WhenADebitIsBeyondLimitOrBalance_ItIsSkippedAndTheOthersHold() public {
        fund(alice, 100, 60);
        fund(bob, 30, 60);
        I.Debit[] memory debits = new I.Debit[](3);
        (debits[0], debits[1], debits[2]) =
        (I.Debit(alice, 61), I.Debit(named("stranger"), 1), I.Debit(bob, 30));
        vm.expectEmit(address(escrow));
        emit I.DebitSkipped(1, alice, 61, 60);
        vm.expectEmit(address(escrow));
        emit I.DebitSkipped(1, named("stranger"), 1, 0);
        vm.expectEmit(address(escrow));
        emit I.EpochPosted(1, ROOT, keccak256("manifest"), 0, 0, START, START + CHALLENGE, 30);
        post(ROOT, debits);
        eq(escrow.epochOf(1).total, 30, "what was taken");
        holds(alice, 100, 0, 0);
        holds(bob, 0, 0, 30);
        pass(CHALLENGE);
        holds(alice, 100, 0, 0);
        holds(bob, 0, 30, 0);
        vm.expectEmit(address(escrow));
        emit I.DebitSkipped(2, bob, 31, 0);
        post(keccak256("two"), debit(alice, 60, bob, 31));
        holds(alice, 40, 0, 60);
        holds(bob, 0, 30, 0);
    }

    function test_WhenCancelled_ASkippedTenantGetsNothing() public {
        fund(alice, 100, 60);
        fund(bob, 30, 60);
        post(ROOT, debit(alice, 61, bob, 20));
        vm.prank(guardian);
        escrow.cancelEpoch(1);
        holds(alice, 100, 0, 0);
        holds(bob, 30, 0, 0);
    }

    /// @dev The settler has decided on 50 of each; alice has long announced what she does right before the post.
    function provePostOutlives(function() internal armed) internal {
        fund(alice, 100, 100);
        fund(bob, 100, 100);
        (bytes32 root, I.Credit[] memory credits) =
            Leaves.two(p, Leaves.line(alice, 50), q, Leaves.line(bob, 50));
        armed();
        uint32 n = post(root, debit(alice, 50, bob, 50));
        eq(escrow.epochOf(n).total, 50, "bob's alone");
        pass(CHALLENGE);
        escrow.claim(n, credits);
        eq(token.balanceOf(p), 0, "nothing of alice's is there to take");
        eq(token.balanceOf(q), 50, "bob's provider in full");
        holds(bob, 50, 0, 0);
    }

    function withdrawAll() internal {
        vm.prank(alice);
        escrow.requestWithdraw(100);
        pass(NOTICE);
        vm.prank(alice);
        escrow.withdraw(alice);
    }

    function lowerTheLimit() internal {
        vm.prank(alice);
        escrow.setSpendLimit(0);
        pass(NOTICE);
        vm.prank(alice);
        escrow.applySpendLimit();
    }

    function test_WhenAWithdrawalMatured_ItStopsNobodyElsesEpoch() public {
        provePostOutlives(withdrawAll);
    }

    function test_WhenALimitWasLowered_ItStopsNobodyElsesEpoch() public {
        provePostOutlives(lowerTheLimit);
        // The debt is still there, and so is the money: it is billed as soon as it fits again.
        vm.prank(alice);
        escrow.setSpendLimit(50);
        (uint32 n, I.Credit[] memory credits) = postLine(alice, p, 50, 50);
        pass(CHALLENGE);
        escrow.claim(n, credits);
        eq(token.balanceOf(p), 50, "billed again");
    }

    function test_When500Debits_ItPasses_When501_ItRefuses() public {
        I.Debit[] memory debits = new I.Debit[](500);
        for (uint160 i = 0; i < 500; ++i) {
            debits[i] = I.Debit(address(i + 1), 1);
            fund(address(i + 1), 1, 1);
        }
        expectPostRevert(ROOT, new I.Debit[](501), abi.encodeWithSelector(I.TooManyDebits.selector, 501));
        post(ROOT, debits);
        eq(escrow.epochOf(1).total, 500, "total");
    }

    function testFuzz_WhateverTheDebit_ItStaysWithinLimitAndBalance(
        uint48 balance,
        uint48 limit,
        uint48 amount
    ) public {
        balance = uint48(bound(balance, 1, type(uint48).max));
        fund(alice, balance, limit);
        bool fits = amount != 0 && amount <= limit && amount <= balance;
        if (fits) {
            post(ROOT, debit(alice, amount));
            holds(alice, balance - amount, 0, amount);
        } else {
            if (amount == 0) {
                expectPostRevert(ROOT, debit(alice, 0), abi.encodeWithSelector(I.ZeroAmount.selector));
            } else {
                post(ROOT, debit(alice, amount));
            }
            holds(alice, balance, 0, 0);
        }
    }
}

contract CancelEpochTest is EscrowTest {
    bytes32 internal constant ROOT = keccak256("root");

    function setUp() public {
        start(6);
    }

    function test_WhenNotTheGuardian_ItRefuses() public {
        bytes32 guarding = escrow.GUARDIAN();
        post(ROOT, new I.Debit[](0));
        vm.prank(settler);
        vm.expectRevert(missing(settler, guarding));
        escrow.cancelEpoch(1);
    }

    function test_WhenPaused_ItCancelsAllTheSame() public conserves {
        fund(alice, 100, 60);
        post(ROOT, debit(alice, 60));
        pass(CHALLENGE - 1);
        pause();
        pass(MAX_PAUSE - 1);
        vm.expectEmit(address(escrow));
        emit I.EpochCancelled(1, 2);
        cancel(1);
        holds(alice, 100, 0, 0);
    }

    function test_WhenInTheWindow_TheMoneyGoesBackAndTheWayIsOpen() public {
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

    function test_WhenTwiceInARow_EverythingIsAsBeforeButTheSeq() public {
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

    function test_WhenNotTheHeadInItsWindow_ItRefuses() public {
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
}
