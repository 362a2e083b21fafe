// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Test} from "../utils/Test.sol";
import {Handler} from "./Handler.sol";

/// @dev What every random sequence of calls must leave true. The numbers are those of the ten invariants in
/// docs/contracts-audit.md; a handler that sees one broken within a call counts it, since a revert would undo the call.
abstract contract Rules is Test {
    Handler internal handler;

    function rules() internal {
        rule_01_money_is_conserved();
        rule_02_an_honest_root_is_covered();
        rule_03_no_tenant_touches_another();
        rule_04_paid_never_falls_and_replays_pay_nothing();
        rule_05_only_released_money_is_paid();
        rule_06_debits_and_draws_stay_within_limits();
        rule_07_refunds_within_disputes_within_debits();
        rule_08_pauses_are_bounded_and_hold_no_withdrawal();
        rule_09_seq_rises();
    }

    function rule_01_money_is_conserved() internal view {
        handler.auditConservation();
        eq(handler.brokenRules(1), 0, "calls that must succeed or be refused");
    }

    function rule_02_an_honest_root_is_covered() internal {
        handler.auditHonestRoot();
    }

    function rule_03_no_tenant_touches_another() internal view {
        eq(handler.brokenRules(3), 0, "another tenant's account changed");
    }

    function rule_04_paid_never_falls_and_replays_pay_nothing() internal {
        handler.auditPairs();
        eq(handler.brokenRules(4), 0, "a replay did something");
    }

    function rule_05_only_released_money_is_paid() internal {
        handler.auditAccounts();
        eq(handler.brokenRules(5), 0, "paid out of its time");
    }

    function rule_06_debits_and_draws_stay_within_limits() internal view {
        eq(handler.brokenRules(6), 0, "beyond a limit");
    }

    function rule_07_refunds_within_disputes_within_debits() internal view {
        handler.auditDisputes();
        eq(handler.brokenRules(7), 0, "a dispute out of bounds");
    }

    function rule_08_pauses_are_bounded_and_hold_no_withdrawal() internal view {
        eq(handler.brokenRules(8), 0, "a withdrawal, a notice or the clock");
    }

    function rule_09_seq_rises() internal {
        handler.auditState();
        eq(handler.brokenRules(9), 0, "a stale or usurped call was taken");
    }
}

/// @dev forge's own search over the handlers; the tenth rule, of the stake, has its handler in Stake.t.sol.
contract InvariantsTest is Rules {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function setUp() public {
        handler = new Handler(6);
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        bytes4[29] memory all = [
            handler.deposit.selector,
            handler.limit.selector,
            handler.applyLimit.selector,
            handler.announce.selector,
            handler.withdraw.selector,
            handler.payTo.selector,
            handler.collect.selector,
            handler.ban.selector,
            handler.break_.selector,
            handler.work.selector,
            handler.post.selector,
            handler.postStale.selector,
            handler.cancel.selector,
            handler.claim.selector,
            handler.claimOne.selector,
            handler.claimForged.selector,
            handler.dispute.selector,
            handler.disputeForged.selector,
            handler.answer.selector,
            handler.rule.selector,
            handler.close.selector,
            handler.exit.selector,
            handler.disputeExit.selector,
            handler.ruleExit.selector,
            handler.finishExit.selector,
            handler.warp.selector,
            handler.warpToActivation.selector,
            handler.warpToRuling.selector,
            handler.leap.selector
        ];
        bytes4[5] memory more = [
            handler.pause.selector,
            handler.unpause.selector,
            handler.usurp.selector,
            handler.replay.selector,
            handler.exitForged.selector
        ];
        bytes4[] memory selectors = new bytes4[](34);
        for (uint256 i = 0; i < 34; ++i) {
            selectors[i] = i < 29 ? all[i] : more[i - 29];
        }
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), selectors);
    }

    /// forge-config: default.invariant.runs = 16
    /// forge-config: default.invariant.depth = 300
    /// forge-config: default.invariant.fail-on-revert = true
    function invariant_TheTenRules() public {
        rules();
    }
}
