// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../../src/interfaces/IComputeEscrow.sol";
import {Books} from "./Books.sol";
import {Cast} from "./Cast.sol";

/// @dev What all players share: how a call is sent and noted, what must hold around it, and what it broke.
abstract contract Stage is Cast, Books {
    /// @dev Deep states; each must be reached by the campaign, or it proves nothing about them.
    enum Deep {
        Deposited,
        Withdrawn,
        WithdrawnWhilePaused,
        LimitRaised,
        LimitLowered,
        Posted,
        DebitSkipped,
        Cancelled,
        CancelledTwice,
        PostedOverCancelled,
        Paid,
        PaidCapped,
        PaidLater,
        PaidToOwed,
        ClaimedTwice,
        BadLeafSkipped,
        Collected,
        DisputedLine,
        DisputedDebit,
        DisputedByTwo,
        Answered,
        AnsweredShort,
        AnsweredDebit,
        AnsweredDebitAgain,
        Ruled,
        RuledAfterAnswer,
        ClosedRefunded,
        ClosedPayable,
        ClosedSplit,
        ClosedForfeited,
        ClosedCancelled,
        ClosedDebit,
        DeadLine,
        Exited,
        ExitDrew,
        ExitFromAllocated,
        ExitWhilePending,
        ExitDisputed,
        ExitRuled,
        ExitFinished,
        ExitFinishedRuled,
        ExitFinishedUnruled,
        Paused,
        PausedAcrossActivation,
        PauseExpired,
        Unpaused,
        RefusedWhilePaused,
        ReplayRefused,
        SettlerStale
    }

    uint256[64] internal reached;
    uint256[11] internal broken;
    uint256[11] internal checked;

    mapping(uint32 epoch => uint64[6]) internal stated;
    mapping(address tenant => mapping(address provider => uint64)) internal earned;
    mapping(address tenant => mapping(address provider => uint256)) internal mostStated;
    mapping(address tenant => uint256) internal excuse;
    mapping(uint32 epoch => uint256) internal excuseAtPost;

    struct Sent {
        address by;
        bytes data;
    }

    /// @dev Accepted calls that may never be accepted again.
    Sent[] internal once;

    function note(Deep what) internal {
        ++reached[uint256(what)];
    }

    /// @dev A failed check would only undo the call, so it is counted for the invariant of that number to see.
    function must(uint256 number, bool holds) internal {
        ++checked[number];
        if (!holds) ++broken[number];
    }

    function send(address by, bytes memory data) internal returns (bool ok) {
        vm.prank(by);
        (ok,) = address(escrow).call(data);
    }

    function sendOnce(address by, bytes memory data) internal returns (bool ok) {
        ok = send(by, data);
        if (ok) once.push(Sent(by, data));
    }

    function payableOf(uint256 tenant, uint256 provider, uint32 epoch) internal view returns (uint256) {
        if (epoch <= tabs[tenants[tenant]][providers[provider]].dead) return 0;
        return unpaid(tenants[tenant], providers[provider], stated[epoch][provider * 3 + tenant]);
    }

    /// @dev Everything that decides what a tenant has and what can be paid from it.
    function fingerprint(uint256 tenant) internal view returns (bytes32) {
        (address[] memory one, address[] memory other) = (new address[](2), new address[](2));
        (one[0], one[1], other[0], other[1]) = (tenants[tenant], tenants[tenant], providers[0], providers[1]);
        bytes memory money = abi.encode(escrow.accountOf(one[0]), escrow.heldOf(one)[0], escrow.owed(one[0]));
        bytes memory books = abi.encode(escrow.sidesOf(one)[0], escrow.pairsOf(one, other));
        bytes memory exits = abi.encode(escrow.exitOf(one[0], other[0]), escrow.exitOf(one[0], other[1]));
        return keccak256(abi.encodePacked(money, books, exits));
    }

    /// @dev Nothing of the other tenants changes while the call runs (invariant 3).
    modifier touches(uint256 tenant) {
        bytes32 one = fingerprint((tenant + 1) % 3);
        bytes32 two = fingerprint((tenant + 2) % 3);
        _;
        must(3, one == fingerprint((tenant + 1) % 3) && two == fingerprint((tenant + 2) % 3));
    }

    function everything() internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                fingerprint(0),
                fingerprint(1),
                fingerprint(2),
                escrow.state(),
                token.balanceOf(address(escrow))
            )
        );
    }

    function transfers(address payee) internal view returns (bool) {
        return
            !token.banned(payee) && !token.answersFalse() && payee != address(escrow)
                && payee != address(token);
    }

    function pickQuarrel(uint256 seed, uint8 wanted) internal view returns (bool found, uint256 index) {
        uint256 count = quarrels.length;
        for (uint256 k = 0; k < count; ++k) {
            index = (seed % count + k) % count;
            Quarrel storage each = quarrels[index];
            if (!each.open) continue;
            Period storage period = periods[each.epoch];
            // 0 any; 1 of an epoch that stands; 2 that the arbiter may rule now; 3 that may be closed now.
            bool fits = wanted == 0 || (wanted == 1 && !period.cancelled)
                || (wanted == 2 && !period.cancelled && !each.ruled && theClock() >= period.activeAt)
                || (wanted == 3 && closable(index));
            if (fits) return (true, index);
        }
        return (false, 0);
    }

    function closable(uint256 index) internal view returns (bool) {
        Period storage period = periods[quarrels[index].epoch];
        bool over = quarrels[index].ruled || theClock() >= period.activeAt + RULING;
        return !isPaused() && (period.cancelled || over);
    }
}
