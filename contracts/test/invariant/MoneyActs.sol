// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../../src/interfaces/IComputeEscrow.sol";
import {Stage} from "./Stage.sol";

/// @dev Tenants that fund, limit and withdraw; providers that redirect and collect; a token that misbehaves.
abstract contract MoneyActs is Stage {
    struct Notice {
        uint256 units;
        uint256 at;
        uint256 limit;
        uint256 limitAt;
    }

    mapping(address tenant => Notice) internal notices;

    function deposit(uint256 who, uint64 units) external touches(who % 3) {
        address tenant = tenants[who % 3];
        units = uint64(bound(units, 1, 1e10));
        token.mint(tenant, units * scale);
        bool ok = send(tenant, abi.encodeCall(I.deposit, (tenant, units)));
        must(1, ok != token.answersFalse());
        if (!ok) return;
        purses[tenant].balance += units;
        moneyIn += units;
        note(Deep.Deposited);
    }

    function limit(uint256 who, uint48 wanted) external touches(who % 3) {
        address tenant = tenants[who % 3];
        wanted = uint48(bound(wanted, 0, 1e10));
        must(6, send(tenant, abi.encodeCall(I.setSpendLimit, (wanted))));
        if (wanted >= purses[tenant].limit) {
            purses[tenant].limit = wanted;
            (notices[tenant].limit, notices[tenant].limitAt) = (0, 0);
            note(Deep.LimitRaised);
        } else {
            (notices[tenant].limit, notices[tenant].limitAt) = (wanted, block.timestamp + NOTICE);
        }
    }

    function applyLimit(uint256 who) external touches(who % 3) {
        address tenant = tenants[who % 3];
        Notice storage notice = notices[tenant];
        bool expected = notice.limitAt != 0 && block.timestamp >= notice.limitAt;
        bool ok = send(tenant, abi.encodeCall(I.applySpendLimit, ()));
        must(8, ok == expected);
        if (!ok) return;
        purses[tenant].limit = notice.limit;
        (notice.limit, notice.limitAt) = (0, 0);
        note(Deep.LimitLowered);
    }

    function announce(uint256 who, uint64 units) external touches(who % 3) {
        address tenant = tenants[who % 3];
        units = uint64(bound(units, 0, 1e10));
        must(8, send(tenant, abi.encodeCall(I.requestWithdraw, (units))));
        (notices[tenant].units, notices[tenant].at) = (units, units == 0 ? 0 : block.timestamp + NOTICE);
    }

    /// @dev Neither a pause nor anybody's dispute or epoch may stand in its way (invariant 8).
    function withdraw(uint256 who) public touches(who % 3) {
        address tenant = tenants[who % 3];
        Notice storage notice = notices[tenant];
        roll(tenant);
        uint256 units = notice.units < purses[tenant].balance ? notice.units : purses[tenant].balance;
        bool due = notice.at != 0 && block.timestamp >= notice.at;
        bool ok = send(tenant, abi.encodeCall(I.withdraw, (tenant)));
        must(8, ok == (due && units != 0 && transfers(tenant)));
        if (!ok) return;
        purses[tenant].balance -= units;
        moneyOut += units;
        (notice.units, notice.at) = (0, 0);
        note(isPaused() ? Deep.WithdrawnWhilePaused : Deep.Withdrawn);
    }

    function payTo(uint256 which, uint256 where) external {
        address provider = providers[which % 2];
        address[4] memory wallets = [address(0), till, address(escrow), address(token)];
        bool ok =
            send(provider, abi.encodeCall(I.setProvider, (wallets[where % 4], escrow.signerOf(provider))));
        must(1, ok == (where % 4 < 2));
    }

    function collect(uint256 who) external {
        address[6] memory all = [providers[0], providers[1], reserve, tenants[0], tenants[1], tenants[2]];
        address one = all[who % 6];
        bool ok = send(one, abi.encodeCall(I.collect, (till)));
        must(4, ok == (waiting[one] != 0 && transfers(till)));
        if (!ok) return;
        moneyOut += waiting[one];
        waiting[one] = 0;
        note(Deep.Collected);
    }

    function ban(uint256 which, bool yes) external {
        token.ban(which % 3 == 2 ? till : providers[which % 3], yes);
    }

    /// @dev Rarely, or hardly anything would ever be paid.
    function break_(uint256 dice) external {
        token.answerFalse(dice % 8 == 0);
    }
}
