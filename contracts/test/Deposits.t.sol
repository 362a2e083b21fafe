// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {Eip3009} from "./mocks/Eip3009.sol";
import {Wallet} from "./mocks/Wallet.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";

contract DepositTest is EscrowTest {
    function setUp() public {
        start(6);
    }

    function test_WhenApproved_ItCreditsTheNamedTenant() public conserves {
        give(bob, 5);
        vm.expectEmit(address(escrow));
        emit I.Deposited(alice, bob, 5);
        vm.prank(bob);
        escrow.deposit(alice, 5);
        holds(alice, 5, 0, 0);
        holds(bob, 0, 0, 0);
    }

    function test_WhenNothingOrNobody_ItRefuses() public {
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAmount.selector));
        escrow.deposit(alice, 0);
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAddress.selector));
        escrow.deposit(NOBODY, 1);
    }

    function test_WhenNotApproved_ItRefuses() public {
        token.mint(alice, 10);
        vm.prank(alice);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(escrow), 0, 10)
        );
        escrow.deposit(alice, 10);
    }

    function test_WhenTheTokenTakesAFee_ItRefuses() public {
        give(alice, 10);
        token.setFee(1);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(I.FeeOnTransfer.selector, 10, 9));
        escrow.deposit(alice, 10);
    }

    function test_WhenTheTokenAnswersFalse_ItRefuses() public {
        give(alice, 10);
        token.answerFalse(true);
        vm.prank(alice);
        vm.expectRevert();
        escrow.deposit(alice, 10);
        holds(alice, 0, 0, 0);
    }

    function test_WhenTheTokenReenters_ItCreditsOnce() public conserves {
        give(alice, 10);
        token.reenterOnTransfer(address(escrow), abi.encodeCall(I.deposit, (bob, 1)));
        vm.prank(alice);
        escrow.deposit(alice, 10);
        yes(!token.reentered(), "reentered");
        holds(alice, 10, 0, 0);
        holds(bob, 0, 0, 0);
    }

    function test_WhenTheTokenHas18Decimals_ItScales() public {
        start(18);
        fund(alice, 7, 7);
        eq(token.balanceOf(address(escrow)), 7e12, "held");
        holds(alice, 7, 0, 0);
    }

    function testFuzz_WhenDepositedAndWithdrawn_ItConserves(uint64 units, uint64 wanted) public conserves {
        units = uint64(bound(units, 1, type(uint64).max));
        wanted = uint64(bound(wanted, 1, type(uint64).max));
        fund(alice, units, 0);
        vm.startPrank(alice);
        escrow.requestWithdraw(wanted);
        pass(NOTICE);
        uint64 taken = escrow.withdraw(alice);
        vm.stopPrank();
        eq(taken, lesser(units, wanted), "the least of both");
        holds(alice, units - taken, 0, 0);
    }
}

contract DepositWithAuthorizationTest is EscrowTest {
    uint256 internal constant DORA_KEY = 0xd02a;
    bytes32 internal constant NONCE = keccak256("nonce");
    bytes32 internal constant RECEIVE = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    address internal dora = vm.addr(DORA_KEY);

    function setUp() public {
        start(6);
        token.mint(dora, 100);
    }

    function signature(address from, address to, uint256 value) internal view returns (bytes memory) {
        bytes32 content = keccak256(abi.encode(RECEIVE, from, to, value, START - 1, START + 10, NONCE));
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), content));
        return signedBy(DORA_KEY, digest);
    }

    function send(address from, uint64 units, bytes memory signed) internal {
        escrow.depositWithAuthorization(from, units, START - 1, START + 10, NONCE, signed);
    }

    function test_WhenSigned_AnybodySendsItAndTheSignerIsCredited() public {
        vm.expectEmit(address(escrow));
        emit I.Deposited(dora, dora, 40);
        vm.prank(bob);
        send(dora, 40, signature(dora, address(escrow), 40));
        holds(dora, 40, 0, 0);
        eq(token.balanceOf(address(escrow)), 40, "held");
    }

    function test_WhenFrontRun_TheSignerIsCreditedAllTheSameAndOnce() public {
        bytes memory signed = signature(dora, address(escrow), 40);
        vm.prank(named("thief"));
        send(dora, 40, signed);
        vm.expectRevert(abi.encodeWithSelector(Eip3009.AuthorizationUsedBefore.selector, NONCE));
        send(dora, 40, signed);
        holds(dora, 40, 0, 0);
    }

    function test_WhenTakenPastTheEscrow_TheTokenRefuses() public {
        bytes memory signed = signature(dora, address(escrow), 40);
        vm.prank(named("thief"));
        vm.expectRevert(abi.encodeWithSelector(Eip3009.CallerMustBePayee.selector));
        token.receiveWithAuthorization(dora, address(escrow), 40, START - 1, START + 10, NONCE, signed);
        eq(token.balanceOf(dora), 100, "untouched");
    }

    function test_WhenAnotherAmountOrPayerWasSigned_TheTokenRefuses() public {
        bytes memory signed = signature(dora, address(escrow), 40);
        token.mint(alice, 100);
        vm.expectRevert(abi.encodeWithSelector(Eip3009.InvalidAuthorization.selector));
        send(dora, 41, signed);
        vm.expectRevert(abi.encodeWithSelector(Eip3009.InvalidAuthorization.selector));
        send(alice, 40, signed);
    }

    function test_WhenAWalletInCodeSigns_TheLongFormIsUsed() public {
        Wallet wallet = new Wallet(dora);
        token.mint(address(wallet), 40);
        bytes memory signed = abi.encodePacked(dora, signature(address(wallet), address(escrow), 40));
        send(address(wallet), 40, signed);
        holds(address(wallet), 40, 0, 0);
    }

    function test_WhenNothingOrWithAFee_ItRefuses() public {
        bytes memory signed = signature(dora, address(escrow), 0);
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAmount.selector));
        send(dora, 0, signed);
        token.setFee(1);
        signed = signature(dora, address(escrow), 40);
        vm.expectRevert(abi.encodeWithSelector(I.FeeOnTransfer.selector, 40, 39));
        send(dora, 40, signed);
    }

    function test_WhenTheTokenReenters_ItCreditsOnce() public {
        bytes memory signed = signature(dora, address(escrow), 40);
        token.reenterOnTransfer(address(escrow), abi.encodeCall(I.deposit, (bob, 1)));
        send(dora, 40, signed);
        yes(!token.reentered(), "reentered");
        holds(dora, 40, 0, 0);
    }
}
