// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {Wallet} from "./mocks/Wallet.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";

contract ExitTest is EscrowTest {
    function setUp() public {
        start(6);
        fund(alice, 100e6, 30e6);
        pass(EXIT_AFTER);
    }

    function refused(uint64 cumulative, uint40 periodEnd, bytes memory reason) internal {
        (I.Receipt memory receipt, I.Signatures memory sigs) = receiptOf(alice, p, cumulative, periodEnd);
        vm.prank(p);
        vm.expectRevert(reason);
        escrow.exit(receipt, sigs);
    }

    function test_WhenNothingIsAllocated_ItTakesFromTheBalanceUpToTheLimit() public conserves {
        vm.expectEmit(address(escrow));
        emit I.ExitStarted(alice, p, 30e6, 30e6, uint40(block.timestamp) + CHALLENGE, 1, keccak256("usage"));
        leave(alice, p, 50e6, START);
        holds(alice, 70e6, 0, 0);
        pairIs(alice, p, 0, 0, 30e6);
        eq(escrow.exitOf(alice, p).activeAt, uint40(block.timestamp) + CHALLENGE, "active at");
        eq(escrow.state().seq, 1, "seq rises");
    }

    function test_WhenLessIsEarned_ItTakesThatOnly() public conserves {
        leave(alice, p, 10e6, START);
        holds(alice, 90e6, 0, 0);
    }

    function test_WhenLessIsThereThanTheLimit_ItTakesWhatIsThere() public conserves {
        fund(bob, 4e6, 30e6);
        leave(bob, p, 10e6, START);
        holds(bob, 0, 0, 0);
        pairIs(bob, p, 0, 0, 4e6);
    }

    function test_WhenMoneyIsAllocated_ItTakesThatFirst() public conserves {
        postLine(alice, p, 20e6, 20e6);
        pass(CHALLENGE);
        leave(alice, p, 50e6, START);
        holds(alice, 50e6, 0, 0);
        pairIs(alice, p, 0, 0, 50e6);
    }

    function test_WhenTheAllocatedIsEnough_TheBalanceIsNotTouchedAndItsPaceNotUsedUp() public conserves {
        postLine(alice, p, 20e6, 20e6);
        pass(CHALLENGE);
        leave(alice, p, 20e6, START);
        holds(alice, 80e6, 0, 0);
        leave(alice, q, 30e6, START);
        holds(alice, 50e6, 0, 0);
    }

    function test_WhenAnEpochIsInItsWindow_ItsMoneyIsNotTouched() public conserves {
        postLine(alice, p, 30e6, 30e6);
        leave(alice, p, 60e6, START);
        holds(alice, 40e6, 0, 30e6);
        pairIs(alice, p, 0, 0, 30e6);
    }

    function test_WhenAnotherExitDrewWithinTheWindow_TheBalanceIsLeftAlone() public conserves {
        leave(alice, p, 30e6, START);
        uint40 from = uint40(block.timestamp) + CHALLENGE;
        pass(CHALLENGE - 1);
        (I.Receipt memory receipt, I.Signatures memory sigs) = receiptOf(alice, q, 30e6, START);
        vm.startPrank(q);
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAmount.selector));
        escrow.exit(receipt, sigs);
        pass(1);
        eq(block.timestamp, from, "a window later");
        escrow.exit(receipt, sigs);
        vm.stopPrank();
        holds(alice, 40e6, 0, 0);
    }

    function test_WhenTheReceiptShowsNothingNew_ItRefuses() public {
        refused(0, START, abi.encodeWithSelector(I.ZeroAmount.selector));
        (uint32 n, I.Credit[] memory made) = postLine(alice, p, 20e6, 20e6);
        pass(CHALLENGE);
        escrow.claim(n, made);
        refused(20e6, START, abi.encodeWithSelector(I.ZeroAmount.selector));
        leave(alice, p, 20e6 + 1, START);
        pairIs(alice, p, 20e6, 0, 1);
    }

    function test_WhenASecondTooEarly_ItRefuses() public {
        refused(10e6, START + 1, abi.encodeWithSelector(I.TooEarly.selector, START + 1 + EXIT_AFTER));
        pass(1);
        leave(alice, p, 10e6, START + 1);
    }

    function test_WhenThePeriodEndIsFar_ItRefuses() public {
        bytes memory reason =
            abi.encodeWithSelector(I.TooEarly.selector, uint256(type(uint40).max) + EXIT_AFTER);
        refused(10e6, type(uint40).max, reason);
    }

    function test_WhenNotTheReceiptsProvider_ItRefuses() public {
        (I.Receipt memory receipt, I.Signatures memory sigs) = receiptOf(alice, p, 10e6, START);
        vm.prank(q);
        vm.expectRevert(abi.encodeWithSelector(I.NotProvider.selector, p));
        escrow.exit(receipt, sigs);
    }

    function test_WhenASignatureIsBad_ItRefuses() public {
        (I.Receipt memory receipt, I.Signatures memory sigs) = receiptOf(alice, p, 10e6, START);
        receipt.cumulative += 1;
        vm.prank(p);
        vm.expectRevert(abi.encodeWithSelector(I.BadSignature.selector, meter));
        escrow.exit(receipt, sigs);
        (receipt, sigs) = receiptOf(alice, p, 10e6, START);
        sigs.providerSig = sigs.meterSig;
        vm.prank(p);
        vm.expectRevert(abi.encodeWithSelector(I.BadSignature.selector, vm.addr(P_KEY)));
        escrow.exit(receipt, sigs);
    }

    function test_WhenTheMeterWasRevoked_ItRefuses() public {
        bytes32 metering = escrow.METER();
        vm.prank(admin);
        escrow.revokeRole(metering, meter);
        refused(10e6, START, abi.encodeWithSelector(I.NotMeter.selector, meter));
    }

    function test_WhenAnExitIsOpen_ItRefusesASecond() public {
        leave(alice, p, 10e6, START);
        refused(20e6, START, abi.encodeWithSelector(I.ExitOpen.selector));
    }

    function test_WhenTheSettlerDecidedBeforeIt_ItsPostIsStale() public {
        leave(alice, p, 10e6, START);
        vm.prank(settler);
        vm.expectRevert(abi.encodeWithSelector(I.StaleState.selector, 1, bytes32(0)));
        escrow.postEpoch(0, 0, keccak256("root"), 0, START, debit(alice, 10e6));
    }

    function test_WhenPaused_ItRefuses() public {
        pause();
        refused(10e6, START, abi.encodeWithSelector(I.Paused.selector, uint40(block.timestamp) + MAX_PAUSE));
    }

    function test_WhenAPauseFellAfterThePeriod_ItWaitsThatMuchLonger() public {
        uint40 end = uint40(block.timestamp) - 1 hours;
        pause();
        pass(10 hours);
        vm.prank(guardian);
        escrow.unpause();
        uint256 at = uint256(end) + EXIT_AFTER + 10 hours;
        vm.warp(at - 1);
        refused(10e6, end, abi.encodeWithSelector(I.TooEarly.selector, at));
        vm.warp(at);
        leave(alice, p, 10e6, end);
    }

    function test_WhenThePeriodEndedWithinThePause_OnlyTheRestOfThePauseCounts() public {
        pause();
        uint40 end = uint40(block.timestamp) + 4 hours;
        pass(10 hours);
        vm.prank(guardian);
        escrow.unpause();
        uint256 at = uint256(end) + EXIT_AFTER + 6 hours;
        vm.warp(at - 1);
        refused(10e6, end, abi.encodeWithSelector(I.TooEarly.selector, at));
    }

    function test_WhenAnOlderPauseIsLongOver_ItDelaysNothing() public {
        pause();
        pass(MAX_PAUSE + 1);
        uint40 end = uint40(block.timestamp);
        vm.warp(end + EXIT_AFTER);
        leave(alice, p, 10e6, end);
    }

    function test_WhenAWalletInCodeSigns_ItsWordCounts() public {
        Wallet wallet = new Wallet(vm.addr(P_KEY));
        vm.prank(p);
        escrow.setProvider(NOBODY, address(wallet));
        (I.Receipt memory receipt, I.Signatures memory sigs) = receiptOf(alice, p, 10e6, START);
        sigs.providerSig = abi.encodePacked(vm.addr(P_KEY), sigs.providerSig);
        vm.prank(p);
        escrow.exit(receipt, sigs);
        pairIs(alice, p, 0, 0, 10e6);
    }

    function testFuzz_WhateverIsEarned_TheDrawStaysWithinAllocatedAndLimit(
        uint64 cumulative,
        uint48 limit,
        uint48 amount
    ) public conserves {
        amount = uint48(bound(amount, 1, 30e6));
        postLine(alice, p, 1, amount);
        pass(CHALLENGE);
        vm.startPrank(alice);
        escrow.setSpendLimit(limit);
        pass(NOTICE);
        if (limit < 30e6) escrow.applySpendLimit();
        vm.stopPrank();
        cumulative = uint64(bound(cumulative, 1, type(uint64).max));
        leave(alice, p, cumulative, START);
        uint256 most = amount + lesser(limit, 100e6 - amount);
        eq(escrow.exitOf(alice, p).amount, lesser(cumulative, most), "the least of all");
    }
}

