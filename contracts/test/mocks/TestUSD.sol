// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {Eip3009} from "./Eip3009.sol";

/// @title Stablecoin of the lab and the tests; anybody mints, so it is worth nothing anywhere
/// @notice Answers EIP-2612 permits and EIP-3009 authorizations; EIP-712 domain "Test USD", version "1"
contract TestUSD is ERC20("Test USD", "tUSD"), ERC20Permit("Test USD"), Eip3009 {
    function decimals() public pure override returns (uint8) {
        return 6;
    }

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}
