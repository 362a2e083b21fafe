// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../../src/interfaces/IComputeEscrow.sol";
import {MoneyActs} from "./MoneyActs.sol";

/// @dev Time in steps that matter, a guardian that pauses, and an attacker that sends everything a second time.
abstract contract TimeActs is MoneyActs {
    uint256 internal lastPauseEnd;
    uint256 internal lastClock;

    function warp(uint256 span) external {
        _pass(bound(span, 1, 40 minutes));
    }

    /// @dev To the second before, at or after the end of the head's window.
    function warpToActivation(uint256 nudge) external {
        uint256 at = periods[head].activeAt + nudge % 3;
        if (at > theClock() + 1) _pass(at - theClock() - 1);
    }

    /// @dev To the second before, at or after half or all of the arbiter's time for some dispute.
    function warpToRuling(uint256 seed) external {
        (bool found, uint256 index) = pickQuarrel(seed, 1);
        if (!found) return;
        uint256 at =
            periods[quarrels[index].epoch].activeAt + (seed % 2 == 0 ? RULING : RULING / 2) + seed % 3;
        if (at > theClock() + 1) _pass(at - theClock() - 1);
    }

    function leap(uint256 dice) external {
        if (dice % 3 == 0) _pass(NOTICE);
        else if (dice % 3 == 1 && isPaused()) _pass(pausedUntil - block.timestamp);
        else if (dice % 9 == 2) _pass(31 days);
    }

    function _pass(uint256 span) private {
        uint256 until = pausedUntil;
        if (isPaused() && block.timestamp + span >= until) note(Deep.PauseExpired);
        bool open = head != 0 && theClock() < periods[head].activeAt;
        uint256 plain = periods[head].activeAt + pausedTotal;
        vm.warp(block.timestamp + span);
        if (open && isPaused() && block.timestamp - (pausedUntil - LONGEST_PAUSE - pausedAt) > plain) {
            note(Deep.PausedAcrossActivation);
        }
        must(8, escrow.clock() == theClock() && theClock() >= lastClock);
        lastClock = theClock();
    }

    /// @dev Bounded: MAX_PAUSE, and then 30 days without (invariant 8). Whoever wants out then still gets out.
    function pause() external {
        bool expected = block.timestamp >= pausedUntil + 30 days;
        bool ok = send(guardian, abi.encodeCall(I.pause, ()));
        must(8, ok == expected);
        if (!ok) return;
        bookPause();
        note(Deep.Paused);
        withdraw(0);
        withdraw(1);
        withdraw(2);
    }

    function unpause(uint256 dice) external {
        if (dice % 4 != 0) return;
        bool ok = send(guardian, abi.encodeCall(I.unpause, ()));
        must(8, ok == isPaused());
        if (!ok) return;
        pausedUntil = block.timestamp;
        note(Deep.Unpaused);
    }

    /// @dev Roles are asked for: nobody else posts, cancels or pauses.
    function usurp(uint256 which) external {
        bytes memory data = which % 3 == 0
            ? abi.encodeCall(
                I.postEpoch,
                (uint40(seq), periods[head].root, keccak256("r"), keccak256("m"), 0, new I.Debit[](0))
            )
            : which % 3 == 1 ? abi.encodeCall(I.cancelEpoch, (head)) : abi.encodeCall(I.pause, ());
        must(9, !send(which % 2 == 0 ? anybody : arbiter, data));
    }

    /// @dev What was accepted once is refused for ever after, whoever sends it.
    function replay(uint256 which, bool bySelf) external {
        if (once.length == 0) return;
        Sent storage sent = once[which % once.length];
        must(4, !send(bySelf ? sent.by : anybody, sent.data));
        note(Deep.ReplayRefused);
    }
}
