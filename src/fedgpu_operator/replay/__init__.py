"""Replay of cluster traces: recorded tasks through our placement and through others, in virtual time."""
