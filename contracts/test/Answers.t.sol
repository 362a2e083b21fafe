// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {Wallet} from "./mocks/Wallet.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";
import {Leaves} from "./utils/Leaves.sol";

/// @dev A dispute that names a provider: 25 of a line of 40, so the floor is 15.
contract AnswerLineTest is EscrowTest {
    uint32 internal n;

    function setUp() public {
        start(6);
        fund(alice, 100e6, 100e6);
        I.Credit[] memory credits;
        (n, credits) = postBoth(40e6, 30e6, 60e6);
        disputeLine(alice, credits[0], 25e6);
    }

    function refused(I.Answer[] memory answers, bytes memory reason) internal {
        vm.expectRevert(reason);
        escrow.answer(n, alice, p, answers);
    }

    function test_WhenTheReceiptCoversTheLine_AllIsPayable() public {
        vm.expectEmit(address(escrow));
        emit I.Answered(n, alice, p, 25e6, address(this));
        answerLine(n, alice, p, 40e6);
        eq(shownOf(n, alice, p), 25e6, "all");
    }

    function test_WhenTheReceiptIsLater_NoMoreThanTheAmountIsPayable() public {
        answerLine(n, alice, p, type(uint64).max);
        eq(shownOf(n, alice, p), 25e6, "all");
    }

    function test_WhenTheReceiptIsShort_OnlyItsPartIsPayable() public {
        answerLine(n, alice, p, 22e6);
        eq(shownOf(n, alice, p), 7e6, "beyond the floor");
    }

    function test_WhenTheReceiptEndsAtTheFloor_NothingIsPayable() public {
        answerLine(n, alice, p, 15e6);
        eq(shownOf(n, alice, p), 0, "nothing");
        answerLine(n, alice, p, 3e6);
        eq(shownOf(n, alice, p), 0, "nothing");
    }

    function test_WhenAShorterReceiptFollows_TheFirstStands() public {
        answerLine(n, alice, p, 30e6);
        answerLine(n, alice, p, 20e6);
        eq(shownOf(n, alice, p), 15e6, "the best of both");
    }

    function test_WhenTheMeterLostItsRole_ItsReceiptsCountNoMore() public {
        I.Answer[] memory answers = shownBy(alice, p, 40e6);
        bytes32 metering = escrow.METER();
        vm.prank(admin);
        escrow.revokeRole(metering, meter);
        refused(answers, abi.encodeWithSelector(I.NotMeter.selector, meter));
    }

    function test_WhenTheMeterDidNotSign_ItRefuses() public {
        I.Answer[] memory answers = shownBy(alice, p, 40e6);
        answers[0].sigs.meterSig = answers[0].sigs.providerSig;
        refused(answers, abi.encodeWithSelector(I.BadSignature.selector, meter));
        answers[0].sigs.meterSig = "";
        refused(answers, abi.encodeWithSelector(I.BadSignature.selector, meter));
    }

    function test_WhenTheProviderDidNotSign_ItRefuses() public {
        I.Answer[] memory answers = shownBy(alice, p, 40e6);
        answers[0].sigs.providerSig = answers[0].sigs.meterSig;
        refused(answers, abi.encodeWithSelector(I.BadSignature.selector, vm.addr(P_KEY)));
    }

    function test_WhenTheSignerWasReplaced_OldReceiptsCountNoMore() public {
        I.Answer[] memory answers = shownBy(alice, p, 40e6);
        vm.prank(p);
        escrow.setProvider(NOBODY, vm.addr(Q_KEY));
        refused(answers, abi.encodeWithSelector(I.BadSignature.selector, vm.addr(Q_KEY)));
    }

    function test_WhenAnyFieldIsAltered_ItRefuses() public {
        bytes memory reason = abi.encodeWithSelector(I.BadSignature.selector, meter);
        for (uint256 i = 0; i < 3; ++i) {
            I.Answer[] memory answers = shownBy(alice, p, 30e6);
            if (i == 0) answers[0].receipt.cumulative += 1;
            if (i == 1) answers[0].receipt.periodEnd += 1;
            if (i == 2) answers[0].receipt.usageRoot = 0;
            refused(answers, reason);
        }
    }

    function test_WhenTheReceiptIsOfAnotherPair_ItRefuses() public {
        bytes memory reason = abi.encodeWithSelector(I.BadAnswer.selector, 0);
        refused(shownBy(bob, p, 40e6), reason);
        refused(shownBy(alice, q, 40e6), reason);
        I.Answer[] memory answers = shownBy(alice, q, 40e6);
        answers[0].provider = p;
        refused(answers, reason);
    }

    function test_WhenNotExactlyOneAnswer_ItRefuses() public {
        refused(new I.Answer[](0), abi.encodeWithSelector(I.LengthMismatch.selector));
        refused(new I.Answer[](2), abi.encodeWithSelector(I.LengthMismatch.selector));
    }

    function test_WhenWalletsInCodeSign_TheirWordCounts() public {
        Wallet wallet = new Wallet(vm.addr(P_KEY));
        Wallet metering = new Wallet(meter);
        bytes32 role = escrow.METER();
        vm.prank(admin);
        escrow.grantRole(role, address(metering));
        vm.prank(p);
        escrow.setProvider(NOBODY, address(wallet));
        I.Answer[] memory answers = shownBy(alice, p, 40e6);
        refused(answers, abi.encodeWithSelector(I.BadSignature.selector, address(wallet)));
        I.Signatures memory sigs = answers[0].sigs;
        sigs.providerSig = abi.encodePacked(vm.addr(P_KEY), sigs.providerSig);
        (sigs.meter, sigs.meterSig) = (address(metering), abi.encodePacked(meter, sigs.meterSig));
        escrow.answer(n, alice, p, answers);
        eq(shownOf(n, alice, p), 25e6, "all");
        metering.setOwner(bob);
        refused(answers, abi.encodeWithSelector(I.BadSignature.selector, address(metering)));
    }

    function test_WhenHalfOfTheRulingIsOver_ItRefuses() public {
        uint40 until = escrow.epochOf(n).activeAt + RULING / 2;
        vm.warp(until - 1);
        answerLine(n, alice, p, 30e6);
        vm.warp(until);
        refused(shownBy(alice, p, 40e6), abi.encodeWithSelector(I.TooLateToAnswer.selector, until));
    }

    function test_WhenRuled_ItRefuses() public {
        pass(CHALLENGE);
        rule(n, alice, p, 0);
        refused(shownBy(alice, p, 40e6), abi.encodeWithSelector(I.AlreadyRuled.selector));
    }

    function test_WhenNothingIsDisputed_ItRefuses() public {
        I.Answer[] memory answers = shownBy(alice, p, 40e6);
        vm.expectRevert(abi.encodeWithSelector(I.NoDispute.selector));
        escrow.answer(n, bob, p, answers);
        vm.expectRevert(abi.encodeWithSelector(I.NoDispute.selector));
        escrow.answer(n + 1, alice, p, answers);
    }

    function test_WhenPaused_ItCountsAllTheSame() public {
        pause();
        answerLine(n, alice, p, 40e6);
        eq(shownOf(n, alice, p), 25e6, "all");
    }

    function testFuzz_WhateverTheReceipts_TheBestCountsWithinTheAmount(uint64[3] calldata cumulatives)
        public
    {
        uint256 best = 0;
        for (uint256 i = 0; i < 3; ++i) {
            uint64 cumulative = cumulatives[i] % 60e6;
            answerLine(n, alice, p, cumulative);
            uint256 beyond = cumulative > 15e6 ? cumulative - 15e6 : 0;
            if (beyond > best) best = lesser(beyond, 25e6);
            eq(shownOf(n, alice, p), best, "the best so far");
        }
    }
}

