// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";

contract SpendLimitTest is EscrowTest {
    function setUp() public {
        start(6);
        fund(alice, 100, 50);
    }

    function test_WhenHigherOrEqual_ItHoldsAtOnce() public {
        vm.startPrank(alice);
        vm.expectEmit(address(escrow));
        emit I.SpendLimitSet(alice, 60);
        escrow.setSpendLimit(60);
        escrow.setSpendLimit(60);
        vm.stopPrank();
        eq(escrow.accountOf(alice).limit, 60, "raised");
    }

    function test_WhenLower_ItHoldsAfterTheNotice() public {
        vm.startPrank(alice);
        vm.expectEmit(address(escrow));
        emit I.SpendLimitAnnounced(alice, 10, START + NOTICE);
        escrow.setSpendLimit(10);
        eq(escrow.accountOf(alice).limit, 50, "not lowered yet");
        pass(NOTICE - 1);
        vm.expectRevert(abi.encodeWithSelector(I.NoticeRunning.selector, START + NOTICE));
        escrow.applySpendLimit();
        pass(1);
        vm.expectEmit(address(escrow));
        emit I.SpendLimitSet(alice, 10);
        escrow.applySpendLimit();
        eq(escrow.accountOf(alice).limit, 10, "lowered");
        vm.expectRevert(abi.encodeWithSelector(I.NoticeRunning.selector, 0));
        escrow.applySpendLimit();
        vm.stopPrank();
    }

    function test_WhenRaisedInBetween_TheLoweringIsTakenBack() public {
        vm.startPrank(alice);
        escrow.setSpendLimit(10);
        escrow.setSpendLimit(50);
        pass(NOTICE);
        vm.expectRevert(abi.encodeWithSelector(I.NoticeRunning.selector, 0));
        escrow.applySpendLimit();
        vm.stopPrank();
    }

    function test_WhenNothingWasAnnounced_ItRefuses() public {
        vm.prank(bob);
        vm.expectRevert(abi.encodeWithSelector(I.NoticeRunning.selector, 0));
        escrow.applySpendLimit();
    }
}

contract WithdrawTest is EscrowTest {
    function setUp() public {
        start(6);
        fund(alice, 100, 100);
    }

    function ask(uint64 units) internal {
        vm.prank(alice);
        escrow.requestWithdraw(units);
    }

    function refused(address to, bytes memory reason) internal {
        vm.prank(alice);
        vm.expectRevert(reason);
        escrow.withdraw(to);
    }

    function taken(address to) internal returns (uint64) {
        vm.prank(alice);
        return escrow.withdraw(to);
    }

    function test_WhenTheNoticeRuns_ItRefuses() public {
        vm.expectEmit(address(escrow));
        emit I.WithdrawRequested(alice, 70, START + NOTICE);
        ask(70);
        pass(NOTICE - 1);
        refused(bob, abi.encodeWithSelector(I.NoticeRunning.selector, START + NOTICE));
    }

    function test_WhenTheNoticeIsOver_ItPaysOnce() public conserves {
        ask(70);
        pass(NOTICE);
        vm.expectEmit(address(escrow));
        emit I.Withdrawn(alice, bob, 70);
        eq(taken(bob), 70, "taken");
        refused(bob, abi.encodeWithSelector(I.NoticeRunning.selector, 0));
        eq(token.balanceOf(bob), 70, "received");
        holds(alice, 30, 0, 0);
    }

    function test_WhenAskedAgain_TheNoticeBeginsAgain() public {
        ask(70);
        pass(NOTICE - 1);
        ask(80);
        pass(1);
        refused(alice, abi.encodeWithSelector(I.NoticeRunning.selector, START + NOTICE - 1 + NOTICE));
    }

    function test_WhenDebitsCameFirst_ItTakesWhatTheyLeft() public conserves {
        ask(100);
        postLine(alice, p, 40, 40);
        pass(NOTICE);
        eq(taken(alice), 60, "rest");
        holds(alice, 0, 40, 0);
    }

    function test_WhenNothingIsLeft_ItKeepsTheAnnouncement() public {
        ask(100);
        postLine(alice, p, 100, 100);
        pass(NOTICE);
        refused(alice, abi.encodeWithSelector(I.ZeroAmount.selector));
        fund(alice, 5, 100);
        eq(taken(alice), 5, "later");
    }

    function test_WhenTheEpochWasCancelled_ItReachesItsMoney() public conserves {
        (uint32 n,) = postLine(alice, p, 100, 100);
        cancel(n);
        ask(100);
        pass(NOTICE);
        eq(taken(alice), 100, "all");
    }

    function test_WhenTakenBack_ItRefuses() public {
        ask(100);
        vm.expectEmit(address(escrow));
        emit I.WithdrawRequested(alice, 0, 0);
        ask(0);
        pass(NOTICE);
        refused(alice, abi.encodeWithSelector(I.NoticeRunning.selector, 0));
    }

    function test_WhenTheRecipientWouldSwallowIt_ItRefuses() public {
        ask(100);
        pass(NOTICE);
        refused(NOBODY, abi.encodeWithSelector(I.ZeroAddress.selector));
        refused(address(escrow), abi.encodeWithSelector(I.BadRecipient.selector, address(escrow)));
        refused(address(token), abi.encodeWithSelector(I.BadRecipient.selector, address(token)));
        eq(taken(alice), 100, "the announcement is still good");
    }

    function test_WhenPaused_ItPaysAllTheSame() public {
        ask(100);
        pass(NOTICE - 1 hours);
        pause();
        pass(1 hours);
        eq(taken(alice), 100, "no pause holds it up");
    }

    function test_WhenTheTokenReenters_ItPaysOnce() public conserves {
        fund(bob, 100, 100);
        ask(50);
        pass(NOTICE);
        token.reenterOnTransfer(address(escrow), abi.encodeCall(I.withdraw, (alice)));
        eq(taken(alice), 50, "taken");
        yes(!token.reentered(), "reentered");
    }

    function test_WhenTheTokenAnswersFalse_NothingIsLost() public conserves {
        ask(50);
        pass(NOTICE);
        token.answerFalse(true);
        vm.prank(alice);
        vm.expectRevert();
        escrow.withdraw(alice);
        token.answerFalse(false);
        eq(taken(alice), 50, "still there");
    }
}
