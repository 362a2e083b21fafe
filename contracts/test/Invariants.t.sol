// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow as I} from "../src/interfaces/IComputeEscrow.sol";
import {OddToken} from "./mocks/Tokens.sol";
import {EscrowTest, IEscrow} from "./utils/EscrowTest.sol";
import {Leaves} from "./utils/Leaves.sol";

/// @dev Plays tenants, a settler that sometimes lies, a guardian and keepers, and keeps its own books of it.
contract Handler is EscrowTest {
    address[3] public tenants;
    address[2] public providers;
    mapping(address tenant => mapping(address provider => uint64)) public stated;
    mapping(address tenant => uint256) public activated;
    mapping(address tenant => mapping(address provider => uint64)) public lastPaid;
    mapping(bytes4 call => uint256) public reached;
    uint256 public deposited;
    uint256 public withdrawn;
    uint40 public lastSeq;
    uint256 public jumps;
    uint256 public skips;
    uint256 public wrong;

    mapping(uint32 epoch => I.Credit[]) private _credits;
    mapping(uint32 epoch => I.Debit[]) private _debits;
    uint32 private _counted;

    constructor() {
        start(6);
        tenants = [alice, bob, named("carol")];
        providers = [p, q];
    }

    function theEscrow() external view returns (IEscrow) {
        return escrow;
    }

    function theToken() external view returns (OddToken) {
        return token;
    }

    function deposit(uint256 who, uint64 units, uint48 limit) external {
        address tenant = tenants[who % 3];
        units = uint64(bound(units, 1, 1e12));
        fund(tenant, units, limit);
        deposited += units;
        reached[msg.sig]++;
    }

    function withdraw(uint256 who, uint64 units, bool ask, bool home) external {
        address tenant = tenants[who % 3];
        vm.prank(tenant);
        if (ask) {
            escrow.requestWithdraw(units);
        } else {
            withdrawn += escrow.withdraw(home ? address(escrow) : tenant);
            reached[msg.sig]++;
        }
    }

    function lower(uint256 who, uint48 limit, bool ask) external {
        vm.prank(tenants[who % 3]);
        if (ask) escrow.setSpendLimit(limit);
        else escrow.applySpendLimit();
    }

    function aim(bool ofP, uint256 where) external {
        address[4] memory wallets = [address(escrow), address(token), address(0), named("till")];
        vm.prank(ofP ? p : q);
        escrow.setProvider(wallets[where % 4]);
    }

    /// @dev The settler's debits may be larger than what is there; `greedy` says whose.
    function post(uint64[6] calldata cumulatives, uint48[3] calldata amounts, uint8 greedy) external {
        I.Line[] memory forP = new I.Line[](3);
        I.Line[] memory forQ = new I.Line[](3);
        I.Debit[] memory wanted = new I.Debit[](3);
        uint256 count;
        for (uint256 i = 0; i < 3; ++i) {
            forP[i] = I.Line(tenants[i], cumulatives[i] % 1e13);
            forQ[i] = I.Line(tenants[i], cumulatives[i + 3] % 1e13);
            I.Account memory account = escrow.accountOf(tenants[i]);
            uint256 most = account.balance < account.limit ? account.balance : account.limit;
            uint48 amount = uint48(bound(amounts[i], 0, most));
            if (greedy >> i & 1 == 1) amount = uint48(bound(amounts[i], most + 1, type(uint48).max));
            if (amount != 0) wanted[count++] = I.Debit(tenants[i], amount);
        }
        I.Debit[] memory debits = new I.Debit[](count);
        for (uint256 i = 0; i < count; ++i) {
            debits[i] = wanted[i];
        }
        (bytes32 root, I.Credit[] memory credits) = Leaves.two(p, forP, q, forQ);
        I.Account[3] memory before = _accounts();
        uint32 epoch = post(root, debits);
        _record(epoch, debits, before);
        for (uint256 i = 0; i < 2; ++i) {
            _credits[epoch].push();
            I.Credit storage credit = _credits[epoch][i];
            (credit.provider, credit.proof) = (credits[i].provider, credits[i].proof);
            for (uint256 j = 0; j < 3; ++j) {
                I.Line memory line = credits[i].lines[j];
                credit.lines.push(line);
                if (line.cumulative > stated[line.tenant][credit.provider]) {
                    stated[line.tenant][credit.provider] = line.cumulative;
                }
            }
        }
        reached[msg.sig]++;
    }

    /// @dev Each debit was taken whole or not at all, by its own tenant's account alone. A failure here would only
    /// undo the call, so it is counted for an invariant to see.
    function _record(uint32 epoch, I.Debit[] memory debits, I.Account[3] memory before) private {
        I.Account[3] memory then = _accounts();
        uint256 total;
        for (uint256 i = 0; i < 3; ++i) {
            uint48 amount;
            for (uint256 j = 0; j < debits.length; ++j) {
                if (debits[j].tenant == tenants[i]) amount = debits[j].amount;
            }
            if (amount > before[i].balance || amount > before[i].limit) {
                amount = 0;
                skips++;
            }
            if (amount != 0) _debits[epoch].push(I.Debit(tenants[i], amount));
            total += amount;
            bool right = then[i].balance + amount == before[i].balance && then[i].pending == amount
                && then[i].allocated == before[i].allocated && then[i].limit == before[i].limit;
            if (!right) ++wrong;
        }
        if (escrow.epochOf(epoch).total != total) ++wrong;
    }

    function _accounts() private view returns (I.Account[3] memory accounts) {
        for (uint256 i = 0; i < 3; ++i) {
            accounts[i] = escrow.accountOf(tenants[i]);
        }
    }

    function cancel() external {
        uint32 head = escrow.state().head;
        vm.prank(guardian);
        escrow.cancelEpoch(head);
        reached[msg.sig]++;
    }

    function claim(uint32 any) external {
        uint32 epoch = any % 4 != 0 ? escrow.activeEpoch() : any % (escrow.state().last + 1);
        _count();
        uint256 before = _received();
        escrow.claim(epoch, _credits[epoch]);
        if (_received() > before) reached[msg.sig]++;
    }

    function _received() private view returns (uint256) {
        return token.balanceOf(p) + token.balanceOf(q) + token.balanceOf(named("till")) + escrow.owed(p)
            + escrow.owed(q);
    }

    function jump(uint256 span) external {
        pass(bound(span, 1, 2 hours));
        _count();
        ++jumps;
    }

    function leap() external {
        pass(NOTICE);
        _count();
    }

    function ban(bool yes, bool ofP) external {
        token.ban(ofP ? p : q, yes);
    }

    function collect(bool ofP) external {
        address to = named("till");
        vm.prank(ofP ? p : q);
        escrow.collect(to);
        reached[msg.sig]++;
    }

    /// @dev What active epochs have debited, from the handler's own record; called whenever time has passed.
    function _count() private {
        I.State memory s = escrow.state();
        for (uint32 n = _counted + 1; n <= s.last; ++n) {
            I.Epoch memory epoch = escrow.epochOf(n);
            if (!epoch.cancelled && block.timestamp < epoch.activeAt) return;
            _counted = n;
            if (epoch.cancelled) continue;
            for (uint256 i = 0; i < _debits[n].length; ++i) {
                activated[_debits[n][i].tenant] += _debits[n][i].amount;
            }
        }
    }

    function remember() external {
        for (uint256 i = 0; i < 3; ++i) {
            for (uint256 j = 0; j < 2; ++j) {
                lastPaid[tenants[i]][providers[j]] = paidOf(tenants[i], providers[j]);
            }
        }
        lastSeq = escrow.state().seq;
    }

    function paid(address tenant, address provider) external view returns (uint64) {
        return paidOf(tenant, provider);
    }
}

