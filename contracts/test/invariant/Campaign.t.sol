// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Handler} from "./Handler.sol";
import {Rules} from "./Invariants.t.sol";

interface Metering {
    function pauseGasMetering() external;
}

/// @dev The same handlers, drawn by weight from fixed seeds: the run that shows, every time, that each deep state is
/// reached, and how often.
contract CampaignTest is Rules {
    uint256 internal constant STEPS = 2000;
    uint256 internal constant STATES = 49;
    string[8] internal kinds =
        ["money", "limits", "epochs", "claims", "disputes", "exits", "time", "attacks"];
    /// @dev In the order of Stage.Deep.
    string internal constant NAMES = "Deposited|Withdrawn|WithdrawnWhilePaused|LimitRaised|LimitLowered|"
        "Posted|DebitSkipped|Cancelled|CancelledTwice|PostedOverCancelled|"
        "Paid|PaidCapped|PaidLater|PaidToOwed|ClaimedTwice|BadLeafSkipped|Collected|"
        "DisputedLine|DisputedDebit|DisputedByTwo|Answered|AnsweredShort|AnsweredDebit|AnsweredDebitAgain|Ruled|RuledAfterAnswer|"
        "ClosedRefunded|ClosedPayable|ClosedSplit|ClosedForfeited|ClosedCancelled|ClosedDebit|DeadLine|"
        "Exited|ExitDrew|ExitFromAllocated|ExitWhilePending|ExitDisputed|ExitRuled|"
        "ExitFinished|ExitFinishedRuled|ExitFinishedUnruled|"
        "Paused|PausedAcrossActivation|PauseExpired|Unpaused|RefusedWhilePaused|ReplayRefused|SettlerStale|";

    uint256[64] private _reached;
    uint256[8] private _calls;

    function test_TheSeedsReachEveryDeepState() public {
        Metering(address(vm)).pauseGasMetering();
        for (uint256 seed = 1; seed <= 8; ++seed) {
            handler = new Handler(seed % 2 == 0 ? 6 : 18);
            _run(seed);
            for (uint256 i = 0; i < STATES; ++i) {
                _reached[i] += handler.deep(i);
            }
        }
        for (uint256 i = 0; i < 8; ++i) {
            _print(string.concat("calls of ", kinds[i]), _calls[i]);
        }
        string[] memory names = _names();
        for (uint256 i = 0; i < STATES; ++i) {
            _print(names[i], _reached[i]);
        }
        for (uint256 i = 0; i < STATES; ++i) {
            yes(_reached[i] != 0, names[i]);
        }
    }

    function _run(uint256 seed) private {
        for (uint256 i = 0; i < STEPS; ++i) {
            uint256 dice = uint256(keccak256(abi.encode(seed, i)));
            (uint256 kind, bytes memory call) = _draw(dice % 100, dice >> 8);
            (bool ok,) = address(handler).call(call);
            ++_calls[kind];
            yes(ok, "no handler undoes what it does");
            if (i % 20 == 19) rules();
        }
        rules();
    }

    function _draw(uint256 percent, uint256 r) private view returns (uint256, bytes memory) {
        if (percent < 8) return (0, _money(percent, r));
        if (percent < 16) return (1, _limits(percent - 8, r));
        if (percent < 34) return (2, _epochs(percent - 16, r));
        if (percent < 46) return (3, _claims(percent - 34, r));
        if (percent < 67) return (4, _disputes(percent - 46, r));
        if (percent < 79) return (5, _exits(percent - 67, r));
        if (percent < 96) return (6, _time(percent - 79, r));
        return (7, _attacks(percent - 96, r));
    }

    function _money(uint256 n, uint256 r) private view returns (bytes memory) {
        if (n < 5) return abi.encodeCall(handler.deposit, (r, uint64(r >> 8)));
        if (n == 5) return abi.encodeCall(handler.collect, (r));
        if (n == 6) return abi.encodeCall(handler.ban, (r, r >> 8 & 1 == 1));
        return r % 2 == 0
            ? abi.encodeCall(handler.break_, (r >> 8))
            : abi.encodeCall(handler.payTo, (r >> 8, r >> 16));
    }

    function _limits(uint256 n, uint256 r) private view returns (bytes memory) {
        if (n < 3) return abi.encodeCall(handler.limit, (r, uint48(r >> 8)));
        if (n == 3) return abi.encodeCall(handler.applyLimit, (r));
        if (n == 4) return abi.encodeCall(handler.announce, (r, uint64(r >> 8)));
        return abi.encodeCall(handler.withdraw, (r));
    }

    function _epochs(uint256 n, uint256 r) private view returns (bytes memory) {
        if (n < 6) return abi.encodeCall(handler.work, (r, r >> 8, uint64(r >> 16)));
        if (n > 15) return abi.encodeCall(handler.cancel, ());
        return abi.encodeCall(
            handler.post,
            (
                [uint64(r), uint64(r >> 16), uint64(r >> 32), uint64(r >> 48)],
                [uint48(r >> 64), uint48(r >> 80), uint48(r >> 96)],
                uint8(r >> 200),
                uint8(r >> 208) & uint8(r >> 216)
            )
        );
    }

    function _claims(uint256 n, uint256 r) private view returns (bytes memory) {
        if (n < 5) return abi.encodeCall(handler.claim, (uint32(r), uint8(r >> 32)));
        if (n < 10) return abi.encodeCall(handler.claimOne, (r));
        return abi.encodeCall(handler.claimForged, (r, uint64(r >> 8), r >> 72 & 1 == 1));
    }

    function _disputes(uint256 n, uint256 r) private view returns (bytes memory) {
        if (n < 10) return abi.encodeCall(handler.dispute, (r, r >> 8, uint64(r >> 16)));
        if (n == 10) return abi.encodeCall(handler.disputeForged, (r, r >> 8, uint32(r >> 16)));
        if (n < 15) {
            return abi.encodeCall(handler.answer, (r, uint64(r >> 8), uint64(r >> 72), r >> 136 & 1 == 1));
        }
        if (n < 17) return abi.encodeCall(handler.rule, (r, uint64(r >> 8), r >> 72 & 7 == 1));
        return abi.encodeCall(handler.close, (r, r >> 8 & 7 == 1));
    }

    function _exits(uint256 n, uint256 r) private view returns (bytes memory) {
        if (n < 4) return abi.encodeCall(handler.exit, (r, r >> 8, uint64(r >> 16), uint40(r >> 80)));
        if (n < 6) return abi.encodeCall(handler.disputeExit, (r, r >> 8 & 7 == 1));
        if (n < 8) return abi.encodeCall(handler.ruleExit, (r, uint64(r >> 8), r >> 72 & 7 == 1));
        if (n < 11) return abi.encodeCall(handler.finishExit, (r, r >> 8 & 7 == 1));
        return abi.encodeCall(handler.exitForged, (r, r >> 8, r >> 16));
    }

    function _time(uint256 n, uint256 r) private view returns (bytes memory) {
        if (n < 5) return abi.encodeCall(handler.warp, (r));
        if (n < 11) return abi.encodeCall(handler.warpToActivation, (r));
        if (n < 13) return abi.encodeCall(handler.warpToRuling, (r));
        if (n == 13) {
            return r % 2 == 0 ? abi.encodeCall(handler.leap, (r >> 8)) : abi.encodeCall(handler.warp, (r));
        }
        if (n == 14) return abi.encodeCall(handler.pause, ());
        return abi.encodeCall(handler.unpause, (r));
    }

    function _attacks(uint256 n, uint256 r) private view returns (bytes memory) {
        if (n < 2) return abi.encodeCall(handler.replay, (r, r >> 8 & 1 == 1));
        if (n == 2) return abi.encodeCall(handler.postStale, (uint40(r), r >> 40 & 1 == 1));
        return abi.encodeCall(handler.usurp, (r));
    }

    function _print(string memory what, uint256 count) private view {
        (bool ok,) = address(0x000000000000000000636F6e736F6c652e6c6f67)
            .staticcall(abi.encodeWithSignature("log(string,uint256)", what, count));
        ok;
    }

    function _names() private pure returns (string[] memory names) {
        bytes memory all = bytes(NAMES);
        names = new string[](STATES);
        bytes memory name;
        uint256 count;
        for (uint256 i = 0; i < all.length; ++i) {
            if (all[i] != "|") {
                name = abi.encodePacked(name, all[i]);
            } else {
                (names[count++], name) = (string(name), "");
            }
        }
    }
}
