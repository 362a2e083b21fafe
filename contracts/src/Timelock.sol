// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

// Compiled here so that what `fedgpu chain deploy` makes the admin of both contracts ships beside them, unchanged.
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
