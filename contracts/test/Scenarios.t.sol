// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";
import {Leaves} from "./utils/Leaves.sol";

/// @dev Stories with several acts and several actors; what single calls do stands beside them, one contract per call.
contract ScenariosTest is EscrowTest {
    function setUp() public {
        start(6);
        fund(alice, 200e6, 100e6);
        fund(bob, 200e6, 100e6);
    }

    /// @dev The settler's equation for alice, from what the chain shows; `earned` is what receipts say of p and q.
    function equation(uint64 earnedP, uint64 earnedQ) internal view returns (uint48) {
        uint256 due = unpaid(p, earnedP) + unpaid(q, earnedQ);
        I.Account memory account = escrow.accountOf(alice);
        uint256 there = uint256(account.allocated) + account.pending + heldOf(alice);
        return due > there ? uint48(due - there) : 0;
    }

    function unpaid(address provider, uint64 earned) internal view returns (uint256) {
        I.Pair memory pair = pairOf(alice, provider);
        uint256 base = uint256(pair.paid) + pair.deducted + pair.reserved;
        return earned > base ? earned - base : 0;
    }

    function claimBoth(uint32 n, I.Credit[] memory both) internal {
        pass(CHALLENGE);
        escrow.claim(n, both);
    }

    function test_CancelWithOpenDisputes_ThenRepost_EverybodyIsPaidOnce() public conserves {
        (uint32 n, I.Credit[] memory both) = postBoth(40e6, 30e6, 70e6);
        disputeLine(alice, both[0], 10e6);
        disputeDebit(alice, 20e6);
        cancel(n);
        // The settler closes before it looks: nothing is then held, and all is billed again.
        escrow.close(n, alice, p);
        escrow.close(n, alice, NOBODY);
        eq(escrow.owed(alice), 2e6, "both bonds back");
        eq(equation(40e6, 30e6), 70e6, "all again");
        (n, both) = postBoth(40e6, 30e6, equation(40e6, 30e6));
        claimBoth(n, both);
        eq(token.balanceOf(p), 40e6, "p");
        eq(token.balanceOf(q), 30e6, "q");
        holds(alice, 130e6, 0, 0);
    }

    function test_CancelWithOpenDisputes_RepostBeforeClosing_NothingIsBilledTwice() public conserves {
        (uint32 n, I.Credit[] memory both) = postBoth(40e6, 30e6, 70e6);
        disputeLine(alice, both[0], 10e6);
        cancel(n);
        eq(equation(40e6, 30e6), 60e6, "the held 10 count as set aside");
        uint32 next;
        (next, both) = postBoth(40e6, 30e6, 60e6);
        escrow.close(n, alice, p);
        claimBoth(next, both);
        eq(token.balanceOf(q), 30e6, "q");
        eq(token.balanceOf(p), 0, "p's line died with the close");
        eq(equation(40e6, 30e6), 10e6, "only what came back");
        (next, both) = postBoth(40e6, 30e6, 10e6);
        claimBoth(next, both);
        eq(token.balanceOf(p), 40e6, "p in full");
    }

    function test_ProviderZeroDispute_ManifestWithheld_IsRefundedAndRebilledOnce() public conserves {
        (uint32 n,) = postBoth(40e6, 30e6, 70e6);
        disputeDebit(alice, 70e6);
        eq(equation(40e6, 30e6), 0, "held, so not billed meanwhile");
        pass(CHALLENGE + RULING);
        escrow.close(n, alice, NOBODY);
        holds(alice, 200e6, 0, 0);
        eq(equation(40e6, 30e6), 70e6, "billed again");
        I.Credit[] memory both;
        (n, both) = postBoth(40e6, 30e6, 70e6);
        eq(equation(40e6, 30e6), 0, "once");
        claimBoth(n, both);
        eq(token.balanceOf(p) + token.balanceOf(q), 70e6, "paid");
    }

    function test_PairDispute_WrongProviderIsRefused_TheOtherIsPaidInFull() public conserves {
        // p's receipts end at 10, the settler's line says 40.
        (uint32 n, I.Credit[] memory both) = postBoth(40e6, 30e6, 70e6);
        disputeLine(alice, both[0], 30e6);
        answerLine(n, alice, p, 10e6);
        claimBoth(n, both);
        eq(token.balanceOf(p), 10e6, "what was not disputed");
        eq(token.balanceOf(q), 30e6, "the other in full");
        pass(RULING);
        escrow.close(n, alice, p);
        holds(alice, 160e6, 0, 0);
        // Its honest work later is not eaten up by what a settler once invented.
        eq(equation(25e6, 30e6), 15e6, "billed from what it earned");
        (n, both) = postBoth(25e6, 30e6, 15e6);
        claimBoth(n, both);
        eq(token.balanceOf(p), 25e6, "paid");
    }

    function test_TwoLinesOfOnePair_CannotTurnAPaidReceiptIntoAnAnswer() public conserves {
        (uint32 n, I.Credit[] memory both) = postBoth(100e6, 0, 100e6);
        claimBoth(n, both);
        // p earned 100 and has it. A thief with the settler's key posts 150 and, for a lower floor, 110.
        bytes32 root;
        (root, both) = Leaves.two(p, Leaves.line(alice, 150e6), p, Leaves.line(alice, 110e6));
        n = post(root, debit(alice, 50e6));
        disputeLine(alice, both[0], 50e6);
        I.Answer[] memory answers = new I.Answer[](1);
        answers[0] = answerOf(alice, both[1], 100e6);
        escrow.answer(n, alice, p, answers);
        eq(shownOf(n, alice, p), 0, "the floor is that of the line that was disputed");
        claimBoth(n, both);
        pass(RULING);
        escrow.close(n, alice, p);
        escrow.claim(n, both);
        eq(token.balanceOf(p), 100e6, "nothing more");
        holds(alice, 100e6, 0, 0);
    }

    function test_AStolenSettlerKey_NobodyAwake_TakesTheLimitPerWindowAndTheUnclaimed() public conserves {
        (uint32 n,) = postBoth(0, 30e6, 30e6);
        pass(CHALLENGE);
        address thief = named("thief");
        uint256 most = 30e6;
        for (uint64 round = 1; round <= 2; ++round) {
            I.Credit[] memory loot;
            uint48 amount = round == 1 ? 100e6 : 70e6;
            (n, loot) = postLine(alice, thief, type(uint64).max, amount);
            most += amount;
            claimBoth(n, loot);
            yes(token.balanceOf(thief) <= most, "unclaimed allocated and one limit per window");
        }
        eq(token.balanceOf(thief), 200e6, "the bound is reached");
        holds(bob, 200e6, 0, 0);
    }

    function test_AStolenSettlerKey_ATenantAwake_LosesNothingOfADebit() public conserves {
        for (uint256 round = 0; round < 3; ++round) {
            (uint32 n, I.Credit[] memory loot) = postLine(alice, named("thief"), type(uint64).max, 100e6);
            if (round % 2 == 0) disputeLine(alice, loot[0], 100e6);
            else disputeDebit(alice, 100e6);
            claimBoth(n, loot);
            pass(RULING);
            escrow.close(n, alice, round % 2 == 0 ? named("thief") : NOBODY);
            escrow.claim(n, loot);
        }
        eq(token.balanceOf(named("thief")), 0, "nothing");
        holds(alice, 200e6, 0, 0);
        eq(escrow.owed(alice), 15e6, "three bonds to collect");
    }

    function test_ThievesWithSettlerMeterAndProvider_ArbiterAwake_TakeNothing() public conserves {
        (uint32 n, I.Credit[] memory loot) = postLine(alice, p, 100e6, 100e6);
        disputeLine(alice, loot[0], 100e6);
        // Forged by both keys, shown at the last second: the arbiter still has half of its time.
        vm.warp(escrow.epochOf(n).activeAt + RULING / 2 - 1);
        answerLine(n, alice, p, 100e6);
        pass(RULING / 2);
        rule(n, alice, p, 100e6);
        escrow.close(n, alice, p);
        escrow.claim(n, loot);
        eq(token.balanceOf(p), 0, "nothing");
        holds(alice, 200e6, 0, 0);
        // The same receipt is worth nothing any more, by no way.
        pairIs(alice, p, 0, 100e6, 0);
        pass(EXIT_AFTER);
        (I.Receipt memory receipt, I.Signatures memory sigs) = receiptOf(alice, p, 100e6, START);
        vm.prank(p);
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAmount.selector));
        escrow.exit(receipt, sigs);
    }

    /// @dev Per window of time the settler's debit and an exit with a forged receipt, each within the limit.
    function test_ThievesWithSettlerMeterAndProvider_ArbiterSilent_StayWithinTheBound() public conserves {
        uint64 limit = 1e6;
        fund(carol, 1000e6, uint48(limit));
        pass(EXIT_AFTER);
        // Carol announces at once that she leaves; until she can, they take limit after limit.
        vm.startPrank(carol);
        escrow.setSpendLimit(0);
        escrow.requestWithdraw(type(uint64).max);
        vm.stopPrank();
        uint256 until = block.timestamp + NOTICE;
        for (uint64 total = 2 * limit; block.timestamp < until; total += 2 * limit) {
            leave(carol, p, total, START);
            (uint32 n, I.Credit[] memory loot) = postLine(carol, p, total, uint48(limit));
            pass(CHALLENGE);
            escrow.finishExit(carol, p);
            escrow.claim(n, loot);
        }
        uint256 most = 2 * uint256(limit) * (1 + NOTICE / CHALLENGE);
        yes(token.balanceOf(p) <= most, "two limits per window until the notice is over");
        yes(token.balanceOf(p) >= most - 2 * limit, "and the bound is tight");
        vm.startPrank(carol);
        escrow.applySpendLimit();
        eq(escrow.withdraw(carol) + token.balanceOf(p), 1000e6, "all else is hers");
        vm.stopPrank();
    }

    function test_OverCommittedRoot_LossWithinThatTenantsAllocated_AndItsLeafIsDeadAfterTheNext()
        public
        conserves
    {
        (bytes32 root, I.Credit[] memory both) =
            Leaves.two(p, Leaves.line(alice, 1000e6), q, Leaves.line(bob, 60e6));
        uint32 n = post(root, debit(alice, 10e6, bob, 60e6));
        claimBoth(n, both);
        eq(token.balanceOf(p), 10e6, "alice's allocated");
        eq(token.balanceOf(q), 60e6, "bob's provider in full");
        (uint32 next, I.Credit[] memory good) = postLine(alice, q, 5e6, 5e6);
        pass(CHALLENGE);
        vm.expectRevert(abi.encodeWithSelector(I.NotActive.selector, n, next));
        escrow.claim(n, both);
        escrow.claim(next, both);
        eq(token.balanceOf(p), 10e6, "the stale leaf pays nothing");
        escrow.claim(next, good);
        eq(token.balanceOf(q), 65e6, "the good one does");
    }

    function test_ExitWithItsLeafUnclaimed_PaysOnceWhicheverComesFirst() public conserves {
        (uint32 n, I.Credit[] memory both) = postBoth(40e6, 30e6, 70e6);
        pass(CHALLENGE);
        vm.warp(START + EXIT_AFTER);
        leave(alice, p, 40e6, START);
        escrow.claim(n, both);
        eq(token.balanceOf(p), 0, "all of p's is with the exit");
        eq(token.balanceOf(q), 30e6, "q by its leaf");
        pass(CHALLENGE);
        escrow.finishExit(alice, p);
        escrow.claim(n, both);
        eq(token.balanceOf(p), 40e6, "once");
        holds(alice, 130e6, 0, 0);
    }

    function test_ExitWithItsLeafDisputed_TakesOnlyWhatIsNotHeld() public conserves {
        vm.warp(START + EXIT_AFTER);
        (uint32 n, I.Credit[] memory both) = postBoth(40e6, 30e6, 70e6);
        disputeLine(alice, both[0], 15e6);
        leave(alice, p, 40e6, START);
        eq(escrow.exitOf(alice, p).amount, 25e6, "the rest, from the balance");
        answerLine(n, alice, p, 40e6);
        pass(CHALLENGE + RULING);
        escrow.close(n, alice, p);
        escrow.finishExit(alice, p);
        escrow.claim(n, both);
        eq(token.balanceOf(p), 40e6, "once");
        eq(token.balanceOf(q), 30e6, "q in full");
        holds(alice, 105e6, 25e6, 0);
        eq(equation(40e6, 55e6), 0, "what was set aside twice serves the next bill");
    }

    function test_TwoProvidersExitOnOneTenant_WithinTheTenantsPace() public conserves {
        (, I.Credit[] memory both) = postBoth(60e6, 60e6, 60e6);
        both;
        vm.warp(START + EXIT_AFTER);
        leave(alice, p, 60e6, START);
        holds(alice, 140e6, 0, 0);
        leave(alice, q, 60e6, START);
        eq(escrow.exitOf(alice, q).amount, 60e6, "from the balance");
        pass(CHALLENGE);
        escrow.finishExit(alice, p);
        escrow.finishExit(alice, q);
        eq(token.balanceOf(p) + token.balanceOf(q), 120e6, "both");
    }

    function test_TheSettlerResumesAfterExits_AndBillsNothingTwice() public conserves {
        vm.warp(START + EXIT_AFTER);
        leave(alice, p, 40e6, START);
        eq(equation(40e6, 30e6), 30e6, "q only");
        pass(CHALLENGE);
        escrow.finishExit(alice, p);
        eq(equation(50e6, 30e6), 40e6, "what was earned since");
        (uint32 n, I.Credit[] memory both) = postBoth(50e6, 30e6, 40e6);
        claimBoth(n, both);
        eq(token.balanceOf(p), 50e6, "p");
        eq(token.balanceOf(q), 30e6, "q");
        eq(equation(50e6, 30e6), 0, "even");
    }

    function test_PauseAcrossTheWindowOfAnExit_TheTenantKeepsItsTime() public conserves {
        vm.warp(START + EXIT_AFTER);
        leave(alice, p, 40e6, START);
        pass(CHALLENGE - 1);
        pause();
        pass(MAX_PAUSE);
        disputeExit(alice, p);
        yes(escrow.exitOf(alice, p).disputed, "in its last second");
    }

    function test_PauseAcrossTheAnswersTime_TheProviderKeepsItsHalf() public conserves {
        (uint32 n, I.Credit[] memory both) = postBoth(40e6, 30e6, 70e6);
        disputeLine(alice, both[0], 40e6);
        pass(CHALLENGE + RULING / 2 - 1);
        pause();
        pass(MAX_PAUSE);
        answerLine(n, alice, p, 40e6);
        eq(shownOf(n, alice, p), 40e6, "in its last second");
    }

    function test_TheMeterIsRevoked_OpenDisputesAreRefunded() public conserves {
        (uint32 n, I.Credit[] memory both) = postBoth(40e6, 30e6, 70e6);
        disputeLine(alice, both[0], 40e6);
        bytes32 metering = escrow.METER();
        vm.prank(admin);
        escrow.revokeRole(metering, meter);
        I.Answer[] memory answers = shownBy(alice, p, 40e6);
        vm.expectRevert(abi.encodeWithSelector(I.NotMeter.selector, meter));
        escrow.answer(n, alice, p, answers);
        pass(CHALLENGE + RULING);
        escrow.close(n, alice, p);
        holds(alice, 170e6, 30e6, 0);
    }

    function test_ActionsOnAlice_ChangeNothingForBob() public conserves {
        (bytes32 root, I.Credit[] memory both) =
            Leaves.two(p, Leaves.line(alice, 40e6), q, Leaves.line(bob, 30e6));
        uint32 n = post(root, debit(alice, 40e6, bob, 30e6));
        disputeLine(alice, both[0], 40e6);
        vm.warp(START + EXIT_AFTER);
        leave(alice, q, 50e6, START);
        disputeExit(alice, q);
        holds(bob, 170e6, 30e6, 0);
        escrow.claim(n, both);
        eq(token.balanceOf(q), 30e6, "bob's provider in full");
    }

    function test_With18Decimals_EveryPathScalesExactly() public conserves {
        start(18);
        fund(alice, 200e6, 100e6);
        (uint32 n, I.Credit[] memory both) = postBoth(40e6, 30e6, 70e6);
        disputeLine(alice, both[0], 20e6);
        eq(token.balanceOf(address(escrow)), 201e18, "deposit and bond");
        claimBoth(n, both);
        eq(token.balanceOf(p), 20e18, "claim");
        answerLine(n, alice, p, 30e6);
        pass(RULING);
        escrow.close(n, alice, p);
        vm.prank(alice);
        escrow.collect(bob);
        eq(token.balanceOf(bob), 5e17, "half of the bond");
        leave(alice, p, 50e6, START);
        pass(CHALLENGE);
        escrow.finishExit(alice, p);
        eq(token.balanceOf(p), 50e18, "exit");
        vm.prank(alice);
        escrow.requestWithdraw(type(uint64).max);
        pass(NOTICE);
        vm.prank(alice);
        escrow.withdraw(carol);
        eq(token.balanceOf(carol), 120e18, "200 less 30 and 50");
    }
}
