"""Kopf only: registration, lifecycle and wake-ups; no decision is made here."""