contract InvariantsTest is EscrowTest {
    Handler internal handler;

    function setUp() public {
        handler = new Handler();
        escrow = handler.theEscrow();
        token = handler.theToken();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    /// @dev A run that never got anywhere would prove nothing. Short sequences are forge's own, when it looks for the
    /// shortest one that breaks an invariant: failing those here would hide what they break.
    function afterInvariant() external view {
        if (handler.jumps() < 10) return;
        yes(handler.reached(Handler.deposit.selector) != 0, "some deposit");
        yes(handler.reached(Handler.post.selector) != 0, "some epoch");
        yes(handler.reached(Handler.claim.selector) != 0, "some payment");
        yes(handler.skips() != 0, "some skipped debit");
    }

    function invariant_money_is_conserved() public view {
        uint256 sum = escrow.owed(p) + escrow.owed(q);
        for (uint256 i = 0; i < 3; ++i) {
            I.Account memory account = escrow.accountOf(handler.tenants(i));
            sum += uint256(account.balance) + account.allocated + account.pending;
        }
        uint256 held = token.balanceOf(address(escrow));
        eq(held, sum * escrow.SCALE(), "token balance = sum of the books");
        uint256 out = token.balanceOf(p) + token.balanceOf(q) + token.balanceOf(named("till"));
        eq(held, handler.deposited() - handler.withdrawn() - out, "in - out");
    }

    function invariant_paid_within_what_was_stated_and_activated() public view {
        for (uint256 i = 0; i < 3; ++i) {
            address tenant = handler.tenants(i);
            uint256 sum = 0;
            for (uint256 j = 0; j < 2; ++j) {
                address provider = handler.providers(j);
                uint64 paid = handler.paid(tenant, provider);
                yes(paid <= handler.stated(tenant, provider), "paid <= cumulative");
                yes(paid >= handler.lastPaid(tenant, provider), "paid never falls");
                sum += paid;
            }
            yes(sum <= handler.activated(tenant), "paid <= activated debits");
        }
        yes(escrow.state().seq >= handler.lastSeq(), "seq never falls");
    }

    function invariant_a_skipped_debit_changes_nobody_elses_account() public view {
        eq(handler.wrong(), 0, "every debit whole or not at all");
    }
}
