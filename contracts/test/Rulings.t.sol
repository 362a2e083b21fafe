// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";

contract RuleTest is EscrowTest {
    uint32 internal n;
    uint40 internal from;

    function setUp() public {
        start(6);
        fund(alice, 100e6, 100e6);
        I.Credit[] memory made;
        (n, made) = postBoth(40e6, 30e6, 60e6);
        disputeLine(alice, made[0], 25e6);
        from = escrow.epochOf(n).activeAt;
    }

    function refused(uint64 refund, bytes memory reason) internal {
        vm.prank(arbiter);
        vm.expectRevert(reason);
        escrow.rule(n, alice, p, refund);
    }

    function test_WhenNotTheArbiter_ItRefuses() public {
        bytes32 arbitrating = escrow.ARBITER();
        pass(CHALLENGE);
        vm.prank(guardian);
        vm.expectRevert(missing(guardian, arbitrating));
        escrow.rule(n, alice, p, 25e6);
    }

    function test_WhenASecondEarly_ItRefuses() public {
        pass(CHALLENGE - 1);
        refused(25e6, abi.encodeWithSelector(I.NotRulingTime.selector, from, from + RULING));
        pass(1);
        rule(n, alice, p, 25e6);
    }

    function test_WhenASecondLate_ItRefuses() public {
        vm.warp(from + RULING);
        refused(25e6, abi.encodeWithSelector(I.NotRulingTime.selector, from, from + RULING));
        vm.warp(from + RULING - 1);
        rule(n, alice, p, 25e6);
    }

    function test_WhenItRefundsPart_ItLowersWhatWasShownAndKeepsTheDifference() public {
        answerLine(n, alice, p, 38e6);
        pass(CHALLENGE);
        vm.expectEmit(address(escrow));
        emit I.Ruled(n, alice, p, 10e6, 15e6);
        rule(n, alice, p, 10e6);
        I.Dispute memory d = escrow.disputeOf(n, alice, p);
        eq(d.shown, 15e6, "at most amount - refund");
        eq(d.forfeited, 8e6, "of the 23 that receipts had shown");
        yes(d.ruled, "ruled");
    }

    function test_WhenLittleWasShown_ItTakesNothingFromIt() public {
        answerLine(n, alice, p, 20e6);
        pass(CHALLENGE);
        rule(n, alice, p, 10e6);
        eq(shownOf(n, alice, p), 5e6, "shown stays");
        eq(escrow.disputeOf(n, alice, p).forfeited, 0, "nothing forfeited");
    }

    function test_WhenNothingWasShown_ItCannotMakeAnythingPayable() public {
        pass(CHALLENGE);
        rule(n, alice, p, 0);
        eq(shownOf(n, alice, p), 0, "never raised");
    }

    function test_WhenMoreThanTheAmount_ItRefuses() public {
        pass(CHALLENGE);
        refused(25e6 + 1, abi.encodeWithSelector(I.TooMuch.selector, 25e6 + 1, 25e6));
    }

    function test_WhenRuledBefore_ItRefuses() public {
        pass(CHALLENGE);
        rule(n, alice, p, 5e6);
        refused(25e6, abi.encodeWithSelector(I.AlreadyRuled.selector));
    }

    function test_WhenNothingIsDisputed_ItRefuses() public {
        pass(CHALLENGE);
        vm.prank(arbiter);
        vm.expectRevert(abi.encodeWithSelector(I.NoDispute.selector));
        escrow.rule(n, alice, q, 1);
    }

    function test_WhenTheEpochWasCancelled_ItRefuses() public {
        cancel(n);
        pass(CHALLENGE);
        refused(25e6, abi.encodeWithSelector(I.NotRulingTime.selector, from, from + RULING));
    }

    function test_WhenPausedAcrossTheRuling_TheArbiterKeepsItsTime() public {
        vm.warp(from + RULING - 5);
        pause();
        pass(MAX_PAUSE + 4);
        rule(n, alice, p, 25e6);
    }

    function test_WhenPaused_ItRulesAllTheSame() public {
        pass(CHALLENGE);
        pause();
        rule(n, alice, p, 25e6);
    }
}

