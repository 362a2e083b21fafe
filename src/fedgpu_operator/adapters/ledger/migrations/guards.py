"""Triggers that refuse to rewrite history, on SQLite and PostgreSQL alike; the steps put them up and take them down."""

from __future__ import annotations

from alembic import op

REFUSE = """
CREATE FUNCTION fedgpu_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
END $$
"""


def prepare() -> None:
    """What the triggers of PostgreSQL call; once per database."""
    if not _sqlite():
        op.execute(REFUSE)


def fixed(table: str, columns: str, *, again: bool = False) -> None:
    """Refuse DELETE, and UPDATE of these columns, named with blanks between; `again`: only the latter was lifted."""
    named = ", ".join(f'"{column}"' for column in columns.split())
    refuse(table, "no_update", f"UPDATE OF {named}", f"{table} is append-only")
    if not again:
        kept(table, f"{table} is append-only")


def kept(table: str, why: str) -> None:
    """Refuse DELETE and TRUNCATE."""
    refuse(table, "no_delete", "DELETE", why)
    if not _sqlite():
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION fedgpu_refuse('{why}')"
        )


def refuse(table: str, name: str, event: str, why: str, when: str = "") -> None:
    """Refuse `event`, or only where `when` holds, which may look at OLD and NEW but at no table."""
    condition = f"WHEN ({when}) " if when else ""
    if _sqlite():
        body = f"BEGIN SELECT RAISE(ABORT, '{why}'); END"
        op.execute(f"CREATE TRIGGER {table}_{name} BEFORE {event} ON {table} {condition}{body}")
        return
    op.execute(
        f"CREATE TRIGGER {table}_{name} BEFORE {event} ON {table} FOR EACH ROW {condition}"
        f"EXECUTE FUNCTION fedgpu_refuse('{why}')"
    )


def refuse_insert(table: str, name: str, why: str, when: str) -> None:
    """Refuse a new row where `when` holds, which may look at NEW and ask any table."""
    if _sqlite():
        refuse(table, name, "INSERT", why, when)
        return
    op.execute(
        f"CREATE OR REPLACE FUNCTION {table}_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF {when} THEN RAISE EXCEPTION '{why}' USING ERRCODE = 'integrity_constraint_violation'; END IF; "
        "RETURN NEW; END $$"
    )
    op.execute(f"CREATE TRIGGER {table}_{name} BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_{name}()")


def lift(table: str, *names: str) -> None:
    """Take triggers down, for a step that puts others in their place."""
    for name in names:
        op.execute(f"DROP TRIGGER {table}_{name}" + ("" if _sqlite() else f" ON {table}"))


def _sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"
