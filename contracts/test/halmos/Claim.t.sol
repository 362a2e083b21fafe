// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {IComputeEscrow as I} from "../../src/interfaces/IComputeEscrow.sol";
import {ComputeEscrow} from "../../src/ComputeEscrow.sol";

/// @dev The least token that the escrow can hold; it remembers what was sent.
contract Coin {
    uint8 public constant decimals = 6;
    uint256 public sent;

    function transfer(address, uint256 amount) external returns (bool) {
        sent += amount;
        return true;
    }
}

/// @dev The escrow as it ships, with doors to put it into any state at all.
contract Opened is ComputeEscrow {
    constructor(Config memory config) ComputeEscrow(config) {}

    function put(address tenant, Account memory account) external {
        _accounts[tenant] = account;
    }

    function put(address tenant, address provider, Pair memory pair) external {
        _pairs[tenant][provider] = pair;
    }

    function put(uint32 number, Epoch memory epoch) external {
        _epochs[number] = epoch;
        _state.head = _state.last = number;
    }

    function due(Pair memory pair, uint64 cumulative) external pure returns (uint64) {
        return _due(pair, cumulative);
    }

    function split(address tenant, address other, uint64 part, uint64 amount) external returns (uint64) {
        return _splitBond(tenant, other, part, amount);
    }
}

/// @dev Proven by halmos for every input, not sampled: `check_` functions take symbolic arguments and any state.
contract ClaimHalmos {
    address private constant TENANT = address(0x71);
    address private constant OTHER = address(0x72);
    address private constant PROVIDER = address(0x91);

    Coin private _coin;
    Opened private _escrow;

    function setUp() public {
        _coin = new Coin();
        _escrow = new Opened(
            I.Config({
                token: IERC20Metadata(address(_coin)),
                admin: address(1),
                settler: address(2),
                meter: address(3),
                arbiter: address(4),
                guardian: address(5),
                reserve: address(6),
                challenge: 1 hours,
                notice: 30 days,
                ruling: 1 days,
                exitAfter: 3 days,
                longestEpoch: 1 days
            })
        );
    }

    /// @dev due = max(0, cumulative - paid - deducted - reserved) over the integers: nothing wraps, nothing reverts.
    function check_DueIsTheIntegerDifference(I.Pair memory pair, uint64 cumulative) public view {
        uint256 base = uint256(pair.paid) + uint256(pair.deducted) + uint256(pair.reserved);
        uint256 due = _escrow.due(pair, cumulative);
        assert(cumulative > base ? due == cumulative - base : due == 0);
    }

    /// @dev One line, whatever account and pair are: it pays min(due, allocated), books exactly what it sends, and
    /// touches nothing else.
    function check_OneLinePaysWhatIsDueAndThere(
        I.Account memory account,
        I.Pair memory pair,
        uint64 cumulative
    ) public {
        account.epoch = 0;
        _escrow.put(TENANT, account);
        _escrow.put(TENANT, PROVIDER, pair);
        _escrow.put(OTHER, account);
        I.Credit[] memory credits = _posted(cumulative);
        uint256 due = pair.dead >= 1 ? 0 : _escrow.due(pair, cumulative);
        if (due > account.allocated) due = account.allocated;

        _escrow.claim(1, credits);

        I.Account memory then = _escrow.accountOf(TENANT);
        I.Pair memory after_ = _pair();
        assert(_coin.sent() == due);
        assert(account.allocated - then.allocated == due);
        assert(after_.paid == pair.paid + due);
        assert(after_.deducted == pair.deducted && after_.reserved == pair.reserved);
        assert(then.balance == account.balance && then.limit == account.limit);
        assert(then.pending == account.pending);
        assert(_escrow.owed(PROVIDER) == 0);
        _unchanged(OTHER, account);
    }

    /// @dev The same claim again, at once, pays nothing.
    function check_TheSameClaimAgainPaysNothing(
        I.Account memory account,
        I.Pair memory pair,
        uint64 cumulative
    ) public {
        account.epoch = 0;
        _escrow.put(TENANT, account);
        _escrow.put(TENANT, PROVIDER, pair);
        I.Credit[] memory credits = _posted(cumulative);
        _escrow.claim(1, credits);
        uint256 sent = _coin.sent();
        I.Account memory between = _escrow.accountOf(TENANT);
        _escrow.claim(1, credits);
        assert(_coin.sent() == sent);
        _unchanged(TENANT, between);
    }

    /// @dev Whatever became of an epoch, a tenant's money is the same in sum, and pending goes to one place.
    function check_AnEpochsOutcomeMovesPendingWhole(I.Account memory account, uint40 activeAt, bool cancelled)
        public
    {
        uint256 sum = uint256(account.balance) + account.allocated + account.pending;
        // The token's supply bounds it; beyond that the addition reverts, which takes nothing.
        if (sum > type(uint64).max) return;
        account.epoch = 1;
        _escrow.put(1, I.Epoch(bytes32(uint256(1)), activeAt, 0, 0, 0, cancelled));
        _escrow.put(TENANT, account);
        I.Account memory then = _escrow.accountOf(TENANT);
        assert(uint256(then.balance) + then.allocated + then.pending == sum);
        bool open = !cancelled && _escrow.clock() < activeAt;
        assert(open ? then.pending == account.pending : then.pending == 0);
        assert(cancelled ? then.allocated == account.allocated : then.balance == account.balance);
    }

    /// @dev A bond's two parts are the bond, and the odd unit is the tenant's. Products and quotients of 64-bit symbols
    /// are beyond the solvers, so this one is proven for every amount of 12 bits, and tested by fuzz above.
    function check_ABondIsSplitWhole(uint64 part, uint64 amount) public {
        if (amount == 0 || part > amount || amount >= 1 << 12) return;
        uint256 bond = _escrow.bondFor(amount);
        uint256 back = _escrow.split(TENANT, OTHER, part, amount);
        assert(back <= bond);
        assert(_escrow.owed(TENANT) == back && _escrow.owed(OTHER) == bond - back);
        if (part == 0) assert(back == 0);
        if (part == amount) assert(back == bond);
    }

    function _posted(uint64 cumulative) private returns (I.Credit[] memory credits) {
        I.Line[] memory lines = new I.Line[](1);
        lines[0] = I.Line(TENANT, cumulative);
        bytes32 packed = keccak256(abi.encodePacked(uint32(0), TENANT, cumulative));
        bytes32 root = keccak256(abi.encodePacked(keccak256(abi.encode(PROVIDER, packed))));
        _escrow.put(1, I.Epoch(root, 0, 0, 0, 0, false));
        credits = new I.Credit[](1);
        credits[0] = I.Credit(PROVIDER, lines, new bytes32[](0));
    }

    function _pair() private view returns (I.Pair memory) {
        (address[] memory tenants, address[] memory providers) = (new address[](1), new address[](1));
        (tenants[0], providers[0]) = (TENANT, PROVIDER);
        return _escrow.pairsOf(tenants, providers)[0];
    }

    function _unchanged(address who, I.Account memory before) private view {
        I.Account memory then = _escrow.accountOf(who);
        assert(then.balance == before.balance && then.allocated == before.allocated);
        assert(then.pending == before.pending && then.limit == before.limit);
    }
}
