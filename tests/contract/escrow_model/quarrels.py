"""The other half of the model: disputes of debits, and exits without a settler."""

from __future__ import annotations

from collections.abc import Mapping

from tests.contract.escrow_model.model import (
    CHALLENGE,
    EXIT_AFTER,
    NOBODY,
    RULING,
    Books,
    Dispute,
    Exit,
    Model,
    must,
)


def bond_for(amount: int) -> int:
    """A twentieth, at least one dollar."""
    return max(1_000_000, amount // 20)


def tenants_share(bond: int, part: int, whole: int) -> int:
    """The part of a bond that goes back, rounded up."""
    return -(-bond * part // whole)


class FullModel(Model):
    """With disputes and exits."""

    def dispute(self, name: str, provider: str, amount: int) -> None:
        must(self.in_window and amount > 0 and (self.head, name, provider) not in self.disputes)
        tenant, epoch = self.roll(name), self.epochs[self.head]
        must(amount <= tenant.pending)
        floor = 0
        if provider == NOBODY:
            tenant.held += amount
        else:
            books, line = self.books[name, provider], epoch.lines[name, provider]
            must(amount <= books.unpaid(line))
            books.reserved += amount
            floor = line - amount
        tenant.pending -= amount
        epoch.disputed[name] = epoch.disputed.get(name, 0) + amount
        bond = bond_for(amount)
        self.inflow += bond
        self.disputes[self.head, name, provider] = Dispute(self.head, name, provider, amount, bond, floor)

    def answer(self, epoch: int, name: str, provider: str, receipts: Mapping[str, int]) -> None:
        """`receipts` are cumulative amounts by provider, all with good signatures."""
        must((epoch, name, provider) in self.disputes)
        dispute = self.disputes[epoch, name, provider]
        must(not dispute.ruled and self.clock < self.epochs[epoch].active_at + RULING // 2)
        backed = self._backed(dispute, receipts) if provider == NOBODY else receipts[provider] - dispute.floor
        dispute.shown = max(dispute.shown, min(backed, dispute.amount))

    def _backed(self, dispute: Dispute, receipts: Mapping[str, int]) -> int:
        """What root and receipts agree on beyond what pairs, account and other answered disputes cover."""
        lines = self.epochs[dispute.epoch].lines
        agreed = sum(
            self.books[dispute.tenant, provider].unpaid(min(total, lines[dispute.tenant, provider]))
            for provider, total in receipts.items()
        )
        tenant = self.roll(dispute.tenant)
        covered = tenant.allocated + (tenant.pending if tenant.epoch == dispute.epoch else 0)
        covered += sum(
            other.shown
            for other in self.disputes.values()
            if other is not dispute and other.tenant == dispute.tenant and other.provider == NOBODY
        )
        return agreed - covered

    def rule(self, epoch: int, name: str, provider: str, refund: int) -> None:
        must((epoch, name, provider) in self.disputes)
        dispute, period = self.disputes[epoch, name, provider], self.epochs[epoch]
        must(not dispute.ruled and not period.cancelled and refund <= dispute.amount)
        must(period.active_at <= self.clock < period.active_at + RULING)
        most = dispute.amount - refund
        dispute.ruled = True
        if dispute.shown > most:
            dispute.forfeited, dispute.shown = dispute.shown - most, most

    def close(self, epoch: int, name: str, provider: str) -> None:
        must(not self.paused and (epoch, name, provider) in self.disputes)
        dispute, period = self.disputes[epoch, name, provider], self.epochs[epoch]
        must(period.cancelled or dispute.ruled or self.clock >= period.active_at + RULING)
        refund = dispute.amount if period.cancelled else dispute.amount - dispute.shown
        tenant = self.roll(name)
        if provider == NOBODY:
            tenant.held -= dispute.amount
        else:
            self._release(self.books[name, provider], dispute, refund, cancelled=period.cancelled)
        tenant.balance += refund
        tenant.allocated += dispute.amount - refund
        self._split(name, provider if provider != NOBODY else self.reserve, dispute.bond, refund, dispute.amount)
        del self.disputes[epoch, name, provider]

    def _release(self, books: Books, dispute: Dispute, refund: int, *, cancelled: bool) -> None:
        books.reserved -= dispute.amount
        books.deducted += dispute.forfeited
        # Roots that stand on the reservation count on money that has gone back, unless that is deducted.
        if (self.last > dispute.epoch) if cancelled else (refund > dispute.forfeited):
            books.dead = self.last

    def _split(self, tenant: str, other: str, bond: int, refund: int, amount: int) -> None:
        back = tenants_share(bond, refund, amount)
        self.owed[tenant] += back
        self.owed[other] += bond - back

    # ------------------------------------------------------------------ exits

    def exit(self, name: str, provider: str, cumulative: int, period_end: int) -> int:
        """Units drawn from the tenant's free balance."""
        paused_after = max(0, self.paused_until - max(self.paused_at, period_end))
        must(not self.paused and self.now >= period_end + EXIT_AFTER + paused_after)
        must((name, provider) not in self.exits)
        tenant, books = self.roll(name), self.books[name, provider]
        wanted = books.unpaid(cumulative)
        set_aside = min(wanted, tenant.allocated)
        drawn = 0
        if self.clock >= tenant.exit_from:
            drawn = min(wanted - set_aside, tenant.limit, tenant.balance)
        must(set_aside + drawn > 0)
        tenant.allocated -= set_aside
        tenant.balance -= drawn
        if drawn:
            tenant.exit_from = self.clock + CHALLENGE
        books.reserved += set_aside + drawn
        self.seq += 1
        self.exits[name, provider] = Exit(name, provider, set_aside + drawn, self.clock + CHALLENGE)
        return drawn

    def dispute_exit(self, name: str, provider: str) -> None:
        must((name, provider) in self.exits)
        leaving = self.exits[name, provider]
        must(leaving.bond == 0 and self.clock < leaving.active_at)
        leaving.bond = bond_for(leaving.amount)
        self.inflow += leaving.bond

    def rule_exit(self, name: str, provider: str, refund: int) -> None:
        must((name, provider) in self.exits)
        leaving = self.exits[name, provider]
        must(leaving.bond > 0 and not leaving.ruled and refund <= leaving.amount)
        must(leaving.active_at <= self.clock < leaving.active_at + RULING)
        leaving.ruled, leaving.refund = True, refund

    def finish_exit(self, name: str, provider: str) -> None:
        must(not self.paused and (name, provider) in self.exits)
        leaving = self.exits[name, provider]
        waits = RULING if leaving.bond and not leaving.ruled else 0
        must(self.clock >= leaving.active_at + waits)
        tenant, books = self.roll(name), self.books[name, provider]
        books.reserved -= leaving.amount
        books.paid += leaving.amount - leaving.refund
        books.deducted += leaving.refund
        tenant.balance += leaving.refund
        self.outflow += leaving.amount - leaving.refund
        if leaving.bond:
            self._split(name, provider, leaving.bond, leaving.refund, leaving.amount)
        del self.exits[name, provider]
