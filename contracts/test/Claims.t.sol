// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";
import {Leaves} from "./utils/Leaves.sol";

contract ClaimTest is EscrowTest {
    function setUp() public {
        start(6);
    }

    function test_WhenActive_ItPaysExactlyOnce() public {
        fund(alice, 100, 60);
        (uint32 n, I.Credit[] memory credits) = postLine(alice, p, 60, 60);
        pass(CHALLENGE);
        vm.expectEmit(address(escrow));
        emit I.LinePaid(n, p, alice, 60, 60);
        vm.expectEmit(address(escrow));
        emit I.CreditPaid(n, p, p, 60);
        escrow.claim(n, credits);
        escrow.claim(n, credits);
        eq(token.balanceOf(p), 60, "received");
        eq(pairOf(alice, p).paid, 60, "paid");
        holds(alice, 40, 0, 0);
    }

    function test_WhenNotActiveYetOrCancelled_ItRefuses() public {
        fund(alice, 100, 60);
        (uint32 n, I.Credit[] memory credits) = postLine(alice, p, 60, 60);
        pass(CHALLENGE - 1);
        vm.expectRevert(abi.encodeWithSelector(I.NotActive.selector, n, 0));
        escrow.claim(n, credits);
        vm.expectRevert(abi.encodeWithSelector(I.NotActive.selector, 0, 0));
        escrow.claim(0, credits);
        vm.prank(guardian);
        escrow.cancelEpoch(n);
        pass(1);
        vm.expectRevert(abi.encodeWithSelector(I.NotActive.selector, n, 0));
        escrow.claim(n, credits);
    }

    function test_WhenTheNextEpochIsInItsWindow_ItGoesOnWithTheActiveOne() public {
        fund(alice, 100, 50);
        (uint32 first, I.Credit[] memory credits) = postLine(alice, p, 50, 50);
        pass(CHALLENGE);
        (uint32 second, I.Credit[] memory later) = postLine(alice, p, 90, 40);
        escrow.claim(first, credits);
        holds(alice, 10, 0, 40);
        eq(token.balanceOf(p), 50, "nothing of the window");
        pass(CHALLENGE);
        vm.expectRevert(abi.encodeWithSelector(I.NotActive.selector, first, second));
        escrow.claim(first, credits);
        escrow.claim(second, later);
        eq(token.balanceOf(p), 90, "all");
    }

    function test_WhenTheRootIsOverCommitted_ItTakesOnlyFromItsOwnTenant() public {
        fund(alice, 100, 60);
        fund(bob, 100, 60);
        I.Line[] memory greedy = Leaves.line(alice, type(uint64).max);
        I.Line[] memory fair = Leaves.line(bob, 60);
        (bytes32 root, I.Credit[] memory credits) = Leaves.two(p, greedy, q, fair);
        uint32 n = post(root, debit(alice, 10, bob, 60));
        pass(CHALLENGE);
        escrow.claim(n, credits);
        eq(token.balanceOf(p), 10, "capped by alice's allocated");
        eq(token.balanceOf(q), 60, "bob's provider in full");
        holds(alice, 90, 0, 0);
        // The bad leaf dies with its root: the money of the next epoch is out of its reach.
        (uint32 next,) = postLine(alice, q, 5, 5);
        pass(CHALLENGE);
        vm.expectRevert(abi.encodeWithSelector(I.NotActive.selector, n, next));
        escrow.claim(n, credits);
        escrow.claim(next, credits);
        eq(token.balanceOf(p), 10, "the stale leaf is skipped");
    }

    function test_WhenALeafIsNotInTheRoot_ItIsSkippedAndTheOthersArePaid() public {
        fund(alice, 100, 100);
        fund(bob, 100, 100);
        (bytes32 root, I.Credit[] memory credits) =
            Leaves.two(p, Leaves.line(alice, 40), q, Leaves.line(bob, 50));
        uint32 n = post(root, debit(alice, 40, bob, 50));
        pass(CHALLENGE);
        credits[0].lines[0].cumulative = 41;
        vm.expectEmit(address(escrow));
        emit I.CreditSkipped(n, p, 0);
        escrow.claim(n, credits);
        eq(token.balanceOf(p), 0, "altered line");
        eq(token.balanceOf(q), 50, "the other leaf");
        credits[0].lines[0].cumulative = 40;
        credits[0].provider = q;
        escrow.claim(n, credits);
        eq(token.balanceOf(q), 50, "altered provider");
    }

    function test_WhenALeafHas64Lines_ItPays_When65_ItIsSkipped() public {
        for (uint64 count = 64; count <= 65; ++count) {
            I.Line[] memory lines = new I.Line[](count);
            I.Debit[] memory debits = new I.Debit[](count);
            for (uint160 i = 0; i < count; ++i) {
                address tenant = address(i + 1);
                fund(tenant, 1, 1);
                lines[i] = I.Line(tenant, count - 63);
                debits[i] = I.Debit(tenant, 1);
            }
            uint32 n = post(Leaves.leaf(p, lines), debits);
            pass(CHALLENGE);
            escrow.claim(n, Leaves.one(p, lines));
            eq(token.balanceOf(p), 64, "paid");
        }
    }

    function test_WhenAPayeeIsBannedMidBatch_ItIsOwedAndTheOthersArePaid() public {
        fund(alice, 100, 60);
        fund(bob, 100, 60);
        (bytes32 root, I.Credit[] memory credits) =
            Leaves.two(p, Leaves.line(alice, 60), q, Leaves.line(bob, 60));
        uint32 n = post(root, debit(alice, 60, bob, 60));
        pass(CHALLENGE);
        token.ban(p, true);
        escrow.claim(n, credits);
        eq(escrow.owed(p), 60, "owed");
        eq(token.balanceOf(q), 60, "not held up");
        vm.prank(p);
        eq(escrow.collect(bob), 60, "collected");
        eq(token.balanceOf(bob), 60, "received");
    }

    function test_WhenTheTokenAnswersFalse_ItIsOwed() public {
        fund(alice, 100, 60);
        (uint32 n, I.Credit[] memory credits) = postLine(alice, p, 60, 60);
        pass(CHALLENGE);
        token.answerFalse(true);
        escrow.claim(n, credits);
        eq(escrow.owed(p), 60, "owed");
        vm.prank(p);
        vm.expectRevert();
        escrow.collect(p);
        token.answerFalse(false);
        vm.prank(p);
        escrow.collect(p);
        eq(token.balanceOf(p), 60, "received");
    }

    function test_WhenAPayeeIsNamed_ItReceivesInstead() public {
        fund(alice, 100, 60);
        vm.prank(p);
        escrow.setProvider(bob, NOBODY);
        (uint32 n, I.Credit[] memory credits) = postLine(alice, p, 60, 60);
        pass(CHALLENGE);
        escrow.claim(n, credits);
        eq(token.balanceOf(bob), 60, "payee");
        eq(escrow.payeeOf(p), bob, "named");
        eq(escrow.payeeOf(q), q, "itself by default");
    }

    /// @dev Nobody can collect for them, but the books go on to explain every unit that is held.
    function test_WhenALeafIsForTheEscrowOrTheToken_ItIsOwed() public {
        fund(alice, 100, 60);
        (bytes32 root, I.Credit[] memory credits) =
            Leaves.two(address(escrow), Leaves.line(alice, 20), address(token), Leaves.line(alice, 30));
        uint32 n = post(root, debit(alice, 60));
        pass(CHALLENGE);
        vm.expectEmit(address(escrow));
        emit I.CreditOwed(n, address(escrow), address(escrow), 20);
        escrow.claim(n, credits);
        eq(escrow.owed(address(escrow)), 20, "escrow");
        eq(escrow.owed(address(token)), 30, "token");
        eq(token.balanceOf(address(escrow)), 100, "held");
        holds(alice, 40, 10, 0);
    }

    function testFuzz_WhateverIsDue_ItPaysTheLeastOfItAndTheAllocated(
        uint48 amount,
        uint64 cumulative,
        uint48 more
    ) public {
        amount = uint48(bound(amount, 1, type(uint48).max));
        more = uint48(bound(more, 1, type(uint48).max));
        fund(alice, uint64(amount) + more, type(uint48).max);
        (uint32 n, I.Credit[] memory credits) = postLine(alice, p, cumulative, amount);
        pass(CHALLENGE);
        escrow.claim(n, credits);
        uint64 first = cumulative < amount ? cumulative : amount;
        eq(token.balanceOf(p), first, "first");
        (n, credits) = postLine(alice, p, cumulative, more);
        pass(CHALLENGE);
        escrow.claim(n, credits);
        uint64 all = cumulative < uint64(amount) + more ? cumulative : uint64(amount) + more;
        eq(token.balanceOf(p), all, "both");
    }

    function test_WhenPaused_ItRefusesUntilThePauseIsOver() public conserves {
        fund(alice, 100, 60);
        (uint32 n, I.Credit[] memory credits) = postLine(alice, p, 60, 60);
        pass(CHALLENGE);
        pause();
        vm.expectRevert(abi.encodeWithSelector(I.Paused.selector, uint40(block.timestamp) + MAX_PAUSE));
        escrow.claim(n, credits);
        pass(MAX_PAUSE);
        escrow.claim(n, credits);
        eq(token.balanceOf(p), 60, "paid");
    }

    function test_WhenTheTokenReenters_ItPaysOnce() public conserves {
        fund(alice, 100, 100);
        (uint32 n, I.Credit[] memory credits) = postLine(alice, p, 100, 60);
        pass(CHALLENGE);
        token.reenterOnTransfer(address(escrow), abi.encodeCall(I.claim, (n, credits)));
        escrow.claim(n, credits);
        yes(!token.reentered(), "reentered");
        eq(token.balanceOf(p), 60, "paid");
    }

    function test_WhenALineIsHeldByADispute_ItPaysTheRest() public conserves {
        fund(alice, 100, 100);
        (uint32 n, I.Credit[] memory credits) = postLine(alice, p, 60, 60);
        disputeLine(alice, credits[0], 25);
        pass(CHALLENGE);
        escrow.claim(n, credits);
        escrow.claim(n, credits);
        eq(token.balanceOf(p), 35, "undisputed");
        pairIs(alice, p, 35, 0, 25);
    }

    function test_WhenAPairIsTwiceInTheRoot_ItPaysTheHigherLineOnce() public conserves {
        fund(alice, 100, 100);
        (bytes32 root, I.Credit[] memory credits) =
            Leaves.two(p, Leaves.line(alice, 40), p, Leaves.line(alice, 60));
        uint32 n = post(root, debit(alice, 100));
        pass(CHALLENGE);
        escrow.claim(n, credits);
        eq(token.balanceOf(p), 60, "the higher one");
    }

    function testFuzz_WhateverTheOrder_EachPairIsPaidOnceAndNeverMore(uint64[8] calldata seed)
        public
        conserves
    {
        fund(alice, 1e9, 1e9);
        (uint64 toP, uint64 toQ) = (seed[6] % 1e9, seed[7] % 1e9);
        uint48 amount = uint48(bound(seed[0], 1, 1e9));
        (uint32 n, I.Credit[] memory credits) = postBoth(toP, toQ, amount);
        pass(CHALLENGE);
        for (uint256 i = 0; i < 6; ++i) {
            I.Credit[] memory one = new I.Credit[](1);
            one[0] = credits[seed[i] % 2];
            escrow.claim(n, one);
        }
        escrow.claim(n, credits);
        yes(token.balanceOf(p) <= toP && token.balanceOf(q) <= toQ, "within each line");
        eq(token.balanceOf(p) + token.balanceOf(q), lesser(amount, uint256(toP) + toQ), "all that is there");
    }
}