contract DisputeExitTest is EscrowTest {
    function setUp() public {
        start(6);
        fund(alice, 100e6, 50e6);
        pass(EXIT_AFTER);
        leave(alice, p, 40e6, START);
    }

    function refused(address provider, bytes memory reason) internal {
        vm.prank(alice);
        vm.expectRevert(reason);
        escrow.disputeExit(provider, EVIDENCE);
    }

    function test_WhenInTime_ItTakesTheBond() public conserves {
        give(alice, 2e6);
        vm.expectEmit(address(escrow));
        emit I.ExitDisputed(alice, p, 2e6, EVIDENCE);
        vm.prank(alice);
        escrow.disputeExit(p, EVIDENCE);
        eq(escrow.exitOf(alice, p).bond, 2e6, "bond");
        eq(token.balanceOf(alice), 0, "from the wallet");
    }

    function test_WhenActive_ItRefuses() public {
        pass(CHALLENGE - 1);
        disputeExit(alice, p);
        fund(bob, 10e6, 50e6);
        leave(bob, p, 10e6, START);
        pass(CHALLENGE);
        vm.prank(bob);
        vm.expectRevert(abi.encodeWithSelector(I.NotDisputable.selector));
        escrow.disputeExit(p, EVIDENCE);
    }

    function test_WhenDisputedBefore_ItRefuses() public {
        disputeExit(alice, p);
        refused(p, abi.encodeWithSelector(I.NotDisputable.selector));
    }

    function test_WhenThereIsNone_ItRefuses() public {
        refused(q, abi.encodeWithSelector(I.NoExit.selector));
    }

    function test_WhenTheBondIsNotThere_ItRefuses() public {
        vm.prank(alice);
        vm.expectRevert();
        escrow.disputeExit(p, EVIDENCE);
        yes(!escrow.exitOf(alice, p).disputed, "not disputed");
    }

    function test_WhenPaused_ItHoldsAllTheSame() public {
        pass(CHALLENGE - 1);
        pause();
        pass(MAX_PAUSE - 1);
        disputeExit(alice, p);
        yes(escrow.exitOf(alice, p).disputed, "disputed");
    }

    function test_WhenTheTokenReenters_ItTakesOneBond() public conserves {
        give(alice, 2e6);
        token.reenterOnTransfer(address(escrow), abi.encodeCall(I.deposit, (bob, 1)));
        vm.prank(alice);
        escrow.disputeExit(p, EVIDENCE);
        yes(!token.reentered(), "reentered");
    }
}

