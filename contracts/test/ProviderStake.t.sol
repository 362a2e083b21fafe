// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IComputeEscrow as E} from "../src/interfaces/IComputeEscrow.sol";
import {IProviderStake as I} from "../src/interfaces/IProviderStake.sol";
import {EscrowTest} from "./utils/EscrowTest.sol";

interface IStake is I, IAccessControl {
    function SCALE() external view returns (uint256);
    function RESERVE() external view returns (address);
    function SLASHER() external view returns (bytes32);
    function ARBITER() external view returns (bytes32);
}

abstract contract StakeTest is EscrowTest {
    uint40 internal constant DELAY = LONGEST_EPOCH + CHALLENGE + RULING + 2 days;
    uint40 internal constant LOCK = 7 days;
    bytes32 internal constant CASE = keccak256("case");
    bytes32 internal constant REASON = keccak256("reason");

    address internal slasher = named("slasher");
    IStake internal stake;

    function begin(uint8 decimals) internal {
        start(decimals);
        stake = deployStake(standardStake());
    }

    function standardStake() internal view returns (I.Config memory) {
        return I.Config({
            escrow: E(address(escrow)),
            admin: admin,
            slasher: slasher,
            arbiter: arbiter,
            reserve: reserve,
            delay: DELAY,
            lock: LOCK
        });
    }

    function deployStake(I.Config memory config) internal returns (IStake) {
        return IStake(deployed("ProviderStake.sol:ProviderStake", abi.encode(config)));
    }

    function put(address provider, uint64 units) internal {
        uint256 amount = units * stake.SCALE();
        token.mint(provider, amount);
        vm.startPrank(provider);
        token.approve(address(stake), amount);
        stake.bond(provider, units);
        vm.stopPrank();
    }

    function unbond(uint64 units) internal {
        vm.prank(p);
        stake.unbond(units);
    }

    function slash(uint64 units) internal returns (uint64) {
        vm.prank(slasher);
        return stake.slash(p, units, REASON);
    }

    function lock(bytes32 id) internal {
        vm.prank(arbiter);
        stake.lock(p, id);
    }

    function staked(uint64 bonded, uint64 unbonding) internal view {
        I.Stake memory s = stake.stakeOf(p);
        eq(s.bonded, bonded, "bonded");
        eq(s.unbonding, unbonding, "unbonding");
    }

    /// @dev Every token that the contract holds stands in exactly one of its books.
    modifier covers() {
        _;
        (I.Stake memory a, I.Stake memory b) = (stake.stakeOf(p), stake.stakeOf(q));
        uint256 sum = uint256(a.bonded) + a.unbonding + b.bonded + b.unbonding + stake.taken();
        eq(token.balanceOf(address(stake)), sum * stake.SCALE(), "token balance = sum of the books");
    }
}

contract StakeConstructionTest is StakeTest {
    function setUp() public {
        begin(6);
    }

    function tryDeploy(I.Config calldata config) external {
        deployStake(config);
    }

    function refused(I.Config memory config, bytes memory reason) internal {
        vm.expectRevert(reason);
        this.tryDeploy(config);
    }

    function test_WhenItFits_ItTakesTokenAndReserve() public view {
        eq(stake.RESERVE(), reserve, "reserve");
        yes(stake.hasRole(stake.SLASHER(), slasher), "slasher");
        yes(stake.hasRole(stake.ARBITER(), arbiter), "arbiter");
        yes(stake.hasRole(0, admin), "admin");
    }

    function test_WhenAnAddressIsZero_ItRefuses() public {
        for (uint256 i = 0; i < 4; ++i) {
            I.Config memory config = standardStake();
            if (i == 0) config.admin = NOBODY;
            if (i == 1) config.slasher = NOBODY;
            if (i == 2) config.arbiter = NOBODY;
            if (i == 3) config.reserve = NOBODY;
            refused(config, abi.encodeWithSelector(I.ZeroAddress.selector));
        }
    }

    function test_WhenTheDelayIsASecondShort_ItRefuses() public {
        I.Config memory config = standardStake();
        config.delay -= 1;
        refused(config, abi.encodeWithSelector(I.BadPeriods.selector, DELAY, 30 days));
    }

    function test_WhenTheLockIsNothingOrTooLong_ItRefuses() public {
        I.Config memory config = standardStake();
        config.lock = 0;
        refused(config, abi.encodeWithSelector(I.BadPeriods.selector, DELAY, 30 days));
        config.lock = 30 days + 1;
        refused(config, abi.encodeWithSelector(I.BadPeriods.selector, DELAY, 30 days));
        config.lock = 30 days;
        deployStake(config);
    }

    function test_WhenTheReserveWouldSwallowIt_ItRefuses() public {
        I.Config memory config = standardStake();
        config.reserve = address(token);
        refused(config, abi.encodeWithSelector(I.BadRecipient.selector, address(token)));
    }
}

