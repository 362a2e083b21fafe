"""The only IO: API servers, the chain, the ledger, metrics; each implements a Protocol of ports/."""