/// @dev Epoch of 60 debited, lines of 40 for p and 30 for q; 25 of p's line disputed with a bond of 1.25.
contract CloseLineTest is EscrowTest {
    uint64 internal constant BOND = 1_250_000;
    uint32 internal n;

    function setUp() public {
        start(6);
        fund(alice, 100e6, 100e6);
        I.Credit[] memory made;
        (n, made) = postBoth(40e6, 30e6, 60e6);
        keep(made[0]);
        keep(made[1]);
        disputeLine(alice, made[0], 25e6);
    }

    function close() internal {
        escrow.close(n, alice, p);
    }

    function test_WhenTheDeadlineIsASecondAway_ItRefuses() public {
        uint40 at = escrow.epochOf(n).activeAt + RULING;
        vm.warp(at - 1);
        vm.expectRevert(abi.encodeWithSelector(I.TooEarly.selector, at));
        close();
        vm.warp(at);
        close();
    }

    function test_WhenNothingWasShown_AllIsRefundedAndNothingDeducted() public conserves {
        pass(CHALLENGE + RULING);
        vm.expectEmit(address(escrow));
        emit I.Closed(n, alice, p, 25e6, 0, 0, BOND);
        close();
        holds(alice, 65e6, 35e6, 0);
        pairIs(alice, p, 0, 0, 0);
        eq(pairOf(alice, p).dead, n, "the line is dead");
        eq(escrow.owed(alice), BOND, "the bond is the tenant's");
        eq(escrow.owed(p), 0, "not the provider's");
        eq(escrow.disputeOf(n, alice, p).amount, 0, "gone");
    }

    function test_WhenRefunded_ItsDeadLineCannotTakeWhatIsAllocatedForOthers() public conserves {
        pass(CHALLENGE + RULING);
        close();
        escrow.claim(n, kept);
        eq(token.balanceOf(p), 0, "dead line");
        eq(token.balanceOf(q), 30e6, "the other provider in full");
        (uint32 next, I.Credit[] memory later) = postLine(alice, p, 15e6, 10e6);
        pass(CHALLENGE);
        escrow.claim(next, later);
        eq(token.balanceOf(p), 15e6, "what it earned, by the next root");
    }

    function test_WhenAllWasShown_AllIsReleasedAndTheBondIsTheProviders() public conserves {
        answerLine(n, alice, p, 40e6);
        pass(CHALLENGE + RULING);
        vm.expectEmit(address(escrow));
        emit I.Closed(n, alice, p, 0, 25e6, 0, 0);
        close();
        holds(alice, 40e6, 60e6, 0);
        eq(pairOf(alice, p).dead, 0, "the line lives");
        eq(escrow.owed(p), BOND, "the bond is the provider's");
        escrow.claim(n, kept);
        eq(token.balanceOf(p), 40e6, "paid in full");
    }

    function test_WhenPartWasShown_BondAndAmountAreSharedAlike() public conserves {
        answerLine(n, alice, p, 22e6);
        pass(CHALLENGE + RULING);
        close();
        holds(alice, 58e6, 42e6, 0);
        eq(escrow.owed(alice), 900_000, "18 of 25 of the bond");
        eq(escrow.owed(p), 350_000, "the rest");
        pairIs(alice, p, 0, 0, 0);
    }

    function test_WhenRuled_ItNeedNotWait() public conserves {
        answerLine(n, alice, p, 40e6);
        pass(CHALLENGE);
        rule(n, alice, p, 10e6);
        vm.expectEmit(address(escrow));
        emit I.Closed(n, alice, p, 10e6, 15e6, 10e6, 500_000);
        close();
        holds(alice, 50e6, 50e6, 0);
        pairIs(alice, p, 0, 10e6, 0);
        eq(pairOf(alice, p).dead, 0, "deducted, so the line need not die");
        escrow.claim(n, kept);
        eq(token.balanceOf(p), 30e6, "40 less what the arbiter took");
        eq(token.balanceOf(q), 20e6, "what is there for the other");
    }

    function test_WhenRuledBeyondWhatWasShown_OnlyThatIsDeducted() public conserves {
        answerLine(n, alice, p, 22e6);
        pass(CHALLENGE);
        rule(n, alice, p, 25e6);
        close();
        pairIs(alice, p, 0, 7e6, 0);
        eq(pairOf(alice, p).dead, n, "the rest was never covered");
        holds(alice, 65e6, 35e6, 0);
    }

    function test_WhenTheEpochWasCancelled_AllGoesBackAtOnce() public conserves {
        answerLine(n, alice, p, 40e6);
        cancel(n);
        holds(alice, 75e6, 0, 0);
        close();
        holds(alice, 100e6, 0, 0);
        pairIs(alice, p, 0, 0, 0);
        eq(pairOf(alice, p).dead, 0, "no root was built on it");
        eq(escrow.owed(alice), BOND, "the bond is the tenant's");
    }

    function test_WhenCancelledAndAnotherRootWasBuiltOnIt_ThatLineDies() public conserves {
        cancel(n);
        // The settler should have closed first: this root counts the 25 as set aside.
        (uint32 next, I.Credit[] memory later) = postBoth(40e6, 30e6, 45e6);
        close();
        eq(pairOf(alice, p).dead, next, "dead");
        pass(CHALLENGE);
        escrow.claim(next, later);
        eq(token.balanceOf(p), 0, "nothing");
        eq(token.balanceOf(q), 30e6, "the other is not robbed");
    }

    function test_WhenClosedBefore_ItRefuses() public {
        pass(CHALLENGE + RULING);
        close();
        vm.expectRevert(abi.encodeWithSelector(I.NoDispute.selector));
        close();
        vm.expectRevert(abi.encodeWithSelector(I.NoDispute.selector));
        escrow.close(n, alice, q);
    }

    function test_WhenPaused_ItRefuses() public {
        pass(CHALLENGE + RULING);
        pause();
        vm.expectRevert(abi.encodeWithSelector(I.Paused.selector, uint40(block.timestamp) + MAX_PAUSE));
        close();
        pass(MAX_PAUSE);
        close();
    }

    function test_WhenATransferWouldFail_ItClosesAllTheSame() public conserves {
        token.ban(alice, true);
        token.ban(p, true);
        answerLine(n, alice, p, 22e6);
        pass(CHALLENGE + RULING);
        close();
        eq(escrow.owed(alice) + escrow.owed(p), BOND, "waits to be collected");
    }

    function test_WhenARootWasPostedMeanwhile_ItsLineDiesWithTheRefund() public conserves {
        pass(CHALLENGE);
        // Built on the reservation: 25 reserved and 15 due. It must not show the refunded 25 as due again.
        (uint32 next, I.Credit[] memory later) = postBoth(40e6, 30e6, 10e6);
        pass(RULING);
        close();
        escrow.claim(next, later);
        eq(token.balanceOf(p), 0, "dead in all roots so far");
        eq(token.balanceOf(q), 30e6, "the other in full");
    }

    function testFuzz_WhateverIsShownAndRuled_TheRefundStaysWithinTheAmount(
        uint64 cumulative,
        uint64 refund,
        bool ruled
    ) public conserves {
        refund = uint64(bound(refund, 0, 25e6));
        answerLine(n, alice, p, cumulative);
        pass(CHALLENGE);
        uint256 shown = cumulative < 15e6 ? 0 : lesser(cumulative - 15e6, 25e6);
        uint256 forfeited = 0;
        if (ruled) {
            rule(n, alice, p, refund);
            if (shown > 25e6 - refund) forfeited = shown - (25e6 - refund);
        }
        pass(RULING);
        close();
        uint256 back = 25e6 - (shown - forfeited);
        I.Account memory account = escrow.accountOf(alice);
        eq(account.balance, 40e6 + back, "refund");
        eq(account.allocated, 60e6 - back, "the rest stays with providers");
        eq(pairOf(alice, p).deducted, forfeited, "only what receipts had shown");
        uint256 share = (BOND * back + 25e6 - 1) / 25e6;
        eq(escrow.owed(alice), share, "the tenant's part of the bond, rounded up");
        eq(escrow.owed(p), BOND - share, "the rest");
    }
}

