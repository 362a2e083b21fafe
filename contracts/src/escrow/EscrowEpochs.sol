// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow} from "../interfaces/IComputeEscrow.sol";
import {EscrowBase} from "./EscrowBase.sol";

/// @title The chain of epochs: posting, cancelling, pausing and claiming
abstract contract EscrowEpochs is EscrowBase {
    /// @inheritdoc IComputeEscrow
    function postEpoch(
        uint40 seq,
        bytes32 prevRoot,
        bytes32 root,
        bytes32 manifestHash,
        uint40 periodEnd,
        Debit[] calldata debits
    ) external onlyRole(SETTLER) whenRunning returns (uint32 epoch) {
        uint40 activeAt;
        (epoch, activeAt) = _begin(seq, prevRoot, root, periodEnd);
        uint64 total = _debit(epoch, activeAt - CHALLENGE, debits);
        _epochs[epoch].total = total;
        emit EpochPosted(epoch, root, manifestHash, seq, prevRoot, periodEnd, activeAt, total);
    }

    /// @inheritdoc IComputeEscrow
    function cancelEpoch(uint32 epoch) external onlyRole(GUARDIAN) {
        State memory s = _state;
        Epoch storage head = _epochs[epoch];
        if (epoch == 0 || epoch != s.head || _clock(s) >= head.activeAt) revert NotInWindow(epoch);
        head.cancelled = true;
        uint40 seq = s.seq + 1;
        (_state.head, _state.seq) = (head.prev, seq);
        emit EpochCancelled(epoch, seq);
    }

    /// @inheritdoc IComputeEscrow
    function pause() external onlyRole(GUARDIAN) {
        State memory s = _state;
        uint256 from = uint256(s.pausedUntil) + PAUSE_COOLDOWN;
        if (block.timestamp < from) revert PauseCooldown(from);
        uint40 until = uint40(block.timestamp) + MAX_PAUSE;
        _state.pausedTotal = s.pausedTotal + (s.pausedUntil - s.pausedAt);
        (_state.pausedAt, _state.pausedUntil) = (uint40(block.timestamp), until);
        emit PauseStarted(until);
    }

    /// @inheritdoc IComputeEscrow
    function unpause() external onlyRole(GUARDIAN) {
        if (!paused()) revert NotPaused();
        _state.pausedUntil = uint40(block.timestamp);
        emit PauseEnded(uint40(block.timestamp));
    }

    /// @inheritdoc IComputeEscrow
    function claim(uint32 epoch, Credit[] calldata credits) external nonReentrant whenRunning {
        uint32 active = activeEpoch();
        if (epoch == 0 || epoch != active) revert NotActive(epoch, active);
        uint40 time = clock();
        bytes32 root = _epochs[epoch].root;
        for (uint256 i = 0; i < credits.length; ++i) {
            Credit calldata credit = credits[i];
            if (!_inRoot(root, credit.provider, credit.lines, credit.proof)) {
                emit CreditSkipped(epoch, credit.provider, i);
                continue;
            }
            uint64 amount = 0;
            for (uint256 j = 0; j < credit.lines.length; ++j) {
                amount += _payLine(epoch, credit.provider, credit.lines[j], time);
            }
            if (amount != 0) _pay(epoch, credit.provider, amount);
        }
    }

    /// @dev Before the debits: an account marked with this epoch is then seen as in its window, never as new.
    function _begin(uint40 seq, bytes32 prevRoot, bytes32 root, uint40 periodEnd)
        private
        returns (uint32 epoch, uint40 activeAt)
    {
        State memory s = _state;
        activeAt = _clock(s);
        Epoch storage head = _epochs[s.head];
        if (seq != s.seq || prevRoot != head.root) revert StaleState(s.seq, head.root);
        if (activeAt < head.activeAt) revert WindowOpen(s.head, head.activeAt);
        if (root == 0) revert ZeroRoot();
        epoch = s.last + 1;
        activeAt += CHALLENGE;
        _epochs[epoch] = Epoch(root, activeAt, periodEnd, 0, s.head, false);
        (_state.last, _state.head, _state.seq) = (epoch, epoch, seq + 1);
    }

    function _debit(uint32 epoch, uint40 time, Debit[] calldata debits) private returns (uint64 total) {
        if (debits.length > MAX_DEBITS) revert TooManyDebits(debits.length);
        for (uint256 i = 0; i < debits.length; ++i) {
            (address tenant, uint48 amount) = (debits[i].tenant, debits[i].amount);
            Account memory account = _settled(tenant, time);
            // The number of an epoch, neither a time nor a balance.
            // slither-disable-next-line incorrect-equality
            if (account.epoch == epoch) revert DuplicateTenant(tenant);
            if (amount == 0) revert ZeroAmount();
            uint64 available = account.limit < account.balance ? account.limit : account.balance;
            // Its own tenant can make a debit too large at any moment; reverting would hand it everybody's epoch.
            if (amount > available) {
                emit DebitSkipped(epoch, tenant, amount, available);
            } else {
                account.balance -= amount;
                account.pending = amount;
                total += amount;
            }
            // A skipped tenant is marked as well, so that naming it twice is refused whatever became of the first.
            account.epoch = epoch;
            _save(tenant, account);
        }
    }

    function _payLine(uint32 epoch, address provider, Line calldata line, uint40 time)
        private
        returns (uint64 due)
    {
        Pair memory pair = _pairs[line.tenant][provider];
        due = _due(pair, line.cumulative);
        // An amount of the books: nobody can make it miss zero by sending something here. The same below.
        // slither-disable-next-line incorrect-equality
        if (due == 0 || epoch <= pair.dead) return 0;
        Account memory account = _settled(line.tenant, time);
        if (due > account.allocated) due = account.allocated;
        // slither-disable-next-line incorrect-equality
        if (due == 0) return 0;
        account.allocated -= due;
        _save(line.tenant, account);
        pair.paid += due;
        _pairs[line.tenant][provider].paid = pair.paid;
        emit LinePaid(epoch, provider, line.tenant, due, pair.paid);
    }
}
