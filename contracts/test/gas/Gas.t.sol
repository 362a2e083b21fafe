// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Batch} from "../../src/Batch.sol";
import {IComputeEscrow as I} from "../../src/interfaces/IComputeEscrow.sol";
import {TestUSD} from "../mocks/TestUSD.sol";
import {OddToken} from "../mocks/Tokens.sol";
import {EscrowTest} from "../utils/EscrowTest.sol";
import {Leaves} from "../utils/Leaves.sol";

/// @dev Of the shipped build alone: its size, and what calls cost as transactions of their own, the 21,000 of the
/// protocol included. Every call is isolated, so storage is cold as it would be. The figures go to snapshots/Gas.json,
/// which is committed and compared; benchmarks/gas measures the same on anvil.
/// forge-config: default.isolate = true
contract GasTest is EscrowTest {
    function setUp() public {
        vm.warp(START);
        // A plain token: the vices of the other one cost gas as well.
        token = OddToken(address(new TestUSD()));
        escrow = deploy(standard());
        vm.prank(p);
        escrow.setProvider(NOBODY, vm.addr(P_KEY));
    }

    /// @dev Of the newest call; the target of the issue is checked here, the figure itself by the snapshot.
    function measure(string memory what, uint256 most) internal {
        uint256 gas = vm.lastCallGas().gasTotalUsed;
        vm.snapshotValue("Gas", what, gas);
        if (gas > most) revert NotEqual(what, gas, most);
    }

    function test_the_deployed_code_is_within_the_limit_of_the_chain() public view {
        yes(address(escrow).code.length < 24_576, "EIP-170");
    }

    function tenantsOf(uint160 count) internal returns (I.Debit[] memory debits, I.Line[] memory lines) {
        debits = new I.Debit[](count);
        lines = new I.Line[](count);
        for (uint160 i = 0; i < count; ++i) {
            address tenant = address(uint160(uint256(keccak256(abi.encode("tenant", i)))));
            fund(tenant, 1000e6, 1000e6);
            debits[i] = I.Debit(tenant, 1_234_567);
            lines[i] = I.Line(tenant, 1_234_567);
        }
    }

    function measurePost(uint160 count, string memory what) internal {
        (I.Debit[] memory debits, I.Line[] memory lines) = tenantsOf(count);
        post(Leaves.leaf(p, lines), debits);
        pass(CHALLENGE);
        post(keccak256("second"), debits);
        measure(what, 90_000 + 8000 * uint256(count));
    }

    function test_post_001_tenant() public {
        measurePost(1, "postEpoch, 1 tenant");
    }

    function test_post_010_tenants() public {
        measurePost(10, "postEpoch, 10 tenants");
    }

    function test_post_100_tenants() public {
        measurePost(100, "postEpoch, 100 tenants");
    }

    function measureClaim(uint160 count, string memory first, string memory steady, uint256 most) internal {
        (I.Debit[] memory debits, I.Line[] memory lines) = tenantsOf(count);
        for (uint256 round = 1; round <= 2; ++round) {
            for (uint256 i = 0; i < count; ++i) {
                lines[i].cumulative = uint64(1_234_567 * round);
            }
            (bytes32 root, I.Credit[] memory both) = Leaves.two(p, lines, q, lines);
            uint32 n = post(root, debits);
            pass(CHALLENGE);
            I.Credit[] memory one = new I.Credit[](1);
            one[0] = both[0];
            escrow.claim(n, one);
            // A new pair adds one fresh slot, and the first payment the payee's balance at the token.
            if (round == 1) measure(first, most + 17_100 * uint256(count) + 17_100);
            else measure(steady, most);
        }
    }

    function test_claim_01_line() public {
        measureClaim(1, "claim, 1 line of a new pair", "claim, 1 line", 82_000);
    }

    function test_claim_16_lines() public {
        measureClaim(
            16, "claim, 16 lines of new pairs in one leaf", "claim, 16 lines in one leaf", 16 * 24_000
        );
    }

    function test_deposit() public {
        fund(alice, 100e6, 100e6);
        give(alice, 100e6);
        vm.prank(alice);
        escrow.deposit(alice, 50e6);
        measure("deposit, repeated", 60_000);
    }

    function test_dispute_answer_rule_close() public {
        fund(alice, 100e6, 100e6);
        (uint32 n, I.Credit[] memory both) = postBoth(40e6, 30e6, 60e6);
        give(alice, 10e6);
        vm.prank(alice);
        escrow.dispute(p, 25e6, EVIDENCE, both[0].lines, 0, both[0].proof);
        measure("dispute of a line", type(uint256).max);
        answerLine(n, alice, p, 40e6);
        measure("answer", type(uint256).max);
        pass(CHALLENGE);
        rule(n, alice, p, 5e6);
        measure("rule", type(uint256).max);
        escrow.close(n, alice, p);
        measure("close", type(uint256).max);
    }

    /// @dev What the hub bundles: answers to disputes of as many tenants, then the closings.
    function test_batch() public {
        uint160 count = 20;
        (I.Debit[] memory debits, I.Line[] memory lines) = tenantsOf(count);
        uint32 n = post(Leaves.leaf(p, lines), debits);
        I.Credit[] memory leaf = Leaves.one(p, lines);
        Batch.Call3[] memory answers = new Batch.Call3[](count);
        Batch.Call3[] memory closings = new Batch.Call3[](count);
        for (uint256 i = 0; i < count; ++i) {
            address tenant = lines[i].tenant;
            give(tenant, 10e6);
            vm.prank(tenant);
            escrow.dispute(p, 1e6, EVIDENCE, lines, i, leaf[0].proof);
            bytes memory answering = abi.encodeCall(I.answer, (n, tenant, p, shownBy(tenant, p, 2e6)));
            answers[i] = Batch.Call3(address(escrow), true, answering);
            closings[i] = Batch.Call3(address(escrow), true, abi.encodeCall(I.close, (n, tenant, p)));
        }
        Batch batch = Batch(deployed("Batch.sol:Batch", ""));
        Batch.Result[] memory results = batch.aggregate3(answers);
        measure("answers, 20 in one batch", type(uint256).max);
        yes(results[0].success && results[count - 1].success, "answered");
        pass(CHALLENGE + RULING);
        results = batch.aggregate3(closings);
        measure("closings, 20 in one batch", type(uint256).max);
        yes(results[0].success && results[count - 1].success, "closed");
    }

    function test_cancel() public {
        fund(alice, 100e6, 100e6);
        postBoth(40e6, 30e6, 60e6);
        cancel(1);
        measure("cancelEpoch", type(uint256).max);
    }

    function test_exit_and_finish() public {
        fund(alice, 100e6, 100e6);
        pass(EXIT_AFTER);
        leave(alice, p, 40e6, START);
        measure("exit", type(uint256).max);
        pass(CHALLENGE);
        escrow.finishExit(alice, p);
        measure("finishExit", type(uint256).max);
    }

    function test_withdraw() public {
        fund(alice, 100e6, 100e6);
        vm.prank(alice);
        escrow.requestWithdraw(50e6);
        measure("requestWithdraw", type(uint256).max);
        pass(NOTICE);
        vm.prank(alice);
        escrow.withdraw(alice);
        measure("withdraw", type(uint256).max);
    }
}
