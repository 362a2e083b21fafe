// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {OddToken} from "./mocks/Tokens.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";

contract AccountsTest is EscrowTest {
    function setUp() public {
        start(6);
    }

    function tryDeploy(OddToken coin, address chief, uint40 challenge, uint40 notice) external {
        deploy(coin, chief, challenge, notice);
    }

    function test_construction_refuses_bad_settings() public {
        OddToken odd = new OddToken(5);
        vm.expectRevert(abi.encodeWithSelector(I.UnsupportedDecimals.selector, 5));
        this.tryDeploy(odd, admin, CHALLENGE, NOTICE);
        odd = new OddToken(19);
        vm.expectRevert(abi.encodeWithSelector(I.UnsupportedDecimals.selector, 19));
        this.tryDeploy(odd, admin, CHALLENGE, NOTICE);
        vm.expectRevert(abi.encodeWithSelector(I.BadPeriods.selector, 0, NOTICE));
        this.tryDeploy(token, admin, 0, NOTICE);
        uint40 short = 1 days + 2 * CHALLENGE - 1;
        vm.expectRevert(abi.encodeWithSelector(I.BadPeriods.selector, CHALLENGE, short));
        this.tryDeploy(token, admin, CHALLENGE, short);
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAddress.selector));
        this.tryDeploy(token, address(0), CHALLENGE, NOTICE);
    }

    function test_eighteen_decimals_scale_exactly() public {
        start(18);
        fund(alice, 7, 7);
        eq(token.balanceOf(address(escrow)), 7e12, "held");
        (uint32 n, I.Credit[] memory credits) = postLine(alice, p, 7, 7);
        pass(CHALLENGE);
        escrow.claim(n, credits);
        eq(token.balanceOf(p), 7e12, "paid");
    }

    function test_deposit_for_another_tenant() public {
        token.mint(bob, 5);
        vm.startPrank(bob);
        token.approve(address(escrow), 5);
        vm.expectEmit(address(escrow));
        emit I.Deposited(alice, bob, 5);
        escrow.deposit(alice, 5);
        vm.stopPrank();
        holds(alice, 5, 0, 0);
        holds(bob, 0, 0, 0);
    }

    function test_deposit_refuses_nothing_nobody_and_fees() public {
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAmount.selector));
        escrow.deposit(alice, 0);
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAddress.selector));
        escrow.deposit(address(0), 1);
        token.mint(alice, 10);
        token.setFee(1);
        vm.startPrank(alice);
        token.approve(address(escrow), 10);
        vm.expectRevert(abi.encodeWithSelector(I.FeeOnTransfer.selector, 10, 9));
        escrow.deposit(alice, 10);
        vm.stopPrank();
    }

    function test_reentering_token_gets_nothing() public {
        fund(alice, 10, 10);
        token.mint(alice, 10);
        token.reenterOnTransfer(address(escrow), abi.encodeCall(escrow.deposit, (bob, 1)));
        vm.startPrank(alice);
        token.approve(address(escrow), 10);
        escrow.deposit(alice, 10);
        vm.stopPrank();
        yes(!token.reentered(), "reentered");
        holds(alice, 20, 0, 0);
        holds(bob, 0, 0, 0);
    }

    function test_limit_rises_at_once_and_falls_after_notice() public {
        fund(alice, 100, 50);
        vm.startPrank(alice);
        escrow.setSpendLimit(60);
        eq(escrow.accountOf(alice).limit, 60, "raised");
        escrow.setSpendLimit(10);
        eq(escrow.accountOf(alice).limit, 60, "not lowered yet");
        pass(NOTICE - 1);
        vm.expectRevert(abi.encodeWithSelector(I.NoticeRunning.selector, START + NOTICE));
        escrow.applySpendLimit();
        pass(1);
        escrow.applySpendLimit();
        eq(escrow.accountOf(alice).limit, 10, "lowered");
        vm.expectRevert(abi.encodeWithSelector(I.NoticeRunning.selector, 0));
        escrow.applySpendLimit();
        vm.stopPrank();
    }

    function test_raising_takes_an_announced_lowering_back() public {
        fund(alice, 100, 50);
        vm.startPrank(alice);
        escrow.setSpendLimit(10);
        escrow.setSpendLimit(50);
        pass(NOTICE);
        vm.expectRevert(abi.encodeWithSelector(I.NoticeRunning.selector, 0));
        escrow.applySpendLimit();
        vm.stopPrank();
    }

    function test_withdraw_after_notice_only_once() public {
        fund(alice, 100, 50);
        vm.startPrank(alice);
        escrow.requestWithdraw(70);
        pass(NOTICE - 1);
        vm.expectRevert(abi.encodeWithSelector(I.NoticeRunning.selector, START + NOTICE));
        escrow.withdraw(bob);
        pass(1);
        eq(escrow.withdraw(bob), 70, "taken");
        vm.expectRevert(abi.encodeWithSelector(I.NoticeRunning.selector, 0));
        escrow.withdraw(bob);
        vm.stopPrank();
        eq(token.balanceOf(bob), 70, "received");
        holds(alice, 30, 0, 0);
    }

    function test_withdraw_takes_what_debits_left() public {
        fund(alice, 100, 100);
        vm.prank(alice);
        escrow.requestWithdraw(100);
        postLine(alice, p, 40, 40);
        pass(NOTICE);
        vm.prank(alice);
        eq(escrow.withdraw(alice), 60, "rest");
        holds(alice, 0, 40, 0);
    }

    function test_withdraw_reaches_money_of_a_cancelled_epoch() public {
        fund(alice, 100, 100);
        (uint32 n,) = postLine(alice, p, 100, 100);
        vm.prank(guardian);
        escrow.cancelEpoch(n);
        vm.prank(alice);
        escrow.requestWithdraw(100);
        pass(NOTICE);
        vm.prank(alice);
        eq(escrow.withdraw(alice), 100, "all");
    }

    function test_withdraw_request_taken_back() public {
        fund(alice, 100, 100);
        vm.startPrank(alice);
        escrow.requestWithdraw(100);
        escrow.requestWithdraw(0);
        pass(NOTICE);
        vm.expectRevert(abi.encodeWithSelector(I.NoticeRunning.selector, 0));
        escrow.withdraw(alice);
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAddress.selector));
        escrow.withdraw(address(0));
        vm.stopPrank();
    }

    function test_withdraw_never_goes_to_the_escrow_nor_the_token() public {
        fund(alice, 100, 100);
        vm.startPrank(alice);
        escrow.requestWithdraw(100);
        pass(NOTICE);
        vm.expectRevert(abi.encodeWithSelector(I.BadRecipient.selector, address(escrow)));
        escrow.withdraw(address(escrow));
        vm.expectRevert(abi.encodeWithSelector(I.BadRecipient.selector, address(token)));
        escrow.withdraw(address(token));
        holds(alice, 100, 0, 0);
        eq(escrow.withdraw(alice), 100, "the announcement is still good");
        vm.stopPrank();
    }

    function testFuzz_deposit_and_withdraw_conserve(uint64 units, uint64 wanted) public {
        units = uint64(bound(units, 1, type(uint64).max));
        wanted = uint64(bound(wanted, 1, type(uint64).max));
        fund(alice, units, 0);
        vm.startPrank(alice);
        escrow.requestWithdraw(wanted);
        pass(NOTICE);
        uint64 taken = escrow.withdraw(alice);
        vm.stopPrank();
        eq(taken, units < wanted ? units : wanted, "min");
        eq(token.balanceOf(address(escrow)), units - taken, "held");
        holds(alice, units - taken, 0, 0);
    }
}
