// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {IComputeEscrow as I} from "../../src/interfaces/IComputeEscrow.sol";
import {OddToken} from "../mocks/Tokens.sol";
import {Leaves} from "./Leaves.sol";
import {Test} from "./Test.sol";

/// @dev What the contract answers beside its interface.
interface IEscrow is I, IAccessControl {
    function TOKEN() external view returns (address);
    function SCALE() external view returns (uint256);
    function RESERVE() external view returns (address);
    function LONGEST_EPOCH() external view returns (uint40);
    function SETTLER() external view returns (bytes32);
    function METER() external view returns (bytes32);
    function ARBITER() external view returns (bytes32);
    function GUARDIAN() external view returns (bytes32);
    function DEFAULT_ADMIN_ROLE() external view returns (bytes32);
}

/// @dev One escrow with its roles, three tenants and two providers; the words in which the tests speak.
abstract contract EscrowTest is Test {
    uint40 internal constant CHALLENGE = 1 hours;
    uint40 internal constant RULING = 2 days;
    uint40 internal constant EXIT_AFTER = 1 days;
    uint40 internal constant LONGEST_EPOCH = 12 hours;
    uint40 internal constant MAX_PAUSE = 3 days;
    uint40 internal constant COOLDOWN = 30 days;
    uint40 internal constant NOTICE = LONGEST_EPOCH + 2 * CHALLENGE + RULING + MAX_PAUSE + 1 days;
    uint40 internal constant START = 1_700_000_000;
    uint64 internal constant MIN_BOND = 1_000_000;
    uint256 internal constant METER_KEY = 0x3e7e4;
    uint256 internal constant P_KEY = 0x9001;
    uint256 internal constant Q_KEY = 0x9002;
    address internal constant NOBODY = address(0);
    bytes32 internal constant EVIDENCE = keccak256("evidence");

    address internal settler = named("settler");
    address internal guardian = named("guardian");
    address internal arbiter = named("arbiter");
    address internal admin = named("admin");
    address internal reserve = named("reserve");
    address internal meter = vm.addr(METER_KEY);
    address internal alice = named("alice");
    address internal bob = named("bob");
    address internal carol = named("carol");
    address internal p = named("provider p");
    address internal q = named("provider q");

    OddToken internal token;
    IEscrow internal escrow;
    /// @dev The leaves that a test keeps for later.
    I.Credit[] internal kept;

    function start(uint8 decimals) internal {
        vm.warp(START);
        token = new OddToken(decimals);
        escrow = deploy(standard());
        vm.prank(p);
        escrow.setProvider(NOBODY, vm.addr(P_KEY));
        vm.prank(q);
        escrow.setProvider(NOBODY, vm.addr(Q_KEY));
    }

    function standard() internal view returns (I.Config memory) {
        return I.Config({
            token: IERC20Metadata(address(token)),
            admin: admin,
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
    }

    function deploy(I.Config memory config) internal returns (IEscrow) {
        return IEscrow(deployed("ComputeEscrow.sol:ComputeEscrow", abi.encode(config)));
    }

    // ------------------------------------------------------------------ acts

    function fund(address tenant, uint64 units, uint48 limit) internal {
        give(tenant, units);
        vm.startPrank(tenant);
        escrow.deposit(tenant, units);
        escrow.setSpendLimit(limit);
        vm.stopPrank();
    }

    /// @dev Tokens in somebody's wallet that the escrow may take.
    function give(address who, uint64 units) internal {
        uint256 amount = units * escrow.SCALE();
        token.mint(who, amount);
        uint256 allowed = token.allowance(who, address(escrow));
        vm.prank(who);
        token.approve(address(escrow), allowed + amount);
    }

    function post(bytes32 root, I.Debit[] memory debits) internal returns (uint32) {
        uint40 seq = escrow.state().seq;
        bytes32 prev = headRoot();
        vm.prank(settler);
        return escrow.postEpoch(seq, prev, root, keccak256("manifest"), uint40(block.timestamp), debits);
    }

    /// @dev Posts one line of one tenant and provider; the credits to claim it come back.
    function postLine(address tenant, address provider, uint64 cumulative, uint48 amount)
        internal
        returns (uint32 epoch, I.Credit[] memory leaves)
    {
        I.Line[] memory lines = Leaves.line(tenant, cumulative);
        epoch = post(Leaves.leaf(provider, lines), debit(tenant, amount));
        leaves = Leaves.one(provider, lines);
    }

    /// @dev Posts one line of alice to p and one to q.
    function postBoth(uint64 toP, uint64 toQ, uint48 amount)
        internal
        returns (uint32 epoch, I.Credit[] memory leaves)
    {
        bytes32 root;
        (root, leaves) = Leaves.two(p, Leaves.line(alice, toP), q, Leaves.line(alice, toQ));
        epoch = post(root, debit(alice, amount));
    }

    /// @dev Member by member: the pipeline that compiles the tests cannot copy them whole.
    function keep(I.Credit memory credit) internal {
        I.Credit storage made = kept.push();
        (made.provider, made.proof) = (credit.provider, credit.proof);
        for (uint256 i = 0; i < credit.lines.length; ++i) {
            made.lines.push(credit.lines[i]);
        }
    }

    function cancel(uint32 epoch) internal {
        vm.prank(guardian);
        escrow.cancelEpoch(epoch);
    }

    function disputeDebit(address tenant, uint64 amount) internal {
        give(tenant, escrow.bondFor(amount));
        vm.prank(tenant);
        escrow.dispute(NOBODY, amount, EVIDENCE, new I.Line[](0), 0, new bytes32[](0));
    }

    function disputeLine(address tenant, I.Credit memory credit, uint64 amount) internal {
        give(tenant, escrow.bondFor(amount));
        vm.prank(tenant);
        escrow.dispute(credit.provider, amount, EVIDENCE, credit.lines, 0, credit.proof);
    }

    function answerLine(uint32 epoch, address tenant, address provider, uint64 cumulative) internal {
        escrow.answer(epoch, tenant, provider, shownBy(tenant, provider, cumulative));
    }

    function rule(uint32 epoch, address tenant, address provider, uint64 refund) internal {
        vm.prank(arbiter);
        escrow.rule(epoch, tenant, provider, refund);
    }

    function leave(address tenant, address provider, uint64 cumulative, uint40 periodEnd) internal {
        (I.Receipt memory receipt, I.Signatures memory sigs) =
            receiptOf(tenant, provider, cumulative, periodEnd);
        vm.prank(provider);
        escrow.exit(receipt, sigs);
    }

    function disputeExit(address tenant, address provider) internal {
        give(tenant, escrow.bondFor(escrow.exitOf(tenant, provider).amount));
        vm.prank(tenant);
        escrow.disputeExit(provider, EVIDENCE);
    }

    function pause() internal {
        vm.prank(guardian);
        escrow.pause();
    }

    function pass(uint256 span) internal {
        vm.warp(block.timestamp + span);
    }

    // ------------------------------------------------------------------ things

    function debit(address tenant, uint48 amount) internal pure returns (I.Debit[] memory debits) {
        debits = new I.Debit[](1);
        debits[0] = I.Debit(tenant, amount);
    }

    function debit(address one, uint48 first, address other, uint48 second)
        internal
        pure
        returns (I.Debit[] memory debits)
    {
        debits = new I.Debit[](2);
        (debits[0], debits[1]) = (I.Debit(one, first), I.Debit(other, second));
    }

    function receiptOf(address tenant, address provider, uint64 cumulative, uint40 periodEnd)
        internal
        view
        returns (I.Receipt memory receipt, I.Signatures memory sigs)
    {
        receipt = I.Receipt(tenant, provider, cumulative, periodEnd, keccak256("usage"));
        bytes32 digest = escrow.receiptDigest(receipt);
        sigs =
            I.Signatures(meter, signedBy(METER_KEY, digest), signedBy(provider == p ? P_KEY : Q_KEY, digest));
    }

    function answerOf(address tenant, I.Credit memory credit, uint64 cumulative)
        internal
        view
        returns (I.Answer memory)
    {
        (I.Receipt memory receipt, I.Signatures memory sigs) =
            receiptOf(tenant, credit.provider, cumulative, START);
        return I.Answer(credit.provider, credit.lines, 0, credit.proof, receipt, sigs);
    }

    /// @dev A receipt without a line, as it answers a dispute that names its provider.
    function shownBy(address tenant, address provider, uint64 cumulative)
        internal
        view
        returns (I.Answer[] memory answers)
    {
        I.Credit memory none = I.Credit(provider, new I.Line[](0), new bytes32[](0));
        answers = new I.Answer[](1);
        answers[0] = answerOf(tenant, none, cumulative);
    }

    // ------------------------------------------------------------------ looks

    function headRoot() internal view returns (bytes32) {
        return escrow.epochOf(escrow.state().head).root;
    }

    function holds(address tenant, uint64 balance, uint64 allocated, uint48 pending) internal view {
        I.Account memory account = escrow.accountOf(tenant);
        eq(account.balance, balance, "balance");
        eq(account.allocated, allocated, "allocated");
        eq(account.pending, pending, "pending");
    }

    function pairIs(address tenant, address provider, uint64 paid, uint64 deducted, uint64 reserved)
        internal
        view
    {
        I.Pair memory pair = pairOf(tenant, provider);
        eq(pair.paid, paid, "paid");
        eq(pair.deducted, deducted, "deducted");
        eq(pair.reserved, reserved, "reserved");
    }

    function pairOf(address tenant, address provider) internal view returns (I.Pair memory) {
        address[] memory tenants = new address[](1);
        address[] memory providers = new address[](1);
        (tenants[0], providers[0]) = (tenant, provider);
        return escrow.pairsOf(tenants, providers)[0];
    }

    function heldOf(address tenant) internal view returns (uint64) {
        address[] memory tenants = new address[](1);
        tenants[0] = tenant;
        return escrow.heldOf(tenants)[0];
    }

    function shownOf(uint32 epoch, address tenant, address provider) internal view returns (uint64) {
        return escrow.disputeOf(epoch, tenant, provider).shown;
    }

    function missing(address account, bytes32 role) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, account, role);
    }

    /// @dev Every token that the escrow holds stands in exactly one of its books.
    modifier conserves() {
        _;
        uint256 sum = escrow.owed(reserve);
        address[3] memory tenants = [alice, bob, carol];
        address[3] memory providers = [NOBODY, p, q];
        for (uint256 i = 0; i < 3; ++i) {
            I.Account memory account = escrow.accountOf(tenants[i]);
            sum += uint256(account.balance) + account.allocated + account.pending + heldOf(tenants[i]);
            sum += escrow.owed(tenants[i]) + (i == 0 ? 0 : escrow.owed(providers[i]));
            for (uint256 j = 0; j < 3; ++j) {
                sum += pairOf(tenants[i], providers[j]).reserved
                + escrow.exitOf(tenants[i], providers[j]).bond;
                for (uint32 n = 1; n <= escrow.state().last; ++n) {
                    sum += escrow.disputeOf(n, tenants[i], providers[j]).bond;
                }
            }
        }
        eq(token.balanceOf(address(escrow)), sum * escrow.SCALE(), "token balance = sum of the books");
    }
}
