// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow} from "../interfaces/IComputeEscrow.sol";
import {EscrowBase} from "./EscrowBase.sol";

/// @title Disputes of debits: held in the window, answered with receipts, lowered by the arbiter, closed by anybody
abstract contract EscrowDisputes is EscrowBase {
    /// @inheritdoc IComputeEscrow
    function dispute(
        address provider,
        uint64 amount,
        bytes32 evidence,
        Line[] calldata lines,
        uint256 i,
        bytes32[] calldata proof
    ) external nonReentrant {
        State memory s = _state;
        uint40 time = _clock(s);
        if (time >= _epochs[s.head].activeAt) revert NotInWindow(s.head);
        Case storage c = _cases[s.head][msg.sender][provider];
        if (c.amount != 0) revert AlreadyDisputed();
        if (amount == 0) revert ZeroAmount();
        Account memory account = _settled(msg.sender, time);
        if (amount > account.pending) revert TooMuch(amount, account.pending);
        if (provider == address(0)) {
            _held[msg.sender].amount += amount;
        } else {
            uint64 cumulative = _line(s.head, msg.sender, provider, lines, i, proof);
            _reserve(provider, amount, cumulative);
            c.floor = cumulative - amount;
        }
        c.amount = uint48(amount);
        account.pending -= uint48(amount);
        _save(msg.sender, account);
        _pledge(s.head, provider, amount, c.floor, evidence);
    }

    /// @inheritdoc IComputeEscrow
    function answer(uint32 epoch, address tenant, address provider, Answer[] calldata answers) external {
        Case storage c = _open(epoch, tenant, provider);
        // The arbiter has the other half of its time to look at the last receipt.
        uint40 until = _deadline(epoch) - RULING / 2;
        if (clock() >= until) revert TooLateToAnswer(until);
        (uint48 amount, uint48 shown) = (c.amount, c.shown);
        uint256 backed = 0;
        if (provider == address(0)) {
            backed = _backed(epoch, tenant, answers) + shown;
        } else {
            if (answers.length != 1) revert LengthMismatch();
            _matches(answers[0], tenant, provider, 0);
            uint64 cumulative = answers[0].receipt.cumulative;
            if (cumulative > c.floor) backed = cumulative - c.floor;
        }
        if (backed > amount) backed = amount;
        if (backed > shown) {
            if (provider == address(0)) _held[tenant].shown += uint64(backed) - shown;
            c.shown = shown = uint48(backed);
        }
        emit Answered(epoch, tenant, provider, shown, msg.sender);
    }

    /// @inheritdoc IComputeEscrow
    function rule(uint32 epoch, address tenant, address provider, uint64 refund) external onlyRole(ARBITER) {
        Case storage c = _open(epoch, tenant, provider);
        (uint48 amount, uint48 shown) = (c.amount, c.shown);
        uint40 time = clock();
        uint40 until = _deadline(epoch);
        uint40 from = until - RULING;
        if (_epochs[epoch].cancelled || time < from || time >= until) revert NotRulingTime(from, until);
        if (refund > amount) revert TooMuch(refund, amount);
        uint48 most = amount - uint48(refund);
        if (shown > most) {
            if (provider == address(0)) _held[tenant].shown -= shown - most;
            else c.forfeited = shown - most;
            shown = most;
        }
        (c.shown, c.ruled) = (shown, true);
        emit Ruled(epoch, tenant, provider, refund, shown);
    }

    /// @inheritdoc IComputeEscrow
    function close(uint32 epoch, address tenant, address provider) external whenRunning {
        Case memory c = _cases[epoch][tenant][provider];
        if (c.amount == 0) revert NoDispute();
        bool cancelled = _epochs[epoch].cancelled;
        uint40 time = clock();
        if (!cancelled && !c.ruled && time < _deadline(epoch)) revert TooEarly(_deadline(epoch));
        delete _cases[epoch][tenant][provider];
        uint64 refund = cancelled ? c.amount : c.amount - c.shown;
        if (provider == address(0)) {
            _held[tenant].amount -= c.amount;
            _held[tenant].shown -= c.shown;
        } else {
            _release(epoch, tenant, provider, c, cancelled);
        }
        Account memory account = _settled(tenant, time);
        account.balance += refund;
        account.allocated += c.amount - refund;
        _save(tenant, account);
        address other = provider == address(0) ? RESERVE : provider;
        uint64 back = _splitBond(tenant, other, refund, c.amount);
        emit Closed(epoch, tenant, provider, refund, c.amount - refund, c.forfeited, back);
    }

    function _open(uint32 epoch, address tenant, address provider) private view returns (Case storage c) {
        c = _cases[epoch][tenant][provider];
        if (c.amount == 0) revert NoDispute();
        if (c.ruled) revert AlreadyRuled();
    }

    function _pledge(uint32 epoch, address provider, uint64 amount, uint64 floor, bytes32 evidence) private {
        uint64 bond = bondFor(amount);
        emit Disputed(epoch, msg.sender, provider, amount, bond, floor, _deadline(epoch), evidence);
        _take(msg.sender, bond);
    }

    /// @dev A tenant can hold what its line leaves unpaid and no more, or another provider of its would pay for it.
    function _reserve(address provider, uint64 amount, uint64 cumulative) private {
        Pair storage pair = _pairs[msg.sender][provider];
        uint64 unpaid = _due(pair, cumulative);
        if (amount > unpaid) revert TooMuch(amount, unpaid);
        pair.reserved += amount;
    }

    /// @dev Roots that were built on the reservation would show as due again what is refunded, and nobody set money
    /// aside for it. What the arbiter took from receipts is deducted and so stays covered; anything else kills them.
    function _release(uint32 epoch, address tenant, address provider, Case memory c, bool cancelled) private {
        Pair storage pair = _pairs[tenant][provider];
        pair.reserved -= c.amount;
        pair.deducted += c.forfeited;
        uint32 last = _state.last;
        // Of a cancelled epoch only the roots that came after it can be built on the reservation.
        bool kills = cancelled ? last > epoch : c.amount - c.shown > c.forfeited;
        if (kills) pair.dead = last;
    }

    function _matches(Answer calldata a, address tenant, address provider, uint256 index) private view {
        if (a.provider != provider || a.receipt.provider != provider || a.receipt.tenant != tenant) {
            revert BadAnswer(index);
        }
        _verify(a.receipt, a.sigs);
    }

    /// @dev How much more of a debit that names nobody the tenant owes: what root and receipts agree on beyond what its
    /// pairs and its account hold and what its open disputes have been shown for, so that no receipt counts twice. A
    /// later epoch's debit, still in its window, belongs to later lines.
    function _backed(uint32 epoch, address tenant, Answer[] calldata answers)
        private
        view
        returns (uint256 backed)
    {
        address last = address(0);
        for (uint256 k = 0; k < answers.length; ++k) {
            Answer calldata a = answers[k];
            if (a.provider <= last) revert BadAnswer(k);
            last = a.provider;
            _matches(a, tenant, last, k);
            uint64 cumulative = _line(epoch, tenant, last, a.lines, a.i, a.proof);
            if (a.receipt.cumulative < cumulative) cumulative = a.receipt.cumulative;
            backed += _due(_pairs[tenant][last], cumulative);
        }
        Account memory account = _settled(tenant, clock());
        uint256 there = uint256(account.allocated) + _held[tenant].shown;
        if (account.epoch == epoch) there += account.pending;
        backed = backed > there ? backed - there : 0;
    }
}
