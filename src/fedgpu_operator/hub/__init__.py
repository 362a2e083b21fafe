"""The hub side: loops that load state, decide on it with the pure core, and apply guarded writes."""
