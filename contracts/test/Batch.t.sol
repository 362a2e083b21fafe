// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Batch} from "../src/Batch.sol";
import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {Wallet} from "./mocks/Wallet.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";

/// @dev Disputes of a line of p and of a line of q, answered and closed through one transaction.
contract BatchTest is EscrowTest {
    Batch internal batch;
    uint32 internal n;

    function setUp() public {
        start(6);
        batch = Batch(deployed("Batch.sol:Batch", ""));
        fund(alice, 100e6, 100e6);
        I.Credit[] memory credits;
        (n, credits) = postBoth(40e6, 30e6, 60e6);
        disputeLine(alice, credits[0], 25e6);
        disputeLine(alice, credits[1], 20e6);
    }

    function answering(address provider, uint64 cumulative) internal view returns (bytes memory) {
        return abi.encodeCall(I.answer, (n, alice, provider, shownBy(alice, provider, cumulative)));
    }

    function closing(address provider) internal view returns (bytes memory) {
        return abi.encodeCall(I.close, (n, alice, provider));
    }

    function two(bytes memory first, bytes memory second, bool allowFailure)
        internal
        view
        returns (Batch.Call3[] memory calls)
    {
        calls = new Batch.Call3[](2);
        calls[0] = Batch.Call3(address(escrow), allowFailure, first);
        calls[1] = Batch.Call3(address(escrow), allowFailure, second);
    }

    function test_WhenAllCanBeAnswered_AllAreAnswered() public {
        vm.expectEmit(address(escrow));
        emit I.Answered(n, alice, p, 25e6, address(batch));
        Batch.Result[] memory results = batch.aggregate3(two(answering(p, 40e6), answering(q, 25e6), true));
        yes(results[0].success && results[1].success, "both");
        eq(shownOf(n, alice, p), 25e6, "of p");
        eq(shownOf(n, alice, q), 15e6, "of q");
    }

    function test_WhenOneWasClosedBefore_TheOthersAreClosedAllTheSame() public conserves {
        pass(CHALLENGE + RULING);
        escrow.close(n, alice, p);
        Batch.Result[] memory results = batch.aggregate3(two(closing(p), closing(q), true));
        yes(!results[0].success && results[1].success, "the second alone");
        eq(uint32(bytes4(results[0].returnData)), uint32(I.NoDispute.selector), "and why");
        eq(escrow.disputeOf(n, alice, q).amount, 0, "closed");
    }

    function test_WhenASignerGotCodeMeanwhile_TheOthersAreAnsweredAllTheSame() public {
        Batch.Call3[] memory calls = two(answering(p, 40e6), answering(q, 30e6), true);
        vm.etch(vm.addr(P_KEY), address(new Wallet(p)).code);
        Batch.Result[] memory results = batch.aggregate3(calls);
        yes(!results[0].success && results[1].success, "the second alone");
        eq(shownOf(n, alice, q), 20e6, "of q");
    }

    function test_WhenAFailureIsNotAllowed_NothingHappens() public {
        Batch.Call3[] memory calls = two(answering(p, 40e6), closing(q), false);
        bytes memory reason = abi.encodeWithSelector(I.TooEarly.selector, escrow.epochOf(n).activeAt + RULING);
        vm.expectRevert(abi.encodeWithSelector(Batch.CallFailed.selector, 1, reason));
        batch.aggregate3(calls);
        eq(shownOf(n, alice, p), 0, "undone");
    }

    function test_WhenNothingIsCalled_NothingComesBack() public {
        eq(batch.aggregate3(new Batch.Call3[](0)).length, 0, "nothing");
    }

    function test_ItTakesNoMoney() public {
        vm.deal(address(this), 1);
        (bool taken,) =
            address(batch).call{value: 1}(abi.encodeCall(Batch.aggregate3, (new Batch.Call3[](0))));
        yes(!taken, "with a call");
        (taken,) = address(batch).call{value: 1}("");
        yes(!taken, "without");
    }

    function test_ItIsWhatMulticall3IsCalledBy() public pure {
        eq(uint32(Batch.aggregate3.selector), 0x82ad56cb, "aggregate3");
    }
}
