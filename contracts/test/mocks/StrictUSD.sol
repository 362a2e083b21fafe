// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

/// @title A stablecoin that behaves as USDC (FiatTokenV2_2) does; anybody mints, pauses and blacklists
/// @notice Refuses in `Error(string)` with the words that people know from USDC. EIP-3009 with both forms of a
/// signature, by ERC-1271 alone for every account that has code. EIP-712 domain "Strict USD", version "2" with the chain's
/// id; or, `salted`, version "1" with the id as salt and in no other place, as bridged USDC on Polygon has it.
contract StrictUSD is IERC20 {
    bytes32 private constant RECEIVE = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    bytes32 private constant BY_CHAIN_ID =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant BY_SALT =
        keccak256("EIP712Domain(string name,string version,address verifyingContract,bytes32 salt)");

    string public constant name = "Strict USD";
    string public constant symbol = "sUSD";
    uint8 public constant decimals = 6;
    bool public immutable salted;

    uint256 public totalSupply;
    bool public paused;
    mapping(address who => uint256) public balanceOf;
    mapping(address owner => mapping(address spender => uint256)) public allowance;
    mapping(address who => bool) public isBlacklisted;
    mapping(address from => mapping(bytes32 nonce => bool)) public authorizationState;

    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);

    modifier whenNotPaused() {
        require(!paused, "Pausable: paused");
        _;
    }

    constructor(bool salted_) {
        salted = salted_;
    }

    function mint(address to, uint256 amount) external {
        totalSupply += amount;
        balanceOf[to] += amount;
        emit Transfer(address(0), to, amount);
    }

    function pause(bool yes) external {
        paused = yes;
    }

    function blacklist(address who, bool yes) external {
        isBlacklisted[who] = yes;
    }

    function approve(address spender, uint256 value) external whenNotPaused returns (bool) {
        _listed(msg.sender, spender);
        allowance[msg.sender][spender] = value;
        emit Approval(msg.sender, spender, value);
        return true;
    }

    function transfer(address to, uint256 value) external whenNotPaused returns (bool) {
        _move(msg.sender, to, value);
        return true;
    }

    function transferFrom(address from, address to, uint256 value) external whenNotPaused returns (bool) {
        _listed(msg.sender, from);
        uint256 allowed = allowance[from][msg.sender];
        require(value <= allowed, "ERC20: transfer amount exceeds allowance");
        _move(from, to, value);
        allowance[from][msg.sender] = allowed - value;
        return true;
    }

    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        _receive(from, to, value, validAfter, validBefore, nonce, abi.encodePacked(r, s, v));
    }

    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external {
        _receive(from, to, value, validAfter, validBefore, nonce, signature);
    }

    // forge-lint: disable-next-line(mixed-case-function)
    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        bytes32 named = keccak256(bytes(name));
        bytes32 versioned = keccak256(bytes(_version()));
        if (salted) {
            return keccak256(abi.encode(BY_SALT, named, versioned, address(this), bytes32(block.chainid)));
        }
        return keccak256(abi.encode(BY_CHAIN_ID, named, versioned, block.chainid, address(this)));
    }

    function version() external view returns (string memory) {
        return _version();
    }

    function _version() private view returns (string memory) {
        return salted ? "1" : "2";
    }

    function _receive(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) private whenNotPaused {
        require(to == msg.sender, "FiatTokenV2: caller must be the payee");
        require(block.timestamp > validAfter, "FiatTokenV2: authorization is not yet valid");
        require(block.timestamp < validBefore, "FiatTokenV2: authorization is expired");
        require(!authorizationState[from][nonce], "FiatTokenV2: authorization is used or canceled");
        bytes32 message = keccak256(abi.encode(RECEIVE, from, to, value, validAfter, validBefore, nonce));
        bytes32 digest = keccak256(abi.encodePacked("\x19\x01", DOMAIN_SEPARATOR(), message));
        require(
            SignatureChecker.isValidSignatureNow(from, digest, signature), "FiatTokenV2: invalid signature"
        );
        authorizationState[from][nonce] = true;
        emit AuthorizationUsed(from, nonce);
        _move(from, to, value);
    }

    function _move(address from, address to, uint256 value) private {
        _listed(from, to);
        require(to != address(0), "ERC20: transfer to the zero address");
        require(value <= balanceOf[from], "ERC20: transfer amount exceeds balance");
        balanceOf[from] -= value;
        balanceOf[to] += value;
        emit Transfer(from, to, value);
    }

    function _listed(address one, address other) private view {
        require(!isBlacklisted[one] && !isBlacklisted[other], "Blacklistable: account is blacklisted");
    }
}
