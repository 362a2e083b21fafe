"""The steps from one schema to the next, run by alembic; a step that was released is never edited."""