contract CloseDebitTest is EscrowTest {
    uint32 internal n;

    function setUp() public {
        start(6);
        fund(alice, 100e6, 100e6);
        (n,) = postLine(alice, p, 60e6, 60e6);
        disputeDebit(alice, 40e6);
    }

    function test_WhenTheManifestIsWithheld_ItIsRefundedAndNothingDeducted() public conserves {
        pass(CHALLENGE + RULING);
        escrow.close(n, alice, NOBODY);
        holds(alice, 80e6, 20e6, 0);
        eq(heldOf(alice), 0, "held");
        eq(escrow.owed(alice), 2e6, "bond");
        eq(escrow.owed(reserve), 0, "reserve");
        pairIs(alice, p, 0, 0, 0);
        eq(pairOf(alice, NOBODY).dead, 0, "no pair is concerned");
    }

    function test_WhenBacked_ItIsReleasedAndTheBondIsTheReserves() public conserves {
        I.Answer[] memory answers = new I.Answer[](1);
        answers[0] = answerOf(alice, I.Credit(p, lineOf(), new bytes32[](0)), 60e6);
        escrow.answer(n, alice, NOBODY, answers);
        pass(CHALLENGE + RULING);
        escrow.close(n, alice, NOBODY);
        holds(alice, 40e6, 60e6, 0);
        eq(escrow.owed(alice), 0, "tenant");
        eq(escrow.owed(reserve), 2e6, "reserve");
    }

    function lineOf() internal view returns (I.Line[] memory lines) {
        lines = new I.Line[](1);
        lines[0] = I.Line(alice, 60e6);
    }

    function test_WhenTheEpochWasCancelled_AllGoesBackAtOnce() public conserves {
        cancel(n);
        escrow.close(n, alice, NOBODY);
        holds(alice, 100e6, 0, 0);
        eq(heldOf(alice), 0, "held");
        eq(escrow.owed(alice), 2e6, "bond");
    }

    function test_WhenAnotherRootFollowed_NoPairDies() public conserves {
        pass(CHALLENGE);
        (uint32 next, I.Credit[] memory later) = postLine(alice, p, 60e6, 1e6);
        pass(RULING);
        escrow.close(n, alice, NOBODY);
        escrow.claim(next, later);
        eq(token.balanceOf(p), 21e6, "what is there");
    }
}