contract RuleExitTest is EscrowTest {
    uint40 internal from;

    function setUp() public {
        start(6);
        fund(alice, 100e6, 50e6);
        pass(EXIT_AFTER);
        leave(alice, p, 40e6, START);
        from = escrow.exitOf(alice, p).activeAt;
    }

    function refused(uint64 refund, bytes memory reason) internal {
        vm.prank(arbiter);
        vm.expectRevert(reason);
        escrow.ruleExit(alice, p, refund);
    }

    function ruled(uint64 refund) internal {
        vm.prank(arbiter);
        escrow.ruleExit(alice, p, refund);
    }

    function test_WhenNotTheArbiter_ItRefuses() public {
        bytes32 arbitrating = escrow.ARBITER();
        disputeExit(alice, p);
        pass(CHALLENGE);
        vm.prank(settler);
        vm.expectRevert(missing(settler, arbitrating));
        escrow.ruleExit(alice, p, 1);
    }

    function test_WhenASecondEarlyOrLate_ItRefuses() public {
        disputeExit(alice, p);
        bytes memory reason = abi.encodeWithSelector(I.NotRulingTime.selector, from, from + RULING);
        vm.warp(from - 1);
        refused(1, reason);
        vm.warp(from + RULING);
        refused(1, reason);
        vm.warp(from + RULING - 1);
        vm.expectEmit(address(escrow));
        emit I.ExitRuled(alice, p, 1);
        ruled(1);
    }

    function test_WhenInTheFirstSecond_ItHolds() public {
        disputeExit(alice, p);
        vm.warp(from);
        ruled(40e6);
        eq(escrow.exitOf(alice, p).refund, 40e6, "refund");
    }

    function test_WhenMoreThanTheAmount_ItRefuses() public {
        disputeExit(alice, p);
        vm.warp(from);
        refused(40e6 + 1, abi.encodeWithSelector(I.TooMuch.selector, 40e6 + 1, 40e6));
    }

    function test_WhenNotDisputed_ItRefuses() public {
        vm.warp(from);
        refused(1, abi.encodeWithSelector(I.NotDisputed.selector));
    }

    function test_WhenRuledBefore_ItRefuses() public {
        disputeExit(alice, p);
        vm.warp(from);
        ruled(0);
        refused(1, abi.encodeWithSelector(I.AlreadyRuled.selector));
    }

    function test_WhenThereIsNone_ItRefuses() public {
        vm.prank(arbiter);
        vm.expectRevert(abi.encodeWithSelector(I.NoExit.selector));
        escrow.ruleExit(bob, p, 1);
    }
}