contract BondTest is StakeTest {
    function setUp() public {
        begin(6);
    }

    function test_WhenApproved_ItAddsToTheProvidersStake() public covers {
        put(p, 100);
        token.mint(bob, 50);
        vm.startPrank(bob);
        token.approve(address(stake), 50);
        vm.expectEmit(address(stake));
        emit I.Bonded(p, bob, 50);
        stake.bond(p, 50);
        vm.stopPrank();
        staked(150, 0);
    }

    function test_WhenNothingOrNobody_ItRefuses() public {
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAmount.selector));
        stake.bond(p, 0);
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAddress.selector));
        stake.bond(NOBODY, 1);
    }

    function test_WhenTheTokenTakesAFee_ItRefuses() public {
        token.mint(p, 100);
        token.setFee(1);
        vm.startPrank(p);
        token.approve(address(stake), 100);
        vm.expectRevert(abi.encodeWithSelector(I.FeeOnTransfer.selector, 100, 99));
        stake.bond(p, 100);
        vm.stopPrank();
    }

    function test_WhenTheTokenReenters_ItAddsOnce() public covers {
        token.reenterOnTransfer(address(stake), abi.encodeCall(I.bond, (q, 1)));
        put(p, 100);
        yes(!token.reentered(), "reentered");
        staked(100, 0);
    }

    function test_WhenTheTokenHas18Decimals_ItScales() public covers {
        begin(18);
        put(p, 7);
        eq(token.balanceOf(address(stake)), 7e12, "held");
    }
}