/// @dev A dispute of the debit itself: 50 of 60, with lines of 40 for p and 30 for q, of which 10 were allocated before.
contract AnswerDebitTest is EscrowTest {
    uint32 internal n;

    function setUp() public {
        start(6);
        fund(alice, 200e6, 100e6);
        postLine(alice, p, 10e6, 10e6);
        pass(CHALLENGE);
        I.Credit[] memory made;
        (n, made) = postBoth(40e6, 30e6, 60e6);
        // Answers go by rising provider, whatever order the leaves have.
        (uint256 low, uint256 high) = p < q ? (0, 1) : (1, 0);
        keep(made[low]);
        keep(made[high]);
        disputeDebit(alice, 50e6);
    }

    function both(uint64 ofP, uint64 ofQ) internal view returns (I.Answer[] memory answers) {
        answers = new I.Answer[](2);
        for (uint256 i = 0; i < 2; ++i) {
            answers[i] = answerOf(alice, kept[i], kept[i].provider == p ? ofP : ofQ);
        }
    }

    function refused(I.Answer[] memory answers, bytes memory reason) internal {
        vm.expectRevert(reason);
        escrow.answer(n, alice, NOBODY, answers);
    }

    function shown() internal view returns (uint64) {
        return shownOf(n, alice, NOBODY);
    }

    function test_WhenAllReceiptsAreShown_AllIsPayable() public {
        escrow.answer(n, alice, NOBODY, both(40e6, 30e6));
        eq(shown(), 50e6, "70 owed, 10 allocated, 10 pending");
    }

    function test_WhenAReceiptIsAbsent_OnlyTheRestIsBacked() public {
        I.Answer[] memory answers = new I.Answer[](1);
        answers[0] = answerOf(alice, kept[0], 99e6);
        escrow.answer(n, alice, NOBODY, answers);
        eq(shown(), kept[0].provider == p ? 20e6 : 10e6, "one line, less what is there");
    }

    function test_WhenAReceiptIsShort_OnlyItsPartIsBacked() public {
        escrow.answer(n, alice, NOBODY, both(40e6, 5e6));
        eq(shown(), 25e6, "45 backed, 20 there");
        escrow.answer(n, alice, NOBODY, both(12e6, 5e6));
        eq(shown(), 25e6, "never lowered by an answer");
    }

    function test_WhenTheReceiptsShowNothingBeyondWhatIsThere_NothingIsPayable() public {
        escrow.answer(n, alice, NOBODY, both(15e6, 5e6));
        eq(shown(), 0, "20 backed, 20 there");
        escrow.answer(n, alice, NOBODY, new I.Answer[](0));
        eq(shown(), 0, "none shown");
    }

    function test_WhenTheReceiptsShowMoreThanTheRoot_TheRootCounts() public {
        escrow.answer(n, alice, NOBODY, both(1000e6, 5e6));
        eq(shown(), 25e6, "40 of the line and 5");
    }

    function test_WhenLinesWereClaimedInBetween_TheResultIsTheSame() public conserves {
        pass(CHALLENGE);
        escrow.claim(n, kept);
        eq(token.balanceOf(p) + token.balanceOf(q), 20e6, "what was there");
        escrow.answer(n, alice, NOBODY, both(40e6, 30e6));
        eq(shown(), 50e6, "the same");
    }

    function test_WhenALineIsDisputedToo_ItsPartIsNotCountedTwice() public conserves {
        I.Credit memory ofQ = kept[0].provider == q ? kept[0] : kept[1];
        disputeLine(alice, ofQ, 10e6);
        escrow.answer(n, alice, NOBODY, both(40e6, 30e6));
        eq(shown(), 50e6, "60 not reserved, 10 there");
    }

    function test_WhenALaterEpochDebitsMore_ItsPendingDoesNotCount() public conserves {
        pass(CHALLENGE);
        postBoth(80e6, 50e6, 60e6);
        escrow.answer(n, alice, NOBODY, both(40e6, 30e6));
        eq(shown(), 50e6, "the same");
    }

    function test_WhenTheProvidersDoNotRise_ItRefuses() public {
        I.Answer[] memory answers = both(40e6, 30e6);
        (answers[0], answers[1]) = (answers[1], answers[0]);
        refused(answers, abi.encodeWithSelector(I.BadAnswer.selector, 1));
        answers[1] = answers[0];
        refused(answers, abi.encodeWithSelector(I.BadAnswer.selector, 1));
    }

    function test_WhenNobodyIsNamedInAnAnswer_ItRefuses() public {
        I.Answer[] memory answers = both(40e6, 30e6);
        answers[0].provider = NOBODY;
        refused(answers, abi.encodeWithSelector(I.BadAnswer.selector, 0));
    }

    function test_WhenTheReceiptIsOfAnotherPair_ItRefuses() public {
        I.Answer[] memory answers = both(40e6, 30e6);
        (answers[1].receipt, answers[1].sigs) = receiptOf(bob, answers[1].provider, 40e6, START);
        refused(answers, abi.encodeWithSelector(I.BadAnswer.selector, 1));
        (answers[1].receipt, answers[1].sigs) = receiptOf(alice, answers[0].provider, 40e6, START);
        refused(answers, abi.encodeWithSelector(I.BadAnswer.selector, 1));
    }

    function test_WhenALineIsNotInTheRoot_ItRefuses() public {
        I.Answer[] memory answers = both(40e6, 30e6);
        answers[0].lines[0].cumulative += 1;
        bytes memory reason = abi.encodeWithSelector(I.NotInRoot.selector, n, answers[0].provider);
        refused(answers, reason);
        answers = both(40e6, 30e6);
        answers[0].i = 1;
        refused(answers, reason);
        answers = both(40e6, 30e6);
        answers[0].lines = Leaves.line(bob, 40e6);
        refused(answers, reason);
    }

    function test_WhenASignatureIsMissing_ItRefuses() public {
        I.Answer[] memory answers = both(40e6, 30e6);
        answers[1].sigs.meterSig = "";
        refused(answers, abi.encodeWithSelector(I.BadSignature.selector, meter));
    }
}

