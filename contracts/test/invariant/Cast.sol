// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {IComputeEscrow as I} from "../../src/interfaces/IComputeEscrow.sol";
import {OddToken} from "../mocks/Tokens.sol";
import {Test} from "../utils/Test.sol";

interface Signing {
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function addr(uint256 key) external pure returns (address);
}

interface IEscrow is I, IAccessControl {
    function METER() external view returns (bytes32);
}

/// @dev A wallet in code that accepts what its owner's key has signed (ERC-1271).
contract Wallet {
    address private immutable _owner;

    constructor(address owner) {
        _owner = owner;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        (bytes32 r, bytes32 s, uint8 v) =
            (bytes32(signature[:32]), bytes32(signature[32:64]), uint8(signature[64]));
        return ecrecover(digest, v, r, s) == _owner ? this.isValidSignature.selector : bytes4(0);
    }
}

/// @dev Who plays in the stateful tests, the stage they play on, and the words in which they sign.
abstract contract Cast is Test {
    uint40 internal constant CHALLENGE = 1 hours;
    uint40 internal constant RULING = 4 hours;
    uint40 internal constant EXIT_AFTER = 3 hours;
    uint40 internal constant LONGEST_EPOCH = 1 hours;
    uint40 internal constant NOTICE = LONGEST_EPOCH + 2 * CHALLENGE + RULING + 3 days + 1 days;
    uint40 internal constant START = 1_700_000_000;
    uint256 internal constant METER_KEY = 0x3e7e4;
    uint256 internal constant P_KEY = 0x9001;
    uint256 internal constant Q_KEY = 0x9002;
    bytes32 internal constant RECEIPT = keccak256(
        "Receipt(address tenant,address provider,uint64 cumulative,uint40 periodEnd,bytes32 usageRoot)"
    );
    Signing internal constant CHEATS = Signing(address(uint160(uint256(keccak256("hevm cheat code")))));

    address internal settler = named("settler");
    address internal guardian = named("guardian");
    address internal arbiter = named("arbiter");
    address internal reserve = named("reserve");
    address internal anybody = named("anybody");
    address internal till = named("till");
    address internal meter = CHEATS.addr(METER_KEY);
    /// @dev The first is served honestly by all; on the others the settler, and meter and provider, may lie.
    address[3] internal tenants = [named("alice"), named("bob"), named("carol")];
    address[2] internal providers = [named("provider p"), named("provider q")];

    OddToken internal token;
    IEscrow internal escrow;
    uint256 internal scale;

    function raise(uint8 decimals) internal {
        vm.warp(START);
        token = new OddToken(decimals);
        scale = 10 ** (decimals - 6);
        I.Config memory config = I.Config({
            token: IERC20Metadata(address(token)),
            admin: named("admin"),
            settler: settler,
            meter: meter,
            arbiter: arbiter,
            guardian: guardian,
            reserve: reserve,
            challenge: CHALLENGE,
            notice: NOTICE,
            ruling: RULING,
            exitAfter: EXIT_AFTER,
            longestEpoch: LONGEST_EPOCH
        });
        bytes memory code =
            abi.encodePacked(vm.getCode("ComputeEscrow.sol:ComputeEscrow"), abi.encode(config));
        IEscrow made;
        assembly {
            made := create(0, add(code, 32), mload(code))
        }
        yes(address(made) != address(0), "the escrow was deployed");
        escrow = made;
        vm.prank(providers[0]);
        escrow.setProvider(address(0), CHEATS.addr(P_KEY));
        address wallet = address(new Wallet(CHEATS.addr(Q_KEY)));
        vm.prank(providers[1]);
        escrow.setProvider(address(0), wallet);
        for (uint256 i = 0; i < 3; ++i) {
            vm.prank(tenants[i]);
            token.approve(address(escrow), type(uint256).max);
        }
    }

    function receiptOf(address tenant, address provider, uint64 cumulative, uint40 periodEnd)
        internal
        view
        returns (I.Receipt memory receipt, I.Signatures memory sigs)
    {
        receipt = I.Receipt(tenant, provider, cumulative, periodEnd, keccak256("usage"));
        bytes32 digest = digestOf(receipt);
        sigs = I.Signatures(
            meter, signed(METER_KEY, digest), signed(provider == providers[0] ? P_KEY : Q_KEY, digest)
        );
    }

    /// @dev EIP-712 by hand, so that the contract's own digest is checked and not assumed.
    function digestOf(I.Receipt memory r) internal view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256(
                    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                ),
                keccak256("fedgpu ComputeEscrow"),
                keccak256("1"),
                block.chainid,
                address(escrow)
            )
        );
        bytes32 content =
            keccak256(abi.encode(RECEIPT, r.tenant, r.provider, r.cumulative, r.periodEnd, r.usageRoot));
        return keccak256(abi.encodePacked(hex"1901", domain, content));
    }

    function signed(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = CHEATS.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function leafOf(address provider, I.Line[] memory lines) internal pure returns (bytes32) {
        bytes memory packed;
        for (uint256 i = 0; i < lines.length; ++i) {
            packed = abi.encodePacked(packed, uint32(0), lines[i].tenant, lines[i].cumulative);
        }
        return keccak256(abi.encodePacked(keccak256(abi.encode(provider, keccak256(packed)))));
    }

    function node(bytes32 a, bytes32 b) internal pure returns (bytes32) {
        return a < b ? keccak256(abi.encodePacked(a, b)) : keccak256(abi.encodePacked(b, a));
    }

    /// @dev Four leaves: all three tenants' lines of the first provider, then each tenant's of the second by itself.
    function treeOf(uint64[6] memory totals) internal view returns (bytes32 root, I.Credit[] memory credits) {
        credits = new I.Credit[](4);
        bytes32[] memory leafs = new bytes32[](4);
        for (uint256 i = 0; i < 4; ++i) {
            I.Line[] memory lines = new I.Line[](i == 0 ? 3 : 1);
            for (uint256 j = 0; j < lines.length; ++j) {
                lines[j] = i == 0 ? I.Line(tenants[j], totals[j]) : I.Line(tenants[i - 1], totals[i + 2]);
            }
            credits[i] = I.Credit(providers[i == 0 ? 0 : 1], lines, new bytes32[](2));
            leafs[i] = leafOf(credits[i].provider, lines);
        }
        (bytes32 left, bytes32 right) = (node(leafs[0], leafs[1]), node(leafs[2], leafs[3]));
        for (uint256 i = 0; i < 4; ++i) {
            (credits[i].proof[0], credits[i].proof[1]) = (leafs[i ^ 1], i < 2 ? right : left);
        }
        root = node(left, right);
    }

    /// @dev Which credit and which of its lines is the pair's in such a tree.
    function placeOf(uint256 tenant, uint256 provider) internal pure returns (uint256 credit, uint256 line) {
        credit = provider == 0 ? 0 : tenant + 1;
        line = provider == 0 ? tenant : 0;
    }
}
