// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {StrictUSD} from "./mocks/StrictUSD.sol";
import {OddToken} from "./mocks/Tokens.sol";
import {Wallet} from "./mocks/Wallet.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";

/// @dev The escrow on a token that refuses as USDC does: nothing is lost or doubled, to the unit, whatever it forbids.
contract StrictTokenTest is EscrowTest {
    bytes internal constant PAUSED = "Pausable: paused";
    bytes internal constant BLACKLISTED = "Blacklistable: account is blacklisted";

    StrictUSD internal coin;

    function setUp() public {
        start(6);
        use(new StrictUSD(false));
    }

    /// @dev Both have the functions that the words of these tests call.
    function use(StrictUSD made) internal {
        coin = made;
        token = OddToken(address(made));
        escrow = deploy(standard());
    }

    function refuses(bytes memory words) internal {
        vm.expectRevert(abi.encodeWithSignature("Error(string)", words));
    }

    function test_WhenPausedOrBlacklisted_ADepositIsRefusedAndNothingMoved() public conserves {
        give(alice, 10);
        coin.pause(true);
        vm.prank(alice);
        refuses(PAUSED);
        escrow.deposit(alice, 10);
        coin.pause(false);
        coin.blacklist(alice, true);
        vm.prank(alice);
        refuses(BLACKLISTED);
        escrow.deposit(alice, 10);
        holds(alice, 0, 0, 0);
        eq(coin.balanceOf(alice), 10, "in the wallet");
        coin.blacklist(alice, false);
        vm.prank(alice);
        escrow.deposit(alice, 10);
        holds(alice, 10, 0, 0);
    }

    function test_WhenPaused_AClaimIsOwedAndCollectedOnceItIsNot() public conserves {
        fund(alice, 100, 100);
        (uint32 epoch, I.Credit[] memory leaves) = postBoth(60, 30, 90);
        pass(CHALLENGE);
        coin.pause(true);
        escrow.claim(epoch, leaves);
        eq(escrow.owed(p), 60, "owed to p");
        eq(escrow.owed(q), 30, "owed to q");
        eq(coin.balanceOf(address(escrow)), 100, "all is held");
        vm.prank(p);
        refuses(PAUSED);
        escrow.collect(p);
        eq(escrow.owed(p), 60, "still owed");
        coin.pause(false);
        escrow.claim(epoch, leaves);
        eq(coin.balanceOf(p), 0, "a claim pays nothing twice");
        vm.prank(p);
        escrow.collect(p);
        vm.prank(q);
        escrow.collect(q);
        eq(coin.balanceOf(p), 60, "p");
        eq(coin.balanceOf(q), 30, "q");
        holds(alice, 10, 0, 0);
    }

    function test_WhenOnePayeeIsBlacklisted_TheOthersArePaidAndItsShareWaits() public conserves {
        fund(alice, 100, 100);
        (uint32 epoch, I.Credit[] memory leaves) = postBoth(60, 30, 90);
        pass(CHALLENGE);
        coin.blacklist(p, true);
        escrow.claim(epoch, leaves);
        eq(coin.balanceOf(q), 30, "q");
        eq(escrow.owed(p), 60, "owed");
        vm.prank(p);
        refuses(BLACKLISTED);
        escrow.collect(p);
        vm.prank(p);
        eq(escrow.collect(bob), 60, "collected to another wallet");
        eq(coin.balanceOf(bob), 60, "bob");
    }

    function test_WhenTheEscrowIsBlacklisted_EverythingStandsStillAndNothingIsLost() public conserves {
        fund(alice, 100, 100);
        (uint32 epoch, I.Credit[] memory leaves) = postBoth(60, 30, 90);
        pass(CHALLENGE);
        coin.blacklist(address(escrow), true);
        escrow.claim(epoch, leaves);
        eq(escrow.owed(p) + escrow.owed(q), 90, "owed");
        vm.prank(alice);
        escrow.requestWithdraw(10);
        pass(NOTICE);
        vm.prank(alice);
        refuses(BLACKLISTED);
        escrow.withdraw(alice);
        coin.blacklist(address(escrow), false);
        vm.prank(alice);
        escrow.withdraw(alice);
        vm.prank(p);
        escrow.collect(p);
        vm.prank(q);
        escrow.collect(q);
        eq(coin.balanceOf(address(escrow)), 0, "all is out");
    }

    // ------------------------------------------------------------------ EIP-3009

    uint256 internal constant DORA_KEY = 0xd02a;
    bytes32 internal constant RECEIVE = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );

    function signed(address from, bytes32 nonce) internal view returns (bytes memory) {
        bytes32 content =
            keccak256(abi.encode(RECEIVE, from, address(escrow), 40, START - 1, START + 10, nonce));
        return signedBy(DORA_KEY, keccak256(abi.encodePacked(hex"1901", coin.DOMAIN_SEPARATOR(), content)));
    }

    function send(address from, bytes32 nonce, bytes memory signature) internal {
        escrow.depositWithAuthorization(from, 40, START - 1, START + 10, nonce, signature);
    }

    function test_WhenAuthorizedInEitherDomain_TheSignerIsCreditedOnce() public {
        address dora = vm.addr(DORA_KEY);
        for (uint256 i = 0; i < 2; ++i) {
            use(new StrictUSD(i == 1));
            coin.mint(dora, 100);
            bytes memory signature = signed(dora, bytes32(i));
            coin.pause(true);
            refuses(PAUSED);
            send(dora, bytes32(i), signature);
            coin.pause(false);
            send(dora, bytes32(i), signature);
            refuses("FiatTokenV2: authorization is used or canceled");
            send(dora, bytes32(i), signature);
            holds(dora, 40, 0, 0);
            eq(coin.balanceOf(address(escrow)), 40, "held");
        }
    }

    function test_WhenTheSignerHasCode_ItsKeyAloneIsRefused() public {
        Wallet wallet = new Wallet(vm.addr(DORA_KEY));
        coin.mint(address(wallet), 40);
        bytes memory signature = signed(address(wallet), 0);
        refuses("FiatTokenV2: invalid signature");
        send(address(wallet), 0, signature);
        send(address(wallet), 0, abi.encodePacked(vm.addr(DORA_KEY), signature));
        holds(address(wallet), 40, 0, 0);
    }
}
