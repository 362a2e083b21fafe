// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../../src/interfaces/IComputeEscrow.sol";
import {Stage} from "./Stage.sol";

/// @dev A settler that serves the first tenant by the equation and may lie about the others, a guardian, claimants.
abstract contract EpochActs is Stage {
    /// @dev GPU time is used: what a true receipt shows rises.
    function work(uint256 who, uint256 which, uint64 amount) external {
        earned[tenants[who % 3]][providers[which % 2]] += uint64(bound(amount, 1, 4e9));
    }

    function post(uint64[4] calldata lies, uint48[3] calldata amounts, uint8 honest, uint8 greedy) external {
        _closeCancelled(tenants[0]);
        uint64[6] memory totals;
        I.Debit[] memory wanted = new I.Debit[](3);
        uint256 count;
        for (uint256 i = 0; i < 3; ++i) {
            roll(tenants[i]);
            uint48 amount;
            if (i == 0 || honest >> i & 1 == 1) {
                amount = _honest(i, totals);
            } else {
                totals[i] = _lie(i, 0, lies[i - 1]);
                totals[i + 3] = _lie(i, 1, lies[i + 1]);
                amount = _debit(tenants[i], amounts[i], greedy >> i & 1 == 1);
            }
            if (amount != 0) wanted[count++] = I.Debit(tenants[i], amount);
        }
        assembly {
            mstore(wanted, count)
        }
        _post(totals, wanted);
    }

    /// @dev debit = sum of what is unpaid - (allocated + pending + held), within limit and balance; the root promises
    /// no more than that debit and what is allocated.
    function _honest(uint256 who, uint64[6] memory totals) private view returns (uint48) {
        Purse storage purse = purses[tenants[who]];
        uint256[2] memory open = [
            unpaid(tenants[who], providers[0], earned[tenants[who]][providers[0]]),
            unpaid(tenants[who], providers[1], earned[tenants[who]][providers[1]])
        ];
        uint256 covered = purse.allocated + purse.pending + purse.held;
        uint256 amount = open[0] + open[1] > covered ? open[0] + open[1] - covered : 0;
        if (amount > purse.limit) amount = purse.limit;
        if (amount > purse.balance) amount = purse.balance;
        _share(who, open, purse.allocated + amount, totals);
        return uint48(amount);
    }

    /// @dev What the present root promises comes first: it can be claimed until the new one is active.
    function _share(uint256 who, uint256[2] memory open, uint256 left, uint64[6] memory totals) private view {
        uint256[2] memory shares;
        for (uint256 k = 0; k < 4; ++k) {
            uint256 j = k % 2;
            uint256 more = open[j] - shares[j];
            if (k < 2 && payableOf(who, j, head) < more) more = payableOf(who, j, head);
            if (more > left) more = left;
            left -= more;
            shares[j] += more;
        }
        for (uint256 j = 0; j < 2; ++j) {
            Tab storage tab = tabs[tenants[who]][providers[j]];
            totals[j * 3 + who] = uint64(tab.paid + tab.deducted + tab.reserved + shares[j]);
        }
    }

    function _lie(uint256 who, uint256 which, uint64 by) private view returns (uint64) {
        Tab storage tab = tabs[tenants[who]][providers[which]];
        uint256 base = tab.paid + tab.deducted + tab.reserved;
        // Half the lies go back behind what is decided, which must be worth nothing.
        return uint64(by % 2 == 0 ? base + by % 1e10 : base / 2);
    }

    function _debit(address tenant, uint48 amount, bool greedy) private view returns (uint48) {
        uint256 most =
            purses[tenant].limit < purses[tenant].balance ? purses[tenant].limit : purses[tenant].balance;
        return uint48(greedy ? bound(amount, most + 1, most + 1e9) : bound(amount, 0, most));
    }

    function _post(uint64[6] memory totals, I.Debit[] memory debits) private {
        bool expected = !isPaused() && theClock() >= periods[head].activeAt;
        (bytes32 root,) = treeOf(totals);
        bytes memory data = abi.encodeCall(
            I.postEpoch, (uint40(seq), periods[head].root, root, keccak256("m"), uint40(theClock()), debits)
        );
        bool ok = sendOnce(settler, data);
        must(5, ok == expected);
        if (isPaused()) note(Deep.RefusedWhilePaused);
        if (!ok) return;
        if (head != last) note(Deep.PostedOverCancelled);
        bookPost(root, CHALLENGE);
        stated[head] = totals;
        uint256 total;
        for (uint256 i = 0; i < debits.length; ++i) {
            uint256 taken = bookDebit(debits[i].tenant, debits[i].amount);
            if (taken == 0) note(Deep.DebitSkipped);
            must(6, taken <= purses[debits[i].tenant].limit);
            must(6, escrow.accountOf(debits[i].tenant).pending == taken);
            total += taken;
        }
        must(6, escrow.epochOf(head).total == total);
        excuseAtPost[head] = excuse[tenants[0]];
        for (uint256 k = 0; k < 6; ++k) {
            uint256 most = mostStated[tenants[k % 3]][providers[k / 3]];
            if (totals[k] > most) mostStated[tenants[k % 3]][providers[k / 3]] = totals[k];
        }
        note(Deep.Posted);
    }

    /// @dev The settler's first step: what a cancelled epoch still holds of the honest tenant goes back.
    function _closeCancelled(address tenant) private {
        for (uint256 k = 0; k < quarrels.length && !isPaused(); ++k) {
            Quarrel storage each = quarrels[k];
            if (!each.open || each.tenant != tenant || !periods[each.epoch].cancelled) continue;
            must(7, sendOnce(anybody, abi.encodeCall(I.close, (each.epoch, tenant, each.provider))));
            bookClose(k, reserve);
        }
    }

    /// @dev A settler that lost a race, or one that acts on a state from before a cancel or an exit.
    function postStale(uint40 behind, bool otherRoot) external {
        if (seq < 3) return;
        bytes32 prev = otherRoot ? keccak256("other") : periods[head].root;
        uint40 old = otherRoot ? uint40(seq) : uint40(seq) - uint40(bound(behind, 1, 3));
        bytes memory data =
            abi.encodeCall(I.postEpoch, (old, prev, keccak256("r"), keccak256("m"), 0, new I.Debit[](0)));
        must(9, !send(settler, data));
        note(Deep.SettlerStale);
    }

    function cancel() external {
        bool expected = head != 0 && theClock() < periods[head].activeAt;
        uint32 epoch = head;
        bool ok = sendOnce(guardian, abi.encodeCall(I.cancelEpoch, (epoch)));
        must(9, ok == expected);
        if (!ok) return;
        if (epoch > 1 && periods[epoch - 1].cancelled) note(Deep.CancelledTwice);
        bookCancel();
        note(Deep.Cancelled);
    }

    function claim(uint32 any, uint8 mask) external {
        uint32 active = theClock() < periods[head].activeAt ? periods[head].prev : head;
        uint32 epoch = any % 4 != 0 || last == 0 ? active : uint32(any % (last + 1));
        (, I.Credit[] memory credits) = treeOf(stated[epoch]);
        uint256 count;
        for (uint256 i = 0; i < 4; ++i) {
            if (mask >> i & 1 == 1) credits[count++] = credits[i];
        }
        assembly {
            mstore(credits, count)
        }
        bytes memory data = abi.encodeCall(I.claim, (epoch, credits));
        bool ok = send(anybody, data);
        must(5, ok == (!isPaused() && epoch != 0 && epoch == active));
        if (!ok) return;
        for (uint256 i = 0; i < count; ++i) {
            _bookCredit(epoch, credits[i]);
        }
        bytes32 before = everything();
        send(anybody, data);
        must(4, before == everything());
        note(Deep.ClaimedTwice);
    }

    function claimOne(uint256 who) external touches(who % 3) {
        uint32 active = theClock() < periods[head].activeAt ? periods[head].prev : head;
        (, I.Credit[] memory all) = treeOf(stated[active]);
        I.Credit[] memory credits = new I.Credit[](1);
        credits[0] = all[1 + who % 3];
        bool ok = send(anybody, abi.encodeCall(I.claim, (active, credits)));
        must(5, ok == (!isPaused() && active != 0));
        if (ok) _bookCredit(active, credits[0]);
    }

    /// @dev Lines that the root does not hold are worth nothing, in whatever way they are wrong.
    function claimForged(uint256 which, uint64 more, bool otherProvider) external {
        uint32 active = theClock() < periods[head].activeAt ? periods[head].prev : head;
        (, I.Credit[] memory credits) = treeOf(stated[active]);
        I.Credit memory one = credits[which % 4];
        if (otherProvider) one.provider = anybody;
        else one.lines[0].cumulative += uint64(bound(more, 1, 1e12));
        I.Credit[] memory bad = new I.Credit[](1);
        bad[0] = one;
        bytes32 before = everything();
        bool ok = send(anybody, abi.encodeCall(I.claim, (active, bad)));
        must(4, before == everything());
        if (ok) note(Deep.BadLeafSkipped);
    }

    function _bookCredit(uint32 epoch, I.Credit memory credit) private {
        uint256 sum;
        for (uint256 j = 0; j < credit.lines.length; ++j) {
            (address tenant, uint64 cumulative) = (credit.lines[j].tenant, credit.lines[j].cumulative);
            bool again = tabs[tenant][credit.provider].paid != 0;
            uint256 due = bookLine(epoch, tenant, credit.provider, cumulative);
            sum += due;
            if (due != 0) note(again ? Deep.PaidLater : Deep.Paid);
            if (epoch <= tabs[tenant][credit.provider].dead) note(Deep.DeadLine);
            if (due != 0 && unpaid(tenant, credit.provider, cumulative) != 0) note(Deep.PaidCapped);
        }
        payOut(credit.provider, sum);
    }

    function payOut(address provider, uint256 sum) internal {
        if (sum == 0) return;
        if (transfers(escrow.payeeOf(provider))) {
            moneyOut += sum;
        } else {
            waiting[provider] += sum;
            note(Deep.PaidToOwed);
        }
    }
}
