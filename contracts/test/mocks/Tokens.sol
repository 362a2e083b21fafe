// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {Eip3009} from "./Eip3009.sol";

/// @dev A token with switchable vices: other decimals, a ban list, false instead of revert, a fee, a call back.
contract OddToken is ERC20("Odd", "ODD"), ERC20Permit("Odd"), Eip3009 {
    uint8 private immutable _decimals;
    mapping(address who => bool) public banned;
    bool public answersFalse;
    uint256 public fee;
    address public reenter;
    bytes public reenterCall;
    bool public reentered;

    constructor(uint8 decimals_) {
        _decimals = decimals_;
    }

    function decimals() public view override returns (uint8) {
        return _decimals;
    }

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function ban(address who, bool yes) external {
        banned[who] = yes;
    }

    function answerFalse(bool yes) external {
        answersFalse = yes;
    }

    function setFee(uint256 fee_) external {
        fee = fee_;
    }

    function reenterOnTransfer(address target, bytes calldata call) external {
        (reenter, reenterCall) = (target, call);
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        if (answersFalse) return false;
        return super.transfer(to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) public override returns (bool) {
        if (answersFalse) return false;
        return super.transferFrom(from, to, amount);
    }

    function _update(address from, address to, uint256 amount) internal override {
        require(!banned[to], "banned");
        super._update(from, to, amount);
        if (fee != 0 && from != address(0) && to != address(0)) super._update(to, address(0), fee);
        if (reenter != address(0) && from != address(0)) {
            (bool ok,) = reenter.call(reenterCall);
            reentered = reentered || ok;
        }
    }
}
