// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";
import {Leaves} from "./utils/Leaves.sol";

contract DisputeTest is EscrowTest {
    uint32 internal n;

    function setUp() public {
        start(6);
        fund(alice, 100e6, 100e6);
        fund(bob, 100e6, 100e6);
        I.Credit[] memory made;
        (n, made) = postBoth(40e6, 30e6, 60e6);
        keep(made[0]);
        keep(made[1]);
    }

    function refused(address who, I.Credit memory credit, uint64 amount, bytes memory reason) internal {
        vm.prank(who);
        vm.expectRevert(reason);
        escrow.dispute(credit.provider, amount, EVIDENCE, credit.lines, 0, credit.proof);
    }

    function test_WhenALineIsShown_OnlyThatAmountIsHeld() public conserves {
        give(alice, 2e6);
        vm.expectEmit(address(escrow));
        emit I.Disputed(
            n, alice, p, 25e6, 1_250_000, 15e6, uint40(block.timestamp) + CHALLENGE + RULING, EVIDENCE
        );
        vm.prank(alice);
        escrow.dispute(p, 25e6, EVIDENCE, kept[0].lines, 0, kept[0].proof);
        holds(alice, 40e6, 0, 35e6);
        pairIs(alice, p, 0, 0, 25e6);
        eq(token.balanceOf(alice), 750_000, "the bond left the wallet");
        I.Dispute memory d = escrow.disputeOf(n, alice, p);
        eq(d.amount, 25e6, "amount");
        eq(d.bond, 1_250_000, "bond");
        eq(d.floor, 15e6, "floor");
        eq(d.deadline, escrow.epochOf(n).activeAt + RULING, "deadline");
    }

    function test_WhenNoProviderIsNamed_NoProofIsNeeded() public conserves {
        disputeDebit(alice, 60e6);
        holds(alice, 40e6, 0, 0);
        eq(heldOf(alice), 60e6, "held");
        pairIs(alice, NOBODY, 0, 0, 0);
        eq(escrow.disputeOf(n, alice, NOBODY).floor, 0, "no floor");
    }

    function test_WhenBothKinds_TheyShareThePending() public conserves {
        disputeDebit(alice, 25e6);
        disputeLine(alice, kept[0], 35e6);
        holds(alice, 40e6, 0, 0);
        refused(alice, kept[1], 1, abi.encodeWithSelector(I.TooMuch.selector, 1, 0));
    }

    function test_WhenTheWindowIsOver_ItRefuses() public {
        pass(CHALLENGE);
        refused(alice, kept[0], 1, abi.encodeWithSelector(I.NotInWindow.selector, n));
    }

    function test_WhenThereIsNoEpochOrItWasCancelled_ItRefuses() public {
        cancel(n);
        refused(alice, kept[0], 1, abi.encodeWithSelector(I.NotInWindow.selector, 0));
    }

    function test_WhenInTheLastSecondOfTheWindow_ItHolds() public {
        pass(CHALLENGE - 1);
        disputeLine(alice, kept[0], 1);
        pairIs(alice, p, 0, 0, 1);
    }

    function test_WhenNothing_ItRefuses() public {
        refused(alice, kept[0], 0, abi.encodeWithSelector(I.ZeroAmount.selector));
    }

    function test_WhenMoreThanPending_ItRefuses() public {
        refused(bob, kept[0], 1, abi.encodeWithSelector(I.TooMuch.selector, 1, 0));
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(I.TooMuch.selector, 60e6 + 1, 60e6));
        escrow.dispute(NOBODY, 60e6 + 1, EVIDENCE, new I.Line[](0), 0, new bytes32[](0));
    }

    function test_WhenMoreThanTheLineLeavesUnpaid_ItRefuses() public {
        refused(alice, kept[1], 30e6 + 1, abi.encodeWithSelector(I.TooMuch.selector, 30e6 + 1, 30e6));
        disputeLine(alice, kept[1], 30e6);
    }

    function test_WhenPartOfTheLineIsPaid_OnlyTheRestCanBeDisputed() public {
        pass(CHALLENGE);
        escrow.claim(n, kept);
        eq(pairOf(alice, q).paid, 20e6, "after p there were 20 left");
        (, I.Credit[] memory next) = postBoth(40e6, 35e6, 30e6);
        refused(alice, next[1], 15e6 + 1, abi.encodeWithSelector(I.TooMuch.selector, 15e6 + 1, 15e6));
        disputeLine(alice, next[1], 15e6);
        eq(escrow.disputeOf(2, alice, q).floor, 20e6, "floor");
    }

    function test_WhenDisputedBefore_ItRefuses() public {
        disputeLine(alice, kept[0], 10e6);
        refused(alice, kept[0], 1, abi.encodeWithSelector(I.AlreadyDisputed.selector));
        disputeLine(alice, kept[1], 10e6);
    }

    function test_WhenTheLineIsNotTheTenants_ItRefuses() public {
        post_bobs_debit();
        bytes memory reason = abi.encodeWithSelector(I.NotInRoot.selector, 2, p);
        refused(bob, kept[0], 1, reason);
    }

    function post_bobs_debit() internal {
        pass(CHALLENGE);
        (bytes32 root,) = Leaves.two(p, Leaves.line(alice, 40e6), q, Leaves.line(alice, 30e6));
        post(root, debit(bob, 10e6, alice, 1));
    }

    function test_WhenTheLeafIsNotInTheRoot_ItRefuses() public {
        bytes memory reason = abi.encodeWithSelector(I.NotInRoot.selector, n, p);
        I.Credit memory wrong = kept[0];
        wrong.proof = kept[1].proof;
        refused(alice, wrong, 1, reason);
        wrong = kept[0];
        wrong.lines[0].cumulative += 1;
        refused(alice, wrong, 1, reason);
        wrong.provider = carol;
        refused(alice, wrong, 1, abi.encodeWithSelector(I.NotInRoot.selector, n, carol));
    }

    function test_WhenThePlaceIsBeyondTheLines_ItRefuses() public {
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(I.NotInRoot.selector, n, p));
        escrow.dispute(p, 1, EVIDENCE, kept[0].lines, 1, kept[0].proof);
    }

    function test_WhenTheBondIsNotThere_ItRefuses() public {
        bytes memory reason = abi.encodeWithSelector(
            IERC20Errors.ERC20InsufficientAllowance.selector, address(escrow), 0, MIN_BOND
        );
        refused(alice, kept[0], 1, reason);
        holds(alice, 40e6, 0, 60e6);
    }

    function test_WhenPaused_ItHoldsAllTheSame() public conserves {
        pass(CHALLENGE - 1);
        pause();
        pass(MAX_PAUSE - 1);
        disputeLine(alice, kept[0], 40e6);
        pairIs(alice, p, 0, 0, 40e6);
    }

    function test_WhenTheBalanceWasDrained_TheDebitCanStillBeDisputed() public conserves {
        pass(CHALLENGE);
        vm.prank(alice);
        escrow.requestWithdraw(type(uint64).max);
        pass(NOTICE);
        (n,) = postLine(alice, p, 140e6, 40e6);
        eq(escrow.accountOf(alice).balance, 0, "nothing free");
        disputeDebit(alice, 40e6);
        pass(CHALLENGE + RULING);
        escrow.close(n, alice, NOBODY);
        vm.prank(alice);
        eq(escrow.withdraw(alice), 40e6, "the refund is free money again");
    }

    function test_WhenTheTokenReenters_ItHoldsOnce() public conserves {
        give(alice, 2e6);
        token.reenterOnTransfer(address(escrow), abi.encodeCall(I.deposit, (bob, 1)));
        vm.prank(alice);
        escrow.dispute(p, 25e6, EVIDENCE, kept[0].lines, 0, kept[0].proof);
        yes(!token.reentered(), "reentered");
    }

    function test_WhenTheBondIsTaxed_ItRefuses() public {
        give(alice, 2e6);
        token.setFee(1);
        refused(alice, kept[0], 25e6, abi.encodeWithSelector(I.FeeOnTransfer.selector, 1_250_000, 1_249_999));
    }

    function test_WhenNoProvider_ThePlaceOfProofIsNotRead() public {
        give(alice, 1e6);
        vm.prank(alice);
        escrow.dispute(NOBODY, 1, EVIDENCE, kept[0].lines, 99, new bytes32[](3));
        eq(heldOf(alice), 1, "held");
    }
}
