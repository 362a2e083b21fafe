"""One module per step, in order; alembic finds them here."""
