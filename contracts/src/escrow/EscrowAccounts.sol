// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IComputeEscrow} from "../interfaces/IComputeEscrow.sol";
import {IReceiveWithAuthorization} from "../interfaces/IReceiveWithAuthorization.sol";
import {EscrowBase} from "./EscrowBase.sol";

/// @title Money in and out: deposits, spend limits and withdrawals of tenants, payout settings of providers
abstract contract EscrowAccounts is EscrowBase {
    using SafeERC20 for IERC20;

    /// @inheritdoc IComputeEscrow
    function deposit(address tenant, uint64 units) external nonReentrant {
        if (tenant == address(0)) revert ZeroAddress();
        if (units == 0) revert ZeroAmount();
        _take(msg.sender, units);
        _accounts[tenant].balance += units;
        emit Deposited(tenant, msg.sender, units);
    }

    /// @inheritdoc IComputeEscrow
    function depositWithAuthorization(
        address from,
        uint64 units,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external nonReentrant {
        if (units == 0) revert ZeroAmount();
        uint256 before = TOKEN.balanceOf(address(this));
        uint256 amount = units * SCALE;
        IReceiveWithAuthorization token = IReceiveWithAuthorization(address(TOKEN));
        if (signature.length == 65) {
            // The form of the standard itself, which every token that has the function answers.
            token.receiveWithAuthorization(
                from,
                address(this),
                amount,
                validAfter,
                validBefore,
                nonce,
                uint8(signature[64]),
                bytes32(signature[:32]),
                bytes32(signature[32:64])
            );
        } else {
            token.receiveWithAuthorization(
                from, address(this), amount, validAfter, validBefore, nonce, signature
            );
        }
        _requireReceived(before, amount);
        _accounts[from].balance += units;
        emit Deposited(from, from, units);
    }

    /// @inheritdoc IComputeEscrow
    function setSpendLimit(uint48 limit) external {
        Account storage account = _accounts[msg.sender];
        Side storage side = _sides[msg.sender];
        if (limit >= account.limit) {
            account.limit = limit;
            (side.newLimit, side.limitAt) = (0, 0);
            emit SpendLimitSet(msg.sender, limit);
        } else {
            uint40 at = _afterNotice();
            (side.newLimit, side.limitAt) = (limit, at);
            emit SpendLimitAnnounced(msg.sender, limit, at);
        }
    }

    /// @inheritdoc IComputeEscrow
    function applySpendLimit() external {
        Side storage side = _sides[msg.sender];
        (uint48 limit, uint40 at) = (side.newLimit, side.limitAt);
        if (at == 0 || block.timestamp < at) revert NoticeRunning(at);
        (side.newLimit, side.limitAt) = (0, 0);
        _accounts[msg.sender].limit = limit;
        emit SpendLimitSet(msg.sender, limit);
    }

    /// @inheritdoc IComputeEscrow
    function requestWithdraw(uint64 units) external {
        Side storage side = _sides[msg.sender];
        uint40 at = units == 0 ? 0 : _afterNotice();
        (side.withdrawUnits, side.withdrawAt) = (units, at);
        emit WithdrawRequested(msg.sender, units, at);
    }

    /// @inheritdoc IComputeEscrow
    function withdraw(address to) external nonReentrant returns (uint64 units) {
        _mayReceive(to);
        Side storage side = _sides[msg.sender];
        (uint64 wanted, uint40 at) = (side.withdrawUnits, side.withdrawAt);
        if (at == 0 || block.timestamp < at) revert NoticeRunning(at);
        Account memory account = _settled(msg.sender, clock());
        units = wanted < account.balance ? wanted : account.balance;
        if (units == 0) revert ZeroAmount();
        (side.withdrawUnits, side.withdrawAt) = (0, 0);
        account.balance -= units;
        _save(msg.sender, account);
        emit Withdrawn(msg.sender, to, units);
        TOKEN.safeTransfer(to, units * SCALE);
    }

    /// @inheritdoc IComputeEscrow
    function setProvider(address payee, address signer) external {
        if (payee != address(0)) _mayReceive(payee);
        (_payees[msg.sender], _signers[msg.sender]) = (payee, signer);
        address key = signerOf(msg.sender);
        // A stolen receipt key must not be the wallet that the money goes to.
        if (payeeOf(msg.sender) == key) revert SameKey(key);
        emit ProviderSet(msg.sender, payee, signer);
    }

    /// @inheritdoc IComputeEscrow
    function collect(address to) external nonReentrant returns (uint64 units) {
        _mayReceive(to);
        units = owed[msg.sender];
        if (units == 0) revert ZeroAmount();
        owed[msg.sender] = 0;
        emit Collected(msg.sender, to, units);
        TOKEN.safeTransfer(to, units * SCALE);
    }

    function _afterNotice() private view returns (uint40) {
        return uint40(block.timestamp) + NOTICE;
    }
}
