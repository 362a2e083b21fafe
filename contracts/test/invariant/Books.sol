// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @dev The accounting as the specification tells it, written apart from the contract: moved only by calls that the
/// escrow accepted, never by reading the escrow. Everything is eager and unpacked, so that it is easy to check by eye.
abstract contract Books {
    struct Purse {
        uint256 balance;
        uint256 allocated;
        uint256 pending;
        uint256 limit;
        uint256 held;
        uint256 exitFrom;
        uint32 epoch;
    }

    struct Tab {
        uint256 paid;
        uint256 deducted;
        uint256 reserved;
        uint32 dead;
    }

    struct Period {
        bytes32 root;
        uint256 activeAt;
        uint32 prev;
        bool cancelled;
    }

    struct Quarrel {
        uint32 epoch;
        address tenant;
        address provider;
        uint256 amount;
        uint256 bond;
        uint256 shown;
        uint256 forfeited;
        bool ruled;
        bool open;
    }

    struct Leave {
        address tenant;
        address provider;
        uint256 amount;
        uint256 bond;
        uint256 refund;
        uint256 activeAt;
        bool disputed;
        bool ruled;
        bool open;
    }

    uint256 internal constant MIN_BOND = 1_000_000;
    uint256 internal constant LONGEST_PAUSE = 3 days;

    mapping(address tenant => Purse) internal purses;
    mapping(address tenant => mapping(address provider => Tab)) internal tabs;
    mapping(uint32 epoch => Period) internal periods;
    mapping(uint32 epoch => mapping(address tenant => uint256)) internal debited;
    mapping(uint32 epoch => mapping(address tenant => uint256)) internal disputed;
    mapping(address who => uint256) internal waiting;
    /// @dev What epochs that became active, answered disputes and exits made payable of a tenant's money, ever.
    mapping(address tenant => uint256) internal released;
    mapping(address tenant => uint256) internal spent;
    Quarrel[] internal quarrels;
    Leave[] internal leaves;
    uint256 internal pausedAt;
    uint256 internal pausedUntil;
    uint256 internal pausedTotal;
    uint256 internal seq;
    uint32 internal last;
    uint32 internal head;
    uint256 internal moneyIn;
    uint256 internal moneyOut;

    function theClock() internal view returns (uint256) {
        uint256 until = block.timestamp < pausedUntil ? block.timestamp : pausedUntil;
        return block.timestamp - pausedTotal - (until - pausedAt);
    }

    function isPaused() internal view returns (bool) {
        return block.timestamp < pausedUntil;
    }

    function bookPause() internal {
        pausedTotal += pausedUntil - pausedAt;
        (pausedAt, pausedUntil) = (block.timestamp, block.timestamp + LONGEST_PAUSE);
    }

    /// @dev Gives the tenant's pending money its place once its epoch is decided.
    function roll(address tenant) internal {
        Purse storage purse = purses[tenant];
        Period storage period = periods[purse.epoch];
        if (purse.epoch == 0) return;
        if (period.cancelled) {
            purse.balance += purse.pending;
        } else if (theClock() >= period.activeAt) {
            purse.allocated += purse.pending;
            released[tenant] += purse.pending;
        } else {
            return;
        }
        (purse.pending, purse.epoch) = (0, 0);
    }

    function bookPost(bytes32 root, uint256 challenge) internal returns (uint32) {
        periods[++last] = Period(root, theClock() + challenge, head, false);
        head = last;
        ++seq;
        return head;
    }

    /// @dev What is taken of a debit: all of it or nothing.
    function bookDebit(address tenant, uint256 amount) internal returns (uint256) {
        Purse storage purse = purses[tenant];
        purse.epoch = head;
        if (amount > purse.balance || amount > purse.limit) return 0;
        purse.balance -= amount;
        purse.pending = amount;
        debited[head][tenant] = amount;
        return amount;
    }

    function bookCancel() internal {
        periods[head].cancelled = true;
        head = periods[head].prev;
        ++seq;
    }

    function unpaid(address tenant, address provider, uint256 cumulative) internal view returns (uint256) {
        Tab storage tab = tabs[tenant][provider];
        uint256 done = tab.paid + tab.deducted + tab.reserved;
        return cumulative > done ? cumulative - done : 0;
    }

    function bookLine(uint32 epoch, address tenant, address provider, uint256 cumulative)
        internal
        returns (uint256 due)
    {
        roll(tenant);
        if (epoch <= tabs[tenant][provider].dead) return 0;
        due = unpaid(tenant, provider, cumulative);
        if (due > purses[tenant].allocated) due = purses[tenant].allocated;
        purses[tenant].allocated -= due;
        tabs[tenant][provider].paid += due;
        spent[tenant] += due;
    }

    function bondOf(uint256 amount) internal pure returns (uint256) {
        return amount / 20 < MIN_BOND ? MIN_BOND : amount / 20;
    }

    function bookDispute(address tenant, address provider, uint256 amount) internal {
        purses[tenant].pending -= amount;
        disputed[head][tenant] += amount;
        if (provider == address(0)) purses[tenant].held += amount;
        else tabs[tenant][provider].reserved += amount;
        moneyIn += bondOf(amount);
        quarrels.push(Quarrel(head, tenant, provider, amount, bondOf(amount), 0, 0, false, true));
    }

    function bookClose(uint256 index, address reserve) internal {
        Quarrel storage quarrel = quarrels[index];
        (address tenant, address provider, uint256 amount) =
            (quarrel.tenant, quarrel.provider, quarrel.amount);
        roll(tenant);
        bool cancelled = periods[quarrel.epoch].cancelled;
        uint256 refund = cancelled ? amount : amount - quarrel.shown;
        if (provider == address(0)) {
            purses[tenant].held -= amount;
        } else {
            Tab storage tab = tabs[tenant][provider];
            tab.reserved -= amount;
            tab.deducted += quarrel.forfeited;
            // Roots that stand on the reservation count on money that goes back, unless it is deducted.
            if (cancelled ? last > quarrel.epoch : refund > quarrel.forfeited) tab.dead = last;
        }
        purses[tenant].balance += refund;
        purses[tenant].allocated += amount - refund;
        released[tenant] += amount - refund;
        uint256 back = share(quarrel.bond, refund, amount);
        waiting[tenant] += back;
        waiting[provider == address(0) ? reserve : provider] += quarrel.bond - back;
        quarrel.open = false;
    }

    /// @dev bond * part / whole, rounded up: the odd unit is the tenant's.
    function share(uint256 bond, uint256 part, uint256 whole) internal pure returns (uint256) {
        return (bond * part + whole - 1) / whole;
    }

    function bookExit(address tenant, address provider, uint256 cumulative, uint256 challenge)
        internal
        returns (uint256 amount, uint256 drawn)
    {
        roll(tenant);
        Purse storage purse = purses[tenant];
        uint256 wanted = unpaid(tenant, provider, cumulative);
        amount = wanted < purse.allocated ? wanted : purse.allocated;
        purse.allocated -= amount;
        spent[tenant] += amount;
        if (theClock() >= purse.exitFrom) {
            drawn = wanted - amount;
            if (drawn > purse.limit) drawn = purse.limit;
            if (drawn > purse.balance) drawn = purse.balance;
            purse.balance -= drawn;
            if (drawn != 0) purse.exitFrom = theClock() + challenge;
        }
        amount += drawn;
        tabs[tenant][provider].reserved += amount;
        ++seq;
        leaves.push(Leave(tenant, provider, amount, 0, 0, theClock() + challenge, false, false, true));
    }

    function bookFinish(uint256 index) internal returns (uint256 pays) {
        Leave storage leave = leaves[index];
        (address tenant, address provider) = (leave.tenant, leave.provider);
        roll(tenant);
        pays = leave.amount - leave.refund;
        Tab storage tab = tabs[tenant][provider];
        tab.reserved -= leave.amount;
        tab.paid += pays;
        tab.deducted += leave.refund;
        purses[tenant].balance += leave.refund;
        if (leave.bond != 0) {
            uint256 back = share(leave.bond, leave.refund, leave.amount);
            waiting[tenant] += back;
            waiting[provider] += leave.bond - back;
        }
        leave.open = false;
    }
}
