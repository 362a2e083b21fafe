// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";

contract PauseTest is EscrowTest {
    function setUp() public {
        start(6);
    }

    function test_WhenNotTheGuardian_ItRefuses() public {
        bytes32 guarding = escrow.GUARDIAN();
        vm.startPrank(arbiter);
        vm.expectRevert(missing(arbiter, guarding));
        escrow.pause();
        vm.expectRevert(missing(arbiter, guarding));
        escrow.unpause();
        vm.stopPrank();
    }

    function test_WhenPaused_TheClockStandsAndThenRunsOnByItself() public {
        vm.expectEmit(address(escrow));
        emit I.PauseStarted(START + MAX_PAUSE);
        pause();
        yes(escrow.paused(), "paused");
        eq(escrow.clock(), START, "stands at once");
        pass(MAX_PAUSE - 1);
        eq(escrow.clock(), START, "stands to the end");
        yes(escrow.paused(), "still paused");
        pass(1);
        yes(!escrow.paused(), "over by itself");
        eq(escrow.clock(), START, "the pause itself never counts");
        pass(10);
        eq(escrow.clock(), START + 10, "runs on");
    }

    function test_WhenEndedEarly_TheClockRunsOnFromThere() public {
        pause();
        pass(100);
        vm.expectEmit(address(escrow));
        emit I.PauseEnded(START + 100);
        vm.prank(guardian);
        escrow.unpause();
        yes(!escrow.paused(), "ended");
        pass(7);
        eq(escrow.clock(), START + 7, "clock");
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(I.NotPaused.selector));
        escrow.unpause();
    }

    function test_WhenPausedAgain_TheCoolDownMustBeOver() public {
        pause();
        pass(100);
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(I.PauseCooldown.selector, START + MAX_PAUSE + COOLDOWN));
        escrow.pause();
        vm.prank(guardian);
        escrow.unpause();
        pass(COOLDOWN - 1);
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(I.PauseCooldown.selector, START + 100 + COOLDOWN));
        escrow.pause();
        pass(1);
        pause();
        eq(escrow.clock(), START + COOLDOWN, "less the first pause");
        pass(MAX_PAUSE + 5);
        eq(escrow.clock(), START + COOLDOWN + 5, "less both pauses");
        eq(escrow.state().pausedTotal, 100, "pauses before the newest");
    }

    function test_WhenNeverPaused_ThereIsNothingToEnd() public {
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(I.NotPaused.selector));
        escrow.unpause();
    }

    function test_WhenPausedAcrossActivation_TheWindowIsKeptWhole() public conserves {
        fund(alice, 100, 60);
        (uint32 n, I.Credit[] memory credits) = postLine(alice, p, 60, 60);
        pass(CHALLENGE - 10);
        pause();
        pass(MAX_PAUSE);
        holds(alice, 40, 0, 60);
        pass(9);
        vm.expectRevert(abi.encodeWithSelector(I.NotActive.selector, n, 0));
        escrow.claim(n, credits);
        pass(1);
        escrow.claim(n, credits);
        eq(token.balanceOf(p), 60, "paid after a full window");
    }

    function test_WhenPausedAcrossANotice_TheNoticeRunsOn() public {
        fund(alice, 100, 60);
        vm.startPrank(alice);
        escrow.requestWithdraw(100);
        escrow.setSpendLimit(5);
        vm.stopPrank();
        pass(NOTICE - 1);
        pause();
        pass(1);
        vm.startPrank(alice);
        eq(escrow.withdraw(alice), 100, "withdrawn in the pause");
        escrow.applySpendLimit();
        vm.stopPrank();
        eq(escrow.accountOf(alice).limit, 5, "lowered in the pause");
        fund(alice, 5, 100);
        holds(alice, 5, 0, 0);
    }

    function testFuzz_WhateverThePauses_TheClockNeverGoesBackNorOvertakes(uint32[12] calldata spans) public {
        uint256 before = escrow.clock();
        uint256 ran = 0;
        for (uint256 i = 0; i < spans.length; ++i) {
            uint256 span = spans[i] % 40 days;
            pass(span);
            uint256 time = escrow.clock();
            yes(time >= before && time - before <= span, "forward, and no faster than time");
            ran += time - before;
            before = time;
            if (spans[i] % 3 == 0) {
                vm.prank(guardian);
                (bool ok,) = address(escrow).call(abi.encodeCall(I.pause, ()));
                ok;
            } else if (spans[i] % 3 == 1) {
                vm.prank(guardian);
                (bool ok,) = address(escrow).call(abi.encodeCall(I.unpause, ()));
                ok;
            }
            eq(escrow.clock(), time, "no jump");
        }
        uint256 lost = block.timestamp - START - ran;
        yes(lost <= (block.timestamp - START) / COOLDOWN * MAX_PAUSE + MAX_PAUSE, "pauses are bounded");
    }
}
