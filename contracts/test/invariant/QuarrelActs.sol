// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../../src/interfaces/IComputeEscrow.sol";
import {Stage} from "./Stage.sol";

/// @dev Tenants that dispute, keepers that answer and close, an arbiter that speaks, early, late or never.
abstract contract QuarrelActs is Stage {
    struct Claimed {
        uint256 who;
        uint256 which;
        address provider;
        uint64 amount;
    }

    /// @dev `which` 2 names no provider.
    function dispute(uint256 who, uint256 which, uint64 amount) external touches(who % 3) {
        Claimed memory c = Claimed(who % 3, which % 3, address(0), 0);
        if (c.which < 2) c.provider = providers[c.which];
        address tenant = tenants[c.who];
        roll(tenant);
        uint256 most = purses[tenant].pending;
        if (c.which < 2) {
            uint256 line = unpaid(tenant, c.provider, stated[head][c.which * 3 + c.who]);
            if (line < most) most = line;
        }
        // Mostly all or any part of what can be disputed; now and then nothing, or one unit too much.
        if (amount % 16 == 0) c.amount = uint64(amount % 32 == 0 ? 0 : most + 1);
        else c.amount = uint64(amount % 2 == 0 || most == 0 ? most : bound(amount, 1, most));
        bool expected = head != 0 && theClock() < periods[head].activeAt && c.amount != 0 && c.amount <= most
            && !_isOpen(head, tenant, c.provider) && !token.answersFalse();
        token.mint(tenant, bondOf(c.amount) * scale);
        bool ok = send(tenant, _disputeCall(c));
        must(7, ok == expected);
        if (!ok) return;
        note(c.which == 2 ? Deep.DisputedDebit : Deep.DisputedLine);
        if (disputed[head][tenant] != 0) note(Deep.DisputedByTwo);
        bookDispute(tenant, c.provider, c.amount);
        must(7, disputed[head][tenant] <= debited[head][tenant]);
    }

    function _disputeCall(Claimed memory c) private view returns (bytes memory) {
        (, I.Credit[] memory credits) = treeOf(stated[head]);
        (uint256 credit, uint256 line) = placeOf(c.who, c.which);
        if (c.which == 2) (credit, line) = (0, 0);
        return abi.encodeCall(
            I.dispute,
            (c.provider, c.amount, keccak256("why"), credits[credit].lines, line, credits[credit].proof)
        );
    }

    /// @dev A line of another epoch, tenant or provider proves nothing.
    function disputeForged(uint256 who, uint256 which, uint32 older) external {
        (who, which) = (who % 3, which % 2);
        uint32 epoch = uint32(bound(older, 0, last));
        (, I.Credit[] memory credits) = treeOf(stated[epoch]);
        (uint256 credit, uint256 line) = placeOf(who, 1 - which);
        bytes memory data = abi.encodeCall(
            I.dispute,
            (providers[which], 1, keccak256("why"), credits[credit].lines, line, credits[credit].proof)
        );
        token.mint(tenants[who], MIN_BOND * scale);
        must(7, !send(tenants[who], data));
    }

    function answer(uint256 seed, uint64 total, uint64 other, bool honest) external {
        (bool found, uint256 index) = pickQuarrel(seed, 1);
        if (!found) return;
        Quarrel storage quarrel = quarrels[index];
        uint256 who = _indexOf(quarrel.tenant);
        if (who == 0 || honest) {
            total = earned[quarrel.tenant][providers[0]];
            other = earned[quarrel.tenant][providers[1]];
        } else {
            total = uint64(bound(total, 0, mostStated[quarrel.tenant][providers[0]] + 1));
            other = uint64(bound(other, 0, mostStated[quarrel.tenant][providers[1]] + 1));
        }
        (I.Answer[] memory answers, uint256 backed) = _answers(quarrel, who, [total, other]);
        bool expected = !quarrel.ruled && theClock() < periods[quarrel.epoch].activeAt + RULING / 2;
        bool ok = send(
            anybody, abi.encodeCall(I.answer, (quarrel.epoch, quarrel.tenant, quarrel.provider, answers))
        );
        must(7, ok == expected);
        if (!ok) return;
        if (backed > quarrel.amount) backed = quarrel.amount;
        if (backed > quarrel.shown) quarrel.shown = backed;
        if (quarrel.shown == quarrel.amount) {
            note(quarrel.provider == address(0) ? Deep.AnsweredDebit : Deep.Answered);
        } else {
            note(Deep.AnsweredShort);
        }
    }

    /// @dev The receipts, and what they back: for a line what exceeds its undisputed part; for a debit what root and
    /// receipts agree on beyond what pairs, account and the tenant's other answered disputes cover.
    function _answers(Quarrel storage quarrel, uint256 who, uint64[2] memory totals)
        private
        returns (I.Answer[] memory answers, uint256 backed)
    {
        uint256 first = providers[0] < providers[1] ? 0 : 1;
        if (quarrel.provider != address(0)) {
            uint256 which = quarrel.provider == providers[0] ? 0 : 1;
            answers = new I.Answer[](1);
            answers[0] = _answer(quarrel.epoch, who, which, totals[which]);
            uint256 line = stated[quarrel.epoch][which * 3 + who];
            backed = totals[which] > line - quarrel.amount ? totals[which] - (line - quarrel.amount) : 0;
            return (answers, backed);
        }
        answers = new I.Answer[](2);
        for (uint256 k = 0; k < 2; ++k) {
            uint256 which = k == 0 ? first : 1 - first;
            answers[k] = _answer(quarrel.epoch, who, which, totals[which]);
            uint256 line = stated[quarrel.epoch][which * 3 + who];
            backed += unpaid(tenants[who], providers[which], line < totals[which] ? line : totals[which]);
        }
        uint256 covered = _covered(quarrel);
        backed = backed > covered ? backed - covered : 0;
    }

    function _covered(Quarrel storage quarrel) private returns (uint256 covered) {
        roll(quarrel.tenant);
        Purse storage purse = purses[quarrel.tenant];
        covered = purse.allocated;
        if (purse.epoch == quarrel.epoch) covered += purse.pending;
        for (uint256 k = 0; k < quarrels.length; ++k) {
            Quarrel storage each = quarrels[k];
            if (each.open && each.tenant == quarrel.tenant && each.provider == address(0)) {
                if (each.epoch != quarrel.epoch) covered += each.shown;
                if (each.epoch != quarrel.epoch && each.shown != 0) note(Deep.AnsweredDebitAgain);
            }
        }
    }

    function _answer(uint32 epoch, uint256 who, uint256 which, uint64 total)
        private
        view
        returns (I.Answer memory one)
    {
        (, I.Credit[] memory credits) = treeOf(stated[epoch]);
        (uint256 credit, uint256 line) = placeOf(who, which);
        (one.provider, one.i) = (providers[which], line);
        (one.lines, one.proof) = (credits[credit].lines, credits[credit].proof);
        (one.receipt, one.sigs) = receiptOf(tenants[who], providers[which], total, uint40(block.timestamp));
    }

    function rule(uint256 seed, uint64 refund, bool any) external {
        (bool found, uint256 index) = pickQuarrel(seed, any ? 0 : 2);
        if (!found) return;
        Quarrel storage quarrel = quarrels[index];
        Period storage period = periods[quarrel.epoch];
        refund = uint64(bound(refund, 0, quarrel.amount + (refund % 8 == 0 ? 1 : 0)));
        bool expected = !quarrel.ruled && !period.cancelled && refund <= quarrel.amount
            && theClock() >= period.activeAt && theClock() < period.activeAt + RULING;
        bytes memory data = abi.encodeCall(I.rule, (quarrel.epoch, quarrel.tenant, quarrel.provider, refund));
        must(7, !send(anybody, data));
        bool ok = sendOnce(arbiter, data);
        must(7, ok == expected);
        if (!ok) return;
        note(quarrel.shown == 0 ? Deep.Ruled : Deep.RuledAfterAnswer);
        quarrel.ruled = true;
        if (quarrel.shown > quarrel.amount - refund) {
            quarrel.forfeited = quarrel.shown - (quarrel.amount - refund);
            quarrel.shown = quarrel.amount - refund;
        }
    }

    function close(uint256 seed, bool any) external {
        (bool found, uint256 index) = pickQuarrel(seed, any ? 0 : 3);
        if (!found) return;
        _close(index, _indexOf(quarrels[index].tenant));
    }

    function _close(uint256 index, uint256 who) private touches(who) {
        Quarrel storage quarrel = quarrels[index];
        bool expected = closable(index);
        bytes memory data = abi.encodeCall(I.close, (quarrel.epoch, quarrel.tenant, quarrel.provider));
        uint256 before = escrow.accountOf(quarrel.tenant).balance;
        bool ok = sendOnce(anybody, data);
        must(7, ok == expected);
        if (!ok) return;
        must(7, escrow.accountOf(quarrel.tenant).balance <= before + quarrel.amount);
        bookClose(index, reserve);
        bool cancelled = periods[quarrel.epoch].cancelled;
        if (quarrel.provider == address(0)) note(Deep.ClosedDebit);
        if (!cancelled && quarrel.provider == address(0)) {
            // What a dispute without a provider gives back is billed again: until then the root promises more.
            excuse[quarrel.tenant] += quarrel.amount - quarrel.shown;
        }
        if (cancelled) note(Deep.ClosedCancelled);
        else if (quarrel.forfeited != 0) note(Deep.ClosedForfeited);
        else if (quarrel.shown == 0) note(Deep.ClosedRefunded);
        else if (quarrel.shown == quarrel.amount) note(Deep.ClosedPayable);
        else note(Deep.ClosedSplit);
    }

    function _isOpen(uint32 epoch, address tenant, address provider) private view returns (bool) {
        for (uint256 k = 0; k < quarrels.length; ++k) {
            Quarrel storage each = quarrels[k];
            if (each.open && each.epoch == epoch && each.tenant == tenant && each.provider == provider) {
                return true;
            }
        }
        return false;
    }

    function _indexOf(address tenant) private view returns (uint256) {
        return tenant == tenants[0] ? 0 : tenant == tenants[1] ? 1 : 2;
    }
}
