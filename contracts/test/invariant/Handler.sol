// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../../src/interfaces/IComputeEscrow.sol";
import {ExitActs} from "./ExitActs.sol";
import {QuarrelActs} from "./QuarrelActs.sol";
import {TimeActs} from "./TimeActs.sol";

/// @dev The whole company on one stage; below, what an audit reads from it.
contract Handler is ExitActs, QuarrelActs, TimeActs {
    error Broken(string what);

    mapping(address tenant => mapping(address provider => I.Pair)) private _lastPairs;
    uint256 private _lastSeq;

    constructor(uint8 decimals) {
        raise(decimals);
    }

    function deep(uint256 which) external view returns (uint256) {
        return reached[which];
    }

    function brokenRules(uint256 number) external view returns (uint256) {
        return broken[number];
    }

    function checks(uint256 number) external view returns (uint256) {
        return checked[number];
    }

    function auditConservation() external view {
        uint256 sum;
        address[6] memory all = [providers[0], providers[1], reserve, tenants[0], tenants[1], tenants[2]];
        for (uint256 i = 0; i < 6; ++i) {
            sum += escrow.owed(all[i]);
        }
        for (uint256 i = 0; i < 3; ++i) {
            sum += _of(tenants[i]);
        }
        for (uint256 k = 0; k < quarrels.length; ++k) {
            sum += escrow.disputeOf(quarrels[k].epoch, quarrels[k].tenant, quarrels[k].provider).bond;
        }
        uint256 has = token.balanceOf(address(escrow));
        _same(has, sum * scale, "token balance = what the escrow's own books add up to");
        _same(has, (moneyIn - moneyOut) * scale, "token balance = in - out");
    }

    /// @dev One tenant's account, pairs, amounts held without a provider, and bonds of exits.
    function _of(address tenant) private view returns (uint256 sum) {
        (address[] memory one, address[] memory both) = _lists(tenant);
        I.Account memory account = escrow.accountOf(tenant);
        I.Pair[] memory pairs = escrow.pairsOf(one, both);
        sum = uint256(account.balance) + account.allocated + account.pending + escrow.heldOf(one)[0];
        sum += pairs[0].reserved + pairs[1].reserved;
        sum += escrow.exitOf(tenant, providers[0]).bond + escrow.exitOf(tenant, providers[1]).bond;
    }

    function auditHonestRoot() external {
        address alice = tenants[0];
        roll(alice);
        uint256 open = payableOf(0, 0, head) + payableOf(0, 1, head);
        Purse storage purse = purses[alice];
        uint256 covered = purse.allocated + purse.pending + purse.held + excuse[alice] - excuseAtPost[head];
        if (open > covered) revert Broken("an honest root promises more than is set aside");
    }

    function auditPairs() external {
        for (uint256 k = 0; k < 6; ++k) {
            (address tenant, address provider) = (tenants[k % 3], providers[k / 3]);
            (address[] memory one, address[] memory both) = _lists(tenant);
            I.Pair memory pair = escrow.pairsOf(one, both)[k / 3];
            I.Pair storage before = _lastPairs[tenant][provider];
            if (pair.paid < before.paid || pair.deducted < before.deducted) {
                revert Broken("paid or deducted fell");
            }
            _lastPairs[tenant][provider] = pair;
            uint256 whole = uint256(pair.paid) + pair.deducted + pair.reserved;
            if (whole > mostStated[tenant][provider]) {
                revert Broken("more than any root or receipt ever said");
            }
            Tab storage tab = tabs[tenant][provider];
            _same(pair.paid, tab.paid, "paid");
            _same(pair.deducted, tab.deducted, "deducted");
            _same(pair.reserved, tab.reserved, "reserved");
            _same(pair.dead, tab.dead, "dead");
        }
    }

    function auditAccounts() external {
        for (uint256 i = 0; i < 3; ++i) {
            address tenant = tenants[i];
            roll(tenant);
            (address[] memory one,) = _lists(tenant);
            I.Account memory account = escrow.accountOf(tenant);
            Purse storage purse = purses[tenant];
            _same(account.balance, purse.balance, "balance");
            _same(account.allocated, purse.allocated, "allocated");
            _same(account.pending, purse.pending, "pending");
            _same(account.limit, purse.limit, "limit");
            _same(escrow.heldOf(one)[0], purse.held, "held");
            _same(escrow.sidesOf(one)[0].exitFrom, purse.exitFrom, "exitFrom");
            _same(escrow.owed(tenant), waiting[tenant], "owed to a tenant");
            if (spent[tenant] > released[tenant]) revert Broken("paid from money that was not released");
        }
        _same(
            escrow.owed(providers[0]) + escrow.owed(providers[1]),
            waiting[providers[0]] + waiting[providers[1]],
            "owed"
        );
        _same(escrow.owed(reserve), waiting[reserve], "owed to the reserve");
    }

    function auditDisputes() external view {
        for (uint256 k = 0; k < quarrels.length; ++k) {
            Quarrel storage q = quarrels[k];
            I.Dispute memory d = escrow.disputeOf(q.epoch, q.tenant, q.provider);
            _same(d.amount, q.open ? q.amount : 0, "what a dispute holds");
            _same(d.shown, q.open ? q.shown : 0, "what was shown");
            _same(d.bond, q.open ? q.bond : 0, "bond");
            if (disputed[q.epoch][q.tenant] > debited[q.epoch][q.tenant]) {
                revert Broken("disputed more than debited");
            }
        }
        for (uint256 k = 0; k < leaves.length; ++k) {
            Leave storage l = leaves[k];
            if (l.open) _same(escrow.exitOf(l.tenant, l.provider).amount, l.amount, "what an exit holds");
        }
    }

    function auditState() external {
        I.State memory s = escrow.state();
        _same(s.seq, seq, "seq");
        _same(s.head, head, "head");
        _same(s.last, last, "last");
        _same(escrow.clock(), theClock(), "clock");
        if (escrow.paused() != isPaused()) revert Broken("paused");
        if (s.pausedUntil > s.pausedAt + LONGEST_PAUSE) revert Broken("a pause without bound");
        if (s.seq < _lastSeq) revert Broken("seq fell");
        _lastSeq = s.seq;
        if (last != 0 && escrow.epochOf(last).root != periods[last].root) revert Broken("root");
    }

    function _lists(address tenant) private view returns (address[] memory one, address[] memory both) {
        (one, both) = (new address[](2), new address[](2));
        (one[0], one[1], both[0], both[1]) = (tenant, tenant, providers[0], providers[1]);
    }

    function _same(uint256 left, uint256 right, string memory what) private pure {
        if (left != right) revert NotEqual(what, left, right);
    }
}