contract FinishExitTest is EscrowTest {
    uint64 internal constant BOND = 2e6;
    uint40 internal from;

    function setUp() public {
        start(6);
        fund(alice, 100e6, 50e6);
        pass(EXIT_AFTER);
        leave(alice, p, 40e6, START);
        from = escrow.exitOf(alice, p).activeAt;
    }

    function early(uint256 at) internal {
        vm.warp(at - 1);
        vm.expectRevert(abi.encodeWithSelector(I.TooEarly.selector, at));
        escrow.finishExit(alice, p);
        vm.warp(at);
    }

    function test_WhenUndisputed_ItPaysAfterTheWindow() public conserves {
        early(from);
        vm.expectEmit(address(escrow));
        emit I.ExitFinished(alice, p, 40e6, 0, 0);
        vm.expectEmit(address(escrow));
        emit I.CreditPaid(0, p, p, 40e6);
        escrow.finishExit(alice, p);
        eq(token.balanceOf(p), 40e6, "paid");
        pairIs(alice, p, 40e6, 0, 0);
    }

    function test_WhenDisputedAndUnruled_ItPaysInFullAfterTheRuling() public conserves {
        disputeExit(alice, p);
        early(from + RULING);
        escrow.finishExit(alice, p);
        eq(token.balanceOf(p), 40e6, "paid");
        eq(escrow.owed(p), BOND, "the bond is the provider's");
    }

    function test_WhenRuled_ItPaysTheRestAtOnce() public conserves {
        disputeExit(alice, p);
        vm.warp(from);
        vm.prank(arbiter);
        escrow.ruleExit(alice, p, 10e6);
        escrow.finishExit(alice, p);
        eq(token.balanceOf(p), 30e6, "paid");
        holds(alice, 70e6, 0, 0);
        pairIs(alice, p, 30e6, 10e6, 0);
        eq(escrow.owed(alice), BOND / 4, "a quarter of the bond");
        eq(escrow.owed(p), BOND * 3 / 4, "the rest");
    }

    function test_WhenRuledAllBack_NothingIsPaid() public conserves {
        disputeExit(alice, p);
        vm.warp(from);
        vm.prank(arbiter);
        escrow.ruleExit(alice, p, 40e6);
        escrow.finishExit(alice, p);
        eq(token.balanceOf(p), 0, "paid");
        holds(alice, 100e6, 0, 0);
        eq(escrow.owed(alice), BOND, "bond");
        // The receipt is used up: what was sent back stays sent back.
        (I.Receipt memory receipt, I.Signatures memory sigs) = receiptOf(alice, p, 40e6, START);
        vm.prank(p);
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAmount.selector));
        escrow.exit(receipt, sigs);
    }

    function test_WhenFinishedBeforeOrNeverBegun_ItRefuses() public {
        vm.warp(from);
        escrow.finishExit(alice, p);
        vm.expectRevert(abi.encodeWithSelector(I.NoExit.selector));
        escrow.finishExit(alice, p);
        vm.expectRevert(abi.encodeWithSelector(I.NoExit.selector));
        escrow.finishExit(alice, q);
    }

    function test_WhenPaused_ItRefusesAndItsTimeStands() public {
        vm.warp(from - 5);
        pause();
        vm.expectRevert(abi.encodeWithSelector(I.Paused.selector, uint40(block.timestamp) + MAX_PAUSE));
        escrow.finishExit(alice, p);
        pass(MAX_PAUSE);
        vm.expectRevert(abi.encodeWithSelector(I.TooEarly.selector, from));
        escrow.finishExit(alice, p);
        pass(5);
        escrow.finishExit(alice, p);
    }

    function test_WhenThePayeeIsBanned_ItIsOwed() public conserves {
        token.ban(p, true);
        vm.warp(from);
        escrow.finishExit(alice, p);
        eq(escrow.owed(p), 40e6, "owed");
    }

    function test_WhenTheTokenReenters_ItPaysOnce() public conserves {
        vm.warp(from);
        token.reenterOnTransfer(address(escrow), abi.encodeCall(I.finishExit, (alice, p)));
        escrow.finishExit(alice, p);
        yes(!token.reentered(), "reentered");
        eq(token.balanceOf(p), 40e6, "paid");
    }

    function test_WhenFinished_TheNextExitTakesTheRest() public conserves {
        vm.warp(from);
        escrow.finishExit(alice, p);
        leave(alice, p, 90e6, START);
        pairIs(alice, p, 40e6, 0, 50e6);
    }
}
