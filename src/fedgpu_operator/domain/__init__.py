"""Frozen values that every layer speaks in; nothing here imports anything above errors."""
