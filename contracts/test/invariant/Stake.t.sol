// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow} from "../../src/interfaces/IComputeEscrow.sol";
import {IProviderStake as S} from "../../src/interfaces/IProviderStake.sol";
import {Test} from "../utils/Test.sol";
import {Cast} from "./Cast.sol";

/// @dev Providers that bond and leave, a slasher that takes too much, locks that would hold them for ever; and books.
contract StakeHandler is Cast {
    enum Deep {
        Bonded,
        Unbonding,
        Rebonded,
        Withdrawn,
        WithdrawnAfterLock,
        LockOutlasted,
        RefusedEarly,
        SlashedBonded,
        SlashedUnbonding,
        SlashedMore,
        Locked,
        LockedTwice,
        Swept,
        SweepRefused,
        SlashedToNothing
    }

    struct Held {
        uint256 bonded;
        uint256 unbonding;
        uint256 unbondAt;
        uint256 lockedUntil;
    }

    uint40 internal constant DELAY = LONGEST_EPOCH + CHALLENGE + RULING + 2 days;
    uint40 internal constant LOCK = 10 days;

    uint256[16] public reached;
    uint256 public broken;
    S internal stake;
    mapping(address provider => Held) internal books;
    mapping(address provider => mapping(bytes32 id => bool)) internal seen;
    uint256 internal takenBooks;
    uint256 internal sweptBooks;
    uint256 internal moneyIn;
    uint256 internal moneyOut;

    constructor(uint8 decimals) {
        raise(decimals);
        S.Config memory config =
            S.Config(IComputeEscrow(address(escrow)), named("admin"), settler, arbiter, reserve, DELAY, LOCK);
        bytes memory code =
            abi.encodePacked(vm.getCode("ProviderStake.sol:ProviderStake"), abi.encode(config));
        S made;
        assembly {
            made := create(0, add(code, 32), mload(code))
        }
        yes(address(made) != address(0), "the stake was deployed");
        stake = made;
        vm.prank(anybody);
        token.approve(address(stake), type(uint256).max);
    }

    function bond(uint256 which, uint64 units) external {
        units = uint64(bound(units, 1, 1e10));
        token.mint(anybody, units * scale);
        bool ok = _send(anybody, abi.encodeCall(S.bond, (providers[which % 2], units)));
        _must(ok != token.answersFalse());
        if (!ok) return;
        books[providers[which % 2]].bonded += units;
        moneyIn += units;
        _note(Deep.Bonded);
    }

    function unbond(uint256 which, uint64 units) external {
        Held storage held = books[providers[which % 2]];
        units = uint64(bound(units, 0, held.bonded + (units % 8 == 0 ? 1 : 0)));
        bool ok = _send(providers[which % 2], abi.encodeCall(S.unbond, (units)));
        _must(ok == (units != 0 && units <= held.bonded));
        if (!ok) return;
        held.bonded -= units;
        held.unbonding += units;
        held.unbondAt = block.timestamp + DELAY;
        _note(Deep.Unbonding);
    }

    function rebond(uint256 which) external {
        Held storage held = books[providers[which % 2]];
        bool ok = _send(providers[which % 2], abi.encodeCall(S.rebond, ()));
        _must(ok == (held.unbonding != 0));
        if (!ok) return;
        held.bonded += held.unbonding;
        (held.unbonding, held.unbondAt) = (0, 0);
        _note(Deep.Rebonded);
    }

    /// @dev Not before its date, not while locked, and never later than LOCK after its date.
    function withdraw(uint256 which) external {
        Held storage held = books[providers[which % 2]];
        bool locked = held.lockedUntil > block.timestamp && block.timestamp < held.unbondAt + LOCK;
        bool due = held.unbonding != 0 && block.timestamp >= held.unbondAt && !locked;
        bool ok = _send(providers[which % 2], abi.encodeCall(S.withdraw, (till)));
        _must(ok == (due && transfersTo(till)));
        if (!ok) _note(Deep.RefusedEarly);
        if (!ok) return;
        if (held.lockedUntil > block.timestamp) _note(Deep.LockOutlasted);
        else if (held.lockedUntil > held.unbondAt) _note(Deep.WithdrawnAfterLock);
        moneyOut += held.unbonding;
        (held.unbonding, held.unbondAt) = (0, 0);
        _note(Deep.Withdrawn);
    }

    /// @dev Never more than is there, whatever is asked (invariant 10).
    function slash(uint256 which, uint64 units) external {
        address provider = providers[which % 2];
        Held storage held = books[provider];
        units = uint64(bound(units, 0, held.bonded + held.unbonding + (units % 4 == 0 ? 1e9 : 0)));
        bytes memory data = abi.encodeCall(S.slash, (provider, units, keccak256("why")));
        _must(!_send(arbiter, data));
        _must(_send(settler, data));
        uint256 first = units < held.bonded ? units : held.bonded;
        uint256 rest = units - first < held.unbonding ? units - first : held.unbonding;
        if (first != 0) _note(Deep.SlashedBonded);
        if (rest != 0) _note(Deep.SlashedUnbonding);
        if (units > first + rest) _note(Deep.SlashedMore);
        held.bonded -= first;
        held.unbonding -= rest;
        if (held.unbonding == 0) held.unbondAt = 0;
        if (rest != 0 && held.unbonding == 0) _note(Deep.SlashedToNothing);
        takenBooks += first + rest;
    }

    function lock(uint256 which, uint256 id, bool byArbiter) external {
        address provider = providers[which % 2];
        bytes32 dispute = keccak256(abi.encode(id % 50));
        bytes memory data = abi.encodeCall(S.lock, (provider, dispute));
        _must(!_send(anybody, data));
        bool ok = _send(byArbiter ? arbiter : settler, data);
        _must(ok != seen[provider][dispute]);
        if (!ok) _note(Deep.LockedTwice);
        if (!ok) return;
        seen[provider][dispute] = true;
        books[provider].lockedUntil = block.timestamp + LOCK;
        _note(Deep.Locked);
    }

    function sweep() external {
        bool ok = _send(anybody, abi.encodeCall(S.sweep, ()));
        _must(ok == (takenBooks != 0 && transfersTo(reserve)));
        if (!ok) _note(Deep.SweepRefused);
        if (!ok) return;
        moneyOut += takenBooks;
        sweptBooks += takenBooks;
        takenBooks = 0;
        _note(Deep.Swept);
    }

    function ban(bool yes_) external {
        token.ban(till, yes_);
    }

    function warp(uint256 span) external {
        vm.warp(block.timestamp + bound(span, 1, 2 days));
    }

    function audit() external view {
        uint256 sum = takenBooks;
        for (uint256 i = 0; i < 2; ++i) {
            S.Stake memory there = stake.stakeOf(providers[i]);
            Held storage held = books[providers[i]];
            eq(there.bonded, held.bonded, "bonded");
            eq(there.unbonding, held.unbonding, "unbonding");
            eq(there.unbondAt, held.unbondAt, "unbondAt");
            eq(there.lockedUntil, held.lockedUntil, "lockedUntil");
            sum += held.bonded + held.unbonding;
            uint256 at = stake.withdrawableAt(providers[i]);
            yes(at == 0 || at <= held.unbondAt + LOCK, "held for longer than LOCK");
        }
        eq(stake.taken(), takenBooks, "taken");
        eq(token.balanceOf(address(stake)), sum * scale, "token balance = stakes + taken");
        eq(token.balanceOf(address(stake)), (moneyIn - moneyOut) * scale, "token balance = in - out");
        eq(token.balanceOf(reserve), sweptBooks * scale, "what was taken went to the reserve only");
        eq(broken, 0, "a call that was to be refused, or to be taken");
    }

    function transfersTo(address to) internal view returns (bool) {
        return !token.banned(to) && !token.answersFalse();
    }

    function _send(address by, bytes memory data) private returns (bool ok) {
        vm.prank(by);
        (ok,) = address(stake).call(data);
    }

    function _must(bool holds) private {
        if (!holds) ++broken;
    }

    function _note(Deep what) private {
        ++reached[uint256(what)];
    }
}

