// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @dev A wallet in code (ERC-1271): accepts what its owner's key signed, with the owner's address in front.
contract Wallet {
    address public owner;

    constructor(address owner_) {
        owner = owner_;
    }

    function setOwner(address owner_) external {
        owner = owner_;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        if (signature.length != 85 || address(bytes20(signature[:20])) != owner) return 0xffffffff;
        bytes32 r = bytes32(signature[20:52]);
        bytes32 s = bytes32(signature[52:84]);
        bool good = ecrecover(digest, uint8(signature[84]), r, s) == owner;
        return good ? this.isValidSignature.selector : bytes4(0xffffffff);
    }
}