contract UnbondTest is StakeTest {
    function setUp() public {
        begin(6);
        put(p, 100);
        put(q, 100);
    }

    function refused(bytes memory reason) internal {
        vm.prank(p);
        vm.expectRevert(reason);
        stake.withdraw(p);
    }

    function test_WhenTheDelayIsOver_ItLeaves() public covers {
        vm.expectEmit(address(stake));
        emit I.Unbonding(p, 60, START + DELAY);
        unbond(60);
        staked(40, 60);
        eq(stake.withdrawableAt(p), START + DELAY, "when");
        pass(DELAY - 1);
        refused(abi.encodeWithSelector(I.NotYet.selector, START + DELAY));
        pass(1);
        vm.expectEmit(address(stake));
        emit I.Withdrawn(p, bob, 60);
        vm.prank(p);
        eq(stake.withdraw(bob), 60, "units");
        eq(token.balanceOf(bob), 60, "received");
        refused(abi.encodeWithSelector(I.NotYet.selector, 0));
        staked(40, 0);
    }

    function test_WhenMoreFollows_TheDelayBeginsAnewForAll() public covers {
        unbond(60);
        pass(DELAY - 1);
        unbond(40);
        pass(1);
        refused(abi.encodeWithSelector(I.NotYet.selector, START + DELAY - 1 + DELAY));
        pass(DELAY - 1);
        vm.prank(p);
        eq(stake.withdraw(p), 100, "all");
    }

    function test_WhenNothingOrTooMuch_ItRefuses() public {
        vm.startPrank(p);
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAmount.selector));
        stake.unbond(0);
        vm.expectRevert(abi.encodeWithSelector(I.TooMuch.selector, 101, 100));
        stake.unbond(101);
        vm.stopPrank();
    }

    function test_WhenRebonded_NothingIsOnItsWay() public covers {
        unbond(60);
        vm.startPrank(p);
        vm.expectEmit(address(stake));
        emit I.Rebonded(p, 60);
        stake.rebond();
        staked(100, 0);
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAmount.selector));
        stake.rebond();
        vm.stopPrank();
        pass(DELAY);
        refused(abi.encodeWithSelector(I.NotYet.selector, 0));
    }

    function test_WhenTheRecipientWouldSwallowIt_ItRefuses() public {
        unbond(60);
        pass(DELAY);
        vm.startPrank(p);
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAddress.selector));
        stake.withdraw(NOBODY);
        vm.expectRevert(abi.encodeWithSelector(I.BadRecipient.selector, address(stake)));
        stake.withdraw(address(stake));
        vm.expectRevert(abi.encodeWithSelector(I.BadRecipient.selector, address(token)));
        stake.withdraw(address(token));
        vm.stopPrank();
    }

    function test_WhenTheTokenReenters_ItLeavesOnce() public covers {
        unbond(60);
        pass(DELAY);
        token.reenterOnTransfer(address(stake), abi.encodeCall(I.withdraw, (p)));
        vm.prank(p);
        stake.withdraw(p);
        yes(!token.reentered(), "reentered");
    }

    function test_WhenManyAreAsked_EachStandsInItsPlace() public {
        unbond(60);
        address[] memory both = new address[](2);
        (both[0], both[1]) = (q, p);
        I.Stake[] memory stakes = stake.stakesOf(both);
        eq(stakes[0].bonded, 100, "q");
        eq(stakes[1].unbonding, 60, "p");
    }
}

contract SlashTest is StakeTest {
    function setUp() public {
        begin(6);
        put(p, 100);
        put(q, 100);
    }

    function test_WhenNotTheSlasher_ItRefuses() public {
        bytes32 slashing = stake.SLASHER();
        vm.prank(arbiter);
        vm.expectRevert(missing(arbiter, slashing));
        stake.slash(p, 1, REASON);
    }

    function test_WhenLessThanTheBonded_ItTakesThatAlone() public covers {
        unbond(40);
        vm.expectEmit(address(stake));
        emit I.Slashed(p, 50, 50, REASON);
        eq(slash(50), 50, "taken");
        staked(10, 40);
        eq(stake.taken(), 50, "kept for the reserve");
    }

    function test_WhenMore_ItReachesWhatIsOnItsWayOut() public covers {
        unbond(40);
        pass(DELAY);
        eq(slash(80), 80, "taken");
        staked(0, 20);
        vm.prank(p);
        eq(stake.withdraw(p), 20, "the rest leaves");
    }

    function test_WhenMoreThanAll_ItTakesWhatIsThere() public covers {
        unbond(40);
        vm.expectEmit(address(stake));
        emit I.Slashed(p, type(uint64).max, 100, REASON);
        eq(slash(type(uint64).max), 100, "taken");
        staked(0, 0);
        eq(stake.withdrawableAt(p), 0, "nothing on its way");
        eq(slash(1), 0, "nothing more");
        eq(stake.stakeOf(q).bonded, 100, "others are not touched");
    }

    function test_WhenSwept_ItGoesToTheReserveAndNobodyElse() public covers {
        slash(30);
        vm.expectEmit(address(stake));
        emit I.Swept(30);
        vm.prank(bob);
        eq(stake.sweep(), 30, "swept");
        eq(token.balanceOf(reserve), 30, "received");
        vm.expectRevert(abi.encodeWithSelector(I.ZeroAmount.selector));
        stake.sweep();
    }

    function test_WhenTheReserveIsBanned_SlashingGoesOn() public covers {
        token.ban(reserve, true);
        slash(30);
        vm.expectRevert();
        stake.sweep();
        slash(20);
        eq(stake.taken(), 50, "waits");
        token.ban(reserve, false);
        eq(stake.sweep(), 50, "later");
    }

    function test_WhenTheTokenReenters_ItSweepsOnce() public covers {
        slash(30);
        token.reenterOnTransfer(address(stake), abi.encodeCall(I.sweep, ()));
        stake.sweep();
        yes(!token.reentered(), "reentered");
    }

    function testFuzz_WhateverIsTaken_ItStaysWithinTheStake(
        uint64 bonded,
        uint64 leaving,
        uint64[3] calldata units
    ) public covers {
        bonded = uint64(bound(bonded, 1, 1e15));
        put(p, bonded);
        uint64 all = 100 + bonded;
        unbond(uint64(bound(leaving, 1, all)));
        uint256 sum = 0;
        for (uint256 i = 0; i < 3; ++i) {
            sum += slash(units[i] % 1e15);
        }
        I.Stake memory s = stake.stakeOf(p);
        eq(uint256(s.bonded) + s.unbonding + sum, all, "slash <= stake");
    }
}

