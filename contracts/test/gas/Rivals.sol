// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

/// @title Pays many in one transaction, as batch senders do: nothing is kept, disputed or limited
contract Push {
    function pay(IERC20 token, address[] calldata to, uint256[] calldata amounts) external {
        uint256 total = 0;
        for (uint256 i = 0; i < to.length; ++i) {
            total += amounts[i];
        }
        require(token.transferFrom(msg.sender, address(this), total));
        for (uint256 i = 0; i < to.length; ++i) {
            require(token.transfer(to[i], amounts[i]));
        }
    }
}

/// @title Pays a fixed list once, as token distributors do: one leaf (index, account, amount), one bit each
contract Distribution {
    IERC20 public immutable TOKEN;
    bytes32 public immutable ROOT;
    mapping(uint256 word => uint256 bits) private _claimed;

    event Claimed(uint256 index, address account, uint256 amount);

    constructor(IERC20 token, bytes32 root) {
        (TOKEN, ROOT) = (token, root);
    }

    function claim(uint256 index, address account, uint256 amount, bytes32[] calldata proof) external {
        (uint256 word, uint256 bit) = (index >> 8, 1 << (index & 255));
        uint256 bits = _claimed[word];
        require(bits & bit == 0, "claimed");
        bytes32 leaf = keccak256(abi.encodePacked(index, account, amount));
        require(MerkleProof.verifyCalldata(proof, ROOT, leaf), "proof");
        _claimed[word] = bits | bit;
        require(TOKEN.transfer(account, amount));
        emit Claimed(index, account, amount);
    }
}