contract StakeInvariantsTest is Test {
    uint256 internal constant STATES = 15;
    StakeHandler internal handler;

    function setUp() public {
        handler = new StakeHandler(6);
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    /// forge-config: default.invariant.runs = 16
    /// forge-config: default.invariant.depth = 300
    /// forge-config: default.invariant.fail-on-revert = true
    function invariant_10_SlashesStayWithinTheStake() public view {
        handler.audit();
    }

    function test_TheSeedsReachEveryDeepStateOfTheStake() public {
        handler = new StakeHandler(18);
        for (uint256 i = 0; i < 1500; ++i) {
            uint256 r = uint256(keccak256(abi.encode("stake", i)));
            _act(r % 12, r >> 8);
            if (i % 20 == 0) handler.audit();
        }
        handler.audit();
        for (uint256 i = 0; i < STATES; ++i) {
            yes(handler.reached(i) != 0, string(abi.encodePacked("deep state ", bytes1(uint8(65 + i)))));
        }
    }

    function _act(uint256 kind, uint256 r) private {
        if (kind < 2) handler.bond(r, uint64(r >> 8));
        else if (kind == 2) handler.unbond(r, uint64(r >> 8));
        else if (kind == 3 && r % 4 == 0) handler.rebond(r >> 8);
        else if (kind < 6) handler.withdraw(r);
        else if (kind == 6) handler.slash(r, uint64(r >> 8));
        else if (kind == 7) handler.lock(r, r >> 8, r >> 16 & 1 == 1);
        else if (kind == 8) handler.sweep();
        else if (kind == 9) handler.ban(r % 4 == 0);
        else handler.warp(r);
    }
}
