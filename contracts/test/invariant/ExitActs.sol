// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../../src/interfaces/IComputeEscrow.sol";
import {EpochActs} from "./EpochActs.sol";

/// @dev Providers that leave with receipts, true ones of the first tenant and any of the others; the dispute of that.
abstract contract ExitActs is EpochActs {
    /// @dev When each tenant's balance was last drawn on by an exit, on the settlement clock.
    mapping(address tenant => uint256) internal drawnAt;

    struct Going {
        uint256 who;
        uint256 which;
        address tenant;
        address provider;
        uint64 total;
        uint40 periodEnd;
    }

    function exit(uint256 who, uint256 which, uint64 total, uint40 age) external touches(who % 3) {
        Going memory g = Going(who % 3, which % 2, address(0), address(0), 0, 0);
        (g.tenant, g.provider) = (tenants[g.who], providers[g.which]);
        g.total = earned[g.tenant][g.provider];
        Tab storage tab = tabs[g.tenant][g.provider];
        if (g.who != 0 && total % 2 == 0) {
            g.total = uint64(tab.paid + tab.deducted + tab.reserved + total % 1e10);
        }
        // Now and then a little too young.
        g.periodEnd = uint40(block.timestamp - bound(age, EXIT_AFTER - 15 minutes, EXIT_AFTER + 4 days));
        roll(g.tenant);
        bool expected = !isPaused() && block.timestamp >= _from(g.periodEnd) && _drawable(g) != 0
            && !_isOpen(g.tenant, g.provider);
        (I.Receipt memory receipt, I.Signatures memory sigs) =
            receiptOf(g.tenant, g.provider, g.total, g.periodEnd);
        bytes memory data = abi.encodeCall(I.exit, (receipt, sigs));
        must(5, !send(anybody, data));
        bool ok = send(g.provider, data);
        must(5, ok == expected);
        if (!ok) return;
        must(4, !send(g.provider, data));
        if (g.total > mostStated[g.tenant][g.provider]) mostStated[g.tenant][g.provider] = g.total;
        _noteExit(g);
    }

    function _noteExit(Going memory g) private {
        uint256 allocated = purses[g.tenant].allocated;
        if (purses[g.tenant].pending != 0) note(Deep.ExitWhilePending);
        (uint256 amount, uint256 drawn) = bookExit(g.tenant, g.provider, g.total, CHALLENGE);
        excuse[g.tenant] += allocated - purses[g.tenant].allocated;
        note(Deep.Exited);
        if (amount != drawn) note(Deep.ExitFromAllocated);
        if (drawn == 0) return;
        must(6, drawn <= purses[g.tenant].limit);
        must(6, drawnAt[g.tenant] == 0 || theClock() >= drawnAt[g.tenant] + CHALLENGE);
        drawnAt[g.tenant] = theClock();
        note(Deep.ExitDrew);
    }

    function _from(uint256 periodEnd) private view returns (uint256 at) {
        at = periodEnd + EXIT_AFTER;
        uint256 start = pausedAt > periodEnd ? pausedAt : periodEnd;
        if (pausedUntil > start) at += pausedUntil - start;
    }

    function _drawable(Going memory g) private view returns (uint256) {
        Purse storage purse = purses[g.tenant];
        uint256 wanted = unpaid(g.tenant, g.provider, g.total);
        if (purse.allocated != 0 || wanted == 0) return wanted;
        if (theClock() < purse.exitFrom) return 0;
        uint256 most = purse.limit < purse.balance ? purse.limit : purse.balance;
        return wanted < most ? wanted : most;
    }

    /// @dev Receipts that are not of both sides take nothing.
    function exitForged(uint256 who, uint256 which, uint256 how) external {
        (address tenant, address provider) = (tenants[who % 3], providers[which % 2]);
        (I.Receipt memory receipt, I.Signatures memory sigs) =
            receiptOf(tenant, provider, 1e12, uint40(block.timestamp - 30 days));
        if (how % 4 == 0) (sigs.meter, sigs.meterSig) = (settler, sigs.providerSig);
        else if (how % 4 == 1) sigs.providerSig = sigs.meterSig;
        else if (how % 4 == 2) sigs.meterSig = sigs.providerSig;
        else receipt.cumulative += 1;
        must(5, !send(provider, abi.encodeCall(I.exit, (receipt, sigs))));
    }

    function disputeExit(uint256 seed, bool any) external {
        (bool found, uint256 index) = _pick(seed, any ? 0 : 1);
        if (found) _disputeExit(index, _who(leaves[index].tenant));
    }

    function _disputeExit(uint256 index, uint256 who) private touches(who) {
        Leave storage leave = leaves[index];
        uint256 bond = bondOf(leave.amount);
        token.mint(leave.tenant, bond * scale);
        bool ok = send(leave.tenant, abi.encodeCall(I.disputeExit, (leave.provider, keccak256("why"))));
        must(7, ok == (!leave.disputed && theClock() < leave.activeAt && !token.answersFalse()));
        if (!ok) return;
        (leave.disputed, leave.bond) = (true, bond);
        moneyIn += bond;
        note(Deep.ExitDisputed);
    }

    function ruleExit(uint256 seed, uint64 refund, bool any) external {
        (bool found, uint256 index) = _pick(seed, any ? 0 : 2);
        if (!found) return;
        Leave storage leave = leaves[index];
        refund = uint64(bound(refund, 0, leave.amount + (refund % 8 == 0 ? 1 : 0)));
        bool expected = leave.disputed && !leave.ruled && refund <= leave.amount
            && theClock() >= leave.activeAt && theClock() < leave.activeAt + RULING;
        bytes memory data = abi.encodeCall(I.ruleExit, (leave.tenant, leave.provider, refund));
        must(7, !send(anybody, data));
        bool ok = send(arbiter, data);
        must(7, ok == expected);
        if (!ok) return;
        (leave.ruled, leave.refund) = (true, refund);
        note(Deep.ExitRuled);
    }

    function finishExit(uint256 seed, bool any) external {
        (bool found, uint256 index) = _pick(seed, any ? 0 : 3);
        if (found) _finish(index, _who(leaves[index].tenant));
    }

    function _finish(uint256 index, uint256 who) private touches(who) {
        Leave storage leave = leaves[index];
        bool expected = _finishable(leave);
        bytes memory data = abi.encodeCall(I.finishExit, (leave.tenant, leave.provider));
        bool ok = send(anybody, data);
        must(7, ok == expected);
        if (!ok) return;
        must(4, !send(anybody, data));
        payOut(leave.provider, bookFinish(index));
        if (leave.ruled) note(Deep.ExitFinishedRuled);
        else note(leave.disputed ? Deep.ExitFinishedUnruled : Deep.ExitFinished);
    }

    function _finishable(Leave storage leave) private view returns (bool) {
        uint256 at = leave.activeAt + (leave.disputed && !leave.ruled ? RULING : 0);
        return !isPaused() && theClock() >= at;
    }

    /// @dev 0 any open exit; 1 one that can be disputed; 2 ruled on; 3 finished.
    function _pick(uint256 seed, uint8 wanted) private view returns (bool, uint256) {
        uint256 count = leaves.length;
        for (uint256 k = 0; k < count; ++k) {
            Leave storage each = leaves[(seed % count + k) % count];
            if (!each.open) continue;
            bool early = theClock() < each.activeAt;
            bool fits = wanted == 0 || (wanted == 1 && !each.disputed && early)
                || (wanted == 2 && each.disputed && !each.ruled && !early)
                || (wanted == 3 && _finishable(each));
            if (fits) return (true, (seed % count + k) % count);
        }
        return (false, 0);
    }

    function _isOpen(address tenant, address provider) private view returns (bool) {
        for (uint256 k = 0; k < leaves.length; ++k) {
            if (leaves[k].open && leaves[k].tenant == tenant && leaves[k].provider == provider) return true;
        }
        return false;
    }

    function _who(address tenant) private view returns (uint256) {
        return tenant == tenants[0] ? 0 : tenant == tenants[1] ? 1 : 2;
    }
}
