// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {EscrowAccounts} from "./escrow/EscrowAccounts.sol";
import {EscrowBase} from "./escrow/EscrowBase.sol";
import {EscrowDisputes} from "./escrow/EscrowDisputes.sol";
import {EscrowEpochs} from "./escrow/EscrowEpochs.sol";
import {EscrowExits} from "./escrow/EscrowExits.sol";
import {IComputeEscrow} from "./interfaces/IComputeEscrow.sol";

/// @title Escrow of one ERC-20 between tenants and GPU providers
/// @notice token balance = SCALE * sum(balance + allocated + pending + reserved + held + bonds + owed), always; what
/// somebody sends past `deposit` is nobody's
contract ComputeEscrow is EscrowAccounts, EscrowEpochs, EscrowDisputes, EscrowExits {
    constructor(Config memory config) EscrowBase(config) {}

    /// @inheritdoc IComputeEscrow
    function accountOf(address tenant) external view returns (Account memory) {
        return _settled(tenant, clock());
    }

    /// @inheritdoc IComputeEscrow
    function accountsOf(address[] calldata tenants) external view returns (Account[] memory accounts) {
        uint40 time = clock();
        accounts = new Account[](tenants.length);
        for (uint256 i = 0; i < tenants.length; ++i) {
            accounts[i] = _settled(tenants[i], time);
        }
    }

    /// @inheritdoc IComputeEscrow
    function sidesOf(address[] calldata tenants) external view returns (Side[] memory sides) {
        sides = new Side[](tenants.length);
        for (uint256 i = 0; i < tenants.length; ++i) {
            sides[i] = _sides[tenants[i]];
        }
    }

    /// @inheritdoc IComputeEscrow
    function pairsOf(address[] calldata tenants, address[] calldata providers)
        external
        view
        returns (Pair[] memory pairs)
    {
        if (tenants.length != providers.length) revert LengthMismatch();
        pairs = new Pair[](tenants.length);
        for (uint256 i = 0; i < tenants.length; ++i) {
            pairs[i] = _pairs[tenants[i]][providers[i]];
        }
    }

    /// @inheritdoc IComputeEscrow
    function heldOf(address[] calldata tenants) external view returns (uint64[] memory held) {
        held = new uint64[](tenants.length);
        for (uint256 i = 0; i < tenants.length; ++i) {
            held[i] = _held[tenants[i]].amount;
        }
    }

    /// @inheritdoc IComputeEscrow
    function disputeOf(uint32 epoch, address tenant, address provider)
        external
        view
        returns (Dispute memory)
    {
        Case memory c = _cases[epoch][tenant][provider];
        if (c.amount == 0) return Dispute(0, 0, 0, 0, 0, false, 0);
        uint40 deadline = _deadline(epoch);
        return Dispute(c.amount, bondFor(c.amount), c.shown, c.floor, deadline, c.ruled, c.forfeited);
    }

    /// @inheritdoc IComputeEscrow
    function exitOf(address tenant, address provider) external view returns (Exit memory) {
        return _exits[tenant][provider];
    }

    /// @inheritdoc IComputeEscrow
    function epochOf(uint32 epoch) external view returns (Epoch memory) {
        return _epochs[epoch];
    }

    /// @inheritdoc IComputeEscrow
    function state() external view returns (State memory) {
        return _state;
    }
}