/// @dev Two open disputes of one tenant that name nobody, and one debt: its receipts must not back both.
contract AnswerTwoDebitsTest is EscrowTest {
    uint32 internal first;
    uint32 internal second;

    function setUp() public {
        start(6);
        fund(alice, 300e6, 100e6);
        fund(bob, 300e6, 100e6);
        I.Credit[] memory made;
        (first, made) = postLine(alice, p, 100e6, 100e6);
        keep(made[0]);
        disputeDebit(alice, 100e6);
        pass(CHALLENGE);
        (second,) = postLine(alice, p, 100e6, 100e6);
        disputeDebit(alice, 100e6);
    }

    function show(uint32 epoch, uint64 cumulative) internal {
        I.Answer[] memory one = new I.Answer[](1);
        one[0] = answerOf(alice, kept[0], cumulative);
        escrow.answer(epoch, alice, NOBODY, one);
    }

    function test_WhenTheFirstIsAnswered_TheSecondIsNotBackedByTheSameReceipt() public conserves {
        show(first, 100e6);
        show(second, 100e6);
        eq(shownOf(first, alice, NOBODY), 100e6, "first");
        eq(shownOf(second, alice, NOBODY), 0, "second");
        pass(CHALLENGE + RULING);
        escrow.close(first, alice, NOBODY);
        escrow.close(second, alice, NOBODY);
        holds(alice, 200e6, 100e6, 0);
    }

    function test_WhenThePartsAreAnsweredInTurn_TheyAddUpToTheDebt() public conserves {
        show(first, 30e6);
        show(second, 100e6);
        eq(shownOf(second, alice, NOBODY), 70e6, "the rest");
        show(first, 100e6);
        eq(shownOf(first, alice, NOBODY), 30e6, "nothing more is left");
    }

    function test_WhenTheFirstWasClosed_WhatItReleasedCounts() public conserves {
        show(first, 60e6);
        vm.warp(escrow.epochOf(first).activeAt + RULING - CHALLENGE / 2);
        rule(first, alice, NOBODY, 0);
        escrow.close(first, alice, NOBODY);
        holds(alice, 140e6, 60e6, 0);
        eq(heldOf(alice), 100e6, "the second is open");
    }

    function test_WhenTheArbiterLoweredTheFirst_TheReceiptIsFreeForTheSecond() public conserves {
        show(first, 100e6);
        rule(first, alice, NOBODY, 40e6);
        show(second, 100e6);
        eq(shownOf(second, alice, NOBODY), 40e6, "what the ruling freed");
        eq(escrow.disputeOf(first, alice, NOBODY).forfeited, 0, "no pair to deduct it from");
    }

    function test_WhenTheOtherTenantDisputes_ItsDisputeIsItsOwn() public {
        show(first, 100e6);
        pass(CHALLENGE);
        (uint32 third, I.Credit[] memory made) = postLine(bob, p, 50e6, 50e6);
        disputeDebit(bob, 50e6);
        I.Answer[] memory one = new I.Answer[](1);
        one[0] = answerOf(bob, made[0], 50e6);
        escrow.answer(third, bob, NOBODY, one);
        eq(shownOf(third, bob, NOBODY), 50e6, "backed");
    }
}
