// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";

contract SetProviderTest is EscrowTest {
    address internal r = named("provider r");

    function setUp() public {
        start(6);
    }

    function set(address payee, address signer) internal {
        vm.prank(r);
        escrow.setProvider(payee, signer);
    }

    function refused(address payee, address signer, bytes memory reason) internal {
        vm.expectRevert(reason);
        set(payee, signer);
    }

    function test_WhenNeverSet_BothAreTheProviderItself() public view {
        eq(escrow.payeeOf(r), r, "payee");
        eq(escrow.signerOf(r), r, "signer");
    }

    function test_WhenBothAreSet_BothHold() public {
        vm.expectEmit(address(escrow));
        emit I.ProviderSet(r, bob, carol);
        set(bob, carol);
        eq(escrow.payeeOf(r), bob, "payee");
        eq(escrow.signerOf(r), carol, "signer");
        eq(escrow.payeeOf(p), p, "others are not touched");
    }

    function test_WhenZero_TheProviderItselfStandsForIt() public {
        set(bob, NOBODY);
        eq(escrow.signerOf(r), r, "signer");
        set(NOBODY, carol);
        eq(escrow.payeeOf(r), r, "payee");
    }

    function test_WhenWalletAndSignerWouldBeOneKey_ItRefuses() public {
        refused(bob, bob, abi.encodeWithSelector(I.SameKey.selector, bob));
        refused(NOBODY, NOBODY, abi.encodeWithSelector(I.SameKey.selector, r));
        refused(r, NOBODY, abi.encodeWithSelector(I.SameKey.selector, r));
        refused(NOBODY, r, abi.encodeWithSelector(I.SameKey.selector, r));
    }

    function test_WhenTheWalletWouldSwallowIt_ItRefuses() public {
        refused(address(escrow), bob, abi.encodeWithSelector(I.BadRecipient.selector, address(escrow)));
        refused(address(token), bob, abi.encodeWithSelector(I.BadRecipient.selector, address(token)));
    }
}

contract CollectTest is EscrowTest {
    function setUp() public {
        start(6);
        fund(alice, 100, 60);
        (uint32 n, I.Credit[] memory credits) = postLine(alice, p, 60, 60);
        pass(CHALLENGE);
        token.ban(p, true);
        escrow.claim(n, credits);
    }

    function refused(address to, bytes memory reason) internal {
        vm.prank(p);
        vm.expectRevert(reason);
        escrow.collect(to);
    }

    function test_WhenOwed_ItPaysOnce() public conserves {
        vm.expectEmit(address(escrow));
        emit I.Collected(p, bob, 60);
        vm.prank(p);
        eq(escrow.collect(bob), 60, "collected");
        eq(token.balanceOf(bob), 60, "received");
        refused(bob, abi.encodeWithSelector(I.ZeroAmount.selector));
    }

    function test_WhenTheRecipientWouldSwallowIt_ItRefuses() public {
        refused(NOBODY, abi.encodeWithSelector(I.ZeroAddress.selector));
        refused(address(escrow), abi.encodeWithSelector(I.BadRecipient.selector, address(escrow)));
        refused(address(token), abi.encodeWithSelector(I.BadRecipient.selector, address(token)));
        eq(escrow.owed(p), 60, "still owed");
    }

    function test_WhenTheTransferFails_ItStaysOwed() public conserves {
        refused(p, abi.encodeWithSignature("Error(string)", "banned"));
        eq(escrow.owed(p), 60, "still owed");
    }

    function test_WhenTheTokenReenters_ItPaysOnce() public conserves {
        token.reenterOnTransfer(address(escrow), abi.encodeCall(I.collect, (bob)));
        vm.prank(p);
        escrow.collect(bob);
        yes(!token.reentered(), "reentered");
    }
}

contract ViewsTest is EscrowTest {
    function setUp() public {
        start(6);
    }

    function test_WhenTheListsOfPairsDiffer_ItRefuses() public {
        vm.expectRevert(abi.encodeWithSelector(I.LengthMismatch.selector));
        escrow.pairsOf(new address[](1), new address[](2));
    }

    function test_WhenManyAreAsked_EachStandsInItsPlace() public {
        fund(alice, 100, 60);
        fund(bob, 50, 40);
        post(keccak256("root"), debit(alice, 30, bob, 20));
        pass(CHALLENGE);
        vm.prank(bob);
        escrow.requestWithdraw(7);
        address[] memory tenants = new address[](3);
        (tenants[0], tenants[1], tenants[2]) = (alice, carol, bob);
        I.Account[] memory accounts = escrow.accountsOf(tenants);
        eq(accounts[0].allocated, 30, "alice, with the epoch's outcome");
        eq(accounts[1].balance, 0, "carol");
        eq(accounts[2].balance, 30, "bob");
        eq(accounts[2].epoch, 0, "decided");
        I.Side[] memory sides = escrow.sidesOf(tenants);
        eq(sides[0].withdrawUnits, 0, "alice");
        eq(sides[2].withdrawUnits, 7, "bob");
    }

    function test_TheDigest_IsThatOfEip712() public {
        I.Receipt memory receipt = I.Receipt(alice, p, 5, 6, keccak256("usage"));
        bytes32 kind = keccak256(
            "Receipt(address tenant,address provider,uint64 cumulative,uint40 periodEnd,bytes32 usageRoot)"
        );
        bytes32 content = keccak256(abi.encode(kind, alice, p, 5, 6, keccak256("usage")));
        for (uint256 chain = 1; chain <= 2; ++chain) {
            vm.chainId(chain);
            bytes32 domain = keccak256(
                abi.encode(
                    keccak256(
                        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                    ),
                    keccak256("fedgpu ComputeEscrow"),
                    keccak256("1"),
                    chain,
                    address(escrow)
                )
            );
            bytes32 digest = keccak256(abi.encodePacked(hex"1901", domain, content));
            yes(escrow.receiptDigest(receipt) == digest, "digest, also after a fork of the chain");
        }
    }

    function test_TheBond_IsATwentiethAndAtLeastTheSmallest() public view {
        eq(escrow.bondFor(0), MIN_BOND, "least");
        eq(escrow.bondFor(20 * MIN_BOND - 1), MIN_BOND, "still");
        eq(escrow.bondFor(20 * MIN_BOND + 20), MIN_BOND + 1, "a twentieth");
        eq(escrow.bondFor(type(uint64).max), type(uint64).max / 20, "largest");
    }
}
