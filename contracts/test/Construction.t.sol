// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {OddToken} from "./mocks/Tokens.sol";
import {EscrowTest, IEscrow} from "./utils/EscrowTest.sol";

contract ConstructionTest is EscrowTest {
    function setUp() public {
        start(6);
    }

    function tryDeploy(I.Config calldata config) external {
        deploy(config);
    }

    function refused(I.Config memory config, bytes memory reason) internal {
        vm.expectRevert(reason);
        this.tryDeploy(config);
    }

    function test_WhenThePeriodsFit_ItKeepsThemAndTheRoles() public view {
        eq(escrow.RESERVE(), reserve, "reserve");
        eq(escrow.LONGEST_EPOCH(), LONGEST_EPOCH, "longest epoch");
        eq(escrow.SCALE(), 1, "scale");
        yes(escrow.hasRole(escrow.DEFAULT_ADMIN_ROLE(), admin), "admin");
        yes(escrow.hasRole(escrow.SETTLER(), settler), "settler");
        yes(escrow.hasRole(escrow.METER(), meter), "meter");
        yes(escrow.hasRole(escrow.ARBITER(), arbiter), "arbiter");
        yes(escrow.hasRole(escrow.GUARDIAN(), guardian), "guardian");
    }

    function test_WhenAnAddressIsZero_ItRefuses() public {
        bytes memory reason = abi.encodeWithSelector(I.ZeroAddress.selector);
        for (uint256 i = 0; i < 6; ++i) {
            I.Config memory config = standard();
            if (i == 0) config.admin = NOBODY;
            if (i == 1) config.settler = NOBODY;
            if (i == 2) config.meter = NOBODY;
            if (i == 3) config.arbiter = NOBODY;
            if (i == 4) config.guardian = NOBODY;
            if (i == 5) config.reserve = NOBODY;
            refused(config, reason);
        }
    }

    function test_WhenAPeriodIsZero_ItRefuses() public {
        for (uint256 i = 0; i < 4; ++i) {
            I.Config memory config = standard();
            uint40 least = NOTICE;
            if (i == 0) (config.challenge, least) = (0, least - 2 * CHALLENGE);
            if (i == 1) (config.ruling, least) = (0, least - RULING + EXIT_AFTER);
            if (i == 2) config.exitAfter = 0;
            if (i == 3) (config.longestEpoch, least) = (0, least - LONGEST_EPOCH);
            refused(config, abi.encodeWithSelector(I.BadPeriods.selector, NOTICE, least));
        }
    }

    function test_WhenTheNoticeIsASecondShort_ItRefuses() public {
        I.Config memory config = standard();
        config.notice -= 1;
        refused(config, abi.encodeWithSelector(I.BadPeriods.selector, NOTICE - 1, NOTICE));
    }

    function test_WhenTheExitComesLaterThanTheRuling_TheNoticeMustOutlastThat() public {
        I.Config memory config = standard();
        config.exitAfter = RULING + 1;
        refused(config, abi.encodeWithSelector(I.BadPeriods.selector, NOTICE, NOTICE + 1));
        config.notice += 1;
        deploy(config);
    }

    function test_WhenTheTokenHasOddDecimals_ItRefuses() public {
        I.Config memory config = standard();
        config.token = IERC20Metadata(address(new OddToken(5)));
        refused(config, abi.encodeWithSelector(I.UnsupportedDecimals.selector, 5));
        config.token = IERC20Metadata(address(new OddToken(19)));
        refused(config, abi.encodeWithSelector(I.UnsupportedDecimals.selector, 19));
    }

    function test_WhenTheMeterIsTheSettler_ItRefuses() public {
        I.Config memory config = standard();
        config.meter = settler;
        refused(config, abi.encodeWithSelector(I.SameKey.selector, settler));
    }
}

contract RolesTest is EscrowTest {
    bytes32 internal settling;
    bytes32 internal metering;

    function setUp() public {
        start(6);
        (settling, metering) = (escrow.SETTLER(), escrow.METER());
    }

    function test_WhenTheMeterIsToBecomeSettler_ItRefuses() public {
        vm.startPrank(admin);
        vm.expectRevert(abi.encodeWithSelector(I.SameKey.selector, meter));
        escrow.grantRole(settling, meter);
        vm.expectRevert(abi.encodeWithSelector(I.SameKey.selector, settler));
        escrow.grantRole(metering, settler);
        vm.stopPrank();
    }

    function test_WhenARoleIsGivenUpFirst_TheOtherMayFollow() public {
        vm.startPrank(admin);
        escrow.revokeRole(settling, settler);
        escrow.grantRole(metering, settler);
        vm.stopPrank();
        yes(escrow.hasRole(metering, settler), "meter");
    }

    function test_WhenNobodyOfTheAdmins_ItCannotAppoint() public {
        vm.prank(guardian);
        vm.expectRevert(missing(guardian, 0));
        escrow.grantRole(settling, guardian);
    }
}
