// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow} from "../interfaces/IComputeEscrow.sol";
import {EscrowBase} from "./EscrowBase.sol";

/// @title The way out without a settler: a provider takes what a receipt of both sides shows, in the open and bounded
abstract contract EscrowExits is EscrowBase {
    /// @inheritdoc IComputeEscrow
    function exit(Receipt calldata receipt, Signatures calldata sigs) external whenRunning {
        if (msg.sender != receipt.provider) revert NotProvider(receipt.provider);
        State memory s = _state;
        uint256 at = _exitFrom(s, receipt.periodEnd);
        if (block.timestamp < at) revert TooEarly(at);
        if (_exits[receipt.tenant][msg.sender].amount != 0) revert ExitOpen();
        _verify(receipt, sigs);
        uint40 time = _clock(s);
        Pair storage pair = _pairs[receipt.tenant][msg.sender];
        (uint64 amount, uint64 fromBalance) = _draw(receipt.tenant, _due(pair, receipt.cumulative), time);
        // An amount of the books: nobody can make it miss zero by sending something here.
        // slither-disable-next-line incorrect-equality
        if (amount == 0) revert ZeroAmount();
        pair.reserved += amount;
        uint40 seq = _state.seq = s.seq + 1;
        _exits[receipt.tenant][msg.sender] = Exit(amount, 0, 0, time + CHALLENGE, false, false);
        emit ExitStarted(
            receipt.tenant, msg.sender, amount, fromBalance, time + CHALLENGE, seq, receipt.usageRoot
        );
    }

    /// @inheritdoc IComputeEscrow
    function disputeExit(address provider, bytes32 evidence) external nonReentrant {
        Exit storage e = _exits[msg.sender][provider];
        if (e.amount == 0) revert NoExit();
        if (e.disputed || clock() >= e.activeAt) revert NotDisputable();
        uint64 bond = bondFor(e.amount);
        (e.bond, e.disputed) = (bond, true);
        emit ExitDisputed(msg.sender, provider, bond, evidence);
        _take(msg.sender, bond);
    }

    /// @inheritdoc IComputeEscrow
    function ruleExit(address tenant, address provider, uint64 refund) external onlyRole(ARBITER) {
        Exit storage e = _exits[tenant][provider];
        if (e.amount == 0) revert NoExit();
        if (!e.disputed) revert NotDisputed();
        if (e.ruled) revert AlreadyRuled();
        (uint40 time, uint40 from) = (clock(), e.activeAt);
        if (time < from || time >= from + RULING) revert NotRulingTime(from, from + RULING);
        if (refund > e.amount) revert TooMuch(refund, e.amount);
        (e.refund, e.ruled) = (refund, true);
        emit ExitRuled(tenant, provider, refund);
    }

    /// @inheritdoc IComputeEscrow
    function finishExit(address tenant, address provider) external nonReentrant whenRunning {
        Exit memory e = _exits[tenant][provider];
        if (e.amount == 0) revert NoExit();
        uint40 time = clock();
        uint40 at = e.disputed && !e.ruled ? e.activeAt + RULING : e.activeAt;
        if (time < at) revert TooEarly(at);
        delete _exits[tenant][provider];
        Pair storage pair = _pairs[tenant][provider];
        uint64 amount = e.amount - e.refund;
        pair.reserved -= e.amount;
        pair.paid += amount;
        pair.deducted += e.refund;
        uint64 back = 0;
        if (e.disputed) back = _splitBond(tenant, provider, e.refund, e.amount);
        if (e.refund != 0) {
            Account memory account = _settled(tenant, time);
            account.balance += e.refund;
            _save(tenant, account);
        }
        emit ExitFinished(tenant, provider, amount, e.refund, back);
        if (amount != 0) _pay(0, provider, amount);
    }

    /// @dev Takes up to `wanted` from what only providers can receive, then from free money at the tenant's own pace.
    function _draw(address tenant, uint64 wanted, uint40 time)
        private
        returns (uint64 amount, uint64 fromBalance)
    {
        Account memory account = _settled(tenant, time);
        amount = wanted < account.allocated ? wanted : account.allocated;
        account.allocated -= amount;
        if (time >= _sides[tenant].exitFrom) {
            fromBalance = wanted - amount;
            if (fromBalance > account.limit) fromBalance = account.limit;
            if (fromBalance > account.balance) fromBalance = account.balance;
        }
        if (fromBalance != 0) {
            account.balance -= fromBalance;
            amount += fromBalance;
            _sides[tenant].exitFrom = time + CHALLENGE;
        }
        _save(tenant, account);
    }

    /// @dev A period's end is Unix time, so only the part of the newest pause after it counts: earlier pauses delayed
    /// nothing of this receipt.
    function _exitFrom(State memory s, uint40 periodEnd) private view returns (uint256 at) {
        at = uint256(periodEnd) + EXIT_AFTER;
        uint256 start = s.pausedAt > periodEnd ? s.pausedAt : periodEnd;
        if (s.pausedUntil > start) at += s.pausedUntil - start;
    }
}