contract LockTest is StakeTest {
    function setUp() public {
        begin(6);
        put(p, 100);
    }

    function test_WhenNeitherSlasherNorArbiter_ItRefuses() public {
        bytes32 arbitrating = stake.ARBITER();
        vm.prank(bob);
        vm.expectRevert(missing(bob, arbitrating));
        stake.lock(p, CASE);
    }

    function test_WhenTheSlasherAsks_ItHoldsToo() public {
        vm.expectEmit(address(stake));
        emit I.Locked(p, CASE, START + LOCK);
        vm.prank(slasher);
        stake.lock(p, CASE);
        eq(stake.stakeOf(p).lockedUntil, START + LOCK, "until");
    }

    function test_WhenLockedBefore_ItRefuses() public {
        lock(CASE);
        vm.prank(arbiter);
        vm.expectRevert(abi.encodeWithSelector(I.LockedBefore.selector, CASE));
        stake.lock(p, CASE);
        vm.prank(arbiter);
        stake.lock(q, CASE);
    }

    function test_WhenLockedNearTheEnd_TheWithdrawalWaits() public covers {
        unbond(100);
        pass(DELAY - 1 days);
        lock(CASE);
        uint40 at = START + DELAY - 1 days + LOCK;
        eq(stake.withdrawableAt(p), at, "later");
        vm.warp(at - 1);
        vm.prank(p);
        vm.expectRevert(abi.encodeWithSelector(I.NotYet.selector, at));
        stake.withdraw(p);
        vm.warp(at);
        vm.prank(p);
        eq(stake.withdraw(p), 100, "and no longer");
    }

    function test_WhenLockedEarly_TheDelayCoversIt() public {
        lock(CASE);
        pass(LOCK);
        unbond(100);
        eq(stake.withdrawableAt(p), START + LOCK + DELAY, "no later than without");
    }

    function test_WhenLockedAgainAndAgain_ItWaitsOneLockPastItsTimeAtMost() public covers {
        unbond(100);
        for (uint256 i = 0; i < 20; ++i) {
            lock(keccak256(abi.encode(i)));
            pass(1 days);
        }
        eq(stake.withdrawableAt(p), START + DELAY + LOCK, "bounded");
        vm.prank(p);
        eq(stake.withdraw(p), 100, "already out");
    }

    function test_WhenLocked_ItCanStillBeTaken() public covers {
        unbond(100);
        pass(DELAY);
        lock(CASE);
        eq(slash(100), 100, "taken");
    }
}
